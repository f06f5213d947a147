"""Where the log goes beside the run's directory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import SMALL, refusal, some
from tests.helpers.processes import cli
from tests.helpers.runs import metrics, rows

MINE = """
import json
from gan_runner.loggers import Logger

class Mine(Logger):
    name = "mine"

    def __init__(self, *, path: str):
        self.path = path

    def say(self, *what):
        with open(self.path, "a") as file:
            file.write(json.dumps(what) + "\\n")

    def open(self, directory, title, hyperparameters, config, run_id):
        self.say("open", title, dict(hyperparameters), config, run_id)
        return "id"

    def scalars(self, step, values):
        self.say("scalars", step, sorted(values))

    def image(self, step, tag, png):
        self.say("image", step, tag, len(png))

    def end(self, error):
        self.say("end", error and error.__name__)
"""


def make_mine(monkeypatch) -> list[str]:
    Path("mine_loggers.py").write_text(MINE)
    Path("conf/logger").mkdir(parents=True)
    lines = ["# @package logger.mine", "_target_: mine_loggers.Mine", "path: said.jsonl"]
    Path("conf/logger/mine.yaml").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(".")
    return ["--config-dir", "conf", "logger=mine", "trust=mine_loggers", *SMALL, "sample_every=3", "name=run"]


def test_a_logger_of_ones_own_gets_all_that_is_logged(run_cli, monkeypatch):
    code, _, error = run_cli(*make_mine(monkeypatch))
    assert code == 0, error
    said: Any = rows("said.jsonl")
    (_, title, hyperparameters, config, run_id), *between, end = said
    assert (title, hyperparameters["loss"], run_id, end) == ("run", "wgan_gp", None, ["end", None])
    assert config == Path("outputs/run/.hydra/config.yaml").read_text()
    logged = [[line["step"], len(line) - 1] for line in rows("outputs/run/metrics.jsonl")]
    assert [[step, len(tags)] for kind, step, tags, *_ in between if kind == "scalars"] == logged
    assert [each[:3] for each in between if each[0] == "image"] == [["image", 0, "real"], ["image", 3, "samples"]]
    code, _, error = run_cli("resume", "outputs/run", "steps=4", "trust=mine_loggers", "logger=mine")
    assert code == 0, error
    again: Any = rows("said.jsonl")[len(said) :]
    assert again[0][-1] == "id"
    assert [each[1] for each in again if each[0] == "scalars"] == [4]


def test_a_stored_logger_counts_only_where_it_is_named(run_cli, monkeypatch):
    """It writes outside of the directory, which may come from a stranger."""
    words = make_mine(monkeypatch)
    assert run_cli(*words)[0] == 0
    said = Path("said.jsonl").read_text()
    refusal(run_cli("resume", "outputs/run", "steps=4", "trust=mine_loggers"), "mine", "logger=none")
    refusal(run_cli("resume", "outputs/run", "steps=4", "logger=wandb"), "logger=wandb", "mine")
    code, _, error = run_cli("resume", "outputs/run", "steps=4", "logger=none")
    assert code == 0, error
    assert run_cli("sample", "outputs/run", "--count", "1")[0] == 0
    assert Path("said.jsonl").read_text() == said


@pytest.mark.slow
def test_a_sweep_that_goes_on(run_cli, monkeypatch):
    *words, _ = make_mine(monkeypatch)
    assert run_cli("-m", *words, "seed=0", "sweep=s")[0] == 0
    refusal(run_cli("resume", "outputs/sweeps/s", "trust=mine_loggers"), "mine", "logger=none")
    assert run_cli("resume", "outputs/sweeps/s", "trust=mine_loggers", "logger=mine")[0] == 0
    assert run_cli("resume", "outputs/sweeps/s", "logger=none")[0] == 0


def test_a_logger_hears_of_a_run_that_fails(run_cli, monkeypatch):
    words = make_mine(monkeypatch)
    code, _, error = run_cli(*words, "optimizer=sgd", "optimizer.lr=1e30", "steps=50")
    assert code == 1, error
    last: Any = rows("said.jsonl")[-1]
    assert last == ["end", "Diverged"]


def test_a_logger_changes_no_result(run_cli, monkeypatch):
    words = make_mine(monkeypatch)
    assert run_cli(*words)[0] == 0
    assert run_cli(*[word for word in words if not word.startswith("logger")], "name=plain")[0] == 0
    assert metrics("outputs/run") == metrics("outputs/plain")


@pytest.mark.parametrize("package", some(["wandb", "mlflow"], every=2))
def test_what_is_not_installed_is_said_before_the_run(package, run_cli, monkeypatch):
    monkeypatch.setattr("gan_runner.loggers.find_spec", lambda name: None)
    refusal(run_cli(*SMALL, f"logger={package}"), f"logger.{package}", f"pip install 'gan-runner[{package}]'")
    refusal(run_cli("-m", *SMALL, f"logger={package}", "seed=0,1"), f"pip install 'gan-runner[{package}]'")
    assert not Path("outputs").exists()
    assert package not in sys.modules


def test_weights_and_biases_offline():
    pytest.importorskip("wandb")
    words = [*SMALL, "sample_every=3", "name=run", "logger=wandb", "logger.wandb.mode=offline"]
    process = cli(*words)
    _, error = process.communicate(timeout=120)
    assert (process.returncode, error) == (0, "")
    (first,) = Path("outputs/wandb").glob("offline-run-*")
    assert list(first.glob("*.wandb"))
    assert len(list(first.rglob("media/images/*.png"))) == 2
    process = cli("resume", "outputs/run", "steps=4", "logger=wandb")
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    run_id = json.loads(Path("outputs/run/.loggers.json").read_text())["wandb"]
    assert [path.name.endswith(run_id) for path in Path("outputs/wandb").glob("offline-run-*")] == [True, True]


def test_mlflow_in_a_local_store():
    pytest.importorskip("mlflow")
    for words in (
        [*SMALL, "sample_every=3", "name=run", "logger=mlflow"],
        ["resume", "outputs/run", "steps=4", "logger=mlflow"],
    ):
        process = cli(*words)
        _, error = process.communicate(timeout=120)
        assert (process.returncode, error) == (0, "")
    script = (
        "import json; from mlflow import MlflowClient; c = MlflowClient('sqlite:///outputs/mlflow.db'); "
        "(run,) = c.search_runs([c.get_experiment_by_name('gan_runner').experiment_id]); "
        "print(json.dumps([run.info.run_name, run.info.status, run.data.params['loss'], len(run.data.params), "
        "[m.step for m in c.get_metric_history(run.info.run_id, 'loss/generator')], "
        "sorted(a.path for a in c.list_artifacts(run.info.run_id))]))"
    )
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    name, status, loss, params, steps, artifacts = json.loads(found.stdout.splitlines()[-1])
    assert (name, status, loss, steps) == ("run", "FINISHED", "wgan_gp", [1, 2, 3, 4])
    assert params > 90
    assert artifacts == ["config.yaml", "real", "samples"]
