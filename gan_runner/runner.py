"""One run, from a plain config to a finished run directory."""

import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from gan_runner import __version__, checkpoint
from gan_runner.build import Built, build
from gan_runner.config import ConfigError, TrainingFailed
from gan_runner.games.game import Game
from gan_runner.log import RunLog, flatten
from gan_runner.run_directory import RunDirectory
from gan_runner.train import Interrupted, train


def prepare(config: dict[str, Any], trust: list[str]) -> Callable[..., float | None]:
    """Build all that a config describes, and return what trains it. Raises ConfigError before anything is written."""
    built = build(config, trust)
    if built.settings.init_from:
        load_weights(built.game, Path(built.settings.init_from))

    said: list[str] = []

    def say(line: str) -> None:  # the run has no log yet, and training a feature network takes a while
        print(line, flush=True)
        said.append(line)

    built.evaluator.prepare(built.game.data, say)
    return partial(run, built, flatten(config), said)


def run(
    built: Built,
    hyperparameters: dict[str, Any],
    said: list[str],
    path: Path,
    *,
    documents: dict[str, str],
    title: str,
    notes: list[str],
) -> float | None:
    """Claim the directory, train, and say in summary.json how it ended; the best value of the objective is returned.

    Raises ConfigError if the directory cannot be had, SystemExit after an interruption, TrainingFailed from whatever
    training raised.
    """
    game, settings, steps, changes, evaluator = built
    parameters = {name: sum(p.numel() for p in player.network.parameters()) for name, player in game.players.items()}
    device, shown_path = describe_device(game.randomness.device), shorten(path)
    try:
        directory = RunDirectory.claim(path, documents)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    try:
        directory.update(parameters=parameters, device=device, threads=torch.get_num_threads())
        with RunLog(path, steps, hyperparameters) as log:
            for line in said:
                log.say(line, to_terminal=False)
            log.say(f"gan-runner {__version__}: {title}")
            log.say(f"{steps:,} steps on {device}, {settings.precision}")
            log.say(", ".join(f"{name} {count:,} parameters" for name, count in parameters.items()))
            for note in [*notes, *changes]:
                log.say(f"note: {note}")
            try:
                best = train(game, evaluator, settings, steps=steps, directory=directory, log=log)
            except (Interrupted, KeyboardInterrupt) as interruption:
                directory.update(status="interrupted", reason=str(interruption) or "SIGINT")
                saved = "saved" if (directory.checkpoints / "last.pt").exists() else "nothing saved yet"
                log.say(f"interrupted at step {directory.summary['step']:,}; {saved} in {shown_path}")
                raise SystemExit(getattr(interruption, "exit_code", 130)) from None
            except Exception as error:
                log.say("".join(traceback.format_exception(error)), to_terminal=False)
                raise
            directory.update(status="completed")
            log.say(
                f"done in {directory.summary['wall_time']:.0f} s, {directory.summary['images_per_second']:.0f} images/s"
            )
            for line in describe_evaluation(directory.summary):
                log.say(line)
            log.say(f"samples, losses and checkpoints in {shown_path}")
            return best
    except Exception as error:
        directory.update(status="failed", reason=f"{type(error).__name__}: {error}")
        raise TrainingFailed from error


def describe_evaluation(summary: dict[str, Any]) -> list[str]:
    """The last values of the metrics, and the best of the objective, for people."""
    values = {tag.removeprefix("metric/"): value for tag, value in summary["metrics"].items() if "metric/" in tag}
    lines = ["  ".join(f"{name} {value:.4g}" for name, value in values.items())] if values else []
    if best := summary.get("best"):
        name = best["objective"].removeprefix("metric/")
        lines.append(f"best {name} {best['value']:.4g}, at step {best['step']:,}: checkpoints/best.pt")
    return lines


def load_weights(game: Game, source: Path) -> None:
    """Start from the networks of another run's last checkpoint; everything else starts afresh."""
    try:
        game.load_networks(checkpoint.load(source / "checkpoints" / "last.pt")["game"])
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"init_from={source}: {' '.join(str(error).split())[:300]}") from error


def describe_device(device: torch.device) -> str:
    """A device as people call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def shorten(path: Path) -> Path:
    """The path as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
