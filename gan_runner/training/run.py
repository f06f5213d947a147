"""One run, from a plain config to a finished run directory; and from a run directory that is not finished."""

import contextlib
import errno
import shlex
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from gan_runner import __version__
from gan_runner.config.compose import RunConfig
from gan_runner.config.errors import ConfigError, Stopped, TrainingFailed, out_of_memory
from gan_runner.config.keys import hyperparameters
from gan_runner.config.schema import Settings
from gan_runner.datasets.data import Data
from gan_runner.datasets.on_disk import UnreadableError
from gan_runner.games.cuda_graph import CapturedStep, why_not_capturable
from gan_runner.games.game import Game
from gan_runner.games.player import Values
from gan_runner.storage import checkpoint
from gan_runner.storage.outputs import check_free
from gan_runner.storage.run_directory import RunDirectory, versions
from gan_runner.training.budgets import count_parameters
from gan_runner.training.build import Built, arithmetic_of, build, refuse_giants, refuse_ignored
from gan_runner.training.log import RunLog, Terminal
from gan_runner.training.loop import TrainingLoop, run_loop, training_loop
from gan_runner.training.processes import Group, last_good, threads_of_each
from gan_runner.training.recorder import Diverged, Pruned
from gan_runner.training.signals import Interrupted, StopRequest, interruptible


class PreparedRun(NamedTuple):
    """A run that is built and has its directory: `supervised_loop` goes on from here."""

    built: Built
    directory: RunDirectory
    lines: list[str]
    """What its log begins with."""
    said: list[str]
    """What its log holds before that: it was printed already."""
    hyperparameters: dict[str, Any]
    notes: list[str]
    """Lines that its log gets at the next log point."""
    done: int | None = None
    """Steps that a resumed run has done."""
    memory: dict[str, Any] | None = None
    """What its recorder remembers of them."""


def prepare(config: dict[str, Any], trust: list[str], data: Data | None = None) -> Callable[..., float | None]:
    """Build all that a config describes, and return what trains it. Raises ConfigError before anything is written.

    `data` is the config's dataset, where it has been loaded before.
    """
    return partial(train_new_run, build_run(config, trust, data), config)


def start(composed: RunConfig, trust: list[str], path: Path) -> float | None:
    """Train the run that a command line describes in a directory of its own. Raises as `prepare` and `train`."""
    train_in = prepare(composed.plain, trust)
    given = {name: getattr(composed, name) for name in ("options", "title", "notes", "hydra_files")}
    return train_in(path, **given)


def build_run(config: dict[str, Any], trust: list[str], data: Data | None = None) -> Built:
    """All that a config describes, with the weights that it starts from. Raises ConfigError."""
    refuse_giants(config, trust)
    built = build(config, trust, data)
    refuse_ignored(built, config, trust)
    if built.settings.init_from:
        load_initial_weights(built.game, Path(built.settings.init_from))
    return built


def prepare_evaluation(built: Built) -> list[str]:
    """Have the metrics ready, and return what was said about it: the run has no log yet, and this can take a while.

    Raises SystemExit where a signal ended it.
    """
    said: list[str] = []
    terminal = Terminal()

    def say(line: str) -> None:
        terminal.say(line)
        said.append(line)

    try:
        with arithmetic_of(built.settings, say), interruptible():
            built.evaluator.prepare(built.game.data, say)
    except Interrupted as interruption:
        say(f"interrupted by {interruption} before the first step; the same line starts again")
        raise SystemExit(interruption.exit_code) from None
    return said


def train_new_run(built: Built, config: dict[str, Any], path: Path, **given: Any) -> float | None:
    """Train in a directory of its own, and return the best objective. Raises as `create_run` and `train`."""
    return train(create_run(built, config, path, **given))


def create_run(
    built: Built,
    config: dict[str, Any],
    path: Path,
    *,
    hydra_files: dict[str, str],
    title: str,
    notes: list[str],
    options: dict[str, str] | None = None,
) -> PreparedRun:
    """Take the directory for a new run; `options` are those that were chosen in config groups, by dotted key.

    Raises ConfigError if it cannot be had.
    """
    about = {"horizon": built.steps, "options": options or {}}
    try:
        check_free(path)
        said = prepare_evaluation(built)
        directory = RunDirectory.create(path, hydra_files, about | metadata(built))
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    lines = [f"gan-runner {__version__}: {title}", *outline(built), *(f"note: {note}" for note in notes)]
    return PreparedRun(built, directory, lines, said, hyperparameters(config, options or {}), [])


