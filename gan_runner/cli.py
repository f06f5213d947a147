"""The command line: Hydra for runs, verbs for what acts on a run directory, and one short message for each error.

Neither torch nor numpy is imported here before a run starts, so that --help, --cfg and completion answer at once.
"""

import importlib
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TextIO

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
from yaml import YAMLError

from gan_runner import guard
from gan_runner.config import (
    GROUPS,
    LIST_GROUPS,
    ConfigError,
    Stopped,
    TrainingFailed,
    active,
    conf_directory,
    known_keys,
    load_settings,
    suggest,
    to_plain,
)

REFUSED = {
    "--experimental-rerun": "it reads a pickle, which can run any code",
    "hydra.output_subdir": "the run writes its own .hydra/",
    "hydra/job_logging": "the run writes its own gan_runner.log",
}
LONGEST = 2000  # characters of a message
VERBS = {  # verb -> module with main(arguments), imported when it is called
    "sample": "gan_runner.sample",
    "evaluate": "gan_runner.evaluate",
    "resume": "gan_runner.resume",
    "report": "gan_runner.reporting.verb",
}


def main() -> None:
    """The console script."""
    arguments = sys.argv[1:]
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # OpenMP threads wait for each other by spinning. Where another program holds a core, its default count made a step
    # 10 times slower than one thread alone; with this one it costs 3 % on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises its errors, instead of printing them its way
    guard.install()
    with patient_output():
        obey(arguments, wants_traceback)


def obey(arguments: list[str], wants_traceback: bool) -> None:
    """Do what the words say. Raises SystemExit, with one line on standard error, where that cannot be."""
    if any(word.startswith("trust=") for word in arguments):
        sys.path.append(os.getcwd())  # a user's own package, as with `python -m`; behind all that is installed
    try:
        if arguments and re.fullmatch(r"\w[\w.-]*", arguments[0]):
            run_verb(arguments[0], arguments[1:])
        else:
            sys.argv[1:] = check_flags(arguments)
            run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except TrainingFailed as failure:  # no mistake in the words: the traceback is the message
        traceback.print_exception(failure.__cause__)
        raise SystemExit(1) from None
    except (Refused, Exception) as error:
        if wants_traceback:
            raise
        if "COMP_LINE" in os.environ:  # a shell that completes a word wants no message
            raise SystemExit(1) from None
        print(f"gan-runner: {one_line(explain(error, arguments))}", file=sys.stderr)
        raise SystemExit(1) from None


class Output:
    """Standard output, whose reader may go away: that ends the printing, and neither training nor a sweep."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        """As much as there is a reader for."""
        try:
            return self.stream.write(text)
        except BrokenPipeError:
            self.give_up()
            return len(text)

    def flush(self) -> None:
        """Likewise."""
        try:
            self.stream.flush()
        except BrokenPipeError:
            self.give_up()

    def give_up(self) -> None:
        """Nothing that is written arrives any more."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.stream.fileno())


