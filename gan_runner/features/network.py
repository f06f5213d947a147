"""The networks that image metrics look through."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from gan_runner.datasets.data import Data

BATCH = 500  # images that pass through a feature network at once


class FeatureNetwork(ABC):
    """uint8 images -> features, and logits of the classes that the network knows.

    The keyword arguments of a subclass are its keys in the config (`features.KEY`).
    """

    name: str
    """As the config calls it."""
    resize: str
    """What happens to images of another size, for the record: such as 'bilinear, antialiased, to 32x32', or 'none'."""
    dimension: int
    """Features of an image."""
    sha256: str
    """Of the weights; known after `prepare`."""
    accuracy: float | None = None
    """On held-out samples of the dataset, where the network knows its classes."""

    @abstractmethod
    def prepare(self, data: Data, say: Callable[[str], None]) -> None:
        """Make the network ready for a dataset, on the dataset's device; `say` tells people what takes time.

        Raises ValueError where the network cannot look at such data, and where weights are missing, truncated or others
        than they should be. Called once, before training starts.
        """

    @abstractmethod
    def knows_classes_of(self, data: Data) -> bool:
        """Whether its logits are those of the dataset's own classes, in their order."""

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) on the network's device -> features (N, F), logits (N, K), float32."""

    @torch.no_grad()
    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) anywhere -> features (N, F), logits (N, K), float32, on the CPU."""
        parts = [self.forward(some) for some in images.split(BATCH)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features).cpu(), torch.cat(logits).cpu()
