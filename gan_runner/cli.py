"""The command line: Hydra for runs, verbs for what acts on a run directory, and one short message for each error.

Neither torch nor numpy is imported here before a run starts, so that --help, --cfg and completion answer at once.
"""

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gan_runner.config import GROUPS, LIST_GROUPS, ConfigError, conf_directory, load_settings, suggest, to_plain

VERBS = {"sample": "gan_runner.sample"}  # verb -> module with main(arguments), imported when it is called


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # OpenMP threads wait for each other by spinning. Where another program holds a core, its default count made a step
    # 10 times slower than one thread alone; with this one it costs 3 % on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, instead of printing them its way
    try:
        if arguments and re.fullmatch(r"\w[\w.-]*", arguments[0]):
            run_verb(arguments[0], arguments[1:])
        else:
            check_flags(arguments)
            run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (Refused, ConfigError, HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        print(f"gan-runner: {explain(error, arguments)}", file=sys.stderr)
        raise SystemExit(1) from None


class Refused(SystemExit):
    """A ConfigError in a job of Hydra's, which would print the error its own way if it were an Exception."""


def run_verb(verb: str, arguments: list[str]) -> None:
    """`gan-runner VERB ...`."""
    if verb not in VERBS:
        verbs = f"verbs: {', '.join(VERBS)}; a setting is key=value"
        raise ConfigError(f"{verb}: no such verb{suggest(verb, VERBS)} ({verbs})")
    importlib.import_module(VERBS[verb]).main(arguments)


def check_flags(arguments: list[str]) -> None:
    """Refuse settings with dashes, which argparse would answer with a page of usage."""
    flags = [flag for action in get_args_parser()._actions for flag in action.option_strings]
    for argument in arguments:
        word = argument.split("=")[0]
        if word.startswith("--") and word not in flags:
            setting = argument.lstrip("-").replace("-", "_")
            hint = f"; a setting has no dashes: {setting}" if "=" in argument else suggest(word, flags)
            raise ConfigError(f"{argument}: no such flag{hint}")


# --- a run ------------------------------------------------------------------------------------------------------------


@hydra.main(config_path=str(conf_directory()), config_name="config", version_base="1.3")
def run(config: DictConfig) -> None:
    """Train one run, in the directory that Hydra made for it."""
    hydra_config = HydraConfig.get()
    path = Path(hydra_config.runtime.output_dir)
    try:
        overrides = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
        refuse_doubles(overrides)
        notes = settle_preset(config, overrides)
        plain = to_plain(config)
        load_settings(plain)  # most mistakes are found before torch is imported
        from gan_runner.runner import run as train

        title = describe(plain, hydra_config.runtime.choices)
        train(plain, path, documents=documents(config), title=title, notes=notes, trust=trusted(overrides))
    except (ConfigError, OmegaConfBaseException) as error:
        raise Refused(explain(error, [])) from error
    finally:
        remove_empty(path)


def documents(config: DictConfig) -> dict[str, str]:
    """What Hydra would write into .hydra/ before it is known that the directory is free."""
    hydra_config = HydraConfig.get()
    return {
        ".hydra/config.yaml": OmegaConf.to_yaml(config),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(hydra_config.overrides.task),
        ".hydra/hydra.yaml": OmegaConf.to_yaml({"hydra": hydra_config}),
    }


def describe(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """The essentials of a config, for the first line of a run."""
    terms = []
    for name, node in (plain.get("regularizer") or {}).items():
        terms.append(f"{name} {node['weight']:g}" if isinstance(node.get("weight"), float) else name)
    parts = [
        f"{choices.get('model', 'model')} on {choices.get('dataset', 'data')}",
        " + ".join([str(choices.get("loss", "loss")), *terms]),
        *(plain.get("augmentation") or {}),
        f"{choices.get('optimizer', 'optimizer')} {plain['optimizer'].get('lr', '')}",
        f"batch {plain['batch_size']}",
        f"seed {plain['seed']}",
    ]
    return ", ".join(parts)


def trusted(overrides: list[Override]) -> list[str]:
    """The packages that the command line trusts; what a config file says of trust does not count."""
    for override in overrides:
        if override.key_or_group == "trust":
            value = override.value()
            return [str(name) for name in (value if isinstance(value, list) else [value])]
    return []


def refuse_doubles(overrides: list[Override]) -> None:
    """`regularizer=[l1,l1]` would compose silently into one."""
    for override in overrides:
        names = override.value()
        if override.key_or_group in LIST_GROUPS and isinstance(names, list):
            for name in names:
                if names.count(name) > 1:
                    raise ConfigError(f"{override.key_or_group}: '{name}' is named twice")


def settle_preset(config: DictConfig, overrides: list[Override]) -> list[str]:
    """Let a group that the command line chose be that option, and not a mixture with the preset's own.

    A preset (experiment=NAME) sets keys of the options that it chooses. Hydra lays these keys over whatever option is
    chosen in the end: Adam's betas over RMSprop, a list of widths over a network that takes one. So a group that the
    command line chose otherwise than the preset is composed again without it, and the nodes that the preset left
    behind in a list group, weights of penalties that are not there, go. Returns a line for each that went.
    """
    chosen = {override.key_or_group: override.value() for override in overrides if not override.is_delete()}
    if chosen.get("experiment") is None:
        return []
    words = [override.input_line or "" for override in overrides]
    notes = []
    for group in GROUPS:
        if group not in chosen or group in LIST_GROUPS:
            continue
        preset = compose([word for word in words if not word.startswith(f"{group}=")])
        if preset.hydra.runtime.choices[group] != chosen[group]:
            own = [word for word in words if re.match(rf"\+*{group}[=.]|[^=]*@{group}\.", word)]
            config[group] = compose(own)[group]
            notes.append(f"{group}={chosen[group]} replaces the preset's, with the settings that were for it")
    for group in LIST_GROUPS:
        if group not in chosen and "loss" not in chosen:
            continue
        for name, node in list((config.get(group) or {}).items()):
            is_addressed = any(word.lstrip("+").startswith(f"{group}.{name}.") for word in words)
            if "_target_" not in node and not is_addressed:
                with open_dict(config):
                    del config[group][name]
                notes.append(f"{group}.{name} of the preset is not in use")
    return notes


def compose(words: list[str]) -> DictConfig:
    """The config of some words of the command line."""
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration(config_name="config", overrides=words, run_mode=RunMode.RUN)


def remove_empty(path: Path) -> None:
    """The directory that Hydra made for a run that never began, and those above it, as far as they are empty."""
    while path.is_dir() and path != Path.cwd() and not any(path.iterdir()):
        path.rmdir()
        path = path.parent


# --- errors -----------------------------------------------------------------------------------------------------------


def explain(error: BaseException, arguments: list[str]) -> str:
    """One short message: the key, what is allowed, the nearest name."""
    text = str(error)
    if isinstance(error, ConfigError | Refused):
        return text
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: no such option{suggest(option, error.options)} (options: {', '.join(error.options)})"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}'; a setting is key=value, and what the shell would change wants quotes"
    if ambiguous := re.search(r"Ambiguous value for argument '(.*)'", text):
        return f"{ambiguous[1]}: several values are a sweep and want -m; a list wants brackets"
    if missing := re.search(r"Could not override '([^']*)'", text):
        return explain_unknown(missing[1], arguments)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


def explain_unknown(key: str, arguments: list[str]) -> str:
    """Of a key that the composed config does not have."""
    group, _, name = key.partition("@")[2].partition(".") if "@" in key else key.partition(".")
    name = name.partition(".")[0]
    known = keys_near(arguments)
    is_option = group in LIST_GROUPS and (conf_directory() / group / f"{name}.yaml").exists()
    if is_option and f"{group}.{name}" not in known:
        return f"{group}.{name} is not switched on: add {group}={name}"
    return f"unknown key '{key}'{suggest(key, known)}"


def keys_near(arguments: list[str]) -> list[str]:
    """The dotted keys of the config that the valid choices on the command line compose."""
    choices = [word for word in arguments if word.split("=")[0] in (*GROUPS, "experiment") and "," not in word]
    try:
        with hydra.initialize_config_dir(str(conf_directory()), version_base="1.3"):
            config = hydra.compose("config", choices)
    except (HydraException, OmegaConfBaseException):
        return list(GROUPS)
    return [*GROUPS, *dotted_keys(OmegaConf.to_container(config))]


def dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a nested dict, as one types it."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key != "_target_":
            yield f"{prefix}{key}"
            yield from dotted_keys(value, f"{prefix}{key}.")
