"""No target, directory, checkpoint or array that comes from a stranger runs code.

The payloads leave a file `ran` behind.
"""

import io
import itertools
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.helpers import METRIC, SMALL, refusal

pytestmark = pytest.mark.usefixtures("python_yaml")

EVIL = """
from pathlib import Path
Path("ran").touch()
class Thing: pass
def call(*arguments, **keywords): return Thing()
"""


class Payload:
    """Unpickling it makes the directory `ran`."""

    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.fixture
def evil(monkeypatch):
    """A module that leaves a trace when it is imported, from a place where it is found."""
    Path("elsewhere").mkdir()
    Path("elsewhere/evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend("elsewhere")
    yield
    sys.modules.pop("evil", None)


def refused(outcome, *named):
    assert not Path("ran").exists(), outcome[2]
    return refusal(outcome, *named)


def write(path, text):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def whole_rows(rows, columns):
    """All pairs; the default tests have each row and each column once."""
    pairs = [(row, column) for row in rows for column in columns]
    default = list(zip(itertools.cycle(rows), columns, strict=False))
    return [pytest.param(*pair, marks=[] if pair in default else pytest.mark.slow) for pair in pairs]


@pytest.mark.slow
def test_where_one_stands_no_code_is_looked_for(small_run, run_cli, tmp_path):
    """A received directory may hold what Hydra or PyTorch would import if it found it."""
    place = tmp_path / "received"
    shutil.move("run", place)
    payload = f"open({str(tmp_path / 'ran')!r}, 'w')\n"
    for name in ("hydra_plugins/evil.py", "tensorflow.py", "triton.py", "wandb.py", "cupy.py", "sitecustomize.py"):
        write(place / name, payload)
    code = "import sys; sys.path[:] = [p for p in sys.path if p]; from gan_runner.cli.main import main; main()"
    for words in (["sample", ".", "--count", "1"], ["--cfg=job"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=place, capture_output=True, text=True, check=True
        )
        assert not done.stderr
        assert not (tmp_path / "ran").exists(), words


# --- targets

TARGETS = ["evil.Thing", "os.mkdir", "torch.load", "gan_runner.losses.torch.load", 3]
PLACES = ["model.generator", "dataset", "loss", "regularizer.gradient_penalty", "optimizer", "lr_schedule", "metric.x"]


@pytest.mark.parametrize(("target", "place"), whole_rows(TARGETS, PLACES))
def test_a_target_is_refused_wherever_it_stands(target, place, evil, small_run, run_cli):
    """In a received directory, which may say that it is to be trusted, and in a plain run of its config."""
    path = small_run / ".hydra/config.yaml"
    whole = path.read_text()
    config = yaml.safe_load(whole) | {"trust": ["evil", "os", "torch", "gan_runner"]}
    node = config
    for key in place.split("."):
        node = node.setdefault(key, {})
    node["_target_"] = target
    path.write_text(yaml.safe_dump(config))
    refused(run_cli("resume", "run", "steps=9"), "_target_")
    words = ["--config-path", str(path.parent.absolute()), "--config-name", "config", "hydra.run.dir=next",
             "hydra/job_logging=none", "hydra.output_subdir=null"]  # fmt: skip
    refused(run_cli(*words), "_target_")
    if place.startswith("model"):
        refused(run_cli("sample", "run"), "_target_")
    if place.startswith(("model", "dataset", "metric")):
        refused(run_cli("evaluate", "run"), "_target_")
    if isinstance(target, str):
        refused(run_cli(*SMALL, f"++{place}._target_={target}"), "_target_")
        path.write_text(whole)
        for verb in ("resume", "evaluate", "sample"):
            refused(run_cli(verb, "run", f"model.generator._target_={target}"))


def test_a_schedule_inside_a_schedule(evil, run_cli):
    refused(run_cli(*SMALL, "+regularizer.gradient_penalty.schedule._target_=evil.call"), "not allowed")
    refused(run_cli(*SMALL, "++lr_schedule.inner._target_=evil.call"))
    refused(run_cli(*SMALL, "+optimizer.generator._target_=evil.call"), "not allowed")
    refused(run_cli(*SMALL, "+loss.margin._target_=evil.call"), "not allowed")


# --- pickles


def pickled():
    """In all the forms that torch.load and np.load know."""
    zipped, legacy, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"format": 2, "x": Payload()}, zipped)
    torch.save({"format": 2, "x": Payload()}, legacy, _use_new_zipfile_serialization=False)
    np.save(array, np.array([Payload()], dtype=object), allow_pickle=True)
    return {"zip": zipped, "legacy": legacy, "npy": array, "pickle": io.BytesIO(pickle.dumps(Payload()))}


