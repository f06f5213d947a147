"""Sweeps trained as one program: every job equals its separate run, whatever becomes of the others."""

import copy
import os
import re
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode

from gan_runner.games.stacked_game import StackedGame, why_different
from gan_runner.storage.checkpoint import load
from gan_runner.storage.status import run_status
from gan_runner.sweeps.batched_launcher import BatchedSweep, Group, Timing, chunks, larger, own_bytes, structure
from gan_runner.sweeps.sweep import DataCache, Job
from gan_runner.training.build import load_data
from gan_runner.training.recorder import Recorder, read_at_once
from tests.helpers import TINY, TINY_MODEL, compose, refusal
from tests.helpers.games import take_steps, take_steps_together
from tests.helpers.precision import Products, factors
from tests.helpers.processes import cli, wait_for
from tests.helpers.runs import metrics, rows, summary
from tests.helpers.stacked import games_of, numbers, variants

MLP = ["model=mlp", *TINY_MODEL]


@pytest.mark.parametrize("words", [MLP, ["model=dcgan", *TINY_MODEL]], ids=" ".join)
def test_bfloat16(words):
    """The same to its rounding, which moves the gradient of so small a network by a sixth, alone as stacked."""
    configs = variants(compose(*TINY, *words, "discriminator_steps=2", "loss=bce", "precision=bf16"))
    alone = [take_steps(game, 5) for game in games_of(configs)]
    for one, other in zip(alone, take_steps_together(games_of(configs), 5), strict=True):
        for tag, limit in (
            ("loss/generator", 0.01),
            ("loss/discriminator", 0.01),
            ("gradient_norm/discriminator", 0.25),
        ):
            assert other[tag] == pytest.approx(one[tag], rel=limit)


def test_a_penalty_that_mixes_the_runs_is_seen():
    configs = variants(compose(*TINY, *MLP, "loss=bce", "regularizer=l1"))

    def unaware(view):
        return sum(parameter.abs().sum() for parameter in view.learner.parameters()).expand(view.real.shape[:-3])

    pair = [games_of(configs) for _ in range(2)]
    assert why_different(pair[0], StackedGame(pair[1])) is None
    pair = [games_of(configs) for _ in range(2)]
    for game in [*pair[0], *pair[1]]:
        game.players["discriminator"].terms["l1"].fn = unaware
    assert "stacked, penalty/l1 would be" in str(why_different(pair[0], StackedGame(pair[1])))


@pytest.mark.parametrize("words", [MLP, ["model=dcgan", *TINY_MODEL]], ids=" ".join)
def test_memory(words):
    """What the tensors of M runs take: their parameters, buffers, optimizers and moving averages are all there is."""
    runs = 8
    config = compose(*TINY, *words)
    games = games_of([config | {"seed": seed} for seed in range(runs)])
    alone = games_of([config])[0]
    alone.step(0)
    together = StackedGame(games)
    together.step(0)
    together.hand_out(0)

    def storages(things: list[Any]) -> int:
        found: dict[int, int] = {}
        for thing in things:
            for player in thing.players.values():
                held = [*player.network.parameters(), *player.network.buffers()]
                held += [tensor.grad for tensor in player.network.parameters() if tensor.grad is not None]
                for state in player.optimizer.state.values():
                    held += [value for value in state.values() if isinstance(value, torch.Tensor)]
                if thing.moving_average:
                    average = thing.moving_average.network
                    held += [*average.parameters(), *average.buffers()]
                found |= {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}
        return sum(found.values())

    assert storages([together.game, *games]) <= 1.1 * runs * storages([alone])
    assert own_bytes(alone) == pytest.approx(storages([alone]), rel=0.05)


# --- which jobs go together


