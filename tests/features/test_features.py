"""The networks that image metrics look through, and the cache that keeps them."""

import hashlib
import os
import pickle
import shutil
import signal
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_runner.config.instantiate import component
from gan_runner.datasets.data import Data, Samples
from gan_runner.datasets.embedded import digits
from gan_runner.datasets.points import ring
from gan_runner.datasets.stacked_mnist import Stacked
from gan_runner.features.classifier import Classifier
from gan_runner.features.dinov2 import Dinov2
from gan_runner.features.inception import Inception
from gan_runner.features.lenet import LeNet, LeNet5
from gan_runner.features.network import BATCH, FeatureNetwork
from gan_runner.metrics.feature_space import InceptionScore
from gan_runner.storage.cache import cache_directory, cached, content_key
from tests.helpers import compose, options


def tiny(*shape: int, count: int = 40, classes: int = 4, **keys: Any) -> Samples:
    """Random images whose brightness is their class, a quarter of them held out."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    noise = torch.randint(0, 30, (count, *(shape or (1, 8, 8))), generator=generator)
    images = (noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    held = count // 4
    given: dict[str, Any] = {"held_out": images[:held], "held_out_labels": labels[:held], "num_classes": classes}
    return Samples(images[held:], labels[held:], seed=0, **{**given, **keys})


def without_labels(*shape: int) -> Samples:
    return Samples(torch.zeros(4, *shape, dtype=torch.uint8), seed=0)


def classifier(**keys: int) -> Classifier:
    return Classifier(**{"steps": 3, "width": 4, "seed": 0, **keys})


def prepared(network: FeatureNetwork, data: Data) -> tuple[Any, list[str]]:
    """The network, and what it said."""
    said: list[str] = []
    network.prepare(data, said.append)
    return network, said


class Payload:
    """A pickle that makes a folder where it is read."""

    def __reduce__(self) -> Any:
        return Path.mkdir, (Path("payload-ran"),)


# --- the cache --------------------------------------------------------------------------------------------------------


def test_the_cache_is_where_the_variable_says_or_the_system_has_it(tmp_path, monkeypatch):
    assert cache_directory() == tmp_path / "cache"
    monkeypatch.delenv("GAN_RUNNER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "system"))
    assert "gan_runner" in cache_directory().parts


def test_the_content_key_tells_everything_apart():
    values = torch.arange(6, dtype=torch.int32)
    parts: list[tuple[Tensor | str | int, ...]] = [
        (values,), (values.view(2, 3),), (values.view(3, 2),), (values.float(),), (values.flip(0),), (values[:0],),
        (values, "a"), ("a", values), ("a",), ("ab",), ("a", "b"), ("",), (), (1,), ("1",), (1, 1), (11,),
        ("'a'\n'b'",), (torch.tensor(1),), (torch.tensor([1]),), (torch.tensor(True),),
        (torch.ones(1, dtype=torch.bfloat16),), (torch.zeros(3),), (torch.zeros(3, dtype=torch.int32),),
    ]  # fmt: skip
    keys = {content_key(*some) for some in parts}
    assert len(keys) == len(parts)
    assert all(len(key) == 64 for key in keys)
    grid = values.view(2, 3)
    assert content_key(grid.T) == content_key(grid.T.contiguous())  # the numbers count, not how they lie in memory


def value() -> dict[str, Any]:
    return {"weights": {"a": torch.arange(1000.0)}, "accuracy": None, "name": "x"}


def test_a_value_is_made_once():
    made = [cached("some.pt", value), cached("some.pt", lambda: pytest.fail("made again"))]
    for one in made:
        assert one["name"] == "x"
        assert one["accuracy"] is None
        assert torch.equal(one["weights"]["a"], torch.arange(1000.0))


def flip_a_bit(content: bytes) -> bytes:
    middle = content.index(torch.arange(1000.0).numpy().tobytes()) + 2000
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    "broken",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"garbage" * 100,
        lambda content: pickle.dumps(Payload()),
        flip_a_bit,
    ],
    ids=["truncated", "empty", "garbage", "pickle", "one bit"],
)
def test_a_broken_file_is_made_anew(broken, tmp_path):
    path = tmp_path / "cache" / "some.pt"
    cached("some.pt", value)
    path.write_bytes(broken(path.read_bytes()))
    assert torch.equal(cached("some.pt", value)["weights"]["a"], torch.arange(1000.0))
    assert cached("some.pt", lambda: pytest.fail("not mended"))["name"] == "x"
    assert not Path("payload-ran").exists()


def test_a_file_that_holds_code_is_made_anew(tmp_path):
    (tmp_path / "cache").mkdir()
    torch.save({"name": Payload()}, tmp_path / "cache" / "some.pt")
    assert cached("some.pt", value)["name"] == "x"
    assert not Path("payload-ran").exists()


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("where the directory should be")
    monkeypatch.setenv("GAN_RUNNER_CACHE", str(tmp_path / "file"))
    assert cached("some.pt", value)["name"] == "x"
    assert "cannot be written" in caplog.text


def test_a_full_disk_is_no_failure(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("unexpected pos 704 vs 598")  # as torch.save says it

    monkeypatch.setattr(torch, "save", fail)
    assert cached("some.pt", value)["name"] == "x"
    assert list((tmp_path / "cache").iterdir()) == []


# --- all of them ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", options("features"))
def test_every_option_builds_what_it_is_called(name):
    network = component(compose(f"features={name}")["features"], "features", ["gan_runner"])
    assert isinstance(network, FeatureNetwork)
    assert network.name == name


@pytest.mark.parametrize(
    "network",
    [classifier(), LeNet(weights="x.pth", sha256=None), Inception(weights="x.pth", sha256=None)],
    ids=lambda network: network.name,
)
def test_none_looks_at_points(network):
    points = ring(modes=8, radius=2.0, sd=0.02, samples=None, seed=0)
    message = f"^features={network.name}: it looks at images, and this dataset has points$"
    with pytest.raises(ValueError, match=message):
        prepared(network, points)


# --- classifier -------------------------------------------------------------------------------------------------------


def the_digits(**keys: Any) -> Data:
    given = {"held_out": 0.1, "image_size": None, "channels": None, "normalization": "symmetric"}
    return digits(**{**given, "flip": False, "seed": 0, **keys})


def test_the_digits_are_learned_once():
    keys = compose()["features"]
    data = the_digits()
    state = torch.get_rng_state()
    network, said = prepared(component(keys, "features", ["gan_runner"]), data)
    assert network.accuracy >= 0.95
    assert len(said) == 2
    assert "1,617 labels" in said[0]
    assert f"(once; cached in {cache_directory()})" in said[0]
    assert f"{network.accuracy:.2%}" in said[1]

    images, labels = data.training(None)
    features, logits = network.look(images)
    assert features.shape == (1617, network.dimension) == (1617, 64)
    assert features.dtype == logits.dtype == torch.float32
    assert (features >= 0).all()
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(1617))
    assert (logits.argmax(1) == labels).double().mean() > 0.99
    samples, classes = data.held_out(1000) or (None, None)
    assert samples is not None
    assert float((network.look(data.to_pixels(samples))[1].argmax(1) == classes).double().mean()) == network.accuracy

    # The normalization is no part of what it learns from; nor is anything of the global state.
    again, said = prepared(component(keys, "features", ["gan_runner"]), the_digits(normalization="standard"))
    assert said == []
    assert (again.sha256, again.accuracy) == (network.sha256, network.accuracy)
    torch.testing.assert_close(again.look(images), (features, logits), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)


def test_large_images_are_reduced():
    images = torch.randint(256, (300, 1, 80, 40), dtype=torch.uint8)
    data = Samples(images, torch.arange(300) % 2, seed=0)
    network, _ = prepared(classifier(steps=2), data)
    assert network.resize.endswith("to 32x16")
    features, logits = network.look(images[:3])
    assert features.shape == (3, network.dimension)
    assert logits.shape == (3, 2)
    network, _ = prepared(
        classifier(steps=2), Samples(images[..., :32, :32].contiguous(), data.training(None)[1], seed=0)
    )
    assert network.resize == "none"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_its_training_in_order(number, code, run_cli, monkeypatch):
    monkeypatch.setattr(Classifier, "_train", lambda *arguments: os.kill(os.getpid(), number))
    before = signal.getsignal(number)
    found, out, error = run_cli("model=mlp", "steps=1", "device=cpu")
    assert (found, error) == (code, "")
    assert "interrupted by " + signal.Signals(number).name in out
    assert not Path("outputs").exists()
    assert signal.getsignal(number) is before


def train_in(context: Any, folder: str, monkeypatch: pytest.MonkeyPatch, **keys: int) -> str:
    """The SHA-256 of what a fresh cache's network learns of tiny data."""
    monkeypatch.setenv("GAN_RUNNER_CACHE", folder)
    with context:
        network, said = prepared(classifier(**keys), tiny())
    assert len(said) == 2
    return network.sha256


