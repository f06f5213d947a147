"""Datasets: how batches are drawn, and every format, from files written here."""

import ast
import gzip
import hashlib
import importlib
import json
import math
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import typing
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pydantic
import pytest
import torch
import yaml
from PIL import Image
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.nn.functional import interpolate

from gan_runner.datasets import embedded, images, memory, vision
from gan_runner.datasets.data import Data, Normalization, Samples
from gan_runner.datasets.streamed import place
from tests.helpers import SMALL, naming
from tests.helpers.batches import assert_same

CONF = Path(__file__).parents[2] / "conf" / "dataset"
NORMALIZATIONS: list[Normalization] = ["symmetric", "unit", "standard"]


def keys(name: str) -> tuple[Callable[..., Data], dict]:
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    config.pop("defaults", None)
    module, function = config.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), function), config


def load(name: str, **changes) -> Any:
    function, config = keys(name)
    assert changes.keys() <= config.keys()
    return function(**config | changes)


def some_images(count: int, channels: int = 1, seed: int = 0, height: int = 4, width: int = 6) -> torch.Tensor:
    shape = (count, channels, height, width)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def numbered(count: int, **options) -> Any:
    """Images whose pixels all say which sample they are; so do the labels."""
    pixels = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)
    return Samples(pixels.contiguous(), torch.arange(count), **{"seed": 0} | options)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)


# The YAML files


@pytest.mark.parametrize(
    ("name", "key", "wrong"),
    [
        ("digits", "image_size", 0),
        ("digits", "image_size", [8]),
        ("digits", "image_size", 8.5),
        ("digits", "channels", 2),
        ("digits", "held_out", 1.0),
        ("digits", "normalization", "none"),
        ("digits", "flip", "yes"),
        ("ring", "modes", 0),
        ("ring", "sd", -0.1),
        ("ring", "samples", 0),
        ("npy", "layout", "HWC"),
    ],
)
def test_hints_reject(name, key, wrong):
    hint = typing.get_type_hints(keys(name)[0], include_extras=True)[key]
    with pytest.raises(pydantic.ValidationError):
        pydantic.TypeAdapter(hint, config={"strict": True}).validate_python(wrong)


def test_torchvision_and_scikit_learn_are_imported_only_inside_functions():
    package = Path(vision.__file__).parent
    for path in package.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            names = [getattr(node, "module", None) or "", *(a.name for a in getattr(node, "names", []) if a)]
            assert not any(name.startswith(("torchvision", "sklearn", "hydra", "omegaconf")) for name in names), path


# Batches


@pytest.mark.parametrize("batch_size", [1, 7, 10, 16, 25])
def test_every_sample_once_per_epoch_whatever_the_batch_size(batch_size):
    data = numbered(10)
    drawn = torch.cat([data.batch(i, batch_size, seed=3)[1] for i in range(10 * 4)])
    for epoch in drawn.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert drawn[:10].tolist() != drawn[10:20].tolist()


def test_batch_is_a_pure_function_of_seed_and_index():
    data, again = numbered(50, flip=True), numbered(50, flip=True)
    forwards = [data.batch(i, 8, seed=1) for i in range(100)]
    for i in reversed(range(100)):
        for old, new in zip(forwards[i], again.batch(i, 8, seed=1), strict=True):
            assert torch.equal(old, new)
    assert not torch.equal(forwards[0][1], data.batch(0, 8, seed=2)[1])


def test_labels_go_with_their_samples():
    data = numbered(50)
    samples, labels = data.batch(5, 16, seed=0)
    assert samples.dtype == torch.float32
    assert torch.equal(data.to_pixels(samples)[:, 0, 0, 0].long(), labels)


def test_the_dataset_seed_does_not_change_the_batches_nor_the_run_seed_the_fixed_samples():
    one, other = numbered(50, seed=1), numbered(50, seed=2)
    assert torch.equal(one.batch(0, 8, seed=0)[1], other.batch(0, 8, seed=0)[1])
    assert not torch.equal(one.fixed(8)[1], other.fixed(8)[1])
    assert torch.equal(one.fixed(8)[1], one.fixed(50)[1][:8])
    assert sorted(one.fixed(100)[1].tolist()) == list(range(50))


def test_consecutive_batches_draw_one_permutation_per_epoch(monkeypatch):
    calls = []
    real = torch.randperm

    def counted(*arguments, **options):
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(torch, "randperm", counted)
    data = numbered(20)
    for i in range(20):
        for seed in range(3):
            data.batch(i, 4, seed=seed)
    assert len(calls) == 3 * 4
    for i in range(1000):
        data.batch(i, 20, seed=0)
    assert len(data._orders) <= 32


def test_flip_mirrors_exactly_a_random_half_and_only_when_asked():
    pixels = some_images(40)
    plain, flipped = Samples(pixels, seed=0), Samples(pixels, seed=0, flip=True)
    mirrored: list[bool] = []
    for i in range(50):
        (before, _), (after, _) = plain.batch(i, 8, seed=0), flipped.batch(i, 8, seed=0)
        for a, b in zip(before, after, strict=True):
            mirrored.append(not torch.equal(a, b))
            assert torch.equal(b, a.flip(-1) if mirrored[-1] else a)
    assert 0.375 < np.mean(mirrored) < 0.625  # 400 coins: 5 standard deviations are 0.125
    assert len({tuple(mirrored[i : i + 8]) for i in range(0, 400, 8)}) > 40  # a coin per sample, not one per batch
    assert torch.equal(plain.fixed(9)[0], flipped.fixed(9)[0])


@pytest.mark.parametrize("name", ["images", "gaussian_2d", "ring", "grid", "swiss_roll"])
def test_no_host_sync(name):
    """A fake tensor has no values: turning one into a Python number raises."""
    data = numbered(40, flip=True) if name == "images" else load(name)
    with FakeTensorMode(allow_non_fake_inputs=True):
        samples, _ = data.batch(3, 16, seed=0)
        assert len(samples) == 16
        with pytest.raises(DataDependentOutputException):
            samples.sum().item()


