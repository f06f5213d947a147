"""The dense-deconvolution GAN: a stack of dense layers, then transposed convolutions, for images of any size.

Its discriminator is DCGAN's with two stages and dropout (see conf/model/dense_deconv.yaml).
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from math import prod
from typing import Annotated

from annotated_types import Gt, Le
from torch import Tensor, nn

from gan_runner.models.layers import (
    IMAGE_NORMALIZATIONS,
    VECTOR_NORMALIZATIONS,
    Activation,
    BatchNorm1d,
    BatchNorm2d,
    Crop,
    Dropout,
    Initialization,
    LatentInput,
    Layers,
    Output,
    checked_depth,
    hidden_layers,
    image_shape,
    initialize,
    output_activation_layer,
)
from gan_runner.models.mlp import Normalization
from gan_runner.torch_utils.bounds import PositiveInt

Momentum = Annotated[float, Gt(0), Le(1)]


def doublings_from_four(side: int) -> int:
    """How many doublings of 4 pixels reach a side: 8 -> 1, 16 -> 2, 28 -> 3, 32 -> 3, 64 -> 4."""
    return ((side - 1) // 4).bit_length()


class Generator(nn.Module):
    """Latents (N, Z) -> dense layers -> feature map -> k + 1 transposed convolutions -> images (N, C, H, W).

    The dense layers have the sizes of `dense`, each followed by leaky ReLU (`dense_activation`), normalization and
    dropout, in this order. Another one, followed by `activation` alone, yields the map (8 width, ⌈H/2^k⌉, ⌈W/2^k⌉). The
    first transposed convolution (kernel 4, stride 1) keeps its size, with 4 width channels; each of the k others
    (kernel 4, stride 2) doubles it. Their channels halve, but not below `width`; the last yields the image. Between
    them come activation, normalization, dropout. What exceeds H x W is cropped. With width 64:

        32x32, k = 3: 512@4 -> 256@4 -> 128@8 -> 64@16 -> C@32
        64x64, k = 4: 512@4 -> 256@4 -> 128@8 -> 64@16 -> 64@32 -> C@64

    The first line is the document's; for larger images stages of `width` channels are added before the last.

    `depth` is k; null: as many as reach the smallest side from 4 pixels (8 -> 1, 28 -> 3, 32 -> 3, 64 -> 4). `momentum`
    is the weight of a new batch in batch normalization's running statistics (Keras calls 1 - momentum so). With
    classes, an embedding of the label stands beside the latents.

    Raises:
        ValueError: points, images below 8x8, too large a depth, an unknown name; no labels for a conditional network.

    Source: the project's document on the dense-deconvolution GAN. Transposed convolutions with batch normalization are
    those of Radford et al. 2015, arXiv:1511.06434, where the normalization precedes the activation.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        default_output: Output,
        num_classes: int = 0,
        *,
        dense: list[PositiveInt],
        width: PositiveInt,
        depth: PositiveInt | None,
        dense_activation: Activation,
        activation: Activation,
        normalization: Normalization,
        momentum: Momentum,
        dropout: Dropout,
        initialization: Initialization,
        output_activation: Output | None,
    ) -> None:
        super().__init__()

        def hidden(
            size: int, normalizations: Mapping[str, Callable[[int], nn.Module]], activation: str, normalization: str
        ) -> list[nn.Module]:
            normalize, activate, drop = hidden_layers(
                size, normalizations, normalization=normalization, activation=activation, dropout=dropout
            )
            return [activate, normalize, drop]

        of_vectors = VECTOR_NORMALIZATIONS | {"batch": partial(BatchNorm1d, momentum=momentum)}
        of_maps = IMAGE_NORMALIZATIONS | {"batch": partial(BatchNorm2d, momentum=momentum)}
        image_channels, rows, columns = image_shape(shape, "dense_deconv")
        side = min(rows, columns)
        stages = checked_depth(doublings_from_four(side) if depth is None else depth, side, normalization)
        channels = [4 * width, 2 * width, *[width] * stages][:stages]
        start = (8 * width, -(-rows // 2**stages), -(-columns // 2**stages))
        latents = LatentInput(latent_size, num_classes)
        sizes = [latents.size, *dense]

        layers: list[nn.Module] = [latents]
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), *hidden(after, of_vectors, dense_activation, normalization)]
        layers += [nn.Linear(sizes[-1], prod(start)), nn.Unflatten(-1, start)]
        layers += hidden(start[0], of_maps, activation, "none")
        # Keras' "same": of the three rows and columns too many, one is cut before the map and two after it.
        layers += [nn.ConvTranspose2d(start[0], channels[0], 4, 1, 1), Crop(*start[1:])]
        layers += hidden(channels[0], of_maps, activation, normalization)
        for before, after in pairwise(channels):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), *hidden(after, of_maps, activation, normalization)]
        layers += [nn.ConvTranspose2d(channels[-1], image_channels, 4, 2, 1), Crop(rows, columns)]
        self.layers = Layers(*layers, output_activation_layer(output_activation, default_output))
        initialize(self, initialization)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W)."""
        return self.layers(latents, labels)
