"""hydra/sweeper=search: trials drawn by Optuna, each a job of a sweep."""

import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

optuna = pytest.importorskip("optuna")

from gan_runner.config.errors import ConfigError  # noqa: E402
from gan_runner.storage.status import run_status  # noqa: E402
from gan_runner.sweeps import search  # noqa: E402
from gan_runner.sweeps.jobs import Composer  # noqa: E402
from gan_runner.sweeps.launchers import Launch  # noqa: E402
from gan_runner.sweeps.search import SearchSettings, Space, all_values, distribution  # noqa: E402
from gan_runner.training.evaluation import Objective  # noqa: E402
from tests.helpers import refusal  # noqa: E402
from tests.helpers.runs import summary  # noqa: E402

RING = [
    "dataset=ring", "model=mlp", "model.generator.width=8", "model.discriminator.width=8", "model.latent_size=4",
    "loss=hinge", "batch_size=8", "sample_count=4", "device=cpu", "metric.modes.samples=50", "metric.modes.pairs=20",
    "steps=4", "log_every=2", "evaluate_every=2", "checkpoint_every=null", "sample_every=null",
]  # fmt: skip
LEARNING_RATE = "optimizer.lr=tag(log,interval(1e-4,1))"
TAG = "metric/modes/wasserstein"
STATES = optuna.trial.TrialState


def line(*words, trials, name="s"):
    return ["-m", "hydra/sweeper=search", f"sweep={name}", *RING, *words, f"hydra.sweeper.n_trials={trials}"]


def override(word):
    return OverridesParser.create().parse_override(word)


def space(*words, **changes):
    plain: dict[str, Any] = {
        "n_trials": 20,
        "sampler": "tpe",
        "seed": 0,
        "pruner": "none",
        "startup": 10,
        "batch": None,
    }
    overrides = [override(word) for word in words]
    return Space({each.get_key_element(): each for each in overrides}, SearchSettings(**plain | changes))


def trials(name="s"):
    storage = optuna.storages.RDBStorage(f"sqlite:///outputs/sweeps/{name}/search.db")
    found = optuna.load_study(study_name="search", storage=storage).get_trials()
    storage.remove_session()
    storage.engine.dispose()
    return found


def jobs(name="s"):
    return sorted(path.name for path in Path("outputs/sweeps", name).glob("trial-*"))


class Stub:
    """A launcher whose jobs take no time: a run's course is a function of its config."""

    def __init__(self, monkeypatch, course, *, at_once=1):
        self.course, self.batches, self.limits = course, [], []
        monkeypatch.setattr(search, "launch_of", lambda launcher: Launch(self, processes=at_once))
        monkeypatch.setattr(search, "print_sweep_report", lambda sweep: None)

    def __call__(self, sweep, jobs, trust, processes):
        self.batches.append([job.name for job in jobs])
        for job in jobs:
            self.limits.append(job.config["prune"])
            course = self.course(job.config)
            path = sweep.path(job)
            path.mkdir(exist_ok=True)
            if not isinstance(course, dict):
                summary = {"status": course, "reason": "of the stub", "step": 1}
            else:
                best = min(course.values())
                summary = {"status": "completed", "best": {"objective": TAG, "value": best, "step": 1}}
                records = ({"step": s, "metrics": {"modes": {"values": {"wasserstein": v}}}} for s, v in course.items())
                (path / "evaluations.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
            (path / "summary.json").write_text(json.dumps(summary))
            if course == "interrupted":
                raise SystemExit(143)


def bowl(config):
    """Best at a learning rate of 0.01."""
    return {0: 9.0, 2: 5.0, 4: (math.log10(config["optimizer"]["lr"]) + 2) ** 2}


# --- what is drawn ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=interval(1,8)", optuna.distributions.FloatDistribution(1.0, 8.0)),
        ("a=tag(log,interval(1e-4,1e2))", optuna.distributions.FloatDistribution(1e-4, 1e2, log=True)),
        ("a=int(interval(1,8))", optuna.distributions.IntDistribution(1, 8)),
        ("a=tag(log,int(interval(1,8)))", optuna.distributions.IntDistribution(1, 8, log=True)),
        ("a=range(1,8,3)", optuna.distributions.IntDistribution(1, 7, step=3)),
        ("a=range(3)", optuna.distributions.IntDistribution(0, 2)),
        ("a=range(0.5,2,0.5)", optuna.distributions.FloatDistribution(0.5, 1.5, step=0.5)),
        ("a=choice(1,x,[r1,l1])", optuna.distributions.CategoricalDistribution(["1", "x", "[r1,l1]"])),
        ("a=x,y", optuna.distributions.CategoricalDistribution(["x", "y"])),
    ],
)
def test_hydras_ranges(word, expected):
    assert distribution(override(word)) == expected


