"""The residual networks of WGAN-GP (Gulrajani et al. 2017) and SNGAN (Miyato et al. 2018), for images of any size."""

import math
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from gan_runner.models.layers import (
    IMAGE_NORMALIZATIONS,
    Activation,
    Crop,
    Dropout,
    HeadedDiscriminator,
    Initialization,
    Labelled,
    Layers,
    LinearHead,
    MakeHead,
    Normalization,
    Output,
    SelfAttention,
    checked_depth,
    choose,
    generator_normalizations,
    halvings_to_four,
    hidden_layers,
    image_shape,
    initialize,
    latents_to_map,
    output_activation_layer,
)
from gan_runner.torch_utils.bounds import NonNegativeInt, PositiveInt

Hidden = Callable[[int], list[nn.Module]]  # channels -> normalization, activation, dropout

ResidualInitialization = Literal[Initialization, "residual"]

POOLINGS = {"sum": torch.sum, "mean": torch.mean}


def convolution(before: int, after: int) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size."""
    return nn.Conv2d(before, after, 3, padding=1)


def half() -> nn.Module:
    """Average pooling, (N, C, H, W) -> (N, C, ⌈H/2⌉, ⌈W/2⌉): an odd side's last window is narrower."""
    return nn.AvgPool2d(2, ceil_mode=True)


def double() -> nn.Module:
    """Nearest-neighbour upsampling, (N, C, H, W) -> (N, C, 2H, 2W)."""
    return nn.Upsample(scale_factor=2)


class Block(Labelled):
    """shortcut(x) + residual(x, labels)."""

    def __init__(self, residual: Layers, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual, self.shortcut = residual, shortcut
        self.channels = [layer.out_channels for layer in residual if isinstance(layer, nn.Conv2d)][-1]

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.shortcut(x) + self.residual(x, labels)


# A 1x1 convolution commutes with averaging and with repeating pixels: it stands on the small side, at a quarter's cost.


def up_block(before: int, after: int, hidden: Hidden) -> Block:
    """(N, before, H, W) -> (N, after, 2H, 2W)."""
    first = [*hidden(before), double(), convolution(before, after)]
    second = [*hidden(after), convolution(after, after)]
    return Block(Layers(*first, *second), shortcut=Layers(nn.Conv2d(before, after, 1), double()))


def down_block(before: int, after: int, hidden: Hidden, *, wide: bool = False) -> Block:
    """(N, before, H, W) -> (N, after, ⌈H/2⌉, ⌈W/2⌉); `wide`: with `after` channels between the convolutions."""
    middle = after if wide else before
    first = [*hidden(before), convolution(before, middle)]
    second = [*hidden(middle), convolution(middle, after), half()]
    return Block(Layers(*first, *second), shortcut=Layers(half(), nn.Conv2d(before, after, 1)))


def image_block(before: int, after: int, hidden: Hidden) -> Block:
    """A down block that starts from pixels: no activation before its first convolution, which widens at once."""
    residual = [convolution(before, after), *hidden(after), convolution(after, after), half()]
    return Block(Layers(*residual), shortcut=Layers(half(), nn.Conv2d(before, after, 1)))


def plain_block(before: int, after: int, hidden: Hidden, *, wide: bool = False) -> Block:
    """(N, before, H, W) -> (N, after, H, W), around the identity, or a 1x1 convolution where the channels change."""
    middle = after if wide else before
    first = [*hidden(before), convolution(before, middle)]
    second = [*hidden(middle), convolution(middle, after)]
    shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
    return Block(Layers(*first, *second), shortcut)


def with_attention(blocks: list[Block], attention: int | None, stages: int, place: int) -> list[nn.Module]:
    """The blocks, with self-attention behind so many of them (`place`) if that is wanted.

    Of the feature maps that follow a block, the largest has the sides of the image halved `attention` = 0 times in a
    generator, and once in a discriminator. `stages` are the blocks that change the size.
    Raises ValueError where there is no such map.
    """
    if attention is None:
        return [*blocks]
    if not 0 < place <= stages:
        raise ValueError(
            f"attention={attention}: no block ends where the sides of the image are halved so many times, of the "
            f"{stages} that change the size; null leaves attention out"
        )
    return [*blocks[:place], SelfAttention(blocks[place - 1].channels), *blocks[place:]]


def initialize_resnet(network: nn.Module, initialization: str) -> None:
    """As `layers.initialize`; `residual` is `xavier`, with weights √2 times as large in the 3x3 convolutions of blocks.

    These are then uniform with a standard deviation of √(4 / (fan in + fan out)): "He" in the code of Gulrajani et al.
    (igul222/improved_wgan_training, tflib/ops/conv2d.py), Glorot with gain √2 in that of Miyato et al.
    (pfnet-research/sngan_projection, resblocks.py). Shortcuts, linear layers, and the generator's last convolution have
    gain 1 in both.
    """
    if initialization != "residual":
        initialize(network, initialization)
        return
    initialize(network, "xavier")
    for block in network.modules():
        for layer in block.residual if isinstance(block, Block) else ():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight, gain=math.sqrt(2))


