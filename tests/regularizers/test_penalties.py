"""Penalties and the term: closed forms, derivatives, leading axes, and the bugs that other implementations have."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.func import functional_call

from gan_runner.games.term import Term
from gan_runner.games.view import AdversarialView
from gan_runner.losses import BinaryCrossEntropy
from gan_runner.models.layers import ConditionalBatchNorm2d
from gan_runner.regularizers import penalties
from gan_runner.regularizers.spectral_norm import spectral_norm

CONF = Path(__file__).parents[2] / "conf"

GRADIENT_PENALTIES: dict[str, Callable[..., Tensor]] = {
    "gradient_penalty": partial(penalties.gradient_penalty, target=1.5),
    "gradient_penalty_one_sided": partial(penalties.gradient_penalty_one_sided, target=1.5),
    "zero_centered_gradient_penalty": penalties.zero_centered_gradient_penalty,
    "r1": penalties.r1,
    "r2": penalties.r2,
    "dragan": partial(penalties.dragan, target=1.5, scale=0.5),
}
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {  # of the slope
    "gradient_penalty": lambda slope: (slope - 1.5) ** 2,
    "gradient_penalty_one_sided": lambda slope: (slope - 1.5).clamp(min=0) ** 2,
    "zero_centered_gradient_penalty": lambda slope: slope**2 / 2,
    "r1": lambda slope: slope**2 / 2,
    "r2": lambda slope: slope**2 / 2,
    "dragan": lambda slope: (slope - 1.5) ** 2,
}
each_penalty = pytest.mark.parametrize("name", GRADIENT_PENALTIES)


class Seeded:
    """Uniform draws in float64 from a seed, which remembers their shapes and values."""

    def __init__(self, seed: int = 0):
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: list[Tensor] = []

    def uniform(self, *shape: int) -> Tensor:
        self.drawn.append(torch.rand(shape, generator=self.generator, dtype=torch.float64))
        return self.drawn[-1]


class Given(Seeded):
    """Draws that the test gives, of exactly these shapes."""

    def __init__(self, *draws: Tensor):
        self.draws = list(draws)

    def uniform(self, *shape: int) -> Tensor:
        draw = self.draws.pop(0)
        assert draw.shape == shape
        return draw


def a_randomness() -> Any:
    return Seeded()


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def view_of(network: nn.Module, real: Tensor, fake: Tensor, given: Any = None) -> AdversarialView:
    """The discriminator's turn, as the game makes it."""
    real, fake = real.clone().requires_grad_(), fake.clone().requires_grad_()
    return a_view(network, Unlabelled(network), real, fake, randomness=given if given is not None else a_randomness())


class Unlabelled(nn.Module):
    """A network of samples alone as one that is told the labels."""

    def __init__(self, network: Callable[[Tensor], Tensor]):
        super().__init__()
        self.network, self.run_axes = network, getattr(network, "run_axes", 0)

    def forward(self, samples: Tensor, labels: Tensor | None) -> Tensor:
        return self.network(samples)


def a_view(learner: nn.Module, discriminator: Any, real: Tensor, fake: Tensor, **others: Any) -> AdversarialView:
    parts = {"augment": lambda samples: samples, "loss": None, "labels": None, "randomness": a_randomness()} | others
    return AdversarialView(learner=learner, discriminator=discriminator, real=real, fake=fake, **parts)


