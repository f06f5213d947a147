"""Stacked MNIST: three digits a sample, from small files in MNIST's format."""

import io
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gan_runner.datasets.data import Data, Normalization, Recorded, Samples
from gan_runner.datasets.images import resize
from gan_runner.datasets.stacked_mnist import Stacked, stacked_mnist
from gan_runner.torch_utils.randomness import fixed_randomness
from gan_runner.training.build import build
from tests.helpers import CONF, compose
from tests.helpers.games import take_steps

TRAINING, HELD_OUT = 60, 40


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">4B{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Digits whose pixels say which they are: those held out have numbers from 60; the class is the number mod 10."""
    numbers = np.arange(TRAINING + HELD_OUT, dtype=np.uint8)
    images = np.broadcast_to(numbers[:, None, None], (len(numbers), 28, 28)).copy()
    images[:, 0, :2] = 0, 255
    folder = tmp_path / "files" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for name, part in (("train", slice(TRAINING)), ("t10k", slice(TRAINING, None))):
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images[part]))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(numbers[part] % 10))
    return tmp_path / "files"


@pytest.fixture
def load(root: Path) -> Any:
    def call(**changes) -> Any:
        config = yaml.safe_load((CONF / "dataset" / "stacked_mnist.yaml").read_text())
        config = {key: value for key, value in config.items() if key not in ("_target_", "defaults")}
        assert changes.keys() <= config.keys()
        return stacked_mnist(**config | {"root": str(root), "download": False} | changes)

    return call


def numbers(data: Data, samples: torch.Tensor) -> torch.Tensor:
    """Which digits the channels are: (N, 3)."""
    pixels = samples if samples.dtype == torch.uint8 else data.to_pixels(samples)
    assert (pixels[:, :, 1:] == pixels[:, :, 27:, 27:]).all()
    return pixels[:, :, 27, 27].long().cpu()


def label(digits: torch.Tensor) -> torch.Tensor:
    return (digits % 10 * torch.tensor([100, 10, 1])).sum(1)


def test_what_it_is(load):
    data = load()
    assert (data.shape, data.size, data.num_classes, data.seed) == ((3, 28, 28), None, 1000, 0)
    assert (data.parts.shape, data.parts.size, data.parts.num_classes) == ((1, 28, 28), TRAINING, 10)
    assert data.scale.shape == data.shift.shape == (3, 1, 1)
    samples, labels = data.batch(0, 16, seed=0)
    assert (samples.shape, samples.dtype) == ((16, 3, 28, 28), torch.float32)
    assert (labels.shape, labels.dtype) == ((16,), torch.int64)


def test_labels_are_the_channels_classes(load):
    data = load()
    for samples, labels in (data.batch(3, 200, seed=1), data.fixed(200), data.held_out(200), data.training(200)):
        assert labels.equal(label(numbers(data, samples)))
        assert len(labels.unique()) > 150


def test_classes_other_than_ten():
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 1, 28, 28).contiguous()
    data: Any = Stacked(Samples(images, torch.arange(4), seed=0), seed=0)
    samples, labels = data.batch(0, 500, seed=0)
    assert data.num_classes == 64
    assert sorted(labels.unique().tolist()) == list(range(64))
    assert labels.equal((numbers(data, samples) * torch.tensor([16, 4, 1])).sum(1))
    assert data.held_out(5) is None


def test_batch_is_a_pure_function_of_seed_and_index(load):
    data, again = load(), load(seed=1)  # the dataset's seed has no say
    forwards = [data.batch(index, 8, seed=1) for index in range(20)]
    for index in reversed(range(20)):
        for old, new in zip(forwards[index], again.batch(index, 8, seed=1), strict=True):
            assert old.equal(new)
    assert not forwards[0][1].equal(forwards[1][1])
    assert not forwards[0][1].equal(data.batch(0, 8, seed=2)[1])
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    data.batch(0, 8, seed=1)
    assert torch.random.get_rng_state().equal(before)


def test_draws_are_uniform_and_the_channels_independent(load):
    data = load()
    count = 20_000
    drawn = numbers(data, torch.cat([data.batch(index, 1000, seed=5)[0] for index in range(20)]))
    for values, cells in (
        *((drawn[:, channel], TRAINING) for channel in range(3)),
        *((drawn[:, one] * TRAINING + drawn[:, other], TRAINING**2) for one, other in ((0, 1), (0, 2), (1, 2))),
        (label(drawn), 1000),
    ):
        found = values.bincount(minlength=cells).double()
        assert len(found) == cells
        chi2 = ((found - count / cells).square() / (count / cells)).sum()
        assert abs(chi2 - (cells - 1)) < 5 * math.sqrt(2 * (cells - 1))  # 5 standard deviations


