"""The Dirac-GAN of Mescheder et al. 2018, arXiv:1801.04406, through the real players and the real game.

The data is a point at 0, the generator's sample is its one parameter θ, and the discriminator is D(x) = ψ x. The game's
turns alternate, with plain gradient steps of size h: first ψ, then θ with the new ψ. Without a penalty each pair of
turns, close to the equilibrium at 0, is a rotation: it never arrives. A zero-centered penalty makes it a contraction
whose rate linear algebra gives.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gan_runner import losses, penalties
from gan_runner.datasets.data import Data
from gan_runner.games.adversarial import Adversarial
from gan_runner.player import LOSS, Player
from gan_runner.randomness import Randomness
from gan_runner.terms import Term


class Origin(Data):
    """Real samples at 0 in one dimension."""

    shape = (1,)
    num_classes = 0
    size = None
    seed = 0
    output_activation = "linear"

    def batch(self, index: int, batch_size: int, seed: int) -> tuple[Tensor, None]:
        return torch.zeros(batch_size, 1), None

    def held_out(self, count: int) -> None:
        return None

    def fixed(self, count: int) -> tuple[Tensor, None]:
        return torch.zeros(count, 1), None


class Generator(nn.Module):
    """θ, whatever the latent."""

    def __init__(self, theta: float):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([theta]))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.theta.expand(len(latents), 1)


class Discriminator(nn.Module):
    """ψ x: (N, 1) -> (N,)."""

    def __init__(self, psi: float):
        super().__init__()
        self.psi = nn.Parameter(torch.tensor([psi]))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return (x * self.psi).squeeze(-1)


def path(
    loss: losses.Wasserstein | losses.BinaryCrossEntropy,
    start: tuple[float, float],
    *,
    h: float,
    steps: int,
    gamma: float = 0.0,
    penalty: Callable[..., Tensor] = penalties.r1,
    every: int = 1,
) -> np.ndarray:
    """(ψ, θ) after each step of the game, the start first: (steps + 1, 2), in float64."""

    def player(network: nn.Module, terms: dict[str, Term]) -> Player:
        return Player(network, terms, torch.optim.SGD(network.parameters(), lr=h), lr_schedule=lambda step: 1.0)

    regularizer = {"r1": Term(penalty, weight=gamma, every=every)} if gamma else {}
    discriminator, generator = Discriminator(start[0]), Generator(start[1])
    game = Adversarial(
        players={
            "generator": player(generator, {LOSS: Term(loss.generator)}),
            "discriminator": player(discriminator, {LOSS: Term(loss.discriminator), **regularizer}),
        },
        data=Origin(),
        draw_latents=lambda randomness, count: torch.zeros(count, 1),
        randomness=Randomness(0, torch.device("cpu")),
        batch_size=2,
        discriminator_steps=1,
        augmentations=[],
        autocast=torch.autocast("cpu", enabled=False),
        moving_average=None,
        is_conditional=False,
    )
    points = [start]
    for step in range(steps):
        game.step(step)
        points.append((discriminator.psi.item(), generator.theta.item()))
    return np.array(points)


def decay_rate(points: np.ndarray) -> float:
    """The mean decay of log |(ψ, θ)| per step: a straight line through all points, the oscillation averaged out."""
    return float(np.polyfit(np.arange(len(points)), np.log(np.linalg.norm(points, axis=1)), 1)[0])


def alternating_map(h: float, gamma: float) -> np.ndarray:
    """What one step does to a small (ψ, θ) under cross-entropy, whose slope at logit 0 is 1/2.

    ψ' = (1 - h γ) ψ - h/2 θ, then θ' = θ + h/2 ψ'.
    """
    return np.array([[1 - h * gamma, -h / 2], [h / 2 * (1 - h * gamma), 1 - h**2 / 4]])


def test_wasserstein_is_a_closed_orbit():
    """ψ' = ψ - h θ, θ' = θ + h ψ' keeps ψ² + θ² - h ψ θ exactly: an ellipse.

    The map's determinant is 1 and its trace 2 - h²: a turn takes 2π / arccos(1 - h²/2) steps.
    """
    h = 0.2
    points = path(losses.Wasserstein(), (0.3, 0.5), h=h, steps=1500)
    psi, theta = points.T
    invariant = psi**2 + theta**2 - h * psi * theta
    np.testing.assert_allclose(invariant, invariant[0], rtol=1e-4)  # 1500 roundings of float32
    period = 2 * math.pi / math.acos(1 - h**2 / 2)
    upward_crossings = np.flatnonzero((theta[:-1] < 0) & (theta[1:] >= 0))
    assert np.diff(upward_crossings).mean() == pytest.approx(period, rel=0.01)
    assert len(upward_crossings) == pytest.approx(1500 / period, abs=1)


def test_cross_entropy_decays_slower_than_any_rate():
    """Non-saturating: d(ψ² + θ²)/dt = -2 ψθ tanh(ψθ/2) ≈ -(ψθ)², in the mean over a turn -r⁴/8.

    Hence 1/r² grows by 1/8 per unit of time: r falls like t^(-1/2), and its decay rate, -r²/16, tends to 0.
    """
    h = 0.2
    points = path(losses.BinaryCrossEntropy(), (0.6, 0.8), h=h, steps=3000)
    windows = [points[start : start + 500] for start in range(0, 3001 - 500, 500)]
    rates = [decay_rate(window) / h for window in windows]
    assert all(rate < 0 for rate in rates)
    assert all(abs(later) < 0.9 * abs(earlier) for earlier, later in pairwise(rates))
    assert abs(rates[-1]) < abs(rates[0]) / 5
    # The oscillation averaged out over whole turns, of 2π / arccos(1 - h²/8) steps.
    period = round(2 * math.pi / math.acos(1 - h**2 / 8))
    inverse = np.convolve(1 / np.square(points).sum(1), np.full(period, 1 / period), mode="valid")
    growth = np.polyfit(h * np.arange(len(inverse)), inverse, 1)[0]
    assert growth == pytest.approx(1 / 8, rel=0.05)


def test_saturating_cross_entropy_does_not_arrive():
    """The minimax game: its flow conserves ψ² + θ², to which the alternating steps keep close."""
    points = path(losses.SaturatingBinaryCrossEntropy(), (0.6, 0.8), h=0.2, steps=1500)
    radius = np.linalg.norm(points, axis=1)
    assert radius.min() > 0.85
    assert radius.max() < 1.15
    assert radius[-200:].mean() == pytest.approx(radius[:200].mean(), rel=0.02)


@pytest.mark.parametrize(
    ("gamma", "are_complex"),
    [(0.3, True), (2.0, False)],  # below and above the critical damping, near γ = 1
)
@pytest.mark.parametrize("penalty", [penalties.r1, penalties.r2, penalties.zero_centered_gradient_penalty])
def test_zero_centered_penalties_decay_at_the_spectral_radius(gamma, are_complex, penalty):
    """Weight = γ: the three agree, since D is linear. The rate is compared, per step: a factor of 2 in γ shows."""
    h = 0.2
    eigenvalues = np.linalg.eigvals(alternating_map(h, gamma))
    assert np.iscomplex(eigenvalues).all() == are_complex
    expected = math.log(np.abs(eigenvalues).max())
    points = path(losses.BinaryCrossEntropy(), (0.06, 0.08), h=h, steps=600, gamma=gamma, penalty=penalty)
    settled = points[50:]  # the smaller eigenvalue's part is gone
    assert decay_rate(settled) == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_each_step_is_the_alternating_map(gamma):
    """Entry by entry, from the steps themselves: the least-squares map from each point to the next."""
    h = 0.2
    points = path(losses.BinaryCrossEntropy(), (0.006, 0.008), h=h, steps=40, gamma=gamma)
    fitted = np.linalg.lstsq(points[:-1], points[1:], rcond=None)[0].T
    np.testing.assert_allclose(fitted, alternating_map(h, gamma), atol=1e-3)


def test_lazy_regularization_decays_as_fast_in_the_mean():
    """Every 4th update with 4 times the weight: Karras et al. 2019, arXiv:1912.04958, appendix B."""
    h, gamma = 0.05, 0.3
    eager = decay_rate(path(losses.BinaryCrossEntropy(), (0.06, 0.08), h=h, steps=1200, gamma=gamma))
    lazy = decay_rate(path(losses.BinaryCrossEntropy(), (0.06, 0.08), h=h, steps=1200, gamma=gamma, every=4))
    assert lazy == pytest.approx(eager, rel=0.05)
