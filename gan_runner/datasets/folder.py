"""A folder of image files."""

import os
from pathlib import Path

import torch

from gan_runner.datasets.data import Data, Normalization
from gan_runner.datasets.encoded import Broken, image_samples
from gan_runner.datasets.images import Channels, Fraction, ImageSize

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def image_folder(
    *,
    root: str,
    broken: Broken = "error",
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
    return image_samples(
        files,
        torch.tensor(classes) if classes else None,
        where=f"dataset.root={folder}",
        broken=broken,
        held_out=held_out,
        image_size=image_size,
        channels=channels,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
    )


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
