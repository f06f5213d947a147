"""What each key is to a run: stated here once more, for every key of the schema and every parameter of a component."""

import copy
import inspect
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml

from gan_runner.config.check import load_settings
from gan_runner.config.instantiate import resolve
from gan_runner.config.keys import (
    describe_changes,
    find_key,
    hyperparameters,
    identity,
    label_words,
    shorten_keys,
    without_keys,
)
from gan_runner.config.schema import COMPONENT_KEYS, GROUPS, LIST_GROUPS, Settings
from gan_runner.games.term import Term
from gan_runner.training import build
from tests.helpers import CONF, compose, options

# identity: another value is another job of a sweep. change: it may be another when a run is resumed. differ: it may be
# another in each of the runs trained as one program. report: its values tell settings apart.
TOP_LEVEL = """
key                  identity  change  differ  report
seed                 yes       .       yes     .
steps                yes       yes     .       yes
epochs               yes       yes     .       yes
batch_size           yes       .       .       yes
generator_batch_size yes       .       .       yes
discriminator_steps  yes       .       .       yes
conditional          yes       .       .       yes
ema_half_life        yes       .       .       yes
ema_ramp             yes       .       .       yes
ema_start            yes       .       .       yes
ema_half_life_schedule yes     .       .       yes
ema_statistics       yes       yes     .       yes
init_from            yes       .       .       yes
budget               yes       .       .       yes
precision            yes       .       .       yes
tf32                 yes       .       .       yes
deterministic        yes       yes     .       yes
objective            yes       yes     .       yes
divergence           yes       yes     .       yes
on_divergence        yes       yes     .       yes
device               .         yes     .       .
stream               .         yes     .       .
workers              .         yes     .       .
capture              .         yes     .       .
monitor              .         yes     .       .
log_every            .         yes     .       .
sample_every         .         yes     .       .
accumulate           .         yes     .       .
devices              .         yes     .       .
sample_count         .         yes     .       .
evaluate_every       .         yes     .       .
checkpoint_every     .         yes     .       .
checkpoint_keep      .         yes     .       .
prune                .         yes     yes     .
name                 .         .       .       .
trust                .         yes     yes     .
sweep                .         yes     yes     .
retry_failed         .         yes     yes     .
"""
# All keys of components but loggers' are part of the identity and tell settings apart. These may change or differ.
MAY_CHANGE = {
    "dataset.root", "dataset.path", "dataset.download", "metric.*", "features.*", "*.schedule.steps",
    "lr_schedule.steps", "*.beta1_schedule.steps", "*.beta2_schedule.steps", "*.p_schedule.steps",
    "ema_half_life_schedule.steps",
}  # fmt: skip
OF_EXECUTION = {"logger.*"}
MAY_DIFFER = {
    "optimizer.lr", "optimizer.generator.lr", "optimizer.discriminator.lr", "regularizer.*.weight", "lr_schedule.end",
    "head.weight",
    "lr_schedule.gamma", "lr_schedule.steps", "lr_schedule.warmup", "lr_schedule.step_size", "*.schedule.end",
    "*.schedule.gamma", "*.schedule.steps", "*.schedule.warmup", "*.schedule.step_size", "*.schedule.start",
    "lr_schedule.start", *(f"*.p_schedule.{key}" for key in ("end", "gamma", "steps", "warmup", "step_size", "start")),
}  # fmt: skip


def answers(key):
    found = find_key(key)
    return found.is_identity, found.may_change, found.may_differ, found.tells_apart


def component_keys():
    """Every dotted key of a component in conf/, whether its file has it or only its signature, and of its slots."""
    own = {*inspect.signature(build.roles).parameters, *inspect.signature(Term).parameters} - {"of"}
    schedules = {
        name
        for option in options("lr_schedule")
        for name in list(inspect.signature(target_of("lr_schedule", option)).parameters)[1:]
    }
    for group in GROUPS:
        for option in options(group):
            for node, target in nodes_of(group, option):
                prefix = f"{group}.{option}" if group in LIST_GROUPS else node
                names = {*inspect.signature(target).parameters, "_target_"} - {"now"}  # the step is no key
                names |= own if group == "regularizer" else set()
                names |= {"weight", "schedule"} if group == "head" else set()
                yield from (f"{prefix}.{name}" for name in names)
                slots = ["schedule"] if group in ("regularizer", "augmentation", "head") else []
                slots += ["p_schedule"] if group == "augmentation" else []  # such as any number may have
                slots += ["beta1_schedule", "beta2_schedule"] if "betas" in inspect.signature(target).parameters else []
                yield from (f"{prefix}.{slot}.{name}" for slot in slots for name in {*schedules, "_target_"})
    yield from (f"ema_half_life_schedule.{name}" for name in schedules)
    yield from ("optimizer.discriminator.beta1_schedule.steps", "optimizer.generator.beta2_schedule.steps")
    yield from ("optimizer.generator.lr", "optimizer.discriminator.lr", "optimizer.generator._target_")


def nodes_of(group, option):
    """The components in a file of conf/: (dotted key, class or function)."""

    def walk(node, path):
        if isinstance(node, dict):
            if "_target_" in node:
                yield path, resolve(node["_target_"], path, [])
            for name, inner in node.items():
                yield from walk(inner, f"{path}.{name}")

    text = (CONF / group / f"{option}.yaml").read_text()
    yield from walk(yaml.safe_load(text), "" if "@package _global_" in text else group)


def target_of(group, option):
    return next(target for _, target in nodes_of(group, option))


