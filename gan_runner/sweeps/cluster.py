"""Sweeps on a cluster: each job of a sweep as one of SLURM's, which submitit hands over.

A job has ended when its run says that it is done, or when it has left SLURM's queue. Neither submitit's files nor
SLURM's accounting are asked: for both a preempted job has ended, and SLURM starts it again two minutes later.
"""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from gan_runner.config.errors import ConfigError, Stopped
from gan_runner.config.process_rank import launched_process
from gan_runner.sweeps.launchers import Launch, cores, data_cache, terminated_by_exit
from gan_runner.sweeps.sweep import DONE, FAILED, Job, JobRow, Sweep, execute, make_row

ENDED = {  # states of a job that has left SLURM's queue; in any other it runs, or will
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
}  # fmt: skip
GONE = "not in the queue"
PASSING = {"None", "Resources", "Priority", "BeginTime", "JobArrayTaskLimit", "Cleaning"}  # why most jobs wait
SHORTEST_PAUSE, LONGEST_PAUSE = 2.0, 20.0  # seconds between two looks at the queue
MOST_LOSSES = 3  # of a job that one shell submits again
SECONDS_TO_SAVE = 60  # for jobs that are cancelled; SLURM kills them after its KillWait, 30 seconds by default
LARGEST_ARRAY = 1000  # jobs; SLURM's own default
SHARED = (  # what submitit calls the same for all clusters
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout",
)  # fmt: skip


def launch_on_cluster(cluster: str, parameters: dict[str, Any]) -> Launch:
    """A launch by a launcher of submitit's, `slurm` or `local`. Raises ConfigError for what cannot be."""
    given = {key: value for key, value in parameters.items() if value is not None}
    for key in ("nodes", "tasks_per_node", "timeout_min", "cpus_per_task", "array_parallelism"):
        if given.get(key, 1) < 1:
            raise ConfigError(f"hydra.launcher.{key}={given[key]}: must be a whole number from 1")
    tasks, gpus = given.get("tasks_per_node", 1), given.get("gpus_per_node", 0)
    if cluster == "local":
        if tasks * given.get("nodes", 1) > 1:
            raise ConfigError("hydra/launcher=local: nodes and tasks_per_node are 1 on this machine")
        return Launch(run_locally, parameters=given)
    if 0 < gpus < tasks:
        raise ConfigError(
            f"hydra.launcher.tasks_per_node={tasks}: each process wants a GPU of its own, and gpus_per_node={gpus}"
        )
    if queue() is None:
        raise ConfigError("hydra/launcher=slurm: SLURM does not answer here (squeue)")
    return Launch(run_on_slurm, parameters=given)


def executor_of(cluster: str, parameters: dict[str, Any]) -> Any:
    """What submits jobs by submitit."""
    import submitit

    given = dict(parameters)
    folder = given.pop("submitit_folder")
    own = {f"{cluster}_{key}": given.pop(key) for key in ("max_num_timeout",) if key in given}
    executor = submitit.AutoExecutor(folder, cluster=cluster, **own)
    executor.update_parameters(**{key if key in SHARED else f"{cluster}_{key}": value for key, value in given.items()})
    return executor


def tasks_of(sweep: Sweep, jobs: list[Job], trust: list[str]) -> list["Task"]:
    """What is submitted of the jobs."""
    hydra_files, directory, here = sweep.hydra_files(), sweep.directory.absolute(), str(Path.cwd())
    return [Task(job, directory, trust, hydra_files, here) for job in jobs]


# --- SLURM ------------------------------------------------------------------------------------------------------------


class Watched(NamedTuple):
    """A job of the sweep that SLURM has."""

    job: Job
    number: str
    """SLURM's own: 12, or 12_3 in an array."""