class Linear(nn.Module):
    """D(x) = <w, x>, with a slope of |w| everywhere: (..., N, *sample) -> (..., N), w of (..., entries)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.run_axes = weight.ndim - 1
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(self.run_axes + 1) * self.weight.unsqueeze(-2)).sum(-1)


class Quadratic(nn.Module):
    """D(x) = 1/2 xᵀ A x, A symmetric, with the gradient A x: (N, D) -> (N,)."""

    def __init__(self, matrix: Tensor):
        super().__init__()
        self.matrix = nn.Parameter((matrix + matrix.mT) / 2)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.matrix * x).sum(-1) / 2


# --- closed forms -----------------------------------------------------------------------------------------------------


@each_penalty
@pytest.mark.parametrize("sample", [(3,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("size", [0.5, 2.0])
def test_linear_discriminator(name, sample, size):
    weight = some(torch.Size(sample).numel())
    weight *= size / weight.norm()
    result = GRADIENT_PENALTIES[name](view_of(Linear(weight), some(5, *sample), some(5, *sample, seed=1)))
    expected = SHAPES[name](torch.full((5,), size, dtype=torch.float64))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@each_penalty
def test_quadratic_discriminator_at_known_points(name):
    real, fake, position, noise = (
        some(6, 3),
        some(6, 3, seed=1),
        some(6, seed=2).sigmoid(),
        some(6, 3, seed=3).sigmoid(),
    )
    network = Quadratic(some(3, 3, seed=4))
    average = sum(x for row in real for x in row) / 18
    spread = (sum((x - average) ** 2 for row in real for x in row) / 17) ** 0.5
    points, draws = {
        "r1": (real, []),
        "r2": (fake, []),
        "dragan": (real + 0.5 * spread * noise * position[:, None], [noise, position]),
    }.get(name, (position[:, None] * real + (1 - position[:, None]) * fake, [position]))
    slopes = torch.stack([(network.matrix.detach() @ point).norm() for point in points])
    assert (slopes < 1.5).any()  # both sides of the target
    assert (slopes > 1.5).any()
    result = GRADIENT_PENALTIES[name](view_of(network, real, fake, Given(*draws)))
    torch.testing.assert_close(result, SHAPES[name](slopes), rtol=1e-9, atol=1e-9)


@each_penalty
def test_each_sample_alone(name):
    """A norm over the whole batch, or one point per batch, would make a sample's value depend on the others."""
    real, fake, network = some(4, 3), some(4, 3, seed=1), Quadratic(some(3, 3, seed=4))
    randomness = Seeded()
    together = GRADIENT_PENALTIES[name](view_of(network, real, fake, randomness))
    assert len(set(together.tolist())) == 4 or name == "gradient_penalty_one_sided"
    if name == "dragan":  # whose noise is as wide as the batch
        return
    for n in range(4):
        draws = [draw[n : n + 1] for draw in randomness.drawn]
        alone = GRADIENT_PENALTIES[name](view_of(network, real[n : n + 1], fake[n : n + 1], Given(*draws)))
        torch.testing.assert_close(alone[0], together[n])


@pytest.mark.parametrize("name", ["gradient_penalty", "gradient_penalty_one_sided", "zero_centered_gradient_penalty"])
def test_one_interpolation_point_per_sample(name):
    """Not one for the batch, and not one for each pixel."""
    randomness = Seeded()
    GRADIENT_PENALTIES[name](view_of(Linear(some(24)), some(5, 2, 3, 4), some(5, 2, 3, 4, seed=1), randomness))
    assert [draw.shape for draw in randomness.drawn] == [(5,)]


def test_interpolation_runs_from_fake_to_real():
    network, real, fake = Quadratic(torch.eye(3, dtype=torch.float64)), some(2, 3), some(2, 3, seed=1)
    ends = Given(torch.tensor([0.0, 1.0], dtype=torch.float64))
    expected = torch.stack([fake[0], real[1]]).square().sum(-1) / 2
    torch.testing.assert_close(penalties.zero_centered_gradient_penalty(view_of(network, real, fake, ends)), expected)


def test_gradient_is_taken_before_the_augmentation():
    network = Linear(some(3))
    view = view_of(network, some(4, 3), some(4, 3, seed=1))
    view = a_view(network, Unlabelled(network), view.real, view.fake, augment=lambda samples: 3 * samples)
    expected = (9 * network.weight.square().sum() / 2).expand(4)
    for penalty in (penalties.r1, penalties.r2, penalties.zero_centered_gradient_penalty):
        torch.testing.assert_close(penalty(view), expected)


