"""How a run stands, for whoever reads its directory: more than summary.json itself says."""

import json
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def run_status(path: Path) -> str:
    """That of the run in a directory; "new" where there is none, "damaged" where its summary.json cannot be read."""
    try:
        return status_of(path, json.loads((path / "summary.json").read_text()))
    except FileNotFoundError:
        return "new"
    except (OSError, ValueError, TypeError, KeyError):
        return "damaged"


def status_of(path: Path, summary: dict[str, Any]) -> str:
    """That of a run's summary.json, "killed" if it says running and no process holds the run's lock.

    An interrupted run that says so was pruned. Raises KeyError where the summary has no status.
    """
    status = str(summary["status"])
    if status == "interrupted" and str(summary.get("reason")).startswith("pruned"):
        return "pruned"
    return "killed" if status == "running" and not is_locked(path / ".lock") else status


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock. One that is not ours to try counts as held."""
    if path.is_symlink() or not path.exists():  # a stranger's link is not to be opened, nor a lock to be made
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (OSError, Timeout):
        return True
