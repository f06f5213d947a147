"""The keys at the top level of a config, and where its groups lie.

The command line imports this module, so it imports neither torch nor numpy.
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le


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
    return tuple(field.name for field in fields(Settings))
