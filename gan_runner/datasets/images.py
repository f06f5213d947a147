"""What the image datasets share: sizes, channels, the split, and the decoding of image files."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from zipfile import Path as ZipPath

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Len, Lt
from PIL import Image, ImageOps
from torch import Tensor

from gan_runner.datasets.data import CHUNK, seeded
from gan_runner.randomness import derive

Pixels = Annotated[int, Ge(1)]
ImageSize = Pixels | Annotated[list[Pixels], Len(2, 2)] | None
"""Both sides, or [height, width], in pixels; None = as it is."""
Channels = Literal[1, 3] | None
"""1 = grey, 3 = RGB, None = as it is."""
Fraction = Annotated[float, Ge(0), Lt(1)]
File = Path | ZipPath

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's

Item = TypeVar("Item")
Result = TypeVar("Result")


def height_and_width(image_size: int | list[int]) -> tuple[int, int]:
    """(H, W) of an `image_size` that is not None."""
    return (image_size, image_size) if isinstance(image_size, int) else (image_size[0], image_size[1])


def resize(images: Tensor, image_size: ImageSize) -> Tensor:
    """uint8 images (N, C, H, W), the central part of the new aspect, resized by an antialiased bilinear filter."""
    if image_size is None:
        return images
    new = height_and_width(image_size)
    old = images.shape[-2:]
    if new == tuple(old):
        return images
    scale = max(new[0] / old[0], new[1] / old[1])
    part = [min(a, max(1, round(b / scale))) for a, b in zip(old, new, strict=True)]
    top, left = (old[0] - part[0]) // 2, (old[1] - part[1]) // 2
    images = images[..., top : top + part[0], left : left + part[1]]
    resized = torch.empty((*images.shape[:2], *new), dtype=torch.uint8)
    for source, target in zip(images.split(CHUNK), resized.split(CHUNK), strict=True):
        target.copy_(F.interpolate(source, new, mode="bilinear", antialias=True))
    return resized


def convert_channels(images: Tensor, channels: Channels) -> Tensor:
    """uint8 images (N, 1 or 3, H, W) as grey or RGB; grey is the luma of ITU-R 601, rounded as Pillow does it."""
    if channels is None or channels == images.shape[1]:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    luma = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(3, 1, 1)  # (0.299, 0.587, 0.114) x 2^16
    grey = torch.empty_like(images[:, :1])
    for source, target in zip(images.split(CHUNK), grey.split(CHUNK), strict=True):
        target.copy_((source * luma).sum(1, keepdim=True).add(1 << 15) >> 16)
    return grey


def split(count: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the training samples, in order, and of the held-out fraction, in random order.

    Raises ValueError if no training sample remains.
    """
    order = torch.randperm(count, generator=seeded(derive(seed, "split")))
    held = round(count * held_out)
    if held == count:
        raise ValueError(f"dataset.held_out={held_out}: of {count} samples none remains for training")
    return order[held:].sort().values, order[:held]


def size_and_colour(file: File) -> tuple[tuple[int, int], bool]:
    """((H, W) upright, stored in colour), from the header of an image file.

    Raises ValueError naming the file.
    """

    def read(image: Image.Image) -> tuple[tuple[int, int], bool]:
        sideways = image.getexif().get(0x0112, 1) >= 5  # the orientations of a camera held upright
        width, height = image.size
        return ((width, height) if sideways else (height, width)), image.mode not in GREY_MODES

    return _opened(file, read)


def decode(files: Sequence[File], *, channels: Literal[1, 3], size: tuple[int, int]) -> Tensor:
    """Image files as one uint8 tensor (N, C, H, W), `size` = (H, W).

    Upright by their EXIF orientation, without their transparency; the central part of the wanted aspect, by Pillow's
    (antialiased) bilinear filter.

    Raises ValueError naming a file that is broken, or `dataset.image_size` if memory does not suffice.
    """
    shape = (len(files), channels, *size)
    needed, available = int(np.prod(shape)), available_memory()
    if available is not None and needed > available:
        raise ValueError(
            f"dataset.image_size: {len(files):,} images of {size[0]}x{size[1]} pixels and {channels} channels take "
            f"{needed / 2**30:.1f} GiB of memory, and {available / 2**30:.1f} GiB are available; "
            "set a smaller dataset.image_size"
        )
    pixels = np.empty(shape, dtype=np.uint8)

    def fill(index: int) -> None:
        pixels[index] = _opened(files[index], lambda image: _upright_pixels(image, channels, size))

    for _ in in_threads(fill, range(len(files))):
        pass
    return torch.from_numpy(pixels)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
    """`map` on all cores: Pillow lets go of the interpreter while it decodes and resizes."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, items)


def _opened(file: File, read: Callable[[Image.Image], Result]) -> Result:
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            return read(image)
    except Exception as error:  # a broken file can make Pillow raise anything: OSError, SyntaxError, struct.error ...
        raise ValueError(f"dataset.root: {file} is not a readable image ({type(error).__name__}: {error})") from error


def _upright_pixels(image: Image.Image, channels: Literal[1, 3], size: tuple[int, int]) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("P", "PA"):  # transparency in the palette: Pillow warns about the direct way
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != size[::-1]:
        image = ImageOps.fit(image, size[::-1], Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def available_memory() -> int | None:
    """Bytes that can be had without swapping; where the system does not say, all there are; None = unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # sysconf's own SC_AVPHYS_PAGES leaves out the cache, which is free for the taking
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, ValueError, OSError):
            return None
