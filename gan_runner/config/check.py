"""A config's values, checked against the signatures that they go to."""

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import is_dataclass
from functools import lru_cache
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from gan_runner.config.errors import ConfigError, suggest
from gan_runner.config.schema import GROUPS, Settings, conf_directory, known_keys


def load_settings(config: Mapping[str, Any]) -> Settings:
    """The checked top level of a plain, resolved config."""
    unknown = [key for key in config if key not in {*known_keys(), *GROUPS}]
    if unknown:
        raise ConfigError(f"unknown key '{unknown[0]}'{suggest(unknown[0], [*known_keys(), *GROUPS])}")
    values = {key: config[key] for key in known_keys() if key in config}
    if isinstance(values.get("trust"), str):
        values["trust"] = [values["trust"]]
    settings = Settings(**check_arguments("", Settings, values))
    if settings.steps is None and settings.epochs is None:
        raise ConfigError("steps and epochs are both null: say how long to train, such as steps=1000")
    return settings


def check_arguments(
    key: str,
    target: Callable[..., Any],
    arguments: Mapping[str, Any],
    provided: Iterable[str] = (),
    siblings: Iterable[str] = (),
) -> dict[str, Any]:
    """`arguments` as `target` takes them (an int for a float becomes one, a list a tuple), checked by its type hints.

    `key` is where the arguments stand in the config; `provided` names the parameters that the builder fills in,
    `siblings` what may stand beside the arguments in the config.
    Raises ConfigError for an unknown key, a missing one, and a value of the wrong type or out of bounds.
    """
    import pydantic

    parameters, hints, open_ended = signature(target)
    allowed = [name for name in parameters if name not in provided]
    checked: dict[str, Any] = {}
    for name, value in arguments.items():
        path = f"{key}.{name}" if key else name
        if name not in allowed:
            if open_ended and name not in provided:
                checked[name] = value
                continue
            names = [*siblings, *allowed]
            takes = f" ({key} takes {', '.join(names)})" if names else f" ({key} takes no keys)"
            raise ConfigError(f"unknown key '{path}'{suggest(name, names) or takes}")
        if name not in hints or is_object(value):
            checked[name] = value
            continue
        hint = hints[name]
        kind = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if inspect.isclass(kind) and is_dataclass(kind):
            if not isinstance(value, dict):
                raise ConfigError(f"{path}={show_value(value)}: must be keys and values")
            checked[name] = kind(**check_arguments(path, kind, value))
            continue
        try:
            checked[name] = validate(hint, value)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{path}={show_value(value)}: {explain_validation_error(error)}") from None
    for name in allowed:
        if name not in checked and parameters[name].default is inspect.Parameter.empty:
            raise ConfigError(f"{key}.{name} is not set: add {key}.{name}=..." if key else f"{name} is not set")
    return checked


def validate(hint: Any, value: Any) -> Any:
    """A plain value as the type hint has it. Raises pydantic's ValidationError."""
    import pydantic

    try:
        # JSON mode: strict about types, yet a YAML list may become a tuple.
        return adapter(hint).validate_json(json.dumps(value))
    except pydantic.ValidationError:
        whole = with_whole_numbers(value)  # 1e4 is a float to YAML
        if json.dumps(whole) == json.dumps(value):
            raise
        return adapter(hint).validate_json(json.dumps(whole))


def with_whole_numbers(value: Any) -> Any:
    """A value from a config in which a float without a fraction is an int."""
    if isinstance(value, dict):
        return {key: with_whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_whole_numbers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@lru_cache(maxsize=1000)
def adapter(hint: Any) -> Any:
    """What checks values by a type hint; it takes long to make."""
    import pydantic

    strict = pydantic.ConfigDict(strict=True, arbitrary_types_allowed=True, allow_inf_nan=False)
    return pydantic.TypeAdapter(hint, config=strict)


@lru_cache(maxsize=1000)
def signature(target: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any], bool]:
    """A target's named parameters, their type hints, and whether it takes any other keyword."""
    parameters = dict(inspect.signature(target).parameters)
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    has_fields = is_dataclass(target)  # whose generated constructor has its hints on the class
    source: Any = target.__init__ if inspect.isclass(target) and not has_fields else target
    return named, get_type_hints(source, include_extras=True), open_ended


def is_object(value: Any) -> bool:
    """Whether `value` is something already built (a schedule, say) and no plain value from YAML."""
    if isinstance(value, dict):
        return any(is_object(item) for item in value.values())
    if isinstance(value, list):
        return any(is_object(item) for item in value)
    return not isinstance(value, str | int | float | bool | type(None))


def show_value(value: Any) -> str:
    """A value as one would type it after `key=`."""
    return value if isinstance(value, str) else "null" if value is None else json.dumps(value)


def explain_validation_error(error: Any) -> str:
    """A pydantic error in a few words; of the alternatives of a union, what each wants."""
    wants: list[str] = []
    for detail in error.errors():
        if detail["type"] in ("none_required", "is_instance_of", "needs_python_object"):
            continue
        if detail["type"] == "missing":
            wants.append("a longer list")
            continue
        text = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ").removeprefix("a ")
        for theirs, ours in (("integer", "a whole number"), ("number", "a number"), ("string", "a text")):
            text = ours if text == theirs else text
        text = (
            text.replace("valid boolean", "true or false").replace("boolean", "true or false").replace("array", "list")
        )
        where = ".".join(str(part) for part in detail["loc"] if isinstance(part, int))
        wants.append(f"{text} (in place {where})" if where else text)
    return f"must be {' or '.join(dict.fromkeys(wants))}"


def active(config: Mapping[str, Any], group: str) -> dict[str, dict[str, Any]]:
    """The nodes of a list group, name -> node; every one of them must have been switched on.

    Raises ConfigError for a node that holds keys but no `_target_`: a weight for a penalty that is not there.
    """
    nodes = config.get(group) or {}
    if not isinstance(nodes, dict) or "_target_" in nodes:
        raise ConfigError(
            f"{group}: its nodes have names; the first line of an option's file is # @package {group}.NAME"
        )
    for name, node in nodes.items():
        if isinstance(node, dict) and True in node:  # YAML 1.1: on, yes and true are one
            raise ConfigError(f'{group}.{name}: YAML reads the key on as true; write it in quotes: "on"')
        if node is None:
            raise ConfigError(
                f"{group}.{name}=null: nothing can be taken out; a penalty has no effect with {group}.{name}.weight=0"
            )
        if isinstance(node, int | float):
            raise ConfigError(f"{group}.{name}={node:g}: it has keys; type {group}.{name}.weight={node:g}")
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(
                f"{group}.{name} is set, but '{name}' is not switched on: {group}={name}{suggest_option(group, name)}"
            )
    return dict(nodes)


def suggest_option(group: str, name: str) -> str:
    """The nearest option of a config group, when `name` is none of them."""
    options = [path.stem for path in (conf_directory() / group).glob("*.yaml")]
    return "" if name in options else suggest(name, options)
