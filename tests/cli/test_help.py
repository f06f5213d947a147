"""`gan-runner --help`: a line for everything, without what takes long to import."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from gan_runner.cli import parser
from gan_runner.cli.help import entries, find_options
from gan_runner.cli.main import VERBS
from gan_runner.config.explain import dotted_keys
from gan_runner.config.schema import GROUPS
from gan_runner.datasets.splits import Split
from gan_runner.training.exporters import FORMATS
from tests.helpers import CONF, compose, options, refusal


def test_the_page_has_every_option_and_every_key(run_cli):
    code, out, error = run_cli("--help")
    assert code == 0, error
    for group in (*GROUPS, "experiment", "hydra/launcher", "hydra/sweeper"):
        for option in options(group):
            assert f"\n  {option} " in out, (group, option)
    keys = list(dotted_keys(compose()))
    leaves = [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]
    unsaid = {key for key in leaves if f"  {key}=" not in out and not key.endswith(".role")}
    assert unsaid == {"optimizer.generator", "optimizer.discriminator", "loss", "head"}  # nodes without keys
    assert "  steps=2000 " in out


def test_settings_choose_the_keys_of_the_page(run_cli):
    out = run_cli("--help", "experiment=ring", "seed=1")[1]
    assert "metric.modes.samples=" in out
    assert "  optimizer.lr=2.0e-3 " in out
    out = run_cli("--help", "model=mlp", "regularizer=[r1,l1]", "dataset=ring")[1]
    for key in (
        "model.generator.width=256",
        "regularizer.l1.biases=false",
        "regularizer.r1.schedule=",
        "dataset.radius",
    ):
        assert f"  {key}" in out
    assert "model.generator.kernel" not in out


def test_every_key_in_conf_has_its_meaning_beside_it():
    files = {("", "config"): CONF / "config.yaml"} | find_options(None)
    mute = [
        (str(path.relative_to(CONF)), entry.key)
        for (group, _), path in files.items()
        for entry in entries(path, group)
        if group != "experiment" and not entry.meaning and not entry.key.startswith("optimizer.")
    ]
    assert not mute


TOPICS = {  # a word -> what the answer names
    "regularizer": ["gradient_penalty", "spectral_norm"],
    "loss": ["hinge", "wgan_gp"],
    "gradient_penalty": [
        "regularizer=gradient_penalty",
        "arXiv:1704.00028",
        "regularizer.gradient_penalty.weight=null",
    ],
    "regularizer=r1": ["regularizer.r1.weight=10.0", "gamma"],
    "mnist_sngan": ["experiment=mnist_sngan", "steps=20000"],
    "ring": ["dataset=ring", "experiment=ring"],
    "optimizer.lr": ["optimizer.lr=null", "5e-4", "optimizer.discriminator.lr="],
    "regularizer.lecam.decay": ["regularizer.lecam.decay=0.99"],
    "monitor": ["monitor.saturation=0.999"],
    "sample": ["--interpolate", "--config-dir"],
    "hydra/launcher": ["-m hydra/launcher=OPTION", "pool", "slurm"],
    "slurm": ["hydra/launcher=slurm", "hydra.launcher.timeout_min=720", "partition"],
    "search": ["hydra/sweeper=search", "hydra.sweeper.n_trials=20"],
    "modes/covered": ["metric=modes", "`covered`"],
    "lr": ["optimizer.lr=null"],
    "fid": ["metric=frechet features=inception"],
    "recall": ["metric=prdc"],
    "truncation": ["gan-runner sample DIR --truncation", "gan-runner evaluate DIR --truncation"],
    "head": ["Default: head=projection.", "conditional=true", "reacgan"],
    "directions": ["optimizer.directions="],  # of an option that is not chosen
}


@pytest.mark.parametrize("word", TOPICS)
def test_what_a_word_is(word, run_cli):
    code, out, error = run_cli("--help", word)
    assert code == 0, error
    assert not [name for name in TOPICS[word] if name not in out], out


def test_options_of_ones_own(run_cli):
    Path("mine/metric").mkdir(parents=True)
    Path("mine/metric/own.yaml").write_text("# @package metric.own\n# Measures it.\n_target_: x.Y\nsamples: 3  # few\n")
    out = run_cli("--help", "--config-dir", "mine", "own")[1]
    assert "Measures it." in out
    assert "metric.own.samples=3" in out
    refusal(run_cli("--help", "--config-dir"), "--config-dir")
    refusal(run_cli("--help", "gradient_penalti"), "gradient_penalti", "'gradient_penalty'")


@pytest.mark.parametrize("line", ["--help r1", "sample --help", "evaluate", "resume --bad x", "--version"])
def test_neither_torch_nor_numpy_is_imported(line):
    code = (
        f"import sys; sys.argv = ['gan-runner', *{line.split()}]\n"
        "from gan_runner.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "loaded = {'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HYDRA_FULL_ERROR"}
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("gan-runner sa", "sample"), ("gan-runner ev", "evaluate"), ("gan-runner sample run --int", "--interpolate")],
)
def test_completion_knows_the_verbs(typed, offered, run_cli, monkeypatch):
    monkeypatch.setenv("COMP_LINE", typed)
    code, out, _ = run_cli("-sc", "query=bash")
    assert code == 0
    assert offered in out.split()
    assert ("loss=" in out) == (typed.count(" ") == 1 and "loss=".startswith(typed.split(" ")[-1]))


def test_every_verb_is_on_the_page(run_cli):
    out = run_cli("--help")[1]
    assert not [verb for verb in VERBS if f"gan-runner {verb} " not in out]


def test_a_metric_of_ones_own_measures_an_old_run(run_cli, small_run, monkeypatch):
    Path("own_metrics.py").write_text(
        "from gan_runner.metrics.metric import Metric\n"
        "class Mean(Metric):\n"
        "    higher_is_better = {'mean': True}\n"
        "    def __init__(self, *, samples: int): self.samples = samples\n"
        "    def check(self, data, network): return []\n"
        "    def __call__(self, view): return {'mean': float(view.generated.float().mean())}\n"
    )
    monkeypatch.syspath_prepend(".")
    Path("my conf/metric").mkdir(parents=True)
    Path("my conf/metric/mean.yaml").write_text("# @package metric.mean\n_target_: own_metrics.Mean\nsamples: 9\n")
    words = ["evaluate", "run", "--config-dir", "my conf", "metric=mean", "metric.mean.samples=20"]
    refusal(run_cli(*words), "own_metrics", "trust=[own_metrics]")
    code, out, error = run_cli(*words, "trust=own_metrics")
    assert code == 0, error
    assert "mean.mean" in out
    refusal(run_cli("evaluate", "run", "--config-dir", "nowhere", "metric=mean"), "nowhere")


def test_what_the_parsers_say_without_torch_is_so():
    assert get_args(Split) == parser.SPLITS
    assert tuple(FORMATS) == parser.FORMATS
