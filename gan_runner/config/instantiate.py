"""Components: what a `_target_` in a config names, found where that is allowed, and built or bound."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gan_runner.config.check import check_arguments
from gan_runner.config.errors import ConfigError, suggest

# Where a `_target_` may point. A config can come from a stranger, and a name is enough to run code: torch.load is one.
OWN_MODULES = (
    "models",
    "datasets",
    "loggers",
    "losses",
    "heads",
    "regularizers",
    "schedules",
    "augmentations",
    "optimizers",
    "metrics",
    "features",
)
LIBRARIES = ("torch.nn", "torch.optim")  # only their classes


def resolve(target: Any, key: str, trust: list[str]) -> Callable[..., Any]:
    """The class or function that `_target_` names; nothing is imported before its name is allowed.

    Raises ConfigError where the name, or the place where the object was really defined, is not allowed.
    """
    parts = target.split(".") if isinstance(target, str) else []
    if not all(part.isidentifier() and not part.startswith("_") for part in parts) or not is_allowed(parts, trust):
        raise ConfigError(
            f"{key}._target_={target}: not allowed; a target is part of gan_runner, a class of torch.nn or torch.optim"
            + (f", or of a package of your own with 'trust=[{parts[0]}]'" if parts else "")
        )
    found: Any = None
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not ".".join(parts).startswith(error.name):
                raise
            continue
        break
    for part in parts[end:]:
        found = getattr(found, part, None)
    if found is None and end == 1:
        raise ConfigError(f"{key}._target_={target}: cannot import {parts[0]}; run where it lies, or install it")
    if not callable(found):
        raise ConfigError(f"{key}._target_={target}: there is no such class or function{suggest_target(parts)}")
    origin = [*str(getattr(found, "__module__", "")).split("."), getattr(found, "__qualname__", "")]
    if not is_allowed(origin, trust) or (origin[0] == "torch" and not inspect.isclass(found)):
        raise ConfigError(f"{key}._target_={target}: not allowed; it was defined in {'.'.join(origin[:-1])}")
    return found


def is_allowed(parts: list[str], trust: list[str]) -> bool:
    """Whether a dotted name lies where a `_target_` may point."""
    name = ".".join(parts)
    places = [f"gan_runner.{module}" for module in OWN_MODULES] + list(LIBRARIES) + trust
    return any(name.startswith(f"{place}.") for place in places)


def suggest_target(parts: list[str]) -> str:
    """The nearest public name in the module that a target's name leads to."""
    try:
        module = importlib.import_module(".".join(parts[:-1]))
    except ModuleNotFoundError:
        return ""
    return suggest(parts[-1], [name for name in vars(module) if not name.startswith("_")])


def component(
    node: Mapping[str, Any],
    key: str,
    trust: list[str],
    *,
    per_call: int = 0,
    siblings: Iterable[str] = (),
    **provided: Any,
) -> Any:
    """What a node of the config describes: its class built, or its function bound to the node's other keys.

    `per_call` is how many positional arguments each call of the function brings, such as the view of a penalty or the
    step of a schedule; `provided` are constructor arguments that the config does not set, dropped where not taken;
    `siblings` are keys that may stand beside the component's own.

    Nested nodes with a `_target_` come first. Hydra's own `instantiate` would do, but its partial objects check their
    target again at every call (0.2 ms), and its errors name no key.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ConfigError(f"{key}: must be keys and values with a _target_")
    target = resolve(node["_target_"], key, trust)
    parameters = list(inspect.signature(target).parameters)
    taken = set(provided) if inspect.isclass(target) else set(parameters[:per_call])
    arguments = {
        name: component(value, f"{key}.{name}", trust) if isinstance(value, dict) and "_target_" in value else value
        for name, value in node.items()
        if name != "_target_"
    }
    arguments = check_arguments(key, target, arguments, taken, siblings)
    if not inspect.isclass(target):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments, **{name: value for name, value in provided.items() if name in parameters})
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
