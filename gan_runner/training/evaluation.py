"""Evaluation: what the metrics say of a generator, and how they came to say it."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gan_runner.config.errors import ConfigError, suggest
from gan_runner.datasets.data import Data
from gan_runner.datasets.splits import HeldOut, Split
from gan_runner.features.network import FeatureNetwork
from gan_runner.games.game import Game
from gan_runner.metrics.both_splits import BothSplits
from gan_runner.metrics.floor import Floors
from gan_runner.metrics.metric import EvaluationView, Metric
from gan_runner.metrics.real_features import RealFeatures, real_side
from gan_runner.storage.run_directory import versions
from gan_runner.torch_utils.randomness import fixed_randomness

BATCH = 500  # samples generated at once


class BrokenOff(Exception):  # noqa: N818 -- no error: what was to be evaluated is as it was
    """An evaluation was asked to stop, and left off between two batches or two metrics."""


class Objective(NamedTuple):
    """The value that runs are ranked by."""

    tag: str
    """The tag in metrics.jsonl: metric/NAME/VALUE."""
    higher_is_better: bool

    def is_better(self, value: float, than: float | None) -> bool:
        """Whether a value beats another, or the first stands against none; NaN beats nothing."""
        if math.isnan(value):
            return False
        return than is None or (value > than if self.higher_is_better else value < than)


class Generation:
    """Samples of the shown network for an evaluation, in batches, each of which any process of a run can make."""

    def __init__(self, game: Game, count: int, seed: int):
        self.game = game
        self.labels = requested_labels(game.data, count) if game.is_conditional else None
        """The classes that are asked for, (count,), as often as in the data; None of an unconditional run."""
        latents = game.draw_latents(fixed_randomness(seed, "evaluation", game.randomness.device), count)
        labels = torch.zeros(count, dtype=torch.long) if self.labels is None else self.labels
        self.parts = list(zip(latents.split(BATCH), labels.to(latents.device).split(BATCH), strict=True))

    @torch.no_grad()
    def batch(self, number: int) -> Tensor:
        """One of the batches, (at most BATCH, ...) on the CPU; images are uint8."""
        samples = self.game.sample(*self.parts[number])
        return (self.game.data.to_pixels(samples) if samples.dim() == 4 else samples).cpu()


def one_by_one(generation: Generation, before_batch: Callable[[], object] = lambda: None) -> list[Tensor]:
    """All batches, made by this process."""
    found = []
    for number in range(len(generation.parts)):
        before_batch()
        found.append(generation.batch(number))
    return found


@dataclass(kw_only=True)
class Evaluator:
    """The metrics of one run, and the network that they look through."""

    metrics: dict[str, Metric]
    network: FeatureNetwork | None  # None where no metric needs one
    objective: Objective | None  # None where there is no metric
    seed: int
    split: Split = "training"  # the real samples that it compares with
    is_of_both: bool = False  # whether distances to the held-out split stand beside them
    make_batches: Callable[[Generation, Callable[[], object]], list[Tensor]] = one_by_one

    @property
    def samples(self) -> int:
        """How many samples an evaluation generates."""
        return max(metric.samples for metric in self.metrics.values())

    def prepare(self, data: Data, say: Callable[[str], None]) -> None:
        """Have the feature network ready, and check that all goes together. Raises ConfigError; warns by `say`."""
        try:
            compared = HeldOut(data) if self.split == "held_out" else data
            for metric in self.metrics.values():
                metric.check(compared, None)  # before a network learns the data
            if self.network:
                self.network.prepare(data, say)
            for metric in self.metrics.values():
                for warning in metric.check(compared, self.network):
                    say(f"warning: {warning}")
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.data = compared
        self.real = RealFeatures(compared, self.network) if self.network else None
        self.floors = Floors(compared, self.real)
        self.both = BothSplits(data, self.network) if self.is_of_both and self.split == "training" else None

    def evaluate(self, game: Game, should_stop: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        """A record of evaluations.jsonl: {"metrics": {NAME: {"values": ..., ...}}, how it was computed ...}.

        Nothing of the game changes: the samples are drawn from numbers of their own. Raises BrokenOff soon after
        `should_stop` says so.
        """

        def go_on() -> None:
            if should_stop():
                raise BrokenOff

        start = time.perf_counter()
        generation = Generation(game, self.samples, self.seed)
        generated = torch.cat(self.make_batches(generation, go_on))
        side = real_side(self.data, self.real, go_on)
        view = EvaluationView(**side, seed=self.seed, generated=generated, labels=generation.labels)
        metrics = {}
        for name, metric in self.metrics.items():
            go_on()
            metrics[name] = {
                "values": metric(view),
                "higher_is_better": dict(metric.higher_is_better),
                "bounds": {key: list(ends) for key, ends in metric.bounds.items()},
                **metric.counts(self.data),
                "split": self.split,
                **self.floors.record(name, metric, view),
                **(self.both.record(metric, view) if self.both else {}),
            }
        return {
            "metrics": metrics,
            "weights": "moving average" if game.moving_average else "raw",
            "seed": self.seed,
            "features": record_of_network(self.network) if self.network else None,
            "versions": versions(),
            "seconds": time.perf_counter() - start,
        }


def tags(record: dict[str, Any]) -> dict[str, float]:
    """The values of a record as metrics.jsonl and TensorBoard have them: metric/NAME/VALUE."""
    return {
        f"metric/{name}/{key}": value
        for name, metric in record["metrics"].items()
        for key, value in metric["values"].items()
    }


def floors(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The floors of a record by tag, and the values that compare with them, of as many samples: for summary.json."""
    found = {}
    for name, metric in record["metrics"].items():
        floor = metric.get("floor", {"values": {}})
        comparable = metric.get("at_floor_counts", metric)["values"]
        for key, value in floor["values"].items():
            counts = {"generated": floor["generated"], "real": floor["real"]}
            is_fewer = "at_floor_counts" in metric
            found[f"metric/{name}/{key}"] = {"floor": value, "value": comparable[key], "is_fewer": is_fewer, **counts}
    return found


def choose_objective(wanted: str | None, metrics: dict[str, Metric]) -> Objective | None:
    """The objective that METRIC or METRIC.VALUE means; None the first value of the first metric.

    Raises ConfigError where there is no such value.
    """
    if wanted is None and not metrics:
        return None
    name, _, value = (wanted or next(iter(metrics))).partition(".")
    if name not in metrics:
        names = ", ".join(metrics) or "none: say metric=NAME"
        raise ConfigError(f"objective={wanted}: no such metric in this run{suggest(name, metrics)} (metrics: {names})")
    values = metrics[name].higher_is_better
    value = value or next(iter(values))
    if value not in values:
        raise ConfigError(f"objective={wanted}: {name} has the values {', '.join(values)}{suggest(value, values)}")
    return Objective(f"metric/{name}/{value}", values[value])


def requested_labels(data: Data, count: int) -> Tensor:
    """(count,): those of training samples, as often as needed, so that the classes are as frequent as in the data."""
    labels = data.training(count)[1]
    assert labels is not None, "a conditional run has labels"
    return labels.repeat(-(-count // len(labels)))[:count]


def record_of_network(network: FeatureNetwork) -> dict[str, Any]:
    """What a record says of the feature network."""
    return {
        "name": network.name,
        "sha256": network.sha256,
        "dimension": network.dimension,
        "resize": network.resize,
        "accuracy": network.accuracy,
    }
