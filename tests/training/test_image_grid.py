"""Pictures: grids to the pixel, and where a scatter plot puts its colours."""

import io
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageColor

from gan_runner.training.image_grid import FAKE, REAL, png, scatter, tile, tile_classes, with_caption


def array(image):
    return np.asarray(image).astype(int)


def test_grid_to_the_pixel():
    pixels = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 32, 33)
    image = tile(pixels)
    expected = np.full((32 + 2 + 32, 33 + 2 + 33), 128)
    expected[:32, :33], expected[:32, 35:], expected[34:, :33] = 0, 1, 2
    assert image.mode == "L"
    assert np.array_equal(array(image), expected)


def test_grid_enlarges_small_images_by_whole_pixels():
    pixels = torch.arange(2 * 8 * 10, dtype=torch.uint8).reshape(2, 1, 8, 10)
    result = array(tile(pixels))
    assert result.shape == (32, 40 + 2 + 40)
    for n, left in (0, 0), (1, 42):
        for i in range(32):
            for j in range(40):
                assert result[i, left + j] == pixels[n, 0, i // 4, j // 4]


@pytest.mark.parametrize(
    ("size", "cell"), [((1, 1), 32), ((28, 28), 56), ((31, 40), 62), ((32, 32), 32), ((64, 33), 64)], ids=str
)
def test_cells_have_32_pixels_at_least(size, cell):
    assert tile(torch.zeros(1, 1, *size, dtype=torch.uint8)).size[1] == cell


@pytest.mark.parametrize(
    ("count", "columns", "shape"),
    [(1, None, (1, 1)), (2, None, (1, 2)), (10, None, (3, 4)), (64, None, (8, 8)), (5, 5, (1, 5)), (5, 2, (3, 2))],
)
def test_rows_and_columns(count, columns, shape):
    image = tile(torch.zeros(count, 1, 32, 32, dtype=torch.uint8), columns)
    assert array(image).shape == tuple(34 * cells - 2 for cells in shape)


def test_grid_in_colour():
    pixels = torch.randint(256, (4, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = tile(pixels)
    assert image.mode == "RGB"
    result = array(image)
    assert result.shape == (66, 82, 3)
    for n, (top, left) in enumerate([(0, 0), (0, 42), (34, 0), (34, 42)]):
        assert np.array_equal(result[top : top + 32, left : left + 40], pixels[n].permute(1, 2, 0).numpy())
    assert (result[32:34] == 128).all()


@pytest.mark.parametrize(("channels", "shown"), [(2, 1), (5, 3)])
def test_other_numbers_of_channels_show_the_first(channels, shown):
    pixels = torch.arange(channels, dtype=torch.uint8).reshape(1, channels, 1, 1).expand(1, channels, 32, 32)
    assert array(tile(pixels)).reshape(32, 32, shown)[7, 7].tolist() == list(range(shown))


@pytest.mark.parametrize(
    "pixels", [torch.zeros(1, 1, 8, 8), torch.zeros(8, 8, dtype=torch.uint8), torch.zeros(0, 1, 8, 8).byte()]
)
def test_grid_refuses(pixels):
    with pytest.raises(ValueError, match="uint8"):
        tile(pixels)


def test_grid_refuses_no_columns():
    with pytest.raises(ValueError, match="columns=0"):
        tile(torch.zeros(1, 1, 8, 8, dtype=torch.uint8), columns=0)


def test_a_row_for_each_class():
    pixels = torch.arange(5, dtype=torch.uint8).reshape(5, 1, 1, 1).expand(5, 1, 32, 32)
    result = array(tile_classes(pixels, torch.tensor([4, 2, 4, 2, 4])))
    assert [[result[34 * i, 34 * j] for j in range(3)] for i in range(2)] == [[0, 2, 4], [1, 3, 128]]
    for labels in [1, 1, 1, 1, 1], [0, 1, 2, 3, 4]:  # one class, and as many as images
        assert tile_classes(pixels, torch.tensor(labels)).size == tile(pixels).size


def test_a_caption_stands_above():
    grid = tile(torch.full((2, 1, 32, 32), 255, dtype=torch.uint8))
    captioned = with_caption(grid, ["first column: generated", "x"])
    assert captioned.width > grid.width  # the text fits
    assert np.array_equal(array(captioned)[-grid.height :, : grid.width], array(grid))
    assert (array(captioned)[: -grid.height] < 100).any()


def cluster(x, y, count=50):
    spread = torch.linspace(-0.1, 0.1, count)
    return torch.stack([x + spread, y + spread.flip(0)], 1)


def centre(image, color, tolerance=60):
    """(right, up) of the middle of the pixels of one colour, from the middle of the picture, below the legend."""
    distance = np.abs(array(image) - np.array(ImageColor.getrgb(color))).max(-1)
    distance[:40] = 255
    rows, columns = np.nonzero(distance < tolerance)
    assert len(rows) > 20
    return columns.mean() - image.width / 2, image.height / 2 - rows.mean()


def test_scatter_puts_each_colour_where_its_points_are():
    image = scatter(cluster(-1, 1), cluster(1, -1), (-2, 2))
    assert (image.size, image.mode) == ((512, 512), "RGB")
    right, up = centre(image, REAL)
    assert -150 < right < -60
    assert 60 < up < 150
    right, up = centre(image, FAKE)
    assert 60 < right < 150
    assert -150 < up < -60


@pytest.mark.parametrize("outside", [(9.0, 0.0), (0.0, -9.0), (math.nan, 0.0), (0.0, math.inf)])
def test_points_outside_change_no_axis(outside):
    real, fake = cluster(-1, 1), cluster(1, -1)
    inside = array(scatter(real, fake, (-2, 2)))
    both = array(scatter(real, torch.cat([fake, torch.tensor([outside])]), (-2, 2)))
    assert np.array_equal(inside[40:], both[40:])
    assert not np.array_equal(inside[:40], both[:40])  # the legend counts them


def test_limits_are_the_axes():
    near, far = (scatter(cluster(1, 1), cluster(-0.5, -0.5), (-end, end)) for end in (2, 4))
    for at_near, at_far in zip(centre(near, REAL), centre(far, REAL), strict=True):
        assert at_near > 1.5 * at_far > 50
    # The frame and the numbers on it, in black, do not depend on the points; the frame is a square.
    other = scatter(cluster(0, 3), cluster(-3, 2), (-4, 4))
    black = array(far).max(-1) < 50
    assert np.array_equal(black, array(other).max(-1) < 50)
    width, height = (np.ptp(np.nonzero(black.sum(axis) > 300)) for axis in (0, 1))
    assert abs(width - height) <= 1


def test_the_first_two_of_more_coordinates():
    real, fake = cluster(-1, 1), cluster(1, -1)
    image = scatter(torch.cat([real, 9 + real], 1), torch.cat([fake, 9 + fake], 1), (-2, 2))
    right, up = centre(image, REAL)
    assert right < -50
    assert up > 50
    assert not np.array_equal(array(image), array(scatter(real, fake, (-2, 2))))  # the axes have names


def test_one_coordinate_is_a_histogram():
    def middle(real, fake):
        image = scatter(real, fake, (-2, 2))
        pale = tuple((value + 255) // 2 for value in ImageColor.getrgb(REAL))
        return centre(image, "#{:02x}{:02x}{:02x}".format(*pale), tolerance=20)[0]

    nothing = torch.full((50, 1), float("nan"))
    assert middle(cluster(-1, 0)[:, :1], cluster(1, 0)[:, :1]) < -50
    assert middle(cluster(1, 0)[:, :1], nothing) > 50


def test_scatter_of_a_diverged_generator_is_drawn():
    scatter(cluster(0, 0), torch.full((50, 2), float("nan")), (-2, 2))


@pytest.mark.parametrize("shapes", [((4,), (4,)), ((4, 2), (4, 3)), ((4, 1, 8, 8), (4, 1, 8, 8))], ids=str)
def test_scatter_refuses(shapes):
    with pytest.raises(ValueError, match="points"):
        scatter(torch.zeros(shapes[0]), torch.zeros(shapes[1]), (-1, 1))


def test_png_is_deterministic_and_lossless():
    one, same = (scatter(cluster(-1, 1), cluster(1, -1), (-2, 2)) for _ in range(2))
    assert png(one) == png(same)
    reread = Image.open(io.BytesIO(png(one)))
    assert reread.format == "PNG"
    assert np.array_equal(array(reread), array(one))


@pytest.mark.slow
def test_no_global_state_and_no_slow_imports():
    code = """
import sys, torch
from gan_runner.training.image_grid import tile, scatter
assert "matplotlib" not in sys.modules
scatter(torch.zeros(2, 2), torch.zeros(2, 2), (-1, 1))
assert not {"matplotlib.pyplot", "torchvision"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
