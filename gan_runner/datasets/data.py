"""What every dataset function returns: real samples, drawn in batches that depend on (seed, index) and nothing else."""

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

import torch
from torch import Tensor

from gan_runner.datasets.on_disk import OnDisk
from gan_runner.torch_utils.randomness import derive

Normalization = Literal["symmetric", "unit", "standard"]
OutputActivation = Literal["tanh", "sigmoid", "linear"]
Labelled = tuple[Tensor, Tensor | None]

WHOLE = slice(None)  # all positions of a batch
CACHED_ORDERS = 32  # permutations kept, if no more are asked for
CHUNK = 4096  # samples that one step of a pass over the whole data converts at a time


def seeded(seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded."""
    return torch.Generator(device).manual_seed(seed)


class Data(ABC):
    """Real samples, images or points, finite (`Samples`) or endless (`Endless`).

    Samples are float32 on `device`: images (N, C, H, W) as normalised for the generator, points (N, D) as they are.
    Labels are int64 (N,), or None.
    """

    shape: tuple[int, ...]
    """The shape of one sample: (C, H, W) or (D,)."""
    num_classes: int
    """0 = no labels."""
    size: int | None
    """Training samples; None = endless."""
    seed: int
    """`dataset.seed`, which chose the data; the training batches have the run's seed instead."""
    output_activation: OutputActivation
    """What a generator's last layer should be, unless its preset says otherwise, to reach all values."""
    limits: tuple[float, float] | None = None
    """Points only: low and high end of every axis of a scatter plot, the same for a whole run."""
    centres: Tensor | None = None
    """Mixtures only: the modes' means (M, D); a sample's label is its row."""
    sd: float | None = None
    """Mixtures only: the standard deviation of every mode, along each axis."""
    device: torch.device = torch.device("cpu")
    scale: Tensor | None = None
    """Images only: (C, 1, 1); a pixel of 0 to 255 is normalised to pixel * scale + shift."""
    shift: Tensor | None = None
    """Images only: (C, 1, 1)."""
    parts: "Data | None" = None
    """Stacked images only: the data whose images are the channels; a sample's label has theirs as its digits."""

    notes: tuple[str, ...] = ()
    """Lines for the log: what was done to the samples, or left out."""

    cached_orders: int = CACHED_ORDERS
    """Finite data only: permutations kept."""

    def keep_orders(self, count: int) -> None:
        """Keep so many permutations at least: as many seeds can draw from the same data in turn."""
        self.cached_orders = max(self.cached_orders, count)

    @abstractmethod
    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        """Training batch number `index`: a pure function of its arguments, without a host sync.

        Of several processes that share a batch each asks for its own `positions` in it.
        """

    @abstractmethod
    def held_out(self, count: int) -> Labelled | None:
        """The first `count` samples that training never sees, or all if there are fewer; None if there are none."""

    @abstractmethod
    def fixed(self, count: int) -> Labelled:
        """Real samples for the picture beside the generated ones: at most `count`, the same in all runs."""

    @abstractmethod
    def training(self, count: int | None) -> Labelled:
        """Training samples as they are stored, images uint8 and points float32, on the CPU, unflipped: for metrics.

        The first `count` of the order of `fixed`, or all there are if there are fewer; None = all, in any order.
        """

    def unseen(self, count: int | None) -> Tensor | None:
        """The samples of `unseen_with_labels`; None if there are none."""
        found = self.unseen_with_labels(count)
        return None if found is None else found[0]

    def unseen_with_labels(self, count: int | None) -> Labelled | None:
        """Held-out samples as they are stored, as `training` returns its own; None if there are none.

        `count` of an order that is the same in all runs, or all there are if there are fewer; None = all, in any order.
        """
        if count is None and self.size is None:
            raise ValueError("this dataset is endless: say how many samples")
        found = self.held_out(sys.maxsize if count is None else count)
        if found is None:
            return None
        samples, labels = found
        pixels = (self.to_pixels(samples) if samples.dim() == 4 else samples).cpu()
        return pixels, None if labels is None else labels.cpu()

    def to(self, device: torch.device | str) -> Self:
        """The same data, resident on `device`; what was left in a file is read."""
        moved = copy.copy(self)
        moved.device = torch.device(device)
        for name, value in vars(self).items():
            if isinstance(value, Tensor | OnDisk):
                setattr(moved, name, value.to(device))
        return moved

    def close(self) -> None:  # noqa: B027 -- most have nothing to end
        """End whatever fetches batches ahead; the next batch would start it anew."""

    def to_pixels(self, samples: Tensor) -> Tensor:
        """The inverse of the normalization, clamped: (N, C, H, W) float to uint8; exact for what was not dequantized.

        NaN becomes 0. Raises ValueError for points.
        """
        return self._levels(samples).round().clamp(0, 255).to(torch.uint8)

    def to_unit(self, samples: Tensor) -> Tensor:
        """The same in [0, 1], float32, without rounding to the 256 levels of a pixel."""
        return (self._levels(samples) / 255).clamp(0, 1)

    def from_unit(self, samples: Tensor) -> Tensor:
        """The inverse: images in [0, 1], normalised as for training, (N, C, H, W) -> the same; points as they are."""
        return samples if self.scale is None else self._normalised(255 * samples)

    def _normalised(self, samples: Tensor) -> Tensor:
        """Pixels of 0 to 255 as training wants them; points as they are."""
        return samples if self.scale is None or self.shift is None else samples * self.scale + self.shift

    def _levels(self, samples: Tensor) -> Tensor:
        """Pixels as float, 0 to 255 and what is beyond."""
        if self.scale is None or self.shift is None:
            raise ValueError(f"samples of shape {self.shape} are points and have no pixels")
        return ((samples.float() - self.shift) / self.scale).nan_to_num(0)

    def record(self) -> dict[str, Any]:
        """What a checkpoint keeps of the data, for `Recorded`: plain values and tensors on the CPU."""
        names = (
            "shape",
            "num_classes",
            "size",
            "seed",
            "output_activation",
            "limits",
            "centres",
            "sd",
            "scale",
            "shift",
        )
        values = {name: getattr(self, name) for name in names}
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}


