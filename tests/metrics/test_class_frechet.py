"""The Fréchet distance class by class: closed forms, its floor, and what is refused."""

import math

import pytest
import torch
from torch import Tensor

from gan_runner.config.errors import ConfigError
from gan_runner.datasets.data import Data, Samples
from gan_runner.datasets.embedded import digits
from gan_runner.datasets.splits import HeldOut, Rest
from gan_runner.metrics.feature_space import frechet, moments
from gan_runner.metrics.floor import Floors
from gan_runner.metrics.metric import EvaluationView
from gan_runner.metrics.real_features import RealFeatures, real_side
from gan_runner.training import build as builder
from tests.helpers import TINY, TINY_MODEL, compose, naming, refusal
from tests.helpers.runs import rows
from tests.metrics.test_metrics import build, halves, random_images, random_network, view_of

NETWORK, CPU = random_network(), torch.device("cpu")


def by_hand(ours: Tensor, our_labels: Tensor, theirs: Tensor, their_labels: Tensor) -> list[float]:
    """The distances of the classes that both have, by masks."""
    features, others = (NETWORK.look(images)[0] for images in (ours, theirs))
    return [
        frechet(moments(features[our_labels == k], CPU), moments(others[their_labels == k], CPU), CPU)
        for k in range(10)
        if min((our_labels == k).sum(), (their_labels == k).sum()) > 1
    ]


def test_it_is_the_frechet_distance_of_every_class() -> None:
    data, images, labels = halves()
    real, its_labels = data.training(None)
    assert its_labels is not None
    expected = by_hand(images, labels, real, its_labels)
    assert len(expected) == 10
    found = build("class_frechet", data)(view_of(data, images, NETWORK, labels))
    assert found == pytest.approx({"mean": sum(expected) / 10, "worst": max(expected)})
    same = build("class_frechet", data)(view_of(data, real, NETWORK, its_labels))
    assert same == pytest.approx({"mean": 0, "worst": 0}, abs=1e-5)


def test_it_sees_classes_that_leak_where_the_frechet_distance_does_not() -> None:
    data, images, labels = halves()
    wrong = view_of(data, images, NETWORK, labels.roll(1))
    right = view_of(data, images, NETWORK, labels)
    both = [build("frechet", data)(view)["distance"] for view in (right, wrong)]
    assert both[0] == both[1]
    apart = [build("class_frechet", data)(view)["mean"] for view in (right, wrong)]
    assert apart[1] > 5 * apart[0]


def test_a_class_with_one_sample_is_left_out() -> None:
    data, images, labels = halves()
    real, its_labels = data.training(None)
    assert its_labels is not None
    is_kept = (labels != 3) | (torch.arange(len(labels)) == (labels == 3).nonzero()[0])
    expected = by_hand(images[is_kept], labels[is_kept], real, its_labels)
    assert len(expected) == 9
    found = build("class_frechet", data)(view_of(data, images[is_kept], NETWORK, labels[is_kept]))
    assert found == pytest.approx({"mean": sum(expected) / 9, "worst": max(expected)})
    few = build("class_frechet", data)(view_of(data, images[:1], NETWORK, labels[:1]))
    assert all(math.isnan(value) for value in few.values())


# --- the floor --------------------------------------------------------------------------------------------------------


def images_of(held_out: float) -> Data:
    return digits(held_out=held_out, image_size=None, channels=None, normalization="unit", flip=False, seed=0)


@pytest.mark.parametrize("held_out", [0.2, 0.0])
def test_the_floor_is_of_real_samples_of_their_own_classes(held_out: float) -> None:
    """Held-out ones, or one part of the training samples against the other."""
    data = images_of(held_out)
    features = RealFeatures(data, NETWORK)
    metric = build("class_frechet", data)
    generated, labels = random_images(900), torch.arange(900) % 10
    side = real_side(data, features, lambda: None)
    view = EvaluationView(**side, seed=0, generated=generated, labels=labels)
    record = Floors(data, features).record("class_frechet", metric, view)
    one, other = (HeldOut(data), data) if held_out else (Rest(data, 898, 899), Rest(data, 898, 899))
    pair = one.training(None) if held_out else one.unseen_with_labels(None)
    assert pair is not None
    images, its_labels = pair
    assert its_labels is not None
    real, real_labels = other.training(None)
    assert real_labels is not None
    expected = by_hand(images, its_labels, real, real_labels)
    assert record["floor"]["values"] == pytest.approx({"mean": sum(expected) / 10, "worst": max(expected)})
    assert record["floor"]["values"]["mean"] < 0.5 * metric(view)["mean"]


def test_labels_go_with_their_samples_in_every_part() -> None:
    samples = torch.arange(60.0).reshape(60, 1)
    data = Samples(
        samples[:40], samples[:40, 0].long(), seed=0, held_out=samples[40:], held_out_labels=samples[40:, 0].long()
    )
    for part, count in [
        (data, None),
        (data, 7),
        (HeldOut(data), 9),
        (Rest(data, 10, 20), None),
        (Rest(data, 10, 20), 4),
    ]:
        for found in (part.training(count), part.unseen_with_labels(count)):
            assert found is not None
            assert found[1] is not None
            assert found[0][:, 0].long().equal(found[1])


# --- refusals ---------------------------------------------------------------------------------------------------------

WORDS = [*TINY, "model=mlp", *TINY_MODEL, "loss=hinge", "metric=class_frechet"]


def test_an_unconditional_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=naming("metric=class_frechet", "conditional=true")):
        builder.build(compose(*WORDS), [])
    with pytest.raises(ConfigError, match=naming("metric=class_frechet", "no labels")):
        builder.build(compose(*WORDS[3:], "device=cpu", "dataset=gaussian_2d"), [])


def test_data_that_do_not_suit_it_are_refused() -> None:
    data, _, _ = halves()
    with pytest.raises(ValueError, match=naming("metric=class_frechet", "no labels")):
        build("class_frechet", data).check(Samples(random_images(40), seed=0), NETWORK)
    with pytest.raises(ValueError, match=naming("metric.class_frechet.samples=19", "10 classes")):
        build("class_frechet", data, samples=19).check(data, NETWORK)
    (warning,) = build("class_frechet", data, samples=50).check(data, NETWORK)
    assert "metric.class_frechet.samples" in warning


@pytest.mark.slow
def test_a_run_is_measured_and_evaluated(run_cli) -> None:
    words = [*WORDS, "conditional=true", "metric.class_frechet.samples=100", "features.steps=5", "steps=2"]
    code, _, error = run_cli(*words, "sample_every=null", "hydra.run.dir=run")
    assert code == 0, error
    (record,) = rows("run/evaluations.jsonl")
    assert {*record["metrics"]["class_frechet"]["values"]} == {"mean", "worst"}
    assert {*record["metrics"]["class_frechet"]["floor"]["values"]} == {"mean", "worst"}
    code, _, error = run_cli("evaluate", "run", "metric.class_frechet.samples=60")
    assert code == 0, error
    code, _, error = run_cli(
        *[word for word in words if "class_frechet" not in word], "metric=none", "conditional=false", "hydra.run.dir=un"
    )
    refusal(run_cli("evaluate", "un", "metric=class_frechet"), "metric=class_frechet", "conditional=true")
