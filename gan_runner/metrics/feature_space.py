"""Metrics of images that look through the feature network.

Numbers are comparable only between evaluations with the same network, `samples` and `real_samples`.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.metric import Ends, EvaluationView, Metric, Moments, images_only, real_count
from gan_runner.torch_utils.bounds import PositiveInt
from gan_runner.torch_utils.randomness import derive

Count = Annotated[int, Ge(2)]
BLOCK = 1000  # rows of features that are handled at once, to bound the memory


class FeatureMetric(Metric):
    """A metric that compares features of images."""

    name: ClassVar[str]

    def needs_features(self, data: Data) -> bool:
        return True

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for points."""
        images_only(self.name, data)
        return []

    def generated(self, view: EvaluationView) -> Tensor:
        """Features of the generated images (N, F), float64."""
        return view.seen[0][: self.samples].double()

    def real(self, view: EvaluationView) -> Tensor:
        """Features of the real images (M, F), float64."""
        return view.features_of_real(self.real_samples).double()


# --- distances of distributions ---------------------------------------------------------------------------------------


class Frechet(FeatureMetric):
    """|μ - m|² + tr(Σ + S - 2 (Σ S)^1/2): the Fréchet distance of two Gaussians, with the moments of the features.

    distance: 0 for equal moments, up to rounding; FID where the network is Inception. It is biased upward, the more so
    the fewer the samples, and more so still where they are not more than the features.
    Raises: ValueError for points, and for all of an endless dataset.
    Heusel et al. 2017, arXiv:1706.08500; Dowson & Landau 1982.
    """

    name = "frechet"
    higher_is_better: Mapping[str, bool] = {"distance": False}
    distances = ("distance",)
    bounds: Mapping[str, Ends] = {"distance": (0, None)}

    def __init__(self, *, samples: Count, real_samples: Count | None):
        self.samples, self.real_samples = samples, real_samples

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Warns of covariances without full rank. Raises ValueError for points, and for all of an endless dataset."""
        super().check(data, network)
        real = real_count(self.name, self.real_samples, data)
        if network is None:
            return []
        counts = {"generated": (self.samples, "samples"), "real": (real, "real_samples")}
        return [
            f"metric=frechet: {count} {kind} images for {network.dimension} features: so few make the distance mostly "
            f"bias; raise metric.frechet.{key}, or take metric=kernel_distance, which has none"
            for kind, (count, key) in counts.items()
            if count <= network.dimension
        ]

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        assert view.network is not None, "the metric needs features"
        device = view.network.device
        ours = moments(view.seen[0][: self.samples], device)
        return {"distance": frechet(ours, view.moments_of_real(self.real_samples), device)}


def moments(features: Tensor, device: torch.device) -> Moments:
    """Mean (F,) and covariance (F, F), by N - 1, of features (N, F), in float64; computed on the device if it can."""
    device = with_float64(device)
    mean = features.mean(0, dtype=torch.float64).to(device)
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=device)
    for block in features.split(BLOCK):
        centred = block.to(device) - mean
        covariance += centred.T @ centred
    return mean.cpu(), (covariance / (len(features) - 1)).cpu()


def frechet(ours: Moments, theirs: Moments, device: torch.device) -> float:
    """|μ - m|² + tr(Σ + S - 2 (Σ S)^1/2), computed on the device if it can.

    With S = A Aᵀ the product Σ S has the eigenvalues of Aᵀ Σ A, which is symmetric: a fifth of the time that the
    eigenvalues of Σ S itself take, and none of them comes out complex.
    """
    device = with_float64(device)
    (mean, covariance), (its_mean, its_covariance) = [
        [each.to(device) for each in moments] for moments in (ours, theirs)
    ]
    values, vectors = torch.linalg.eigh(its_covariance)
    root = vectors * values.clamp(min=0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ covariance @ root).clamp(min=0).sqrt().sum()
    return float((mean - its_mean).square().sum() + covariance.trace() + its_covariance.trace() - 2 * cross)


def with_float64(device: torch.device) -> torch.device:
    """The device, or the CPU where it has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


