"""The adversarial game: a discriminator and a generator take turns. Goodfellow et al. 2014, arXiv:1406.2661."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gan_runner.datasets.data import Data
from gan_runner.ema import MovingAverage
from gan_runner.player import LOSS, Player
from gan_runner.randomness import Randomness
from gan_runner.terms import Term
from gan_runner.views import AdversarialView

Augmentation = Callable[..., Tensor]  # (samples, randomness) -> samples


@dataclass
class Adversarial:
    """`discriminator_steps` turns of the discriminator, each on a new batch, then one of the generator."""

    discriminator: Player
    generator: Player
    data: Data
    draw_latents: Callable[[Randomness, int], Tensor]
    randomness: Randomness
    batch_size: int
    discriminator_steps: int
    augmentations: list[Augmentation]
    autocast: torch.autocast
    moving_average: MovingAverage | None

    def __post_init__(self) -> None:
        self.last_step = 0
        self.last_logits: dict[str, Tensor] = {}  # of the discriminator's last turn, for the statistics

    def players(self) -> Iterator[tuple[str, Player]]:
        """(name, player)."""
        yield "generator", self.generator
        yield "discriminator", self.discriminator

    def step(self, step: int) -> None:
        """Training step number `step`, counted from 0: all its randomness and data follow from that number."""
        self.randomness.start_step(step)
        first = step * self.discriminator_steps
        for update in range(first, first + self.discriminator_steps):
            real, labels = self.data.batch(update, self.batch_size, self.randomness.seed)
            self.discriminator_turn(real, labels, update, step)
        self.generator_turn(real, labels, step)
        if self.moving_average:
            self.moving_average.update()
        self.last_step = step

    def discriminator_turn(self, real: Tensor, labels: Tensor | None, update: int, step: int) -> None:
        """The discriminator learns to tell `real` from fakes, which carry no graph."""
        with self.autocast:
            with torch.no_grad():
                fake = self.generate(labels)
            # Leaves that require grad: a penalty differentiates at them through the forward pass that the loss makes.
            view = self.view(self.discriminator.network, real.requires_grad_(), fake.requires_grad_(), labels)
            objective = self.discriminator.objective(view, update, step)
        self.discriminator.descend(objective, step)
        self.last_logits = {"real": view.real_logits.detach(), "fake": view.fake_logits.detach()}

    def generator_turn(self, real: Tensor, labels: Tensor | None, step: int) -> None:
        """The generator learns from the discriminator, whose weights get no gradient."""
        with frozen(self.discriminator.network):
            with self.autocast:
                view = self.view(self.generator.network, real.detach(), self.generate(labels), labels)
                objective = self.generator.objective(view, step, step)
            self.generator.descend(objective, step)

    def generate(self, labels: Tensor | None) -> Tensor:
        """Samples of the generator in training, (N, *sample)."""
        latents = self.draw_latents(self.randomness, self.batch_size)
        return self.generator.network(latents, labels).float()

    def view(self, learner: nn.Module, real: Tensor, fake: Tensor, labels: Tensor | None) -> AdversarialView:
        """What the learner sees in this turn."""
        return AdversarialView(learner, self.discriminate, real, fake, labels, self.randomness)

    def discriminate(self, samples: Tensor, labels: Tensor | None) -> Tensor:
        """Logits (N,) of the samples, augmented."""
        for augment in self.augmentations:
            samples = augment(samples, self.randomness)
        return self.discriminator.network(samples, labels).float()

    # --- what is looked at, between the steps

    @property
    def shown(self) -> nn.Module:
        """The network that samples are drawn from: the generator's moving average, where there is one."""
        return self.moving_average.network if self.moving_average else self.generator.network

    @torch.no_grad()
    def sample(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Samples of the shown network in evaluation mode, which leaves every buffer as it is."""
        with evaluating(self.shown), self.autocast:
            return self.shown(latents, labels).float()

    @torch.no_grad()
    def statistics(self, held_out_count: int = 256) -> dict[str, Tensor | float]:
        """What is logged of the last step, tag -> scalar. Called between steps, it changes nothing.

        Accuracies count logits on the right side of 0. The held-out samples are judged in evaluation mode.
        """
        tags: dict[str, Tensor | float] = {f"loss/{name}": player.terms[LOSS].value for name, player in self.players()}
        for tag, term in self.penalties():
            tags[f"penalty/{tag}"] = term.value
            tags[f"weight/{tag}"] = term.weight_at(self.last_step)
            tags |= {f"state/{tag}/{key}": value for key, value in term.state().items()}
        logits = dict(self.last_logits)
        if held_out := self.data.held_out(held_out_count):
            with evaluating(self.discriminator.network), self.autocast:
                logits["held_out"] = self.discriminator.network(*held_out).float()
        for kind, values in logits.items():
            tags[f"logits/{kind}"] = values.mean(-1)
            tags[f"accuracy/{kind}"] = (values < 0 if kind == "fake" else values > 0).float().mean(-1)
        for name, player in self.players():
            tags[f"gradient_norm/{name}"] = player.gradient_norm()
            tags[f"learning_rate/{name}"] = player.optimizer.param_groups[0]["lr"]
        return tags

    def penalties(self) -> Iterator[tuple[str, Term]]:
        """Every term but the players' losses, by tag: its name, with the player's where both have it."""
        for name, player in self.players():
            other = self.generator if player is self.discriminator else self.discriminator
            for term_name, term in player.terms.items():
                if term_name != LOSS:
                    yield (f"{term_name}/{name}" if term_name in other.terms else term_name), term

    # --- what is saved

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on: the noise and the data follow from the step's number."""
        state = {name: player.state_dict() for name, player in self.players()}
        if self.moving_average:
            state["moving_average"] = self.moving_average.network.state_dict()
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        for name, player in self.players():
            player.load_state_dict(state[name])
        if self.moving_average:
            self.moving_average.network.load_state_dict(state["moving_average"])


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """The network's weights take part without getting a gradient, or keeping what one would need."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad_(True)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode: no dropout, and every buffer stays as it is."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
