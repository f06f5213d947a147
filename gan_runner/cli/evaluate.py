"""`gan-runner evaluate DIR`: the metrics of a run's checkpoint, and the training samples nearest to what it makes."""

import argparse
import json
from functools import partial
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gan_runner.cli.parser import NEIGHBORS, checkpoint_path, refuse_links, weights_in_name
from gan_runner.cli.parser import evaluate_parser as parser
from gan_runner.config.check import load_settings
from gan_runner.config.errors import ConfigError
from gan_runner.config.stored import stored_config
from gan_runner.games.game import Game
from gan_runner.reporting.formats import ARROWS, new_table
from gan_runner.storage.atomic_files import json_safe, write_bytes
from gan_runner.training import image_grid
from gan_runner.training.build import arithmetic_of
from gan_runner.training.evaluation import Evaluator, Generation, floors, one_by_one
from gan_runner.training.load import load_trained

NEAREST = 7  # training samples beside each generated one


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory, the checkpoint or an override does not fit."""
    options = parser().parse_intermixed_args(arguments)
    refuse_links(options.directory, "generated", "evaluations.jsonl")
    config, trust = stored_config(options.directory, options.overrides, options.config_dir)
    console = Console(highlight=False, soft_wrap=True)
    with arithmetic_of(load_settings(config), partial(console.print, markup=False)):
        evaluate(options, config, trust, console)


def evaluate(options: argparse.Namespace, config: dict[str, Any], trust: list[str], console: Console) -> None:
    """Do what the flags say, of a stored config. Raises ConfigError where the two do not fit."""
    trained = load_trained(
        checkpoint_path(options), config, trust, raw=options.raw, truncation=options.truncation, with_data=True
    )
    game, evaluator = trained.built.game, trained.built.evaluator
    if options.neighbors:
        if options.split != "training":
            raise ConfigError(f"--split {options.split}: --neighbors looks for training images; leave one of them out")
        count = [f"count_{options.neighbors}"] if options.neighbors != NEIGHBORS else []
        name = "_".join(["neighbors", *count, *weights_in_name(options)]) + ".png"
        path = options.directory / "generated" / name
        write_bytes(path, draw_neighbors(game, options.neighbors, console))
        console.print(path, markup=False)
        return
    if not evaluator.metrics:
        raise ConfigError(f"{options.directory}: this run has no metric; say metric=NAME")
    evaluator.split, evaluator.is_of_both = options.split, True
    evaluator.prepare(game.data, lambda line: console.print(line, markup=False))
    found = {"step": trained.step, "checkpoint": str(trained.checkpoint), "truncation": options.truncation}
    record = found | evaluator.evaluate(game)
    with (options.directory / "evaluations.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(json_safe(record)) + "\n")
    console.print(table(record, evaluator), markup=False)


def table(record: dict[str, Any], evaluator: Evaluator) -> Table:
    """A record for people; where the floor is one of fewer samples, with a row of as few."""
    title = f"step {record['step']:,}, {record['weights']} weights"
    if evaluator.split != "training":
        title += f", against the {evaluator.split} split"
    if record["truncation"] is not None:
        title += f", truncation {record['truncation']:g}"
    table = new_table(title)
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("real data", justify="right")
    table.add_column("of samples", overflow="fold")
    for name, measured in record["metrics"].items():
        for key, value in measured["values"].items():
            floor = floors(record).get(f"metric/{name}/{key}")
            shown = f"{floor['floor']:.5g}" if floor and not floor["is_fewer"] else ""
            arrow = ARROWS[evaluator.metrics[name].higher_is_better[key]]
            table.add_row(f"{name}.{key}{arrow}", f"{value:.5g}", shown, counts_text(measured))
            if floor and floor["is_fewer"]:
                table.add_row("", f"{floor['value']:.5g}", f"{floor['floor']:.5g}", counts_text(floor))
            both = measured.get("held_out", {"values": {}})
            if key in both["values"]:
                table.add_row("  to held-out data", f"{both['values'][key]:.5g}", "", counts_text(both))
                table.add_row("  to training data", f"{both['training'][key]:.5g}", "", counts_text(both))
    return table


def counts_text(counts: dict[str, Any]) -> str:
    """'10,000 and 1,617 real'."""
    return f"{counts['generated']:,}" + (f" and {counts['real']:,} real" if counts["real"] else "")


def draw_neighbors(game: Game, count: int, console: Console) -> bytes:
    """A PNG with a row for each of `count` samples: it, and the training images nearest to it in pixels, from the left.

    A generator that has learnt its data by heart draws the second column in the first. The medians of the distances to
    the nearest one, of samples and of held-out images, are printed.
    """
    if len(game.data.shape) != 3:
        raise ConfigError("--neighbors: it shows images, and this run generates points")
    training = game.data.training(None if game.data.size else 10_000)[0]
    samples = torch.cat(one_by_one(Generation(game, count, seed=0)))
    distances, rows = nearest(samples, training, NEAREST)
    line = f"median distance to the nearest training image, per pixel of 255: {distances[:, 0].median():.1f}"
    held_out = game.data.held_out(count)
    if held_out is not None:
        of_held_out, _ = nearest(game.data.to_pixels(held_out[0]).cpu(), training, 1)
        line += f"; of held-out images {of_held_out[:, 0].median():.1f}"
    console.print(line, markup=False)
    shown = torch.cat([samples[:, None], training[rows]], dim=1)  # (count, 1 + NEAREST, C, H, W)
    grid = image_grid.tile(shown.flatten(0, 1), columns=shown.shape[1])
    captions = ["first column: generated", f"then the {rows.shape[1]} nearest training images"]
    return image_grid.png(image_grid.with_caption(grid, captions))


def nearest(images: Tensor, training: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Root mean squared distances (N, count) of uint8 images (N, C, H, W) to the nearest, and the rows of these."""
    flat = images.flatten(1).float()
    best = torch.full((len(images), 0), 0.0), torch.zeros(len(images), 0, dtype=torch.long)
    for start in range(0, len(training), 10_000):
        some = torch.cdist(flat, training[start : start + 10_000].flatten(1).float()) / flat.shape[1] ** 0.5
        rows = torch.arange(start, start + some.shape[1]).expand_as(some)
        both, numbers = torch.cat([best[0], some], 1), torch.cat([best[1], rows], 1)
        chosen = both.topk(min(count, both.shape[1]), largest=False)
        best = chosen.values, numbers.gather(1, chosen.indices)
    return best
