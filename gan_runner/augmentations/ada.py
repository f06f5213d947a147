"""Adaptive discriminator augmentation (ADA): a pipe of random transformations that does not leak."""

import math
from collections.abc import Callable
from typing import Annotated

import torch
from annotated_types import Interval
from torch import Tensor

from gan_runner.augmentations.adaptation import Adaptive
from gan_runner.augmentations.draws import Randomness
from gan_runner.augmentations.warp import Resampling, reflected_, resampling, warp
from gan_runner.torch_utils.bounds import PositiveInt, Probability
from gan_runner.torch_utils.precision import full_precision, full_product

BANDS = 4  # octaves of frequencies that the image filter amplifies each on its own
GROUPS = {  # each with its transformations, in the order in which they are applied
    "blit": ("x_flip", "rotate90", "integer_shift"),
    "geometric": ("scale", "pre_rotation", "anisotropic_scale", "post_rotation", "fractional_shift"),
    "color": ("brightness", "contrast", "luma_flip", "hue", "saturation"),
    "filter": tuple(f"band_{band}" for band in range(BANDS)),
    "noise": ("noise",),
    "cutout": ("cutout",),
}
GATES = [transformation for group in GROUPS.values() for transformation in group]
# What each image draws: whatever is switched off, so that the draws of all others stay the same.
UNIFORM = (
    "x_flip", "rotate90", "integer_x", "integer_y", "pre_rotation", "post_rotation", "luma_flip", "hue", "cutout_x",
    "cutout_y",
)  # fmt: skip
NORMAL = (
    "scale", "anisotropic_scale", "fractional_x", "fractional_y", "brightness", "contrast", "saturation", "noise",
    *GROUPS["filter"],
)  # fmt: skip
SYM2 = (-0.12940952255126037, 0.2241438680420134, 0.8365163037378079, 0.4829629131445342)  # of Daubechies, low-pass
POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)  # share of each band in the power of natural images, the lowest first


