"""Floors: a distance between two disjoint sets of real samples, which is what a perfect generator would have."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gan_runner.datasets.data import Data, Labelled
from gan_runner.datasets.splits import HeldOut, Rest
from gan_runner.metrics.metric import EvaluationView, Metric
from gan_runner.metrics.real_features import RealFeatures, real_side
from gan_runner.storage.cache import cached, content_key
from gan_runner.storage.run_directory import versions

FEWEST = 50  # held-out samples that say more than a part of the many that were trained on


@dataclass(frozen=True, kw_only=True)
class Floor:
    """The distances of one metric among real samples."""

    values: dict[str, float]
    generated: int  # real samples in the place of the generated ones
    real: int  # that they are compared with
    split: str  # where both come from
    data: Data  # whose training samples they are compared with
    features: RealFeatures | None  # of those

    def record(self) -> dict[str, Any]:
        """What evaluations.jsonl has of it."""
        return {"values": self.values, "generated": self.generated, "real": self.real, "split": self.split}


class Floors:
    """The floors of an evaluator's metrics: each is computed once for the data, and cached.

    Held-out samples are compared with training samples, as a generator that has learnt the distribution, and not the
    training samples by heart, would do no better. Where nothing is held out, or less than `FEWEST`, these are two parts
    of the training split. Of an endless dataset both are fresh.
    """

    def __init__(self, data: Data, features: RealFeatures | None):
        self.data, self.features = data, features
        self.memory: dict[str, Floor | None] = {}

    def record(self, name: str, metric: Metric, view: EvaluationView) -> dict[str, Any]:
        """What evaluations.jsonl has of a metric's floor, {} if there is none; `name` is the metric's.

        Where the floor is one of fewer samples than the metric's, the metric is given of as few generated samples too.
        """
        if name not in self.memory:
            self.memory[name] = self.compute(metric, view.before_batch)
        floor = self.memory[name]
        if floor is None:
            return {}
        record: dict[str, Any] = {"floor": floor.record()}
        if metric.counts(self.data) != {"generated": floor.generated, "real": floor.real}:
            values = metric(view.first(floor.generated, **real_side(floor.data, floor.features, view.before_batch)))
            record["at_floor_counts"] = {"values": {key: values[key] for key in floor.values}}
        return record

    def compute(self, metric: Metric, before_batch: Callable[[], object]) -> Floor | None:
        """The floor of a metric; None where it has no distances, or of either kind no labels or no two samples."""
        wanted = metric.counts(self.data)
        parts = disjoint(self.data, wanted["generated"] or 0, wanted["real"] or 0) if metric.distances else None
        if parts is None:
            return None
        (samples, labels), data, split = parts
        if metric.is_by_class and labels is None:
            return None
        features = self.features if metric.needs_features(self.data) else None
        if features and data is not self.data:
            features = RealFeatures(data, features.network)
        generated, real = len(samples), metric.counts(data)["real"] or 0
        if metric.is_paired:
            generated = real = min(generated, real)

        def measure() -> dict[str, Any]:
            side = real_side(data, features, before_batch)
            asked_for = labels if metric.is_by_class else None
            return metric(EvaluationView(**side, seed=data.seed, generated=samples, labels=asked_for))

        name = cache_name(metric, (samples, labels), data.training(real), features)
        found = cached(name, measure) if name else measure()
        values = {key: float(value) for key, value in found.items() if key in metric.distances}
        return Floor(values=values, generated=generated, real=real, split=split, data=data, features=features)


def disjoint(data: Data, generated: int, real: int) -> tuple[Labelled, Data, str] | None:
    """Real samples in the place of `generated` ones, data whose training samples are others, and where both come from.

    None where there are less than two of a kind.
    """
    held_out, training = ("training", "held-out") if isinstance(data, HeldOut) else ("held-out", "training")
    found, others, split = data.unseen_with_labels(generated), data, f"{held_out} against {training}"
    if found is None or len(found[0]) < min(FEWEST, generated):
        taken = generated if data.size is None else min(generated, data.size // 2)
        others = Rest(data, taken, real if data.size is None else data.size - taken)
        found, split = others.unseen_with_labels(None), f"two parts of {training}"
    if min(len(found[0]), others.size or 2) < 2:
        return None
    return found, others, split if data.size else "fresh"


def cache_name(metric: Metric, some: Labelled, others: Labelled, features: RealFeatures | None) -> str | None:
    """The file of a floor; None for a metric of another package, which may change under the same versions of ours."""
    if not type(metric).__module__.startswith("gan_runner."):
        return None
    network = features.network if features else None
    seen_by = (network.name, network.sha256, network.resize) if network else ()
    keys = json.dumps([type(metric).__qualname__, vars(metric), versions()], sort_keys=True)
    labels = [labels for _, labels in (some, others) if metric.is_by_class and labels is not None]
    return f"floor-{content_key(some[0], others[0], keys, *seen_by, *labels)[:32]}.pt"
