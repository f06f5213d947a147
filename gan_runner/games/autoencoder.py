"""The variational autoencoder: one player, no opponent. Kingma & Welling 2013, arXiv:1312.6114."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_runner.games.game import Batch, Game, evaluating
from gan_runner.games.player import Player, Values
from gan_runner.games.view import AutoencoderView, at_least_float32
from gan_runner.losses import Elbo
from gan_runner.torch_utils import ranks


@dataclass(kw_only=True)
class Autoencoder(Game):
    """One turn a step: encode a batch, draw a code for each sample, decode it."""

    loss: Elbo

    @property
    def autoencoder(self) -> Player:
        return self.players["autoencoder"]

    @property
    def sampler(self) -> nn.Module:
        """The autoencoder, which decodes latents when called."""
        return self.autoencoder.network

    @property
    def images_per_step(self) -> int:
        """Real samples that a step sees."""
        return self.batch_size

    def batches(self, step: int) -> list[Batch]:
        return [self.batch(step)]

    def active_terms(self, step: int) -> tuple[tuple[str, ...], ...]:
        return (self.autoencoder.active_terms(step),)

    def take_turns(self, step: int, batches: list[Batch], *, is_logged: bool) -> Values:
        """The autoencoder learns to tell the samples from their codes."""
        ((real, labels),) = batches

        def objective() -> Tensor:
            with self.autocast:
                view = self.view(ranks.of_micro_batch(real), ranks.of_micro_batch(labels))
                return self.autoencoder.objective(view, step, step)

        with ranks.sharded(self.batch_size, self.accumulate):
            return self.autoencoder.learn(objective, step, is_logged=is_logged, accumulate=self.accumulate)

    def view(self, real: Tensor, labels: Tensor | None) -> AutoencoderView:
        """What the autoencoder sees: the reparameterised code is mean + sd x N(0, 1)."""
        network = self.autoencoder.network
        mean, log_variance = (at_least_float32(part) for part in network.encode(real, labels))  # type: ignore[operator]
        codes = mean + (log_variance / 2).exp() * self.randomness.normal(*mean.shape)
        decoded = at_least_float32(network(codes, labels))
        return AutoencoderView(
            learner=network,
            real=real,
            mean=mean,
            log_variance=log_variance,
            outputs=codes,
            decoded=decoded,
            batch_shape=self.batch_shape,
        )

    @torch.no_grad()
    def sample(self, latents: Tensor, labels: Tensor | None, network: nn.Module | None = None) -> Tensor:
        """The expected samples of latents from the prior: (count, *sample)."""
        return self.loss.expected(super().sample(latents, labels, network))

    @torch.no_grad()
    def pictures(
        self, latents: Tensor, labels: Tensor | None, real: Tensor, real_labels: Tensor | None
    ) -> dict[str, Tensor]:
        """Samples, and what becomes of the real samples: each next to its reconstruction, of the mean code."""
        with evaluating(self.shown), self.autocast:
            mean, _ = self.shown.encode(real, real_labels if self.is_conditional else None)  # type: ignore[operator]
        reconstructed = self.sample(mean.float(), real_labels)
        pairs = torch.stack([real, reconstructed], dim=1).flatten(0, 1) if real.ndim == 4 else reconstructed
        return {**super().pictures(latents, labels, real, real_labels), "reconstructions": pairs}
