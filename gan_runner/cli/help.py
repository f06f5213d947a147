"""`gan-runner --help [WORD]`: what there is, with a line of meaning for everything, read from the comments of conf/.

It imports neither torch nor what the runs need.
"""

import itertools
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from gan_runner.cli.parser import PARSERS
from gan_runner.config.errors import ConfigError, suggest
from gan_runner.config.schema import GROUPS, LIST_GROUPS, conf_directory
from gan_runner.config.words import OPTIONS

MARGIN = 44  # columns before the meaning of a line
WIDEST = 132  # columns of a page
PRESETS = "experiment"
OF_SWEEPS = ("hydra/launcher", "hydra/sweeper")  # groups for -m alone
PAGE_GROUPS = (*GROUPS, PRESETS, *OF_SWEEPS)

Options = dict[tuple[str, str], Path]
"""(group, option) -> its file."""


class Entry(NamedTuple):
    """A key that stands in a file of conf/."""

    key: str
    value: str
    """As it is written there."""
    meaning: str
    """The comment on its line."""
    above: str
    """The comment over it."""


def show_help(words: list[str], config_directory: Path | None) -> None:
    """Print the page, or what one word means. Raises ConfigError for a word that there is not.

    Settings among the words choose the options whose keys the page shows.
    """
    options = find_options(config_directory)
    chosen = dict(word.split("=", 1) for word in words if "=" in word)
    topics = [word for word in words if "=" not in word]
    if len(words) == 1 and tuple(words[0].split("=")) in options:  # regularizer=r1
        topics = words
    for topic in topics:
        print("\n".join(explain_topic(topic, options, chosen)))
    if topics:
        return
    print("\n".join(page(options, chosen)))


def page(options: Options, chosen: dict[str, str]) -> Iterator[str]:
    """How it is called, every option, every key of the config that is composed of the chosen ones."""
    yield yaml.safe_load((conf_directory() / "config.yaml").read_text())["hydra"]["help"]["template"].rstrip()
    for group in PAGE_GROUPS:
        yield ""
        yield f"{group}: ({usage(group)})"
        yield from lines_of_options(group, options)
    yield ""
    yield "Keys (gan-runner key=value), with their defaults:"
    for entry in entries_of_config(options, chosen):
        yield line_of(entry)


def explain_topic(topic: str, options: Options, chosen: dict[str, str]) -> Iterator[str]:
    """What a group, an option, a key or a metric's value is.

    GROUP=OPTION and GROUP/OPTION mean one of several options of a name, METRIC/VALUE is of a metric, and the last
    part of a key means all keys that end in it.
    Raises ConfigError for a word that is none of these.
    """
    keys = entries_of_config(options, chosen)
    if topic in PAGE_GROUPS:
        yield f"{topic}: {usage(topic)}"
        yield from paragraph(about_group(topic))
        yield from lines_of_options(topic, options)
        if topic not in LIST_GROUPS:
            yield from (line_of(entry) for entry in keys if entry.key.startswith(f"{topic}."))
        return
    metric = ("metric", topic.partition("/")[0])  # of METRIC/VALUE
    named = [pair for pair in options if topic in (pair[1], "=".join(pair), "/".join(pair))]
    named = named or [pair for pair in options if pair == metric]
    for group, option in named:
        yield f"{group}={option}"
        yield from paragraph(comment(options[group, option]))
        yield from map(line_of, entries(options[group, option], group))
    found = [entry for entry in keys if f"{entry.key}.".startswith(f"{topic}.")]
    if not named and not found:  # a key of an option that is not chosen, or the end of some keys
        of_options = (entries(path, group) for (group, _), path in options.items() if group != PRESETS)
        every = {entry.key: entry for entry in [*itertools.chain(*of_options), *keys]}
        found = [entry for entry in every.values() if f"{entry.key}.".startswith(f"{topic}.")]
        found = found or [entry for entry in every.values() if entry.key.endswith(f".{topic}")]
        keys = list(every.values())
    if not named and not found:
        if answers := of_other_words(topic, options):
            yield from answers
            return
        names = [*GROUPS, *(option for _, option in options), *(entry.key for entry in keys)]
        raise ConfigError(f"--help {topic}: no such group, option or key{suggest(topic, names)}")
    for entry in found:
        yield line_of(entry)
        yield from paragraph(entry.above if entry.key == topic else "")


def of_other_words(topic: str, options: Options) -> list[str]:
    """What the words of other tools, the values of metrics and the flags of verbs are."""
    lines = [line for word, line in OPTIONS.items() if word.partition("=")[2] == topic.lower()]
    found = [f"{topic}: type {line}" for line in lines]
    for (group, option), path in options.items():
        if group == "metric" and f"`{topic}`" in (said := comment(path)):
            found += [f"metric={option}", *paragraph(said)]
    for verb, parser in PARSERS.items():
        if f"--{topic}" in parser()._option_string_actions:
            found.append(f"{topic}: gan-runner {verb} DIR --{topic}; gan-runner {verb} --help says more")
    return found


def about_group(group: str) -> str:
    """Which option is the default, and what the comment on its line in config.yaml says."""
    text = (conf_directory() / "config.yaml").read_text()
    match = re.search(rf"^  - {group}: (\S+)(?: +# (.*))?$", text, re.MULTILINE)
    if match is None or match[1] == "null":
        return ""
    default = f"Default: {group}={match[1]}." if match[1] != "[]" else "Default: none."
    said = match[2] or ""
    return f"{default} {said[:1].upper()}{said[1:]}"


