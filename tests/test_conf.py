"""Every file in conf/ composes, builds and trains, whatever it is combined with."""

import itertools
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gan_runner.config.errors import ConfigError
from gan_runner.games.game import Game
from gan_runner.runs.build import build
from tests.helpers import CONF, TINY, TINY_MODEL, compose, options
from tests.helpers.games import take_steps

GROUPS = ("model", "loss", "regularizer", "augmentation", "optimizer", "lr_schedule")
POINTS = ("gaussian_2d", "ring", "grid", "swiss_roll")
PENALTIES_OF_LOSSES = {"wgan_gp": {"gradient_penalty"}}
AUTOENCODING = ("elbo", "vae")  # go with each other alone
ADVERSARIAL = [loss for loss in options("loss") if loss not in AUTOENCODING]
VAE = ["dataset.normalization=unit"]
ON_ANY_NETWORK = (
    "gradient_clip",
    "l1",
    "l2",
    "max_norm",
    "orthogonal",
    "output_l1",
    "spectral_norm",
    "value_range",
    "weight_clip",
)


def train(*overrides: str, steps: int = 3) -> Any:
    """A game after a few steps on tiny digits, with statistics that are numbers."""
    game = build(compose(*TINY, "discriminator_steps=1", *overrides), []).game
    values = take_steps(game, steps)
    assert all(math.isfinite(value) for value in values.values()), values
    return game


def penalties(game: Game) -> set[str]:
    return {tag.split("/")[0] for tag, _ in game.penalties()}


SMALL = {
    "resnet": [key.replace("depth=2", "depth=1") for key in TINY_MODEL],
    "dense_deconv": ["model.generator.width=8", "model.generator.dense=[8]", "model.discriminator.width=8"],
    "vae": ["model.autoencoder.encoder_width=[8]", "model.autoencoder.decoder_width=[8]", *VAE],
}


@pytest.mark.parametrize(("group", "option"), [(group, option) for group in GROUPS for option in options(group)])
def test_every_option_trains(group: str, option: str) -> None:
    if option in AUTOENCODING:
        train("model=vae", "loss=elbo", *SMALL["vae"])
    else:
        train(f"{group}={option}", *SMALL.get(option, TINY_MODEL))


@pytest.mark.parametrize("regularizer", options("regularizer"))
def test_an_autoencoder_with_every_regularizer(regularizer: str) -> None:
    """It trains with those that may be on either player, and refuses the others."""
    node = yaml.safe_load((CONF / "regularizer" / f"{regularizer}.yaml").read_text()) or {}
    words = ["model=vae", "loss=elbo", *SMALL["vae"], f"regularizer={regularizer}"]
    if node and regularizer not in ON_ANY_NETWORK:
        with pytest.raises(ConfigError, match=rf"regularizer.{regularizer}"):
            train(*words, f"++regularizer.{regularizer}.on=[autoencoder]")
        return
    game = train(*words, *([f"regularizer.{regularizer}.on=[autoencoder]"] if node else []))
    assert penalties(game) == {"kl"} | ({regularizer} if node.get("role") == "penalty" else set())


@pytest.mark.parametrize(("loss", "regularizer"), list(itertools.product(ADVERSARIAL, options("regularizer"))))
def test_every_loss_with_every_regularizer(loss: str, regularizer: str) -> None:
    game = train(f"loss={loss}", f"regularizer={regularizer}", "model=mlp", *TINY_MODEL, steps=3)
    text = (CONF / "regularizer" / f"{regularizer}.yaml").read_text()
    assert penalties(game) == ({regularizer} if "role: penalty" in text else set()) | PENALTIES_OF_LOSSES.get(
        loss, set()
    )
    projections = {"weight_clip"} if loss == "wgan" else set()
    projections |= {regularizer} if "role: projection" in text else set()
    assert len(game.discriminator.projections) == len(projections)


@pytest.mark.parametrize("dataset", POINTS)
def test_points(dataset: str) -> None:
    words = [
        f"dataset={dataset}",
        "batch_size=8",
        "model.latent_size=4",
        "model=mlp",
        *TINY_MODEL,
        "discriminator_steps=1",
    ]
    game = build(compose(*words), []).game
    assert all(math.isfinite(value) for value in take_steps(game).values())


