"""A GAN by hand: what one would write for one experiment, as lean as it gets, with nothing around it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from gan_runner.games.adversarial import Adversarial

Loss = Literal["wgan_gp", "hinge", "hinge+spectral_norm", "relativistic+r1+r2"]


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a loop by hand has in common with a run: start weights, data and numbers."""

    generator: nn.Module
    discriminator: nn.Module
    loss: Loss
    images: np.ndarray | None  # uint8 (N, C, H, W); None: the points of a ring
    centres: Tensor | None  # (M, 2), of the ring
    sd: float | None
    batch_size: int
    latent_size: int
    discriminator_steps: int
    learning_rate: float
    betas: tuple[float, float]
    average_rate: float
    device: torch.device

    @classmethod
    def of(cls, game: Adversarial, loss: Loss, latent_size: int, images: np.ndarray | None) -> "Problem":
        """That of a game which has not begun, and in which no layer is normalized yet."""
        group: dict[str, Any] = game.generator.optimizer.param_groups[0]
        assert game.moving_average is not None, "the default"
        discriminator = game.discriminator.network
        return cls(
            generator=game.generator.network,
            discriminator=with_spectral_norm(discriminator) if loss == "hinge+spectral_norm" else discriminator,
            loss=loss,
            images=images,
            centres=game.data.centres,
            sd=game.data.sd,
            batch_size=game.batch_size,
            latent_size=latent_size,
            discriminator_steps=game.discriminator_steps,
            learning_rate=group["lr"],
            betas=group["betas"],
            average_rate=float(game.moving_average.rate(10**6)),  # past the ramp
            device=game.randomness.device,
        )

    def points(self) -> Tensor:
        """A batch of the ring, (N, 2)."""
        assert self.centres is not None, "a ring"
        modes = torch.randint(len(self.centres), (self.batch_size,), device=self.device)
        return self.centres[modes] + (self.sd or 0) * torch.randn(self.batch_size, 2, device=self.device)

    def latents(self) -> Tensor:
        """A batch, (N, latent_size)."""
        return torch.randn(self.batch_size, self.latent_size, device=self.device)


def with_spectral_norm(network: nn.Module) -> nn.Module:
    """The network with PyTorch's normalization, in place."""
    for layer in [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]:
        spectral_norm(layer)
    return network


class BareLoop:
    """The discriminator's updates, one of the generator, the moving average; which of the options help is measured.

    channels_last: the memory format of networks and images.
    joined: one pass of the discriminator for real and generated samples.
    fused: Adam as one kernel.
    """

    def __init__(self, problem: Problem, *, channels_last: bool = False, joined: bool = False, fused: bool = True):
        self.problem, self.joined = problem, joined
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.generator, self.discriminator = (
            copy.deepcopy(network).to(memory_format=self.format)
            for network in (problem.generator, problem.discriminator)
        )
        self.weights = list(self.discriminator.parameters())
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=problem.learning_rate, betas=problem.betas, fused=fused)
            for network in (self.generator, self.discriminator)
        ]
        if problem.images is not None:
            self.images = torch.from_numpy(problem.images).to(problem.device).contiguous(memory_format=self.format)

    def real(self) -> Tensor:
        problem = self.problem
        if problem.images is None:
            return problem.points()
        rows = torch.randint(len(self.images), (problem.batch_size,), device=problem.device)
        return (self.images[rows] * (2 / 255) - 1).contiguous(memory_format=self.format)

    def step(self) -> None:
        """One update of the generator, after those of the discriminator."""
        problem, discriminator = self.problem, self.discriminator
        generator_optimizer, discriminator_optimizer = self.optimizers
        for _ in range(problem.discriminator_steps):
            real = self.real()
            with torch.no_grad():
                fake = self.generator(problem.latents(), None)
            loss = self.discriminator_loss(real, fake)
            discriminator_optimizer.zero_grad()
            loss.backward(inputs=self.weights)  # and not towards the points of the penalty
            discriminator_optimizer.step()
        discriminator.requires_grad_(False)
        fake_logits = discriminator(self.generator(problem.latents(), None), None)
        if problem.loss == "relativistic+r1+r2":
            loss = F.softplus(discriminator(real, None) - fake_logits).mean()
        else:
            loss = -fake_logits.mean()
        generator_optimizer.zero_grad()
        loss.backward()
        generator_optimizer.step()
        discriminator.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_([*self.average.parameters()], [*self.generator.parameters()], problem.average_rate)
            for average, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                average.copy_(buffer)

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        discriminator, has_r1 = self.discriminator, self.problem.loss == "relativistic+r1+r2"
        samples = [torch.cat([real, fake])] if self.joined else [real, fake]
        samples = [each.detach().requires_grad_(has_r1) for each in samples]
        logits = torch.cat([discriminator(each, None) for each in samples])
        real_logits, fake_logits = logits.chunk(2)
        if has_r1:
            slopes = torch.autograd.grad(logits.sum(), samples, create_graph=True)
            penalty = sum(slope.square().sum() for slope in slopes) / len(real)
            return F.softplus(fake_logits - real_logits).mean() + 10 / 2 * penalty
        if self.problem.loss.startswith("hinge"):
            return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
        position = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
        between = torch.lerp(fake.float(), real, position).requires_grad_()
        (gradient,) = torch.autograd.grad(discriminator(between, None).sum(), between, create_graph=True)
        penalty = (gradient.flatten(1).square().sum(1).add(1e-12).sqrt() - 1).square().mean()
        return fake_logits.mean() - real_logits.mean() + 10 * penalty


def leanest(
    problem: Problem, measure: Callable[[dict[str, Callable[[], object]]], dict[str, float]]
) -> dict[str, bool]:
    """The options that are fastest here, each tried in turn on top of the best before it."""
    best = {"channels_last": False, "joined": False, "fused": True}
    for name in best if problem.images is not None else ("joined", "fused"):
        other = best | {name: not best[name]}
        loops = {"best": BareLoop(problem, **best), "other": BareLoop(problem, **other)}
        found = measure({key: loop.step for key, loop in loops.items()})
        if found["other"] < found["best"]:
            best = other
    return best
