"""The directory that belongs to one run: who may write there, and what the run says of itself."""

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from gan_runner import __version__
from gan_runner.files import named, write_bytes

LIBRARIES = ("torchvision", "numpy", "scipy", "torch-fidelity", "hydra-core", "omegaconf")  # that numbers depend on


class RunDirectory:
    """A run directory that this process owns."""

    def __init__(self, path: Path):
        self.path = path
        self.summary: dict[str, Any] = {}

    @classmethod
    def claim(cls, path: Path, documents: dict[str, str]) -> "RunDirectory":
        """Take an empty or new directory for a run of this process, and write `documents` (name -> text) into it.

        Raises ValueError if it holds a run: two runs never share a directory.
        """
        directory = cls(path)
        directory.summary = {
            "status": "running",
            "reason": None,
            "step": 0,
            "started": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "host": platform.node(),
            "pid": os.getpid(),
            "commit": git_commit(),
            "versions": versions(),
        }
        path.mkdir(parents=True, exist_ok=True)
        if (strangers := [entry.name for entry in path.iterdir()]) and "summary.json" not in strangers:
            raise ValueError(f"{path} is not empty: it holds {strangers[0]}; choose another hydra.run.dir")
        try:
            (path / "summary.json").touch(exist_ok=False)  # exactly one process creates it
        except FileExistsError:
            raise ValueError(f"{path} already holds a run; choose another hydra.run.dir") from None
        directory.update()
        for name, text in documents.items():
            write_bytes(path / name, text.encode())
        return directory

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """Where sample grids are."""
        return self.path / "samples"

    def update(self, **entries: Any) -> None:
        """Set entries of summary.json."""
        self.summary |= entries
        write_bytes(self.path / "summary.json", (json.dumps(named(self.summary), indent=2) + "\n").encode())


def versions() -> dict[str, str]:
    """Of all that numbers depend on."""
    own = {"gan_runner": __version__, "python": platform.python_version(), "torch": str(torch.__version__)}
    return own | {name: version(name) for name in LIBRARIES}


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, `+` behind it where files differ; None in a wheel."""
    root = Path(__file__).resolve().parent.parent
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
