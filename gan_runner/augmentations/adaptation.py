"""How often to augment: a probability that follows how far the discriminator overfits."""

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from annotated_types import Interval
from torch import Tensor, nn

from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.bounds import PositiveInt, Probability


class Adaptation(nn.Module):
    """p <- p + (images seen since the last change / `images`) sign(r - target), within [0, 1].

    r is the mean sign of the discriminator's logits of real samples, as it was shown them, over `interval` updates: 0
    where it is undecided, 1 where it is sure of all of them, which on unseen samples it would not be. So p rises as
    long as r is above `target`, and would take `images` real samples from 0 to 1.

    p is a buffer: it lies on the device, is saved, and a resumed run goes on with it. No value is read by the host. The
    authors' code has no upper bound of p.

    Karras et al. 2020, arXiv:2006.06676, section 3.1: their r_t.
    """

    p: Tensor  # (...,), one for each run of a sweep, if any
    mean_sign: Tensor  # (...,), r as it was when p moved last
    signs: Tensor  # (...,), the sum of the means of the updates since then
    updates: Tensor  # (...,), how many these are

    def __init__(self, *, p: float, target: float, interval: int, images: int):
        super().__init__()
        self.target, self.interval, self.images = target, interval, images
        self.register_buffer("p", torch.tensor(float(p)))
        for name in ("mean_sign", "signs", "updates"):
            self.register_buffer(name, torch.zeros(()))

    @torch.no_grad()
    def update(self, real_logits: Tensor) -> None:
        """Take the logits of one update's real samples, (..., N), into account; p moves at every `interval`-th."""
        signs, updates = self.signs + ranks.batch_mean(real_logits.sign()), self.updates + 1
        mean_sign, is_due = signs / self.interval, updates >= self.interval
        change = self.interval * real_logits.shape[-1] * ranks.processes() / self.images
        moved = (self.p + change * (mean_sign - self.target).sign()).clamp(0, 1)
        # In place: a CUDA graph finds them where they lie.
        self.p.copy_(torch.where(is_due, moved, self.p))
        self.mean_sign.copy_(torch.where(is_due, mean_sign, self.mean_sign))
        self.signs.copy_(torch.where(is_due, 0.0, signs))
        self.updates.copy_(torch.where(is_due, 0.0, updates))

    def logged(self) -> dict[str, Tensor]:
        """What the log shows: (...,) each."""
        return {"p": self.p.clone(), "mean_sign": self.mean_sign.clone()}


class Adaptive:
    """What has a probability `p`: a number, which a schedule may multiply from outside; or, with a `target`, adaptive.

    Raises: ValueError where an adaptive p is set from outside.
    """

    capturable = True  # in a CUDA graph: what changes from step to step lies on the device

    def __init__(
        self,
        *,
        p: Probability,
        target: Annotated[float, Interval(ge=-1, le=1)] | None,
        interval: PositiveInt,
        images: PositiveInt,
    ):
        self.name = type(self).__name__.lower()  # by which the log and checkpoints call it, unless a config has another
        self.number: float | Tensor = p
        self.adaptation = None if target is None else Adaptation(p=p, target=target, interval=interval, images=images)

    @property
    def gathers_batch(self) -> bool:
        """Whether it looks at the whole batch, which it gathers from all processes of a run (see `ranks`)."""
        return self.adaptation is not None

    @property
    def p(self) -> float | Tensor:
        """The probability in force: a number, or a tensor () or (M,), one for each run of a sweep."""
        return self.number if self.adaptation is None else self.adaptation.p

    @p.setter
    def p(self, value: float | Tensor) -> None:
        if self.adaptation is not None:
            raise ValueError(
                f"augmentation.{self.name}.target: p is adaptive and takes no schedule; target=null fixes it"
            )
        self.number = value

    def p_of_samples(self, leading: tuple[int, ...]) -> float | Tensor:
        """p as what goes with one number for each sample, (*leading, N)."""
        p = self.p
        return p.reshape(*leading, 1) if isinstance(p, Tensor) and p.ndim else p


def adaptations(augmentations: Iterable[Any]) -> dict[str, Adaptation]:
    """Name -> what moves the probability of an augmentation, of those in which something does."""
    adaptive = (each for each in augmentations if isinstance(each, Adaptive))
    return {each.name: each.adaptation for each in adaptive if each.adaptation is not None}
