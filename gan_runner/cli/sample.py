"""`gan-runner sample DIR`: images from the generator of a run."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from gan_runner.cli.parser import COUNT, WALK, checkpoint_path, digest, refuse_links, weights_in_name
from gan_runner.cli.parser import sample_parser as parser
from gan_runner.config.errors import ConfigError
from gan_runner.config.stored import stored_config
from gan_runner.games.game import Game
from gan_runner.storage.atomic_files import write_atomically, write_bytes
from gan_runner.training import image_grid
from gan_runner.training.build import arithmetic_of, load_data
from gan_runner.training.load import load_trained
from gan_runner.training.sampling import choose_labels, draw_latents, draw_samples

POINTS = 1000  # real points in a scatter plot
LONGEST = 40  # characters of the labels in a file's name


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory, the checkpoint or an override does not fit."""
    options = parser().parse_intermixed_args(arguments)
    refuse_links(options.directory, "generated")
    config, trust = stored_config(options.directory, options.overrides, options.config_dir)
    trained = load_trained(
        checkpoint_path(options), config, trust, raw=options.raw, truncation=options.truncation, with_data=False
    )
    game = trained.built.game
    each = WALK if options.interpolate else 1
    latents = draw_latents(game, options.seed, options.count, each)
    try:
        labels = choose_labels(game, options.labels, options.count, each)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    with arithmetic_of(trained.built.settings, print):
        samples = draw_samples(game, latents, labels)
    if options.out:
        save_arrays(game, samples, latents, labels, options.out)
        print(options.out)
        return
    real = real_points(config, trust) if len(game.data.shape) == 1 and not options.images else None
    for path in save_pictures(game, samples, labels, real, options):
        print(path)


def real_points(config: dict[str, Any], trust: list[str]) -> Tensor | None:
    """Real points (N, D) to draw beside the samples, or None, with a line that says why, where they are not at hand."""
    try:
        return load_data(config["dataset"], trust).fixed(POINTS)[0]
    except ConfigError as error:
        print(f"without real points: {error}")
        return None


def save_arrays(game: Game, samples: Tensor, latents: Tensor, labels: Tensor, path: Path) -> None:
    """Write samples (N, *sample), images as uint8, with their latents (N, Z) and, where there are some, labels (N,)."""
    arrays = {"samples": shown(game, samples), "latents": latents}
    if game.is_conditional:
        arrays["labels"] = labels
    on_host: dict[str, Any] = {name: array.cpu().numpy() for name, array in arrays.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lambda file: np.savez(file, **on_host))


def save_pictures(
    game: Game, samples: Tensor, labels: Tensor, real: Tensor | None, options: argparse.Namespace
) -> list[Path]:
    """Write what was asked for below DIR/generated/, and return where."""
    content, stem = shown(game, samples).cpu(), picture_name(options)
    is_images = len(game.data.shape) == 3
    if is_images and options.images:
        drawn = {f"{stem}_{number:05d}": image_grid.image(single) for number, single in enumerate(content)}
    elif is_images and options.interpolate:
        drawn = {stem: image_grid.tile(content, columns=WALK)}
    elif is_images and game.is_conditional:
        drawn = {stem: image_grid.tile_classes(content, labels.cpu())}
    elif is_images:
        drawn = {stem: image_grid.tile(content)}
    elif options.images:
        raise ConfigError(
            "--images: this run generates points; without it they are plotted, with --out FILE.npz written"
        )
    else:
        limits = game.data.limits or (float(content.min()), float(content.max()))
        drawn = {stem: image_grid.scatter(content[:0] if real is None else real, content, limits)}
    paths = {options.directory / "generated" / f"{name}.png": picture for name, picture in drawn.items()}
    for path, picture in paths.items():
        write_bytes(path, image_grid.png(picture))
    return list(paths)


def shown(game: Game, samples: Tensor) -> Tensor:
    """Samples as people see them: images as uint8, points as they are."""
    return game.data.to_pixels(samples) if len(game.data.shape) == 3 else samples


def picture_name(options: argparse.Namespace) -> str:
    """The name of a picture without its suffix: whatever makes other samples makes another name."""
    parts = [f"seed_{options.seed}"]
    if options.count != COUNT:
        parts.append(f"count_{options.count}")
    if options.interpolate:
        parts.append("interpolation")
    if options.labels:
        labels = "_".join(map(str, options.labels))
        parts.append(f"labels_{labels if len(labels) <= LONGEST else digest(labels)}")
    return "_".join([*parts, *weights_in_name(options)])
