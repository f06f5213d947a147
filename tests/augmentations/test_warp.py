"""The warp against what it should show of images that are known everywhere, and its derivatives."""

import math

import pytest
import torch
from torch import Tensor

from gan_runner.augmentations.warp import SYM6, resampling, warp

CPU = torch.device("cpu")


def some_images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=dtype) * 2 - 1


def warped(images: Tensor, matrix: list[list[float]] | Tensor, offset: list[float] | Tensor) -> Tensor:
    """All images by one map, or each by its own."""
    count, _, height, width = images.shape
    matrix = torch.as_tensor(matrix, dtype=images.dtype).expand(count, 2, 2)
    offset = torch.as_tensor(offset, dtype=images.dtype).expand(count, 2)
    return warp(images, matrix, offset, *(resampling(size, CPU, images.dtype) for size in (height, width)))


ONE = [[1.0, 0.0], [0.0, 1.0]]


def test_the_filter_is_sym6():
    """Orthogonal to its own shifts by two, with six moments that vanish: there are few such filters of 12 taps."""
    low_pass = torch.tensor(SYM6, dtype=torch.float64)
    assert low_pass.sum().item() == pytest.approx(math.sqrt(2), abs=1e-10)
    for shift in range(0, 12, 2):
        assert (low_pass[shift:] * low_pass[: 12 - shift]).sum().item() == pytest.approx(float(shift == 0), abs=1e-10)
    signs, taps = (-1.0) ** torch.arange(12), torch.arange(12, dtype=torch.float64) - 5.5
    for moment in range(6):
        assert (signs * low_pass * taps**moment).sum().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("shape", [(4, 3, 32, 32), (2, 1, 8, 17), (2, 2, 28, 5), (1, 1, 64, 1)], ids=str)
def test_identity(shape):
    images = some_images(*shape)
    torch.testing.assert_close(warped(images, ONE, [0.0, 0.0]), images, rtol=0, atol=2e-5)


def test_a_constant_image_stays_whatever_the_map():
    images, matrix, offset = torch.full((64, 1, 16, 16), 0.7), some_images(64, 2, 2) * 9, some_images(64, 2) * 99
    torch.testing.assert_close(warped(images, matrix, offset), images, rtol=0, atol=1e-5)


def test_whole_shifts_and_the_reflection_beyond_the_border():
    images = some_images(3, 2, 16, 20)
    result = warped(images, ONE, [6.0, -2.0])
    columns = [min(column + 6, 38 - (column + 6)) for column in range(20)]  # of 20 columns, the last in the middle
    expected = images[..., [abs(row - 2) for row in range(16)], :][..., columns]
    torch.testing.assert_close(result[..., 5:, :11], expected[..., 5:, :11], rtol=0, atol=2e-5)
    torch.testing.assert_close(result, expected, rtol=0, atol=0.7)
    assert (result - expected).square().mean() < 0.05 * expected.square().mean()  # the filter is not symmetric


@pytest.mark.parametrize(
    "matrix", [[[-1.0, 0.0], [0.0, 1.0]], [[0.0, -1.0], [1.0, 0.0]], [[0.8, -0.3], [0.5, 0.9]]], ids=str
)
def test_a_wave_is_taken_where_the_map_says(matrix):
    """Longer waves than two pixels are resampled nearly without error."""
    x, y = torch.arange(24.0) - 11.5, torch.arange(32.0)[:, None] - 15.5
    wave = lambda x, y: torch.sin(0.5 * x + 0.2 * y + 0.3)  # noqa: E731
    result = warped(wave(x, y).expand(1, 1, 32, 24), matrix, [0.7, -1.2])[0, 0]
    (a, b), (c, d) = matrix
    source_x, source_y = a * x + b * y + 0.7, c * x + d * y - 1.2
    is_inside = (source_x.abs() < 8) & (source_y.abs() < 12)
    assert is_inside.sum() > 100
    torch.testing.assert_close(result[is_inside], wave(source_x, source_y)[is_inside], rtol=0, atol=0.03)


def test_derivatives():
    images = some_images(2, 1, 5, 6, dtype=torch.float64).requires_grad_()
    matrix, offset = some_images(2, 2, 2, dtype=torch.float64), some_images(2, 2, dtype=torch.float64) * 4
    assert torch.autograd.gradcheck(lambda x: warped(x, matrix, offset), images)
    assert torch.autograd.gradgradcheck(lambda x: warped(x, matrix, offset) ** 2, images)
