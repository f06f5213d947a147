"""A folder of image files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Literal

import torch

from gan_runner.datasets.data import Data, Normalization, Samples
from gan_runner.datasets.images import (
    Channels,
    Fraction,
    ImageSize,
    height_and_width,
    image_files,
    in_threads,
    is_decodable,
    size_and_colour,
    split,
)
from gan_runner.datasets.on_disk import UnreadableError

NAMED = 5  # broken files that the log names
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def image_folder(
    *,
    root: str,
    broken: Literal["error", "skip"] = "error",
    held_out: Fraction,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """The images in `root`, without labels; or in its subfolders, at any depth: these, sorted by name, are the classes.

    Hidden files and folders are passed over, as are other types of file. Images are turned upright by their EXIF
    orientation, lose their transparency, and are decoded once, at the start, on all cores; or, if they would take more
    than half of the memory, whenever they are read.

    channels: None = 3 if a file is stored in colour, else 1.
    broken: what to do with a file that cannot be decoded; skip = leave it out, named and counted in the log. Then all
        files are decoded once more than otherwise.

    Raises ValueError that names the key and the folder, or the file that is broken or of another size.
    """
    folder = Path(root).expanduser().absolute()
    files, classes = _find(folder)
    notes: list[str] = []
    if broken == "skip":
        are_whole = list(in_threads(is_decodable, files))
        lost = [file.relative_to(folder) for file, is_whole in zip(files, are_whole, strict=True) if not is_whole]
        if len(lost) == len(files):
            raise ValueError(f"dataset.root={folder}: none of its {len(files):,} images can be decoded")
        if lost:
            notes = [_left_out(lost, len(files))]
        classes = list(compress(classes, are_whole))
        files = list(compress(files, are_whole))
    with _offering_to_skip():
        size = None if image_size is None else height_and_width(image_size)
        if size is None or channels is None:
            headers = list(in_threads(size_and_colour, files))
            channels = channels or (3 if any(colour for _, colour in headers) else 1)
            size = size or _one_size(files, [its_size for its_size, _ in headers])
        parts = split(len(files), held_out, seed)
        training, held = (image_files([files[i] for i in part], channels=channels, size=size) for part in parts)
    labels, held_labels = (torch.tensor(classes)[part] if classes else None for part in parts)
    return Samples(
        training,
        labels,
        held_out=held,
        held_out_labels=held_labels,
        num_classes=max(classes, default=-1) + 1,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
        notes=notes,
    )


@contextmanager
def _offering_to_skip() -> Iterator[None]:
    """Have the error of a file that cannot be read say how to leave it out."""
    try:
        yield
    except UnreadableError as error:
        raise UnreadableError(f"{error}; dataset.broken=skip leaves such files out") from error


def _left_out(files: list[Path], count: int) -> str:
    """A line on the files that cannot be decoded, of `count`: how many they are, and the first of them."""
    names = ", ".join(map(str, files[:NAMED]))
    more = f" and {len(files) - NAMED:,} more" if len(files) > NAMED else ""
    return f"left out, as they cannot be decoded: {len(files):,} of {count:,} images, {names}{more}"


def _find(folder: Path) -> tuple[list[Path], list[int]]:
    """The image files, sorted, and their classes, or [] for a flat folder."""
    if not folder.is_dir():
        raise ValueError(f"dataset.root={folder}: {'is not a folder' if folder.exists() else 'no such folder'}")
    files = [Path(parent, name) for parent, _, names in os.walk(folder, followlinks=True) for name in names]
    paths = [file.relative_to(folder) for file in files if file.suffix.lower() in SUFFIXES]
    paths = sorted(path for path in paths if not any(part.startswith(".") for part in path.parts))
    if not paths:
        raise ValueError(f"dataset.root={folder}: holds no image ({', '.join(SUFFIXES)})")
    names = sorted({path.parts[0] for path in paths if len(path.parts) > 1})
    loose = [path for path in paths if len(path.parts) == 1]
    if names and loose:
        raise ValueError(
            f"dataset.root={folder}: holds images ({loose[0]}) beside folders of images ({names[0]}); "
            "put all images into class folders, or all into the folder itself"
        )
    return [folder / path for path in paths], [names.index(path.parts[0]) for path in paths] if names else []


def _one_size(files: list[Path], sizes: list[tuple[int, int]]) -> tuple[int, int]:
    for file, size in zip(files, sizes, strict=True):
        if size != sizes[0]:
            a, b = (f"{s[0]}x{s[1]} ({f})" for f, s in [(files[0], sizes[0]), (file, size)])
            raise ValueError(
                f"dataset.image_size: the images have several sizes, such as {a} and {b}, height first; "
                "set dataset.image_size, such as 64 or [64,48]"
            )
    return sizes[0]
