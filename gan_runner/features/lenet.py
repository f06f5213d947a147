"""LeNet-5 of MNIST's digits."""

import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork, load_weights, require_images

WANTED = "the state dict lenet.pth of github abdulfatir/gan-metrics-pytorch"
SIDE = 32


class LeNet(FeatureNetwork):
    """LeNet-5 with tanh, as others trained it on MNIST: numbers that compare with theirs.

    Structure, of one channel in [0, 1]: 5x5 convolutions of 6, 16 and 120 channels, max pooling by 2 after the first
    two, a linear layer to the 84 features and one to the 10 logits; tanh after all but the last.

    weights: the file, the state dict of github abdulfatir/gan-metrics-pytorch. sha256: the first digits of its SHA-256;
        None takes any.

    Source: LeCun et al. 1998, Gradient-Based Learning Applied to Document Recognition, doi:10.1109/5.726791.
    """

    name = "lenet"
    resize = "bilinear, antialiased, to 32x32"
    dimension = 84

    def __init__(self, *, weights: str | None, sha256: str | None):
        self.weights, self.expected = weights, sha256

    def prepare(self, data: Data, say: Callable[[str], None]) -> None:
        """Load the file. If the held-out samples have 10 classes, `accuracy` is how many of them are told right.

        Raises ValueError for points, for more than one channel, and for a file that is not there or not the one wanted.
        """
        require_images(data, self.name)
        if data.shape[0] != 1:
            raise ValueError(f"features=lenet: it looks at one channel, and this dataset has {data.shape[0]}")
        if self.weights is None:
            raise ValueError(f"features.weights is null: say features.weights=FILE, {WANTED}")
        path = Path(self.weights).expanduser()
        weights, self.sha256 = load_weights(path, self.expected)
        with torch.device("meta"):  # no weights are drawn: the global random numbers stay as they are
            self.network = LeNet5()
        try:
            self.network.load_state_dict(weights, assign=True)
        except RuntimeError as error:
            raise ValueError(f"features.weights={path}: not {WANTED}: {shorten(str(error), 120)}") from None
        self.device = data.device
        self.network.float().to(self.device).requires_grad_(False)
        samples, labels = data.held_out(sys.maxsize) or (None, None)
        if samples is not None and labels is not None and data.num_classes == 10:
            accuracy = float((self.look(data.to_pixels(samples))[1].argmax(1) == labels.cpu()).double().mean())
            self.accuracy = accuracy if accuracy > 0.5 else None  # others: by chance it would be 0.1

    def knows_classes_of(self, data: Data) -> bool:
        """Whether they are digits: more than half of the held-out samples are told right."""
        return self.accuracy is not None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, 1, H, W) on the network's device -> features (N, 84), logits (N, 10)."""
        return self.network(F.interpolate(images / 255, size=(SIDE, SIDE), mode="bilinear", antialias=True))


class LeNet5(nn.Module):
    """(N, 1, 32, 32) in [0, 1] -> features (N, 84), logits (N, 10). The parameters' names are those of the file."""

    def __init__(self) -> None:
        super().__init__()
        layers = {"c1": nn.Conv2d(1, 6, 5), "c3": nn.Conv2d(6, 16, 5), "c5": nn.Conv2d(16, 120, 5)}
        self.convnet = nn.ModuleDict(layers)
        self.fc = nn.ModuleDict({"f6": nn.Linear(120, 84), "f7": nn.Linear(84, 10)})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(self.convnet["c1"](images).tanh(), 2)
        x = F.max_pool2d(self.convnet["c3"](x).tanh(), 2)
        x = self.convnet["c5"](x).tanh().flatten(1)
        features = self.fc["f6"](x).tanh()
        return features, self.fc["f7"](features)
