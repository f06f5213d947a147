"""`gan-runner export DIR`: a run's generator as a file for elsewhere, with a model card."""

import argparse
import hashlib
from pathlib import Path
from typing import Any

from torch import Tensor

from gan_runner.cli.parser import checkpoint_path, refuse_links
from gan_runner.cli.parser import export_parser as parser
from gan_runner.config.errors import ConfigError
from gan_runner.config.stored import stored_config
from gan_runner.games.game import Game
from gan_runner.storage.atomic_files import write_bytes
from gan_runner.training import image_grid
from gan_runner.training.exporters import export, missing_packages
from gan_runner.training.load import load_trained
from gan_runner.training.model_card import Exported, model_card
from gan_runner.training.sampling import choose_labels, draw_latents, draw_samples

SHOWN = 64  # samples in the card's picture


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory does not fit, or the file's outputs are not the run's."""
    options = parser().parse_intermixed_args(arguments)
    path = options.out or options.directory / "export" / f"generator.{options.format}"
    if path.suffix != f".{options.format}":
        raise ConfigError(f"--out {path}: the name must end in .{options.format}")
    if missing := missing_packages(options.format):
        raise ConfigError(
            f"--format {options.format}: {', '.join(missing)} not installed: pip install 'gan-runner[export]'"
        )
    refuse_links(options.directory, "export")
    config, trust = stored_config(options.directory, options.overrides, options.config_dir)
    write_export(options, config | {"device": "cpu"}, trust, path)


def write_export(options: argparse.Namespace, config: dict[str, Any], trust: list[str], path: Path) -> None:
    """Write the file, its picture and its card, and print where. Raises ConfigError."""
    trained = load_trained(checkpoint_path(options), config, trust, raw=options.raw, truncation=None, with_data=False)
    game = trained.built.game
    try:
        difference = export(game, config, trained.step, options.format, path)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    exported = Exported(path, options.format, digest, difference, trained.step)
    write_bytes(path.with_suffix(".png"), picture(game))
    card = path.with_name(f"{path.name}.md")
    write_bytes(card, model_card(options.directory, game, config, exported).encode())
    print(f"{path}: its outputs are within {difference:.1g} of the run's")
    print(card)


def picture(game: Game) -> bytes:
    """A PNG of samples."""
    samples: Tensor = draw_samples(game, draw_latents(game, 0, SHOWN), choose_labels(game, None, SHOWN)).cpu()
    if samples.dim() == 4:
        return image_grid.png(image_grid.tile(game.data.to_pixels(samples)))
    limits = game.data.limits or (float(samples.min()), float(samples.max()))
    return image_grid.png(image_grid.scatter(samples[:0], samples, limits))
