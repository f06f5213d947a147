"""The exponential moving average of a network's weights."""

import copy

import torch
from torch import nn


class MovingAverage:
    """A copy of the network whose weights follow with a half-life counted in images; its buffers are copied.

    Karras et al. 2017, arXiv:1710.10196, appendix A.1. torch's AveragedModel reads a counter on the host at every
    update, which stalls the device.
    """

    def __init__(self, network: nn.Module, half_life: float, images_per_update: int):
        self.source, self.network = network, copy.deepcopy(network).requires_grad_(False).eval()
        self.rate = 1 - 0.5 ** (images_per_update / half_life)

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the source."""
        torch._foreach_lerp_(list(self.network.parameters()), list(self.source.parameters()), self.rate)
        for average, buffer in zip(self.network.buffers(), self.source.buffers(), strict=True):
            average.copy_(buffer)
