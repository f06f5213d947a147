"""What the models share: lookup tables, hidden layers, class conditioning, sizes.

A layer that also takes the labels is a `Labelled`; `Layers` chains layers and hands the labels to those. A class with
`takes_leading_axes` works as it is if all of its parts take axes before that of the samples, the runs of a sweep.

Shape axes: N samples, Z latents, F features, C channels, H height, W width.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Literal, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from annotated_types import Ge, Lt
from torch import Tensor, nn

from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.bounds import PositiveInt

# The types of the constructor arguments, which are the config keys. Each Literal lists the keys of a table below.
Dropout = Annotated[float, Ge(0), Lt(1)]
Activation = Literal["relu", "leaky_relu", "elu", "gelu", "silu", "softplus", "tanh"]
Normalization = Literal["batch", "layer", "instance", "none"]
Initialization = Literal["default", "normal", "xavier", "he", "orthogonal"]
Output = Literal["tanh", "sigmoid", "linear"]

SMALLEST_IMAGE = 8

Entry = TypeVar("Entry")


def choose(table: Mapping[str, Entry], key: str, name: str) -> Entry:
    """`table[name]`, or a ValueError that names the config key and what is allowed."""
    if name not in table:
        raise ValueError(f"{key}: {name!r} is none of {', '.join(table)}")
    return table[name]


# --- class conditioning


def required(labels: Tensor | None) -> Tensor:
    """The labels; a ValueError if there are none."""
    if labels is None:
        raise ValueError("labels: a conditional network (num_classes > 0) needs them, but got None")
    return labels


def of_label(values: Tensor, labels: Tensor | None) -> Tensor:
    """The value of each sample's own class: (..., N, K) -> (..., N)."""
    return values.gather(-1, required(labels)[..., None]).squeeze(-1)


class Labelled(nn.Module):
    """A layer that takes (x, labels)."""


class Layers(nn.Sequential, Labelled):
    """A chain of layers: x -> x, in which every `Labelled` layer sees the labels too."""

    takes_leading_axes = True

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        for layer in self:
            x = layer(x, labels) if isinstance(layer, Labelled) else layer(x)
        return x


class ConditionalBatchNorm2d(Labelled):
    """Batch normalization whose gain and shift belong to the class: (N, C, H, W) -> gain[y] * normalized(x) + shift[y].

    It starts as plain batch normalization: gains 1, shifts 0. The statistics are those of the whole batch.

    Raises:
        ValueError: without labels.

    Source: Dumoulin et al. 2016, arXiv:1610.07629 (per style); de Vries et al. 2017, arXiv:1707.00683.
    """

    is_normalization = True

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.normalize = BatchNorm2d(channels, affine=False)
        self.gain = nn.Parameter(torch.ones(num_classes, channels))
        self.shift = nn.Parameter(torch.zeros(num_classes, channels))

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """Normalize, then scale and shift by class."""
        labels = required(labels)
        gain, shift = F.embedding(labels, self.gain), F.embedding(labels, self.shift)  # (N, C) each
        return self.normalize(x) * gain[..., None, None] + shift[..., None, None]


class LatentInput(Labelled):
    """The generator's input: (N, Z) -> (N, size), the latents and, with classes, an embedding of the label beside them.

    The embedding is as wide as the latents and starts at N(0, 1) like them: neither drowns the other.

    Raises:
        ValueError: without labels, if there are classes.

    Source: Mirza and Osindero 2014, arXiv:1411.1784.
    """

    takes_leading_axes = True

    def __init__(self, latent_size: int, num_classes: int) -> None:
        super().__init__()
        self.size = 2 * latent_size if num_classes else latent_size
        self.embedding = nn.Embedding(num_classes, latent_size) if num_classes else None

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        if self.embedding is None:
            return latents
        return torch.cat([latents, self.embedding(required(labels))], dim=-1)


class HeadOutputs(NamedTuple):
    """What a discriminator says of N samples."""

    logits: Tensor  # (..., N)
    extra: dict[str, Tensor]  # what the head makes of their features beside the logits, (..., N, *)


