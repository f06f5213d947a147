"""Sweeps: what they run, what they skip, and what survives a failure, a signal and a kill."""

import gc
import json
import os
import re
import signal
import time
import weakref
from pathlib import Path

import pytest
import torch
import yaml
from hydra.errors import MissingConfigException

from gan_runner.config.errors import ConfigError
from gan_runner.config.explain import explain
from gan_runner.config.keys import identity, tidy
from gan_runner.storage.status import run_status
from gan_runner.sweeps.jobs import name_jobs
from gan_runner.sweeps.sweep import PLAN, Job, Sweep, read_job
from tests.helpers import SMALL, naming, refusal, some
from tests.helpers.processes import cli, wait_for
from tests.helpers.runs import metrics, rows, summary

RING = [word for word in SMALL if not word.startswith(("sample_count", "checkpoint_every"))]
RING += ["dataset=ring", "checkpoint_every=null", "sample_every=null", "discriminator_steps=1"]
SWEEP = ["-m", *RING, "sweep=s"]
ROOT = Path("outputs/sweeps/s")
WEIGHT = "regularizer.gradient_penalty.weight"


def done(root=ROOT):
    """What is recorded of the jobs."""
    return rows(root / "sweep.jsonl")


def jobs(root=ROOT):
    return sorted(path.parent.name for path in root.glob("*/summary.json"))


# --- the jobs of a line


@pytest.mark.usefixtures("report")
def test_every_combination_runs_as_it_would_alone(run_cli):
    """Its numbers too: nothing of one job is left for the next."""
    words = [*SWEEP, f"{WEIGHT}=0.1,1e1", "seed=range(2)", "deterministic=true,false"]
    code, out, error = run_cli(*words)
    assert code == 0, error
    assert jobs() == sorted(
        f"weight-{w}_seed-{s}_deterministic-{d}" for w in ("0.1", "10") for s in (0, 1) for d in ("true", "false")
    )
    assert [row["status"] for row in done()] == ["completed"] * 8
    assert "8 completed" in out  # the counts of a report
    assert (ROOT / "report.html").exists()
    path = ROOT / "weight-10_seed-1_deterministic-false"
    config = yaml.safe_load((path / ".hydra/config.yaml").read_text())
    assert (config["seed"], config["regularizer"]["gradient_penalty"]["weight"], config["sweep"]) == (1, 10, None)
    words = yaml.safe_load((path / ".hydra/overrides.yaml").read_text())
    assert run_cli(*words, "hydra.run.dir=alone")[0] == 0
    assert metrics(path) == metrics(Path("alone"))
    assert (path / ".hydra/config.yaml").read_text() == Path("alone/.hydra/config.yaml").read_text()
    assert not list(ROOT.rglob("*.png"))


@pytest.mark.slow
def test_options_presets_and_params_of_a_config(run_cli):
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /loss: hinge}]\n"
        "hydra: {sweeper: {params: {seed: '0,1', optimizer.lr: '1e-3,2e-3'}}}\n"
    )
    code, _, error = run_cli("--config-dir", "conf", *SWEEP, "experiment=mine", "seed=3", "batch_size=8,9")
    assert code == 0, error
    assert jobs() == [f"lr-{lr}_batch_size-{size}" for lr in ("0.001", "0.002") for size in (8, 9)]
    Path("conf/experiment/other.yaml").write_text("# @package _global_\ndefaults: [{override /loss: bce}]\n")
    code, _, error = run_cli(
        "--config-dir", "conf", "-m", *RING, "experiment=ring,other", "optimizer=glob(*prop)", "sweep=t", "metric=none",
        "steps=1",
    )  # fmt: skip
    assert code == 0, error
    assert jobs(Path("outputs/sweeps/t")) == ["experiment-other", "experiment-ring"]