def resume(config: dict[str, Any], trust: list[str], path: Path, **options: Any) -> None:
    """Go on with the run in a directory, if it is not finished. Raises as `restore_run` and `train`."""
    if prepared := restore_run(config, trust, path, **options):
        train(prepared)


def restore_run(
    config: dict[str, Any],
    trust: list[str],
    path: Path,
    *,
    hydra_files: dict[str, str],
    any_version: bool = False,
    data: Data | None = None,
) -> PreparedRun | None:
    """The run in a directory, from its newest checkpoint that is whole, by a config that fits it; None if finished.

    Raises ConfigError, before anything is changed, where that cannot be.
    """
    try:
        directory = RunDirectory.restore(path)
    except (OSError, ValueError) as error:
        raise ConfigError(str(error)) from error
    with ExitStack() as held:  # of what is raised, or where there is nothing to do, the directory is free again
        held.enter_context(directory)
        try:
            saved, warning = checkpoint.load_newest(directory.checkpoints)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        began = saved["versions"] if saved else versions()
        if not any_version:
            check_torch(began["torch"])
        built = build(config, trust, data, horizon=directory.summary.get("horizon"))
        done, memory = load_state(built, saved, path) if saved else (0, None)
        saved = None  # or the run would keep a second copy of its weights
        if built.settings.init_from and not memory:
            load_initial_weights(built.game, Path(built.settings.init_from))
        is_pending = memory is not None and memory["pending"] is not None
        if done > built.steps:
            raise ConfigError(
                f"{path}: {done:,} steps are done, more than the {built.steps:,} asked for;"
                " steps=N goes on with a larger N"
            )
        if done == built.steps and not is_pending:
            if directory.summary["status"] in ("running", "interrupted"):  # killed on its last lines
                directory.update(status="completed", reason=None, step=done)
            print(f"{path} is finished: {done:,} steps done of {built.steps:,}; steps=N would go on")
            return None
        said = prepare_evaluation(built)
        notes = [f"warning: {warning}"] if warning else []
        if (older := began["gan_runner"]) != __version__:
            notes.append(f"warning: gan_runner {older} saved it, and {__version__} goes on as that would, to rounding")
        for unit, now in (("processes", built.process.world_size), ("threads", threads_of_each(built))):
            before = directory.summary.get(unit, 1 if unit == "processes" else now)
            if before != now and (unit == "processes" or built.game.randomness.device.type == "cpu"):
                notes.append(f"warning: {now} {unit}, and there were {before}: the numbers go on as before to rounding")
        try:
            if warning:
                checkpoint.set_damaged_aside(directory.checkpoints)
            directory.write(hydra_files)
            directory.go_on(done, done - is_pending, memory["best"] if memory else None, metadata(built))
        except OSError as error:
            raise ConfigError(f"cannot write to {path}: {error.strerror}") from error
        lines = [f"gan-runner {__version__}: resumed after step {done:,}", *outline(built), *notes]
        held.pop_all()
        chosen = hyperparameters(config, directory.summary.get("options", {}))
        return PreparedRun(built, directory, lines, said, chosen, [], done, memory)


def fail(path: Path, hydra_files: dict[str, str], reason: str) -> None:
    """A directory for a run that could not be built, which says why."""
    with RunDirectory.create(path, hydra_files, {}) as directory:
        directory.update(status="failed", reason=reason)


def train(prepared: PreparedRun) -> float | None:
    """Train one run; the best value of its objective is returned. Raises what `supervised_loop` does."""
    with prepared.directory, StopRequest() as stop:
        built = prepared.built
        take_step = stepper(built.game, built.settings, prepared.notes.append, built.process.world_size)
        with Group(built, prepared.directory.path, stop) as group:
            return run_loop(supervised_loop(prepared, stop), group.leading(take_step))


def stepper(game: Game, settings: Settings, say: Callable[[str], None], processes: int = 1) -> Callable[..., Values]:
    """What takes the training steps: CUDA graphs of them where there can be some; `say` is told why not on a GPU."""
    if not settings.capture:
        return game.step
    if reason := why_not_capturable(game, processes):
        if game.randomness.device.type == "cuda":
            say(f"capture: {reason}; steps without a CUDA graph")
        return game.step
    return CapturedStep(game, say)


