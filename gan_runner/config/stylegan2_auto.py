"""What StyleGAN2-ADA's configuration "auto" makes of the size of the images, for `experiment=stylegan2_ada_auto`."""

from collections.abc import Sequence

IMAGES = 25_000_000  # real images that a training sees


def stylegan2_auto(key: str, image_size: int | Sequence[int] | None, batch_size: int | None = None) -> int | float:
    """The value of a key of the preset, for images whose longer side has R pixels, in batches of B.

    batch_size          min(4096 // R, 32), at least 1: 32 up to 128 pixels, 16 at 256, 4 at 1024; on one GPU
    minibatch_group     min(B, 4)
    full_width_to       64 from 512 pixels on, otherwise 32: half of the channels where the maps are large
    lr                  0.002 from 1024 pixels on, otherwise 0.0025
    gamma               0.0002 R² / B, the weight of R1
    ema_half_life       10,000 B / 32 images
    steps               25 million images / B

    The formulas are those of the authors' code for one GPU (NVlabs/stylegan2-ada-pytorch, train.py). It calls gamma a
    first guess, which is worth a search by factors of 2 to 4 around it.

    In a config: ${stylegan2_auto:gamma,${dataset.image_size},${batch_size}}. Raises ValueError for images of no size
    and for another key.

    Source: Karras et al. 2020, arXiv:2006.06676.
    """
    sides = [image_size] if isinstance(image_size, int) else [*(image_size or ())]
    if not sides:
        raise ValueError("dataset.image_size: experiment=stylegan2_ada_auto wants a number of pixels, such as 256")
    pixels = max(sides)
    batch = batch_size or max(1, min(4096 // pixels, 32))
    values: dict[str, int | float] = {
        "batch_size": batch,
        "minibatch_group": min(batch, 4),
        "full_width_to": 64 if pixels >= 512 else 32,
        "lr": 0.002 if pixels >= 1024 else 0.0025,
        "gamma": 0.0002 * pixels**2 / batch,
        "ema_half_life": 10_000 * batch / 32,
        "steps": IMAGES // batch,
    }
    if key not in values:
        raise ValueError(f"stylegan2_auto: {key} is none of {', '.join(values)}")
    return values[key]
