"""What every game has: players, data, noise, the network that samples are drawn from, and what is logged and saved."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from gan_runner.datasets.data import WHOLE, Data
from gan_runner.games.latents import Latents
from gan_runner.games.player import LOSS, Player, Values
from gan_runner.games.term import Term
from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.ema import MovingAverage, estimate_statistics, has_batch_statistics
from gan_runner.torch_utils.randomness import Randomness, fixed_randomness

PIXELS_AT_ONCE = 2**21  # of samples that go through a network between the steps: 512 of 64x64

Batch = tuple[Tensor, Tensor | None]
"""Real samples (N, *sample), and their labels (N,) where the networks are told them."""


@dataclass(kw_only=True)
class Game(ABC):
    """One run's training, a step at a time, and what is looked at in between."""

    players: dict[str, Player]
    data: Data
    latents: Latents
    randomness: Randomness
    batch_size: int
    """Of the whole batch, whatever shard of it this process computes."""
    autocast: torch.autocast
    moving_average: MovingAverage | None
    is_conditional: bool
    average_batches: int = 0
    """On so many batches the moving average's statistics of batch normalization are estimated; 0 = as in training."""
    accumulate: int = 1
    """In so many micro-batches each process computes its shard of a batch, one after another."""
    truncation: float | None = None
    """How far samples keep from the typical one, where the model defines that itself; None: all the way."""
    is_average_fresh: bool = False
    """Whether they belong to its present weights. Whoever changes these says so by `average_has_moved`."""

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """(..., N): the shape of a batch of samples, without their own axes; in a turn, of what is computed there."""
        return (*self.randomness.leading_shape, ranks.shard_size(self.batch_size))

    def step(self, step: int, *, is_logged: bool = False) -> Values:
        """Training step number `step`, counted from 0: all its randomness and data follow from that number.

        A step that is logged returns what it did, tag -> tensor (); the others compute nothing for it.
        """
        return self.step_on(step, self.batches(step), is_logged=is_logged)

    def step_on(self, step: int, batches: list[Batch], *, is_logged: bool = False) -> Values:
        """Take a training step on batches that are there already."""
        self.randomness.start_step(step)
        return self.work(step, batches, is_logged=is_logged)

    def work(self, step: int, batches: list[Batch], *, is_logged: bool = False) -> Values:
        """The step itself, of batches that are there and noise that is seeded: no more than the device's work."""
        values = self.take_turns(step, batches, is_logged=is_logged)
        if self.moving_average:
            self.moving_average.update(step)
            self.average_has_moved()
        return self.logged_terms(step) | values if is_logged else {}

    @abstractmethod
    def take_turns(self, step: int, batches: list[Batch], *, is_logged: bool) -> Values:
        """What the players do in one step, on its batches; what a logged step returns beside the terms."""

    @abstractmethod
    def batches(self, step: int) -> list[Batch]:
        """The batches of a step, which follow from its number."""

    @abstractmethod
    def active_terms(self, step: int) -> tuple[tuple[str, ...], ...]:
        """The names of the terms that each turn of a step evaluates."""

    @property
    @abstractmethod
    def images_per_step(self) -> int:
        """Real samples that one step sees."""

    def batch(self, index: int, size: int | None = None) -> Batch:
        """Real samples (N, *sample), and labels (N,) where the networks are told them.

        N is this process's shard of batch_size; or `size`, of which it then has all.
        """
        positions = WHOLE if size else ranks.positions(self.batch_size)
        real, labels = self.data.batch(index, size or self.batch_size, self.randomness.seed, positions)
        return real, labels if self.is_conditional else None

    # --- what is looked at, between the steps

    @property
    @abstractmethod
    def sampler(self) -> nn.Module:
        """The network in training that makes samples of latents."""

    @property
    def shown(self) -> nn.Module:
        """The network that samples are drawn from: the sampler's moving average, where there is one."""
        if not self.moving_average:
            return self.sampler
        if not self.is_average_fresh:
            self.estimate_statistics()
        return self.moving_average.network

    def average_has_moved(self) -> None:
        """The moving average has other weights than when it was last shown."""
        self.is_average_fresh = False

    def estimate_statistics(self) -> None:
        """Estimate the moving average's statistics of batch normalization from samples of its own.

        Those in training are the statistics of other weights, and averaged weights do not match them. The latents are
        the same at all times, and training does not see them.
        """
        assert self.moving_average is not None
        network = self.moving_average.network
        if self.average_batches and has_batch_statistics(network):
            randomness = fixed_randomness(self.randomness.seed, "statistics", self.randomness.device)
            latents = self.draw_latents(randomness, self.average_batches * self.batch_size)
            labels = self.labels_of_real.split(self.batch_size) if self.is_conditional else repeat(None)
            with self.autocast:
                estimate_statistics(network, zip(latents.split(self.batch_size), labels, strict=False))
        self.is_average_fresh = True

    @cached_property
    def labels_of_real(self) -> Tensor:
        """Labels as frequent as in the data, for the samples that statistics are estimated from."""
        count = self.average_batches * self.batch_size
        labels = self.data.fixed(count)[1]
        assert labels is not None, "a conditional run has labels"
        return labels.repeat(-(-count // len(labels)))[:count]

    def draw_latents(self, randomness: Randomness, *shape: int) -> Tensor:
        """What samples are made of: (*shape, latent_size)."""
        return self.latents.draw(randomness, *shape)

    def truncate(self, bound: float) -> None:
        """Have all later samples show less variety and more of what is typical (the truncation trick).

        Every entry of a latent is kept within [-bound, bound], unless the model has a truncation of its own, a method
        `truncated(bound)` that returns the truncated network: a style-based generator keeps that share of each style's
        way from the mean. It is for trained networks: training goes on with the whole distribution. Raises ValueError
        for a bound that is not above 0 and finite, and where the latents cannot be truncated.
        """
        if not 0 < bound < math.inf:
            raise ValueError(f"a bound must be above 0 and finite, not {bound}")
        if hasattr(self.sampler, "truncated"):
            self.truncation = bound
        else:
            self.latents = self.latents.truncated(bound)

    @torch.no_grad()
    def sample(self, latents: Tensor, labels: Tensor | None, network: nn.Module | None = None) -> Tensor:
        """Samples of the shown network, or of another like it, in evaluation mode: (count, *sample).

        It leaves every buffer as it is.
        """
        network = network or self.shown
        if self.truncation is not None:
            network = network.truncated(self.truncation)  # type: ignore[operator]
        parts = latents.split(self.at_once)
        classes = labels.split(self.at_once) if labels is not None and self.is_conditional else repeat(None)
        with evaluating(network), self.autocast:
            return torch.cat([network(*part).float() for part in zip(parts, classes, strict=False)])

    @property
    def at_once(self) -> int:
        """How many samples go through a network at once between the steps; of large images, a few."""
        return max(1, PIXELS_AT_ONCE // math.prod(self.data.shape[1:]))

    def pictures(
        self, latents: Tensor, labels: Tensor | None, real: Tensor, real_labels: Tensor | None
    ) -> dict[str, Tensor]:
        """What a preview shows, name -> samples: those of fixed latents and labels, what is made of fixed reals."""
        return {"samples": self.sample(latents, labels)}

    def held_out_values(self) -> Values:
        """What the networks say of samples that training never sees, tag -> tensor (); a game need not have it."""
        return {}

    @torch.no_grad()
    def logged_terms(self, step: int) -> Values:
        """The last value of every term; of the penalties, the weight in force and what they remember."""
        values = {f"loss/{name}": player.terms[LOSS].value for name, player in self.players.items()}
        for tag, term in self.penalties():
            values |= term.logged(tag, step)
        return values

    def penalties(self) -> Iterator[tuple[str, Term]]:
        """Every term but the players' losses, by tag: its name, with the player's where several have it."""
        names = [name for player in self.players.values() for name in player.terms]
        for player_name, player in self.players.items():
            for name, term in player.terms.items():
                if name != LOSS:
                    yield (f"{name}/{player_name}" if names.count(name) > 1 else name), term

    # --- what is saved

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on: the noise and the data follow from the step's number."""
        state = {name: player.state_dict() for name, player in self.players.items()}
        if self.moving_average:
            state["moving_average"] = self.shown.state_dict()
        return state

    def load_networks(self, state: dict[str, Any]) -> None:
        """Load only the networks of a `state_dict`: enough to draw samples, or to start another run from."""
        for name, player in self.players.items():
            player.network.load_state_dict(state[name]["network"])
            if self.moving_average and player.network is self.sampler:
                self.moving_average.network.load_state_dict(state.get("moving_average", state[name]["network"]))
                self.is_average_fresh = True

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, player in self.players.items():
            player.load_state_dict(state[name])
        if self.moving_average:
            self.moving_average.network.load_state_dict(state["moving_average"])
            self.is_average_fresh = True


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode: no dropout, and every buffer stays as it is."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
