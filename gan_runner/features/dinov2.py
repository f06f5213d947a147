"""DINOv2, a network that learned from images without labels."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork, load_weights, require_images

SIDE = 224
AT_ONCE = 25  # images
LETTERS = {"small": "s", "base": "b", "large": "l", "giant": "g"}
MEAN, SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's channels


class Dinov2(FeatureNetwork):
    """A vision transformer with patches of 14 x 14, without registers, as DINOv2 trained it.

    Features: the class token after the last normalization, 384 (small), 768 (base), 1,024 (large) or 1,536 (giant). It
    knows no classes and has no logits. Images are scaled to 224 x 224 by antialiased bicubic interpolation, as Stein et
    al. do; grey ones are repeated to three channels.

    weights: the file, dinov2_vit{s,b,l,g}14_pretrain.pth of github facebookresearch/dinov2. sha256: the first digits of
        its SHA-256; None takes any. size: which of the four it is.

    Source: Oquab et al. 2023, arXiv:2304.07193; for generated images Stein et al. 2023, arXiv:2306.04675. The structure
    is timm's.
    """

    name = "dinov2"
    resize = "bicubic, antialiased, to 224x224"
    has_logits = False

    def __init__(self, *, weights: str | None, sha256: str | None, size: Literal["small", "base", "large", "giant"]):
        self.weights, self.expected, self.size = weights, sha256, size

    def prepare(self, data: Data, say: Callable[[str], None]) -> None:
        """Load the file.

        Raises ValueError for points, for channels other than 1 or 3, without timm, and for a file that is not there or
        not the one wanted.
        """
        wanted = f"dinov2_vit{LETTERS[self.size]}14_pretrain.pth of github facebookresearch/dinov2"
        require_images(data, self.name)
        if data.shape[0] not in (1, 3):
            raise ValueError(f"features=dinov2: it looks at 1 or 3 channels, and this dataset has {data.shape[0]}")
        if self.weights is None:
            raise ValueError(f"features.weights is null: say features.weights=FILE, {wanted}")
        if find_spec("timm") is None:
            raise ValueError("features=dinov2: timm is not installed: pip install 'gan-runner[dinov2]'")
        import timm
        from timm.models.vision_transformer import checkpoint_filter_fn

        path = Path(self.weights).expanduser()
        weights, self.sha256 = load_weights(path, self.expected)
        with torch.device("meta"):  # no weights are drawn: the global random numbers stay as they are
            self.network = timm.create_model(f"vit_{self.size}_patch14_dinov2", num_classes=0, img_size=SIDE)
        try:
            self.network.load_state_dict(checkpoint_filter_fn(weights, self.network), assign=True)
        except (RuntimeError, KeyError) as error:
            reason = shorten(str(error), 120)
            raise ValueError(f"features.weights={path}: not {wanted} (features.size={self.size}): {reason}") from None
        self.device, self.dimension = data.device, self.network.num_features
        self.network.float().to(self.device).eval().requires_grad_(False)

    def knows_classes_of(self, data: Data) -> bool:
        """Never: it learned no labels."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) on the network's device -> features (N, F), logits (N, 0)."""
        features = torch.cat([self.network(standardised(some)) for some in images.split(AT_ONCE)])
        return features, features.new_zeros(len(images), 0)


def standardised(images: Tensor) -> Tensor:
    """uint8 (N, 1 or 3, H, W) -> (N, 3, 224, 224), by the mean and standard deviation of ImageNet."""
    scaled = F.interpolate(images / 255, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
    mean, sd = (scaled.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, SD))
    return (scaled.expand(-1, 3, -1, -1) - mean) / sd
