"""Latents: the moments and bounds of their distributions."""

import math
from typing import Any

import pytest
import torch

from gan_runner.config.errors import ConfigError
from gan_runner.games import latents
from gan_runner.torch_utils.randomness import fixed_randomness
from tests.helpers.games import make_game
from tests.helpers.penalties import Given


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
    game = make_game("model.latent_distribution=truncated_normal")
    game.step(0)
    assert game.draw_latents(game.randomness, 500).abs().max() <= 2
    with pytest.raises(ConfigError, match=r"latent_distribution=truncated: .*did you mean 'truncated_normal'"):
        make_game("model.latent_distribution=truncated")
