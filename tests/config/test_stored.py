"""What version 0.1 stored goes on working, and a key that a stored config lacks means what it meant before it was."""

import copy
import inspect
import json
import shutil
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from gan_runner.config.check import load_settings
from gan_runner.config.compose import to_yaml
from gan_runner.config.instantiate import resolve
from gan_runner.config.keys import identity
from gan_runner.config.schema import GROUPS, Budget, Divergence, Monitor, Settings
from gan_runner.config.stored import (
    ADDED,
    ADDED_GROUPS,
    ADDED_TO_PENALTIES,
    DROPPED,
    MOVED,
    RENAMED_ROLES,
    translate_stored,
)
from gan_runner.games.term import Term
from gan_runner.reporting.settings import make_study
from gan_runner.reporting.stored_runs import find_runs, read_run
from gan_runner.storage.checkpoint import load
from gan_runner.sweeps.sweep import Sweep
from tests.helpers import CONF, SMALL, compose, options, some

VERSION_0_1 = yaml.safe_load((Path(__file__).parent / "version_0_1.yaml").read_text())
# Keys of a component that are not its own parameters, but those of its role, of its player or of its slot.
OF_THE_NODE = {"role", "on", "weight", "every", "start", "schedule", "scales", "pack", "generator", "discriminator"}


# --- stored as version 0.1 did ----------------------------------------------------------------------------------------


def as_version_0_1(config):
    """A config of the present version, as version 0.1 would have written it."""
    old_modules = {new: old for old, new in MOVED.items()}
    old_roles = {new: old for old, new in RENAMED_ROLES.items()}

    def old(node):
        if not isinstance(node, dict):
            return node
        made = {key: old(value) for key, value in node.items()}
        if "_target_" in made:
            module, _, name = made["_target_"].rpartition(".")
            target = made["_target_"] = f"{old_modules.get(module, module)}.{name}"
            had = {*VERSION_0_1["components"].get(target, made), "_target_", "schedule"}
            made = {key: value for key, value in made.items() if key in had}
        return made

    groups = {*GROUPS} - {*ADDED_GROUPS}
    made = {key: old(value) for key, value in config.items() if key in {*VERSION_0_1["top_level"], *groups}}
    for node in made["regularizer"].values():
        node["role"] = old_roles.get(node["role"], node["role"])
    return made


def store_as_version_0_1(run):
    """Rewrite the config of a run directory."""
    path = run / ".hydra" / "config.yaml"
    before = path.read_text()
    path.write_text(to_yaml(as_version_0_1(yaml.safe_load(before))))
    assert path.read_text() != before


def stopped_at_step_2(straight):
    """A copy of a run of 4 steps, `stored`, as if it had been interrupted when half of them were done."""
    stored = Path(shutil.copytree(straight, "stored"))
    checkpoints = stored / "checkpoints"
    (checkpoints / "previous.pt").rename(checkpoints / "last.pt")
    digest = (checkpoints / "previous.pt.sha256").read_text()
    (checkpoints / "previous.pt.sha256").unlink()
    (checkpoints / "last.pt.sha256").write_text(digest.replace("previous.pt", "last.pt"))
    assert load(checkpoints / "last.pt")["step"] == 2
    summary = json.loads((stored / "summary.json").read_text())
    (stored / "summary.json").write_text(json.dumps(summary | {"status": "interrupted", "step": 2}))
    return stored


def metrics(run):
    clocks = ("seconds", "images_per_second")
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key not in clocks} for row in found]


# The values that version 0.1 had where new runs have others, of keys that it did not know.
OLD = ["ema_ramp=null", "ema_statistics=0", "monitor.warm_up=0"]
RUN = [word for word in SMALL if not word.startswith(("steps", "metric", "checkpoint_every"))]
RUN += ["checkpoint_every=2", *OLD]
RUNS = [
    [
        "regularizer=[spectral_norm,gradient_clip,value_range,l1,lecam]", "regularizer.lecam.start=0",
        "dataset.held_out=0.1", "metric=frechet",
        "metric.frechet.samples=64", "features.steps=5", "lr_schedule@regularizer.l1.schedule=linear",
    ],
    ["model=vae", "loss=elbo", "dataset.normalization=unit", "metric=classes", "metric.classes.samples=64",
     "features.steps=5"],
]  # fmt: skip