@pytest.mark.parametrize(("normalization", "low", "level"), [("symmetric", -1, 2 / 256), ("unit", 0, 1 / 256)])
def test_dequantization_spreads_each_pixel_over_its_grey_level(normalization, low, level):
    """Under the symmetric normalization p becomes uniform in p / 128 - 1 + [0, 1 / 128)."""
    pixels = torch.arange(256, dtype=torch.uint8).repeat(64, 1).view(64, 1, 16, 16)
    options = {"seed": 0, "held_out": pixels, "normalization": normalization}
    plain, data = Samples(pixels, **options), Samples(pixels, dequantize=True, **options)
    offsets = []
    for index in range(8):
        batch, _ = data.batch(index, 64, seed=3)
        offsets.append((batch - low) / level - pixels)
        assert torch.equal(batch, data.batch(index, 64, seed=3)[0])
        assert (data.to_pixels(batch).int() - pixels.int()).abs().max() <= 1
    everything = torch.stack(offsets).double()
    assert everything.min() >= -1e-4
    assert everything.max() <= 1 + 1e-4
    assert everything.mean().item() == pytest.approx(0.5, abs=0.005)
    assert everything.var().item() == pytest.approx(1 / 12, rel=0.02)
    assert everything.mean((0, 1)).sub(0.5).abs().max() < 0.1  # of each level
    assert not torch.equal(offsets[0], offsets[1])
    assert not torch.equal(data.batch(0, 64, seed=4)[0], data.batch(0, 64, seed=3)[0])
    # What is no training batch stays as it is.
    assert_same(data.held_out(9), plain.held_out(9))
    assert torch.equal(data.fixed(9)[0], plain.fixed(9)[0])
    assert torch.equal(data.training(9)[0], plain.training(9)[0])


def test_dequantization_is_for_images():
    with pytest.raises(ValueError, match=r"dataset\.dequantize is for images"):
        Samples(torch.zeros(3, 2), dequantize=True, seed=0)


