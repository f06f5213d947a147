"""`gan-runner resume DIR`: go on with a run, from its own directory alone."""

import argparse
from pathlib import Path
from typing import Any

import yaml

from gan_runner.cli.parser import refuse_links
from gan_runner.cli.parser import resume_parser as parser
from gan_runner.config.compose import to_yaml
from gan_runner.config.errors import ConfigError
from gan_runner.config.keys import describe_changes, find_key
from gan_runner.config.stored import stored_config, without
from gan_runner.storage.hydra_files import CONFIG, OVERRIDES, words_of_run
from gan_runner.storage.run_directory import take_over
from gan_runner.sweeps.cluster import refuse_queued
from gan_runner.sweeps.launchers import Launch, run_in_processes, run_jobs, run_sequentially
from gan_runner.sweeps.sweep import PLAN, Sweep
from gan_runner.training.run import resume


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
    named, overrides = split_loggers(options.overrides)
    config, trust = stored_config(options.directory, overrides, options.config_dir)
    loggers = chosen_loggers([config], named)
    config |= {"logger": loggers} if "logger" in config else {}
    check_changes(stored, config)
    hydra_files = {CONFIG: to_yaml(config)} if config != stored else {}
    if hydra_files and (words := words_of_run(options.directory)):
        changed = without(overrides, ["trust"])
        kept = without(words, [word.partition("=")[0] for word in changed])
        hydra_files[OVERRIDES] = yaml.safe_dump([*kept, *changed])
    resume(config, trust, options.directory, hydra_files=hydra_files, any_version=options.any_version)


def resume_sweep(options: argparse.Namespace) -> None:
    """Go on with the jobs of a sweep, with the configs that they were planned with.

    Raises ConfigError for a change to them, and Stopped where some jobs are not done in the end.
    """
    trust: list[str] = []
    named, overrides = split_loggers(options.overrides)
    for override in overrides:
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

        launch = Launch(run_batched, max_group=MAX_GROUP, stack="auto")
    if options.processes:
        launch = Launch(run_in_processes, processes=options.processes, threads=None)
    with Sweep(options.directory) as sweep:
        refuse_queued(sweep)
        if options.take_over:
            take_over_runs([sweep.path(job) for job in sweep.jobs() if sweep.status(job) == "running"])
        loggers = chosen_loggers([job.config for job in sweep.jobs()], named)
        jobs = [job._replace(config=job.config | {"logger": loggers}) for job in sweep.jobs()]
        run_jobs(sweep, jobs, launch, trust, retry_failed=options.retry_failed)


def split_loggers(overrides: list[str]) -> tuple[list[str] | None, list[str]]:
    """The loggers that `logger=NAME` or a list of them names, None without such a word; and the other words."""
    words = [word for word in overrides if word.startswith("logger=")]
    named = words[-1].removeprefix("logger=").strip("[]").split(",") if words else None
    return named, [word for word in overrides if word not in words]


def chosen_loggers(configs: list[dict[str, Any]], named: list[str] | None) -> dict[str, Any]:
    """The loggers of stored configs, all of which have the same, as far as the command line names them.

    A logger writes outside of the run's directory, or sends what it gets elsewhere, and a config may come from a
    stranger. Raises ConfigError where the command line says nothing of those there are, or names another.
    """
    stored: dict[str, Any] = next((config["logger"] for config in configs if config.get("logger")), {})
    names = ",".join(stored)
    if stored and named is None:
        raise ConfigError(
            f"it logs to {names} too, by its stored config: logger=[{names}] goes on there, logger=none leaves it out"
        )
    if strangers := [name for name in named or [] if name not in (*stored, "none")]:
        raise ConfigError(f"logger={strangers[0]}: the stored config has {names or 'none'}, and a resumed run no other")
    return {name: stored[name] for name in named or [] if name in stored}


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