def test_the_trial_of_a_generators_batch_is_as_small_as_the_discriminators():
    """And the memory of a job is judged by the larger of both."""
    config = compose("batch_size=16", "generator_batch_size=64", "device=cpu", "metric=none", *MLP)
    launcher = SimpleNamespace(trust=[], data=DataCache(lambda node: load_data(node, [])))
    game: Any = BatchedSweep.small_game(launcher, config)  # type: ignore[arg-type]
    assert (game.batch_size, game.generator_batch_size, game.discriminator_steps) == (8, 8, 1)
    assert larger(config, game) == 64 / 8


def test_structure():
    base = compose("regularizer=[r1,weight_clip]", "lr_schedule@regularizer.r1.schedule=linear", "lr_schedule=cosine")

    def changed(path, value):
        config = copy.deepcopy(base)
        *nodes, last = path.split(".")
        node = config
        for name in nodes:
            node[name] = node[name] or {}
            node = node[name]
        node[last] = value
        return structure(config) == structure(base)

    same = {
        "seed": 7, "regularizer.r1.weight": 3, "optimizer.lr": 1, "lr_schedule.end": 0.3, "lr_schedule.warmup": 3,
        "regularizer.r1.schedule.end": 2.0, "regularizer.gradient_penalty.weight": 0, "sweep": "x",
    }  # fmt: skip
    other = {
        "optimizer.betas": [0.1, 0.2], "regularizer.weight_clip.bound": 0.2, "regularizer.r1.every": 2, "steps": 7,
        "regularizer.gradient_penalty.target": 2.0, "log_every": 3, "dataset.seed": 1, "loss": {"_target_": "x"},
        "lr_schedule._target_": "x", "model.latent_size": 3, "optimizer.generator": {"eps": 1.0}, "ema_half_life": 1,
    }  # fmt: skip
    assert [path for path, value in same.items() if not changed(path, value)] == []
    assert [path for path, value in other.items() if changed(path, value)] == []


@pytest.mark.parametrize("role", ["projection", "gradient", "parametrization"])
@pytest.mark.slow
def test_what_is_no_penalty_has_no_weight(role):
    """Nor a schedule: keys of that name are the component's, and one component acts on all runs."""

    def config(weight, end):
        node = {"role": role, "weight": weight, "schedule": {"_target_": "x", "end": end}}
        return compose() | {"regularizer": {"mine": node}}

    assert structure(config(1, 2)) == structure(config(1, 2))
    assert structure(config(1, 2)) != structure(config(3, 2))
    assert structure(config(1, 2)) != structure(config(1, 3))


def test_schedules_may_differ_in_any_argument():
    """Each run's is called by itself."""
    first, second = (compose() for _ in range(2))
    first["lr_schedule"]["shape"], second["lr_schedule"]["shape"] = "round", [1, 2]
    assert structure(first) == structure(second)


def test_chunks():
    jobs = [Job(str(number), "", [], {}, "", []) for number in range(17)]
    assert [len(chunk) for chunk in chunks(jobs, 8)] == [5, 6, 6]
    assert [job for chunk in chunks(jobs, 8) for job in chunk] == jobs
    assert chunks([], 8) == []


# --- sweeps

RING = [
    *MLP, "dataset=ring", "model.latent_size=4", "batch_size=8", "sample_count=4", "device=cpu", "metric=none",
    "steps=6", "log_every=2", "sample_every=3", "checkpoint_every=3",
]  # fmt: skip
SWEEP = ["-m", *RING, "hydra/launcher=batched", "hydra.launcher.stack=always", "sweep=s"]
ROOT = Path("outputs/sweeps/s")
WEIGHT = "regularizer.gradient_penalty.weight"


def statuses(root=ROOT):
    return {row["job"]: row["status"] for row in rows(root / "sweep.jsonl")}


def approximately(expected):
    return [pytest.approx(row, rel=1e-2, abs=1e-4) for row in expected]


def files(path):
    own = {entry.relative_to(path).as_posix() for entry in path.rglob("*") if entry.is_file()}
    return {re.sub(r"tfevents.*", "tfevents", name) for name in own}


