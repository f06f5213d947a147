"""Tables of Hugging Face's library that the tests write: images, labels, what is missing in them, and no network."""

import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from gan_runner.datasets import images as image_module
from gan_runner.datasets.streamed import Streamed
from tests.helpers import CONF, SMALL, naming
from tests.helpers.batches import assert_same

library = pytest.importorskip("datasets", reason="needs the extra huggingface")
hub = pytest.importorskip("huggingface_hub")

from gan_runner.datasets.huggingface import huggingface  # noqa: E402

DEFAULTS: dict[str, Any] = yaml.safe_load((CONF / "dataset/huggingface.yaml").read_text())
del DEFAULTS["_target_"]


@pytest.fixture(autouse=True)
def _no_network(tmp_path, monkeypatch):
    """A cache of the test's own, and no network, not even by mistake."""
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    connect = socket.socket.connect

    def local_only(self, address):  # processes that fetch batches connect by the name of a file
        assert isinstance(address, str), "the network was used"
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


def load(path, **changes):
    return huggingface(**DEFAULTS | {"path": str(path)} | changes)


def pixels(number, size=(4, 6)):
    return np.random.default_rng(number).integers(256, size=(*size, 3), dtype=np.uint8)


def encoded(array, suffix="png"):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, suffix)
    return {"bytes": stream.getvalue(), "path": None}


def table(rows=None, count=9, **columns):
    """Images in the column `image`, and other columns as (type, values)."""
    content: dict[str, Any] = {"image": rows or [encoded(pixels(number)) for number in range(count)]}
    content |= {name: values for name, (_, values) in columns.items()}
    types = {"image": library.Image()} | {name: feature for name, (feature, _) in columns.items()}
    return library.Dataset.from_dict(content, features=library.Features(types))


CLASSES = library.ClassLabel(names=["a", "b", "c"])
LABELS = [number % 3 for number in range(9)]


@pytest.mark.parametrize("kind", [CLASSES, library.Value("int32")], ids=["classes", "numbers"])
def test_what_was_saved(tmp_path, kind):
    table(label=(kind, LABELS)).save_to_disk(tmp_path / "saved")
    data = load(tmp_path / "saved", label="label")
    found, labels = data.training(None)
    assert found.numpy().tolist() == [pixels(number).transpose(2, 0, 1).tolist() for number in range(9)]
    assert labels.tolist() == LABELS
    assert (data.num_classes, data.shape) == (3, (3, 4, 6))
    assert load(tmp_path / "saved").training(None)[1] is None


def test_splits_and_rows_in_another_order(tmp_path):
    both = table(label=(CLASSES, LABELS)).train_test_split(3, seed=0)
    both.save_to_disk(tmp_path / "saved")
    for split in ("train", "test"):
        found, labels = load(tmp_path / "saved", split=split, label="label").training(None)
        assert labels.tolist() == both[split]["label"]
        assert found[0].numpy().tolist() == np.asarray(both[split][0]["image"]).transpose(2, 0, 1).tolist()
    with pytest.raises(ValueError, match=naming("dataset.split=validation", "train, test")):
        load(tmp_path / "saved", split="validation")
    found, labels = load(tmp_path / "saved", split="train[:50%]", label="label").training(None)
    assert labels.tolist() == both["train"]["label"][:3]
    one = library.Dataset(table(label=(CLASSES, LABELS)).data, split=library.Split.TEST)
    one.save_to_disk(tmp_path / "one")
    with pytest.raises(ValueError, match=naming("dataset.split=train", "test")):
        load(tmp_path / "one")
    assert load(tmp_path / "one", split="test[1:]").size == 8
    with pytest.raises(ValueError, match=naming("dataset.path", "half")):
        load(tmp_path / "one", split="test[half]")


