"""Projections: what is done to a network's weights after each of its updates."""

import torch
from torch import nn

from gan_runner.torch_utils.bounds import PositiveFloat
from gan_runner.torch_utils.parameters import as_matrix, kernels


@torch.no_grad()
def weight_clip(network: nn.Module, *, bound: PositiveFloat) -> None:
    """Every parameter into [-bound, bound]. Arjovsky et al. 2017, arXiv:1701.07875, algorithm 1."""
    for parameter in network.parameters():
        parameter.clamp_(-bound, bound)


class ValueRange:
    """Every weight into [min, max], which need not be symmetric: the hard form of what l1 and l2 ask for softly.

    With `biases`, biases and normalization too. Where a parametrization makes the weight from another
    (spectral_norm), it is that other one.
    Raises: ValueError unless min < max.
    """

    def __init__(self, *, min: float, max: float, biases: bool):  # noqa: A002 -- these are the config's keys
        if min >= max:
            raise ValueError(f"min={min} must be below max={max}")
        self.min, self.max, self.biases = min, max, biases

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> None:
        for weight in network.parameters() if self.biases else kernels(network):
            weight.clamp_(self.min, self.max)


@torch.no_grad()
def max_norm(network: nn.Module, *, norm: PositiveFloat) -> None:
    """The incoming weights of each unit, scaled to a Euclidean norm of at most `norm` where they have a larger one.

    A unit's weights are a row of a kernel as a matrix (outputs, inputs). Biases and normalization stay as they are.
    Kernels of transposed convolutions are (inputs, outputs, ...): there it is what leaves each input.
    Srebro & Shraibman 2005, "Rank, Trace-Norm and Max-Norm"; Srivastava et al. 2014, "Dropout", section 5.1.
    """
    for kernel in kernels(network):
        rows = as_matrix(kernel, network).norm(dim=-1)  # (..., outputs)
        scale = norm / rows.clamp(min=norm)
        kernel.mul_(scale.reshape(*scale.shape, *[1] * (kernel.ndim - scale.ndim)))
