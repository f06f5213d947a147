"""What a run says of itself between the steps: log points, evaluations, pictures, checkpoints."""

import math
import time
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from gan_runner.config.schema import Settings
from gan_runner.games.game import Game
from gan_runner.games.player import Values
from gan_runner.storage import checkpoint
from gan_runner.storage.run_directory import RunDirectory, versions
from gan_runner.training.evaluation import BrokenOff, Evaluator, Objective, floors, tags
from gan_runner.training.health import Guard, Monitors, largest_weight
from gan_runner.training.log import RunLog
from gan_runner.training.preview import Preview
from gan_runner.training.signals import StopRequest

WEIGHTS = "weights/"  # how the tags of what is checked and not logged begin


class Diverged(Exception):  # noqa: N818 -- no error of the program
    """Training on would be in vain."""


class Pruned(Exception):  # noqa: N818 -- no error: the run is whole, and can go on
    """The run is worse than the key `prune` asks for."""


class Recorder:
    """What a run says of itself between the steps: log points, evaluations, pictures, checkpoints."""

    def __init__(
        self, game: Game, evaluator: Evaluator, settings: Settings, directory: RunDirectory, log: RunLog
    ) -> None:
        self.game, self.evaluator, self.settings = game, evaluator, settings
        self.directory, self.log = directory, log
        self.preview = Preview(game, settings, directory, log)
        self.monitors = Monitors(settings.monitor)
        self.guard = Guard(settings.divergence)
        self.has_diverged = False
        self.best = Best(evaluator.objective)
        self.clock = Clock()
        self.checked: int | None = None  # the step of the last log point
        self.pending: dict[str, float] | None = None  # a log point whose evaluation was broken off

    def look(self, step: int, of_step: Values) -> Values:
        """What a log point is about, tag -> tensor (): what the step did, and what its networks make now."""
        diversity = self.preview.diversity(step)
        return of_step | self.game.held_out_values() | {"diversity": diversity} | self.largest_weights()

    def check(self, step: int, numbers: dict[str, float]) -> dict[str, float]:
        """The values to log, of what `look` found; warns of what is wrong with them. Raises Diverged."""
        self.checked = step
        values = {tag: value for tag, value in numbers.items() if not tag.startswith(WEIGHTS)}
        reason = self.guard.reason(step, numbers)
        if reason and self.settings.on_divergence == "stop":
            self.log_point(step, values)
            raise Diverged(f"step {step:,}: {reason}")
        warnings = self.monitors.warnings(step, values)
        if reason and not self.has_diverged:  # and goes on: on_divergence=ignore
            self.has_diverged = True
            warnings.append(reason)
        for line in warnings:
            self.log.say(f"warning: step {step:,}: {line}")
        return values

    def largest_weights(self) -> Values:
        """weights/PLAYER: the largest magnitude, NaN or infinite where one of them is."""
        players = self.game.players.items()
        return {f"{WEIGHTS}{name}": largest_weight(list(player.network.parameters())) for name, player in players}

    def write(self, step: int, values: dict[str, float], stop: StopRequest, is_evaluated: bool) -> None:
        """A log point, evaluated first if it is to be; a signal leaves it pending."""
        self.pending = None
        if is_evaluated:
            try:
                record = self.evaluator.evaluate(self.game, stop.has_come)
            except BrokenOff:
                self.pending = values
                return
            self.log.evaluation({"step": step, **record})
            self.directory.summary["floors"] = floors(record)
            values = values | tags(record)
        self.log_point(step, values)
        if is_evaluated and self.best.is_beaten_by(values, step):
            checkpoint.save(self.directory.checkpoints / "best.pt", self.content(step))
            self.directory.summary["best"] = self.best.record()
        if is_evaluated and step < self.log.steps:  # after the last step they stand in the last lines
            self.log.say(self.describe(step, values))

    def describe(self, step: int, values: dict[str, float]) -> str:
        """What an evaluation found, and the best of the objective so far, for people."""
        found = {tag.removeprefix("metric/"): value for tag, value in values.items() if tag.startswith("metric/")}
        line = f"step {step:,}: " + "  ".join(f"{name} {value:.4g}" for name, value in found.items())
        if self.best.value is None or self.best.objective is None:
            return line
        name = self.best.objective.tag.removeprefix("metric/")
        return line + (
            f"  (best {name} so far)"
            if self.best.step == step
            else f"  (best {name} {self.best.value:.4g}, at step {self.best.step:,})"
        )

    def shortfall(self, step: int) -> str | None:
        """Why the evaluation after `step` is the last, by the key `prune`; None if it is not."""
        limit = dict(self.settings.prune or ()).get(step)
        objective, best = self.best.objective, self.best.value
        if limit is None or objective is None or not objective.is_better(limit, best):
            return None
        found = "has no value" if best is None else f"{best:.6g} is worse than {limit:.6g}"
        return f"pruned at step {step:,}: {objective.tag.removeprefix('metric/')} {found}"

    def log_point(self, step: int, values: dict[str, float]) -> None:
        """A line of metrics.jsonl, and the same in summary.json."""
        self.directory.check()
        images = step * self.game.images_per_step
        self.log.scalars(step, {"images": images, **self.clock.read(images), **values})
        self.directory.summary |= {"step": step, "metrics": values, **self.clock.totals()}

    def save(self, step: int) -> None:
        """A checkpoint. Raises Diverged instead of writing one that is worth nothing."""
        if step != self.checked and self.settings.on_divergence == "stop":
            broken = [tag for tag, value in read_at_once(self.largest_weights()).items() if not math.isfinite(value)]
            if broken:
                raise Diverged(f"step {step:,}: {broken[0]} is not finite")
        self.directory.check()
        self.log.flush()  # what a checkpoint is behind of must not be lost
        self.directory.update(step=step)  # first: a run killed after its last checkpoint has only its status to change
        checkpoint.save_last(self.directory.checkpoints, self.content(step))
        if self.settings.checkpoint_keep:
            checkpoint.keep_snapshot(self.directory.checkpoints, step, self.settings.checkpoint_keep)
        self.directory.summary |= self.clock.totals()  # with the time that this took

    def content(self, step: int) -> dict[str, Any]:
        game = self.game
        return checkpoint.content(step, game.state_dict(), game.data.record(), self.state_dict(), versions())

    def state_dict(self) -> dict[str, Any]:
        """What is remembered from one log point to the next."""
        return {
            "best": self.best.record(),
            "guard": self.guard.state_dict(),
            "monitors": self.monitors.state_dict(),
            "has_diverged": self.has_diverged,
            "seconds": self.clock.seconds(),
            "pending": self.pending,
        }

    def load_state_dict(self, step: int, state: dict[str, Any]) -> None:
        """The inverse, after `step` steps."""
        self.best.restore(state["best"])
        self.guard.load_state_dict(state["guard"])
        if "warned" in state:  # version 0.1 had one list of all that it had warned of
            state = state | {"monitors": {"warned": state["warned"]}, "has_diverged": "diverged" in state["warned"]}
        self.monitors.load_state_dict(state["monitors"])
        self.has_diverged = state["has_diverged"]
        self.clock.resume(state["seconds"], step * self.game.images_per_step)
        self.pending = state["pending"]


