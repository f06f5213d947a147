"""From the overrides of a command line to a plain config."""

import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from gan_runner.config.check import active, load_settings, show_value
from gan_runner.config.errors import ConfigError
from gan_runner.config.keys import find_key, label_words
from gan_runner.config.schema import GROUPS, LIST_GROUPS, conf_directory
from gan_runner.config.stylegan2_auto import stylegan2_auto
from gan_runner.storage.hydra_files import CONFIG, HYDRA, OVERRIDES
from gan_runner.storage.outputs import OUTPUTS, check_free, check_name

sys.path.append(str(Path(__file__).parents[1] / "_plugins"))  # where Hydra finds those of this package

# Hydra 1.3 warns where this is missing, and 1.4 where it is given.
VERSION_BASE = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}

# Hydra closes a config against new keys. The two slots stay open, so that `optimizer.discriminator.lr=1e-5` needs no
# `+`: which keys they may hold depends on the optimizer, and is checked against its signature.
_OPEN = {"struct": False}
ConfigStore.instance().store(
    name="optimizer_slots",
    node=OmegaConf.create(
        {"optimizer": {"generator": DictConfig({}, flags=_OPEN), "discriminator": DictConfig({}, flags=_OPEN)}}
    ),
    provider="gan_runner",
)


def run_directory(name: Any, time: str, overrides: list[str]) -> str:
    """The directory of a run below `outputs`: its name; or date and time, and what its command line changes.

    TensorBoard calls a run by its directory. Raises ValueError for a name that cannot be one.
    """
    if name is not None:
        return check_name("name", str(name))
    return "_".join(filter(None, [time, label_words(list(overrides))]))


OmegaConf.register_new_resolver("run_directory", run_directory)
OmegaConf.register_new_resolver("stylegan2_auto", stylegan2_auto)


NO_DELETION = "nothing can be taken out; another option or null may be what you want"


class RunConfig(NamedTuple):
    """A composed config, as one run is made of it."""

    plain: dict[str, Any]
    options: dict[str, str]
    """Dotted key -> the option that was chosen for it: {"loss": "hinge", "optimizer.discriminator": "rmsprop"}."""
    title: str
    notes: list[str]
    """Lines for its log."""
    hydra_files: dict[str, str]
    """What Hydra would write into .hydra/ before it is known that the directory is free, name -> text."""


def settle_run(config: DictConfig, hydra_config: Any, path: Path) -> RunConfig:
    """What one run in the directory `path` is made of. Raises ConfigError for most mistakes, without importing torch.

    `hydra_config` is the node `hydra` that was composed with `config`.
    """
    if config.get("name") is not None and path != Path(OUTPUTS, str(config.name)).absolute():
        raise ConfigError(f"name={config.name}: hydra.run.dir says {path}; choose one of them")
    try:
        check_free(path)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    overrides = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
    refuse_shapes(overrides)
    notes = settle_preset(config, overrides)
    settle_length(config, {override.key_or_group: override.value() for override in overrides})
    plain = to_plain(config)
    check_before_torch(plain)
    choices = hydra_config.runtime.choices
    hydra_files = {
        CONFIG: OmegaConf.to_yaml(config, resolve=True),
        OVERRIDES: OmegaConf.to_yaml(hydra_config.overrides.task),
        HYDRA: OmegaConf.to_yaml({"hydra": hydra_config}),
    }
    return RunConfig(plain, chosen_options(choices), describe_run(plain, choices), notes, hydra_files)


def compose_run(overrides: list[str]) -> tuple[RunConfig, Path]:
    """The run that a command line describes, where no Hydra is running, and the directory that it is to have.

    Raises ConfigError, HydraException and OmegaConfBaseException.
    """
    with hydra.initialize_config_dir(str(conf_directory()), job_name="gan_runner", **VERSION_BASE):
        config = hydra.compose("config", overrides, return_hydra_config=True)
        hydra_config = config.hydra
        refuse_words_of_sweeps(hydra_config, overrides)
        path = Path(hydra_config.run.dir).absolute()
        with open_dict(config):
            del config["hydra"]
        return settle_run(config, hydra_config, path), path


