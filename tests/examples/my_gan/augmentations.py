"""An augmentation: what the discriminator sees of a sample, real or generated."""

import torch
from torch import Tensor


def random_gain(samples: Tensor, randomness, *, spread: float) -> Tensor:
    """Each sample (N, ...) times a factor of its own, U[1 - spread, 1 + spread)."""
    ones = [1] * (samples.ndim - 1)
    factors = 1 + spread * (2 * randomness.uniform(len(samples), *ones) - 1)
    return torch.mul(samples, factors)
