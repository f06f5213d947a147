"""What a player sees in one turn. Views are lazy: a turn pays only for what its terms look at."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from gan_runner.models.layers import HeadOutputs
from gan_runner.torch_utils.randomness import Randomness


@dataclass(frozen=True, kw_only=True)
class AdversarialView:
    """One turn of the adversarial game, over N samples.

    Shapes: leading axes (...) are the runs of a sweep trained as one program, none for a single run; N samples; then
    the axes of a sample, (C, H, W) for images and (D,) for points.
    """

    learner: nn.Module  # the network whose weights this turn changes
    discriminator: nn.Module
    augment: Callable[[Tensor], Tensor]  # what the discriminator sees of samples
    loss: Callable[[Any], Tensor]  # the learner's side of the loss, of a view's logits: (..., N)
    real: Tensor  # (..., N, *sample); in the discriminator's turn a leaf that requires grad
    fake: Tensor  # (..., N, *sample); likewise; in the generator's turn attached to the generator
    labels: Tensor | None  # (..., N), of the real and of the generated samples alike
    batch_shape: tuple[int, ...]  # (..., N), the shape of the logits, known without computing them
    randomness: Randomness
    is_joined: bool = False  # whether one forward pass is for the real and the generated samples
    has_head_loss: bool = False  # whether a head has a loss, which wants more of that pass than the logits
    pack: int = 1  # samples that the discriminator sees at once: m of them, one after another, have one logit
    latents: Tensor | None = None  # (..., N, Z), that the generated samples are made of
    generate: Callable[[Tensor], Tensor] | None = None  # latents (..., N, Z) -> samples of the labels (..., N, *sample)

    @property
    def outputs(self) -> Tensor:
        """What the generator makes, (..., N, *sample)."""
        return self.fake

    def discriminate(self, samples: Tensor) -> Tensor:
        """D(augmented samples): (..., N, *sample) -> logits (..., N)."""
        return at_least_float32(self.discriminator(self.augment(samples), self.labels))

    def features(self, samples: Tensor) -> Tensor:
        """What the discriminator's last layer sees of augmented samples: (..., N, *sample) -> (..., N, F)."""
        return at_least_float32(self.discriminator.features(self.augment(samples)))  # type: ignore[operator]  # a headed one, or several stacked

    @cached_property
    def real_logits(self) -> Tensor:
        """D(real), (..., N)."""
        return self.real_head_outputs.logits

    @cached_property
    def fake_logits(self) -> Tensor:
        """D(fake), (..., N)."""
        return self.fake_head_outputs.logits

    @cached_property
    def real_head_outputs(self) -> HeadOutputs:
        """What the discriminator says of the real samples: logits; with `has_head_loss`, all that its head makes."""
        return self.both_head_outputs[0] if self.is_joined else self.head_outputs(self.augment(self.real), self.labels)

    @cached_property
    def fake_head_outputs(self) -> HeadOutputs:
        """What it says of the generated samples."""
        return self.both_head_outputs[1] if self.is_joined else self.head_outputs(self.augment(self.fake), self.labels)

    @cached_property
    def both_head_outputs(self) -> list[HeadOutputs]:
        """What it says of the real and of the generated samples, of one forward pass."""
        axis = len(self.batch_shape) - 1
        samples = torch.cat([self.augment(self.real), self.augment(self.fake)], axis)
        labels = None if self.labels is None else torch.cat([self.labels, self.labels], axis)
        return halves(self.head_outputs(samples, labels), axis)

    def head_outputs(self, samples: Tensor, labels: Tensor | None) -> HeadOutputs:
        """What the discriminator says of samples that are augmented already."""
        if not self.has_head_loss:
            return HeadOutputs(at_least_float32(self.discriminator(samples, labels)), {})
        logits, extra = self.discriminator.outputs(samples, labels)  # type: ignore[operator]  # a headed one, or several stacked
        return HeadOutputs(at_least_float32(logits), {name: at_least_float32(value) for name, value in extra.items()})

    def logged(self) -> dict[str, Tensor]:
        """The discriminator's mean logits, and the share of samples on the right side of 0, if it is the learner."""
        if self.learner is not self.discriminator:
            return {}
        return logit_values("real", self.real_logits.detach()) | logit_values("fake", self.fake_logits.detach())


@dataclass(frozen=True, kw_only=True)
class AutoencoderView:
    """The turn of an autoencoder, over N samples; axes as above, Z latents."""

    learner: nn.Module
    real: Tensor  # (..., N, *sample)
    mean: Tensor  # (..., N, Z), of each sample's code
    log_variance: Tensor  # (..., N, Z)
    outputs: Tensor  # (..., N, Z): the codes drawn
    decoded: Tensor  # (..., N, *sample): what the decoder makes of them
    batch_shape: tuple[int, ...]  # (..., N)

    def logged(self) -> dict[str, Tensor]:
        return {}


def logit_values(kind: str, logits: Tensor) -> dict[str, Tensor]:
    """What is logged of logits (..., N): their mean, and how many are on the right side of 0, (...,) each."""
    is_right = logits < 0 if kind == "fake" else logits > 0
    return {f"logits/{kind}": logits.mean(-1), f"accuracy/{kind}": is_right.float().mean(-1)}


def halves(outputs: HeadOutputs, axis: int) -> list[HeadOutputs]:
    """Of the outputs of twice as many samples those of either half; `axis` is that of the samples."""
    logits = outputs.logits.chunk(2, axis)
    extra = {name: value.chunk(2, axis) for name, value in outputs.extra.items()}
    return [HeadOutputs(logits[half], {name: pair[half] for name, pair in extra.items()}) for half in (0, 1)]


def at_least_float32(values: Tensor) -> Tensor:
    """What autocast made bfloat16 as float32; float64 stays."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
