"""Penalties: what a regularizer adds to a player's loss, as a function of its view.

A penalty returns one value per sample, (..., N), or, when it looks at weights, one per run, (..., 1). Its own weight
and schedule are the term's business. Write a function when it keeps nothing between updates, an `nn.Module` with
buffers when it does.

Gradient penalties factor into *where* the slope of the discriminator is taken and what *shape* it is pushed to. The
gradient is taken at the sample as it is before augmentation; norms are over one sample, never over the batch.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal, TypeVar

import torch
from annotated_types import Interval
from torch import Tensor, nn

from gan_runner.augmentations.diff_augment import flip_and_translate
from gan_runner.games.view import AdversarialView, AutoencoderView
from gan_runner.torch_utils.bounds import NonNegativeFloat, PositiveFloat, PositiveInt, Probability
from gan_runner.torch_utils.double_backward import Layers, gradient_at
from gan_runner.torch_utils.parameters import as_matrix, kernels, per_run
from gan_runner.torch_utils.precision import full_precision, full_product
from gan_runner.torch_utils.ranks import all_gather, batch_mean, batch_sd, gathers_batch, strided

View = AdversarialView
Penalty = TypeVar("Penalty", bound=Callable[..., Tensor])


def of_each_sample(penalty: Penalty) -> Penalty:
    """Marks a penalty on the gradient of each sample's own logit.

    BatchNorm in the discriminator would make that logit depend on the other samples (arXiv:1704.00028, section 4), so
    the two are refused together.
    """
    penalty.of_each_sample = True  # type: ignore[attr-defined]
    return penalty


def at_samples(penalty: Penalty) -> Penalty:
    """Marks a penalty that differentiates the logits of the real, or of the generated, samples that the loss has."""
    penalty.at_samples = True  # type: ignore[attr-defined]
    return penalty


def only_on(*players: str) -> Callable[[Penalty], Penalty]:
    """Marks a penalty that says something to these players alone: any other would get no gradient, or a wrong one."""

    def mark(penalty: Penalty) -> Penalty:
        penalty.only_on = players  # type: ignore[attr-defined]
        return penalty

    return mark


def fitting_weight(*, images: float, points: float) -> Callable[[Penalty], Penalty]:
    """Marks a penalty whose weight, where it is null, depends on what the samples are."""

    def mark(penalty: Penalty) -> Penalty:
        penalty.fitting_weight = {"images": images, "points": points}  # type: ignore[attr-defined]
        return penalty

    return mark


def of_kernels(penalty: Penalty) -> Penalty:
    """Marks a penalty on weight matrices and kernels: a network without any has nothing for it."""
    penalty.of_kernels = True  # type: ignore[attr-defined]
    return penalty


# --- where ------------------------------------------------------------------------------------------------------------


def squared_slope(view: View, samples: Tensor) -> Tensor:
    """|∇D|² at the samples, differentiable again: (..., N, *sample) -> (..., N).

    A discriminator that judges packs has a gradient for each pack, of all its samples together.
    """
    if samples is view.real or samples is view.fake:  # of the forward pass that the loss has made, or will
        logits = view.real_logits if samples is view.real else view.fake_logits
        (gradient,) = torch.autograd.grad(logits.sum(), samples, create_graph=True)
    else:
        gradient = gradient_at(samples, view.discriminate)
    return over_packs(view, gradient.flatten(len(view.batch_shape)).square().sum(-1))


def over_packs(view: View, squares: Tensor) -> Tensor:
    """Per sample the |∇|² of its pack, of squares (..., N) of the gradient of the sum of all logits: (..., N).

    A pack's logit is there m times, once for each of its samples, and so is its gradient.
    """
    if view.pack == 1:
        return squares
    packs = squares.unflatten(-1, (-1, view.pack)).sum(-1) / view.pack**2
    return packs.repeat_interleave(view.pack, dim=-1)


def slope(view: View, samples: Tensor) -> Tensor:
    """|∇D| at the samples, (..., N); the root is kept away from 0, where it has no derivative."""
    return squared_slope(view, samples).add(1e-12).sqrt()


def between(view: View) -> Tensor:
    """A uniform point on the line from each generated sample to a real one, or each pack of them: (..., N, *sample)."""
    position = uniform_positions(view)
    return torch.lerp(view.fake, view.real, like_samples(position, view.real))


def uniform_positions(view: View) -> Tensor:
    """U[0, 1) for each sample, the same for all of a pack: (..., N)."""
    *runs, count = view.batch_shape
    with strided(view.pack):
        positions = view.randomness.uniform(*runs, count // view.pack)
    return positions if view.pack == 1 else positions.repeat_interleave(view.pack, dim=-1)


def around_real(view: View, scale: float) -> Tensor:
    """A uniform point on the line from each real sample to a noisy copy of it: (..., N, *sample).

    The noise is uniform in [0, `scale` x standard deviation of the batch], per entry.
    """
    deviation = batch_sd(view.real.flatten(len(view.batch_shape) - 1))  # (...,)
    noise = view.randomness.uniform(*view.real.shape)
    position = uniform_positions(view)
    return view.real + scale * like_samples(deviation.unsqueeze(-1) * position, view.real) * noise


def like_samples(values: Tensor, samples: Tensor) -> Tensor:
    """Values per sample, (..., N), with trailing axes that broadcast over a sample's own."""
    return values.reshape(*values.shape, *[1] * (samples.ndim - values.ndim))


