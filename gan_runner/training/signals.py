"""SIGINT and SIGTERM: what a person and a scheduler send to a run."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupted(Exception):  # noqa: N818 -- no error: the run is whole, and can go on
    """A signal asked the run to stop, and it stopped between two steps."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextmanager
def interruptible() -> Iterator[None]:
    """Have SIGINT and SIGTERM raise Interrupted at once: for work of which nothing has to be saved."""

    def end(number: int, frame: FrameType | None) -> None:
        raise Interrupted(number)

    previous = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StopRequest:
    """Notes SIGINT and SIGTERM, so that the loop can finish its step; a second SIGINT is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.came: int | None = None
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    @property
    def signal(self) -> int | None:
        """The signal that ends the loop after its step."""
        return self.came

    def has_come(self) -> bool:
        """Whether there is one, so that an evaluation may be broken off."""
        return self.came is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        if self.came is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.came = number
