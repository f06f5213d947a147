"""Encoded images, wherever they lie: what datasets of a folder, of tar shards and of a table of images share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gan_runner.datasets.data import Normalization, Samples
from gan_runner.datasets.images import (
    Channels,
    File,
    ImageSize,
    height_and_width,
    image_files,
    in_threads,
    is_decodable,
    size_and_colour,
    split,
)
from gan_runner.datasets.on_disk import UnreadableError

NAMED = 5  # broken images that the log names

Broken = Literal["error", "skip"]
"""What to do with an image that cannot be decoded; skip = leave it out, named and counted in the log."""


class Headers(NamedTuple):
    """What the headers of N images say: sizes (N, 2), height and width upright, and whether they are in colour (N,)."""

    sizes: Tensor
    in_colour: Tensor

    def of(self, rows: Tensor) -> "Headers":
        """Those of some of the images."""
        return Headers(self.sizes[rows], self.in_colour[rows])


class Picked(Sequence[File]):
    """Some of many files, in an order of their own; none of them is held."""

    def __init__(self, files: Sequence[File], rows: Tensor):
        self.files, self.rows = files, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> File:  # type: ignore[override]  # nobody takes slices
        return self.files[int(self.rows[index])]


def image_samples(
    files: Sequence[File],
    labels: Tensor | None,
    *,
    where: str,
    headers: Headers | None = None,
    broken: Broken,
    held_out: float,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool,
    seed: int,
    notes: Sequence[str] = (),
) -> Samples:
    """Images with their labels (N,), which are decoded once, at the start, on all cores; or, if they would take more
    than half of the memory, whenever they are read.

    where: the key and the place of the dataset, for messages; the log names files without that place.
    headers: those of all the images, where they are known already.

    Raises ValueError that names the place, or the image that is broken or of another size.
    """
    notes = list(notes)
    if broken == "skip":
        are_whole = torch.tensor(list(in_threads(is_decodable, files)))
        if not are_whole.any():
            raise ValueError(f"{where}: none of its {len(files):,} images can be decoded")
        if not are_whole.all():
            lost = [shorten(str(files[row]), where) for row in (~are_whole).nonzero().flatten().tolist()]
            notes.append(left_out(lost, len(files)))
            rows = are_whole.nonzero().flatten()
            files, labels = Picked(files, rows), None if labels is None else labels[rows]
            headers = None if headers is None else headers.of(rows)
    with offering_to_skip():
        size = None if image_size is None else height_and_width(image_size)
        is_checked = headers is not None
        if size is None or channels is None:
            headers = headers or read_headers(files)
            channels = channels or (3 if headers.in_colour.any() else 1)
            size = size or one_size(files, headers.sizes)
        parts = split(len(files), held_out, seed)
        training, held = (
            image_files(Picked(files, part), channels=channels, size=size, is_checked=is_checked) for part in parts
        )
    its_labels, held_labels = (None if labels is None else labels[part] for part in parts)
    return Samples(
        training,
        its_labels,
        held_out=held,
        held_out_labels=held_labels,
        num_classes=0 if labels is None else int(labels.max()) + 1,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
        notes=notes,
    )


def read_headers(files: Sequence[File]) -> Headers:
    """The headers of image files. Raises UnreadableError naming one that has none."""
    found = list(in_threads(size_and_colour, files))
    return Headers(torch.tensor([size for size, _ in found]), torch.tensor([colour for _, colour in found]))


@contextmanager
def offering_to_skip() -> Iterator[None]:
    """Have the error of an image that cannot be read say how to leave it out."""
    try:
        yield
    except UnreadableError as error:
        raise UnreadableError(f"{error}; dataset.broken=skip leaves such files out") from error


def left_out(names: Sequence[str], count: int, why: str = "as they cannot be decoded") -> str:
    """A line on images that are left out, of `count`: how many they are, and the first of them."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return f"left out, {why}: {len(names):,} of {count:,} images, {', '.join(names[:NAMED])}{more}"


def shorten(name: str, where: str) -> str:
    """The name of a file in the place that messages name: `dataset.root=PLACE`."""
    return name.removeprefix(f"{where.partition('=')[2]}/")


def one_size(files: Sequence[File], sizes: Tensor) -> tuple[int, int]:
    """The size (H, W) of all images. Raises ValueError naming two that differ."""
    others = (sizes != sizes[0]).any(1).nonzero().flatten()
    if len(others):
        rows = (0, int(others[0]))
        a, b = (f"{int(sizes[row, 0])}x{int(sizes[row, 1])} ({files[row]})" for row in rows)
        raise ValueError(
            f"dataset.image_size: the images have several sizes, such as {a} and {b}, height first; "
            "set dataset.image_size, such as 64 or [64,48]"
        )
    return int(sizes[0, 0]), int(sizes[0, 1])
