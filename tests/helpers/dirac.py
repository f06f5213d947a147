"""The Dirac-GAN of Mescheder et al. 2018, arXiv:1801.04406, through the real players and the real game.

The data is a point at 0, the generator's sample is its one parameter θ, and the discriminator is D(x) = ψ x. The game's
turns alternate, with plain gradient steps of size h: first ψ, then θ with the new ψ.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gan_runner import losses
from gan_runner.datasets.data import Data
from gan_runner.games.adversarial import Adversarial, Augmentation
from gan_runner.games.latents import Latents
from gan_runner.games.player import LOSS, Player
from gan_runner.games.term import Term
from gan_runner.regularizers import penalties
from gan_runner.torch_utils.randomness import Randomness


class Origin(Data):
    """Real samples at 0 in one dimension."""

    shape = (1,)
    num_classes = 0
    size = None
    seed = 0
    output_activation = "linear"

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = slice(None)) -> tuple[Tensor, None]:
        return torch.zeros(batch_size, 1), None

    def held_out(self, count: int) -> None:
        return None

    def fixed(self, count: int) -> tuple[Tensor, None]:
        return torch.zeros(count, 1), None

    def training(self, count: int | None) -> tuple[Tensor, None]:
        return torch.zeros(count or 1, 1), None


class Zero(Latents):
    """Latents that are 0, and take no random numbers."""

    def draw(self, randomness: Randomness, *shape: int) -> Tensor:
        return torch.zeros(*shape, self.size)


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
    weight: float = 0.0,
    penalty: Callable[..., Tensor] = penalties.r1,
    every: int = 1,
    augmentations: Sequence[Augmentation] = (),
    batch_size: int = 2,
    seed: int = 0,
) -> np.ndarray:
    """(ψ, θ) after each step of the game, the start first: (steps + 1, 2), in float64."""

    def player(name: str, network: nn.Module, terms: dict[str, Term]) -> Player:
        return Player(name, network, terms, torch.optim.SGD(network.parameters(), lr=h), lr_schedule=lambda step: 1.0)

    regularizer = {"penalty": Term(penalty, weight=weight, every=every)} if weight else {}
    discriminator, generator = Discriminator(start[0]), Generator(start[1])
    game = Adversarial(
        players={
            "generator": player("generator", generator, {LOSS: Term(loss.generator)}),
            "discriminator": player("discriminator", discriminator, {LOSS: Term(loss.discriminator), **regularizer}),
        },
        data=Origin(),
        latents=Zero(1),
        randomness=Randomness(seed, torch.device("cpu")),
        batch_size=batch_size,
        discriminator_steps=1,
        augmentations=list(augmentations),
        autocast=torch.autocast("cpu", enabled=False),
        moving_average=None,
        is_conditional=False,
    )
    points = [start]
    for step in range(steps):
        game.step(step)
        points.append((discriminator.psi.item(), generator.theta.item()))
    return np.array(points)


def alternating_map(h: float, gamma: float) -> np.ndarray:
    """What one step does to a small (ψ, θ) under cross-entropy, whose slope at logit 0 is 1/2.

    ψ' = (1 - h γ) ψ - h/2 θ, then θ' = θ + h/2 ψ'. Instance noise of standard deviation s acts as γ = s²/2: the loss's
    second derivative at logit 0 is 1/4, once for the real samples and once for the generated ones.
    """
    return np.array([[1 - h * gamma, -h / 2], [h / 2 * (1 - h * gamma), 1 - h**2 / 4]])


def fitted_map(points: np.ndarray) -> np.ndarray:
    """The least-squares linear map from each point to the next, (2, 2): unbiased by noise in the steps themselves."""
    return np.linalg.lstsq(points[:-1], points[1:], rcond=None)[0].T


def rate_of(step_map: np.ndarray) -> float:
    """Per step, the growth of log |(ψ, θ)| in the long run: the logarithm of the spectral radius."""
    return float(np.log(np.abs(np.linalg.eigvals(step_map)).max()))


def axis_crossings(points: np.ndarray) -> np.ndarray:
    """|θ| wherever ψ changes its sign, interpolated between the points."""
    psi, theta = points.T
    before = np.flatnonzero(psi[:-1] * psi[1:] < 0)
    share = psi[before] / (psi[before] - psi[before + 1])
    return np.abs(theta[before] + share * (theta[before + 1] - theta[before]))


def gradient_penalty_orbit(weight: float) -> float:
    """Where WGAN-GP ends up on the axis ψ = 0, as |θ|, in continuous time: the penalty is λ (|ψ| - 1)², λ = `weight`.

    For ψ > 0, dψ/dt = -θ - 2λ (ψ - 1) and dθ/dt = ψ turn about (0, 2λ), for ψ < 0 about (0, -2λ).
    With λ < 1 each half turn shrinks the distance from its centre by q = exp(-πλ / √(1 - λ²)), so that a crossing at
    -a leads to 2λ + q (2λ + a): a limit cycle through 2λ (1 + q) / (1 - q), at least 4/π. With λ >= 1 the centre is
    reached without another turn: the game stops at |θ| = 2λ, with a discriminator of slope 0.
    """
    if weight >= 1:
        return 2 * weight
    return 2 * weight / math.tanh(math.pi * weight / 2 / math.sqrt(1 - weight**2))
