"""The jobs of a sweep: composed before the first starts, told apart by what they are, named by what differs."""

import copy
import hashlib
import itertools
import json
import re
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

from gan_runner.config.compose import check_before_torch, describe, refuse_shapes, settle_preset, to_plain
from gan_runner.config.errors import ConfigError
from gan_runner.config.explain import explain
from gan_runner.sweeps.sweep import Job

OF_THE_SWEEP = ("sweep", "retry_failed")  # and of none of its jobs
# Keys that say where and how a job runs, and not what it is.
NOT_OF_IDENTITY = (
    *OF_THE_SWEEP, "device", "trust", "log_every", "sample_every", "evaluate_every", "checkpoint_every", "prune",
    "stream", "workers", "capture",
)  # fmt: skip
LONGEST_NAME, LONGEST_VALUE = 80, 40  # characters


def expand(overrides: list[Override]) -> list[list[str]]:
    """The words of every job: each combination of the values swept. Raises ConfigError."""
    axes = []
    for override in overrides:
        key = override.get_key_element()
        if override.is_sweep_override():
            if key.lstrip("+") in NOT_OF_IDENTITY:
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
        elif key not in OF_THE_SWEEP:
            axes.append([override.input_line or ""])
    return [list(words) for words in itertools.product(*axes)]


class Base(NamedTuple):
    """A config, the options it is made of, and what is to be said of a preset among them."""

    config: DictConfig
    choices: dict[str, Any]
    notes: list[str]


class Composer:
    """Composes jobs that differ in values from one config for each choice of options: Hydra takes 100 ms for one."""

    def __init__(self, loader: ConfigLoader, swept: Iterable[str] = ()):
        """`swept` are the keys of hydra.sweeper.params that the sweep has anyway."""
        assert isinstance(loader, ConfigLoaderImpl), "the one that Hydra has"
        self.loader, self.swept = loader, set(swept)
        self.parser = OverridesParser.create(config_loader=loader)
        self.parsed: dict[str, Override] = {}
        self.bases: dict[tuple[str, ...], Base] = {}

    def compose(self, words: list[str]) -> tuple[dict[str, Any], str, list[str]]:
        """The plain config of a job's words, its title and its notes. Raises ConfigError, and what Hydra raises."""
        overrides = [self.parse(word) for word in words]
        refuse_shapes(overrides)
        is_choice = [self.loader.repository.group_exists(override.key_or_group) for override in overrides]
        base = self.base([override for override, is_one in zip(overrides, is_choice, strict=True) if is_one])
        config = copy.deepcopy(base.config)
        values = [override for override, is_one in zip(overrides, is_choice, strict=True) if not is_one]
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        plain = to_plain(config)
        check_before_torch(plain)
        return plain, describe(plain, base.choices), base.notes

    def parse(self, word: str) -> Override:
        """A word of the command line; most are those of other jobs too."""
        if word not in self.parsed:
            self.parsed[word] = self.parser.parse_override(word)
        return self.parsed[word]

    def base(self, choices: list[Override]) -> Base:
        """What some choices of options make, a preset settled with the others."""
        words = [override.input_line or "" for override in choices]
        if tuple(words) not in self.bases:
            config = self.loader.load_configuration("config", words, RunMode.RUN)
            notes = settle_preset(config, choices)
            names = dict(config.hydra.runtime.choices)
            if others := [key for key in config.hydra.sweeper.get("params") or () if key not in self.swept]:
                raise ConfigError(
                    f"{' '.join(words)} brings hydra.sweeper.params of its own ({', '.join(others)}), which what is "
                    "swept itself cannot have"
                )
            with open_dict(config):
                del config["hydra"]
            self.bases[tuple(words)] = Base(config, names, notes)
        return self.bases[tuple(words)]


def identity(config: dict[str, Any]) -> str:
    """What a config is, wherever and however it runs: equal for 1, 1.0 and 1e0."""
    own = {key: normal(value) for key, value in config.items() if key not in NOT_OF_IDENTITY}
    return hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest()[:16]


def normal(value: Any) -> Any:
    """A value with its whole numbers as ints."""
    if isinstance(value, dict):
        return {key: normal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [normal(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def names(all_words: list[list[str]]) -> list[str]:
    """A name for each job: the keys that differ, as short as they are told apart by, and their values."""
    pairs = [dict(word.split("=", 1) for word in words) for words in all_words]
    keys = dict.fromkeys(key for each in pairs for key in each)
    varied = [key for key in keys if len({each.get(key) for each in pairs}) > 1]
    short = shorten(varied)
    found = ("_".join(f"{short[key]}-{tidy(each[key])}" for key in varied if key in each) for each in pairs)
    return [name[:LONGEST_NAME].strip("._-") or "run" for name in found]


def shorten(keys: list[str]) -> dict[str, str]:
    """Dotted keys by their last words, as many as tell them apart."""
    short = {}
    for key in keys:
        parts = key.lstrip("+").replace("@", ".").split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts) + 1))
        others = [other.lstrip("+").replace("@", ".") for other in keys if other != key]
        short[key] = next((end for end in ends if not any(f".{other}".endswith(f".{end}") for other in others)), key)
    return short


def tidy(value: str) -> str:
    """A value as part of a directory's name: numbers in one form, nothing that a shell or Hydra would read."""
    try:
        number = float(value)
    except ValueError:
        return re.sub(r"[^\w.+-]+", "-", value, flags=re.ASCII).strip("-")[:LONGEST_VALUE]
    return str(int(number)) if number.is_integer() and abs(number) < 1e9 else f"{number:.6g}"


def make_jobs(
    all_words: list[list[str]], compose: Callable[[list[str]], tuple[dict[str, Any], str, list[str]]]
) -> list[Job]:
    """The jobs of a sweep. Raises ConfigError, which names the job, also where two are the same."""
    jobs: dict[str, Job] = {}
    for words, name in zip(all_words, names(all_words), strict=True):
        try:
            config, title, notes = compose(words)
        except (ConfigError, HydraException, OmegaConfBaseException) as error:
            GlobalHydra.instance().clear()  # to explain it, another config is composed
            raise ConfigError(f"job {name}: {explain(error, words)}") from error
        key = identity(config)
        if same := jobs.get(key):
            pairs = [pair for pair in zip(same.words, words, strict=True) if len(set(pair)) > 1]
            one, other = (" ".join(each) for each in zip(*pairs, strict=True))
            raise ConfigError(f"{one} and {other} are the same job")
        jobs[key] = Job(name, key, words, config, title, notes)
    return list(jobs.values())


def with_names_of_their_own(jobs: Iterable[Job], known: Iterable[Job]) -> list[Job]:
    """The jobs, no two of one name, even where case does not count; those `known` under the names they have."""
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