# --- shape ------------------------------------------------------------------------------------------------------------


@of_each_sample
@fitting_weight(images=10.0, points=0.1)
def gradient_penalty(view: View, *, target: PositiveFloat) -> Tensor:
    """(|∇D| - target)² between real and generated samples. Gulrajani et al. 2017, arXiv:1704.00028.

    Its weight is 10 in the paper, and 0.1 for points in the authors' code (improved_wgan_training, gan_toy.py).
    """
    return (slope(view, between(view)) - target).square()


@of_each_sample
def gradient_penalty_one_sided(view: View, *, target: PositiveFloat) -> Tensor:
    """max(0, |∇D| - target)² between real and generated samples. Gulrajani et al. 2017, arXiv:1704.00028."""
    return (slope(view, between(view)) - target).relu().square()


@of_each_sample
def zero_centered_gradient_penalty(view: View) -> Tensor:
    """1/2 |∇D|² between real and generated samples. Thanh-Tung et al. 2019, arXiv:1902.03984."""
    return squared_slope(view, between(view)) / 2


@of_each_sample
def wasserstein_divergence(view: View, *, power: PositiveFloat) -> Tensor:
    """|∇D|^power between real and generated samples: with the Wasserstein loss the dual of a divergence.

    It asks for no Lipschitz constant, as the target 1 of a gradient penalty does.
    Wu et al. 2018 (WGAN-div), arXiv:1712.01026, equation 9; power is the paper's p and the weight its k.
    """
    return slope(view, between(view)).pow(power)


@of_each_sample
@at_samples
def r1(view: View) -> Tensor:
    """1/2 |∇D|² at the real samples. Mescheder et al. 2018, arXiv:1801.04406."""
    return squared_slope(view, view.real) / 2


@of_each_sample
@at_samples
def r2(view: View) -> Tensor:
    """1/2 |∇D|² at the generated samples. Mescheder et al. 2018, arXiv:1801.04406."""
    return squared_slope(view, view.fake) / 2


@of_each_sample
@gathers_batch
def dragan(view: View, *, target: PositiveFloat, scale: PositiveFloat) -> Tensor:
    """(|∇D| - target)² around the real samples. Kodali et al. 2017, arXiv:1705.07215.

    The perturbation is that of the authors' code: a uniform point on the line from the sample to itself plus noise,
    which is uniform in [0, scale x standard deviation of the batch] per entry.
    """
    return (slope(view, around_real(view, scale)) - target).square()


# --- under small changes of the samples -------------------------------------------------------------------------------


