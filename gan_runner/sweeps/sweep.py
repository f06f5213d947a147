"""A sweep's directory: its plan, its jobs, and what became of them."""

import contextlib
import gc
import json
import os
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from filelock import FileLock, Timeout

from gan_runner.config.compose import to_yaml
from gan_runner.config.errors import ConfigError, Stopped, TrainingFailed
from gan_runner.config.keys import flatten
from gan_runner.runs.log import write_experiment
from gan_runner.storage.atomic_files import json_safe, write_bytes
from gan_runner.storage.status import run_status

if TYPE_CHECKING:
    from gan_runner.runs.run import PreparedRun

PLAN, ROWS, DOCUMENT = "jobs.jsonl", "sweep.jsonl", "multirun.yaml"
RETRIED = ".retried"
DONE = ("completed", "pruned")
FAILED = ("failed", "diverged", "damaged")
GOING_ON = ("interrupted", "killed")

Row = dict[str, Any]


class Job(NamedTuple):
    """One run of a sweep, composed: an edit to conf/ changes nothing any more."""

    name: str
    identity: str
    words: list[str]
    config: dict[str, Any]
    title: str
    notes: list[str]


class Sweep:
    """A directory with a job in each subdirectory; a context manager that keeps other processes from driving it.

    A directory in which nothing is planned in the end goes again.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.lock = FileLock(directory / ".lock", timeout=0)
        self.flags = ""  # with which `resume` goes on in the way the sweep is run

    def __enter__(self) -> Self:
        there = [path.name for path in self.directory.iterdir()] if self.directory.is_dir() else []
        if PLAN not in there and set(there) - {".lock"}:
            raise ConfigError(f"{self.directory} is no sweep: it is not empty, and has no {PLAN}")
        self.made = [path for path in (self.directory, *self.directory.parents) if not path.exists()]
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self.lock.acquire()
        except Timeout:
            raise ConfigError(f"{self.directory}: another process is running this sweep") from None
        return self

    def __exit__(self, *exception: object) -> None:
        if not (self.directory / PLAN).exists():
            with contextlib.suppress(OSError):
                (self.directory / ".lock").unlink(missing_ok=True)
                for path in self.made:
                    path.rmdir()
        self.lock.release()

    def jobs(self) -> list[Job]:
        """The jobs planned so far. Raises ConfigError where the plan cannot be read."""
        path = self.directory / PLAN
        if not path.exists():
            return []
        try:
            *lines, unfinished = path.read_text().split("\n")  # the last has no end where adding it was interrupted
            found = [read_job(line) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            raise ConfigError(f"{path} is damaged ({error})") from None
        if unfinished:
            write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        return list({job.identity: job for job in found}.values())

    def plan(self, jobs: Iterable[Job]) -> None:
        """Add jobs to the plan; one that is in it already takes the place of what it was."""
        with (self.directory / PLAN).open("ab") as file:
            file.write("".join(json.dumps(job._asdict()) + "\n" for job in jobs).encode())
            file.flush()
            os.fsync(file.fileno())

    def write_documents(self, hydra_yaml: str, metrics: list[str]) -> None:
        """What the jobs share: Hydra's settings; for TensorBoard, the keys that differ and the metrics."""
        write_bytes(self.directory / DOCUMENT, hydra_yaml.encode())
        configs = [flatten(job.config) for job in self.jobs()]
        keys = dict.fromkeys(key for config in configs for key in config)
        values = {key: dict.fromkeys(config[key] for config in configs if key in config) for key in keys}
        partial = {key for key in keys if any(key not in config for config in configs)}
        varied = {key: list(found) for key, found in values.items() if len(found) > 1 or key in partial}
        write_experiment(self.directory, varied, metrics)

    def documents(self) -> dict[str, str]:
        """The file of .hydra/ that all jobs share."""
        path = self.directory / DOCUMENT
        return {".hydra/hydra.yaml": path.read_text()} if path.exists() else {}

    def path(self, job: Job) -> Path:
        """The job's run directory."""
        return self.directory / job.name

    def status(self, job: Job) -> str:
        """That of the job's run; "new" where it has none yet, "killed" where its process is gone."""
        return run_status(self.path(job))

    def to_do(self, jobs: list[Job], retry_failed: bool) -> list[Job]:
        """The jobs that are not done: new ones, interrupted and killed ones, and failed ones if these are retried.

        Those that are done, but were killed before they said so, get their row.
        """
        skipped = (*DONE, "running", *(() if retry_failed else FAILED))
        said = {row["identity"]: row["status"] for row in self.rows()}
        found = []
        for job in jobs:
            status = self.status(job)
            if status not in skipped:
                found.append(job)
            elif said.get(job.identity) != status and status != "running":
                self.record(row(job, self.path(job)))
        return found

    def raise_unless_done(self, jobs: list[Job]) -> None:
        """Raises Stopped where jobs are not done, with the line that continues the sweep."""
        counts = Counter(self.status(job) for job in jobs)
        if set(counts) - set(DONE):
            found = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
            raise Stopped(f"{len(jobs)} jobs: {found}; {self.continuing(counts)}")

    def continuing(self, counts: Iterable[str] = ()) -> str:
        """The line that continues the sweep."""
        again = " --retry-failed" if set(counts) & set(FAILED) else ""
        elsewhere = ", with --take-over where another machine left runs running" if "running" in counts else ""
        return f"gan-runner resume {self.directory}{self.flags}{again} goes on{elsewhere}"

    def rows(self) -> list[Row]:
        """Those of sweep.jsonl that are whole, a later one of the same job instead of an earlier."""
        found = {}
        path = self.directory / ROWS
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                row = json.loads(line)
                found[row["identity"]] = row
        return list(found.values())

    def record(self, row: Row) -> None:
        """Add a row to sweep.jsonl, as a job ends; behind a line that was not written to its end."""
        with (self.directory / ROWS).open("a+b") as file:
            if file.tell():
                file.seek(-1, 2)
            broken = file.read(1) not in (b"", b"\n")
            file.write((b"\n" if broken else b"") + json.dumps(json_safe(row)).encode() + b"\n")


