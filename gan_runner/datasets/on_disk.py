"""Samples that stay in files until they are read: for more of them than memory holds."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

CHUNK_BYTES = 2**28  # read at a time, of all there is


class UnreadableError(ValueError):
    """A file of a dataset cannot be read; the message names it."""


class OnDisk(ABC):
    """uint8 images (N, C, H, W) or float32 points (N, D), in host memory once they are read.

    It has those methods of a tensor that `Samples` uses; what they return is contiguous. Copies in other processes read
    the files by themselves.
    """

    device = torch.device("cpu")
    source: str
    """Where the samples are, for people."""

    def __init__(self, count: int, shape: tuple[int, ...], dtype: torch.dtype):
        """All of `count` samples of a shape."""
        self._rows = torch.arange(count)
        self._sample_shape, self.dtype = shape, dtype

    @abstractmethod
    def _read(self, rows: Tensor) -> Tensor:
        """Samples by their places in the files: (len(rows), *shape of one)."""

    @property
    def shape(self) -> torch.Size:
        return torch.Size([len(self._rows), *self._sample_shape])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, part: slice) -> Tensor:
        return self._read(self._rows[part])

    def dim(self) -> int:
        return len(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples, once they are read."""
        return math.prod(self.shape) * self.dtype.itemsize

    def among(self, rows: Tensor) -> Self:
        """Read some of the samples, in this order."""
        some = copy.copy(self)
        some._rows = self._rows[rows]
        return some

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


class Mapped(OnDisk):
    """The rows of a `.npy` file, each as `convert` makes it, which is pure in each row."""

    source = "its file"

    def __init__(self, path: Path, convert: Callable[[np.ndarray], Tensor]):
        self.path, self.convert = path, convert
        self._array = self._open()
        example = convert(self._array[[0]])  # a copy, which may be written to
        super().__init__(len(self._array), tuple(example.shape[1:]), example.dtype)

    def _open(self) -> np.ndarray:
        return np.asarray(np.load(self.path, mmap_mode="r", allow_pickle=False))

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_array"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._array = self._open()

    def _read(self, rows: Tensor) -> Tensor:
        return self.convert(self._array[rows.numpy()]).contiguous()
