"""Monitors of a GAN's known ways to fail: they read what is logged, and warn once each."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from gan_runner.config import Monitor


class Monitors:
    """One run's monitors; a threshold of None never warns."""

    def __init__(self, thresholds: Monitor):
        self.thresholds = thresholds
        self.warned: set[str] = set()

    def warnings(self, values: Mapping[str, float]) -> list[str]:
        """A line for each threshold that these values of a log point cross for the first time."""
        lines = [line for kind, line in self.crossed(values) if kind not in self.warned]
        self.warned |= {kind for kind, _ in self.crossed(values)}
        return lines

    def crossed(self, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
        """(kind, line) of each threshold crossed."""
        limits = self.thresholds
        for tag, norm in values.items():
            player = tag.removeprefix("gradient_norm/")
            if player != tag and limits.vanishing_gradient is not None and norm < limits.vanishing_gradient:
                yield f"vanishing {player}", f"the gradient of the {player} vanishes: its norm is {norm:.2g}"
            if player != tag and limits.exploding_gradient is not None and norm > limits.exploding_gradient:
                yield f"exploding {player}", f"the gradient of the {player} explodes: its norm is {norm:.2g}"
        right = min(values.get("accuracy/real", 0.0), values.get("accuracy/fake", 0.0))
        if limits.saturation is not None and right >= limits.saturation:
            yield "saturation", f"the discriminator is saturated: it tells {right:.1%} of real and of generated samples"
        if limits.diversity is not None and values.get("diversity", 1.0) < limits.diversity:
            line = f"the samples collapse: their mean distance is {values['diversity']:.2g} of that between real ones"
            yield "diversity", line


def mean_distance(samples: Tensor) -> Tensor:
    """The mean Euclidean distance between two of the samples: (N, *sample) -> ()."""
    return torch.nn.functional.pdist(samples.flatten(1)).mean()