def halvings_to_eight(side: int) -> int:
    """How many halvings bring a side to 8 pixels or less, at least 1: 8 -> 1, 16 -> 1, 28 -> 2, 32 -> 2, 64 -> 3."""
    return max(1, ((side - 1) // 8).bit_length())


class Generator(nn.Module):
    """Latents (N, Z) -> linear -> k up blocks -> normalization, activation, convolution -> images (N, C, H, W).

    An up block is normalization, activation, dropout, upsampling, convolution, normalization, activation, dropout,
    convolution, beside a shortcut of upsampling and a 1x1 convolution. The first block starts from ⌈H/2^k⌉ x ⌈W/2^k⌉
    and keeps the number of channels; every later one divides it by `growth`, down to `width`. What exceeds H x W is
    cropped. For 32x32 (k = 3), width 256 and growth 1 that is SNGAN's generator for CIFAR-10, with width 128 WGAN-GP's;
    for 64x64 (k = 4), width 64 and growth 2 WGAN-GP's 512@4 -> 512@8 -> 256@16 -> 128@32 -> 64@64.

    `depth` is k; null: as many as keep the smallest side at 4 or more, at least 2 (8 -> 2, 28 -> 2, 32 -> 3, 64 -> 4).
    With classes, batch normalization is class-conditional; beside any other, the label is embedded with the latents.
    With `attention` h, self-attention follows the block whose output has the image's sides halved h times.

    Raises:
        ValueError: points, images below 8x8, too large a depth, no place for attention, an unknown name; no labels for
            a conditional network.

    Source: Gulrajani et al. 2017, arXiv:1704.00028; Miyato et al. 2018, arXiv:1802.05957.
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
        growth: PositiveInt,
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: ResidualInitialization,
        output_activation: Output | None,
        attention: NonNegativeInt | None = None,
    ) -> None:
        super().__init__()
        hidden = partial(
            hidden_layers,
            normalizations=generator_normalizations(num_classes),
            normalization=normalization,
            activation=activation,
            dropout=dropout,
        )
        image_channels, rows, columns = image_shape(shape, "resnet")
        side = min(rows, columns)
        stages = checked_depth(halvings_to_four(side) if depth is None else depth, side, normalization)
        channels = [width * growth**stage for stage in reversed(range(stages))]
        start = (channels[0], -(-rows // 2**stages), -(-columns // 2**stages))

        layers = latents_to_map(latent_size, num_classes, start, normalization)
        blocks = [up_block(before, after, hidden) for before, after in pairwise([channels[0], *channels])]
        layers += with_attention(blocks, attention, stages, stages - (attention or 0))
        layers += [*hidden(width), convolution(width, image_channels), Crop(rows, columns)]
        self.layers = Layers(*layers, output_activation_layer(output_activation, default_output))
        initialize_resnet(self, initialization)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W)."""
        return self.layers(latents, labels)


class Discriminator(HeadedDiscriminator):
    """Images (N, C, H, W) -> k down blocks -> plain blocks -> activation -> global pooling -> linear -> logits (N,).

    A down block is normalization, activation, dropout, convolution, normalization, activation, dropout, convolution,
    average pooling, beside a shortcut of pooling and a 1x1 convolution; the first has no normalization and starts with
    its convolution. A plain block does not pool and its shortcut is the identity. The first block yields `width`
    channels, every later down block multiplies them by `growth`. For 32x32, width 128 and growth 1 that is the
    discriminator of WGAN-GP and SNGAN for CIFAR-10: 2 down blocks, 2 plain blocks at 8x8.

    `depth` is k; null: as many as bring the smallest side to 8 or less, at least 1 (8 -> 1, 28 -> 2, 32 -> 2, 64 -> 3).
    `pooling` is SNGAN's sum or WGAN-GP's mean. With classes, a projection of the label is added (see
    `layers.LinearHead`), unless `head` makes another head.

    What BigGAN has besides: a `wide` block has the channels of its output between its convolutions, and otherwise those
    of its input; the first plain block multiplies the channels by `end_growth`; with `attention` h, self-attention
    follows the block whose output has the image's sides halved h times.

    Raises:
        ValueError: points, images below 8x8, too large a depth, no place for attention, an unknown name; no labels for
            a conditional network.

    Source: Gulrajani et al. 2017, arXiv:1704.00028; Miyato et al. 2018, arXiv:1802.05957; Brock et al. 2018,
    arXiv:1809.11096.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        head: MakeHead = LinearHead,
        *,
        width: PositiveInt,
        depth: PositiveInt | None,
        growth: PositiveInt,
        plain_blocks: NonNegativeInt,
        pooling: Literal["sum", "mean"],
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: ResidualInitialization,
        attention: NonNegativeInt | None = None,
        wide: bool = False,
        end_growth: PositiveInt = 1,
    ) -> None:
        super().__init__()
        bare = partial(
            hidden_layers,
            normalizations=IMAGE_NORMALIZATIONS,
            normalization="none",
            activation=activation,
            dropout=dropout,
        )
        hidden = partial(bare, normalization=normalization)
        image_channels, rows, columns = image_shape(shape, "resnet")
        side = min(rows, columns)
        stages = checked_depth(halvings_to_eight(side) if depth is None else depth, side, normalization)
        channels = [width * growth**stage for stage in range(stages)]

        at_the_end = [channels[-1], *[channels[-1] * end_growth] * plain_blocks]

        blocks = [image_block(image_channels, width, bare)]
        blocks += [down_block(before, after, hidden, wide=wide) for before, after in pairwise(channels)]
        blocks += [plain_block(before, after, hidden, wide=wide) for before, after in pairwise(at_the_end)]
        self.layers = Layers(*with_attention(blocks, attention, stages, attention or 0), *bare(at_the_end[-1]))
        self.pool = choose(POOLINGS, "pooling", pooling)
        self.head = head(at_the_end[-1], num_classes)
        initialize_resnet(self, initialization)

    def features(self, x: Tensor) -> Tensor:
        """The last feature map, pooled over its pixels: (N, F)."""
        return self.pool(self.layers(x), dim=(-2, -1))
