"""The metrics of a dataset that brings none of its own."""

from gan_runner.datasets.data import Data
from gan_runner.metrics.metric import Metric


class Auto:
    """No metric itself: the metrics that suit the data, for a run that nobody chose any for.

    metrics: by name; of images with labels the Frechet distance and the spread over the classes, of other images the
    sliced Wasserstein distance, which wants no labels, of points the exact Wasserstein distance.
    """

    def __init__(
        self, *, frechet: Metric, classes: Metric, sliced_wasserstein: Metric, wasserstein: Metric, data: Data
    ) -> None:
        self.metrics: dict[str, Metric]
        if len(data.shape) != 3:
            self.metrics = {"wasserstein": wasserstein}
        elif data.num_classes > 1:
            self.metrics = {"frechet": frechet, "classes": classes}
        else:
            self.metrics = {"sliced_wasserstein": sliced_wasserstein}
