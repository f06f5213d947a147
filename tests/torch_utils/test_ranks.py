"""Several processes that share each batch end with the weights that one has."""

from collections.abc import Iterator

import pytest
import torch

from tests.conformance.cases import DCGAN, LOSSES, MLP, RESNET, STYLEGAN2, VAE, model
from tests.helpers import TINY, options, some
from tests.helpers.ranks import Outcome, Processes, gradgradcheck, train

STEPS = 5
MARGINS = {torch.float64: 1e-9, torch.float32: 1e-5}
SHORT = [word for word in TINY if not word.startswith("batch_size")]


@pytest.fixture(scope="session")
def pair() -> Iterator[Processes]:
    """Two processes, for all tests."""
    with Processes(2) as processes:
        yield processes


def assert_equal(found: Outcome, expected: Outcome, margin: float) -> None:
    assert found[0].keys() == expected[0].keys()
    for name, value in expected[0].items():
        off = (found[0][name] - value).abs() - margin * (1 + value.abs())
        assert off.max() <= 0, name
    assert found[1] == pytest.approx(expected[1], rel=10 * margin, abs=10 * margin)


def compare(processes: Processes, words: list[str], dtype: torch.dtype = torch.float64) -> None:
    """Assert that all processes have the weights of one."""
    words = [*SHORT, "metric=none", *words, f"batch_size={4 * processes.count}"]
    if dtype == torch.float32:  # Adam makes of a gradient that is 0 but for rounding a step of any sign
        words += [] if any(word.startswith("optimizer=") for word in words) else ["optimizer.eps=1e-2"]
    expected = train(words, STEPS, dtype)
    for found in processes(train, words, STEPS, dtype, processes.count):
        assert_equal(found, expected, MARGINS[dtype])


GENERATORS = ("feature_matching", "reconstruction", "output_l1")
SMALL_DCGAN = [*DCGAN, "discriminator_steps=1"]
BATCH_NORM = ["model.generator.normalization=batch"]
DROPOUT = ["model.generator.dropout=0.3", "model.discriminator.dropout=0.3"]

# What looks at the whole batch, what draws, and what is read: each at least once.
BY_DEFAULT = {
    "relativistic average, batch norm, dropout": [
        *MLP, "loss=relativistic_average", *BATCH_NORM, "model.discriminator.normalization=batch", *DROPOUT,
    ],
    "lecam, iterated penalty, dragan": [
        *MLP, "loss=hinge", "regularizer=[lecam,iterative_gradient_penalty,dragan]", "regularizer.lecam.start=0",
        "regularizer.dragan.every=2",
    ],
    "feature matching, reconstruction": [
        *MLP, "loss=bce", "regularizer=[feature_matching,reconstruction]", *DROPOUT, "generator_batch_size=12",
    ],
    "wgan-gp, conditional, flip, augmentation": [
        *SMALL_DCGAN, "loss=wgan_gp", "discriminator_steps=2", "conditional=true", "dataset.flip=true",
        "dataset.dequantize=true", "augmentation=[diffaugment,input_noise]", "regularizer=spectral_norm", *BATCH_NORM,
    ],
    "autoencoder": [*VAE, "conditional=true"],
}  # fmt: skip


@pytest.mark.parametrize("name", some(BY_DEFAULT, every=5))
def test_two_processes_end_with_the_weights_of_one(name, pair):
    compare(pair, BY_DEFAULT[name])


EVERY = {f"loss={name}": [*MLP, f"loss={name}"] for name in LOSSES}
EVERY |= {f"regularizer={name}": [*MLP, "loss=bce", f"regularizer={name}"] for name in options("regularizer")}
HEADED = [*MLP, "conditional=true", "loss=hinge"]
EVERY |= {f"head={name}": [*HEADED, f"head={name}"] for name in options("head")}
EVERY |= {f"model={name}": model(name) for name in options("model")}
EVERY |= {f"augmentation={name}": [*SMALL_DCGAN, f"augmentation={name}"] for name in options("augmentation")}
EVERY |= {
    f"optimizer={name}": [*MLP, f"optimizer={name}"] for name in options("optimizer") if name != "finite_difference"
}
EVERY |= {
    "conditional biggan": [*model("biggan"), "conditional=true", "loss=hinge", "regularizer=spectral_norm"],
    "stylegan2 with noise": [*STYLEGAN2, "conditional=true", "loss=bce", "regularizer=[r1,path_length]"],
    "p that adapts": [  # it falls and rises, and the processes see other signs
        *MLP, "loss=bce", "optimizer.lr=0.02", "augmentation=apa", "augmentation.apa.interval=1",
        "augmentation.apa.images=20", "augmentation.apa.p=0.5", "augmentation.apa.target=0", "discriminator_steps=1",
    ],
    "pseudo samples in parts": [
        *MLP, "loss=bce", "augmentation=apa", "augmentation.apa.target=null", "augmentation.apa.p=0.5", "accumulate=2",
    ],
    "packs": [*MLP, "model.discriminator.pack=2", "loss=bce", "regularizer=[r1,gradient_penalty,dragan]"],
    "packs in parts": [
        *MLP, "model.discriminator.pack=2", "loss=bce", "regularizer=gradient_penalty", "accumulate=2",
    ],
    "conditional resnet": [*RESNET, "conditional=true", "loss=hinge", *BATCH_NORM, *DROPOUT],
    "conditional mlp": [*MLP, "conditional=true", "loss=hinge", *DROPOUT],
    "streamed": [*MLP, "stream=true", "workers=1", "dataset.flip=true", "dataset.dequantize=true"],
    "streamed here": [*MLP, "stream=true", "workers=0", "generator_batch_size=24", "discriminator_steps=2"],
    "uniform latents": [*MLP, "model.latent_distribution=uniform"],
    "scales": [*SMALL_DCGAN, "dataset.image_size=16", "model.discriminator.scales=2"],
    "in parts": [*MLP, "accumulate=2", "regularizer=[lecam,r1,spectral_norm]", "regularizer.lecam.start=0", *DROPOUT],
}  # fmt: skip
EVERY |= BY_DEFAULT


@pytest.mark.slow
@pytest.mark.parametrize("dtype", MARGINS)
@pytest.mark.parametrize("name", EVERY)
def test_every_option_in_two_processes(name, dtype, pair):
    compare(pair, EVERY[name], dtype)


@pytest.mark.slow
def test_three_processes_end_with_the_weights_of_one():
    with Processes(3) as three:
        for words in BY_DEFAULT.values():
            compare(three, [word.replace("generator_batch_size=12", "generator_batch_size=18") for word in words])


@pytest.mark.parametrize("name", ["mean", "sd", "gathered"])
def test_what_is_gathered_is_differentiable_twice(name, pair):
    assert pair(gradgradcheck, name) == [True, True]
