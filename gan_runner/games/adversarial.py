"""The adversarial game: a discriminator and a generator take turns. Goodfellow et al. 2014, arXiv:1406.2661."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from gan_runner.augmentations.adaptation import adaptations
from gan_runner.augmentations.apa import Apa
from gan_runner.augmentations.scheduled import Scheduled
from gan_runner.games.game import Batch, Game, evaluating
from gan_runner.games.player import LOSS, Player, Values, frozen, micro_batches
from gan_runner.games.term import Term
from gan_runner.games.view import AdversarialView, at_least_float32, logit_values
from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.double_backward import Layers
from gan_runner.torch_utils.parameters import compares_samples
from gan_runner.torch_utils.randomness import Randomness

Augmentation = Callable[[Tensor, Randomness, int], Tensor]  # (samples, randomness, step) -> samples
HELD_OUT = 256  # samples that the discriminator is asked about at a log point


@dataclass(kw_only=True)
class Adversarial(Game):
    """`discriminator_steps` turns of the discriminator, each on a new batch, then one of the generator."""

    discriminator_steps: int
    augmentations: list[Augmentation]
    generator_batch_size: int | None = None  # samples in the generator's turn; None: batch_size

    has_head_loss: bool = False  # whether the players' terms want what a head makes beside the logits

    def __post_init__(self) -> None:
        self.is_joined = can_be_joined(self.discriminator)
        self.pack = getattr(self.discriminator.network, "pack", 1)

    @property
    def generator(self) -> Player:
        return self.players["generator"]

    @property
    def discriminator(self) -> Player:
        return self.players["discriminator"]

    @property
    def sampler(self) -> nn.Module:
        return self.generator.network

    @property
    def images_per_step(self) -> int:
        """Real samples that the discriminator sees in a step."""
        return self.batch_size * self.discriminator_steps

    def updates(self, step: int) -> range:
        """The numbers of the discriminator's updates in a step."""
        return range(step * self.discriminator_steps, (step + 1) * self.discriminator_steps)

    def batches(self, step: int) -> list[Batch]:
        """One for each turn of the discriminator, the last also for the generator's unless its size is another.

        Then the generator's stands behind them, and holds the last of the samples that the step reads. Where those of
        the discriminator are too few, larger batches are read, of whose samples each of its turns has the first. So all
        that training reads stays one sequence of batches of one size, which a dataset that streams fetches ahead.
        """
        updates, wanted = self.updates(step), self.generator_batch_size
        if wanted is None:
            return [self.batch(update) for update in updates]
        size = max(self.batch_size, -(-wanted // len(updates)))
        read = [self.batch(update, size) for update in updates]
        needed = -(-wanted // size)  # batches that hold as many samples
        of_generator = self.narrow(self.joined(read[-needed:]), -wanted, wanted)
        of_discriminator = [self.narrow(batch, 0, self.batch_size) for batch in read]
        return [self.own_shard(batch) for batch in (*of_discriminator, of_generator)]

    def own_shard(self, batch: Batch) -> Batch:
        """This process's shard of a batch that has been read as a whole."""
        size = batch[0].shape[len(self.batch_shape) - 1]
        positions = ranks.positions(size)
        return self.narrow(batch, positions.start, positions.stop - positions.start)

    def joined(self, batches: list[Batch]) -> Batch:
        """The samples of several batches, one after another."""
        axis = len(self.batch_shape) - 1
        labels = [labels for _, labels in batches if labels is not None]
        return torch.cat([real for real, _ in batches], axis), torch.cat(labels, axis) if labels else None

    def narrow(self, batch: Batch, start: int, count: int) -> Batch:
        """So many samples of a batch, from one on, which counts from the end if it is negative."""
        axis = len(self.batch_shape) - 1
        real, labels = batch
        return real.narrow(axis, start, count), None if labels is None else labels.narrow(axis, start, count)

    @property
    def generator_batch_shape(self) -> tuple[int, ...]:
        """(..., N): the same of the generator's batch."""
        return (*self.randomness.leading_shape, ranks.shard_size(self.generator_batch_size or self.batch_size))

    def active_terms(self, step: int) -> tuple[tuple[str, ...], ...]:
        """The names of the terms of the discriminator's turns, then of the generator's."""
        of_discriminator = (self.discriminator.active_terms(update) for update in self.updates(step))
        return (*of_discriminator, self.generator.active_terms(step))

    def take_turns(self, step: int, batches: list[Batch], *, is_logged: bool) -> Values:
        """The discriminator's turns, then the generator's."""
        values: Values = {}
        for update, (real, labels) in zip(self.updates(step), batches, strict=False):  # the generator's may follow
            is_last = update == self.updates(step)[-1]
            with ranks.sharded(self.batch_size, self.accumulate):
                values |= self.discriminator_turn(real, labels, update, step, is_logged=is_logged and is_last)
        with ranks.sharded(self.generator_batch_size or self.batch_size, self.accumulate):
            return self.generator_turn(*batches[-1], step, is_logged=is_logged) | values

    def discriminator_turn(
        self, real: Tensor, labels: Tensor | None, update: int, step: int, *, is_logged: bool = False
    ) -> Values:
        """The discriminator learns to tell `real` from fakes, which carry no graph."""
        latents = self.draw_latents(self.randomness, *self.batch_shape)
        with torch.no_grad():
            fake = self.generate_in_micro_batches(latents, labels)
            real = self.with_pseudo_samples(real, labels, step)
        # They require grad: a penalty differentiates at them through the forward pass that the loss makes.
        real, fake = real.detach().requires_grad_(), fake.requires_grad_()

        adaptive = adaptations(self.augmentations).values()
        first_logits: list[Tensor] = []  # the logits of the turn's own evaluation of the objective, which comes first

        def objective() -> Tensor:
            with self.autocast, self.layers(update):
                own_real, own_fake = ranks.of_micro_batch(real), ranks.of_micro_batch(fake)
                own_labels, own_latents = ranks.of_micro_batch(labels), ranks.of_micro_batch(latents)
                view = self.view(self.discriminator, own_real, own_fake, own_labels, latents=own_latents, step=step)
                value = self.discriminator.objective(view, update, step)
                if adaptive and not first_logits:
                    first_logits.append(view.real_logits.detach())
                return value

        others = [self.generator.network]
        values = self.discriminator.learn(
            objective, step, is_logged=is_logged, others=others, accumulate=self.accumulate
        )
        for adaptation in adaptive:
            adaptation.update(first_logits[0])
        return values

    def generate_in_micro_batches(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """What `generate` makes, in the micro-batches of a turn: (..., N, *sample)."""
        each = micro_batches(self.accumulate, [self.generator.network], self.randomness.device)
        fakes = [self.generate(ranks.of_micro_batch(latents), ranks.of_micro_batch(labels)) for _ in each]
        return torch.cat(fakes) if len(fakes) > 1 else fakes[0]

    def with_pseudo_samples(self, real: Tensor, labels: Tensor | None, step: int) -> Tensor:
        """Real samples, some replaced by generated ones where that is an augmentation: (..., N, *sample)."""
        for augmentation in self.augmentations:
            own = augmentation.at(real, step) if isinstance(augmentation, Scheduled) else augmentation
            if isinstance(own, Apa):
                fake = self.generate_in_micro_batches(self.draw_latents(self.randomness, *self.batch_shape), labels)
                real = own.replace(real, fake, self.batch_shape, self.randomness)
        return real

    def layers(self, update: int) -> AbstractContextManager[object]:
        """The layers of `double_backward`, in a turn whose penalties differentiate at the samples of the loss."""
        terms = self.discriminator.terms
        is_wanted = any(differentiates_at_samples(terms[name]) for name in self.discriminator.active_terms(update))
        return Layers() if is_wanted else nullcontext()

    def generator_turn(self, real: Tensor, labels: Tensor | None, step: int, *, is_logged: bool = False) -> Values:
        """The generator learns from the discriminator, whose weights get no gradient."""
        latents = self.draw_latents(self.randomness, *self.generator_batch_shape)

        def objective() -> Tensor:
            own_latents, own_labels = ranks.of_micro_batch(latents), ranks.of_micro_batch(labels)
            own_real = ranks.of_micro_batch(real)
            fake = self.generate(own_latents, own_labels)
            with self.autocast:
                view = self.view(self.generator, own_real, fake, own_labels, latents=own_latents, step=step)
                return self.generator.objective(view, step, step)

        opponent = self.discriminator
        with frozen(opponent.parameters):
            others = [opponent.network]
            return self.generator.learn(objective, step, is_logged=is_logged, others=others, accumulate=self.accumulate)

    def generate(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Fakes of latents (..., N, latent_size), by the generator in training: (..., N, *sample)."""
        with self.autocast:
            return at_least_float32(self.generator.network(latents, labels))

    def view(
        self, learner: Player, real: Tensor, fake: Tensor, labels: Tensor | None, *, latents: Tensor, step: int
    ) -> AdversarialView:
        """What the learner sees in this turn."""
        return AdversarialView(
            learner=learner.network,
            discriminator=self.discriminator.network,
            augment=partial(self.augment, step=step),
            loss=learner.terms[LOSS].fn,
            real=real,
            fake=fake,
            labels=labels,
            batch_shape=self.generator_batch_shape if learner is self.generator else self.batch_shape,
            randomness=self.randomness,
            is_joined=self.is_joined and learner is self.discriminator,
            has_head_loss=self.has_head_loss,
            pack=self.pack,
            latents=latents,
            generate=partial(self.generate, labels=labels),
        )

    def augment(self, samples: Tensor, step: int) -> Tensor:
        """What the discriminator sees of samples."""
        for augmentation in self.augmentations:
            samples = augmentation(samples, self.randomness, step)
        return samples

    def logged_terms(self, step: int) -> Values:
        """Beside the terms, the probabilities of augmentations that adapt."""
        return super().logged_terms(step) | {
            f"state/{name}/{key}": value
            for name, adaptation in adaptations(self.augmentations).items()
            for key, value in adaptation.logged().items()
        }

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        if adaptive := adaptations(self.augmentations):
            state["augmentations"] = {name: adaptation.state_dict() for name, adaptation in adaptive.items()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for name, adaptation in adaptations(self.augmentations).items():
            adaptation.load_state_dict(state["augmentations"][name])

    @torch.no_grad()
    def held_out_values(self) -> Values:
        """The discriminator's logits of held-out samples as they are, in evaluation mode, as for training samples."""
        if not (held_out := self.data.held_out(HELD_OUT)):
            return {}
        samples, labels = held_out
        network = self.discriminator.network
        samples = samples[: len(samples) // self.pack * self.pack]  # no part of a pack
        if not len(samples):
            return {}
        size = max(self.at_once, self.batch_shape[-1] // self.accumulate) // self.pack * self.pack
        classes = labels.split(size) if labels is not None and self.is_conditional else repeat(None)
        with evaluating(network), self.autocast:
            logits = torch.cat([network(*part) for part in zip(samples.split(size), classes, strict=False)])
        return logit_values("held_out", logits.float())


def can_be_joined(discriminator: Player) -> bool:
    """Whether its turn may put real and generated samples through the network at once.

    Not where the network would mix or compare them; and not where a penalty differentiates at the one or the other,
    which would then pay for both.
    """
    is_at_samples = any(differentiates_at_samples(term) for term in discriminator.terms.values())
    return not is_at_samples and not compares_samples(discriminator.network)


def differentiates_at_samples(term: Term) -> bool:
    """Whether a term asks for the gradient of the logits at the samples that the loss has."""
    return getattr(getattr(term.fn, "func", term.fn), "at_samples", False)
