"""Adversarial losses: what each player minimises, given the discriminator's logits.

A loss is a pair of functions of a view. They read only its logits, `real_logits` and `fake_logits` of shape (..., N),
and return one value per sample, (..., N). A loss owns no penalty, and touches only the logits that it needs.
"""

import math
from typing import Literal, Protocol

import torch.nn.functional as F
from torch import Tensor

from gan_runner.torch_utils.bounds import PositiveFloat, Probability
from gan_runner.torch_utils.ranks import batch_mean


class Logits(Protocol):
    """The part of a view that a loss reads."""

    @property
    def real_logits(self) -> Tensor: ...
    @property
    def fake_logits(self) -> Tensor: ...


class Decoded(Protocol):
    """The part of an autoencoder's view that its loss reads."""

    @property
    def real(self) -> Tensor: ...
    @property
    def decoded(self) -> Tensor: ...
    @property
    def mean(self) -> Tensor: ...


class BinaryCrossEntropy:
    """Discriminator: -log σ(D(x)) - log(1 - σ(D(G(z)))); generator: -log σ(D(G(z))), the non-saturating form.

    Label smoothing: the discriminator's targets are `real_label` and `fake_label` instead of 1 and 0, and its loss at a
    logit x with target t is -t log σ(x) - (1 - t) log(1 - σ(x)). One-sided with real_label=0.9, the better kind;
    two-sided with fake_label=0.1 too. The generator's side has no labels to smooth.

    Goodfellow et al. 2014, arXiv:1406.2661; Salimans et al. 2016, arXiv:1606.03498, section 3.4.
    Raises: ValueError unless 0 <= fake_label < real_label <= 1.
    """

    def __init__(self, *, real_label: Probability = 1.0, fake_label: Probability = 0.0):
        if not 0 <= fake_label < real_label <= 1:
            raise ValueError(f"fake_label={fake_label}, real_label={real_label}: must be 0 <= fake < real <= 1")
        self.real_label, self.fake_label = real_label, fake_label

    def discriminator(self, view: Logits) -> Tensor:
        # softplus(x) - t x, in the form that is exact where t is 1 and where it is 0.
        real = F.softplus(-view.real_logits) + (1 - self.real_label) * view.real_logits
        return real + (F.softplus(view.fake_logits) - self.fake_label * view.fake_logits)

    def generator(self, view: Logits) -> Tensor:
        return F.softplus(-view.fake_logits)


class SaturatingBinaryCrossEntropy(BinaryCrossEntropy):
    """The minimax game: the generator descends log(1 - σ(D(G(z)))), which is flat where the discriminator wins.

    Goodfellow et al. 2014, arXiv:1406.2661, equation 1.
    """

    def generator(self, view: Logits) -> Tensor:
        return -F.softplus(view.fake_logits)


class Wasserstein:
    """Discriminator: D(G(z)) - D(x); generator: -D(G(z)). The critic's gap estimates the earth mover's distance.

    Arjovsky et al. 2017, arXiv:1701.07875. It needs a Lipschitz critic: a gradient penalty, clipping or spectral norm.
    """

    is_bounded = False  # whether the discriminator's side has a lower bound, as that of all other losses has
    is_of_differences = True  # whether it stays the same if all logits of real and generated samples are shifted

    def discriminator(self, view: Logits) -> Tensor:
        return view.fake_logits - view.real_logits

    def generator(self, view: Logits) -> Tensor:
        return -view.fake_logits


class Hinge(Wasserstein):
    """Discriminator: max(0, 1 - D(x)) + max(0, 1 + D(G(z))); generator: -D(G(z)).

    Lim & Ye 2017, arXiv:1705.02894; Miyato et al. 2018, arXiv:1802.05957.
    """

    is_bounded = True
    is_of_differences = False

    def discriminator(self, view: Logits) -> Tensor:
        return F.relu(1 - view.real_logits) + F.relu(1 + view.fake_logits)


class LeastSquares:
    """Discriminator: 1/2 (D(x) - 1)² + 1/2 D(G(z))²; generator: 1/2 (D(G(z)) - 1)².

    Mao et al. 2017, arXiv:1611.04076, equation 9 (labels 0 and 1).
    """

    def discriminator(self, view: Logits) -> Tensor:
        return ((view.real_logits - 1).square() + view.fake_logits.square()) / 2

    def generator(self, view: Logits) -> Tensor:
        return (view.fake_logits - 1).square() / 2


class Relativistic:
    """Discriminator: -log σ(D(x) - D(G(z))); generator: -log σ(D(G(z)) - D(x)), each real with one generated sample.

    Jolicoeur-Martineau 2018, arXiv:1807.00734; Huang et al. 2025 (R3GAN), arXiv:2501.05441.
    """

    is_of_differences = True

    def discriminator(self, view: Logits) -> Tensor:
        return F.softplus(view.fake_logits - view.real_logits)

    def generator(self, view: Logits) -> Tensor:
        return F.softplus(view.real_logits - view.fake_logits)


class RelativisticAverage:
    """Discriminator: -log σ(D(x) - mean D(G(z))) - log(1 - σ(D(G(z)) - mean D(x))); generator: the roles swapped.

    Jolicoeur-Martineau 2018, arXiv:1807.00734. The means are over the N samples of the batch.
    """

    gathers_batch = True
    is_of_differences = True

    def discriminator(self, view: Logits) -> Tensor:
        return average_pairing(view.real_logits, view.fake_logits)

    def generator(self, view: Logits) -> Tensor:
        return average_pairing(view.fake_logits, view.real_logits)


def average_pairing(above: Tensor, below: Tensor) -> Tensor:
    """What a player minimises who wants the logits `above` to lie over the mean of `below`; (..., N) each."""
    mean_below, mean_above = batch_mean(below, keepdim=True), batch_mean(above, keepdim=True)
    return F.softplus(mean_below - above) + F.softplus(below - mean_above)


class Elbo:
    """-log p(x | z) for a code z of x: with the penalty `kl` beside it, the negative evidence lower bound.

    bernoulli: the decoder gives logits, for samples in [0, 1]; gaussian: means, with standard deviation `sd`.
    Kingma & Welling 2013, arXiv:1312.6114, appendix C. Sums over the entries of a sample, in nats.
    """

    def __init__(self, *, likelihood: Literal["bernoulli", "gaussian"], sd: PositiveFloat):
        self.likelihood, self.sd = likelihood, sd

    def autoencoder(self, view: Decoded) -> Tensor:
        if self.likelihood == "bernoulli":
            entries = F.binary_cross_entropy_with_logits(view.decoded, view.real, reduction="none")
        else:
            entries = ((view.real - view.decoded) / self.sd).square() / 2 + math.log(self.sd * math.sqrt(2 * math.pi))
        return entries.flatten(view.mean.ndim - 1).sum(-1)

    def expected(self, decoded: Tensor) -> Tensor:
        """The mean of the samples that a decoder's output describes."""
        return decoded.sigmoid() if self.likelihood == "bernoulli" else decoded
