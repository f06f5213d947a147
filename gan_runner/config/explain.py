"""An error in one short message: the key, what is allowed, the nearest name."""

import os
import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gan_runner.config.compose import NO_DELETION, as_sweep, compose_packaged
from gan_runner.config.errors import ConfigError, Stopped, out_of_memory, suggest
from gan_runner.config.schema import GROUPS, LIST_GROUPS, conf_directory
from gan_runner.config.words import KEYS, OPTIONS, SYNONYMS

LONGEST = 2000  # characters of a message


class Refused(SystemExit):
    """A ConfigError in a job of Hydra's, which would print the error its own way if it were an Exception."""


def explain(error: BaseException, arguments: list[str]) -> str:  # noqa: PLR0911 -- a case a line
    """One short message: the key, what is allowed, the nearest name."""
    text = str(error)
    if isinstance(error, ConfigError | Refused | Stopped):
        return text
    if answer := explain_words(error, arguments):
        return answer
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
    if first.startswith("Error merging override ") and error.__cause__:
        reason = str(error.__cause__).partition("\n")[0]
        return f"{first.removeprefix('Error merging override ')}: {reason[:1].lower()}{reason[1:]}"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return first or type(error).__name__
    return f"this does not work: {type(error).__name__}: {first} (HYDRA_FULL_ERROR=1 shows where)"


def explain_words(error: BaseException, arguments: list[str]) -> str | None:  # noqa: PLR0911 -- likewise
    """One message about words that Hydra does not take, or None for any other error."""
    text = str(error)
    lost = re.search(r"Could not (?:find|load) '([\w/]+)/([^'/]*)'", text)
    if isinstance(error, MissingConfigException) and lost:
        group, option = lost.groups()
        if option.startswith("submitit_"):
            return (
                f"hydra/launcher={option.removeprefix('submitit_')} needs submitit: pip install 'gan-runner[cluster]'"
            )
        options = list(error.options or ()) or sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
        return explain_option(group, option, options, arguments)
    if isinstance(error, OverrideParseException):
        return explain_unreadable(error.override)
    if ambiguous := re.search(r"Ambiguous value for argument '(.*)'", text):
        return f"{ambiguous[1]}: several values are a sweep, {as_sweep(arguments)}; a list wants brackets"
    if swept := re.search(r"Sweep parameters '(.*)' requires --multirun", text):
        return f"{swept[1]}: several values are a sweep; type {as_sweep(arguments)}"
    if "Config group override must be a string or a list" in text:
        return explain_no_name(arguments)
    if kept := re.search(r"Could not delete from config. '([^']*)'", text):  # what is null, too
        return f"~{kept[1]}: {NO_DELETION}"
    if missing := re.search(r"Could not override '([^']*)'", text):
        return explain_unknown(missing[1], arguments)
    return None