@pytest.mark.parametrize(
    "word", ["a=tag(log,interval(0,1))", "a=interval(2,1)", "a=range(1,1)", "a=tag(lg,interval(1,2))"]
)
def test_ranges_that_are_none(word):
    with pytest.raises(ConfigError, match="a="):
        distribution(override(word))


def test_all_values_of_a_range():
    assert all_values(distribution(override("a=range(0.5,2,0.5)"))) == [0.5, 1.0, 1.5]
    assert all_values(distribution(override("a=int(interval(1,3))"))) == [1, 2, 3]


def search_bowl(sampler, seed):
    """The best of 30 trials on a quadratic in the logarithms of two weights, and the mean of the second half."""
    words = [f"{key}=tag(log,interval(1e-4,1e4))" for key in "ab"]
    study, drawn = optuna.create_study(), space(*words, sampler=sampler, seed=seed)
    for _ in range(30):
        trial = drawn.draw(study)
        study.tell(trial, sum((math.log10(value) - 1.3) ** 2 for value in trial.params.values()))
    return study.best_value, statistics.mean(trial.value for trial in study.trials[15:])


def test_tpe_learns_and_random_does_not():
    learned, guessed = ([search_bowl(sampler, seed) for seed in range(3)] for sampler in ("tpe", "random"))
    assert sum(best for best, _ in learned) < 0.3 * sum(best for best, _ in guessed)
    assert sum(mean for _, mean in learned) < 0.8 * sum(mean for _, mean in guessed)


def test_a_trial_is_a_function_of_its_number():
    whole, begun = optuna.create_study(), optuna.create_study()
    drawn = space("a=interval(0,1)")
    for number in range(15):
        for study, its in ((whole, drawn), (begun, space("a=interval(0,1)"))):  # every time another process
            study.tell(its.draw(study), 1.0 / (number + 1))
    assert [trial.params for trial in whole.trials] == [trial.params for trial in begun.trials]
    assert len({trial.params["a"] for trial in whole.trials}) == 15


def test_the_grid_has_each_point_once():
    study, drawn = optuna.create_study(), space("a=range(3)", "b=x,y", "c=1", sampler="grid")
    assert drawn.total == 6
    points = {tuple(drawn.draw(study).params.values()) for _ in range(6)}
    assert points == {(a, b) for a in range(3) for b in "xy"}


# --- searches ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("report")
def test_a_search_and_going_on_with_it(run_cli):
    code, out, error = run_cli(*line(LEARNING_RATE, "model.generator.depth=int(interval(1,2))", trials=1))
    assert (code, error) == (0, "")
    assert "1 trials" in out
    assert "1 completed" in out
    first = jobs()
    assert [name[:13] for name in first] == ["trial-000_lr-"]
    written = {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("trial-*/*.json*")}

    code, out, error = run_cli(*line(LEARNING_RATE, "model.generator.depth=int(interval(1,2))", trials=2))
    assert (code, error) == (0, "")
    assert "2 trials, 1 of them done" in out
    assert jobs()[:1] == first
    assert len(jobs()) == 2
    assert all(path.stat().st_mtime_ns == time for path, time in written.items())
    found = trials()
    summaries = [summary(Path("outputs/sweeps/s", name)) for name in jobs()]
    assert [trial.value for trial in found] == [told["best"]["value"] for told in summaries]
    assert [trial.user_attrs["job"] for trial in found] == jobs()
    config = Path("outputs/sweeps/s", jobs()[1], ".hydra/overrides.yaml").read_text()
    assert f"optimizer.lr={found[1].params['optimizer.lr']}" in config
    assert '"history":' in Path("outputs/sweeps/s/report.html").read_text()

    outcome = run_cli(*line("optimizer.lr=interval(0,1)", trials=2))
    refusal(outcome, "another search", "optimizer.lr", "tag(log,interval(1e-4,1))", "interval(0,1)")


@pytest.mark.slow
def test_an_interrupted_trial_comes_first(run_cli, monkeypatch):
    whole = Stub(monkeypatch, bowl)
    assert run_cli(*line(LEARNING_RATE, trials=3, name="whole"))[0] == 0
    ends = iter([False, True, False, False])
    broken = Stub(monkeypatch, lambda config: "interrupted" if next(ends) else bowl(config))
    code, _, error = run_cli(*line(LEARNING_RATE, trials=3))
    assert code == 143
    assert "gan-runner -m hydra/sweeper=search sweep=s " in error
    assert " 'optimizer.lr=tag(log,interval(1e-4,1))' hydra.sweeper.n_trials=3" in error
    assert [trial.state for trial in trials()] == [STATES.COMPLETE, STATES.RUNNING]
    assert run_cli(*line(LEARNING_RATE, trials=3))[0] == 0
    assert broken.batches == [whole.batches[0], whole.batches[1], *whole.batches[1:]]
    assert jobs() == jobs("whole")
    assert [trial.value for trial in trials()] == [trial.value for trial in trials("whole")]


