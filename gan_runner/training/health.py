"""A run's health: monitors of a GAN's known ways to fail, which warn, and the guard against divergence, which ends it.

Both read what is read anyway, at log points and before a checkpoint is written.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from gan_runner.config.schema import Divergence, Monitor


class Guard:
    """One run's guard. Its memory, since when a player is dead, is part of a checkpoint."""

    def __init__(self, limits: Divergence):
        self.limits = limits
        self.dead_since: dict[str, int] = {}

    def reason(self, step: int, values: Mapping[str, float]) -> str | None:
        """Why a run has diverged at `step`, by the values of a log point; None if it has not."""
        for tag, value in values.items():
            kind, _, name = tag.partition("/")
            if kind in ("loss", "gradient_norm", "weights") and not math.isfinite(value):
                return f"{tag} is {value}"
            if kind == "loss" and self.limits.loss is not None and abs(value) > self.limits.loss:
                return f"{tag} is {value:.3g}, beyond divergence.loss={self.limits.loss:g}"
            if kind == "gradient_norm" and (reason := self.dead(step, name, value)):
                return reason
        return None

    def dead(self, step: int, player: str, norm: float) -> str | None:
        """Whether a player has had no gradient for too long."""
        if self.limits.dead_steps is None or norm > self.limits.dead_gradient:
            self.dead_since.pop(player, None)
            return None
        since = self.dead_since.setdefault(player, step)
        if step - since < self.limits.dead_steps:
            return None
        return (
            f"the {player} is dead: its gradient's norm is {norm:.2g}, and was no more at any log point since {since:,}"
        )

    def state_dict(self) -> dict[str, Any]:
        return {"dead_since": dict(self.dead_since)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.dead_since = dict(state["dead_since"])


@torch.no_grad()
def largest_weight(tensors: list[Tensor]) -> Tensor:
    """The largest magnitude among the tensors' entries, (); NaN where one of them is."""
    return torch.nn.utils.get_total_norm([tensor for tensor in tensors if tensor.numel()], math.inf)


class Monitors:
    """One run's monitors; a threshold of None never warns.

    At the start of training a value may lie beyond its threshold and mean nothing, so none counts within `warm_up`
    steps. A monitor that has warned does so again once its value has been right for as long.
    """

    def __init__(self, thresholds: Monitor):
        self.thresholds = thresholds
        self.warned: dict[str, int | None] = {}  # kind -> the step since when its value has been right again

    def warnings(self, step: int, values: Mapping[str, float]) -> list[str]:
        """A line for each threshold that the values of the log point at `step` cross."""
        crossed = dict(self.crossed(values))
        for kind, right_since in list(self.warned.items()):
            if kind in crossed:
                self.warned[kind] = None
            elif right_since is None:
                self.warned[kind] = step
            elif step - right_since >= self.thresholds.warm_up:
                del self.warned[kind]
        if step < self.thresholds.warm_up:
            return []
        new = {kind: line for kind, line in crossed.items() if kind not in self.warned}
        self.warned |= dict.fromkeys(new)
        return list(new.values())

    def crossed(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """(kind, line) of each threshold crossed."""
        limits = self.thresholds
        for tag, norm in values.items():
            player = tag.removeprefix("gradient_norm/")
            if player != tag and limits.vanishing_gradient is not None and norm < limits.vanishing_gradient:
                yield f"vanishing {player}", f"the gradient of the {player} vanishes: its norm is {norm:.2g}"
            if player != tag and limits.exploding_gradient is not None and norm > limits.exploding_gradient:
                yield f"exploding {player}", f"the gradient of the {player} explodes: its norm is {norm:.2g}"
        right = min(values.get("accuracy/real", 0.0), values.get("accuracy/fake", 0.0))
        if limits.saturation is not None and right >= limits.saturation:
            yield "saturation", f"the discriminator is saturated: it tells {right:.1%} of real and of generated samples"
        if limits.diversity is not None and values.get("diversity", 1.0) < limits.diversity:
            line = f"the samples collapse: their mean distance is {values['diversity']:.2g} of that between real ones"
            yield "diversity", line

    def state_dict(self) -> dict[str, Any]:
        return {"warned": dict(self.warned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        warned = state["warned"]
        self.warned = dict(warned) if isinstance(warned, dict) else dict.fromkeys(warned)  # version 0.1: the kinds


def mean_distance(samples: Tensor) -> Tensor:
    """The mean Euclidean distance between two of the samples: (N, *sample) -> ()."""
    return torch.nn.functional.pdist(samples.flatten(1)).mean()
