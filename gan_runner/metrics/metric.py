"""What a metric is, and what it sees."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

from torch import Tensor

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork

Moments = tuple[Tensor, Tensor]
"""Mean (D,) and covariance (D, D), float64, on the CPU."""

Ends = tuple[float | None, float | None]
"""The least and the greatest that a value can be, None for no bound."""


@dataclass(frozen=True, kw_only=True)
class EvaluationView:
    """One evaluation: generated samples and real ones. Lazy: all metrics share what any of them asks for.

    Shapes: N samples; images are uint8 pixels (N, C, H, W), points float32 (N, D); F features of K classes. All on the
    CPU.
    """

    data: Data
    network: FeatureNetwork | None
    seed: int  # of whatever a metric draws
    generated: Tensor  # as many samples as the metric that wants the most; the others take the first of them
    labels: Tensor | None  # (N,): the classes that were asked for; None unless the generator is conditional
    features_of_real: Callable[[int | None], Tensor]  # (count) -> (count, F), cached by content; None = all
    moments_of_real: Callable[[int | None], Moments]  # of the same features; likewise
    labels_of_real: Callable[[int | None], Tensor | None]  # (count) -> (count,), of the same samples
    before_batch: Callable[[], object] = lambda: None  # what it raises breaks the evaluation off

    def real(self, count: int | None) -> Tensor:
        """Training samples: the first `count` of an order that is the same in all runs; None = all."""
        return self.data.training(count)[0]

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor]:
        """The generated images' features (N, F) and logits (N, K), float32: one pass of the feature network."""
        assert self.network is not None, "a metric with needs_features has a network"
        return self.network.look(self.generated, self.before_batch)

    def first(self, count: int, **changes: Any) -> "EvaluationView":
        """The first `count` of the generated samples, whose features are not computed anew; `changes` of fields."""
        same = {field.name: getattr(self, field.name) for field in fields(EvaluationView)}
        labels = None if self.labels is None else self.labels[:count]
        return FewerSamples(**same | {"generated": self.generated[:count], "labels": labels} | changes, whole=self)


@dataclass(frozen=True, kw_only=True)
class FewerSamples(EvaluationView):
    """The first samples of another view."""

    whole: EvaluationView

    @cached_property
    def seen(self) -> tuple[Tensor, Tensor]:
        features, logits = self.whole.seen
        return features[: len(self.generated)], logits[: len(self.generated)]


class Metric(ABC):
    """A number or several that say how near generated samples are to real ones.

    The keyword arguments of a subclass are its keys in the config; all have `samples`, the generated samples it wants.
    """

    higher_is_better: Mapping[str, bool]
    """Whether higher is better, for every value that a call may return; `objective=METRIC` means the first."""
    distances: tuple[str, ...] = ()
    """The values that say how far generated samples are from real ones: 0 is the best, and what real samples have
    against real ones is above it. Evaluations give that too (the floor): a call with real samples in the place of the
    generated ones, and fewer of both than are asked for."""
    bounds: Mapping[str, Ends] = MappingProxyType({})
    """Of the values that have some; the bands of a report end there."""
    samples: int
    """Generated samples that it takes."""
    real_samples: int | None = 0
    """Training samples that it compares with; None = all, 0 = none."""
    is_by_class: bool = False
    """Whether it wants to know which class each generated sample was asked to be of: only for conditional runs."""
    is_paired: bool = False
    """Whether it takes as many generated samples as there are real ones, where these are fewer."""

    def needs_features(self, data: Data) -> bool:
        """Whether it looks through the feature network, which `features` chooses."""
        return False

    def counts(self, data: Data) -> dict[str, int | None]:
        """The samples that it is a number of, {"generated": ..., "real": ...}, for the record."""
        wanted, size = self.real_samples, data.size
        real = wanted if size is None else min(size if wanted is None else wanted, size)
        return {"generated": real if self.is_paired else self.samples, "real": real}

    @abstractmethod
    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Warnings, a line each. Raises ValueError where the metric does not suit the data or the network."""

    @abstractmethod
    def __call__(self, view: EvaluationView) -> dict[str, float]:
        """Value name -> value."""


def images_only(name: str, data: Data) -> None:
    """Raises ValueError where a dataset has points; `name` is the metric's."""
    if len(data.shape) != 3:
        raise ValueError(f"metric={name}: it looks at images, and this dataset has points")


def points_only(name: str, data: Data) -> None:
    """Raises ValueError where a dataset has images; `name` is the metric's."""
    if len(data.shape) != 1:
        raise ValueError(f"metric={name}: it compares points, and this dataset has images")


def real_count(name: str, wanted: int | None, data: Data) -> int:
    """How many training samples there are of `wanted` (None = all). Raises ValueError for all of an endless set."""
    counts = [count for count in (wanted, data.size) if count is not None]
    if not counts:
        raise ValueError(
            f"metric={name}: this dataset is endless; say how much of it: metric.{name}.real_samples=10000"
        )
    return min(counts)
