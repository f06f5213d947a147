"""Every file in conf/: it says what it is, and its keys are the signature of what it points at."""

import importlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pydantic
import pytest
import torch
import yaml

from gan_runner import heads, losses, optimizers, schedules
from gan_runner.config.schema import GROUPS
from gan_runner.config.stored import ADDED
from gan_runner.regularizers import projections
from tests.conformance.cases import PENALTIES
from tests.helpers import CONF, compose, some

FILES = {f"{path.parent.name}/{path.stem}": path for path in sorted(CONF.glob("*/*.yaml"))}
# Keys beside those of the signature, which are the runner's.
OF_THE_RUNNER = {
    "regularizer": {"role", "on", "weight", "every", "start", "schedule"},
    "discriminator": {"scales", "pack"},
    "head": {"weight", "schedule"},
}
GIVEN = {"data", "schedule"}  # to a component, by the runner or by a slot
UNCOMMENTED = {"_target_", "role", "on"}  # said once, in the README
OBVIOUS = {
    "dataset": {"modes", "radius", "side"},
    "regularizer": {"weight", "every", "start", "target", "bound", "min"},
    "optimizer": {"betas", "eps", "momentum", "weight_decay", "alpha", "dampening", "nesterov"},
}


def nodes() -> Iterator[Any]:
    """Every node with a `_target_` in conf/, with its file's name and its place in it."""

    def visit(node: Any, name: str, place: str) -> Iterator[Any]:
        if isinstance(node, dict):
            if "_target_" in node:
                yield pytest.param(name, place, node, id=f"{name}{place and '.'}{place}")
            for key, value in node.items():
                yield from visit(value, name, f"{place}.{key}" if place else key)

    for name, path in FILES.items():
        yield from visit(yaml.safe_load(path.read_text()), name, "")


NODES = list(nodes())


def target_of(node: dict[str, Any]) -> Callable[..., Any]:
    module, _, name = node["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def own_keys(name: str, place: str, node: dict[str, Any]) -> dict[str, Any]:
    """Those that go to the target."""
    group, last = (place or name).partition(".")[0].partition("/")[0], place.rpartition(".")[2]
    runners = OF_THE_RUNNER.get(group, set()) | OF_THE_RUNNER.get(last, set()) | {"_target_", "defaults"}
    runners = {"_target_"} if last.endswith("schedule") else runners  # which has a start of its own
    return {key: value for key, value in node.items() if key not in runners}


@pytest.mark.parametrize("name", FILES)
def test_it_says_what_it_is(name: str) -> None:
    lines = [line for line in FILES[name].read_text().splitlines() if "@package" not in line]
    assert re.match(r"# \S", lines[0])


@pytest.mark.parametrize(("name", "place", "node"), NODES)
def test_its_keys_are_the_signature_and_its_values_fit(name: str, place: str, node: dict[str, Any]) -> None:
    """Python has no defaults of its own: what a key is stands in the file, and there alone."""
    target, found = target_of(node), own_keys(name, place, node)
    parameters = inspect.signature(target).parameters
    if node["_target_"].startswith("torch."):
        assert set(found) <= set(parameters)
        return
    keys = {key: p for key, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    brought = {key.partition("@")[2] for each in node.get("defaults", ()) if isinstance(each, dict) for key in each}
    assert list(found) == [key for key in keys if key in found or key not in GIVEN | brought]
    if not name.startswith("loss/"):  # tests and losses make losses by hand
        newer = ADDED.get(node["_target_"], {})  # keys whose default is what a config without them means
        assert {key for key in found if keys[key].default is not inspect.Parameter.empty} == {*newer} & {*found}
    source: Any = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(source, include_extras=True)
    for key, value in found.items():
        if not (isinstance(value, str) and (value == "???" or "${" in value)):
            pydantic.TypeAdapter(hints[key], config={"strict": True}).validate_json(json.dumps(value))


@pytest.mark.parametrize(
    "name", [name for name in FILES if not name.startswith(("experiment/", "loss/wgan", "loss/elbo"))]
)
def test_every_key_has_a_comment(name: str) -> None:
    """But for presets, and what stands inline in a loss."""
    text = FILES[name].read_text()
    own = text.partition("- _self_\n")[2] or text  # what stands behind the list of defaults
    bare = {line.partition(":")[0].strip(' "') for line in own.splitlines() if ": " in line and "#" not in line}
    assert bare <= UNCOMMENTED | OBVIOUS.get(name.partition("/")[0], set())


def public(module: ModuleType, is_component: Callable[[Any], bool]) -> set[str]:
    """What a module defines of a kind, as a `_target_` names it."""
    own = [found for name, found in vars(module).items() if not name.startswith("_") and callable(found)]
    own = [found for found in own if found.__module__ == module.__name__ and is_component(found)]
    return {f"{module.__name__}.{found.__name__}" for found in own}


def is_first(parameter: str) -> Callable[[Any], bool]:
    return lambda found: next(iter(inspect.signature(found).parameters), None) == parameter


@pytest.mark.parametrize(
    ("module", "is_component"),
    [
        (schedules, is_first("now")),
        (projections, is_first("network")),
        (losses, lambda found: hasattr(found, "discriminator") or hasattr(found, "autoencoder")),
        (heads, lambda found: hasattr(found, "make")),
        (optimizers, lambda found: inspect.isclass(found) and issubclass(found, torch.optim.Optimizer)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_there_is_has_a_file(module: ModuleType, is_component: Callable[[Any], bool]) -> None:
    found = public(module, is_component)
    assert found
    assert found <= {parameters.values[2]["_target_"] for parameters in NODES}


@pytest.mark.parametrize("name", some(PENALTIES, every=3))
def test_every_penalty_has_a_schedule_slot(name: str) -> None:
    words = [f"regularizer={name}", f"lr_schedule@regularizer.{name}.schedule=linear", "loss=hinge"]
    assert compose(*words)["regularizer"][name]["schedule"]["end"] == 0.0


def test_a_penalty_inline_in_a_loss_is_the_option_of_that_name() -> None:
    """And the paper's five critic steps."""
    for loss, name in (("wgan_gp", "gradient_penalty"), ("wgan", "weight_clip")):
        config = compose(f"loss={loss}")
        assert config["regularizer"] == compose("loss=hinge", f"regularizer={name}")["regularizer"]
        assert config["loss"] == compose("loss=wasserstein")["loss"]
        assert config["discriminator_steps"] == 5


def test_none_adds_nothing() -> None:
    for group in ("regularizer", "augmentation", "metric"):
        assert not compose("loss=hinge", f"{group}=none").get(group)


def test_the_folders_are_the_groups_of_the_schema() -> None:
    assert {path.parent.name for path in FILES.values()} == {*GROUPS, "experiment"}
