"""Sweeps on a cluster: when a job has ended, and what is submitted again. SLURM is a list of answers here."""

import contextlib
import functools
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from gan_runner.config.errors import ConfigError, Stopped
from gan_runner.storage.run_directory import RunDirectory
from gan_runner.sweeps import cluster
from gan_runner.sweeps.cluster import Task, launch_on_cluster, run_on_slurm
from gan_runner.sweeps.launchers import Launch, run_jobs
from gan_runner.sweeps.sweep import Job, Sweep
from gan_runner.training import processes
from tests.helpers import SMALL, compose, naming, refusal
from tests.helpers.runs import rows, summary

ROOT = Path("outputs/sweeps/s")
PARAMETERS = {"submitit_folder": "x", "cpus_per_task": 4}


def job(name):
    return Job(name, name, [], {}, "", [])


def say(name, status, *, reason=None, number="7_0", host="n1"):
    """A run's own word, as a node of the cluster writes it."""
    (ROOT / name).mkdir(parents=True, exist_ok=True)
    told = {"status": status, "reason": reason, "step": 5, "host": host, "scheduler_job": number}
    (ROOT / name / "summary.json").write_text(json.dumps(told))


class Slurm:
    """What answers in SLURM's place: each look at the queue gets the next answer, after what happens before it."""

    def __init__(self, monkeypatch):
        self.answers: list[Any] = []
        self.submitted: list[str] = []
        self.parameters: list[dict[str, Any]] = []
        self.cancelled: list[str] = []
        monkeypatch.setattr(cluster, "queue", self.queue)
        monkeypatch.setattr(cluster, "why_pending", lambda: self.reasons)
        monkeypatch.setattr(cluster, "executor_of", self.executor_of)
        monkeypatch.setattr(time, "sleep", self.sleep)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)
        monkeypatch.setattr(subprocess, "run", lambda words, **options: self.cancelled.extend(words[1:]))

    now = 0.0
    reasons: ClassVar[dict[str, str]] = {}

    def sleep(self, seconds):
        self.now += seconds

    def on_submission(self):
        """What happens then."""

    def queue(self):
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, tuple):
            act, answer = answer
            act()
        return answer

    def executor_of(self, name, parameters):
        self.parameters.append(parameters)

        def submit(task):
            self.on_submission()
            self.submitted.append(task.job.name)
            return SimpleNamespace(job_id=f"7_{len(self.submitted) - 1}")

        return SimpleNamespace(batch=contextlib.nullcontext, submit=submit)

    def run(self, *names, retry_failed=False, **parameters):
        with Sweep(ROOT) as sweep:
            sweep.is_on_slurm = True
            sweep.plan([])
            launch = Launch(run_on_slurm, parameters=PARAMETERS | parameters)
            run_jobs(sweep, [job(name) for name in names], launch, [], retry_failed=retry_failed)


