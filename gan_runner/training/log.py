"""What a run leaves to read: metrics.jsonl, TensorBoard's events, gan_runner.log, and the terminal."""

import datetime
import json
import os
import socket
import sys
import time
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from gan_runner.loggers import Logger
from gan_runner.storage.atomic_files import json_safe, write_bytes
from gan_runner.storage.hydra_files import CONFIG

SECONDS_BETWEEN_LINES = 10.0  # of the plain progress, which a pipe and gan_runner.log get
EVENTS = "events.out.tfevents."  # how the names of TensorBoard's files begin
SHOWN = ("loss/generator", "loss/discriminator", "loss/autoencoder", "penalty/kl")


class Terminal(Console):
    """A console whose reader may go away, as that of `gan-runner ... | head`: the training goes on unseen."""

    def __init__(self, *, quiet: bool = False):
        super().__init__(highlight=False, soft_wrap=True, quiet=quiet)

    def on_broken_pipe(self) -> None:
        self.quiet = True

    def say(self, line: str) -> None:
        self.print(line, markup=False)


class ShrinkingColumn(TextColumn):
    """Text that gives way where the terminal is narrow, on its one line; what does not wrap stays whole."""

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class RunLog:
    """The log of one run; a context manager that closes its files.

    What is logged goes to `loggers` too.

    `logged` is the last step that the log of a resumed run goes on after, 0 where it starts again; None for a new run.
    What is not to be shown on the terminal is in the file alone. `unit` is what the samples are called.
    """

    def __init__(
        self,
        directory: Path,
        steps: int,
        hyperparameters: Mapping[str, Any],
        logged: int | None = None,
        *,
        is_shown: bool = True,
        loggers: Sequence[Logger] = (),
        unit: str = "images",
    ):
        self.console = Terminal(quiet=not is_shown)
        self.steps, self.unit, self.last_line = steps, unit, time.monotonic()
        self.began: tuple[float, int] | None = None  # when the first step of this process ended, and its number
        with ExitStack() as opened:  # where one of them fails, for want of room, none stays open
            self.text: TextIO = opened.enter_context((directory / "gan_runner.log").open("a", encoding="utf-8"))
            by_line = partial(Path.open, mode="a", encoding="utf-8", buffering=1)
            self.metrics: TextIO = opened.enter_context(by_line(directory / "metrics.jsonl"))
            self.evaluations: TextIO = opened.enter_context(by_line(directory / "evaluations.jsonl"))
            if logged is not None:
                truncate_events_after(directory, logged)
            self.events = EventFile(directory)
            opened.callback(self.events.file.close)
            if logged is not None:
                self.events.restart(logged + 1 if logged else 0)
            config = directory / CONFIG
            text = config.read_text(encoding="utf-8") if config.exists() else ""
            if not logged:
                self.write_hyperparameters(hyperparameters)
                self.write_config(text)
            self.loggers = loggers
            for logger in loggers:
                logger.start(directory, hyperparameters, text, is_resumed=bool(logged))
                opened.push(lambda error, *_, logger=logger: logger.end(error))
            self.opened = opened.pop_all()
        self.progress = Progress(
            TextColumn("{task.completed}/{task.total}"),
            BarColumn(bar_width=16),
            ShrinkingColumn("{task.fields[losses]}", table_column=Column()),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            console=self.console,
            transient=True,
            disable=not (is_shown and self.console.is_terminal),
        )
        self.bar = self.progress.add_task("", total=steps, losses="")

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()
        self.opened.__exit__(error, value, traceback)  # all of them, even where one has not the room for its last line

    def say(self, line: str, to_terminal: bool = True) -> None:
        """A line for people, on the terminal and in gan_runner.log."""
        if to_terminal:
            self.console.say(line)
        print(line, file=self.text, flush=True)

    def advance(self, step: int) -> None:
        """Move the bar: cheap, and drawn ten times a second whatever happens."""
        self.began = self.began or (time.monotonic(), step)
        self.progress.update(self.bar, completed=step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.metrics.write(json.dumps(json_safe({"step": step, **values})) + "\n")
        self.events.add(step, [{"tag": tag, "simple_value": value} for tag, value in values.items()])
        for logger in self.loggers:
            logger.scalars(step, values)
        losses = "  ".join(f"{tag.partition('/')[2]} {values[tag]:.4g}" for tag in SHOWN if tag in values)
        losses += f"  {values['images_per_second']:.0f} {self.unit}/s"
        self.progress.update(self.bar, losses=losses)
        if time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES or step == self.steps:
            self.last_line = time.monotonic()
            line = f"step {step}/{self.steps}  {losses}{self.remaining(step)}"
            self.say(line, to_terminal=not self.console.is_terminal)

    def remaining(self, step: int) -> str:
        """The time that the other steps take at the mean pace of this process, evaluations included; '' if unknown."""
        if self.began is None or step <= self.began[1] or step >= self.steps:
            return ""
        start, first = self.began
        seconds = (time.monotonic() - start) / (step - first) * (self.steps - step)
        return f"  ETA {datetime.timedelta(seconds=round(seconds))}"

    def evaluation(self, record: Mapping[str, Any]) -> None:
        """A record of evaluations.jsonl."""
        self.evaluations.write(json.dumps(json_safe(record)) + "\n")

    def image(self, step: int, tag: str, png: bytes) -> None:
        """A picture, as encoded for its file."""
        self.events.add(step, [{"tag": tag, "image": {"encoded_image_string": png}}])
        for logger in self.loggers:
            logger.image(step, tag, png)

    def write_hyperparameters(self, hyperparameters: Mapping[str, Any]) -> None:
        """Write what TensorBoard's HPARAMS tab shows, to the run's event file (add_hparams starts another)."""
        from torch.utils.tensorboard.summary import hparams

        _, *of_the_run = hparams(dict(hyperparameters), {})  # the first would stand for the columns of all other runs
        for summary in of_the_run:
            self.events.write(summary=summary)

    def write_config(self, text: str) -> None:
        """Write what TensorBoard's TEXT tab shows: a file of YAML."""
        from torch.utils.tensorboard.summary import text as text_summary

        self.events.write(step=0, summary=text_summary("config", f"```yaml\n{text}```"))

    def flush(self) -> None:
        """Put everything where a crash does not lose it."""
        for file in (self.text, self.metrics, self.evaluations, self.events.file):
            file.flush()
            os.fsync(file.fileno())


class EventFile:
    """A file of events for TensorBoard, which reads a run's files in the order of their names.

    TensorBoard's own writer names files by the second and the process, in which the file of a resumed run may come
    before the one it goes on from; and it writes in a thread, which loses what is in its queue.
    """

    def __init__(self, directory: Path):
        # Without this, TensorBoard imports TensorFlow where it happens to be installed, for seconds.
        sys.modules.setdefault("tensorboard.compat.notf", types.ModuleType("notf"))
        from tensorboard.summary.writer.record_writer import RecordWriter

        earlier = [int(path.name.split(".")[3]) for path in event_files(directory)]
        second = max(int(time.time()), *(second + 1 for second in earlier), 0)
        name = f"{EVENTS}{second:010d}.{socket.gethostname()}.{os.getpid()}.0"
        with ExitStack() as opened:
            self.file = opened.enter_context((directory / name).open("xb"))
            self.records = RecordWriter(self.file)
            self.write(file_version="brain.Event:2")
            opened.pop_all()

    def write(self, **fields: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self.records.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self.file.flush()

    def add(self, step: int, values: list[dict[str, Any]]) -> None:
        """One event with all values: a third of the cost of one each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self.write(step=step, summary=Summary(value=values))

    def restart(self, step: int) -> None:
        """Have a TensorBoard that is running drop what it has read of the events from `step` on."""
        from tensorboard.compat.proto.event_pb2 import SessionLog

        self.write(step=step, session_log=SessionLog(status=SessionLog.START))


def write_experiment(directory: Path, varied: Mapping[str, list[Any]], metrics: Iterable[str]) -> None:
    """The columns of TensorBoard's HPARAMS tab, for the runs below a directory: keys with the values that they take.

    Without it TensorBoard shows every key and every scalar.
    """
    from torch.utils.tensorboard.summary import hparams

    for path in event_files(directory):
        path.unlink()
    columns = {key: values[0] if len({type(v) for v in values}) == 1 else "" for key, values in varied.items()}
    events = EventFile(directory)
    with events.file:
        events.write(summary=hparams(columns, dict.fromkeys(metrics or SHOWN[:2], 0.0))[0])


def event_files(directory: Path) -> list[Path]:
    """TensorBoard's files, in the order in which they were written."""
    return sorted(path for path in directory.glob(f"{EVENTS}*") if path.name.split(".")[3].isdigit())


def truncate_events_after(directory: Path, logged: int) -> None:
    """Take the events after step `logged` from TensorBoard's files, and those not written to their end; at 0, all."""
    for path in event_files(directory):
        content = path.read_bytes()
        kept = b"".join(record for record, step in records(content) if step <= logged)
        if not logged:
            path.unlink()
        elif kept != content:
            write_bytes(path, kept)


def records(content: bytes) -> Iterator[tuple[bytes, int]]:
    """The whole records of an event file, each with its step: length (8 bytes), checksum (4), event, checksum (4)."""
    from tensorboard.compat.proto.event_pb2 import Event

    start = 0
    while length := int.from_bytes(content[start : start + 8], "little"):
        end = start + length + 16
        if end > len(content):
            return
        yield content[start:end], Event.FromString(content[start + 12 : end - 4]).step
        start = end