def test_the_same_line_skips_and_more_values_extend(run_cli):
    assert run_cli(*SWEEP, f"{WEIGHT}=1,2")[0] == 0
    before = {name: (ROOT / name / "summary.json").read_bytes() for name in jobs()}
    code, out, error = run_cli(*SWEEP, f"{WEIGHT}=1.0,2,0.5", "log_every=2", "seed=0,1", "steps=3")
    assert code == 0, error
    assert "6 jobs, 2 of them done" in out
    assert jobs() == sorted([*before, "weight-0.5_seed-0", *(f"weight-{w}_seed-1" for w in ("0.5", "1", "2"))])
    assert all((ROOT / name / "summary.json").read_bytes() == content for name, content in before.items())
    assert len({row["name"] for row in rows(ROOT / PLAN)}) == 6


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (f"{WEIGHT}=1,2,3,4,oops", f"weight-oops {WEIGHT}=oops number"),
        ("loss=wgan_gp,hing", "loss-hing loss=hing 'hinge'"),
        ("sed=1,2", "sed-1 'sed' 'seed'"),
        ("model.discriminator.normalization=none,batch", "normalization-batch model.discriminator.normalization"),
        ("device=cpu,cuda", "device=cpu,cuda"),
        ("metric=sliced_wasserstein seed=1,2", "seed-1"),
        (f"{WEIGHT}=interval(0,1)", f"{WEIGHT} interval"),
        ("sweep=a/b seed=1,2", "sweep=a/b"),
        ("seed=range(0)", "seed=range(0)"),
        ("seed=1,2,1", "seed=1,2,1 twice"),
        (f"{WEIGHT}=1,2,1e0", f"{WEIGHT}=1 {WEIGHT}=1.0"),
        ("seed=1,2 hydra/launcher=pool device=cuda:9", "device=cuda:9"),
    ],
)
def test_a_refused_sweep_leaves_nothing(run_cli, line, named):
    refusal(run_cli(*SWEEP, *line.split()), *named.split())
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("steps=2 seed=0,1", "steps 3 2 sweep="),
        pytest.param("loss=hinge seed=0,1", "another sweep", marks=pytest.mark.slow),
        pytest.param(f"{WEIGHT}=5", None, marks=pytest.mark.slow),  # a weight among others
        pytest.param("optimizer.lr=1e-4,1e-3", None, marks=pytest.mark.slow),  # another axis
        pytest.param(f"{WEIGHT}=1,2 log_every=2", None, marks=pytest.mark.slow),
    ],
)
def test_other_settings_are_another_sweep(run_cli, monkeypatch, line, named):
    from gan_runner.sweeps import grid

    monkeypatch.setattr(grid, "run_jobs", lambda *_, **__: None)
    assert run_cli(*SWEEP, f"{WEIGHT}=1,2")[0] == 0
    before = (ROOT / PLAN).read_bytes()
    outcome = run_cli(*SWEEP, *line.split())
    if named:
        refusal(outcome, *named.split())
        assert (ROOT / PLAN).read_bytes() == before
    else:
        assert outcome[0] == 0, outcome[2]


def test_a_plan_that_was_not_written_to_its_end(run_cli):
    assert run_cli(*SWEEP, "seed=0,1")[0] == 0
    whole = (ROOT / PLAN).read_text()
    (ROOT / PLAN).write_text(whole + whole[:30])
    assert run_cli(*SWEEP, "seed=0,1,2")[0] == 0
    assert [row["name"] for row in rows(ROOT / PLAN)] == [
        "seed-0",
        "seed-1",
        "seed-2",
    ]


