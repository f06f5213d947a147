"""Configs as dotted keys: what each key is to a run, what differs between two configs, and what makes them the same."""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, get_args, get_type_hints

from gan_runner.config.check import show_value, with_whole_numbers
from gan_runner.config.schema import COMPONENT_KEYS, KeyKind, Settings

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


def describe_changes(before: Mapping[str, Any], after: Mapping[str, Any], is_ignored: Callable[[str], bool]) -> str:
    """What two configs have differently, for people; "" if nothing, but for the dotted keys that are ignored."""
    old, new = flatten(before), flatten(after)
    changed = sorted(key for key in {**old, **new} if old.get(key) != new.get(key) and not is_ignored(key))
    return "; ".join(f"{key} was {show_value(old.get(key))} and is to be {show_value(new.get(key))}" for key in changed)


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
