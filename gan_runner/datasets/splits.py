"""Parts of a dataset in the place of its training split: what metrics compare with."""

from typing import Literal

import torch

from gan_runner.datasets.data import WHOLE, Data, Labelled, seeded
from gan_runner.torch_utils.randomness import derive

Split = Literal["training", "held_out"]
SHARED = (
    "shape", "num_classes", "size", "seed", "output_activation", "limits", "centres", "sd", "device", "scale", "shift",
    "parts",
)  # fmt: skip


class Part(Data):
    """A part of a dataset whose samples are asked for by `training`, for metrics alone."""

    def __init__(self, data: Data):
        vars(self).update({name: getattr(data, name) for name in SHARED})
        self.data = data

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        raise AssertionError("nothing is trained on it")

    def held_out(self, count: int) -> Labelled | None:
        raise AssertionError("metrics ask for `unseen`")

    def fixed(self, count: int) -> Labelled:
        return self.data.fixed(count)


class HeldOut(Part):
    """The held-out split in the place of the training split, and the reverse.

    Raises ValueError where nothing is held out.
    """

    def __init__(self, data: Data):
        super().__init__(data)
        found = data.unseen(1 if data.size is None else None)
        if found is None or not len(found):
            raise ValueError("--split held_out: nothing is held out of this dataset")
        self.size = None if data.size is None else len(found)

    def training(self, count: int | None) -> Labelled:
        found = self.data.unseen_with_labels(count)
        assert found is not None, "checked"
        return found

    def unseen_with_labels(self, count: int | None) -> Labelled:
        return self.data.training(count)


class Rest(Part):
    """Some training samples, in the place of all: those that remain when the first `taken` are set apart."""

    def __init__(self, data: Data, taken: int, size: int):
        super().__init__(data)
        self.taken, self.size = taken, size

    def training(self, count: int | None) -> Labelled:
        return self._part(slice(self.taken, None), count)

    def unseen_with_labels(self, count: int | None) -> Labelled:
        """Those that were set apart."""
        return self._part(slice(self.taken), count)

    def _part(self, part: slice, count: int | None) -> Labelled:
        """The first `count` of a part of all taken + size, shuffled, as a file may have its samples sorted."""
        assert self.size is not None, "a part has one"
        samples, labels = self.data.training(self.taken + self.size)
        rows = torch.randperm(len(samples), generator=seeded(derive(self.seed, "rest")))[part][:count]
        return samples[rows], None if labels is None else labels[rows]
