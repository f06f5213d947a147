"""WGAN-GP by hand: what one would write for one experiment, lean, with nothing around it."""

import copy

import torch
from torch import Tensor, nn


class BareLoop:
    """The mathematics of `loss=wgan_gp` and nothing else: five discriminator updates, one generator update, the EMA."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, images: Tensor, batch_size: int, latent_size: int
    ):
        self.generator, self.discriminator = generator, discriminator
        self.images, self.batch_size, self.latent_size = images, batch_size, latent_size
        self.average = copy.deepcopy(generator)
        self.generator_optimizer = torch.optim.Adam(generator.parameters(), lr=2e-4, betas=(0.0, 0.9))
        self.discriminator_optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-4, betas=(0.0, 0.9))

    def step(self) -> None:
        for _ in range(5):
            rows = torch.randint(len(self.images), (self.batch_size,))
            real = self.images[rows] * (2 / 255) - 1
            with torch.no_grad():
                fake = self.generator(torch.randn(self.batch_size, self.latent_size), None)
            position = torch.rand(self.batch_size, 1, 1, 1)
            between = torch.lerp(fake, real, position).requires_grad_()
            (gradient,) = torch.autograd.grad(self.discriminator(between, None).sum(), between, create_graph=True)
            penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
            loss = self.discriminator(fake, None).mean() - self.discriminator(real, None).mean() + 10 * penalty
            self.discriminator_optimizer.zero_grad()
            loss.backward()
            self.discriminator_optimizer.step()
        self.discriminator.requires_grad_(False)
        loss = -self.discriminator(self.generator(torch.randn(self.batch_size, self.latent_size), None), None).mean()
        self.generator_optimizer.zero_grad()
        loss.backward()
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True)
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 0.005)
            for average, buffer in zip(self.average.buffers(), self.generator.buffers(), strict=True):
                average.copy_(buffer)
