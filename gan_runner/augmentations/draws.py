"""Where the random numbers of an augmentation come from."""

from typing import Protocol

from torch import Tensor


class Randomness(Protocol):
    """Where the random numbers come from: tensors of the given shape on the device of the images."""

    def uniform(self, *shape: int) -> Tensor: ...

    def normal(self, *shape: int) -> Tensor: ...
