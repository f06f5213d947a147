"""A sweep's directory: its plan, its jobs, and what became of them."""

import contextlib
import json
import os
import re
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from filelock import FileLock, Timeout

from gan_runner.config.compose import to_yaml
from gan_runner.config.errors import ConfigError, Stopped, TrainingFailed
from gan_runner.config.keys import hyperparameters, identity
from gan_runner.config.stored import translate_stored
from gan_runner.storage import outputs
from gan_runner.storage.atomic_files import json_safe, write_bytes
from gan_runner.storage.hydra_files import CONFIG, HYDRA, MULTIRUN, OVERRIDES
from gan_runner.storage.status import run_status
from gan_runner.training.log import write_experiment

if TYPE_CHECKING:
    from gan_runner.training.run import PreparedRun

PLAN, ROWS = outputs.PLAN, "sweep.jsonl"
SUBMITTED = "slurm.jsonl"
RETRIED = ".retried"
DONE = ("completed", "pruned")
FAILED = ("failed", "diverged", "damaged")
GOING_ON = ("interrupted", "killed")

JobRow = dict[str, Any]


class Job(NamedTuple):
    """One run of a sweep. Its config is composed, so that an edit to conf/ does not change it any more."""

    name: str
    identity: str
    overrides: list[str]
    config: dict[str, Any]
    title: str
    notes: list[str]
    options: dict[str, str] = {}  # noqa: RUF012 -- of config groups, by dotted key; none in a plan of version 0.1


class Sweep:
    """A directory with a job in each subdirectory. As a context manager it keeps other processes from driving it.

    On leaving, it removes a directory that it made and in which nothing was planned.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        self.lock = FileLock(directory / ".lock", timeout=0)
        self.flags = ""  # of `gan-runner resume`, to run the rest of the jobs as these are run
        self.is_on_slurm = False  # whether these are run there, so that the same line runs the rest

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
        except (OSError, ValueError, TypeError, RecursionError) as error:
            raise ConfigError(f"{path} is damaged ({error})") from None
        if unfinished:
            write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        return list({job.name: job for job in found}.values())

    def plan(self, jobs: Iterable[Job]) -> None:
        """Add jobs to the plan. A job that has the name of an earlier one replaces it."""
        with (self.directory / PLAN).open("ab") as file:
            file.write("".join(json.dumps(job._asdict()) + "\n" for job in jobs).encode())
            file.flush()
            os.fsync(file.fileno())

    def write_shared_files(self, hydra_yaml: str, metrics: list[str]) -> None:
        """Write what the jobs share: Hydra's settings; for TensorBoard, the keys that differ and the metrics."""
        write_bytes(self.directory / MULTIRUN, hydra_yaml.encode())
        configs = [hyperparameters(job.config, job.options) for job in self.jobs()]
        keys = dict.fromkeys(key for config in configs for key in config)
        values = {key: dict.fromkeys(config[key] for config in configs if key in config) for key in keys}
        partial = {key for key in keys if any(key not in config for config in configs)}
        varied = {key: list(found) for key, found in values.items() if len(found) > 1 or key in partial}
        write_experiment(self.directory, varied, metrics)

    def hydra_files(self) -> dict[str, str]:
        """The file of .hydra/ that all jobs share, name -> text."""
        path = self.directory / MULTIRUN
        return {HYDRA: path.read_text()} if path.exists() else {}

    def path(self, job: Job) -> Path:
        """The run directory of the job."""
        return self.directory / job.name

    def status(self, job: Job) -> str:
        """The status of the job's run: "new" where it has none yet, "killed" where its process is gone."""
        return run_status(self.path(job))

    def to_do(self, jobs: list[Job], retry_failed: bool) -> list[Job]:
        """The jobs that are not done: new ones, interrupted and killed ones, and failed ones if these are retried.

        On SLURM also those that run: what it has of the sweep is waited for.
        A job that is done, but whose row is missing because its process was killed, gets its row.
        """
        skipped = (*DONE, *(() if self.is_on_slurm else ("running",)), *(() if retry_failed else FAILED))
        said = {row["job"]: row["status"] for row in self.rows()}
        found = []
        for job in jobs:
            status = self.status(job)
            if status not in skipped:
                found.append(job)
            elif said.get(job.name) != status and status != "running":
                self.record(make_row(job, self.path(job)))
        return found

    def raise_unless_done(self, jobs: list[Job]) -> None:
        """Raises Stopped where jobs are not done, with the line that continues the sweep."""
        counts = Counter(self.status(job) for job in jobs)
        if set(counts) - set(DONE):
            found = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
            raise Stopped(f"{len(jobs)} jobs: {found}; {self.continuing(counts)}")

    def continuing(self, counts: Iterable[str] = ()) -> str:
        """The command line that goes on with the sweep, whose jobs have the statuses `counts`."""
        again = " --retry-failed" if set(counts) & set(FAILED) else ""
        if self.is_on_slurm:
            words = " retry_failed=true" if again else ""
            return f"the same line with sweep={self.directory.name}{words} goes on"
        elsewhere = ", with --take-over where another machine left runs running" if "running" in counts else ""
        return f"gan-runner resume {self.directory}{self.flags}{again} goes on{elsewhere}"

    def rows(self) -> list[JobRow]:
        """The last whole row of each job in sweep.jsonl."""
        return list(last_rows(self.directory / ROWS).values())

    def record(self, row: JobRow) -> None:
        """Add a row to sweep.jsonl when a job ends."""
        add_row(self.directory / ROWS, row)

    def submitted(self) -> dict[str, str]:
        """The number that SLURM gave each job when it was submitted last, by the job's name."""
        return {name: str(row.get("slurm_job")) for name, row in last_rows(self.directory / SUBMITTED).items()}

    def note_submitted(self, numbers: dict[str, str]) -> None:
        """Note SLURM's numbers of jobs, by their names."""
        for name, number in numbers.items():
            add_row(self.directory / SUBMITTED, {"job": name, "slurm_job": number})