def run_on_slurm(sweep: Sweep, jobs: list[Job], trust: list[str], *, parameters: dict[str, Any]) -> None:
    """Have SLURM run each job, all as one array, and wait until each has ended; what it has of them already stays.

    SLURM itself puts back into the queue what it preempts, what a node takes along, and what says that its time is
    over. A job that is lost all the same is submitted again, up to `MOST_LOSSES` times. A signal cancels all, which
    saves them, and raises SystemExit. Raises Stopped where SLURM refuses them.
    """
    watched, new = find_submitted(sweep, jobs)
    if watched:
        print(f"{len(watched)} of them are in SLURM's queue, or run: waiting for these", flush=True)

    def submit_some(some: list[Job]) -> list[Watched]:
        with signals_held():
            watched.extend(submitted := submit(sweep, some, trust, parameters))
        return submitted

    with terminated_by_exit():
        try:
            for start in range(0, len(new), LARGEST_ARRAY):
                submit_some(new[start : start + LARGEST_ARRAY])
            watch(sweep, list(watched), submit_some)
        except (SystemExit, KeyboardInterrupt):
            cancel(sweep, watched)
            raise


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Have SIGINT and SIGTERM wait until this is done: what SLURM has taken is noted."""
    came: list[int] = []  # a mask would hold them from this thread alone, and another one would take them
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda caught, frame: came.append(caught)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    for signal_number in came:
        signal.raise_signal(signal_number)


def find_submitted(sweep: Sweep, jobs: list[Job]) -> tuple[list[Watched], list[Job]]:
    """The jobs that an earlier line submitted and that are still in the queue or run, and those to submit now.

    A run that was left running by a job that SLURM knows to be gone counts as interrupted. What another process runs
    is in neither.
    """
    states, submitted = queue(), sweep.submitted()
    if states is None:
        raise Stopped(f"SLURM does not answer (squeue); {sweep.continuing()}")
    watched, new = [], []
    for job in jobs:
        number = submitted.get(job.name)
        if number and is_queued(states, number):
            watched.append(Watched(job, number))
        elif sweep.status(job) != "running" or (number and is_taken_over(sweep, Watched(job, number), "gone")):
            new.append(job)
    return watched, new


def submit(sweep: Sweep, jobs: list[Job], trust: list[str], parameters: dict[str, Any]) -> list[Watched]:
    """Submit jobs as one array, and note their numbers in the sweep's directory. Raises Stopped where SLURM refuses."""
    several = parameters.get("nodes", 1) * parameters.get("tasks_per_node", 1) > 1
    srun = [f"--cpus-per-task={parameters['cpus_per_task']}"] if "cpus_per_task" in parameters else []  # it may forget
    srun += ["--kill-on-bad-exit=1"] if several else []  # or the others would wait for a process that failed
    more = {"requeue": True, **parameters.get("additional_parameters", {})}  # some clusters do not by themselves
    said = io.StringIO()
    try:
        executor = executor_of("slurm", {**parameters, "additional_parameters": more, "srun_args": srun})
        with contextlib.redirect_stderr(said), executor.batch():
            handles = [executor.submit(task) for task in tasks_of(sweep, jobs, trust)]
    except (OSError, RuntimeError, ValueError) as error:  # submitit's own are among them
        why = " ".join((said.getvalue() or str(error)).split())
        raise Stopped(f"SLURM did not take the jobs: {why}; {sweep.continuing()}") from error
    watched = [Watched(job, str(handle.job_id)) for job, handle in zip(jobs, handles, strict=True)]
    sweep.note_submitted({each.job.name: each.number for each in watched})
    print(f"submitted as SLURM job {watched[0].number.partition('_')[0]}; what they print is in .submitit/", flush=True)
    return watched


def watch(sweep: Sweep, watched: list[Watched], submit_some: Callable[[list[Job]], list[Watched]]) -> None:
    """Wait until jobs have ended, and record each as it does. One that is in the queue again is waited for."""
    waiting = {each.number: each for each in watched}
    before: dict[str, str] = {}
    told: set[str] = set()  # SLURM's reasons for which jobs wait
    losses: Counter[str] = Counter()
    pause, answers, ended = SHORTEST_PAUSE, True, 0
    while waiting:
        states = queue()
        if states is None and answers:
            print("SLURM does not answer (squeue); asking again", flush=True)
        answers = states is not None
        now = {number: (before if states is None else states).get(number, GONE) for number in waiting}
        lost = []
        for number, each in list(waiting.items()):
            status = sweep.status(each.job)
            # A job that goes back into the queue may be seen between two states: its end counts when it is seen twice.
            if status in DONE or (answers and {now[number], before.get(number)} <= {*ENDED, GONE}):
                del waiting[number]
                if losses[each.job.name] < MOST_LOSSES and is_lost(sweep, each, now[number]):
                    losses[each.job.name] += 1
                    lost.append(each.job)
                    print(f"{each.job.name}: SLURM lost job {number} ({now[number].lower()})", flush=True)
                    continue
                ended += 1
                row = ended_row(sweep, each, now[number])
                sweep.record(row)
                why = "" if row["status"] in DONE else f": {row['reason']}"
                print(f"[{ended}/{len(watched)}] {each.job.name}: {row['status']}{why}", flush=True)
            elif now[number] == "PENDING" and before.get(number) in ("RUNNING", "COMPLETING"):
                print(f"{each.job.name}: in the queue again, and will go on from its checkpoint", flush=True)
        if any(now[number] == before.get(number) == "PENDING" for number in waiting):
            found = {reason: number for number, reason in why_pending().items() if number in waiting}
            for reason in sorted(found.keys() - PASSING - told):
                told.add(reason)
                print(f"SLURM has jobs wait: {reason} (scontrol show job {found[reason]} says more)", flush=True)
        pause = SHORTEST_PAUSE if now != before else min(1.5 * pause, LONGEST_PAUSE)
        before = now
        if lost:
            waiting |= {each.number: each for each in submit_some(lost)}
        if waiting:
            time.sleep(pause)


