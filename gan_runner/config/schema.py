"""The keys of a config: their types, their bounds, and what each is to a run; and where the config groups lie.

The command line and the reports import this module, so it imports neither torch nor numpy.
"""

from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from gan_runner.torch_utils.bounds import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class KeyKind:
    """What a key is to a run. A key of which nothing is said, a user's own too, is what the defaults here say."""

    is_identity: bool = True  # another value makes another job of a sweep
    may_change: bool = False  # when a run is resumed
    may_differ: bool = False  # between runs that are trained as one program
    tells_apart: bool = True  # in a report, runs of different values are different settings
    is_of_sweep: bool = False  # the sweep reads it, and none of its jobs


# How a run is executed and what it prints, but not what it computes.
EXECUTION = KeyKind(is_identity=False, may_change=True, tells_apart=False)
# What a run is measured by and when it ends. It may go on with another value, but others ought to know.
MEASUREMENT = KeyKind(may_change=True)

# What the keys of components are to a run, `*` being any one name but `_target_`; a key means those below it too, and
# the first line that fits counts. They stand here and not on the components' parameters because `lr` is PyTorch's, a
# user's own dataset has a `root` as well, and a report must know them without importing torch.
COMPONENT_KEYS = {
    "dataset.root": MEASUREMENT,  # the data may have been moved
    "dataset.path": MEASUREMENT,
    "dataset.download": MEASUREMENT,
    "metric": MEASUREMENT,
    "features": MEASUREMENT,
    "logger": EXECUTION,
    "optimizer.lr": KeyKind(may_differ=True),
    "optimizer.*.lr": KeyKind(may_differ=True),
    # A number KEY has its schedule in KEY_schedule beside it.
    "ema_half_life_schedule.steps": KeyKind(may_change=True),
    "optimizer.beta1_schedule.steps": KeyKind(may_change=True),
    "optimizer.beta2_schedule.steps": KeyKind(may_change=True),
    "optimizer.*.beta1_schedule.steps": KeyKind(may_change=True),
    "optimizer.*.beta2_schedule.steps": KeyKind(may_change=True),
    "lr_schedule.steps": KeyKind(may_change=True, may_differ=True),
    "lr_schedule.*": KeyKind(may_differ=True),
    "head.weight": KeyKind(may_differ=True),
    "head.schedule.steps": KeyKind(may_change=True, may_differ=True),
    "head.schedule.*": KeyKind(may_differ=True),
    "regularizer.*.weight": KeyKind(may_differ=True),
    "regularizer.*.schedule.steps": KeyKind(may_change=True, may_differ=True),
    "regularizer.*.schedule.*": KeyKind(may_differ=True),
    "augmentation.*.*.steps": KeyKind(may_change=True, may_differ=True),
    "augmentation.*.*.*": KeyKind(may_differ=True),
}


Interval = PositiveInt | None  # steps; None is never


@dataclass(frozen=True)
class PlayerBudget:
    """How large a player's network may be; None is no limit."""

    layers: PositiveInt | None = None
    parameters: PositiveInt | None = None


@dataclass(frozen=True)
class Budget:
    """The key `budget`: hard limits on the networks, and what to do with one that is over."""

    policy: Literal["error", "fit"] = "error"
    generator: PlayerBudget = PlayerBudget()
    discriminator: PlayerBudget = PlayerBudget()
    autoencoder: PlayerBudget = PlayerBudget()


@dataclass(frozen=True)
class Monitor:
    """The key `monitor`: thresholds at which a run warns; None never warns."""

    vanishing_gradient: PositiveFloat | None = None
    exploding_gradient: PositiveFloat | None = None
    saturation: Annotated[float, Gt(0.5), Le(1)] | None = None
    diversity: PositiveFloat | None = None
    warm_up: NonNegativeInt = 0


@dataclass(frozen=True)
class Divergence:
    """The key `divergence`: when a run counts as diverged; None never does. What is not finite always does."""

    loss: PositiveFloat | None = None
    dead_gradient: NonNegativeFloat = 0.0
    dead_steps: PositiveInt | None = None


