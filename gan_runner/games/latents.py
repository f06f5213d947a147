"""The distributions that a generator's latents are drawn from."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_runner.torch_utils.randomness import Randomness

FARTHEST = 5.4  # standard deviations: what lies beyond has less probability than a step of float32's uniform numbers
PARALLEL = 1e-3  # sine of the angle below which two latents span no plane, as far as float32 can tell


@dataclass(frozen=True)
class Latents(ABC):
    """A distribution of latents: `size` independent entries."""

    size: int

    @abstractmethod
    def draw(self, randomness: Randomness, *shape: int) -> Tensor:
        """Latents (*shape, size)."""

    def truncated(self, bound: float) -> "Latents":
        """The same distribution, given that every entry lies in [-bound, bound]; bound > 0.

        Raises ValueError where the distribution has no tails.
        """
        raise ValueError("the latents of this run have no tails to cut: only normal latents can be truncated")

    def interpolate(self, start: Tensor, end: Tensor, position: Tensor) -> Tensor:
        """Latents on the way from `start`, at position 0, to `end`, at 1: a straight line, unless it says otherwise.

        The arguments broadcast: (..., size), (..., size), (..., 1) -> (..., size).
        """
        return start + position * (end - start)


class Uniform(Latents):
    """U[-1, 1). A straight line between two latents stays in the cube, which an arc would leave."""

    def draw(self, randomness: Randomness, *shape: int) -> Tensor:
        return 2 * randomness.uniform(*shape, self.size) - 1


class Normal(Latents):
    """N(0, 1)."""

    def draw(self, randomness: Randomness, *shape: int) -> Tensor:
        return randomness.normal(*shape, self.size)

    def truncated(self, bound: float) -> Latents:
        """N(0, 1) given that it lies in [-bound, bound]: Brock et al. 2018 (BigGAN), arXiv:1809.11096, section 3.1."""
        return TruncatedNormal(self.size, bound)

    def interpolate(self, start: Tensor, end: Tensor, position: Tensor) -> Tensor:
        """Spherical: along a great circle, whose latents are as long as those that the generator has seen.

        A straight line, which would pass through shorter ones, where two latents span no plane: equal or opposite ones,
        and those of a single entry. White 2016, arXiv:1609.04468.
        """
        angle = torch.arccos(torch.cosine_similarity(start, end, dim=-1).clamp(-1, 1)).unsqueeze(-1)
        sine = torch.sin(angle)
        arc = (torch.sin((1 - position) * angle) * start + torch.sin(position * angle) * end) / sine
        return torch.where(sine > PARALLEL, arc, super().interpolate(start, end, position))


@dataclass(frozen=True)
class TruncatedNormal(Normal):
    """N(0, 1) given that it lies in [-bound, bound]: √2 erf⁻¹(u erf(bound / √2)), u ~ U[-1, 1).

    By the inverse of the distribution function, which gives the distribution that remains when what falls outside is
    drawn again, without waiting for a value.
    """

    bound: float = 2.0

    def draw(self, randomness: Randomness, *shape: int) -> Tensor:
        quantiles = (2 * randomness.uniform(*shape, self.size) - 1) * math.erf(self.bound / math.sqrt(2))
        most = min(self.bound, FARTHEST)  # rounding may step over the bound, and erf⁻¹(-1) is infinite
        return (math.sqrt(2) * torch.erfinv(quantiles)).clamp(-most, most)

    def truncated(self, bound: float) -> Latents:
        return TruncatedNormal(self.size, min(bound, self.bound))

    def interpolate(self, start: Tensor, end: Tensor, position: Tensor) -> Tensor:
        """Spherical, held within the bound."""
        return super().interpolate(start, end, position).clamp(-self.bound, self.bound)


DISTRIBUTIONS: dict[str, type[Latents]] = {
    "normal": Normal,
    "uniform": Uniform,
    "truncated_normal": TruncatedNormal,
}
