"""Adaptive pseudo augmentation (APA): generated samples among the real ones."""

import torch
from torch import Tensor

from gan_runner.augmentations.adaptation import Adaptive
from gan_runner.augmentations.draws import Randomness


class Apa(Adaptive):
    """In the discriminator's turn each real sample is, with probability p, a generated one that counts as real.

    That keeps the discriminator from being sure of the few real samples there are. The penalties of that turn, too, see
    such a generated sample as a real one, and so does r, which moves p (see `Adaptation`); the generator's turn has the
    real samples as they are. The generated ones are drawn for the purpose, with the labels of those that they replace;
    the authors' code takes those of the generator's last turn.

    Shapes: samples and result (..., N, *sample), images or points.
    Source: Jiang, Dai, Wu and Loy, 2021, arXiv:2111.06849.
    """

    def __call__(self, samples: Tensor, randomness: Randomness, step: int) -> Tensor:
        """The samples as they are: the game asks for `replace` where it has real ones."""
        return samples

    def replace(self, real: Tensor, fake: Tensor, batch_shape: tuple[int, ...], randomness: Randomness) -> Tensor:
        """The real samples (..., N, *sample), some of them replaced by the fake ones at the same places."""
        is_replaced = randomness.uniform(*batch_shape) < self.p_of_samples(batch_shape[:-1])
        return torch.where(is_replaced.reshape(*batch_shape, *[1] * (real.ndim - len(batch_shape))), fake, real)