@dataclass(frozen=True)
class Settings:
    """The keys at the top level of a config; conf/config.yaml holds the values of new runs and says what each is for.

    A key that a stored config lacks means what it meant before there was that key. So a default in this class, like one
    in the signature of a component, is what a config without the key means, and never changes; a new default for new
    runs stands in conf/. The fields without a default have been there from the first config on.
    """

    seed: Annotated[NonNegativeInt, KeyKind(may_differ=True, tells_apart=False)]
    steps: Annotated[PositiveInt | None, MEASUREMENT]
    epochs: Annotated[PositiveInt | None, MEASUREMENT]
    batch_size: Annotated[int, Ge(2)]
    discriminator_steps: PositiveInt
    ema_half_life: PositiveFloat | None
    device: Annotated[str, EXECUTION]
    precision: Literal["fp32", "bf16"]
    log_every: Annotated[Interval, EXECUTION]
    sample_every: Annotated[Interval, EXECUTION]
    sample_count: Annotated[PositiveInt, EXECUTION]
    checkpoint_every: Annotated[Interval, EXECUTION]
    generator_batch_size: Annotated[int, Ge(2)] | None = None
    accumulate: Annotated[PositiveInt, EXECUTION] = 1
    devices: Annotated[PositiveInt, EXECUTION] = 1
    init_from: str | None = None
    conditional: bool = False
    budget: Budget = Budget()
    deterministic: Annotated[bool, MEASUREMENT] = False
    evaluate_every: Annotated[Interval, EXECUTION] = None
    objective: Annotated[str | None, MEASUREMENT] = None
    monitor: Annotated[Monitor, EXECUTION] = Monitor()
    divergence: Annotated[Divergence, MEASUREMENT] = Divergence()
    on_divergence: Annotated[Literal["stop", "ignore"], MEASUREMENT] = "ignore"
    tf32: bool = True
    # A search sets it from the trials before, so that equal trials have different values.
    prune: Annotated[list[tuple[NonNegativeInt, float]] | None, replace(EXECUTION, may_differ=True)] = None
    stream: Annotated[Literal["auto"] | bool, EXECUTION] = False
    workers: Annotated[NonNegativeInt, EXECUTION] = 2
    capture: Annotated[Literal["auto"] | bool, EXECUTION] = False
    checkpoint_keep: Annotated[PositiveInt | None, EXECUTION] = None
    ema_ramp: PositiveFloat | None = None
    ema_start: NonNegativeInt = 0
    ema_half_life_schedule: Any = None  # or a dict; the builder says what it takes
    ema_statistics: Annotated[NonNegativeInt, MEASUREMENT] = 0
    name: Annotated[str | int | float | None, replace(EXECUTION, may_change=False)] = None
    trust: Annotated[list[str], replace(EXECUTION, may_differ=True)] = field(default_factory=list)
    sweep: Annotated[str | None, replace(EXECUTION, may_differ=True, is_of_sweep=True)] = None
    retry_failed: Annotated[bool, replace(EXECUTION, may_differ=True, is_of_sweep=True)] = False


GROUPS = (
    "model", "dataset", "loss", "head", "regularizer", "augmentation", "optimizer", "lr_schedule", "metric", "features",
    "logger",
)  # fmt: skip
LIST_GROUPS = ("regularizer", "augmentation", "metric", "logger")  # one option or a list; each has a node of its own


def conf_directory() -> Path:
    """conf/, beside the package in a wheel and above it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for candidate in (package / "conf", package.parent / "conf"):
        if (candidate / "config.yaml").is_file():
            return candidate
    raise RuntimeError(f"gan_runner is installed without its conf/ (looked in {package} and {package.parent})")


@cache
def known_keys() -> tuple[str, ...]:
    """The names of the top-level keys that are not config groups."""
    return tuple(each.name for each in fields(Settings))
