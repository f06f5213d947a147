"""Sweeps on a real SLURM, whichever answers here: `pytest -m slurm`, with a --basetemp that its nodes see.

A job that goes back into the queue waits there for two minutes, which is SLURM's own.
"""

import signal
import subprocess
import time
from pathlib import Path

import pytest

from gan_runner.storage.status import run_status
from gan_runner.sweeps.cluster import queue
from tests.helpers.processes import cli, wait_for
from tests.helpers.runs import checkpoint, differences, metrics, rows, summary

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.timeout(1500)]

WORDS = [
    "-m", "dataset=ring", "model=mlp", "metric=none", "sample_every=null", "batch_size=16", "device=cpu",
    "log_every=50", "checkpoint_every=50", "sweep=s",
]  # fmt: skip
SLURM = ["hydra/launcher=slurm", *(f"hydra.launcher.{key}" for key in ("gpus_per_node=null", "cpus_per_task=1"))]
SLURM += ["hydra.launcher.mem_gb=2"]
LONG = ["steps=1000000"]
ROOT = Path("outputs/sweeps/s")


@pytest.fixture(autouse=True, scope="module")
def _slurm():
    if queue() is None:
        pytest.skip("needs a SLURM that answers")


@pytest.fixture(autouse=True)
def _leave_no_jobs():
    yield
    if (ROOT / "slurm.jsonl").exists():
        subprocess.run(["scancel", *numbers().values()], check=False, capture_output=True)


def numbers():
    """SLURM's numbers of the jobs, by name; the last one counts."""
    return {row["job"]: row["slurm_job"] for row in rows(ROOT / "slurm.jsonl")}


def wait_until(is_so, process, seconds=600):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        assert process.poll() is None, process.communicate()
        time.sleep(0.5)


def saved(name):
    return ROOT / name / "checkpoints/last.pt"


def finish(process):
    out, error = process.communicate()
    assert not [word for word in ("sacct", "submitit WARNING", "Traceback") if word in out + error], out + error
    return process.returncode, out, error


def test_jobs_end_in_the_queue_and_out_of_it():
    """One is put back into the queue, as a preemption does it, and ends as if nothing had been; one is cancelled."""
    process = cli(*WORDS, *SLURM, "seed=0,1", "steps=2000")
    for name, command in (("seed-0", ["scontrol", "requeue"]), ("seed-1", ["scancel"])):
        wait_for(saved(name), process, 300)
        subprocess.run([*command, numbers()[name]], check=True)
    code, out, error = finish(process)
    assert code == 1
    assert "2 jobs: 1 completed, 1 interrupted; the same line with sweep=s goes on" in error
    assert "seed-0: in the queue again" in out
    assert f"seed-1: interrupted: SIGTERM; SLURM job {numbers()['seed-1']}: cancelled" in out
    assert len(summary(ROOT / "seed-0")["resumed"]) == 1
    assert finish(cli(*[word.replace("=s", "=t") for word in WORDS], "seed=0", "steps=2000"))[0] == 0
    alone = Path("outputs/sweeps/t/run")
    assert metrics(ROOT / "seed-0") == metrics(alone)
    one, other = (checkpoint(run / "checkpoints/last.pt") for run in (ROOT / "seed-0", alone))
    assert not list(differences(one, other))


def test_the_end_of_a_jobs_time_is_not_its_end():
    """It has two minutes at a time, and is told a minute before."""
    time_limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=60"]
    process = cli(*WORDS, *SLURM, *time_limits, "seed=0", *LONG)
    wait_until(lambda: (ROOT / "run/summary.json").exists() and "resumed" in summary(ROOT / "run"), process)
    first = numbers()
    process.send_signal(signal.SIGTERM)
    assert finish(process)[0] == 143
    assert numbers() == first
    assert run_status(ROOT / "run") == "interrupted"


def test_a_shell_that_comes_back_waits_for_what_it_had_submitted():
    """And one that is interrupted takes its jobs along."""
    process = cli(*WORDS, *SLURM, "seed=0,1", *LONG)
    wait_for(saved("seed-0"), process, 300)
    process.kill()
    process.communicate()
    before = numbers()
    process = cli(*WORDS, *SLURM, "seed=0,1,2", *LONG)
    wait_until(lambda: "seed-2" in numbers(), process)
    assert numbers() == before | {"seed-2": numbers()["seed-2"]}
    refused = cli("resume", str(ROOT))
    assert finish(refused)[0] == 1
    process.send_signal(signal.SIGTERM)
    code, _, error = finish(process)
    assert code == 143, error
    assert "cancelling 3 SLURM jobs" in error
    assert not [number for number in numbers().values() if (queue() or {}).get(number) == "RUNNING"]
    assert run_status(ROOT / "seed-0") == "interrupted"


def test_a_job_of_several_tasks_starts_each():
    nodes = subprocess.run(["sinfo", "-h", "-o", "%D"], capture_output=True, text=True, check=True).stdout
    if int(nodes.split()[0]) < 2:
        pytest.skip("needs two nodes")
    sizes = ["hydra.launcher.nodes=2", "hydra.launcher.tasks_per_node=1"]
    code, out, error = finish(cli(*WORDS, *SLURM, *sizes, "seed=0", "steps=50"))
    assert code == 0, out + error
    number = numbers()["run"]
    logs = [(ROOT / f".submitit/{number}/{number}_{task}_log.out").read_text() for task in (0, 1)]
    assert "50 steps" in logs[0]
    assert "global_rank=1(2)" in logs[1]
    assert "50 steps" not in logs[1]
    assert summary(ROOT / "run")["processes"] == 2


def test_what_slurm_refuses_is_one_line():
    code, _, error = finish(cli(*WORDS, *SLURM, "hydra.launcher.partition=there_is_none", "seed=0", "steps=1"))
    assert code == 1
    assert "partition" in error.splitlines()[-1]
    assert error.splitlines()[-1].startswith("gan-runner: SLURM did not take the jobs")
