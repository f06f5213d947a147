"""Conditioning heads: what stands on a discriminator's features, and what its loss makes the labels mean.

A head makes a module of features, `make(F, num_classes)`, which the discriminator takes as its own, and has a side for
each player, a function of the view as those of a loss are: `discriminator(view)` and `generator(view)`, (..., N) each.
They read what the module made of the samples, `view.real_head_outputs` and `view.fake_head_outputs`.

Shape axes: N samples, F features, K classes, E entries of an embedding.
"""

from abc import ABC, abstractmethod
from functools import partial
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_runner.losses import Hinge
from gan_runner.models.layers import Head, HeadOutputs, LinearHead, of_label, required
from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.bounds import NonNegativeFloat, PositiveFloat, PositiveInt
from gan_runner.torch_utils.precision import full_precision, full_product


class HeadView(Protocol):
    """The part of a view that a head's loss reads."""

    @property
    def real_head_outputs(self) -> HeadOutputs: ...
    @property
    def fake_head_outputs(self) -> HeadOutputs: ...
    @property
    def labels(self) -> Tensor | None: ...


class Projection:
    """The head that discriminators have of themselves: the label is projected on the features, and no loss is added.

    Miyato & Koyama 2018, arXiv:1802.05637; see `models.layers.LinearHead`.
    """

    name = "projection"
    make = LinearHead


# --- classifying ------------------------------------------------------------------------------------------------------


class Acgan:
    """Cross-entropy of an auxiliary classifier beside the logit, -log softmax(W φ)_y.

    Discriminator: of the real samples, and of the generated ones too if `fakes`, as in the paper. Without these a
    generator that draws its classes badly does not spoil the classifier: so it is in StudioGAN's ACGAN-Mod. Generator:
    of the generated samples.

    Odena, Olah & Shlens 2016, arXiv:1610.09585.
    """

    name = "acgan"

    def __init__(self, *, fakes: bool):
        self.fakes = fakes

    def make(self, features: int, num_classes: int) -> Head:
        return Classifier(features, num_classes)

    def discriminator(self, view: HeadView) -> Tensor:
        real = cross_entropy(view.real_head_outputs, view.labels)
        return real + cross_entropy(view.fake_head_outputs, view.labels) if self.fakes else real

    def generator(self, view: HeadView) -> Tensor:
        return cross_entropy(view.fake_head_outputs, view.labels)


class Classifier(LinearHead):
    """φ (N, F) -> logits v·φ + b (N,) and `classes` W φ (N, K)."""

    takes_leading_axes = True

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, num_classes=0)
        self.classes = nn.Linear(features, num_classes, bias=False)

    def outputs(self, features: Tensor, labels: Tensor | None) -> HeadOutputs:
        return HeadOutputs(self(features, labels), {"classes": self.classes(features)})


def cross_entropy(outputs: HeadOutputs, labels: Tensor | None) -> Tensor:
    """-log p(y), p the softmax of the logits of classes (..., N, K): (..., N)."""
    classes = outputs.extra["classes"]
    return classes.logsumexp(-1) - of_label(classes, labels)


# --- contrasting ------------------------------------------------------------------------------------------------------


class Contrast(ABC):
    """A loss that compares the samples of a batch, real ones for the discriminator and generated for the generator."""

    @ranks.gathers_batch
    def discriminator(self, view: HeadView) -> Tensor:
        return self.contrast(view.real_head_outputs, view.labels)

    @ranks.gathers_batch
    def generator(self, view: HeadView) -> Tensor:
        return self.contrast(view.fake_head_outputs, view.labels)

    @abstractmethod
    def contrast(self, outputs: HeadOutputs, labels: Tensor | None) -> Tensor:
        """The loss of each sample (..., N), which sees the whole batch."""


class Contragan(Contrast):
    """The conditional contrastive loss 2C, of embeddings e and of a proxy p for each class, all of length 1:

        -log (exp(e_i·p_y / t) + Σ_{j≠i, y_j=y_i} exp(e_i·e_j / t)) / (exp(e_i·p_y / t) + Σ_{j≠i} exp(e_i·e_j / t))

    with t = `temperature`; of the real samples for the discriminator, of the generated ones for the generator. It
    sees the whole batch. The proxy pulls, and so do all samples of the class: that draws a class together, but does not
    tell easy samples from hard ones.

    Kang & Park 2020, arXiv:2006.12681.
    """

    name = "contragan"

    def __init__(self, *, temperature: PositiveFloat, dimension: PositiveInt):
        self.temperature, self.make = temperature, partial(Embedding, dimension=dimension)

    def contrast(self, outputs: HeadOutputs, labels: Tensor | None) -> Tensor:
        own = outputs.extra["proxy"].unsqueeze(-1) / self.temperature
        others = similarities(outputs) / self.temperature
        is_other = ranks.own_shard(~torch.eye(others.shape[-1], dtype=torch.bool, device=others.device))
        return log_sum(own, others, is_other) - log_sum(own, others, same(labels) & is_other)


class Reacgan(Contrast):
    """Data-to-data cross-entropy, D2D-CE, of embeddings e and of a proxy p for each class, all of length 1:

        -log exp([e_i·p_y - m_p]₋ / t) / (exp([e_i·p_y - m_p]₋ / t) + Σ_{y_j≠y_i} exp([e_i·e_j - m_n]₊ / t))

    with t = `temperature`, m_p = `margin` and m_n = 1 - m_p; [x]₋ = min(x, 0) and [x]₊ = max(x, 0) leave out what is
    easy. Of the real samples for the discriminator, of the generated ones for the generator. It sees the whole batch.

    Kang et al. 2021, arXiv:2111.01118.
    """

    name = "reacgan"

    def __init__(self, *, temperature: PositiveFloat, margin: NonNegativeFloat, dimension: PositiveInt):
        self.temperature, self.margin = temperature, margin
        self.make = partial(Embedding, dimension=dimension)

    def contrast(self, outputs: HeadOutputs, labels: Tensor | None) -> Tensor:
        own = (outputs.extra["proxy"] - self.margin).clamp(max=0).unsqueeze(-1) / self.temperature
        others = (similarities(outputs) - (1 - self.margin)).clamp(min=0) / self.temperature
        return log_sum(own, others, ~same(labels)) - own.squeeze(-1)


