"""The presets that name a paper: their networks layer by layer, and the settings that the authors' code has."""

import math
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gan_runner.config.instantiate import component
from gan_runner.training.budgets import count_parameters
from gan_runner.training.build import Built, build
from tests.helpers import compose, some
from tests.helpers.models import outputs_of

SIDES = {"dcgan_paper": 64, "wgan_paper": 64, "wgan_gp_paper": 32, "sngan_paper": 32}


def built(name: str, folder: Path, *words: str) -> Built:
    """A preset as it stands, on a few images of its own format in the place of its dataset."""
    side, path = SIDES.get(name, 64), folder / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (256, side, side, 3), dtype=np.uint8))
    config = compose(f"experiment={name}", "dataset=npy", f"dataset.path={path}", "device=cpu", *words)
    return build(config | {"metric": {}}, [])  # Inception's weights are not at hand


def settings_of(optimizer: torch.optim.Optimizer, *names: str) -> list[Any]:
    (group,) = optimizer.param_groups
    return [group[name] for name in names]


@pytest.mark.parametrize("name", SIDES)
def test_no_paper_has_a_moving_average(name: str) -> None:
    assert compose(f"experiment={name}")["ema_half_life"] is None


def test_dcgan(tmp_path: Path) -> None:
    """As in faces/train_uncond_dcgan.py, but for biases: layer by layer at 64x64."""
    game = built("dcgan_paper", tmp_path).game
    generator, discriminator = game.players["generator"].network, game.players["discriminator"].network
    latents = game.draw_latents(game.randomness, 500)
    assert latents.shape == (500, 100)
    assert -1 <= latents.min() < -0.99 < 0.99 < latents.max() <= 1
    assert outputs_of(generator, (nn.Unflatten, nn.ConvTranspose2d), latents[:2]) == [
        (1024, 4, 4), (512, 8, 8), (256, 16, 16), (128, 32, 32), (3, 64, 64),
    ]  # fmt: skip
    assert outputs_of(discriminator, nn.Conv2d, torch.zeros(2, 3, 64, 64)) == [
        (128, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4),
    ]  # fmt: skip
    modules = [*generator.modules(), *discriminator.modules()]
    layers = [module for module in modules if isinstance(module, nn.Conv2d | nn.ConvTranspose2d)]
    assert {(layer.kernel_size, layer.stride, layer.padding) for layer in layers} == {((5, 5), (2, 2), (2, 2))}
    normalized = [m.num_features for m in discriminator.modules() if isinstance(m, nn.BatchNorm2d)]
    assert normalized == [256, 512, 1024]  # none on the first layer
    assert [m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)] == [0.2] * 4
    for network in (generator, discriminator):
        for module in network.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
        gains = torch.cat([m.weight.detach() for m in network.modules() if isinstance(m, nn.BatchNorm2d)])
        assert gains.mean().item() == pytest.approx(1, abs=0.002)
        assert gains.std().item() == pytest.approx(0.02, rel=0.1)
    for player in game.players.values():
        keys = ("initial_lr", "betas", "eps", "weight_decay")
        assert settings_of(player.optimizer, *keys) == [2e-4, (0.5, 0.999), 1e-8, 1e-5]
        (group,) = player.optimizer.param_groups
        assert len(group["params"]) == len(list(player.network.parameters()))  # gains and shifts too
    assert (game.batch_size, game.images_per_step) == (128, 128)
    config = compose("experiment=dcgan_paper")
    assert (config["epochs"], config["dataset"]["image_size"]) == (25, 64)


def test_wgan(tmp_path: Path) -> None:
    game = built("wgan_paper", tmp_path).game
    generator, critic = game.players["generator"], game.players["discriminator"]
    assert outputs_of(generator.network, (nn.Unflatten, nn.ConvTranspose2d), torch.randn(2, 100)) == [
        (512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64),
    ]  # fmt: skip
    assert [m.num_features for m in critic.network.modules() if isinstance(m, nn.BatchNorm2d)] == [128, 256, 512]
    gains = torch.cat([m.weight.detach() for m in generator.network.modules() if isinstance(m, nn.BatchNorm2d)])
    assert gains.std().item() == pytest.approx(0.02, rel=0.15)
    for player in (generator, critic):
        assert type(player.optimizer) is torch.optim.RMSprop
        assert settings_of(player.optimizer, "initial_lr", "alpha", "eps", "momentum") == [5e-5, 0.99, 1e-8, 0]
    assert (game.batch_size, game.images_per_step) == (64, 5 * 64)
    assert list(compose("experiment=wgan_paper")["regularizer"]) == ["weight_clip"]
    assert compose("experiment=wgan_paper")["regularizer"]["weight_clip"]["bound"] == 0.01


def relative_spreads(network: nn.Module) -> dict[str, set[float]]:
    """Kind of layer -> standard deviations of its kernels as multiples of Glorot's, to one digit behind the point."""
    found: dict[str, set[float]] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module.weight.numel() > 1000:
            original = getattr(getattr(module, "parametrizations", None), "weight", None)
            weight = (original.original if original else module.weight).detach()
            fans = weight[0].numel() + weight[:, 0].numel()
            kind = "residual" if ".residual." in name else "shortcut" if ".shortcut." in name else type(module).__name__
            assert weight.abs().max() <= 1.001 * weight.std() * math.sqrt(3) * 1.05  # uniform
            found.setdefault(kind, set()).add(round(float(weight.std()) * math.sqrt(fans / 2), 1))
    return found


