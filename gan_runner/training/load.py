"""The networks of a trained run, from its directory alone: without what only training needs."""

from pathlib import Path
from typing import Any, NamedTuple

from gan_runner.config.errors import ConfigError
from gan_runner.datasets.data import Recorded
from gan_runner.storage import checkpoint
from gan_runner.training.build import Built, build


class Trained(NamedTuple):
    """The networks of a checkpoint."""

    built: Built
    checkpoint: Path
    step: int


def load_trained(
    path: Path, config: dict[str, Any], trust: list[str], *, raw: bool, truncation: float | None, with_data: bool
) -> Trained:
    """The networks of the checkpoint at `path`, of its run's config; `raw` leaves out the moving average.

    `truncation` cuts the tails of the latents' distribution, where it has some. `with_data` loads the dataset too, and
    keeps the metrics.
    Raises ConfigError where checkpoint and config do not fit, and where the latents cannot be truncated.
    """
    try:
        saved = checkpoint.load(path)
        needed = networks_alone(config) | ({} if with_data else {"metric": {}, "objective": None})
        built = build(needed, trust, None if with_data else Recorded(saved["data"]))
    except ConfigError:
        raise
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{path}: it has no {error}" if isinstance(error, KeyError) else str(error)) from error
    try:
        built.game.load_networks(saved["game"])
    except Exception as error:  # whatever PyTorch stumbles over
        first = (str(error).splitlines() or [""])[-1].strip()
        raise ConfigError(f"{path}: its weights are not those of this config: {first}") from error
    if raw:
        built.game.moving_average = None
    elif with_data and built.game.moving_average:
        built.game.estimate_statistics()  # `ema_statistics` may be another now
    if truncation is not None:
        try:
            built.game.truncate(truncation)
        except ValueError as error:
            raise ConfigError(f"--truncation: {error}") from error
    return Trained(built, path, saved["step"])


def networks_alone(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what only training needs: a penalty of the user's own package need not be at hand."""
    regularizers = (config.get("regularizer") or {}).items()
    kept = {name: node for name, node in regularizers if node.get("role") == "parametrization"}
    loss = config["loss"]
    if "autoencoder" not in config["model"] and not str(loss.get("_target_")).startswith("gan_runner."):
        loss = {"_target_": "gan_runner.losses.Wasserstein"}
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.0}
    alone = {"devices": 1, "accumulate": 1}
    return config | alone | {
        "regularizer": kept, "augmentation": {}, "loss": loss, "optimizer": optimizer, "logger": {},
    }  # fmt: skip