def chosen_options(choices: Mapping[str, Any]) -> dict[str, str]:
    """Hydra's choices by the dotted key that each is for, without those of Hydra itself and without empty slots."""
    return {
        key.rpartition("@")[2]: str(option)
        for key, option in choices.items()
        if option is not None and not key.startswith("hydra/") and key not in LIST_GROUPS
    }


def to_plain(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain dicts and lists with every interpolation resolved."""
    try:
        plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        missing = sorted(OmegaConf.missing_keys(config))[0]
        raise ConfigError(f"{missing} is not set: add {missing}=...") from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def to_yaml(plain: Mapping[str, Any]) -> str:
    """A plain config, as .hydra/config.yaml has it."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(plain)))


def check_before_torch(plain: Mapping[str, Any]) -> None:
    """Find most mistakes before torch is imported, which takes a second. Raises ConfigError."""
    load_settings(plain)
    for group in LIST_GROUPS:
        active(plain, group)
    for group in GROUPS:
        if group not in LIST_GROUPS and not isinstance(plain.get(group), dict):
            options = sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
            raise ConfigError(f"{group} is not set: {group}=OPTION, one of {', '.join(options)}")


def describe_run(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """The essentials of a config, for the first line of a run."""
    terms = []
    for name, node in (plain.get("regularizer") or {}).items():
        weight = node.get("weight")
        terms.append(f"{name} {weight:g}" if isinstance(weight, int | float) else name)
    schedule, precision = choices.get("lr_schedule"), plain["precision"]
    parts = [
        f"{choices.get('model', 'model')} on {choices.get('dataset', 'data')}",
        *(["conditional"] if plain["conditional"] else []),
        " + ".join([str(choices.get("loss", "loss")), *describe_head(plain, choices), *terms]),
        *(plain.get("augmentation") or {}),
        describe_optimizers(plain["optimizer"], choices),
        *([f"{schedule} rate"] if schedule not in (None, "constant") else []),
        f"batch {plain['batch_size']:g}",
        *([str(precision)] if precision != "fp32" else []),
        f"seed {plain['seed']}",
    ]
    return ", ".join(parts)


def describe_head(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    """The conditioning head and its weight, unless it is the one that networks have of themselves."""
    name, weight = choices.get("head", "head"), plain["head"].get("weight")
    shown = f"{name} {weight:g}" if isinstance(weight, int | float) else str(name)
    return [] if name == "projection" else [shown]


def describe_optimizers(node: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """The optimizer of both players with its rate, and what one of them has differently."""
    shared = f"{choices.get('optimizer', 'optimizer')} {rate_text(node)}".strip()
    own = []
    for player in ("generator", "discriminator"):
        slot = node.get(player)
        if isinstance(slot, dict) and slot:
            name = choices.get(f"optimizer@optimizer.{player}") or choices.get("optimizer", "optimizer")
            keys = " ".join(
                f"{key}={show_value(value)}" for key, value in slot.items() if key not in ("_target_", "lr")
            )
            said = "" if "_target_" in slot else keys
            own.append(" ".join(f"{player} {name} {rate_text({**node, **slot})} {said}".split()))
    return f"{shared} ({', '.join(own)})" if own else shared


def rate_text(node: Mapping[str, Any]) -> str:
    """The rate of an optimizer; '' where it is null, which the run says more of."""
    return "" if node.get("lr") is None else str(node["lr"])


def trusted_packages(arguments: list[str]) -> list[str]:
    """The packages that the command line itself trusts; what a config file says, even in overrides, does not count."""
    chosen = [argument for argument in arguments if argument.startswith("trust=")]
    value = OverridesParser.create().parse_override(chosen[-1]).value() if chosen else []
    return [str(name) for name in (value if isinstance(value, list) else [value])]


def as_sweep(arguments: list[str]) -> str:
    """The line that starts a sweep with these words."""
    return shlex.join(["gan-runner", "-m", *arguments])


def refuse_words_of_sweeps(hydra_config: Any, arguments: list[str]) -> None:
    """Refuse what a single run would silently ignore. Raises ConfigError."""
    given = OverridesParser.create().parse_overrides([*hydra_config.overrides.task, *hydra_config.overrides.hydra])
    for override in given:
        key = override.key_or_group.replace("/", ".")
        is_of_sweep = find_key(key).is_of_sweep or key.startswith(("hydra.launcher", "hydra.sweeper"))
        if is_of_sweep and override.value():
            raise ConfigError(f"{override.input_line}: only a sweep reads it; type {as_sweep(arguments)}")


def refuse_dropped(overrides: list[Override]) -> None:
    """Refuse a choice for a list group that a later one would silently replace. Raises ConfigError."""
    plain = [override for override in overrides if not override.is_delete() and not override.is_sweep_override()]
    for group in LIST_GROUPS:
        chosen = [override for override in plain if override.key_or_group == group]
        values = [override.value() for override in chosen]
        names = [value if isinstance(value, list) else [value] for value in values]
        every = list(dict.fromkeys(name for some in names for name in some if name != "none"))
        if names and names[-1] != ["none"] and not all(name in names[-1] for name in every):
            lines, together = " ".join(str(override.input_line) for override in chosen), ",".join(map(str, every))
            raise ConfigError(f"{lines}: only the last would count; for all of them type '{group}=[{together}]'")


def refuse_shapes(overrides: list[Override]) -> None:
    """Refuse what Hydra would silently merge or drop: two options of one group, an option named twice, a deletion.

    Raises ConfigError.
    """
    refuse_dropped(overrides)
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if override.is_delete():
            raise ConfigError(f"~{group}: {NO_DELETION}")
        if group in (*GROUPS, "experiment") and not isinstance(value, str | list) and group != "experiment":
            raise ConfigError(f"{group}={value}: a group wants the name of an option")
        if isinstance(value, list) and group in (*GROUPS, "experiment"):
            if group not in LIST_GROUPS:
                raise ConfigError(
                    f"{override.input_line}: {group} is one option; for a sweep over several, -m {group}=A,B"
                )
            for name in value:
                if value.count(name) > 1:
                    raise ConfigError(f"{group}: '{name}' is named twice")


def settle_length(config: DictConfig | dict[str, Any], said: Mapping[str, Any]) -> None:
    """Let who says one of `steps` and `epochs` mean that one: then the other one's default, or a preset's, is no limit.

    `said` are the keys of the command line with their values. Whoever says both sets two limits.
    """
    for key, other in (("steps", "epochs"), ("epochs", "steps")):
        if said.get(key) is not None and other not in said:
            config[other] = None


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
    typed = [override.input_line or "" for override in overrides]
    notes = []
    for group in GROUPS:
        if group not in chosen or group in LIST_GROUPS:
            continue
        # Not with keys of the chosen option, which the preset's may not have.
        preset = compose([override for override in typed if not re.match(rf"\+*{group}[=.]", override)])
        if preset.hydra.runtime.choices[group] != chosen[group]:
            own = [override for override in typed if re.match(rf"\+*{group}[=.]|[^=]*@{group}\.", override)]
            config[group] = compose(own)[group]
            notes.append(f"{group}={chosen[group]} replaces the preset's, with the settings that were for it")
    for group in LIST_GROUPS:
        if group not in chosen and "loss" not in chosen:
            continue
        for name, node in list((config.get(group) or {}).items()):
            is_addressed = any(override.lstrip("+").startswith(f"{group}.{name}.") for override in typed)
            if "_target_" not in node and not is_addressed:
                with open_dict(config):
                    del config[group][name]
                notes.append(f"{group}.{name} of the preset is not in use")
    return notes


def compose_packaged(overrides: list[str], config_directory: Path | None = None) -> DictConfig:
    """The config of some overrides of the command line, where no Hydra is running: from conf/ and a folder of options.

    Raises ConfigError where there is no such folder.
    """
    if config_directory is not None:
        if not config_directory.is_dir():
            raise ConfigError(f"--config-dir {config_directory}: no such folder")
        path = str(config_directory.absolute()).replace("\\", "\\\\").replace("'", "\\'")
        overrides = [f"hydra.searchpath=['file://{path}']", *overrides]
    with hydra.initialize_config_dir(str(conf_directory()), **VERSION_BASE):
        return hydra.compose("config", overrides)


def compose(overrides: list[str]) -> DictConfig:
    """The config of some overrides of the command line, by the Hydra that is running."""
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration(config_name="config", overrides=overrides, run_mode=RunMode.RUN)
