"""Distances to the held-out split beside those to the training split, to which a generator that memorises is nearer."""

from typing import Any

from gan_runner.datasets.data import Data
from gan_runner.datasets.splits import HeldOut, Rest
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.floor import FEWEST
from gan_runner.metrics.metric import EvaluationView, Metric
from gan_runner.metrics.real_features import RealFeatures, real_side


class BothSplits:
    """The distances of one set of generated samples to as many samples of either split.

    As many, since a distance depends on how many samples it is of. There is nothing to compare of endless data, nor
    where less than `FEWEST` samples are held out.
    """

    def __init__(self, data: Data, network: FeatureNetwork | None):
        self.data, self.network = data, network
        unseen = None if data.size is None else data.unseen(None)
        self.held_out = HeldOut(data) if unseen is not None and len(unseen) >= FEWEST else None

    def record(self, metric: Metric, view: EvaluationView) -> dict[str, Any]:
        """What evaluations.jsonl has of it, {} if nothing: "held_out", with "values", "training" and both counts."""
        if self.held_out is None or not metric.distances:
            return {}
        counts = metric.counts(self.held_out)
        real = min(counts["real"] or 0, self.data.size or 0)
        if not real:
            return {}
        of_held_out = self.measure(metric, view, self.held_out)
        of_training = self.measure(metric, view, Rest(self.data, 0, real))
        return {"held_out": {"values": of_held_out, "training": of_training, **counts}}

    def measure(self, metric: Metric, view: EvaluationView, data: Data) -> dict[str, float]:
        """The distances of the view's samples to the training samples of `data`."""
        features = RealFeatures(data, self.network) if self.network and metric.needs_features(self.data) else None
        found = metric(view.first(len(view.generated), **real_side(data, features, view.before_batch)))
        return {key: found[key] for key in metric.distances}
