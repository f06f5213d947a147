"""StyleGAN2 (Karras et al. 2019, arXiv:1912.04958) as of StyleGAN2-ADA (2020, arXiv:2006.06676); images of any size.

Weights are stored with the standard deviation 1 and multiplied by 1 / √(fan in) where they are used ("equalized
learning rate", Karras et al. 2017, arXiv:1710.10196, section 4.1), so that Adam moves all of them alike.

Shape axes beside those of `layers`: L layers of the generator, S entries of a style.
"""

import copy
import math
from functools import partial
from itertools import pairwise
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Le
from torch import Tensor, nn

from gan_runner.models.layers import (
    ACTIVATIONS,
    Activation,
    Crop,
    Head,
    HeadedDiscriminator,
    Labelled,
    MakeHead,
    MinibatchStdDev,
    Output,
    checked_depth,
    choose,
    image_shape,
    output_activation_layer,
    required,
)
from gan_runner.models.resampling import Downsample, Resample, Upsample
from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.bounds import PositiveFloat, PositiveInt, Probability
from gan_runner.torch_utils.precision import without_autocast

Architecture = Literal["skip", "residual", "plain"]

MEAN_STYLE_DECAY = 0.995  # of the mean style at every forward pass in training
HALF = math.sqrt(0.5)  # the gain of either summand of a residual block, which keeps the variance

# What brings the variance of unit normal inputs back, roughly; the others have the gain 1.
GAINS = {"relu": math.sqrt(2), "leaky_relu": math.sqrt(2), "gelu": math.sqrt(2), "silu": math.sqrt(2)}


# --- layers


class Scaled(nn.Module):
    """An activation and its gain: x -> gain * activation(x)."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.function = choose(ACTIVATIONS, "activation", activation)()
        self.gain = GAINS.get(activation, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x) * self.gain


class EqualizedLinear(nn.Module):
    """m (W x / √(fan in) + b): (N, inputs) -> (N, outputs), with W ~ N(0, 1) / m and b = `bias` / m at first.

    An m, `lr_multiplier`, below 1 slows its learning, and does not change what the layer makes at first.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: float = 0.0, lr_multiplier: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(
            x, self.weight * (self.lr_multiplier / math.sqrt(self.weight.shape[1])), self.bias * self.lr_multiplier
        )


class EqualizedConvolution(nn.Module):
    """A convolution that keeps the size, or halves it behind a low-pass filter, without activation.

    (N, before, H, W) -> (N, after, H, W), or (N, after, ⌊H/2⌋, ⌊W/2⌋).
    """

    def __init__(self, before: int, after: int, kernel: int, *, halve: bool = False, has_bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(after)) if has_bias else None
        self.gain = 1 / math.sqrt(before * kernel**2)
        self.padding = kernel // 2
        # The filter and the stride in one, where the convolution commutes with them; else the filter comes first.
        self.down = Downsample() if halve and kernel == 1 else None
        self.blur = Blur(padding=1 + self.padding) if halve and kernel > 1 else None

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight * self.gain
        if self.blur is not None:
            return F.conv2d(self.blur(x), weight, self.bias, stride=2)
        if self.down is not None:
            x = self.down(x)
        return F.conv2d(x, weight, self.bias, padding=self.padding)


class Blur(Resample):
    """`gain` times the low-pass filter: (N, C, H, W) -> (N, C, H + 2p - 3, W + 2p - 3), p the padding with zeros."""

    def __init__(self, *, padding: int, gain: float = 1.0) -> None:
        super().__init__()
        self.padding, self.gain = padding, gain

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[-3]
        each = (self.gain * self.kernel).expand(channels, 1, -1, -1)
        return F.conv2d(x, each, padding=self.padding, groups=channels)


