"""Points in the plane, drawn afresh for every batch or as a finite set.

All take `samples`: the number of training samples, or None for an endless supply. The finite sets have as many
held-out samples, drawn from the same distribution.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from gan_runner.datasets.data import Data, Endless, Labelled, Samples, seeded
from gan_runner.torch_utils.bounds import NonNegativeFloat, PositiveFloat, PositiveInt
from gan_runner.torch_utils.randomness import derive


def gaussian_2d(*, samples: PositiveInt | None, seed: int) -> Data:
    """N(0, I) in the plane (N, 2), without labels."""
    return _points(_draw_gaussian, samples, seed)


def ring(
    *, modes: PositiveInt, radius: PositiveFloat, sd: NonNegativeFloat, samples: PositiveInt | None, seed: int
) -> Data:
    """Gaussians N(centre, sd^2 I) evenly spaced on a circle, each as likely (N, 2); the label is the mode's index.

    Source: Metz et al. 2016, Unrolled Generative Adversarial Networks, arXiv 1611.02163, appendix A.
    """
    return _mixture(partial(_ring_centres, modes=modes, radius=radius), modes, sd, samples, seed)


def grid(
    *, side: PositiveInt, spacing: PositiveFloat, sd: NonNegativeFloat, samples: PositiveInt | None, seed: int
) -> Data:
    """Gaussians N(centre, sd^2 I) on a square grid around 0, each as likely (N, 2); label = column + side * row.

    Source: Srivastava et al. 2017, VEEGAN, arXiv 1705.07761, section 4.1.
    """
    return _mixture(partial(_grid_centres, side=side, spacing=spacing), side**2, sd, samples, seed)


def swiss_roll(*, noise: NonNegativeFloat, samples: PositiveInt | None, seed: int) -> Data:
    """A spiral (N, 2), without labels: t (cos t, sin t) / 7.5 + N(0, noise^2 I), with t uniform in [1.5 pi, 4.5 pi].

    Without noise it lies within [-1.9, 1.9]. Source: Gulrajani et al. 2017, arXiv 1704.00028, whose code drops the
    second axis of scikit-learn's make_swiss_roll and divides by 7.5.
    """
    return _points(partial(_draw_swiss_roll, noise=noise), samples, seed)


def _points(
    draw: Callable[[torch.Generator, int], Labelled],
    samples: int | None,
    seed: int,
    *,
    num_classes: int = 0,
    centres: Tensor | None = None,
    sd: float | None = None,
) -> Data:
    if samples is None:
        return Endless(draw, seed=seed, num_classes=num_classes, centres=centres, sd=sd)
    points, labels = draw(seeded(derive(seed, "samples")), samples)
    held_out, held_out_labels = draw(seeded(derive(seed, "held_out")), samples)
    return Samples(
        points,
        labels,
        held_out=held_out,
        held_out_labels=held_out_labels,
        seed=seed,
        num_classes=num_classes,
        centres=centres,
        sd=sd,
    )


def _mixture(centres: Callable[[Tensor], Tensor], modes: int, sd: float, samples: int | None, seed: int) -> Data:
    draw = partial(_draw_mixture, centres=centres, modes=modes, sd=sd)
    return _points(draw, samples, seed, num_classes=modes, centres=centres(torch.arange(modes)), sd=sd)


def _draw_gaussian(generator: torch.Generator, count: int) -> Labelled:
    return torch.randn(count, 2, generator=generator, device=generator.device), None


def _draw_mixture(
    generator: torch.Generator, count: int, *, centres: Callable[[Tensor], Tensor], modes: int, sd: float
) -> Labelled:
    labels = torch.randint(modes, (count,), generator=generator, device=generator.device)
    noise = torch.randn(count, 2, generator=generator, device=generator.device)
    return centres(labels) + sd * noise, labels


def _draw_swiss_roll(generator: torch.Generator, count: int, *, noise: float) -> Labelled:
    angle = 1.5 * math.pi * (1 + 2 * torch.rand(count, generator=generator, device=generator.device))
    spiral = torch.stack([angle.cos(), angle.sin()], dim=1) * angle[:, None] / 7.5
    return spiral + noise * torch.randn(count, 2, generator=generator, device=generator.device), None


def _ring_centres(labels: Tensor, *, modes: int, radius: float) -> Tensor:
    """Computed from the labels (N,) to (N, 2), rather than looked up: a table would have to be on every device."""
    angle = labels * (2 * math.pi / modes)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


def _grid_centres(labels: Tensor, *, side: int, spacing: float) -> Tensor:
    """(N,) to (N, 2)."""
    return spacing * (torch.stack([labels % side, labels // side], dim=1) - (side - 1) / 2)
