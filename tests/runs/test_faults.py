"""Bad days: a full disk, a directory that goes away, no memory, damaged files. One message, and nothing lost."""

import errno
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch

from gan_runner.games.adversarial import Adversarial
from gan_runner.storage import checkpoint
from tests.helpers import SMALL

RUN = Path("run")
WORDS = [*SMALL, "steps=6", f"hydra.run.dir={RUN}"]


@pytest.fixture
def in_step(monkeypatch):
    """Have something happen in training step number 3, after two that were saved."""

    def arrange(happen):
        happened: list[int] = []
        original = Adversarial.step

        def step(self, number):
            original(self, number)
            if number == 2 and not happened:
                happened.append(number)
                happen()

        monkeypatch.setattr(Adversarial, "step", step)

    return arrange


def raising(error):
    def happen():
        raise error

    return happen


def failed(run_cli, *words: str) -> str:
    """The one line that the run ends with."""
    code, _, error = run_cli(*(words or WORDS))
    assert code == 1
    assert len(error.splitlines()) == 1, error
    assert "Traceback" not in error
    return error


def summary():
    return json.loads((RUN / "summary.json").read_text())


def assert_step_2_is_whole():
    saved, warning = checkpoint.load_newest(RUN / "checkpoints")
    assert saved is not None
    assert (saved["step"], warning) == (2, None)
    assert not list(RUN.rglob("*.tmp"))


def test_a_full_disk(run_cli, in_step):
    """No file may grow beyond what a summary needs: the checkpoint does not fit any more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    in_step(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, hard)))
    try:
        error = failed(run_cli)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "EFBIG" in error
    assert "of step 2, is whole" in error
    assert summary()["status"] == "failed"
    assert "EFBIG" in summary()["reason"]
    assert_step_2_is_whole()


def test_a_disk_so_full_that_nothing_can_be_said(run_cli, in_step):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    in_step(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard)))
    try:
        error = failed(run_cli)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "EFBIG" in error
    assert summary()["status"] == "running"  # what was written last, whole
    assert_step_2_is_whole()


def test_a_full_disk_goes_on_when_there_is_room(run_cli, in_step):
    in_step(raising(OSError(errno.ENOSPC, "No space left on device")))
    assert "ENOSPC" in failed(run_cli)
    code, _, error = run_cli("resume", str(RUN))
    assert code == 0, error
    assert [json.loads(line)["step"] for line in (RUN / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert summary()["status"] == "completed"


def test_a_file_system_that_fails_on_rename(run_cli, in_step, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EIO, "Input/output error", str(target))

    in_step(lambda: monkeypatch.setattr(Path, "replace", refuse))
    error = failed(run_cli)
    assert "EIO" in error
    assert_step_2_is_whole()


def test_a_directory_that_is_taken_away(run_cli, in_step):
    in_step(lambda: shutil.rmtree(RUN))
    error = failed(run_cli)
    assert "run" in error
    assert not (RUN / "checkpoints").exists()  # and not made anew, half of it


def test_a_directory_that_cannot_be_made(run_cli):
    Path("file").write_text("")
    error = failed(run_cli, *SMALL, "hydra.run.dir=file/run")
    assert "file" in error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nMore lines."),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    ],
    ids=["cuda", "python", "cpu"],
)
def test_out_of_memory(run_cli, in_step, error):
    in_step(raising(error))
    line = failed(run_cli)
    assert "out of memory" in line
    assert "batch_size" in line
    assert summary()["status"] == "failed"
    assert_step_2_is_whole()


def test_a_byte_changed_anywhere_in_a_checkpoint_is_noticed(small_run):
    directory = small_run / "checkpoints"
    last = directory / "last.pt"
    content = last.read_bytes()
    for offset in range(0, len(content), 256):
        last.write_bytes(content[:offset] + bytes([content[offset] ^ 0x10]) + content[offset + 1 :])
        with pytest.raises(checkpoint.DamagedError):
            checkpoint.load(last)
    saved, warning = checkpoint.load_newest(directory)
    assert saved is not None
    assert saved["step"] == 2
    assert warning is not None
    assert "last.pt is damaged" in warning


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_a_truncated_checkpoint_is_one_line(run_cli, small_run, verb):
    last = small_run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    assert "last.pt is damaged" in failed(run_cli, verb, str(small_run))


def test_resume_goes_on_from_the_checkpoint_before(run_cli, small_run):
    last = small_run / "checkpoints" / "last.pt"
    last.write_bytes(last.read_bytes()[:5000])
    code, out, error = run_cli("resume", str(small_run), "steps=5")
    assert code == 0, error
    assert "warning" in out
    assert "going on from previous.pt" in out
    assert (small_run / "checkpoints" / "last.pt.damaged").exists()
    assert summary()["status"] == "completed"


@pytest.mark.parametrize("name", ["summary.json", ".hydra/config.yaml"])
@pytest.mark.parametrize("content", ["", "{", "[1, 2]", "null", "\x00\x01"])
def test_a_malformed_directory_is_one_line(run_cli, small_run, name, content):
    (small_run / name).write_text(content)
    failed(run_cli, "resume", str(small_run))
