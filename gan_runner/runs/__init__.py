"""One run: built, trained, recorded. Called as a function, `gan_runner.runs(DIR)`, a table of many."""

import sys
import types
from pathlib import Path
from typing import Any


class RunsModule(types.ModuleType):
    """This package, which can be called: `gan_runner.runs` is its name and that of a public function."""

    def __call__(self, directory: str | Path) -> Any:
        """A pandas DataFrame with a row for each run: see `gan_runner.reporting.run_table.run_table`."""
        from gan_runner.reporting.run_table import run_table

        return run_table(directory)


sys.modules[__name__].__class__ = RunsModule
