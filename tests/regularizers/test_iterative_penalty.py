"""The iterated gradient penalty with a variable weight: its recurrences, its point, its state."""

import copy
import math

import pytest
import torch
import yaml

from gan_runner.games.term import Term
from gan_runner.games.view import AdversarialView
from gan_runner.regularizers import penalties
from tests.helpers import CONF
from tests.helpers.games import make_game, take_steps
from tests.helpers.penalties import (
    Curved,
    Linear,
    Logits,
    Quadratic,
    Seeded,
    an_iterative,
    some,
    take_turn,
    view_of,
)


def with_gap(gap: float) -> AdversarialView:
    """A batch whose mean logits differ by this much: D(x) = x."""
    real = torch.tensor([[0.0], [2.0], [-0.5]])
    fake = torch.tensor([[1.0], [0.0], [0.5]]) - gap
    return view_of(Logits(), real, fake)


def test_iterated_recurrences_by_hand():
    penalty = an_iterative()
    sequence = [  # gap of the means; d, its peak, rho, alpha
        (2.0, 2.0, 2.0, 1.0, 0.0),  # the first value as it is
        (1.0, 1.9, 2.0, 0.95, 0.025),  # 0.9·2 + 0.1·1;  0 + 0.5 (0.05 - 0)
        (-4.0, 2.11, 2.11, 1.0, 0.0125),  # 0.9·1.9 + 0.1·4, a new peak;  0.025 + 0.5 (0 - 0.025)
        (0.0, 1.899, 2.11, 0.9, 0.05625),  # 0.9·2.11;  0.0125 + 0.5 (0.1 - 0.0125)
    ]
    assert [getattr(penalty, name).item() for name in ("distance", "peak", "rho", "alpha")] == [0, 0, 0, 0]
    term = Term(penalty, weight=10.0, schedule=lambda step: 1 / (1 + step))
    for step, (gap, distance, peak, rho, alpha) in enumerate(sequence):
        view = with_gap(gap)
        result = take_turn(term, view, step)
        assert penalty.distance.item() == pytest.approx(distance)
        assert penalty.peak.item() == pytest.approx(peak)
        assert penalty.rho.item() == pytest.approx(rho)
        assert penalty.alpha.item() == pytest.approx(alpha)
        weight = 10 / (1 + step) * rho
        assert float(term.weight_at(step)) == pytest.approx(weight)  # lambda, what is logged as weight/NAME
        assert term.value.item() == pytest.approx(0.25)  # (1 - 1.5)², unweighted
        assert result.item() == pytest.approx(weight * 0.25)
    assert set(term.memory()) == {"distance", "peak", "rho", "alpha", "updates"}


def test_iterated_with_smoothing_and_rate_of_the_project():
    node = yaml.safe_load((CONF / "regularizer" / "iterative_gradient_penalty.yaml").read_text())
    assert {key: node[key] for key in ("weight", "target", "smoothing", "rate")} == {
        "weight": 10.0,
        "target": 1.0,
        "smoothing": 0.99,
        "rate": 0.01,
    }
    penalty = penalties.IterativeGradientPenalty(**{key: node[key] for key in ("target", "smoothing", "rate")})
    distance, peak, alpha = 0.0, 0.0, 0.0
    for update in range(200):
        gap = 3 * math.exp(-update / 20)
        penalty.update(with_gap(gap))
        distance = gap if update == 0 else 0.99 * distance + 0.01 * gap
        peak = max(peak, distance)
        alpha += 0.01 * ((1 - distance / peak) - alpha)
    assert penalty.rho.item() == pytest.approx(distance / peak, rel=1e-4)
    assert penalty.alpha.item() == pytest.approx(alpha, rel=1e-4)
    assert 0.2 < alpha < 0.7  # as the two meet, the point moves towards the real sample, and the weight fades
    assert penalty.factor.item() < 0.4


