"""Where the random numbers of an augmentation come from."""

from typing import Annotated, Protocol

from annotated_types import Ge, Le
from torch import Tensor

Fraction = Annotated[float, Ge(0), Le(1)]


class Randomness(Protocol):
    """Where the random numbers come from: tensors of the given shape on the device of the images."""

    def uniform(self, *shape: int) -> Tensor: ...

    def normal(self, *shape: int) -> Tensor: ...