@pytest.mark.parametrize("name", ["wgan_gp_paper", "sngan_paper"])
def test_residual_networks(name: str, tmp_path: Path) -> None:
    """Also under spectral normalization, of the weights beneath it."""
    made = built(name, tmp_path)
    game = made.game
    generator, critic = game.players["generator"], game.players["discriminator"]
    he = round(math.sqrt(2), 1)
    of_critic = {"residual": {he}, "shortcut": {1.0}}
    assert relative_spreads(critic.network) == of_critic
    assert relative_spreads(generator.network) == of_critic | {"Linear": {1.0}, "Conv2d": {1.0}}
    for player in (generator, critic):
        assert settings_of(player.optimizer, "initial_lr", "betas", "eps") == [2e-4, (0.0, 0.9), 1e-8]
        assert player.lr_schedule(0) == 1
        assert player.lr_schedule(made.steps) == 0
        assert player.lr_schedule(made.steps // 2) == pytest.approx(0.5)
    assert game.draw_latents(game.randomness, 2).shape == (2, 128)
    config = compose(f"experiment={name}")
    assert (config["batch_size"], config["generator_batch_size"], config["discriminator_steps"]) == (64, 128, 5)
    assert [len(real) for real, _ in game.batches(0)] == [64] * 5 + [128]
    assert not config["dataset"]["flip"]
    assert not config["conditional"]
    assert config["lr_schedule"]["end"] == 0


def test_wgan_gp() -> None:
    config = compose("experiment=wgan_gp_paper")
    assert config["dataset"]["dequantize"]
    assert config["steps"] == 100_000
    assert (config["model"]["generator"]["width"], config["model"]["discriminator"]["width"]) == (128, 128)
    assert config["model"]["discriminator"]["pooling"] == "mean"
    assert list(config["regularizer"]) == ["gradient_penalty"]
    score = config["metric"]["inception_score"]
    assert (score["samples"], score["splits"]) == (50_000, 10)


def test_sngan() -> None:
    config = compose("experiment=sngan_paper")
    assert not config["dataset"]["dequantize"]
    assert config["steps"] == 50_000
    assert (config["model"]["generator"]["width"], config["model"]["discriminator"]["width"]) == (256, 128)
    assert config["model"]["discriminator"]["pooling"] == "sum"
    assert list(config["regularizer"]) == ["spectral_norm"]
    frechet, score = (config["metric"][name] for name in ("frechet", "inception_score"))
    assert (frechet["samples"], frechet["real_samples"]) == (5000, 10_000)
    assert (score["samples"], score["splits"]) == (50_000, 10)


# Images, classes, parameters of both networks, batch and million images of the schedules, first weight, half-life.
R3GAN: dict[str, Any] = {
    "r3gan_cifar10": ((3, 32, 32), 10, (20_781_952, 21_280_512), (512, 20), 0.05, 5e6),
    "r3gan_ffhq64": ((3, 64, 64), 0, (22_429_824, 22_381_440), (256, 20), 2, 5e5),
    "r3gan_imagenet32": ((3, 32, 32), 1000, (82_914_304, 86_548_992), (4096, 200), 0.5, 5e7),
}


@pytest.mark.parametrize("name", some(R3GAN, every=3))
def test_r3gan(name: str, tmp_path: Path) -> None:
    """The published numbers, at the beginning, in the middle and at the end of their schedules."""
    shape, classes, counts, (batch_size, millions), weight, half_life = R3GAN[name]
    labels = tmp_path / "labels.npy"
    np.save(labels, np.arange(256) % 10)
    words = [f"dataset.labels={labels}"] if classes else []
    words += ["model.generator.width=8", "model.discriminator.width=8", "batch_size=256"]
    game = built(name, tmp_path, *words).game
    config = compose(f"experiment={name}", "dataset.root=images")
    assert config["batch_size"] == batch_size
    assert bool(classes) == config["conditional"] == game.is_conditional
    assert config["dataset"]["flip"]
    horizon = config["lr_schedule"]["steps"]
    assert horizon * batch_size == pytest.approx(millions * 1e6, rel=1e-4)
    assert {*game.players["discriminator"].terms} == {"loss", "r1", "r2"}
    for share, expected in ((0, (2e-4, 0.9, 1.0, 0)), (0.5, (1.25e-4, 0.945, 0.55, 0.5)), (1, (5e-5, 0.99, 0.1, 1))):
        step = round(share * horizon)
        rate, beta2, of_weight, of_half_life = expected
        for player in game.players.values():
            player.set_rates(methodcaller("__call__", step))
            (group,) = player.optimizer.param_groups
            assert group["lr"] == pytest.approx(rate, rel=1e-3)
            assert group["betas"] == pytest.approx((0, beta2), abs=1e-4)
            assert group["eps"] == 1e-8
        for penalty in ("r1", "r2"):
            found = game.players["discriminator"].terms[penalty].weight_at(step)
            assert found == pytest.approx(of_weight * weight, rel=1e-3)
        assert game.moving_average
        decay = 0.5 ** (256 / (of_half_life * half_life)) if of_half_life else 0
        assert 1 - game.moving_average.rate(step) == pytest.approx(decay, rel=1e-6)
    del config["model"]["discriminator"]["scales"], config["model"]["discriminator"]["pack"]
    given: dict[str, Any] = {"latent_size": config["model"]["latent_size"], "default_output": "tanh"}
    with torch.device("meta"):
        networks = [
            component(config["model"][player], f"model.{player}", [], shape=shape, num_classes=classes, **given)
            for player in ("generator", "discriminator")
        ]
    assert tuple(count_parameters(network) for network in networks) == counts
