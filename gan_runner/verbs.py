"""What the verbs share: their flags, and the networks of a run, without what only training needs."""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

from gan_runner import arguments, checkpoint
from gan_runner.build import Built, build
from gan_runner.config import ConfigError
from gan_runner.datasets.data import Recorded

CHECKPOINTS = ("last", "previous", "best")  # those with a name of their own


class Parser(arguments.Parser):
    """Of a verb that builds the networks of a run: its config may be changed."""

    def __init__(self, verb: str, description: str):
        super().__init__(verb, description)
        self.add_argument(
            "overrides", metavar="key=value", nargs="*", help="changes to the stored config, such as device=cpu"
        )

    def add_weights(self) -> None:
        """The flags that choose weights of the run."""
        self.add_argument(
            "--checkpoint",
            default="last",
            metavar=f"{'|'.join(CHECKPOINTS)}|FILE",
            help="the weights to load (default: last)",
        )
        self.add_argument("--raw", action="store_true", help="the weights themselves, not their moving average")


def positive(text: str) -> int:
    """An int of at least 1, for argparse."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def refuse_links(directory: Path, *names: str) -> None:
    """Refuse links, in these places of a directory and below them, that lead out of it: a verb writes only inside.

    A received directory could have it write over one's own files. Raises ConfigError.
    """
    inside = directory.resolve()
    for name in names:
        below = [Path(at) / entry for at, folders, files in os.walk(directory / name) for entry in [*folders, *files]]
        for path in [directory / name, *below]:
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise ConfigError(f"{path} is a link to {os.readlink(path)}: nothing is written outside {directory}")


class Trained(NamedTuple):
    """The networks of a checkpoint."""

    built: Built
    checkpoint: Path
    step: int


def load_trained(options: argparse.Namespace, config: dict[str, Any], trust: list[str], *, with_data: bool) -> Trained:
    """The networks that `options` name, of a stored config; `with_data` loads the dataset too, and keeps the metrics.

    Raises ConfigError where directory, checkpoint and config do not fit.
    """
    path = Path(options.checkpoint)
    if options.checkpoint in CHECKPOINTS:
        path = options.directory / "checkpoints" / f"{options.checkpoint}.pt"
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
    if options.raw:
        built.game.moving_average = None
    return Trained(built, path, saved["step"])


def networks_alone(config: dict[str, Any]) -> dict[str, Any]:
    """The config without what only training needs: a penalty of the user's own package need not be at hand."""
    wrappers = {name: node for name, node in (config.get("regularizer") or {}).items() if node.get("role") == "wrapper"}
    loss = config["loss"] if "autoencoder" in config["model"] else {"_target_": "gan_runner.losses.Wasserstein"}
    optimizer = {"_target_": "torch.optim.SGD", "lr": 0.0}
    return config | {"regularizer": wrappers, "augmentation": {}, "loss": loss, "optimizer": optimizer}
