"""Hard constraints, perturbations, generator terms, the iterated penalty, input noise, label smoothing, latents."""

import copy
import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn
from torch.func import functional_call

from gan_runner import losses
from gan_runner.augmentations import InputNoise, diffaugment
from gan_runner.config.errors import ConfigError
from gan_runner.datasets.data import Data
from gan_runner.games import latents
from gan_runner.games.adversarial import Adversarial
from gan_runner.games.term import Term
from gan_runner.games.view import AdversarialView
from gan_runner.regularizers import penalties
from gan_runner.regularizers.projections import ValueRange, max_norm
from gan_runner.runs.build import build
from gan_runner.schedules import linear
from gan_runner.torch_utils.randomness import fixed_randomness
from tests.conftest import CONF, TINY, TINY_MODEL, compose, options
from tests.games.test_game import counted, step_without_sync
from tests.regularizers.test_penalties import (
    Curved,
    Given,
    Linear,
    Logits,
    Quadratic,
    Seeded,
    Stacked,
    Unlabelled,
    a_view,
    smooth_network,
    some,
    view_of,
)


def make(*overrides: str) -> Adversarial:
    words = [*TINY, "model=mlp", *TINY_MODEL, "loss=hinge", "discriminator_steps=1", *overrides]
    game = build(compose(*words), [])[0]
    assert isinstance(game, Adversarial)
    return game


POINTS = ["dataset=ring", "batch_size=8", "device=cpu", "model.latent_size=4", "model=mlp", *TINY_MODEL, "loss=hinge"]


def unstacked(stacked: Stacked, run: int) -> Stacked:
    alone = copy.deepcopy(stacked)
    alone.run_axes = 0
    alone.all = nn.ParameterList(parameter[run].clone() for parameter in stacked.all)
    return alone


# --- projections ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biases", [False, True])
def test_value_range(biases):
    torch.manual_seed(0)
    first = nn.Linear(3, 4)
    network = nn.Sequential(first, nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    ValueRange(min=-0.05, max=0.2, biases=biases)(network)
    for name, value in network.named_parameters():
        bound = biases or name in ("0.weight", "2.weight")
        assert value.equal(before[name].clip(-0.05, 0.2) if bound else before[name]), name
        assert value.requires_grad
        assert value.is_leaf
    assert first.weight.min().item() == pytest.approx(-0.05)  # there was something to do on either side
    assert first.weight.max().item() == pytest.approx(0.2)


@pytest.mark.parametrize("role", ["generator", "discriminator"])
@pytest.mark.parametrize("bounds", [(-0.1, 0.1), (0.01, 0.03), (-0.2, -0.05)], ids=str)
def test_value_range_holds_after_every_update(bounds, role):
    """In a real game, for the players that it is on and no other; the steps are far longer than the range is wide."""
    low, high = bounds
    game = make(
        "regularizer=value_range",
        f"regularizer.value_range.on=[{role}]",
        f"regularizer.value_range.min={low}",
        f"regularizer.value_range.max={high}",
        "optimizer=sgd",
        "optimizer.lr=1.0",
        "discriminator_steps=2",
    )
    seen = []
    for name, player in game.players.items():
        update = player.optimizer.step

        def looking(update=update, player=player, name=name):
            update()
            outside = [((p < low) | (p > high)).any() for p in player.parameters]
            seen.append((name, any(outside)))

        player.optimizer.step = looking  # type: ignore[method-assign]
    for step in range(4):
        game.step(step)
        for name, player in game.players.items():
            within = all(bool(((p >= low) & (p <= high)).all()) for p in player.network.parameters())
            assert within == (name == role)
    assert (role, True) in seen  # the optimizer alone leaves the range


def test_value_range_on_both_players_by_default():
    game = make("regularizer=value_range")
    game.step(0)
    assert all(p.abs().max() <= 0.1 for player in game.players.values() for p in player.network.parameters())


@pytest.mark.parametrize("bounds", [(0.1, 0.1), (0.2, -0.2)], ids=str)
def test_an_empty_value_range_is_refused_before_the_first_step(bounds):
    low, high = bounds
    with pytest.raises(ValueError, match=rf"^min={low} must be below max={high}$"):
        ValueRange(min=low, max=high, biases=True)
    words = [f"regularizer.value_range.min={low}", f"regularizer.value_range.max={high}"]
    with pytest.raises(ConfigError, match=rf"^regularizer.value_range: min={low} must be below max={high}"):
        make("regularizer=value_range", *words)


def test_max_norm_by_hand():
    dense, convolution, gain = nn.Linear(2, 3), nn.Conv2d(1, 2, 2), nn.LayerNorm([3, 3])
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[3.0, 4], [0.3, 0.4], [0, -10]]))
        dense.bias.fill_(7)
        convolution.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [4, 4, 4, 4]]).reshape(2, 1, 2, 2))
    max_norm(nn.ModuleList([dense, convolution, gain]), norm=1.0)
    torch.testing.assert_close(dense.weight.detach(), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0, -1]]))
    assert dense.weight[1].equal(torch.tensor([0.3, 0.4]))  # what is short enough, bit for bit
    assert convolution.weight.flatten().tolist() == [0.5] * 8
    assert dense.bias.tolist() == [7.0] * 3
    assert gain.weight.tolist() == [[1.0] * 3] * 3  # no kernel, though it has rows that are longer