def test_training_depends_on_data_and_keys_alone(monkeypatch):
    torch.manual_seed(1)
    first = train_in(torch.enable_grad(), "a", monkeypatch)
    torch.manual_seed(2)
    assert train_in(torch.no_grad(), "b", monkeypatch) == first
    assert train_in(torch.inference_mode(), "c", monkeypatch) == first
    assert train_in(torch.autocast("cpu", dtype=torch.bfloat16), "d", monkeypatch) == first
    torch.set_num_threads(2)
    assert train_in(torch.no_grad(), "e", monkeypatch) == first
    assert torch.get_num_threads() == 2
    others = [train_in(torch.no_grad(), str(keys), monkeypatch, **keys) for keys in [{"seed": 1}, {"steps": 4}]]
    assert len({first, *others}) == 3


def test_looking_depends_on_the_images_alone():
    data = tiny()
    images = data.training(None)[0].repeat(20, 1, 1, 1)
    assert len(images) > BATCH  # so that it takes several batches
    network, _ = prepared(classifier(), data)
    features, logits = network.look(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(network.look(images), (features, logits), rtol=0, atol=0)
    torch.testing.assert_close(network.look(images[-1:]), (features[-1:], logits[-1:]))
    assert not features.requires_grad


def test_whatever_it_learns_from_makes_it_learn_anew():
    data = tiny()
    images, labels = data.training(None)
    samples, classes = data.held_out(10) or (None, None)
    assert samples is not None
    assert labels is not None
    held_out = data.to_pixels(samples)
    brighter, another, seen = images.clone(), labels.clone(), held_out.clone()
    brighter[3, 0, 2, 1] += 1
    another[5] = (another[5] + 1) % 4
    seen[0, 0, 0, 0] += 1

    def trains(images: Tensor, labels: Tensor, held_out: Tensor, num_classes: int = 4, **keys: int) -> bool:
        changed = Samples(
            images, labels, held_out=held_out, held_out_labels=classes, num_classes=num_classes, seed=1, flip=True
        )
        return bool(prepared(classifier(**keys), changed)[1])

    assert prepared(classifier(), data)[1]
    assert not trains(images, labels, held_out)
    assert trains(brighter, labels, held_out)
    assert trains(images, another, held_out)
    assert trains(images, labels, seen)
    assert trains(images, labels, held_out, num_classes=5)
    assert trains(images, labels, held_out, width=5)


def test_a_broken_file_of_weights_is_trained_anew(tmp_path):
    network, _ = prepared(classifier(), tiny())
    (path,) = (tmp_path / "cache").iterdir()
    path.write_bytes(path.read_bytes()[:-100])
    again, said = prepared(classifier(), tiny())
    assert said
    assert again.sha256 == network.sha256


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 64, 64), (2, 5, 9), (3, 1, 1)])
def test_images_of_any_size(shape):
    data = tiny(*shape)
    network, _ = prepared(classifier(), data)
    features, logits = network.look(data.training(None)[0])
    assert features.shape == (30, 16) == (30, network.dimension)
    assert logits.shape == (30, 4)
    assert features.isfinite().all()
    assert logits.isfinite().all()
    assert network.knows_classes_of(data)
    assert not network.knows_classes_of(tiny(*shape, classes=5))
    assert not network.knows_classes_of(tiny(1, 7, 7))


