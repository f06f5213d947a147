"""The Inception network of the published Fréchet, kernel and Inception distances."""

import io
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork, load_weights, require_images
from gan_runner.storage.cache import cache_directory

AT_ONCE = 50  # images: at 299x299 the first layers need 15 MB for each


class Inception(FeatureNetwork):
    """Inception v3 of ImageNet, as converted from TensorFlow's graph of 2015-12-05: the one of published numbers.

    Features: the 2,048 of the last pooling. Logits: 1,008, without the last layer's bias, as the Inception score's
    code has them. Grey images are repeated to three channels.

    weights: a file; None: downloaded once (91 MB) into the user's cache directory. sha256: the first digits of its
        SHA-256; None takes any.

    Source: Szegedy et al. 2016, arXiv:1512.00567; network and weights of torch_fidelity (Obukhov et al. 2020).
    """

    name = "inception"
    resize = "bilinear as in TensorFlow 1, to 299x299"
    dimension = 2048

    def __init__(self, *, weights: str | None, sha256: str | None):
        self.weights, self.expected = weights, sha256

    def prepare(self, data: Data, say: Callable[[str], None]) -> None:
        """Load the file, or download it first.

        Raises ValueError for points, for channels other than 1 or 3, and for a file that is not there, cannot be
        downloaded, or is not the one wanted.
        """
        require_images(data, self.name)
        if data.shape[0] not in (1, 3):
            raise ValueError(f"features=inception: it looks at 1 or 3 channels, and this dataset has {data.shape[0]}")
        from torch_fidelity.feature_extractor_inceptionv3 import (  # takes 1.3 s
            URL_INCEPTION_V3,
            FeatureExtractorInceptionV3,
        )

        if self.weights is None:
            path = cache_directory() / Path(URL_INCEPTION_V3).name
            if not path.is_file():
                self._download(URL_INCEPTION_V3, path, say)
        else:
            path = Path(self.weights).expanduser()
        weights, self.sha256 = load_weights(path, self.expected)
        # The extractor unpickles whatever its file says, so it gets one that was written here.
        copy = io.BytesIO()
        torch.save(weights, copy)
        copy.seek(0)
        try:
            with torch.random.fork_rng(devices=[]):  # it draws weights before it loads them
                self.network = FeatureExtractorInceptionV3(
                    "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path=copy
                )
        except RuntimeError as error:
            reason = shorten(str(error), 120)
            raise ValueError(f"features.weights={path}: not a copy of {URL_INCEPTION_V3}: {reason}") from None
        self.device = data.device
        self.network.to(self.device)

    def knows_classes_of(self, data: Data) -> bool:
        """Never: its classes are ImageNet's."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, C, H, W) on the network's device -> features (N, 2048), logits (N, 1008)."""
        parts = [self.network(some.expand(-1, 3, -1, -1)) for some in images.split(AT_ONCE)]
        features, logits = zip(*parts, strict=True)
        return torch.cat(features), torch.cat(logits)

    def _download(self, url: str, path: Path, say: Callable[[str], None]) -> None:
        say(f"downloading the weights of Inception (91 MB, once) to {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=self.expected, progress=False)
        except (OSError, HTTPException, RuntimeError) as error:  # no network, no space, half a file, another file
            raise ValueError(
                f"features=inception: cannot download to {path}: {error}. "
                f"Without a network: features.weights=FILE, a copy of {url}"
            ) from None