def test_to_leaves_the_original_and_moves_everything():
    data: Any = Samples(some_images(40), torch.arange(40), seed=0, held_out=some_images(3), centres=torch.zeros(1, 2))
    data.batch(0, 4, seed=0)
    moved = data.to("meta")
    assert data.batch(0, 4, seed=0)[0].device.type == data.device.type == "cpu"
    assert moved.batch(0, 4, seed=0)[0].is_meta
    assert moved._order(0, 0).is_meta
    assert moved.held_out(2)[0].is_meta
    assert moved.fixed(2)[0].is_meta
    assert moved.centres.is_meta
    assert moved.to_pixels(moved.fixed(2)[0]).is_meta


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("make", ["images", "ring"])
def test_cuda_batches_do_not_sync_and_agree_with_the_cpu(make):
    on_cpu: Any = Samples(some_images(64, 3), torch.arange(64), seed=0) if make == "images" else load("ring")
    data = on_cpu.to("cuda")
    data.batch(0, 16, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [data.batch(i, 48, seed=0) for i in range(8)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(batch.is_cuda for pair in batches for batch in pair)
    if make == "images":
        torch.testing.assert_close(batches[7][0].cpu(), on_cpu.batch(7, 48, seed=0)[0])
        assert torch.equal(data.to_pixels(batches[7][0]).cpu(), on_cpu.to_pixels(on_cpu.batch(7, 48, seed=0)[0]))


# Normalization


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_to_pixels_inverts_the_normalization_of_all_256_values(normalization):
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(256, 3, 1, 1)
    pixels[:, 1] //= 2
    options: Any = {"normalization": normalization}
    data: Any = Samples(pixels, torch.arange(256), seed=0, **options)
    samples, labels = data.batch(0, 256, seed=0)
    assert torch.equal(data.to_pixels(samples), pixels[labels])


def test_ranges_and_activations():
    pixels = some_images(500, 3)
    pixels[:, 1] //= 4
    pixels[0, 0, 0, :2] = torch.tensor([0, 255])
    made: dict[str, Any] = {name: Samples(pixels, seed=0, normalization=name) for name in NORMALIZATIONS}
    assert [made[name].output_activation for name in NORMALIZATIONS] == ["tanh", "sigmoid", "linear"]
    batches = {name: data.batch(0, 500, seed=0)[0] for name, data in made.items()}
    assert (batches["symmetric"].min(), batches["symmetric"].max()) == (-1, 1)
    assert (batches["unit"].min(), batches["unit"].max()) == (0, 1)
    standard = batches["standard"].transpose(0, 1).flatten(1)
    torch.testing.assert_close(standard.mean(1), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(1, correction=0), torch.ones(3))


def test_to_pixels_clamps():
    data = Samples(some_images(1, height=1, width=5), seed=0)
    outside = torch.tensor([-9.0, 9.0, math.inf, -math.inf, math.nan]).view(1, 1, 1, 5)
    assert data.to_pixels(outside).flatten().tolist() == [0, 255, 255, 0, 0]
    with pytest.raises(ValueError, match="have no pixels"):
        Samples(torch.zeros(3, 2), seed=0).to_pixels(torch.zeros(3, 2))


def test_constant_channel_has_a_standard_normalization():
    data = Samples(torch.full((4, 1, 2, 2), 7, dtype=torch.uint8), seed=0, normalization="standard")
    assert torch.equal(data.batch(0, 4, seed=0)[0], torch.zeros(4, 1, 2, 2))


def test_samples_rejects_what_does_not_fit():
    with pytest.raises(ValueError, match=r"uint8 images .* not float32 \(3, 1, 2, 2\)"):
        Samples(torch.zeros(3, 1, 2, 2), seed=0)
    with pytest.raises(ValueError, match=r"not float32 \(0, 2\)"):
        Samples(torch.zeros(0, 2), seed=0)
    with pytest.raises(ValueError, match="one number for each sample"):
        Samples(torch.zeros(3, 2), torch.zeros(4), seed=0)
    with pytest.raises(ValueError, match="held-out samples"):
        Samples(torch.zeros(3, 2), held_out=torch.zeros(3, 3), seed=0)
    with pytest.raises(ValueError, match=r"dataset\.flip is for images"):
        Samples(torch.zeros(3, 2), flip=True, seed=0)


# Points


@pytest.mark.parametrize("name", ["gaussian_2d", "ring", "grid", "swiss_roll"])
@pytest.mark.parametrize("samples", [None, 500])
def test_points(name, samples):
    data = load(name, samples=samples)
    assert type(data).__name__ == ("Endless" if samples is None else "Samples")
    assert (data.shape, data.size, data.output_activation) == ((2,), samples, "linear")
    drawn, labels = data.batch(2, 100, seed=4)
    assert drawn.shape == (100, 2)
    assert drawn.dtype == torch.float32
    assert (labels is None) == (data.num_classes == 0)
    assert torch.equal(drawn, load(name, samples=samples).batch(2, 100, seed=4)[0])
    assert not torch.equal(drawn, data.batch(3, 100, seed=4)[0])
    assert not torch.equal(drawn, data.batch(2, 100, seed=5)[0])
    held_out, fixed = data.held_out(100)[0], data.fixed(100)[0]
    assert not torch.equal(held_out, load(name, samples=samples, seed=1).held_out(100)[0])
    everything = torch.cat([data.batch(i, 100, seed=4)[0] for i in range(5)])
    assert not (held_out[:, None] == everything[None]).all(-1).any()
    low, high = data.limits
    assert low < min(drawn.min(), fixed.min())
    assert high > max(drawn.max(), fixed.max())


@pytest.mark.parametrize("samples", [None, 20000])
@pytest.mark.parametrize(("name", "modes"), [("ring", 8), ("grid", 25)])
def test_mixture_statistics(name, modes, samples):
    data = load(name, samples=samples)
    assert data.num_classes == modes
    assert data.centres.shape == (modes, 2)
    torch.testing.assert_close(data.centres.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    drawn, labels = data.batch(0, 20000, seed=0)
    for mode in range(modes):
        mine = drawn[labels == mode]
        expected = 20000 / modes
        assert abs(len(mine) - expected) < 5 * expected**0.5
        assert (mine.mean(0) - data.centres[mode]).abs().max() < 5 * data.sd / len(mine) ** 0.5
        assert (mine.std(0) / data.sd - 1).abs().max() < 5 / (2 * len(mine)) ** 0.5
    if name == "ring":
        torch.testing.assert_close(data.centres.norm(dim=1), torch.full((8,), 2.0))
    else:
        assert sorted(set(data.centres.flatten().tolist())) == [-4.0, -2.0, 0.0, 2.0, 4.0]
        assert len({tuple(centre) for centre in data.centres.tolist()}) == 25


def test_gaussian_statistics():
    drawn, labels = load("gaussian_2d", samples=None).batch(0, 20000, seed=0)
    assert labels is None
    torch.testing.assert_close(torch.cov(drawn.T), torch.eye(2), atol=0.05, rtol=0)
    assert drawn.mean(0).abs().max() < 0.04


def test_swiss_roll_is_a_spiral():
    drawn, _ = load("swiss_roll", noise=0.0).batch(0, 1000, seed=0)
    radius = drawn.norm(dim=1) * 7.5
    torch.testing.assert_close(torch.stack([radius.cos(), radius.sin()], 1) * radius[:, None] / 7.5, drawn)
    assert 1.5 * math.pi <= radius.min() < 1.6 * math.pi
    assert 4.4 * math.pi < radius.max() <= 4.5 * math.pi
    noisy, _ = load("swiss_roll", noise=0.1).batch(0, 1000, seed=0)
    assert (noisy - drawn).std().item() == pytest.approx(0.1, rel=0.1)


# Digits


def test_digits_equal_scikit_learns():
    from sklearn.datasets import load_digits

    pixels, labels = embedded._read_digits()
    expected = load_digits()
    assert np.array_equal(pixels, expected.data)
    assert np.array_equal(labels, expected.target)


def test_digits_without_the_packaged_file(monkeypatch):
    spec = type("Spec", (), {"submodule_search_locations": ["/nowhere"]})
    monkeypatch.setattr(embedded, "find_spec", lambda _: spec)
    assert [part.shape for part in embedded._read_digits()] == [(1797, 64), (1797,)]


def test_digits():
    data = load("digits")
    assert (data.shape, data.size, data.num_classes) == ((1, 8, 8), 1617, 10)
    samples, _ = data.batch(0, data.size, seed=0)
    held_out, labels = data.held_out(1000)
    assert (samples.min(), samples.max()) == (-1, 1)
    assert held_out.shape == (180, 1, 8, 8)
    assert labels.bincount().min() > 5
    everything = {sample.numpy().tobytes() for sample in torch.cat([samples, held_out])}
    assert len(everything) == 1797  # no two digits are alike, so none is in both parts
    again = load("digits", seed=1)
    assert not torch.equal(again.held_out(9)[0], data.held_out(9)[0])
    assert torch.equal(load("digits").held_out(9)[0], data.held_out(9)[0])
    assert load("digits", image_size=[12, 16], channels=3, held_out=0.0).shape == (3, 12, 16)
    assert load("digits", held_out=0.0).held_out(9) is None


@pytest.mark.slow
def test_digits_do_not_import_scikit_learn():
    code = (
        "import sys\nfrom gan_runner.datasets.embedded import digits\n"
        "digits(held_out=0.1, image_size=None, channels=None, normalization='unit', flip=False, seed=0)\n"
        "print([name for name in ('sklearn', 'torchvision', 'hydra') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=CONF.parents[1], check=True)
    assert ran.stdout.strip() == "[]"


# Sizes, channels, splits


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(10, 6), (5, 3), (40, 24), (20, 12)])
def test_resize_is_pillows(channels, size):
    source = some_images(3, channels, height=20, width=12)
    resized = images.resize(source, list(size))
    for image, mine in zip(source, resized, strict=True):
        picture = Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy())
        theirs = torch.from_numpy(np.array(picture.resize(size[::-1], Image.Resampling.BILINEAR)))
        difference = theirs.view(*size, channels).permute(2, 0, 1).int() - mine.int()
        assert difference.abs().max() <= 1
    assert images.resize(source, None) is source


def test_resize_to_another_aspect_takes_the_centre():
    source = some_images(2, 3, height=20, width=12)
    square = interpolate(source[:, :, 4:16], (6, 6), mode="bilinear", antialias=True)
    assert torch.equal(images.resize(source, 6), square)
    assert (images.resize(source.mT, 6).int() - square.mT.int()).abs().max() <= 1  # rounded in between, along W first


def test_channels_are_pillows():
    source = some_images(1, 3, height=64, width=64)
    picture = Image.fromarray(source[0].permute(1, 2, 0).numpy())
    assert np.array_equal(images.convert_channels(source, 1)[0, 0].numpy(), np.array(picture.convert("L")))
    grey = some_images(2, 1)
    assert torch.equal(images.convert_channels(grey, 3), torch.cat([grey] * 3, dim=1))
    assert torch.equal(images.convert_channels(images.convert_channels(grey, 3), 1), grey)
    assert images.convert_channels(source, None) is source


def test_split():
    training, held_out = images.split(10, 0.25, seed=0)
    assert len(held_out) == 2
    assert sorted([*training.tolist(), *held_out.tolist()]) == list(range(10))
    assert training.tolist() == sorted(training.tolist())
    with pytest.raises(ValueError, match=r"dataset\.held_out=0\.9: of 2 samples none remains"):
        images.split(2, 0.9, seed=0)


# MNIST


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_mnist(root: Path, packed: bool, name: str = "MNIST") -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    """60 training images and 10 test ones."""
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    pixels = some_images(70, height=28, width=28)
    labels = np.arange(70, dtype=np.uint8) % 10
    arrays = {
        "train-images-idx3-ubyte": pixels[:60, 0].numpy(),
        "train-labels-idx1-ubyte": labels[:60],
        "t10k-images-idx3-ubyte": pixels[60:, 0].numpy(),
        "t10k-labels-idx1-ubyte": labels[60:],
    }
    for file, values in arrays.items():
        if packed:
            (folder / f"{file}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (folder / file).write_bytes(idx(values))
    return pixels, arrays


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
@pytest.mark.parametrize("packed", [True, False])
def test_mnist(tmp_path, name, packed, capfd):
    root = tmp_path / "a folder"
    pixels, _ = write_mnist(root, packed, {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name])
    before = sorted(root.rglob("*"))
    data = load(name, root=str(root))
    assert (data.shape, data.size, data.num_classes) == ((1, 28, 28), 60, 10)
    held_out, labels = data.held_out(3)
    assert torch.equal(data.to_pixels(held_out), pixels[60:63])
    assert labels.tolist() == [0, 1, 2]
    samples, labels = data.batch(0, 60, seed=0)
    order = labels.argsort(stable=True)
    assert torch.equal(data.to_pixels(samples)[order].sum(0), pixels[:60].sum(0))
    assert labels.bincount().tolist() == [6] * 10
    assert sorted(root.rglob("*")) == before  # read in place
    assert capfd.readouterr() == ("", "")
    small = load(name, root=str(root), image_size=14, channels=3)
    assert small.shape == (3, 14, 14)
    assert torch.equal(
        small.to_pixels(small.held_out(10)[0]),
        images.resize(pixels[60:], 14).expand(-1, 3, -1, -1),
    )


def test_mnist_is_read_as_torchvision_reads_it(tmp_path):
    from torchvision.datasets import MNIST

    write_mnist(tmp_path, packed=False)
    theirs = MNIST(tmp_path, train=False)
    data = load("mnist", root=str(tmp_path))
    held_out, labels = data.held_out(10)
    assert torch.equal(data.to_pixels(held_out)[:, 0], theirs.data)
    assert torch.equal(labels, theirs.targets)


def test_mnist_without_network(tmp_path, monkeypatch):
    from torchvision.datasets import mnist

    tried = []

    def refuse(url, **_):
        tried.append(url)
        raise URLError("Name or service not known")

    monkeypatch.setattr(mnist, "download_and_extract_archive", refuse)
    with pytest.raises(ValueError, match=r"dataset\.root=") as raised:
        load("mnist", root=str(tmp_path))
    assert tried
    first, *files = str(raised.value).splitlines()
    assert first == (
        f"dataset.root={tmp_path}: MNIST is not there; "
        "the download failed (<urlopen error Name or service not known>). Set dataset.root, or put there yourself:"
    )
    assert [line.strip() for line in files] == [
        str(tmp_path / "MNIST" / "raw" / f"{name}-ubyte.gz")
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    ]


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10", "celeba"])
@pytest.mark.parametrize("download", [True, False])
def test_missing_files_and_no_network(tmp_path, name, download):
    with pytest.raises(ValueError, match=r"dataset\.root=.* is not there") as raised:
        load(name, root=str(tmp_path / "data"), download=download)
    message = str(raised.value)
    assert len(message.splitlines()) < 6
    assert str(tmp_path / "data") in message.splitlines()[-1]
    assert ("the download failed (" in message) == download
    assert ("dataset.download is false" in message) == (not download)
    if download and name != "celeba":  # its downloader, gdown, may be there or not
        assert "urlopen error" in message
    if not download:
        assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("what", ["truncated", "garbage", "empty", "short", "type"])
def test_corrupt_mnist(tmp_path, what):
    _, arrays = write_mnist(tmp_path, packed=True)
    file = tmp_path / "MNIST" / "raw" / "t10k-images-idx3-ubyte.gz"
    content = idx(arrays["t10k-images-idx3-ubyte"])
    broken = {
        "truncated": file.read_bytes()[:-100],
        "garbage": b"<html>404</html>",
        "empty": b"",
        "short": gzip.compress(content[:-1]),
        "type": gzip.compress(b"\0\0\x0d" + content[3:]),
    }
    file.write_bytes(broken[what])
    with pytest.raises(ValueError, match=r"dataset\.root: .*t10k-images-idx3-ubyte\.gz is corrupt \(.*delete it"):
        load("mnist", root=str(tmp_path))


# CIFAR-10


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """20 images in each of the 5 batches and in the test batch, and the checksums that torchvision expects of them."""
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = some_images(120, 3, height=32, width=32)

    def write(name: str, content: dict) -> list[str]:
        # As the published files, by an old numpy: its uint8 says align=0 where today's says align=False.
        packed = pickle.dumps(content, protocol=2).replace(b"\x89\x88\x87", b"K\x00K\x01\x87")
        (folder / name).write_bytes(packed)
        return [name, hashlib.md5(packed).hexdigest()]

    def batch(first: int) -> dict:
        return {"data": pixels[first : first + 20].flatten(1).numpy(), "labels": [i % 10 for i in range(20)]}

    names = [f"data_batch_{i + 1}" for i in range(5)]
    monkeypatch.setattr(CIFAR10, "train_list", [write(name, batch(20 * i)) for i, name in enumerate(names)])
    monkeypatch.setattr(CIFAR10, "test_list", [write("test_batch", batch(100))])
    _, md5 = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    return tmp_path, pixels


def pack_cifar(root: Path, monkeypatch) -> None:
    from torchvision.datasets import CIFAR10

    archive = root / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        file.add(root / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    for path in (root / "cifar-10-batches-py").iterdir():
        path.unlink()
    (root / "cifar-10-batches-py").rmdir()


def test_cifar10(cifar, capfd):
    root, pixels = cifar
    data = load("cifar10", root=str(root))
    assert data.flip
    assert (data.shape, data.size, data.num_classes) == ((3, 32, 32), 100, 10)
    held_out, labels = data.held_out(20)
    assert torch.equal(data.to_pixels(held_out), pixels[100:])
    assert labels.tolist() == [i % 10 for i in range(20)]
    assert sorted(map(bytes, data.to_pixels(data.fixed(100)[0]).numpy())) == sorted(map(bytes, pixels[:100].numpy()))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("download", [True, False])
def test_cifar10_from_its_archive(cifar, monkeypatch, download):
    root, pixels = cifar
    pack_cifar(root, monkeypatch)
    data = load("cifar10", root=str(root), download=download)
    assert torch.equal(data.to_pixels(data.held_out(20)[0]), pixels[100:])


@pytest.mark.parametrize("download", [True, False])
def test_corrupt_cifar10(cifar, download):
    root, _ = cifar
    (root / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"dataset\.root: .*data_batch_3 is corrupt \(its md5"):
        load("cifar10", root=str(root), download=download)
    (root / "cifar-10-batches-py" / "data_batch_3").unlink()
    with pytest.raises(ValueError, match="CIFAR-10 is not there; " + ("the download" if download else "it is incomp")):
        load("cifar10", root=str(root), download=download)


# CelebA


def write_celeba(root: Path, packed: bool) -> dict[str, np.ndarray]:
    """6 portraits, of which the last two are for validation and for the test."""
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i + 1:06}.jpg" for i in range(6)]
    pictures = {}
    for i, name in enumerate(names):
        pixels = np.full((218, 178, 3), 40 * i, dtype=np.uint8)
        pixels[:16] = pixels[200:] = 255  # the crop takes it off; whole blocks of the JPEG, so that nothing leaks
        pictures[name] = pixels
        Image.fromarray(pixels).save(folder / "img_align_celeba" / name, quality=95)
    attributes = ["Bald  Smiling "] + [f"{name} -1 {1 if i % 2 else -1:2}" for i, name in enumerate(names)]
    (folder / "list_attr_celeba.txt").write_text("\n".join(["6", *attributes, ""]))
    parts = [0, 0, 0, 0, 1, 2]
    (folder / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, parts, strict=True)))
    if packed:
        with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as file:
            for name in names:
                file.write(folder / "img_align_celeba" / name, f"img_align_celeba/{name}")
                (folder / "img_align_celeba" / name).unlink()
        (folder / "img_align_celeba").rmdir()
    return pictures


