"""The components of one's own in tests/examples, which the README shows, work."""

import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from gan_runner.reporting.commands import sweep_line, training_line
from gan_runner.reporting.stored_runs import read_run
from tests.helpers import SMALL, refusal, some
from tests.helpers.runs import metrics, rows

EXAMPLES = Path(__file__).parent / "examples"
OPTIONS = sorted(str(path.relative_to(EXAMPLES / "my_conf").with_suffix("")) for path in EXAMPLES.rglob("*.yaml"))
IMAGES = [word for word in SMALL if not word.startswith("metric=")]


def test_each_group_of_components_has_an_example():
    assert [option.partition("/")[0] for option in OPTIONS] == [
        "augmentation", "dataset", "features", "loss", "lr_schedule", "metric", "model", "optimizer",
    ]  # fmt: skip


@pytest.mark.parametrize("option", some(OPTIONS, every=2))
def test_an_example_trains(option, run_cli, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    group, _, name = option.partition("/")
    if group == "model":
        small = ["steps=3", "batch_size=8", "device=cpu", "metric=none", "log_every=1", "conditional=true"]
    elif group == "features":
        small = [*IMAGES, "metric=frechet", "metric.frechet.samples=40"]
    elif group == "metric":
        small = [*IMAGES, "metric.mean_gap.samples=40", "metric.mean_gap.real_samples=40"]
    else:
        small = SMALL
    words = [*small, "--config-dir", str(EXAMPLES / "my_conf"), "trust=[my_gan]", f"{group}={name}"]
    code, out, error = run_cli(*words, "hydra.run.dir=run")
    assert code == 0, error
    assert "warning" not in out
    assert len(metrics()) == 3
    config = yaml.safe_load(Path("run/.hydra/config.yaml").read_text())
    assert "my_gan" in str(config[group])
    if group == "metric":
        ((_, metric),) = rows("run/evaluations.jsonl")[0]["metrics"].items()
        assert metric["values"]["gap"] > metric["floor"]["values"]["gap"] > 0


def test_what_trains_such_a_run_again(run_cli, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    shutil.copytree(EXAMPLES / "my_conf", "conf of mine")
    words = [*SMALL, "trust=[my_gan]", "loss=least_squares", "seed=0,1", "sweep=s"]
    assert run_cli("-m", "--config-dir", "conf of mine", *words)[0] == 0
    best = Path("outputs/sweeps/s/seed-0")
    again, whole = str(training_line(read_run(best))), str(sweep_line(best.parent))
    assert again.startswith("gan-runner --config-dir 'conf of mine' model=mlp ")
    assert whole.startswith("gan-runner -m --config-dir 'conf of mine' ")
    assert run_cli(*shlex.split(again)[1:], "hydra.run.dir=run")[0] == 0
    assert metrics() == metrics(best)
    assert "gan-runner --config-dir 'conf of mine'" in refusal(run_cli("resume", str(best), "loss=bce"))
