"""What the tests share: the config, its options, words that make a run small."""

import copy
import functools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from gan_runner.config.compose import compose_packaged, to_plain
from gan_runner.config.schema import conf_directory

CONF = conf_directory()
README = Path(__file__).resolve().parents[2] / "README.md"

# Small enough for a step to take milliseconds.
TINY = ["batch_size=8", "device=cpu", "dataset.held_out=0.05", "model.latent_size=4"]
TINY_MODEL = [f"model.{player}.{key}" for player in ("generator", "discriminator") for key in ("width=8", "depth=2")]

# A run of the command line that takes a second.
SMALL = [
    "model=mlp", "model.generator.width=8", "model.discriminator.width=8", "model.latent_size=4", "steps=3",
    "log_every=1", "checkpoint_every=1", "batch_size=8", "sample_count=4", "device=cpu", "metric=none",
]  # fmt: skip

# A metric of images that takes milliseconds.
METRIC = [
    "metric=sliced_wasserstein",
    *(f"metric.sliced_wasserstein.{key}" for key in ("samples=40", "patches=16", "projections=16")),
]


def options(group: str) -> list[str]:
    """The names of a config group's options."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose(*overrides: str) -> dict[str, Any]:
    """The plain config of some words of the command line."""
    return copy.deepcopy(composed(overrides))


@functools.cache
def composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return to_plain(compose_packaged(list(overrides)))


def naming(*names: str) -> str:
    """A pattern of messages that name all of these, in whatever words."""
    return "(?s)" + "".join(f"(?=.*{re.escape(name)})" for name in names)


def refusal(outcome: tuple[int, str, str], *named: str) -> str:
    """The one line with which the command line refuses something, or breaks off; it names all of these."""
    code, out, error = outcome
    assert code == 1, error
    assert error.startswith("gan-runner: "), error
    assert error.count("\n") == 1, error
    assert "Traceback" not in out
    assert not [name for name in named if name not in error], error
    return error


def some(params: Iterable[Any], every: int) -> list[Any]:
    """Every `every`-th of a test's parameters by default, and all of them in `make test-all`."""
    return [pytest.param(value, marks=[pytest.mark.slow] * (number % every > 0)) for number, value in enumerate(params)]
