"""Small games, and what can be seen of their steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from gan_runner.games.adversarial import Adversarial
from gan_runner.games.game import Game
from gan_runner.runs.build import build
from tests.helpers import TINY, TINY_MODEL, compose

POINTS = ["dataset=ring", "batch_size=8", "device=cpu", "model.latent_size=4", "model=mlp", *TINY_MODEL, "loss=hinge"]


def make_game(*overrides: str) -> Adversarial:
    words = [*TINY, "model=mlp", *TINY_MODEL, "loss=hinge", "discriminator_steps=1", *overrides]
    game = build(compose(*words), [])[0]
    assert isinstance(game, Adversarial)
    return game


@contextmanager
def counted(network: torch.nn.Module) -> Iterator[list[bool]]:
    """A list that grows by one for each call of the network: whether its weights require grad."""
    calls: list[bool] = []
    handle = network.register_forward_hook(lambda *_: calls.append(next(network.parameters()).requires_grad))
    yield calls
    handle.remove()


class NoHostSync(TorchDispatchMode):
    """Raises where a step would wait for a GPU: an operator whose result, or its size, the host must read.

    Adam's counters of steps live on the host, so optimizers are left out.
    """

    READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_dim", "bincount")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert function.overloadpacket.__name__ not in self.READS, f"{function} waits for the device"
        masks = [x for x in (args[1] if function.overloadpacket.__name__ == "index" else []) if x is not None]
        assert all(mask.dtype not in (torch.bool, torch.uint8) for mask in masks), "a boolean index waits"
        return function(*args, **(kwargs or {}))


def take_steps(game: Game, count: int = 1, start: int = 0) -> dict[str, float]:
    """Some steps; what the last one did, as it is logged."""
    for step in range(start, start + count - 1):
        game.step(step)
    values = game.step(start + count - 1, is_logged=True) | game.judge_held_out()
    return {tag: float(value) for tag, value in values.items()}


def step_without_sync(game: Adversarial, monkeypatch: pytest.MonkeyPatch) -> None:
    for _, player in game.players.items():
        monkeypatch.setattr(player.optimizer, "step", partial(without_closure, player.optimizer.step))
    with NoHostSync():
        for step in range(2):
            game.step(step, is_logged=True)
        game.judge_held_out()


def without_closure(update, closure):
    """An optimizer's step after its closure, which alone is watched."""
    with torch.enable_grad():
        closure()
    with _disable_current_modes():
        update()
