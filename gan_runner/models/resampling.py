"""Filtered resampling: images and feature maps twice or half as large, through a low-pass filter.

Shape axes: N samples, C channels, H height, W width; K taps.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
"""The taps of StyleGAN and R3GAN: three factors [1, 1] convolved, cos³(ω/2) at a frequency of ω per pixel."""


def separable_kernel(taps: Sequence[float]) -> Tensor:
    """The filter with these taps along both axes, normalized to the sum 1: (K, K).

    Raises ValueError unless K is even and the taps do not cancel out.
    """
    if len(taps) % 2 or not taps or not sum(taps):
        raise ValueError(f"taps: a filter for resampling has an even number of taps, of a sum above 0; not {[*taps]}")
    line = torch.tensor(taps, dtype=torch.get_default_dtype())
    line = line / line.sum()
    return torch.outer(line, line)


def upsample(images: Tensor, kernel: Tensor) -> Tensor:
    """Zeros between the pixels, then 4 times the convolution with `kernel` (K, K): (N, C, H, W) -> (N, C, 2H, 2W).

    The factor keeps the mean: three of four pixels were zeros. Beyond the border there are zeros.
    """
    channels, padding = images.shape[-3], len(kernel) // 2 - 1
    each = (4 * kernel).expand(channels, 1, -1, -1)
    return F.conv_transpose2d(images, each, stride=2, padding=padding, groups=channels)


def downsample(images: Tensor, kernel: Tensor) -> Tensor:
    """The convolution with the mirrored `kernel` (K, K), at every second pixel: (N, C, H, W) -> (N, C, ⌊H/2⌋, ⌊W/2⌋).

    Beyond the border there are zeros. For even sides, `upsample` is 4 times the adjoint of this map.
    """
    channels, padding = images.shape[-3], len(kernel) // 2 - 1
    each = kernel.expand(channels, 1, -1, -1)
    return F.conv2d(images, each, stride=2, padding=padding, groups=channels)


class Resample(nn.Module):
    """What the two layers below share: their filter, which lies with the network's buffers and in no checkpoint.

    Both are a convolution per channel, differentiable as often as one likes. On a CPU, one thread, channels last, that
    was measured against sums of shifted slices, convolutions along one axis after the other, products with banded
    matrices, and pooling or interpolation between zeros. Forth and back, or forth and back and differentiated again, it
    was the fastest or within a tenth of a millisecond for 64 channels at 4x4 and from 32x32 upwards, 2 to 20 times as
    fast as slices. Matrices were faster at 8x8 and 16x16, up to 2.4 times, and 6 times slower at 64x64. On a GPU all
    forms wait for memory, and one kernel reads and writes each pixel once, where slices take a dozen passes.
    """

    kernel: Tensor

    def __init__(self, taps: Sequence[float] = BINOMIAL) -> None:
        super().__init__()
        self.register_buffer("kernel", separable_kernel(taps), persistent=False)


class Upsample(Resample):
    """`upsample` with a filter of these taps: (N, C, H, W) -> (N, C, 2H, 2W)."""

    def forward(self, x: Tensor) -> Tensor:
        return upsample(x, self.kernel)


class Downsample(Resample):
    """`downsample` with a filter of these taps: (N, C, H, W) -> (N, C, ⌊H/2⌋, ⌊W/2⌋)."""

    def forward(self, x: Tensor) -> Tensor:
        return downsample(x, self.kernel)
