"""What a player sees in one turn. Views are lazy: a turn pays only for what its terms look at."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor, nn

from gan_runner.randomness import Randomness


@dataclass(frozen=True)
class AdversarialView:
    """One turn of the adversarial game, over N samples.

    Shapes: leading axes (...) are the runs of a sweep trained as one program, none for a single run; N samples; then
    the axes of a sample, (C, H, W) for images and (D,) for points.
    """

    learner: nn.Module  # the network whose weights this turn changes
    discriminate: Callable[[Tensor, Tensor | None], Tensor]  # (samples, labels) -> logits (..., N), augmented
    real: Tensor  # (..., N, *sample); in the discriminator's turn a leaf that requires grad
    fake: Tensor  # (..., N, *sample); likewise; in the generator's turn attached to the generator
    labels: Tensor | None  # (..., N), of the real and of the generated samples alike
    randomness: Randomness

    @cached_property
    def real_logits(self) -> Tensor:
        """D(real), (..., N)."""
        return self.discriminate(self.real, self.labels)

    @cached_property
    def fake_logits(self) -> Tensor:
        """D(fake), (..., N)."""
        return self.discriminate(self.fake, self.labels)
