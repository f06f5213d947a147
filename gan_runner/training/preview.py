"""The pictures of a run, the same latents at every step."""

import math

import torch
from torch import Tensor

from gan_runner.config.schema import Settings
from gan_runner.games.game import Game
from gan_runner.storage.atomic_files import write_bytes
from gan_runner.storage.run_directory import RunDirectory
from gan_runner.torch_utils.randomness import fixed_randomness
from gan_runner.training import image_grid
from gan_runner.training.health import mean_distance
from gan_runner.training.log import RunLog

MOST_ROWS = 16  # classes that a grid has a row for
POINTS = 1000  # a cloud of points takes more samples than a grid
DIVERSITY_OF = 64  # samples that the diversity is measured on
COLD = 0.05  # share of the initial weights in a moving average that is not looked at yet


class Preview:
    """The pictures of a run: the same latents at every step, the same real samples beside them."""

    def __init__(self, game: Game, settings: Settings, directory: RunDirectory, log: RunLog):
        self.game, self.data, self.directory, self.log = game, game.data, directory, log
        self.is_images = len(game.data.shape) == 3
        self.rows = game.data.num_classes if game.is_conditional and game.data.num_classes <= MOST_ROWS else None
        count = settings.sample_count if self.is_images else max(settings.sample_count, POINTS)
        if self.rows:  # a row for each class
            count = self.rows * max(1, count // self.rows)
        device = game.randomness.device
        self.latents = game.draw_latents(fixed_randomness(settings.seed, "preview", device), count)
        self.labels = torch.arange(count, device=device) % max(1, game.data.num_classes)
        self.real, self.real_labels = game.data.fixed(count)
        self.real_distance = mean_distance(self.real[:DIVERSITY_OF])

    def draw_real(self) -> None:
        self.save("real", 0, self.picture(self.real) if self.is_images else self.scatter(self.real[:0]))

    def draw(self, step: int) -> None:
        pictures = self.game.pictures(self.latents, self.labels, self.real, self.real_labels)
        for name, samples in pictures.items():
            if name == "samples":
                self.save(f"step_{step:08d}", step, self.picture(samples, labels=self.labels if self.rows else None))
            else:  # pairs, which an even number of columns keeps together
                columns = 2 * math.ceil(math.sqrt(len(samples)) / 2)
                self.save(f"{name}_{step:08d}", step, self.picture(samples, columns=columns))

    def diversity(self, step: int) -> Tensor:
        """The mean distance between samples, relative to that between real ones, (): near 0 where all are alike.

        The samples are the network's in training while its moving average still resembles the start.
        """
        average = self.game.moving_average
        is_cold = average is not None and average.half_life.share_of_start(step) > COLD
        network = self.game.sampler if is_cold else None
        samples = self.game.sample(self.latents[:DIVERSITY_OF], self.labels[:DIVERSITY_OF], network)
        return mean_distance(samples) / self.real_distance

    def picture(self, samples: Tensor, *, labels: Tensor | None = None, columns: int | None = None) -> bytes:
        """A grid of images, with a row for each class of labels, or a scatter plot of points over the real ones."""
        if not self.is_images:
            return self.scatter(samples)
        pixels = self.data.to_pixels(samples).cpu()
        grid = image_grid.tile(pixels, columns) if labels is None else image_grid.tile_classes(pixels, labels)
        return image_grid.png(grid)

    def scatter(self, samples: Tensor) -> bytes:
        assert self.data.limits is not None, "points have limits"
        return image_grid.png(image_grid.scatter(self.real.cpu(), samples.cpu(), self.data.limits))

    def save(self, name: str, step: int, png: bytes) -> None:
        """Write the picture to its file and to TensorBoard."""
        self.directory.check()
        write_bytes(self.directory.samples / f"{name}.png", png)
        tag = name.rpartition("_")[0] or name
        self.log.image(step, "samples" if tag == "step" else tag, png)
