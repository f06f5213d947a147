"""The exponential moving average of a network's weights."""

import copy
from typing import Self

import torch
from torch import Tensor, nn


class MovingAverage:
    """A copy of the network whose weights follow with a half-life counted in images; its buffers are copied.

    Karras et al. 2017, arXiv:1710.10196, appendix A.1. torch's AveragedModel reads a counter on the host at every
    update, which stalls the device.
    """

    def __init__(self, source: nn.Module, network: nn.Module, rate: float):
        self.network, self.source, self.rate = network, source, rate
        self.weights: list[Tensor] = list(network.parameters())
        self.source_weights: list[Tensor] = list(source.parameters())

    @classmethod
    def of(cls, source: nn.Module, half_life: float, images_per_update: int) -> Self:
        """The moving average of a network, starting at its weights."""
        network = copy.deepcopy(source).requires_grad_(False).eval()
        return cls(source, network, rate=1 - 0.5 ** (images_per_update / half_life))

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the source."""
        torch._foreach_lerp_(self.weights, self.source_weights, self.rate)
        for average, buffer in zip(self.network.buffers(), self.source.buffers(), strict=True):
            average.copy_(buffer)