def test_a_directory_that_is_no_sweep_is_left_alone(run_cli):
    ROOT.mkdir(parents=True)
    (ROOT / "thesis.txt").write_text("")
    refusal(run_cli(*SWEEP, "seed=1,2"), str(ROOT), "sweep")
    assert [path.name for path in ROOT.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("launcher", some([["hydra/launcher=batched"], []], every=2), ids=["batched", "one_by_one"])
def test_no_network_outlives_its_job(run_cli, monkeypatch, launcher):
    """Even without the collector of garbage: on a GPU the next job has the memory at once."""
    from gan_runner.training.build import Builder

    made: list[weakref.ref] = []
    alive: list[int] = []
    make = Builder.network

    def remember(self, name):
        alive.append(sum(ref() is not None for ref in made))
        network = make(self, name)
        made.append(weakref.ref(network))
        return network

    monkeypatch.setattr(Builder, "network", remember)
    words = [*SWEEP, *launcher, "seed=1,2,3,4", *(["hydra.launcher.max_group=2"] if launcher else [])]
    gc.disable()
    try:
        code, _, error = run_cli(*words)
    finally:
        gc.enable()
    assert code == 0, error
    assert sum(ref() is not None for ref in made) == 0
    assert max(alive) < (10 if launcher else 2), alive


# --- what goes wrong


def test_failures_are_recorded_and_the_others_go_on(run_cli, monkeypatch):
    from gan_runner.games.adversarial import Adversarial

    step, networks = Adversarial.take_turns, []

    def fail(self, number, batches, **options):
        networks.append(weakref.ref(self.players["generator"].network))
        alive.append(sum(network() is not None for network in networks))
        if self.randomness.seed == 1:
            raise RuntimeError("the sky fell")
        if self.randomness.seed == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if self.randomness.seed == 3:
            with torch.no_grad():
                next(self.players["generator"].network.parameters()).fill_(torch.nan)
        return step(self, number, batches, **options)

    alive: list[int] = []
    monkeypatch.setattr(Adversarial, "take_turns", fail)
    words = [*SWEEP, "seed=range(5)", "steps=1", "on_divergence=stop"]
    refusal(run_cli(*words), "2 completed, 1 diverged, 2 failed", "resume outputs/sweeps/s --retry-failed")
    found = {row["job"]: (row["status"], row["reason"]) for row in done()}
    assert found["seed-1"] == ("failed", "RuntimeError: the sky fell")
    assert found["seed-2"][0] == "failed"
    assert "out of memory" in found["seed-2"][1]
    assert found["seed-3"][0] == "diverged"
    assert "Traceback" in (ROOT / "seed-1/gan_runner.log").read_text()
    assert set(alive) == {1}  # of all networks so far only the present ones

    assert run_cli(*words)[0] == 1
    assert len(done()) == 5  # nothing was tried again
    monkeypatch.setattr(Adversarial, "take_turns", step)
    code, _, error = run_cli("resume", str(ROOT), "--retry-failed")
    assert code == 0, error
    assert {row["job"]: row["status"] for row in done()} == dict.fromkeys(jobs(), "completed")
    assert len(done()) == 8
    assert summary(ROOT / ".retried/seed-1-1")["reason"] == "RuntimeError: the sky fell"


def test_a_job_that_cannot_be_built(run_cli):
    outcome = run_cli(*SWEEP, "loss=hinge,wgan_gp", "model.discriminator.normalization=none,batch")
    refusal(outcome, "3 completed, 1 failed")
    failed = next(row for row in done() if row["status"] == "failed")
    assert "normalization=batch" in failed["reason"]
    assert run_status(ROOT / failed["job"]) == "failed"


def test_an_interrupted_sweep_goes_on(run_cli, monkeypatch):
    from gan_runner.training.log import RunLog

    advance, seen = RunLog.advance, []

    def interrupt(self, step):
        seen.append(step)
        if len(seen) == 5:
            os.kill(os.getpid(), signal.SIGINT)
        advance(self, step)

    monkeypatch.setattr(RunLog, "advance", interrupt)
    words = [*SWEEP, "seed=range(3)"]
    code, _, error = run_cli(*words)
    assert code == 130
    assert "gan-runner resume outputs/sweeps/s" in error
    assert [(row["job"], row["status"], row["step"]) for row in done()] == [
        ("seed-0", "completed", 3),
        ("seed-1", "interrupted", 2),
    ]
    assert not (ROOT / "seed-2").exists()
    code, _, error = run_cli("resume", str(ROOT))
    assert code == 0, error
    assert seen == [1, 2, 3, 1, 2, 3, 1, 2, 3]  # seed-1 from its checkpoint
    assert run_cli(*SWEEP[:1], *RING, "seed=1", "sweep=u")[0] == 0
    assert metrics(ROOT / "seed-1") == metrics(Path("outputs/sweeps/u/run"))
    assert "another run" not in run_cli("resume", str(ROOT / "seed-1"))[2]
    refusal(run_cli("resume", str(ROOT), "steps=5"), "sweep")


def test_a_sweep_that_another_machine_left_running(run_cli):
    words = [*SWEEP, "seed=0,1"]
    assert run_cli(*words)[0] == 0
    path = ROOT / "seed-1/summary.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"status": "running", "host": "node-7"}))
    code, _, error = run_cli("resume", str(ROOT))
    assert code == 1
    assert "1 completed, 1 running; " in error
    assert "--take-over" in error
    assert run_cli("resume", str(ROOT), "--take-over")[0] == 0
    assert {run_status(ROOT / name) for name in ("seed-0", "seed-1")} == {"completed"}


def test_a_job_whose_checkpoints_are_damaged_starts_anew(run_cli):
    assert run_cli(*SWEEP, "seed=0,1")[0] == 0
    path = ROOT / "seed-0"
    before = metrics(path)
    told = summary(path)
    (path / "summary.json").write_text(json.dumps(told | {"status": "interrupted", "reason": "SIGTERM", "step": 2}))
    for name in ("last.pt", "previous.pt"):
        (path / "checkpoints" / name).write_bytes(b"damaged")
    code, out, error = run_cli("resume", str(ROOT))
    assert code == 0, error
    assert re.search(r"seed-0 .*\.retried", out)
    assert metrics(path) == before
    assert (ROOT / ".retried/seed-0-1/checkpoints/last.pt").read_bytes() == b"damaged"


def test_an_edit_of_conf_changes_nothing(run_cli, monkeypatch):
    from gan_runner.training.log import RunLog

    Path("conf/experiment").mkdir(parents=True)
    preset = Path("conf/experiment/mine.yaml")
    preset.write_text("# @package _global_\nsteps: 2\n")
    monkeypatch.setattr(RunLog, "advance", lambda self, step: preset.write_text("# @package _global_\nsteps: 4\n"))
    words = [
        "--config-dir",
        "conf",
        *(word for word in SWEEP if not word.startswith("steps")),
        "experiment=mine",
        "seed=0,1",
    ]
    assert run_cli(*words)[0] == 0
    assert [row["step"] for row in done()] == [2, 2]


def test_one_process_drives_a_sweep(run_cli):
    assert run_cli(*SWEEP, "seed=0,1")[0] == 0
    with Sweep(ROOT):
        refusal(run_cli("resume", str(ROOT)), "process", "sweep")


def test_a_received_plan_leads_nowhere(run_cli):
    assert run_cli(*SWEEP, "seed=0,1")[0] == 0
    lines = (ROOT / PLAN).read_text().replace('"name": "seed-1"', '"name": "../../../x"')
    (ROOT / PLAN).write_text(lines)
    refusal(run_cli("resume", str(ROOT)), "../../../x")
    job = Job("a", identity({}), [], {}, "", [])
    assert read_job(json.dumps(job._asdict())) == job
    with pytest.raises(ValueError, match="is no dict"):
        read_job(json.dumps(job._asdict() | {"config": []}))


def test_a_row_behind_a_broken_one():
    with Sweep(ROOT) as sweep:
        sweep.record({"job": "a", "status": "completed"})
        with (ROOT / "sweep.jsonl").open("a") as file:
            file.write('{"job": "b", "sta')
        sweep.record({"job": "c", "status": "failed"})
        sweep.record({"job": "a", "status": "failed"})
        assert sweep.rows() == [{"job": "a", "status": "failed"}, {"job": "c", "status": "failed"}]


# --- names


def test_names():
    def line(*each):
        return name_jobs([list(words) for words in each])

    assert line(["a.b=1e-1", "s=1"], ["a.b=0.10", "s=2"], ["a.b=2", "s=1"]) == ["b-0.1_s-1", "b-0.1_s-2", "b-2_s-1"]
    assert line(["a.lr=1", "b.lr=1"], ["a.lr=2", "b.lr=2"]) == ["a.lr-1_b.lr-1", "a.lr-2_b.lr-2"]
    assert line(["r=[r1,l1]"], ["r=/a/b c"]) == ["r-r1-l1", "r-a-b-c"]
    assert line(["x=1"]) == ["run"]
    assert max(len(name) for name in line(*([f"key{k}={'v' * 99}{n}" for k in range(30)] for n in range(2)))) <= 80
    assert [tidy(value) for value in ("20000", "1e-07", "0.30000000000000004", "null", "ü", "../..")] == [
        "20000", "1e-07", "0.3", "null", "", "..-..",
    ]  # fmt: skip


def test_no_two_jobs_of_one_name(run_cli):
    code, _, error = run_cli(*SWEEP, f"{WEIGHT}=0.12345678,0.12345679", "steps=1")
    assert code == 0, error
    assert len(jobs()) == 2


def test_identity():
    config = {"seed": 1, "lr": 0.5, "device": "cpu", "sweep": "x", "log_every": 3, "list": [1.0]}
    assert identity(config) == identity(
        config | {"device": "cuda", "seed": 1.0, "sweep": None, "log_every": 1, "list": [1]}
    )
    assert identity(config) != identity(config | {"lr": 0.25})
    assert identity(config | {"lr": True}) != identity(config | {"lr": 1})


@pytest.mark.slow
def test_a_thousand_jobs_are_planned_in_linear_time(run_cli, monkeypatch):
    from gan_runner.sweeps import grid

    monkeypatch.setattr(grid, "run_jobs", lambda *_, **__: None)
    times = []
    for count in (40, 160):
        start = time.process_time()
        assert run_cli("-m", *RING, f"sweep=n{count}", f"seed=range({count})")[0] == 0
        times.append(time.process_time() - start)
        assert len((Path(f"outputs/sweeps/n{count}") / PLAN).read_text().splitlines()) == count
    assert times[1] < 6 * times[0]


# --- processes


@pytest.mark.slow
def test_a_pool_of_processes(run_cli):
    """One is killed, Ctrl-C saves the rest, and the sweep goes on."""
    words = [*SWEEP, "seed=range(3)", "steps=1000000", "log_every=1", "checkpoint_every=5"]
    pool = ["hydra/launcher=pool", "hydra.launcher.processes=2", "hydra.launcher.threads=1"]
    process = cli(*words, *pool, start_new_session=True)
    for seed in (0, 1):
        wait_for(ROOT / f"seed-{seed}/checkpoints/previous.pt", process)
    told = summary(ROOT / "seed-0")
    assert told["threads"] == 1
    os.kill(told["pid"], signal.SIGKILL)
    wait_for(ROOT / "seed-2/checkpoints/last.pt", process)
    os.killpg(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "resume outputs/sweeps/s --processes 2" in error
    assert "Traceback" not in error
    found = {row["job"]: (row["status"], row["reason"]) for row in done()}
    assert found["seed-0"][0] == "killed"
    assert "SIGKILL" in found["seed-0"][1]
    assert {found[f"seed-{seed}"][0] for seed in (1, 2)} == {"interrupted"}
    assert "gan-runner 0" not in out  # the jobs are quiet
    assert run_status(ROOT / "seed-0") == "killed"


@pytest.mark.slow
def test_the_children_end_with_their_parent(run_cli):
    words = [*SWEEP, "seed=range(2)", "steps=1000000", "log_every=1", "checkpoint_every=5"]
    process = cli(*words, "hydra/launcher=pool", "hydra.launcher.processes=1", "hydra.launcher.threads=1")
    wait_for(ROOT / "seed-0/checkpoints/last.pt", process)
    process.kill()
    process.communicate()
    end = time.monotonic() + 60
    while run_status(ROOT / "seed-0") != "interrupted":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert not (ROOT / "seed-1").exists()


# --- TensorBoard


def test_the_hparams_tab(run_cli):
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    words = ["metric=wasserstein", "metric.wasserstein.samples=100"]
    code, _, error = run_cli(*SWEEP, f"{WEIGHT}=1,2", "regularizer=[],[l1]", *words)
    assert code == 0, error
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(ROOT))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(ROOT))
    context = backend_context.Context(TBContext(data_provider=provider))
    request = RequestContext()
    tags = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(
        request, "", True, tags, context.hparams_from_data_provider(request, "", 100)
    )
    assert {info.name for info in experiment.hparam_infos} >= {WEIGHT, "regularizer.l1.weight", "regularizer"}
    assert not [info.name for info in experiment.hparam_infos if "_target_" in info.name]
    assert "seed" not in {info.name for info in experiment.hparam_infos}
    assert [info.name.tag for info in experiment.metric_infos] == ["metric/wasserstein/distance"]
    ask = api_pb2.ListSessionGroupsRequest(
        experiment_name="", start_index=0, slice_size=10, aggregation_type=api_pb2.AGGREGATION_AVG,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN, api_pb2.STATUS_RUNNING],
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
    )  # fmt: skip
    groups = list_session_groups.Handler(request, context, "", ask).run().session_groups
    assert len(groups) == 4
    found = {row["job"]: row["metrics"]["metric/wasserstein/distance"] for row in done()}
    shown = {group.sessions[0].name: group.metric_values[0].value for group in groups}
    assert shown == pytest.approx(found, rel=1e-6)


