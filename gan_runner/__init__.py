"""Train and compare generative adversarial networks, from one shell line or from Python.

`train` trains a run, `load` opens one that is trained, `runs` is a table of many. All else is imported when one of them
is first used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_runner.api import TrainedRun, load, train
    from gan_runner.reporting.run_table import run_table as runs

__version__ = "0.2.0"
__all__ = ["TrainedRun", "__version__", "load", "runs", "train"]

# cuBLAS reads it once, at a process's first product, and has no deterministic algorithms without it.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def __getattr__(name: str) -> Any:
    if name == "runs":
        return importlib.import_module("gan_runner.reporting.run_table").run_table
    if name in __all__:
        return getattr(importlib.import_module("gan_runner.api"), name)
    raise AttributeError(f"module 'gan_runner' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