class Embedding(LinearHead):
    """φ (N, F) -> logits v·φ + b (N,), `embedding` e (N, E) of length 1, and `proxy` e·p_y (N,).

    p_y is a row of the class proxies, of length 1: those of a linear layer without bias, as in `layers.LinearHead`.
    """

    takes_leading_axes = True

    def __init__(self, features: int, num_classes: int, dimension: int) -> None:
        super().__init__(features, num_classes=0)
        self.embedding = nn.Linear(features, dimension)
        self.proxies = nn.Linear(dimension, num_classes, bias=False)

    def outputs(self, features: Tensor, labels: Tensor | None) -> HeadOutputs:
        embedding = self.embedding(features)
        with full_precision(features.device):  # half a percent, as bfloat16 rounds, is a quarter of a margin
            embedding = F.normalize(embedding.to(self.proxies.weight.dtype), dim=-1)
            proxies = F.normalize(self.proxies.weight, dim=-1)
            nearness = of_label(embedding @ proxies.mT, labels)
        return HeadOutputs(self(features, labels), {"embedding": embedding, "proxy": nearness})


def similarities(outputs: HeadOutputs) -> Tensor:
    """e_i·e_j of one's own samples and of all M of the batch, (..., N, M)."""
    embedding = outputs.extra["embedding"]
    return full_product(embedding, ranks.all_gather(embedding).mT)


def same(labels: Tensor | None) -> Tensor:
    """Whether one's own samples and all M of the batch are of one class, (..., N, M)."""
    labels = required(labels)
    return labels.unsqueeze(-1) == ranks.all_gather(labels).unsqueeze(-2)


def log_sum(own: Tensor, others: Tensor, is_counted: Tensor) -> Tensor:
    """log(exp(own_i) + Σ_j exp(others_ij) over those counted), of (..., N, 1) and (..., N, M): (..., N)."""
    counted = torch.where(is_counted, others, -torch.inf)
    return torch.cat([own, counted], dim=-1).logsumexp(-1)


# --- in the place of the loss -----------------------------------------------------------------------------------------


class MultiHinge:
    """A hinge loss over K + 1 classes, the last of which is `generated`, in the place of the adversarial loss.

    With h(v, y) = max(0, 1 + max_{k≠y} v_k - v_y) (Crammer & Singer 2001) of the scores v = W φ + b:

        discriminator   h(v(x), y) + h(v(G(z)), K)
        generator       `generator_weight` h(v(G(z)), y) + `feature_matching` mean |mean φ(G(z)) - mean φ(x)|

    where the inner means are over the batch and the outer one over the features. The logit, which penalties and logs
    look at, is v_y - v_K. With one class the discriminator's side is that of the hinge loss; the generator's is
    max(0, 1 - D(G(z))).

    Kavalerov, Czaja & Chellappa 2019 (MHingeGAN), arXiv:1912.04216; 0.05 and the matching of features are those of the
    authors' code.
    """

    name = "multi_hinge"
    in_place_of = Hinge

    def __init__(self, *, generator_weight: NonNegativeFloat, feature_matching: NonNegativeFloat):
        self.generator_weight, self.feature_matching = generator_weight, feature_matching

    def make(self, features: int, num_classes: int) -> Head:
        return Scores(features, num_classes)

    def discriminator(self, view: HeadView) -> Tensor:
        real, fake = view.real_head_outputs.extra["scores"], view.fake_head_outputs.extra["scores"]
        return multi_hinge(real, required(view.labels)) + multi_hinge(fake, as_generated(fake))

    @ranks.gathers_batch
    def generator(self, view: HeadView) -> Tensor:
        hinge = multi_hinge(view.fake_head_outputs.extra["scores"], required(view.labels))
        both = (view.real_head_outputs, view.fake_head_outputs)
        real, fake = (ranks.batch_mean(outputs.extra["features"], -2) for outputs in both)
        return self.generator_weight * hinge + self.feature_matching * (fake - real).abs().mean(-1, keepdim=True)


class Scores(Head):
    """φ (N, F) -> `scores` v (N, K + 1), the logit v_y - v_K (N,), and the `features` φ themselves."""

    takes_leading_axes = True

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.scores = nn.Linear(features, num_classes + 1)

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        return self.outputs(features, labels).logits

    def outputs(self, features: Tensor, labels: Tensor | None) -> HeadOutputs:
        scores = self.scores(features)
        extra = {"scores": scores, "features": features}
        return HeadOutputs(of_label(scores, labels) - scores[..., -1], extra)


def multi_hinge(scores: Tensor, labels: Tensor) -> Tensor:
    """max(0, 1 + max_{k≠y} v_k - v_y), of scores (..., N, K) and labels (..., N): (..., N)."""
    is_own = labels.unsqueeze(-1) == torch.arange(scores.shape[-1], device=scores.device)
    others = torch.where(is_own, -torch.inf, scores)
    return (1 + others.amax(-1) - of_label(scores, labels)).relu()


def as_generated(scores: Tensor) -> Tensor:
    """The label of generated samples, K for each: (..., N)."""
    return torch.full(scores.shape[:-1], scores.shape[-1] - 1, device=scores.device)