def last_rows(path: Path) -> dict[str, JobRow]:
    """The last whole row of each job in a file of JSON lines, by the job's name."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            row = json.loads(line)
            found[row["job"]] = row
    return found


def add_row(path: Path, row: JobRow) -> None:
    """Add a row to a file of JSON lines. A line before it that was not written to its end is ended first."""
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, 2)
        broken = file.read(1) not in (b"", b"\n")
        file.write((b"\n" if broken else b"") + json.dumps(json_safe(row)).encode() + b"\n")


def read_job(line: str) -> Job:
    """The job in a line of the plan; its identity is that of this version, whatever an earlier one counted.

    Raises ValueError or TypeError for a line that is none: a sweep's directory may come from a stranger.
    """
    fields = json.loads(line)
    if isinstance(fields, dict) and "words" in fields:  # version 0.1's name for it
        fields["overrides"] = fields.pop("words")
    job = Job(**fields)
    for value, kind in zip(job, (str, str, list, dict, str, list, dict), strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"{value!r} is no {kind.__name__}")
    if not re.fullmatch(r"\w[\w.+-]*", job.name):  # it must not lead out of the directory
        raise ValueError(f"{job.name!r} is no name of a job")
    config = translate_stored(job.config)
    return job._replace(config=config, identity=identity(config))


def execute(job: Job, directory: Path, trust: list[str], hydra_files: dict[str, str], data: "DataCache") -> JobRow:
    """Run a job, or go on with it, and return its row. Raises SystemExit after an interruption, and nothing else."""
    path = directory / job.name
    start = time.perf_counter()
    try:
        reason = attempt(job, path, trust, hydra_files | own_hydra_files(job), data)
    finally:
        empty_cache()
    result = ended_row(job, path, reason, time.perf_counter() - start)
    if result["status"] not in DONE:
        print(f"{job.name}: {result['status']}: {result['reason']}", flush=True)
    return result


def attempt(job: Job, path: Path, trust: list[str], hydra_files: dict[str, str], data: "DataCache") -> str | None:
    """Run a job, or go on with it, and return why it failed. The error itself would keep the networks alive."""
    from gan_runner.training.run import train

    try:
        if prepared := prepare_job(job, path, trust, hydra_files, data):
            train(prepared)
    except Exception as error:
        return why_failed(error, path, hydra_files)
    return None


def prepare_job(
    job: Job, path: Path, trust: list[str], hydra_files: dict[str, str], data: "DataCache"
) -> "PreparedRun | None":
    """The job's run, built and with its directory; None where there is nothing to do.

    A job whose checkpoints are all damaged starts anew. Raises ConfigError.
    """
    from gan_runner.storage.checkpoint import DamagedError
    from gan_runner.training.run import build_run, create_run, restore_run

    status = run_status(path)
    if status in (*DONE, "running"):  # another process was faster
        return None
    if status in GOING_ON:
        own = {name: text for name, text in hydra_files.items() if name == CONFIG}
        try:
            return restore_run(job.config, trust, path, hydra_files=own, data=data.of(job.config))
        except ConfigError as error:
            if not isinstance(error.__cause__, DamagedError):
                raise
            print(f"warning: {error}; {job.name} starts anew, and its directory is in {RETRIED}", flush=True)
    if path.exists():
        set_aside(path)
    built = build_run(job.config, trust, data.of(job.config))
    return create_run(
        built, job.config, path, hydra_files=hydra_files, title=job.title, notes=job.notes, options=job.options
    )


def why_failed(error: Exception, path: Path, hydra_files: dict[str, str]) -> str:
    """Why a job ended by an error. Where the run has no directory yet, one is made that says it too."""
    from gan_runner.training.run import fail, outside_cause

    cause = error.__cause__ if isinstance(error, TrainingFailed) else error
    known = str(cause) if isinstance(cause, ConfigError | Stopped) else outside_cause(cause)  # type: ignore[arg-type]
    reason = known or f"{type(cause).__name__}: {cause}"
    if run_status(path) == "new":
        text = "" if known else "".join(traceback.format_exception(cause))
        with contextlib.suppress(OSError, ValueError):  # the disk may be full, or the directory another's by now
            fail(path, hydra_files | ({"gan_runner.log": text} if text else {}), reason)
    return reason


def own_hydra_files(job: Job) -> dict[str, str]:
    """The files of .hydra/ that differ between jobs, name -> text."""
    return {
        CONFIG: to_yaml(job.config),
        OVERRIDES: "".join(f"- {json.dumps(override)}\n" for override in job.overrides) or "[]\n",
    }


def make_row(job: Job, path: Path) -> JobRow:
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
        "overrides": job.overrides,
        "status": status,
        "reason": summary.get("reason"),
        "step": summary.get("step"),
        "best": summary.get("best"),
        "metrics": metrics,
        "wall_time": summary.get("wall_time"),
    }


def ended_row(job: Job, path: Path, reason: str | None, seconds: float) -> JobRow:
    """What became of a job that ran for so many seconds; `reason` is why it failed, which it may not have said."""
    result = {**make_row(job, path), "seconds": seconds}
    if reason and result["status"] not in FAILED:
        result |= {"status": "failed", "reason": reason}
    return result


def set_aside(path: Path) -> None:
    """Give a failed run another name, to start it anew: nothing is lost."""
    old = path.parent / RETRIED
    old.mkdir(exist_ok=True)
    number = next(n for n in range(1, 10_000) if not (old / f"{path.name}-{n}").exists())
    path.rename(old / f"{path.name}-{number}")


def empty_cache() -> None:
    """Give the GPU memory that a job has left to the driver, and let the next job have a peak of its own."""
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class DataCache:
    """Keeps the dataset of the last job for the next one, if that has the same."""

    def __init__(self, load: Callable[[dict[str, Any]], Any]):
        self.load = load
        self.key, self.value = "", None

    def of(self, config: dict[str, Any]) -> Any:
        """The dataset that a config names."""
        if (key := data_key(config)) != self.key:
            self.key, self.value = "", None  # two at once may be too much
            self.value = self.load(config["dataset"])
            self.key = key
        return self.value


def data_key(config: dict[str, Any]) -> str:
    """A text that is equal for configs of the same dataset."""
    return json.dumps(config.get("dataset"), sort_keys=True)


def print_sweep_report(sweep: Sweep) -> None:
    """Write the report of a sweep and print its table. An error there is only printed: the sweep itself is done."""
    try:
        from gan_runner.reporting.writer import print_report

        print_report(sweep.directory)
    except Exception as error:
        print(f"warning: no report: {type(error).__name__}: {error}", file=sys.stderr)
