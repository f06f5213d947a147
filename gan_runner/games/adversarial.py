"""The adversarial game: a discriminator and a generator take turns. Goodfellow et al. 2014, arXiv:1406.2661."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from gan_runner.games.game import Batch, Game, evaluating
from gan_runner.games.player import LOSS, Player
from gan_runner.games.view import AdversarialView, full_precision
from gan_runner.torch_utils.parameters import mixes_samples, over_copies, run_axes
from gan_runner.torch_utils.randomness import Randomness
from gan_runner.torch_utils.stacked_network import alongside

Augmentation = Callable[[Tensor, Randomness, int], Tensor]  # (samples, randomness, step) -> samples
HELD_OUT = 256  # samples that the discriminator is asked about at a log point


@dataclass(kw_only=True)
class Adversarial(Game):
    """`discriminator_steps` turns of the discriminator, each on a new batch, then one of the generator."""

    discriminator_steps: int
    augmentations: list[Augmentation]

    def __post_init__(self) -> None:
        super().__post_init__()
        self.last_logits: dict[str, Tensor] = {}  # of the discriminator's last turn, for the statistics
        self.is_joined = can_be_joined(self.discriminator)

    @property
    def generator(self) -> Player:
        """The player that makes samples."""
        return self.players["generator"]

    @property
    def discriminator(self) -> Player:
        """The player that judges them."""
        return self.players["discriminator"]

    @property
    def sampler(self) -> nn.Module:
        """The generator's network."""
        return self.generator.network

    @property
    def images_per_step(self) -> int:
        """Real samples that the discriminator sees in a step."""
        return self.batch_size * self.discriminator_steps

    def updates(self, step: int) -> range:
        """The numbers of the discriminator's updates in a step."""
        return range(step * self.discriminator_steps, (step + 1) * self.discriminator_steps)

    def batches(self, step: int) -> list[Batch]:
        """One for each turn of the discriminator; the generator's has the last of them."""
        return [self.batch(update) for update in self.updates(step)]

    def due(self, step: int) -> tuple[tuple[str, ...], ...]:
        """Those of the discriminator's turns, then those of the generator's."""
        return (*(self.discriminator.due(update) for update in self.updates(step)), self.generator.due(step))

    def take_turns(self, step: int, batches: list[Batch]) -> None:
        """The discriminator's turns, then the generator's."""
        for update, (real, labels) in zip(self.updates(step), batches, strict=True):
            self.discriminator_turn(real, labels, update, step)
        self.generator_turn(real, labels, step)

    def discriminator_turn(self, real: Tensor, labels: Tensor | None, update: int, step: int) -> None:
        """The discriminator learns to tell `real` from fakes, which carry no graph."""
        with self.autocast, torch.no_grad():
            fake = full_precision(self.generator.network(self.draw_latents(self.randomness, self.batch_size), labels))
        # Leaves that require grad: a penalty differentiates at them through the forward pass that the loss makes.
        real, fake = real.detach().requires_grad_(), fake.requires_grad_()

        def objective(network: nn.Module) -> Tensor:
            its_real, its_fake = over_copies(real, network), over_copies(fake, network)
            view = self.view(network, network, its_real, its_fake, labels, step=step)
            with self.autocast:
                value = self.discriminator.objective(view, update, step)
            if network is self.discriminator.network:
                self.last_logits = {"real": view.real_logits.detach(), "fake": view.fake_logits.detach()}
            return value

        self.discriminator.learn(objective, step)

    def generator_turn(self, real: Tensor, labels: Tensor | None, step: int) -> None:
        """The generator learns from the discriminator, whose weights get no gradient."""
        latents = self.draw_latents(self.randomness, self.batch_size)

        def objective(network: nn.Module) -> Tensor:
            with self.autocast:
                fake = full_precision(network(over_copies(latents, network), over_copies(labels, network)))
                opponent = alongside(self.discriminator.network, network)
                view = self.view(network, opponent, over_copies(real, network), fake, labels, step=step)
                return self.generator.objective(view, step, step)

        with frozen(self.discriminator.parameters):
            self.generator.learn(objective, step)

    def view(
        self,
        learner: nn.Module,
        discriminator: nn.Module,
        real: Tensor,
        fake: Tensor,
        labels: Tensor | None,
        *,
        step: int,
    ) -> AdversarialView:
        """What the learner sees in this turn."""
        role = "discriminator" if learner is discriminator else "generator"
        randomness = self.randomness.shared(run_axes(learner))
        return AdversarialView(
            learner=learner,
            discriminator=discriminator,
            augment=partial(self.augment, randomness=randomness, step=step),
            loss=self.players[role].terms[LOSS].of,
            real=real,
            fake=fake,
            labels=over_copies(labels, learner),
            randomness=randomness,
            is_joined=self.is_joined and role == "discriminator",
        )

    def augment(self, samples: Tensor, randomness: Randomness, step: int) -> Tensor:
        """What the discriminator sees of samples."""
        for augmentation in self.augmentations:
            samples = augmentation(samples, randomness, step)
        return samples

    @torch.no_grad()
    def statistics(self) -> dict[str, Tensor | float]:
        """Those of every game, and the discriminator's logits and accuracies: the share on the right side of 0.

        The held-out samples are judged as they are, in evaluation mode.
        """
        tags = super().statistics()
        logits = dict(self.last_logits)
        if held_out := self.data.held_out(HELD_OUT):
            samples, labels = held_out
            with evaluating(self.discriminator.network), self.autocast:
                logits["held_out"] = self.discriminator.network(
                    samples, labels if self.is_conditional else None
                ).float()
        for kind, values in logits.items():
            tags[f"logits/{kind}"] = values.mean(-1)
            tags[f"accuracy/{kind}"] = (values < 0 if kind == "fake" else values > 0).float().mean(-1)
        return tags


def can_be_joined(discriminator: Player) -> bool:
    """Whether its turn may put real and generated samples through the network at once.

    Not where statistics of the batch would mix them; and not where a penalty differentiates at the one or the other,
    which would then pay for both.
    """
    penalties = [getattr(term.of, "func", term.of) for term in discriminator.terms.values()]
    is_at_samples = any(getattr(penalty, "at_samples", False) for penalty in penalties)
    return not is_at_samples and not mixes_samples(discriminator.network)


@contextmanager
def frozen(weights: list[nn.Parameter]) -> Iterator[None]:
    """These take part without getting a gradient, or keeping what one would need."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