IMAGES = {
    "mnist": (28, 28, 1),
    "stacked_mnist": (28, 28, 3),
    "cifar10": (32, 32, 3),
    "celeba": (64, 64, 3),
    "npy": (64, 64, 3),
}


@pytest.mark.parametrize("experiment", options("experiment"))
def test_every_experiment_trains(experiment: str, tmp_path: Path) -> None:
    """On images of its own size and channels; the data is another, unless it is generated."""
    path = tmp_path / "images.npy"
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    (dataset,) = re.findall(r"/dataset: (\w+)", text) or ["digits"]
    words = [f"experiment={experiment}", "batch_size=4", "device=cpu", "discriminator_steps=1"]
    if dataset in IMAGES:
        np.save(path, np.random.default_rng(0).integers(0, 256, (8, *IMAGES[dataset]), dtype=np.uint8))
        words += ["dataset=npy", f"dataset.path={path}"]
    if "/model: resnet" in text or "/model: dcgan" in text:
        words += ["model.generator.width=8", "model.discriminator.width=8"]
    game, settings, *_ = build(compose(*words), [])
    assert all(math.isfinite(value) for value in take_steps(game).values())
    nodes = compose(*words).get("regularizer") or {}
    wanted = {name for name, node in nodes.items() if node["role"] == "penalty"}
    assert penalties(game) == wanted
    assert settings.epochs or settings.steps


def test_every_file_says_what_it_is() -> None:
    for path in CONF.glob("*/*.yaml"):
        comments = [
            line for line in path.read_text().splitlines()[:3] if line.startswith("# ") and "@package" not in line
        ]
        assert comments, path


def test_every_regularizer_has_a_schedule_slot() -> None:
    for name in options("regularizer"):
        node = yaml.safe_load((CONF / "regularizer" / f"{name}.yaml").read_text()) or {}
        if node.get("role") == "penalty":
            words = [f"regularizer={name}", f"lr_schedule@regularizer.{name}.schedule=linear", "loss=hinge"]
            assert compose(*words)["regularizer"][name]["schedule"]["end"] == 0.0


def test_a_loss_that_brings_a_penalty_keeps_it_beside_others() -> None:
    assert penalties(train("loss=wgan_gp", "regularizer=[l1,r1]", "model=mlp", *TINY_MODEL)) == {
        "gradient_penalty",
        "l1",
        "r1",
    }
    assert (
        compose("loss=wgan_gp", "regularizer=l1", "regularizer.gradient_penalty.weight=3")["regularizer"][
            "gradient_penalty"
        ]["weight"]
        == 3
    )
    assert compose("loss=wgan_gp")["discriminator_steps"] == compose("loss=wgan")["discriminator_steps"] == 5


def test_a_penalty_inline_in_a_loss_is_the_option_of_that_name() -> None:
    for loss, name in (("wgan_gp", "gradient_penalty"), ("wgan", "weight_clip")):
        inline = compose(f"loss={loss}")["regularizer"][name]
        assert inline == compose("loss=hinge", f"regularizer={name}")["regularizer"][name]


def test_the_slots_of_the_players_optimizers() -> None:
    game = train(
        "optimizer@optimizer.discriminator=rmsprop", "optimizer.generator.betas=[0.5,0.9]", "model=mlp", *TINY_MODEL
    )
    assert isinstance(game.discriminator.optimizer, torch.optim.RMSprop)
    assert game.generator.optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    game = train("optimizer.lr=1e-3", "optimizer.discriminator.lr=5e-5", "model=mlp", *TINY_MODEL)
    assert game.generator.optimizer.param_groups[0]["lr"] == 1e-3
    assert game.discriminator.optimizer.param_groups[0]["lr"] == 5e-5


def test_lr_schedule_acts_on_both_players() -> None:
    game = train(
        "lr_schedule=linear", "steps=4", "optimizer.lr=1.0", "optimizer.discriminator.lr=2.0", "model=mlp", *TINY_MODEL
    )
    assert [player.optimizer.param_groups[0]["lr"] for _, player in game.players.items()] == [
        0.5,
        1.0,
    ]  # of step 2 of 4