class Ada(Adaptive):
    """Blits, geometry, colors, filter, noise and cutout, each drawn for every image with a probability below 1.

    A discriminator that sees nothing but augmented images cannot learn the training images by heart; as most images
    are not turned, mirrored or tinted, the generator still learns which way up they are. Each transformation fires
    with probability m p, m of its group (pre- and post-rotation such that one of both does); `without` are those that
    never do:

    - blit: x_flip, to either side alike; rotate90, by 0 to 3 quarter turns; integer_shift, U(-1/8, 1/8) of the size in
      whole pixels.
    - geometric: scale by 2^(0.2 n); pre_rotation and post_rotation by U(-π, π), and between them anisotropic_scale,
      x by s and y by 1/s, s = 2^(0.2 n); fractional_shift, n/8 of the size.
    - color: brightness, + 0.2 n; contrast, x 2^(0.5 n); luma_flip, the mean of the channels negated or not alike; hue,
      the rest turned by U(-π, π); saturation, the rest x 2^n. Grey images have no hue and no saturation.
    - filter: band_0 to band_3, each an octave of frequencies amplified by 2^n, at an unchanged power of natural images.
    - noise: Gaussian, its sd 0.1 |n|.
    - cutout: zeros in a rectangle of the fraction `cutout_size` of H and of W, its centre U over the image.

    n ~ N(0, 1), values are in units of the data, which lies in [-1, 1]. Blits and geometry are one map of places, along
    which the image is resampled once (see `warp`); colors are one map of the channels. An image on which nothing fires
    stays as it is.

    `p` is fixed, or where it starts if there is a `target` (see `Adaptation`). Above about 0.8 augmentations leak into
    what is generated.

    What is different from the authors' code:

    - That pads a batch by its reflection, as far as the maps that were drawn for it reach and at most H - 1 pixels,
      which a step would have to wait for. Here the doubled image is reflected, without end and without padding. The
      two agree but for what was reflected, as the filter is not symmetric: of 512 images of Fashion-MNIST in [-1, 1],
      28 x 28, the results with blits and geometry differ by 0.011 at p = 0.3 and by 0.023 at p = 1, root mean square;
      by more than 0.05 in 0.8 % and 3.2 % of the pixels.
    - Images are rotated about their centre; the authors' code rotates them about the midpoint of the filter's taps, 0.2
      pixels from the filter's centre of mass.
    - p is at most 1. r is of the logits of the loss alone, and not of those of penalties too.

    Shapes: images and result (..., N, C, H, W).
    Raises: ValueError for points, for colors of other than 1 or 3 channels, and for an unknown name in `without`.
    Source: Karras, Aittala, Hellsten, Laine, Lehtinen and Aila, 2020, arXiv:2006.06676, appendix B.
    """

    def __init__(
        self,
        *,
        p: Probability,
        target: Annotated[float, Interval(ge=-1, le=1)] | None,
        interval: PositiveInt,
        images: PositiveInt,
        blit: Probability,
        geometric: Probability,
        color: Probability,
        filter: Probability,  # noqa: A002 -- the paper's name
        noise: Probability,
        cutout: Probability,
        cutout_size: Probability,
        without: list[str],
    ):
        super().__init__(p=p, target=target, interval=interval, images=images)
        groups = {
            "blit": blit, "geometric": geometric, "color": color, "filter": filter, "noise": noise, "cutout": cutout,
        }  # fmt: skip
        if strangers := [each for each in without if each not in GATES]:
            raise ValueError(f"without={strangers[0]}: no such transformation; there are {', '.join(GATES)}")
        self.multipliers = {
            each: 0.0 if each in without else float(groups[group]) for group, names in GROUPS.items() for each in names
        }
        self.cutout_size = cutout_size
        self.constants: dict[tuple[int, torch.device, torch.dtype], tuple[Resampling, Tensor]] = {}

    def __call__(self, images: Tensor, randomness: Randomness, step: int) -> Tensor:
        """What the discriminator sees of images."""
        if images.ndim < 4:
            raise ValueError(f"augmentation=ada needs images (N, C, H, W), not points {tuple(images.shape)}")
        if self.uses("color") and images.shape[-3] not in (1, 3):
            raise ValueError(f"augmentation.ada.color: images have {images.shape[-3]} channels, not 1 or 3; color=0")
        leading = images.shape[:-3]
        with full_precision(images.device):
            draws = Draws(self, leading, randomness)
            dtype = torch.promote_types(images.dtype, torch.float32)
            result = images.flatten(0, -4).to(dtype)
            draws.to(dtype)
            if self.uses("blit", "geometric"):
                result = self.moved(result, draws)
            if self.uses("color"):
                result = recolored(result, draws)
            if self.uses("filter"):
                result = self.filtered(result, draws)
            if self.uses("noise"):
                noise = randomness.normal(*images.shape).flatten(0, -4).to(dtype)
                sd = draws.fired("noise", 0.1 * draws.normal["noise"].abs(), 0.0)
                result = result + sd[:, None, None, None] * noise
            if self.uses("cutout"):
                result = cut_out(result, draws, self.cutout_size)
        return result.to(images.dtype).reshape(images.shape)

    def uses(self, *groups: str) -> bool:
        """Whether some transformation of these groups can fire."""
        return any(self.multipliers[each] for group in groups for each in GROUPS[group])

    def of_side(self, size: int, like: Tensor) -> tuple[Resampling, Tensor]:
        """The constant matrices for a side of the images, made at the first call."""
        key = (size, like.device, like.dtype)
        if key not in self.constants:
            self.constants[key] = (resampling(*key), bands(*key))
        return self.constants[key]

    def moved(self, images: Tensor, draws: "Draws") -> Tensor:
        """Blits and geometry: one map of places."""
        height, width = images.shape[-2:]
        matrix, offset = inverse_map(draws, height, width)
        result = warp(images, matrix, offset, self.of_side(height, images)[0], self.of_side(width, images)[0])
        is_moved = draws.any_fires(*GROUPS["blit"], *GROUPS["geometric"])
        return torch.where(is_moved[:, None, None, None], result, images)

    def filtered(self, images: Tensor, draws: "Draws") -> Tensor:
        """Each band of frequencies times its gain, rows and columns alike."""
        gains = band_gains(draws)[:, None, :, None, None]  # (B, 1, bands, 1, 1)
        rows, columns = ((gains * self.of_side(size, images)[1]).sum(2) for size in images.shape[-2:])
        result = full_product(
            full_product(rows.expand(-1, images.shape[1], -1, -1), images),
            columns.mT.expand(-1, images.shape[1], -1, -1),
        )
        return torch.where(draws.any_fires(*GROUPS["filter"])[:, None, None, None], result, images)


