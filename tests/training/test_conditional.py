"""Networks that are told the labels, from training to `sample --labels`."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gan_runner.training.build import build
from tests.helpers import compose, refusal, some

WORDS = [
    "conditional=true",
    "batch_size=16",
    "device=cpu",
    "discriminator_steps=1",
    "loss=hinge",
    "model.latent_size=4",
]


@pytest.mark.parametrize("model", some(["mlp", "dcgan", "resnet", "dense_deconv", "r3gan"], every=2))
def test_every_image_model_is_told_the_labels(model):
    small = {"dense_deconv": [], "resnet": ["model.generator.width=8", "model.discriminator.width=8"]}.get(
        model, ["model.generator.width=8", "model.discriminator.width=8"]
    )
    game = build(compose(*WORDS, f"model={model}", *small, "regularizer=r1"), []).game
    seen = []
    network = game.players["discriminator"].network
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    game.step(0)
    _, labels = game.data.batch(0, 16, 0)
    assert labels is not None
    assert all(given is not None and given.equal(labels) for given in seen)  # fakes are of the real samples' classes
    assert len(seen) == 3
    latents = torch.randn(1, 4).expand(2, -1)
    for _ in range(3):
        game.step(1)
    one, other = game.sample(latents, torch.tensor([0, 1]))
    assert not one.equal(other)


def test_without_conditional_no_network_sees_a_label():
    game = build(compose(*WORDS[1:], "model=mlp"), []).game
    seen = []
    for player in game.players.values():
        player.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    game.step(0)
    assert set(seen) == {None}


def test_a_run_has_a_row_for_each_class_and_sample_takes_labels(run_cli):
    words = [*WORDS, "model=mlp", "metric=none", "steps=3", "sample_count=33", "hydra.run.dir=run"]
    code, _, error = run_cli(*words)
    assert code == 0, error
    with Image.open("run/samples/step_00000003.png") as image:
        assert image.size == (3 * 34 - 2, 10 * 34 - 2)
    assert run_cli("sample", "run", "--out", "chosen.npz", "--labels", "3,7", "--count", "4", "--seed", "1")[0] == 0
    assert run_cli("sample", "run", "--out", "other.npz", "--labels", "3,3", "--count", "4", "--seed", "1")[0] == 0
    chosen, other = (np.load(f"{name}.npz")["samples"] for name in ("chosen", "other"))
    assert (chosen[::2] == other[::2]).all()
    assert (chosen[1::2] != other[1::2]).any()
    refusal(run_cli("sample", "run", "--labels", "10"), "--labels 10", "0", "9")


def test_the_arrays_and_grids_of_a_conditional_run(run_cli):
    words = [*WORDS, "model=mlp", "metric=none", "steps=1", "hydra.run.dir=run"]
    assert run_cli(*words)[0] == 0
    assert run_cli("sample", "run", "--out", "x.npz", "--labels", "3,7", "--count", "5")[0] == 0
    found = np.load("x.npz")
    assert found["labels"].tolist() == [3, 7, 3, 7, 3]
    assert found["latents"].shape == (5, 4)
    assert run_cli("sample", "run", "--out", "x.npz", "--interpolate", "--count", "20")[0] == 0
    assert np.load("x.npz")["labels"].tolist() == [0] * 8 + [1] * 8 + [2] * 4  # a row is of one class
    for flags, name, size in (
        ([], "seed_0", (7, 10)),
        (["--labels", "3,7", "--count", "8"], "seed_0_count_8_labels_3_7", (4, 2)),
        (["--count", "12"], "seed_0_count_12", (4, 3)),
        (["--interpolate"], "seed_0_interpolation", (8, 8)),
    ):
        assert run_cli("sample", "run", *flags)[0] == 0
        with Image.open(f"run/generated/{name}.png") as image:
            assert image.size == (size[0] * 34 - 2, size[1] * 34 - 2)


def test_refusals(run_cli):
    refusal(run_cli("conditional=true", "dataset=gaussian_2d", "model=mlp"), "conditional=true", "labels")
    assert run_cli("model=mlp", "steps=1", "metric=none", "hydra.run.dir=run")[0] == 0
    refusal(run_cli("sample", "run", "--labels", "3"), "--labels", "conditional")
    assert not Path("run/generated").exists()
