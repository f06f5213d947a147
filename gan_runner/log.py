"""What a run leaves to read: metrics.jsonl, TensorBoard's events, gan_runner.log, and the terminal."""

import json
import os
import sys
import time
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gan_runner.files import named

SECONDS_BETWEEN_LINES = 10.0  # of the plain progress, which a pipe and gan_runner.log get
SHOWN = ("loss/generator", "loss/discriminator")


class Console(RichConsole):
    """The terminal, or a pipe. A reader that goes away ends the printing, not the training."""

    def on_broken_pipe(self) -> None:
        """rich would exit."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class RunLog:
    """The log of one run, resumed after `done` steps if it is; a context manager that closes its files."""

    def __init__(self, directory: Path, steps: int, hyperparameters: Mapping[str, Any], done: int | None = None):
        self.console = Console(highlight=False, soft_wrap=True)
        self.steps, self.last_line = steps, time.monotonic()
        self.text: TextIO = (directory / "gan_runner.log").open("a", encoding="utf-8")
        self.metrics: TextIO = (directory / "metrics.jsonl").open("a", encoding="utf-8", buffering=1)  # line by line
        self.evaluations: TextIO = (directory / "evaluations.jsonl").open("a", encoding="utf-8", buffering=1)
        self.writer = event_writer(directory)
        if done is None:
            self.write_hyperparameters(hyperparameters)
        else:
            self.forget_after(done)
        self.progress = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(compact=True),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.bar = self.progress.add_task("", total=steps, losses="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.progress.stop()
        for file in (self.text, self.metrics, self.evaluations, self.writer):
            file.close()

    def say(self, line: str, to_terminal: bool = True) -> None:
        """A line for people, on the terminal and in gan_runner.log."""
        if to_terminal:
            self.console.print(line, markup=False)
        print(line, file=self.text, flush=True)

    def advance(self, step: int) -> None:
        """Move the bar: cheap, and drawn ten times a second whatever happens."""
        self.progress.update(self.bar, completed=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """A log point."""
        self.metrics.write(json.dumps(named({"step": step, **values})) + "\n")
        self.add_summary(step, [{"tag": tag, "simple_value": value} for tag, value in values.items()])
        losses = "  ".join(f"{tag.removeprefix('loss/')} {values[tag]:.4g}" for tag in SHOWN if tag in values)
        losses += f"  {values['images_per_second']:.0f} images/s"
        self.progress.update(self.bar, losses=losses)
        if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES or step == self.steps:
            self.last_line = time.monotonic()
            self.say(f"step {step}/{self.steps}  {losses}", to_terminal=not self.console.is_terminal)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """A record of evaluations.jsonl."""
        self.evaluations.write(json.dumps(named(record)) + "\n")

    def image(self, step: int, tag: str, png: bytes) -> None:
        """A picture, as encoded for its file."""
        self.add_summary(step, [{"tag": tag, "image": {"encoded_image_string": png}}])

    def write_hyperparameters(self, hyperparameters: Mapping[str, Any]) -> None:
        """For TensorBoard's HPARAMS tab, in the run's one event file (SummaryWriter.add_hparams starts another)."""
        from torch.utils.tensorboard.summary import hparams

        for summary in hparams(dict(hyperparameters), dict.fromkeys(SHOWN, 0.0)):
            self.writer.add_summary(summary)

    def forget_after(self, done: int) -> None:
        """Have TensorBoard drop the events after `done` steps that the run had written before it was killed."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        self.writer.add_event(Event(step=done + 1, file_version="brain.Event:2"))
        self.writer.add_event(Event(step=done + 1, session_log=SessionLog(status=SessionLog.START)))

    def flush(self) -> None:
        """Put everything where a crash does not lose it."""
        for file in (self.text, self.metrics, self.evaluations):
            file.flush()
            os.fsync(file.fileno())
        self.writer.flush()

    def add_summary(self, step: int, values: list[dict[str, Any]]) -> None:
        """One event with all values: a third of the cost of one each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.writer.add_summary(Summary(value=values), step)


def event_writer(directory: Path) -> Any:
    """TensorBoard's writer of one event file."""
    # Without this, TensorBoard imports TensorFlow where it happens to be installed, for seconds.
    sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
    from torch.utils.tensorboard.writer import FileWriter

    return FileWriter(str(directory))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested config as dotted keys; lists and null as text, as TensorBoard wants."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value if isinstance(value, bool | int | float | str) else json.dumps(value)
    return flat
