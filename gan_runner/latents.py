"""The distributions that a generator's latents are drawn from."""

from collections.abc import Callable

from torch import Tensor

from gan_runner.randomness import Randomness


def normal(randomness: Randomness, *shape: int) -> Tensor:
    """N(0, 1)."""
    return randomness.normal(*shape)


def uniform(randomness: Randomness, *shape: int) -> Tensor:
    """U[-1, 1)."""
    return 2 * randomness.uniform(*shape) - 1


DISTRIBUTIONS: dict[str, Callable[..., Tensor]] = {"normal": normal, "uniform": uniform}
