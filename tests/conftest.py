"""Fixtures."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers share two cores

import pytest
import torch
import yaml
from hydra.core.global_hydra import GlobalHydra

from tests.helpers import SMALL

PYTHON_LOADER = yaml.SafeLoader
yaml.SafeLoader = yaml.CSafeLoader  # type: ignore[assignment,misc]  # conf/ is read thousands of times


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test in a directory of its own, with Hydra and torch as at the start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GAN_RUNNER_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    yield
    GlobalHydra.instance().clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_gan"]:
        del sys.modules[name]  # the next test's user has another package of this name
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if type(handler) is logging.StreamHandler]:
        root.removeHandler(handler)  # Hydra's, which writes to what this test captured


@pytest.fixture
def python_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    """YAML as a run reads it, for files that somebody damaged: OmegaConf does not use libyaml."""
    monkeypatch.setattr(yaml, "SafeLoader", PYTHON_LOADER)


@pytest.fixture
def run_cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        from gan_runner.cli.main import main

        monkeypatch.setattr("sys.argv", ["gan-runner", *arguments])
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        if not any(word.startswith("hydra.mode") for word in arguments):  # Hydra composes the whole config to read it
            monkeypatch.setattr("hydra._internal.hydra.Hydra.get_mode", lambda *_, **__: None)
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


@pytest.fixture
def small_run(run_cli: Callable[..., tuple[int, str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, a run directory of 3 steps; made once, and copied for each test."""
    made = tmp_path_factory.getbasetemp() / "small_run"
    if not made.exists():
        code, _, error = run_cli(*SMALL, f"hydra.run.dir={made}")
        assert code == 0, error
    return Path(shutil.copytree(made, "run"))
