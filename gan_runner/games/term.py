"""Terms: the named, weighted parts of what a player minimises."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gan_runner.torch_utils.bounds import NonNegativeFloat, NonNegativeInt, PositiveInt

Schedule = Callable[[int], float | Tensor]  # of the training step: a number, or one for each run, (...,)
Reduction = Callable[[Tensor, Any, int], Tensor]  # of a term's values (..., N), the view and the step: (...,)


class Term(nn.Module):
    """`weight x schedule(step) x fn(view)`, the mean over the samples.

    With `every` = k it is evaluated at every k-th update of its player and multiplied by k (lazy regularization:
    Karras et al. 2019, arXiv:1912.04958). With `start` = s the first s updates of its player go without it: until then
    it is not evaluated, remembers nothing, and its value is logged as 0.

    `fn` maps a view to (..., N); calling the term gives (...,). The buffer `value` keeps the last unweighted mean.
    A `reduction`, where there is one, is in the place of that mean.
    An `fn` that remembers has a method `update(view)`, which is called once per turn, before `fn` itself: that may be
    evaluated again. One whose weight varies by a law of its own has a `factor` (...,), which multiplies the weight.
    """

    value: Tensor
    weight: float | Tensor
    reduction: Reduction | None = None

    def __init__(
        self,
        fn: Callable[[Any], Tensor],
        weight: NonNegativeFloat = 1.0,  # or (...,), one for each run of a sweep
        every: PositiveInt = 1,
        start: NonNegativeInt = 0,
        schedule: Schedule | None = None,
    ):
        super().__init__()
        self.fn, self.weight, self.every, self.start, self.schedule = fn, weight, every, start, schedule
        self.register_buffer("value", torch.zeros(()))

    def is_active(self, update: int) -> bool:
        """Whether the term is evaluated at this update of its player, counted from 0."""
        return update >= self.start and update % self.every == 0

    def weight_at(self, step: int) -> float | Tensor:
        """The weight in force at a training step, a number or (...,)."""
        return self.weight * (self.schedule(step) if self.schedule else 1.0) * getattr(self.fn, "factor", 1.0)

    def update(self, view: Any) -> None:
        """Move what the term remembers, if it does."""
        if update := getattr(self.fn, "update", None):
            update(view)

    def forward(self, view: Any, step: int) -> Tensor:
        """(...,): what the player adds to its loss."""
        values = self.fn(view)
        if values.ndim == 0:
            raise ValueError("a loss or penalty returns one value per sample, (N,), and was reduced to one number")
        value = self.reduction(values, view, step) if self.reduction else values.mean(-1)
        self.value = value.detach()
        factor = self.weight_at(step) * self.every
        return value if isinstance(factor, float) and factor == 1 else factor * value

    def logged(self, tag: str, step: int) -> dict[str, Tensor]:
        """The last unweighted value, the weight in force, and what the term remembers: (...,) each."""
        values = {f"penalty/{tag}": self.value, f"weight/{tag}": as_tensor(self.weight_at(step))}
        return values | {f"state/{tag}/{key}": value for key, value in self.memory().items()}

    def memory(self) -> dict[str, Tensor]:
        """The buffers of an `fn` that remembers."""
        return dict(self.fn.named_buffers()) if isinstance(self.fn, nn.Module) else {}


def as_tensor(value: float | Tensor) -> Tensor:
    """A number of the host as a tensor there, in full precision; a tensor as it is."""
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
