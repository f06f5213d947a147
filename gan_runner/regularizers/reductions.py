"""Reductions: what a player makes of its loss of each sample, in the place of the mean over them."""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Gt, Le
from torch import Tensor

from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.bounds import PositiveInt

Fraction = Annotated[float, Gt(0), Le(1)]


class TopK:
    """The mean of the generator's loss over the k generated samples that the discriminator finds most real.

    k falls from the whole batch to `least` of it, by the factor `gamma` after every `interval` steps:

        k = max(gamma^floor(step / interval), least) N, rounded, at least 1

    It is for the generator alone, and for its loss: penalties and heads stay means over all samples.

    Sinha et al. 2020, arXiv:2002.06224, section 3.
    """

    only_on = ("generator",)
    gathers_batch = True  # from all processes of a run, to rank it

    def __init__(self, *, least: Fraction, gamma: Fraction, interval: PositiveInt):
        self.least, self.gamma, self.interval = least, gamma, interval
        self.schedule: Callable[[int], float | Tensor] = self.share

    def share(self, step: int) -> float:
        """k / N at a training step."""
        return max(self.gamma ** (step // self.interval), self.least)

    def __call__(self, values: Tensor, view: Any, step: int) -> Tensor:
        """The loss of each sample, (..., N) or (..., 1), and the view's logits -> (...,)."""
        logits = ranks.all_gather(view.fake_logits.detach())
        count = logits.shape[-1]
        share = self.schedule(step)
        k = (share * count).round().clamp(min=1) if isinstance(share, Tensor) else max(1, round(share * count))
        order = logits.argsort(dim=-1, descending=True, stable=True)
        rank = ranks.own_shard(order.argsort(dim=-1))
        chosen = torch.where(rank < k, values, 0.0)  # weighted by 0 or 1, as k may be a tensor of the device
        return chosen.sum(-1) * (ranks.processes() / k)