def test_max_norm_of_zeros_is_zeros():
    network = nn.Linear(2, 3)
    network.weight.data.zero_()
    max_norm(network, norm=1.0)
    assert (network.weight == 0).all()


@pytest.mark.parametrize(
    "project", [partial(max_norm, norm=1.5), ValueRange(min=-0.3, max=0.9, biases=False)], ids=["max_norm", "range"]
)
def test_projections_of_stacked_runs_equal_the_loop(project):
    stacked = Stacked((4, 3), (4,), (2, 4, 3, 3))
    alone = [unstacked(stacked, run) for run in range(3)]
    before = [parameter.detach().clone() for parameter in stacked.all]
    project(stacked)
    assert [p.equal(old) for p, old in zip(stacked.all, before, strict=True)] == [False, True, False]
    for run, network in enumerate(alone):
        project(network)
        for together, single in zip(stacked.all, network.all, strict=True):
            torch.testing.assert_close(together[run], single.detach())


def test_max_norm_holds_in_a_game():
    game = make("regularizer=max_norm", "regularizer.max_norm.norm=0.1", "optimizer.lr=0.1")
    for step in range(3):
        game.step(step)
        rows = [p.norm(dim=1) for p in game.discriminator.network.parameters() if p.ndim == 2]
        assert all((row <= 0.1 + 1e-6).all() for row in rows)
    assert any((row > 0.0999).any() for row in rows)
    assert any((p.norm(dim=1) > 0.2).any() for p in game.generator.network.parameters() if p.ndim == 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["regularizer=max_norm", "regularizer.max_norm.norm=0"], r"regularizer.max_norm.norm=0: must be .*greater"),
        (["regularizer=value_range", "regularizer.value_range.max=big"], r"regularizer.value_range.max=big: must be"),
        (
            ["regularizer=adversarial_perturbation", "regularizer.adversarial_perturbation.epsilon=0"],
            r"epsilon=0: must",
        ),
        (["regularizer=reconstruction", "regularizer.reconstruction.norm=l3"], r"norm=l3: must be 'l1' or 'l2'"),
        (["regularizer=consistency", "regularizer.consistency.translation=1.5"], r"translation=1.5: must be less"),
        (
            ["regularizer=balanced_consistency", "regularizer.balanced_consistency.fake=-1"],
            r"balanced_consistency.fake=-1: must be greater",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "regularizer.iterative_gradient_penalty.smoothing=1.0"],
            r"smoothing=1.0: must be less than 1",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "regularizer.iterative_gradient_penalty.rate=1.1"],
            r"rate=1.1: must be less than or equal to 1",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "model.discriminator.normalization=batch"],
            r"normalization=batch: .*regularizer.iterative_gradient_penalty",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "+regularizer.iterative_gradient_penalty.on=[generator]"],
            r"iterative_gradient_penalty.on=",
        ),
        (["augmentation=input_noise", "augmentation.input_noise.sd=-1"], r"augmentation.input_noise.sd=-1: must be"),
        (["loss=bce", "loss.real_label=1.1"], r"loss.real_label=1.1: must be less than or equal to 1"),
        (["loss=bce_saturating", "loss.fake_label=-0.1"], r"fake_label=-0.1.*must be"),
        (["loss=bce", "loss.fake_label=1.0"], r"loss: fake_label=1.0, real_label=1.0: must be 0 <= fake < real"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        make(*words)


def test_on_lists_only_players_that_the_penalty_speaks_to():
    for name in options("regularizer"):
        node = yaml.safe_load((CONF / "regularizer" / f"{name}.yaml").read_text())
        if node:
            module, _, attribute = node["_target_"].rpartition(".")
            if module == "gan_runner.regularizers.penalties":
                allowed = getattr(getattr(penalties, attribute), "only_on", None)
                assert allowed is None or set(node.get("on", ["discriminator"])) <= set(allowed), name


# --- output_l1 --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [(2,), (3, 4, 4)], ids=str)
def test_output_l1(sample):
    fake = some(5, *sample).requires_grad_()
    result = penalties.output_l1(a_view(nn.Module(), None, some(5, *sample, seed=1), fake))
    torch.testing.assert_close(result, torch.stack([sum(x.abs() for x in one.flatten()) for one in fake]))
    (gradient,) = torch.autograd.grad(result.mean(), fake)
    torch.testing.assert_close(gradient, fake.detach().sign() / 5)  # descent: towards 0


def test_output_l1_of_codes():
    """Of whatever the view calls outputs: those of an autoencoder are its codes."""
    view: Any = SimpleNamespace(learner=nn.Module(), outputs=torch.tensor([[1.0, -2, 0], [0.5, 0, -4]]))
    assert penalties.output_l1(view).tolist() == [3, 4.5]


def test_output_l1_of_stacked_runs():
    stacked = Stacked((1,))
    fake = some(3, 5, 2)
    result = penalties.output_l1(a_view(stacked, stacked, fake, fake))
    torch.testing.assert_close(result, fake.abs().sum(-1))


def test_output_l1_is_on_the_generator_and_shrinks_its_samples():
    means = []
    for weight in (0.0, 10.0):
        game = make("regularizer=output_l1", f"regularizer.output_l1.weight={weight}", "optimizer.lr=1e-2")
        assert list(game.generator.terms) == ["loss", "output_l1"]
        assert list(game.discriminator.terms) == ["loss"]
        for step in range(20):
            game.step(step)
        means.append(game.generator.network(game.draw_latents(game.randomness, 64), None).abs().mean())
    assert means[1] < 0.3 * means[0]


# --- the iterated penalty with a variable weight ----------------------------------------------------------------------


def an_iterative(**others: float) -> penalties.IterativeGradientPenalty:
    return penalties.IterativeGradientPenalty(**({"target": 1.5, "smoothing": 0.9, "rate": 0.5} | others))


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
        result = term(view, step)
        assert penalty.distance.item() == pytest.approx(distance)
        assert penalty.peak.item() == pytest.approx(peak)
        assert penalty.rho.item() == pytest.approx(rho)
        assert penalty.alpha.item() == pytest.approx(alpha)
        weight = 10 / (1 + step) * rho
        assert float(term.weight_at(step)) == pytest.approx(weight)  # lambda, what is logged as weight/NAME
        assert term.value.item() == pytest.approx(0.25)  # (1 - 1.5)², unweighted
        assert result.item() == pytest.approx(weight * 0.25)
    assert set(term.state()) == {"distance", "peak", "rho", "alpha", "updates"}


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
        penalty(with_gap(gap))
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
        result = penalty(with_gap(0.0))
        assert penalty.peak.item() == 0
        assert penalty.rho.item() == 0
        assert penalty.alpha.item() == pytest.approx(alpha)
        assert result.isfinite().all()
    term = Term(penalty, weight=10.0)
    assert term(with_gap(0.0), 0).item() == 0
    penalty(with_gap(1.0))  # no longer the first: smoothed, and the peak by itself
    assert penalty.distance.item() == pytest.approx(0.1)
    assert penalty.rho.item() == 1


def test_iterated_point_and_value():
    """At fake + alpha (real - fake), with the alpha that this very batch leads to."""
    network, real, fake = Quadratic(some(3, 3)), some(6, 3, seed=1), some(6, 3, seed=2)
    penalty = an_iterative().double()
    penalty(view_of(network, real, 3 * fake))
    result = penalty(view_of(network, real, fake))
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
    an_iterative().double()(view_of(Linear(some(3)), some(4, 3), some(4, 3, seed=1), randomness))
    assert not randomness.drawn
    assert penalties.IterativeGradientPenalty.of_each_sample


def test_iterated_stacked_runs_equal_the_loop():
    weights, real, fake = some(3, 8), some(2, 3, 5, 2, 4), 3 * some(2, 3, 5, 2, 4, seed=1)  # updates, runs, samples
    stacked, alone = Term(an_iterative().double(), 2.0), [Term(an_iterative().double(), 2.0) for _ in range(3)]
    for update in range(2):
        together = stacked(view_of(Curved(weights), real[update], fake[update]), 0)
        assert together.shape == (3,)
        for run, term in enumerate(alone):
            single = term(view_of(Curved(weights[run]), real[update, run], fake[update, run]), 0)
            torch.testing.assert_close(together[run], single)
            for name, value in term.state().items():
                torch.testing.assert_close(stacked.state()[name].expand(3)[run], value)
    assert not stacked.state()["alpha"][0].isclose(stacked.state()["alpha"][1])


def test_iterated_state_is_saved_and_restored():
    game = make("loss=wasserstein", "regularizer=iterative_gradient_penalty", "discriminator_steps=2")
    for step in range(2):
        game.step(step)
    state = copy.deepcopy(game.state_dict())
    assert state["discriminator"]["terms"]["iterative_gradient_penalty"]["of.updates"] == 4
    resumed = make("loss=wasserstein", "regularizer=iterative_gradient_penalty", "discriminator_steps=2")
    resumed.load_state_dict(state)
    for step in (2, 3):
        game.step(step)
        resumed.step(step)
    tags, others = game.statistics(), resumed.statistics()
    assert {tag: float(value) for tag, value in tags.items()} == {tag: float(value) for tag, value in others.items()}
    name = "iterative_gradient_penalty"
    assert float(tags[f"weight/{name}"]) == pytest.approx(10 * float(tags[f"state/{name}/rho"]))
    assert 0 < float(tags[f"state/{name}/rho"]) <= 1
    assert float(tags[f"state/{name}/alpha"]) >= 0


def test_iterated_lazily_only_when_evaluated():
    game = make(
        "regularizer=iterative_gradient_penalty",
        "regularizer.iterative_gradient_penalty.every=2",
        "discriminator_steps=3",
    )
    game.step(0)
    game.step(1)
    assert game.discriminator.terms["iterative_gradient_penalty"].state()["updates"] == 3  # of updates 0 to 5


def test_a_factor_multiplies_the_weight():
    class Halved(nn.Module):
        factor = 0.5

        def forward(self, values: Tensor) -> Tensor:
            return values

    term = Term(Halved(), weight=3.0, every=2, schedule=lambda step: 0.1)
    assert term(torch.tensor([1.0, 3.0]), 0).item() == pytest.approx(3 * 0.1 * 0.5 * 2 * 2)
    assert term.weight_at(0) == pytest.approx(0.15)
    assert term.value.item() == 2
    assert Term(lambda values: values, weight=0.3).weight_at(0) == 0.3


# --- perturbations ----------------------------------------------------------------------------------------------------


def with_loss(view: AdversarialView, loss: Any) -> AdversarialView:
    return a_view(view.learner, view.discriminator, view.real, view.fake, loss=loss, randomness=view.randomness)


@pytest.mark.parametrize("sample", [(3,), (2, 3, 4)], ids=str)
def test_adversarial_perturbation_of_a_linear_discriminator(sample):
    """Each logit moves by ε |w|₁, real down and fake up."""
    weight, real, fake = some(torch.Size(sample).numel()), some(5, *sample), some(5, *sample, seed=1)
    network = Linear(weight)
    move = 0.1 * weight.abs().sum()
    for loss in (losses.BinaryCrossEntropy(), losses.Hinge(), losses.Relativistic()):
        view = with_loss(view_of(network, real, fake), loss.discriminator)
        result = penalties.adversarial_perturbation(view, epsilon=0.1)
        given: Any = SimpleNamespace(real_logits=view.real_logits - move, fake_logits=view.fake_logits + move)
        torch.testing.assert_close(result, loss.discriminator(given))
        assert (result > loss.discriminator(view)).any()


def test_adversarial_perturbation_does_not_differentiate_the_move():
    network, real, fake = Quadratic(some(3, 3)), some(5, 3, seed=1), some(5, 3, seed=2)
    loss = losses.BinaryCrossEntropy().discriminator
    view = with_loss(view_of(network, real, fake), loss)
    (gradient,) = torch.autograd.grad(penalties.adversarial_perturbation(view, epsilon=0.1).sum(), network.matrix)
    matrix = network.matrix.detach()
    moved = view_of(network, real - 0.1 * (real @ matrix).sign(), fake + 0.1 * (fake @ matrix).sign())
    (expected,) = torch.autograd.grad(loss(moved).sum(), network.matrix)
    torch.testing.assert_close(gradient, expected)


def test_adversarial_perturbation_beside_the_loss_and_others():
    """It shares their forward pass, and leaves them the graph."""
    network, real, fake = smooth_network(), some(4, 3), some(4, 3, seed=1)
    parts: list[Callable[..., Tensor]] = [
        losses.BinaryCrossEntropy().discriminator,
        partial(penalties.adversarial_perturbation, epsilon=0.1),
        penalties.r1,
        penalties.r2,
    ]

    def gradient(*parts: Callable[..., Tensor]) -> Tensor:
        view = with_loss(view_of(network, real, fake), losses.BinaryCrossEntropy().discriminator)
        total = torch.stack([part(view).mean(-1) for part in parts]).sum()
        found = torch.autograd.grad(total, list(network.parameters()), allow_unused=True, materialize_grads=True)
        return torch.cat([value.flatten() for value in found])

    total = torch.stack([gradient(part) for part in parts]).sum(0)
    torch.testing.assert_close(gradient(*parts), total)
    torch.testing.assert_close(gradient(*reversed(parts)), total)


def test_adversarial_perturbation_asks_twice_more():
    game = make("regularizer=adversarial_perturbation")
    with counted(game.discriminator.network) as asked:
        game.step(0)
    assert asked == [True] * 4 + [False]


IMAGES = (3, 5, 2, 4, 8)  # runs, samples, channels, height, width
KEYS: dict[str, Any] = {"flip": True, "translation": 0.25}
OF_STACKED_IMAGES: dict[str, Callable[..., Tensor]] = {
    "adversarial_perturbation": partial(penalties.adversarial_perturbation, epsilon=0.1),
    "consistency": partial(penalties.consistency, **KEYS),
    "balanced_consistency": partial(penalties.balanced_consistency, real=2.0, fake=0.5, **KEYS),
}


@pytest.mark.parametrize("name", OF_STACKED_IMAGES)
def test_perturbations_of_stacked_runs_equal_the_loop(name):
    weights, real, fake = some(3, 64), some(*IMAGES), 2 * some(*IMAGES, seed=1)
    randomness, loss = Seeded(), losses.BinaryCrossEntropy().discriminator
    result = OF_STACKED_IMAGES[name](with_loss(view_of(Curved(weights), real, fake, randomness), loss))
    assert result.shape == (3, 5)
    for run in range(3):
        draws = Given(*(draw[run] for draw in randomness.drawn))
        view = with_loss(view_of(Curved(weights[run]), real[run], fake[run], draws), loss)
        torch.testing.assert_close(OF_STACKED_IMAGES[name](view), result[run])
        assert not draws.draws


def flipped_and_moved(image: Tensor, flip: float, down: float, right: float) -> Tensor:
    """By a loop over pixels: (C, 4, 8), up to 1 row and 2 columns."""
    image = image.flip(-1) if flip < 0.5 else image
    di, dj = math.floor(down * 3) - 1, math.floor(right * 5) - 2
    moved = torch.zeros_like(image)
    for i in range(4):
        for j in range(8):
            if 0 <= i + di < 4 and 0 <= j + dj < 8:
                moved[:, i + di, j + dj] = image[:, i, j]
    return moved


def test_consistency_by_a_loop():
    network, real, fake = Linear(some(64)), some(6, 2, 4, 8), some(6, 2, 4, 8, seed=1)

    def distances(samples: Tensor, draws: list[Tensor]) -> Tensor:
        flips, downs, rights = (draw.flatten().tolist() for draw in draws)
        moved = [flipped_and_moved(*one) for one in zip(samples, flips, downs, rights, strict=True)]
        return (network(samples) - network(torch.stack(moved))).square()

    randomness = Seeded(3)
    result = penalties.consistency(view_of(network, real, fake, randomness), **KEYS)
    assert [draw.numel() for draw in randomness.drawn] == [6, 6, 6]  # each sample has its own
    assert {bool(draw < 0.5) for draw in randomness.drawn[0].flatten()} == {True, False}
    torch.testing.assert_close(result, distances(real, randomness.drawn))
    randomness = Seeded(4)
    result = penalties.balanced_consistency(view_of(network, real, fake, randomness), real=2.0, fake=0.5, **KEYS)
    expected = 2 * distances(real, randomness.drawn[:3]) + distances(fake, randomness.drawn[3:]) / 2
    torch.testing.assert_close(result, expected)


def test_consistency_of_an_invariant_discriminator_is_zero():
    view = view_of(Linear(torch.ones(32, dtype=torch.float64)), some(6, 2, 4, 4), some(6, 2, 4, 4, seed=1))
    only_flip: dict[str, Any] = {"flip": True, "translation": 0.0}
    torch.testing.assert_close(penalties.consistency(view, **only_flip), torch.zeros(6, dtype=torch.float64))
    result = penalties.balanced_consistency(view, real=1.0, fake=1.0, **only_flip)
    torch.testing.assert_close(result, torch.zeros(6, dtype=torch.float64))
    assert (penalties.consistency(view, flip=False, translation=0.25) > 0.01).any()


@pytest.mark.parametrize("name", ["consistency", "balanced_consistency"])
def test_consistency_of_points_is_refused(name):
    game = build(compose(*POINTS, f"regularizer={name}"), [])[0]
    with pytest.raises(ValueError, match=rf"regularizer={name} flips and moves images .*not points \(8, 2\)"):
        game.step(0)


@pytest.mark.parametrize("name", ["adversarial_perturbation", "consistency", "balanced_consistency", "iterative"])
def test_finite_differences_by_the_discriminators_weights(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Tanh(), nn.Linear(5, 1), nn.Flatten(0)).double()
    penalty: Any = an_iterative(smoothing=0.5).double() if name == "iterative" else OF_STACKED_IMAGES[name]
    names, weights = zip(*network.named_parameters(), strict=True)
    if name == "iterative":
        penalty.alpha.fill_(0.3)  # which moves with the weights unless its rate is 0
        penalty.rate = 0.0

    def value(*values: Tensor) -> Tensor:
        given = dict(zip(names, values, strict=True))
        discriminator = Unlabelled(lambda samples: functional_call(network, given, (samples,)))
        real, fake = some(4, 1, 4, 4).requires_grad_(), some(4, 1, 4, 4, seed=1).requires_grad_()
        view = a_view(network, discriminator, real, fake, loss=losses.BinaryCrossEntropy().discriminator)
        return copy.deepcopy(penalty)(view).mean(-1)

    assert torch.autograd.gradcheck(value, weights)


# --- generator terms --------------------------------------------------------------------------------------------------


class Featured(nn.Module):
    """A discriminator whose features are tanh(W x): (..., N, D) -> (..., N, F)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.run_axes = weight.ndim - 2
        self.weight = nn.Parameter(weight)

    def features(self, x: Tensor) -> Tensor:
        return (x @ self.weight.mT).tanh()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.features(x).sum(-1)


TERMS: dict[str, Callable[..., Tensor]] = {
    "feature_matching": penalties.feature_matching,
    "l1": partial(penalties.reconstruction, norm="l1"),
    "l2": partial(penalties.reconstruction, norm="l2"),
}
each_term = pytest.mark.parametrize("name", TERMS)


def test_feature_matching_by_hand():
    network = Featured(some(4, 3))
    real, fake = some(6, 3, seed=1).requires_grad_(), some(6, 3, seed=2).requires_grad_()
    result = penalties.feature_matching(a_view(nn.Module(), network, real, fake))
    difference = network.features(real).mean(0) - network.features(fake).mean(0)
    assert result.shape == (1,)
    torch.testing.assert_close(result, difference.square().sum().reshape(1))
    result.sum().backward()
    assert real.grad is None
    assert fake.grad is not None


def test_feature_matching_sees_augmented_samples():
    network = Featured(some(4, 3))
    real, fake = some(6, 3, seed=1), some(6, 3, seed=2)
    view = a_view(nn.Module(), network, real, fake, augment=lambda samples: 3 * samples)
    torch.testing.assert_close(
        penalties.feature_matching(view), penalties.feature_matching(a_view(nn.Module(), network, 3 * real, 3 * fake))
    )


@pytest.mark.parametrize("sample", [(2,), (3, 4, 4)], ids=str)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_reconstruction_by_a_loop(norm, sample):
    real, fake = some(40, *sample), some(40, *sample, seed=1)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean() if norm == "l1" else (x - y).square().mean()

    result = penalties.reconstruction(a_view(nn.Module(), None, real, fake), norm=norm)
    torch.testing.assert_close(result, torch.stack([min(distance(x, y) for y in fake) for x in real]))


def test_reconstruction_pulls_the_nearest_and_leaves_the_others():
    """Two real samples share one neighbour: both pull at it."""
    real = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    fake = torch.tensor([[0.4, 0.0], [8.0, 9.0], [-50.0, 0.0]], requires_grad=True)
    result = penalties.reconstruction(a_view(nn.Module(), None, real, fake), norm="l2")
    assert result.tolist() == pytest.approx([0.08, 0.18, 0.5])
    result.sum().backward()
    assert fake.grad is not None
    torch.testing.assert_close(fake.grad, torch.tensor([[0.4 - 0.6, 0.0], [-1.0, 0.0], [0.0, 0.0]]))


@each_term
def test_generator_terms_push_towards_the_data(name):
    """Gradient descent on the samples makes the term, and their distance to the data, smaller."""
    network, real = Featured(some(4, 3) / 2), some(64, 3, seed=1) + 1
    fake = (some(64, 3, seed=2) - 1).requires_grad_()
    values = []
    for _ in range(200):
        value = TERMS[name](a_view(nn.Module(), network, real, fake)).mean()
        values.append(value.item())
        (gradient,) = torch.autograd.grad(value, fake)
        fake = (fake.detach() - 10 * gradient).requires_grad_()
    assert values[-1] < 0.5 * values[0]
    assert (fake.mean(0) - real.mean(0)).norm() < 3.4 < 12**0.5  # the distance of the two means at the start


@each_term
def test_generator_terms_of_stacked_runs_equal_the_loop(name):
    weight, real, fake = some(3, 4, 2), some(3, 5, 2), some(3, 5, 2, seed=1)
    result = TERMS[name](a_view(Stacked((1,)), Featured(weight), real, fake))
    assert result.shape == ((3, 1) if name == "feature_matching" else (3, 5))
    for run in range(3):
        alone = TERMS[name](a_view(nn.Module(), Featured(weight[run]), real[run], fake[run]))
        torch.testing.assert_close(result[run], alone)
    # One discriminator, many generators: it sees one long batch.
    result = TERMS[name](a_view(Stacked((1,)), Featured(weight[0]), real, fake))
    torch.testing.assert_close(result[1], TERMS[name](a_view(nn.Module(), Featured(weight[0]), real[1], fake[1])))


@each_term
def test_generator_terms_finite_differences(name):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    names, weights = zip(*generator.named_parameters(), strict=True)

    def value(*values: Tensor) -> Tensor:
        fake = functional_call(generator, dict(zip(names, values, strict=True)), (some(6, 2, seed=1),))
        return TERMS[name](a_view(generator, Featured(some(4, 3)), some(6, 3), fake)).mean(-1)

    assert torch.autograd.gradcheck(value, weights)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_reconstruction_under_autocast_is_exact(norm):
    real, fake = some(40, 6).float(), some(40, 6, seed=1).float()
    view = a_view(nn.Module(), None, real, fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert penalties.reconstruction(view, norm=norm).equal(penalties.reconstruction(view, norm=norm).float())
        low = penalties.reconstruction(view, norm=norm)
    assert low.equal(penalties.reconstruction(view, norm=norm))


@pytest.mark.parametrize("name", ["feature_matching", "reconstruction", "output_l1"])
def test_generator_terms_leave_the_discriminator_alone(name):
    game = make(f"regularizer={name}")
    with counted(game.discriminator.network) as asked:
        game.step(0)
    assert asked == [True, False]
    assert f"penalty/{name}" in game.statistics()


# --- input noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(400, 2), (40, 3, 8, 8), (3, 200, 2)], ids=str)
def test_input_noise(shape):
    samples = some(*shape).float()
    noise = InputNoise(sd=0.3, schedule=None)
    difference = noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), 5) - samples
    assert difference.std().item() == pytest.approx(0.3, rel=0.1)
    assert difference.mean().abs() < 0.05
    assert len(set(difference.flatten(0, -2)[:, 0].tolist())) > 10  # each sample has its own
    again = noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), 9)
    assert again.equal(samples + difference) or torch.allclose(again, samples + difference)


def test_input_noise_fades_with_its_schedule():
    samples = some(100, 3).float()
    noise = InputNoise(sd=0.5, schedule=partial(linear, steps=10, warmup=0, end=0.0))
    sizes = [
        (noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), step) - samples).norm() for step in range(11)
    ]
    for step in range(11):
        torch.testing.assert_close(sizes[step], sizes[0] * (1 - step / 10), rtol=1e-4, atol=1e-4)
    assert noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), 10).equal(samples)
    low = noise(samples.bfloat16(), fixed_randomness(0, "noise", torch.device("cpu")), 0)
    assert low.dtype == torch.bfloat16


def seen_at(game: Adversarial, step: int) -> tuple[Tensor, Tensor]:
    """The real batch of a step, and what the discriminator was shown of it first."""
    shown: list[Tensor] = []
    network = game.discriminator.network
    handle = network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].detach()))
    game.step(step)
    handle.remove()
    real, _ = game.batch(step)
    shown = [samples[: len(real)] for samples in shown]  # generated ones may be in the same batch
    return real, next(samples for samples in shown if (samples - real).norm() <= 0.5 * real.norm())


@pytest.mark.parametrize("data", [["dataset=digits", "dataset.held_out=0.05"], ["dataset=ring"]], ids=str)
def test_input_noise_fades_in_a_game(data: list[str]):
    words = [*POINTS, *data, "augmentation=input_noise", "augmentation.input_noise.sd=0.2", "steps=4"]
    game = build(compose(*words, "lr_schedule@augmentation.input_noise.schedule=linear"), [])[0]
    assert isinstance(game, Adversarial)
    for step in range(6):
        real, shown = seen_at(game, step)
        assert (shown - real).std().item() == pytest.approx(0.2 * max(1 - step / 4, 0), rel=0.5)
        assert shown.equal(real) == (step >= 4)
    constant = build(compose(*words), [])[0]
    assert isinstance(constant, Adversarial)
    real, shown = seen_at(constant, 5)
    assert (shown - real).std().item() == pytest.approx(0.2, rel=0.5)


def test_input_noise_s_schedule_ends_with_a_run_counted_in_epochs():
    words = [*TINY, "model=mlp", *TINY_MODEL, "loss=hinge", "discriminator_steps=1", "steps=null", "epochs=1"]
    built = build(
        compose(*words, "augmentation=[input_noise]", "lr_schedule@augmentation.input_noise.schedule=linear"), []
    )
    game, steps = built[0], built[2]
    assert isinstance(game, Adversarial)
    (noise,) = game.augmentations
    samples = torch.zeros(2, 1, 8, 8)
    assert not noise(samples, game.randomness, steps - 1).equal(samples)
    assert noise(samples, game.randomness, steps).equal(samples)


def test_functions_and_classes_of_augmentations_go_together():
    game = make("augmentation=[diffaugment,input_noise]", "regularizer=r1")
    for step in range(2):
        game.step(step)
    samples = some(4, 1, 8, 8).float()
    game.randomness.start_step(3)
    result = game.augment(samples, game.randomness, 3)
    game.randomness.start_step(3)
    node = yaml.safe_load((CONF / "augmentation" / "diffaugment.yaml").read_text())
    expected = diffaugment(samples, game.randomness, **{key: node[key] for key in ("color", "translation", "cutout")})
    torch.testing.assert_close(result, expected + 0.1 * game.randomness.normal(4, 1, 8, 8))


# --- label smoothing --------------------------------------------------------------------------------------------------


SMOOTHED = (losses.BinaryCrossEntropy, losses.SaturatingBinaryCrossEntropy)


@pytest.mark.parametrize("loss", SMOOTHED)
@pytest.mark.parametrize(("real_label", "fake_label"), [(1.0, 0.0), (0.9, 0.0), (0.9, 0.1), (0.5, 0.3)])
def test_label_smoothing_is_torch_s_cross_entropy(loss, real_label, fake_label):
    view: Any = SimpleNamespace(real_logits=3 * some(3, 7), fake_logits=3 * some(3, 7, seed=1))
    result = loss(real_label=real_label, fake_label=fake_label).discriminator(view)
    expected = sum(
        F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
        for logits, label in ((view.real_logits, real_label), (view.fake_logits, fake_label))
    )
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("loss", SMOOTHED)
def test_without_smoothing_every_bit_is_as_before(loss):
    real, fake = (10 * some(1000, seed=seed).float() for seed in (0, 1))
    real[:4] = torch.tensor([0.0, -0.0, 200.0, -200.0])
    results = []
    for formula in (loss().discriminator, lambda view: F.softplus(-view.real_logits) + F.softplus(view.fake_logits)):
        view: Any = SimpleNamespace(real_logits=real.requires_grad_(), fake_logits=fake.requires_grad_())
        value = formula(view)
        results.append((value, *torch.autograd.grad(value.sum(), (real, fake))))
    assert all(one.equal(other) for one, other in zip(*results, strict=True))


def test_smoothed_labels_are_where_the_discriminator_comes_to_rest():
    """At σ(x) = t the gradient vanishes, on the smoothed side alone; the generator's side is the same as without."""
    loss, plain = losses.BinaryCrossEntropy(real_label=0.9), losses.BinaryCrossEntropy()
    real = torch.tensor([0.9], dtype=torch.float64).logit().requires_grad_()
    fake = torch.tensor([0.3], dtype=torch.float64).requires_grad_()
    view: Any = SimpleNamespace(real_logits=real, fake_logits=fake)
    on_real, on_fake = torch.autograd.grad(loss.discriminator(view).sum(), (real, fake))
    torch.testing.assert_close(on_real, torch.zeros_like(on_real))
    torch.testing.assert_close(on_fake, fake.detach().sigmoid())
    for smoothed, bare in ((loss, plain), (losses.SaturatingBinaryCrossEntropy(fake_label=0.1, real_label=0.8),
                                          losses.SaturatingBinaryCrossEntropy())):  # fmt: skip
        assert smoothed.generator(view).equal(bare.generator(view))


def test_label_smoothing_on_the_command_line():
    game = make("loss=bce", "loss.real_label=0.9", "loss.fake_label=0.1")
    game.step(0)
    loss: Any = game.discriminator.terms["loss"].of
    assert (loss.__self__.real_label, loss.__self__.fake_label) == (0.9, 0.1)
    with pytest.raises(ValueError, match=r"^fake_label=0.3, real_label=0.2: must be 0 <= fake < real <= 1$"):
        losses.BinaryCrossEntropy(real_label=0.2, fake_label=0.3)


# --- latents ----------------------------------------------------------------------------------------------------------


def test_truncated_normal_moments_and_bounds():
    draws = latents.truncated_normal(fixed_randomness(0, "latents", torch.device("cpu")), 1000, 200).double()
    assert draws.shape == (1000, 200)
    assert draws.abs().max() <= 2
    assert draws.abs().max() > 1.999
    density, inside = math.exp(-2) / math.sqrt(2 * math.pi), math.erf(math.sqrt(2))
    variance = 1 - 4 * density / inside
    assert draws.mean().item() == pytest.approx(0, abs=0.01)
    assert draws.var().item() == pytest.approx(variance, abs=0.01)  # 0.774
    fourth = 3 * variance - 8 * 2 * density / inside  # E z⁴ = 3 E z² - 2·2³ φ(2) / P(|z| < 2)
    assert draws.pow(4).mean().item() == pytest.approx(fourth, abs=0.03)
    for at in (-1.5, -0.5, 0.0, 1.0, 1.9):
        expected = (math.erf(at / math.sqrt(2)) + inside) / (2 * inside)
        assert (draws < at).double().mean().item() == pytest.approx(expected, abs=0.005)


def test_truncated_normal_at_the_ends_of_the_uniform():
    last = 1 - 2.0**-24
    ends: Any = Given(torch.tensor([0.0, 2.0**-24, 0.5, last]))
    draws = latents.truncated_normal(ends, 4)
    assert draws.tolist() == pytest.approx([-2, -2, 0, 2], abs=1e-5)
    assert draws.abs().max() <= 2
    assert (draws.diff() >= 0).all()


def test_truncated_normal_feeds_a_generator():
    game = make("model.latent_distribution=truncated_normal")
    game.step(0)
    assert game.draw_latents(game.randomness, 500).abs().max() <= 2
    with pytest.raises(ConfigError, match=r"latent_distribution=truncated: .*did you mean 'truncated_normal'"):
        make("model.latent_distribution=truncated")


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_step_with_all_of_it_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    game = make(
        "model.latent_distribution=truncated_normal",
        "loss=bce",
        "loss.real_label=0.9",
        "augmentation=input_noise",
        "lr_schedule@augmentation.input_noise.schedule=linear",
        "regularizer=[value_range,max_norm,output_l1,iterative_gradient_penalty,adversarial_perturbation,"
        "feature_matching,reconstruction,consistency,balanced_consistency]",
    )
    step_without_sync(game, monkeypatch)
    assert isinstance(game.data, Data)


@pytest.mark.parametrize("name", ["output_l1", "iterative_gradient_penalty", "adversarial_perturbation",
                                  "feature_matching", "reconstruction"])  # fmt: skip
def test_on_points(name: str) -> None:
    game = build(compose(*POINTS, f"regularizer={name}", "discriminator_steps=1"), [])[0]
    for step in range(2):
        game.step(step)
    assert math.isfinite(float(game.statistics()[f"penalty/{name}"]))


def test_bf16() -> None:
    game = make(
        "precision=bf16",
        "regularizer=[output_l1,iterative_gradient_penalty,adversarial_perturbation,feature_matching,reconstruction,"
        "balanced_consistency]",
        "augmentation=input_noise",
    )
    game.step(0)
    assert all(math.isfinite(float(value)) for value in game.statistics().values())
    assert game.discriminator.terms["iterative_gradient_penalty"].value.dtype == torch.float32
