"""Checkpoints: everything that training needs to go on, in files that PyTorch reads without running code."""

import os
from pathlib import Path
from typing import Any

import torch

from gan_runner.files import write_atomically

FORMAT = 2


def content(step: int, game: dict[str, Any], data: dict[str, Any], best: dict[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint after `step` steps holds.

    `game` is the state of all that learns; `data` says what the samples are, so that `sample` needs no dataset; `best`
    is the best evaluation so far.
    """
    return {
        "format": FORMAT,
        "step": step,
        "torch": str(torch.__version__),
        "game": game,
        "data": data,
        "best": best,
    }


def save_last(directory: Path, content: dict[str, Any]) -> None:
    """Write `last.pt`; what it was before stays as `previous.pt`."""
    last, previous = directory / "last.pt", directory / "previous.pt"
    directory.mkdir(parents=True, exist_ok=True)
    if last.exists():  # a second name for the old file first, so that at no moment both are missing
        spare = directory / ".previous.pt.tmp"
        spare.unlink(missing_ok=True)
        os.link(last, spare)
        spare.replace(previous)
    save(last, content)


def save(path: Path, content: dict[str, Any]) -> None:
    """Write one checkpoint."""
    write_atomically(path, lambda file: torch.save(content, file))


def load(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU: as `content` makes it. Raises ValueError where it is none."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such checkpoint") from None
    except Exception as error:  # torch raises whatever the bytes of a file that is none make it stumble over
        raise ValueError(f"{path}: no readable checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(f"{path}: a checkpoint of format {found}; this version reads format {FORMAT}")
    return content
