"""The distributions that a generator's latents are drawn from."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gan_runner.torch_utils.randomness import Randomness


def normal(randomness: Randomness, *shape: int) -> Tensor:
    """N(0, 1)."""
    return randomness.normal(*shape)


def uniform(randomness: Randomness, *shape: int) -> Tensor:
    """U[-1, 1)."""
    return 2 * randomness.uniform(*shape) - 1


def truncated_normal(randomness: Randomness, *shape: int) -> Tensor:
    """N(0, 1) given that it lies in [-2, 2]: √2 erf⁻¹(u erf(√2)), u ~ U[-1, 1). Brock et al. 2018, arXiv:1809.11096.

    By the inverse of the distribution function: the paper draws again what falls outside, which would wait for a value.
    """
    quantiles = (2 * randomness.uniform(*shape) - 1) * math.erf(math.sqrt(2))
    return (math.sqrt(2) * torch.erfinv(quantiles)).clamp(-2, 2)  # rounding may step over the bound


DISTRIBUTIONS: dict[str, Callable[..., Tensor]] = {
    "normal": normal,
    "uniform": uniform,
    "truncated_normal": truncated_normal,
}
