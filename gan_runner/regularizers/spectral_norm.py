"""Wrappers: what is done to a network once, when it is built."""

from collections import defaultdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from gan_runner.torch_utils.bounds import PositiveInt

WORTHWHILE = 3  # layers of one shape; two cost more together than one by one, on a CPU


class SpectralNorm(nn.Module):
    """W / σ(W), σ the largest singular value of W as a matrix (outputs, inputs), by the power method.

    Miyato et al. 2018, arXiv:1802.05957, algorithm 1. The right singular vector is a buffer, advanced at every forward
    pass in training; the left one follows from it. torch's own parametrization keeps both, and writes them with `out=`,
    which fails under vmap.
    """

    right: Tensor
    ahead: Tensor | None = None  # the normalized weight, where it was made together with those of other layers

    def __init__(self, weight: Tensor, iterations: int):
        super().__init__()
        self.iterations = iterations
        matrix = weight.detach().flatten(1)
        if not matrix.is_meta and not matrix.any():
            raise ValueError("regularizer=spectral_norm: a weight of zeros has no spectral norm to divide by")
        # A fixed start, so that wrapping draws no random number; of unequal entries, lest it be orthogonal to a
        # singular vector that sums to zero.
        start = F.normalize(torch.linspace(1.0, 2.0, matrix.shape[1], device=weight.device, dtype=weight.dtype), dim=0)
        self.register_buffer("right", power_method(matrix, start, 15)[1])  # as many as torch takes at the start
        self.register_load_state_dict_pre_hook(drop_left)

    def forward(self, weight: Tensor) -> Tensor:
        """A kernel (outputs, inputs, ...) -> the same shape."""
        if self.ahead is not None:
            return self.ahead
        matrix = weight.flatten(1)
        with torch.autocast(weight.device.type, enabled=False):  # in bfloat16 σ would be off by up to 1 %
            if self.training:
                left, right = power_method(matrix, self.right, self.iterations)
                self.right.copy_(right)
                return weight / singular_value(matrix, left, right)
            right = self.right.clone()  # the buffer changes before the backward pass
            return weight / torch.linalg.vector_norm(product(matrix, right))


class Together:
    """Layers whose weights have one shape as matrices, normalized together before each pass of the network in training.

    One batched product then does for K layers what takes a small kernel for each. A forward pass of a part of the
    network alone, such as `features`, normalizes each layer when it comes to it.
    """

    def __init__(self, layers: list[Any]):
        self.layers = layers  # torch's ParametrizationList each

    def normalize(self, network: nn.Module, arguments: Any) -> None:
        """Called before the network's forward pass."""
        if not network.training:
            return
        norms, weights = [layer[0] for layer in self.layers], [layer.original for layer in self.layers]
        with torch.autocast(weights[0].device.type, enabled=False):
            matrices = torch.stack([weight.flatten(1) for weight in weights])
            start = torch.stack([norm.right for norm in norms])
            left, right = power_method(matrices, start, norms[0].iterations)
            sigmas = singular_value(matrices, left, right)
            for norm, weight, vector, sigma in zip(norms, weights, right, sigmas, strict=True):
                norm.right.copy_(vector)
                norm.ahead = weight / sigma

    def forget(self, network: nn.Module, arguments: Any, outputs: Any) -> None:
        """Called after it."""
        for layer in self.layers:
            layer[0].ahead = None


def drop_left(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Called before a state is loaded: version 0.1 kept the left singular vector too."""
    state_dict.pop(f"{prefix}left", None)


@torch.no_grad()
def power_method(matrix: Tensor, right: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """The singular vectors (..., outputs) and (..., inputs) of matrices (..., outputs, inputs), from the right one."""
    for _ in range(iterations):
        left = F.normalize(product(matrix, right), dim=-1)
        right = F.normalize(product(matrix.mT, left), dim=-1)
    return left, right


def singular_value(matrix: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """leftᵀ matrix right, (...,)."""
    return torch.linalg.vecdot(left, product(matrix, right))


def product(matrix: Tensor, vector: Tensor) -> Tensor:
    """(..., outputs, inputs) and (..., inputs) -> (..., outputs)."""
    return matrix @ vector if vector.ndim == 1 else (matrix @ vector.unsqueeze(-1)).squeeze(-1)


def spectral_norm(network: nn.Module, *, iterations: PositiveInt) -> nn.Module:
    """Every weight matrix and convolution kernel of the network divided by its spectral norm, in place.

    Kernels of transposed convolutions are (inputs, outputs, ...): theirs is taken of that matrix, as torch does not.
    A module that is not to be normalized says so by an attribute `without_spectral_norm`.
    Raises ValueError where it finds none.
    """
    kinds = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
    known = [module for module in network.modules() if isinstance(module, kinds)]
    found = [module for module in known if not getattr(module, "without_spectral_norm", False)]
    if not found:
        raise ValueError("the network has no layer to normalize: torch.nn.Linear, Embedding or a convolution")
    of_shape: dict[torch.Size, list[Any]] = defaultdict(list)
    for module in found:
        shape = module.weight.flatten(1).shape
        parametrize.register_parametrization(module, "weight", SpectralNorm(module.weight, iterations))
        of_shape[shape].append(module.parametrizations["weight"])  # type: ignore[index]
    for layers in of_shape.values():
        if len(layers) >= WORTHWHILE:
            together = Together(layers)
            network.register_forward_pre_hook(together.normalize)
            network.register_forward_hook(together.forget, always_call=True)
    return network
