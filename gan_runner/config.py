"""What a config may hold, and the errors that say what it may not.

The command line imports this module, so it imports neither torch nor numpy.
"""

import difflib
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_type_hints

import hydra
import yaml
from annotated_types import Ge, Gt, Le
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import YAMLError

sys.path.append(str(Path(__file__).parent / "_plugins"))  # where Hydra finds those of this package


class ConfigError(ValueError):
    """A config that cannot be run. The message names the key, what is allowed, and the nearest name."""


class Stopped(Exception):  # noqa: N818 -- no error of the program
    """A run ended before its time, for a reason that the message says in one line."""


class TrainingFailed(Exception):  # noqa: N818 -- its cause is the error
    """Training raised what is no mistake in the config."""


@dataclass(frozen=True)
class PlayerBudget:
    """How large a player's network may be; None is no limit."""

    layers: Annotated[int, Ge(1)] | None = None
    parameters: Annotated[int, Ge(1)] | None = None


@dataclass(frozen=True)
class Budget:
    """The key `budget`: hard limits on the networks, and what to do with one that is over."""

    policy: Literal["error", "fit"]
    generator: PlayerBudget
    discriminator: PlayerBudget
    autoencoder: PlayerBudget


@dataclass(frozen=True)
class Monitor:
    """The key `monitor`: thresholds at which a run warns, once each; None never warns."""

    vanishing_gradient: Annotated[float, Gt(0)] | None
    exploding_gradient: Annotated[float, Gt(0)] | None
    saturation: Annotated[float, Gt(0.5), Le(1)] | None
    diversity: Annotated[float, Gt(0)] | None


@dataclass(frozen=True)
class Divergence:
    """The key `divergence`: when a run counts as diverged; None never does. What is not finite always does."""

    loss: Annotated[float, Gt(0)] | None
    dead_gradient: Annotated[float, Ge(0)]
    dead_steps: Annotated[int, Ge(1)] | None


@dataclass(frozen=True)
class Settings:
    """The keys at the top level of a config; conf/config.yaml holds their defaults and says what each is for."""

    seed: Annotated[int, Ge(0)]
    steps: Annotated[int, Ge(1)] | None
    epochs: Annotated[int, Ge(1)] | None
    batch_size: Annotated[int, Ge(2)]
    discriminator_steps: Annotated[int, Ge(1)]
    conditional: bool
    ema_half_life: Annotated[float, Gt(0)] | None
    device: str
    precision: Literal["fp32", "bf16"]
    deterministic: bool
    log_every: Annotated[int, Ge(1)] | None
    sample_every: Annotated[int, Ge(1)] | None
    sample_count: Annotated[int, Ge(1)]
    evaluate_every: Annotated[int, Ge(1)] | None
    checkpoint_every: Annotated[int, Ge(1)] | None
    objective: str | None
    monitor: Monitor
    divergence: Divergence
    on_divergence: Literal["stop", "ignore"]
    prune: list[tuple[Annotated[int, Ge(0)], float]] | None
    budget: Budget
    init_from: str | None
    sweep: str | None
    retry_failed: bool
    trust: list[str]
    # Configs that were stored before there were these have none.
    stream: Literal["auto"] | bool = "auto"
    workers: Annotated[int, Ge(0)] = 2
    capture: Literal["auto"] | bool = "auto"
    tf32: bool = True


GROUPS = ("model", "dataset", "loss", "regularizer", "augmentation", "optimizer", "lr_schedule", "metric", "features")
LIST_GROUPS = (
    "regularizer",
    "augmentation",
    "metric",
)  # one option or a list; each has a node of its own

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


def conf_directory() -> Path:
    """conf/, beside the package in a wheel and above it in a checkout."""
    package = Path(__file__).resolve().parent
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise RuntimeError(f"gan_runner is installed without its conf/ (looked in {package} and {package.parent})")