@each_penalty
def test_labels_reach_the_discriminator(name):
    """A conditional discriminator, here of slope 1 + y, is judged under the samples' own labels."""
    labels = torch.tensor([0, 2, 1])

    def conditional(samples: Tensor, its_labels: Tensor | None) -> Tensor:
        assert its_labels is not None
        return samples[:, 0] * (1 + its_labels)

    real, fake = some(3, 2).requires_grad_(), some(3, 2, seed=1).requires_grad_()
    view = a_view(nn.Module(), conditional, real, fake, labels=labels)
    torch.testing.assert_close(GRADIENT_PENALTIES[name](view), SHAPES[name](1 + labels.double()), rtol=1e-9, atol=1e-9)


# --- leading axes -----------------------------------------------------------------------------------------------------


@each_penalty
def test_stacked_runs_equal_the_loop(name):
    weights, real, fake = some(3, 8), some(3, 5, 2, 4), 3 * some(3, 5, 2, 4, seed=1)
    randomness = Seeded()
    stacked = GRADIENT_PENALTIES[name](view_of(Curved(weights), real, fake, randomness))
    assert stacked.shape == (3, 5)
    for run in range(3):
        draws = Given(*(draw[run] for draw in randomness.drawn))
        alone = GRADIENT_PENALTIES[name](view_of(Curved(weights[run]), real[run], fake[run], draws))
        torch.testing.assert_close(stacked[run], alone)


class Curved(Linear):
    """A linear discriminator behind a nonlinearity: the slope depends on the point."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class Stacked(nn.Module):
    """Kernels and biases of three runs."""

    run_axes = 1

    def __init__(self, *shapes: tuple[int, ...]):
        super().__init__()
        self.all = nn.ParameterList(some(3, *shape, seed=seed) for seed, shape in enumerate(shapes))


@pytest.mark.parametrize(
    "penalty",
    [
        partial(penalties.l1, biases=False, reduction="sum"),
        partial(penalties.l1, biases=True, reduction="mean"),
        partial(penalties.l2, biases=False, reduction="mean"),
        partial(penalties.l2, biases=True, reduction="sum"),
        penalties.orthogonal,
    ],
)
def test_weights_of_stacked_runs_equal_the_loop(penalty):
    shapes = [(4, 3), (4,), (2, 4, 3, 3), (2,)]
    stacked = Stacked(*shapes)
    result = penalty(view_of(stacked, some(1), some(1)))
    assert result.shape == (3, 1)
    for run in range(3):
        alone = Stacked(*shapes)
        alone.run_axes = 0
        alone.all = nn.ParameterList(parameter[run] for parameter in stacked.all)
        torch.testing.assert_close(result[run], penalty(view_of(alone, some(1), some(1))))


# --- derivatives ------------------------------------------------------------------------------------------------------


class Probe(nn.Module):
    """The mean of a penalty, as a function of the discriminator's weights."""

    def __init__(self, network: nn.Module, penalty: Callable[..., Tensor]):
        super().__init__()
        self.network, self.penalty = network, [penalty]  # in a list: the state of LeCam is no weight

    def forward(self) -> Tensor:
        view = view_of(self.network, some(4, 3), some(4, 3, seed=1), Seeded())
        return copy.deepcopy(self.penalty[0])(view).mean(-1)


def smooth_network() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.Softplus(), nn.Linear(4, 1), nn.Flatten(0))
    return network.double()


def a_lecam() -> penalties.LeCam:
    """With means that are far from those of the batch."""
    lecam = penalties.LeCam(decay=1 - 1e-12)  # so that they stand still, as they do for the gradient
    lecam.updates.fill_(1)
    lecam.real_mean.fill_(0.5)
    lecam.fake_mean.fill_(-0.7)
    return lecam.double()


@pytest.mark.parametrize(
    "penalty",
    [
        *GRADIENT_PENALTIES.values(),
        partial(penalties.gradient_penalty_one_sided, target=0.05),  # where it is not 0
        partial(penalties.l1, biases=True, reduction="mean"),
        partial(penalties.l2, biases=False, reduction="sum"),
        penalties.orthogonal,
    ],
)
def test_finite_differences(penalty):
    probe = Probe(smooth_network(), penalty)
    names, weights = zip(*probe.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda *values: functional_call(probe, dict(zip(names, values, strict=True)), ()), weights
    )


