"""Every option with what else it may be chosen with, and the options that bring data, metrics or a whole run."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gan_runner.config.errors import ConfigError
from gan_runner.config.instantiate import component
from gan_runner.training.build import build
from tests.conformance.cases import FROM_FILES, LOSSES, MLP, POINTS, VAE, assert_trains, node_of, words_of
from tests.helpers import CONF, compose, options, some
from tests.helpers.meta import step_on_meta

# --- what is true of pairs --------------------------------------------------------------------------------------------


def rows_and_columns(rows: list[str], columns: list[str], row: str, column: str) -> list[Any]:
    """All pairs; by default every second of one row, and every third of one column."""
    by_default = [*((row, other) for other in columns[::2]), *((one, column) for one in rows[::3])]
    return [
        pytest.param(one, other, marks=[] if (one, other) in by_default else pytest.mark.slow)
        for one in rows
        for other in columns
    ]


@pytest.mark.parametrize(
    ("loss", "regularizer"), rows_and_columns(LOSSES, options("regularizer"), row="wgan_gp", column="r1")
)
def test_every_loss_with_every_regularizer(loss: str, regularizer: str) -> None:
    """A penalty that a loss brings stays beside the others."""
    config = compose(*words_of([f"loss={loss}", f"regularizer={regularizer}", "discriminator_steps=1", *MLP]))
    own = {
        *node_of("loss", loss).get("regularizer", {}),
        *([regularizer] if node_of("regularizer", regularizer) else []),
    }
    assert set(config.get("regularizer") or {}) == own
    assert_trains(config)


# Those of penalties and hard constraints that speak of any network, or of what it makes.
ON_ANY_NETWORK = {
    "gradient_clip", "l1", "l2", "max_norm", "orthogonal", "output_l1", "spectral_norm", "value_range", "weight_clip",
}  # fmt: skip


@pytest.mark.parametrize(
    "regularizer", some([name for name in options("regularizer") if node_of("regularizer", name)], every=6)
)
def test_an_autoencoder_with_every_regularizer(regularizer: str) -> None:
    """It trains with those that may be on any player, and refuses the others."""
    words = [*VAE, f"regularizer={regularizer}", f"++regularizer.{regularizer}.on=[autoencoder]"]
    config = compose(*words_of(words))
    if regularizer in ON_ANY_NETWORK:
        assert_trains(config)
    else:
        with pytest.raises(ConfigError, match=rf"regularizer.{regularizer}"):
            build(config, [])


# --- data, metrics, presets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", FROM_FILES)
def test_a_dataset_from_files_composes_and_takes_its_keys(dataset: str) -> None:
    """What it loads, tests of its own show."""
    keys = {key for key, value in node_of("dataset", dataset).items() if value == "???"}
    config = compose(f"dataset={dataset}", *(f"dataset.{key}=x" for key in keys))
    assert callable(component(config["dataset"], "dataset", []))


def test_every_dataset_is_one_or_the_other() -> None:
    assert {*FROM_FILES, *POINTS, "digits"} == set(options("dataset"))


@pytest.mark.parametrize("dataset", ["npy", "image_folder"])
def test_own_images_train(dataset: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    (tmp_path / "folder").mkdir()
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"folder/{number}.png")
    place = {"npy": f"dataset.path={tmp_path}/images.npy", "image_folder": f"dataset.root={tmp_path}/folder"}[dataset]
    assert_trains(compose(*words_of([f"dataset={dataset}", place, "loss=bce", *MLP])))


@pytest.mark.parametrize("metric", [name for name in options("metric") if name != "auto"])
def test_every_metric_builds(metric: str) -> None:
    """What it measures, tests of its own show."""
    data = "ring" if metric in ("modes", "wasserstein") else "digits"
    words = ["conditional=true"] if metric == "class_frechet" else []
    built = build(compose(*words_of([f"dataset={data}", "loss=bce", *MLP]), f"metric={metric}", *words), [])
    assert set(built.evaluator.metrics) == {metric} - {"none"}


@pytest.mark.parametrize(
    ("data", "metrics"),
    [
        ("digits", {"frechet", "classes"}), ("images", {"sliced_wasserstein"}), ("points", {"wasserstein"}),
        ("labelled", {"frechet", "classes"}),
    ],
)  # fmt: skip
def test_a_dataset_that_brings_no_metric_has_some_that_suit_it(data: str, metrics: set[str]) -> None:
    rng = np.random.default_rng(0)
    np.save("images.npy", rng.integers(0, 256, (40, 8, 8), dtype=np.uint8))
    np.save("points.npy", rng.random((40, 2)))
    np.save("labels.npy", np.arange(40) % 2)
    path = {"labelled": "images"}.get(data, data)
    words = ["dataset=npy", f"dataset.path={path}.npy"] if data != "digits" else ["metric=auto"]
    words += ["dataset.labels=labels.npy"] if data == "labelled" else []
    built = build(compose(*words, "batch_size=8", "model=mlp", "metric.auto.frechet.samples=7"), [])
    assert set(built.evaluator.metrics) == metrics
    assert built.evaluator.objective is not None
    if "frechet" in metrics:
        assert built.evaluator.metrics["frechet"].samples == 7


@pytest.mark.parametrize("features", options("features"))
def test_every_network_of_features_builds(features: str) -> None:
    """What it needs, such as a file of weights, it asks for when it is used."""
    config = compose(*words_of(["loss=bce", *MLP]), "metric=frechet", f"features={features}")
    assert build(config, []).evaluator.network is not None


SHAPES = {  # of the images of a preset's dataset
    "mnist": (28, 28, 1), "stacked_mnist": (28, 28, 3), "cifar10": (32, 32, 3), "celeba": (64, 64, 3),
    "npy": (64, 64, 3), "image_folder": (64, 64, 3),
}  # fmt: skip


def small_preset(experiment: str, folder: Path) -> dict[str, Any]:
    """A preset on images of its own size and channels; the data is another, unless it is generated."""
    text = (CONF / "experiment" / f"{experiment}.yaml").read_text()
    (dataset,) = re.findall(r"/dataset: (\w+)", text) or ["digits"]
    words = [f"experiment={experiment}", "batch_size=4", "device=cpu", "discriminator_steps=1"]
    if dataset in SHAPES:
        path = folder / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (8, *SHAPES[dataset]), dtype=np.uint8))
        words += ["dataset=npy", f"dataset.path={path}"]
        if "conditional: true" in text:
            np.save(folder / "labels.npy", np.arange(8) % 2)
            words += [f"dataset.labels={folder}/labels.npy"]
    if "/model: r3gan" in text:
        words += ["model.generator.blocks=1", "model.discriminator.blocks=1"]
    if dataset == "image_folder":
        words += ["dataset.image_size=64"]
    if re.search(r"/model: (resnet|dcgan|r3gan|biggan|sagan|stylegan2)", text):
        words += ["model.generator.width=8", "model.discriminator.width=8"]
    if "/model: stylegan2" in text:
        words += ["model.generator.style_size=8"]
    if "generator_batch_size" in text:
        words += ["generator_batch_size=8"]
    return compose(*words)


@pytest.mark.parametrize("experiment", some(options("experiment"), every=6))
def test_every_experiment_trains(experiment: str, tmp_path: Path) -> None:
    config = small_preset(experiment, tmp_path)
    assert config["steps"] or config["epochs"]
    assert_trains(config)


@pytest.mark.parametrize("experiment", some(options("experiment"), every=3))
def test_no_experiment_needs_the_host(experiment: str, tmp_path: Path) -> None:
    step_on_meta(small_preset(experiment, tmp_path), steps=1)
