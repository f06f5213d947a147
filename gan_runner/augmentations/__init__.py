"""Augmentations: what the discriminator sees of a sample, real or generated.

An augmentation is `f(samples, randomness, **keys) -> samples` or, where it changes during training, a class whose
objects are called with `(samples, randomness, step)`. Every random number comes from `randomness`, so that a step is a
function of its seed; every sample has its own draws.

Shapes: N samples, C channels, H height, W width; `...` are leading axes, the runs of a sweep, or none.

Configs name them as they stand here, `gan_runner.augmentations.diffaugment`; each has a module of its own.
"""

from gan_runner.augmentations.ada import Ada
from gan_runner.augmentations.apa import Apa
from gan_runner.augmentations.diff_augment import diffaugment
from gan_runner.augmentations.input_noise import InputNoise

__all__ = ["Ada", "Apa", "InputNoise", "diffaugment"]
