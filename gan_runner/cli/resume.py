"""`gan-runner resume DIR`: go on with a run, from its own directory alone."""

import argparse
from pathlib import Path
from typing import Any

from gan_runner.cli.parser import refuse_links
from gan_runner.cli.parser import resume_parser as parser
from gan_runner.config.compose import to_yaml
from gan_runner.config.errors import ConfigError
from gan_runner.config.keys import describe_changes, find_key
from gan_runner.config.stored import stored_config
from gan_runner.runs.run import resume
from gan_runner.storage.run_directory import take_over
from gan_runner.sweeps.launchers import Launch, run_in_processes, run_jobs, run_sequentially
from gan_runner.sweeps.sweep import PLAN, Sweep


def main(arguments: list[str]) -> None:
    """Run the verb. Raises ConfigError where the directory or an override does not fit."""
    options = parser().parse_intermixed_args(arguments)
    refuse_links(options.directory, ".")
    if (options.directory / PLAN).exists():
        resume_sweep(options)
        return
    if options.take_over:
        take_over_runs([options.directory])
    stored, _ = stored_config(options.directory, [])
    config, trust = stored_config(options.directory, options.overrides, options.config_dir)
    check_changes(stored, config)
    hydra_files = {".hydra/config.yaml": to_yaml(config)} if config != stored else {}
    resume(config, trust, options.directory, hydra_files=hydra_files, any_version=options.any_version)


def resume_sweep(options: argparse.Namespace) -> None:
    """Go on with the jobs of a sweep, with the configs that they were planned with.

    Raises ConfigError for a change to them, and Stopped where some jobs are not done in the end.
    """
    trust: list[str] = []
    for override in options.overrides:
        key, _, value = override.partition("=")
        if key != "trust":
            raise ConfigError(
                f"{override}: a sweep goes on as it was planned; -m ... sweep={options.directory.name} adds to it"
            )
        trust = [name.strip() for name in value.strip("[]").split(",")]
    launch = Launch(run_sequentially)
    if options.batched and options.processes:
        raise ConfigError("--batched is one process, and --processes=N are several: choose one")
    if options.batched:
        from gan_runner.sweeps.batched_launcher import MAX_GROUP, run_batched

        launch = Launch(run_batched, max_group=MAX_GROUP)
    if options.processes:
        launch = Launch(run_in_processes, processes=options.processes, threads=None)
    with Sweep(options.directory) as sweep:
        if options.take_over:
            take_over_runs([sweep.path(job) for job in sweep.jobs() if sweep.status(job) == "running"])
        run_jobs(sweep, sweep.jobs(), launch, trust, retry_failed=options.retry_failed)


def take_over_runs(directories: list[Path]) -> None:
    """Let runs that were left running on another machine count as interrupted. Raises ConfigError where one is not."""
    try:
        for directory in directories:
            take_over(directory)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error


def check_changes(stored: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse changes that would make it another run. Raises ConfigError, which names them."""
    if changes := describe_changes(stored, config, lambda key: find_key(key).may_change):
        raise ConfigError(f"that would be another run, not this one going on: {changes}")