class Head(Labelled):
    """What a discriminator sets on its features: (N, F), and labels (N,), -> logits (N,).

    The constructor of every head takes the number of features and that of the classes, 0 where there are none.
    """

    def outputs(self, features: Tensor, labels: Tensor | None) -> HeadOutputs:
        """The logits, and what the head makes beside them: nothing, unless a subclass does."""
        return HeadOutputs(self(features, labels), {})


class LinearHead(Head):
    """Features φ (N, F) -> logits (N,), v·φ + b and, with classes, + <e(y), φ>.

    The class embeddings e are the rows of a linear layer without bias, so that whatever is done to a discriminator's
    linear layers (initialization, spectral normalization, a norm of the weights) is done to them as well.

    Raises:
        ValueError: without labels, if there are classes.

    Source: the projection is Miyato and Koyama 2018, arXiv:1802.05637.
    """

    takes_leading_axes = True

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, 1)
        self.projection = nn.Linear(features, num_classes, bias=False) if num_classes else None

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        logits = self.linear(features).squeeze(-1)
        if self.projection is None:
            return logits
        return logits + of_label(self.projection(features), labels)


MakeHead = Callable[[int, int], Head]
"""(number of features, number of classes) -> a head: what `head` in the config chooses for a discriminator."""


class HeadedDiscriminator(nn.Module):
    """A discriminator: `features` of the samples, which a subclass defines, and the `head` that it sets upon them.

    A network of one's own takes all heads by being one, and by `self.head = head(F, num_classes)`, where `head` is a
    `MakeHead` that its constructor takes.
    """

    head: Head

    def features(self, x: Tensor) -> Tensor:
        """What the head sees of samples (N, *sample): (N, F)."""
        raise NotImplementedError

    def outputs(self, x: Tensor, labels: Tensor | None = None) -> HeadOutputs:
        """Logits (N,), and what the head makes beside them."""
        return self.head.outputs(self.features(x), labels)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N,)."""
        return self.head(self.features(x), labels)


class SharedDropout(nn.Dropout):
    """torch's, with the noise of the whole batch where several processes share one: any shape (N, ...) -> the same."""

    takes_leading_axes = True
    is_divisible = True

    def forward(self, x: Tensor) -> Tensor:
        """With noise in training alone."""
        return ranks.dropout(x, self.p, self.training)


