"""`gan-runner sample DIR`: images from the generator of a run."""

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from gan_runner.cli.parser import RunParser, checkpoint_path, positive, refuse_links, truncation_suffix
from gan_runner.config.errors import ConfigError
from gan_runner.config.stored import stored_config
from gan_runner.games.game import Game
from gan_runner.runs import image_grid
from gan_runner.runs.build import arithmetic_of
from gan_runner.runs.load import load_trained
from gan_runner.runs.sampling import choose_labels, draw_latents, draw_samples
from gan_runner.storage.atomic_files import write_atomically, write_bytes


def parser() -> RunParser:
    """The verb's flags."""
    parser = RunParser("sample", "Draw samples from the generator of a run, into DIR/generated/.")
    parser.add_weights()
    parser.add_argument("--count", type=positive, default=64, metavar="N", help="how many (default: 64)")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--images", action="store_true", help="one PNG for each sample, instead of a grid")
    form.add_argument("--out", type=npz, metavar="FILE.npz", help="an array `samples` in this file, instead of a grid")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the latents (default: 0)")
    parser.add_argument(
        "--interpolate", action="store_true", help="each row of the grid walks from one latent to another, in 8 samples"
    )
    parser.add_argument(
        "--labels", type=whole_numbers, metavar="N,N,...", help="classes, in turn, of a conditional run (default: all)"
    )
    return parser


def npz(text: str) -> Path:
    """A path that ends in .npz, for argparse."""
    if not text.endswith(".npz"):
        raise argparse.ArgumentTypeError(f"must end in .npz, not {text}")
    return Path(text)


def whole_numbers(text: str) -> list[int]:
    """Ints between commas, for argparse."""
    return [int(part) for part in text.split(",")]


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory, the checkpoint or an override does not fit."""
    options = parser().parse_intermixed_args(arguments)
    refuse_links(options.directory, "generated")
    config, trust = stored_config(options.directory, options.overrides)
    trained = load_trained(
        checkpoint_path(options), config, trust, raw=options.raw, truncation=options.truncation, with_data=False
    )
    game = trained.built.game
    latents = draw_latents(game, options.seed, options.count, options.interpolate)
    try:
        labels = choose_labels(game, options.labels, options.count)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None
    with arithmetic_of(trained.built.settings, print):
        samples = draw_samples(game, latents, labels)
    for path in save_samples(game, samples, options):
        print(path)


def save_samples(game: Game, samples: Tensor, options: argparse.Namespace) -> list[Path]:
    """Write what was asked for, and return where."""
    is_images = len(game.data.shape) == 3
    content = (game.data.to_pixels(samples) if is_images else samples).cpu()
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(options.out, lambda file: np.savez(file, samples=content.numpy()))
        return [options.out]
    stem = f"seed_{options.seed}{'_interpolation' if options.interpolate else ''}"
    stem += f"{truncation_suffix(options)}{'_raw' if options.raw else ''}"
    if is_images and options.images:
        drawn = {f"{stem}_{number:05d}": image_grid.image(single) for number, single in enumerate(content)}
    elif is_images:
        drawn = {stem: image_grid.tile(content, columns=8 if options.interpolate else None)}
    elif options.images:
        raise ConfigError(
            "--images: this run generates points; without it they are plotted, with --out FILE.npz written"
        )
    else:
        limits = game.data.limits or (float(content.min()), float(content.max()))
        drawn = {stem: image_grid.scatter(content[:0], content, limits)}
    paths = {options.directory / "generated" / f"{name}.png": picture for name, picture in drawn.items()}
    for path, picture in paths.items():
        write_bytes(path, image_grid.png(picture))
    return list(paths)
