"""Features of real images, which are the same at every evaluation."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.feature_space import moments
from gan_runner.metrics.metric import Moments
from gan_runner.storage.cache import cached, content_key

KEPT = 10_000  # of so many training samples the cache keeps the features one by one; of more, their moments alone


class RealFeatures:
    """Features of training samples, and their labels: computed once for this data, network and count, then cached."""

    def __init__(self, data: Data, network: FeatureNetwork):
        self.data, self.network = data, network
        self.memory: dict[tuple[str, int | None], dict[str, Any]] = {}

    def features(self, before_batch: Callable[[], object], count: int | None) -> Tensor:
        """(count, F) float32."""
        return self.recall("features", count, before_batch, lambda features: {"features": features})["features"]

    def moments(self, before_batch: Callable[[], object], count: int | None) -> Moments:
        """Mean (F,) and covariance (F, F), float64."""

        def convert(features: Tensor) -> dict[str, Tensor]:
            return dict(zip(("mean", "covariance"), moments(features, self.network.device), strict=True))

        found = self.recall("moments", count, before_batch, convert)
        return found["mean"], found["covariance"]

    def labels(self, count: int | None) -> Tensor | None:
        """(count,), of the same samples; None of data without labels."""
        if ("labels", count) not in self.memory:
            self.memory["labels", count] = {"labels": self.data.training(count)[1]}
        return self.memory["labels", count]["labels"]

    def recall(
        self,
        kind: str,
        count: int | None,
        before_batch: Callable[[], object],
        convert: Callable[[Tensor], dict[str, Any]],
    ) -> dict[str, Any]:
        """What `convert` makes of the features, from memory, or from a file where it was made before."""
        if (kind, count) not in self.memory:
            images, network = self.data.training(count)[0], self.network
            name = f"{kind}-{content_key(images, network.name, network.sha256, network.resize)[:32]}.pt"

            def compute() -> dict[str, Any]:
                return convert(network.look(images, before_batch)[0])

            is_large = kind == "features" and len(images) > KEPT
            self.memory[kind, count] = compute() if is_large else cached(name, compute)
        return self.memory[kind, count]


def real_side(data: Data, features: RealFeatures | None, before_batch: Callable[[], object]) -> dict[str, Any]:
    """The fields of an EvaluationView that say what is compared with; `features` are None where no metric needs any."""
    return {
        "data": data,
        "network": features.network if features else None,
        "features_of_real": partial(features.features, before_batch) if features else no_network,
        "moments_of_real": partial(features.moments, before_batch) if features else no_network,
        "labels_of_real": features.labels if features else no_network,
        "before_batch": before_batch,
    }


def no_network(count: int | None) -> Any:
    """Stand in for the features of a metric that needs none."""
    raise AssertionError("this metric has no needs_features")
