"""One run, from a plain config to a finished run directory."""

import traceback
from pathlib import Path
from typing import Any

import torch

from gan_runner import __version__, checkpoint
from gan_runner.build import build
from gan_runner.config import ConfigError
from gan_runner.games.game import Game
from gan_runner.log import RunLog, flatten
from gan_runner.run_directory import RunDirectory
from gan_runner.train import Interrupted, train


def run(
    config: dict[str, Any], path: Path, *, documents: dict[str, str], title: str, notes: list[str], trust: list[str]
) -> None:
    """Build, claim the directory, train, and say in summary.json how it ended.

    Raises ConfigError before the directory is claimed, SystemExit after an interruption, and whatever training raises.
    """
    game, settings, steps = build(config, trust)
    if settings.init_from:
        load_weights(game, Path(settings.init_from))
    try:
        directory = RunDirectory.claim(path, documents)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    parameters = {name: sum(p.numel() for p in player.network.parameters()) for name, player in game.players.items()}
    device = game.randomness.device
    directory.update(parameters=parameters, device=describe_device(device), threads=torch.get_num_threads())
    shown_path = shorten(path)
    with RunLog(path, steps, flatten(config)) as log:
        log.say(f"gan-runner {__version__}: {title}")
        counts = ", ".join(f"{name} {count:,} parameters" for name, count in parameters.items())
        log.say(f"{counts}; {steps:,} steps on {describe_device(device)}")
        for note in notes:
            log.say(f"note: {note}")
        try:
            train(game, settings, steps, directory, log)
        except (Interrupted, KeyboardInterrupt) as interruption:
            directory.update(status="interrupted", reason=str(interruption) or "SIGINT")
            log.say(f"interrupted at step {directory.summary['step']:,}; saved in {shown_path}")
            raise SystemExit(getattr(interruption, "exit_code", 130)) from None
        except BaseException as error:
            directory.update(status="failed", reason=f"{type(error).__name__}: {error}")
            log.say("".join(traceback.format_exception(error)), to_terminal=False)
            raise
        directory.update(status="completed")
        wall_time, rate = directory.summary["wall_time"], directory.summary["images_per_second"]
        log.say(f"done in {wall_time:.0f} s ({rate:.0f} images/s); samples, losses and checkpoints in {shown_path}")


def load_weights(game: Game, source: Path) -> None:
    """Start from the networks of another run's last checkpoint; everything else starts afresh."""
    try:
        saved = checkpoint.load(source / "checkpoints" / "last.pt")["game"]
        for name, player in game.players.items():
            player.network.load_state_dict(saved[name]["network"])
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"init_from={source}: {' '.join(str(error).split())[:300]}") from error
    if game.moving_average:
        shown = saved.get("moving_average", saved["generator"]["network"])
        game.moving_average.network.load_state_dict(shown)


def describe_device(device: torch.device) -> str:
    """A device as people call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def shorten(path: Path) -> Path:
    """The path as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