@only_on("discriminator")
@at_samples
def adversarial_perturbation(view: View, *, epsilon: PositiveFloat) -> Tensor:
    """The discriminator's loss at x - ε sign(∇D(x)) and G(z) + ε sign(∇D(G(z))): (..., N).

    Each entry of a sample moves by ε, in the units of the data, to where the logit is worst for the discriminator; the
    move itself is not differentiated. It costs a backward and a forward pass of both batches.
    Goodfellow et al. 2014, arXiv:1412.6572, section 5; with weight 1 the two losses count alike, as there.
    """

    def moved(samples: Tensor, logits: Tensor, distance: float) -> Tensor:
        (gradient,) = torch.autograd.grad(logits.sum(), samples, retain_graph=True)  # the loss has the same graph
        return (samples + distance * gradient.sign()).detach()

    real, fake = moved(view.real, view.real_logits, -epsilon), moved(view.fake, view.fake_logits, epsilon)
    return view.loss(replace(view, real=real, fake=fake))


@only_on("discriminator")
def consistency(view: View, *, flip: bool, translation: Probability) -> Tensor:
    """(D(x) - D(T(x)))² at the real samples, T a random flip and translation: (..., N).

    `flip` mirrors an image left to right with probability 1/2; `translation` shifts it by whole pixels, uniform up to
    this fraction of its height and width, padded with zeros.
    Raises: ValueError for points.
    Zhang et al. 2019, arXiv:1910.12027.
    """
    transform = random_transform(view, "consistency", flip, translation)
    return (view.real_logits - view.discriminate(transform(view.real))).square()


@only_on("discriminator")
def balanced_consistency(
    view: View, *, real: NonNegativeFloat, fake: NonNegativeFloat, flip: bool, translation: Probability
) -> Tensor:
    """real (D(x) - D(T(x)))² + fake (D(G(z)) - D(T(G(z))))², T as in `consistency`: (..., N).

    `real` and `fake` are relative: the term's weight multiplies both.
    Raises: ValueError for points.
    Zhao et al. 2020, arXiv:2002.04724, section 3.1.
    """
    return of_both(view, random_transform(view, "balanced_consistency", flip, translation), real, fake)


def of_both(view: View, transform: Callable[[Tensor], Tensor], real: float, fake: float) -> Tensor:
    """real (D(x) - D(T(x)))² + fake (D(G(z)) - D(T(G(z))))²: (..., N)."""
    on_real = (view.real_logits - view.discriminate(transform(view.real))).square()
    on_fake = (view.fake_logits - view.discriminate(transform(view.fake))).square()
    return real * on_real + fake * on_fake


@only_on("discriminator", "generator")
def latent_consistency(
    view: View, *, discriminator: NonNegativeFloat, generator: NonNegativeFloat, scale: PositiveFloat
) -> Tensor:
    """Latents that lie near each other: alike to the discriminator, and different images of the generator, (..., N).

        on the discriminator   `discriminator` (D(G(z)) - D(G(z + ε)))²
        on the generator       -`generator` mean (G(z) - G(z + ε))², over the entries of a sample

    with ε ~ N(0, scale²). The numbers are relative: the term's weight multiplies both.
    Zhao et al. 2020 (zCR), arXiv:2002.04724, section 3.2.
    """
    assert view.latents is not None, "an adversarial turn has them"
    assert view.generate is not None, "likewise"
    near = view.latents + scale * view.randomness.normal(*view.latents.shape)
    if view.learner is view.discriminator:
        with torch.no_grad():
            fake = view.generate(near)
        return discriminator * (view.fake_logits - view.discriminate(fake)).square()
    return -generator * (view.fake - view.generate(near)).flatten(len(view.batch_shape)).square().mean(-1)


@only_on("discriminator", "generator")
def improved_consistency(
    view: View,
    *,
    real: NonNegativeFloat,
    fake: NonNegativeFloat,
    discriminator: NonNegativeFloat,
    generator: NonNegativeFloat,
    scale: PositiveFloat,
    flip: bool,
    translation: Probability,
) -> Tensor:
    """`balanced_consistency`, which is on the discriminator, and `latent_consistency`, which is on both: (..., N).

    Raises: ValueError for points.
    Zhao et al. 2020 (ICR), arXiv:2002.04724, section 3.3.
    """
    transform = random_transform(view, "improved_consistency", flip, translation)
    nearby = latent_consistency(view, discriminator=discriminator, generator=generator, scale=scale)
    return nearby + of_both(view, transform, real, fake) if view.learner is view.discriminator else nearby