def is_in(key, patterns):
    def fits(pattern):
        if pattern.startswith("*."):
            return key.endswith(pattern[1:])
        parts = pattern.split(".")
        names = key.split(".")
        if pattern.endswith(".*"):
            return names[0] == parts[0]
        return len(parts) == len(names) and all(part in ("*", name) for part, name in zip(parts, names, strict=True))

    return any(fits(pattern) for pattern in patterns)


def test_every_key_of_the_schema():
    _, *lines = TOP_LEVEL.strip().splitlines()
    table = {name: tuple(word == "yes" for word in words) for name, *words in map(str.split, lines)}
    assert {each.name: answers(each.name) for each in fields(Settings)} == table
    assert answers("monitor.saturation") == table["monitor"]
    assert answers("budget.generator.layers") == table["budget"]
    assert [each.name for each in fields(Settings) if find_key(each.name).is_of_sweep] == ["sweep", "retry_failed"]


def test_every_parameter_of_every_component():
    keys = set(component_keys())
    assert len(keys) > 300
    expected = {key: (True, is_in(key, MAY_CHANGE), is_in(key, MAY_DIFFER), True) for key in keys}
    expected |= {key: (False, True, False, False) for key in keys if is_in(key, OF_EXECUTION)}
    assert {key: answers(key) for key in keys} == expected
    used = {pattern for pattern in COMPONENT_KEYS if any(is_in(key, {pattern}) for key in keys)}
    assert used | {"metric", "features", "logger"} == {*COMPONENT_KEYS}, "of no component"


@pytest.mark.parametrize("key", ["mine", "loss.mine", "dataset.mine", "model.mine.lr", "optimizer.mine", "loss.root"])
def test_a_key_of_which_nothing_is_said(key):
    assert answers(key) == (True, False, False, True)


def test_what_is_no_identity_tells_no_settings_apart():
    """Or one job would be two settings. The seed alone is of the identity, and its values are repetitions."""
    odd = [each.name for each in fields(Settings) if find_key(each.name).is_identity != find_key(each.name).tells_apart]
    assert odd == ["seed"]


def test_the_marks_do_not_change_what_a_value_may_be():
    settings = load_settings(compose("monitor.saturation=null", "log_every=null", "prune=[[3,1.5]]"))
    assert (settings.monitor.saturation, settings.log_every, settings.prune) == (None, None, [(3, 1.5)])


def test_neither_torch_nor_numpy_is_imported():
    code = (
        "import sys; from gan_runner.config.keys import find_key; find_key('lr_schedule.steps'); "
        "assert not {'torch', 'numpy', 'hydra'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_identity():
    config = {"seed": 1, "lr": 0.5, "device": "cpu", "sweep": "x", "log_every": 3, "list": [1.0], "monitor": {"a": 1}}
    same = {"device": "cuda", "seed": 1.0, "sweep": None, "log_every": 1, "list": [1], "monitor": {"a": 2}}
    assert identity(config) == identity(config | same)
    assert identity(config) != identity(config | {"lr": 0.25})
    assert identity(config | {"lr": True}) != identity(config | {"lr": 1})


def test_keys_are_left_out_at_any_depth():
    config = {"a": {"b": 1, "c": {"d": 2, "e": None}}, "f": []}
    before = copy.deepcopy(config)
    assert without_keys(config, {"a.c.d", "f"}.__contains__) == {"a": {"b": 1, "c": {"e": None}}}
    assert without_keys(config, {"a.c"}.__contains__) == {"a": {"b": 1}, "f": []}
    assert config == before


def test_changes_for_people():
    assert describe_changes({"a": {"b": 1}}, {"a": {"b": 1}}, lambda key: False) == ""
    before, after = {"a": {"b": 1}, "c": 2}, {"a": {"b": None}, "c": 3}
    assert describe_changes(before, after, lambda key: key == "c") == "a.b was 1 and is to be null"


def test_a_label_of_words():
    words = ["loss=hinge", "+model.x=[1,2]", "device=cpu", "name=x", "optimizer.lr=0.10", "~loss", "seed=3"]
    assert label_words(words) == "loss-hinge_x-1-2_lr-0.1_seed-3"
    assert label_words(["device=cpu"]) == ""
    assert len(label_words([f"a{n}={n}" for n in range(100)])) <= 80


def test_hyperparameters_have_the_names_of_options():
    words = ["loss=wgan_gp", "regularizer=[r1,l1]", "optimizer@optimizer.discriminator=rmsprop", "metric=none"]
    options = {"loss": "wgan_gp", "model": "dcgan", "optimizer": "adam", "optimizer.discriminator": "rmsprop"}
    found = hyperparameters(compose(*words), options)
    assert not [key for key in found if "_target_" in key]
    assert found["loss"] == "wgan_gp"
    assert found["optimizer.discriminator"] == "rmsprop"
    assert found["regularizer"] == "gradient_penalty,r1,l1"
    assert found["metric"] == "none"
    assert found["dataset"] == "digits"  # the name of its function, as its option is not told
    assert found["regularizer.r1.weight"] == compose(*words)["regularizer"]["r1"]["weight"]


def test_short_names():
    keys = ["a.lr", "b.lr", "loss._target_", "optimizer@optimizer.generator", "+mine.x"]
    assert list(shorten_keys(keys).values()) == ["a.lr", "b.lr", "loss", "generator", "x"]
    assert shorten_keys(["x.y", "+x.y"]) == {"x.y": "x.y", "+x.y": "+x.y"}
