"""An error in one short message: the key, what is allowed, the nearest name."""

import re
from collections.abc import Iterator
from typing import Any

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gan_runner.config.compose import compose_packaged
from gan_runner.config.errors import ConfigError, Stopped, out_of_memory, suggest
from gan_runner.config.schema import GROUPS, LIST_GROUPS, conf_directory

LONGEST = 2000  # characters of a message


class Refused(SystemExit):
    """A ConfigError in a job of Hydra's, which would print the error its own way if it were an Exception."""


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
    first = first.removeprefix("ValueError raised while resolving interpolation: ")  # hydra.run.dir: the key name
    if first.endswith(":") and rest:
        first = f"{first} {rest[0].strip()}"
    if memory := out_of_memory(error):
        return memory
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
    """One message about a key that the composed config does not have."""
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
        config = compose_packaged(choices)
    except (HydraException, OmegaConfBaseException):
        return list(GROUPS)
    return [*GROUPS, *dotted_keys(OmegaConf.to_container(config))]


def dotted_keys(node: Any, prefix: str = "") -> Iterator[str]:
    """Every key of a nested dict, as one types it."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key != "_target_":
            yield f"{prefix}{key}"
            yield from dotted_keys(value, f"{prefix}{key}.")
