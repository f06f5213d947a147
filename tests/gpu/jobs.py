"""Processes, several at once, each within its time."""

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Status = Literal["held", "failed", "killed", "too long", "not started"]
REPOSITORY = Path(__file__).resolve().parents[2]
LINES_OF_ERROR = 3  # of what a process wrote to standard error; all of it is in its log


@dataclass(frozen=True)
class Job:
    """A process: it writes JSON to the file whose path is put behind its command, as `Record.write` does."""

    name: str
    command: list[str]
    limit: float = 240.0  # seconds


@dataclass
class Outcome:
    """How a job ended, and what it found."""

    name: str
    status: Status
    seconds: float = 0.0
    reasons: list[str] = field(default_factory=list)  # why it did not hold
    notes: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def plain(self) -> dict[str, Any]:
        return asdict(self)


class Running:
    """The processes of a group of jobs, all of which end with it."""

    def __init__(self, folder: Path, at_once: int, seconds: float):
        self.folder, self.at_once, self.end = folder, at_once, time.monotonic() + seconds
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.is_ending = False

    def outcomes(self, jobs: Sequence[Job], report: Callable[[Outcome], None]) -> list[Outcome]:
        """Run the jobs; what became of each, in their order. `report` is told as soon as one has ended."""
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        done: queue.SimpleQueue[tuple[int, Outcome]] = queue.SimpleQueue()
        for number in range(len(jobs)):
            waiting.put(number)

        def work() -> None:
            with contextlib.suppress(queue.Empty):
                while True:
                    number = waiting.get_nowait()
                    done.put((number, self.outcome_or_error(jobs[number])))

        for _ in range(min(self.at_once, len(jobs))):
            threading.Thread(target=work, daemon=True).start()
        found: dict[int, Outcome] = {}
        try:
            while len(found) < len(jobs):
                number, outcome = done.get()
                found[number] = outcome
                report(outcome)
        finally:  # after Ctrl-C some are at work
            self.is_ending = True
            for process in list(self.processes):
                end(process)
        return [found[number] for number in range(len(jobs))]

    def outcome_or_error(self, job: Job) -> Outcome:
        """Run one job, or say why it could not be run, such as a disk that is full."""
        try:
            return self.outcome(job)
        except Exception as error:
            return Outcome(job.name, "failed", reasons=[f"{type(error).__name__}: {error}"])

    def outcome(self, job: Job) -> Outcome:
        """Run one job."""
        left = self.end - time.monotonic()
        if left <= 0 or self.is_ending:
            return Outcome(job.name, "not started", reasons=["the time for all of them was over"])
        name = job.name.replace("/", "_").replace(" ", "_")
        found, log = self.folder / f"{name}.json", self.folder / f"{name}.log"
        found.unlink(missing_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.at_once)
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
        start = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*job.command, str(found)], cwd=self.folder, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
            self.processes.add(process)
            try:
                code: int | None = process.wait(min(job.limit, left))
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end(process)  # and whatever it started
                self.processes.discard(process)
        seconds = time.monotonic() - start
        record, last = read(found), log.read_text(errors="replace").strip().splitlines()[-LINES_OF_ERROR:]
        reasons = list(record.get("failures", []))
        status: Status = "held"
        if code is None:
            status, reasons = "too long", [*reasons, f"not done after {seconds:.0f} s", *last]
        elif code < 0:
            status, reasons = "killed", [*reasons, f"ended by {signal.Signals(-code).name}", *last]
        elif code or reasons or not record:
            status, reasons = "failed", reasons or [f"exit code {code}, {'a' if record else 'no'} record", *last]
        return Outcome(job.name, status, seconds, reasons, record.get("notes", []), record.get("values", {}))


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and those that it started, all of one session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def read(path: Path) -> dict[str, Any]:
    """What a job wrote; nothing where it did not come to that."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
