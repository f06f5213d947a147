"""The loop: train, log, draw samples, save."""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from gan_runner.config.schema import Settings
from gan_runner.games.game import Game
from gan_runner.games.player import Values
from gan_runner.storage.run_directory import RunDirectory
from gan_runner.training.evaluation import Evaluator
from gan_runner.training.log import RunLog
from gan_runner.training.recorder import Pruned, Recorder, read_at_once
from gan_runner.training.signals import Interrupted, StopRequest


class WantedStep(NamedTuple):
    """What a training loop asks for: the number of a step, counted from 0, and whether its values will be logged."""

    number: int
    is_logged: bool


class WantedNumbers(NamedTuple):
    """What a training loop asks for at a log point: tensors () as numbers, by their tags."""

    values: Values


Wanted = WantedStep | WantedNumbers
TrainingLoop = Generator[Wanted, Any, float | None]
"""The loop of one run, a generator: it does what lies between the training steps.

It asks for steps, and is sent their Values; and for numbers, and is sent a dict of these. So one transfer from the
device can be for many runs.
"""


def run_loop(loop: TrainingLoop, take_step: Callable[..., Values]) -> float | None:
    """Run a training loop to its end, and return what it returns. Whatever a step raises is thrown into the loop."""
    try:
        wanted = next(loop)
        while True:
            answer: Any = None
            try:
                if isinstance(wanted, WantedNumbers):
                    answer = read_at_once(wanted.values)
                else:
                    answer = take_step(wanted.number, is_logged=wanted.is_logged)
            except BaseException as error:
                loop.throw(error)
            wanted = loop.send(answer)
    except StopIteration as end:
        return end.value


def training_loop(
    game: Game,
    evaluator: Evaluator,
    settings: Settings,
    *,
    steps: int,
    directory: RunDirectory,
    log: RunLog,
    stop: StopRequest,
    notes: list[str],
    done: int = 0,
    memory: dict[str, Any] | None = None,
) -> TrainingLoop:
    """Train up to step number `steps`, and return the best objective; `run_loop` takes the steps.

    A resumed run has `done` some steps, and left a recorder's `memory` of them. `notes` are lines for the log, which
    whoever takes the steps may add to; they are printed at the next log point.
    A signal ends it early, saved, by Interrupted; losses that are beyond hope by Diverged; a poor objective by Pruned.
    """
    recorder = Recorder(game, evaluator, settings, directory, log)
    if memory:
        recorder.load_state_dict(done, memory)
    elif settings.sample_every:
        recorder.preview.draw_real()
    is_pending = recorder.pending is not None  # a signal broke off the evaluation after the last step: this comes first
    for step in range(done + (not is_pending), steps + 1):
        last = step == steps
        is_evaluated = last or step == done or is_due(settings.evaluate_every, step)
        is_evaluated = is_evaluated and bool(evaluator.metrics)
        is_logged = last or step == done or is_evaluated or is_due(settings.log_every, step)
        values: Values = {}
        if step > done:
            values = yield WantedStep(step - 1, is_logged)
            log.advance(step)
        asked = stop.signal  # read once: a signal during what follows waits for the next step
        if is_logged:
            while notes:
                log.say(f"note: {notes.pop(0)}")
            found = recorder.pending
            if found is None:
                found = recorder.check(step, (yield WantedNumbers(recorder.look(step, values))))
            recorder.write(step, found, stop, is_evaluated)
        is_pending = recorder.pending is not None
        if settings.sample_every and (last or is_due(settings.sample_every, step)) and not is_pending:
            recorder.preview.draw(step)
        shortfall = recorder.shortfall(step) if is_evaluated and not is_pending and not last else None
        if last or shortfall or asked is not None or is_pending or is_due(settings.checkpoint_every, step):
            recorder.save(step)
        if is_pending or (asked is not None and not last):
            raise Interrupted(asked or stop.came or 0)
        if shortfall:
            raise Pruned(shortfall)
    return recorder.best.value


def is_looked_at(settings: Settings, step: int, steps: int) -> bool:
    """Whether something of the game is logged, drawn, evaluated or saved after `step`, the last one being `steps`."""
    intervals = (settings.log_every, settings.sample_every, settings.evaluate_every, settings.checkpoint_every)
    return step == steps or any(is_due(every, step) for every in intervals)


def is_due(every: int | None, step: int) -> bool:
    """Whether something done every so many steps, or never, is due after `step`."""
    return every is not None and step % every == 0
