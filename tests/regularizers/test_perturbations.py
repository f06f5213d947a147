"""Penalties on moved samples: adversarial perturbation, consistency."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan_runner import losses
from gan_runner.regularizers import penalties
from gan_runner.training.build import build
from tests.helpers import compose
from tests.helpers.games import POINTS, counted, make_game
from tests.helpers.penalties import (
    Curved,
    Given,
    Linear,
    Quadratic,
    Seeded,
    Unlabelled,
    a_view,
    an_iterative,
    smooth_network,
    some,
    view_of,
    with_loss,
)


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
    game = make_game("regularizer=adversarial_perturbation")
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


@pytest.mark.parametrize("name", ["consistency", "balanced_consistency", "improved_consistency"])
def test_consistency_of_points_is_refused(name):
    game = build(compose(*POINTS, f"regularizer={name}"), [])[0]
    with pytest.raises(ValueError, match=rf"regularizer={name} flips and moves images .*not points \(8, 2\)"):
        game.step(0)


LATENTS = some(6, 3, seed=5)
NOISE = some(6, 3, seed=6)


def latent_view(on: str, matrix: Tensor) -> Any:
    """A turn in which the generator makes A z of latents z, and the noise is known."""
    network, fake = Linear(some(64)), (LATENTS @ matrix).reshape(6, 2, 4, 8)
    view = view_of(network, some(6, 2, 4, 8), fake.detach(), Seeded())
    draws: Any = SimpleNamespace(normal=lambda *shape: NOISE.reshape(shape), uniform=view.randomness.uniform)
    learner = view.discriminator if on == "discriminator" else nn.Module()
    fake = view.fake if on == "discriminator" else fake
    given: Any = {"latents": LATENTS, "generate": lambda latents: (latents @ matrix).reshape(6, 2, 4, 8)}
    return replace(view, learner=learner, fake=fake, randomness=draws, **given)


ZCR: dict[str, Any] = {"discriminator": 20.0, "generator": 0.5, "scale": 0.1}


def test_latent_consistency_of_a_linear_game():
    """D(G(z + ε)) - D(G(z)) = <w, A ε>; on the generator the squared mean of A ε, which it is to raise."""
    matrix = some(3, 64, seed=7).requires_grad_()
    moved = 0.1 * NOISE @ matrix
    view = latent_view("discriminator", matrix)
    found = penalties.latent_consistency(view, **ZCR)
    torch.testing.assert_close(found, 20 * (moved @ Linear(some(64)).weight).square())
    (gradient,) = torch.autograd.grad(found.sum(), matrix, allow_unused=True)
    assert gradient is None  # the generator does not learn in this turn
    found = penalties.latent_consistency(latent_view("generator", matrix), **ZCR)
    torch.testing.assert_close(found, -0.5 * moved.square().mean(-1))
    (gradient,) = torch.autograd.grad(found.mean(), matrix)
    assert (gradient * matrix).sum() < 0  # descent: images further apart


def test_improved_consistency_is_both():
    matrix = some(3, 64, seed=7)
    keys: dict[str, Any] = {"real": 2.0, "fake": 3.0}
    for on in ("discriminator", "generator"):
        expected = penalties.latent_consistency(latent_view(on, matrix), **ZCR)
        if on == "discriminator":
            expected = expected + penalties.balanced_consistency(latent_view(on, matrix), **keys, **KEYS)
        found = penalties.improved_consistency(latent_view(on, matrix), **keys, **ZCR, **KEYS)
        torch.testing.assert_close(found, expected)


def test_latent_consistency_is_on_both_players_and_costs_no_gradient_of_the_other():
    game = make_game("regularizer=latent_consistency")
    tags = {tag for tag in game.step(0, is_logged=True) if tag.startswith("penalty/")}
    assert tags == {"penalty/latent_consistency/generator", "penalty/latent_consistency/discriminator"}


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