def read_job(line: str) -> Job:
    """A line of the plan. Raises ValueError for one that is none: a sweep's directory may come from a stranger."""
    job = Job(**json.loads(line))
    for value, kind in zip(job, (str, str, list, dict, str, list), strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"{value!r} is no {kind.__name__}")
    if not re.fullmatch(r"\w[\w.+-]*", job.name):  # it must not lead out of the directory
        raise ValueError(f"{job.name!r} is no name of a job")
    return job


def execute(job: Job, directory: Path, trust: list[str], documents: dict[str, str], data: "DataCache") -> Row:
    """Run a job, or go on with it, and return its row. SystemExit after an interruption; no other error leaves."""
    path = directory / job.name
    start = time.perf_counter()
    try:
        reason = attempt(job, path, trust, documents | own_documents(job), data)
    finally:
        free_memory()
    result = ended_row(job, path, reason, time.perf_counter() - start)
    if result["status"] not in DONE:
        print(f"{job.name}: {result['status']}: {result['reason']}", flush=True)
    return result


def attempt(job: Job, path: Path, trust: list[str], documents: dict[str, str], data: "DataCache") -> str | None:
    """Run a job, or go on with it; why it failed. The error itself is gone then: it would keep the networks alive."""
    from gan_runner.runs.run import train

    try:
        if prepared := prepare_job(job, path, trust, documents, data):
            train(prepared)
    except Exception as error:
        return why_failed(error, path, documents)
    return None


def prepare_job(
    job: Job, path: Path, trust: list[str], documents: dict[str, str], data: "DataCache"
) -> "PreparedRun | None":
    """The job's run, built and with its directory; None where there is nothing to do. Raises ConfigError.

    One whose checkpoints are all damaged starts anew.
    """
    from gan_runner.runs.run import build_run, create_run, restore_run
    from gan_runner.storage.checkpoint import DamagedError

    status = run_status(path)
    if status in (*DONE, "running"):  # another process was faster
        return None
    if status in GOING_ON:
        own = {name: text for name, text in documents.items() if name == ".hydra/config.yaml"}
        try:
            return restore_run(job.config, trust, path, documents=own, data=data.of(job.config))
        except ConfigError as error:
            if not isinstance(error.__cause__, DamagedError):
                raise
            print(f"warning: {error}; {job.name} starts anew, and its directory is in {RETRIED}", flush=True)
    if path.exists():
        set_aside(path)
    built = build_run(job.config, trust, data.of(job.config))
    return create_run(built, flatten(job.config), path, documents=documents, title=job.title, notes=job.notes)


