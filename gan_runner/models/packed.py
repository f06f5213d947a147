"""Packing: a discriminator that judges several samples at once."""

from collections.abc import Callable

from torch import Tensor, nn


class Packed(nn.Module):
    """Samples (N, *sample) -> packs of m = `pack`, one after another -> D(pack) -> logits (N,), one for each pack.

    The m samples of a pack lie side by side, images (C, H, W) in their channels as (m C, H, W) and points (D,) as
    (m D,): a generator that repeats itself is seen at once. `discriminator(shape)` makes the network of that shape.
    A pack's logit stands m times, for each of its samples, so that means over samples are means over packs.

    Raises:
        ValueError: `pack` below 1; a number of samples that is no multiple of it.

    Source: Lin et al. 2018 (PacGAN), arXiv:1712.04086.
    """

    takes_leading_axes = True

    def __init__(self, discriminator: Callable[[tuple[int, ...]], nn.Module], shape: tuple[int, ...], pack: int):
        super().__init__()
        if pack < 1:
            raise ValueError(f"model.discriminator.pack={pack}: must be 1 or more")
        self.pack, self.axis = pack, -len(shape)  # the first axis of a sample
        self.packed = discriminator((pack * shape[0], *shape[1:]))

    def features(self, x: Tensor) -> Tensor:
        """The features of each sample's pack: (N, F)."""
        return self.packed.features(self.together(x)).repeat_interleave(self.pack, dim=-2)  # type: ignore[operator]

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (N,)."""
        return self.packed(self.together(x), labels).repeat_interleave(self.pack, dim=-1)

    def together(self, x: Tensor) -> Tensor:
        """(..., N, C, H, W) -> (..., N / m, m C, H, W), and likewise points."""
        count = x.shape[self.axis - 1]
        if count % self.pack:
            raise ValueError(f"model.discriminator.pack={self.pack}: {count} samples are no whole number of packs")
        packs = x.unflatten(self.axis - 1, (count // self.pack, self.pack))
        return packs.flatten(self.axis - 1, self.axis)
