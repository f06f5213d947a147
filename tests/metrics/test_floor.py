"""Floors: what a distance is between real samples, and at which counts."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_runner.datasets.data import Data, Samples
from gan_runner.datasets.embedded import digits
from gan_runner.datasets.points import ring
from gan_runner.datasets.splits import HeldOut
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.feature_space import frechet, moments
from gan_runner.metrics.floor import Floors
from gan_runner.metrics.metric import EvaluationView, Metric
from gan_runner.metrics.real_features import RealFeatures, real_side
from gan_runner.metrics.transport import wasserstein
from gan_runner.storage import cache
from tests.metrics.test_metrics import build, random_network

CPU = torch.device("cpu")


def images(held_out: float) -> Data:
    return digits(held_out=held_out, image_size=None, channels=None, normalization="unit", flip=False, seed=0)


def points(count: int | None) -> Data:
    return ring(modes=8, radius=2.0, sd=0.02, samples=count, seed=0)


def record_of(metric: Metric, data: Data, generated: Tensor, network: FeatureNetwork | None = None) -> dict[str, Any]:
    features = RealFeatures(data, network) if network else None
    side = real_side(data, features, lambda: None)
    view = EvaluationView(**side, seed=5, generated=generated, labels=None)
    return Floors(data, features).record("metric", metric, view)


def test_held_out_images_against_training_images():
    data, network = images(0.1), random_network()
    generated = torch.randint(256, (300, 1, 8, 8), dtype=torch.uint8)
    found = record_of(build("frechet", data, samples=300), data, generated, network)
    assert {key: found["floor"][key] for key in ("generated", "real", "split")} == {
        "generated": 180, "real": 1617, "split": "held-out against training",
    }  # fmt: skip

    def distance(some: Tensor) -> float:
        ours, theirs = (moments(network.look(each)[0], CPU) for each in (some, data.training(None)[0]))
        return frechet(ours, theirs, CPU)

    unseen = data.unseen(None)
    assert unseen is not None
    assert found["floor"]["values"] == {"distance": pytest.approx(distance(unseen))}
    assert found["at_floor_counts"]["values"] == {"distance": pytest.approx(distance(generated[:180]))}
    real = record_of(build("frechet", data, samples=180), data, unseen, network)
    assert "at_floor_counts" not in real  # the counts are the metric's own


def test_two_parts_where_nothing_or_too_little_is_held_out():
    network, generated = random_network(), torch.randint(256, (9999, 1, 8, 8), dtype=torch.uint8)
    for data, half, rest in ((images(0), 898, 899), (images(0.02), 880, 881)):
        floor = record_of(build("frechet", data), data, generated, network)["floor"]
        assert (floor["generated"], floor["real"], floor["split"]) == (half, rest, "two parts of training")
        few = record_of(build("frechet", data, samples=100, real_samples=500), data, generated, network)
        assert (few["floor"]["generated"], few["floor"]["real"]) == (100, 500)
        assert "at_floor_counts" not in few


def test_training_images_against_held_out_ones():
    data = HeldOut(images(0.1))
    generated = torch.randint(256, (3000, 1, 8, 8), dtype=torch.uint8)
    floor = record_of(build("frechet", data, samples=3000), data, generated, random_network())["floor"]
    assert (floor["generated"], floor["real"]) == (1617, 180)
    assert floor["split"] == "training against held-out"


def test_fresh_points_of_an_endless_dataset():
    data = points(None)
    found = record_of(build("wasserstein", data, samples=200), data, torch.zeros(200, 2))
    unseen = data.unseen(200)
    assert unseen is not None
    expected = wasserstein(unseen, data.training(200)[0])
    assert found == {
        "floor": {"values": {"distance": pytest.approx(expected)}, "generated": 200, "real": 200, "split": "fresh"}
    }


def test_modes_have_a_floor_of_their_distances_alone():
    data = points(None)
    floor = record_of(build("modes", data, pairs=100), data, torch.zeros(2500, 2))["floor"]
    assert set(floor["values"]) == {"wasserstein", "reverse_kl"}
    assert 0 < floor["values"]["wasserstein"] < 0.6
    assert 0 < floor["values"]["reverse_kl"] < 0.01
    assert (floor["generated"], floor["real"]) == (2500, 100)


def test_pairs_are_as_many_as_the_smaller_set():
    data = Samples(points(None).training(60)[0], seed=0)
    found = record_of(build("wasserstein", data, samples=1000), data, torch.zeros(1000, 2))
    assert (found["floor"]["generated"], found["floor"]["real"]) == (30, 30)
    assert found["at_floor_counts"]["values"]["distance"] == pytest.approx(2, abs=0.1)  # the radius


def test_pairs_of_held_out_points():
    points_in_all = points(None).training(160)[0]
    data = Samples(points_in_all[:100], seed=0, held_out=points_in_all[100:])
    found = record_of(build("wasserstein", data, samples=1000), data, torch.zeros(1000, 2))
    assert (found["floor"]["generated"], found["floor"]["real"]) == (60, 60)
    assert "at_floor_counts" in found


def test_every_key_of_a_metric_has_a_floor_of_its_own():
    data, network = images(0.1), random_network()
    generated = torch.randint(256, (600, 1, 8, 8), dtype=torch.uint8)
    floors = [
        record_of(build("kernel_distance", data, samples=600, subset_size=size, subsets=3), data, generated, network)
        for size in (20, 30)
    ]
    assert floors[0]["floor"]["values"] != floors[1]["floor"]["values"]


def test_a_kernel_distance_takes_smaller_subsets_where_there_are_fewer_samples():
    data, network = images(0.1), random_network()
    generated = torch.randint(256, (600, 1, 8, 8), dtype=torch.uint8)
    metric = build("kernel_distance", data, samples=600, subset_size=500, subsets=3)
    found = record_of(metric, data, generated, network)
    assert abs(found["floor"]["values"]["distance"]) < 0.05 * found["at_floor_counts"]["values"]["distance"]


@pytest.mark.parametrize("name", ["prdc", "classes", "inception_score"])
def test_what_is_no_distance_has_no_floor(name):
    data = images(0.1)
    assert record_of(build(name, data), data, torch.zeros(9, 1, 8, 8, dtype=torch.uint8), random_network()) == {}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_next_to_no_data_has_no_floor(count):
    data = Samples(torch.zeros(count, 2), seed=0)
    assert record_of(build("wasserstein", data), data, torch.ones(9, 2)) == {}


class Mean(Metric):
    """A metric of a user's, with all that one had to have before there were floors."""

    higher_is_better: Mapping[str, bool] = {"mean": False, "other": True}
    samples = real_samples = 50

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        self.calls = getattr(self, "calls", 0) + 1
        return {"mean": float((view.generated.mean(0) - view.real(50).mean(0)).norm()), "other": 1.0}


