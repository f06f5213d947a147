"""The Dirac-GAN of Mescheder et al. 2018, arXiv:1801.04406, through the real players and the real game.

Without a penalty each pair of turns, close to the equilibrium at 0, is a rotation: it never arrives. A zero-centered
penalty or instance noise makes it a contraction whose rate linear algebra gives; WGAN-GP keeps away from 0.
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from gan_runner import losses
from gan_runner.augmentations import InputNoise
from gan_runner.regularizers import penalties
from tests.helpers import some
from tests.helpers.dirac import alternating_map, axis_crossings, fitted_map, gradient_penalty_orbit, path, rate_of


def decay_rate(points: np.ndarray) -> float:
    """The mean decay of log |(ψ, θ)| per step: a straight line through all points, the oscillation averaged out."""
    return float(np.polyfit(np.arange(len(points)), np.log(np.linalg.norm(points, axis=1)), 1)[0])


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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
@pytest.mark.parametrize(
    "penalty", some([penalties.r1, penalties.r2, penalties.zero_centered_gradient_penalty], every=3)
)
def test_zero_centered_penalties_decay_at_the_spectral_radius(gamma, are_complex, penalty):
    """Weight = γ: the three agree, since D is linear. The rate is compared, per step: a factor of 2 in γ shows."""
    h = 0.2
    eigenvalues = np.linalg.eigvals(alternating_map(h, gamma))
    assert np.iscomplex(eigenvalues).all() == are_complex
    points = path(losses.BinaryCrossEntropy(), (0.06, 0.08), h=h, steps=600, weight=gamma, penalty=penalty)
    settled = points[50:]  # the smaller eigenvalue's part is gone
    assert decay_rate(settled) == pytest.approx(rate_of(alternating_map(h, gamma)), rel=0.03)


@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_each_step_is_the_alternating_map(gamma):
    """Entry by entry, from the steps themselves: the least-squares map from each point to the next."""
    h = 0.2
    points = path(losses.BinaryCrossEntropy(), (0.006, 0.008), h=h, steps=40, weight=gamma)
    np.testing.assert_allclose(fitted_map(points), alternating_map(h, gamma), atol=1e-3)


@pytest.mark.slow
def test_lazy_regularization_decays_as_fast_in_the_mean():
    """Every 4th update with 4 times the weight: Karras et al. 2019, arXiv:1912.04958, appendix B."""
    h, gamma = 0.05, 0.3
    eager = decay_rate(path(losses.BinaryCrossEntropy(), (0.06, 0.08), h=h, steps=1200, weight=gamma))
    lazy = decay_rate(path(losses.BinaryCrossEntropy(), (0.06, 0.08), h=h, steps=1200, weight=gamma, every=4))
    assert lazy == pytest.approx(eager, rel=0.05)


@pytest.mark.parametrize("sd", [0.7, 2.0])  # below and above the critical damping, near √2
def test_instance_noise_decays_at_the_predicted_rate(sd):
    """In continuous time f''(0) sd² ± √(f''(0)² sd⁴ - f'(0)²), with f'(0) = 1/2 and f''(0) = -1/4."""
    h, batch_size = 0.05, 2**15
    points = path(
        losses.BinaryCrossEntropy(),
        (0.06, 0.08),
        h=h,
        steps=160,
        augmentations=[InputNoise(sd=sd)],
        batch_size=batch_size,
    )
    rate = rate_of(fitted_map(points)) / h
    assert rate == pytest.approx((-(sd**2) / 4 + np.emath.sqrt(sd**4 / 16 - 1 / 4)).real, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("start", [(0.006, 0.008), (0.0, 4.0)])
def test_wgan_gp_does_not_converge(start):
    """From within and from without it comes to a limit cycle, of which the axis crossings are known."""
    weight = 0.3
    penalty = partial(penalties.gradient_penalty, target=1.0)
    points = path(losses.Wasserstein(), start, h=0.1, steps=400, weight=weight, penalty=penalty)
    late = points[200:]  # a turn takes 2π / √(1 - weight²), 66 steps
    assert len(axis_crossings(late)) == 6
    assert axis_crossings(late) == pytest.approx(gradient_penalty_orbit(weight), rel=0.03)
    assert np.linalg.norm(late, axis=1).min() > 1
