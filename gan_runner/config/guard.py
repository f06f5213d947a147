"""What a config file may tell Hydra to do: a file can come from a stranger, and Hydra obeys before this package runs.

A file can name callbacks, launchers, log handlers and their factories, environment variables and packages to import. So
every config that Hydra composes with files from elsewhere than conf/ is compared with what the packaged files and the
command line alone say of the node `hydra`. Whoever types a setting there himself has it.
"""

import re
from collections.abc import Iterator
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from gan_runner.config.errors import ConfigError
from gan_runner.config.schema import conf_directory

# What a file may set: places, the space of a search, what a cluster wants to know. No names of classes, no commands.
FREE = re.compile(r"run\.dir|sweep\.(dir|subdir)|mode|verbose(\.\d+)?")
FREE_PLAIN = re.compile(  # these too, but of a plain value: an interpolation could lead to a node with a _target_
    r"sweeper\.(max_batch_size|n_trials|n_jobs|sampler|seed|pruner|startup|batch|params\.(?!.*(hydra|_target_)).*)"
    r"|launcher\.(n_jobs|max_group|timeout_min|(cpus|gpus|tasks|mem)_per_\w+|mem_gb|nodes|partition|qos|account|array_parallelism"
    r"|max_num_timeout|signal_delay_s)"
)
FILLED_IN = re.compile(
    r"(searchpath|overrides|runtime)(\..*)?|job\.(override_dirname|config_name)"
)  # by Hydra, afterwards


class GuardedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs, through which all of them come: it refuses a file that says what only a user may."""

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """A composed config. Raises ConfigError for one that a file gives more power than it may have."""
        has_strangers = self.has_strangers(overrides)
        if not has_strangers:
            return super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
        try:
            self.refuse_search_path(config_name)
            config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            check(config, overrides)
        except (ConfigError, HydraException, YAMLError):
            raise
        except Exception as error:  # Hydra takes files for well-formed
            where = ", ".join(element.path for element in self.config_search_path.get_path() if element.path)
            first = str(error).partition("\n")[0]
            raise ConfigError(f"a config file in {where} cannot be used: {type(error).__name__}: {first}") from error
        return config

    def has_strangers(self, overrides: list[str]) -> bool:
        """Whether files take part that are none of the package's."""
        own, packaged = self.config_search_path, create_config_search_path(str(conf_directory()))
        paths, packaged_paths = ([element.path for element in path.get_path()] for path in (own, packaged))
        return paths != packaged_paths or any("searchpath" in word for word in overrides)

    def refuse_search_path(self, config_name: str | None) -> None:
        """Refuse hydra.searchpath in the primary config, where alone Hydra reads it: pkg://NAME would be imported."""
        found = self.repository.load_config(config_name) if config_name else None
        if found and OmegaConf.is_dict(found.config) and OmegaConf.select(found.config, "hydra.searchpath"):
            raise refusal("hydra.searchpath")


def check(config: DictConfig, words: list[str]) -> None:
    """Refuse a config whose node `hydra` is not what the packaged files and these words of the command line make it."""
    found = flat(config)
    if len(config.hydra.overrides.hydra) + len(config.hydra.overrides.task) != len(words):
        raise refusal("hydra.overrides")
    options = {
        group: name for group, name in config.hydra.runtime.choices.items() if group.startswith("hydra/") and name
    }
    typed = [
        override.input_line or ""
        for override in OverridesParser.create().parse_overrides(words)
        if override.is_hydra_override() and override.key_or_group not in (*options, "hydra.searchpath")
    ]
    chosen = [f"{group}={name}" for group, name in options.items()]
    loader = ConfigLoaderImpl(create_config_search_path(str(conf_directory())))
    try:
        # With --config-path, conf/config.yaml takes no part: Hydra's own defaults may stand there too.
        allowed = [
            flat(loader.load_configuration(name, [*chosen, *typed], RunMode.RUN, validate_sweep_overrides=False))
            for name in ("config", None)
        ]
    except HydraException as error:
        raise refusal(" ".join(chosen)) from error
    for key, value in found.items():
        is_plain = "${" not in str(value)
        is_free = FREE.fullmatch(key) or FILLED_IN.fullmatch(key) or (is_plain and FREE_PLAIN.fullmatch(key))
        if not is_free and all(node.get(key, flat) != value for node in allowed):
            raise refusal(f"hydra.{key}")


def refusal(key: str) -> ConfigError:
    """Of a setting in a file."""
    return ConfigError(f"{key}: not allowed in a config file, which can run code by it; on the command line it is")


def flat(config: DictConfig) -> dict[str, Any]:
    """The node `hydra`, dotted keys without it -> values, interpolations as they are."""
    return dict(leaves(OmegaConf.to_container(config.hydra, resolve=False), ""))


def leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """The dotted keys of nested dicts and lists, with their values; an empty dict or list is a value."""
    if isinstance(node, dict | list) and node:
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def install() -> None:
    """Let Hydra load its configs by the guarded loader."""
    hydra._internal.hydra.ConfigLoaderImpl = GuardedLoader  # type: ignore[attr-defined]
