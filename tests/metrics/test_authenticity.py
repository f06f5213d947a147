"""Authenticity, and distances to both splits."""

from typing import Any

import pytest
import torch
from torch import Tensor

from gan_runner.datasets.data import Samples
from gan_runner.datasets.points import ring
from gan_runner.metrics.authenticity import Authenticity, authentic_share
from gan_runner.metrics.both_splits import BothSplits
from gan_runner.metrics.metric import EvaluationView
from gan_runner.metrics.real_features import real_side
from gan_runner.metrics.transport import Wasserstein


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).unsqueeze(1)


def test_by_hand() -> None:
    """Real points at 0, 1, 3, 7: their own nearest are 1, 1, 2 and 4 away."""
    real = column(0, 1, 3, 7)
    assert authentic_share(real, column(0, 1, 3, 7)) == 0.0  # copies
    assert authentic_share(real, column(-0.9, 2.1, 4.5, 9)) == 0.0
    assert authentic_share(real, column(-1.1, -50, 11.1)) == 1.0
    assert authentic_share(real, column(-1.1, 3.5)) == 0.5
    assert authentic_share(real, column(-1.0)) == 0.0  # as far: no farther


def test_a_copy_of_what_is_there_twice_is_no_authentic_sample() -> None:
    real = column(0, 0, 5)
    assert authentic_share(real, column(0, 0.1)) == 0.5
    assert authentic_share(real.expand(-1, 64) / 3, (real / 3).expand(-1, 64)) == 0.0  # to the bit


def test_a_sample_that_is_not_finite_copies_nothing() -> None:
    assert authentic_share(column(0, 1), column(float("nan"), float("inf"), 0, 1)) == 0.5
    assert authentic_share(column(0, 1), column(float("nan"))) == 1.0


def test_by_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(count, 3, generator=generator, dtype=torch.float64) for count in (41, 30))
    found = 0
    for sample in fake:
        distances = [(sample - other).norm().item() for other in real]
        nearest = distances.index(min(distances))
        own = min((real[nearest] - other).norm().item() for row, other in enumerate(real) if row != nearest)
        found += distances[nearest] > own
    assert 0 < found < 30
    assert authentic_share(real, fake) == found / 30
    monkeypatch.setattr("gan_runner.metrics.authenticity.BLOCK", 7)
    assert authentic_share(real, fake) == found / 30


def test_near_copies_are_told_from_fresh_samples() -> None:
    generator = torch.Generator().manual_seed(1)
    real, fake = (torch.rand(3000, 2, generator=generator, dtype=torch.float64) for _ in range(2))
    assert 0.3 < authentic_share(real, fake) < 0.6
    noisy = real + 1e-3 * torch.randn(3000, 2, generator=generator, dtype=torch.float64)
    assert authentic_share(real, noisy) < 0.1


def points(held_out: bool) -> Samples:
    generator = torch.Generator().manual_seed(2)
    samples, unseen = (torch.randn(count, 2, generator=generator) for count in (400, 100))
    return Samples(samples, seed=0, held_out=unseen if held_out else None)


def view_of(data: Samples, generated: Tensor) -> EvaluationView:
    side: dict[str, Any] = real_side(data, None, lambda: None)
    return EvaluationView(**side, seed=0, generated=generated, labels=None)


def test_of_points_and_of_no_endless_data() -> None:
    data = points(held_out=False)
    metric = Authenticity(samples=50, real_samples=None)
    assert not metric.needs_features(data)
    assert metric.check(data, None) == []
    assert metric(view_of(data, data.training(400)[0])) == {"authentic": 0.0}
    with pytest.raises(ValueError, match="endless"):
        metric.check(ring(modes=4, radius=2.0, sd=0.1, samples=None, seed=0), None)


def test_a_copy_of_the_training_data_is_nearer_to_it_than_to_the_held_out() -> None:
    data = points(held_out=True)
    copies = data.training(None)[0]
    metric = Authenticity(samples=400, real_samples=None)
    found = BothSplits(data, None).record(metric, view_of(data, copies))["held_out"]
    assert (found["generated"], found["real"]) == (400, 100)
    assert found["values"]["authentic"] == pytest.approx(0.5, abs=0.15)
    assert found["training"]["authentic"] < found["values"]["authentic"]
    paired = Wasserstein(samples=400)
    found = BothSplits(data, None).record(paired, view_of(data, copies))["held_out"]
    assert (found["generated"], found["real"]) == (100, 100)
    assert found["values"].keys() == found["training"].keys() == {"distance"}
    assert found["training"]["distance"] > 0  # of 100 training samples: of all it would be 0


def test_where_nothing_is_held_out_there_is_nothing_beside() -> None:
    data = points(held_out=False)
    assert BothSplits(data, None).record(Wasserstein(samples=9), view_of(data, data.training(9)[0])) == {}
