"""The systems of the source documents: their networks to the last weight, and the term that defines each."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gan_runner.config.errors import ConfigError
from gan_runner.config.stylegan2_auto import stylegan2_auto
from gan_runner.training.budgets import count_parameters
from gan_runner.training.build import build
from tests.helpers import compose, naming
from tests.helpers.games import take_steps

MNIST = (28, 28)


@pytest.fixture
def preset(tmp_path: Path):
    """The game of a preset, as it stands, on a few images of its own format."""

    def make(name: str, shape: tuple[int, ...] = MNIST, *words: str) -> Any:
        path = tmp_path / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (256, *shape), dtype=np.uint8))
        return build(
            compose(f"experiment={name}", "dataset=npy", f"dataset.path={path}", "device=cpu", *words), []
        ).game

    return make


def dense(*sizes: int) -> int:
    """Weights and biases of a chain of linear layers."""
    return sum(inputs * outputs + outputs for inputs, outputs in pairwise(sizes))


def parameters(game: Any) -> dict[str, int]:
    return {name: count_parameters(player.network) for name, player in game.players.items()}


def test_hard_regularization(preset):
    game = preset("hard_regularization_mnist")
    assert parameters(game) == {
        "generator": dense(100, 256, 256, 784),
        "discriminator": dense(784, 256, 256, 1),
    }
    samples = game.generator.network(torch.randn(64, 100), None)
    assert samples.min() < 0  # a linear output
    assert game.data.batch(0, 8, 0)[0].min() >= 0  # pixels in [0, 1]
    for _, player in game.players.items():
        for group in player.optimizer.param_groups:
            group["initial_lr"] = 0.5  # far over the edge at every step
    for step in range(3):
        game.step(step)
        for player in game.players.values():
            for weight in player.network.parameters():
                assert weight.abs().max() <= 0.1
    assert max(float(p.detach().abs().max()) for p in game.generator.network.parameters()) == pytest.approx(0.1)


def test_l1_gan(preset):
    game = preset("l1_gan_mnist")
    assert parameters(game) == {
        "generator": dense(100, 128, 256, 784),
        "discriminator": dense(784, 256, 256, 1),
    }
    before = {
        name: sum(float(p.detach().double().abs().sum()) for p in player.network.parameters() if p.ndim > 1)
        for name, player in game.players.items()
    }
    term = game.discriminator.terms["l1"]
    tags = take_steps(game)
    assert float(tags["penalty/l1/discriminator"]) == pytest.approx(before["discriminator"], rel=1e-5)
    assert float(tags["penalty/l1/generator"]) == pytest.approx(before["generator"], rel=1e-5)
    assert term.weight_at(0) == 1e-4
    assert float(tags["loss/discriminator"]) > 0


def test_l1_vae(preset):
    game = preset("l1_vae_mnist")
    encoder, decoder = dense(784, 128, 256, 2 * 32), dense(32, 256, 128, 784)
    assert parameters(game) == {"autoencoder": encoder + decoder}
    weights = sum(float(p.detach().double().abs().sum()) for p in game.sampler.parameters() if p.ndim > 1)
    tags = take_steps(game)
    assert float(tags["penalty/l1"]) == pytest.approx(weights, rel=1e-5)
    assert tags["weight/l1"] == 1e-3
    assert float(tags["penalty/kl"]) > 0


def test_dense_deconv(preset):
    game = preset("dense_deconv_npy", (64, 64, 3), "batch_size=4")
    convolutions = [(512, 256), (256, 128), (128, 64), (64, 64), (64, 3)]  # stride 1, then four of stride 2
    assert parameters(game)["generator"] == (
        dense(100, 256, 512, 1024, 4 * 4 * 512)
        + sum(inputs * outputs * 16 + outputs for inputs, outputs in convolutions)
        + 2
        * (256 + 512 + 1024 + 256 + 128 + 64 + 64)  # batch normalization; none on the map that the dense layers make
    )
    assert parameters(game)["discriminator"] == (
        3 * 64 * 16 + 64 + 64 * 128 * 16 + 128 + 16 * 16 * 128 + 1  # conv 4x4, conv 4x4, dense from 16x16
    )
    drops = [m.p for m in game.discriminator.network.modules() if isinstance(m, torch.nn.Dropout)]
    assert drops == [0.3, 0.3]
    momenta = {
        m.momentum for m in game.generator.network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)
    }
    assert momenta == {0.2}
    game.step(0)
    assert game.sample(torch.randn(2, 100), None).shape == (2, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "shape"), [("iterative_penalty_mnist", MNIST), ("iterative_penalty_celeba", (64, 64, 3))]
)
def test_iterative_penalty(preset, name, shape):
    """State, weight and point follow the recurrences, from the logits of each update."""
    words = ["model.generator.width=4", "model.discriminator.width=4", "batch_size=8", "discriminator_steps=2"]
    game = preset(name, shape, *words)
    distance = peak = alpha = 0.0
    for step in range(3):
        gaps: list[float] = []
        objective = game.discriminator.objective

        def spy(view, *rest, objective=objective, gaps=gaps):
            gaps.append(float((view.real_logits.detach().mean() - view.fake_logits.detach().mean()).abs()))
            return objective(view, *rest)

        game.discriminator.objective = spy
        tags = take_steps(game, start=step)
        game.discriminator.objective = objective
        for number, gap in enumerate(gaps):
            distance = gap if step == number == 0 else 0.99 * distance + 0.01 * gap
            peak = max(peak, distance)
            rho = distance / peak if peak else 0.0
            alpha += 0.01 * ((1 - rho) - alpha)
        state = {key: float(tags[f"state/iterative_gradient_penalty/{key}"]) for key in ("distance", "rho", "alpha")}
        assert state == pytest.approx({"distance": distance, "rho": rho, "alpha": alpha}, rel=1e-4, abs=1e-7)
        assert float(tags["weight/iterative_gradient_penalty"]) == pytest.approx(10 * rho, rel=1e-5)


@pytest.mark.slow
def test_reacgan(preset, tmp_path):
    """D2D-CE on both players beside the hinge loss, under spectral normalization; in small, but for its settings."""
    np.save(tmp_path / "labels.npy", np.arange(256) % 10)
    small = ["model.generator.width=8", "model.discriminator.width=8", f"dataset.labels={tmp_path}/labels.npy"]
    game = preset("reacgan_cifar10", (32, 32, 3), *small)
    assert (game.batch_size, game.discriminator_steps, game.is_conditional) == (128, 5, True)
    for player in game.players.values():
        (group,) = player.optimizer.param_groups
        assert group["initial_lr"] == pytest.approx(2e-4 * 2**0.5, rel=1e-5)
        assert (group["betas"], group["eps"]) == ((0.5, 0.999), 1e-6)
        head = player.terms["head"]
        assert (head.weight, head.fn.__self__.temperature, head.fn.__self__.margin) == (0.5, 0.5, 0.98)
        assert any("parametrizations" in name for name, _ in player.network.named_parameters())
    assert game.discriminator.network.head.embedding.weight.shape[0] == 512
    average = game.moving_average.half_life
    assert 2 ** (-average.batch_size / average.half_life) == pytest.approx(0.9999, abs=1e-7)
    assert game.draw_latents(game.randomness, 2).shape == (2, 80)
    tags = take_steps(preset("reacgan_cifar10", (32, 32, 3), *small, "batch_size=8", "discriminator_steps=1"))
    assert float(tags["penalty/head/generator"]) > 0
    assert float(tags["penalty/head/discriminator"]) > 0
    config = compose("experiment=reacgan_cifar10")
    assert (config["steps"], config["dataset"]["flip"], list(config["regularizer"])) == (
        100_000,
        True,
        ["spectral_norm"],
    )
    assert list(config["metric"]) == ["frechet", "class_frechet"]


def test_a_multi_scale_discriminator_and_budgets_from_the_command_line():
    words = ["dataset.image_size=32", "discriminator_steps=1", "batch_size=8", "device=cpu", "loss=hinge"]
    words += ["model.generator.width=8", "model.discriminator.width=8"]
    single = build(compose(*words), []).game
    triple = build(compose(*words, "model.discriminator.scales=3", "regularizer=r1"), []).game
    triple.step(0)
    assert parameters(triple)["discriminator"] > parameters(single)["discriminator"]
    fitted = build(compose(*words, "budget.generator.parameters=20000", "budget.policy=fit"), [])
    assert parameters(fitted.game)["generator"] <= 20_000 < parameters(single)["generator"]
    assert any("model.generator" in note for note in fitted.notes)
    with pytest.raises(ValueError, match=naming("model.generator", "budget.generator.parameters=20")):
        build(compose(*words, "budget.generator.parameters=20000"), [])
    with pytest.raises(ValueError, match=naming("model.discriminator", "budget.discriminator.parameters=100")):
        build(compose(*words, "model.discriminator.scales=3", "budget.discriminator.parameters=100"), [])


# --- StyleGAN2-ADA, BigGAN, SNGAN with projection, SAGAN


STYLED = {  # the side of the images that they are shown here, and what makes their networks small
    "stylegan2_ada_cifar10": (32, ["model.generator.style_size=8", "model.latent_size=8"]),
    "stylegan2_ada_auto": (32, ["model.generator.style_size=8", "model.latent_size=8", "dataset.image_size=32"]),
    "biggan_cifar10": (32, ["model.generator.shared_embedding=4", "model.latent_size=8"]),
    "sngan_projection_cifar10": (32, ["model.latent_size=8"]),
    "sagan_imagenet64": (64, ["model.latent_size=8"]),
}


def small(name: str, folder: Path, steps: int) -> dict[str, float]:
    """What is logged of the last of some steps of a preset, with narrow networks and small batches."""
    side, keys = STYLED[name]
    np.save(folder / "images.npy", np.random.default_rng(0).integers(0, 256, (40, side, side, 3), dtype=np.uint8))
    np.save(folder / "labels.npy", np.arange(40) % 4)
    words = [f"experiment={name}", "dataset=npy", f"dataset.path={folder}/images.npy", "batch_size=4", "device=cpu"]
    words += [f"dataset.labels={folder}/labels.npy", "model.generator.width=8", "model.discriminator.width=8", *keys]
    return take_steps(build(compose(*words) | {"metric": {}}, []).game, steps)


@pytest.mark.parametrize("name", [pytest.param("biggan_cifar10", marks=pytest.mark.slow), "stylegan2_ada_auto"])
def test_in_small(name: str, tmp_path: Path) -> None:
    values = small(name, tmp_path, 2)
    assert all(np.isfinite(value) for value in values.values())
    regularizers = {tag.split("/")[1] for tag in values if tag.startswith("penalty/")}
    assert regularizers == ({"r1", "path_length"} if name == "stylegan2_ada_auto" else set())


@pytest.mark.slow
@pytest.mark.parametrize("name", STYLED)
def test_fifty_steps(name: str, tmp_path: Path) -> None:
    assert all(np.isfinite(value) for value in small(name, tmp_path, 50).values())


def rates(config: dict[str, Any]) -> tuple[Any, ...]:
    node = config["optimizer"]
    return node["lr"], (node["discriminator"] or {}).get("lr", node["lr"]), node["betas"], node["eps"]


def test_stylegan2_ada_of_cifar10() -> None:
    config = compose("experiment=stylegan2_ada_cifar10")
    generator, discriminator = config["model"]["generator"], config["model"]["discriminator"]
    assert (config["batch_size"], config["steps"] * config["batch_size"]) == (64, 100_000_000)
    assert (generator["mapping_layers"], generator["style_mixing"], generator["architecture"]) == (2, 0, "skip")
    assert (discriminator["architecture"], discriminator["minibatch_group"]) == ("plain", 32)
    assert (config["ema_half_life"], config["ema_ramp"]) == (500_000, 0.05)
    assert list(config["regularizer"]) == ["r1"]
    assert (config["regularizer"]["r1"]["weight"], config["regularizer"]["r1"]["every"]) == (0.01, 16)
    assert rates(config) == (0.0025, 0.0025, [0, 0.99], 1e-8)
    assert config["conditional"]
    assert config["loss"]["_target_"].endswith("BinaryCrossEntropy")


@pytest.mark.parametrize(
    ("size", "batch", "gamma", "half_life"),
    [(32, 32, 0.0064, 10_000), (64, 32, 0.0256, 10_000), (256, 16, 0.8192, 5_000), (1024, 4, 52.4288, 1_250)],
)
def test_the_heuristics_of_stylegan2_ada(size: int, batch: int, gamma: float, half_life: float) -> None:
    assert stylegan2_auto("batch_size", size) == batch
    assert stylegan2_auto("gamma", size, batch) == pytest.approx(gamma)
    assert stylegan2_auto("ema_half_life", size, batch) == half_life
    assert stylegan2_auto("minibatch_group", size, batch) == 4
    assert stylegan2_auto("full_width_to", size) == (64 if size >= 512 else 32)
    assert stylegan2_auto("lr", size) == (0.002 if size >= 1024 else 0.0025)


def test_the_heuristics_take_the_batch_of_several_gpus() -> None:
    """Eight of them, as the authors' code has it: 64 at 256 pixels, 32 at 1024."""
    assert stylegan2_auto("gamma", 256, 64) == pytest.approx(0.2048)
    assert stylegan2_auto("ema_half_life", 256, 64) == 20_000
    assert stylegan2_auto("gamma", 1024, 32) == pytest.approx(6.5536)
    assert stylegan2_auto("gamma", [128, 256], 64) == pytest.approx(0.2048)  # of the longer side


