"""The loop: train, log, draw samples, save."""

from typing import Any

from gan_runner.config import Settings
from gan_runner.evaluation import Evaluator
from gan_runner.games.game import Game
from gan_runner.log import RunLog
from gan_runner.report import Report
from gan_runner.run_directory import RunDirectory
from gan_runner.signals import Interrupted, StopRequest


def train(
    game: Game,
    evaluator: Evaluator,
    settings: Settings,
    *,
    steps: int,
    directory: RunDirectory,
    log: RunLog,
    start: dict[str, Any] | None = None,
) -> float | None:
    """Train up to step number `steps`, from the checkpoint `start` or from nothing; the best objective is returned.

    A signal ends it early, saved, by Interrupted; losses that are beyond hope by Diverged.
    """
    report = Report(game, evaluator, settings, directory, log)
    done = 0
    if start:
        done = start["step"]
        report.load_state_dict(done, start["report"])
    with StopRequest() as stop:
        if report.pending is not None:  # a signal came before the evaluation after the last step
            report.write(done, report.pending, stop, is_evaluated=True)
            report.save(done)
        for step in range(done + 1, steps + 1):
            game.step(step - 1)
            log.advance(step)
            asked = stop.signal  # read once: a signal during what follows waits for the next step
            last = step == steps
            is_evaluated = bool(evaluator.metrics) and (last or is_due(settings.evaluate_every, step))
            if last or is_evaluated or is_due(settings.log_every, step):
                report.write(step, report.read(step), stop, is_evaluated)
            if last or is_due(settings.sample_every, step):
                report.preview.draw(step)
            if last or asked is not None or stop.is_urgent or is_due(settings.checkpoint_every, step):
                report.save(step)
            if asked is not None or stop.is_urgent:
                raise Interrupted(asked or stop.signal or 0)
    return report.best.value


def is_due(every: int | None, step: int) -> bool:
    """Whether something done every so many steps, or never, is due after `step`."""
    return every is not None and step % every == 0
