"""The network of a variational autoencoder, fully connected: images of any size and points in the plane."""

from functools import partial
from itertools import pairwise
from math import prod

import torch
from torch import Tensor, nn

from gan_runner.models.layers import (
    VECTOR_NORMALIZATIONS,
    Activation,
    Dropout,
    Initialization,
    hidden_layers,
    initialize,
    required,
)
from gan_runner.models.mlp import Normalization
from gan_runner.torch_utils.bounds import PositiveInt


class Autoencoder(nn.Module):
    """Encoder: x (N, *shape) -> mean, log σ² of q(z | x), (N, Z); decoder: z -> the parameter of p(x | z), (N, *shape).

    Both are [linear, normalization, activation, dropout] per hidden layer, then linear; the encoder's last layer yields
    2 Z numbers. The likelihood's parameter is unbounded: the logits of a Bernoulli or the mean of a Gaussian. With
    classes, one embedding of the label, as wide as the latents, stands beside the samples and beside the latents.

    Called as a network, it decodes: `autoencoder(latents, labels)` samples as a generator does.

    Raises:
        ValueError: an unknown name; no labels for a conditional network.

    Source: Kingma and Welling 2013, arXiv:1312.6114; with labels, Sohn, Lee and Yan 2015 (NeurIPS).
    """

    takes_leading_axes = True

    def __init__(
        self,
        shape: tuple[int, ...],
        latent_size: int,
        num_classes: int = 0,
        *,
        encoder_width: list[PositiveInt],
        decoder_width: list[PositiveInt],
        activation: Activation,
        normalization: Normalization,
        dropout: Dropout,
        initialization: Initialization,
    ) -> None:
        super().__init__()
        hidden = partial(
            hidden_layers,
            normalizations=VECTOR_NORMALIZATIONS,
            normalization=normalization,
            activation=activation,
            dropout=dropout,
        )

        def dense(sizes: list[int], outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for before, after in pairwise(sizes):
                layers += [nn.Linear(before, after), *hidden(after)]
            return nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

        self.embedding = nn.Embedding(num_classes, latent_size) if num_classes else None
        beside = latent_size if num_classes else 0
        self.encoder = dense([prod(shape) + beside, *encoder_width], 2 * latent_size)
        self.decoder = dense([latent_size + beside, *decoder_width], prod(shape))
        self.flatten, self.unflatten = nn.Flatten(), nn.Unflatten(-1, tuple(shape))
        initialize(self, initialization)

    def with_label(self, vectors: Tensor, labels: Tensor | None) -> Tensor:
        """Vectors (N, F) and, with classes, the labels' embeddings beside them: (N, F + Z)."""
        if self.embedding is None:
            return vectors
        return torch.cat([vectors, self.embedding(required(labels))], dim=-1)

    def encode(self, x: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The mean and the logarithm of the variance of q(z | x), (N, Z) each."""
        mean, log_variance = self.encoder(self.with_label(self.flatten(x), labels)).chunk(2, dim=-1)
        return mean, log_variance

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """The parameter of p(x | z), unbounded: (N, *shape)."""
        return self.unflatten(self.decoder(self.with_label(latents, labels)))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.decode(latents, labels)
