"""DCGAN: strided convolutions, no pooling (Radford et al. 2015, arXiv:1511.06434), for images of any size."""

from functools import partial
from itertools import pairwise

from torch import Tensor, nn

from gan_runner.models.layers import (
    IMAGE_NORMALIZATIONS,
    Activation,
    Crop,
    Dropout,
    Head,
    Initialization,
    Layers,
    Normalization,
    Output,
    Positive,
    checked_depth,
    generator_normalizations,
    halvings_to_four,
    hidden_layers,
    image_shape,
    initialize,
    latents_to_map,
    output_activation_layer,
)


def number_of_stages(depth: int | None, side: int, normalization: str) -> int:
    """The number of stride-2 stages: `depth` or, if that is null, as many as the smallest side bears."""
    return checked_depth(halvings_to_four(side) if depth is None else depth, side, normalization)


class Generator(nn.Module):
    """Latents (N, Z) -> linear -> feature map -> k transposed convolutions (kernel 4, stride 2) -> images (N, C, H, W).

    The map starts at (width * 2^(k-1), ⌈H/2^k⌉, ⌈W/2^k⌉); a stage doubles its sides and halves its channels, down to
    `width` before the last stage, which yields the image. What exceeds H x W is cropped. Normalization, activation and
    dropout follow all layers but the last. With width 64, k = 4 for 64x64: 512@4 -> 256@8 -> 128@16 -> 64@32 -> C@64
    (the paper's figure has width 128).

    `depth` is k; null: as many as keep the smallest side at 4 or more, at least 2 (8 -> 2, 28 -> 2, 32 -> 3, 64 -> 4).
    With classes, batch normalization is class-conditional; beside any other, the label is embedded with the latents.

    Raises:
        ValueError: points, images below 8x8, too large a depth, an unknown name; no labels for a conditional network.

    Source: Radford, Metz and Chintala 2015, arXiv:1511.06434.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        default_output: Output,
        num_classes: int = 0,
        *,
        width: Positive,
        depth: Positive | None,
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: Initialization,
        output_activation: Output | None,
    ) -> None:
        super().__init__()
        hidden = partial(
            hidden_layers,
            normalizations=generator_normalizations(num_classes),
            normalization=normalization,
            activation=activation,
            dropout=dropout,
        )
        image_channels, rows, columns = image_shape(shape, "dcgan")
        stages = number_of_stages(depth, min(rows, columns), normalization)
        channels = [width * 2**stage for stage in reversed(range(stages))]
        start = (channels[0], -(-rows // 2**stages), -(-columns // 2**stages))

        layers = [*latents_to_map(latent_size, num_classes, start, normalization), *hidden(channels[0])]
        for before, after in pairwise(channels):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), *hidden(after)]
        layers += [nn.ConvTranspose2d(channels[-1], image_channels, 4, 2, 1), Crop(rows, columns)]
        self.layers = Layers(*layers, output_activation_layer(output_activation, default_output))
        initialize(self, initialization)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W)."""
        return self.layers(latents, labels)


class Discriminator(nn.Module):
    """Images (N, C, H, W) -> k convolutions (kernel 4, stride 2) -> flat -> linear -> logits (N,).

    The mirror image of the generator: width, 2 width, ..., width * 2^(k-1) channels, the last at ⌊H/2^k⌋ x ⌊W/2^k⌋.
    Activation and dropout follow every convolution, normalization every one but the first. `depth` is k, as in the
    generator. With classes, a projection of the label is added (see `layers.Head`).

    Raises:
        ValueError: points, images below 8x8, too large a depth, an unknown name; no labels for a conditional network.

    Source: Radford, Metz and Chintala 2015, arXiv:1511.06434.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        *,
        width: Positive,
        depth: Positive | None,
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: Initialization,
    ) -> None:
        super().__init__()
        hidden = partial(hidden_layers, normalizations=IMAGE_NORMALIZATIONS, activation=activation, dropout=dropout)
        image_channels, rows, columns = image_shape(shape, "dcgan")
        stages = number_of_stages(depth, min(rows, columns), normalization)
        channels = [width * 2**stage for stage in range(stages)]

        layers = [nn.Conv2d(image_channels, width, 4, 2, 1), *hidden(width, normalization="none")]
        for before, after in pairwise(channels):
            layers += [nn.Conv2d(before, after, 4, 2, 1), *hidden(after, normalization=normalization)]
        self.layers = Layers(*layers, nn.Flatten())
        self.head = Head(channels[-1] * (rows // 2**stages) * (columns // 2**stages), num_classes)
        initialize(self, initialization)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, flat: (N, F)."""
        return self.layers(x)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N,)."""
        return self.head(self.features(x), labels)
