"""The loop: train, log, draw samples, save."""

import signal
import time
from types import FrameType
from typing import Any, Self

import torch
from torch import Tensor

from gan_runner import checkpoint, pictures
from gan_runner.config import Settings
from gan_runner.evaluation import Evaluator, Objective, tags
from gan_runner.files import write_bytes
from gan_runner.games.game import Game
from gan_runner.log import RunLog
from gan_runner.monitors import Monitors, mean_distance
from gan_runner.randomness import fixed_randomness
from gan_runner.run_directory import RunDirectory

MOST_COLUMNS = 16  # classes that a grid has a column for
POINTS = 1000  # a cloud of points takes more samples than a grid
DIVERSITY_OF = 64  # samples that the diversity is measured on


class Interrupted(Exception):  # noqa: N818 -- no error: the run is whole, and can go on
    """A signal asked the run to stop, and it stopped between two steps."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def train(
    game: Game, evaluator: Evaluator, settings: Settings, *, steps: int, directory: RunDirectory, log: RunLog
) -> float | None:
    """Train for `steps` steps; the best value of the objective is returned. A signal ends it early, by Interrupted."""
    images_per_step = game.images_per_step
    preview = Preview(game, settings, directory, log)
    monitors = Monitors(settings.monitor)
    best = Best(evaluator.objective)
    clock = Clock()

    def state(step: int) -> dict[str, Any]:
        return checkpoint.content(step, game.state_dict(), game.data.record(), best.record())

    preview.draw_real()
    with StopRequest() as stop:
        for step in range(1, steps + 1):
            game.step(step - 1)
            log.advance(step)
            asked = stop.signal  # read once: a signal during what follows waits for the next step
            finished = step == steps
            last = finished or asked is not None
            is_evaluated = evaluator.metrics and asked is None and (finished or is_due(settings.evaluate_every, step))
            if last or is_evaluated or is_due(settings.log_every, step):
                values = {tag: float(value) for tag, value in game.statistics().items()}
                values["diversity"] = preview.diversity()
                for line in monitors.warnings(values):
                    log.say(f"warning: step {step:,}: {line}")
                if is_evaluated:
                    record = evaluator.evaluate(game)
                    log.evaluation({"step": step, **record})
                    values |= tags(record)
                log.scalars(step, {"images": step * images_per_step, **clock.read(step * images_per_step), **values})
                directory.summary |= {"step": step, "metrics": values, **clock.totals()}
                if is_evaluated and best.is_beaten_by(values, step):
                    checkpoint.save(directory.checkpoints / "best.pt", state(step))
                    directory.summary["best"] = best.record()
            if last or is_due(settings.sample_every, step):
                preview.draw(step)
            if last or is_due(settings.checkpoint_every, step):
                checkpoint.save_last(directory.checkpoints, state(step))
                directory.update(step=step)
            if asked is not None:
                raise Interrupted(asked)
    return best.value


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
        """For summary.json and checkpoints."""
        if self.objective is None or self.value is None:
            return None
        return {"objective": self.objective.tag, "value": self.value, "step": self.step}


def is_due(every: int | None, step: int) -> bool:
    """Whether something done every so many steps, or never, is due after `step`."""
    return every is not None and step % every == 0


class Clock:
    """Seconds since the start of training, and the rate at which it sees images."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.last_images = 0

    def read(self, images: int) -> dict[str, float]:
        """`seconds` since the start; `images_per_second` since the last call."""
        now = time.perf_counter()
        rate = (images - self.last_images) / max(now - self.last, 1e-9)
        self.last, self.last_images = now, images
        return {"seconds": now - self.start, "images_per_second": rate}

    def totals(self) -> dict[str, float]:
        """`wall_time` in seconds, and the mean rate over it, as of the last reading."""
        wall_time = self.last - self.start
        return {"wall_time": wall_time, "images_per_second": self.last_images / max(wall_time, 1e-9)}


class Preview:
    """The pictures of a run: the same latents at every step, the same real samples beside them."""

    def __init__(self, game: Game, settings: Settings, directory: RunDirectory, log: RunLog):
        self.game, self.data, self.directory, self.log = game, game.data, directory, log
        self.is_images = len(game.data.shape) == 3
        self.columns = game.data.num_classes if game.is_conditional and game.data.num_classes <= MOST_COLUMNS else None
        count = settings.sample_count if self.is_images else max(settings.sample_count, POINTS)
        if self.columns:  # a column for each class
            count = self.columns * max(1, count // self.columns)
        device = game.randomness.device
        self.latents = game.draw_latents(fixed_randomness(settings.seed, "preview", device), count)
        self.labels = torch.arange(count, device=device) % max(1, game.data.num_classes)
        self.real, self.real_labels = game.data.fixed(count)
        self.real_distance = mean_distance(self.real[:DIVERSITY_OF])

    def draw_real(self) -> None:
        """samples/real.png."""
        self.save("real", 0, self.picture(self.real) if self.is_images else self.scatter(self.real[:0]))

    def draw(self, step: int) -> None:
        """samples/step_N.png."""
        pictures = self.game.pictures(self.latents, self.labels, self.real, self.real_labels)
        for name, samples in pictures.items():
            self.save(f"{'step' if name == 'samples' else name}_{step:08d}", step, self.picture(samples))

    def diversity(self) -> float:
        """The mean distance between samples, relative to that between real ones: near 0 where all are alike."""
        samples = self.game.sample(self.latents[:DIVERSITY_OF], self.labels[:DIVERSITY_OF])
        return float(mean_distance(samples) / self.real_distance)

    def picture(self, samples: Tensor) -> bytes:
        """A grid of images, or a scatter plot of points over the real ones."""
        if self.is_images:
            return pictures.png(pictures.grid(self.data.to_pixels(samples).cpu(), self.columns))
        return self.scatter(samples)

    def scatter(self, samples: Tensor) -> bytes:
        """Points over the real ones."""
        assert self.data.limits is not None, "points have limits"
        return pictures.png(pictures.scatter(self.real.cpu(), samples.cpu(), self.data.limits))

    def save(self, name: str, step: int, png: bytes) -> None:
        """Write the picture to its file and to TensorBoard."""
        write_bytes(self.directory.samples / f"{name}.png", png)
        tag = name.rpartition("_")[0] or name
        self.log.image(step, "samples" if tag == "step" else tag, png)


class StopRequest:
    """Notes SIGINT and SIGTERM, so that the loop can finish its step; a second SIGINT is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.signal: int | None = None
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
