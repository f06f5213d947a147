"""The variational autoencoder: its formulas, its game, its run directory."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.distributions import Bernoulli, Normal, kl_divergence

from gan_runner.losses import Elbo
from gan_runner.regularizers.penalties import kl
from gan_runner.training.build import build
from tests.helpers import compose
from tests.helpers.games import take_steps

VAE = [
    "model=vae", "loss=elbo", "dataset.normalization=unit", "model.latent_size=4", "batch_size=16", "device=cpu",
    "model.autoencoder.encoder_width=[32]", "model.autoencoder.decoder_width=[32]",
]  # fmt: skip


def view(lead: tuple[int, ...] = ()) -> Any:
    generator = torch.Generator().manual_seed(0)
    real = torch.rand(*lead, 5, 1, 2, 3, generator=generator, dtype=torch.float64)
    decoded, mean, log_variance = (
        torch.randn(*lead, 5, *shape, generator=generator, dtype=torch.float64) for shape in ((1, 2, 3), (4,), (4,))
    )
    return SimpleNamespace(real=real, decoded=decoded, mean=mean, log_variance=log_variance)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_the_loss_is_the_negative_log_likelihood(lead):
    seen = view(lead)
    exact = -Normal(seen.decoded, 0.5).log_prob(seen.real).flatten(-3).sum(-1)
    torch.testing.assert_close(Elbo(likelihood="gaussian", sd=0.5).autoencoder(seen), exact)
    seen.real = seen.real.round()
    exact = -Bernoulli(logits=seen.decoded).log_prob(seen.real).flatten(-3).sum(-1)
    torch.testing.assert_close(Elbo(likelihood="bernoulli", sd=1.0).autoencoder(seen), exact)


@pytest.mark.parametrize("lead", [(), (2,)])
def test_kl_is_that_of_torch(lead):
    seen = view(lead)
    code, prior = Normal(seen.mean, (seen.log_variance / 2).exp()), Normal(torch.zeros(()), torch.ones(()))
    torch.testing.assert_close(kl(seen), kl_divergence(code, prior).sum(-1))


def test_codes_are_drawn_around_their_mean():
    game: Any = build(compose(*VAE), []).game
    game.randomness.start_step(0)
    real, labels = game.batch(0)
    seen = game.view(real, labels)
    noise = (seen.outputs - seen.mean) / (seen.log_variance / 2).exp()
    game.randomness.start_step(0)
    torch.testing.assert_close(noise, game.randomness.normal(16, 4))


def test_it_learns_and_its_terms_are_there():
    game = build(compose(*VAE, "regularizer=l1", "regularizer.l1.on=[autoencoder]", "optimizer.lr=3e-3"), []).game
    values = [take_steps(game), take_steps(game, 199, start=1)]
    assert values[1]["loss/autoencoder"] < 0.8 * values[0]["loss/autoencoder"]
    assert values[1]["penalty/kl"] > 0.5  # nats: the code is in use
    weights = sum(float(p.detach().abs().sum()) for p in game.sampler.parameters() if p.ndim > 1)
    assert values[1]["penalty/l1"] == pytest.approx(weights, rel=0.02)
    assert values[1]["weight/kl"] == 1


def test_the_weight_of_kl_can_be_scheduled():
    words = ["lr_schedule@regularizer.kl.schedule=linear", "regularizer.kl.schedule.end=3.0", "steps=4"]
    game = build(compose(*VAE, *words), []).game
    found = [take_steps(game, start=step)["weight/kl"] for step in range(4)]
    assert found == pytest.approx([1, 1.5, 2, 2.5])


def test_finite_differences_see_the_same_codes():
    """The gradient estimated along every weight is that of backpropagation."""
    words = ["model.latent_size=2", "model.autoencoder.encoder_width=[4]", "model.autoencoder.decoder_width=[4]"]
    words += ["model.autoencoder.activation=tanh", "dataset.image_size=8"]
    gradients = []
    for optimizer in (["optimizer=sgd"], ["optimizer=finite_difference", "optimizer.directions=null"]):
        method = ["optimizer.method=central", "optimizer.epsilon=1e-2"] if len(optimizer) > 1 else []
        game = build(compose(*VAE, *words, *optimizer, *method), []).game
        game.step(0)
        gradients.append(torch.cat([p.grad.flatten() for p in game.sampler.parameters() if p.grad is not None]))
    exact, estimated = gradients
    assert (estimated - exact).norm() < 0.01 * exact.norm()


@pytest.mark.slow
def test_a_run_draws_samples_and_reconstructions(run_cli):
    code, _, error = run_cli(*VAE, "steps=4", "sample_every=2", "sample_count=9", "hydra.run.dir=run")
    assert code == 0, error
    names = {path.name for path in Path("run/samples").iterdir()}
    assert names == {f"{kind}_{step:08d}.png" for kind in ("step", "reconstructions") for step in (2, 4)} | {"real.png"}
    with Image.open("run/samples/reconstructions_00000004.png") as image:
        assert image.size == (6 * 34 - 2, 3 * 34 - 2)  # nine pairs, none of them across two rows
    assert run_cli("sample", "run", "--out", "samples.npz", "--count", "3")[0] == 0
    assert np.load("samples.npz")["samples"].shape == (3, 1, 8, 8)
    assert json.loads(Path("run/summary.json").read_text())["metrics"]["loss/autoencoder"] > 0


@pytest.mark.parametrize("dataset", [["dataset.normalization=symmetric"], ["dataset=ring"]])
def test_gaussian_likelihood_and_points(dataset):
    words = [word for word in VAE if "normalization" not in word]
    game = build(compose(*words, *dataset, "loss.likelihood=gaussian"), []).game
    assert math.isfinite(take_steps(game)["loss/autoencoder"])
    real, labels = game.data.fixed(6)
    pictures = game.pictures(torch.zeros(6, 4), None, real, labels)
    assert pictures["samples"].shape == (6, *game.data.shape)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["loss=elbo"], r"loss and model do not fit: Elbo has no side for generator"),
        (["model=vae"], r"loss and model do not fit: Wasserstein has no side for autoencoder"),
        ([*VAE, "regularizer=l1"], r"regularizer.l1 is on the discriminator, which .*on=\[autoencoder\]"),
        ([*VAE, "regularizer=r1"], r"regularizer.r1 is on the discriminator, which this model does not have"),
        ([*VAE, "discriminator_steps=2"], r"discriminator_steps=2: an autoencoder has no discriminator"),
        ([*VAE, "generator_batch_size=4"], r"generator_batch_size=4: an autoencoder has no generator"),
        ([*VAE, "augmentation=diffaugment"], r"augmentation: .* an autoencoder has none"),
        ([*VAE, "dataset.normalization=symmetric"], r"loss.likelihood=bernoulli: it wants pixels in \[0, 1\]"),
        ([*VAE, "loss.sd=0"], r"loss.sd=0: must be greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused(words, message, run_cli):
    code, _, error = run_cli(*words)
    assert code == 1
    import re

    assert re.search(message, error), error