def random_transform(view: View, name: str, flip: bool, translation: float) -> Callable[[Tensor], Tensor]:
    """T of the consistency penalties: images (..., N, C, H, W) -> new ones without a graph."""
    shape = tuple(view.real.shape)
    if len(shape) - len(view.batch_shape) != 3:
        raise ValueError(f"regularizer={name} flips and moves images (N, C, H, W), not points {shape}")
    return lambda images: flip_and_translate(images.detach(), view.randomness, flip=flip, translation=translation)


# --- on what the player makes -----------------------------------------------------------------------------------------


@only_on("generator", "autoencoder")
def output_l1(view: View | AutoencoderView) -> Tensor:
    """Σ |outputs| over the entries of what the player makes, samples or codes: (..., N). Tibshirani 1996 (lasso)."""
    return view.outputs.abs().flatten(len(view.batch_shape)).sum(-1)


@only_on("generator")
@gathers_batch
def feature_matching(view: View) -> Tensor:
    """|mean f(x) - mean f(G(z))|², f the discriminator's features, means over the batch: (..., 1).

    In the paper this is the generator's whole loss; here it is added to it, as every penalty is.
    BatchNorm in the discriminator takes much of it away: it gives real and generated batches the same means.
    Salimans et al. 2016, arXiv:1606.03498, section 3.1.
    """
    with torch.no_grad():
        real = batch_mean(view.features(view.real), -2)
    return (real - batch_mean(view.features(view.fake), -2)).square().sum(-1, keepdim=True)


@only_on("generator")
@gathers_batch
def reconstruction(view: View, *, norm: Literal["l1", "l2"]) -> Tensor:
    """The distance of each real sample to the generated one of the batch that is nearest to it: (..., N).

    l1: the mean of |x - G(z)| over the entries of a sample; l2: of (x - G(z))². That every real sample has a generated
    one near it punishes dropped modes.
    Li & Malik 2018, arXiv:1809.09087 (implicit maximum likelihood estimation); l2 is theirs.
    """
    axes = len(view.batch_shape)
    real, fake = view.real.detach().flatten(axes), all_gather(view.fake).flatten(axes)  # (..., N, D)
    with full_precision(fake.device):
        with torch.no_grad():
            nearest = torch.cdist(real, fake, p=1.0 if norm == "l1" else 2.0).argmin(-1, keepdim=True)
            chosen = (nearest == torch.arange(fake.shape[-2], device=fake.device)).to(fake.dtype)  # (..., N, N)
        # A product, where gather would do: several real samples may share a neighbour, and on a GPU the gradient of
        # gather adds theirs in any order.
        difference = real - full_product(chosen, fake)
    return (difference.abs() if norm == "l1" else difference.square()).mean(-1)


# --- on the weights ---------------------------------------------------------------------------------------------------


@of_kernels
def l1(view: View, *, biases: bool, reduction: Literal["sum", "mean"]) -> Tensor:
    """Sum or mean of |w| over the learner's weights, (..., 1)."""
    return over_weights(view.learner, torch.abs, biases, reduction)


@of_kernels
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


@of_kernels
def orthogonal(view: View) -> Tensor:
    """Σ |W Wᵀ off its diagonal|² over the learner's weights, each a matrix (outputs, inputs); (..., 1).

    Brock et al. 2018, arXiv:1809.11096, section 3.1 (there on WᵀW, whose columns are the filters). Kernels of
    transposed convolutions are (inputs, outputs, ...): theirs is taken of that matrix.
    """
    total = []
    for kernel in kernels(view.learner):
        matrix = as_matrix(kernel, view.learner)
        gram = full_product(matrix, matrix.mT)  # near orthogonality, bfloat16 and TF32 see only their own error
        off_diagonal = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
        total.append(off_diagonal.square().sum((-2, -1)))
    return torch.stack(total).sum(0).unsqueeze(-1)


