"""How many modes of a distribution with known ones the generator reaches, and how evenly."""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.metric import Ends, EvaluationView, Metric
from gan_runner.metrics.transport import distances, wasserstein
from gan_runner.torch_utils.bounds import PositiveInt

POINTS, STACKED = 2500, 26_000  # generated samples, as in VEEGAN and PacGAN
NEAR = 3  # standard deviations within which a point is of high quality


class Modes(Metric):
    """What becomes of the modes of a mixture, or of the joint classes of stacked images.

    Of points, in a mixture of Gaussians with standard deviation `sd`; |x - c| is the distance to the nearest centre:

        wasserstein   exact 1-Wasserstein distance of the first `pairs` generated points from as many real ones
        covered       modes that at least `least` high-quality samples are nearest to
        high_quality  fraction of samples with |x - c| <= 3 sd; 0.989 of the data itself, in the plane
        reverse_kl    Σ p log(p M) in nats, p the fractions of all samples by nearest of M centres: 0 if they are even

    Of stacked images, p the fractions of samples by the class that the network predicts:

        covered       classes that at least `least` samples are of
        reverse_kl    Σ p log(p / q), q the product over the channels of the parts' class frequencies

    A point that is not finite counts as one of no quality, nearest to the first centre, and `wasserstein` is infinite.
    `samples` None are 2,500 points or 26,000 images, as in the papers.
    Raises: ValueError for other data, and for stacked images with a network that does not know their classes.
    Srivastava et al. 2017 (VEEGAN), arXiv:1705.07761, section 4; Lin et al. 2018 (PacGAN), arXiv:1712.04086, section 4.
    """

    higher_is_better: Mapping[str, bool] = {
        "wasserstein": False,
        "covered": True,
        "high_quality": True,
        "reverse_kl": False,
    }
    distances = ("wasserstein", "reverse_kl")

    def __init__(
        self,
        *,
        samples: Annotated[int, Ge(2)] | None,
        pairs: PositiveInt,
        least: PositiveInt,
        data: Data,
    ):
        self.pairs, self.least = pairs, least
        self.samples = samples or (STACKED if data.parts else POINTS)
        self.real_samples = 0 if data.parts else pairs
        self.bounds: Mapping[str, Ends] = {"covered": (0, data.num_classes or None), "reverse_kl": (0, None)}
        if data.parts:
            self.higher_is_better = {"covered": True, "reverse_kl": False}
        else:
            self.bounds = {"wasserstein": (0, None), "high_quality": (0, 1), **self.bounds}

    def needs_features(self, data: Data) -> bool:
        return data.parts is not None

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError where the modes are not known, or the network does not know them."""
        if data.centres is None and data.parts is None:
            raise ValueError(
                "metric=modes: it wants a mixture of modes or stacked images, such as dataset=ring; "
                "this dataset is neither"
            )
        if data.parts is not None and network is not None and not network.knows_classes_of(data):
            raise ValueError("metric=modes: it wants a network that knows the dataset's classes: features=classifier")
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        """wasserstein, covered, high_quality, reverse_kl; of stacked images covered and reverse_kl."""
        data = view.data
        if data.parts is not None:
            counts = view.seen[1][: self.samples].argmax(1).bincount(minlength=data.num_classes)
            return {"covered": self.covered(counts), "reverse_kl": divergence(counts, stacked_shares(data))}
        assert data.centres is not None, "checked"
        assert data.sd is not None, "a mixture's modes have one"
        points, modes = view.generated[: self.samples], len(data.centres)
        distance, nearest = distances(points, data.centres.cpu()).min(1)
        is_near = distance <= NEAR * data.sd
        return {
            "wasserstein": wasserstein(points, view.real(self.pairs)),
            "covered": self.covered(nearest[is_near].bincount(minlength=modes)),
            "high_quality": float(is_near.double().mean()),
            "reverse_kl": divergence(nearest.bincount(minlength=modes), torch.full((modes,), 1 / modes).double()),
        }

    def covered(self, counts: Tensor) -> float:
        """Modes with at least `least` of the samples counted, (M,)."""
        return float((counts >= self.least).sum())


def divergence(counts: Tensor, shares: Tensor) -> float:
    """Σ p log(p / q) in nats, p the fractions of the counts (M,), q the shares (M,); infinite where q alone is 0."""
    seen = counts > 0
    p, q = counts[seen].double() / counts.sum(), shares[seen]
    return float((p * (p / q).log()).sum())


def stacked_shares(data: Data) -> Tensor:
    """The probability of every joint class of stacked images, (K^C,) float64: their channels are independent."""
    assert data.parts is not None, "stacked"
    labels = data.parts.training(None)[1]
    assert labels is not None, "the parts have labels"
    each = labels.bincount(minlength=data.parts.num_classes).double() / len(labels)
    shares = each
    for _ in range(data.shape[0] - 1):
        shares = torch.outer(shares, each).flatten()
    return shares
