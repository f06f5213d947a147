"""Metrics: closed forms, other people's code, and that worse samples score worse."""

import itertools
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

from gan_runner.config.check import check_arguments
from gan_runner.config.instantiate import resolve
from gan_runner.datasets.data import Data, Samples
from gan_runner.datasets.embedded import digits
from gan_runner.datasets.points import gaussian_2d, ring
from gan_runner.datasets.stacked_mnist import Stacked
from gan_runner.features.network import FeatureNetwork
from gan_runner.metrics.feature_space import (
    Classes,
    Frechet,
    InceptionScore,
    KernelDistance,
    Prdc,
    frechet,
    moments,
    prdc,
)
from gan_runner.metrics.metric import EvaluationView, Metric
from gan_runner.metrics.modes import Modes, divergence, stacked_shares
from gan_runner.metrics.transport import (
    SlicedWasserstein,
    Wasserstein,
    descriptors,
    normalised,
    pyramid,
    sliced,
    wasserstein,
)
from tests.helpers import CONF, options

METRICS = [name for name in options("metric") if name not in ("none", "auto")]


class FakeNetwork(FeatureNetwork):
    """Any functions of the pixels."""

    def __init__(self, features: Callable[[Tensor], Tensor], logits: Callable[[Tensor], Tensor], knows: bool = True):
        self.features, self.logits, self.knows = features, logits, knows
        self.name, self.resize, self.sha256 = "fake", "none", "0"
        self.dimension = features(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape[1]

    def prepare(self, data: Data, say: Callable[[str], None]) -> None:
        """Nothing."""

    def knows_classes_of(self, data: Data) -> bool:
        return self.knows

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.features(images), self.logits(images)


def pixels(images: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


def random_network(dimension: int = 6, seed: int = 0) -> FakeNetwork:
    generator = torch.Generator().manual_seed(seed)
    to_features, to_logits = (torch.randn(64, size, generator=generator) for size in (dimension, 10))
    return FakeNetwork(lambda images: (pixels(images) @ to_features).tanh(), lambda images: pixels(images) @ to_logits)


def view_of(
    data: Data, generated: Tensor, network: FeatureNetwork | None = None, labels: Tensor | None = None
) -> EvaluationView:
    def features(count: int | None) -> Tensor:
        assert network is not None
        return network.look(data.training(count)[0])[0]

    return EvaluationView(
        data=data,
        network=network,
        seed=0,
        generated=generated,
        labels=labels,
        features_of_real=features,
        moments_of_real=lambda count: moments(features(count), torch.device("cpu")),
        labels_of_real=lambda count: data.training(count)[1],
    )


def build(name: str, data: Data, **keys: Any) -> Metric:
    """A metric as its file says, but for some keys."""
    node = yaml.safe_load((CONF / "metric" / f"{name}.yaml").read_text())
    target = resolve(node.pop("_target_"), f"metric.{name}", [])
    provided = {"data": data} if name == "modes" else {}
    metric: Metric = target(**check_arguments(f"metric.{name}", target, node | keys, provided), **provided)
    return metric


@cache
def halves() -> tuple[Data, Tensor, Tensor]:
    """One half of the digits as data, and the other as pixels and labels."""
    whole = digits(held_out=0, image_size=None, channels=None, normalization="unit", flip=False, seed=0)
    images, labels = whole.training(1796)
    assert labels is not None
    return Samples(images[:898], labels[:898], seed=0, num_classes=10), images[898:], labels[898:]


@cache
def classifier() -> FakeNetwork:
    """64 pixels - 32 features - 10 logits, trained on one half of the digits; it tells 94 % of the other half."""
    data, _, _ = halves()
    images, labels = data.training(None)
    assert labels is not None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        to_features, to_logits = nn.Sequential(nn.Linear(64, 32), nn.ReLU()), nn.Linear(32, 10)
    optimizer = torch.optim.Adam([*to_features.parameters(), *to_logits.parameters()], lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        F.cross_entropy(to_logits(to_features(pixels(images))), labels).backward()
        optimizer.step()
    return FakeNetwork(lambda some: to_features(pixels(some)), lambda some: to_logits(to_features(pixels(some))))


def random_images(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)


def endless_ring(sd: float = 0.1) -> Data:
    return ring(modes=4, radius=2.0, sd=sd, samples=None, seed=0)


def stacked() -> Stacked:
    data, _, _ = halves()
    return Stacked(data, seed=0)


# --- every metric -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_which_way_is_better(name: str) -> None:
    """Each file builds, its defaults fit data that is there, and all values returned have a direction."""
    small: dict[str, dict[str, Any]] = {
        "kernel_distance": {"subsets": 2, "subset_size": 100},
        "sliced_wasserstein": {"samples": 100, "patches": 4},
        "wasserstein": {"samples": 50},
        "modes": {"pairs": 50},
        "class_frechet": {"samples": 200},
    }
    data = endless_ring() if name in ("modes", "wasserstein") else halves()[0]
    network = random_network()
    metric = build(name, data, **small.get(name, {}))
    assert metric.check(data, network if metric.needs_features(data) else None) == []
    generated = data.training(200)[0]
    values = metric(view_of(data, generated, network, torch.zeros(200, dtype=torch.long)))
    assert list(values) == list(metric.higher_is_better)
    assert all(math.isfinite(value) for value in values.values())
    assert set(metric.bounds) <= set(values)
    for key, (least, greatest) in metric.bounds.items():
        assert least is None or values[key] >= least
        assert greatest is None or values[key] <= greatest
    assert isinstance(metric.samples, int)


def test_samples_beyond_a_metrics_own_do_not_count() -> None:
    data, other, labels = halves()
    metrics: list[Metric] = [
        Frechet(samples=100, real_samples=None),
        KernelDistance(samples=100, real_samples=200, subsets=2, subset_size=50),
        InceptionScore(samples=100, splits=1),
        Prdc(samples=100, real_samples=100, nearest=3),
        Classes(samples=100, least=1),
        SlicedWasserstein(samples=100, patches=2, projections=8),
    ]
    for metric in metrics:
        few = metric(view_of(data, other[:100], random_network(), labels[:100]))
        many = metric(view_of(data, torch.cat([other[:100], random_images(50)]), random_network(), labels[:150]))
        assert few == pytest.approx(many, rel=1e-6), metric


# --- points -----------------------------------------------------------------------------------------------------------


def test_wasserstein_in_one_dimension_pairs_sorted_points() -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = torch.randn(300, 1, generator=generator), 2 * torch.randn(300, 1, generator=generator) + 1
    sorted_distance = (ours.sort(0).values - theirs.sort(0).values).abs().mean()
    assert wasserstein(ours, theirs) == pytest.approx(float(sorted_distance), rel=1e-6)


def test_wasserstein_is_the_best_of_all_pairings() -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        ours, theirs = torch.randn(2, 5, 2, generator=generator)
        costs = [
            sum(math.dist(ours[i].tolist(), theirs[j].tolist()) for i, j in enumerate(order)) / 5
            for order in itertools.permutations(range(5))
        ]
        assert wasserstein(ours, theirs) == pytest.approx(min(costs), rel=1e-6)
    assert wasserstein(ours, ours.flip(0)) == 0


def test_wasserstein_compares_with_as_many_real_points_as_there_are() -> None:
    data = gaussian_2d(samples=20, seed=0)
    moved = data.training(None)[0] + torch.tensor([3.0, 4.0])
    generated = torch.cat([moved, data.training(10)[0]])  # which would fit better than the first 20
    assert Wasserstein(samples=30)(view_of(data, generated))["distance"] == pytest.approx(5, rel=1e-5)
    few = Wasserstein(samples=10)(view_of(data, generated))["distance"]
    assert few == pytest.approx(wasserstein(generated[:10], data.training(10)[0]))


def test_modes_as_counted_by_hand() -> None:
    data = endless_ring(sd=0.1)  # centres (2, 0), (0, 2), (-2, 0), (0, -2)
    near = [[2.0, 0.297], [1.9, 0.0], [2.2, 0.2], [0.0, 2.1]]  # of high quality: within 0.3
    far = [[0.0, 1.69], [-1.0, 0.1], [2.22, 0.22], [0.0, 1.5]]  # the third at 0.311
    generated = torch.tensor(near + far)
    values = Modes(samples=8, pairs=4, least=1, data=data)(view_of(data, generated))
    assert (values["covered"], values["high_quality"]) == (2, 0.5)
    counts = {0: 4, 1: 3, 2: 1}
    assert values["reverse_kl"] == pytest.approx(sum(n / 8 * math.log(4 * n / 8) for n in counts.values()))
    assert values["wasserstein"] == pytest.approx(wasserstein(generated[:4], data.training(4)[0]))
    assert Modes(samples=8, pairs=4, least=2, data=data)(view_of(data, generated))["covered"] == 1


def test_modes_of_the_data_itself_are_all_there() -> None:
    data = endless_ring()
    values = Modes(samples=None, pairs=500, least=100, data=data)(view_of(data, data.batch(0, 2500, seed=1)[0]))
    assert values["covered"] == 4
    assert values["high_quality"] == pytest.approx(1 - math.exp(-4.5), abs=0.01)  # of a Gaussian in the plane
    assert values["reverse_kl"] < 0.005
    assert values["wasserstein"] < 0.3


def test_modes_rank_what_is_lost() -> None:
    data = endless_ring()
    points, labels = data.batch(0, 2500, seed=1)
    assert labels is not None
    found = [
        Modes(samples=None, pairs=500, least=1, data=data)(view_of(data, points[labels < kept]))
        for kept in (4, 3, 2, 1)
    ]
    assert [values["covered"] for values in found] == [4, 3, 2, 1]
    for key in ("wasserstein", "reverse_kl"):
        assert rising([values[key] for values in found]), key
    noisy = [
        Modes(samples=None, pairs=500, least=1, data=data)(
            view_of(data, points + noise * torch.randn(2500, 2, generator=torch.Generator().manual_seed(0)))
        )
        for noise in (0, 0.1, 0.5, 2)
    ]
    assert rising([-values["high_quality"] for values in noisy])
    assert rising([values["wasserstein"] for values in noisy])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
def test_diverged_points_are_the_worst(value: float) -> None:
    data = endless_ring()
    generated = torch.full((100, 2), value)
    values = Modes(samples=100, pairs=20, least=1, data=data)(view_of(data, generated))
    assert values["wasserstein"] > 1e38
    assert (values["covered"], values["high_quality"]) == (0, 0)
    one = data.training(100)[0].clone()
    one[7, 1] = value
    assert Wasserstein(samples=100)(view_of(data, one))["distance"] > 1e36
    values = Modes(samples=100, pairs=20, least=1, data=data)(view_of(data, one))
    assert values["covered"] == 4
    assert 0.9 < values["high_quality"] <= 0.99
    if not math.isfinite(value):
        values = Modes(samples=100, pairs=20, least=1, data=data)(view_of(data, generated))
        assert (values["wasserstein"], values["reverse_kl"]) == (math.inf, pytest.approx(math.log(4)))


def test_divergence_by_hand() -> None:
    shares = torch.tensor([0.5, 0.25, 0.25, 0]).double()
    assert divergence(torch.tensor([2, 1, 1, 0]), shares) == 0
    assert divergence(torch.tensor([3, 1, 0, 0]), shares) == pytest.approx(0.75 * math.log(1.5))
    assert divergence(torch.tensor([3, 0, 0, 1]), shares) == math.inf


# --- stacked images ---------------------------------------------------------------------------------------------------


def test_modes_of_stacked_images() -> None:
    """A network that sees the label of each channel in its brightness: 100 a + 10 b + c."""
    levels = torch.arange(10, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    labels = torch.arange(10)
    parts = Samples(levels[[0, 0, *range(10)]], labels[[0, 0, *range(10)]], seed=0)  # three zeros and one of each other
    data = Stacked(parts, seed=0)
    places = torch.tensor([100, 10, 1])
    network = FakeNetwork(pixels, lambda images: F.one_hot(images[:, :, 0, 0].long() @ places, 1000).float())

    shares = stacked_shares(data)
    assert shares.sum() == pytest.approx(1)
    assert shares[0] == pytest.approx((3 / 12) ** 3)
    assert shares[107] == shares[701] == pytest.approx(3 / 12 / 12 / 12)

    metric = Modes(samples=None, pairs=10, least=1, data=data)
    assert metric.samples == 26_000
    assert list(metric.higher_is_better) == ["covered", "reverse_kl"]
    assert metric.needs_features(data)
    assert metric.check(data, network) == []
    codes = [0, 0, 5, 234]
    generated = torch.stack([torch.cat([levels[code // place % 10] for place in (100, 10, 1)]) for code in codes])
    values = Modes(samples=4, pairs=10, least=1, data=data)(view_of(data, generated, network))
    by_hand = sum(n / 4 * math.log(n / 4 / float(shares[code])) for code, n in Counter(codes).items())
    assert values == {"covered": 3, "reverse_kl": pytest.approx(by_hand)}
    itself = metric(view_of(data, data.training(26_000)[0], network))
    assert itself["covered"] > 995
    assert itself["reverse_kl"] == pytest.approx(999 / 2 / 26_000, rel=0.3)  # of a histogram of so many draws


# --- distances of features --------------------------------------------------------------------------------------------


def distance_of(ours: tuple[Any, Any], theirs: tuple[Any, Any]) -> float:
    """Of means and covariances as numpy has them."""
    one, other = [tuple(torch.from_numpy(each) for each in moments) for moments in (ours, theirs)]
    return frechet(one, other, torch.device("cpu"))  # type: ignore[arg-type]


def test_frechet_of_two_gaussians() -> None:
    """With commuting covariances it is |μ - m|² + Σ (s - t)²; in general, what torch-fidelity makes of Σ S."""
    ours = np.array([1.0, 2.0]), np.diag([4.0, 9.0])
    theirs = np.array([0.0, 4.0]), np.diag([1.0, 1.0])
    assert distance_of(ours, theirs) == pytest.approx(1 + 4 + 1 + 4)
    rng = np.random.default_rng(0)
    for samples in (200, 20):  # in the end fewer than dimensions, and covariances that are singular
        one, other = [(rng.normal(size=50), np.cov(rng.normal(size=(50, samples)))) for _ in range(2)]
        statistics = [{"mu": mean, "sigma": covariance} for mean, covariance in (one, other)]
        expected = fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID]
        assert distance_of(one, other) == pytest.approx(float(expected), rel=1e-6)
    assert distance_of(one, one) == pytest.approx(0, abs=1e-6)


def test_moments_block_by_block() -> None:
    features = 100 + torch.randn(2500, 3, generator=torch.Generator().manual_seed(0))
    mean, covariance = moments(features, torch.device("cpu"))
    assert mean.dtype == covariance.dtype == torch.float64
    np.testing.assert_allclose(mean, features.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(features.double().numpy(), rowvar=False), rtol=1e-9)


class Module(nn.Module):
    """A feature network as torchmetrics takes one; `which` of its two outputs."""

    num_features = 6

    def __init__(self, network: FeatureNetwork, which: int):
        super().__init__()
        self.network, self.which = network, which

    def forward(self, images: Tensor) -> Tensor:
        return self.network.forward(images)[self.which]


def test_frechet_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    data, other, _ = halves()
    network = random_network()
    theirs = FrechetInceptionDistance(feature=Module(network, 0), input_img_size=(1, 8, 8))
    theirs.set_dtype(torch.float64)
    theirs.update(data.training(None)[0], real=True)
    for generated in (other, random_images(500), other[:300]):
        theirs.reset_real_features = False
        theirs.reset()
        theirs.update(generated, real=False)
        ours = Frechet(samples=len(generated), real_samples=None)(view_of(data, generated, network))
        assert ours["distance"] == pytest.approx(float(theirs.compute()), rel=1e-3)


def test_kernel_distance_agrees_with_torchmetrics_and_with_its_formula() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    data, other, _ = halves()
    network = random_network()
    with pytest.warns(UserWarning, match="will save all extracted features"):
        theirs = KernelInceptionDistance(feature=Module(network, 0), subsets=3, subset_size=200)  # all, in any order
    theirs.update(data.training(200)[0], real=True)
    theirs.update(other[:200], real=False)
    view = view_of(data, other, network)
    ours = KernelDistance(samples=200, real_samples=200, subsets=3, subset_size=200)(view)["distance"]
    assert ours == pytest.approx(float(theirs.compute()[0]), rel=1e-3)

    y, x = view.seen[0][:200].double(), view.features_of_real(200).double()
    kernel = lambda a, b: (a @ b.T / 6 + 1) ** 3  # noqa: E731
    unequal = 1 - torch.eye(200)
    formula = ((kernel(x, x) + kernel(y, y)) * unequal).sum() / (200 * 199) - 2 * kernel(x, y).mean()
    assert ours == pytest.approx(float(formula), rel=1e-6)


def test_kernel_distance_has_no_bias() -> None:
    """Its mean over small subsets of one distribution lies around 0, on both sides."""
    data, other, _ = halves()
    metric = KernelDistance(samples=898, real_samples=None, subsets=200, subset_size=20)
    far = metric(view_of(data, random_images(898), random_network()))["distance"]
    assert abs(metric(view_of(data, other, random_network()))["distance"]) < 0.01 * far


def distance(a: Tensor, b: Tensor) -> float:
    return math.dist(a.tolist(), b.tolist())


def test_prdc_agrees_with_plain_loops() -> None:
    generator = torch.Generator().manual_seed(0)
    for nearest in (1, 3):
        real = torch.randn(40, 3, generator=generator).double()
        fake = 0.7 * torch.randn(30, 3, generator=generator).double() + 0.5

        def radius(rows: Tensor, i: int, k: int = nearest) -> float:
            return sorted(distance(rows[i], rows[j]) for j in range(len(rows)) if j != i)[k - 1]

        real_radii = [radius(real, i) for i in range(40)]
        fake_radii = [radius(fake, j) for j in range(30)]
        in_real = [[distance(real[i], fake[j]) < real_radii[i] for j in range(30)] for i in range(40)]
        in_fake = [[distance(real[i], fake[j]) < fake_radii[j] for j in range(30)] for i in range(40)]
        assert prdc(real, fake, nearest) == pytest.approx(
            {
                "coverage": sum(any(row) for row in in_real) / 40,
                "density": sum(map(sum, in_real)) / nearest / 30,
                "precision": sum(any(row[j] for row in in_real) for j in range(30)) / 30,
                "recall": sum(any(row) for row in in_fake) / 40,
            }
        )


def test_prdc_of_many_is_that_of_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    data, other, _ = halves()
    view = view_of(data, other, random_network())
    metric = Prdc(samples=500, real_samples=700, nearest=5)
    whole = metric(view)
    monkeypatch.setattr("gan_runner.metrics.feature_space.BLOCK", 64)
    assert metric(view) == pytest.approx(whole, abs=0.002)  # a border may round to the other side
    same = prdc(view.seen[0].double(), view.seen[0].double(), 5)
    assert same == pytest.approx({"coverage": 1, "density": 1, "precision": 1, "recall": 1}, abs=0.01)


# --- classes ----------------------------------------------------------------------------------------------------------


def test_inception_score_agrees_with_torchmetrics() -> None:
    from torchmetrics.image.inception import InceptionScore as Theirs

    data, other, _ = halves()
    network = random_network()
    with pytest.warns(UserWarning, match="will save all extracted features"):
        theirs = Theirs(feature=Module(network, 1), splits=1)
    theirs.update(other)
    with pytest.warns(UserWarning, match="degrees of freedom"):
        expected = float(theirs.compute()[0])
    ours = InceptionScore(samples=898, splits=1)(view_of(data, other, network))["score"]
    assert ours == pytest.approx(expected, rel=1e-3)


def test_inception_score_at_its_ends() -> None:
    """1 where all images look alike to the network, the number of classes where it is sure and they are even."""
    data, _, _ = halves()
    images = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    by_level = lambda of: FakeNetwork(pixels, lambda some: of(some[:, 0, 0, 0].long()))  # noqa: E731
    metric = InceptionScore(samples=100, splits=1)
    sure = by_level(lambda level: 2000.0 * F.one_hot(level % 10, 10))  # probabilities that round to 0
    assert metric(view_of(data, images, sure))["score"] == pytest.approx(10)
    alike = by_level(lambda level: torch.arange(10).expand(len(level), -1) * 500.0)
    assert metric(view_of(data, images, alike))["score"] == pytest.approx(1)
    sorted_classes = by_level(lambda level: 2000.0 * F.one_hot(level // 10, 10))  # shuffled before they are split
    assert InceptionScore(samples=100, splits=2)(view_of(data, images, sorted_classes))["score"] > 9


def test_classes_by_hand() -> None:
    data, _, _ = halves()
    images = torch.tensor([0, 0, 1, 3], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    network = FakeNetwork(pixels, lambda some: F.one_hot(some[:, 0, 0, 0].long(), 10).float())
    values = Classes(samples=4, least=1)(view_of(data, images, network))
    assert values == {"entropy": pytest.approx(1.5 * math.log(2)), "covered": 3}
    assert Classes(samples=4, least=2)(view_of(data, images, network))["covered"] == 1
    asked = torch.tensor([0, 1, 1, 3, 5])
    assert Classes(samples=4, least=1)(view_of(data, images, network, asked))["agreement"] == 0.75


# --- patches ----------------------------------------------------------------------------------------------------------


def test_sliced_wasserstein_of_equal_sets_is_zero() -> None:
    data, other, _ = halves()
    metric = SlicedWasserstein(samples=300, patches=4, projections=16)
    assert metric(view_of(data, data.training(300)[0]))["distance"] == 0
    assert metric(view_of(data, other))["distance"] > 1


def test_sliced_wasserstein_of_one_level_by_hand() -> None:
    """Of images of one patch, the patches are the images; every direction's distance is between sorted projections."""
    ours, theirs = random_images(50, 1)[..., :7, :7], random_images(50, 2)[..., :7, :7] // 2
    data = Samples(ours, seed=0)
    value = SlicedWasserstein(samples=50, patches=1, projections=4000)(view_of(data, theirs))["distance"]

    def standard(images: Tensor) -> np.ndarray:
        rows = images.flatten(1).double().numpy()
        return (rows - rows.mean()) / rows.std()

    level = normalised(torch.from_numpy(ours.numpy()).permute(0, 2, 3, 1).float())
    np.testing.assert_allclose(level.flatten(1), standard(ours), atol=1e-5)
    by_seed = []
    for seed in range(3):
        directions = torch.randn(40, 49, generator=torch.Generator().manual_seed(seed)).double().numpy()
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        distances = []
        for direction in directions:
            pairs = zip(sorted(standard(ours) @ direction), sorted(standard(theirs) @ direction), strict=True)
            distances.append(sum(abs(a - b) for a, b in pairs) / 50)
        by_seed.append(sum(distances) / 40)
        rows, others = (torch.from_numpy(standard(images)).float() for images in (ours, theirs))
        assert sliced(rows, others, 40, seed) == pytest.approx(by_seed[-1], rel=1e-4)
    assert value == pytest.approx(1000 * sliced(rows, others, 4000, 5), rel=0.03)  # of other directions


def test_sliced_wasserstein_of_shifted_points() -> None:
    """A shift by d moves each projection by d·θ, |d·θ| of a random θ on the circle being 2/π |d| in the mean."""
    points = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
    assert sliced(points, points + torch.tensor([3.0, 4.0]), 2000, 0) == pytest.approx(5 * 2 / math.pi, rel=0.03)


@pytest.mark.parametrize(
    ("size", "heights"), [((8, 8), [8]), ((31, 40), [31]), ((33, 64), [33, 17]), ((64, 70), [64, 32, 16])]
)
def test_pyramid(size: tuple[int, int], heights: list[int]) -> None:
    """Levels down to 16 pixels; what is added up again is the image, and a flat one is all in the last level."""
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    levels = pyramid(images)
    assert [level.shape[2] for level in levels] == heights
    flat = pyramid(torch.ones(1, 1, *size))
    assert [float(level.abs().max()) for level in flat[:-1]] == pytest.approx([0] * (len(heights) - 1), abs=1e-5)
    assert float(flat[-1].min()) == pytest.approx(1)


def test_pyramid_level_by_scipy() -> None:
    from scipy.ndimage import convolve

    line = np.array([1, 4, 6, 4, 1]) / 16
    kernel = np.outer(line, line)
    image = np.random.default_rng(0).normal(size=(32, 32))
    small = convolve(image, kernel, mode="mirror")[::2, ::2]
    spread = np.zeros_like(image)
    spread[::2, ::2] = small
    fine, coarse = pyramid(torch.from_numpy(image).float()[None, None])
    np.testing.assert_allclose(coarse[0, 0], small, atol=1e-5)
    np.testing.assert_allclose(fine[0, 0], image - convolve(spread, 4 * kernel, mode="mirror"), atol=1e-5)


def test_patches_are_cut_everywhere_and_normalised_by_channel() -> None:
    rows = torch.arange(10, dtype=torch.uint8).view(1, 1, 10, 1).expand(40, 1, 10, 9)
    images = torch.cat([rows, rows * 20, torch.full_like(rows, 7)], 1)
    (found,) = descriptors(images, 8, seed=0)
    assert found.shape == (40 * 8, 7 * 7 * 3)
    patches = found.view(-1, 7, 7, 3)
    assert patches[..., 2].abs().max() == 0  # a constant channel has no deviation to divide by
    assert patches[..., 0].mean() == pytest.approx(0, abs=1e-5)
    assert patches[..., 0].std() == pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(patches[..., 0], patches[..., 1], atol=1e-4, rtol=1e-4)
    assert len(patches[:, 0, 0, 0].unique()) == 4  # from the first row to the last that leaves room
    torch.testing.assert_close(patches[:, 0, 0, 0], patches[:, 0, 6, 0])


# --- worse samples score worse ----------------------------------------------------------------------------------------


def rising(values: list[float]) -> bool:
    return all(before < after for before, after in itertools.pairwise(values))


def blurred(images: Tensor, sigma: float) -> Tensor:
    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma)))


@dataclass
class Degraded:
    """A value for the other half of the data, for noise, and for that half made ever worse."""

    real: float
    noise: float
    blurred: list[float]  # by ever more
    dropped: list[float]  # ever more classes

    def __neg__(self) -> "Degraded":
        return Degraded(-self.real, -self.noise, [-value for value in self.blurred], [-value for value in self.dropped])


def degraded(name: str, value: str, **keys: Any) -> Degraded:
    data, other, labels = halves()
    metric = build(name, data, **keys)
    measure = lambda images, asked: metric(view_of(data, images, classifier(), asked))[value]  # noqa: E731
    return Degraded(
        real=measure(other, labels),
        noise=measure(random_images(898), labels),
        blurred=[measure(blurred(other, sigma), labels) for sigma in (0.4, 0.55, 0.7)],
        dropped=[measure(other[labels < kept], labels[labels < kept]) for kept in (9, 8, 6, 3)],
    )


@pytest.mark.parametrize(
    ("name", "value", "at_best", "keys"),
    [
        ("frechet", "distance", 0, {}),
        ("kernel_distance", "distance", 0, {"subset_size": 150, "subsets": 50}),
        ("sliced_wasserstein", "distance", 0, {"patches": 16, "projections": 64}),
        ("prdc", "coverage", 1, {}),
        ("prdc", "recall", 1, {}),
        ("inception_score", "score", 10, {"splits": 1}),
    ],
)
def test_worse_images_score_worse(name: str, value: str, at_best: float, keys: dict[str, Any]) -> None:
    """The other half of the data is near the best there is, noise far from it, and blur and lost classes in between."""
    found = degraded(name, value, **keys)
    assert abs(found.real - at_best) < 0.2 * abs(found.noise - at_best)
    if build(name, halves()[0], **keys).higher_is_better[value]:
        found = -found
    for worse in (found.blurred, found.dropped):
        assert rising([found.real, *worse, found.noise])


@pytest.mark.parametrize("value", ["precision", "density"])
def test_fidelity_sees_blur_and_noise_but_no_lost_classes(value: str) -> None:
    """A faint blur even moves images to where real ones are dense."""
    found = degraded("prdc", value)
    assert found.real == pytest.approx(1, abs=0.05)
    assert rising([found.noise, *reversed(found.blurred[1:]), found.real])
    assert found.dropped == pytest.approx([found.real] * 4, abs=0.1)


def test_classes_see_what_is_lost() -> None:
    """The entropy falls with every class, `covered` counts them once the classifier's mistakes do not."""
    found = degraded("classes", "entropy")
    assert found.real == pytest.approx(math.log(10), abs=0.01)
    assert rising([found.noise, *reversed(found.dropped), found.real])
    assert degraded("classes", "covered", least=20).dropped == [9, 8, 6, 3]
    assert degraded("classes", "covered").real == 10


def test_agreement_sees_blur_and_noise_but_no_lost_classes() -> None:
    found = degraded("classes", "agreement")
    assert found.real > 0.9
    assert found.noise == pytest.approx(0.1, abs=0.05)
    assert rising([found.noise, found.blurred[-1], found.real])
    assert found.dropped == pytest.approx([found.real] * 4, abs=0.03)


# --- what does not go together ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", METRICS)
def test_points_or_images(name: str) -> None:
    """Every metric suits images or points, and says so where it meets the others; `modes` wants known modes."""
    images, points = halves()[0], gaussian_2d(samples=100, seed=0)
    wrong = {"modes": [images, points], "wasserstein": [images], "authenticity": []}.get(name, [points])
    for data in wrong:
        metric = build(name, data)
        for network in (None, random_network()):
            with pytest.raises(
                ValueError, match=rf"^metric={name}: it .*, and this dataset has|dataset is neither"
            ) as error:
                metric.check(data, network)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["frechet", "kernel_distance", "prdc"])
def test_all_of_an_endless_dataset(name: str) -> None:
    metric = build(name, stacked(), real_samples=None)
    with pytest.raises(ValueError, match=rf"metric={name}: this dataset is endless.*metric\.{name}\.real_samples="):
        metric.check(stacked(), random_network())
    assert build(name, stacked(), real_samples=2000).check(stacked(), random_network()) == []


def test_frechet_warns_of_fewer_images_than_features() -> None:
    data, _, _ = halves()
    network = random_network(dimension=1000)
    few, none = Frechet(samples=1000, real_samples=None), Frechet(samples=1001, real_samples=None)
    generated, real = few.check(data, network)
    assert "1000 generated images for 1000 features" in generated
    assert "metric.frechet.samples" in generated
    assert "898 real images for 1000 features" in real
    assert none.check(data, network) == [real]
    assert none.check(data, random_network(dimension=897)) == []


def test_limits_of_samples() -> None:
    data, _, _ = halves()
    network = random_network()
    with pytest.raises(ValueError, match=r"metric\.kernel_distance\.subset_size=1000: there are 898 real images.* 898"):
        build("kernel_distance", data).check(data, network)
    with pytest.raises(ValueError, match="there are 200 generated images"):
        build("kernel_distance", data, samples=200, subset_size=201).check(data, network)
    assert build("kernel_distance", data, samples=898, subset_size=898).check(data, network) == []
    with pytest.raises(ValueError, match=r"metric\.prdc\.nearest=898"):
        build("prdc", data, nearest=898).check(data, network)
    with pytest.raises(ValueError, match=r"metric\.inception_score\.splits=11"):
        build("inception_score", data, samples=10, splits=11).check(data, network)
    with pytest.raises(ValueError, match=r"7x7 pixels, and the images are 6x8; set dataset\.image_size"):
        build("sliced_wasserstein", data).check(Samples(random_images(9)[..., :6, :], seed=0), None)
    for name, keys in {"prdc": {"samples": 1}, "classes": {"least": 0}, "modes": {"pairs": 0}}.items():
        with pytest.raises(ValueError, match=rf"metric\.{name}\.{next(iter(keys))}="):
            build(name, data, **keys)


def test_classes_want_a_network_that_knows_them() -> None:
    data, _, _ = halves()
    network = random_network()
    network.knows = False
    for name, its_data in (("classes", data), ("modes", stacked())):
        with pytest.raises(ValueError, match=f"metric={name}: it wants a network .*features=classifier"):
            build(name, its_data).check(its_data, network)
    with pytest.raises(ValueError, match=r"metric=classes: .*has none"):
        build("classes", data).check(Samples(random_images(9), seed=0), random_network())