def supervised_loop(prepared: PreparedRun, stop: StopRequest, *, is_alone: bool = True) -> TrainingLoop:
    """The training loop of a run, which says in summary.json how it ended.

    One of many is not shown on the terminal, and whoever trains them sees to their arithmetic: loops that take turns do
    not end in the opposite order.

    Raises SystemExit after an interruption, Stopped for what one line explains, TrainingFailed from whatever else
    training raised.
    """
    built, directory, lines, said, chosen, notes, done, memory = prepared
    game, settings, steps, evaluator = built.game, built.settings, built.steps, built.evaluator
    shown_path = relative_to_here(directory.path)
    logged = done - (memory["pending"] is not None) if memory and done else done
    unit = "points" if len(game.data.shape) == 1 else "images"
    try:
        with RunLog(directory.path, steps, chosen, logged, is_shown=is_alone, unit=unit, loggers=built.loggers) as log:
            for line in said:
                log.say(line, to_terminal=False)
            for line in lines:
                log.say(line)
            try:
                own = arithmetic_of(settings, partial(not_deterministic, directory, log))
                with own if is_alone else contextlib.nullcontext(), contextlib.closing(game.data):
                    best = yield from training_loop(
                        game, evaluator, settings, steps=steps, directory=directory, log=log, stop=stop,
                        notes=notes, done=done or 0, memory=memory,
                    )  # fmt: skip
            except (Interrupted, KeyboardInterrupt, BrokenPipeError) as interruption:
                directory.update(status="interrupted", reason=str(interruption) or "SIGINT")
                log.say(describe_interruption(directory, shown_path, built.trust))
                raise SystemExit(getattr(interruption, "exit_code", 130)) from None
            except Pruned as end:
                directory.update(status="interrupted", reason=str(end))
                log.say(f"{end}; prune=null would go on")
                return None
            except Diverged as end:
                directory.update(status="diverged", reason=str(end))
                raise
            except Exception as error:
                with contextlib.suppress(OSError):
                    log.say("".join(traceback.format_exception(error)), to_terminal=False)
                raise
            directory.update(status="completed")
            totals = directory.summary
            log.say(f"done in {totals['wall_time']:.0f} s, {totals['images_per_second']:.0f} {unit}/s")
            for line in describe_evaluation(totals):
                log.say(line)
            log.say(f"samples, losses and checkpoints in {shown_path}")
            return best
    except Diverged as end:
        raise Stopped(f"{shown_path} diverged at {end}; {last_good(shown_path, ends_again=True)}") from None
    except Exception as error:
        reason = outside_cause(error)
        try:
            directory.check()
            directory.update(status="failed", reason=reason or f"{type(error).__name__}: {error}")
        except FileNotFoundError as gone:
            reason = outside_cause(gone)
        except OSError:  # the disk may be full
            pass
        if reason:
            raise Stopped(f"{shown_path}: {reason}; {last_good(shown_path)}") from error
        raise TrainingFailed from error


def describe_interruption(directory: RunDirectory, shown_path: Path, trust: list[str]) -> str:
    """Where an interrupted run is, and the line that goes on with it."""
    saved = "saved" if (directory.checkpoints / "last.pt").exists() else "nothing saved yet"
    trusts = [f"trust=[{','.join(trust)}]"] if trust else []
    line = shlex.join(["gan-runner", "resume", str(shown_path), *trusts])
    return f"interrupted at step {directory.summary['step']:,}; {saved} in {shown_path}; to go on:\n  {line}"


def outside_cause(error: Exception) -> str | None:
    """One line about an error that comes from the machine or the data, or None for one of the program's own."""
    first = str(error).strip().partition("\n")[0]
    if memory := out_of_memory(error):
        return memory
    if isinstance(error, OSError) and error.errno:
        what = f"cannot write {error.filename}" if error.filename else "cannot write"
        return f"{what}: {errno.errorcode.get(error.errno, '')} ({error.strerror})"
    if death := death_of_worker(error):
        return f"a process that reads the dataset died ({death}); workers=0 reads it without any"
    return first if isinstance(error, OSError | UnreadableError) else None