def test_a_job_is_what_its_separate_run_is(run_cli):
    code, out, error = run_cli(*SWEEP, f"{WEIGHT}=0.1,10", "seed=0,1", "optimizer.lr=1e-3,2e-3")
    assert code == 0, error
    assert "8 jobs as one program" in out
    assert "one by one" not in out
    assert set(statuses().values()) == {"completed"}
    path = ROOT / "weight-10_seed-1_lr-0.002"
    words = yaml.safe_load((path / ".hydra/overrides.yaml").read_text())
    assert run_cli(*words, "hydra.run.dir=alone")[0] == 0
    alone = Path("alone")
    assert metrics(path) == approximately(metrics(alone))
    assert files(path) == files(alone)
    assert (path / ".hydra/config.yaml").read_text() == (alone / ".hydra/config.yaml").read_text()
    for name in ("last.pt", "previous.pt"):
        mine, its = load(path / "checkpoints" / name), load(alone / "checkpoints" / name)
        assert mine.keys() == its.keys()
        assert numbers(mine["game"]).keys() == numbers(its["game"]).keys()
        assert [type(x) for x in mine["game"]["generator"]] == [type(x) for x in its["game"]["generator"]]
        sizes = [(each / "checkpoints" / name).stat().st_size for each in (path, alone)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    summaries = [summary(each) for each in (path, alone)]
    assert summaries[0].keys() - summaries[1].keys() == {"stacked"}
    assert summaries[1].keys() <= summaries[0].keys()
    assert run_cli("sample", str(path))[0] == 0
    for each in (path, alone):
        assert run_cli("resume", str(each), "steps=8")[0] == 0
    assert metrics(path) == approximately(metrics(alone))


@pytest.mark.slow
def test_one_that_diverges_leaves_the_others_alone(run_cli):
    outcome = run_cli(*SWEEP, "optimizer.lr=1e-3,1e18,2e-3", "loss=bce")
    refusal(outcome, "1 diverged")
    assert statuses() == {"lr-0.001": "completed", "lr-1e+18": "diverged", "lr-0.002": "completed"}
    assert re.search(r"lr-1e\+18.* diverged", outcome[1])
    reason = summary(ROOT / "lr-1e+18")["reason"]
    for lr in ("1e-3", "1e18", "2e-3"):
        run_cli(*RING, "loss=bce", f"optimizer.lr={lr}", f"hydra.run.dir=alone/{lr}")
    assert summary("alone/1e18")["reason"] == reason
    for name, lr in (("lr-0.001", "1e-3"), ("lr-0.002", "2e-3")):
        assert metrics(ROOT / name) == approximately(metrics(Path("alone") / lr))


def test_stacked_runs_have_one_arithmetic(run_cli, monkeypatch):
    """Whichever ends first; they are tried out with the exact one."""
    before, train, products, tried = factors(), Group.train, Products(), set()

    def watch(self):
        with products:
            return train(self)

    monkeypatch.setattr(Group, "train", watch)
    step = StackedGame.step

    def note(self, number, **options):
        tried.add(factors())
        return step(self, number, **options)

    monkeypatch.setattr(StackedGame, "step", note)
    words = ["optimizer.lr=1e18,1e-3,2e-3", "loss=bce", "deterministic=true", "tf32=true"]
    refusal(run_cli(*SWEEP, *words), "1 diverged")
    assert set(products.seen) == {("tf32", True)}
    assert tried == {"tf32", "ieee"}
    assert factors() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_dataset_that_is_too_large_streams_or_is_refused(run_cli, monkeypatch):
    """It is asked for once where it goes, and by the jobs' own keys."""
    np.save("a.npy", np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8))
    monkeypatch.setattr("gan_runner.datasets.memory.available_memory", lambda: 1000)
    words = [word for word in SWEEP[:-1] if word != "dataset=ring"] + ["dataset=npy", "dataset.path=a.npy", "steps=1"]
    code, out, error = run_cli(*words, "seed=0,1", "workers=0", "sweep=s")
    assert code == 0, error
    assert out.count("it streams from its file, workers=0") == 1
    assert out.count("one by one: the dataset streams") == 2
    outcome = run_cli(*words, "seed=0,1", "stream=false", "sweep=t")
    assert "stream=false: the dataset takes 3.75 KiB" in outcome[1] + outcome[2]
    assert outcome[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("during_evaluation", [False, True])
def test_an_interrupted_group_goes_on(run_cli, monkeypatch, during_evaluation):
    from gan_runner.training.evaluation import Evaluator

    step, evaluate, seen = StackedGame.step, Evaluator.evaluate, []
    words = [f"{WEIGHT}=1,2,3", "metric=wasserstein", "metric.wasserstein.samples=20", "evaluate_every=4", "steps=7"]

    def interrupt(number):
        seen.append(number)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    if during_evaluation:
        monkeypatch.setattr(Evaluator, "evaluate", lambda self, *rest: (interrupt(0), evaluate(self, *rest))[1])
    else:
        monkeypatch.setattr(
            StackedGame, "step", lambda self, number, **to: (interrupt(number), step(self, number, **to))[1]
        )
    code, _, error = run_cli(*SWEEP, *words)
    assert code == 130, error
    assert "resume outputs/sweeps/s --batched" in error
    assert "interrupted" in statuses().values()
    assert not any(run_status(ROOT / name) in ("running", "killed", "failed") for name in statuses())
    monkeypatch.setattr(StackedGame, "step", step)
    monkeypatch.setattr(Evaluator, "evaluate", evaluate)
    code, out, error = run_cli("resume", str(ROOT), "--batched")
    assert code == 0, error
    assert set(statuses().values()) == {"completed"}
    if not during_evaluation:
        assert "3 jobs as one program" in out
    assert run_cli(*SWEEP[:-1], *words, "sweep=whole")[0] == 0
    for name in statuses():
        assert metrics(ROOT / name) == approximately(metrics(Path("outputs/sweeps/whole") / name))


@pytest.mark.slow
def test_stacked_only_where_it_saves_time(run_cli, monkeypatch):
    """What a trial has found is kept, and a sweep that goes on keeps to it."""
    words = [*SWEEP, "hydra.launcher.stack=auto", "steps=2"]
    timed: list[int] = []

    def time_both(self, jobs):
        timed.append(len(jobs))
        return Timing(0.002, 0.003, len(jobs))

    with monkeypatch.context() as patched:
        patched.setattr(BatchedSweep, "time_both", time_both)
        code, out, error = run_cli(*words, "seed=0,1,2")
        assert code == 0, error
        assert "2 ms alone and 3 ms in a stack of 3" in out
        assert out.count("one by one: stacked they take longer; hydra.launcher.stack=always") == 3
        assert timed == [3]
        assert "one by one" in run_cli(*words, "seed=0,1,2,3,4")[1]
        assert timed == [3]
        assert "2 jobs as one program" in run_cli(*words, "seed=0,1,2,3,4,5,6", "hydra.launcher.stack=always")[1]

    def quick(self, jobs):
        found = really_time_both(self, jobs)
        assert min(found.alone, found.together) > 0
        return found._replace(together=found.alone / 2)

    really_time_both = BatchedSweep.time_both
    monkeypatch.setattr(BatchedSweep, "time_both", quick)
    assert "2 jobs as one program" in run_cli(*words, "seed=0,1", "sweep=t")[1]


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_and_a_damaged_record(run_cli, monkeypatch):
    words = [*SWEEP, "hydra.launcher.stack=auto", "steps=2"]

    def runs_out(self, jobs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(BatchedSweep, "time_both", runs_out)
    assert "2 jobs as one program" in run_cli(*words, "seed=0,1")[1]
    for text in ("", "[]", '{"x": 1}', '{"x": {"alone": 1}}'):
        (ROOT / "stacking.json").write_text(text)
        refusal(run_cli(*words, "seed=0,1,2,3"), "stacking.json is damaged")
    refusal(run_cli(*words, "seed=0,1", "hydra.launcher.stack=never"), "hydra.launcher.stack=never")


class NoReads(TorchDispatchMode):
    """Raises where the host wants to know a number."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function is not torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.slow
def test_one_transfer_a_log_point(run_cli, monkeypatch):
    """Whatever the number of runs; and nothing is read before it."""
    transfers: list[int] = []

    def read(values):
        transfers.append(len(values))
        return read_at_once(values)

    def look(self, step, of_step):
        with NoReads():
            return own_look(self, step, of_step)

    own_look = Recorder.look
    monkeypatch.setattr(Recorder, "look", look)
    monkeypatch.setattr("gan_runner.sweeps.batched_launcher.read_at_once", read)
    assert run_cli(*SWEEP, f"{WEIGHT}=1,2,3", "log_every=2", "steps=5")[0] == 0
    logged = [row["step"] for row in rows(ROOT / "weight-1/metrics.jsonl")]
    assert logged == [2, 4, 5]
    assert len([count for count in transfers if count]) == len(logged)


@pytest.mark.slow
def test_skipping_extending_and_retrying(run_cli, monkeypatch):
    assert run_cli(*SWEEP, f"{WEIGHT}=1,2")[0] == 0
    before = {name: (ROOT / name / "summary.json").read_bytes() for name in statuses()}
    look = Recorder.look

    def fail(self, number, values):
        if self.settings.seed == 1 and number == 4:
            raise RuntimeError("the sky fell")
        return look(self, number, values)

    monkeypatch.setattr(Recorder, "look", fail)
    words = [*SWEEP, f"{WEIGHT}=1,2", "seed=0,1,2"]
    outcome = run_cli(*words)
    refusal(outcome, "4 completed, 2 failed")
    assert "4 jobs as one program" in outcome[1]
    assert "Traceback" in (ROOT / "weight-1_seed-1/gan_runner.log").read_text()
    assert {name: (ROOT / name / "summary.json").read_bytes() for name in before} == before
    monkeypatch.setattr(Recorder, "look", look)
    code, out, error = run_cli(*words, "retry_failed=true")
    assert code == 0, error
    assert "2 jobs as one program" in out
    assert set(statuses().values()) == {"completed"}


@pytest.mark.slow
def test_a_structural_sweep(run_cli):
    words = ["loss=hinge,bce", "seed=0,1", "optimizer=adam,finite_difference"]
    code, out, error = run_cli(*SWEEP, *words)
    assert code == 0, error
    assert out.count("2 jobs as one program") == 2
    name = "loss-hinge_seed-0_optimizer-finite_difference"
    assert re.search(rf"{name}.* one by one.*FiniteDifference", out)
    assert len(statuses()) == 8
    code, out, error = run_cli(*SWEEP, "loss=lsgan,relativistic")
    assert code == 0, error
    assert out.count("one by one") == 2


def test_a_job_that_cannot_be_built(run_cli, monkeypatch):
    from gan_runner.sweeps import grid

    monkeypatch.setattr(grid, "check_jobs", lambda *_, **__: [])
    outcome = run_cli(*SWEEP, f"{WEIGHT}=-1,1,2")
    refusal(outcome, "2 completed, 1 failed")
    assert statuses() == {"weight--1": "failed", "weight-1": "completed", "weight-2": "completed"}
    assert re.search(rf"weight--1.* failed.*{WEIGHT}=-1", outcome[1])


def test_a_job_whose_network_breaks_fails_alone(run_cli, monkeypatch):
    """By an error that no check foresees, as a network of the user's may raise."""
    small_game = BatchedSweep.small_game

    def breaks(self, config):
        if config["seed"] == 0:
            raise TypeError("of the user")
        return small_game(self, config)

    monkeypatch.setattr(BatchedSweep, "small_game", breaks)
    code, _, error = run_cli(*SWEEP, "hydra.launcher.stack=auto", "seed=range(3)")
    assert code == 0, error
    assert set(statuses().values()) == {"completed"}


@pytest.mark.slow
def test_too_little_memory_for_all(run_cli, monkeypatch):
    step = StackedGame.step

    def want(self, number, **options):
        if len(self.games) > 3 and number == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(self, number, **options)

    monkeypatch.setattr(StackedGame, "step", want)
    code, out, error = run_cli(*SWEEP, "seed=range(5)")
    assert code == 0, error
    assert re.search(r"\b5\b.*out of memory.*\b3\b", out)
    assert set(statuses().values()) == {"completed"}
    assert run_cli(*RING, "seed=4", "hydra.run.dir=alone")[0] == 0
    assert metrics(ROOT / "seed-4") == approximately(metrics(Path("alone")))
    monkeypatch.setattr("gan_runner.sweeps.batched_launcher.free_memory", lambda device: 0)
    code, out, error = run_cli(*SWEEP[:-1], "seed=range(2)", "sweep=t", "steps=1")
    assert code == 0, error
    assert out.count("one by one") == 2


@pytest.mark.slow
def test_what_fails_together_is_done_one_by_one(run_cli, monkeypatch):
    step = StackedGame.step

    def fail(self, number, **options):
        if number == 4:
            raise RuntimeError("vmap: not that")
        return step(self, number, **options)

    monkeypatch.setattr(StackedGame, "step", fail)
    code, out, error = run_cli(*SWEEP, "seed=range(2)")
    assert code == 0, error
    assert re.search("seed-1.* one by one.*RuntimeError: vmap: not that", out)
    assert len(summary(ROOT / "seed-0")["resumed"]) == 1
    assert "stacked" not in summary(ROOT / "seed-0")  # its time is its own


@pytest.mark.slow
def test_groups_are_bounded(run_cli):
    code, out, error = run_cli(*SWEEP, "seed=range(5)", "hydra.launcher.max_group=2", "steps=1", "deterministic=true")
    assert code == 0, error
    assert out.count("2 jobs as one program") + out.count("1 jobs as one program") == 2
    assert out.count("one by one") == 1
    assert sorted(summary(ROOT / name).get("stacked", 1) for name in statuses()) == [1, 2, 2, 2, 2]
    refusal(run_cli(*SWEEP, "seed=0,1", "hydra.launcher.max_group=0"), "hydra.launcher.max_group=0")


@pytest.mark.slow
def test_a_search(run_cli):
    pytest.importorskip("optuna")
    words = ["hydra/sweeper=search", "hydra.sweeper.n_trials=6", "hydra.sweeper.batch=3", "hydra.sweeper.startup=2"]
    words += ["metric=wasserstein", "metric.wasserstein.samples=20", f"{WEIGHT}=tag(log,interval(0.1,10))"]
    code, out, error = run_cli(*SWEEP, *words, "hydra.sweeper.pruner=median", "evaluate_every=2")
    assert code == 0, error
    assert "3 jobs as one program" in out
    assert len(statuses()) == 6
    assert set(statuses().values()) <= {"completed", "pruned"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_every_run_of_the_group(number):
    process = cli(*SWEEP, "seed=range(3)", "steps=1000000", "checkpoint_every=5", "sample_every=null")
    for seed in range(3):
        wait_for(ROOT / f"seed-{seed}/checkpoints/previous.pt", process)
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 128 + number, error
    assert "Traceback" not in error
    assert "gan-runner 0" not in out  # the jobs are quiet
    assert statuses() == dict.fromkeys(("seed-0", "seed-1", "seed-2"), "interrupted")
    summaries = [summary(ROOT / name) for name in statuses()]
    assert {each["reason"] for each in summaries} == {number.name}
    assert len({each["step"] for each in summaries}) == 1
    for name, each in zip(statuses(), summaries, strict=True):
        assert load(ROOT / name / "checkpoints/last.pt")["step"] == each["step"]
