"""How a run stands, for whoever reads its directory: more than summary.json itself says."""

import json
import os
import platform
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


def run_status(path: Path) -> str:
    """The status of the run in a directory; "new" where there is none, "damaged" where summary.json cannot be read."""
    try:
        return status_of(path, json.loads((path / "summary.json").read_text()))
    except FileNotFoundError:
        return "new"
    except (OSError, ValueError, TypeError, KeyError):
        return "damaged"


def status_of(path: Path, summary: dict[str, Any]) -> str:
    """The status in a run's summary.json; "killed" if it says running and the process is known to be gone.

    An interrupted run that says so was pruned. Raises KeyError where the summary has no status.
    """
    status = str(summary["status"])
    if status == "interrupted" and str(summary.get("reason")).startswith("pruned"):
        return "pruned"
    if status == "running" and not is_elsewhere(summary) and not is_locked(path / ".lock"):
        return "killed"
    return status


def is_elsewhere(summary: dict[str, Any]) -> bool:
    """Whether a run was last written on another machine, where this one cannot see if its process is still there.

    A scheduler that starts the same job again has ended it before.
    """
    job = scheduler_job()
    is_same_job = job is not None and summary.get("scheduler_job") == job
    return summary.get("host") not in (None, host_name()) and not is_same_job


def host_name() -> str:
    """The name of this machine."""
    return platform.node()


def scheduler_job() -> str | None:
    """The number of the SLURM job that this process is part of; a job that is put into the queue again keeps it."""
    if task := os.environ.get("SLURM_ARRAY_TASK_ID"):
        return f"{os.environ.get('SLURM_ARRAY_JOB_ID')}_{task}"
    return os.environ.get("SLURM_JOB_ID")


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock. One that is not ours to try counts as held."""
    if path.is_symlink() or not path.exists():  # a stranger's link is not to be opened, nor a lock to be made
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except (OSError, Timeout):
        return True