def death_of_worker(error: BaseException | None) -> str | None:
    """What torch says of the death of a worker, or None for another error.

    It says so wherever the program is at that moment, and what was interrupted there may raise an error of its own.
    """
    while error is not None:
        first = str(error).strip().partition("\n")[0]
        if "DataLoader worker" in first or "Pin memory thread" in first:
            return first
        error = error.__context__
    return None


def load_state(built: Built, saved: dict[str, Any], path: Path) -> tuple[int, dict[str, Any]]:
    """Put a checkpoint into the game that it was made of; its steps, and a report's memory. Raises ConfigError."""
    try:
        built.game.load_state_dict(saved["game"])
        return saved["step"], saved["report"]
    except (RuntimeError, KeyError, TypeError, ValueError, AttributeError) as error:
        first = " ".join(str(error).split())[:300]
        raise ConfigError(f"{path}: its checkpoint is not one of this config's networks: {first}") from error


def check_torch(recorded: str) -> None:
    """Refuse to go on with another PyTorch than a run began with: its numbers could be others too."""
    present = versions()["torch"]
    if recorded != present:
        raise ConfigError(
            f"this run was made with torch {recorded}, and {present} is installed: it might not go on to the "
            "same numbers; --any-version goes on all the same"
        )


def outline(built: Built) -> list[str]:
    """What a run is about to do."""
    game, settings = built.game, built.settings
    counts = ", ".join(f"{name} {count_parameters(game.players[name].network):,} parameters" for name in game.players)
    device = describe_device(game.randomness.device)
    where = device if built.process.world_size == 1 else f"{built.process.world_size} x {device}"
    steps = f"{built.steps:,} steps on {where}, {settings.precision}"
    return [steps, counts, describe_metrics(built), *(f"note: {n}" for n in built.notes)]


def describe_metrics(built: Built) -> str:
    """What a run is about to be measured by."""
    evaluator, every = built.evaluator, built.settings.evaluate_every
    if not evaluator.metrics or evaluator.objective is None:
        return "measured by nothing: metric=NAME would"
    through = f" through features={evaluator.network.name}" if evaluator.network else ""
    when = "at the end" if every is None else f"every {every:,} steps and at the end"
    best = evaluator.objective.tag.removeprefix("metric/")
    return f"measured by {', '.join(evaluator.metrics)}{through}, {when}; the best is that of {best}"


def metadata(built: Built) -> dict[str, Any]:
    """What summary.json says of a run from the prepared."""
    game, device = built.game, built.game.randomness.device
    return {
        "parameters": {name: count_parameters(game.players[name].network) for name in game.players},
        "device": describe_device(device),
        "processes": built.process.world_size,
        "threads": threads_of_each(built),
        "deterministic": built.settings.deterministic or device.type == "cpu",
    }


def not_deterministic(directory: RunDirectory, log: RunLog, line: str) -> None:
    """Say that an operator has no deterministic form on this device."""
    directory.update(deterministic=False)
    log.say(line)


def describe_evaluation(summary: dict[str, Any]) -> list[str]:
    """The last values of the metrics, what real samples have, and the best of the objective, for people."""
    values = {tag.removeprefix("metric/"): value for tag, value in summary["metrics"].items() if "metric/" in tag}
    lines = ["  ".join(f"{name} {value:.4g}" for name, value in values.items())] if values else []
    for tag, found in summary.get("floors", {}).items():
        line = f"{tag.removeprefix('metric/')} of {found['generated']:,} real samples {found['floor']:.4g}"
        if found["is_fewer"]:
            line += f", of {found['generated']:,} generated {found['value']:.4g}"
        lines.append(line)
    if best := summary.get("best"):
        name = best["objective"].removeprefix("metric/")
        lines.append(f"best {name} {best['value']:.4g}, at step {best['step']:,}: checkpoints/best.pt")
    return lines


def load_initial_weights(game: Game, source: Path) -> None:
    """Start from the networks of another run's last checkpoint; everything else starts afresh."""
    try:
        game.load_networks(checkpoint.load(source / "checkpoints" / "last.pt")["game"])
    except (ValueError, RuntimeError, KeyError) as error:
        raise ConfigError(f"init_from={source}: {' '.join(str(error).split())[:300]}") from error


def describe_device(device: torch.device) -> str:
    """A device as people call it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def relative_to_here(path: Path) -> Path:
    """The path as seen from here, where it lies below."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
