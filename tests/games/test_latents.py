"""Latents: the moments and bounds of their distributions, and the ways from one to another."""

import math
from typing import Any

import pytest
import torch

from gan_runner.config.errors import ConfigError
from gan_runner.games.latents import DISTRIBUTIONS, Normal, TruncatedNormal, Uniform
from gan_runner.torch_utils.randomness import fixed_randomness
from tests.helpers.games import make_game
from tests.helpers.penalties import Given

CPU = torch.device("cpu")


@pytest.mark.parametrize("bound", [0.5, 2.0, 3.0])
def test_truncated_normal_moments_and_bounds(bound):
    draws = TruncatedNormal(200, bound).draw(fixed_randomness(0, "latents", CPU), 1000).double()
    assert draws.shape == (1000, 200)
    assert draws.abs().max() <= bound
    assert draws.abs().max() > 0.98 * bound
    density, inside = math.exp(-(bound**2) / 2) / math.sqrt(2 * math.pi), math.erf(bound / math.sqrt(2))
    variance = 1 - 2 * bound * density / inside
    assert draws.mean().item() == pytest.approx(0, abs=0.01)
    assert draws.var().item() == pytest.approx(variance, abs=0.01)  # 0.774 within [-2, 2]
    fourth = 3 * variance - 2 * bound**3 * density / inside
    assert draws.pow(4).mean().item() == pytest.approx(fourth, abs=0.03)
    for at in (-0.75, -0.25, 0.0, 0.5, 0.95):
        expected = (math.erf(at * bound / math.sqrt(2)) + inside) / (2 * inside)
        assert (draws < at * bound).double().mean().item() == pytest.approx(expected, abs=0.005)


def test_truncated_normal_at_the_ends_of_the_uniform():
    last = 1 - 2.0**-24
    ends: Any = Given(torch.tensor([[0.0, 2.0**-24, 0.5, last]]))
    draws = TruncatedNormal(4).draw(ends, 1)
    assert draws.squeeze().tolist() == pytest.approx([-2, -2, 0, 2], abs=1e-5)
    assert draws.abs().max() <= 2
    assert (draws.diff() >= 0).all()
    ends = Given(torch.tensor([[0.0, 2.0**-24, 0.5, last]]))
    far = TruncatedNormal(4, 100.0).draw(ends, 1)  # as good as not truncated: nothing comes to lie at the bound
    assert far.abs().max() < 6
    assert (far.diff() >= 0).all()


def test_truncated_normal_feeds_a_generator():
    game = make_game("model.latent_distribution=truncated_normal")
    game.step(0)
    assert game.draw_latents(game.randomness, 500).abs().max() <= 2
    with pytest.raises(ConfigError, match=r"latent_distribution=truncated: .*did you mean 'truncated_normal'"):
        make_game("model.latent_distribution=truncated")


def test_what_can_be_truncated():
    game = make_game()
    game.truncate(0.5)
    assert 0.45 < game.draw_latents(game.randomness, 500).abs().max() <= 0.5
    assert TruncatedNormal(3).truncated(0.1) == TruncatedNormal(3, 0.1)
    assert TruncatedNormal(3).truncated(9.0) == TruncatedNormal(3)  # the generator has seen nothing beyond 2
    with pytest.raises(ValueError, match="only normal latents can be truncated"):
        make_game("model.latent_distribution=uniform").truncate(0.5)


def walk(distribution, start, end, count=9):
    return distribution.interpolate(start, end, torch.linspace(0, 1, count).unsqueeze(1))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_walk_goes_from_one_latent_to_the_other_within_the_distribution(name, size):
    distribution = DISTRIBUTIONS[name](size)
    draws = distribution.draw(fixed_randomness(1, "walk", CPU), 200)
    for start, end in zip(*draws.chunk(2), strict=True):
        steps = walk(distribution, start, end)
        torch.testing.assert_close(steps[[0, -1]], torch.stack([start, end]), atol=1e-5, rtol=1e-5)
        assert steps.isfinite().all()
        bound = {"normal": math.inf, "uniform": 1, "truncated_normal": 2}[name]
        assert steps.abs().max() <= bound + 1e-6


def test_normal_latents_are_walked_along_a_circle():
    start, end = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 3.0])
    steps = walk(Normal(2), start, end, 3)
    torch.testing.assert_close(steps[1], torch.tensor([1.0, 1.0]) * 3 / math.sqrt(2))
    torch.testing.assert_close(walk(Uniform(2), start, end, 3)[1], torch.tensor([1.5, 1.5]))


@pytest.mark.parametrize("scale", [1.0, -1.0, 1 + 1e-7, -1 - 1e-7, 0.0, 2.0])
@pytest.mark.parametrize("size", [1, 2, 100])
def test_parallel_latents_are_walked_along_a_line(scale, size):
    start = Normal(size).draw(fixed_randomness(0, "walk", CPU))
    steps = walk(Normal(size), start, scale * start)
    expected = torch.lerp(torch.ones(9), torch.full((9,), scale), torch.linspace(0, 1, 9)).unsqueeze(1) * start
    if scale:
        torch.testing.assert_close(steps, expected, atol=1e-4, rtol=1e-4)
    assert steps.isfinite().all()
