"""Images that come with a package that is installed anyway: nothing to download."""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from gan_runner.datasets.data import Data, Normalization, Samples
from gan_runner.datasets.images import Channels, Fraction, ImageSize, convert_channels, resize, split


def digits(
    *,
    held_out: Fraction,
    image_size: ImageSize,
    channels: Channels,
    normalization: Normalization,
    flip: bool,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """scikit-learn's 1,797 handwritten digits, grey (N, 1, 8, 8), 10 classes; 17 grey levels, as 0..255.

    Source: Alpaydin & Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository.
    """
    pixels, labels = _read_digits()
    images = torch.from_numpy(np.rint(pixels * (255 / 16)).astype(np.uint8)).view(-1, 1, 8, 8)
    images = convert_channels(resize(images, image_size), channels)
    classes = torch.from_numpy(labels.astype(np.int64))
    training, held = split(len(images), held_out, seed)
    return Samples(
        images[training],
        classes[training],
        held_out=images[held],
        held_out_labels=classes[held],
        num_classes=10,
        normalization=normalization,
        flip=flip,
        dequantize=dequantize,
        seed=seed,
    )


def _read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels 0..16 (1797, 64) and labels (1797,), as load_digits() returns them.

    They are read from scikit-learn's own file, as importing sklearn.datasets for it takes 0.7 to 1.2 s and this 0.01.
    """
    spec = find_spec("sklearn")  # finds the package without importing it
    assert spec is not None, "scikit-learn is a dependency"
    path = Path((spec.submodule_search_locations or [""])[0], "datasets", "data", "digits.csv.gz")
    if not path.is_file():  # in another place in another version
        from sklearn.datasets import load_digits

        return load_digits(return_X_y=True)
    with gzip.open(path, "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.uint8)
    return table[:, :-1], table[:, -1]
