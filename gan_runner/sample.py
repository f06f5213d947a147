"""`gan-runner sample DIR`: images from the generator of a run."""

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gan_runner import checkpoint, pictures
from gan_runner.build import build
from gan_runner.config import ConfigError, stored_config
from gan_runner.datasets.data import Recorded
from gan_runner.files import write_atomically, write_bytes
from gan_runner.games.game import Game
from gan_runner.randomness import fixed_randomness

BATCH = 256  # samples generated at once


def parser() -> argparse.ArgumentParser:
    """The verb's flags."""
    parser = argparse.ArgumentParser(
        prog="gan-runner sample", description="Draw samples from the generator of a run, into DIR/generated/."
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="a run directory")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", help="changes to the stored config, such as device=cpu"
    )
    parser.add_argument("--count", type=positive, default=64, metavar="N", help="how many (default: 64)")
    parser.add_argument("--images", action="store_true", help="one PNG for each sample, instead of a grid")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.npz", help="an array `samples` in this file, instead of a grid"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the latents (default: 0)")
    parser.add_argument(
        "--checkpoint", default="last", metavar="last|previous|best|FILE", help="the weights to load (default: last)"
    )
    parser.add_argument("--raw", action="store_true", help="the weights themselves, not their moving average")
    parser.add_argument(
        "--interpolate", action="store_true", help="each row of the grid walks from one latent to another, in 8 samples"
    )
    return parser


def positive(text: str) -> int:
    """An int of at least 1, for argparse."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory, the checkpoint or an override does not fit."""
    options = parser().parse_intermixed_args(arguments)
    config, trust = stored_config(options.directory, options.overrides)
    names = {name: options.directory / "checkpoints" / f"{name}.pt" for name in ("last", "previous", "best")}
    path = names.get(options.checkpoint, Path(options.checkpoint))
    try:
        saved = checkpoint.load(path)
        game, _, _ = build(config, trust, Recorded(saved["data"]))
        game.load_state_dict(saved["game"])
    except ConfigError:
        raise
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())[:300]}") from error
    if options.raw:
        game.moving_average = None
    latents = draw_latents(game, options.seed, options.count, options.interpolate)
    samples = torch.cat([game.sample(chunk, None) for chunk in latents.split(BATCH)])
    for path in save(game, samples, options):
        print(path)


def draw_latents(game: Game, seed: int, count: int, interpolate: bool) -> Tensor:
    """(count, latent_size); in rows of 8 on a great circle from one latent to another, if asked."""
    randomness = fixed_randomness(seed, "sample", game.randomness.device)
    if not interpolate:
        return game.draw_latents(randomness, count)
    rows = -(-count // 8)
    start, end = game.draw_latents(randomness, 2 * rows).unsqueeze(1).chunk(2)  # (rows, 1, latent_size)
    # A straight line would pass through latents shorter than any the generator has seen (White 2016, arXiv:1609.04468).
    angle = torch.arccos(torch.nn.functional.cosine_similarity(start, end, dim=-1)).unsqueeze(-1)
    position = torch.linspace(0, 1, 8, device=start.device).view(1, -1, 1)
    walk = (torch.sin((1 - position) * angle) * start + torch.sin(position * angle) * end) / torch.sin(angle)
    return walk.flatten(0, 1)[:count]


def save(game: Game, samples: Tensor, options: argparse.Namespace) -> list[Path]:
    """Write what was asked for, and return where."""
    is_images = len(game.data.shape) == 3
    content = (game.data.to_pixels(samples) if is_images else samples).cpu()
    if options.out:
        write_atomically(options.out, lambda file: np.savez(file, samples=content.numpy()))
        return [options.out]
    stem = f"seed_{options.seed}{'_interpolation' if options.interpolate else ''}{'_raw' if options.raw else ''}"
    if is_images and options.images:
        drawn = {f"{stem}_{number:05d}": pictures.image(single) for number, single in enumerate(content)}
    elif is_images:
        drawn = {stem: pictures.grid(content, columns=8 if options.interpolate else None)}
    elif options.images:
        raise ConfigError(
            "--images: this run generates points; without it they are plotted, with --out FILE.npz written"
        )
    else:
        limits = game.data.limits or (float(content.min()), float(content.max()))
        drawn = {stem: pictures.scatter(content[:0], content, limits)}
    paths = {options.directory / "generated" / f"{name}.png": picture for name, picture in drawn.items()}
    for path, picture in paths.items():
        write_bytes(path, pictures.png(picture))
    return list(paths)
