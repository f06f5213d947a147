"""Runs in several processes, as a shell starts them: one directory, one log, and an end for all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gan_runner.config.process_rank import ProcessRank, launched_process, process_in_run, rendezvous
from gan_runner.models.layers import SharedDropout
from gan_runner.training.build import build
from gan_runner.training.evaluation import Generation
from tests.conformance.cases import DCGAN, MLP
from tests.helpers import METRIC, SMALL, TINY, compose, naming, refusal
from tests.helpers.processes import cli, wait_for
from tests.helpers.runs import rows, summary

WORDS = [*SMALL, "loss=hinge", "sample_every=null", "log_every=2", "checkpoint_every=2"]
LONG = [*WORDS, "steps=100000", "log_every=10", "checkpoint_every=10"]


def weights(run: str) -> dict[str, torch.Tensor]:
    saved = torch.load(f"outputs/{run}/checkpoints/last.pt", weights_only=True)["game"]
    return {f"{name}.{key}": value for name in saved for key, value in saved[name].get("network", {}).items()}


def assert_same(run: str, other: str, margin: float = 0.0) -> None:
    for key, value in weights(other).items():
        torch.testing.assert_close(weights(run)[key], value, rtol=margin, atol=margin)


def test_a_run_in_two_processes_is_one_run(run_cli):
    code, said, error = run_cli(*WORDS, "steps=6", "devices=2", "name=two")
    assert code == 0, error
    assert "2 x cpu" in said
    assert summary(Path("outputs/two"))["processes"] == 2
    assert [row["step"] for row in rows(Path("outputs/two/metrics.jsonl"))] == [2, 4, 6]
    assert run_cli("resume", "outputs/two", "steps=10", "devices=1")[0] == 0
    assert summary(Path("outputs/two"))["processes"] == 1
    assert run_cli(*WORDS, "steps=10", "name=one")[0] == 0
    assert_same("two", "one", 1e-5)


@pytest.mark.slow
def test_all_processes_make_the_samples_of_an_evaluation(run_cli, monkeypatch):
    """In rounds of a batch each; the evaluations are those of one process, to the rounding of its weights."""
    made, batch = [], Generation.batch

    def noted(self, number):
        made.append(number)
        return batch(self, number)

    monkeypatch.setattr(Generation, "batch", noted)
    words = [*WORDS, "conditional=true", "model.generator.normalization=batch", "evaluate_every=4"]
    words += [*METRIC, "metric.sliced_wasserstein.samples=1200"]
    for name, devices in (("two", 2), ("one", 1)):
        assert run_cli(*words, "steps=6", f"devices={devices}", f"name={name}")[0] == 0
    assert made == [0, 2, 0, 2, 0, 1, 2, 0, 1, 2]
    found, expected = (rows(Path(f"outputs/{name}/evaluations.jsonl")) for name in ("two", "one"))
    for here, there in zip(found, expected, strict=True):
        values = there["metrics"]["sliced_wasserstein"]["values"]
        assert here["metrics"]["sliced_wasserstein"]["values"] == pytest.approx(values, rel=1e-4)


@pytest.mark.slow
def test_resumed_with_as_many_processes_it_goes_on_to_the_bit(run_cli):
    more = ["devices=2", "regularizer=[lecam,spectral_norm]", "regularizer.lecam.start=0"]
    assert run_cli(*WORDS, *more, "steps=10", "name=whole")[0] == 0
    assert run_cli(*WORDS, *more, "steps=4", "name=parts")[0] == 0
    assert run_cli("resume", "outputs/parts", "steps=10")[0] == 0
    assert_same("parts", "whole")
    assert rows(Path("outputs/parts/metrics.jsonl"))[-1]["loss/generator"] == pytest.approx(
        rows(Path("outputs/whole/metrics.jsonl"))[-1]["loss/generator"], rel=0, abs=0
    )


@pytest.mark.slow
def test_torchrun_and_srun_start_the_processes(run_cli):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "gan_runner"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    words = [*WORDS, "steps=4"]
    subprocess.run([*command, *words, "name=torchrun"], env=environment, check=True, timeout=200)
    tasks = [
        cli(*words, "name=srun", environment={"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": "2"})
        for rank in "10"
    ]
    said = [task.communicate(timeout=200) for task in reversed(tasks)]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert run_cli(*words, "name=one")[0] == 0
    for name in ("torchrun", "srun"):
        assert summary(Path("outputs", name))["processes"] == 2
        assert_same(name, "one", 1e-5)
    assert sorted(path.name for path in Path("outputs").iterdir()) == ["one", "srun", "torchrun"]


@pytest.mark.slow
@pytest.mark.parametrize(("words", "code"), [([*WORDS, "loss=hing"], 1), (["resume", "outputs/done"], 0)])
def test_where_no_run_begins_all_end_alike(words, code, run_cli):
    """Process 0 finds a mistake, or nothing to do: the others do not wait for it."""
    assert run_cli(*WORDS, "steps=2", "name=done")[0] == 0
    tasks = [
        cli(*words, environment={"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": "2"}) for rank in "10"
    ]
    said = [task.communicate(timeout=60) for task in tasks]
    assert [task.returncode for task in tasks] == [code, code], said


def child_of(process: int) -> int:
    """The one process that a process has started."""
    (found,) = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(found)


def is_gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc")
@pytest.mark.parametrize("wait", [0.0, 0.7])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("which", [0, 1])
def test_the_end_of_one_process_ends_all_and_the_run_goes_on(which, number, wait, run_cli):
    process = cli(*LONG, "devices=2", "name=run")
    wait_for(Path("outputs/run/checkpoints/last.pt"), process)
    time.sleep(wait)
    child = child_of(process.pid)
    os.kill([process.pid, child][which], number)
    began = time.monotonic()
    _, error = process.communicate(timeout=60)
    while not is_gone(child):
        assert time.monotonic() - began < 60, "it is still there"
        time.sleep(0.1)
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number
        assert summary(Path("outputs/run"))["status"] == "interrupted"
    else:
        directory = Path("outputs/run") if which else Path("outputs/run").absolute()  # process 1 says it of process 0
        resumed = f"gan-runner resume {directory}"
        line = refusal((1, "", error), f"process {which} of 2", "its last checkpoint, of step", resumed)
        assert which == 0 or "SIGKILL" in line
    done = torch.load("outputs/run/checkpoints/last.pt", weights_only=True)["step"]
    steps = f"steps={done + 5}"
    assert run_cli("resume", "outputs/run", steps, "log_every=1000")[0] == 0
    assert run_cli(*WORDS, "devices=2", steps, "name=whole")[0] == 0
    assert_same("run", "whole")


# --- what is refused, and who starts what -----------------------------------------------------------------------------


class OfBatch(torch.nn.Module):
    """A discriminator of a user's that looks at the whole batch."""

    mixes_samples = True

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.linear = torch.nn.Linear(shape[0], 1)

    def forward(self, samples, labels=None):
        return self.linear(samples - samples.mean(0)).squeeze(-1)