def test_one_step_and_one_pixel_and_no_held_out_samples(monkeypatch):
    batches = []
    cross_entropy = torch.nn.functional.cross_entropy

    def count(logits: Tensor, labels: Tensor) -> Tensor:
        batches.append(len(logits))
        return cross_entropy(logits, labels)

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", count)
    data = Samples(torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, dtype=torch.int64), seed=0)
    network, said = prepared(classifier(steps=1), data)
    assert batches == [128]
    assert network.accuracy is None
    assert "held-out" not in said[1]
    assert all(found.isfinite().all() for found in network.look(data.training(None)[0]))


def test_stacked_images_are_looked_at_channel_by_channel():
    parts = tiny()
    network, _ = prepared(classifier(steps=150), parts)
    assert network.accuracy > 0.8
    data = Stacked(parts, seed=0)
    stack, said = prepared(classifier(steps=150), data)
    assert said == []  # the parts' network
    assert (stack.sha256, stack.accuracy) == (network.sha256, network.accuracy)
    images, labels = data.training(50)
    features, logits = stack.look(images)
    assert features.shape == (50, 48) == (50, stack.dimension)
    assert logits.shape == (50, 64)
    torch.testing.assert_close(logits.exp().sum(1), torch.ones(50))
    assert (logits.argmax(1) == labels).double().mean() > 0.5
    seen = [network.look(images[:, c : c + 1]) for c in range(3)]
    torch.testing.assert_close(features, torch.cat([part[0] for part in seen], 1))
    classes = [part[1].argmax(1) for part in seen]
    assert torch.equal(logits.argmax(1), (classes[0] * 4 + classes[1]) * 4 + classes[2])
    assert stack.knows_classes_of(data)
    assert not stack.knows_classes_of(parts)
    assert not network.knows_classes_of(data)


