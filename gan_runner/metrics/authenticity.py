"""Whether generated samples are new, or nearly copies of training samples."""

from collections.abc import Mapping
from typing import Annotated

import torch
from annotated_types import Ge
from torch import Tensor

from gan_runner.datasets.data import Data
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.metric import Ends, EvaluationView, Metric

Count = Annotated[int, Ge(2)]
BLOCK = 1000  # rows of distances that are computed at once, to bound the memory


class Authenticity(Metric):
    """The share of generated samples that are no copies of a training sample, by their distances.

    A generated sample is authentic if it is farther from its nearest training sample than that one is from its own
    nearest training sample. Distances are Euclidean: of features for images, of the coordinates for points.

    authentic: 0 where all samples are copies; 1 where all are far from the data, as noise is. The floor, the share
    among held-out samples, which training has never seen, is what to compare it with: well below it, samples are
    memorised. The time grows as generated times real samples.
    Raises: ValueError for an endless dataset, of which no sample can be memorised.
    Alaa et al. 2022, arXiv:2102.08921, section 3.3.
    """

    higher_is_better: Mapping[str, bool] = {"authentic": True}
    bounds: Mapping[str, Ends] = {"authentic": (0, 1)}
    distances = ("authentic",)  # no distance itself, but real samples have one too

    def __init__(self, *, samples: Count, real_samples: Count | None):
        self.samples, self.real_samples = samples, real_samples

    def needs_features(self, data: Data) -> bool:
        return len(data.shape) == 3

    def check(self, data: Data, network: FeatureNetwork | None) -> list[str]:
        """Raises ValueError for an endless dataset."""
        if data.size is None:
            raise ValueError("metric=authenticity: this dataset is endless, and no sample of it can be memorised")
        return []

    def __call__(self, view: EvaluationView) -> dict[str, float]:
        if self.needs_features(view.data):
            real, generated = view.features_of_real(self.real_samples), view.seen[0]
        else:
            real, generated = view.real(self.real_samples), view.generated
        return {"authentic": authentic_share(real.double(), generated[: self.samples].double())}


def authentic_share(real: Tensor, generated: Tensor) -> float:
    """The share of (N, F) that are authentic against (M, F), as `Authenticity` defines it; M >= 2, float64.

    A sample that is not finite is authentic: it is a copy of none.
    """
    finite = generated.isfinite().all(1)
    some = generated[finite]
    if not len(some):
        return 1.0
    nearest = neighbours(some, real, 1)[:, 0]
    originals, where = nearest.unique(return_inverse=True)  # only their neighbours are looked for
    pairs = neighbours(real[originals], real, 2)
    others = torch.where(pairs[:, 0] == originals, pairs[:, 1], pairs[:, 0])  # each is its own neighbour, or a twin is
    own = (real[originals] - real[others]).norm(dim=1)[where]
    authentic = (some - real[nearest]).norm(dim=1) > own
    return (int(authentic.sum()) + int((~finite).sum())) / len(generated)


def neighbours(points: Tensor, others: Tensor, count: int) -> Tensor:
    """The rows of the nearest of (M, F) to each of (N, F), the nearest first: (N, count)."""
    blocks = (torch.cdist(some, others).topk(count, largest=False).indices for some in points.split(BLOCK))
    return torch.cat(list(blocks))
