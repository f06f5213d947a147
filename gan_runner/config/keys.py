"""Configs as dotted keys: what each key is to a run, what differs between two configs, and what makes them the same."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

from gan_runner.config.check import show_value, with_whole_numbers
from gan_runner.config.schema import COMPONENT_KEYS, LIST_GROUPS, KeyKind, Settings

LONGEST_NAME, LONGEST_VALUE = 80, 40  # characters, of the name of a directory and of a value in it

# --- what a key is to a run -------------------------------------------------------------------------------------------


@cache
def find_key(dotted: str) -> KeyKind:
    """What is declared of a key, or of one above it, in `config.schema`; the defaults of `KeyKind` where nothing is."""
    names = dotted.split(".")
    for pattern, key in declared_keys().items():
        parts = pattern.split(".")
        if len(parts) <= len(names) and all(map(fits, parts, names)):
            return key
    return KeyKind()


@cache
def declared_keys() -> dict[str, KeyKind]:
    """The top-level keys, and the patterns of COMPONENT_KEYS, that say what they are."""
    hints = get_type_hints(Settings, include_extras=True)
    marks = {name: [mark for mark in get_args(hint) if isinstance(mark, KeyKind)] for name, hint in hints.items()}
    return {name: found[0] for name, found in marks.items() if found} | COMPONENT_KEYS


def fits(pattern: str, name: str) -> bool:
    """Whether one name of a dotted key is that of the pattern; `*` stands for any but `_target_`."""
    return pattern in (name, "*") and (pattern, name) != ("*", "_target_")


def identity(config: Mapping[str, Any]) -> str:
    """A hash of what a config is, wherever and however it is run: equal for 1, 1.0 and 1e0."""
    own = without_keys(config, lambda key: not find_key(key).is_identity)
    return hashlib.sha256(json.dumps(with_whole_numbers(own), sort_keys=True).encode()).hexdigest()[:16]


def without_keys(config: Mapping[str, Any], is_left_out: Callable[[str], bool], prefix: str = "") -> dict[str, Any]:
    """A nested config without the keys whose dotted names `is_left_out` says."""
    return {
        key: without_keys(value, is_left_out, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in config.items()
        if not is_left_out(f"{prefix}{key}")
    }


# --- dotted keys ------------------------------------------------------------------------------------------------------


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys; lists and null as text, as TensorBoard wants."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat


def hyperparameters(config: Mapping[str, Any], options: Mapping[str, str]) -> dict[str, Any]:
    """A config for people: `flatten` with the names of options (loss: hinge) in the place of `_target_`s.

    `options` are those chosen, by the dotted keys that they are for. What no option is known of has the name of its
    class; groups that take a list have the names in it, with commas between.
    """
    lists = {group: ",".join(config.get(group) or {}) for group in LIST_GROUPS}
    named: dict[str, Any] = {key: option for key, option in options.items() if key not in lists}
    for key, value in flatten(config).items():
        path, _, last = key.rpartition(".")
        if last != "_target_":
            named[key] = value
        elif path.rpartition(".")[0] not in lists and not any(f"{path}.".startswith(f"{name}.") for name in options):
            named[path] = str(value).rpartition(".")[2]
    return named | {group: names or "none" for group, names in lists.items()}


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any], is_ignored: Callable[[str], bool]) -> str:
    """What two configs have differently, for people; "" if nothing, but for the dotted keys that are ignored."""
    old, new = flatten(before), flatten(after)
    changed = sorted(key for key in {**old, **new} if old.get(key) != new.get(key) and not is_ignored(key))
    return "; ".join(f"{key} was {show_value(old.get(key))} and is to be {show_value(new.get(key))}" for key in changed)


def label_words(overrides: Iterable[str]) -> str:
    """Overrides of a command line as part of a directory's name: 'loss-hinge_lr-0.001', "" if there are none.

    Those that do not make another run (device, log_every, ...) are left out.
    """
    pairs = dict(override.lstrip("+").split("=", 1) for override in overrides if "=" in override)
    kept = {key: value for key, value in pairs.items() if find_key(key).is_identity}
    return cut("_".join(f"{short}-{tidy(kept[key])}" for key, short in shorten_keys(kept).items()))


def tidy(value: str) -> str:
    """A value as part of a directory's name: numbers in one form, nothing that a shell or Hydra would read."""
    try:
        number = float(value)
    except ValueError:
        return re.sub(r"[^\w.+-]+", "-", value, flags=re.ASCII).strip("-")[:LONGEST_VALUE]
    return str(int(number)) if number.is_integer() and abs(number) < 1e9 else f"{number:.6g}"


def cut(name: str) -> str:
    """A name that is not too long for a directory's."""
    return name[:LONGEST_NAME].strip("._-")


def shorten_keys(keys: Iterable[str]) -> dict[str, str]:
    """Dotted key -> its last names, as many as no other key of these ends with; `loss._target_` is the loss."""
    names = {key: key.lstrip("+").rpartition("@")[2].removesuffix("._target_").split(".") for key in keys}
    short = {}
    for key, parts in names.items():
        others = [other for name, other in names.items() if name != key]
        needed = (n for n in range(1, len(parts) + 1) if not any(other[-n:] == parts[-n:] for other in others))
        length = next(needed, None)
        short[key] = ".".join(parts[-length:]) if length else key
    return short
