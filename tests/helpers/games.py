"""Small games, and what can be seen of their steps."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from gan_runner.games.adversarial import Adversarial
from gan_runner.games.player import Values
from gan_runner.games.stacked_game import StackedGame
from gan_runner.training.build import build
from tests.helpers import TINY, TINY_MODEL, compose

POINTS = ["dataset=ring", "batch_size=8", "device=cpu", "model.latent_size=4", "model=mlp", *TINY_MODEL, "loss=hinge"]


def make_game(*overrides: str) -> Adversarial:
    words = [*TINY, "model=mlp", *TINY_MODEL, "loss=hinge", "discriminator_steps=1", *overrides]
    game = build(compose(*words), [])[0]
    assert isinstance(game, Adversarial)
    return game


def build_game(config: dict[str, Any]) -> Any:
    """The game of a config, of whatever kind."""
    return build(config, []).game


def take_steps(game: Any, count: int = 1, start: int = 0) -> dict[str, float]:
    """What is logged of the last of some steps."""
    for step in range(start, start + count - 1):
        game.step(step)
    return floats(game.step(start + count - 1, is_logged=True) | game.held_out_values())


def floats(values: Values) -> dict[str, float]:
    return {tag: float(value) for tag, value in values.items()}


def save(game: Any) -> bytes:
    """What a checkpoint has of a game."""
    file = io.BytesIO()
    torch.save(game.state_dict(), file)
    return file.getvalue()


def restore(game: Any, saved: bytes) -> None:
    """Into a game as it is built."""
    game.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))


def take_steps_together(games: Sequence[Any], count: int) -> list[dict[str, float]]:
    """The same, of the runs of a sweep as one program."""
    stacked = StackedGame(games)
    for step in range(count - 1):
        stacked.step(step)
    values = stacked.step(count - 1, is_logged=True)
    stacked.hand_out(count - 1)
    return [floats(stacked.values_of(run, values) | game.held_out_values()) for run, game in enumerate(games)]


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[list[bool]]:
    """A list that grows by one for each call of the network: whether its weights require grad."""
    calls: list[bool] = []
    handle = network.register_forward_hook(lambda *_: calls.append(next(network.parameters()).requires_grad))
    yield calls
    handle.remove()
