"""The generators of BigGAN (Brock et al. 2018, arXiv:1809.11096) and SAGAN (Zhang et al. 2018, arXiv:1805.08318).

The discriminators of both are `resnet.Discriminator`, with attention and wide blocks.
"""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from gan_runner.models.layers import (
    Activation,
    BatchNorm2d,
    Crop,
    Initialization,
    Labelled,
    Output,
    checked_depth,
    halvings_to_four,
    hidden_layers,
    image_shape,
    initialize,
    output_activation_layer,
    required,
)
from gan_runner.models.resnet import Block, convolution, up_block, with_attention
from gan_runner.torch_utils.bounds import NonNegativeInt, PositiveInt


class SharedEmbedding(nn.Embedding):
    """One embedding of the class for all layers of a generator: labels (N,) -> (N, size).

    The spectral norm leaves it alone, as in the authors' code, which says that it cripples the generator otherwise.
    """

    without_spectral_norm = True


class ModulatedBatchNorm2d(Labelled):
    """Batch normalization whose gain and shift are linear in a condition: (N, C, H, W), (N, S) -> (N, C, H, W).

    (1 + G c) * normalized(x) + B c, with linear layers G and B, which the spectral norm sees. Of a one-hot c they are
    tables of classes. Without a condition (S = 0) it is plain batch normalization, whose gain and shift are learned.

    Source: Brock et al. 2018, arXiv:1809.11096, appendix B; of classes de Vries et al. 2017, arXiv:1707.00683.
    """

    is_normalization = True

    def __init__(self, channels: int, condition_size: int) -> None:
        super().__init__()
        self.normalize = BatchNorm2d(channels, affine=not condition_size)
        self.gain = nn.Linear(condition_size, channels, bias=False) if condition_size else None
        self.shift = nn.Linear(condition_size, channels, bias=False) if condition_size else None

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Normalize, then scale and shift by the condition, which stands in the place of the labels."""
        if self.gain is None or self.shift is None:
            return self.normalize(x)
        condition = required(labels)
        gain, shift = 1 + self.gain(condition), self.shift(condition)  # (N, C) each
        return torch.addcmul(shift[..., None, None], self.normalize(x), gain[..., None, None])


class Generator(nn.Module):
    """Latents (N, Z) -> linear -> k up blocks -> normalization, activation, convolution -> images (N, C, H, W).

    The blocks are those of `resnet.Generator`: normalization, activation, upsampling, convolution, normalization,
    activation, convolution, beside a shortcut. What their normalizations are conditioned on is the class, as a table of
    it (SAGAN), or, with `shared_embedding`, as an embedding of that size which all blocks share (BigGAN). With
    `split_latents` the latents are cut into k + 1 chunks of one size: the first goes into the linear layer, and each
    later one beside the class into a block's normalizations. The last normalization has no condition. With `attention`
    h, self-attention follows the block whose output has the image's sides halved h times.

    The first map has `start_growth` times the channels of the first block's output; every later block divides them by
    `growth`, down to `width`. What exceeds H x W is cropped. For 32x32 (k = 3) BigGAN has width 384 and growth 1; for
    128x128 (k = 5) it has width 96 and growth 2, which make 1536@4 -> 1536@8 -> 768@16 -> 384@32 -> 192@64 -> 96@128.

    `depth` is k; null: as many as keep the smallest side at 4 or more, at least 2 (8 -> 2, 28 -> 2, 32 -> 3, 64 -> 4).

    Raises:
        ValueError: points, images below 8x8, too large a depth, no place for attention, latents that do not split, an
            unknown name; no labels for a conditional network.

    Source: Brock et al. 2018, arXiv:1809.11096; Zhang et al. 2018, arXiv:1805.08318.
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
        start_growth: PositiveInt,
        split_latents: bool,
        shared_embedding: PositiveInt | None,
        attention: NonNegativeInt | None,
        activation: Activation,
        initialization: Initialization,
        output_activation: Output | None,
    ) -> None:
        super().__init__()
        image_channels, rows, columns = image_shape(shape, "biggan")
        side = min(rows, columns)
        stages = checked_depth(halvings_to_four(side) if depth is None else depth, side)
        channels = [width * growth**stage for stage in reversed(range(stages))]
        start = (channels[0] * start_growth, -(-rows // 2**stages), -(-columns // 2**stages))
        chunks = stages + 1 if split_latents else 1
        if latent_size % chunks:
            raise ValueError(
                f"split_latents: model.latent_size={latent_size} does not divide into {chunks} chunks, one for the "
                f"start and one for each of the {stages} blocks"
            )
        self.num_classes, self.chunk = num_classes, latent_size // chunks
        self.embedding = SharedEmbedding(num_classes, shared_embedding) if num_classes and shared_embedding else None
        of_class = shared_embedding if self.embedding is not None and shared_embedding else num_classes
        condition = of_class + (self.chunk if split_latents else 0)

        hidden = partial(
            hidden_layers,
            normalizations={"batch": partial(ModulatedBatchNorm2d, condition_size=condition)},
            normalization="batch",
            activation=activation,
            dropout=0.0,
        )
        plain = partial(hidden, normalizations={"batch": BatchNorm2d})
        self.start = nn.Sequential(nn.Linear(self.chunk, start[0] * start[1] * start[2]), nn.Unflatten(-1, start))
        blocks = [up_block(before, after, hidden) for before, after in pairwise([start[0], *channels])]
        self.blocks = nn.ModuleList(with_attention(blocks, attention, stages, stages - (attention or 0)))
        self.end = nn.Sequential(
            *plain(width),
            convolution(width, image_channels),
            Crop(rows, columns),
            output_activation_layer(output_activation, default_output),
        )
        initialize(self, initialization)
        if self.embedding is not None and initialization == "orthogonal":
            nn.init.orthogonal_(self.embedding.weight)

    def conditions(self, chunks: tuple[Tensor, ...], labels: Tensor | None) -> list[Tensor | None]:
        """What each block's normalizations are told: (N, S) each, or nothing."""
        of_class: Tensor | None = None
        if self.embedding is not None:
            of_class = self.embedding(required(labels))
        elif self.num_classes:
            classes = torch.arange(self.num_classes, device=chunks[0].device)
            of_class = (required(labels).unsqueeze(-1) == classes).to(chunks[0].dtype)  # `one_hot` reads the labels
        stages = sum(isinstance(block, Block) for block in self.blocks)
        if len(chunks) == 1:
            return [of_class] * stages
        return [chunk if of_class is None else torch.cat([of_class, chunk], dim=-1) for chunk in chunks[1:]]

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W)."""
        chunks = latents.split(self.chunk, dim=-1)
        conditions = iter(self.conditions(chunks, labels))
        x = self.start(chunks[0])
        for block in self.blocks:
            x = block(x, next(conditions)) if isinstance(block, Block) else block(x)
        return self.end(x)