Key = TypeVar("Key")


def read_at_once(values: Mapping[Key, Tensor]) -> dict[Key, float]:
    """Tensors of one entry as numbers, waiting for a device once."""
    tensors = {key: value.float() for key, value in values.items() if not value.is_cpu}
    numbers = torch.stack(list(tensors.values())).tolist() if tensors else []
    read = dict(zip(tensors, numbers, strict=True))
    return {key: read[key] if key in read else float(value) for key, value in values.items()}


class Best:
    """The best value of the objective so far, and when that was."""

    def __init__(self, objective: Objective | None):
        self.objective = objective
        self.value: float | None = None
        self.step: int | None = None

    def is_beaten_by(self, values: dict[str, float], step: int) -> bool:
        """Whether an evaluation has a better value, which then is the best."""
        assert self.objective is not None, "what is evaluated has an objective"
        value = values[self.objective.tag]
        if not self.objective.is_better(value, self.value):
            return False
        self.value, self.step = value, step
        return True

    def record(self) -> dict[str, Any] | None:
        if self.objective is None or self.value is None:
            return None
        return {"objective": self.objective.tag, "value": self.value, "step": self.step}

    def restore(self, record: dict[str, Any] | None) -> None:
        """The inverse of `record`; the best of another objective does not count."""
        if record and self.objective and record["objective"] == self.objective.tag:
            self.value, self.step = record["value"], record["step"]


class Clock:
    """Seconds of training, without those that a run lay idle, and the rate at which it sees images."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.last_images = 0

    def resume(self, seconds: float, images: int) -> None:
        """Go on from where an earlier clock stood."""
        self.start, self.last_images = self.start - seconds, images

    def seconds(self) -> float:
        return time.perf_counter() - self.start

    def read(self, images: int) -> dict[str, float]:
        """`seconds` since the start; `images_per_second` since the last call."""
        now = time.perf_counter()
        rate = (images - self.last_images) / max(now - self.last, 1e-9)
        self.last, self.last_images = now, images
        return {"seconds": now - self.start, "images_per_second": rate}

    def totals(self) -> dict[str, float]:
        """`wall_time` in seconds up to now, and the mean rate over it."""
        wall_time = self.seconds()
        return {"wall_time": wall_time, "images_per_second": self.last_images / max(wall_time, 1e-9)}
