"""Checkpoints: everything that training needs to go on, in files that PyTorch reads without running code."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch

from gan_runner.storage.atomic_files import digest_path, hard_link, is_intact, write_with_digest
from gan_runner.storage.outputs import snapshot_name

FORMAT = 2


class DamagedError(ValueError):
    """A checkpoint that is not what was written."""


def content(
    step: int, game: dict[str, Any], data: dict[str, Any], report: dict[str, Any], versions: dict[str, str]
) -> dict[str, Any]:
    """What a checkpoint after `step` steps holds.

    `game` is the state of all that learns; `data` says what the samples are, so that `sample` needs no dataset;
    `report` is what the loop remembers.
    """
    own = own_storage(game)
    return {"format": FORMAT, "step": step, "versions": versions, "game": own, "data": data, "report": report}


def own_storage(state: Any) -> Any:
    """A state whose tensors are no views of larger ones, which torch.save would write as a whole: all runs of many."""
    if isinstance(state, dict):
        made = copy.copy(state)  # with what PyTorch notes in a network's
        made.update((key, own_storage(value)) for key, value in state.items())
        return made
    if isinstance(state, list | tuple):
        return type(state)(own_storage(value) for value in state)
    if isinstance(state, torch.Tensor) and state.untyped_storage().nbytes() > state.numel() * state.element_size():
        return state.clone()
    return state


def save_last(directory: Path, content: dict[str, Any]) -> None:
    """Write `last.pt`; what it was before stays as `previous.pt`."""
    last = directory / "last.pt"

    def keep_last() -> None:
        if last.exists():  # a second name for the old file, so that at no moment there is none
            hard_link(last, directory / "previous.pt")

    save(last, content, before=keep_last)


def keep_snapshot(directory: Path, step: int, count: int) -> None:
    """Keep `last.pt` as the snapshot of a step too, at no cost of writing; of all snapshots the last `count` stay."""
    hard_link(directory / "last.pt", directory / snapshot_name(step))
    for path in snapshots(directory)[:-count]:
        remove(path)


def snapshots(directory: Path) -> list[Path]:
    """The snapshots there are, in the order of their steps."""
    return sorted(path for path in directory.glob("step_*.pt") if path.name == snapshot_name(step_of(path)))


def remove_snapshots_after(directory: Path, step: int) -> None:
    """Remove those of later steps, which a resumed run will take again."""
    for path in snapshots(directory):
        if step_of(path) > step:
            remove(path)


def step_of(snapshot: Path) -> int:
    """The step in the name of a snapshot; -1 of another file."""
    digits = snapshot.stem.removeprefix("step_")
    return int(digits) if digits.isdecimal() else -1


def remove(path: Path) -> None:
    """A checkpoint and its digest."""
    path.unlink(missing_ok=True)
    digest_path(path).unlink(missing_ok=True)


def save(path: Path, content: dict[str, Any], before: Callable[[], object] = lambda: None) -> None:
    """Write one checkpoint, with its digest beside it; `before` is called when it is written, but not yet in place."""
    write_with_digest(path, lambda file: torch.save(content, file), before)


def load(path: Path) -> dict[str, Any]:
    """A checkpoint on the CPU: as `content` makes it.

    Raises ValueError where there is none, or one of another format; DamagedError where it cannot be read, or its digest
    is not the one beside it.
    """
    try:
        if not is_intact(path):
            raise DamagedError(f"{path} is damaged: its SHA-256 is not the one in {path.name}.sha256")
        if not digest_path(path).exists() and (entry := broken_entry(path)):
            raise DamagedError(f"{path} is damaged: the checksum of {entry} is another")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such checkpoint") from None
    except DamagedError:
        raise
    except Exception as error:  # torch raises whatever the bytes of a file that is none make it stumble over
        raise DamagedError(f"{path}: no readable checkpoint ({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else None
        raise ValueError(f"{path}: a checkpoint of format {found}; this version of gan_runner reads format {FORMAT}")
    game = content.get("game", {})
    if not isinstance(game, dict) or not all(isinstance(part, dict) for part in game.values()):
        # A tensor in such a place would warn of its keys before it fails.
        raise DamagedError(f"{path}: no readable checkpoint (the state of its game is none)")
    return content


def broken_entry(path: Path) -> str | None:
    """The first part of a checkpoint whose checksum, which torch.load does not check, is another than was written."""
    with ZipFile(path) as archive:
        return archive.testzip()


def set_damaged_aside(directory: Path) -> None:
    """Give `last.pt` another name, so that it does not take the place of `previous.pt`, which is whole."""
    last = directory / "last.pt"
    last.replace(directory / "last.pt.damaged")
    digest_path(last).unlink(missing_ok=True)


def load_newest(directory: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The newest checkpoint that is whole, None if there is none at all; and a warning where a newer one is damaged.

    Raises DamagedError where there are checkpoints, and none is whole.
    """
    damaged: DamagedError | None = None
    for name in ("last.pt", "previous.pt"):
        if not (directory / name).exists():
            continue
        try:
            return load(directory / name), f"{damaged}; going on from {name}" if damaged else None
        except DamagedError as error:
            damaged = damaged or error
    if damaged:
        raise damaged
    return None, None
