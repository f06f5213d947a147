"""Fully connected networks, for images of any size and for points in the plane."""

from functools import partial
from itertools import pairwise
from math import prod
from typing import Literal

from torch import Tensor, nn

from gan_runner.models.layers import (
    VECTOR_NORMALIZATIONS,
    Activation,
    Dropout,
    HeadedDiscriminator,
    Initialization,
    LatentInput,
    Layers,
    LinearHead,
    MakeHead,
    Output,
    hidden_layers,
    initialize,
    output_activation_layer,
)
from gan_runner.torch_utils.bounds import NonNegativeInt, PositiveInt

Normalization = Literal["batch", "layer", "none"]  # instance normalization is for feature maps


def hidden_widths(width: int | list[int], depth: int | None) -> list[int]:
    """The hidden layers' widths: `depth` times `width`, or the list `width` itself.

    Raises:
        ValueError: a number without a depth, or a list with one.
    """
    if isinstance(width, int):
        if depth is None:
            raise ValueError(f"depth: null goes with a list of widths, but width is {width}; give the number of layers")
        return [width] * depth
    if depth is not None:
        raise ValueError(f"depth: width={list(width)} lists the hidden layers already; set depth to null, not {depth}")
    return list(width)


class Generator(nn.Module):
    """Latents (N, Z) -> [linear, normalization, activation, dropout] per hidden layer -> linear -> samples (N, *shape).

    With classes, an embedding of the label stands beside the latents.

    Raises:
        ValueError: `width` and `depth` contradict each other; an unknown name; no labels for a conditional network.

    Source: Goodfellow et al. 2014, arXiv:1406.2661.
    """

    takes_leading_axes = True

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        default_output: Output,
        num_classes: int = 0,
        *,
        width: PositiveInt | list[PositiveInt],
        depth: NonNegativeInt | None,
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: Initialization,
        output_activation: Output | None,
    ) -> None:
        super().__init__()
        hidden = partial(
            hidden_layers,
            normalizations=VECTOR_NORMALIZATIONS,
            normalization=normalization,
            activation=activation,
            dropout=dropout,
        )
        latents = LatentInput(latent_size, num_classes)
        sizes = [latents.size, *hidden_widths(width, depth)]

        layers: list[nn.Module] = [latents]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), *hidden(after)]
        layers += [nn.Linear(sizes[-1], prod(shape)), nn.Unflatten(-1, tuple(shape))]
        self.layers = Layers(*layers, output_activation_layer(output_activation, default_output))
        initialize(self, initialization)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Samples (N, *shape)."""
        return self.layers(latents, labels)


class Discriminator(HeadedDiscriminator):
    """Samples (N, *shape) -> [linear, normalization, activation, dropout] per hidden layer -> linear -> logits (N,).

    With classes, a projection of the label is added (see `layers.LinearHead`), unless `head` makes another head.
    Without hidden layers it is linear.

    Raises:
        ValueError: `width` and `depth` contradict each other; an unknown name; no labels for a conditional network.

    Source: Goodfellow et al. 2014, arXiv:1406.2661.
    """

    takes_leading_axes = True

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        head: MakeHead = LinearHead,
        *,
        width: PositiveInt | list[PositiveInt],
        depth: NonNegativeInt | None,
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: Initialization,
    ) -> None:
        super().__init__()
        hidden = partial(
            hidden_layers,
            normalizations=VECTOR_NORMALIZATIONS,
            normalization=normalization,
            activation=activation,
            dropout=dropout,
        )
        sizes = [prod(shape), *hidden_widths(width, depth)]

        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), *hidden(after)]
        self.layers = Layers(*layers)
        self.head = head(sizes[-1], num_classes)
        initialize(self, initialization)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer (N, F)."""
        return self.layers(x)