def test_iterated_where_the_peak_is_zero():
    penalty = an_iterative()
    for alpha in (0.5, 0.75):
        result = take_turn(penalty, with_gap(0.0))
        assert penalty.peak.item() == 0
        assert penalty.rho.item() == 0
        assert penalty.alpha.item() == pytest.approx(alpha)
        assert result.isfinite().all()
    term = Term(penalty, weight=10.0)
    assert take_turn(term, with_gap(0.0), 0).item() == 0
    penalty.update(with_gap(1.0))  # no longer the first: smoothed, and the peak by itself
    assert penalty.distance.item() == pytest.approx(0.1)
    assert penalty.rho.item() == 1


def test_iterated_point_and_value():
    """At fake + alpha (real - fake), with the alpha that this very batch leads to."""
    network, real, fake = Quadratic(some(3, 3)), some(6, 3, seed=1), some(6, 3, seed=2)
    penalty = an_iterative().double()
    penalty.update(view_of(network, real, 3 * fake))
    result = take_turn(penalty, view_of(network, real, fake))
    assert 0 < penalty.alpha < 1
    points = fake + penalty.alpha * (real - fake)
    expected = (points @ network.matrix.detach()).norm(dim=-1).sub(1.5).square()
    torch.testing.assert_close(result.detach(), expected)
    for alpha, ends in ((0.0, fake), (1.0, real)):
        still = an_iterative(rate=0.0).double()
        still.alpha.fill_(alpha)
        expected = (ends @ network.matrix.detach()).norm(dim=-1).sub(1.5).square()
        torch.testing.assert_close(still(view_of(network, real, fake)).detach(), expected)


def test_iterated_draws_nothing_and_is_marked():
    randomness = Seeded()
    take_turn(an_iterative().double(), view_of(Linear(some(3)), some(4, 3), some(4, 3, seed=1), randomness))
    assert not randomness.drawn
    assert penalties.IterativeGradientPenalty.of_each_sample


def test_iterated_stacked_runs_equal_the_loop():
    weights, real, fake = some(3, 8), some(2, 3, 5, 2, 4), 3 * some(2, 3, 5, 2, 4, seed=1)  # updates, runs, samples
    stacked, alone = Term(an_iterative().double(), 2.0), [Term(an_iterative().double(), 2.0) for _ in range(3)]
    for update in range(2):
        together = take_turn(stacked, view_of(Curved(weights), real[update], fake[update]), 0)
        assert together.shape == (3,)
        for run, term in enumerate(alone):
            single = take_turn(term, view_of(Curved(weights[run]), real[update, run], fake[update, run]), 0)
            torch.testing.assert_close(together[run], single)
            for name, value in term.memory().items():
                torch.testing.assert_close(stacked.memory()[name].expand(3)[run], value)
    assert not stacked.memory()["alpha"][0].isclose(stacked.memory()["alpha"][1])


def test_iterated_state_is_saved_and_restored():
    game = make_game("loss=wasserstein", "regularizer=iterative_gradient_penalty", "discriminator_steps=2")
    for step in range(2):
        game.step(step)
    state = copy.deepcopy(game.state_dict())
    assert state["discriminator"]["terms"]["iterative_gradient_penalty"]["fn.updates"] == 4
    resumed = make_game("loss=wasserstein", "regularizer=iterative_gradient_penalty", "discriminator_steps=2")
    resumed.load_state_dict(state)
    tags = take_steps(game, 2, start=2)
    assert tags == take_steps(resumed, 2, start=2)
    name = "iterative_gradient_penalty"
    assert float(tags[f"weight/{name}"]) == pytest.approx(10 * float(tags[f"state/{name}/rho"]))
    assert 0 < float(tags[f"state/{name}/rho"]) <= 1
    assert float(tags[f"state/{name}/alpha"]) >= 0


def test_iterated_lazily_only_when_evaluated():
    game = make_game(
        "regularizer=iterative_gradient_penalty",
        "regularizer.iterative_gradient_penalty.every=2",
        "discriminator_steps=3",
    )
    game.step(0)
    game.step(1)
    assert game.discriminator.terms["iterative_gradient_penalty"].memory()["updates"] == 3  # of updates 0 to 5