def test_the_payload_is_one():
    for name, file in pickled().items():
        file.seek(0)
        if name == "npy":
            np.load(file, allow_pickle=True)
        elif name == "pickle":
            pickle.load(file)
        else:
            torch.load(file, weights_only=False)
        Path("ran").rmdir()


@pytest.mark.slow
def test_no_pickle_is_loaded(small_run, run_cli):
    for content in pickled().values():
        for name in ("last", "previous"):
            (small_run / f"checkpoints/{name}.pt").write_bytes(content.getvalue())
            (small_run / f"checkpoints/{name}.pt.sha256").unlink(missing_ok=True)
        refused(run_cli("sample", "run"), "last.pt")
        refused(run_cli("evaluate", "run", *METRIC), "last.pt")
        refused(run_cli("resume", "run", "steps=9"), "last.pt")
        refused(run_cli(*SMALL, "init_from=run"), "last.pt")
        Path("weights.pt").write_bytes(content.getvalue())
        refused(run_cli("sample", "run", "--checkpoint", "weights.pt"), "weights.pt")
        for features in (["metric=classes", "features=lenet"], ["metric=frechet", "features=inception"]):
            words = [*SMALL[:-1], *features, "++features.weights=weights.pt", "++features.sha256=null", "dataset=mnist"]
            code, _, error = run_cli(*words, "dataset=digits")
            assert code == 1, error
            assert not Path("ran").exists()
        Path("array.npy").write_bytes(content.getvalue())
        refused(run_cli(*SMALL, "dataset=npy", "dataset.path=array.npy"), "array.npy")


def test_a_cached_classifier_is_no_pickle(run_cli, tmp_path):
    words = [*SMALL[:-1], "metric=classes", "features.steps=2", "evaluate_every=null"]
    code, _, error = run_cli(*words, "hydra.run.dir=a")
    assert code == 0, error
    (cached,) = (tmp_path / "cache").glob("classifier-*.pt")
    cached.write_bytes(pickled()["zip"].getvalue())
    code, _, error = run_cli(*words, "hydra.run.dir=b")
    assert code == 0, error
    assert not Path("ran").exists()


# --- links

FILES = ["evaluations.jsonl", "metrics.jsonl", "gan_runner.log", ".lock", ".hydra/x"]
FOLDERS = ["generated", "samples", "checkpoints"]


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
def test_nothing_is_written_through_a_link(name, small_run, run_cli):
    own = Path("own")
    if name in FOLDERS:
        shutil.copytree(small_run / "checkpoints", own)
    else:
        own.write_text("precious")
    path = small_run / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(own.absolute())
    before = {file: file.read_bytes() for file in sorted(Path().rglob("*")) if file.is_file()}
    refused(run_cli("resume", "run", "steps=9"), "outside run")
    if name == "generated":
        refused(run_cli("sample", "run"), "outside run")
        refused(run_cli("evaluate", "run", "--neighbors"), "outside run")
    if name == "evaluations.jsonl":
        refused(run_cli("evaluate", "run", *METRIC), "outside run")
    assert {file: file.read_bytes() for file in sorted(Path().rglob("*")) if file.is_file()} == before


def test_a_link_to_the_directory_or_within_it_is_none(small_run, run_cli):
    Path("alias").symlink_to("run")
    (small_run / "generated").symlink_to("samples")
    assert run_cli("sample", "alias")[0] == 0
    assert (small_run / "samples/seed_0.png").exists()
    assert run_cli("resume", "alias", "steps=4")[0] == 0


def test_a_link_in_the_place_of_a_picture_is_replaced(small_run, run_cli):
    Path("own").write_text("precious")
    (small_run / "samples/loop").symlink_to("loop")
    (small_run / "generated").mkdir()
    (small_run / "generated/seed_0.png").symlink_to("../samples/real.png")
    before = (small_run / "samples/real.png").read_bytes()
    assert run_cli("sample", "run")[0] == 0
    assert (small_run / "samples/real.png").read_bytes() == before