@pytest.fixture
def slurm(monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with `&` ignores it
    yield Slurm(monkeypatch)
    signal.signal(signal.SIGINT, before)


def test_a_preempted_job_is_waited_for(slurm, capsys):
    saved = lambda: say("a", "interrupted", reason="SIGTERM")  # noqa: E731
    done = lambda: say("a", "completed")  # noqa: E731
    slurm.answers = [
        {}, {}, {"7_0": "RUNNING"}, (saved, {"7_0": "COMPLETING"}), {"7_0": "PREEMPTED"}, {"7_0": "PENDING"}, None,
        {"7_0": "RUNNING"}, (done, {"7_0": "COMPLETING"}),
    ]  # fmt: skip
    slurm.run("a")
    assert slurm.submitted == ["a"]
    assert [(row["job"], row["status"]) for row in rows(ROOT / "sweep.jsonl")] == [("a", "completed")]
    out = capsys.readouterr().out
    assert "SLURM does not answer" in out
    assert out.count("[1/1] a: completed") == 1


def test_a_job_that_slurm_has_forgotten(slurm):
    """Its end was not seen: the queue is empty, and the run says that it is running."""
    running = functools.partial(say, "a", "running", number="7_0")
    slurm.answers = [{}, {}, (running, {"7_0": "RUNNING"}), {}]
    with pytest.raises(Stopped, match="1 interrupted"):
        slurm.run("a")
    (row,) = rows(ROOT / "sweep.jsonl")
    assert row["status"] == "interrupted"


def test_what_an_earlier_shell_submitted_is_not_submitted_again(slurm, capsys):
    """Neither what runs nor what is in the queue, be it for the first time or after a preemption."""
    with Sweep(ROOT) as sweep:
        sweep.plan([])
        sweep.note_submitted({"waits": "5_0", "runs": "5_1", "again": "5_2", "ended": "5_3"})
    say("runs", "running", number="5_1")
    say("again", "interrupted", number="5_2")
    say("ended", "interrupted", number="5_3")

    def end():
        for name in ("waits", "runs", "again", "ended", "new"):
            say(name, "completed")

    states = {"5_0": "PENDING", "5_1": "RUNNING", "5_2": "PENDING", "5_3": "CANCELLED"}
    slurm.answers = [states, states, (end, states)]
    slurm.run("waits", "runs", "again", "ended", "new")
    assert slurm.submitted == ["ended", "new"]
    assert "3 of them" in capsys.readouterr().out
    assert len(rows(ROOT / "sweep.jsonl")) == 5
    assert rows(ROOT / "slurm.jsonl")[-1] == {"job": "new", "slurm_job": "7_1"}


def test_a_run_that_its_node_took_along_goes_on(slurm):
    """Where SLURM did not put it back into the queue. What somebody else runs is left alone."""
    with Sweep(ROOT) as sweep:
        sweep.plan([])
        sweep.note_submitted({"lost": "5_0", "another": "5_1"})
    say("lost", "running", number="5_0", host="node-7")
    say("another", "running", number="6_0", host="node-8")
    seen = []

    def done():
        seen.append(summary(ROOT / "lost"))
        say("lost", "completed")

    slurm.answers = [{}, {"7_0": "RUNNING"}, (done, {"7_0": "RUNNING"})]
    with pytest.raises(Stopped, match="1 completed, 1 running; the same line with sweep=s goes on"):
        slurm.run("lost", "another")
    assert slurm.submitted == ["lost"]
    assert seen[0]["status"] == "interrupted"


def test_what_becomes_of_jobs_that_end_otherwise(slurm, capsys):
    slurm.answers = [{}, {"7_0": "RUNNING", "7_1": "PENDING", "7_2": "RUNNING", "7_3": "RUNNING"}]

    def end():
        say("cancelled", "interrupted", reason="SIGTERM")
        say("lost", "running", number="7_2", host="node-7")
        say("failed", "failed", reason="disk full", number="7_3")

    slurm.answers += [(end, {"7_0": "CANCELLED", "7_1": "CANCELLED", "7_2": "TIMEOUT", "7_3": "COMPLETED"})]
    with pytest.raises(Stopped, match=r"1 failed, 2 interrupted, 1 new; the same line .* retry_failed=true goes on"):
        slurm.run("cancelled", "waiting", "lost", "failed")
    found = {row["job"]: (row["status"], row["reason"]) for row in rows(ROOT / "sweep.jsonl")}
    assert found == {
        "cancelled": ("interrupted", "SIGTERM; SLURM job 7_0: cancelled"),
        "waiting": ("interrupted", "SLURM job 7_1: cancelled"),
        "lost": ("interrupted", "SLURM ended it (timeout); SLURM job 7_2: timeout"),
        "failed": ("failed", "disk full"),
    }
    assert "[1/4] cancelled: interrupted: SIGTERM; SLURM job 7_0: cancelled" in capsys.readouterr().out


@pytest.mark.parametrize(("state", "host"), [("NODE_FAIL", "node-7"), ("PREEMPTED", "node-7"), ("FAILED", None)])
def test_a_job_that_slurm_loses_is_submitted_again(slurm, state, host, capsys):
    lose = lambda: say("a", "running", host=host)  # noqa: E731
    slurm.answers = [
        {}, {"7_0": "RUNNING"}, (lose, {"7_0": state}), {"7_0": state}, {"7_1": "RUNNING"},
        (lambda: say("a", "completed"), {"7_1": "RUNNING"}),
    ]  # fmt: skip
    slurm.run("a")
    assert slurm.submitted == ["a", "a"]
    assert [row["status"] for row in rows(ROOT / "sweep.jsonl")] == ["completed"]
    assert f"SLURM lost job 7_0 ({state.lower()})" in capsys.readouterr().out


def test_a_job_that_is_lost_again_and_again_is_not(slurm):
    slurm.answers = [{}, {f"7_{number}": "NODE_FAIL" for number in range(9)}]
    with pytest.raises(Stopped, match="1 new"):
        slurm.run("a")
    assert slurm.submitted == ["a"] * 4
    assert rows(ROOT / "sweep.jsonl")[0]["reason"] == "SLURM job 7_3: node_fail"


@pytest.mark.parametrize("state", ["FAILED", "TIMEOUT", "OUT_OF_MEMORY"])
def test_what_has_had_its_time_or_more_than_its_memory_is_not_submitted_again(slurm, state):
    saved = lambda: say("a", "interrupted", reason="SIGTERM")  # noqa: E731
    slurm.answers = [{}, {"7_0": "RUNNING"}, (saved, {"7_0": state})]
    with pytest.raises(Stopped, match="1 interrupted"):
        slurm.run("a")
    assert slurm.submitted == ["a"]


def test_a_failed_job_is_not_taken_for_the_one_that_retries_it(slurm):
    with Sweep(ROOT) as sweep:
        sweep.plan([])
    say("a", "failed", number="5_0")
    slurm.answers = [{}, {"7_0": "PENDING"}, {"7_0": "PENDING"}, (lambda: say("a", "completed"), {"7_0": "RUNNING"})]
    slurm.run("a", retry_failed=True)
    assert slurm.submitted == ["a"]
    assert [row["status"] for row in rows(ROOT / "sweep.jsonl")] == ["completed"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_and_waits_for_what_is_saved(slurm, number, capsys):
    run = {"7_0": "RUNNING", "7_1": "PENDING"}
    save = lambda: say("a", "interrupted", reason="SIGTERM")  # noqa: E731
    slurm.answers = [
        {}, (lambda: os.kill(os.getpid(), number), run), run, {"7_0": "COMPLETING"}, (save, {"7_0": "CANCELLED"}),
    ]  # fmt: skip
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        slurm.run("a", "b")
    assert slurm.cancelled == ["7_0", "7_1"]
    assert [(row["job"], row["status"]) for row in rows(ROOT / "sweep.jsonl")] == [("a", "interrupted")]
    assert "the same line with sweep=s goes on" in capsys.readouterr().err


def test_a_signal_while_slurm_does_not_answer_cancels_too(slurm, capsys):
    slurm.answers = [{}, (lambda: os.kill(os.getpid(), signal.SIGTERM), None), None]
    with pytest.raises(SystemExit):
        slurm.run("a")
    assert slurm.cancelled == ["7_0"]
    assert "1 of them are still there" in capsys.readouterr().err


def test_a_signal_while_jobs_are_submitted_waits_until_they_are_noted(slurm):
    slurm.on_submission = lambda: os.kill(os.getpid(), signal.SIGTERM)
    slurm.answers = [{}, {"7_0": "PENDING"}, {"7_0": "CANCELLED"}]
    with pytest.raises(SystemExit):
        slurm.run("a")
    assert rows(ROOT / "slurm.jsonl") == [{"job": "a", "slurm_job": "7_0"}]
    assert slurm.cancelled == ["7_0"]


def test_what_slurm_is_asked_for(slurm):
    slurm.answers = [{}, (lambda: say("a", "completed"), {})]
    slurm.run("a", nodes=2, additional_parameters={"mail-type": "END"})
    asked = slurm.parameters[0]
    assert asked["additional_parameters"] == {"requeue": True, "mail-type": "END"}
    assert asked["srun_args"] == ["--cpus-per-task=4", "--kill-on-bad-exit=1"]


def test_a_sweep_in_the_queue_is_not_resumed_here(slurm, run_cli):
    slurm.answers = [{"5_0": "PENDING"}]
    with Sweep(ROOT) as sweep:
        sweep.plan([])
        sweep.note_submitted({"a": "5_0"})
    refusal(run_cli("resume", str(ROOT)), "1 jobs", "SLURM", "scancel 5")


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ({"nodes": 0}, "hydra.launcher.nodes=0"),
        ({"tasks_per_node": -1}, "hydra.launcher.tasks_per_node=-1"),
        ({"timeout_min": 0}, "hydra.launcher.timeout_min=0"),
        ({"tasks_per_node": 4, "gpus_per_node": 2}, "hydra.launcher.tasks_per_node=4 gpus_per_node=2"),
    ],
)
def test_sizes_that_no_job_can_have(slurm, parameters, named):
    slurm.answers = [{}]
    with pytest.raises(ConfigError, match=naming(*named.split())):
        launch_on_cluster("slurm", parameters)