@contextmanager
def patient_output() -> Iterator[None]:
    """Print to an `Output`, whoever prints."""
    stream = sys.stdout
    sys.stdout = Output(stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stdout = stream


class Refused(SystemExit):
    """A ConfigError in a job of Hydra's, which would print the error its own way if it were an Exception."""


def run_verb(verb: str, arguments: list[str]) -> None:
    """`gan-runner VERB ...`."""
    if verb not in VERBS:
        if verb.partition(".")[0] in (*known_keys(), *GROUPS):
            raise ConfigError(f"{verb}: a setting wants a value: {verb}=VALUE")
        verbs = f"verbs: {', '.join(VERBS)}; a setting is key=value"
        raise ConfigError(f"{verb}: no such verb{suggest(verb, VERBS)} ({verbs})")
    with interruptible_imports():
        module = importlib.import_module(VERBS[verb])
    module.main(arguments)


@contextmanager
def interruptible_imports(tidy: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let SIGINT end the process at once: a KeyboardInterrupt in the C++ code that PyTorch runs at import aborts it."""

    def end(*_: object) -> None:
        tidy()
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():  # only that one may have a say
        yield
        return
    previous = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def check_flags(arguments: list[str]) -> list[str]:
    """The arguments, flags first. Refuses what argparse would answer with a page of usage, as settings with dashes."""
    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for argument in arguments:
        word = argument.split("=")[0]
        if word.startswith("--") and word not in flags:
            setting = argument.lstrip("-").replace("-", "_")
            is_setting = "=" in argument or setting in (*known_keys(), *GROUPS)
            hint = f"; a setting has no dashes: {setting.split('=')[0]}=VALUE" if is_setting else suggest(word, flags)
            raise ConfigError(f"{argument}: no such flag{hint}")
        if word in REFUSED and argument not in ("hydra.output_subdir=null", "hydra/job_logging=none"):
            raise ConfigError(f"{word}: not here: {REFUSED[word]}")

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; gan-runner --hydra-help lists the flags")

    parser.error = refuse  # type: ignore[method-assign]
    found = parser.parse_args(flags_first(arguments))
    if found.multirun and (found.cfg or found.info):
        raise ConfigError(f"--{'cfg' if found.cfg else 'info'} shows one job: leave out -m")
    return flags_first(arguments)


def flags_first(arguments: list[str]) -> list[str]:
    """Flags before settings: argparse takes no setting behind a flag that stands behind another."""
    settings = [word for word in arguments if ("=" in word and not word.startswith("-")) or word.startswith("~")]
    return [word for word in arguments if word not in settings] + settings


# --- a run ------------------------------------------------------------------------------------------------------------


@hydra.main(config_path=str(conf_directory()), config_name="config", version_base="1.3")
def run(config: DictConfig) -> float | None:
    """Train one run, in the directory that Hydra made for it; the best value of the objective is returned."""
    hydra_config = HydraConfig.get()
    path = Path(hydra_config.runtime.output_dir)
    try:
        overrides = OverridesParser.create().parse_overrides(list(hydra_config.overrides.task))
        refuse_shapes(overrides)
        notes = settle_preset(config, overrides)
        plain = to_plain(config)
        check_before_torch(plain)
        with interruptible_imports(lambda: remove_empty(path)):
            from gan_runner.runner import prepare

        train = prepare(plain, trusted_packages(sys.argv[1:]))
        return train(
            path, documents=documents(config), title=describe(plain, hydra_config.runtime.choices), notes=notes
        )
    except TrainingFailed:
        raise
    except Exception as error:
        raise Refused(explain(error, [])) from error
    finally:
        if not any(word.startswith(("hydra.run", "hydra.sweep")) for word in hydra_config.overrides.hydra):
            remove_empty(path)  # but a directory of the user's choice may have been there before


def check_before_torch(plain: Mapping[str, Any]) -> None:
    """Find most mistakes before torch is imported, which takes a second. Raises ConfigError."""
    load_settings(plain)
    for group in LIST_GROUPS:
        active(plain, group)
    for group in GROUPS:
        if group not in LIST_GROUPS and not isinstance(plain.get(group), dict):
            options = sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
            raise ConfigError(f"{group} is not set: {group}=OPTION, one of {', '.join(options)}")


def documents(config: DictConfig) -> dict[str, str]:
    """What Hydra would write into .hydra/ before it is known that the directory is free."""
    hydra_config = HydraConfig.get()
    return {
        ".hydra/config.yaml": OmegaConf.to_yaml(config, resolve=True),
        ".hydra/overrides.yaml": OmegaConf.to_yaml(hydra_config.overrides.task),
        ".hydra/hydra.yaml": OmegaConf.to_yaml({"hydra": hydra_config}),
    }


def describe(plain: Mapping[str, Any], choices: Mapping[str, Any]) -> str:
    """The essentials of a config, for the first line of a run."""
    terms = []
    for name, node in (plain.get("regularizer") or {}).items():
        weight = node.get("weight")
        terms.append(f"{name} {weight:g}" if isinstance(weight, int | float) else name)
    parts = [
        f"{choices.get('model', 'model')} on {choices.get('dataset', 'data')}",
        " + ".join([str(choices.get("loss", "loss")), *terms]),
        *(plain.get("augmentation") or {}),
        f"{choices.get('optimizer', 'optimizer')} {plain['optimizer'].get('lr', '')}",
        f"batch {plain['batch_size']}",
        f"seed {plain['seed']}",
    ]
    return ", ".join(parts)


def trusted_packages(words: list[str]) -> list[str]:
    """The packages that the command line itself trusts; what a config file says, even of its words, does not count."""
    chosen = [word for word in words if word.startswith("trust=")]
    value = OverridesParser.create().parse_override(chosen[-1]).value() if chosen else []
    return [str(name) for name in (value if isinstance(value, list) else [value])]


def refuse_shapes(overrides: list[Override]) -> None:
    """What Hydra would merge, drop or take silently: two options of one group, one named twice, a key taken out."""
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if override.is_delete():
            raise ConfigError(f"~{group}: nothing can be taken out; another option or null may be what you want")
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


def explain(error: BaseException, arguments: list[str]) -> str:  # noqa: PLR0911 -- a case a line
    """One short message: the key, what is allowed, the nearest name."""
    text = str(error)
    if isinstance(error, ConfigError | Refused | Stopped):
        return text
    lost = re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'", text)
    if isinstance(error, MissingConfigException) and lost:
        group, option = lost.groups()
        if option.startswith("submitit_"):
            return (
                f"hydra/launcher={option.removeprefix('submitit_')} needs submitit: pip install 'gan-runner[cluster]'"
            )
        options = error.options or sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
        return f"{group}={option}: no such option{suggest(option, options)} (options: {', '.join(options)})"
    if isinstance(error, OverrideParseException):
        return f"cannot read '{error.override}'; a setting is key=value, and what the shell would change wants quotes"
    if ambiguous := re.search(r"Ambiguous value for argument '(.*)'", text):
        return f"{ambiguous[1]}: several values are a sweep and want -m; a list wants brackets"
    if missing := re.search(r"Could not override '([^']*)'", text):
        return explain_unknown(missing[1], arguments)
    if isinstance(error, YAMLError):
        return text
    first, *rest = text.strip().splitlines() or [""]
    if first.endswith(":") and rest:
        first = f"{first} {rest[0].strip()}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        return f"out of memory ({first or 'MemoryError'}); a smaller batch_size or a smaller model needs less"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if first.startswith("Config group override"):  # a ValueError of Hydra's
        return first.partition(" : ")[0]
    if isinstance(error, HydraException | OmegaConfBaseException):
        return first or type(error).__name__
    return f"this does not work: {type(error).__name__}: {first} (HYDRA_FULL_ERROR=1 shows where)"


def one_line(message: str) -> str:
    """A message without line breaks, and without the middle of a long one: a value may be of any length."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


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
