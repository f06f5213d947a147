"""A config that a run has stored, read again."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gan_runner.config.check import load_settings
from gan_runner.config.compose import compose_packaged, to_plain
from gan_runner.config.errors import ConfigError, suggest
from gan_runner.config.schema import GROUPS, LIST_GROUPS, known_keys


def read_stored(path: Path) -> dict[Any, Any]:
    """A config that a run has written. Raises ConfigError for one that could take all memory to read."""
    text = path.read_text(encoding="utf-8")
    if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ConfigError(f"{path}: it has aliases, which no run writes: a few lines of them fill the memory")
    return dict(OmegaConf.create(text))


def stored_config(directory: Path, overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """A run's config with `key=value` laid over it, and the packages that these words trust.

    `metric` and `features` may name options, as for a run. A stored `trust` does not count: the directory may come from
    a stranger.
    """
    path = directory / ".hydra" / "config.yaml"
    chosen: dict[str, Any] = {}
    for group in ("metric", "features"):
        own = [word for word in overrides if word.startswith((f"{group}=", f"{group}."))]
        if any(word.startswith(f"{group}=") for word in own):
            chosen[group] = compose_packaged(own)[group]
            overrides = [word for word in overrides if word not in own]
    if "metric" in chosen:
        chosen["objective"] = None
    try:
        config = DictConfig(read_stored(path) | chosen)
        OmegaConf.set_struct(config, True)
        for word in overrides:
            key, separator, _ = word.partition("=")
            if not separator:
                raise ConfigError(f"cannot read '{word}'; a setting is key=value")
            if OmegaConf.select(config, key, default=config) is config:
                raise ConfigError(f"unknown key '{key}'{suggest(key, known_keys())}")
            config.merge_with_dotlist([word])
        plain = to_plain(config)
    except OSError:
        raise ConfigError(f"{directory} is no run directory: it has no .hydra/config.yaml") from None
    except ConfigError:
        raise
    except (YAMLError, OmegaConfBaseException, AssertionError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    for group in GROUPS:
        if group not in LIST_GROUPS and not isinstance(plain.get(group), dict):
            raise ConfigError(f"{path}: it has no {group}")
    trusts = any(word.startswith("trust=") for word in overrides)
    return plain, load_settings(plain).trust if trusts else []
