"""Bad days: no space, no memory, a directory that goes away. One line, and what was saved stays whole."""

import contextlib
import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gan_runner.games.adversarial import Adversarial
from gan_runner.storage import checkpoint
from gan_runner.training.log import RunLog
from gan_runner.training.recorder import Best
from tests.helpers import METRIC, SMALL, refusal, some
from tests.helpers.runs import metrics, summary

RUN = Path("run")
WORDS = [*SMALL, "steps=6", f"hydra.run.dir={RUN}"]
ENDLESS = [*SMALL, "steps=1000000", "sample_every=7", "hydra.run.dir=run"]


def is_whole(directory: Path) -> int:
    """Of a run that was broken off: the step of its newest checkpoint. Nothing half-written is left."""
    assert not [path for path in directory.rglob("*") if path.suffix == ".tmp"]
    saved, warning = checkpoint.load_newest(directory / "checkpoints")
    assert warning is None
    assert saved
    assert summary(directory)
    return saved["step"]


@contextlib.contextmanager
def files_no_larger_than(size, when=None):
    """The system's limit, which is as a full disk for one file; from now on, or from when something happens."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

    when(limit) if when else limit()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def in_step(monkeypatch):
    """Have something happen in training step number 3, after two that were saved."""

    def arrange(happen):
        happened: list[int] = []
        original = Adversarial.step

        def step(self, number, **options):
            values = original(self, number, **options)
            if number == 2 and not happened:
                happened.append(number)
                happen()
            return values

        monkeypatch.setattr(Adversarial, "step", step)

    return arrange


def raising(error):
    def happen():
        raise error

    return happen


def assert_step_2_is_whole():
    saved, warning = checkpoint.load_newest(RUN / "checkpoints")
    assert saved is not None
    assert (saved["step"], warning) == (2, None)
    assert not list(RUN.rglob("*.tmp"))


def test_a_full_disk(run_cli, in_step):
    """No file may grow beyond what a summary needs: the checkpoint does not fit any more."""
    with files_no_larger_than(8_000, when=in_step):
        refusal(run_cli(*WORDS), "EFBIG", "step 2")
    assert summary()["status"] == "failed"
    assert "EFBIG" in summary()["reason"]
    assert_step_2_is_whole()


def test_a_disk_so_full_that_nothing_can_be_said(run_cli, in_step):
    with files_no_larger_than(10, when=in_step):
        refusal(run_cli(*WORDS), "EFBIG")
    assert summary()["status"] == "running"  # what was written last, whole
    assert_step_2_is_whole()


def test_a_full_disk_goes_on_when_there_is_room(run_cli, in_step):
    in_step(raising(OSError(errno.ENOSPC, "No space left on device")))
    refusal(run_cli(*WORDS), "ENOSPC")
    code, _, error = run_cli("resume", str(RUN))
    assert code == 0, error
    assert [row["step"] for row in metrics()] == [1, 2, 3, 4, 5, 6]
    assert summary()["status"] == "completed"


def test_a_file_system_that_fails_on_rename(run_cli, in_step, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.EIO, "Input/output error", str(target))

    in_step(lambda: monkeypatch.setattr(Path, "replace", refuse))
    refusal(run_cli(*WORDS), "EIO")
    assert_step_2_is_whole()


def test_a_directory_that_is_taken_away(run_cli, in_step):
    in_step(lambda: shutil.rmtree(RUN))
    refusal(run_cli(*WORDS), "run")
    assert not (RUN / "checkpoints").exists()  # and not made anew, half of it


def test_a_directory_that_cannot_be_made(run_cli):
    Path("file").write_text("")
    refusal(run_cli(*SMALL, "hydra.run.dir=file/run"), "file")


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
    refusal(run_cli(*WORDS), "out of memory", "batch_size")
    assert summary()["status"] == "failed"
    assert_step_2_is_whole()


@pytest.mark.parametrize("size", [0, 400, 3000, 30_000])
def test_no_file_may_grow(size, run_cli):
    """At each size another file is too large: the summary, the log, metrics, pictures, events, checkpoints."""
    with files_no_larger_than(size):
        refusal(run_cli(*ENDLESS), "File too large")
    if (RUN / "summary.json").exists() and size >= 3000:
        assert summary()["status"] == "failed"
        assert "EFBIG" in summary()["reason"]
        if (RUN / "checkpoints/last.pt").exists():
            step = is_whole(RUN)
            code, _, error = run_cli("resume", "run", f"steps={step + 2}")
            assert code == 0, error
            assert is_whole(RUN) == step + 2


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", some(["metrics", "text", "evaluations", "events"], every=2))
def test_a_full_disk_in_the_middle_of_a_log(name, run_cli, monkeypatch):
    """/dev/full takes everything, and has no space for it (nor can it be flushed to a disk: EINVAL)."""
    full = open("/dev/full", "wb") if name == "events" else open("/dev/full", "w", buffering=1)  # noqa: SIM115
    original = RunLog.scalars

    def scalars(self, step, values):
        if step == 4 and name == "events":
            self.events.records._writer = full
            monkeypatch.setattr(self.events, "file", full)
        elif step == 4:
            monkeypatch.setattr(self, name, full)
        original(self, step, values)

    monkeypatch.setattr(RunLog, "scalars", scalars)
    words = ["evaluate_every=4", *METRIC] if name == "evaluations" else []
    error = refusal(run_cli(*ENDLESS, *words), "run")
    assert re.search(r"(ENOSPC|EINVAL).*step [34]", error), error
    with contextlib.suppress(OSError):
        full.close()
    assert summary()["status"] == "failed"
    assert is_whole(RUN) in (3, 4)


@pytest.mark.parametrize(
    "name",
    [
        "last.pt",
        "summary.json",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("previous.pt", "last.pt.sha256", "best.pt")),
        pytest.param("step_00000007.png", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("at", ["write", "replace"])
def test_a_file_that_cannot_be_written(name, at, run_cli, monkeypatch):
    """The disk is full, or the file system fails when the file is put into its place."""
    words = [*METRIC, "evaluate_every=4"] if name == "best.pt" else []
    failing = False

    original_step = Adversarial.step

    def step(self, index, **options):
        nonlocal failing
        failing = index >= 3
        return original_step(self, index, **options)

    def replace(self, target, original=Path.replace):
        if failing and Path(target).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        return original(self, target)

    def open_(self, mode="r", *arguments, original=Path.open, **keywords):
        if failing and "w" in mode and f".{name}." in self.name:
            return original(Path("/dev/full"), mode, *arguments, **keywords)
        return original(self, mode, *arguments, **keywords)

    monkeypatch.setattr(Adversarial, "step", step)
    monkeypatch.setattr(Best, "is_beaten_by", lambda self, values, step: True)
    if at == "replace":
        monkeypatch.setattr(Path, "replace", replace)
    elif name == "previous.pt":
        pytest.skip("it is a second name of what is there")
    else:
        monkeypatch.setattr(Path, "open", open_)
    assert re.search("EIO|ENOSPC", refusal(run_cli(*ENDLESS, *words), "run"))
    step_done = is_whole(RUN)
    assert step_done >= 3
    assert summary()["status"] == ("running" if name == "summary.json" else "failed")
    failing = False
    monkeypatch.setattr(Adversarial, "step", original_step)
    code, _, error = run_cli("resume", "run", f"steps={step_done + 2}", *words[:1])
    assert code == 0, error


SCRIPT = """
set -e
mkdir disk && mount -t tmpfs -o size=%s none disk
%s || echo "code $?"
cp -r disk/run copy
"""


def in_a_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount things; skip the test where that is not allowed."""
    allowed = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    if allowed.returncode:
        pytest.skip("no right to mount a small disk")
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    words = ["unshare", "-rm", "sh", "-c", script]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=200, env=environment)