@pytest.mark.parametrize("words", some(RUNS, every=2), ids=["terms", "vae"])
def test_a_run_of_version_0_1(run_cli, words):
    common = [word for word in RUN if "vae" not in words[0] or not word.startswith("model")] + words
    assert run_cli(*common, "steps=4", "evaluate_every=2", "hydra.run.dir=straight")[0] == 0
    stored = stopped_at_step_2(Path("straight"))
    store_as_version_0_1(stored)
    for verb in (["sample", "stored", "--count", "4"], ["evaluate", "stored"], ["report", "stored"]):
        code, _, error = run_cli(*verb)
        assert code == 0, error
    code, out, error = run_cli("resume", "stored", "workers=0")
    assert code == 0, error
    assert "resumed after step 2" in out
    assert metrics(stored) == metrics(Path("straight"))
    assert (
        load(stored / "checkpoints/last.pt")["game"].keys() == load(Path("straight/checkpoints/last.pt"))["game"].keys()
    )
    written = yaml.safe_load((stored / ".hydra/config.yaml").read_text())
    assert written == yaml.safe_load(Path("straight/.hydra/config.yaml").read_text()) | {"workers": 0}


RING = [
    "dataset=ring", "model=mlp", "batch_size=8", "model.latent_size=4", "steps=2", "device=cpu", "sample_every=null",
    "metric=modes", "metric.modes.samples=50", "metric.modes.pairs=50", "discriminator_steps=1",
    "regularizer=[spectral_norm,gradient_clip]", *OLD,
]  # fmt: skip
SWEEP = Path("outputs/sweeps/s")
WEIGHTS = "regularizer.gradient_penalty.weight=1,2"


