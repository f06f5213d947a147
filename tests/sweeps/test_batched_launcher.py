"""Sweeps trained as one program: every job equals its separate run, whatever becomes of the others."""

import copy
import json
import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from gan_runner.games.game import Game
from gan_runner.games.stacked_game import StackedGame, difference, why_not_stackable
from gan_runner.runs.build import build, load_data
from gan_runner.storage.checkpoint import load
from gan_runner.storage.status import run_status
from gan_runner.sweeps.batched_launcher import chunks, own_bytes, structure
from gan_runner.sweeps.sweep import DataCache, Job
from tests.conftest import TINY, TINY_MODEL, compose, options
from tests.readme import README
from tests.sweeps.test_sweep import cli, wait_for

GROUPS = ("model", "loss", "regularizer", "augmentation", "optimizer", "lr_schedule")
VAE = [
    "model=vae", "loss=elbo", "dataset.normalization=unit", "model.autoencoder.encoder_width=[8]",
    "model.autoencoder.decoder_width=[8]",
]  # fmt: skip
SMALL = {
    "resnet": [key.replace("depth=2", "depth=1") for key in TINY_MODEL],
    "dense_deconv": ["model.generator.width=4", "model.generator.dense=[8]", "model.discriminator.width=4"],
}
MLP = ["model=mlp", *TINY_MODEL]
ON_THE_GENERATOR = "regularizer@regularizer=[l1]"


def words_of(group: str, option: str) -> list[str]:
    """The words of a small job with an option."""
    if option in ("elbo", "vae"):
        return VAE
    if group == "model":
        return [f"model={option}", "loss=bce", *SMALL.get(option, TINY_MODEL)]
    loss = [] if group == "loss" else ["loss=bce"]
    return [f"{group}={option}", *loss, *MLP]


def variants(*words: str) -> list[dict[str, Any]]:
    """Configs that differ in all that jobs of one structure may: seeds, weights, rates, the numbers of schedules."""
    steps = [] if "model=vae" in words else ["discriminator_steps=2"]
    tiny = TINY if "dataset=ring" not in words else [word for word in TINY if "held_out" not in word]
    first = compose(*tiny, *steps, *words)
    configs = [copy.deepcopy(first) for _ in range(3)]
    for number, config in enumerate(configs):
        config["seed"] = (0, 1, 1)[number]
        config["optimizer"]["lr"] *= (1, 1, 1.5)[number]
        for node in (config.get("regularizer") or {}).values():
            if node.get("role", "penalty") == "penalty":
                node["weight"] *= number + 1
        if "end" in config["lr_schedule"]:
            config["lr_schedule"] |= {"end": 0.1 * (number + 1), "steps": 40 + number}
    assert len({structure(config) for config in configs}) == 1
    return configs


def games_of(configs: list[dict[str, Any]]) -> list[Game]:
    data = DataCache(lambda node: load_data(node, []))
    return [build(config, [], data.of(config)).game for config in configs]


