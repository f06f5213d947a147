"""The exponential moving average of a network's weights."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

NOTHING = 1e-6  # a share of the start that nobody sees


@dataclass(frozen=True)
class HalfLife:
    """The rate 1 - 0.5^(batch_size / half-life): after that many images a weight that jumped has come half of the way.

    An image is a sample of the generator's: `batch_size` of them an update. With a `ramp` the half-life is at most
    `ramp` times the images so far, so that the initial weights are forgotten at once: Karras et al. 2020,
    arXiv:2006.06676. Before update number `start` the average is the network itself: Brock et al. 2018,
    arXiv:1809.11096. A `schedule` of the update's number multiplies the half-life, ahead of the ramp.
    """

    half_life: float
    batch_size: int
    ramp: float | None = None
    start: int = 0
    schedule: Callable[[int], float] | None = None

    def __call__(self, update: int) -> float:
        half_life = self.half_life * (self.schedule(update) if self.schedule else 1.0)
        if self.ramp is not None:
            half_life = min(half_life, self.ramp * update * self.batch_size)
        if update < self.start or half_life == 0:
            return 1.0
        return 1 - 0.5 ** (self.batch_size / half_life)

    def share_of_start(self, updates: int) -> float:
        """What the network as it was at the start still counts for in the average, after so many updates."""
        if self.ramp is not None and updates > 0:
            return 0.0
        if self.schedule is None:
            return 0.5 ** (max(0, updates - self.start) * self.batch_size / self.half_life)
        share = 1.0
        for update in range(updates):
            share *= 1 - self(update)
            if share < NOTHING:
                return 0.0
        return share


class MovingAverage:
    """A copy of the network whose weights follow with a half-life; its buffers are copied.

    Karras et al. 2017, arXiv:1710.10196, appendix A.1. torch's AveragedModel reads a counter on the host at every
    update, which stalls the device.
    """

    def __init__(self, source: nn.Module, network: nn.Module, half_life: HalfLife):
        self.network, self.source, self.half_life = network, source, half_life
        self.rate: Callable[[int], float | Tensor] = half_life  # a CUDA graph reads it from a tensor
        self.weights: list[Tensor] = list(network.parameters())
        self.source_weights: list[Tensor] = list(source.parameters())
        modules = zip(network.modules(), source.modules(), strict=True)
        self.buffers = [(own._buffers, its._buffers) for own, its in modules if own._buffers]

    @classmethod
    def of(cls, source: nn.Module, half_life: HalfLife) -> Self:
        """The moving average of a network, starting at its weights."""
        return cls(source, copy.deepcopy(source).requires_grad_(False).eval(), half_life)

    @torch.no_grad()
    def update(self, number: int) -> None:
        """Move the average towards the source, by the rate of update number `number`, counted from 0."""
        rate = self.rate(number)
        # torch takes one number, or a tensor for every weight.
        rates: Any = [rate] * len(self.weights) if isinstance(rate, Tensor) else rate
        torch._foreach_lerp_(self.weights, self.source_weights, rates)
        for average, source in self.buffers:
            for name, buffer in source.items():
                if buffer is not None and (own := average[name]) is not None:
                    own.copy_(buffer)


def has_batch_statistics(network: nn.Module) -> bool:
    """Whether the network normalizes by statistics of its batches."""
    return bool(batch_norms(network))


def batch_norms(network: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The network's batch normalizations that keep statistics."""
    norms = (module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))
    return [norm for norm in norms if norm.track_running_stats]


@torch.no_grad()
def estimate_statistics(network: nn.Module, batches: Iterable[tuple[Any, ...]]) -> None:
    """Make the statistics of batch normalization the mean of those of these batches, the network's arguments.

    A layer that these do not reach keeps its own. All else is in evaluation mode, and stays as it is.
    torch.optim.swa_utils.update_bn would draw dropout's noise, and hand on the first argument alone.
    """
    norms = batch_norms(network)
    momenta = [norm.momentum for norm in norms]
    was_training = network.training
    network.eval()
    for norm in norms:
        norm.train()
    try:
        for number, arguments in enumerate(batches, 1):
            for norm in norms:
                norm.momentum = 1 / number
            network(*arguments)
    finally:
        network.train(was_training)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