def test_the_heuristics_reach_the_keys_of_the_preset() -> None:
    config = compose("experiment=stylegan2_ada_auto", "dataset.root=x", "dataset.image_size=64", "batch_size=8")
    assert config["regularizer"]["r1"]["weight"] == pytest.approx(0.0002 * 64**2 / 8)
    assert (config["steps"], config["ema_half_life"]) == (25_000_000 // 8, 2500)
    assert config["model"]["generator"]["full_width_to"] == config["model"]["discriminator"]["full_width_to"] == 32
    assert rates(config)[:2] == (0.0025, 0.0025)
    length = config["regularizer"]["path_length"]
    assert (length["weight"], length["every"], length["shrink"], length["decay"]) == (2, 4, 2, 0.99)
    with pytest.raises(ConfigError, match=naming("dataset.image_size")):
        compose("experiment=stylegan2_ada_auto", "dataset.root=x", "dataset.image_size=null")


def test_biggan_sngan_and_sagan() -> None:
    biggan, sngan = compose("experiment=biggan_cifar10"), compose("experiment=sngan_projection_cifar10")
    for config in (biggan, sngan):
        assert rates(config) == (2e-4, 2e-4, [0.5, 0.999], 1e-6)
        assert (config["batch_size"], config["discriminator_steps"], config["steps"]) == (64, 5, 100_000)
        assert config["conditional"]
    assert biggan["regularizer"]["spectral_norm"]["on"] == ["generator", "discriminator"]
    assert sngan["regularizer"]["spectral_norm"]["on"] == ["discriminator"]
    assert 0.5 ** (64 / biggan["ema_half_life"]) == pytest.approx(0.9999, abs=1e-9)
    assert (biggan["ema_start"], biggan["ema_ramp"], sngan["ema_half_life"]) == (1000, None, None)
    sagan = compose("experiment=sagan_imagenet64", "dataset.root=x")
    assert rates(sagan) == (1e-4, 4e-4, [0, 0.9], 1e-8)
    assert (sagan["batch_size"], sagan["discriminator_steps"], sagan["steps"]) == (256, 1, 1_000_000)
    assert sagan["regularizer"]["spectral_norm"]["on"] == ["generator", "discriminator"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [
        ("stylegan2_ada_cifar10", 10, (20_215_315, 23_089_664)), ("biggan_cifar10", 10, (9_416_196, 2_415_170)),
        ("sngan_projection_cifar10", 10, (4_304_387, 1_055_105)), ("sagan_imagenet64", 100, (12_811_396, 19_650_242)),
    ],
)  # fmt: skip
def test_their_networks_have_the_published_sizes(
    name: str, classes: int, expected: tuple[int, int], tmp_path: Path
) -> None:
    side = STYLED[name][0]
    np.save(tmp_path / "images.npy", np.zeros((256, side, side, 3), dtype=np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(256) % classes)
    words = [f"experiment={name}", "dataset=npy", f"dataset.path={tmp_path}/images.npy", "device=cpu"]
    words += [f"dataset.labels={tmp_path}/labels.npy"]
    game = build(compose(*words) | {"metric": {}}, []).game  # Inception's weights are not at hand
    assert tuple(parameters(game).values()) == expected
