"""Multi-scale training: discriminators that judge the images at several resolutions."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def half(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, C, ⌈H/2⌉, ⌈W/2⌉): the means of 2x2 pixels; an odd side's last ones are of fewer."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


class MultiScale(nn.Module):
    """Images (N, C, H, W) -> the mean over i < `scales` of D_i(images halved i times) -> logits (N,).

    D_i is `discriminator((C, ⌈H/2^i⌉, ⌈W/2^i⌉))`, each with weights of its own; a halving averages 2x2 pixels. The
    paper adds up the losses of the scales; here a sample has one logit, so that every loss and penalty applies.

    Raises:
        ValueError: points; images that get too small for the discriminator.

    Source: Wang et al. 2018, arXiv:1711.11585, section 3.2.
    """

    def __init__(self, discriminator: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...], scales: int):
        super().__init__()
        key = f"model.discriminator.scales={scales}"
        if scales < 1:
            raise ValueError(f"{key}: must be 1 or more")
        if len(shape) != 3:
            raise ValueError(f"{key}: only images have scales, but the data has shape {tuple(shape)}")
        self.scales = nn.ModuleList([discriminator(tuple(shape))])
        channels, height, width = shape
        for scale in range(1, scales):
            before, height, width = min(height, width), -(-height // 2), -(-width // 2)
            try:
                if before == 1:
                    raise ValueError("one pixel cannot be halved")
                self.scales.append(discriminator((channels, height, width)))
            except ValueError as error:
                raise ValueError(
                    f"{key}: at most {scale}; the next would see {height}x{width} pixels: {error}"
                ) from error

    def pairs(self, x: Tensor) -> list[tuple[Any, Tensor]]:
        """Each discriminator and the images that it sees, the whole ones first."""
        images = [x]
        while len(images) < len(self.scales):
            images.append(half(images[-1]))
        return list(zip(self.scales, images, strict=True))

    def features(self, x: Tensor) -> Tensor:
        """The features of all discriminators side by side: (N, F_0 + F_1 + ...)."""
        return torch.cat([network.features(image) for network, image in self.pairs(x)], dim=-1)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N,)."""
        return torch.stack([network(image, labels) for network, image in self.pairs(x)]).mean(dim=0)
