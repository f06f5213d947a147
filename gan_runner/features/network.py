"""The networks that image metrics look through."""

import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from gan_runner.datasets.data import Data

BATCH = 500  # images that pass through a feature network at once


class FeatureNetwork(ABC):
    """uint8 images -> features, and logits of the classes that the network knows.

    The keyword arguments of a subclass are its keys in the config (`features.KEY`).
    """

    name: str
    """The name that the config has for it."""
    resize: str
    """What happens to images of another size, for the record: such as 'bilinear, antialiased, to 32x32', or 'none'."""
    dimension: int
    """Features of an image."""
    sha256: str
    """The SHA-256 of the weights; known after `prepare`."""
    device: torch.device = torch.device("cpu")
    """Where it looks: the dataset's device, after `prepare`."""
    has_logits: bool = True
    """Whether it tells classes at all."""
    accuracy: float | None = None
    """The accuracy on held-out samples, where the network knows the dataset's classes."""

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
    def look(self, images: Tensor, before_batch: Callable[[], object] = lambda: None) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) anywhere -> features (N, F), logits (N, K), float32, on the CPU.

        What `before_batch` raises ends it, between two batches.
        """
        parts = []
        with torch.autocast(self.device.type, enabled=False):
            for some in images.split(BATCH):
                before_batch()
                parts.append(self.forward(some.to(self.device)))
        features, logits = zip(*parts, strict=True)
        return torch.cat(features).cpu(), torch.cat(logits).cpu()


def require_images(data: Data, name: str) -> None:
    """Raises ValueError for points."""
    if len(data.shape) != 3:
        raise ValueError(f"features={name}: it looks at images, and this dataset has points")


def load_weights(path: Path, sha256: str | None) -> tuple[dict[str, Tensor], str]:
    """The state dict that a file holds, on the CPU, and the file's SHA-256; `sha256` is how that must begin.

    Nothing of the file is run. Raises ValueError if it is not there, is another than expected, or holds no state dict.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"features.weights={path}: {error.strerror}") from None
    digest = hashlib.sha256(content).hexdigest()
    if sha256 is not None and not digest.startswith(sha256):
        raise ValueError(
            f"features.weights={path}: truncated, or another file: its SHA-256 begins with {digest[: len(sha256)]}, "
            f"not with features.sha256={sha256}"
        )
    try:
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception:  # whatever the bytes happen to mean to the reader
        weights = None
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"features.weights={path}: truncated, or not a file of weights alone")
    return weights, digest