def test_another_launcher_is_refused():
    from gan_runner.sweeps.grid import launch_of

    with pytest.raises(ConfigError, match=naming("basic", "pool", "batched", "local", "slurm")):
        launch_of(object())


def test_a_swept_preset_loses_no_axis(run_cli):
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults: [{override /loss: hinge}]\nhydra: {sweeper: {params: {seed: '0,1'}}}\n"
    )
    outcome = run_cli("--config-dir", "conf", *SWEEP, "experiment=mine,ring")
    refusal(outcome, "experiment=mine", "hydra.sweeper.params", "seed")


@pytest.mark.slow
def test_a_sweep_whose_reader_goes_away_can_go_on(run_cli):
    process = cli(*SWEEP, "seed=range(3)")
    wait_for(ROOT / "seed-0/summary.json", process)
    process.stdout.close()
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (1, "")
    assert (run_status(ROOT / "seed-0"), run_status(ROOT / "seed-2")) == ("completed", "new")
    assert run_cli("resume", str(ROOT))[0] == 0
    assert [row["status"] for row in done()] == ["completed"] * 3


def test_submitit_is_an_extra():
    error = MissingConfigException("Could not load 'hydra/launcher/submitit_slurm'.\nAvailable options: basic", "x")
    assert re.search(naming("hydra/launcher=slurm", "submitit", "gan-runner[cluster]"), explain(error, []))


