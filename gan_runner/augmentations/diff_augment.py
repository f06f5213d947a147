"""DiffAugment: color, translation and cutout, of all that the discriminator sees; and a consistency penalty's own."""

import torch
from torch import Tensor

from gan_runner.augmentations.draws import Randomness
from gan_runner.torch_utils.bounds import Probability


def diffaugment(
    images: Tensor,
    randomness: Randomness,
    *,
    color: bool,
    translation: Probability,
    cutout: Probability,
    p: Probability | None = None,  # or a tensor, with as many axes as the images or none
) -> Tensor:
    """Differentiable augmentation (DiffAugment): color, then translation, then cutout.

    - color: brightness x + U[-0.5, 0.5), then saturation, the distance to the pixel's mean over the channels times
      U[0, 2), then contrast, the distance to the sample's mean times U[0.5, 1.5). Saturation leaves grey images
      as they are.
    - translation: a shift by whole pixels, uniform up to the fraction `translation` of H and of W, padded with zeros.
    - cutout: zeros in a rectangle of the fraction `cutout` of H and of W. Its centre is uniform over the image, so that
      part of it may lie outside.

    Each sample is augmented with probability p, and stays as it is otherwise. With p = None all are, as in the paper,
    and nothing is drawn for it.

    Fractions of H and W are rounded to whole pixels; at 0 an operation is off. Zero is mid-grey for images in [-1, 1];
    colors may leave that range, as in the paper's code.

    Shapes: images and result (..., N, C, H, W).
    Raises: ValueError for points, (N, D).
    Source: Zhao, Liu, Lin, Zhu and Han, 2020, arXiv:2006.10738.
    """
    if images.ndim < 4:
        raise ValueError(f"augmentation=diffaugment needs images (N, C, H, W), not points {tuple(images.shape)}")
    original = images
    if color:
        images = _color(images, randomness)
    if translation:
        images = _translate(images, randomness, translation)
    if cutout:
        images = _cut_out(images, randomness, cutout)
    if p is None:
        return images
    return torch.where(randomness.uniform(*images.shape[:-3], 1, 1, 1) < p, images, original)


def flip_and_translate(images: Tensor, randomness: Randomness, *, flip: bool, translation: Probability) -> Tensor:
    """Mirrored left to right with probability 1/2, then shifted as in `diffaugment`.

    Shapes: images and result (..., N, C, H, W).
    """
    if flip:
        is_flipped = randomness.uniform(*images.shape[:-3], 1, 1, 1) < 0.5
        images = torch.where(is_flipped, images.flip(-1), images)
    return _translate(images, randomness, translation) if translation else images


def _color(images: Tensor, randomness: Randomness) -> Tensor:
    def draw() -> Tensor:
        return randomness.uniform(*images.shape[:-3], 1, 1, 1).to(images.dtype)

    images = images + (draw() - 0.5)
    grey = images.mean(-3, keepdim=True)
    images = grey + (images - grey) * (draw() * 2)
    mean = images.mean((-3, -2, -1), keepdim=True)
    return mean + (images - mean) * (draw() + 0.5)


def _translate(images: Tensor, randomness: Randomness, fraction: float) -> Tensor:
    height, width = images.shape[-2:]
    source_row, row_inside = _shifted(images, height, randomness, fraction)
    source_column, column_inside = _shifted(images, width, randomness, fraction)
    source = source_row[..., :, None] * width + source_column[..., None, :]
    inside = row_inside[..., :, None] & column_inside[..., None, :]
    index = source.flatten(-2).unsqueeze(-2).expand(*images.shape[:-2], -1)
    moved = images.flatten(-2).gather(-1, index).view(images.shape)
    return torch.where(inside.unsqueeze(-3), moved, 0.0)


def _shifted(images: Tensor, size: int, randomness: Randomness, fraction: float) -> tuple[Tensor, Tensor]:
    """Which pixel comes to each place of an axis, and whether it lies inside the image: (..., N, size) both.

    The index runs around the border, so that it is a permutation: the gather's gradient then adds nothing twice, and is
    the same on every run on a GPU.
    """
    largest = _pixels(size, fraction)
    shift = _integers(images, 2 * largest + 1, randomness) - largest
    source = torch.arange(size, device=images.device) - shift
    return source % size, (source >= 0) & (source < size)


def _cut_out(images: Tensor, randomness: Randomness, fraction: float) -> Tensor:
    height, width = images.shape[-2:]
    row_cut = _hole(images, height, randomness, fraction)
    column_cut = _hole(images, width, randomness, fraction)
    cut = row_cut[..., :, None] & column_cut[..., None, :]
    return torch.where(cut.unsqueeze(-3), 0.0, images)


def _hole(images: Tensor, size: int, randomness: Randomness, fraction: float) -> Tensor:
    """Which places of an axis are cut: (..., N, size). An even hole may centre on either border: size + 1 places."""
    hole = _pixels(size, fraction)
    start = _integers(images, size + 1 - hole % 2, randomness) - hole // 2
    place = torch.arange(size, device=images.device)
    return (place >= start) & (place < start + hole)


def _pixels(size: int, fraction: float) -> int:
    """A fraction of a size in whole pixels, halves rounded up as in the paper's code."""
    return int(size * fraction + 0.5)


def _integers(images: Tensor, count: int, randomness: Randomness) -> Tensor:
    """One of 0, ..., count - 1 for each sample: (..., N, 1)."""
    return (randomness.uniform(*images.shape[:-3], 1) * count).long()