# --- on codes ---------------------------------------------------------------------------------------------------------


def kl(view: AutoencoderView) -> Tensor:
    """KL(N(mean, variance) || N(0, I)) = 1/2 Σ (mean² + variance - 1 - log variance), in nats: (..., N).

    Kingma & Welling 2013, arXiv:1312.6114, appendix B; as `weight`, the beta of Higgins et al. 2017.
    """
    return (view.mean.square() + view.log_variance.exp() - 1 - view.log_variance).sum(-1) / 2


# --- with a memory ----------------------------------------------------------------------------------------------------


class LeCam(nn.Module):
    """(D(x) - α_fake)² + (D(G(z)) - α_real)², α the running means of the logits: (..., N).

    It bounds how far the discriminator pulls the two apart when data is scarce. The authors' code puts a ReLU around
    both differences; this is the paper's formula, which has none. Before the term's `start` there is no running mean,
    and it begins with the means of the first batch from there on, as in the authors' code, whose running means simply
    are those of the current batch until then. Tseng et al. 2021, arXiv:2104.03310.
    """

    only_on = ("discriminator",)
    for_bounded_losses = True  # the paper derives it for discriminator losses that have a bound
    real_mean: Tensor
    fake_mean: Tensor
    updates: Tensor

    def __init__(self, *, decay: Annotated[float, Interval(ge=0, lt=1)]):
        super().__init__()
        self.decay = decay
        self.register_buffer("real_mean", torch.zeros(()))
        self.register_buffer("fake_mean", torch.zeros(()))
        self.register_buffer("updates", torch.zeros(()))

    def update(self, view: View) -> None:
        """Move the running means by the batch's logits."""
        # Not under no_grad: the view keeps the logits for the loss, which wants their graph.
        real, fake = view.real_logits.detach(), view.fake_logits.detach()
        rate = torch.where(self.updates == 0, 1.0, 1 - self.decay)  # the first value is taken as it is
        self.real_mean = torch.lerp(self.real_mean, batch_mean(real), rate)
        self.fake_mean = torch.lerp(self.fake_mean, batch_mean(fake), rate)
        self.updates = self.updates + 1

    def forward(self, view: View) -> Tensor:
        from_fake = (view.real_logits - self.fake_mean.unsqueeze(-1)).square()
        return from_fake + (view.fake_logits - self.real_mean.unsqueeze(-1)).square()


class IterativeGradientPenalty(nn.Module):
    """(|∇D| - target)² at fake + α (real - fake), with an iterated point and a variable weight: (..., N).

    It changes the gradient penalty of WGAN-GP in two ways: α is not drawn but follows the distance d between the two
    distributions, as the critic estimates it, and the weight fades with that distance:

        d      running mean of |mean D(real) - mean D(fake)|, the first value taken as it is
        ρ      d / (the largest d so far), in [0, 1]; 0 where that is 0
        α      <- α + rate ((1 - ρ) - α), starting at 0
        weight x ρ

    All are updated, from the batch's logits, before the penalty uses them. The value is without ρ: this is `factor`,
    which the term multiplies in. With `every` = k the penalty sees only every k-th update, and so do the recurrences.
    Chen, Song & Yu 2019, "Iterative cost function and variable parameter generative adversarial networks", J. Nanjing
    Univ. Sci. Tech. 43(1); the recurrences are this project's reading of its abstract.
    """

    of_each_sample = True
    distance: Tensor
    peak: Tensor
    rho: Tensor
    alpha: Tensor
    updates: Tensor

    def __init__(
        self,
        *,
        target: PositiveFloat,
        smoothing: Annotated[float, Interval(ge=0, lt=1)],
        rate: Annotated[float, Interval(ge=0, le=1)],
    ):
        super().__init__()
        self.target, self.smoothing, self.rate = target, smoothing, rate
        for name in ("distance", "peak", "rho", "alpha", "updates"):  # (...,) each
            self.register_buffer(name, torch.zeros(()))

    @property
    def factor(self) -> Tensor:
        """What the weight is multiplied by: ρ, (...,)."""
        return self.rho

    def update(self, view: View) -> None:
        """Move the recurrences on by the batch's logits."""
        self.iterate(view.real_logits.detach(), view.fake_logits.detach())

    def forward(self, view: View) -> Tensor:
        alpha = like_samples(self.alpha, view.real)
        return (slope(view, view.fake + alpha * (view.real - view.fake)) - self.target).square()

    def iterate(self, real: Tensor, fake: Tensor) -> None:
        """One step of the recurrences, given the batch's logits, (..., N)."""
        rate = torch.where(self.updates == 0, 1.0, 1 - self.smoothing)
        self.distance = torch.lerp(self.distance, (batch_mean(real) - batch_mean(fake)).abs(), rate)
        self.peak = torch.maximum(self.peak, self.distance)
        self.rho = torch.where(self.peak == 0, 0.0, self.distance / self.peak)
        self.alpha = self.alpha + self.rate * ((1 - self.rho) - self.alpha)
        self.updates = self.updates + 1


