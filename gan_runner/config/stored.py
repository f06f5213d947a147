"""Configs that runs and sweeps have stored, read again; those of earlier versions too."""

import copy
import re
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from gan_runner.config.check import load_settings
from gan_runner.config.compose import compose_packaged, settle_length, to_plain
from gan_runner.config.errors import ConfigError
from gan_runner.config.explain import dotted_keys, unknown_key, wants_a_name
from gan_runner.config.schema import GROUPS, LIST_GROUPS, Settings
from gan_runner.storage.hydra_files import CONFIG, HYDRA, flags_of, words_of_run
from gan_runner.storage.outputs import OUTPUTS, is_sweep

# --- what earlier versions wrote --------------------------------------------------------------------------------------
# Who changes a name that a config holds adds a line here, and every directory written before goes on working. A new key
# at the top level needs no line: its default in `Settings` is what a config without it means.

MOVED = {  # module in a `_target_` -> where its contents are now
    "gan_runner.datasets.stacked": "gan_runner.datasets.stacked_mnist",
    "gan_runner.gradients": "gan_runner.regularizers.gradient_clip",
    "gan_runner.metrics.features": "gan_runner.metrics.feature_space",
    "gan_runner.penalties": "gan_runner.regularizers.penalties",
    "gan_runner.projections": "gan_runner.regularizers.projections",
    "gan_runner.wrappers": "gan_runner.regularizers.spectral_norm",
}
RENAMED_ROLES = {"wrapper": "parametrization"}  # the `role` of a regularizer -> its name now
DROPPED = {  # present `_target_` -> keys that it once had; none of them changed a result
    "gan_runner.optimizers.FiniteDifference": ("chunk",),
}
# Present `_target_` -> keys in its file in conf/ that are newer than version 0.1, and what a config without them means:
# their defaults in the signature. So equal runs of different versions are one job of a sweep, and one setting.
ADDED: dict[str, dict[str, Any]] = {
    "gan_runner.augmentations.diffaugment": {"p": None},
    "gan_runner.datasets.array.npy": {"dequantize": False},
    "gan_runner.datasets.embedded.digits": {"dequantize": False},
    "gan_runner.datasets.folder.image_folder": {"dequantize": False, "broken": "error"},
    "gan_runner.datasets.stacked_mnist.stacked_mnist": {"dequantize": False},
    "gan_runner.datasets.vision.celeba": {"dequantize": False},
    "gan_runner.datasets.vision.cifar10": {"dequantize": False},
    "gan_runner.datasets.vision.fashion_mnist": {"dequantize": False},
    "gan_runner.datasets.vision.mnist": {"dequantize": False},
    "gan_runner.models.dcgan.Discriminator": {"kernel": 4},
    "gan_runner.models.dcgan.Generator": {"kernel": 4},
    "gan_runner.schedules.cosine": {"start": 1.0},
    "gan_runner.schedules.linear": {"start": 1.0},
    "gan_runner.models.resnet.Discriminator": {"attention": None, "wide": False, "end_growth": 1},
    "gan_runner.models.resnet.Generator": {"attention": None},
}
# The same for the keys that every penalty has: their defaults are those of `Term`.
ADDED_TO_PENALTIES: dict[str, Any] = {"start": 0}
# The same for the keys that the discriminators of this package have, whatever their network.
ADDED_TO_DISCRIMINATORS: dict[str, Any] = {"pack": 1}
# Groups that are newer than version 0.1, and the option that a config without one had.
ADDED_GROUPS: dict[str, dict[str, Any]] = {"head": {"_target_": "gan_runner.heads.Projection"}}


def translate_stored(config: Mapping[str, Any]) -> dict[str, Any]:
    """A stored config in the words of this version, with the top-level keys that it lacks set to what it means.

    `config` may come from a stranger: whatever is not shaped as in a config stays as it is.
    """
    translated = translate_node(config)
    regularizers = translated.get("regularizer")
    for node in regularizers.values() if isinstance(regularizers, dict) else ():
        if isinstance(node, dict) and isinstance(node.get("role"), str):
            node["role"] = RENAMED_ROLES.get(node["role"], node["role"])
            if node["role"] == "penalty" and str(node.get("_target_")).startswith("gan_runner."):
                node |= {key: value for key, value in ADDED_TO_PENALTIES.items() if key not in node}
    model = translated.get("model")
    discriminator = model.get("discriminator") if isinstance(model, dict) else None
    if isinstance(discriminator, dict) and str(discriminator.get("_target_")).startswith("gan_runner."):
        discriminator |= {key: value for key, value in ADDED_TO_DISCRIMINATORS.items() if key not in discriminator}
    return fill(copy.deepcopy(ADDED_GROUPS) | translated, top_level_defaults()) if translated else {}


def translate_node(node: Mapping[str, Any]) -> dict[str, Any]:
    """Nested keys, with the present name of every `_target_` among them, and with the keys that it has now."""
    translated = {key: translate_node(value) if isinstance(value, Mapping) else value for key, value in node.items()}
    if isinstance(target := translated.get("_target_"), str):
        module, _, name = target.rpartition(".")
        target = f"{MOVED[module]}.{name}" if module in MOVED else target
        kept = {key: value for key, value in translated.items() if key not in DROPPED.get(target, ())}
        translated = ADDED.get(target, {}) | kept | {"_target_": target}
    return translated