class Draws:
    """What is drawn for each of B images: which transformations fire, and by how much."""

    def __init__(self, ada: Ada, leading: tuple[int, ...], randomness: Randomness):
        uniform = randomness.uniform(*leading, len(GATES) + len(UNIFORM)).flatten(0, -2)
        normal = randomness.normal(*leading, len(NORMAL)).flatten(0, -2)
        p = ada.p_of_samples(leading[:-1])
        self.p = p.expand(leading).flatten() if isinstance(p, Tensor) else p
        gates = dict(zip(GATES, uniform.unbind(-1), strict=False))
        self.fires = {each: gates[each] < self.chance(each, multiplier) for each, multiplier in ada.multipliers.items()}
        self.uniform = dict(zip(UNIFORM, uniform[:, len(GATES) :].unbind(-1), strict=True))
        self.normal = dict(zip(NORMAL, normal.unbind(-1), strict=True))

    def chance(self, transformation: str, multiplier: float) -> float | Tensor:
        """The probability that a transformation fires; of two rotations, that one of both does is m p."""
        chance = multiplier * self.p
        if not transformation.endswith("_rotation"):
            return chance
        return 1 - ((1 - chance).clamp(min=0) if isinstance(chance, Tensor) else max(0.0, 1 - chance)) ** 0.5

    def to(self, dtype: torch.dtype) -> None:
        """Numbers of the images' type."""
        for numbers in (self.uniform, self.normal):
            numbers |= {name: value.to(dtype) for name, value in numbers.items()}

    def either(self, name: str) -> Tensor:
        """-1 or 1, each in half of the images: (B,)."""
        uniform = self.uniform[name]
        return torch.where(uniform < 0.5, -torch.ones_like(uniform), 1.0)

    def fired(self, transformation: str, value: Tensor, neutral: float) -> Tensor:
        """The value where the transformation fires, and what changes nothing elsewhere: (B,)."""
        return torch.where(self.fires[transformation], value, neutral)

    def any_fires(self, *transformations: str) -> Tensor:
        """Where one of these fires: (B,)."""
        return torch.stack([self.fires[each] for each in transformations]).any(0)


# --- places -----------------------------------------------------------------------------------------------------------