@pytest.mark.parametrize("packed", [True, False])
def test_celeba(tmp_path, packed):
    write_celeba(tmp_path, packed)
    data = load("celeba", root=str(tmp_path), attribute="Smiling")
    assert (data.shape, data.size, data.num_classes) == ((3, 64, 64), 4, 2)
    samples, labels = data.batch(0, 4, seed=0)
    grey = data.to_pixels(samples).float().mean((1, 2, 3))
    assert sorted(grey.round().tolist()) == [0, 40, 80, 120]  # without a trace of the white above and below
    assert torch.equal(labels, (grey / 40).round().long() % 2)
    held_out, labels = data.held_out(9)
    assert data.to_pixels(held_out).float().mean().round() == 160
    assert labels.tolist() == [0]
    plain = load("celeba", root=str(tmp_path), image_size=None, channels=1)
    assert (plain.shape, plain.num_classes, plain.batch(0, 2, seed=0)[1]) == ((1, 178, 178), 0, None)


def test_celeba_errors(tmp_path):
    write_celeba(tmp_path, packed=True)
    with pytest.raises(ValueError, match=r"dataset\.attribute=smilin: .* did you mean 'Smiling'\? \(there are Ba"):
        load("celeba", root=str(tmp_path), attribute="smilin")
    (tmp_path / "celeba" / "img_align_celeba.zip").write_bytes(b"PK broken")
    with pytest.raises(ValueError, match=r"img_align_celeba\.zip is corrupt"):
        load("celeba", root=str(tmp_path))
    (tmp_path / "celeba" / "img_align_celeba").mkdir()
    with pytest.raises(ValueError, match=r"img_align_celeba/000001\.jpg is not a readable image \(FileNotFound"):
        load("celeba", root=str(tmp_path))
    (tmp_path / "celeba" / "list_eval_partition.txt").write_text("")
    with pytest.raises(ValueError, match=r"list_eval_partition\.txt is corrupt \(it has no image of part 0"):
        load("celeba", root=str(tmp_path))
    (tmp_path / "celeba" / "list_attr_celeba.txt").unlink()
    with pytest.raises(ValueError, match=r"CelebA is not there; dataset\.download is false") as raised:
        load("celeba", root=str(tmp_path), attribute="Smiling", download=False)
    assert str(raised.value).splitlines()[-1].endswith("list_attr_celeba.txt")