@each_penalty
def test_gradient_of_a_flat_discriminator_is_finite(name):
    """The root has no derivative at 0."""
    network = smooth_network()
    for parameter in network.parameters():
        parameter.data.zero_()
    GRADIENT_PENALTIES[name](view_of(network, some(4, 3), some(4, 3, seed=1))).sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_r1_and_r2_share_the_loss_s_forward_pass():
    """The discriminator sees each batch once, and the sum's gradient is that of the parts on their own."""
    network, calls = smooth_network(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    parts = [BinaryCrossEntropy().discriminator, penalties.r1, penalties.r2]

    def gradient(*parts: Callable[..., Tensor]) -> Tensor:
        view = view_of(network, some(4, 3), some(4, 3, seed=1))
        total = torch.stack([part(view).mean(-1) for part in parts]).sum()
        network.zero_grad()
        total.backward(inputs=list(network.parameters()))
        assert view.real.grad is None
        assert view.fake.grad is None
        return torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in network.parameters()]
        )

    together = gradient(*parts)
    assert len(calls) == 2
    torch.testing.assert_close(gradient(*reversed(parts)), together)
    torch.testing.assert_close(torch.stack([gradient(part) for part in parts]).sum(0), together)


@each_penalty
def test_under_autocast_values_are_float32(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0))

    class Draws(Seeded):
        def uniform(self, *shape: int) -> Tensor:
            return super().uniform(*shape).float()

    results = []
    for enabled in (False, True):
        network.zero_grad()
        view = view_of(network, 4 * some(32, 6).float(), 4 * some(32, 6, seed=1).float(), Draws())
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = GRADIENT_PENALTIES[name](view)
            value.mean().backward(inputs=list(network.parameters()))
        assert value.dtype == torch.float32
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        results.append((value, gradient))
    for low, exact in zip(*reversed(results), strict=True):
        assert (low - exact).norm() <= 0.03 * exact.norm()


# --- on the weights ---------------------------------------------------------------------------------------------------


class Assorted(nn.Module):
    """Weights, and what is none. The constructor's ranges give every parameter known entries."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.convolution = nn.Conv2d(1, 2, 2)
        self.embedding = nn.Embedding(2, 2)
        self.batch = nn.BatchNorm2d(2)
        self.layer = nn.LayerNorm([2, 2])  # its gain has two axes
        self.conditional = ConditionalBatchNorm2d(2, num_classes=3)  # likewise
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(100.0)
            self.linear.weight.copy_(torch.tensor([[1.0, -2], [3, 0], [0, 1]]))
            self.convolution.weight.copy_(torch.tensor([[1.0, 0, -1, 2], [0, 2, 0, 1]]).reshape(2, 1, 2, 2))
            self.embedding.weight.copy_(torch.tensor([[0.5, 0], [-1, 2]]))


WEIGHTS = {"linear.weight": (7, 15), "convolution.weight": (7, 11), "embedding.weight": (3.5, 5.25)}  # Σ|w|, Σw²
WEIGHT_COUNT = 6 + 8 + 4
OTHERS_COUNT = 3 + 2 + 2 * 2 + 2 * 4 + 2 * 6  # biases, gains and shifts, each of 100


@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "spectral_norm"])
@pytest.mark.parametrize("power", [1, 2])
def test_l1_and_l2(power, parametrized):
    network = spectral_norm(Assorted(), iterations=1) if parametrized else Assorted()
    view = view_of(network, some(1), some(1))
    penalty: Callable[..., Tensor] = (penalties.l1, penalties.l2)[power - 1]
    weights = sum(sums[power - 1] for sums in WEIGHTS.values())
    everything = weights + OTHERS_COUNT * 100**power
    for biases, reduction, expected in [
        (False, "sum", weights),
        (False, "mean", weights / WEIGHT_COUNT),
        (True, "sum", everything),
        (True, "mean", everything / (WEIGHT_COUNT + OTHERS_COUNT)),
    ]:
        result = penalty(view, biases=biases, reduction=reduction)
        assert result.shape == (1,)
        assert result.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "spectral_norm"])
def test_orthogonal(parametrized):
    network = spectral_norm(Assorted(), iterations=1) if parametrized else Assorted()
    result = penalties.orthogonal(view_of(network, some(1), some(1)))
    # Twice the squared products of the rows: linear 3, -2, 0; convolution 0·1 + 2·0 - 1·0 + 2·1 = 2; embedding -0.5.
    assert result.tolist() == [2 * (9 + 4 + 0) + 2 * 4 + 2 * 0.25]


def test_orthogonal_is_zero_on_orthogonal_rows_of_any_length():
    network = nn.Linear(16, 8)
    nn.init.orthogonal_(network.weight)
    with torch.no_grad():
        network.weight *= torch.linspace(0.5, 2, 8)[:, None]
    view = view_of(network, some(1), some(1))
    assert penalties.orthogonal(view).item() < 1e-10
    with torch.autocast("cpu", torch.bfloat16):  # whose own rounding would be the larger part
        assert penalties.orthogonal(view).item() < 1e-10


def test_weights_are_the_learner_s():
    """The generator's own, where the penalty is on the generator."""
    discriminator, generator = Linear(some(3)), nn.Linear(2, 2).double()
    view = a_view(generator, Unlabelled(discriminator), some(2, 3), some(2, 3))
    result = penalties.l1(view, biases=False, reduction="sum")
    torch.testing.assert_close(result, generator.weight.abs().sum().reshape(1))


