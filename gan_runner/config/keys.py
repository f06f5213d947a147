"""Configs as dotted keys, and what differs between two of them."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from gan_runner.config.check import show


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys; lists and null as text, as TensorBoard wants."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat


def difference(before: Mapping[str, Any], after: Mapping[str, Any], is_ignored: Callable[[str], object]) -> str:
    """What two configs have differently, for people; "" if nothing, but for the dotted keys that are ignored."""
    old, new = flatten(before), flatten(after)
    changed = sorted(key for key in {**old, **new} if old.get(key) != new.get(key) and not is_ignored(key))
    return "; ".join(f"{key} was {show(old.get(key))} and is to be {show(new.get(key))}" for key in changed)
