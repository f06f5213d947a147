"""What `gan-runner -m` runs by, as Hydra's plugins: the sweepers, and the launchers.

Hydra imports this file at every start, so it imports little. Only what lies in the namespace package `hydra_plugins`
counts as a plugin: this folder is no package.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class GridSweeper(Sweeper):
    """Every combination of the values swept; hydra.sweeper.params holds those of a config."""

    def __init__(self, params: dict[str, str] | None):
        self.params = params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.loader, self.master = hydra_context.config_loader, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the jobs that the overrides of the command line, and of the config, expand to."""
        from gan_runner.sweeps.grid import run_grid

        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        run_grid(self.master, self.loader, self.launcher, overrides)


class SearchSweeper(GridSweeper):
    """Values drawn by Optuna, trial after trial."""

    def __init__(self, params: dict[str, str] | None, **settings: Any):
        super().__init__(params)
        self.settings = settings

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials of a search. Raises ConfigError where Optuna is not installed."""
        from gan_runner.config.errors import ConfigError

        try:
            from gan_runner.sweeps.search import run_search
        except ModuleNotFoundError as error:
            if error.name not in ("optuna", "sqlalchemy"):
                raise
            raise ConfigError("hydra/sweeper=search needs Optuna: pip install 'gan-runner[search]'") from error
        overrides = [f"{key}={value}" for key, value in self.params.items()] + arguments
        run_search(self.master, self.loader, self.launcher, overrides, self.settings)


class ComposedLauncher(Launcher):
    """A launcher for the sweepers of this package alone, which compose the jobs."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra calls first."""

    @abstractmethod
    def of_composed_jobs(self) -> Any:
        """What runs jobs that are composed already, a `Launch`."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Raises ConfigError: another sweeper composes its jobs as they start."""
        from gan_runner.config.errors import ConfigError

        raise ConfigError("hydra/launcher=pool and batched go with hydra/sweeper=grid and search")


class PoolLauncher(ComposedLauncher):
    """So many jobs at once, each in a process of its own."""

    def __init__(self, processes: int | None, threads: int | None):
        self.processes, self.threads = processes, threads

    def of_composed_jobs(self) -> Any:
        from gan_runner.sweeps.launchers import Launch, run_in_processes

        return Launch(run_in_processes, processes=self.processes, threads=self.threads)


class BatchedLauncher(ComposedLauncher):
    """Jobs that differ only in numbers as one program, so many at once at most; `stack` is auto or always."""

    def __init__(self, max_group: int | None, stack: Any):
        self.max_group, self.stack = max_group, stack

    def of_composed_jobs(self) -> Any:
        """A launch of stacked jobs. Raises ConfigError for a group size that is no whole number from 1."""
        from gan_runner.config.errors import ConfigError
        from gan_runner.sweeps.batched_launcher import MAX_GROUP, run_batched
        from gan_runner.sweeps.launchers import Launch

        max_group = MAX_GROUP if self.max_group is None else self.max_group
        if type(max_group) is not int or max_group < 1:
            raise ConfigError(f"hydra.launcher.max_group={max_group}: must be a whole number from 1")
        if self.stack not in ("auto", "always"):
            raise ConfigError(f"hydra.launcher.stack={self.stack}: must be auto (where it saves time) or always")
        return Launch(run_batched, max_group=max_group, stack=self.stack)
