"""One array in a file."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from gan_runner.datasets.data import CHUNK, Data, Normalization, Samples
from gan_runner.datasets.images import Channels, Fraction, ImageSize, convert_channels, resize, split
from gan_runner.datasets.on_disk import Mapped

ALLOWED = (
    "images: uint8, or float in [0, 1] or [-1, 1], of shape (N, H, W), (N, H, W, C) or (N, C, H, W) with C = 1 or 3; "
    "points: float of shape (N, D)"
)


def npy(
    *,
    path: str,
    labels: str | None,
    layout: Literal["auto", "NHWC", "NCHW"],
    held_out: Fraction,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """A `.npy` file of images (N, H, W), (N, H, W, C) or (N, C, H, W), or of points (N, D), which may exceed memory.

    Float images in [0, 1] or, if any value is negative, [-1, 1] are rounded to 8 bits, and the log says so, as it does
    of (N, H, W), which could be meant otherwise. Points are left as they are. `labels` is the path of a `.npy` file of
    N whole numbers from 0.

    Raises ValueError that names the key and the path, what was found and what is allowed.
    """
    array = _load("dataset.path", path)
    classes = None if labels is None else _classes(labels, len(array) if array.ndim else 0)
    convert = _points(path, array) if array.ndim == 2 else _images(path, array, layout, image_size, channels)
    if array.ndim == 2 and (image_size is not None or channels is not None or flip or dequantize):
        given = {
            "image_size": image_size is not None,
            "channels": channels is not None,
            "flip": flip,
            "dequantize": dequantize,
        }
        key = next(name for name, is_given in given.items() if is_given)
        raise ValueError(f"dataset.{key} is for images, and {path} holds points {array.shape}")
    samples = Mapped(_file(path), convert)
    notes = [f"{path}: {array.shape} is taken for {len(array):,} grey images (N, H, W)"] if array.ndim == 3 else []
    if array.ndim > 2 and array.dtype != np.uint8:
        notes.append(f"{path}: its {array.dtype} values are rounded to 8 bits, 256 levels")
    training, held = split(len(samples), held_out, seed)
    return Samples(
        samples.among(training) if len(held) else samples,
        None if classes is None else classes[training],
        held_out=samples.among(held) if len(held) else None,
        held_out_labels=None if classes is None or not len(held) else classes[held],
        num_classes=0 if classes is None else int(classes.max()) + 1,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
        notes=notes,
    )


def _file(path: str) -> Path:
    return Path(path).expanduser().absolute()


def _load(key: str, path: str) -> np.ndarray:
    """The array in a file, left on disk until it is read."""
    file = _file(path)
    if not file.is_file():
        raise ValueError(f"{key}={file}: {'is a folder' if file.is_dir() else 'no such file'}")
    try:
        with file.open("rb") as stream:
            start = stream.read(6)
        if start != b"\x93NUMPY":
            hint = "; of an .npz, save one of its arrays with numpy.save" if start[:2] == b"PK" else ""
            raise ValueError(f"not a .npy file{hint}")
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{key}={file}: cannot be read ({error})") from error


def _classes(path: str, count: int) -> Tensor:
    array = _load("dataset.labels", path)
    if (
        array.shape != (count,)
        or array.dtype.kind not in "iu"
        or (count and not 0 <= array.min() <= array.max() <= np.iinfo(np.int32).max)
    ):
        lowest = f" from {array.min()} to {array.max()}" if array.size and array.dtype.kind in "iu" else ""
        raise ValueError(
            f"dataset.labels={path}: holds {array.dtype} {array.shape}{lowest}; "
            f"wanted are whole numbers from 0, one for each of the {count} samples"
        )
    return torch.from_numpy(array.astype(np.int64))


def _points(path: str, array: np.ndarray) -> Callable[[np.ndarray], Tensor]:
    """What makes points (N, D) of rows of the file."""
    if array.dtype.kind != "f" or not array.size:
        raise _wrong(path, array)
    if not all(_as_points(part).isfinite().all() for part in _parts(array)):
        raise ValueError(f"dataset.path={path}: holds values that are not finite as float32")
    return _as_points


def _as_points(rows: np.ndarray) -> Tensor:
    with np.errstate(over="ignore"):
        return torch.from_numpy(rows.astype(np.float32))


def _images(
    path: str, array: np.ndarray, layout: str, image_size: ImageSize, channels: Channels
) -> Callable[[np.ndarray], Tensor]:
    """What makes uint8 images (N, C, H, W) of rows of the file."""
    if array.ndim not in (3, 4) or not array.size or not (array.dtype == np.uint8 or array.dtype.kind == "f"):
        raise _wrong(path, array)
    is_last = array.ndim == 4 and _channels_last(path, array, layout)
    convert = partial(_as_images, is_last=is_last, image_size=image_size, channels=channels)
    if array.dtype == np.uint8:
        return convert
    low, high = float(array.min()), float(array.max())
    if not (low >= -1 and high <= 1):
        hint = " (of float images in [0, 255], save array.astype(numpy.uint8))" if low >= 0 and high <= 255 else ""
        raise ValueError(f"dataset.path={path}: holds values from {low:g} to {high:g}{hint}; allowed are {ALLOWED}")
    lowest = -1 if low < 0 else 0
    return partial(convert, lowest=lowest)


def _as_images(
    rows: np.ndarray, *, is_last: bool, image_size: ImageSize, channels: Channels, lowest: int = 0
) -> Tensor:
    """Rows (N, H, W), (N, H, W, C) or (N, C, H, W), of uint8 or of floats from `lowest` to 1 -> (N, C, H, W)."""
    rows = rows[:, None] if rows.ndim == 3 else np.moveaxis(rows, -1, 1) if is_last else rows
    if rows.dtype != np.uint8:
        rows = np.rint((rows.astype(np.float32) - lowest) * (255 / (1 - lowest))).astype(np.uint8)
    return convert_channels(resize(torch.from_numpy(np.ascontiguousarray(rows)), image_size), channels)


def _parts(array: np.ndarray) -> Iterator[np.ndarray]:
    return (array[start : start + CHUNK] for start in range(0, len(array), CHUNK))


def _channels_last(path: str, array: np.ndarray, layout: str) -> bool:
    """Whether the axes are (N, H, W, C), which `auto` tells by which of the two places for C holds 1 or 3."""
    first, last = array.shape[1] in (1, 3), array.shape[3] in (1, 3)
    if layout == "auto" and first and last:
        raise ValueError(f"dataset.layout=auto: {path} has shape {array.shape}, which may be either; set NHWC or NCHW")
    if (layout == "NHWC" and not last) or (layout == "NCHW" and not first) or not (first or last):
        raise _wrong(path, array, f" with dataset.layout={layout}")
    return layout == "NHWC" or (layout == "auto" and last)


def _wrong(path: str, array: np.ndarray, what: str = "") -> ValueError:
    return ValueError(f"dataset.path={path}: holds {array.dtype} {array.shape}{what}; allowed are {ALLOWED}")
