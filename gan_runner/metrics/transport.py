"""What it costs to move one set of samples onto another: exactly, or along random directions."""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_runner.datasets.data import Data, seeded
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.metric import Ends, EvaluationView, Metric, images_only, points_only
from gan_runner.torch_utils.bounds import PositiveInt
from gan_runner.torch_utils.randomness import derive

PATCH = 7  # height and width of a patch
SMALLEST = 16  # height or width below which the pyramid is not halved again
IMAGES = 256  # that are cut into patches at once
DIRECTIONS = 32  # that are sorted along at once


class Wasserstein(Metric):
    """min over pairings of 1/N Σ |x_i - y_i|: the exact 1-Wasserstein distance of N generated points from N real ones.

    distance: in the units of the data; infinite where a generated point is not finite.

    It is above 0 for two draws of one distribution too, and the more so the fewer the samples: compare runs of equal
    `samples`. Where there are fewer real points, as many generated ones count. The cost grows as N³.
    Raises: ValueError for images.
    Villani 2009, Optimal Transport, chapter 6; the pairing is by Crouse 2016, On implementing 2D rectangular assignment
    algorithms (scipy's).
    """

    higher_is_better: Mapping[str, bool] = {"distance": False}
    distances = ("distance",)
    bounds: Mapping[str, Ends] = {"distance": (0, None)}
    is_paired = True

    def __init__(self, *, samples: PositiveInt):
        self.samples = self.real_samples = samples

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for images."""
        points_only("wasserstein", data)
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        return {"distance": wasserstein(view.generated, view.real(self.samples))}


def wasserstein(points: Tensor, others: Tensor) -> float:
    """The exact 1-Wasserstein distance of the first N of (N or more, D) and (N or more, D), Euclidean.

    Infinite where a point is not finite: scipy raises there.
    """
    from scipy.optimize import linear_sum_assignment

    count = min(len(points), len(others))
    costs = distances(points[:count], others[:count])
    if not costs.isfinite().all():
        return math.inf
    return float(costs[linear_sum_assignment(costs.numpy())].mean())


def distances(points: Tensor, others: Tensor) -> Tensor:
    """Euclidean, float64: (N, D) and (M, D) -> (N, M). Not by a matrix product, which loses the small ones."""
    return torch.cdist(points.double(), others.double(), compute_mode="donot_use_mm_for_euclid_dist")


class SlicedWasserstein(Metric):
    """Sliced Wasserstein distance of image patches, a mean over the levels of a Laplacian pyramid, times 1000.

    distance: every image is split into levels, each half the size of the one before and the lowest at least 16 pixels
    (or the image itself), which hold what the next one lacks. From each image and level come random patches of 7x7
    pixels, normalised per channel by the mean and standard deviation over the set, so that brightness and contrast do
    not count; a level's distance is the mean of |sorted projections of real - of generated| over patches and
    random directions.

    The real and the generated image of one number are cut in the same places, where the authors' code draws other ones
    for each, so that equal sets are at distance 0. Where there are fewer real images, as many generated ones count.
    Raises: ValueError for points and for images below 7x7.
    Karras et al. 2017, arXiv:1710.10196, section 5; Rabin et al. 2011, Wasserstein barycenter and its application to
    texture mixing.
    """

    higher_is_better: Mapping[str, bool] = {"distance": False}
    distances = ("distance",)
    bounds: Mapping[str, Ends] = {"distance": (0, None)}
    is_paired = True

    def __init__(self, *, samples: PositiveInt, patches: PositiveInt, projections: PositiveInt):
        self.samples = self.real_samples = samples
        self.patches, self.projections = patches, projections

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for points and for images below 7x7."""
        images_only("sliced_wasserstein", data)
        _, height, width = data.shape
        if min(height, width) < PATCH:
            raise ValueError(
                f"metric=sliced_wasserstein: it cuts patches of {PATCH}x{PATCH} pixels, and the images are "
                f"{height}x{width}; set dataset.image_size, or choose another metric"
            )
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        real = view.real(self.samples)
        generated = view.generated[: min(self.samples, len(real))]
        seed = derive(view.seed, "patches")
        levels = zip(
            descriptors(real[: len(generated)], self.patches, seed),
            descriptors(generated, self.patches, seed),
            strict=True,
        )
        seed = derive(view.seed, "projections")
        return {"distance": 1000 * float(np.mean([sliced(*pair, self.projections, seed) for pair in levels]))}


def descriptors(images: Tensor, count: int, seed: int) -> list[Tensor]:
    """uint8 (N, C, H, W) -> per level of the pyramid `count` normalised patches of each image (N count, 49 C)."""
    generator = seeded(seed)
    parts = [
        [cut(level, count, generator) for level in pyramid(some.float())] for some in images.split(IMAGES)
    ]  # (images, levels)
    levels = [torch.cat(level) for level in zip(*parts, strict=True)]
    return [normalised(level).flatten(1) for level in levels]


def pyramid(images: Tensor) -> list[Tensor]:
    """(N, C, H, W) -> its Laplacian pyramid, the finest level first; the last is the image made small.

    Burt & Adelson 1983, The Laplacian pyramid as a compact image code.
    """
    levels = []
    while min(images.shape[2:]) // 2 >= SMALLEST:
        smaller = blurred(images)[..., ::2, ::2]
        spread = torch.zeros_like(images)
        spread[..., ::2, ::2] = smaller
        levels.append(images - 4 * blurred(spread))  # of the spread pixels three in four are 0
        images = smaller
    return [*levels, images]


def blurred(images: Tensor) -> Tensor:
    """(N, C, H, W), with the 5x5 binomial filter; mirrored at the border."""
    line = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    single = F.pad(images.flatten(0, 1).unsqueeze(1), (2, 2, 2, 2), mode="reflect")
    return F.conv2d(single, torch.outer(line, line)[None, None]).view_as(images)


def cut(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(N, C, H, W) -> `count` patches of each, anywhere inside: (N count, 7, 7, C)."""
    number, _, height, width = images.shape
    within = torch.arange(PATCH)
    top = torch.randint(height - PATCH + 1, (number, count, 1, 1), generator=generator)
    left = torch.randint(width - PATCH + 1, (number, count, 1, 1), generator=generator)
    rows, columns = top + within[:, None], left + within
    return images[torch.arange(number).view(-1, 1, 1, 1), :, rows, columns].flatten(0, 1)


def normalised(patches: Tensor) -> Tensor:
    """(M, 7, 7, C): zero mean and unit standard deviation per channel; a constant channel is 0."""
    patches = patches - patches.mean((0, 1, 2))
    deviation = patches.square().mean((0, 1, 2)).sqrt()
    return patches / torch.where(deviation > 0, deviation, 1)


def sliced(points: Tensor, others: Tensor, projections: int, seed: int) -> float:
    """1-Wasserstein distance of (M, D) from (M, D), a mean over random directions."""
    directions = F.normalize(torch.randn(projections, points.shape[1], generator=seeded(seed)), dim=1)
    total = 0.0
    for some in directions.split(DIRECTIONS):
        # numpy, as its sort of floats is ten times as fast as torch's.
        ours, theirs = (np.sort((some @ of.T).numpy(), axis=1) for of in (points, others))  # (directions, M)
        total += float(np.abs(ours - theirs).mean(1, dtype=np.float64).sum())
    return total / projections
