"""The guard against divergence: it reads what is read anyway, at log points and before a checkpoint is written."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gan_runner.config import Divergence


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
        """Its memory."""
        return {"dead_since": dict(self.dead_since)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.dead_since = dict(state["dead_since"])


@torch.no_grad()
def largest_weight(tensors: list[Tensor]) -> Tensor:
    """The largest magnitude among the tensors' entries, (); NaN where one of them is."""
    norms = torch._foreach_norm([tensor for tensor in tensors if tensor.numel()], math.inf)
    return torch.stack([norm.float() for norm in norms]).max()
