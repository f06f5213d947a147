"""`gan-runner -m`: every combination of the values swept."""

import datetime
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from gan_runner.config.compose import refuse_dropped, trusted_packages
from gan_runner.config.errors import ConfigError
from gan_runner.config.keys import describe_changes, find_key
from gan_runner.storage.outputs import check_name
from gan_runner.sweeps.cluster import launch_on_cluster, run_on_slurm
from gan_runner.sweeps.jobs import Composer, expand, make_jobs, with_unique_names
from gan_runner.sweeps.launchers import Launch, run_jobs, run_sequentially
from gan_runner.sweeps.sweep import DataCache, Job, Sweep, data_key


def run_grid(config: DictConfig, loader: ConfigLoader, launcher: Any, overrides: list[str]) -> None:
    """Run all jobs that are not done yet, and report.

    Raises ConfigError before the first starts, Stopped where some are not done in the end.
    """
    launch = launch_of(launcher)
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    refuse_dropped(parsed)
    last = {override.get_key_element(): override for override in parsed}  # the command line's after the config's
    trust = trusted_packages(sys.argv[1:])
    composer = Composer(loader, config.hydra.sweeper.get("params") or ())
    jobs = make_jobs(expand(list(last.values())), composer.compose)
    with Sweep(sweep_directory(config)) as sweep:
        sweep.is_on_slurm = launch.func is run_on_slurm
        known = sweep.jobs()
        refuse_another(sweep, known, jobs, composer, swept(last.values()))
        jobs = with_unique_names(jobs, known)
        metrics = check_jobs(jobs, trust, is_here=not sweep.is_on_slurm)
        sweep.plan([job for job in jobs if job not in known])
        sweep.write_shared_files(OmegaConf.to_yaml({"hydra": config.hydra}), metrics)
        run_jobs(sweep, jobs, launch, trust, retry_failed=bool(config.retry_failed))


def swept(overrides: Iterable[Override]) -> set[str]:
    """The keys that a line gives several values; the seed always counts as one."""
    return {override.get_key_element() for override in overrides if override.is_sweep_override()} | {"seed"}


def refuse_another(sweep: Sweep, known: list[Job], jobs: list[Job], composer: Composer, axes: set[str]) -> None:
    """Refuse to add jobs to a sweep whose other settings, beside those swept, are not those of the new command line.

    To compare them, the first job of the sweep is composed as the new line would compose it.
    Raises ConfigError, which names what is different.
    """
    if not known:
        return
    values = [dict(override.split("=", 1) for override in job.overrides) for job in known]
    axes = axes | {key for each in values for key in each if len({other.get(key) for other in values}) > 1}
    line = dict(override.split("=", 1) for override in jobs[0].overrides)
    first = {key: value for key, value in line.items() if key not in axes}
    first |= {key: value for key, value in values[0].items() if key in axes}
    try:
        config = composer.compose([f"{key}={value}" for key, value in first.items()]).config
    except (ConfigError, HydraException, OmegaConfBaseException):  # it has no place for these values
        changes = f"it began with {' '.join(known[0].overrides)}"
    else:
        changes = describe_changes(known[0].config, config, lambda key: not find_key(key).is_identity)
    if changes:
        raise ConfigError(f"{sweep.directory} is another sweep: {changes}; choose another sweep=NAME")


def launch_of(launcher: Any) -> Launch:
    """What runs jobs as one of Hydra's launchers says. Raises ConfigError for one that cannot."""
    if type(launcher).__name__ == "BasicLauncher":  # Hydra executes its file anew when it looks for plugins
        return Launch(run_sequentially)
    if hasattr(launcher, "of_composed_jobs"):
        return launcher.of_composed_jobs()
    if "submitit" in type(launcher).__module__:
        return launch_on_cluster(launcher._EXECUTOR, launcher.params)
    raise ConfigError("hydra/launcher: basic, pool, batched, local and slurm run a sweep")


def sweep_directory(config: DictConfig) -> Path:
    """outputs/sweeps/NAME, of the keys `sweep` and hydra.sweep.dir; NAME is date and time by default."""
    if config.sweep is None:
        with open_dict(config):
            config.sweep = f"{datetime.datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    try:
        check_name("sweep", str(config.sweep))
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return Path(config.hydra.sweep.dir)


def check_jobs(jobs: list[Job], trust: list[str], *, is_here: bool) -> list[str]:
    """Build as many jobs as it takes to see every value once, and each dataset once; the tags of their metrics.

    Where they are to run on another machine, or on a GPU, their networks are built on the CPU all the same. Raises
    ConfigError.
    """
    from gan_runner.training.build import build, choose_device, load_data, refuse_giants, refuse_ignored

    data = DataCache(lambda node: load_data(node, trust))
    seen: set[str] = set()
    tags: dict[str, None] = {}
    for job in sorted(jobs, key=lambda job: data_key(job.config)):
        values = {override for override in job.overrides if not override.startswith("seed=")}
        if values and values <= seen:
            continue
        seen |= values
        try:
            device = choose_device(job.config["device"]).type if is_here else "another"
            elsewhere = {} if device == "cpu" else {"device": "cpu", "precision": "fp32", "init_from": None}
            refuse_giants(job.config | elsewhere, trust)
            built = build(job.config | elsewhere, trust, data.of(job.config))
            refuse_ignored(built, job.config, trust)
            if not built.evaluator.network:  # one of these may have to be trained first
                built.evaluator.prepare(built.game.data, lambda warning: None)
        except ConfigError as error:
            raise ConfigError(f"job {job.name}: {error}") from error
        metrics = built.evaluator.metrics.items()
        tags |= {f"metric/{name}/{value}": None for name, metric in metrics for value in metric.higher_is_better}
    return list(tags)