# --- LeCam ------------------------------------------------------------------------------------------------------------


class Logits(nn.Module):
    """D(x) = w x: (..., N, 1) -> (..., N)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x.squeeze(-1)


def test_lecam_by_hand():
    lecam = penalties.LeCam(decay=0.9)
    sequence = [  # real logits, fake logits, running means of both, by hand
        ([1.0, 3.0], [-2.0, 0.0], 2.0, -1.0),  # the first value as it is
        ([4.0, 4.0], [1.0, 3.0], 2.2, -0.7),
        ([0.2, 0.2], [-0.7, -0.7], 2.0, -0.7),
    ]
    for update, (real, fake, real_mean, fake_mean) in enumerate(sequence):
        assert lecam.updates == update
        result = lecam(view_of(Logits(), torch.tensor(real)[:, None], torch.tensor(fake)[:, None]))
        assert lecam.real_mean.item() == pytest.approx(real_mean)
        assert lecam.fake_mean.item() == pytest.approx(fake_mean)
        expected = [(r - fake_mean) ** 2 + (f - real_mean) ** 2 for r, f in zip(real, fake, strict=True)]
        assert result.tolist() == pytest.approx(expected)


def test_lecam_differentiates_the_logits_and_not_the_means():
    """Also where it is the first to look at them."""
    network, lecam = Logits(), penalties.LeCam(decay=0.9)
    lecam(view_of(network, torch.tensor([[1.0]]), torch.tensor([[-1.0]])))
    lecam(view_of(network, torch.tensor([[2.0]]), torch.tensor([[3.0]]))).sum().backward()
    assert network.weight.grad is not None  # α: 1.1 and -0.6
    assert network.weight.grad.item() == pytest.approx(2 * (2 + 0.6) * 2 + 2 * (3 - 1.1) * 3)


def test_lecam_finite_differences():
    probe = Probe(smooth_network(), a_lecam())
    names, weights = zip(*probe.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda *values: functional_call(probe, dict(zip(names, values, strict=True)), ()), weights
    )


def test_lecam_of_stacked_runs_and_its_state():
    real, fake = some(2, 3, 4).float(), some(2, 3, 4, seed=1).float()  # updates, runs, samples
    stacked, alone = penalties.LeCam(decay=0.9), [penalties.LeCam(decay=0.9) for _ in range(3)]
    for r, f in zip(real, fake, strict=True):
        together = stacked(view_of(Logits(), r[..., None], f[..., None]))
        for run, lecam in enumerate(alone):
            torch.testing.assert_close(together[run], lecam(view_of(Logits(), r[run, :, None], f[run, :, None])))
    resumed = penalties.LeCam(decay=0.9)
    resumed.load_state_dict(alone[0].state_dict())
    view = view_of(Logits(), real[0, 0, :, None], fake[0, 0, :, None])
    assert resumed(view).equal(alone[0](view))
    assert set(Term(resumed).state()) == {"real_mean", "fake_mean", "updates"}


# --- the term ---------------------------------------------------------------------------------------------------------


def test_term():
    term = Term(lambda values: values, weight=3.0, every=4, schedule=lambda step: step / 10)
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    result = term(values, step=5)
    assert result.item() == pytest.approx(3 * 0.5 * 4 * 2)  # weight x schedule x every x mean
    assert term.weight_at(5) == pytest.approx(1.5)
    assert term.value.item() == 2  # unweighted
    assert not term.value.requires_grad
    (gradient,) = torch.autograd.grad(result, values)
    assert gradient.tolist() == pytest.approx([6 / 2, 6 / 2])
    assert [update for update in range(10) if term.is_due(update)] == [0, 4, 8]


def test_term_by_default_is_the_mean():
    term = Term(lambda values: values)
    assert term(torch.tensor([1.0, 3.0]), step=7).item() == 2
    assert all(term.is_due(update) for update in range(3))
    assert term(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), step=0).tolist() == [2, 6]  # one per run
    assert term.value.tolist() == [2, 6]
    assert term.state() == {}


def test_lazy_term_adds_up_to_the_eager_one():
    """Over k updates, evaluating every k-th and multiplying by k adds what evaluating every time adds."""
    lazy, eager = (Term(lambda values: values, weight=2.0, every=every) for every in (3, 1))
    values = torch.tensor([5.0])
    assert sum(term(values, 0) for term in [eager] for _ in range(6)) == sum(
        lazy(values, 0) for update in range(6) if lazy.is_due(update)
    )


def test_term_saves_its_value_and_its_penalty_s_state():
    term = Term(penalties.LeCam(decay=0.9))
    term(view_of(Logits(), torch.ones(2, 1), torch.zeros(2, 1)), 0)
    assert {name: value.item() for name, value in term.state_dict().items()} == {
        "value": 2.0,  # (1 - 0)² + (0 - 1)²
        "of.real_mean": 1.0,
        "of.fake_mean": 0.0,
        "of.updates": 1.0,
    }


# --- the papers' defaults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradient_penalty", {"weight": 10.0, "target": 1.0}),  # arXiv:1704.00028, algorithm 1
        ("gradient_penalty_one_sided", {"weight": 10.0, "target": 1.0}),
        ("r1", {"weight": 10.0}),  # arXiv:1801.04406: gamma
        ("r2", {"weight": 10.0}),
        ("dragan", {"weight": 10.0, "target": 1.0, "scale": 0.5}),  # the code of arXiv:1705.07215
        ("lecam", {"weight": 0.3, "decay": 0.99}),  # arXiv:2104.03310 on CIFAR
        ("orthogonal", {"weight": 1e-4, "on": ["generator"]}),  # arXiv:1809.11096
        ("weight_clip", {"bound": 0.01, "on": ["discriminator"]}),  # arXiv:1701.07875, algorithm 1
        ("spectral_norm", {"iterations": 1, "on": ["discriminator"]}),  # arXiv:1802.05957
    ],
)
def test_defaults(name, expected):
    node = yaml.safe_load((CONF / "regularizer" / f"{name}.yaml").read_text())
    assert {key: node[key] for key in expected} == expected
    assert node.get("every", 1) == 1


@pytest.mark.parametrize("loss", ["wgan", "wgan_gp"])
def test_losses_that_bring_a_regularizer(loss):
    """The same as the regularizer's own file, and the paper's five critic steps."""
    node = yaml.safe_load((CONF / "loss" / f"{loss}.yaml").read_text())
    assert node["discriminator_steps"] == 5
    assert node["defaults"][0] == "wasserstein@loss"
    ((name, inline),) = node["regularizer"].items()
    assert name == {"wgan": "weight_clip", "wgan_gp": "gradient_penalty"}[loss]
    assert inline == yaml.safe_load((CONF / "regularizer" / f"{name}.yaml").read_text())