def usage(group: str) -> str:
    """The line that chooses an option of a group."""
    flag = "-m " if group in OF_SWEEPS else ""
    return f"gan-runner {flag}{group}=OPTION" + (", one or a list [A,B]" if group in LIST_GROUPS else "")


# --- the files of conf/ -----------------------------------------------------------------------------------------------


def find_options(config_directory: Path | None) -> Options:
    """(group, option) -> its file, of conf/ and of a directory of the user's."""
    found: Options = {}
    for directory in (conf_directory(), *([config_directory] if config_directory else [])):
        for group in PAGE_GROUPS:
            found |= {(group, path.stem): path for path in sorted((directory / group).glob("*.yaml"))}
    return dict(sorted(found.items()))


def entries_of_config(options: Options, chosen: dict[str, str]) -> list[Entry]:
    """Every key of the config that the defaults and the chosen options make; the value of a later file counts."""
    main = conf_directory() / "config.yaml"
    names = {group: name for node in read(main)["defaults"] if isinstance(node, dict) for group, name in node.items()}
    paths = []
    for group in (PRESETS, *GROUPS):
        name = chosen.get(group, names.get(group))
        for option in name.strip("[]").split(",") if isinstance(name, str) else name or []:
            if path := options.get((group, option)):
                paths.append((group, path))
                names |= brought_by(path)
    found: dict[str, Entry] = {}
    for group, path in [("", main), *sorted(paths, key=lambda pair: pair[0] == PRESETS)]:  # a preset has the last word
        for entry in entries(path, group):
            meaning = entry.meaning or (found[entry.key].meaning if entry.key in found else "")
            found[entry.key] = entry._replace(meaning=meaning)
    return list(found.values())


def brought_by(path: Path) -> dict[str, str | list[str]]:
    """The options of other groups that a file chooses: group -> one or several."""
    nodes = [node for node in read(path).get("defaults") or [] if isinstance(node, dict)]
    found = [(re.fullmatch(r"override /(\w+)(@.*)?", key), value) for node in nodes for key, value in node.items()]
    return {match[1]: value for match, value in found if match}


def entries(path: Path, group: str) -> Iterator[Entry]:
    """The keys in a file, dotted as one types them, without those that no command line sets."""
    text = path.read_text(encoding="utf-8")
    package = re.search(r"^# @package (\S+)", text, re.MULTILINE)
    prefix = group.replace("/", ".") if package is None else "" if package[1] == "_global_" else package[1]
    root = yaml.compose(text, yaml.CSafeLoader)
    if not isinstance(root, yaml.MappingNode):
        return
    lines = text.splitlines()

    def below(node: yaml.MappingNode, prefix: str) -> Iterator[Entry]:
        for key, value in node.value:
            dotted = f"{prefix}.{key.value}" if prefix else key.value
            if key.value in ("_target_", "role", "defaults", "hydra"):
                continue
            if isinstance(value, yaml.MappingNode) and value.value:
                yield from below(value, dotted)
                continue
            number = key.start_mark.line
            above: list[str] = []
            while number and lines[number - 1].strip().startswith("# ") and "@package" not in lines[number - 1]:
                number -= 1
                above.insert(0, lines[number].strip().removeprefix("# "))
            written = text[value.start_mark.index : value.end_mark.index]
            meaning = lines[value.end_mark.line].partition(" #")[2].strip()
            yield Entry(dotted, written, meaning, " ".join(above))

    defaults = read(path).get("defaults") or []
    for node in defaults:
        for slot in (name.partition("/lr_schedule@")[2] for name in node) if isinstance(node, dict) else ():
            if slot and not slot.startswith("_"):
                key, number = f"{prefix}.{slot}", slot.removesuffix("schedule").removesuffix("_")
                yield Entry(key, "null", f"lr_schedule@{key}=linear: of its {number or 'weight'}", "")
    yield from below(root, prefix)


def read(path: Path) -> dict[str, Any]:
    """The content of a file of conf/."""
    found = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return found if isinstance(found, dict) else {}


def comment(path: Path) -> str:
    """What the comment at the head of an option's file says."""
    head = []
    for text in path.read_text(encoding="utf-8").splitlines():
        if not text.startswith("#"):
            break
        if "@package" not in text:
            head.append(text.removeprefix("#").strip())
    return " ".join(head)


# --- lines ------------------------------------------------------------------------------------------------------------


def lines_of_options(group: str, options: Options) -> Iterator[str]:
    """A line for each option of a group: the first sentence of its comment."""
    for its_group, option in options:
        if its_group == group:
            yield line(option, about(options[its_group, option]))


def about(path: Path) -> str:
    """The first sentence of the comment of an option's file, without its source."""
    text = comment(path).replace("et al. ", "et al ")
    source = r"(: [A-Z][^:]*|[,:]? \([^()]*)(19|20)\d\d.*"
    return re.sub(source, "", text.split(". ")[0]).rstrip(".")


def line_of(entry: Entry) -> str:
    """A key as one types it, and what it means."""
    return line(f"{entry.key}={entry.value}", entry.meaning)


def paragraph(text: str) -> list[str]:
    """Text in lines."""
    return textwrap.wrap(text, columns(), initial_indent="  ", subsequent_indent="  ")


def line(name: str, meaning: str) -> str:
    """A name and what it means, beside it or, where the name is long, below."""
    lines = textwrap.wrap(meaning, max(30, columns() - MARGIN))
    if not lines:
        return f"  {name}"
    first = f"  {name}".ljust(MARGIN) if len(name) + 3 < MARGIN else f"  {name}\n{' ' * MARGIN}"
    return first + f"\n{' ' * MARGIN}".join(lines)


def columns() -> int:
    """The width of a page."""
    return min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
