"""The jobs of a sweep: composed before the first starts, told apart by what they are, named by what differs."""

import copy
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from gan_runner.config.compose import (
    check_before_torch,
    chosen_options,
    describe_run,
    refuse_shapes,
    settle_length,
    settle_preset,
    to_plain,
)
from gan_runner.config.errors import ConfigError
from gan_runner.config.explain import explain
from gan_runner.config.keys import cut, find_key, identity, shorten_keys, tidy
from gan_runner.sweeps.sweep import Job


def expand(overrides: list[Override]) -> list[list[str]]:
    """The overrides of every job: each combination of the values swept. Raises ConfigError."""
    axes = []
    for override in overrides:
        key = override.get_key_element()
        if key == "name":
            raise ConfigError(f"{override.input_line}: a name is of one run; with -m say sweep=NAME")
        if override.is_sweep_override():
            if not find_key(key.lstrip("+")).is_identity:
                raise ConfigError(f"{override.input_line}: all runs of a sweep have the same {key.lstrip('+')}")
            if not override.is_discrete_sweep():
                raise ConfigError(
                    f"{override.input_line}: an interval has no end of values; hydra/sweeper=search draws some"
                )
            values = [str(value) for value in override.sweep_string_iterator()]
            values = [value.lower() if value in ("True", "False") else value for value in values]  # as one types them
            if not values:
                raise ConfigError(f"{override.input_line}: there is nothing in it, and no job to run")
            if twice := [value for value in values if values.count(value) > 1]:
                raise ConfigError(f"{override.input_line}: {twice[0]} is there twice")
            axes.append([f"{key}={value}" for value in values])
        elif not find_key(key).is_of_sweep:
            axes.append([override.input_line or ""])
    return [list(combination) for combination in itertools.product(*axes)]


class Base(NamedTuple):
    """A config without the single values of a job, the options it is made of, and notes on a preset among them."""

    config: DictConfig
    choices: dict[str, Any]
    notes: list[str]


class ComposedJob(NamedTuple):
    """What the overrides of a job make: the last fields of `Job`."""

    config: dict[str, Any]
    title: str
    notes: list[str]
    options: dict[str, str]


class Composer:
    """Composes configs of jobs. Those of the same options share a base: Hydra takes 100 ms to compose one."""

    def __init__(self, loader: ConfigLoader, swept: Iterable[str] = ()):
        """`swept` are the keys of hydra.sweeper.params that the sweep itself has."""
        assert isinstance(loader, ConfigLoaderImpl), "Hydra has no other"
        self.loader, self.swept = loader, set(swept)
        self.parser = OverridesParser.create(config_loader=loader)
        self.parsed: dict[str, Override] = {}
        self.bases: dict[tuple[str, ...], Base] = {}

    def compose(self, overrides: list[str]) -> ComposedJob:
        """What a job's overrides make.

        Raises ConfigError, HydraException and OmegaConfBaseException.
        """
        parsed = [self.parse(override) for override in overrides]
        refuse_shapes(parsed)
        is_choice = [self.loader.repository.group_exists(override.key_or_group) for override in parsed]
        base = self.base([override for override, is_one in zip(parsed, is_choice, strict=True) if is_one])
        config = copy.deepcopy(base.config)
        values = [override for override, is_one in zip(parsed, is_choice, strict=True) if not is_one]
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        settle_length(config, {override.key_or_group: override.value() for override in values})
        plain = to_plain(config)
        check_before_torch(plain)
        return ComposedJob(plain, describe_run(plain, base.choices), base.notes, chosen_options(base.choices))

    def parse(self, override: str) -> Override:
        """One override, as Hydra reads it."""
        if override not in self.parsed:  # most are those of other jobs too
            self.parsed[override] = self.parser.parse_override(override)
        return self.parsed[override]

    def base(self, choices: list[Override]) -> Base:
        """The config of some choices of options, where what the command line chose replaces what a preset chose."""
        overrides = [override.input_line or "" for override in choices]
        if tuple(overrides) not in self.bases:
            config = self.loader.load_configuration("config", overrides, RunMode.RUN)
            notes = settle_preset(config, choices)
            names = dict(config.hydra.runtime.choices)
            if others := [key for key in config.hydra.sweeper.get("params") or () if key not in self.swept]:
                raise ConfigError(
                    f"{' '.join(overrides)} brings hydra.sweeper.params of its own ({', '.join(others)}), which what "
                    "is swept itself cannot have"
                )
            with open_dict(config):
                del config["hydra"]
            self.bases[tuple(overrides)] = Base(config, names, notes)
        return self.bases[tuple(overrides)]


def name_jobs(all_overrides: list[list[str]]) -> list[str]:
    """A name for each job: the keys that differ, as short as they are told apart by, and their values."""
    pairs = [dict(override.split("=", 1) for override in overrides) for overrides in all_overrides]
    keys = dict.fromkeys(key for each in pairs for key in each)
    varied = [key for key in keys if len({each.get(key) for each in pairs}) > 1]
    short = shorten_keys(varied)
    found = ("_".join(f"{short[key]}-{tidy(each[key])}" for key in varied if key in each) for each in pairs)
    return [cut(name) or "run" for name in found]


def make_jobs(all_overrides: list[list[str]], compose: Callable[[list[str]], ComposedJob]) -> list[Job]:
    """The jobs of a sweep. Raises ConfigError, which names the job, also where two are the same."""
    jobs: dict[str, Job] = {}
    for overrides, name in zip(all_overrides, name_jobs(all_overrides), strict=True):
        try:
            composed = compose(overrides)
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            GlobalHydra.instance().clear()  # to explain it, another config is composed
            raise ConfigError(f"job {name}: {explain(error, overrides)}") from error
        key = identity(composed.config)
        if same := jobs.get(key):
            pairs = [pair for pair in zip(same.overrides, overrides, strict=True) if len(set(pair)) > 1]
            one, other = (" ".join(each) for each in zip(*pairs, strict=True))
            raise ConfigError(f"{one} and {other} are the same job")
        jobs[key] = Job(name, key, overrides, *composed)
    return list(jobs.values())


def with_unique_names(jobs: Iterable[Job], known: Iterable[Job]) -> list[Job]:
    """The jobs, no two of one name, even where case does not count; jobs of the plan keep their names."""
    old = {job.identity: job.name for job in known}
    taken = {name.casefold() for name in old.values()}
    found = []
    for job in jobs:
        name = old.get(job.identity, job.name)
        if job.identity not in old and name.casefold() in taken:
            name = f"{name}-{job.identity}"
        taken.add(name.casefold())
        found.append(job._replace(name=name))
    return found