class ClassFrechet(FeatureMetric):
    """The Fréchet distance of each class: of the samples asked to be of it from the real ones that are.

    mean, worst: over the classes. Frechet's distance of all classes together can be small though they leak into each
    other. A class has few samples, which bias its distance upward: the floor, of as many real ones, says how much. A
    class of which there are less than two samples, generated or real, is left out.
    Raises: ValueError for points, for data without labels, for all of an endless dataset, and where a class would have
    less than two samples on average.
    As the intra-class FID of StudioGAN: Kang, Shin & Park 2022, arXiv:2206.09479; Heusel et al. 2017, arXiv:1706.08500.
    """

    name = "class_frechet"
    higher_is_better: Mapping[str, bool] = {"mean": False, "worst": False}
    distances = ("mean", "worst")
    bounds: Mapping[str, Ends] = {"mean": (0, None), "worst": (0, None)}
    is_by_class = True

    def __init__(self, *, samples: Count, real_samples: Count | None):
        self.samples, self.real_samples = samples, real_samples

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Warns of classes smaller than the features are many. Raises ValueError as the class says."""
        super().check(data, network)
        if not data.num_classes or data.training(2)[1] is None:
            raise ValueError("metric=class_frechet: it compares class with class, and this dataset has no labels")
        counts = {"samples": self.samples, "real_samples": real_count(self.name, self.real_samples, data)}
        warnings = []
        for key, count in counts.items():
            each = count // data.num_classes
            if each < 2:
                raise ValueError(
                    f"metric.class_frechet.{key}={count}: less than two for each of {data.num_classes} classes"
                )
            if network is not None and each <= network.dimension:
                warnings.append(
                    f"metric=class_frechet: {each} {key} of a class for {network.dimension} features: so few make the "
                    f"distance mostly bias, as its floor shows; raise metric.class_frechet.{key} where there are more"
                )
        return warnings

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        """mean, worst; NaN where no class has two samples of either kind."""
        assert view.network is not None, "the metric needs features"
        labels, its_labels = view.labels, view.labels_of_real(self.real_samples)
        assert labels is not None, "the builder refuses an unconditional run"
        assert its_labels is not None, "checked"
        ours, theirs = view.seen[0][: self.samples], view.features_of_real(self.real_samples)
        distances, device = [], view.network.device
        for number in range(view.data.num_classes):
            view.before_batch()
            some, others = ours[labels[: self.samples] == number], theirs[its_labels == number]
            if min(len(some), len(others)) > 1:
                distances.append(frechet(moments(some, device), moments(others, device), device))
        return (
            {"mean": float(np.mean(distances)), "worst": max(distances)}
            if distances
            else dict.fromkeys(self.distances, float("nan"))
        )


class KernelDistance(FeatureMetric):
    """Squared maximum mean discrepancy with k(x, y) = (x·y / F + 1)³, unbiased, a mean over random subsets.

    distance: KID where the network is Inception. For equal distributions its expectation is 0 whatever the number of
    samples, so that it can be below 0.
    Raises: ValueError for points, for all of an endless dataset, and for a `subset_size` above the samples there are.
    Bińkowski et al. 2018, arXiv:1801.01401.
    """

    name = "kernel_distance"
    higher_is_better: Mapping[str, bool] = {"distance": False}
    distances = ("distance",)

    def __init__(self, *, samples: Count, real_samples: Count | None, subsets: PositiveInt, subset_size: Count):
        self.samples, self.real_samples, self.subsets, self.subset_size = samples, real_samples, subsets, subset_size

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for points, for all of an endless dataset, and for a `subset_size` that is too large."""
        super().check(data, network)
        counts = {"generated": self.samples, "real": real_count(self.name, self.real_samples, data)}
        kind, count = min(counts.items(), key=lambda item: item[1])
        if self.subset_size > count:
            raise ValueError(
                f"metric.kernel_distance.subset_size={self.subset_size}: there are {count} {kind} images; "
                f"set {count} or less"
            )
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

        generated, real = self.generated(view), self.real(view)
        found = kid_features_to_metric(
            generated,
            real,
            kid_subsets=self.subsets,
            kid_subset_size=min(self.subset_size, len(generated), len(real)),  # a floor may have fewer samples
            rng_seed=numpy_seed(view.seed, self.name),
            verbose=False,
        )
        return {"distance": found[KEY_METRIC_KID_MEAN]}


def numpy_seed(seed: int, purpose: str) -> int:
    """Below 2^32, as numpy's older generator wants."""
    return derive(seed, purpose) % 2**32


# --- neighbours -------------------------------------------------------------------------------------------------------


