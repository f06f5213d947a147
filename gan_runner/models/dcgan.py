"""DCGAN: strided convolutions, no pooling (Radford et al. 2015, arXiv:1511.06434), for images of any size."""

from functools import partial
from itertools import pairwise
from typing import Literal

from torch import Tensor, nn

from gan_runner.models.layers import (
    IMAGE_NORMALIZATIONS,
    Activation,
    ConditionalBatchNorm2d,
    Crop,
    Dropout,
    HeadedDiscriminator,
    Initialization,
    Layers,
    LinearHead,
    MakeHead,
    Normalization,
    Output,
    checked_depth,
    generator_normalizations,
    halvings_to_four,
    hidden_layers,
    image_shape,
    initialize,
    latents_to_map,
    output_activation_layer,
)
from gan_runner.torch_utils.bounds import PositiveInt
from gan_runner.torch_utils.parameters import is_normalization

LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)  # that are initialized
Kernel = Literal[4, 5]
DcganInitialization = Literal[Initialization, "auto", "dcgan"]


def shrink(before: int, after: int, kernel: int) -> nn.Conv2d:
    """A convolution of stride 2: (N, before, H, W) -> (N, after, ⌊H/2⌋, ⌊W/2⌋), with kernel 5 ⌈H/2⌉ and ⌈W/2⌉."""
    return nn.Conv2d(before, after, kernel, 2, (kernel - 1) // 2)


def shrunken(side: int, stages: int, kernel: int) -> int:
    """What is left of a side after so many of these convolutions."""
    return -(-side // 2**stages) if kernel == 5 else side // 2**stages


def grow(before: int, after: int, kernel: int) -> nn.ConvTranspose2d:
    """A transposed convolution of stride 2: (N, before, H, W) -> (N, after, 2H, 2W), whatever the kernel."""
    return nn.ConvTranspose2d(before, after, kernel, 2, (kernel - 1) // 2, output_padding=kernel % 2)


def initialize_dcgan(network: nn.Module, initialization: str) -> None:
    """As `layers.initialize`, with two more ways.

    `auto`: `orthogonal`, and `normal` for the layers whose outputs are normalized. The scale of these does not change
    what the network makes, only how fast it learns: the smaller, the faster (van Laarhoven 2017, arXiv:1706.05350).
    `dcgan`: `normal`, with the gains of batch normalization drawn from N(1, 0.02²) besides. So do the codes of DCGAN
    (Newmu/dcgan_code) and of WGAN (martinarjovsky/WassersteinGAN).
    """
    initialize(network, {"auto": "orthogonal", "dcgan": "normal"}.get(initialization, initialization))
    if initialization == "auto":
        layers = [module for module in network.modules() if isinstance(module, LAYERS) or is_normalization(module)]
        for layer, following in pairwise(layers):
            if isinstance(layer, LAYERS) and is_normalization(following):
                nn.init.normal_(layer.weight, std=0.02)
    if initialization == "dcgan":
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                nn.init.normal_(module.weight, 1.0, 0.02)
            elif isinstance(module, ConditionalBatchNorm2d):
                nn.init.normal_(module.gain, 1.0, 0.02)


def number_of_stages(depth: int | None, side: int, normalization: str) -> int:
    """The number of stride-2 stages: `depth` or, if that is null, as many as the smallest side bears."""
    return checked_depth(halvings_to_four(side) if depth is None else depth, side, normalization)


class Generator(nn.Module):
    """Latents (N, Z) -> linear -> feature map -> k transposed convolutions (stride 2) -> images (N, C, H, W).

    The map starts at (width * 2^(k-1), ⌈H/2^k⌉, ⌈W/2^k⌉); a stage doubles its sides and halves its channels, down to
    `width` before the last stage, which yields the image. What exceeds H x W is cropped. Normalization, activation and
    dropout follow all layers but the last. With width 64, k = 4 for 64x64: 512@4 -> 256@8 -> 128@16 -> 64@32 -> C@64.
    The paper has width 128 and `kernel` 5.

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
        width: PositiveInt,
        depth: PositiveInt | None,
        kernel: Kernel = 4,
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: DcganInitialization,
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
            layers += [grow(before, after, kernel), *hidden(after)]
        layers += [grow(channels[-1], image_channels, kernel), Crop(rows, columns)]
        self.layers = Layers(*layers, output_activation_layer(output_activation, default_output))
        initialize_dcgan(self, initialization)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W)."""
        return self.layers(latents, labels)


class Discriminator(HeadedDiscriminator):
    """Images (N, C, H, W) -> k convolutions (stride 2) -> flat -> linear -> logits (N,).

    The mirror image of the generator: width, 2 width, ..., width * 2^(k-1) channels, the last at ⌊H/2^k⌋ x ⌊W/2^k⌋,
    with kernel 5 at ⌈H/2^k⌉ x ⌈W/2^k⌉. Activation and dropout follow every convolution, normalization every one but the
    first. `depth` is k, as in the generator. With classes, a projection of the label is added
    (see `layers.LinearHead`), unless `head` makes another head.

    Raises:
        ValueError: points, images below 8x8, too large a depth, an unknown name; no labels for a conditional network.

    Source: Radford, Metz and Chintala 2015, arXiv:1511.06434.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        head: MakeHead = LinearHead,
        *,
        width: PositiveInt,
        depth: PositiveInt | None,
        kernel: Kernel = 4,
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: DcganInitialization,
    ) -> None:
        super().__init__()
        hidden = partial(hidden_layers, normalizations=IMAGE_NORMALIZATIONS, activation=activation, dropout=dropout)
        image_channels, rows, columns = image_shape(shape, "dcgan")
        stages = number_of_stages(depth, min(rows, columns), normalization)
        channels = [width * 2**stage for stage in range(stages)]

        layers = [shrink(image_channels, width, kernel), *hidden(width, normalization="none")]
        for before, after in pairwise(channels):
            layers += [shrink(before, after, kernel), *hidden(after, normalization=normalization)]
        self.layers = Layers(*layers, nn.Flatten())
        pixels = shrunken(rows, stages, kernel) * shrunken(columns, stages, kernel)
        self.head = head(channels[-1] * pixels, num_classes)
        initialize_dcgan(self, initialization)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, flat: (N, F)."""
        return self.layers(x)
