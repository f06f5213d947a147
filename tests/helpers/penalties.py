"""Discriminators with known slopes, views of them, draws that a test knows."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gan_runner.games.view import AdversarialView
from gan_runner.regularizers import penalties


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
    parts.setdefault("batch_shape", tuple(real.shape[: getattr(learner, "run_axes", 0) + 1]))
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


class Logits(nn.Module):
    """D(x) = w x: (..., N, 1) -> (..., N)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x.squeeze(-1)


def unstacked(stacked: Stacked, run: int) -> Stacked:
    alone = copy.deepcopy(stacked)
    alone.run_axes = 0
    alone.all = nn.ParameterList(parameter[run].clone() for parameter in stacked.all)
    return alone


def take_turn(penalty: Any, view: AdversarialView, *step: int) -> Tensor:
    """What a term, or a penalty that remembers, gives in a turn of its own."""
    penalty.update(view)
    return penalty(view, *step)


def an_iterative(**others: float) -> penalties.IterativeGradientPenalty:
    return penalties.IterativeGradientPenalty(**({"target": 1.5, "smoothing": 0.9, "rate": 0.5} | others))


def with_loss(view: AdversarialView, loss: Any) -> AdversarialView:
    return a_view(view.learner, view.discriminator, view.real, view.fake, loss=loss, randomness=view.randomness)