class ModulatedConvolution(nn.Module):
    """A convolution whose weights are scaled per sample: (N, before, H, W), styles (N, S) -> (N, after, H, W).

    s = A w + 1 scales the input channels. If it demodulates, each output channel is divided by the norm of its scaled
    weights, √(Σ (s_i W_oik)² + 1e-8): of inputs of unit variance that makes outputs of unit variance. Else the weights
    are equalized. With `double`, (N, after, 2H, 2W): a transposed convolution of stride 2, then the low-pass filter.

    The weights stay the same for all samples, and the scales are multiplied to the activations before and behind the
    convolution. The other form is a grouped convolution of all samples, each with scaled weights of its own. On a CPU,
    one thread, 16 samples, 32 to 256 channels at 8x8 to 64x64, that took 1.0 to 8.0 times as long forth and back, most
    at small maps of many channels. On a GPU, where this was not measured, it leaves the library N small convolutions
    in the place of a large one, copies the weights N times, and has slow kernels for its backward passes; the scales
    cost two passes over the activations, which are bound by memory.

    Source: Karras et al. 2019, arXiv:1912.04958, section 2.2.
    """

    def __init__(
        self, before: int, after: int, kernel: int, style_size: int, *, demodulate: bool = True, double: bool = False
    ) -> None:
        super().__init__()
        self.style = EqualizedLinear(style_size, before, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after, before, kernel, kernel))
        self.demodulate = demodulate
        self.gain = 1.0 if demodulate else 1 / math.sqrt(before * kernel**2)
        self.blur = Blur(padding=1, gain=4.0) if double else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        weight = self.weight
        with without_autocast(w.device):  # bfloat16 would be off by 1 % in the norms
            style = self.style(w) * self.gain
            scale = self.demodulation(style) if self.demodulate else None
        x = x * style[..., None, None].to(x.dtype)
        if self.blur is None:
            x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        else:
            x = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
        return x if scale is None else x * scale[..., None, None].to(x.dtype)

    def demodulation(self, style: Tensor) -> Tensor:
        """1 / √(Σ (s_i W_oik)² + 1e-8): styles (N, before) -> (N, after)."""
        squares = self.weight.square().sum((-2, -1))  # (after, before)
        return (style.square() @ squares.mT + 1e-8).rsqrt()


class StyledLayer(nn.Module):
    """activation(modulated convolution + strength * noise + bias): (N, before, H, W), (N, S) -> (N, after, H', W').

    The noise is a number for every pixel, for all channels alike, and its strength is learned and begins at 0. In
    training it is drawn anew for every sample, from the device's default generator, which is seeded at every step of a
    run. In evaluation it is the same at all times, so that samples are a function of their latents.
    """

    noise: Tensor | None

    def __init__(
        self,
        before: int,
        after: int,
        style_size: int,
        *,
        side: tuple[int, int],
        double: bool,
        has_noise: bool,
        activation: str,
    ) -> None:
        super().__init__()
        self.convolution = ModulatedConvolution(before, after, 3, style_size, double=double)
        self.bias = nn.Parameter(torch.zeros(after))
        self.noise_strength = nn.Parameter(torch.zeros(())) if has_noise else None
        self.register_buffer("noise", torch.randn(1, *side) if has_noise else None)
        self.activate = Scaled(activation)
        self.draws_noise = has_noise

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolution(x, w)
        shift = self.bias[:, None, None]
        if self.noise_strength is not None and self.noise is not None:
            noise = self.noise
            if self.training:
                draw = partial(torch.randn, device=x.device, dtype=noise.dtype)
                noise = ranks.drawn((x.shape[0], 1, *x.shape[-2:]), draw)
            shift = shift + self.noise_strength * noise
        return self.activate(x + shift.to(x.dtype))


class Mapping(Labelled):
    """What styles are made of: latents (N, Z), labels (N,) -> (N, S), by linear layers with activations.

    The latents, and an embedding of the label if there are classes, are divided by their root mean square first. Z may
    be 0, where the label alone is mapped. The layers learn at the share `lr_multiplier` of the others' rate.
    """

    def __init__(
        self, latent_size: int, num_classes: int, style_size: int, *, layers: int, lr_multiplier: float, activation: str
    ) -> None:
        super().__init__()
        self.latent_size = latent_size
        self.embedding = EqualizedLinear(num_classes, style_size) if num_classes else None
        inputs = latent_size + (style_size if num_classes else 0)
        made: list[nn.Module] = []
        for before, after in pairwise([inputs, *[style_size] * layers]):
            made += [EqualizedLinear(before, after, lr_multiplier=lr_multiplier), Scaled(activation)]
        self.layers = nn.Sequential(*made)

    def forward(self, latents: Tensor | None, labels: Tensor | None) -> Tensor:
        parts = []
        if latents is not None:
            parts.append(normalize_rms(latents))
        if self.embedding is not None:
            table = self.embedding.weight.mT / math.sqrt(self.embedding.weight.shape[1])
            parts.append(normalize_rms(F.embedding(required(labels), table) + self.embedding.bias))
        x = torch.cat(parts, dim=-1)
        with without_autocast(x.device):
            return self.layers(x.to(torch.promote_types(x.dtype, torch.float32)))


