"""A metric: numbers of generated samples beside real ones."""

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.metric import EvaluationView, Metric


class MeanGap(Metric):
    """gap: the Euclidean distance between the mean of the generated samples and that of the training samples."""

    distances = ("gap",)

    def __init__(self, *, samples: int, real_samples: int):
        self.higher_is_better, self.bounds = {"gap": False}, {"gap": (0, None)}
        self.samples, self.real_samples = samples, real_samples

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        generated = view.generated[: self.samples].double().mean(0)
        real = view.real(self.real_samples).double().mean(0)
        return {"gap": float((generated - real).norm())}
