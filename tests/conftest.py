"""What the tests share."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

from gan_runner.config.compose import compose_packaged, to_plain
from gan_runner.config.schema import conf_directory

CONF = conf_directory()

# Small enough for a step to take milliseconds.
TINY = ["batch_size=8", "device=cpu", "dataset.held_out=0.05", "model.latent_size=4"]
TINY_MODEL = [f"model.{player}.{key}" for player in ("generator", "discriminator") for key in ("width=8", "depth=2")]


def options(group: str) -> list[str]:
    """The names of a config group's options."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def compose(*overrides: str) -> dict[str, Any]:
    """The plain config of some words of the command line."""
    return to_plain(compose_packaged(list(overrides)))


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test in a directory of its own, with Hydra and torch as at the start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAN_RUNNER_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    yield
    GlobalHydra.instance().clear()
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)  # Hydra's, which writes to what this test captured


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        from gan_runner.cli.main import main

        monkeypatch.setattr("sys.argv", ["gan-runner", *arguments])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        sys.stderr.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # as Python's own
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            GlobalHydra.instance().clear()
        return code, *capsys.readouterr()

    return call


SMALL = [
    "model=mlp", "model.generator.width=8", "model.discriminator.width=8", "model.latent_size=4", "steps=3",
    "log_every=1", "checkpoint_every=1", "batch_size=8", "sample_count=4", "device=cpu", "metric=none",
]  # fmt: skip


@pytest.fixture
def small_run(run_cli: Callable[..., tuple[int, str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, a run directory of 3 steps; made once, and copied for each test."""
    made = tmp_path_factory.getbasetemp() / "small_run"
    if not made.exists():
        code, _, error = run_cli(*SMALL, f"hydra.run.dir={made}")
        assert code == 0, error
    return Path(shutil.copytree(made, "run"))
