"""Instance noise."""

from collections.abc import Callable

from torch import Tensor

from gan_runner.augmentations.draws import Randomness
from gan_runner.augmentations.scheduled import for_each_run
from gan_runner.torch_utils.bounds import NonNegativeFloat


class InputNoise:
    """x + sd schedule(step) n, n ~ N(0, I): Gaussian noise on all that the discriminator sees.

    Real and generated samples then overlap, which keeps the discriminator from telling them apart at a glance; a
    schedule that falls to 0 takes the noise away as they meet. `sd` is in the units of the data.

    Shapes: samples and result (..., N, *sample), images or points.
    Source: Sønderby et al. 2016, arXiv:1610.04490 (instance noise); Arjovsky and Bottou 2017, arXiv:1701.04862.
    """

    capturable = True  # in a CUDA graph: the step's number goes to the schedule alone

    def __init__(self, *, sd: NonNegativeFloat, schedule: Callable[[int], float] | None = None):
        self.sd, self.schedule = sd, schedule

    def __call__(self, samples: Tensor, randomness: Randomness, step: int) -> Tensor:
        """What the discriminator sees of samples at a training step."""
        sd = for_each_run(self.sd * (self.schedule(step) if self.schedule else 1.0), samples)
        return samples + sd * randomness.normal(*samples.shape).to(samples.dtype)