@pytest.mark.parametrize("launcher", ["pool", "batched"])
def test_a_sweeper_of_hydras_own(run_cli, launcher):
    outcome = run_cli(*SWEEP, "seed=1,2", "hydra/sweeper=basic", f"hydra/launcher={launcher}")
    refusal(outcome, "hydra/launcher=", launcher, "hydra/sweeper=grid", "search")


def test_a_launcher_that_there_is_not(run_cli):
    refusal(run_cli(*SWEEP, "seed=1,2", "hydra/launcher=poool"), "hydra/launcher=poool", "'pool'")


@pytest.mark.parametrize(
    ("word", "named"),
    [
        ("nodes=x", "nodes=x Integer"),
        ("nodes=0", "nodes=0 whole number from 1"),
        ("tasks_per_node=2", "gpus_per_node=1"),
    ],
)
def test_sizes_of_a_job_that_cannot_be(run_cli, word, named):
    pytest.importorskip("submitit")
    words = [*SWEEP, "seed=1,2", "hydra/launcher=slurm", f"hydra.launcher.{word}"]
    refusal(run_cli(*words), "hydra.launcher", *named.split())
    assert not Path("outputs").exists()


@pytest.mark.slow
def test_submitit(run_cli):
    """A job that is preempted is saved, and goes on."""
    pytest.importorskip("submitit")
    words = [*SWEEP, "seed=range(2)", "steps=400", "log_every=1", "checkpoint_every=null"]
    process = cli(*words, "hydra/launcher=local")
    wait_for(ROOT / "seed-0/metrics.jsonl", process)
    time.sleep(1)
    os.kill(summary(ROOT / "seed-0")["pid"], signal.SIGUSR2)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    assert {row["status"] for row in done()} == {"completed"}
    assert len(summary(ROOT / "seed-0")["resumed"]) == 1