def suggest(word: str, words: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest of `words`, or nothing when none is near."""
    ranked = sorted(words, key=lambda other: similarity(word, other), reverse=True)
    return f"; did you mean '{ranked[0]}'?" if ranked and similarity(word, ranked[0]) > 0.6 else ""


def similarity(word: str, other: str) -> float:
    """How near two names are, in [0, 1]; initials count, so that gp is near gradient_penalty."""
    initials = "".join(part[0] for part in other.split("_") if part)
    return max(
        difflib.SequenceMatcher(None, word, other).ratio(),
        0.95 * difflib.SequenceMatcher(None, word, initials).ratio() if "_" in other else 0.0,
    )


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


@cache
def known_keys() -> tuple[str, ...]:
    """The names of the top-level keys that are not config groups."""
    return tuple(field.name for field in fields(Settings))


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
        if is_dataclass(hints[name]):
            if not isinstance(value, dict):
                raise ConfigError(f"{path}={show(value)}: must be keys and values")
            checked[name] = hints[name](**check_arguments(path, hints[name], value))
            continue
        try:
            # JSON mode: strict about types, yet a YAML list may become a tuple.
            checked[name] = adapter(hints[name]).validate_json(json.dumps(value))
        except pydantic.ValidationError as error:
            raise ConfigError(f"{path}={show(value)}: {explain(error)}") from None
    for name in allowed:
        if name not in checked and parameters[name].default is inspect.Parameter.empty:
            raise ConfigError(f"{key}.{name} is not set: add {key}.{name}=..." if key else f"{name} is not set")
    return checked


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


def show(value: Any) -> str:
    """A value as one would type it after `key=`."""
    return value if isinstance(value, str) else "null" if value is None else json.dumps(value)


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


def explain(error: Any) -> str:
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
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(
                f"{group}.{name} is set, but '{name}' is not switched on: {group}={name}{suggest_option(group, name)}"
            )
    return dict(nodes)


def suggest_option(group: str, name: str) -> str:
    """The nearest option of a config group, when `name` is none of them."""
    options = [path.stem for path in (conf_directory() / group).glob("*.yaml")]
    return "" if name in options else suggest(name, options)


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


def read_stored(path: Path) -> dict[Any, Any]:
    """A config that a run has written. Raises ConfigError for one that could take all memory, or all time, to read."""
    text = path.read_text(encoding="utf-8")
    if text.count("[") + text.count("{") > 1000:  # reading it takes the square of that
        raise ConfigError(f"{path}: it has more brackets than any config")
    if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ConfigError(f"{path}: it has aliases, which no run writes: a few lines of them fill the memory")
    return dict(OmegaConf.create(text))


def stored_config(directory: Path, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """A run's config with `key=value` laid over it, and the packages that these words trust.

    `metric` and `features` may name options, as for a run. A stored `trust` does not count: the directory may come from
    a stranger.
    """
    path = directory / ".hydra" / "config.yaml"
    chosen: dict[str, Any] = {}
    for group in ("metric", "features"):
        own = [word for word in overrides if word.startswith((f"{group}=", f"{group}."))]
        if any(word.startswith(f"{group}=") for word in own):
            with hydra.initialize_config_dir(str(conf_directory()), version_base="1.3"):
                chosen[group] = hydra.compose("config", own)[group]
            overrides = [word for word in overrides if word not in own]
    if "metric" in chosen:
        chosen["objective"] = None
    try:
        config = DictConfig(read_stored(path) | chosen)
        OmegaConf.set_struct(config, True)
        for word in overrides:
            key, separator, _ = word.partition("=")
            if not separator:
                raise ConfigError(f"cannot read '{word}'; a setting is key=value")
            if OmegaConf.select(config, key, default=config) is config:
                raise ConfigError(f"unknown key '{key}'{suggest(key, known_keys())}")
            config.merge_with_dotlist([word])
        plain = to_plain(config)
    except OSError:
        raise ConfigError(f"{directory} is no run directory: it has no .hydra/config.yaml") from None
    except ConfigError:
        raise
    except (YAMLError, OmegaConfBaseException, AssertionError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    for group in GROUPS:
        if group not in LIST_GROUPS and not isinstance(plain.get(group), dict):
            raise ConfigError(f"{path}: it has no {group}")
    trusts = any(word.startswith("trust=") for word in overrides)
    return plain, load_settings(plain).trust if trusts else []