def tensors(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors of nested dicts, and the numbers, by their paths; mean squares by their roots, as means."""
    if isinstance(state, dict):
        return {key: value for name, part in state.items() for key, value in tensors(part, f"{path}/{name}").items()}
    if isinstance(state, list | tuple):
        return tensors(dict(enumerate(state)), path)
    if isinstance(state, torch.Tensor | int | float) and "fused" not in path:
        value = torch.as_tensor(state, dtype=torch.float64)
        return {path: value.sqrt() if path.endswith(("exp_avg_sq", "square_avg")) else value}
    return {}


def kind(path: str) -> str:
    """What a tensor's entries are compared with: the whole network's, the same memory of a whole optimizer."""
    _, player, part, *rest = path.split("/")
    return f"{player}/{part}/{rest[-1]}" if part in ("optimizer", "terms") else player


def idle_weights(game: Game) -> list[str]:
    """The paths of weights whose gradient is rounding, and what goes with them."""
    found = []
    for name, player in game.players.items():
        norm = player.gradient_norm()
        for number, (weight_name, weight) in enumerate(player.network.named_parameters()):
            assert weight.grad is not None
            if weight.grad.abs().max() < 1e-6 * norm:
                found += [f"/{name}/network/{weight_name}", f"/{name}/optimizer/state/{number}/"]
                found += [f"/moving_average/{weight_name}"] if player.network is game.sampler else []
    return found


def largest_difference(configs: list[dict[str, Any]], steps: int) -> tuple[float, str]:
    """Between jobs trained together and alone, of all that a checkpoint holds; where.

    Relative to the largest entry of the whole network, and of one kind of an optimizer's memory; without weights that
    have no gradient but rounding, of which Adam makes steps: biases before a normalization that takes out the mean.
    """
    alone, single = games_of(configs), games_of(configs)
    together = StackedGame(single)
    for step in range(steps):
        together.step(step)
        for game in alone:
            game.step(step)
    together.show()
    found = []
    for one, other in zip(alone, single, strict=True):
        expected, got = tensors(one.state_dict()), tensors(other.state_dict())
        assert expected.keys() == got.keys()
        scales: dict[str, float] = {}
        for key, value in expected.items():
            if value.numel():
                scales[kind(key)] = max(scales.get(kind(key), 1e-6), float(value.abs().max()))
        idle = idle_weights(one)
        found += [
            (float((got[key] - value).abs().max()) / scales[kind(key)], key)
            for key, value in expected.items()
            if not any(key.startswith(prefix) for prefix in idle)
        ]
        for tag, logged in one.statistics().items():
            if tag.startswith(("loss", "penalty", "gradient_norm", "weight", "learning_rate", "state", "logits/real")):
                scale = max(abs(float(logged)), 1e-6)
                found.append((abs(float(other.statistics()[tag]) - float(logged)) / scale, tag))
    assert all(math.isfinite(error) for error, _ in found), found
    return max(found)


@pytest.fixture
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


FALLS_BACK = {("model", "dense_deconv"), ("optimizer", "finite_difference")}
EVERY = [(group, option) for group in GROUPS for option in options(group)]
MORE = [
    ["model=dcgan", *TINY_MODEL, "conditional=true", "loss=hinge"],
    ["model=dcgan", *TINY_MODEL, "regularizer=[spectral_norm,r1]", "loss=hinge", "regularizer.r1.every=2"],
    [
        "model=dcgan",
        *TINY_MODEL,
        "model.discriminator.normalization=layer",
        "dataset.image_size=16",
        "model.discriminator.scales=2",
        # Without kinks: in float32, rounding puts a value on another piece of a ReLU within 50 steps of many a seed.
        "model.discriminator.activation=silu",
        "model.generator.activation=silu",
    ],
    ["model=dcgan", *TINY_MODEL, "model.discriminator.normalization=instance", "model.generator.normalization=none"],
    ["model=dcgan", *TINY_MODEL, "regularizer=feature_matching", "augmentation=diffaugment", "loss=bce"],
    ["model=resnet", *SMALL["resnet"], "conditional=true", "loss=hinge", "regularizer=orthogonal", "optimizer.lr=1e-4"],
    ["model=dense_deconv", *SMALL["dense_deconv"], "model.discriminator.dropout=0", "loss=lsgan"],
    [*MLP, "model.generator.normalization=batch", "model.discriminator.normalization=layer"],
    [*MLP, "conditional=true", "dataset.flip=true", "regularizer=[gradient_clip,l1]", "ema_half_life=null"],
    [*MLP, "model.generator.normalization=layer", "optimizer=subgradient", "optimizer.normalize=true"],
    [*MLP, "optimizer=sgd", "optimizer.momentum=0.9", "optimizer.weight_decay=0.1", "loss=hinge"],
    [*MLP, "optimizer=rmsprop", "optimizer.momentum=0.9", "optimizer@optimizer.generator=adamw"],
    [*MLP, "augmentation=input_noise", "lr_schedule@augmentation.input_noise.schedule=linear"],
    [*MLP, "loss=hinge", "regularizer=r1", "lr_schedule@regularizer.r1.schedule=cosine", "lr_schedule=step"],
    [*MLP, "dataset=ring"],
    [*VAE, "conditional=true", "regularizer=[output_l1]", "regularizer.output_l1.on=[autoencoder]"],
]


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize(("group", "option"), [pair for pair in EVERY if pair not in FALLS_BACK])
def test_every_option_in_double_precision(group, option):
    error, where = largest_difference(variants(*words_of(group, option)), steps=4)
    assert error < 1e-8, where


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("words", MORE, ids=" ".join)
def test_combinations_in_double_precision(words):
    error, where = largest_difference(variants(*words), steps=4)
    assert error < 1e-8, where


@pytest.mark.slow
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("words", [words_of(*pair) for pair in EVERY if pair not in FALLS_BACK] + MORE, ids=" ".join)
def test_fifty_steps(words, double):
    torch.set_default_dtype(torch.float64 if double else torch.float32)
    try:
        error, where = largest_difference(variants(*words), steps=50)
    finally:
        torch.set_default_dtype(torch.float32)
    assert error < (1e-8 if double else 1e-2), where


@pytest.mark.parametrize("words", [MLP, ["model=dcgan", *TINY_MODEL]], ids=" ".join)
def test_bfloat16(words):
    """The same to its rounding, which moves the gradient of so small a network by a sixth, alone as stacked."""
    configs = variants(*words, "loss=bce", "precision=bf16")
    alone, single = games_of(configs), games_of(configs)
    together = StackedGame(single)
    for step in range(5):
        together.step(step)
        for game in alone:
            game.step(step)
    together.show()
    for one, other in zip(alone, single, strict=True):
        for tag, limit in (
            ("loss/generator", 0.01),
            ("loss/discriminator", 0.01),
            ("gradient_norm/discriminator", 0.25),
        ):
            assert float(other.statistics()[tag]) == pytest.approx(float(one.statistics()[tag]), rel=limit)


def test_what_falls_back_is_what_the_readme_says():
    found = {
        (group, option) for group, option in EVERY if why_not_stackable(games_of(variants(*words_of(group, option)))[0])
    }
    (line,) = re.findall(r"One by one run (.*?)\.\n", README.read_text(), re.S)
    named = re.findall(r"`(\w+)=(\w+)`", line)
    assert found == FALLS_BACK == {(group, option) for group, option in named if group in GROUPS}


def test_a_penalty_that_mixes_the_runs_is_seen():
    configs = variants(*MLP, "loss=bce", "regularizer=l1")

    def unaware(view):
        return sum(parameter.abs().sum() for parameter in view.learner.parameters()).expand(view.real.shape[:-3])

    pair = [games_of(configs) for _ in range(2)]
    assert difference(pair[0], StackedGame(pair[1])) is None
    pair = [games_of(configs) for _ in range(2)]
    for game in [*pair[0], *pair[1]]:
        game.players["discriminator"].terms["l1"].of = unaware
    assert "stacked, l1 of the discriminator would be" in str(difference(pair[0], StackedGame(pair[1])))


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
    together.show()

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
SWEEP = ["-m", *RING, "hydra/launcher=batched", "sweep=s"]
ROOT = Path("outputs/sweeps/s")
WEIGHT = "regularizer.gradient_penalty.weight"
CLOCKS = ("seconds", "images_per_second")


def metrics(path):
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in found]


def statuses(root=ROOT):
    rows = [json.loads(line) for line in (root / "sweep.jsonl").read_text().splitlines()]
    return {row["job"]: row["status"] for row in rows}


def approximately(rows):
    return [pytest.approx(row, rel=1e-2, abs=1e-4) for row in rows]


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
        assert tensors(mine["game"]).keys() == tensors(its["game"]).keys()
        assert [type(x) for x in mine["game"]["generator"]] == [type(x) for x in its["game"]["generator"]]
        sizes = [(each / "checkpoints" / name).stat().st_size for each in (path, alone)]
        assert sizes[0] == pytest.approx(sizes[1], rel=0.05)
    summaries = [json.loads((each / "summary.json").read_text()) for each in (path, alone)]
    assert summaries[0].keys() == summaries[1].keys()
    assert run_cli("sample", str(path))[0] == 0
    for each in (path, alone):
        assert run_cli("resume", str(each), "steps=8")[0] == 0
    assert metrics(path) == approximately(metrics(alone))


def test_one_that_diverges_leaves_the_others_alone(run_cli):
    code, out, error = run_cli(*SWEEP, "optimizer.lr=1e-3,1e18,2e-3", "loss=bce")
    assert code == 1
    assert statuses() == {"lr-0.001": "completed", "lr-1e+18": "diverged", "lr-0.002": "completed"}
    assert "1 diverged" in error
    assert "lr-1e+18: diverged: step" in out
    reason = json.loads((ROOT / "lr-1e+18/summary.json").read_text())["reason"]
    for lr in ("1e-3", "1e18", "2e-3"):
        run_cli(*RING, "loss=bce", f"optimizer.lr={lr}", f"hydra.run.dir=alone/{lr}")
    assert json.loads(Path("alone/1e18/summary.json").read_text())["reason"] == reason
    for name, lr in (("lr-0.001", "1e-3"), ("lr-0.002", "2e-3")):
        assert metrics(ROOT / name) == approximately(metrics(Path("alone") / lr))


@pytest.mark.parametrize("during_evaluation", [False, True])
def test_an_interrupted_group_goes_on(run_cli, monkeypatch, during_evaluation):
    from gan_runner.runs.evaluation import Evaluator

    step, evaluate, seen = StackedGame.step, Evaluator.evaluate, []
    words = [f"{WEIGHT}=1,2,3", "metric=wasserstein", "metric.wasserstein.samples=20", "evaluate_every=4", "steps=7"]

    def interrupt(number):
        seen.append(number)
        if len(seen) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    if during_evaluation:
        monkeypatch.setattr(Evaluator, "evaluate", lambda self, *rest: (interrupt(0), evaluate(self, *rest))[1])
    else:
        monkeypatch.setattr(StackedGame, "step", lambda self, number: (interrupt(number), step(self, number))[1])
    code, _, error = run_cli(*SWEEP, *words)
    assert code == 130, error
    assert "resume outputs/sweeps/s --batched goes on" in error
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


def test_skipping_extending_and_retrying(run_cli, monkeypatch):
    from gan_runner.runs import recorder as report

    assert run_cli(*SWEEP, f"{WEIGHT}=1,2")[0] == 0
    before = {name: (ROOT / name / "summary.json").read_bytes() for name in statuses()}
    read = report.Report.read

    def fail(self, number):
        if self.settings.seed == 1 and number == 4:
            raise RuntimeError("the sky fell")
        return read(self, number)

    monkeypatch.setattr(report.Report, "read", fail)
    words = [*SWEEP, f"{WEIGHT}=1,2", "seed=0,1,2"]
    code, out, error = run_cli(*words)
    assert code == 1
    assert "6 jobs, 2 of them done" in out
    assert "4 jobs as one program" in out
    assert "4 completed, 2 failed" in error
    assert "Traceback" in (ROOT / "weight-1_seed-1/gan_runner.log").read_text()
    assert {name: (ROOT / name / "summary.json").read_bytes() for name in before} == before
    monkeypatch.setattr(report.Report, "read", read)
    code, out, error = run_cli(*words, "retry_failed=true")
    assert code == 0, error
    assert "2 jobs as one program" in out
    assert set(statuses().values()) == {"completed"}


def test_a_structural_sweep(run_cli):
    words = ["loss=hinge,bce", "batch_size=8,9", "seed=0,1", "optimizer=adam,finite_difference"]
    code, out, error = run_cli(*SWEEP, *words)
    assert code == 0, error
    assert out.count("2 jobs as one program") == 4
    name = "batch_size-8_loss-hinge_seed-0_optimizer-finite_difference"
    assert f"job {name}: one by one: the generator's optimizer, FiniteDifference, takes no stacked weights" in out
    assert len(statuses()) == 16
    code, out, error = run_cli(*SWEEP, "loss=lsgan,relativistic")
    assert code == 0, error
    assert out.count("one by one: no other job differs from it in numbers alone") == 2


def test_a_job_that_cannot_be_built(run_cli, monkeypatch):
    from gan_runner.sweeps import grid

    monkeypatch.setattr(grid, "check", lambda *_, **__: [])
    code, out, error = run_cli(*SWEEP, f"{WEIGHT}=-1,1,2")
    assert code == 1
    assert statuses() == {"weight--1": "failed", "weight-1": "completed", "weight-2": "completed"}
    assert "weight--1: failed: regularizer.gradient_penalty.weight=-1" in out
    assert "2 completed, 1 failed" in error


def test_too_little_memory_for_all(run_cli, monkeypatch):
    step = StackedGame.step

    def want(self, number):
        if len(self.games) > 3 and number == 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        step(self, number)

    monkeypatch.setattr(StackedGame, "step", want)
    code, out, error = run_cli(*SWEEP, "seed=range(5)")
    assert code == 0, error
    assert "5 runs together: out of memory; 3 at once from now on" in out
    assert set(statuses().values()) == {"completed"}
    assert run_cli(*RING, "seed=4", "hydra.run.dir=alone")[0] == 0
    assert metrics(ROOT / "seed-4") == approximately(metrics(Path("alone")))
    monkeypatch.setattr("gan_runner.sweeps.batched_launcher.free_bytes", lambda device: 0.0)
    code, out, error = run_cli(*SWEEP[:-1], "seed=range(2)", "sweep=t", "steps=1")
    assert code == 0, error
    assert out.count("one by one: there is no room for two") == 2


def test_what_fails_together_is_done_one_by_one(run_cli, monkeypatch):
    step = StackedGame.step

    def fail(self, number):
        if number == 4:
            raise RuntimeError("vmap: not that")
        step(self, number)

    monkeypatch.setattr(StackedGame, "step", fail)
    code, out, error = run_cli(*SWEEP, "seed=range(2)")
    assert code == 0, error
    assert "job seed-1: one by one: 2 runs together: RuntimeError: vmap: not that" in out
    assert len(json.loads((ROOT / "seed-0/summary.json").read_text())["resumed"]) == 1


def test_groups_are_bounded(run_cli):
    code, out, error = run_cli(*SWEEP, "seed=range(5)", "hydra.launcher.max_group=2", "steps=1", "deterministic=true")
    assert code == 0, error
    assert out.count("2 jobs as one program") + out.count("1 jobs as one program") == 2
    assert out.count("one by one: it is the last of many") == 1
    assert "hydra.launcher.max_group=0: must be" in run_cli(*SWEEP, "seed=0,1", "hydra.launcher.max_group=0")[2]


def test_a_search(run_cli):
    pytest.importorskip("optuna")
    words = ["hydra/sweeper=search", "hydra.sweeper.n_trials=6", "hydra.sweeper.batch=3", "hydra.sweeper.startup=2"]
    words += ["metric=wasserstein", "metric.wasserstein.samples=20", f"{WEIGHT}=tag(log,interval(0.1,10))"]
    code, out, error = run_cli(*SWEEP, *words, "hydra.sweeper.pruner=median", "evaluate_every=2")
    assert code == 0, error
    assert "3 jobs as one program" in out
    assert len(statuses()) == 6
    assert set(statuses().values()) <= {"completed", "pruned"}


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
    summaries = [json.loads((ROOT / name / "summary.json").read_text()) for name in statuses()]
    assert {summary["reason"] for summary in summaries} == {number.name}
    assert len({summary["step"] for summary in summaries}) == 1
    for name, summary in zip(statuses(), summaries, strict=True):
        assert load(ROOT / name / "checkpoints/last.pt")["step"] == summary["step"]