@pytest.mark.slow
def test_a_failed_trial_does_not_end_the_search(run_cli, monkeypatch):
    outcomes = iter(["failed", "diverged", {4: 1.0}, {4: 2.0}])
    stub = Stub(monkeypatch, lambda config: next(outcomes))
    code, out, _ = run_cli(*line(LEARNING_RATE, trials=3))
    assert code == 0
    assert "failed: of the stub" in out
    assert [trial.state for trial in trials()] == [STATES.FAIL, STATES.FAIL, STATES.COMPLETE]
    assert len(stub.batches) == 3
    assert run_cli(*line(LEARNING_RATE, trials=3))[0] == 0
    assert len(stub.batches) == 3
    outcomes = iter([{4: 1.0}, "failed"])
    code, out, _ = run_cli(*line(LEARNING_RATE, "retry_failed=true", trials=3))
    assert stub.batches[3:] == stub.batches[:2]
    assert [trial.state for trial in trials()[3:]] == [STATES.COMPLETE, STATES.FAIL]


def test_where_all_fail(run_cli, monkeypatch):
    Stub(monkeypatch, lambda config: "failed")
    refusal(run_cli(*line(LEARNING_RATE, trials=2)), "2 fail")


@pytest.mark.slow
def test_the_same_values_are_one_run_and_some_run_at_once(run_cli, monkeypatch):
    stub = Stub(monkeypatch, bowl, at_once=3)
    assert run_cli(*line("optimizer.lr=0.1,0.01", "hydra.sweeper.sampler=random", trials=4))[0] == 0
    assert sum(map(len, stub.batches)) == 2
    assert [trial.state for trial in trials()] == [STATES.COMPLETE] * 4
    stub = Stub(monkeypatch, bowl, at_once=3)
    assert run_cli(*line("hydra.sweeper.params={optimizer.lr:'interval(0.1,0.2)'}", trials=5, name="t"))[0] == 0
    assert [len(batch) for batch in stub.batches] == [3, 2]


@pytest.mark.slow
def test_options_that_do_not_go_together_fail_alone(run_cli, monkeypatch):
    class Strict(Composer):
        def compose(self, words):
            if {f"{key}={value}" for key, value in zip(axes, unlike, strict=True)} <= set(words):
                raise ConfigError("they do not go together")
            return super().compose(words)

    axes = {"optimizer.lr": ("0.1", "0.01"), "model.generator.depth": ("1", "2")}
    words = [f"{key}={','.join(both)}" for key, both in axes.items()]
    first = space(*words, sampler="grid").points[0]
    unlike = [next(value for value in both if value not in first) for both in axes.values()]
    stub = Stub(monkeypatch, bowl)
    monkeypatch.setattr(search, "Composer", Strict)
    code, out, _ = run_cli(*line(*words, "hydra.sweeper.sampler=grid", trials=20))
    assert code == 0
    assert "failed: they do not go together" in out
    assert len(stub.batches) == 3
    assert sorted(trial.state.name for trial in trials()) == ["COMPLETE"] * 3 + ["FAIL"]


# --- pruning ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_limits_are_medians_of_the_complete(run_cli, monkeypatch):
    courses = iter([{0: 9.0, 2: 4.0, 4: 5.0}, {0: 9.0, 2: 2.0, 4: 1.0}, "failed", {0: 9.0, 2: 8.0, 4: 0.5}, {4: 1.0}])
    stub = Stub(monkeypatch, lambda config: next(courses))
    words = [LEARNING_RATE, "hydra.sweeper.pruner=median", "hydra.sweeper.startup=2"]
    assert run_cli(*line(*words, trials=5))[0] == 0
    assert stub.limits == [None, None, *[[[2, 3.0], [4, 2.5]]] * 2, [[2, 4.0], [4, 1.0]]]