@cache
def top_level_defaults() -> dict[str, Any]:
    """The keys of `Settings` that a config may lack, with what that means, as a plain config has them."""
    made = {each.name: each.default for each in fields(Settings) if each.default is not MISSING}
    made |= {each.name: each.default_factory() for each in fields(Settings) if each.default_factory is not MISSING}
    return {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in made.items()
    }


def fill(config: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with the keys of `defaults` that it lacks, in nested ones too."""
    filled = dict(config)
    for key, default in defaults.items():
        if isinstance(default, dict):
            own = config.get(key, {})
            filled[key] = fill(own, default) if isinstance(own, dict) else own
        else:
            filled.setdefault(key, default)
    return filled


MAY_BE_CHOSEN = ("metric", "features")  # groups of which a trained run may have another option

# --- a run's config ---------------------------------------------------------------------------------------------------


def read_stored(path: Path) -> dict[str, Any]:
    """The config in a file that a run of this version or an earlier one wrote, in the words of this version.

    Raises ConfigError for one that would take all memory, or all time, to read, and what YAML and OmegaConf raise.
    """
    text = path.read_text(encoding="utf-8")
    if "&" in text and any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
        raise ConfigError(f"{path}: it has aliases, which no run writes: a few lines of them fill the memory")
    plain = OmegaConf.to_container(OmegaConf.create(text))
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: it must be keys and values")
    return translate_stored({str(key): value for key, value in plain.items()})


def stored_config(
    directory: Path, overrides: list[str], config_directory: Path | None = None
) -> tuple[dict[str, Any], list[str]]:
    """A run's config with `key=value` laid over it, and the packages that these overrides trust.

    `metric` and `features` may name options, as for a run, those in a folder of the user's too. A stored `trust` does
    not count: the directory may come from a stranger. Raises ConfigError.
    """
    path = directory / CONFIG
    chosen: dict[str, Any] = {}
    refuse_other_groups(overrides, directory)
    for group in MAY_BE_CHOSEN:
        own = [override for override in overrides if override.startswith((f"{group}=", f"{group}."))]
        if any(override.startswith(f"{group}=") for override in own):
            chosen[group] = compose_packaged(own, config_directory)[group]
            overrides = [override for override in overrides if override not in own]
    if "metric" in chosen:
        chosen["objective"] = None
    try:
        config = DictConfig(read_stored(path) | chosen)
        said = [override.partition("=")[0] + "=" for override in overrides]
        OmegaConf.set_struct(config, True)
        for override in overrides:
            key, separator, value = override.partition("=")
            if not separator:
                raise ConfigError(f"cannot read '{override}'; a setting is key=value")
            if OmegaConf.select(config, key, default=config) is config:
                raise ConfigError(unknown_key(key, value, list(dotted_keys(OmegaConf.to_container(config)))))
            config.merge_with_dotlist([override])
        settle_length(config, {key: config[key] for key in ("steps", "epochs") if f"{key}=" in said})
        plain = to_plain(config)
    except OSError:
        if is_sweep(directory):
            raise ConfigError(f"{directory} is a sweep: say which of its runs, {directory}/NAME") from None
        raise ConfigError(
            f"{directory} is no run directory: it has no .hydra/config.yaml{elsewhere(directory)}"
        ) from None
    except ConfigError:
        raise
    except (YAMLError, OmegaConfBaseException, AssertionError, ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: {(str(error).splitlines() or [type(error).__name__])[0]}") from error
    for group in GROUPS:
        if group not in LIST_GROUPS and not isinstance(plain.get(group), dict):
            raise ConfigError(f"{path}: it has no {group}")
    trusts = any(override.startswith("trust=") for override in overrides)
    return plain, load_settings(plain).trust if trusts else []


def elsewhere(directory: Path) -> str:
    """A hint at the directory in `outputs` that is meant, if there is one of this name, or of one like it."""
    near = get_close_matches(directory.name, [path.name for path in OUTPUTS.glob("*") if path.is_dir()], 1)
    return f"; did you mean '{OUTPUTS / near[0]}'?" if near and OUTPUTS / near[0] != directory else ""


def refuse_other_groups(overrides: list[str], directory: Path) -> None:
    """Refuse another option of a group that a trained run has for good, and what is no option. Raises ConfigError."""
    for override in overrides:
        group, _, value = override.partition("=")
        if group in MAY_BE_CHOSEN and value.startswith("{"):
            raise ConfigError(wants_a_name(group, value))
        if group in GROUPS and group not in MAY_BE_CHOSEN:
            words = without(words_of_run(directory) or [], [group, "name"])  # the name is taken by then
            flags = flags_of(directory / HYDRA)
            line = shlex.join(["gan-runner", *flags, *words, *overrides, f"init_from={directory}"])
            raise ConfigError(f"{override}: a run keeps its {group}; for another one with its weights type {line}")


def without(words: list[str], keys: list[str]) -> list[str]:
    """The words that set none of these keys, nor a key below one."""
    return [word for word in words if not any(re.match(rf"\+*{re.escape(key)}[.=]", word) for key in keys)]
