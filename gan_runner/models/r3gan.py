"""The networks of R3GAN (Huang et al. 2025, arXiv:2501.05441): residual, of grouped convolutions, unnormalized."""

import math
from typing import Annotated

import torch
from annotated_types import MinLen
from torch import Tensor, nn

from gan_runner.models.layers import (
    Head,
    HeadedDiscriminator,
    LatentInput,
    Layers,
    MakeHead,
    Output,
    checked_depth,
    image_shape,
    of_label,
    output_activation_layer,
)
from gan_runner.models.resampling import Downsample, Upsample
from gan_runner.models.resnet import Block
from gan_runner.torch_utils.bounds import NonNegativeInt, PositiveInt

SLOPE = 0.2  # of every leaky ReLU
EXPANSION = 2  # channels within a block, as multiples of those around it
CONVOLUTIONS = 3  # of a block

Width = PositiveInt | Annotated[list[PositiveInt], MinLen(1)]


def residual_block(width: int, group_size: int) -> Block:
    """x + f(x), (N, C, H, W) -> (N, C, H, W): f widens, mixes pixels within groups of channels, and narrows again.

    A group has `group_size` channels or, where that does not divide them, as many as the largest divisor of both.
    """
    inner = EXPANSION * width
    groups = inner // math.gcd(inner, group_size)
    residual = Layers(
        nn.Conv2d(width, inner, 1),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(inner, inner, 3, padding=1, groups=groups),
        nn.LeakyReLU(SLOPE),
        nn.Conv2d(inner, width, 1, bias=False),
    )
    return Block(residual, shortcut=nn.Identity())


def pointwise(before: int, after: int) -> list[nn.Module]:
    """A 1x1 convolution without bias where the number of channels changes, or nothing."""
    return [] if before == after else [nn.Conv2d(before, after, 1, bias=False)]


class Basis(nn.Module):
    """Codes (N, Z) -> maps (N, C, H, W): learned maps, one for each channel, times a linear function of the code."""

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(size, shape[0], bias=False)
        self.maps = nn.Parameter(torch.randn(shape))

    def forward(self, codes: Tensor) -> Tensor:
        return self.linear(codes)[..., None, None] * self.maps


class BasisProducts(nn.Module):
    """Maps (N, C, H, W) -> features (N, C): the sum over the pixels of each map times a learned one.

    That is a convolution per channel whose kernel is as large as the map, which no library is fast at: on a CPU, back
    and forth and differentiated again, this takes a twentieth of the time.
    """

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(shape) / math.sqrt(shape[1] * shape[2]))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.maps).sum((-2, -1))