def test_a_pruned_run(run_cli):
    code, out, error = run_cli(*RING, "prune=[[0,0],[2,0.001]]", "hydra.run.dir=run")
    assert (code, error) == (0, "")
    assert re.search("pruned .*2.*modes/wasserstein", out)
    told = summary()
    assert (told["status"], told["step"]) == ("interrupted", 2)
    assert re.search("pruned .*2.*modes/wasserstein", told["reason"])
    assert run_status(Path("run")) == "pruned"
    assert run_cli(*RING, "hydra.run.dir=whole")[0] == 0
    assert run_cli("resume", "run", "prune=null")[0] == 0
    gone_on, whole = (summary(path) for path in ("run", "whole"))
    assert gone_on["status"] == "completed"
    assert gone_on["best"] == whole["best"]


@pytest.mark.slow
def test_a_search_that_prunes(run_cli, monkeypatch):
    monkeypatch.setattr(search.Search, "limits", lambda self: [[2, 0.001]] if self.study.trials[1:] else None)
    monkeypatch.setattr(search, "print_sweep_report", lambda sweep: None)
    code, out, error = run_cli(*line(LEARNING_RATE, trials=2))
    assert (code, error) == (0, "")
    assert ", pruned\n" in out
    first, second = trials()
    assert (first.state, second.state) == (STATES.COMPLETE, STATES.PRUNED)
    assert second.value == second.intermediate_values[2]
    assert run_cli(*line(LEARNING_RATE, trials=2))[0] == 0
    assert summary(Path("outputs/sweeps/s", jobs()[1]))["step"] == 2


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("optimizer.lrr=interval(0,1)", "'optimizer.lrr' 'optimizer.lr'"),
        ("optimizer.lr=interval(-1,-0.5)", "optimizer.lr=-0."),
        ("loss=choice(hinge,wgn)", "loss=wgn 'wgan'"),
        ("seed=3", "search"),
        ("device=choice(cpu,auto)", "device"),
        ("optimizer.lr=interval(1e-4,1) hydra.sweeper.sampler=grid", "hydra.sweeper.sampler=grid interval"),
        ("optimizer.lr=interval(1e-4,1) hydra.sweeper.sampler=gp", "hydra.sweeper.sampler=gp"),
        ("optimizer.lr=interval(1e-4,1) objective=mode", "objective=mode"),
    ],
)
def test_a_mistake_is_found_before_the_first_trial(run_cli, words, named):
    outcome = run_cli(*line(*words.split(), trials=2))
    refusal(outcome, *named.split())
    assert "trial-000" not in outcome[1]
    assert not Path("outputs").exists()


def test_without_a_metric(run_cli):
    words = [word for word in RING if not word.startswith("metric.")]
    refusal(run_cli("-m", "hydra/sweeper=search", *words, LEARNING_RATE, "metric=none"), "search", "metric")
    assert not Path("outputs").exists()


def test_a_sweep_that_is_no_search(run_cli, monkeypatch):
    Path("outputs/sweeps/s").mkdir(parents=True)
    job = {"name": "a", "identity": "a", "overrides": [], "config": {}, "title": "", "notes": []}
    Path("outputs/sweeps/s/jobs.jsonl").write_text(json.dumps(job) + "\n")
    refusal(run_cli(*line(LEARNING_RATE, trials=2)), "outputs/sweeps/s", "no search")


def test_a_search_that_counted_other_keys_goes_on(tmp_path):
    """Version 0.1 took sample_count for what makes a search another one."""
    path, objective = tmp_path / "search.db", Objective(TAG, False)
    with search.open_study(path, objective, {"steps": "3"}) as study:
        study.set_user_attr("line", {"steps": "3", "sample_count": "9", "objective": TAG})
    with search.open_study(path, objective, {"steps": "3"}):
        pass
    with (
        pytest.raises(ConfigError, match=r"another search: steps was 3 and is to be 4; choose"),
        search.open_study(path, objective, {"steps": "4"}),
    ):
        pass


def test_a_damaged_study(run_cli, monkeypatch):
    Path("outputs/sweeps/s").mkdir(parents=True)
    Path("outputs/sweeps/s/jobs.jsonl").touch()
    Path("outputs/sweeps/s/search.db").write_bytes(b"no database" * 100)
    refusal(run_cli(*line(LEARNING_RATE, trials=2)), "search.db")


def test_without_optuna(run_cli, monkeypatch):
    monkeypatch.delitem(sys.modules, "gan_runner.sweeps.search")
    monkeypatch.setitem(sys.modules, "optuna", None)
    refusal(run_cli(*line(LEARNING_RATE, trials=2)), "gan-runner[search]")


def test_the_command_line_starts_without_optuna():
    program = (
        "import sys; sys.argv[1:] = ['hydra/sweeper=search', '--cfg', 'hydra'];"
        "from gan_runner.cli.main import main; main(); assert not {'optuna', 'sqlalchemy', 'torch'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, stdout=subprocess.DEVNULL).returncode == 0
