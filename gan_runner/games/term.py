"""Terms: the named, weighted parts of what a player minimises."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

Schedule = Callable[[int], float | Tensor]  # of the training step: a number, or one for each run, (...,)


class Term(nn.Module):
    """`weight x schedule(step) x of(view)`, the mean over the samples.

    With `every` = k it is evaluated at every k-th update of its player and multiplied by k (lazy regularization:
    Karras et al. 2019, arXiv:1912.04958).

    `of` maps a view to (..., N); calling the term gives (...,). The buffer `value` keeps the last unweighted mean.
    A penalty whose weight varies by a law of its own has a `factor` (...,), which multiplies the weight.
    """

    value: Tensor
    weight: float | Tensor

    def __init__(
        self,
        of: Callable[[Any], Tensor],
        weight: Annotated[float, Ge(0)] = 1.0,  # or (...,), one for each run of a sweep
        every: Annotated[int, Ge(1)] = 1,
        schedule: Schedule | None = None,
    ):
        super().__init__()
        self.of, self.weight, self.every, self.schedule = of, weight, every, schedule
        self.register_buffer("value", torch.zeros(()))

    def is_due(self, update: int) -> bool:
        """Whether the term is evaluated at this update of its player, counted from 0."""
        return update % self.every == 0

    def weight_at(self, step: int) -> float | Tensor:
        """The weight in force at a training step, a number or (...,)."""
        return self.weight * (self.schedule(step) if self.schedule else 1.0) * getattr(self.of, "factor", 1.0)

    def forward(self, view: Any, step: int) -> Tensor:
        """(...,): what the player adds to its loss."""
        values = self.of(view)  # first: it may move the factor
        if values.ndim == 0:
            raise ValueError("a loss or penalty returns one value per sample, (N,), and was reduced to one number")
        value = values.mean(-1)
        self.value = value.detach()
        return self.weight_at(step) * self.every * value

    def state(self) -> dict[str, Tensor]:
        """The buffers of a term that remembers: what is logged as state/NAME/KEY."""
        return dict(self.of.named_buffers()) if isinstance(self.of, nn.Module) else {}


class HeldBuffers(dict[str, Tensor | None]):
    """A module's buffers, which keep their values whatever the module assigns to them."""

    def __setitem__(self, name: str, value: Tensor | None) -> None: ...


@contextmanager
def held(terms: Iterable[Term]) -> Iterator[None]:
    """Evaluate terms without a trace: what they remember, and the values that are logged, stay as they are.

    A penalty that moves its memory and then reads it finds it unmoved: a constant, as it is for backpropagation.
    """
    modules = [module for term in terms for module in term.modules()]
    buffers = [module._buffers for module in modules]
    for module in modules:
        copies = {name: None if buffer is None else buffer.clone() for name, buffer in module._buffers.items()}
        module._buffers = HeldBuffers(copies)
    try:
        yield
    finally:
        for module, own in zip(modules, buffers, strict=True):
            module._buffers = own
