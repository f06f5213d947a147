"""Penalties: what a regularizer adds to a player's loss, as a function of its view.

A penalty returns one value per sample, (..., N), or, when it looks at weights, one per run, (..., 1). Its own weight
and schedule are the term's business. Write a function when it keeps nothing between updates, an `nn.Module` with
buffers when it does.

Gradient penalties factor into *where* the slope of the discriminator is taken and what *shape* it is pushed to. The
gradient is taken at the sample as it is before augmentation; norms are over one sample, never over the batch.
"""

from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import torch
from annotated_types import Gt, Interval
from torch import Tensor, nn

from gan_runner.parameters import kernels, per_run, run_axes
from gan_runner.views import AdversarialView

View = AdversarialView
Penalty = TypeVar("Penalty", bound=Callable[..., Tensor])


def of_each_sample(penalty: Penalty) -> Penalty:
    """Marks a penalty on the gradient of each sample's own logit.

    BatchNorm in the discriminator would make that logit depend on the other samples (arXiv:1704.00028, section 4), so
    the two are refused together.
    """
    penalty.of_each_sample = True  # type: ignore[attr-defined]
    return penalty


# --- where ------------------------------------------------------------------------------------------------------------


def squared_slope(view: View, samples: Tensor) -> Tensor:
    """|∇D|² at the samples, differentiable again: (..., N, *sample) -> (..., N)."""
    if samples is view.real:
        logits = view.real_logits  # the forward pass that the loss has made, or will
    elif samples is view.fake:
        logits = view.fake_logits
    else:
        samples = samples.detach().requires_grad_()
        logits = view.discriminate(samples)
    (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    return gradient.flatten(logits.ndim).square().sum(-1)


def slope(view: View, samples: Tensor) -> Tensor:
    """|∇D| at the samples, (..., N); the root is kept away from 0, where it has no derivative."""
    return squared_slope(view, samples).add(1e-12).sqrt()


def between(view: View) -> Tensor:
    """A uniform point on the line from each generated sample to a real one: (..., N, *sample)."""
    position = view.randomness.uniform(*batch_shape(view))
    return torch.lerp(view.fake, view.real, like_samples(position, view.real))


def around_real(view: View, scale: float) -> Tensor:
    """A uniform point on the line from each real sample to a noisy copy of it: (..., N, *sample).

    The noise is uniform in [0, `scale` x standard deviation of the batch], per entry.
    """
    deviation = view.real.flatten(len(batch_shape(view)) - 1).std(-1)  # (...,)
    noise = view.randomness.uniform(*view.real.shape)
    position = view.randomness.uniform(*batch_shape(view))
    return view.real + scale * like_samples(deviation.unsqueeze(-1) * position, view.real) * noise


def batch_shape(view: View) -> torch.Size:
    """(..., N): the shape of the logits, known without computing them."""
    return view.real.shape[: run_axes(view.learner) + 1]


def like_samples(values: Tensor, samples: Tensor) -> Tensor:
    """Values per sample, (..., N), with trailing axes that broadcast over a sample's own."""
    return values.reshape(*values.shape, *[1] * (samples.ndim - values.ndim))


# --- shape ------------------------------------------------------------------------------------------------------------


@of_each_sample
def gradient_penalty(view: View, *, target: Annotated[float, Gt(0)]) -> Tensor:
    """(|∇D| - target)² between real and generated samples. Gulrajani et al. 2017, arXiv:1704.00028."""
    return (slope(view, between(view)) - target).square()


@of_each_sample
def gradient_penalty_one_sided(view: View, *, target: Annotated[float, Gt(0)]) -> Tensor:
    """max(0, |∇D| - target)² between real and generated samples. Gulrajani et al. 2017, arXiv:1704.00028."""
    return (slope(view, between(view)) - target).relu().square()


@of_each_sample
def zero_centered_gradient_penalty(view: View) -> Tensor:
    """1/2 |∇D|² between real and generated samples. Thanh-Tung et al. 2019, arXiv:1902.03984."""
    return squared_slope(view, between(view)) / 2


@of_each_sample
def r1(view: View) -> Tensor:
    """1/2 |∇D|² at the real samples. Mescheder et al. 2018, arXiv:1801.04406."""
    return squared_slope(view, view.real) / 2


@of_each_sample
def r2(view: View) -> Tensor:
    """1/2 |∇D|² at the generated samples. Mescheder et al. 2018, arXiv:1801.04406."""
    return squared_slope(view, view.fake) / 2


@of_each_sample
def dragan(view: View, *, target: Annotated[float, Gt(0)], scale: Annotated[float, Gt(0)]) -> Tensor:
    """(|∇D| - target)² around the real samples. Kodali et al. 2017, arXiv:1705.07215.

    The perturbation is that of the authors' code: a uniform point on the line from the sample to itself plus noise,
    which is uniform in [0, scale x standard deviation of the batch] per entry.
    """
    return (slope(view, around_real(view, scale)) - target).square()


# --- on the weights ---------------------------------------------------------------------------------------------------


def l1(view: View, *, biases: bool, reduction: Literal["sum", "mean"]) -> Tensor:
    """Sum or mean of |w| over the learner's weights, (..., 1)."""
    return over_weights(view.learner, torch.abs, biases, reduction)


def l2(view: View, *, biases: bool, reduction: Literal["sum", "mean"]) -> Tensor:
    """Sum or mean of w² over the learner's weights, (..., 1)."""
    return over_weights(view.learner, torch.square, biases, reduction)


def over_weights(
    network: nn.Module, of: Callable[[Tensor], Tensor], biases: bool, reduction: Literal["sum", "mean"]
) -> Tensor:
    """The sum or mean of a function of each weight, (..., 1)."""
    weights = [per_run(weight, network) for weight in (network.parameters() if biases else kernels(network))]
    total = torch.stack([of(weight).sum(-1) for weight in weights]).sum(0)
    return (total if reduction == "sum" else total / sum(weight.shape[-1] for weight in weights)).unsqueeze(-1)


def orthogonal(view: View) -> Tensor:
    """Σ |W Wᵀ off its diagonal|² over the learner's weights, each a matrix (outputs, inputs); (..., 1).

    Brock et al. 2018, arXiv:1809.11096, section 3.1 (there on WᵀW, whose columns are the filters). Kernels of
    transposed convolutions are (inputs, outputs, ...): theirs is taken of that matrix.
    """
    axes = run_axes(view.learner)
    total = []
    for kernel in kernels(view.learner):
        matrix = kernel.flatten(axes + 1)
        with torch.autocast(kernel.device.type, enabled=False):  # near orthogonality, bfloat16 sees only its own error
            gram = matrix @ matrix.mT
        off_diagonal = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
        total.append(off_diagonal.square().sum((-2, -1)))
    return torch.stack(total).sum(0).unsqueeze(-1)


# --- with a memory ----------------------------------------------------------------------------------------------------


class LeCam(nn.Module):
    """(D(x) - α_fake)² + (D(G(z)) - α_real)², α the running means of the logits: (..., N).

    It bounds how far the discriminator pulls the two apart when data is scarce. The authors' code puts a ReLU around
    both differences; this is the paper's formula, which has none. Tseng et al. 2021, arXiv:2104.03310.
    """

    real_mean: Tensor
    fake_mean: Tensor
    updates: Tensor

    def __init__(self, *, decay: Annotated[float, Interval(ge=0, lt=1)]):
        super().__init__()
        self.decay = decay
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, view: View) -> Tensor:
        """(..., N)."""
        real, fake = view.real_logits, view.fake_logits  # here: computed under no_grad, they would carry no gradient
        with torch.no_grad():
            rate = torch.where(self.updates == 0, 1.0, 1 - self.decay)  # the first value is taken as it is
            self.real_mean = torch.lerp(self.real_mean, real.mean(-1), rate)
            self.fake_mean = torch.lerp(self.fake_mean, fake.mean(-1), rate)
            self.updates = self.updates + 1
        return (real - self.fake_mean.unsqueeze(-1)).square() + (fake - self.real_mean.unsqueeze(-1)).square()