def is_lost(sweep: Sweep, ended: Watched, state: str) -> bool:
    """Whether a job is over though nothing was wrong with it: its node failed, or its process vanished without a word.

    Its run counts as interrupted then, and can go on.
    """
    status = sweep.status(ended.job)
    if status in (*DONE, *FAILED):
        return False
    is_without_a_word = state == "FAILED" and status in ("running", "killed")
    if not is_without_a_word and state not in ("BOOT_FAIL", "NODE_FAIL", "PREEMPTED"):
        return False
    return status != "running" or is_taken_over(sweep, ended, state)


def ended_row(sweep: Sweep, ended: Watched, state: str) -> JobRow:
    """What became of a job that is not in SLURM's queue any more, where its last state was `state`."""
    job, number = ended
    if sweep.status(job) == "running":
        is_taken_over(sweep, ended, state)
    row = make_row(job, sweep.path(job))
    if row["status"] in (*DONE, *FAILED):
        return row
    if row["status"] != "interrupted":
        row["status"] = "interrupted" if state == "CANCELLED" else "killed"
    said = f"{row['reason']}; " if row["reason"] else ""
    log = sweep.directory / ".submitit" / number / f"{number}_0_log.err"
    told = f"; see {log}" if state != "CANCELLED" and log.exists() else ""
    return row | {"reason": f"{said}SLURM job {number}: {state.lower()}{told}"}


def is_taken_over(sweep: Sweep, ended: Watched, state: str) -> bool:
    """Whether a run that says it is running was that job's, which is over: it is interrupted now, and can go on.

    A run that another process has begun since is left alone.
    """
    from gan_runner.storage.run_directory import take_over

    path = sweep.path(ended.job)
    try:
        if json.loads((path / "summary.json").read_text()).get("scheduler_job") != ended.number:
            return False
        take_over(path, f"SLURM ended it ({state.lower()})")
    except (OSError, ValueError):
        return False
    return True


def queue() -> dict[str, str] | None:
    """The user's jobs in SLURM's queue, and those that left it in the last minutes: states by number.

    None if SLURM does not answer.
    """
    return squeue("--states=all", "--format=%i %T")


def why_pending() -> dict[str, str]:
    """SLURM's reasons for which the user's jobs wait, by number; none if SLURM does not answer."""
    return squeue("--states=pending", "--format=%i %r") or {}