# Image folders


def save(pixels: torch.Tensor, path: Path, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy()).save(path, **options)


def test_image_folder_with_classes(tmp_path):
    pixels = some_images(6, 3)
    root = tmp_path / "my images"
    paths = ["b c/0.png", "b c/deep/1.PNG", "a/2.bmp", "a/3.png", "d/4.webp", "a/5.png"]
    for image, path in zip(pixels, paths, strict=True):
        save(image, root / path, **({"lossless": True} if path.endswith("webp") else {}))
    for extra in ("a/.hidden.png", ".cache/6.png", "a/notes.txt", "empty/readme.md", "top.csv"):
        (root / extra).parent.mkdir(exist_ok=True)
        (root / extra).write_bytes(b"no image")
    data = load("image_folder", root=str(root))
    assert (data.shape, data.size, data.num_classes) == ((3, 4, 6), 6, 3)
    assert data.held_out(1) is None
    samples, labels = data.fixed(6)
    got = {bytes(image.numpy()): label for image, label in zip(data.to_pixels(samples), labels.tolist(), strict=True)}
    assert got == dict(zip((bytes(image.numpy()) for image in pixels), [1, 1, 0, 0, 2, 0], strict=True))


def test_flat_image_folder_and_its_split(tmp_path):
    pixels = some_images(10)
    for i, image in enumerate(pixels):
        save(image, tmp_path / f"{i}.png")
    data = load("image_folder", root=str(tmp_path), held_out=0.3)
    assert (data.shape, data.size, data.num_classes) == ((1, 4, 6), 7, 0)
    samples, labels = data.fixed(10)
    held_out, held_out_labels = data.held_out(10)
    assert labels is held_out_labels is None
    got = [bytes(image.numpy()) for image in data.to_pixels(torch.cat([samples, held_out]))]
    assert sorted(got) == sorted(bytes(image.numpy()) for image in pixels)
    assert not torch.equal(held_out, load("image_folder", root=str(tmp_path), held_out=0.3, seed=1).held_out(10)[0])


