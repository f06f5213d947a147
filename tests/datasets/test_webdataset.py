"""Tar shards: the same samples as from a folder, in any order; what is damaged, and what is no sample."""

import gzip
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from gan_runner.datasets import images as image_module
from gan_runner.datasets import webdataset as module
from gan_runner.datasets.streamed import Streamed
from gan_runner.datasets.webdataset import webdataset
from tests.helpers import CONF, SMALL, naming, refusal
from tests.helpers.batches import assert_same
from tests.helpers.runs import metrics

DEFAULTS: dict[str, Any] = yaml.safe_load((CONF / "dataset/webdataset.yaml").read_text())
del DEFAULTS["_target_"]
KINDS = {"png": {}, "webp": {"lossless": True}}


def load(path, **changes):
    return webdataset(**DEFAULTS | {"path": str(path)} | changes)


def pixels(number, size=(4, 6)):
    return np.random.default_rng(number).integers(256, size=(*size, 3), dtype=np.uint8)


def encoded(array, suffix="png"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, {"jpg": "jpeg"}.get(suffix, suffix), **KINDS.get(suffix, {}))
    return stream.getvalue()


def write(path, members):
    """A shard of (name, bytes)."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def members(numbers, labels=True, suffix="png"):
    for number in numbers:
        yield f"train/{number:04d}.{suffix}", encoded(pixels(number), suffix)
        if labels:
            yield f"train/{number:04d}.cls", f"{number % 3}\n".encode()
        yield f"train/{number:04d}.json", b"{}"


@pytest.fixture
def shards(tmp_path):
    """12 images in three shards, of classes 0 to 2."""
    for shard in range(3):
        suffix = ("png", "webp", "png")[shard]
        write(tmp_path / f"shards/part-{shard:02d}.tar", members(range(4 * shard, 4 * shard + 4), suffix=suffix))
    return tmp_path / "shards"


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(image_module, "available_memory", lambda: 1000)


def test_images_and_labels(shards):
    data = load(shards)
    found, labels = data.training(None)
    assert found.numpy().tolist() == [pixels(number).transpose(2, 0, 1).tolist() for number in range(12)]
    assert labels.tolist() == [number % 3 for number in range(12)]
    assert (data.num_classes, data.shape, data.size) == (3, (3, 4, 6), 12)


@pytest.mark.parametrize(
    ("path", "count"), [("", 12), ("part-01.tar", 4), ("part-*.tar", 12), ("part-{01..02}.tar", 8), ("part-0?.tar", 12)]
)
def test_ways_to_name_shards(shards, path, count):
    assert load(f"{shards}/{path}".rstrip("/")).size == count


@pytest.mark.parametrize("path", ["part-{00..03}.tar", "none.tar", "none-*.tar", "empty"])
def test_shards_that_are_not_there(shards, path):
    (shards / "empty").mkdir()
    with pytest.raises(ValueError, match=naming("dataset.path=", path.split("{")[0])):
        load(shards / path)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("little_memory")
def test_what_exceeds_memory_streams_the_same_batches(shards, workers, monkeypatch):
    options = {"held_out": 0.25, "flip": True}
    data = load(shards, **options)
    assert data.is_on_disk
    monkeypatch.setattr(image_module, "available_memory", lambda: 2**30)
    resident = load(shards, **options)
    assert not resident.is_on_disk
    streamed = Streamed(data, workers)
    for index in (0, 1, 2, 7, 8, 3):
        assert_same(streamed.batch(index, 4, seed=3), resident.batch(index, 4, seed=3))
    assert_same(streamed.held_out(9), resident.held_out(9))
    streamed.close()


def test_the_index_is_made_once(shards, monkeypatch):
    made = []
    make = module.make_index

    def counted(shard):
        made.append(shard.name)
        return make(shard)

    monkeypatch.setattr(module, "make_index", counted)
    first = load(shards).training(None)
    assert sorted(made) == ["part-00.tar", "part-01.tar", "part-02.tar"]
    assert_same(load(shards).training(None), first)
    assert len(made) == 3
    write(shards / "part-01.tar", members(range(20, 25)))
    assert load(shards).size == 13
    assert made[3:] == ["part-01.tar"]


def test_labels_or_none(tmp_path):
    write(tmp_path / "a.tar", members(range(3), labels=False, suffix="jpg"))
    data = load(tmp_path / "a.tar")
    assert data.num_classes == 0
    assert data.training(None)[1] is None
    hidden = [("._0000.png", b"of a Mac"), ("__meta__.json", b"{}"), ("README", b"without a suffix")]
    write(tmp_path / "b.tar", [*hidden, *members(range(3), labels=False)])
    assert load(tmp_path / "b.tar").size == 3


def test_long_names(tmp_path):
    name = f"{'folder/' * 40}0001.v2.png"  # WebDataset's suffix is all behind the first dot
    write(tmp_path / "a.tar", [(name, b""), (f"{'ä/' * 90}x.PNG", encoded(pixels(0)))])
    assert load(tmp_path / "a.tar", broken="skip").size == 1


WHOLE = [*members(range(3))]
UNLIKE = {
    "an image that is none": ([("0.png", b"text"), ("0.cls", b"0")], "a.tar 0.png image"),
    "no image": ([("0.txt", b""), ("0.cls", b"0")], "a.tar 0 no image"),
    "two images": ([("0.png", encoded(pixels(0))), ("0.jpg", encoded(pixels(0), "jpg"))], "a.tar 0 several images"),
    "no label": ([("0.png", encoded(pixels(0)))], "a.tar/0.png .cls"),
    "a name for a label": ([("0.png", encoded(pixels(0))), ("0.cls", b"cat")], "a.tar 0.cls 'cat' whole number"),
    "a negative label": ([("0.png", encoded(pixels(0))), ("0.cls", b"-1")], "a.tar 0.cls '-1' whole number"),
}


@pytest.mark.parametrize("what", UNLIKE)
def test_what_is_no_sample(tmp_path, what):
    odd, named = UNLIKE[what]
    write(tmp_path / "a.tar", [*odd, *WHOLE])
    with pytest.raises(ValueError, match=naming("dataset.path", "dataset.broken=skip", *named.split())):
        load(tmp_path / "a.tar")
    data = load(tmp_path / "a.tar", broken="skip")
    assert data.size == 3
    assert data.training(None)[1].tolist() == [0, 1, 2]
    assert "1 of 4 images" in data.notes[0]


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda content: content[: 4 * 512 + 100], 1),  # within a header
        (lambda content: content[: 6 * 512 + 600], 1),  # within a file
        (lambda content: content[: content.index(b"train/0001.cls") + 512], 1),  # before a label
        (lambda content: content[:6144] + b"x" * 1024 + content[7168:], 1),  # a header overwritten
        (lambda content: content[: content.index(b"train/0002.png")], 2),  # without an end
    ],
    ids=["header", "file", "label", "overwritten", "no_end"],
)
def test_a_damaged_shard(tmp_path, damage, left):
    """Its samples before the damage are whole."""
    path = tmp_path / "a.tar"
    write(path, members(range(4)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=naming("dataset.path", str(path), "damaged")) as found:
        load(path)
    assert "\n" not in str(found.value)
    data = load(path, broken="skip")
    assert data.size >= left
    assert torch.equal(data.training(None)[0][0], torch.from_numpy(pixels(0).transpose(2, 0, 1).copy()))
    assert "damaged" in data.notes[0]


def test_shards_that_are_none(tmp_path):
    write(tmp_path / "a.tar", members(range(4)))
    (tmp_path / "packed.tar").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    with pytest.raises(ValueError, match=naming("packed.tar", "gzip", "unpack")):
        load(tmp_path / "packed.tar")
    (tmp_path / "text.tar").write_text("no tar file" * 100)
    with pytest.raises(ValueError, match=naming("text.tar", "damaged")):
        load(tmp_path / "text.tar")
    with pytest.raises(ValueError, match=naming("dataset.path=", "text.tar", "holds no image")):
        load(tmp_path / "text.tar", broken="skip")


def test_sizes(tmp_path):
    several = [(f"{n}.png", encoded(pixels(n, size))) for n, size in enumerate([(4, 6), (8, 6)])]
    write(tmp_path / "a.tar", several)
    with pytest.raises(ValueError, match=naming("dataset.image_size", "4x6", "8x6", "a.tar/1.png")):
        load(tmp_path / "a.tar")
    assert load(tmp_path / "a.tar", image_size=8).shape == (3, 8, 8)
    assert load(tmp_path / "a.tar", image_size=8, channels=1).shape == (1, 8, 8)


@pytest.mark.usefixtures("little_memory")
def test_an_image_that_is_broken_behind_its_header(tmp_path):
    whole = encoded(pixels(1, (15, 20)), "jpg")
    broken = whole[: len(whole) - 60]
    write(tmp_path / "a.tar", [("0.jpg", whole), ("1.jpg", broken), ("2.jpg", whole)])
    data = load(tmp_path / "a.tar")
    with pytest.raises(ValueError, match=naming("dataset.path", "a.tar/1.jpg")):
        data.batch(0, 3, seed=0)
    data = load(tmp_path / "a.tar", broken="skip")
    assert data.size == 2
    assert "1 of 3 images, 1.jpg" in data.notes[0].replace("a.tar/", "")


@pytest.mark.slow
def test_a_run_goes_on_exactly(shards, run_cli):
    words = [*SMALL, "dataset=webdataset", f"dataset.path={shards}", "dataset.image_size=8", "stream=true", "workers=1"]
    words = [*words, "steps=4", "sample_every=null"]
    assert run_cli(*words, "hydra.run.dir=whole")[0] == 0
    assert run_cli(*words, "steps=2", "hydra.run.dir=cut")[0] == 0
    code, _, error = run_cli("resume", "cut", "steps=4")
    assert code == 0, error
    assert metrics("cut")[2:] == metrics("whole")[2:]
    shutil.rmtree(shards)
    refusal(run_cli(*words), "dataset.path=", "no such file")
