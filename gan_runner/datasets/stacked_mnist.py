"""Images whose channels are grey images drawn at random: a thousand modes out of ten, to count those that are lost."""

import sys
from typing import Self

import torch
from torch import Tensor

from gan_runner.datasets.data import WHOLE, Data, Labelled, Normalization, dequantized, seeded
from gan_runner.datasets.images import ImageSize
from gan_runner.datasets.vision import mnist
from gan_runner.torch_utils.randomness import derive

CHANNELS = 3


def stacked_mnist(
    *,
    root: str,
    download: bool,
    image_size: ImageSize,
    normalization: Normalization,
    dequantize: bool = False,
    seed: int,
) -> Data:
    """Three random digits of MNIST as red, green and blue (N, 3, 28, 28), 1,000 classes: label = 100 R + 10 G + B.

    Endless: the 60,000 training digits make 2.16e14 images. The held-out ones are made of the test set's digits alone.

    Source: Metz et al. 2016, Unrolled Generative Adversarial Networks, arXiv 1611.02163, section 3.3.1; as a benchmark
    Srivastava et al. 2017, VEEGAN, arXiv 1705.07761, and Lin et al. 2018, PacGAN, arXiv 1712.04086.
    """
    digits = mnist(
        root=root,
        download=download,
        image_size=image_size,
        channels=1,
        normalization=normalization,
        flip=False,
        seed=seed,
    )
    return Stacked(digits, dequantize=dequantize, seed=seed)


class Stacked(Data):
    """Endless images (N, 3, H, W), each channel an independent uniform draw from the images of `parts` (M, 1, H, W).

    The label has the K classes of the channels as its digits, (a K + b) K + c, so that there are K^3 classes.

    Raises ValueError if the parts are not grey images with labels.
    """

    parts: Data
    size: None = None
    scale: Tensor
    shift: Tensor

    def __init__(self, parts: Data, *, dequantize: bool = False, seed: int) -> None:
        pixels, labels = parts.training(None)
        if labels is None or pixels.shape[1:2] != (1,) or parts.scale is None or parts.shift is None:
            raise ValueError(f"what is stacked are grey images with labels, not samples of shape {parts.shape}")
        self.parts, self.dequantize, self.seed = parts, dequantize, seed
        self.shape, self.num_classes = (CHANNELS, *parts.shape[1:]), parts.num_classes**CHANNELS
        self.output_activation = parts.output_activation
        self.scale, self.shift = parts.scale.repeat(CHANNELS, 1, 1), parts.shift.repeat(CHANNELS, 1, 1)
        self._pixels, self._labels = pixels, labels  # beside the parts' own: 45 MiB of a GPU, and nothing on the CPU

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        """Fresh samples, drawn on the device from a generator seeded for this batch: other devices draw others."""
        generator = seeded(derive(seed, "batch", index), self.device)
        rows = torch.randint(len(self._labels), (batch_size, CHANNELS), generator=generator, device=self.device)
        samples, labels = self._stacked(self._pixels, self._labels, rows[positions])
        if self.dequantize:
            generator = seeded(derive(seed, "dequantize", index), self.device)
            samples = dequantized(samples, generator, batch_size, positions)
        return samples * self.scale + self.shift, labels

    def held_out(self, count: int) -> Labelled | None:
        """Samples made of the parts' held-out ones, the same in all runs; None if there are none."""
        samples, labels = self.parts.held_out(sys.maxsize) or (None, None)
        if samples is None or labels is None:
            return None
        return self._stacked(samples, labels, self._rows("held_out", count, len(labels)))

    def fixed(self, count: int) -> Labelled:
        """Samples that are the same in all runs and on all devices."""
        samples, labels = self._fixed(count)
        return samples * self.scale + self.shift, labels

    def training(self, count: int | None) -> Labelled:
        """The samples of `fixed`, not normalised. Raises ValueError for all of them, as there is no end to them."""
        if count is None:
            raise ValueError("this dataset is endless: say how many samples")
        samples, labels = self._fixed(count)
        return samples.cpu(), labels.cpu()

    def to(self, device: torch.device | str) -> Self:
        """The same data, resident on `device` with its parts, as uint8."""
        moved = super().to(device)
        moved.parts = self.parts.to(device)
        return moved

    def _fixed(self, count: int) -> tuple[Tensor, Tensor]:
        return self._stacked(self._pixels, self._labels, self._rows("fixed", count, len(self._labels)))

    def _rows(self, purpose: str, count: int, size: int) -> Tensor:
        """(count, 3) below `size`: the first of a sequence, drawn on the CPU, so that all devices see the same."""
        generator = seeded(derive(self.seed, purpose))
        return torch.randint(size, (count, CHANNELS), generator=generator).to(self.device)

    def _stacked(self, images: Tensor, labels: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Images (M, 1, H, W) and labels (M,), at rows (N, 3) -> images (N, 3, H, W) and labels (N,)."""
        a, b, c = labels[rows].unbind(1)
        stacked = images.index_select(0, rows.flatten()).view(len(rows), *self.shape)
        return stacked, (a * self.parts.num_classes + b) * self.parts.num_classes + c
