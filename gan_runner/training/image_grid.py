"""Pictures of samples: grids of images, and scatter plots of points."""

import io
import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

GAP = 2  # pixels between the cells of a grid
GREY = 128  # colour of the gap and of empty cells, unlike the black that digits are drawn on
CELL = 32  # pixels that a cell measures at least
REAL, FAKE = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito: distinct with any colour vision


def tile(pixels: Tensor, columns: int | None = None) -> Image.Image:
    """A grid of images, row by row, with 2 grey pixels between them; as near to a square as it gets without `columns`.

    Images whose shorter side has fewer than 32 pixels are enlarged by the smallest whole factor that brings it there,
    each pixel to a block: 8 x 8 by 4, 28 x 28 by 2. One or two channels show the first in grey, three and more show the
    first three as red, green, blue.

    Shapes: pixels (N, C, H, W), uint8, with N samples, C channels, H height, W width.
    Raises: ValueError for another type or shape, for no images, and for columns < 1.
    """
    if pixels.dtype != torch.uint8 or pixels.ndim != 4 or not pixels.numel():
        raise ValueError(f"pixels: uint8 (N, C, H, W), at least one, not {pixels.dtype} {tuple(pixels.shape)}")
    if columns is not None and columns < 1:
        raise ValueError(f"columns={columns}: must be at least 1")
    pixels = pixels.detach().cpu()[:, : 3 if pixels.shape[1] >= 3 else 1]
    factor = math.ceil(CELL / min(CELL, *pixels.shape[-2:]))
    pixels = pixels.repeat_interleave(factor, -2).repeat_interleave(factor, -1)
    count, channels, height, width = pixels.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = pixels.new_full((rows * columns, channels, GAP + height, GAP + width), GREY)
    cells[:count, :, GAP:, GAP:] = pixels
    picture = cells.unflatten(0, (rows, columns)).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)
    return Image.fromarray(picture[GAP:, GAP:].squeeze(-1).numpy())


def tile_classes(pixels: Tensor, labels: Tensor) -> Image.Image:
    """A grid with a row for each class, in the order in which they first appear; the rest of a short row stays empty.

    As near to a square as it gets where there is one class alone, or where most would have a row for a single image.
    Shapes: pixels (N, C, H, W), uint8; labels (N,).
    """
    classes = list(dict.fromkeys(labels.tolist()))
    if len(classes) == 1 or len(pixels) < 2 * len(classes):
        return tile(pixels)
    rows = [pixels[labels == label] for label in classes]
    columns = max(map(len, rows))
    empty = [pixels.new_full((columns - len(row), *pixels.shape[1:]), GREY) for row in rows]
    return tile(torch.cat([part for pair in zip(rows, empty, strict=True) for part in pair]), columns)


def with_caption(picture: Image.Image, lines: list[str]) -> Image.Image:
    """The picture, with lines of text on white above it; it is widened where they need that."""
    font = ImageFont.load_default()
    boxes = [font.getbbox(line) for line in lines]
    height = math.ceil(max(bottom for *_, bottom in boxes)) + 2
    width = max(picture.width, math.ceil(max(right for *_, right, _ in boxes)) + 4)
    captioned = Image.new(picture.mode, (width, picture.height + height * len(lines) + 2), color="white")
    drawing = ImageDraw.Draw(captioned)
    for number, line in enumerate(lines):
        drawing.text((2, 1 + number * height), line, fill="black", font=font)
    captioned.paste(picture, (0, captioned.height - picture.height))
    return captioned


def image(pixels: Tensor) -> Image.Image:
    """One image, (C, H, W) uint8, at its own size; channels as in `grid`."""
    channels = pixels.detach().cpu()[: 3 if len(pixels) >= 3 else 1]
    return Image.fromarray(channels.permute(1, 2, 0).squeeze(-1).numpy())


def scatter(real: Tensor, fake: Tensor, limits: tuple[float, float]) -> Image.Image:
    """Real and generated points in the square `limits` x `limits`, 512 x 512 pixels.

    Points beyond the limits, or not finite, are not drawn: the legend counts them. With more than two coordinates the
    first two are drawn, and the axes say so; with one, a histogram: the share of the samples in each of 64 bins.

    Shapes: real (N, D), fake (M, D), with N and M samples of D coordinates.
    Raises: ValueError for other shapes.
    """
    # The figure has a canvas of its own: pyplot would keep every figure in a global list and may open a display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"points: (N, D), as many coordinates, not {tuple(real.shape)} and {tuple(fake.shape)}")
    low, high = limits
    dimensions = real.shape[1]
    figure = Figure(figsize=(5.12, 5.12), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, points, color in ("real", real, REAL), ("generated", fake, FAKE):
        if not len(points):
            continue
        shown = points.detach().cpu().float()[:, :2]
        shown = shown[((shown >= low) & (shown <= high)).all(1)]
        missing = len(points) - len(shown)
        label = f"{name}, {missing} of {len(points)} outside" if missing else name
        x, y = shown[:, 0].numpy(), shown[:, -1].numpy()
        if dimensions == 1:
            shares = np.full(len(x), 1 / len(points))  # of all, so that those outside are missing in the bars
            axes.hist(x, bins=64, range=limits, weights=shares, color=color, alpha=0.5, label=label)
        else:
            axes.scatter(x, y, s=9, color=color, alpha=0.6, linewidths=0, label=label)
    axes.set_xlim(low, high)
    if dimensions > 1:
        axes.set_ylim(low, high)
        axes.set_aspect("equal")
    if dimensions > 2:
        axes.set_xlabel(f"coordinate 1 of {dimensions}")
        axes.set_ylabel(f"coordinate 2 of {dimensions}")
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    # Above the axes, where it hides no points.
    figure.legend(loc="outside upper center", ncols=2, markerscale=2, frameon=False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def png(image: Image.Image) -> bytes:
    """The image as a PNG file: the same image gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