def inverse_map(draws: Draws, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where each pixel comes from: matrix (B, 2, 2) and offset (B, 2), as `warp` takes them.

    What lies at c goes to K (B c + s) + t: B flips and turns, s is the integer shift, K scales and turns, t is the
    fractional shift. So what is at o comes from B⁻¹ (K⁻¹ (o - t) - s).
    """
    uniform, normal = draws.uniform, draws.normal
    size = (width, height)

    def shift(kind: str, fraction: Callable[[str], Tensor]) -> Tensor:
        return torch.stack(
            [draws.fired(f"{kind}_shift", fraction(axis) * side, 0.0) for axis, side in zip("xy", size, strict=True)],
            -1,
        )

    flip = draws.fired("x_flip", draws.either("x_flip"), 1.0)
    turn = draws.fired("rotate90", (4 * uniform["rotate90"]).floor() * (math.pi / 2), 0.0)
    blit = full_product(diagonal(flip, torch.ones_like(flip)), rotation(-turn))
    scale = draws.fired("scale", 2 ** (-0.2 * normal["scale"]), 1.0)
    across = draws.fired("anisotropic_scale", 2 ** (-0.2 * normal["anisotropic_scale"]), 1.0)
    before, after = (
        rotation(-draws.fired(each, (2 * uniform[each] - 1) * math.pi, 0.0))
        for each in ("pre_rotation", "post_rotation")
    )
    geometric = full_product(full_product(before, diagonal(scale * across, scale / across)), after)
    integer = shift("integer", lambda axis: (2 * uniform[f"integer_{axis}"] - 1) / 8).round()
    fractional = shift("fractional", lambda axis: normal[f"fractional_{axis}"] / 8)
    moved_back = full_product(geometric, fractional.unsqueeze(-1)) + integer.unsqueeze(-1)
    return full_product(blit, geometric), -full_product(blit, moved_back).squeeze(-1)


def rotation(angle: Tensor) -> Tensor:
    """The matrices that turn by angles (B,) from the horizontal towards the vertical axis: (B, 2, 2)."""
    cosine, sine = angle.cos(), angle.sin()
    return torch.stack([cosine, -sine, sine, cosine], -1).unflatten(-1, (2, 2))


def diagonal(first: Tensor, second: Tensor) -> Tensor:
    """(B, 2, 2), of its diagonal."""
    return torch.diag_embed(torch.stack([first, second], -1))


# --- values -----------------------------------------------------------------------------------------------------------


def recolored(images: Tensor, draws: Draws) -> Tensor:
    """One map of the channels, which is simple in other coordinates: their mean m, and the rest d = x - m.

    m becomes c f (m + b), d becomes c s R d: brightness b, contrast c, luma flip f, saturation s, and the hue's turn R
    around the grey axis.
    """
    uniform, normal = draws.uniform, draws.normal
    brightness = draws.fired("brightness", 0.2 * normal["brightness"], 0.0)
    contrast = draws.fired("contrast", 2 ** (0.5 * normal["contrast"]), 1.0)
    flip = draws.fired("luma_flip", draws.either("luma_flip"), 1.0)
    hue = draws.fired("hue", (2 * uniform["hue"] - 1) * math.pi, 0.0)
    saturation = draws.fired("saturation", 2 ** normal["saturation"], 1.0)
    brightness, luma, along, across = (
        each[:, None, None, None]
        for each in (brightness, contrast * flip, contrast * saturation * hue.cos(), contrast * saturation * hue.sin())
    )
    if images.shape[1] == 1:
        result = luma * (images + brightness)
    else:
        mean = images.mean(1, keepdim=True)
        rest = images - mean
        turned = (rest.roll(1, 1) - rest.roll(-1, 1)) / math.sqrt(3)  # the product of the grey axis and d
        result = luma * (mean + brightness) + along * rest + across * turned
    return torch.where(draws.any_fires(*GROUPS["color"])[:, None, None, None], result, images)


def cut_out(images: Tensor, draws: Draws, fraction: float) -> Tensor:
    """Zeros in a rectangle of a fraction of each side."""

    def is_inside(axis: str, size: int) -> Tensor:
        place = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size
        return (place - draws.uniform[f"cutout_{axis}"].unsqueeze(-1)).abs() < fraction / 2

    rows, columns = is_inside("y", images.shape[-2]), is_inside("x", images.shape[-1])
    is_cut = draws.fires["cutout"][:, None, None] & rows.unsqueeze(-1) & columns.unsqueeze(-2)
    return torch.where(is_cut.unsqueeze(1), 0.0, images)


def band_gains(draws: Draws) -> Tensor:
    """(B, bands): after each band's gain all are scaled, so that natural images keep their power."""
    gains = None
    for band, each in enumerate(GROUPS["filter"]):
        own = draws.fired(each, 2 ** draws.normal[each], 1.0)
        power = POWER[band] * own.square() + (1 - POWER[band])
        factors = torch.stack([own if other == band else torch.ones_like(own) for other in range(BANDS)], -1)
        factors = factors / power.sqrt().unsqueeze(-1)
        gains = factors if gains is None else gains * factors
    assert gains is not None, "there are bands"
    return gains


def bands(size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What takes each band out of a side of an image, reflected beyond its border: (bands, size, size); their sum is 1.

    At each octave the wavelet's low-pass filter and its mirror image keep what is below, and the upper band is the
    rest; the lower goes on to the next octave, where the filter's taps stand twice as far apart.
    """
    wavelet = torch.tensor(SYM2, dtype=torch.float64)
    low_pass = torch.zeros(2 * len(SYM2) - 1, dtype=torch.float64)
    for tap, value in enumerate(SYM2):
        low_pass[tap : tap + len(SYM2)] += value * wavelet.flip(0) / 2
    one = torch.eye(size, dtype=torch.float64)
    below, found = one, []
    for octave in range(BANDS - 1):
        reach = (len(SYM2) - 1) * 2**octave
        lower = torch.zeros_like(one)
        for tap, value in zip(range(-reach, reach + 1, 2**octave), low_pass, strict=True):
            from_places = reflected_(torch.arange(size, dtype=torch.float64) + tap, size - 1)
            lower += value * (from_places.unsqueeze(-1) == torch.arange(size)).double()
        found.append((one - lower) @ below)
        below = lower @ below
    return torch.stack([below, *found[::-1]]).to(device, dtype)