class WithFloor(Mean):
    distances = ("mean",)


def test_metrics_of_users():
    data = points(None)
    assert record_of(Mean(), data, torch.zeros(50, 2)) == {}
    metric = WithFloor()
    for calls in (1, 2):  # not in the cache: its formula may change
        assert set(record_of(metric, data, torch.zeros(50, 2))["floor"]["values"]) == {"mean"}
        assert metric.calls == calls
    assert not list(cache.cache_directory().glob("floor-*"))


def test_a_floor_is_computed_once_and_cached(monkeypatch):
    data = points(None)
    metric = build("wasserstein", data, samples=100)
    calls = []
    original = type(metric).__call__

    def counted(self: Metric, view: EvaluationView) -> dict[str, float]:
        calls.append(self)
        return original(self, view)

    monkeypatch.setattr(type(metric), "__call__", counted)
    side = real_side(data, None, lambda: None)
    view = EvaluationView(**side, seed=0, generated=torch.zeros(100, 2), labels=None)
    floors = Floors(data, None)
    first = floors.record("wasserstein", metric, view)
    assert record_of(metric, data, torch.zeros(100, 2)) == first  # from the file, whatever the run's seed
    (file,) = cache.cache_directory().glob("floor-*")
    file.unlink()
    assert floors.record("wasserstein", metric, view) == first
    assert len(calls) == 1
    assert record_of(build("wasserstein", data, samples=90), data, torch.zeros(90, 2)) != first
    assert len(calls) == 2


def test_a_floor_can_be_broken_off():
    data, network = images(0.1), random_network()
    features = RealFeatures(data, network)
    features.moments(lambda: None, None)

    def stop() -> None:
        raise InterruptedError

    side = real_side(data, features, stop)
    view = EvaluationView(**side, seed=0, generated=torch.zeros(9, 1, 8, 8, dtype=torch.uint8), labels=None)
    floors = Floors(data, features)
    with pytest.raises(InterruptedError):
        floors.record("frechet", build("frechet", data), view)
    assert not floors.memory