def test_held_out_labels_go_with_their_images(tmp_path):
    for i in range(20):
        save(torch.full((1, 2, 2), i, dtype=torch.uint8), tmp_path / f"{i % 4}" / f"{i}.png")
    data = load("image_folder", root=str(tmp_path), held_out=0.5)
    for samples, labels in (data.held_out(10), data.fixed(10)):
        assert torch.equal(data.to_pixels(samples)[:, 0, 0, 0].long() % 4, labels)


@pytest.mark.parametrize(("channels", "expected"), [(None, 3), (1, 1), (3, 3)])
def test_grey_and_colour_mixed(tmp_path, channels, expected):
    grey, colour = some_images(1, 1)[0], some_images(1, 3)[0]
    save(grey, tmp_path / "1.png")
    save(colour, tmp_path / "2.png")
    data = load("image_folder", root=str(tmp_path), channels=channels)
    assert data.shape == (expected, 4, 6)
    wanted = [images.convert_channels(image[None], expected)[0] for image in (grey, colour)]
    got = data.to_pixels(data.fixed(2)[0])
    assert sorted(map(bytes, got.numpy())) == sorted(bytes(image.numpy()) for image in wanted)


def test_kinds_of_png(tmp_path):
    """Palette with transparency, alpha, 16 bits and 1 bit."""
    two_colours = np.full((4, 6, 3), (200, 100, 50), dtype=np.uint8)
    two_colours[:, 3:] = 255
    colour = Image.fromarray(two_colours)
    transparent = colour.copy()
    transparent.putalpha(0)
    grey = np.full((4, 6), 77, dtype=np.uint8)
    colour.quantize(4).save(tmp_path / "1.png", transparency=bytes([90, 128]))
    transparent.save(tmp_path / "2.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "3.png")
    Image.fromarray(np.full((4, 6), True)).save(tmp_path / "4.png")
    data = load("image_folder", root=str(tmp_path))
    got = {tuple(image[:, 0, 0].tolist()) for image in data.to_pixels(data.fixed(4)[0])}
    assert got == {(200, 100, 50), (77, 77, 77), (255, 255, 255)}
    for name in ("1.png", "2.png"):
        (tmp_path / name).unlink()
    assert load("image_folder", root=str(tmp_path)).shape == (1, 4, 6)


def test_exif_rotation(tmp_path):
    stored = torch.zeros(1, 16, 32, dtype=torch.uint8)
    stored[:, :, :16] = 255  # the left half, which is the top once it is turned clockwise
    exif = Image.Exif()
    exif[0x0112] = 6
    save(stored, tmp_path / "1.jpg", exif=exif, quality=100)
    data = load("image_folder", root=str(tmp_path))
    assert data.shape == (1, 32, 16)
    pixels = data.to_pixels(data.fixed(1)[0])[0, 0]
    assert pixels[:16].min() > 250
    assert pixels[16:].max() < 5


def test_image_folder_sizes(tmp_path):
    save(some_images(1, 3, height=20, width=30)[0], tmp_path / "a.png")
    save(some_images(1, 3, height=40, width=16)[0], tmp_path / "b.jpeg")
    with pytest.raises(ValueError, match=r"dataset\.image_size: .*20x30 \(.*a\.png\) and 40x16 \(.*b\.jpeg\)"):
        load("image_folder", root=str(tmp_path))
    assert load("image_folder", root=str(tmp_path), image_size=8).shape == (3, 8, 8)
    assert load("image_folder", root=str(tmp_path), image_size=[6, 10]).shape == (3, 6, 10)
    (tmp_path / "b.jpeg").unlink()
    whole = load("image_folder", root=str(tmp_path), image_size=[10, 15])
    half = Image.open(tmp_path / "a.png").resize((15, 10), Image.Resampling.BILINEAR)
    assert np.array_equal(whole.to_pixels(whole.fixed(1)[0])[0].numpy(), np.array(half).transpose(2, 0, 1))
    data = load("image_folder", root=str(tmp_path), image_size=20)
    centre = np.array(Image.open(tmp_path / "a.png"))[:, 5:25].transpose(2, 0, 1)
    assert np.array_equal(data.to_pixels(data.fixed(1)[0])[0].numpy(), centre)


@pytest.mark.parametrize("content", ["truncated", "empty", "text"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.parametrize("image_size", [None, 8])
def test_broken_image(tmp_path, content, suffix, image_size):
    for name in ("fine", "broken"):
        save(some_images(1, 3, height=64, width=64)[0], tmp_path / f"{name}{suffix}")
    file = tmp_path / f"broken{suffix}"
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"<html>"}[content])
    with pytest.raises(ValueError, match=rf"dataset\.root: .*broken\{suffix} is not a readable image"):
        load("image_folder", root=str(tmp_path), image_size=image_size, channels=3 if image_size else None)


def test_broken_images_may_be_left_out(tmp_path):
    for name in ("a/1", "a/2", "b/3", "b/4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), int(name[-1]), np.uint8)).save(tmp_path / f"{name}.png")
    for name in ("a/2", "b/3"):
        path = tmp_path / f"{name}.png"
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=naming("a/2.png", "dataset.broken=skip")):
        load("image_folder", root=str(tmp_path))
    data = load("image_folder", root=str(tmp_path), broken="skip")
    images, labels = data.training(None)
    assert images[:, 0, 0, 0].tolist() == [1, 4]
    assert labels.tolist() == [0, 1]
    (note,) = data.notes
    assert all(text in note for text in ("2 of 4", "a/2.png", "b/3.png"))
    assert load("image_folder", root=str(tmp_path / "a"), broken="skip").size == 1
    (tmp_path / "a/1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=naming("none of its 2 images")):
        load("image_folder", root=str(tmp_path / "a"), broken="skip")


def test_image_folder_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"dataset\.root={tmp_path}/nowhere: no such folder"):
        load("image_folder", root="nowhere")
    Path("file").write_text("")
    with pytest.raises(ValueError, match=rf"dataset\.root={tmp_path}/file: is not a folder"):
        load("image_folder", root="file")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=rf"dataset\.root={tmp_path}/empty: holds no image \(\.png"):
        load("image_folder", root="empty")
    for name in ("1.png", "a/2.png"):
        save(some_images(1)[0], tmp_path / "mixed" / name)
    with pytest.raises(ValueError, match=r"holds images \(1\.png\) beside folders of images \(a\)"):
        load("image_folder", root="mixed")


