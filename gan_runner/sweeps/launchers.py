"""How jobs are run: one after another, or several at once in processes of their own."""

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

from gan_runner.sweeps.sweep import DataCache, Job, JobRow, Sweep, data_key, execute, make_row, print_sweep_report

Launch = partial[None]
"""(sweep, jobs, trust) -> None: runs jobs, and records each as it ends. SystemExit where a signal came."""


def run_jobs(sweep: Sweep, jobs: list[Job], launch: Launch, trust: list[str], *, retry_failed: bool) -> None:
    """Run those of the jobs that are not done, and report. Raises Stopped where some are not done in the end."""
    sweep.flags = flags_of(launch)
    to_do = sweep.to_do(jobs, retry_failed)
    rest = len(jobs) - len(to_do)
    said = f", {rest} of them done or failed before" if rest else ""
    print(f"{sweep.directory}: {len(jobs)} job{'' if len(jobs) == 1 else 's'}{said}", flush=True)
    try:
        if to_do:
            launch(sweep, to_do, trust)
    except (SystemExit, KeyboardInterrupt):
        print(f"gan-runner: interrupted; {sweep.continuing()}", file=sys.stderr, flush=True)
        raise
    finally:
        print_sweep_report(sweep)
    sweep.raise_unless_done(jobs)


def flags_of(launch: Launch) -> str:
    """The flags with which `gan-runner resume` runs jobs in the same way."""
    if launch.func is run_in_processes:
        return f" --processes {launch.keywords['processes'] or max(1, cores() // 2)}"
    return " --batched" if "max_group" in launch.keywords else ""


# --- one after another ------------------------------------------------------------------------------------------------


def run_sequentially(sweep: Sweep, jobs: list[Job], trust: list[str], data: DataCache | None = None) -> None:
    """Run jobs one after another in this process; `data` are datasets at hand.

    A signal saves the present job, and raises SystemExit.
    """
    data, hydra_files = data or data_cache(trust), sweep.hydra_files()
    first = {data_key(job.config): -number for number, job in enumerate(jobs)}  # jobs of one dataset in a row
    jobs = sorted(jobs, key=lambda job: -first[data_key(job.config)])
    with terminated_by_exit():
        for number, job in enumerate(jobs, start=1):
            print(f"\n[{number}/{len(jobs)}] {job.name}", flush=True)
            try:
                sweep.record(execute(job, sweep.directory, trust, hydra_files, data))
            except (SystemExit, KeyboardInterrupt):
                if sweep.status(job) != "new":
                    sweep.record(make_row(job, sweep.path(job)))
                raise


def data_cache(trust: list[str]) -> DataCache:
    """A cache of the datasets that the configs of jobs name."""
    from gan_runner.training.build import load_data

    return DataCache(lambda node: load_data(node, trust))


@contextlib.contextmanager
def terminated_by_exit() -> Iterator[None]:
    """Let SIGTERM raise SystemExit between runs: the sweep says how it goes on."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    previous = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


# --- in processes -----------------------------------------------------------------------------------------------------


class Running(NamedTuple):
    """A job in a process of its own."""

    process: Any
    job: Job
    number: int
    slot: int


def run_in_processes(
    sweep: Sweep, jobs: list[Job], trust: list[str], *, processes: int | None, threads: int | None
) -> None:
    """Run each job in a fresh process, as many at once as there are GPUs, or pairs of cores; each has its own GPU.

    A signal is passed on: the jobs that run are saved, no other is started, and SystemExit ends the sweep.
    """
    gpus = visible_gpus() if any(wants_gpu(job) for job in jobs) else []
    count = min(processes or len(gpus) or max(1, cores() // 2), len(jobs))
    threads = threads or max(1, cores() // count)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", "gan_runner.cli.main", "gan_runner.training.run"])
    hydra_files = sweep.hydra_files()
    waiting = list(reversed(list(enumerate(jobs, start=1))))
    slots = list(reversed(range(count)))
    running: dict[Any, Running] = {}
    with environment(OMP_NUM_THREADS=str(threads)), passing_on(running) as asked:
        while True:
            while waiting and slots and not asked:
                number, job = waiting.pop()
                slot = slots.pop()
                gpu = gpus[slot % len(gpus)] if gpus and wants_gpu(job) else None
                arguments = (job, sweep.directory, trust, hydra_files, (threads, gpu))
                process = context.Process(target=run_one, args=arguments, name=job.name)
                process.start()
                running[process.sentinel] = Running(process, job, number, slot)
                if asked:  # while it started
                    process.terminate()
            if not running:
                break
            for sentinel in wait(list(running)):
                ended = running.pop(sentinel)
                ended.process.join()
                slots.append(ended.slot)
                if result := outcome(sweep, ended, bool(asked)):
                    sweep.record(result)
                    reason = f": {result['reason']}" if result["reason"] else ""
                    print(f"[{ended.number}/{len(jobs)}] {ended.job.name}: {result['status']}{reason}", flush=True)
    if asked:
        raise SystemExit(128 + asked[0])


def outcome(sweep: Sweep, ended: Running, is_asked: bool) -> JobRow | None:
    """What became of a job whose process has ended; None if it was ended before it began."""
    result = make_row(ended.job, sweep.path(ended.job))
    if result["status"] in ("new", "killed"):
        if is_asked and result["status"] == "new":
            return None
        code = ended.process.exitcode
        by = signal.Signals(-code).name if code < 0 else f"code {code}"
        result |= {"status": "killed" if code < 0 else "failed", "reason": f"its process ended by {by}"}
    return result


def run_one(
    job: Job, directory: Path, trust: list[str], hydra_files: dict[str, str], limits: tuple[int, str | None]
) -> None:
    """Run one job in this fresh process, quietly; `limits` are its number of threads and its GPU, if it has one."""
    threads, gpu = limits
    os.setpgrp()  # Ctrl-C is the parent's, which passes it on
    threading.Thread(target=end_with_parent, daemon=True).start()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    import torch

    torch.set_num_threads(threads)
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        execute(job, directory, trust, hydra_files, data_cache(trust))


def end_with_parent() -> None:
    """End this process, saved, when the one that drives the sweep is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this process is a child"
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def wants_gpu(job: Job) -> bool:
    """Whether a job is for any GPU there is, and not for one by its number."""
    return job.config["device"] in ("auto", "cuda")


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES calls them."""
    import torch

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:count] if named else [str(index) for index in range(count)]


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables, while the context lasts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def passing_on(running: dict[Any, Running]) -> Iterator[list[int]]:
    """Pass SIGINT and SIGTERM on to the processes that run; the signals that came. A second one ends them at once."""
    came: list[int] = []

    def note(number: int, frame: object) -> None:
        came.append(number)
        for process in [each.process for each in running.values()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGTERM if len(came) == 1 else signal.SIGINT)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
