"""The loop: train, log, draw samples, save."""

from collections.abc import Callable, Generator
from typing import Any

from gan_runner.config import Settings
from gan_runner.evaluation import Evaluator
from gan_runner.games.game import Game
from gan_runner.log import RunLog
from gan_runner.report import Pruned, Report
from gan_runner.run_directory import RunDirectory
from gan_runner.signals import Interrupted, StopRequest

Course = Generator[int, None, float | None]
"""The course of a run: it asks for its training steps by their numbers, and does what comes between them."""


def follow(course: Course, take_step: Callable[[int], None]) -> float | None:
    """Train by one run's course, to its end; what it returns. Whatever a step raises is the course's to explain."""
    try:
        step = next(course)
        while True:
            try:
                take_step(step)
            except BaseException as error:
                course.throw(error)
            step = next(course)
    except StopIteration as end:
        return end.value


def train(
    game: Game,
    evaluator: Evaluator,
    settings: Settings,
    *,
    steps: int,
    directory: RunDirectory,
    log: RunLog,
    stop: StopRequest,
    done: int = 0,
    memory: dict[str, Any] | None = None,
) -> Course:
    """Train up to step number `steps`; the best objective is returned. Who drives takes the steps (`follow`).

    A resumed run has `done` some steps, and left a report's `memory` of them.
    A signal ends it early, saved, by Interrupted; losses that are beyond hope by Diverged; a poor objective by Pruned.
    """
    report = Report(game, evaluator, settings, directory, log)
    if memory:
        report.load_state_dict(done, memory)
    elif settings.sample_every:
        report.preview.draw_real()
    is_pending = report.pending is not None  # a signal broke off the evaluation after the last step: this comes first
    for step in range(done + (not is_pending), steps + 1):
        if step > done:
            yield step - 1
            log.advance(step)
        asked = stop.signal  # read once: a signal during what follows waits for the next step
        last = step == steps
        is_evaluated = last or step == done or is_due(settings.evaluate_every, step)
        is_evaluated = is_evaluated and bool(evaluator.metrics)
        if last or step == done or is_evaluated or is_due(settings.log_every, step):
            report.write(step, stop, is_evaluated)
        is_pending = report.pending is not None
        if settings.sample_every and (last or is_due(settings.sample_every, step)) and not is_pending:
            report.preview.draw(step)
        shortfall = report.shortfall(step) if is_evaluated and not is_pending and not last else None
        if last or shortfall or asked is not None or stop.is_urgent or is_due(settings.checkpoint_every, step):
            report.save(step)
        if is_pending or ((asked is not None or stop.is_urgent) and not last):
            raise Interrupted(asked or stop.signal or 0)
        if shortfall:
            raise Pruned(shortfall)
    return report.best.value


def is_looked_at(settings: Settings, step: int, steps: int) -> bool:
    """Whether something of the game is logged, drawn, evaluated or saved after `step`, the last one being `steps`."""
    intervals = (settings.log_every, settings.sample_every, settings.evaluate_every, settings.checkpoint_every)
    return step == steps or any(is_due(every, step) for every in intervals)


def is_due(every: int | None, step: int) -> bool:
    """Whether something done every so many steps, or never, is due after `step`."""
    return every is not None and step % every == 0
