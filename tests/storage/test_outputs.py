"""The folder `outputs`: names, what is found in it, and which is the newest."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan_runner.storage.outputs import began, check_free, check_name, find, newest
from tests.helpers import naming


@pytest.mark.parametrize("name", ["first_try", "a.b-c", "2", "2026-01", "ä", "x" * 100])
def test_a_name(name):
    assert check_name("name", name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".x", "-x", "a/b", "a b", "sweeps", "Latest", "2026-01-31", "x" * 101])
def test_no_name(name):
    with pytest.raises(ValueError, match=naming("name=")):
        check_name("name", name)


def test_a_sweep_may_be_called_by_a_date():
    assert check_name("sweep", "2026-01-31") == "2026-01-31"


def make_run(path: str, started: str) -> None:
    Path(path).mkdir(parents=True)
    Path(path, "summary.json").write_text(json.dumps({"status": "completed", "started": started}))


def make_outputs() -> None:
    make_run("outputs/named", "2026-01-03T00:00:00+00:00")
    make_run("outputs/2026-01-02/12-00-00", "2026-01-02T12:00:00+00:00")
    make_run("outputs/sweeps/s/job", "2026-01-09T00:00:00+00:00")
    make_run("outputs/.hidden/x", "2026-01-09T00:00:00+00:00")
    Path("outputs/sweeps/s/jobs.jsonl").touch()
    os.utime("outputs/sweeps/s/jobs.jsonl", (1e9, 1e9))


def test_what_is_found():
    make_outputs()
    Path("outputs/link").symlink_to("named")
    found = [str(path) for path in find(Path("outputs"))]
    assert found == ["outputs/2026-01-02/12-00-00", "outputs/named", "outputs/sweeps/s"]
    assert [path.name for path in find(Path("outputs/sweeps/s"))] == ["job"]


def test_the_newest_is_what_began_last():
    make_outputs()
    os.utime("outputs/2026-01-02/12-00-00/summary.json")  # it was resumed
    assert newest(Path("outputs")) == Path("outputs/named")
    os.utime("outputs/sweeps/s/jobs.jsonl")
    assert newest(Path("outputs")) == Path("outputs/sweeps/s")
    with pytest.raises(ValueError, match="latest"):
        newest(Path("nowhere"))


def test_a_damaged_run_began_when_its_directory_was_written():
    make_run("outputs/x", "yesterday")
    os.utime("outputs/x", (2e9, 2e9))
    assert began(Path("outputs/x")) == 2e9


def test_a_directory_is_free_or_not():
    Path("run").mkdir()
    Path("run/.lock").touch()
    check_free(Path("run"))
    Path("run/x").touch()
    with pytest.raises(ValueError, match=naming("run", "x", "name", "hydra.run.dir")):
        check_free(Path("run"))


def test_neither_torch_nor_numpy_is_imported():
    code = "import sys, gan_runner.storage.outputs; assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