def squeue(*arguments: str) -> dict[str, str] | None:
    """What SLURM says of each of the user's jobs, by number. None if it does not answer."""
    command = ["squeue", "--me", "--array", "--noheader", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = [line.split(maxsplit=1) for line in answer.stdout.splitlines()]
    return {words[0]: words[1] for words in lines if len(words) == 2}


def cancel(sweep: Sweep, watched: list[Watched]) -> None:
    """Take jobs out of the queue; SIGTERM ends those that run, which saves them. Wait for that, and record it."""
    states = queue()
    left = [each for each in watched if states is None or is_queued(states, each.number)]
    print(f"cancelling {len(left)} SLURM jobs; those that run are saved", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        subprocess.run(["scancel", *(each.number for each in left)], capture_output=True, timeout=60, check=False)
    end = time.monotonic() + SECONDS_TO_SAVE
    while left and time.monotonic() < end:
        time.sleep(SHORTEST_PAUSE)
        if (now := queue()) is not None:
            for each in [each for each in left if not is_queued(now, each.number)]:
                left.remove(each)
                if sweep.status(each.job) != "new":
                    sweep.record(ended_row(sweep, each, now.get(each.number, "CANCELLED")))
    if left:
        print(f"{len(left)} of them are still there: squeue --me shows them, scancel ends them", file=sys.stderr)


def is_queued(states: dict[str, str], number: str) -> bool:
    """Whether a job runs, or will."""
    return states.get(number, GONE) not in (*ENDED, GONE)


def refuse_queued(sweep: Sweep) -> None:
    """Raises ConfigError where SLURM has jobs of the sweep, which would be run twice."""
    submitted = sweep.submitted()
    states = (queue() or {}) if submitted else {}
    if found := [number for number in submitted.values() if is_queued(states, number)]:
        raise ConfigError(
            f"{len(found)} jobs of {sweep.directory} are in SLURM's queue, or run: the line that began it waits for "
            f"them, scancel {found[0].partition('_')[0]} ends them"
        )


# --- on this machine --------------------------------------------------------------------------------------------------


def run_locally(sweep: Sweep, jobs: list[Job], trust: list[str], *, parameters: dict[str, Any]) -> None:
    """Run each job in a process of submitit's, one for each pair of cores at once.

    SystemExit after a signal, which the jobs are told of.
    """
    executor = executor_of("local", parameters)
    waiting = list(reversed(list(zip(jobs, tasks_of(sweep, jobs, trust), strict=True))))
    running: list[tuple[Job, Any]] = []
    ended = 0
    with terminated_by_exit():
        try:
            while waiting or running:
                while waiting and len(running) < max(1, cores() // 2):
                    job, task = waiting.pop()
                    running.append((job, executor.submit(task)))
                for job, handle in [each for each in running if each[1].done()]:
                    running.remove((job, handle))
                    ended += 1
                    result = make_row(job, sweep.path(job))
                    if result["status"] in ("new", "killed", "running"):
                        result |= {"status": "killed", "reason": f"local job {handle.job_id} ended without a word"}
                    sweep.record(result)
                    print(f"[{ended}/{len(jobs)}] {job.name}: {result['status']}", flush=True)
                time.sleep(0.2)
        except (SystemExit, KeyboardInterrupt):
            for _, handle in running:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(handle.job_id), signal.SIGTERM)  # submitit's own way leaves it a second
            raise


# --- in a job ---------------------------------------------------------------------------------------------------------


class Task:
    """A job, as submitit takes it to another machine: called there, and called again when SLURM starts it again.

    Of N tasks (hydra.launcher.nodes x tasks_per_node) each calls it: they are the processes of one run.
    """

    def __init__(self, job: Job, directory: Path, trust: list[str], hydra_files: dict[str, str], folder: str):
        self.job, self.directory, self.trust, self.folder = job, directory, trust, folder
        self.hydra_files = hydra_files

    def __call__(self) -> None:
        """Run it, or go on with it. A warning of its end saves it, before submitit puts it into the queue again."""
        os.chdir(self.folder)
        use_granted_cores()
        if process := launched_process(os.environ):
            from gan_runner.training import processes

            if process.rank > 0:
                with contextlib.suppress(SystemExit):  # as the first ends: srun would take that for a failure
                    processes.follow()
                return
            with processes.awaited(process):
                status = self.run()
            if status in FAILED:
                raise SystemExit(1)  # srun ends the others, which may wait on their GPUs for this one
        else:
            self.run()

    def run(self) -> str | None:
        """The status of the run at its end; None after a signal."""
        number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
        requeue = signal.getsignal(number)
        came: list[int] = []

        def warned(number: int, frame: object) -> None:
            came.append(number)
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(number, warned)
        try:
            with terminated_by_exit():
                data = data_cache(self.trust)
                return execute(self.job, self.directory, self.trust, self.hydra_files, data)["status"]
        except SystemExit:
            if came and callable(requeue):
                requeue(number, None)
        return None

    def checkpoint(self) -> Any:
        """What submitit submits after a preemption: the same, since the run has its checkpoint."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def use_granted_cores() -> None:
    """Use as many threads as SLURM granted cores; it need not hide the others of the machine."""
    import torch

    granted = os.environ.get("SLURM_CPUS_PER_TASK")
    if granted and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(int(granted))
