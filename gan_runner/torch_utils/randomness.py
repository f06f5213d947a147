"""Random numbers as a function of (seed, step, draw), never of history.

A run that stops and resumes, or evaluates in between, sees the same noise without replaying anything.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from gan_runner.torch_utils.ranks import drawn


def derive(seed: int, *path: int | str) -> int:
    """A 63-bit seed for one purpose: the same (seed, path) gives the same number in every process and version."""
    digest = hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def default_generator(device: torch.device) -> torch.Generator:
    """The generator that `device`'s operators, dropout among them, draw from when they are given none."""
    if device.type == "cuda":
        return torch.cuda.default_generators[device.index or 0]
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator


class Randomness:
    """The random numbers of one purpose on one device; those of a run's training unless a generator says otherwise.

    Training draws from the device's default generator, so that dropout follows the same law, seeded anew at every step:
    `Generator.manual_seed` costs 1 us where `torch.manual_seed`, which also visits every other device, costs 120.

    In a turn whose batch is divided, among processes or into micro-batches, a draw is that of the whole batch, cut: see
    `ranks.drawn`.
    """

    leading_shape: tuple[int, ...] = ()  # of all that is drawn in training: axes for the runs of a sweep, if any

    def __init__(self, seed: int, device: torch.device, generator: torch.Generator | None = None):
        self.seed, self.device = seed, device
        self.generator = generator or default_generator(device)

    @property
    def generators(self) -> Sequence[torch.Generator]:
        """All that it draws from."""
        return [self.generator]

    def start_step(self, step: int) -> None:
        """Seed all draws of training step `step`."""
        self.generator.manual_seed(derive(self.seed, "step", step))

    def normal(self, *shape: int) -> Tensor:
        """N(0, 1), of the given shape."""
        return drawn(shape, lambda whole: torch.randn(whole, generator=self.generator, device=self.device))

    def uniform(self, *shape: int) -> Tensor:
        """U[0, 1), of the given shape."""
        return drawn(shape, lambda whole: torch.rand(whole, generator=self.generator, device=self.device))


def fixed_randomness(seed: int, purpose: str, device: torch.device) -> Randomness:
    """Numbers for one purpose outside training, such as the latents of the sample grids."""
    generator = torch.Generator(device).manual_seed(derive(seed, purpose))
    return Randomness(seed, device, generator)
