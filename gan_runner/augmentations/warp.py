"""Images resampled at the places that an affine map says, through a low-pass filter: to be differentiated twice."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from gan_runner.torch_utils.precision import full_product

aten = torch.ops.aten
BILINEAR, BORDER = 0, 1  # `grid_sample`'s modes; the latter counts where rounding leads out of the image

# Daubechies' least asymmetric wavelet of 12 taps, sym6: its low-pass filter, whose sum is sqrt(2).
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
# Where the filter's mean lies among its taps, counted from 0: pixel x of an image is at 2 x + CENTRE of its doubling.
CENTRE = sum(tap * number for number, tap in enumerate(SYM6)) / sum(SYM6)
ROUNDING = 1e-3  # of places, in pixels of the doubled image
EDGE = 5  # pixels beyond the border that the filter reaches


class Resampling(NamedTuple):
    """One side of the images, of `size` pixels, as products with constant matrices: see `resampling`."""

    doubling: Tensor  # (S, size), S = 2 size + 10
    halving: Tensor  # (size, S)


def resampling(size: int, device: torch.device, dtype: torch.dtype) -> Resampling:
    """What doubles a side and what halves it again, through sym6: halving @ doubling is 1.

    The doubled side goes on beyond the image for as far as the filter of the halving reaches; the image is there its
    reflection in the middle of the outermost pixels.
    """
    low_pass = torch.tensor(SYM6, dtype=torch.float64) / sum(SYM6)
    pixels = torch.arange(-EDGE, size + EDGE)
    taps = torch.arange(2 * (size + EDGE)).unsqueeze(-1) - 2 * pixels
    filters = torch.where((taps >= 0) & (taps < len(SYM6)), low_pass[taps.clamp(0, len(SYM6) - 1)], 0.0)
    is_here = reflected_(pixels.double(), size - 1).unsqueeze(-1) == torch.arange(size)
    doubling, halving = 2 * filters @ is_here.double(), filters[:, EDGE : EDGE + size].mT
    return Resampling(*(each.to(device, dtype).contiguous() for each in (doubling, halving)))


def reflected_(places: Tensor, last: int) -> Tensor:
    """Any places made, where they lie, those of 0 to `last` which they are the reflections of."""
    period = max(2 * last, 1)
    return places.sub_((places / period).round_(), alpha=period).abs_()


def warp(images: Tensor, matrix: Tensor, offset: Tensor, rows: Resampling, columns: Resampling) -> Tensor:
    """Each image moved: what is at o of the result is what was at matrix o + offset, o in pixels from the centre.

    The image is doubled in size, sampled bilinearly, and halved again. Beyond its border it goes on as its reflection,
    without end; there the doubled image is reflected in the place of the image, about the filter's mean, as the filter
    is not symmetric.

    Shapes: images and result (B, C, H, W); matrix (B, 2, 2) and offset (B, 2), the horizontal coordinate first.
    """
    doubled = full_product(full_product(rows.doubling, images), columns.doubling.mT)
    sampled = Sampling.apply(doubled, sources(matrix, offset, images.shape[-2], images.shape[-1]))
    return full_product(full_product(rows.halving, sampled), columns.halving.mT)


def sources(matrix: Tensor, offset: Tensor, height: int, width: int) -> Tensor:
    """Where the samples of the doubled result are taken: (B, 2 H + 10, 2 W + 10, 2), as `grid_sample` counts."""
    device, dtype = matrix.device, matrix.dtype
    x, y = (
        (torch.arange(2 * (size + EDGE), device=device, dtype=dtype) - CENTRE) / 2 - (size - 1) / 2
        for size in (width, height)
    )
    grid = x.new_empty(len(matrix), len(y), len(x), 2)
    for axis, size in ((0, width), (1, height)):
        of_x, of_y, shift = (2 * each[:, None, None] for each in (*matrix[:, axis].unbind(-1), offset[:, axis]))
        middle = size + EDGE - 0.5  # of the doubled side, whose samples are 0 to 2 middle
        first = CENTRE - middle  # pixel, counted from there
        place = of_x * x + (of_y * y.unsqueeze(-1) + (shift + (size - 1 + first)))
        mirrored = reflected_(place - first, 2 * size - 2).add_(first)
        grid[..., axis] = torch.where(place.abs() <= middle + ROUNDING, place, mirrored).div_(middle)
    return grid


class Sampling(torch.autograd.Function):
    """Images (B, C, H, W) at the places of a grid (B, H', W', 2) in [-1, 1], bilinearly: (B, C, H', W').

    It is `F.grid_sample`, with corners aligned, whose gradient has no derivative before PyTorch 2.15. It is linear in
    the images, so all that is missing is that the gradient of its gradient is itself; the grid gets none. On a CUDA
    device the gradient adds up in no fixed order, which `deterministic=true` warns of.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.size = images.shape[-2:]
        return aten.grid_sampler_2d(images, grid, BILINEAR, BORDER, True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return Spreading.apply(*gradients, grid, ctx.size), None


class Spreading(torch.autograd.Function):
    """The transpose of `Sampling`, (B, C, H', W') -> (B, C, H, W): each value goes to the pixels around its place."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, size: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(grid)
        images = values.new_empty(*values.shape[:2], *size)  # of which only the shape is asked
        return aten.grid_sampler_2d_backward(values, images, grid, BILINEAR, BORDER, True, [True, False])[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (grid,) = ctx.saved_tensors
        return Sampling.apply(*gradients, grid), None, None