def test_a_folder_of_parquet_files(tmp_path):
    (tmp_path / "files").mkdir()
    table(label=(CLASSES, LABELS)).to_parquet(tmp_path / "files/train-00000.parquet")
    assert load(tmp_path / "files", label="label").training(None)[1].tolist() == LABELS
    assert load(tmp_path / "files", split="train[:4]").size == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_what_exceeds_memory_streams_the_same_batches(tmp_path, workers, monkeypatch):
    table(label=(CLASSES, LABELS)).save_to_disk(tmp_path / "saved")
    options = {"label": "label", "held_out": 0.25, "flip": True}
    resident = load(tmp_path / "saved", **options)
    monkeypatch.setattr(image_module, "available_memory", lambda: 1000)
    data = load(tmp_path / "saved", **options)
    assert (data.is_on_disk, resident.is_on_disk) == (True, False)
    streamed = Streamed(data, workers)
    for index in (0, 1, 2, 7, 3):
        assert_same(streamed.batch(index, 4, seed=3), resident.batch(index, 4, seed=3))
    streamed.close()


@pytest.mark.parametrize(
    ("columns", "keys", "named"),
    [
        ({}, {"image": "img"}, "dataset.image=img columns image"),
        ({}, {"label": "label"}, "dataset.label=label columns image"),
        ({"text": (library.Value("string"), ["x"] * 9)}, {"image": "text"}, "dataset.image=text string wanted"),
        ({"text": (library.Value("string"), ["x"] * 9)}, {"label": "text"}, "dataset.label=text string wanted"),
        ({"label": (library.Value("float32"), [0.5] * 9)}, {"label": "label"}, "dataset.label=label float32 wanted"),
        ({"label": (library.List(library.Value("int32")), [[1]] * 9)}, {"label": "label"}, "dataset.label=label List"),
        ({"label": (CLASSES, [-1] + [0] * 8)}, {"label": "label"}, "dataset.label=label -1"),
        (
            {"label": (library.Value("int32"), [None] + [0] * 8)},
            {"label": "label"},
            "dataset.label=label 1 of 9 missing",
        ),
    ],
)
def test_columns_that_do_not_fit(tmp_path, columns, keys, named):
    table(**columns).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=naming(*named.split())) as found:
        load(tmp_path / "saved", **keys)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("odd", [None, {"bytes": b"no image", "path": None}], ids=["missing", "broken"])
def test_broken_images(tmp_path, odd):
    rows = [encoded(pixels(number)) for number in range(3)]
    table([rows[0], odd, rows[2]], label=(CLASSES, [0, 1, 2])).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=naming("dataset.path", "row 1", "dataset.broken=skip")):
        load(tmp_path / "saved")
    data = load(tmp_path / "saved", broken="skip", label="label")
    assert data.training(None)[1].tolist() == [0, 2]
    assert "1 of 3 images, row 1" in data.notes[0]


def test_nothing_is_fetched_unless_asked(tmp_path, monkeypatch):
    before = hub.constants.HF_HUB_OFFLINE
    with pytest.raises(ValueError, match=naming("dataset.path=nobody/nothing", "dataset.download=true")) as found:
        load("nobody/nothing")
    assert "\n" not in str(found.value)
    assert before == hub.constants.HF_HUB_OFFLINE
    asked = []

    def load_dataset(*_, **__):
        asked.append(hub.constants.HF_HUB_OFFLINE)
        return table()

    monkeypatch.setattr(library, "load_dataset", load_dataset)
    load("nobody/nothing", download=True)
    load("nobody/nothing")
    assert asked == [before, True]


def test_places_that_are_no_dataset(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=naming("dataset.path=", "empty", "cannot be loaded")):
        load(tmp_path / "empty")
    table().select([]).save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match=naming("dataset.path=", "none")):
        load(tmp_path / "none")
    table().save_to_disk(tmp_path / "damaged")
    for file in (tmp_path / "damaged").glob("*.arrow"):
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=naming("dataset.path=", "damaged", "cannot be loaded")) as found:
        load(tmp_path / "damaged")
    assert "\n" not in str(found.value)


@pytest.mark.slow
def test_a_run(tmp_path, run_cli):
    table(label=(CLASSES, LABELS)).save_to_disk(tmp_path / "saved")
    words = [*SMALL, "dataset=huggingface", f"dataset.path={tmp_path / 'saved'}", "dataset.label=label"]
    code, _, error = run_cli(*words, "conditional=true", "hydra.run.dir=run", "stream=true", "workers=1")
    assert code == 0, error
    assert Path("run/samples").exists()
