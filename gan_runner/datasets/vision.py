"""The published image sets: torchvision downloads them; they are read from its layout of files, below `root`.

MNIST, Fashion-MNIST and CelebA are read without torchvision, whose import takes 1.2 to 2.6 s, and so without unpacking
an archive: a `root` that holds the files may be read-only.
"""

import gzip
import math
import zlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from gan_runner.datasets.data import Data, Normalization, Samples
from gan_runner.datasets.images import (
    Channels,
    File,
    ImageSize,
    Member,
    convert_channels,
    height_and_width,
    image_files,
    resize,
)
from gan_runner.datasets.on_disk import OnDisk

Part = tuple[Tensor | OnDisk, Tensor | None]  # images and their labels


def mnist(
    *,
    root: str,
    download: bool,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """60,000 handwritten digits, grey (N, 1, 28, 28), 10 classes; 10,000 held out, the test set.

    Source: LeCun, Cortes & Burges 1998, The MNIST database.
    """
    parts = [_fitted(part, image_size, channels) for part in _idx_parts("MNIST", _absolute(root), download)]
    return _samples(*parts, num_classes=10, normalization=normalization, flip=flip, dequantize=dequantize, seed=seed)


def fashion_mnist(
    *,
    root: str,
    download: bool,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """60,000 pictures of clothes, grey (N, 1, 28, 28), 10 classes; 10,000 held out, the test set.

    Source: Xiao et al. 2017, Fashion-MNIST, arXiv 1708.07747.
    """
    parts = [_fitted(part, image_size, channels) for part in _idx_parts("FashionMNIST", _absolute(root), download)]
    return _samples(*parts, num_classes=10, normalization=normalization, flip=flip, dequantize=dequantize, seed=seed)


def cifar10(
    *,
    root: str,
    download: bool,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """50,000 photographs, RGB (N, 3, 32, 32), 10 classes; 10,000 held out, the test set.

    Source: Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images.
    """
    place = _absolute(root)
    folder, archive = place / "cifar-10-batches-py", place / "cifar-10-python.tar.gz"
    if not (folder.is_dir() or archive.is_file() or download):
        raise _missing("CIFAR-10", place, [archive], "dataset.download is false")
    import warnings

    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    published = {folder / name: md5 for name, md5 in [*CIFAR10.train_list, *CIFAR10.test_list]}
    published |= {folder / CIFAR10.meta["filename"]: CIFAR10.meta["md5"], archive: CIFAR10.tgz_md5}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*align should be passed")  # numpy 2.4.0 to 2.4.4, of old pickles
        try:
            # What downloads also unpacks, and downloads nothing if the archive is there and right.
            unpack = download or (not folder.is_dir() and check_integrity(str(archive), CIFAR10.tgz_md5))
            sets = CIFAR10(place, train=True, download=unpack), CIFAR10(place, train=False)
        except Exception as error:
            for path, md5 in published.items():
                if path.is_file() and not check_integrity(str(path), md5):
                    raise _corrupt(path, "its md5 is not the published one") from error
            raise _missing("CIFAR-10", place, [archive], _reason(error) if download else "it is incomplete") from error
    images = [torch.from_numpy(each.data).permute(0, 3, 1, 2).contiguous() for each in sets]
    labels = [torch.tensor(each.targets) for each in sets]
    parts = [_fitted(part, image_size, channels) for part in zip(images, labels, strict=True)]
    return _samples(*parts, num_classes=10, normalization=normalization, flip=flip, dequantize=dequantize, seed=seed)


def celeba(
    *,
    root: str,
    download: bool,
    attribute: str | None,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """162,770 aligned portraits, RGB; 19,867 held out, the validation set.

    Of the 178 x 218 pixels the central 178 x 178 are taken, the largest square, and scaled; for another aspect, the
    largest central part of that aspect. They are decoded out of the archive or its folder, at the start, on all cores;
    or, if they would take more than half of the memory, whenever they are read.

    attribute: one of the 40, whose absence or presence is then the label 0 or 1; None = no labels.

    Source: Liu et al. 2015, Deep Learning Face Attributes in the Wild, arXiv 1411.7766.
    """
    place = _absolute(root)
    folder = place / "celeba"
    images, archive = folder / "img_align_celeba", folder / "img_align_celeba.zip"
    tables = [folder / "list_eval_partition.txt", *([folder / "list_attr_celeba.txt"] if attribute else [])]
    if not all(path.is_file() for path in tables) or not (images.is_dir() or archive.is_file()):
        _download("CelebA", place, download, [archive, *tables])

    splits = dict(row for row in map(str.split, tables[0].read_text().splitlines()) if len(row) == 2)
    presence = _presence(tables[1], attribute) if attribute else {}
    try:
        if is_packed := not images.is_dir():
            ZipFile(archive).close()
    except BadZipFile as error:
        raise _corrupt(archive, error) from error

    def part(number: str) -> Part:
        names = [name for name, its_number in splits.items() if its_number == number]
        if not names:
            raise _corrupt(tables[0], f"it has no image of part {number}")
        if attribute and not presence.keys() >= set(names):
            raise _corrupt(tables[1], "it lacks some of the images")
        size = (178, 178) if image_size is None else height_and_width(image_size)
        files: list[File] = [Member(archive, f"{images.name}/{name}") if is_packed else images / name for name in names]
        pixels = image_files(files, channels=channels or 3, size=size)
        return pixels, torch.tensor([presence[name] for name in names]) if attribute else None

    num_classes = 2 if attribute else 0
    return _samples(
        part("0"),
        part("1"),
        num_classes=num_classes,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
    )


def _fitted(part: tuple[Tensor, Tensor], image_size: ImageSize, channels: Channels) -> Part:
    """The images of a part in the wanted size and colours."""
    images, labels = part
    return convert_channels(resize(images, image_size), channels), labels


def _samples(
    training: Part,
    held_out: Part,
    *,
    num_classes: int,
    normalization: Normalization,
    flip: bool,
    dequantize: bool,
    seed: int,
) -> Data:
    """The names of the training part and of the held-out one."""
    return Samples(
        *training,
        held_out=held_out[0],
        held_out_labels=held_out[1],
        num_classes=num_classes,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
    )


def _idx_parts(name: str, root: Path, download: bool) -> list[tuple[Tensor, Tensor]]:
    """One of the sets in MNIST's format: four files, each as `NAME` or packed as `NAME.gz`."""
    folder = root / name / "raw"
    files = [folder / f"{part}-{what}-ubyte" for part in ("train", "t10k") for what in ("images-idx3", "labels-idx1")]
    packed = [file.with_name(f"{file.name}.gz") for file in files]
    if not all(file.is_file() or its_gz.is_file() for file, its_gz in zip(files, packed, strict=True)):
        _download(name, root, download, packed)
    arrays = [_read_idx(file if file.is_file() else its_gz) for file, its_gz in zip(files, packed, strict=True)]
    return [(arrays[0][:, None], arrays[1].long()), (arrays[2][:, None], arrays[3].long())]


def _read_idx(path: Path) -> Tensor:
    """A uint8 array in MNIST's format: the bytes 0, 0, 8 (uint8), dimensions; each dimension, big-endian; the values.

    Raises ValueError naming the file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = content[3]
        shape = np.frombuffer(content, ">u4", dimensions, offset=4).tolist()
        if content[:3] != b"\0\0\x08" or len(content) != 4 + 4 * dimensions + math.prod(shape):
            raise ValueError(f"its {len(content):,} bytes do not agree with its header")
    except PermissionError as error:
        raise ValueError(f"dataset.root: {error}") from error
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise _corrupt(path, error) from error
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=4 + 4 * dimensions).view(*shape)


def _presence(table: Path, attribute: str) -> dict[str, int]:
    """File name -> 1 where the attribute is present, else 0."""
    _, header, *rows = map(str.split, table.read_text().splitlines())
    if attribute not in header:
        near = get_close_matches(attribute, header, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"dataset.attribute={attribute}: no such attribute{hint} (there are {', '.join(header)})")
    column = header.index(attribute) + 1
    return {row[0]: int(row[column] == "1") for row in rows}


def _download(name: str, root: Path, wanted: bool, files: Sequence[Path]) -> None:
    """Have torchvision download its class `name`; ValueError if that is not wanted or fails."""
    if not wanted:
        raise _missing(name, root, files, "dataset.download is false")
    try:
        from torchvision import datasets

        getattr(datasets, name)(root, download=True)
    except Exception as error:  # of the network, the disk, a checksum, or of torchvision's downloader being absent
        raise _missing(name, root, files, _reason(error)) from error


def _missing(name: str, root: Path, files: Sequence[Path], reason: str) -> ValueError:
    lines = [f"dataset.root={root}: {name} is not there; {reason}. Set dataset.root, or put there yourself:", *files]
    return ValueError("\n  ".join(map(str, lines)))


def _corrupt(path: Path, reason: object) -> ValueError:
    return ValueError(f"dataset.root: {path} is corrupt ({reason}); delete it, to have it downloaded again")


def _reason(error: Exception) -> str:
    """The last line of a long message: torchvision lists every mirror that it tried."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the download failed ({lines[-1].strip()[:200]})"


def _absolute(root: str) -> Path:
    return Path(root).expanduser().absolute()