class WithDropout(OfBatch):
    """One with a dropout of torch's."""

    mixes_samples = False

    def __init__(self, shape: tuple[int, ...], *, is_shared: bool):
        super().__init__(shape)
        self.dropout = SharedDropout(0.5) if is_shared else torch.nn.Dropout(0.5)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["devices=3", *MLP], ["batch_size=8", "3 processes", "3"]),
        (["accumulate=8", *MLP, "generator_batch_size=12"], ["generator_batch_size=12", "accumulate=8"]),
        (["devices=2", *MLP, "optimizer=finite_difference", "optimizer.directions=2"], ["FiniteDifference", "2 p"]),
        (["accumulate=2", *DCGAN, "model.generator.normalization=batch"], ["model.generator", "BatchNorm2d"]),
        (["accumulate=2", *MLP, "loss=relativistic_average"], ["loss", "accumulate=2"]),
        (["accumulate=2", *MLP, "loss=bce", "regularizer=feature_matching"], ["regularizer.feature_matching"]),
        (["devices=2", *MLP, "device=mps"], ["device=mps"]),
        (["accumulate=2", *MLP, "augmentation=apa"], ["augmentation.apa", "accumulate=2"]),
        (["devices=2", *MLP, "model.discriminator.pack=3", "batch_size=6", "generator_batch_size=9"],
         ["generator_batch_size=9", "a multiple of 6"]),
        (["devices=2", *MLP, "regularizer=path_length", "batch_size=6"], ["batch_size=6", "a multiple of 4"]),
    ],
)  # fmt: skip
def test_what_a_shared_batch_does_not_go_with_is_refused(words, named):
    with pytest.raises(ValueError, match=naming(*named)):
        build(compose(*TINY, "metric=none", *words), [])


@pytest.mark.parametrize(
    ("name", "keys", "named"),
    [
        ("OfBatch", {}, ["model.discriminator", "OfBatch", "2 processes"]),
        ("WithDropout", {"is_shared": False}, ["model.discriminator", "Dropout", "SharedDropout"]),
        ("WithDropout", {"is_shared": True}, None),
    ],
)
def test_modules_of_a_user_that_would_see_another_batch_are_refused(name, keys, named):
    config = compose(*MLP, "batch_size=8", "device=cpu", "dataset=ring", "metric=none", "loss=bce", "devices=2")
    config["model"]["discriminator"] = {"_target_": f"{__name__}.{name}", **keys}
    trust = [__name__.partition(".")[0]]
    if named is None:
        build(config, trust)
        return
    with pytest.raises(ValueError, match=naming(*named)):
        build(config, trust)


@pytest.mark.slow
def test_runs_of_several_processes_are_not_stacked(run_cli):
    words = [*WORDS, "-m", "seed=0,1", "devices=2", "steps=3", "hydra/launcher=batched", "sweep=s"]
    code, said, error = run_cli(*words)
    assert code == 0, error
    assert said.count("one by one: devices=2") == 2
    assert [summary(Path(f"outputs/sweeps/s/seed-{seed}"))["processes"] for seed in (0, 1)] == [2, 2]


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "7"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


def test_the_environment_says_which_process_this_is(monkeypatch):
    assert launched_process(TORCHRUN) == launched_process(SRUN) == ProcessRank(3, 8, 1)
    assert (
        launched_process({})
        is launched_process({**SRUN, "SLURM_NTASKS": "1"})
        is launched_process({"RANK": "0"})
        is None
    )
    of_script = {**SRUN, "SLURM_JOB_ID": "12"}
    assert launched_process(of_script) is None
    of_step = {**of_script, "SLURM_STEP_ID": "0"}
    assert launched_process(of_step) == ProcessRank(3, 8, 1)
    assert launched_process({**of_step, "SLURM_PTY_PORT": "39907"}) is None
    assert rendezvous(TORCHRUN) == ("n1", 7)
    for nodes, first in (
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("node-3", "node-3"),
        ("a1,a2", "a1"),
        ("n[2,4]", "n2"),
        ("n[01-04]-ib,gpu7", "n01-ib"),
    ):
        assert rendezvous({"SLURM_JOB_NODELIST": nodes, "SLURM_JOB_ID": "5"})[0] == first
    assert process_in_run(4) == ProcessRank(0, 4, 0)
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    assert process_in_run(1) == process_in_run(8) == ProcessRank(3, 8, 1)
    with pytest.raises(ValueError, match=naming("devices=4", "8 processes")):
        process_in_run(4)
