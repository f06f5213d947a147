"""Wrappers: what is done to a network once, when it is built."""

from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SpectralNorm(nn.Module):
    """W / σ(W), σ the largest singular value of W as a matrix (outputs, inputs), by the power method.

    Miyato et al. 2018, arXiv:1802.05957, algorithm 1. The singular vectors are buffers, advanced at every forward pass
    in training. torch's own parametrization writes them with `out=`, which fails under vmap.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, iterations: int):
        super().__init__()
        self.iterations = iterations
        matrix = weight.detach().flatten(1)
        # A fixed start, so that wrapping draws no random number; of unequal entries, lest it be orthogonal to a
        # singular vector that sums to zero.
        start = F.normalize(torch.linspace(1.0, 2.0, matrix.shape[1], device=weight.device, dtype=weight.dtype), dim=0)
        left, right = power_method(matrix, start, 15)  # as many as torch takes at the start
        self.register_buffer("left", left)
        self.register_buffer("right", right)

    def forward(self, weight: Tensor) -> Tensor:
        """A kernel (outputs, inputs, ...) -> the same shape."""
        matrix = weight.flatten(1)
        with torch.autocast(weight.device.type, enabled=False):  # in bfloat16 σ would be off by up to 1 %
            if self.training:
                left, right = power_method(matrix, self.right, self.iterations)
                self.left.copy_(left)
                self.right.copy_(right)
            else:
                left, right = self.left.clone(), self.right.clone()  # the buffers change before the backward pass
            return weight / (left @ matrix @ right)


@torch.no_grad()
def power_method(matrix: Tensor, right: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The singular vectors (outputs,) and (inputs,) of a matrix (outputs, inputs), starting from the right one."""
    for _ in range(iterations):
        left = F.normalize(matrix @ right, dim=0)
        right = F.normalize(matrix.mT @ left, dim=0)
    return left, right


def spectral_norm(network: nn.Module, *, iterations: Annotated[int, Ge(1)]) -> nn.Module:
    """Every weight matrix and convolution kernel of the network divided by its spectral norm, in place.

    Kernels of transposed convolutions are (inputs, outputs, ...): theirs is taken of that matrix, as torch does not.
    Raises ValueError where it finds none.
    """
    kinds = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
    found = [module for module in network.modules() if isinstance(module, kinds)]
    if not found:
        raise ValueError("the network has no layer to normalize: torch.nn.Linear, Embedding or a convolution")
    for module in found:
        parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight, iterations))
    return network
