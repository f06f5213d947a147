"""A GAN as it is commonly written, to measure what its habits cost."""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.benchmarks.bare import Problem


class NaiveLoop:
    """The same mathematics, with what tutorials and many repositories do.

    Images are converted on the host for every batch; the generator's graph is built for the discriminator's turn and
    thrown away; the generator's turn leaves gradients in the discriminator; losses are read at every step; the moving
    average is a loop over the parameters.
    """

    def __init__(self, problem: Problem):
        self.problem = problem
        self.generator, self.discriminator = copy.deepcopy(problem.generator), copy.deepcopy(problem.discriminator)
        self.average = copy.deepcopy(self.generator)
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=problem.learning_rate, betas=problem.betas)
            for network in (self.generator, self.discriminator)
        ]
        self.losses: list[tuple[float, float]] = []
        self.draw = np.random.default_rng(0)

    def real(self) -> Tensor:
        problem = self.problem
        if problem.images is None:
            return problem.points()
        rows = self.draw.integers(len(problem.images), size=problem.batch_size)
        return ((torch.from_numpy(problem.images[rows]).float() / 255.0 - 0.5) / 0.5).to(problem.device)

    def step(self) -> None:
        """One update of the generator, after those of the discriminator."""
        problem, generator, discriminator = self.problem, self.generator, self.discriminator
        generator_optimizer, discriminator_optimizer = self.optimizers
        for _ in range(problem.discriminator_steps):
            real = self.real()
            discriminator_optimizer.zero_grad()
            fake = generator(problem.latents(), None)
            real_logits, fake_logits = discriminator(real, None), discriminator(fake.detach(), None)
            if problem.loss.startswith("hinge"):
                discriminator_loss = F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()
            elif problem.loss == "relativistic+r1+r2":
                r1, r2 = zero_centred(discriminator, real), zero_centred(discriminator, fake)
                discriminator_loss = F.softplus(fake_logits - real_logits).mean() + 10 * (r1 + r2)
            else:
                penalty = gradient_penalty(discriminator, real.data, fake.data)
                discriminator_loss = -real_logits.mean() + fake_logits.mean() + 10 * penalty
            discriminator_loss.backward()
            discriminator_optimizer.step()
            last = discriminator_loss.item()
        generator_optimizer.zero_grad()
        fake_logits = discriminator(generator(problem.latents(), None), None)
        if problem.loss == "relativistic+r1+r2":
            generator_loss = F.softplus(discriminator(real, None) - fake_logits).mean()
        else:
            generator_loss = -fake_logits.mean()
        generator_loss.backward()
        generator_optimizer.step()
        self.losses.append((last, generator_loss.item()))
        with torch.no_grad():
            for ours, theirs in zip(self.average.parameters(), generator.parameters(), strict=True):
                ours.mul_(1 - problem.average_rate).add_(theirs * problem.average_rate)
            for kept, last_one in zip(self.average.buffers(), generator.buffers(), strict=True):
                kept.copy_(last_one)


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
    """As the best-known repository of GANs has it."""
    position = torch.rand(len(real), *[1] * (real.ndim - 1), device=real.device)
    between = (position * real + (1 - position) * fake).requires_grad_(True)
    logits = discriminator(between, None)
    gradients = torch.autograd.grad(
        outputs=logits,
        inputs=between,
        grad_outputs=torch.ones_like(logits),
        create_graph=True,
        retain_graph=True,
        only_inputs=True,
    )[0]
    return ((gradients.reshape(len(gradients), -1).norm(2, dim=1) - 1) ** 2).mean()


def zero_centred(discriminator: nn.Module, samples: Tensor) -> Tensor:
    """1/2 |∇D|² in a forward pass of its own, as is common."""
    samples = samples.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(samples, None).sum(), samples, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean() / 2
