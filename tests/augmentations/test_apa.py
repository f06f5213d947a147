"""APA: which samples the discriminator is shown as real ones."""

from typing import Any

import pytest
import torch

from gan_runner.augmentations import Apa
from gan_runner.config.errors import ConfigError
from gan_runner.torch_utils.randomness import fixed_randomness
from gan_runner.training.build import build
from tests.helpers import TINY, compose
from tests.helpers.games import POINTS, make_game, restore, save, take_steps
from tests.helpers.games import build_game as game_of

KEYS: dict[str, Any] = {"p": 0.3, "target": None, "interval": 4, "images": 1000}


@pytest.mark.parametrize(("shape", "leading"), [((4000, 1, 2, 2), ()), ((3, 2000, 2), (3,))], ids=str)
def test_a_share_of_p_is_replaced_whole_and_in_place(shape, leading):
    real = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    batch_shape = shape[: len(leading) + 1]
    result = Apa(**KEYS).replace(real, -1 - real, batch_shape, fixed_randomness(0, "apa", torch.device("cpu")))
    is_replaced = (result < 0).flatten(len(batch_shape)).all(-1)
    assert is_replaced.equal((result < 0).flatten(len(batch_shape)).any(-1))
    assert is_replaced.double().mean().item() == pytest.approx(0.3, abs=0.03)
    assert result.abs().sub(real).abs().max() <= 1


def test_each_run_has_its_own_p():
    real = torch.zeros(2, 8, 3)
    apa = Apa(**KEYS)
    for p in (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]).reshape(2, 1, 1)):
        apa.p = p
        result = apa.replace(real, real + 1, (2, 8), fixed_randomness(0, "apa", torch.device("cpu")))
        assert result.flatten(1).mean(1).tolist() == [0, 1]


@pytest.mark.parametrize("words", [["conditional=true"], ["regularizer=r1"]], ids=str)
def test_the_discriminator_s_turn_alone_has_pseudo_samples(words, monkeypatch):
    game = make_game("augmentation=apa", "augmentation.apa.target=null", "augmentation.apa.p=1", *words)
    seen = []
    view = game.view
    monkeypatch.setattr(game, "view", lambda *args, **keys: seen.append(args) or view(*args, **keys))  # type: ignore[func-returns-value]
    game.step(0)
    (of_discriminator, of_generator), (real, _) = seen, game.batch(0)
    assert not of_discriminator[1].equal(real)
    assert not of_discriminator[1].equal(of_discriminator[2])  # other fakes than those it is shown as such
    assert of_discriminator[1].requires_grad
    assert of_discriminator[1].grad_fn is None
    assert of_generator[1].equal(real)
    game = make_game("augmentation=apa", *words)  # p starts at 0
    values, plain = take_steps(game, 1), take_steps(make_game(*words), 1)
    assert values["logits/real"] == pytest.approx(plain["logits/real"])


def test_p_is_adaptive_for_points_too_and_goes_on():
    words = [*POINTS, "augmentation=[input_noise,apa]", "augmentation.apa.images=64", "augmentation.apa.target=-1"]
    game, other = (game_of(compose(*words, "metric=none")) for _ in range(2))
    assert take_steps(game, 4)["state/apa/p"] == pytest.approx(0.5)
    restore(other, save(game))
    assert take_steps(game, 3, 4) == take_steps(other, 3, 4)
    assert save(game) == save(other)


def test_an_autoencoder_has_no_use_for_it():
    with pytest.raises(ConfigError, match=r"augmentation: .* an autoencoder has none"):
        build(compose(*TINY, "model=vae", "loss=elbo", "augmentation=apa"), [])


def test_its_p_on_a_schedule():
    """The share of the step that is taken, and not of the one before."""
    words = ["augmentation.apa.target=null", "augmentation.apa.p=1", "lr_schedule@augmentation.apa.p_schedule=linear"]
    game = make_game("augmentation=apa", *words, "augmentation.apa.p_schedule.steps=2")
    real, labels = game.batch(0)
    assert not torch.isclose(game.with_pseudo_samples(real, labels, 0), real).flatten(1).all(1).any()
    assert game.with_pseudo_samples(real, labels, 2).equal(real)
