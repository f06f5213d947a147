"""SIGINT and SIGTERM: what a person and a scheduler send to a run."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class Interrupted(Exception):  # noqa: N818 -- no error: the run is whole, and can go on
    """A signal asked the run to stop, and it stopped between two steps."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class StoppedAtOnce(BaseException):
    """A signal came during something that need not be finished. No `except Exception` there may swallow it."""


class StopRequest:
    """Notes SIGINT and SIGTERM, so that the loop can finish its step; a second SIGINT is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self.is_urgent = False  # whether a signal broke something off
        self.may_break_off = False
        self.previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self.previous[number] = signal.signal(number, self.note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self.may_break_off:
            self.may_break_off, self.is_urgent = False, True
            raise StoppedAtOnce

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What may be broken off by a signal, even one that came before: by StoppedAtOnce."""
        if self.signal is not None:
            self.is_urgent = True
            raise StoppedAtOnce
        self.may_break_off = True
        try:
            yield
        finally:
            self.may_break_off = False


@contextmanager
def interruptible_imports(tidy: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Let SIGINT end the process at once: a KeyboardInterrupt in the C++ code that PyTorch runs at import aborts it."""

    def end(*_: object) -> None:
        tidy()
        os._exit(130)

    if threading.current_thread() is not threading.main_thread():  # only that one may have a say
        yield
        return
    previous = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
