"""The directory that belongs to one run: who may write there, and what the run says of itself."""

import datetime
import json
import math
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from gan_runner import __version__
from gan_runner.storage.atomic_files import json_safe, write_bytes
from gan_runner.storage.checkpoint import remove_snapshots_after
from gan_runner.storage.outputs import check_free
from gan_runner.storage.status import host_name, is_elsewhere, scheduler_job

LIBRARIES = ("torchvision", "numpy", "scipy", "torch-fidelity", "hydra-core", "omegaconf")  # that numbers depend on


class RunDirectory:
    """A run directory that this process owns; a context manager that lets go of it."""

    def __init__(self, path: Path):
        self.path = path
        self.summary: dict[str, Any] = {}
        self.lock = FileLock(path / ".lock", timeout=0)  # the system lets go of it when this process dies

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.lock.release()

    @classmethod
    def create(cls, path: Path, documents: dict[str, str], metadata: dict[str, Any]) -> "RunDirectory":
        """Take an empty or new directory for a run of this process.

        `documents` (name -> text) are written into it, and `metadata` into summary.json, which comes last: a directory
        that has one can be resumed. Raises ValueError if it holds a run: two runs never share a directory.
        """
        directory = cls(path)
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        try:
            directory.lock.acquire()  # exactly one process has it
        except Timeout:
            raise ValueError(f"{path} already holds a run; choose another name or hydra.run.dir") from None
        try:
            check_free(path)
            directory.write(documents)
            directory.update(status="running", reason=None, step=0, started=now(), **this_process(), **metadata)
        except BaseException:
            directory.lock.release()
            raise
        return directory

    @classmethod
    def restore(cls, path: Path, *, take_over: bool = False) -> "RunDirectory":
        """Take the directory of a run that is not running any more, to go on with it.

        Raises ValueError where it is none, or another process writes there. Of one that was running on another machine
        nobody here knows, unless `take_over` says that it is gone.
        """
        directory = cls(path)
        if not (path / "summary.json").exists():
            raise ValueError(f"{path} is no run directory: it has no summary.json")
        try:
            directory.lock.acquire()
        except Timeout:
            raise ValueError(f"{path} belongs to a process that is running{whose(path)}") from None
        try:
            directory.summary = json.loads((path / "summary.json").read_text())
            is_running = directory.summary["status"] == "running"
        except (ValueError, TypeError, KeyError) as error:
            directory.lock.release()
            raise ValueError(f"{path / 'summary.json'} is damaged ({error})") from None
        if is_running and is_elsewhere(directory.summary) and not take_over:
            directory.lock.release()
            host = directory.summary["host"]
            raise ValueError(f"{path} was running on {host}; if it is not any more, resume --take-over goes on with it")
        return directory

    def go_on(self, step: int, logged: int, best: dict[str, Any] | None, metadata: dict[str, Any]) -> None:
        """Say that the run is running again, after `step` steps, and take back what it wrote later.

        `logged` is the last step whose log point is written: that of `step` itself may be pending. `best` is what a
        checkpoint knows of the best evaluation.
        """
        for folder in (self.path, self.path / ".hydra", self.checkpoints, self.samples):
            for leftover in folder.glob(".*.tmp"):  # of a process that was killed while it wrote
                leftover.unlink()
        for name in ("metrics.jsonl", "evaluations.jsonl"):
            truncate_after(self.path / name, logged)
        for picture in self.samples.glob("*_*.png"):
            if picture.stem.rpartition("_")[2] > f"{logged:08d}":
                picture.unlink()
        remove_snapshots_after(self.checkpoints, step)
        self.summary.pop("best", None)
        self.summary.pop("stacked", None)
        self.summary |= {"best": best} if best else {}
        self.summary.setdefault("resumed", []).append({"step": step, "at": now()})
        self.update(status="running", reason=None, step=step, **this_process(), **metadata)

    def write(self, documents: dict[str, str]) -> None:
        for name, text in documents.items():
            write_bytes(self.path / name, text.encode())

    def check(self) -> None:
        """Raises FileNotFoundError where the directory has been taken away."""
        if not (self.path / "summary.json").exists():
            raise FileNotFoundError(f"the run directory {self.path} is gone")

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.path / "samples"

    def update(self, **entries: Any) -> None:
        self.summary |= entries
        write_bytes(self.path / "summary.json", (json.dumps(json_safe(self.summary), indent=2) + "\n").encode())


def take_over(path: Path, reason: str | None = None) -> None:
    """Note that a run left running on another machine is not running any more, and why, where somebody knows.

    Raises ValueError as `restore` does.
    """
    with RunDirectory.restore(path, take_over=True) as directory:
        if directory.summary["status"] == "running":
            reason = reason or f"taken over from {directory.summary.get('host')}"
            directory.update(status="interrupted", reason=reason)


def whose(path: Path) -> str:
    """Which process owns a directory, as far as it says."""
    try:
        return f" (pid {json.loads((path / 'summary.json').read_text())['pid']})"
    except (OSError, ValueError, TypeError, KeyError):
        return ""


def now() -> str:
    """The time, as summary.json has it."""
    return datetime.datetime.now().astimezone().isoformat(timespec="milliseconds")


def this_process() -> dict[str, Any]:
    """Who writes, and with what."""
    process = {"host": host_name(), "pid": os.getpid(), "scheduler_job": scheduler_job()}
    return process | {"commit": git_commit(), "versions": versions()}


def truncate_after(path: Path, done: int) -> None:
    """Take the lines after `done` steps from a file of JSON lines, and those that were not written to their end.

    What a verb measured of a checkpoint stays.
    """
    if path.exists():
        lines = path.read_bytes().splitlines(keepends=True)
        write_bytes(path, b"".join(line for line in lines if line.endswith(b"\n") and is_of(line, done)))


def is_of(line: bytes, done: int) -> bool:
    """Whether a line of JSON is of one of the first `done` steps, or of a verb."""
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return isinstance(row, dict) and ("checkpoint" in row or row.get("step", math.inf) <= done)


def versions() -> dict[str, str]:
    """The versions of all that numbers depend on."""
    own = {"gan_runner": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return own | installed()


@cache
def installed() -> dict[str, str]:
    """The versions of LIBRARIES, which are read from files."""
    return {name: version(name) for name in LIBRARIES}


@cache
def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, `+` behind it where files differ; None in a wheel."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip()