def store_sweep_as_version_0_1(root):
    jobs = [json.loads(line) for line in (root / "jobs.jsonl").read_text().splitlines()]
    rows = [json.loads(line) for line in (root / "sweep.jsonl").read_text().splitlines()]
    for number, each in enumerate([*jobs, *rows]):
        each["words"] = each.pop("overrides")
        each["identity"] = f"{number % len(jobs):016x}"  # version 0.1 counted other keys
        if "config" in each:
            each["config"] = as_version_0_1(each["config"])
    (root / "jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))
    (root / "sweep.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for job in jobs:
        store_as_version_0_1(root / job["name"])


def test_a_sweep_of_version_0_1(run_cli):
    assert run_cli("-m", *RING, "sweep=s", WEIGHTS)[0] == 0
    store_sweep_as_version_0_1(SWEEP)
    summary = (SWEEP / "weight-1/summary.json").read_bytes()
    kept = metrics(SWEEP / "weight-2")
    shutil.rmtree(SWEEP / "weight-2")  # as if it had never begun
    code, out, error = run_cli("resume", str(SWEEP))
    assert code == 0, error
    assert "2 jobs, 1 of them done" in out
    assert metrics(SWEEP / "weight-2") == kept
    rows = [json.loads(line) for line in (SWEEP / "sweep.jsonl").read_text().splitlines()]
    assert [(row["job"], row["status"]) for row in rows] == [
        ("weight-1", "completed"), ("weight-2", "completed"), ("weight-2", "completed"),
    ]  # fmt: skip
    code, out, error = run_cli("-m", *RING, "sweep=s", WEIGHTS, "seed=0,1")
    assert code == 0, error
    assert "4 jobs, 2 of them done" in out
    assert (SWEEP / "weight-1/summary.json").read_bytes() == summary
    assert sorted(path.parent.name for path in SWEEP.glob("*/summary.json")) == [
        "weight-1", "weight-1_seed-1", "weight-2", "weight-2_seed-1",
    ]  # fmt: skip
    assert run_cli("report", str(SWEEP))[0] == 0
    settings = make_study([read_run(path) for path in find_runs(SWEEP)]).settings
    assert [len(setting.runs) for setting in settings] == [2, 2]  # a run of either version is one of the setting


@pytest.mark.slow
def test_a_plan_of_both_versions(run_cli):
    assert run_cli("-m", *RING, "sweep=s", WEIGHTS)[0] == 0
    new = Sweep(SWEEP).jobs()
    store_sweep_as_version_0_1(SWEEP)
    assert Sweep(SWEEP).jobs() == new


# --- the table --------------------------------------------------------------------------------------------------------


def test_all_that_version_0_1_named_is_there():
    for old, keys in VERSION_0_1["components"].items():
        target = translate_stored({"_target_": old})["_target_"]
        taken = {*inspect.signature(resolve(target, old, [])).parameters, *OF_THE_NODE, *DROPPED.get(target, ())}
        assert {*keys} <= taken, old
    assert {*VERSION_0_1["top_level"]} <= {each.name for each in fields(Settings)}


def test_keys_newer_than_version_0_1_are_in_the_table():
    """With their default in the signature, which is what they meant before."""
    old = {
        translate_stored({"_target_": name})["_target_"]: {*keys} for name, keys in VERSION_0_1["components"].items()
    }
    newer: dict[Any, dict[str, Any]] = {}

    def walk(node):
        if isinstance(node, dict):
            target = str(node.get("_target_"))
            of_others = set() if target.startswith("gan_runner.schedules.") else OF_THE_NODE
            if target in old and (names := {*node} - old[target] - of_others - {"_target_", "defaults"}):
                parameters = inspect.signature(resolve(target, "", [])).parameters
                newer.setdefault(target, {}).update({name: parameters[name].default for name in names})
            for inner in node.values():
                walk(inner)

    for group in GROUPS:
        for option in options(group):
            walk(yaml.safe_load((CONF / group / f"{option}.yaml").read_text()))
    assert newer == ADDED


def test_added_keys_make_no_other_job(monkeypatch):
    monkeypatch.setitem(ADDED, "gan_runner.regularizers.penalties.r1", {"new": 3.0})
    new = compose("regularizer=r1", *OLD)
    new["regularizer"]["r1"]["new"] = 3.0
    before = as_version_0_1(compose("regularizer=r1", *OLD))
    assert "new" not in before["regularizer"]["r1"]
    assert identity(translate_stored(before)) == identity(new)
    assert identity(translate_stored(before | {"seed": 1})) != identity(new)
    other = copy.deepcopy(new)
    other["regularizer"]["r1"]["new"] = 4.0
    assert identity(translate_stored(other)) != identity(new)


def test_a_penalty_that_was_stored_without_a_start_has_started():
    new = compose("regularizer=[lecam,r1]", "regularizer.lecam.start=0", *OLD)
    before = as_version_0_1(new)
    assert "start" not in before["regularizer"]["lecam"]
    assert identity(translate_stored(before)) == identity(new)
    own = {"_target_": "mine.penalties.drift", "role": "penalty"}  # of a package whose files may lack the key
    assert translate_stored({"regularizer": {"drift": own}})["regularizer"]["drift"] == own
    assert {"start": inspect.signature(Term).parameters["start"].default} == ADDED_TO_PENALTIES


def test_nested_words():
    old: dict[str, Any] = {
        "optimizer": {"_target_": "torch.optim.Adam", "discriminator": {
            "_target_": "gan_runner.optimizers.FiniteDifference", "chunk": 32, "lr": 1.0}},
        "regularizer": {
            "spectral_norm": {"_target_": "gan_runner.wrappers.spectral_norm", "role": "wrapper"},
            "mine": {"_target_": "mine.penalties.wrapper", "schedule": {"_target_": "gan_runner.schedules.linear"}},
        },
        "dataset": {"_target_": "gan_runner.datasets.stacked.stacked_mnist"},
        "model": {"role": "wrapper", "chunk": 1},
    }  # fmt: skip
    before = copy.deepcopy(old)
    found = translate_stored(old)
    assert old == before
    assert found["optimizer"]["discriminator"] == {"_target_": "gan_runner.optimizers.FiniteDifference", "lr": 1.0}
    assert found["regularizer"]["spectral_norm"] == {
        "_target_": "gan_runner.regularizers.spectral_norm.spectral_norm", "role": "parametrization",
    }  # fmt: skip
    mine = found["regularizer"]["mine"]
    assert mine == before["regularizer"]["mine"] | {"schedule": {"_target_": "gan_runner.schedules.linear", "start": 1}}
    assert found["dataset"] == {"_target_": "gan_runner.datasets.stacked_mnist.stacked_mnist", "dequantize": False}
    assert found["model"] == before["model"]


@pytest.mark.parametrize(
    "config",
    [
        {"regularizer": [1, 2], "loss": "x", "monitor": "none", "divergence": [3]},
        {"regularizer": {"a": None, "b": {"role": ["wrapper"]}}, "loss": {"_target_": 7}, "budget": None},
        {"optimizer": {"_target_": ""}, "model": {"_target_": "penalties"}},
    ],
)
def test_strange_configs_stay_as_they_are(config):
    assert {key: translate_stored(config)[key] for key in config} == config


def test_no_config_stays_none():
    assert translate_stored({}) == {}


# --- keys that a stored config lacks ----------------------------------------------------------------------------------


def test_what_each_missing_key_means():
    """What it meant before there was that key: nothing here may ever change."""
    always = {
        "seed": 1, "steps": 2, "epochs": None, "batch_size": 4, "discriminator_steps": 1, "ema_half_life": None,
        "device": "cpu", "precision": "fp32", "log_every": 1, "sample_every": None, "sample_count": 4,
        "checkpoint_every": None,
    }  # fmt: skip
    required = [each.name for each in fields(Settings) if each.default is each.default_factory is MISSING]
    assert sorted(required) == sorted(always)
    found = load_settings(always)
    assert {each.name: getattr(found, each.name) for each in fields(Settings)} == always | {
        "generator_batch_size": None, "init_from": None, "conditional": False, "deterministic": False,
        "evaluate_every": None, "objective": None, "on_divergence": "ignore", "tf32": True, "prune": None,
        "stream": False, "workers": 2, "capture": False, "devices": 1, "accumulate": 1,
        "name": None, "checkpoint_keep": None, "trust": [], "sweep": None, "retry_failed": False,
        "budget": Budget(), "monitor": Monitor(),
        "divergence": Divergence(), "ema_ramp": None, "ema_start": 0, "ema_statistics": 0,
            "ema_half_life_schedule": None,
    }  # fmt: skip
    assert Monitor() == Monitor(None, None, None, None, 0)
    assert Divergence() == Divergence(None, 0.0, None)
    assert Budget.policy == "error"
    partly = load_settings(always | {"monitor": {"diversity": 0.5}, "budget": {"generator": {"layers": 3}}})
    assert (partly.monitor, partly.budget.generator.layers) == (Monitor(diversity=0.5), 3)


def test_a_run_whose_config_lacks_keys_goes_on_as_it_would_have(run_cli):
    """The values that conf/ has for new runs are other ones."""
    words = [
        *RING, "log_every=1", "optimizer.lr=1e-3", "optimizer.betas=[0.9,0.999]", "lr_schedule=linear", "stream=false",
        "capture=false", "evaluate_every=1", "on_divergence=ignore", "divergence.dead_steps=null",
        "divergence.dead_gradient=0", "divergence.loss=null",
        *(f"monitor.{key}=null" for key, default in vars(Monitor()).items() if default is None),
    ]  # fmt: skip
    assert run_cli(*words, "steps=4", "checkpoint_every=2", "hydra.run.dir=straight")[0] == 0
    stored = stopped_at_step_2(Path("straight"))
    path = stored / ".hydra/config.yaml"
    config, lacking = yaml.safe_load(path.read_text()), []

    def strip(node, defaults, key):
        for name, default in defaults.items():
            if name in node and node[name] == default:
                del node[name]
                lacking.append(f"{key}{name}")

    strip(config, translate_stored({"batch_size": None}), "")
    strip(config["optimizer"], {"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}, "optimizer.")
    for name in ("spectral_norm", "gradient_penalty"):
        strip(config["regularizer"][name], {"on": ["discriminator"], "every": 1}, "r.")
    assert {"capture", "monitor", "divergence", "on_divergence", "optimizer.lr", "optimizer.betas"} <= {*lacking}
    path.write_text(to_yaml(config))
    code, out, error = run_cli("resume", "stored")
    assert code == 0, error
    assert "resumed after step 2" in out
    assert metrics(stored) == metrics(Path("straight"))
    assert run_cli("resume", "stored", "steps=5", "monitor.diversity=0.5", "capture=auto")[0] == 0  # known all the same
