"""A dataset: a function that returns samples, read or made."""

import torch

from gan_runner.datasets.data import Samples


def stripes(*, samples: int, size: int, seed: int) -> Samples:
    """Grey images (N, 1, size, size) of horizontal stripes, class 0, and of vertical ones, class 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (samples,), generator=generator)
    phases = torch.randint(4, (samples, 1), generator=generator)
    waves = ((torch.arange(size) + phases) // 2 % 2 * 255).to(torch.uint8)  # (N, size)
    images = waves[:, None, :, None].expand(-1, 1, -1, size)
    return Samples(torch.where(labels.bool()[:, None, None, None], images.mT, images).contiguous(), labels, seed=seed)