class Prdc(FeatureMetric):
    """Improved precision and recall, density and coverage, by the distance of features.

    The ball of a sample reaches to the k-th neighbour of its own kind, k = `nearest`. Of M real and N generated images:

        precision  fraction of the generated ones that lie in the ball of some real one
        recall     fraction of the real ones that lie in the ball of some generated one
        density    real balls that a generated one lies in, a mean over these, / k; may be above 1
        coverage   fraction of the real ones whose ball holds some generated one

    A ball does not hold its border. Recall and precision trust outliers, which have large balls; density and coverage
    do not. The cost grows as (M + N)².
    Raises: ValueError for points, for all of an endless dataset, and where there are not more than k images.
    Kynkäänniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.
    """

    name = "prdc"
    higher_is_better: Mapping[str, bool] = {"coverage": True, "density": True, "precision": True, "recall": True}
    bounds: Mapping[str, Ends] = {"coverage": (0, 1), "density": (0, None), "precision": (0, 1), "recall": (0, 1)}

    def __init__(self, *, samples: Count, real_samples: Count | None, nearest: PositiveInt):
        self.samples, self.real_samples, self.nearest = samples, real_samples, nearest

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for points, for all of an endless dataset, and where there are not more than k images."""
        super().check(data, network)
        count = min(self.samples, real_count(self.name, self.real_samples, data))
        if self.nearest >= count:
            raise ValueError(f"metric.prdc.nearest={self.nearest}: of {count} images none has so many neighbours")
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        """coverage, density, precision, recall."""
        return prdc(self.real(view), self.generated(view), self.nearest)


def prdc(real: Tensor, fake: Tensor, nearest: int) -> dict[str, float]:
    """Precision, recall, density and coverage of features (M, F) and (N, F), float64, as `Prdc` defines them."""
    real_radii, fake_radii = radii(real, nearest), radii(fake, nearest)
    balls = torch.zeros(len(fake))  # of real ones, that hold each generated one
    covered = recalled = 0.0
    for some, their_radii in zip(real.split(BLOCK), real_radii.split(BLOCK), strict=True):
        distance = torch.cdist(some, fake)
        held = distance < their_radii.unsqueeze(1)
        balls += held.sum(0)
        covered += float(held.any(1).sum())
        recalled += float((distance < fake_radii).any(1).sum())
    return {
        "coverage": covered / len(real),
        "density": float(balls.double().mean()) / nearest,
        "precision": float((balls > 0).double().mean()),
        "recall": recalled / len(real),
    }


def radii(features: Tensor, nearest: int) -> Tensor:
    """The distance of each (N, F) from its k-th neighbour among the others, (N,)."""
    blocks = (torch.cdist(some, features) for some in features.split(BLOCK))
    return torch.cat([block.topk(nearest + 1, largest=False).values[:, -1] for block in blocks])  # it is its own first


# --- classes ----------------------------------------------------------------------------------------------------------


class InceptionScore(FeatureMetric):
    """exp(mean of KL(p(class | image) || p(class))), a mean over `splits` parts of the samples.

    score: from 1 to the number of classes: high where the network is sure of each image and the classes are even. It
    knows nothing of the real images.
    Raises: ValueError for points, for more splits than samples, and for a network that tells no classes.
    Salimans et al. 2016, arXiv:1606.03498, section 4.
    """

    name = "inception_score"
    higher_is_better: Mapping[str, bool] = {"score": True}
    bounds: Mapping[str, Ends] = {"score": (1, None)}

    def __init__(self, *, samples: Count, splits: PositiveInt):
        self.samples, self.splits = samples, splits

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for points, for more splits than samples, and for a network that tells no classes."""
        super().check(data, network)
        if network is not None and not network.has_logits:
            raise ValueError(
                f"metric=inception_score: it wants a network that tells classes, and features={network.name} does not"
            )
        if self.splits > self.samples:
            raise ValueError(f"metric.inception_score.splits={self.splits}: above samples={self.samples}")
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

        logits = view.seen[1][: self.samples].double()
        # A probability that rounds to 0 would make 0 (log 0 - log 0).
        logits = (logits - logits.amax(1, keepdim=True)).clamp(min=-700)
        found = isc_features_to_metric(logits, splits=self.splits, rng_seed=numpy_seed(view.seed, self.name))
        return {"score": found[KEY_METRIC_ISC_MEAN]}


class Classes(FeatureMetric):
    """How the generated images spread over the dataset's classes, as the network tells them.

        entropy    -Σ p log p, p the fraction of samples by predicted class, in nats; at most log(number of classes)
        covered    classes with at least `least` samples; a network's mistakes fill classes that are not there
        agreement  fraction of samples of the class that was asked for; only of a conditional generator

    Higher is better up to what the real images have, which of even classes is the most there can be.
    Raises: ValueError for points, and where the network does not know the dataset's classes.
    """

    name = "classes"
    higher_is_better: Mapping[str, bool] = {"entropy": True, "covered": True, "agreement": True}
    bounds: Mapping[str, Ends] = {"entropy": (0, None), "covered": (0, None), "agreement": (0, 1)}

    def __init__(self, *, samples: Count, least: PositiveInt):
        self.samples, self.least = samples, least

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for points, and where the network does not know the dataset's classes."""
        super().check(data, network)
        if not data.num_classes:
            raise ValueError("metric=classes: it counts classes, and this dataset has none")
        if network is not None and not network.knows_classes_of(data):
            raise ValueError("metric=classes: it wants a network that knows the dataset's classes: features=classifier")
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        """entropy, covered, and agreement of a conditional generator."""
        predicted = view.seen[1][: self.samples].argmax(1)
        counts = predicted.bincount(minlength=view.data.num_classes)
        values = {
            "entropy": float(torch.special.entr(counts.double() / len(predicted)).sum()),
            "covered": float((counts >= self.least).sum()),
        }
        if view.labels is not None:
            agree = predicted == view.labels[: self.samples].cpu()
            values["agreement"] = float(np.mean(agree.numpy()))
        return values