def why_failed(error: Exception, path: Path, documents: dict[str, str]) -> str:
    """Why a job ended by an error, which a directory says too where the run had none yet."""
    from gan_runner.runs.run import fail, outside_cause

    cause = error.__cause__ if isinstance(error, TrainingFailed) else error
    known = str(cause) if isinstance(cause, ConfigError | Stopped) else outside_cause(cause)  # type: ignore[arg-type]
    reason = known or f"{type(cause).__name__}: {cause}"
    if run_status(path) == "new":
        text = "" if known else "".join(traceback.format_exception(cause))
        with contextlib.suppress(OSError, ValueError):  # the disk may be full, or the directory another's by now
            fail(path, documents | ({"gan_runner.log": text} if text else {}), reason)
    return reason


def own_documents(job: Job) -> dict[str, str]:
    """The files of .hydra/ that differ between jobs."""
    return {
        ".hydra/config.yaml": "".join(section(key, json.dumps(value)) for key, value in job.config.items()),
        ".hydra/overrides.yaml": "".join(f"- {json.dumps(word)}\n" for word in job.words) or "[]\n",
    }


@lru_cache(maxsize=1000)
def section(key: str, value: str) -> str:
    """A top-level key in YAML, its value given in JSON: most are those of the job before, and YAML takes 20 ms."""
    return to_yaml({key: json.loads(value)})


def row(job: Job, path: Path) -> Row:
    """What became of a job, for sweep.jsonl."""
    status = run_status(path)
    try:
        summary = json.loads((path / "summary.json").read_text())
    except (OSError, ValueError):
        summary = {}
    metrics = {tag: value for tag, value in (summary.get("metrics") or {}).items() if tag.startswith("metric/")}
    return {
        "job": job.name,
        "identity": job.identity,
        "words": job.words,
        "status": status,
        "reason": summary.get("reason"),
        "step": summary.get("step"),
        "best": summary.get("best"),
        "metrics": metrics,
        "wall_time": summary.get("wall_time"),
    }


def ended_row(job: Job, path: Path, reason: str | None, seconds: float) -> Row:
    """What became of a job that ran for so many seconds; `reason` is why it failed, which it may not have said."""
    result = {**row(job, path), "seconds": seconds}
    if reason and result["status"] not in FAILED:
        result |= {"status": "failed", "reason": reason}
    return result


def set_aside(path: Path) -> None:
    """Give a failed run another name, to start it anew: nothing is lost."""
    old = path.parent / RETRIED
    old.mkdir(exist_ok=True)
    number = next(n for n in range(1, 10_000) if not (old / f"{path.name}-{n}").exists())
    path.rename(old / f"{path.name}-{number}")


@contextlib.contextmanager
def little_garbage() -> Iterator[None]:
    """Let the collections between jobs look at the jobs alone: at all that PyTorch imports, each would take 0.1 s."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def free_memory() -> None:
    """Let go of what a job leaves behind."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class DataCache:
    """The dataset of the last job, for the next one if it has the same."""

    def __init__(self, load: Callable[[dict[str, Any]], Any]):
        self.load = load
        self.key, self.value = "", None

    def of(self, config: dict[str, Any]) -> Any:
        """The dataset of a config."""
        if (key := data_key(config)) != self.key:
            self.key, self.value = "", None  # two at once may be too much
            self.value = self.load(config["dataset"])
            self.key = key
        return self.value


def data_key(config: dict[str, Any]) -> str:
    """Equal for configs of the same dataset."""
    return json.dumps(config.get("dataset"), sort_keys=True)


def finish(sweep: Sweep) -> None:
    """Write the report, and print its table. What hinders that is no reason to lose the sweep's own end."""
    try:
        from gan_runner.reporting.writer import print_report

        print_report(sweep.directory)
    except Exception as error:
        print(f"warning: no report: {type(error).__name__}: {error}", file=sys.stderr)
