"""A model: a generator and a discriminator of images whose sides are multiples of 4."""

import torch
from torch import Tensor, nn


class Generator(nn.Module):
    """Latents (N, latent_size) -> images (N, C, H, W) in [-1, 1]. The label's embedding is added, if any."""

    def __init__(self, shape: tuple[int, int, int], latent_size: int, num_classes: int = 0, *, width: int):
        super().__init__()
        channels, height, side = shape[0], shape[1] // 4, shape[2] // 4
        self.embedding = nn.Embedding(num_classes, latent_size) if num_classes else None
        self.layers = nn.Sequential(
            nn.Linear(latent_size, width * height * side),
            nn.Unflatten(1, (width, height, side)),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.layers(latents if self.embedding is None else latents + self.embedding(labels))


class Discriminator(nn.Module):
    """Images (N, C, H, W) -> logits (N,). With classes, the label's embedding is compared with the features."""

    def __init__(self, shape: tuple[int, int, int], num_classes: int = 0, *, width: int):
        super().__init__()
        channels, height, side = shape
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, width, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Flatten(),
        )
        features = width * (height // 4) * (side // 4)
        self.logit = nn.Linear(features, 1)
        self.embedding = nn.Embedding(num_classes, features) if num_classes else None

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        features = self.layers(samples)
        logits = self.logit(features).squeeze(1)
        return logits if self.embedding is None else logits + torch.linalg.vecdot(self.embedding(labels), features)