def command(*words: str) -> str:
    return " ".join(f"'{word}'" for word in [sys.executable, "-m", "gan_runner", *words])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare")
def test_a_disk_that_is_really_full():
    done = in_a_namespace(SCRIPT % ("400k", command(*SMALL, "steps=1000000", "hydra.run.dir=disk/run")))
    assert "code 1" in done.stdout, done.stderr
    assert re.search(r"^gan-runner: .*disk/run.*No space left.*step \d+.*\n$", done.stderr), done.stderr
    assert is_whole(Path("copy")) > 1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare")
def test_a_disk_that_can_only_be_read(small_run):
    """Whoever wants to write says so in a line; nothing is changed."""
    words = [
        ["sample", "disk/run"], ["evaluate", "disk/run", *METRIC],
        ["resume", "disk/run", "steps=4"],
        [*SMALL, "hydra.run.dir=disk/next"], ["sample", "disk/run", "--out", "x.npz"],
    ]  # fmt: skip
    calls = "\n".join(f"{command(*line)} && echo code 0" for line in words)
    done = in_a_namespace(
        f"mkdir disk && mount -t tmpfs none disk && cp -r run disk/run && mount -o remount,ro disk\n{calls}"
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 4, done.stderr
    assert all(
        line.startswith("gan-runner: ") and "disk/" in line and "Read-only file system" in line for line in lines
    ), lines
    assert done.stdout.splitlines()[-2:] == ["x.npz", "code 0"]


def test_a_place_where_nothing_can_be_written(run_cli):
    refusal(run_cli(*SMALL, "hydra.run.dir=/proc/nowhere/run"), "/proc/nowhere")
    Path("file").touch()
    refusal(run_cli(*SMALL, "hydra.run.dir=file"), "file")
    refusal(run_cli(*SMALL, "hydra.run.dir=file/run"), "file/run")
    refusal(run_cli(*SMALL, f"hydra.run.dir={'x' * 300}"), "File name too long")


def test_verbs_that_cannot_write(small_run, run_cli):
    (small_run / "generated").touch()
    refusal(run_cli("sample", "run"), "run/generated")
    refusal(run_cli("sample", "run", "--out", "nowhere/\0/x.npz"))
    refusal(run_cli("sample", "run", "--out", "/proc/x.npz"), "/proc/x.npz")
    refusal(run_cli("evaluate", "run", "--neighbors", "1"), "run/generated")
    (small_run / "evaluations.jsonl").unlink(missing_ok=True)
    (small_run / "evaluations.jsonl").mkdir()
    refusal(run_cli("evaluate", "run", *METRIC), "run/evaluations.jsonl")
    (small_run / "generated").unlink()
    with files_no_larger_than(20):
        refusal(run_cli("sample", "run"), "File too large")
        refusal(run_cli("sample", "run", "--out", "x.npz"), "File too large")
        (small_run / "evaluations.jsonl").rmdir()
        refusal(run_cli("evaluate", "run", *METRIC), "File too large")
        refusal(run_cli("resume", "run", "steps=9"), "File too large")
    assert not list(Path().rglob("*.tmp"))
    assert not Path("x.npz").exists()
    assert run_cli("resume", "run", "steps=5")[0] == 0


def test_no_memory_for_the_networks(run_cli):
    """More than any machine has: the allocation itself fails."""
    words = [*SMALL, "model.generator.width=9000000", "model.generator.depth=2"]
    refusal(run_cli(*words), "out of memory", "batch_size", "model")