def test_memory_is_estimated_first(tmp_path, monkeypatch):
    save(some_images(1)[0], tmp_path / "1.png")
    assert (memory.available_memory() or 0) > 2**20
    with pytest.raises(ValueError, match=r"dataset\.image_size: an image of 2000000x2000000 .* takes 3725.3 GiB of"):
        load("image_folder", root=str(tmp_path), image_size=2_000_000)
    monkeypatch.setattr(Path, "read_text", lambda _: "")
    assert memory.available_memory() == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("line", "folder", "files"),
    [
        ("0::/job/step", "job", "memory.max memory.current inactive_file"),
        ("4:cpu,memory:/job/step", "memory/job", "memory.limit_in_bytes memory.usage_in_bytes total_inactive_file"),
    ],
    ids=["version 2", "version 1"],
)
def test_the_limit_of_a_container_counts(line, folder, files, tmp_path, monkeypatch):
    limit, usage, reclaimable = files.split()
    for path, allowed in ((f"{folder}/step", "max"), (folder, "1000000")):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
        (tmp_path / path / limit).write_text(f"{allowed}\n")
        (tmp_path / path / usage).write_text("700000\n")
        (tmp_path / path / "memory.stat").write_text(f"cache 3\n{reclaimable} 5\n")
    (tmp_path / "own").write_text(f"7:pids:/\n{line}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN_CGROUPS", tmp_path / "own")
    assert memory.available_memory() == 300_005
    (tmp_path / "own").unlink()
    assert (memory.available_memory() or 0) > 2**20


# Arrays


def save_array(path: Path, values: np.ndarray) -> str:
    np.save(path, values)
    return str(path)


@pytest.mark.parametrize(("shape", "layout"), [("NHW", "auto"), ("NHWC", "auto"), ("NCHW", "auto"), ("NHWC", "NHWC")])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_layouts(tmp_path, shape, layout, channels, order):
    pixels = some_images(9, channels)
    if shape == "NHW":
        pixels = pixels[:, :1]
    values = {"NHW": pixels[:, 0], "NHWC": pixels.permute(0, 2, 3, 1), "NCHW": pixels}[shape].numpy()
    path = save_array(tmp_path / "an array.npy", np.asarray(values, order=order))
    data = load("npy", path=path, layout=layout, held_out=0.3)
    assert (data.shape, data.size, data.num_classes) == (pixels.shape[1:], 6, 0)
    parts = data.to_pixels(torch.cat([data.fixed(9)[0], data.held_out(9)[0]]))
    assert sorted(map(bytes, parts.numpy())) == sorted(map(bytes, pixels.numpy()))
    assert load("npy", path=path, layout=layout, image_size=8, channels=3).shape == (3, 8, 8)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "f8", "f2"])
@pytest.mark.parametrize("lowest", [0, -1])
def test_npy_floats_become_8_bits(tmp_path, dtype, lowest):
    pixels = np.arange(256).reshape(4, 8, 8)
    values = pixels / 255 * (1 - lowest) + lowest
    path = save_array(tmp_path / "a.npy", values.astype(dtype))
    data = load("npy", path=path)
    grey, rounded = data.notes
    assert all(text in grey for text in (path, "(4, 8, 8)", "4 grey images"))
    assert all(text in rounded for text in (path, "8 bits"))
    assert torch.equal(data.to_pixels(data.fixed(4)[0]).flatten().sort().values, torch.arange(256, dtype=torch.uint8))


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_npy_points_and_labels(tmp_path, dimensions):
    values = np.random.default_rng(0).normal(size=(20, dimensions))
    labels = (values[:, 0] > 0).astype(np.int32)
    path = save_array(tmp_path / "points.npy", values)
    data = load("npy", path=path, labels=save_array(tmp_path / "labels.npy", labels), held_out=0.5)
    assert (data.shape, data.size, data.num_classes, data.output_activation) == ((dimensions,), 10, 2, "linear")
    for samples, its_labels in (data.batch(0, 10, seed=0), data.held_out(10)):
        assert samples.dtype == torch.float32
        assert torch.equal(its_labels, (samples[:, 0] > 0).long())
    assert data.limits[0] < values.min()
    with pytest.raises(ValueError, match=r"dataset\.image_size is for images, and .*points\.npy holds points \(20, "):
        load("npy", path=path, image_size=8)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((3, 4, 4, 4), np.uint8), r"holds uint8 \(3, 4, 4, 4\).*allowed are images.* C = 1 or 3"),
        (np.zeros((3, 4, 4), np.int64), r"holds int64 \(3, 4, 4\); allowed are images: uint8, or float in \[0, 1\]"),
        (np.zeros((3, 4, 4), bool), "holds bool"),
        (np.zeros((3, 4), np.int64), r"holds int64 \(3, 4\).*points: float of shape \(N, D\)"),
        (np.zeros(3), r"holds float64 \(3,\)"),
        (np.zeros(()), r"holds float64 \(\)"),
        (np.zeros((0, 4, 4)), r"holds float64 \(0, 4, 4\)"),
        (np.zeros((0, 2)), r"holds float64 \(0, 2\)"),
        (np.zeros((2, 2, 2, 2, 2)), r"holds float64 \(2, 2, 2, 2, 2\)"),
        (np.full((1, 2, 2), 1.5), r"holds values from 1\.5 to 1\.5 \(of float images in \[0, 255\]"),
        (np.full((1, 2, 2), -2.0), "holds values from -2 to -2; allowed"),
        (np.full((1, 2, 2), np.nan), "holds values from nan to nan; allowed"),
        (np.full((2, 2), np.inf), "not finite"),
        (np.full((2, 2), 1e300), "not finite as float32"),
        (np.array([[None]], object), r"cannot be read \(.*Python objects"),
        (np.zeros((2, 3, 5, 3), np.uint8), r"has shape \(2, 3, 5, 3\), which may be either; set NHWC or NCHW"),
    ],
    ids=lambda value: f"{value.dtype}-{value.shape}" if isinstance(value, np.ndarray) else "",
)
def test_npy_rejects(tmp_path, values, message):
    with pytest.raises(ValueError, match=r"dataset\.(path|layout)=.*" + message) as raised:
        load("npy", path=save_array(tmp_path / "a.npy", values))
    assert str(tmp_path / "a.npy") in str(raised.value)


