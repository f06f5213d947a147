"""The folder `outputs`: how what is in it is named, and what there is.

The command line imports this module, so it imports neither torch nor numpy.
"""

import datetime
import json
import re
from collections.abc import Iterator
from pathlib import Path

OUTPUTS = Path("outputs")
PLAN = "jobs.jsonl"  # of a sweep
SEARCH = "search.db"  # of a sweep whose values a search draws
LATEST = "latest"  # what the verbs take for the newest directory
RESERVED = ("sweeps", LATEST)  # what `outputs` holds besides runs, and what would mean another directory
CHECKPOINTS = ("last", "previous", "best")  # those with a name of their own
DATE = r"\d{4}-\d\d-\d\d"  # a folder of runs without a name
LONGEST_NAME = 100  # characters
DEEPEST = 4  # folders below the one that is searched: outputs/DATE/TIME are two


def check_name(key: str, name: str) -> str:
    """The name of a run or a sweep, if it can be one. Raises ValueError, which names the key, where it cannot."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"{key}={name}: a name is of letters, digits, dots, dashes and underscores")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"{key}={name[:20]}...: a name has at most {LONGEST_NAME} characters, and this {len(name)}")
    if key == "name" and (name.casefold() in RESERVED or re.fullmatch(DATE, name)):
        raise ValueError(f"{key}={name}: this name is reserved; choose another")
    return name


def check_free(path: Path) -> None:
    """Raises ValueError if there is something already in the directory of a new run."""
    there = [entry.name for entry in path.iterdir() if entry.name != ".lock"] if path.is_dir() else []
    if "summary.json" in there:
        raise ValueError(f"{path} already holds a run; choose another name or hydra.run.dir")
    if there:
        raise ValueError(f"{path} is not empty: it holds {there[0]}; choose another name or hydra.run.dir")


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run."""
    return (path / "summary.json").is_file()


def is_sweep(path: Path) -> bool:
    """Whether a directory is that of a sweep, which has a directory below it for each job."""
    return (path / PLAN).is_file()


def find(directory: Path, depth: int = DEEPEST) -> Iterator[Path]:
    """The runs and sweeps below a directory; the runs of a sweep are found only where it is `directory` itself."""
    try:
        below = sorted(path for path in directory.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:  # not ours to read
        return
    for path in below:
        if path.name.startswith("."):
            continue
        if is_run(path) or is_sweep(path):
            yield path
        elif depth > 1:
            yield from find(path, depth - 1)


def checkpoint_file(run: Path, name: str) -> Path:
    """The file that a checkpoint's name means: one of the run's own, a snapshot of a step, or any other file."""
    own = run / "checkpoints"
    if name in CHECKPOINTS:
        return own / f"{name}.pt"
    if snapshot := re.fullmatch(r"(?:step_)?(\d{1,8})", name):
        return own / snapshot_name(int(snapshot[1]))
    return Path(name)


def snapshot_name(step: int) -> str:
    """The name of the checkpoint that `checkpoint_keep` keeps of a step."""
    return f"step_{step:08d}.pt"


def began(path: Path) -> float:
    """When a run began, or a sweep was last given jobs, in seconds since 1970."""
    if is_sweep(path):
        return (path / PLAN).stat().st_mtime
    try:
        return datetime.datetime.fromisoformat(json.loads((path / "summary.json").read_text())["started"]).timestamp()
    except (OSError, ValueError, TypeError, KeyError, OverflowError):  # damaged
        return path.stat().st_mtime


def newest(directory: Path = OUTPUTS) -> Path:
    """The run or sweep that began last. Raises ValueError where there is none."""
    found = list(find(directory))
    if not found:
        raise ValueError(f"{LATEST}: there is no run in {directory}")
    return max(found, key=lambda path: (began(path), path.name))