def test_where_there_is_no_slurm(slurm):
    slurm.answers = [None]
    with pytest.raises(ConfigError, match=naming("hydra/launcher=slurm", "SLURM does not answer")):
        launch_on_cluster("slurm", {"nodes": 2, "tasks_per_node": 1, "gpus_per_node": None})
    with pytest.raises(ConfigError, match=naming("hydra/launcher=local", "nodes")):
        launch_on_cluster("local", {"nodes": 2})


def test_a_job_that_cannot_start_is_told_once(slurm, capsys):
    slurm.reasons = {"7_0": "Priority", "7_1": "PartitionConfig", "8": "BadConstraints"}
    waits = {"7_0": "PENDING", "7_1": "PENDING"}

    def done():
        say("a", "completed")
        say("b", "completed")

    slurm.answers = [{}, {}, waits, waits, waits, (done, {})]
    slurm.run("a", "b")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "SLURM has jobs wait" in line]
    assert "PartitionConfig" in line
    assert "7_1" in line


def test_squeue_is_read(monkeypatch):
    answer = SimpleNamespace(stdout="12_0 RUNNING\n12_1 PENDING\n13 COMPLETING\n\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    assert cluster.queue() == {"12_0": "RUNNING", "12_1": "PENDING", "13": "COMPLETING"}
    answer.stdout = "12_1 Nodes required for job are DOWN, DRAINED\n"
    assert cluster.why_pending() == {"12_1": "Nodes required for job are DOWN, DRAINED"}

    def no_such_file(*_, **__):
        raise FileNotFoundError("squeue")

    monkeypatch.setattr(subprocess, "run", no_such_file)
    assert cluster.queue() is None
    assert cluster.why_pending() == {}


def test_the_first_task_of_several_runs_the_job_and_the_others_follow(monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(processes, "follow", lambda: seen.append("follows"))
    monkeypatch.setattr(processes, "awaited", contextlib.nullcontext)
    statuses = ["completed", "completed", "failed"]

    def execute(job, *_):
        seen.append("runs")
        return {"status": statuses.pop(0)}

    monkeypatch.setattr(cluster, "execute", execute)
    monkeypatch.setattr(cluster, "data_cache", lambda trust: None)
    task = Task(job("a"), ROOT, [], {}, ".")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    for rank in "01":
        monkeypatch.setenv("SLURM_PROCID", rank)
        monkeypatch.setenv("SLURM_LOCALID", rank)
        task()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    task()
    assert seen == ["runs", "follows", "runs"]
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(SystemExit) as end:  # srun ends the others
        task()
    assert end.value.code == 1


def test_the_same_slurm_job_on_another_node_goes_on(monkeypatch):
    """SLURM has ended it where it was; any other job leaves the run alone."""
    config = compose(*SMALL)
    real = Job("a", "a", [], config, "", [])
    with RunDirectory.create(ROOT / "a", {}, {}):
        say("a", "running", number="7_0", host="node-7")
    calls = []
    monkeypatch.setattr("gan_runner.training.run.restore_run", lambda *_, **__: calls.append("restored"))
    task = Task(real, ROOT.absolute(), [], {}, ".")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "8")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    task()
    assert not calls
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    task()
    assert calls == ["restored"]