class Samples(Data):
    """Finite data: uint8 images (N, C, H, W), or float32 points (N, D), with labels or without.

    They lie in memory, or in files until `to` reads them.

    The training batches cut the endless concatenation of the epochs' permutations: every sample is seen equally
    often, no batch is ragged, and a batch may lie across the border of two epochs.

    normalization, of images: `symmetric` [-1, 1], `unit` [0, 1], `standard` zero mean and unit standard deviation
        per channel over the training samples.
    flip: mirror each image of a training batch left to right with probability 1/2.
    dequantize: spread each pixel of a training batch uniformly over its grey level (see `dequantized`).

    Raises ValueError if dtype, shape or number of samples and labels do not fit together.
    """

    size: int

    def __init__(
        self,
        samples: Tensor | OnDisk,
        labels: Tensor | None = None,
        *,
        seed: int,
        held_out: Tensor | OnDisk | None = None,
        held_out_labels: Tensor | None = None,
        num_classes: int | None = None,
        normalization: Normalization = "symmetric",
        flip: bool = False,
        dequantize: bool = False,
        centres: Tensor | None = None,
        sd: float | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        if (samples.dim(), samples.dtype) not in [(4, torch.uint8), (2, torch.float32)] or not len(samples):
            found = f"{str(samples.dtype).removeprefix('torch.')} {tuple(samples.shape)}"
            raise ValueError(f"samples are uint8 images (N, C, H, W) or float32 points (N, D), not {found}")
        for part, its_labels in [(samples, labels), (held_out, held_out_labels)]:
            if its_labels is not None and (part is None or its_labels.shape != part.shape[:1]):
                raise ValueError(f"labels are one number for each sample, not {tuple(its_labels.shape)}")
        if held_out is not None and (held_out.shape[1:] != samples.shape[1:] or held_out.dtype != samples.dtype):
            raise ValueError(f"held-out samples {tuple(held_out.shape)} are not as training's {tuple(samples.shape)}")

        for key, is_wanted in (("flip", flip), ("dequantize", dequantize)):
            if is_wanted and samples.dim() != 4:
                raise ValueError(f"dataset.{key} is for images, and the samples are points")

        self.shape, self.size, self.seed = tuple(samples.shape[1:]), len(samples), seed
        if num_classes is None:
            num_classes = 0 if labels is None else int(labels.max()) + 1
        self.num_classes = num_classes
        self.flip, self.dequantize, self.centres, self.sd = flip, dequantize, centres, sd
        self.notes = tuple(notes)
        self._samples, self._labels = samples, labels
        self._held_out, self._held_out_labels = held_out, held_out_labels
        self._orders: dict[tuple[int, int], Tensor] = {}
        if samples.dim() == 4:
            self.scale, self.shift, self.output_activation = _affine(samples, normalization)
        else:
            self.output_activation, self.limits = "linear", _limits(samples)

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        """Places [index * batch_size, (index + 1) * batch_size) of all epochs' permutations, one after another."""
        samples, labels = self.stored(index, batch_size, seed, positions)
        return self.finished(samples, index, batch_size, seed, positions), labels

    def stored(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        """The samples at these positions of a batch as they are stored, and where they are: images uint8, unflipped."""
        position, end = index * batch_size, (index + 1) * batch_size
        pieces = []
        while position < end:
            epoch, offset = divmod(position, self.size)
            pieces.append(self._order(seed, epoch)[offset : offset + end - position])
            position += len(pieces[-1])
        rows = (pieces[0] if len(pieces) == 1 else torch.cat(pieces))[positions]
        return self._samples.index_select(0, rows), None if self._labels is None else self._labels.index_select(0, rows)

    def finished(self, samples: Tensor, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Tensor:
        """What training sees of a batch's stored samples, on the device: flipped, dequantized, normalised there."""
        if self.flip:
            generator = seeded(derive(seed, "flip", index), self.device)
            mirrored = torch.rand(batch_size, 1, 1, 1, generator=generator, device=self.device)[positions] < 0.5
            samples = torch.where(mirrored, samples.flip(-1), samples)
        if self.dequantize:
            generator = seeded(derive(seed, "dequantize", index), self.device)
            samples = dequantized(samples, generator, batch_size, positions)
        return self._normalised(samples)

    def held_out(self, count: int) -> Labelled | None:
        """The first `count` held-out samples, in the order of the file or of the random split."""
        if self._held_out is None or not len(self._held_out):
            return None
        labels = self._held_out_labels
        samples = self._held_out[:count].to(self.device)
        return self._normalised(samples), None if labels is None else labels[:count].to(self.device)

    def fixed(self, count: int) -> Labelled:
        """The first `count` of a permutation of their own."""
        rows = self._fixed_rows(count).to(self._samples.device)
        labels = None if self._labels is None else self._labels[rows].to(self.device)
        return self._normalised(self._samples.index_select(0, rows).to(self.device)), labels

    def training(self, count: int | None) -> Labelled:
        """The samples of `fixed`, not normalised; all of them without a copy, where they are in memory."""
        labels = None if self._labels is None else self._labels.cpu()
        if count is None or count >= self.size:
            return self._samples.to("cpu"), labels
        rows = self._fixed_rows(count)
        samples = self._samples.index_select(0, rows.to(self._samples.device)).cpu()
        return samples, None if labels is None else labels[rows]

    def unseen_with_labels(self, count: int | None) -> Labelled | None:
        """The held-out samples in a random order, which that of a file need not be."""
        held_out, labels = self._held_out, self._held_out_labels
        labels = None if labels is None else labels.cpu()
        if held_out is None or not len(held_out):
            return None
        if count is None or count >= len(held_out):
            return held_out.to("cpu"), labels
        rows = torch.randperm(len(held_out), generator=seeded(derive(self.seed, "unseen")))[:count]
        samples = held_out.index_select(0, rows.to(held_out.device)).cpu()
        return samples, None if labels is None else labels[rows]

    @property
    def nbytes(self) -> int:
        """Bytes that the data take where they are resident, with labels and held-out samples."""
        parts = (self._samples, self._labels, self._held_out, self._held_out_labels)
        return sum(part.nbytes for part in parts if part is not None)

    @property
    def is_on_disk(self) -> bool:
        """Whether the samples are in files until they are read."""
        return isinstance(self._samples, OnDisk)

    @property
    def source(self) -> str:
        """Where the samples are, for people."""
        return self._samples.source if isinstance(self._samples, OnDisk) else "host memory"

    def _fixed_rows(self, count: int) -> Tensor:
        return torch.randperm(self.size, generator=seeded(derive(self.seed, "fixed")))[:count]

    def to(self, device: torch.device | str) -> Self:
        """The same data, resident on `device`: images as uint8, a quarter of their size when normalised."""
        moved = super().to(device)
        moved._orders = {}
        return moved

    def share_memory(self) -> None:
        """Have what is in memory shared with processes that get a copy of this."""
        for part in (self._samples, self._labels):
            if isinstance(part, Tensor):
                part.share_memory_()

    def _order(self, seed: int, epoch: int) -> Tensor:
        """The permutation of an epoch (N,), drawn on the CPU, so that all devices see the same samples."""
        if (seed, epoch) not in self._orders:
            order = torch.randperm(self.size, generator=seeded(derive(seed, "epoch", epoch)))
            if self.device.type == "cuda":  # a copy from pageable memory would wait for the device
                order = order.pin_memory().to(self.device, non_blocking=True)
            if len(self._orders) >= self.cached_orders:
                del self._orders[next(iter(self._orders))]
            self._orders[seed, epoch] = order.to(self.device)
        return self._orders[seed, epoch]


class Endless(Data):
    """A distribution of points: `draw(generator, count)` returns fresh samples (count, D) and labels (count,) or None.

    It draws on the generator's device.
    """

    size: None = None
    output_activation = "linear"

    def __init__(
        self,
        draw: Callable[[torch.Generator, int], Labelled],
        *,
        seed: int,
        num_classes: int = 0,
        centres: Tensor | None = None,
        sd: float | None = None,
    ) -> None:
        self.draw, self.seed, self.num_classes, self.centres, self.sd = draw, seed, num_classes, centres, sd
        example, _ = self.fixed(1000)
        self.shape, self.limits = tuple(example.shape[1:]), _limits(example)

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        """Fresh samples, from a generator seeded for this batch."""
        samples, labels = self.draw(seeded(derive(seed, "batch", index), self.device), batch_size)
        return samples[positions], None if labels is None else labels[positions]

    def held_out(self, count: int) -> Labelled:
        """Fresh samples that are the same in all runs."""
        return self.draw(seeded(derive(self.seed, "held_out"), self.device), count)

    def fixed(self, count: int) -> Labelled:
        """Fresh samples that are the same in all runs, and others than the held-out ones."""
        return self.draw(seeded(derive(self.seed, "fixed"), self.device), count)

    def training(self, count: int | None) -> Labelled:
        """The samples of `fixed`. Raises ValueError for all of them, as there is no end to them."""
        if count is None:
            raise ValueError("this dataset is endless: say how many samples")
        samples, labels = self.fixed(count)
        return samples.cpu(), None if labels is None else labels.cpu()


class Recorded(Data):
    """What a checkpoint knows of the data its networks were trained on: enough to draw and to show samples.

    Raises ValueError where samples are asked for: they are in the dataset.
    """

    def __init__(self, record: dict[str, Any]):
        vars(self).update(record)

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        raise ValueError("a checkpoint holds no real samples")

    def held_out(self, count: int) -> None:
        """None."""

    def fixed(self, count: int) -> Labelled:
        return self.batch(0, count, 0)

    def training(self, count: int | None) -> Labelled:
        return self.batch(0, 0, 0)


def dequantized(pixels: Tensor, generator: torch.Generator, batch_size: int, positions: slice = WHOLE) -> Tensor:
    """Pixels (N, C, H, W) of 0 to 255, each spread uniformly over its grey level: p -> U[p, p + 1) x 255 / 256.

    The range stays that of the pixels, [0, 255). Under the symmetric normalization that is p / 128 - 1 + U[0, 1 / 128),
    as in the code of Gulrajani et al. 2017, arXiv:1704.00028. Theis et al. 2015, arXiv:1511.01844, section 3.1.
    """
    shape = (batch_size, *pixels.shape[1:])
    noise = torch.rand(shape, generator=generator, device=pixels.device)[positions]
    return (pixels + noise) * (255 / 256)


def _affine(images: Tensor | OnDisk, normalization: Normalization) -> tuple[Tensor, Tensor, OutputActivation]:
    """(scale, shift), (C, 1, 1) each, of the normalization pixel * scale + shift, and the activation that it wants."""
    channels = images.shape[1]
    ones = torch.ones(channels, 1, 1)
    match normalization:
        case "symmetric":
            return ones * (2 / 255), -ones, "tanh"
        case "unit":
            return ones / 255, ones * 0, "sigmoid"
        case "standard":
            levels = torch.arange(256, dtype=torch.float64)
            # Exact, and without a float copy of the data: (C, 256) pixels of each grey level.
            counts = torch.zeros(channels, 256, dtype=torch.float64)
            for chunk in images.split(CHUNK):
                counts += torch.stack([chunk[:, c].flatten().bincount(minlength=256) for c in range(channels)])
            shares = counts / counts.sum(1, keepdim=True)
            mean = shares @ levels
            sd = (shares * (levels - mean[:, None]).square()).sum(1).sqrt()
            sd = torch.where(sd > 0, sd, 1)  # of a constant channel
            return (1 / sd).float().view(-1, 1, 1), (-mean / sd).float().view(-1, 1, 1), "linear"


def _limits(points: Tensor | OnDisk) -> tuple[float, float]:
    """The range of all coordinates, and half as much around it, to see the generated points that miss the data."""
    ranges = [chunk.aminmax() for chunk in points.split(CHUNK)]
    low, high = min(float(some.min) for some in ranges), max(float(some.max) for some in ranges)
    margin = (high - low) / 4 or 1.0
    return low - margin, high + margin
