"""Packed discriminators: what they see, what their gradients are, and where they are refused."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_runner.config.errors import ConfigError
from gan_runner.games.view import AdversarialView
from gan_runner.models.packed import Packed
from gan_runner.regularizers import penalties
from gan_runner.training.build import build
from tests.helpers import TINY, TINY_MODEL, compose, naming
from tests.helpers.games import build_game, take_steps
from tests.helpers.penalties import Given, Linear, Quadratic, Seeded, Unlabelled, a_view, some

WORDS = [*TINY, "loss=hinge", "metric=none", "discriminator_steps=1"]


class Noted(nn.Module):
    """A discriminator that keeps what it sees; features (N, 2)."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape, self.seen = shape, torch.empty(0)

    def features(self, x: Tensor) -> Tensor:
        assert tuple(x.shape[-len(self.shape) :]) == self.shape
        self.seen = x
        return x.flatten(-len(self.shape))[..., :2]

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.features(x).sum(-1)


@pytest.mark.parametrize("sample", [(2,), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("runs", [(), (2,)])
def test_samples_side_by_side(sample: tuple[int, ...], runs: tuple[int, ...]) -> None:
    packed, x = Packed(Noted, sample, 3), torch.randn(*runs, 6, *sample)
    logits = packed(x)
    seen: Tensor = packed.packed.seen  # type: ignore[assignment]
    assert tuple(seen.shape) == (*runs, 2, 3 * sample[0], *sample[1:])
    first, second = seen.narrow(len(runs), 0, 1).squeeze(len(runs)), seen.narrow(len(runs), 1, 1).squeeze(len(runs))
    torch.testing.assert_close(first, torch.cat([x.select(len(runs), n) for n in range(3)], len(runs)))
    torch.testing.assert_close(second, torch.cat([x.select(len(runs), n) for n in range(3, 6)], len(runs)))
    assert logits.shape == (*runs, 6)
    torch.testing.assert_close(logits.unflatten(-1, (2, 3)), logits[..., ::3].unsqueeze(-1).expand(*runs, 2, 3))
    assert packed.features(x).shape == (*runs, 6, 2)


def test_a_part_of_a_pack_is_refused() -> None:
    with pytest.raises(ValueError, match=naming("pack=3", "4")):
        Packed(Noted, (2,), 3)(torch.zeros(4, 2))


# --- gradients --------------------------------------------------------------------------------------------------------


def packed_view(network: nn.Module, real: Tensor, fake: Tensor, randomness: Any = None) -> AdversarialView:
    """The discriminator's turn on packs of two points in space."""
    packed = Packed(lambda shape: Unlabelled(network), (3,), 2)
    real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
    return a_view(packed, packed, real, fake, pack=2, randomness=randomness or Seeded())


@pytest.mark.parametrize("name", ["r1", "r2", "zero_centered_gradient_penalty"])
def test_the_slope_is_that_of_the_pack(name: str) -> None:
    """Of a linear D(x, y) = <v, x> + <w, y> it is |(v, w)|, for each sample of a pack."""
    weight = some(6)
    found = getattr(penalties, name)(packed_view(Linear(weight), some(4, 3), some(4, 3, seed=1)))
    torch.testing.assert_close(found, (weight.square().sum() / 2).expand(4))


def test_one_point_between_two_packs() -> None:
    """As of a discriminator whose samples are the packs: the same value, for twice as many samples."""
    network, real, fake = Quadratic(some(6, 6)), some(4, 3, seed=1), some(4, 3, seed=2)
    position = torch.tensor([0.25, 0.75], dtype=torch.float64)
    found = penalties.gradient_penalty(packed_view(network, real, fake, Given(position)), target=1.0)
    whole = a_view(network, Unlabelled(network), real.reshape(2, 6), fake.reshape(2, 6), randomness=Given(position))
    torch.testing.assert_close(found, penalties.gradient_penalty(whole, target=1.0).repeat_interleave(2))


# --- in games ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet"])
def test_every_discriminator_can_have_it(model: str) -> None:
    small = [word.replace("depth=2", "depth=1") for word in TINY_MODEL] if model == "resnet" else TINY_MODEL
    words = [*WORDS, f"model={model}", *small, "model.discriminator.pack=2", "regularizer=[gradient_penalty,r1,lecam]"]
    values = take_steps(build_game(compose(*words, "regularizer.lecam.start=0")), 2)
    assert all(math.isfinite(value) for value in values.values())
    assert "logits/held_out" in values


def test_the_players_learn_as_if_packs_were_the_samples() -> None:
    """Means over samples are means over packs: the generator's gradient is that of the packs' mean."""
    game = build_game(compose(*WORDS, "model=mlp", *TINY_MODEL, "model.discriminator.pack=4"))
    network, fake = game.discriminator.network, torch.randn(8, 1, 8, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(fake).mean(), fake)
    (expected,) = torch.autograd.grad(network.packed(fake.reshape(2, 4, 8, 8)).mean(), fake)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["batch_size=9"], ["batch_size=9", "model.discriminator.pack=2"]),
        (["generator_batch_size=5"], ["generator_batch_size=5", "model.discriminator.pack=2"]),
        (["conditional=true"], ["model.discriminator.pack=2", "conditional=false"]),
        (["model.discriminator.pack=0"], ["model.discriminator.pack=0"]),
        (["+model.generator.pack=2"], ["model.generator.pack"]),
        (["model.discriminator.normalization=batch", "regularizer=r1"], ["normalization=batch", "r1"]),
    ],
)
def test_refusals(words: list[str], named: list[str]) -> None:
    with pytest.raises(ConfigError, match=naming(*named)):
        build(compose(*WORDS, "model=mlp", *TINY_MODEL, "model.discriminator.pack=2", *words), [])