class GatheredStatistics(nn.modules.batchnorm._BatchNorm):
    """Batch normalization with the statistics of the whole batch, where several processes share one.

    In a run of one process, and in evaluation mode, it is torch's. torch's own for several, `SyncBatchNorm`, refuses
    CPUs, and cannot be differentiated twice.
    """

    is_normalization = True
    gathers_batch = True

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        if not (self.training and ranks.is_sharded()):
            return super().forward(x)
        self._check_input_dim(x)
        axes, per_channel = [0, *range(2, x.ndim)], [1, -1, *[1] * (x.ndim - 2)]
        exact = x.to(torch.promote_types(x.dtype, torch.float32))  # as torch computes what autocast made bfloat16
        mean = ranks.batch_mean(exact, axes)
        centred = exact - mean.view(per_channel)
        variance = ranks.batch_mean(centred.square(), axes)
        if self.track_running_stats:
            self.follow(mean.detach(), variance.detach(), x.numel() // x.shape[1] * ranks.processes())
        normalized = centred * (variance + self.eps).rsqrt().view(per_channel)
        if self.affine:
            normalized = normalized * self.weight.view(per_channel) + self.bias.view(per_channel)
        return normalized.to(x.dtype)

    def follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch, `count` values of each channel: (C,) each."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        rate = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance * (count / (count - 1)), rate)


class BatchNorm1d(GatheredStatistics, nn.BatchNorm1d):
    """(N, F) -> (N, F)."""


class BatchNorm2d(GatheredStatistics, nn.BatchNorm2d):
    """(N, C, H, W) -> (N, C, H, W)."""


# --- layers that look beyond a pixel, or beyond a sample


class SelfAttention(nn.Module):
    """x + γ attention(x): (N, C, H, W) -> the same, every pixel looking at all of the map.

    Queries and keys have C/8 channels, values C/2, by 1x1 convolutions without biases, as has the one back to C. Keys
    and values are then reduced by 2x2 max pooling. The weights over the pooled pixels are softmax(queries · keys),
    without a scale. γ is learned and begins at 0, so that the layer begins as the identity.

    Source: Zhang et al. 2018 (SAGAN), arXiv:1805.08318, in the form of the authors' code
    (brain-research/self-attention-gan, non_local.py) and of BigGAN's; the paper's text has values of C channels, and no
    pooling. PyTorch's fused attention has no second derivative, which a gradient penalty wants.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.queries = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)
        self.keys = nn.Conv2d(channels, max(1, channels // 8), 1, bias=False)
        self.values = nn.Conv2d(channels, max(1, channels // 2), 1, bias=False)
        self.back = nn.Conv2d(max(1, channels // 2), channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.queries(x).flatten(-2)  # (N, C', pixels)
        keys, values = (
            F.max_pool2d(layer(x), 2, ceil_mode=True).flatten(-2) for layer in (self.keys, self.values)
        )  # (N, C', pooled pixels) each
        weights = torch.softmax(queries.mT @ keys, dim=-1)  # (N, pixels, pooled pixels)
        seen = (values @ weights.mT).unflatten(-1, x.shape[-2:])
        return x + self.gain * self.back(seen)


class MinibatchStdDev(nn.Module):
    """How much the samples of a group differ, as one more channel: (N, C, H, W) -> (N, C + 1, H, W).

    The standard deviation over the group of each channel and pixel, and their mean: one number for the group, at every
    pixel of its samples. So a discriminator sees a lack of variety. There are K = ⌈N / group⌉ groups, of the samples
    i, i + K, i + 2K and so on; where N is no multiple of K, the last groups are filled up with the first samples again.

    What it makes of a sample depends on the others, yet gradient penalties go with it, in its paper too: the gradient
    is then of the sum of the logits.

    Source: Karras et al. 2017, arXiv:1710.10196, section 3; in groups 2019, arXiv:1912.04958.
    """

    compares_samples = True
    gathers_batch = True

    def __init__(self, group: PositiveInt = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Tensor) -> Tensor:
        batch = ranks.all_gather(x)
        samples = batch.shape[0]
        groups = -(-samples // self.group)
        size = -(-samples // groups)
        filled = torch.cat([batch, batch[: groups * size - samples]]) if samples % groups else batch
        apart = filled.to(torch.promote_types(x.dtype, torch.float32)).unflatten(0, (size, groups))
        variance = (apart - apart.mean(0)).square().mean(0)  # (groups, C, H, W)
        deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))  # the root is kept from 0, where it has no derivative
        channel = ranks.own_shard(deviation.repeat(size)[:samples]).to(x.dtype).view(-1, 1, 1, 1)
        return torch.cat([x, channel.expand(-1, -1, *x.shape[2:])], dim=1)


# --- tables: a config's name -> how to make the thing

# No activation works in place: gradient penalties differentiate twice.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}

VECTOR_NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm1d,
    "layer": nn.LayerNorm,
    "none": nn.Identity,
}

# `layer` normalizes over (C, H, W) with a gain and a shift per channel, like WGAN-GP's discriminator.
IMAGE_NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "batch": BatchNorm2d,
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "none": nn.Identity,
}

CONDITIONAL_NORMALIZATIONS: dict[str, type[ConditionalBatchNorm2d]] = {"batch": ConditionalBatchNorm2d}

# The smallest side of a feature map that a normalization can take, where it is not 1: one pixel has no spread.
SMALLEST_SIDES = {"instance": 2}

INITIALIZATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "normal": partial(nn.init.normal_, std=0.02),
    "xavier": nn.init.xavier_uniform_,
    "he": nn.init.kaiming_normal_,
    "orthogonal": nn.init.orthogonal_,
}

OUTPUT_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "linear": nn.Identity,
}


# --- pieces of networks


def hidden_layers(
    size: int,
    normalizations: Mapping[str, Callable[[int], nn.Module]],
    *,
    normalization: str,
    activation: str,
    dropout: float,
) -> list[nn.Module]:
    """Normalization, activation, dropout of a hidden layer of `size` units or channels.

    Always three modules, so that a parameter's name does not depend on these keys.
    """
    return [
        choose(normalizations, "normalization", normalization)(size),
        choose(ACTIVATIONS, "activation", activation)(),
        SharedDropout(dropout),  # at 0 it hands its input through and draws nothing
    ]


def output_activation_layer(output_activation: str | None, default_output: str) -> nn.Module:
    """The generator's last layer: what the config names or, if that is null, what fits the data's normalization."""
    return choose(OUTPUT_ACTIVATIONS, "output_activation", output_activation or default_output)()


def generator_normalizations(num_classes: int) -> dict[str, Callable[[int], nn.Module]]:
    """The normalizations of an image generator: with classes, class-conditional where there is such a one."""
    if not num_classes:
        return IMAGE_NORMALIZATIONS
    conditional = {name: partial(make, num_classes=num_classes) for name, make in CONDITIONAL_NORMALIZATIONS.items()}
    return IMAGE_NORMALIZATIONS | conditional


def latents_to_map(
    latent_size: int, num_classes: int, shape: tuple[int, int, int], normalization: str
) -> list[nn.Module]:
    """Latents (N, Z) -> a feature map (N, *shape), linear; embeds the label unless the normalization sees it."""
    latents = LatentInput(latent_size, 0 if normalization in CONDITIONAL_NORMALIZATIONS else num_classes)
    channels, height, width = shape
    return [latents, nn.Linear(latents.size, channels * height * width), nn.Unflatten(-1, shape)]


class Crop(nn.Module):
    """The upper left part: (N, C, H', W') -> (N, C, H, W)."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.height, : self.width]


def initialize(network: nn.Module, initialization: str) -> None:
    """Initialize the weights of linear and convolutional layers, with biases zero; `default` keeps PyTorch's.

    `normal` is N(0, 0.02²) (Radford et al. 2015, arXiv:1511.06434); `xavier` U(-a, a), a² = 6 / (fan in + fan out)
    (Glorot and Bengio 2010); `he` N(0, 2 / fan in) (He et al. 2015, arXiv:1502.01852); `orthogonal` (Saxe et al. 2013,
    arXiv:1312.6120). The fans are as PyTorch counts them, also for transposed convolutions.
    """
    fill = choose(INITIALIZATIONS | {"default": None}, "initialization", initialization)
    if fill is None:
        return
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


# --- sizes


def image_shape(shape: tuple[int, ...], model: str) -> tuple[int, int, int]:
    """`shape` as (C, H, W), or a ValueError for points and for images too small for a convolutional model."""
    if len(shape) != 3:
        raise ValueError(f"model={model} is for images, but the data has shape {tuple(shape)}: use model=mlp")
    channels, height, width = shape
    if min(height, width) < SMALLEST_IMAGE:
        raise ValueError(
            f"model={model} takes images from {SMALLEST_IMAGE}x{SMALLEST_IMAGE} pixels, but the data has "
            f"{height}x{width}: use model=mlp, or enlarge the images"
        )
    return channels, height, width


def halvings_to_four(side: int) -> int:
    """How many halvings keep a side of at least 4 pixels, but at least 2: 8 -> 2, 28 -> 2, 32 -> 3, 64 -> 4."""
    return max(2, (side // 4).bit_length() - 1)


def checked_depth(depth: int, side: int, normalization: str = "none") -> int:
    """`depth`, if so many halvings of the smallest side leave a pixel (two under instance normalization)."""
    largest = (side // SMALLEST_SIDES.get(normalization, 1)).bit_length() - 1
    if depth > largest:
        raise ValueError(
            f"depth: {depth} halvings are too many for a side of {side} pixels"
            + (f" with normalization={normalization}" if normalization in SMALLEST_SIDES else "")
            + f"; at most {largest}, or null for a depth that fits"
        )
    return depth
