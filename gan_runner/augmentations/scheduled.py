"""Numbers of an augmentation that change during training."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from gan_runner.augmentations.draws import Randomness


class Scheduled:
    """An augmentation, one of whose numbers is `value` times a schedule of the training step.

    A function is given the number by the keyword `key`, an object by the attribute of that name, which it reads at
    each call. In a CUDA graph the number is a tensor (), and where the runs of a sweep have different ones a tensor
    (M, 1, ..., 1), with as many axes as the samples. An augmentation that needs it on the host, to count pixels, is not
    recorded.
    """

    def __init__(self, augment: Callable[..., Tensor], key: str, value: float, schedule: Callable[[int], float]):
        self.augment, self.key, self.value = augment, key, value
        self.schedule: Callable[[int], float | Tensor] = schedule
        self.is_function = isinstance(augment, partial)
        self.capturable = self.is_function or getattr(augment, "capturable", False)

    def __call__(self, samples: Tensor, randomness: Randomness, step: int) -> Tensor:
        """What the discriminator sees of samples at a training step."""
        return self.at(samples, step)(samples, randomness, step)

    def at(self, samples: Tensor, step: int) -> Callable[..., Tensor]:
        """The augmentation with the number of a training step, for such samples."""
        number = for_each_run(self.value * self.schedule(step), samples)
        if self.is_function:
            return lambda samples, randomness, step: self.augment(samples, randomness, **{self.key: number})
        setattr(self.augment, self.key, number)
        return self.augment


def for_each_run(number: Any, samples: Tensor) -> Any:
    """A number, or one for each run of a sweep, (M,), as what goes with samples (M, N, ...): (M, 1, ..., 1)."""
    if isinstance(number, Tensor) and number.ndim:
        return number.reshape(*number.shape, *[1] * (samples.ndim - number.ndim))
    return number
