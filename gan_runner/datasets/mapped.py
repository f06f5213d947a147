"""Samples that stay in a file until they are read: for more of them than memory holds."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

CHUNK_BYTES = 2**28  # read at a time, of all there is


class Mapped:
    """Samples in a `.npy` file: uint8 images (N, C, H, W) or float32 points (N, D), in host memory once they are read.

    It has those methods of a tensor that `Samples` uses. What they return is contiguous, and as `convert` makes it of
    rows of the file, which is pure in each row; copies in other processes read the file by themselves.

    rows: the rows of the file that these samples are (N,); None = all.
    """

    device = torch.device("cpu")

    def __init__(self, path: Path, convert: Callable[[np.ndarray], Tensor], rows: Tensor | None = None):
        self.path, self.convert = path, convert
        self._array = self._open()
        self._rows = torch.arange(len(self._array)) if rows is None else rows
        example = convert(self._array[[0]])  # a copy, which may be written to
        self.shape, self.dtype = torch.Size([len(self._rows), *example.shape[1:]]), example.dtype

    def _open(self) -> np.ndarray:
        return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._array = self._open()

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, part: slice) -> Tensor:
        return self._read(self._rows[part])

    def dim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples, once they are read and converted."""
        return math.prod(self.shape) * self.dtype.itemsize

    def among(self, rows: Tensor) -> "Mapped":
        """Those of the samples, in this order."""
        return Mapped(self.path, self.convert, self._rows[rows])

    def index_select(self, axis: int, rows: Tensor) -> Tensor:
        """Some samples, (len(rows), ...); `axis` is 0."""
        return self._read(self._rows[rows])

    def split(self, size: int) -> Iterator[Tensor]:
        """All samples, in parts of at most `size`, and of what is read into memory at a time."""
        size = max(1, min(size, CHUNK_BYTES * len(self) // self.nbytes))
        return (self._read(rows) for rows in self._rows.split(size))

    def to(self, device: torch.device | str) -> Tensor:
        """All samples, in the memory of a device."""
        found = torch.empty(self.shape, dtype=self.dtype, device=device)
        done = 0
        for part in self.split(len(self)):
            found[done : done + len(part)].copy_(part)
            done += len(part)
        return found

    def _read(self, rows: Tensor) -> Tensor:
        return self.convert(self._array[rows.numpy()]).contiguous()