def test_npy_rejects_what_is_no_array(tmp_path):
    with pytest.raises(ValueError, match=rf"dataset\.path={tmp_path}/a\.npy: no such file"):
        load("npy", path=str(tmp_path / "a.npy"))
    with pytest.raises(ValueError, match=rf"dataset\.path={tmp_path}: is a folder"):
        load("npy", path=str(tmp_path))
    np.savez(tmp_path / "a.npz", np.zeros(3))
    with pytest.raises(ValueError, match=r"dataset\.path=.*not a \.npy file; of an \.npz"):
        load("npy", path=str(tmp_path / "a.npz"))
    path = save_array(tmp_path / "b.npy", np.zeros((9, 8, 8), np.uint8))
    for broken in (b"", b"text", Path(path).read_bytes()[:-1], Path(path).read_bytes()[:20], pickle.dumps([1])):
        Path(path).write_bytes(broken)
        with pytest.raises(ValueError, match=r"dataset\.path=.*b\.npy: cannot be read"):
            load("npy", path=path)


def test_npy_layout_that_does_not_fit(tmp_path):
    path = save_array(tmp_path / "a.npy", np.zeros((2, 8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match=r"holds uint8 \(2, 8, 8, 3\) with dataset\.layout=NCHW; allowed"):
        load("npy", path=path, layout="NCHW")


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.zeros(4, int), r"int64 \(4,\) from 0 to 0"),
        (np.array([0, -1, 2]), r"int64 \(3,\) from -1 to 2"),
        (np.zeros(3), r"float64 \(3,\)"),
        (np.zeros((3, 1), int), r"int64 \(3, 1\) from 0 to 0"),
        (np.array([0, 1, 2**63], np.uint64), r"uint64 \(3,\) from 0 to 9223372036854775808"),
    ],
)
def test_npy_rejects_labels(tmp_path, labels, found):
    path = save_array(tmp_path / "a.npy", np.zeros((3, 2)))
    with pytest.raises(ValueError, match=rf"dataset\.labels=.*{found}; wanted are whole numbers .* each of the 3 samp"):
        load("npy", path=path, labels=save_array(tmp_path / "b.npy", labels))
    with pytest.raises(ValueError, match=r"dataset\.labels=.*c\.npy: no such file"):
        load("npy", path=path, labels=str(tmp_path / "c.npy"))


@pytest.mark.slow
def test_errors_come_before_torchvision_is_imported(tmp_path):
    code = (
        "import sys\nfrom gan_runner.datasets.vision import cifar10\n"
        "try: cifar10(root=sys.argv[1], download=False, image_size=None, channels=None, normalization='unit', "
        "flip=False, seed=0)\nexcept ValueError: print('torchvision' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=CONF.parents[1], check=True)
    assert ran.stdout.strip() == "False"


def test_files_in_folders_and_archives_alike(tmp_path):
    save(some_images(1, 3)[0], tmp_path / "1.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.write(tmp_path / "1.png", "x/1.png")
    packed = images.Member(tmp_path / "a.zip", "x/1.png")
    assert torch.equal(*(images.decode([f], channels=3, size=(4, 6)) for f in (packed, tmp_path / "1.png")))
    with pytest.raises(ValueError, match=rf"dataset\.root: {tmp_path}/a\.zip/x/2\.png is not a readable image"):
        images.decode([packed._replace(name="x/2.png")], channels=3, size=(4, 6))


# Image files that would exceed memory


@pytest.fixture
def _little_memory(monkeypatch):
    monkeypatch.setattr(images, "available_memory", lambda: 500)
    monkeypatch.setattr(memory, "available_memory", lambda: 500)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["image_folder", "celeba", "celeba in its archive"])
def test_images_that_exceed_memory_stream(name, workers, tmp_path, request):
    if name == "image_folder":
        for number, image in enumerate(some_images(20, 3)):
            save(image, tmp_path / f"{number % 3}/{number}.png")
        words: dict[str, Any] = {"held_out": 0.2, "normalization": "standard", "flip": True}
    else:
        write_celeba(tmp_path, packed="archive" in name)
        words = {"attribute": "Smiling", "image_size": 8}
    name = name.split()[0]
    resident = load(name, root=str(tmp_path), **words)
    request.getfixturevalue("_little_memory")
    there = load(name, root=str(tmp_path), **words)
    assert (resident.is_on_disk, there.is_on_disk) == (False, True)
    assert there.nbytes == resident.nbytes
    data, [note] = place(there, torch.device("cpu"), "auto", workers)
    assert "it streams from its files" in note
    for index in range(8):
        assert_same(data.batch(index, 4, seed=0), resident.batch(index, 4, seed=0))
    assert_same(data.held_out(3), resident.held_out(3))
    assert torch.equal(there.to("cpu").batch(0, 4, seed=0)[0], resident.batch(0, 4, seed=0)[0])
    data.close()


@pytest.mark.slow
@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_file_among_those_that_stream(workers, tmp_path, run_cli):
    for number, image in enumerate(some_images(20, 3, height=40, width=40)):
        save(image, tmp_path / f"images/{number}.jpg")
    words = [*SMALL, "dataset=image_folder", f"dataset.root={tmp_path / 'images'}", "dataset.image_size=8",
             f"workers={workers}", "loss=hinge", "steps=9"]  # fmt: skip
    there = load("image_folder", root=str(tmp_path / "images"), image_size=8)
    shown, after_one_step = there._fixed_rows(4), there._order(0, 0)[8:]
    broken = there._samples.files[next(row for row in after_one_step if row not in shown)]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:20])
    code, _, error = run_cli(*words, "hydra.run.dir=a")
    assert (code, error.count("\n")) == (1, 1)
    assert f"{broken} is not a readable image" in error
    assert not Path("a/summary.json").exists()
    broken.write_bytes(whole[: len(whole) // 2])  # its header is whole
    code, _, error = run_cli(*words, "hydra.run.dir=b")
    assert (code, error.count("\n")) == (1, 1), error
    assert f"b: dataset.root: {broken} is not a readable image" in error
    assert "its last checkpoint, of step 1, is whole" in error
    assert json.loads(Path("b/summary.json").read_text())["status"] == "failed"
    broken.write_bytes(whole)
    code, _, error = run_cli("resume", "b")
    assert code == 0, error