class ProjectionHead(Head):
    """Features φ (N, F) -> logits (N,): v·φ or, with classes, <e(y), Vφ>, V of (E, F); no biases, and no other term.

    The class embeddings e are the rows of a linear layer, as those of `layers.LinearHead`.

    Raises:
        ValueError: without labels, if there are classes.
    """

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, features if num_classes else 1, bias=False)
        self.projection = nn.Linear(features, num_classes, bias=False) if num_classes else None

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Logits (N,)."""
        projected = self.linear(features)
        if self.projection is None:
            return projected.squeeze(-1)
        return of_label(self.projection(projected), labels)


def initialize_r3gan(network: nn.Module) -> None:
    """Draw the weights of layers from N(0, gain² / fan in), with zero biases; a basis keeps its own learned maps.

    The gain is 1 but in the L residual blocks of a network. There it is √(2 / (1 + slope²)) / L^(1/4) in the first two
    convolutions, and the last is zero: every block starts as the identity. The exponent is that of Fixup for blocks of
    m = 3 convolutions, 1 / (2m - 2). Class embeddings of E entries have a variance of 1 / (E times the classes) in the
    discriminator, and in the generator of 1 / classes.

    Source: Zhang et al. 2019, arXiv:1901.09321, with the numbers of R3GAN.
    """
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.num_embeddings**-0.5)
    if isinstance(head := getattr(network, "head", None), ProjectionHead) and head.projection is not None:
        nn.init.normal_(head.projection.weight, std=head.projection.weight.numel() ** -0.5)
    for block in blocks:
        first, second, last = (layer for layer in block.residual if isinstance(layer, nn.Conv2d))
        gain = nn.init.calculate_gain("leaky_relu", SLOPE) * len(blocks) ** (-1 / (2 * CONVOLUTIONS - 2))
        with torch.no_grad():
            first.weight.mul_(gain)
            second.weight.mul_(gain)
        nn.init.zeros_(last.weight)


def stage_widths(width: Width, depth: int | None, rows: int, columns: int) -> list[int]:
    """The channels at each size, from the smallest map on; each map is twice as large as the one before.

    Raises:
        ValueError: a list of widths and a depth; sides that are no multiples of 2^depth, or too small for that.
    """
    side = min(rows, columns)
    if isinstance(width, list) and depth is not None:
        raise ValueError(f"depth: width={width} has a number for each size already; set depth to null, not {depth}")
    doublings = (side // 4).bit_length() - 1 if depth is None else depth
    if isinstance(width, list):
        doublings = len(width) - 1
        if len(width) > side.bit_length():
            raise ValueError(
                f"width: {len(width)} sizes are too many for a side of {side} pixels; at most {side.bit_length()}"
            )
    checked_depth(doublings, side)
    if rows % 2**doublings or columns % 2**doublings:
        raise ValueError(
            f"model=r3gan: {doublings} doublings make sides that are multiples of {2**doublings}, but the data has "
            f"{rows}x{columns}; dataset.image_size={max(8, 2 ** round(math.log2(side)))} has such sides, as has every "
            "other power of two from there on"
        )
    return width if isinstance(width, list) else [width] * (doublings + 1)


class Generator(nn.Module):
    """Latents (N, Z) -> basis -> residual blocks, doubling in between -> convolution -> images (N, C, H, W).

    The smallest map is a basis of `width` learned maps, weighted by the latents. At each size come `blocks` residual
    blocks; between the sizes a 1x1 convolution, where the width changes, and filtered upsampling. A block is a 1x1
    convolution to twice the width, leaky ReLU, a 3x3 convolution in groups of `group_size` channels, leaky ReLU, and a
    1x1 convolution back, beside the identity. There is no normalization, and no noise but the latents.

    `width` is that at all sizes, or a list of them from the smallest map on, whose length says how many sizes there
    are. Otherwise `depth` says how often the size doubles; null: as often as leaves the smallest map 4 to 7 pixels
    (8 -> 1, 28 -> 2, 32 -> 3, 64 -> 4). With classes, an embedding of the label stands beside the latents. The paper
    has width 768 for CIFAR-10, 32x32, and [768, 768, 768, 768, 384] for FFHQ, 64x64, and a linear output.

    Raises:
        ValueError: points; sides below 8 or that do not halve so often; `width` and `depth` that contradict each other;
            no labels for a conditional network.

    Source: Huang, Gokaslan, Kuleshov and Tompkin 2025, arXiv:2501.05441.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        default_output: Output,
        num_classes: int = 0,
        *,
        width: Width,
        depth: NonNegativeInt | None,
        blocks: PositiveInt,
        group_size: PositiveInt,
        output_activation: Output | None,
    ) -> None:
        super().__init__()
        image_channels, rows, columns = image_shape(shape, "r3gan")
        widths = stage_widths(width, depth, rows, columns)
        shrunken = 2 ** (len(widths) - 1)

        latents = LatentInput(latent_size, num_classes)
        layers: list[nn.Module] = [latents, Basis(latents.size, (widths[0], rows // shrunken, columns // shrunken))]
        for number, after in enumerate(widths):
            if number:
                layers += [*pointwise(widths[number - 1], after), Upsample()]
            layers += [residual_block(after, group_size) for _ in range(blocks)]
        layers += [nn.Conv2d(widths[-1], image_channels, 1, bias=False)]
        self.layers = Layers(*layers, output_activation_layer(output_activation, default_output))
        initialize_r3gan(self)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W)."""
        return self.layers(latents, labels)


class Discriminator(HeadedDiscriminator):
    """Images (N, C, H, W) -> convolution -> residual blocks, halving again and again -> basis -> logits (N,).

    The mirror image of the generator, block by block: a 1x1 convolution from the pixels, `blocks` residual blocks at
    each size, and between the sizes filtered downsampling and a 1x1 convolution, where the width changes. The last map
    meets a learned map per channel, whose products with it are the features. `width`, a list of which begins with the
    smallest map here too, and `depth` are as in the generator. Of the features the logit is a linear function, or the
    projection of the label alone (see `ProjectionHead`).

    Raises:
        ValueError: points; sides below 8 or that do not halve so often; `width` and `depth` that contradict each other;
            no labels for a conditional network.

    Source: Huang, Gokaslan, Kuleshov and Tompkin 2025, arXiv:2501.05441.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        head: MakeHead = ProjectionHead,
        *,
        width: Width,
        depth: NonNegativeInt | None,
        blocks: PositiveInt,
        group_size: PositiveInt,
    ) -> None:
        super().__init__()
        image_channels, rows, columns = image_shape(shape, "r3gan")
        widths = stage_widths(width, depth, rows, columns)
        shrunken = 2 ** (len(widths) - 1)

        last = widths[0]
        layers: list[nn.Module] = [nn.Conv2d(image_channels, widths[-1], 1, bias=False)]
        for number in reversed(range(len(widths))):
            layers += [residual_block(widths[number], group_size) for _ in range(blocks)]
            if number:
                layers += [Downsample(), *pointwise(widths[number], widths[number - 1])]
        self.layers = Layers(*layers, BasisProducts((last, rows // shrunken, columns // shrunken)))
        self.head = head(last, num_classes)
        initialize_r3gan(self)

    def features(self, x: Tensor) -> Tensor:
        """The products of the last map and the basis, one for each channel: (N, F)."""
        return self.layers(x)