class PathLength(nn.Module):
    """(|Jᵀ y| - a)², J the Jacobian of the generator at a style, y noise in its image, a a running mean: (..., n).

    It asks that a step of a fixed size in the styles changes the image by a fixed amount, whatever the style and the
    direction. y is N(0, 1) / √(H W), drawn for every sample; |Jᵀ y|² is the sum of (∂ (G · y) / ∂w)² over the entries
    of a style, averaged over the layers. A generator without styles is measured at its latents; where batch
    normalization mixes its samples, the others' images count as well. The mean a begins at 0, and moves towards the
    mean length of each batch at the rate 1 - `decay`, before the penalty uses it.

    It takes every `shrink`-th sample, and costs a forward and a double backward pass of the generator for these. In the
    authors' code it is a step of its own, for which the optimizer's rates are changed; here it joins the loss.

    Karras et al. 2019, arXiv:1912.04958, section 3.2; the constants are those of StyleGAN2-ADA, arXiv:2006.06676.
    """

    only_on = ("generator",)
    gathers_batch = True
    mean_length: Tensor
    ahead: Tensor | None = None  # the lengths, where the mean has moved by them but the penalty has not used them

    def __init__(self, *, decay: Annotated[float, Interval(ge=0, le=1)], shrink: PositiveInt):
        super().__init__()
        self.decay, self.shrink = decay, shrink
        self.register_buffer("mean_length", torch.zeros(()))

    def update(self, view: View) -> None:
        """Move the mean by the lengths of the batch."""
        self.ahead = self.lengths(view)
        self.mean_length = torch.lerp(self.mean_length, batch_mean(self.ahead.detach()), 1 - self.decay)

    def forward(self, view: View) -> Tensor:
        lengths = self.lengths(view) if self.ahead is None else self.ahead
        self.ahead = None
        return (lengths - self.mean_length.unsqueeze(-1)).square()

    def lengths(self, view: View) -> Tensor:
        """|Jᵀ y| of some of the samples, (..., n); the root is kept away from 0, where it has no derivative."""
        assert view.latents is not None, "the generator's turn has them"
        axis = len(view.batch_shape) - 1
        some = (*[slice(None)] * axis, slice(None, None, self.shrink))
        latents = view.latents[some]
        labels = None if view.labels is None else view.labels[some]
        generator = view.learner
        with Layers(), strided(self.shrink):
            if getattr(generator, "has_styles", False):
                styles = generator.styles(latents, labels)  # type: ignore[operator]
                samples = generator.synthesize(styles)  # type: ignore[operator]
            else:
                styles = latents.detach().requires_grad_()
                samples = generator(styles, labels)
        noise = view.randomness.normal(*view.batch_shape, *samples.shape[axis + 1 :])[some]
        noise = noise / math.sqrt(math.prod(samples.shape[axis + 2 :]))
        (gradient,) = torch.autograd.grad((samples * noise).sum(), styles, create_graph=True)
        squares = gradient.square().sum(-1)  # (..., n), of each layer (..., n, L)
        return (squares.mean(-1) if squares.ndim > axis + 1 else squares).add(1e-12).sqrt()
