"""What the image datasets share: sizes, channels, the split, and image files, decoded at the start or when read."""

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple, Protocol, TypeVar
from zipfile import ZipFile

import numpy as np
import torch
import torch.nn.functional as F
from annotated_types import Ge, Len, Lt
from PIL import Image, ImageOps
from torch import Tensor

from gan_runner.datasets.data import CHUNK, seeded
from gan_runner.datasets.memory import SHARE, available_memory
from gan_runner.datasets.memory import size as readable
from gan_runner.datasets.on_disk import OnDisk, UnreadableError
from gan_runner.torch_utils.bounds import PositiveInt
from gan_runner.torch_utils.randomness import derive

ImageSize = PositiveInt | Annotated[list[PositiveInt], Len(2, 2)] | None
"""Both sides, or [height, width], in pixels; None = as it is."""
Channels = Literal[1, 3] | None
"""1 = grey, 3 = RGB, None = as it is."""
Fraction = Annotated[float, Ge(0), Lt(1)]

GREY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")  # Pillow's


class File(Protocol):
    """What can be opened: a path, or a member of an archive."""

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        """Open it to be read."""


class Member(NamedTuple):
    """A file in a ZIP archive, which each process opens for itself: of a handle they would share the position."""

    archive: Path
    name: str

    def open(self, mode: Literal["rb"]) -> IO[bytes]:
        return opened_archive(self.archive, os.getpid()).open(self.name)

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"


@cache
def opened_archive(archive: Path, process: int) -> ZipFile:
    """An archive, opened in this process."""
    return ZipFile(archive)


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
    takes, available = math.prod((*images.shape[:2], *new)), available_memory()
    if available is not None and takes > available:
        raise ValueError(
            f"dataset.image_size={json.dumps(image_size)}: {len(images):,} images take {readable(takes)} of memory, "
            f"and {readable(available)} are free; a smaller dataset.image_size takes less"
        )
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


def is_decodable(file: File) -> bool:
    """Whether an image file is whole: all of its pixels are decoded."""
    try:
        _opened(file, lambda image: image.load())
    except UnreadableError:
        return False
    return True


class ImageFiles(OnDisk):
    """Image files, decoded whenever they are read: uint8 (N, C, H, W), `size` = (H, W).

    Raises ValueError naming a file that is broken, also where it is read.
    """

    source = "its files"

    def __init__(self, files: Sequence[File], *, channels: Literal[1, 3], size: tuple[int, int]):
        super().__init__(len(files), (channels, *size), torch.uint8)
        self.files = files

    def _read(self, rows: Tensor) -> Tensor:
        channels, *size = self._sample_shape
        return decode([self.files[row] for row in rows.tolist()], channels=channels, size=size)


def image_files(
    files: Sequence[File], *, channels: Literal[1, 3], size: tuple[int, int], is_checked: bool = False
) -> Tensor | ImageFiles:
    """Image files, decoded now if they take at most half of the memory, else whenever they are read.

    `is_checked` says that their headers have been read before.

    Raises ValueError naming a file that is broken, by its header in the second case; or `dataset.image_size` if memory
    does not suffice for one image.
    """
    in_files, available = ImageFiles(files, channels=channels, size=size), available_memory()
    if available is None or in_files.nbytes <= SHARE * available:
        return decode(files, channels=channels, size=size)
    if in_files.nbytes > len(files) * available:
        raise ValueError(
            f"dataset.image_size: an image of {size[0]}x{size[1]} pixels and {channels} channels takes "
            f"{readable(in_files.nbytes / len(files))} of memory, and {readable(available)} are free"
        )
    for _ in in_threads(size_and_colour, () if is_checked else files):
        pass
    return in_files


def decode(files: Sequence[File], *, channels: int, size: Sequence[int]) -> Tensor:
    """Image files as one uint8 tensor (N, C, H, W), `size` = (H, W).

    Upright by their EXIF orientation, without their transparency; the central part of the wanted aspect, by Pillow's
    (antialiased) bilinear filter.

    Raises ValueError naming a file that is broken.
    """
    pixels = np.empty((len(files), channels, *size), dtype=np.uint8)

    def fill(index: int) -> None:
        pixels[index] = _opened(files[index], lambda image: _upright_pixels(image, channels, size))

    for _ in in_threads(fill, range(len(files))):
        pass
    return torch.from_numpy(pixels)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterable[Result]:
    """`map` on all cores, or on one in a worker: Pillow lets go of the interpreter while it decodes and resizes."""
    if torch.utils.data.get_worker_info():
        yield from map(function, items)
        return
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(function, items)


def _opened(file: File, read: Callable[[Image.Image], Result]) -> Result:
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            return read(image)
    except Exception as error:  # a broken file can make Pillow raise anything: OSError, SyntaxError, struct.error ...
        key = getattr(file, "config_key", "dataset.root")  # which a path has not
        raise UnreadableError(f"{key}: {file} is not a readable image ({type(error).__name__}: {error})") from error


def _upright_pixels(image: Image.Image, channels: int, size: Sequence[int]) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits a pixel, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("P", "PA"):  # transparency in the palette: Pillow warns about the direct way
        image = image.convert("RGBA")
    image = image.convert("L" if channels == 1 else "RGB")
    height, width = size
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