def one_line(message: str) -> str:
    """A message without line breaks, and without the middle of a long one: a value may be of any length."""
    line = " ".join(message.split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST // 2]} ... {line[-LONGEST // 2 :]}"


def explain_option(group: str, option: str, options: list[str], arguments: Sequence[str] = ()) -> str:
    """One message about an option that a group does not have, among the words that choose options."""
    is_path = option.startswith(("~", ".")) or (group == "dataset" and os.path.isdir(option))
    if is_path or group.startswith("dataset/"):  # Hydra takes a path for a group in a folder
        folder = "/".join([*group.split("/")[1:], option])
        line = f"dataset=image_folder {quoted('dataset.root', folder)}"
        return f"dataset={folder}: no such option; for a folder of images type {line}"
    if f"{group}={option.lower()}" in OPTIONS:
        lists = [word.partition("=")[2].strip("[]") for word in arguments if word.startswith(f"{group}=[")]
        line = words_for(group, [name.strip() for name in lists[-1].split(",")] if lists else [option])
        return f"{group}={option}: no such option; type {line}"
    return f"{group}={option}: no such option{suggest(option, options)} (options: {', '.join(options)})"


def words_for(group: str, names: list[str]) -> str:
    """What to type for options with names of other tools: metric=is -> metric=inception_score features=inception."""
    lines = [OPTIONS.get(f"{group}={name.lower()}", f"{group}={name.lower()}").split() for name in names]
    chosen = [word.partition("=")[2] for line in lines for word in line if word.startswith(f"{group}=")]
    others = dict.fromkeys(word for line in lines for word in line if not word.startswith(f"{group}="))
    first = [f"{group}={chosen[0]}" if len(chosen) == 1 else f"'{group}=[{','.join(chosen)}]'"] if chosen else []
    return " ".join([*first, *others])


def explain_unreadable(override: str) -> str:
    """One message about a word that Hydra's grammar does not take, with the quotes that make it readable, if any do."""
    key, separator, value = override.partition("=")
    if key in GROUPS:
        return explain_option(key, value, []) if value.startswith("~") else wants_a_name(key, value)
    if separator and value[:1] not in tuple("[{'\"") and "'" not in value and "\\" not in value:
        try:
            OverridesParser.create().parse_override(f"{key}='{value}'")
        except HydraException:
            pass
        else:
            return f"{override}: such a value wants quotes inside the shell's; type {quoted(key, value)}"
    return f"cannot read '{override}'; a setting is key=value, and what the shell would change wants quotes"


def quoted(key: str, value: str) -> str:
    """A setting as one types it in a shell, with quotes of Hydra's own around its value where that wants some."""
    if re.fullmatch(r"[\w./-]+", value, re.ASCII):
        return f"{key}={value}"
    word = f"{key}='{value}'"
    return f'"{word}"' if not re.search(r'[$`"!]', word) else shlex.quote(word)


def wants_a_name(group: str, value: str) -> str:
    """One message about a value that no option can be called."""
    example = (
        f"{group}=OPTION {group}.OPTION.KEY=VALUE" if group in LIST_GROUPS else f"{group}=OPTION {group}.KEY=VALUE"
    )
    return f"{group}={value}: a group wants the name of an option; its keys are set by themselves: {example}"


def explain_no_name(arguments: list[str]) -> str:
    """One message about a group that is set to null, or to a number."""
    for word in arguments:
        group, _, value = word.lstrip("+").partition("=")
        if group in GROUPS and re.fullmatch(r"null|None|-?[\d.]+|true|false", value):
            options = sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
            if value in ("null", "None") and "none" in options:
                return f"{word}: type {group}=none"
            return f"{word}: a run has a {group}: {group}=OPTION, one of {', '.join(options)}"
    return "a group wants the name of an option, or a list of names"


def explain_unknown(key: str, arguments: list[str]) -> str:
    """One message about a key that the composed config does not have."""
    group, _, name = key.partition("@")[2].partition(".") if "@" in key else key.partition(".")
    name = name.partition(".")[0]
    known = keys_near(arguments)
    is_option = group in LIST_GROUPS and (conf_directory() / group / f"{name}.yaml").exists()
    if is_option and f"{group}.{name}" not in known:
        return f"{group}.{name} is not switched on: add {group}={name}"
    values = [word.partition("=")[2] for word in arguments if word.partition("=")[0] == key]
    value = values[-1] if values else "VALUE"
    if key.endswith("schedule") and (conf_directory() / "lr_schedule" / f"{value}.yaml").exists():
        return f"{key}={value}: it takes an option of lr_schedule; type lr_schedule@{key}={value}"
    return wants_a_name(key, value) if key in GROUPS else unknown_key(key, value, known)


def unknown_key(key: str, value: str, known: list[str]) -> str:
    """One message about a key that is none of the `known` ones: those of its last name, or the nearest."""
    above, _, name = key.rpartition(".")
    name = SYNONYMS.get(name, name)
    above = above if any(other.startswith(above) for other in known) else ""  # MODEL, of another tool's config
    places = [other for other in known if f".{other}".endswith(f".{name}") and other.startswith(above)]
    places = [place for place in places if above or not place.startswith("features.")] or places
    if places:
        return f"unknown key '{key}'; type {' or '.join(f'{place}={value}' for place in places[:4])}"
    if line := KEYS.get(name.lower()):
        return f"unknown key '{key}'; {as_typed(line, value)}"
    near = suggest(key, [other for other in known if not key.startswith(f"{other}.")])
    below = [other.rpartition(".")[2] for other in known if above and other.rpartition(".")[0] == above]
    takes = f" ({above} takes {', '.join(below)})"
    return f"unknown key '{key}'{near or (takes if below else '')}"


def as_typed(line: str, value: str) -> str:
    """What to do for a line of `KEYS`, given the value of the other tool's key."""
    group, _, rest = line.partition("=")
    if group in GROUPS and rest == "VALUE":
        options = sorted(path.stem for path in (conf_directory() / group).glob("*.yaml"))
        is_known = value.lower() in options or f"{group}={value.lower()}" in OPTIONS
        return f"type {words_for(group, [value])}" if is_known else f"type {group}=OPTION, one of {', '.join(options)}"
    if "VALUE" not in line and value.lower() in ("false", "0", "null", "none", "n/a"):
        return f"leave it out: it is {line} that switches it on"
    return f"type {line.replace('VALUE', value)}"


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