def normalize_rms(x: Tensor) -> Tensor:
    """Divided by the root mean square of the last axis."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


# --- sizes


def number_of_stages(depth: int | None, side: int) -> int:
    """How often the size changes: `depth`, or null: as often as keeps 4 pixels, at least once (8 -> 1, 32 -> 3)."""
    return checked_depth(max(1, (side // 4).bit_length() - 1) if depth is None else depth, side)


def channels_at(side: int, width: int, full_width_to: int) -> int:
    """The channels where the smaller side has so many pixels: `width`, falling in proportion beyond `full_width_to`."""
    return max(1, min(width, width * full_width_to // side))


# --- the generator


class StyledBlock(nn.Module):
    """x (N, before, H, W), an image or none, styles (N, 2 or 3, S) -> x (N, after, 2H, 2W) and the image at that size.

    The first block of all has a learned constant in the place of x, which keeps its size, and one layer, not two.
    In the form `skip` every block adds its image to that of the block before, upsampled; in the others only the last
    block has one. In the form `residual` x is added to a 1x1 convolution of what came in.
    """

    def __init__(
        self,
        before: int | None,
        after: int,
        image_channels: int,
        style_size: int,
        *,
        side: tuple[int, int],
        architecture: str,
        is_last: bool,
        has_noise: bool,
        activation: str,
    ) -> None:
        super().__init__()
        is_first = before is None
        self.constant = nn.Parameter(torch.randn(after, *side)) if is_first else None
        inputs = [after] if before is None else [before, after]
        self.layers = nn.ModuleList(
            StyledLayer(
                channels,
                after,
                style_size,
                side=side,
                double=not is_first and number == 0,
                has_noise=has_noise,
                activation=activation,
            )
            for number, channels in enumerate(inputs)
        )
        self.shortcut: nn.Module | None = None
        if architecture == "residual" and before is not None:
            self.shortcut = nn.Sequential(EqualizedConvolution(before, after, 1, has_bias=False), Upsample())
        self.to_image: ModulatedConvolution | None = None
        if architecture == "skip" or is_last:
            self.to_image = ModulatedConvolution(after, image_channels, 1, style_size, demodulate=False)
            self.image_bias = nn.Parameter(torch.zeros(image_channels))
            self.enlarge = Upsample()

    def forward(self, x: Tensor | None, image: Tensor | None, styles: Tensor) -> tuple[Tensor, Tensor | None]:
        before = x
        x = self.constant.expand(styles.shape[0], -1, -1, -1) if self.constant is not None else x
        for number, layer in enumerate(self.layers):
            x = layer(x, styles[:, number])
        assert x is not None, "there is a layer"
        if self.shortcut is not None:
            x = HALF * (x + self.shortcut(before))
        if self.to_image is not None:
            made = self.to_image(x, styles[:, len(self.layers)]) + self.image_bias[:, None, None]
            image = made if image is None else made + self.enlarge(image)
        return x, image


class Generator(nn.Module):
    """Latents (N, Z) -> mapping -> a style for each layer -> k + 1 blocks -> images (N, C, H, W).

    The mapping makes w (N, S) of the latents, and of the label if there are classes. The blocks begin with a learned
    constant of ⌈H/2^k⌉ x ⌈W/2^k⌉ and double it k times; L = 2k + 2 layers are told a style each, which is w, or, with
    the probability `style_mixing` in a step of training, from some layer on that of another sample of the batch. There
    are `width` channels up to sides of `full_width_to` pixels, and from there on half as many at every doubling. Images
    are sums over the blocks (`architecture` skip, the paper's choice), or those of the last block, with or without
    residual connections (residual, plain). What exceeds H x W is cropped.

    Each layer adds `noise`, random in training and fixed in evaluation (see `StyledLayer`). The buffer `mean_style`
    follows the mean of w in training; `truncated(ψ)` draws all w towards it.

    `depth` is k; null: as many as keep the smallest side at 4 or more (8 -> 1, 28 -> 2, 32 -> 3, 64 -> 4).

    Raises:
        ValueError: points, images below 8x8, too large a depth, an unknown name; no labels for a conditional network.

    Source: Karras et al. 2019, arXiv:1912.04958, with the sizes of StyleGAN2-ADA, arXiv:2006.06676. The other style of
    a mix belongs to the next sample of the batch, where the authors draw one more.
    """

    has_styles = True
    gathers_batch = True  # for the mean style, and to mix styles
    mean_style: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        default_output: Output,
        num_classes: int = 0,
        *,
        width: PositiveInt,
        full_width_to: PositiveInt,
        depth: PositiveInt | None,
        style_size: PositiveInt,
        mapping_layers: PositiveInt,
        mapping_lr_multiplier: Annotated[PositiveFloat, Le(1)],
        architecture: Architecture,
        noise: bool,
        style_mixing: Probability,
        activation: Activation,
        output_activation: Output | None,
    ) -> None:
        super().__init__()
        image_channels, rows, columns = image_shape(shape, "stylegan2")
        check_architecture(architecture)
        stages = number_of_stages(depth, min(rows, columns))
        start = -(-rows // 2**stages), -(-columns // 2**stages)
        sides = [(start[0] * 2**stage, start[1] * 2**stage) for stage in range(stages + 1)]
        channels = [channels_at(min(side), width, full_width_to) for side in sides]
        self.mapping = Mapping(
            latent_size,
            num_classes,
            style_size,
            layers=mapping_layers,
            lr_multiplier=mapping_lr_multiplier,
            activation=activation,
        )
        self.blocks = nn.ModuleList(
            StyledBlock(
                before,
                after,
                image_channels,
                style_size,
                side=side,
                architecture=architecture,
                is_last=side == sides[-1],
                has_noise=noise,
                activation=activation,
            )
            for before, after, side in zip([None, *channels], channels, sides, strict=False)
        )
        self.end = nn.Sequential(Crop(rows, columns), output_activation_layer(output_activation, default_output))
        self.style_count = 2 * stages + 2
        self.style_mixing = style_mixing
        self.draws_noise = style_mixing > 0
        self.truncation = 1.0
        self.register_buffer("mean_style", torch.zeros(style_size))

    def truncated(self, truncation: float) -> "Generator":
        """The same network with w -> mean + truncation (w - mean) in evaluation; it shares all weights and buffers.

        Karras et al. 2018, arXiv:1812.04948, appendix B.
        """
        made = copy.copy(self)
        made.truncation = truncation
        return made

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The style of each layer, (N, L, S): in training some of them mixed; in evaluation truncated."""
        w = self.mapping(latents, labels)
        if self.training:
            with torch.no_grad():
                self.mean_style.copy_(
                    MEAN_STYLE_DECAY * self.mean_style + (1 - MEAN_STYLE_DECAY) * ranks.batch_mean(w, 0)
                )
        elif self.truncation != 1:
            w = torch.lerp(self.mean_style, w, self.truncation)
        styles = w.unsqueeze(1).expand(-1, self.style_count, -1)
        if not (self.training and self.style_mixing):
            return styles
        # By the next sample's latents, which have the right distribution, and the sample's own label.
        others = self.mapping(ranks.own_shard(ranks.all_gather(latents).roll(1, 0)), labels).unsqueeze(1)
        chance, place = torch.rand(2, device=w.device)
        cut = torch.where(chance < self.style_mixing, 1 + (place * (self.style_count - 1)).floor(), self.style_count)
        is_own = torch.arange(self.style_count, device=w.device) < cut
        return torch.where(is_own.unsqueeze(-1), styles, others)

    def synthesize(self, styles: Tensor) -> Tensor:
        """Images (N, C, H, W) of styles (N, L, S)."""
        x: Tensor | None = None
        image: Tensor | None = None
        for number, block in enumerate(self.blocks):
            first = max(0, 2 * number - 1)  # the image of a block has the style of the layer behind it
            x, image = block(x, image, styles[:, first:])
        return self.end(image)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images (N, C, H, W)."""
        return self.synthesize(self.styles(latents, labels))


# --- the discriminator


class StyleHead(Head):
    """The discriminator's output: features (N, F) -> logits (N,), linear; with classes <W φ + b, m(y)> / √F.

    m is a mapping of the label alone, of F entries. Karras et al. 2020, arXiv:2006.06676, appendix D.
    """

    def __init__(
        self, features: int, num_classes: int, *, mapping_layers: int, lr_multiplier: float, activation: str
    ) -> None:
        super().__init__()
        self.linear = EqualizedLinear(features, features if num_classes else 1)
        self.mapping: Mapping | None = None
        if num_classes:
            self.mapping = Mapping(
                0, num_classes, features, layers=mapping_layers, lr_multiplier=lr_multiplier, activation=activation
            )

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Logits (N,)."""
        found = self.linear(features)
        if self.mapping is None:
            return found.squeeze(-1)
        return (found * self.mapping(None, labels)).sum(-1) / math.sqrt(found.shape[-1])


class HalvingBlock(nn.Module):
    """x (N, before, H, W), the image -> x (N, after, ⌊H/2⌋, ⌊W/2⌋) and the image at that size.

    Two convolutions, the second behind the low-pass filter. In the form `residual` a 1x1 convolution of what came in is
    added; in the form `skip` every block adds a 1x1 convolution of the image, downsampled, to what comes in, and in the
    others only the first has one.
    """

    def __init__(
        self, before: int, after: int, image_channels: int, *, architecture: str, is_first: bool, activation: str
    ) -> None:
        super().__init__()
        self.from_image = from_image(image_channels, before, activation) if is_first or architecture == "skip" else None
        self.first = nn.Sequential(EqualizedConvolution(before, before, 3), Scaled(activation))
        self.second = nn.Sequential(EqualizedConvolution(before, after, 3, halve=True), Scaled(activation))
        is_residual = architecture == "residual"
        self.shortcut = EqualizedConvolution(before, after, 1, halve=True, has_bias=False) if is_residual else None
        self.shrink = Downsample() if architecture == "skip" else None

    def forward(self, x: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        x = with_image(x, image, self.from_image)
        residual = self.second(self.first(x))
        x = residual if self.shortcut is None else HALF * (residual + self.shortcut(x))
        return x, image if self.shrink is None else self.shrink(image)


def from_image(image_channels: int, channels: int, activation: str) -> nn.Module:
    """A 1x1 convolution of the image, and the activation."""
    return nn.Sequential(EqualizedConvolution(image_channels, channels, 1), Scaled(activation))


def with_image(x: Tensor | None, image: Tensor, layer: nn.Module | None) -> Tensor:
    """x, the layer's view of the image, or their sum."""
    if layer is None:
        assert x is not None, "the first block sees the image"
        return x
    return layer(image) if x is None else x + layer(image)


class Discriminator(HeadedDiscriminator):
    """Images (N, C, H, W) -> k halving blocks -> minibatch deviation -> convolution -> linear -> logits (N,).

    Channels are those of the generator at the same size. `architecture` is residual (the paper's choice), skip or plain
    (StyleGAN2-ADA's for CIFAR-10); see `HalvingBlock`. `minibatch_group` samples are compared with one another (see
    `layers.MinibatchStdDev`); null: none. With classes the logit is a product with a mapping of the label, of
    `mapping_layers` layers (see `StyleHead`). `depth` is k, as in the generator.

    Raises:
        ValueError: points, images below 8x8, too large a depth, an unknown name; no labels for a conditional network.

    Source: Karras et al. 2019, arXiv:1912.04958, and 2020, arXiv:2006.06676.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int = 0,
        head: MakeHead | None = None,
        *,
        width: PositiveInt,
        full_width_to: PositiveInt,
        depth: PositiveInt | None,
        mapping_layers: PositiveInt,
        mapping_lr_multiplier: Annotated[PositiveFloat, Le(1)],
        architecture: Architecture,
        minibatch_group: PositiveInt | None,
        activation: Activation,
    ) -> None:
        super().__init__()
        image_channels, rows, columns = image_shape(shape, "stylegan2")
        check_architecture(architecture)
        stages = number_of_stages(depth, min(rows, columns))
        sides = [(rows // 2**stage, columns // 2**stage) for stage in range(stages + 1)]
        channels = [channels_at(min(side), width, full_width_to) for side in sides]
        self.blocks = nn.ModuleList(
            HalvingBlock(
                before,
                after,
                image_channels,
                architecture=architecture,
                is_first=number == 0,
                activation=activation,
            )
            for number, (before, after) in enumerate(pairwise(channels))
        )
        last, pixels = channels[-1], sides[-1][0] * sides[-1][1]
        self.from_image = from_image(image_channels, last, activation) if architecture == "skip" else None
        self.end = nn.Sequential(
            MinibatchStdDev(minibatch_group) if minibatch_group else nn.Identity(),
            EqualizedConvolution(last + bool(minibatch_group), last, 3),
            Scaled(activation),
            nn.Flatten(),
            EqualizedLinear(last * pixels, last),
            Scaled(activation),
        )
        own = partial(
            StyleHead, mapping_layers=mapping_layers, lr_multiplier=mapping_lr_multiplier, activation=activation
        )
        self.head = (head or own)(last, num_classes)

    def features(self, x: Tensor) -> Tensor:
        """What the last layer sees: (N, F)."""
        image, maps = x, None
        for block in self.blocks:
            maps, image = block(maps, image)
        return self.end(with_image(maps, image, self.from_image))


def check_architecture(architecture: str) -> None:
    """Raise ValueError for one that there is not."""
    choose(dict.fromkeys(("skip", "residual", "plain")), "architecture", architecture)