def test_it_wants_labels():
    message = "^features=classifier: this dataset has no labels; features=inception needs none$"
    with pytest.raises(ValueError, match=message):
        prepared(classifier(), without_labels(1, 8, 8))


def test_a_cache_that_cannot_be_written_costs_the_training_alone(tmp_path, monkeypatch):
    network, _ = prepared(classifier(), tiny())
    (tmp_path / "file").touch()
    monkeypatch.setenv("GAN_RUNNER_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        again, said = prepared(classifier(), tiny())
        assert len(said) == 2
        assert again.sha256 == network.sha256


# --- files of weights -------------------------------------------------------------------------------------------------


@pytest.fixture
def lenet_file(tmp_path) -> Path:
    torch.manual_seed(0)
    torch.save(LeNet5().state_dict(), tmp_path / "lenet.pth")
    return tmp_path / "lenet.pth"


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory) -> Iterator[Path]:
    """Random weights for the Inception network."""
    import torch_fidelity.feature_extractor_inceptionv3 as library

    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(library.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        weights = library.FeatureExtractorInceptionV3("x", ["2048"]).state_dict()
    for name in weights:
        if name.endswith("conv.weight"):
            weights[name] *= 6**0.5  # from torch's initial weights to He's, so that the features do not vanish
    torch.save(weights, path)
    yield path
    path.unlink()  # 91 MB


@pytest.mark.parametrize("kind", [LeNet, Inception])
def test_files_that_are_not_the_one(kind, lenet_file, tmp_path):
    data = without_labels(1, 8, 8)
    digest = prepared(LeNet(weights=str(lenet_file), sha256=None), data)[0].sha256
    other = "0000" if digest[:4] != "0000" else "1111"
    content = lenet_file.read_bytes()
    (tmp_path / "truncated").write_bytes(content[:-1000])
    (tmp_path / "pickle").write_bytes(pickle.dumps(Payload()))
    torch.save({"a": Payload()}, tmp_path / "code")
    torch.save({"a": torch.zeros(3), "b": 3}, tmp_path / "number")
    torch.save([torch.zeros(3)], tmp_path / "list")
    torch.save({"convnet.c1.weight": torch.zeros(3)}, tmp_path / "network")
    wanted = [
        ("missing", None, "No such file or directory"),
        (".", None, "Is a directory"),
        (lenet_file.name, other, f"its SHA-256 begins with {digest[:4]}, not with features.sha256={other}"),
        ("truncated", digest[:8], "truncated, or another file: its SHA-256 begins with"),
        ("truncated", None, "truncated, or not a file of weights alone"),
        ("pickle", None, "truncated, or not a file of weights alone"),
        ("code", None, "truncated, or not a file of weights alone"),
        ("number", None, "truncated, or not a file of weights alone"),
        ("list", None, "truncated, or not a file of weights alone"),
        ("network", None, "not (the state dict|a copy of).*: Error.*Missing key"),
    ]
    for name, sha256, message in wanted:
        path = tmp_path / name
        with pytest.raises(ValueError, match=f"^features.weights={path}: .*{message}") as error:
            prepared(kind(weights=str(path), sha256=sha256), data)
        assert "\n" not in str(error.value)
    assert not Path("payload-ran").exists()


# --- dinov2 -----------------------------------------------------------------------------------------------------------


def written_out(images: Tensor, weights: dict[str, Tensor], heads: int) -> Tensor:
    """The class token that a vision transformer of these weights makes of images (N, 3, 224, 224)."""
    x = F.conv2d(images, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
    x = torch.cat([weights["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1) + weights["pos_embed"]
    width = x.shape[-1]

    def layer(name: str, x: Tensor) -> Tensor:
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, (width,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    for block in range(12):
        name = f"blocks.{block}"
        parts = layer(f"{name}.attn.qkv", norm(f"{name}.norm1", x)).unflatten(-1, (3, heads, width // heads))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attention = ((query @ key.transpose(-1, -2)) * (width // heads) ** -0.5).softmax(-1)
        x = x + weights[f"{name}.ls1.gamma"] * layer(
            f"{name}.attn.proj", (attention @ value).transpose(1, 2).flatten(2)
        )
        hidden = F.gelu(layer(f"{name}.mlp.fc1", norm(f"{name}.norm2", x)))
        x = x + weights[f"{name}.ls2.gamma"] * layer(f"{name}.mlp.fc2", hidden)
    return norm("norm", x)[:, 0]


def dinov2_file(side: int) -> dict[str, Tensor]:
    """A file of DINOv2's, with random weights; `side` is that of the images whose positions it has."""
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    weights = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=side).state_dict()
    for name, value in weights.items():  # its own are zero, or so small that they do nothing
        value.copy_(torch.randn_like(value) * (0.5 if "gamma" in name or "embed" in name else 0.05))
    torch.save(weights | {"mask_token": torch.zeros(1, 384)}, "dinov2.pth")
    return weights


def test_dinov2_is_what_it_is_written_out():
    weights = dinov2_file(224)
    data = tiny(1, 12, 16, count=8)
    state = torch.get_rng_state()
    network, said = prepared(Dinov2(weights="dinov2.pth", sha256=None, size="small"), data)
    assert torch.equal(torch.get_rng_state(), state)
    assert said == []
    assert network.sha256 == hashlib.sha256(Path("dinov2.pth").read_bytes()).hexdigest()
    images = data.training(None)[0]
    features, logits = network.look(images)
    scaled = F.interpolate(images / 255, size=(224, 224), mode="bicubic", antialias=True).clamp(0, 1)
    mean, sd = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = written_out((scaled - mean.view(1, 3, 1, 1)) / sd.view(1, 3, 1, 1), weights, heads=6)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    assert features.std(0).mean() > 1e-3
    assert features.shape == (6, 384) == (6, network.dimension)
    assert logits.shape == (6, 0)
    with pytest.raises(ValueError, match=r"inception_score.*dinov2"):
        InceptionScore(samples=10, splits=1).check(data, network)


def test_dinov2_takes_positions_of_other_sizes():
    """The published files have those of images of 518 x 518."""
    dinov2_file(518)
    network, _ = prepared(Dinov2(weights="dinov2.pth", sha256=None, size="small"), tiny(3, 14, 14, count=8))
    assert network.look(tiny(3, 14, 14, count=8).training(None)[0])[0].isfinite().all()


def test_a_file_of_dinov2_that_is_another(monkeypatch):
    data = tiny()
    with pytest.raises(ValueError, match=r"features\.weights=FILE, dinov2_vitl14_pretrain\.pth"):
        prepared(Dinov2(weights=None, sha256=None, size="large"), data)
    with pytest.raises(ValueError, match="channels"):
        prepared(Dinov2(weights="x", sha256=None, size="large"), tiny(2, 8, 8))
    with monkeypatch.context() as patch:
        patch.setattr("gan_runner.features.dinov2.find_spec", lambda name: None)
        with pytest.raises(ValueError, match=r"pip install 'gan-runner\[dinov2\]'"):
            prepared(Dinov2(weights="x", sha256=None, size="large"), data)
    dinov2_file(224)
    with pytest.raises(ValueError, match=r"features\.weights=dinov2\.pth: not dinov2_vitb14.*size=base") as error:
        prepared(Dinov2(weights="dinov2.pth", sha256=None, size="base"), data)
    assert "\n" not in str(error.value)


# --- lenet ------------------------------------------------------------------------------------------------------------


def reference(images: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The 84 features of images (N, 1, H, W) in [0, 1], written out."""
    x = F.interpolate(images, size=32, mode="bilinear", antialias=True)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, weights["convnet.c1.weight"], weights["convnet.c1.bias"])), 2)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, weights["convnet.c3.weight"], weights["convnet.c3.bias"])), 2)
    x = torch.tanh(F.conv2d(x, weights["convnet.c5.weight"], weights["convnet.c5.bias"])).flatten(1)
    return torch.tanh(F.linear(x, weights["fc.f6.weight"], weights["fc.f6.bias"]))


def test_lenet_is_what_it_is_written_out(lenet_file):
    weights = torch.load(lenet_file, weights_only=True)
    data = tiny(1, 28, 28)
    state = torch.get_rng_state()
    network, said = prepared(LeNet(weights=str(lenet_file), sha256=None), data)
    assert torch.equal(torch.get_rng_state(), state)
    assert said == []
    assert network.sha256 == hashlib.sha256(lenet_file.read_bytes()).hexdigest()
    images = data.training(None)[0]
    features, logits = network.look(images)
    expected = reference(images / 255, weights)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(logits, expected @ weights["fc.f7.weight"].T + weights["fc.f7.bias"])
    assert features.shape == (30, 84) == (30, network.dimension)
    for shape in [(1, 8, 8), (1, 64, 40)]:
        images = tiny(*shape).training(None)[0]
        torch.testing.assert_close(network.look(images)[0], reference(images / 255, weights))


def test_lenet_knows_the_classes_that_it_tells_right(lenet_file):
    images = tiny(1, 28, 28, count=400).training(None)[0]
    network, _ = prepared(LeNet(weights=str(lenet_file), sha256=None), without_labels(1, 28, 28))
    assert network.accuracy is None
    classes = network.look(images)[1].argmax(1)
    for labels, num_classes, knows in [
        (classes, 10, True),
        ((classes + 1) % 10, 10, False),
        (classes, 12, False),
    ]:
        data = Samples(images, labels, held_out=images, held_out_labels=labels, num_classes=num_classes, seed=0)
        network, _ = prepared(LeNet(weights=str(lenet_file), sha256=None), data)
        assert network.knows_classes_of(data) == knows
        assert network.accuracy == (1.0 if knows else None)


def test_held_out_samples_without_labels_tell_no_accuracy(lenet_file):
    data = tiny(1, 28, 28, held_out_labels=None, num_classes=10)
    for network in [LeNet(weights=str(lenet_file), sha256=None), classifier()]:
        assert prepared(network, data)[0].accuracy is None


def test_lenet_says_what_it_wants(lenet_file):
    with pytest.raises(ValueError, match=r"^features.weights is null: .*features.weights=FILE.*gan-metrics-pytorch"):
        prepared(LeNet(weights=None, sha256=None), tiny(1, 28, 28))
    with pytest.raises(ValueError, match=r"^features=lenet: it looks at one channel, and this dataset has 3$"):
        prepared(LeNet(weights=str(lenet_file), sha256=None), tiny(3, 28, 28))


# --- inception --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_inception_is_torch_fidelitys(inception_file, monkeypatch):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    outputs = ["2048", "logits_unbiased"]
    theirs = FeatureExtractorInceptionV3("x", outputs, feature_extractor_weights_path=str(inception_file))
    data = without_labels(1, 8, 8)
    state = torch.get_rng_state()
    network, said = prepared(Inception(weights=str(inception_file), sha256=None), data)
    assert torch.equal(torch.get_rng_state(), state)
    assert said == []
    assert not network.knows_classes_of(data)
    monkeypatch.setattr("gan_runner.features.inception.AT_ONCE", 1)  # two passes for two images
    grey = tiny(1, 28, 28).training(None)[0][:2]
    features, logits = network.look(grey)
    assert features.shape == (2, 2048) == (2, network.dimension)
    assert logits.shape == (2, 1008)
    expected = theirs(grey.repeat(1, 3, 1, 1))
    torch.testing.assert_close((features, logits), expected)
    assert (features[0] - features[1]).abs().max() > 0.01
    coloured = tiny(3, 64, 64).training(None)[0][:1]
    torch.testing.assert_close(network.look(coloured), theirs(coloured))


def test_inception_looks_at_grey_and_rgb():
    with pytest.raises(ValueError, match=r"^features=inception: it looks at 1 or 3 channels, and this dataset has 2$"):
        prepared(Inception(weights=None, sha256=None), without_labels(2, 8, 8))


def test_inception_is_downloaded_once(inception_file, monkeypatch):
    calls = []

    def download(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        calls.append((url, hash_prefix, progress))
        shutil.copyfile(inception_file, path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    data = without_labels(3, 8, 8)
    digest = content_key()  # any
    with pytest.raises(ValueError, match=rf"^features.weights={cache_directory()}/.*features.sha256={digest}"):
        prepared(Inception(weights=None, sha256=digest), data)
    network, said = prepared(Inception(weights=None, sha256=None), data)
    assert said == []  # the first call had it downloaded
    assert [call[1:] for call in calls] == [(digest, False)]
    assert calls[0][0].startswith("https://")
    assert len(network.sha256) == 64


@pytest.mark.parametrize(
    "reason",
    [
        urllib.error.URLError("Name or service not known"),
        RuntimeError('invalid hash value (expected "6726825d", got "00")'),
        PermissionError(13, "Permission denied"),
    ],
    ids=lambda reason: type(reason).__name__,
)
def test_a_failing_download_says_how_to_do_without(reason, monkeypatch):
    def download(*_: Any, **__: Any) -> None:
        raise reason

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    said: list[str] = []
    with pytest.raises(
        ValueError, match=r"^features=inception: cannot download .*features.weights=FILE.*https://"
    ) as it:
        Inception(weights=None, sha256="6726825d").prepare(without_labels(3, 8, 8), said.append)
    assert str(reason) in str(it.value)
    assert "\n" not in str(it.value)
    assert said
    assert "once" in said[0]