def test_held_out_digits_are_never_in_training(load):
    data = load()
    for index in range(20):
        assert numbers(data, data.batch(index, 500, seed=0)[0]).max() < TRAINING
    assert numbers(data, data.fixed(5000)[0]).unique().tolist() == list(range(TRAINING))
    assert numbers(data, data.training(5000)[0]).max() < TRAINING
    held_out = numbers(data, data.held_out(5000)[0])
    assert held_out.unique().tolist() == list(range(TRAINING, TRAINING + HELD_OUT))


def test_fixed_held_out_and_training(load):
    data, again, other = load(), load(), load(seed=1)
    for name in ("fixed", "held_out", "training"):
        mine = [getattr(each, name)(50)[1] for each in (data, again, other)]
        assert mine[0].equal(mine[1])
        assert not mine[0].equal(mine[2])
        for count in (1, 7, 16, 17):
            assert getattr(data, name)(count)[1].equal(mine[0][:count])
    pixels, labels = data.training(20)
    assert pixels.dtype == torch.uint8
    assert data.to_pixels(data.fixed(20)[0]).equal(pixels)
    assert data.fixed(20)[1].equal(labels)
    with pytest.raises(ValueError, match="endless"):
        data.training(None)


@pytest.mark.parametrize("normalization", ["symmetric", "unit", "standard"])
def test_normalization_is_the_digits(load, normalization: Normalization):
    data = load(normalization=normalization)
    assert data.output_activation == {"symmetric": "tanh", "unit": "sigmoid", "standard": "linear"}[normalization]
    digits, _ = data.parts.training(None)
    for samples, _ in (data.batch(0, 30, seed=0), data.held_out(30)):
        pixels = data.to_pixels(samples)
        assert pixels[:, :, 0, :2].unique().tolist() == [0, 255]
        assert samples.equal(pixels * data.scale + data.shift)
        assert samples[:, 1:2].equal(pixels[:, 1:2] * data.parts.scale + data.parts.shift)
    if normalization == "standard":
        standard = (digits * data.parts.scale + data.parts.shift).double()
        assert float(standard.mean()) == pytest.approx(0, abs=1e-5)
        assert float(standard.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_dequantized_stacks(load):
    plain, data = load(), load(dequantize=True)
    (before, labels), (after, same) = plain.batch(3, 30, seed=0), data.batch(3, 30, seed=0)
    assert same.equal(labels)
    pixels = (before + 1) * (255 / 2)
    offsets = (after + 1) * 128 - pixels
    assert offsets.min() >= -1e-3
    assert offsets.max() <= 1 + 1e-3
    assert float(offsets.mean()) == pytest.approx(0.5, abs=0.01)
    assert after.equal(data.batch(3, 30, seed=0)[0])
    assert data.fixed(9)[0].equal(plain.fixed(9)[0])


def test_image_size(load):
    data, small = load(), load(image_size=[14, 12])
    assert small.shape == (3, 14, 12)
    assert small.training(9)[0].equal(resize(data.training(9)[0], [14, 12]))


def test_to_moves_the_parts_and_leaves_the_original(load):
    data = load()
    moved = data.to("meta")
    assert moved.parts is not data.parts
    assert moved.parts.device.type == moved.device.type == "meta"
    assert moved.parts.batch(0, 4, seed=0)[0].is_meta  # a meta device has no generator for the stacked ones
    for each in (moved, moved.parts):
        assert each.fixed(2)[0].is_meta
        assert each.held_out(2)[0].is_meta
    assert moved.num_classes == 1000
    for each in (data, data.parts):
        assert each.device.type == each.batch(0, 4, seed=0)[0].device.type == "cpu"


def test_no_host_sync(load):
    """A fake tensor has no values: turning one into a Python number raises."""
    data = load()
    with FakeTensorMode(allow_non_fake_inputs=True):
        samples, labels = data.batch(3, 16, seed=0)
        assert (samples.shape, labels.shape) == ((16, 3, 28, 28), (16,))
        with pytest.raises(DataDependentOutputException):
            samples.sum().item()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda(load):
    on_cpu = load()
    data = on_cpu.to("cuda")
    data.batch(0, 16, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        samples, labels = data.batch(1, 64, seed=0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert samples.is_cuda
    assert labels.cpu().equal(label(numbers(data, samples)))
    assert data.batch(1, 64, seed=0)[0].equal(samples)
    for name in ("fixed", "held_out", "training"):
        assert getattr(data, name)(20)[1].cpu().equal(getattr(on_cpu, name)(20)[1])
    assert data.training(20)[0].device.type == "cpu"
    assert data.parts.batch(0, 4, seed=0)[0].is_cuda


def test_a_checkpoint_keeps_what_samples_need(load):
    data = load(normalization="standard")
    file = io.BytesIO()
    torch.save(data.record(), file)
    assert file.tell() < 10_000  # none of the digits
    file.seek(0)
    recorded = Recorded(torch.load(file, weights_only=True))
    assert (recorded.shape, recorded.size, recorded.num_classes) == ((3, 28, 28), None, 1000)
    assert recorded.parts is None
    samples, _ = data.fixed(4)
    assert recorded.to_pixels(samples).equal(data.to_pixels(samples))
    with pytest.raises(ValueError, match="no real samples"):
        recorded.training(4)


@pytest.mark.parametrize(
    "parts",
    [
        Samples(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), seed=0),
        Samples(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), seed=0),
        Samples(torch.zeros(4, 2), torch.arange(4), seed=0),
    ],
    ids=["no labels", "colour", "points"],
)
def test_refusals(parts):
    with pytest.raises(ValueError, match="grey images with labels, not"):
        Stacked(parts, seed=0)


def test_missing_files(load, tmp_path):
    with pytest.raises(ValueError, match=r"dataset\.root=.* MNIST is not there; dataset\.download is false"):
        load(root=str(tmp_path / "nowhere"))


def words(root: Path, *more: str) -> list[str]:
    small = ["model.generator.width=8", "model.discriminator.width=8", "model.latent_size=4"]
    return ["dataset=stacked_mnist", f"dataset.root={root}", "device=cpu", "batch_size=8", "loss=hinge", *small, *more]


@pytest.mark.parametrize("normalization", ["batch", "none"])
def test_a_conditional_game_of_1000_classes(root, normalization):
    more = ["conditional=true", "regularizer=r1", f"model.generator.normalization={normalization}"]
    game = build(compose(*words(root, *more)), []).game
    seen = []
    game.players["discriminator"].network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    game.step(0)
    _, labels = game.data.batch(0, 8, 0)
    assert labels is not None
    assert labels.max() >= 100
    assert all(given is not None and given.equal(labels) for given in seen)
    assert all(math.isfinite(value) for value in take_steps(game, 3, start=1).values())
    latents = game.draw_latents(fixed_randomness(0, "test", game.randomness.device), 2)
    assert game.sample(latents, torch.tensor([0, 999])).shape == (2, 3, 28, 28)


def test_epochs_of_an_endless_dataset_are_refused(root):
    with pytest.raises(ValueError, match=r"epochs=3: this dataset is endless; say steps=\.\.\. and epochs=null"):
        build(compose(*words(root, "epochs=3")), [])


def test_the_preset_on_its_own_data(root):
    small = [word for word in words(root) if not word.startswith(("dataset=", "loss="))]
    built = build(compose("experiment=stacked_mnist", *small), [])
    game, settings = built.game, built.settings
    assert isinstance(game.data, Stacked)
    assert set(game.players["discriminator"].terms) == {"loss", "r1", "r2"}
    assert all(math.isfinite(value) for value in take_steps(game).values())
    assert settings.steps
    assert settings.epochs is None


def test_a_run_and_samples_of_it(root, run_cli):
    few = ["steps=2", "sample_count=4", "metric.modes.samples=200", "features.steps=5"]
    code, _, error = run_cli(*words(root, "conditional=true", *few, "hydra.run.dir=run"))
    assert code == 0, error
    assert '"reverse_kl"' in Path("run/evaluations.jsonl").read_text()
    assert Path("run/samples/real.png").is_file()
    assert run_cli("sample", "run", "--out", "chosen.npz", "--labels", "0,999", "--count", "4")[0] == 0
    assert np.load("chosen.npz")["samples"].shape == (4, 3, 28, 28)
    assert "--labels 1000: the classes are 0 to 999" in run_cli("sample", "run", "--labels", "1000")[2]
