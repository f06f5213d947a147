"""Reductions of the generator's loss: the k best samples."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gan_runner.config.errors import ConfigError
from gan_runner.games.term import Term
from gan_runner.regularizers.reductions import TopK
from gan_runner.training.build import build
from tests.helpers import TINY, TINY_MODEL, compose, naming
from tests.helpers.games import build_game, take_steps

WORDS = [*TINY, "model=mlp", *TINY_MODEL, "metric=none", "loss=hinge"]


def view_of(logits: torch.Tensor) -> Any:
    return SimpleNamespace(fake_logits=logits)


def test_the_mean_of_those_with_the_highest_logits() -> None:
    logits = torch.tensor([0.0, 3, -1, 2], requires_grad=True)
    top_k = TopK(least=0.5, gamma=0.5, interval=10)
    values = logits.square()
    assert top_k(values, view_of(logits), 0).item() == values.mean().item()  # all of them at first
    found = top_k(values, view_of(logits), 10)
    assert found.item() == (9 + 4) / 2
    (gradient,) = torch.autograd.grad(found, logits)
    assert gradient.tolist() == [0, 3, 0, 2]  # none from the samples left out
    assert top_k(values, view_of(logits), 1000).item() == found.item()


def test_k_falls_at_every_interval() -> None:
    top_k = TopK(least=0.75, gamma=0.9, interval=100)
    assert [top_k.share(step) for step in (0, 99, 100, 199, 200, 300)] == pytest.approx([1, 1, 0.9, 0.9, 0.81, 0.75])


def test_a_tensor_of_the_device_as_share_and_several_runs() -> None:
    """As a CUDA graph and stacked runs have it."""
    logits = torch.tensor([[0.0, 3, -1, 2], [1, 1, 1, 1]])
    top_k = TopK(least=0.5, gamma=0.5, interval=10)
    expected = top_k(logits, view_of(logits), 10)
    assert expected.tolist() == [2.5, 1]
    top_k.schedule = lambda step: torch.tensor(0.5)
    assert top_k(logits, view_of(logits), 10).tolist() == expected.tolist()


def test_a_value_that_is_left_out_may_be_infinite() -> None:
    logits = torch.tensor([0.0, 1])
    values = torch.tensor([torch.inf, 1])
    assert TopK(least=0.5, gamma=0.5, interval=1)(values, view_of(logits), 1).item() == 1


def test_it_is_the_generators_loss_alone() -> None:
    words = ["regularizer=[top_k,output_l1]", "regularizer.top_k.interval=1", "regularizer.top_k.gamma=0.5"]
    game = build_game(compose(*WORDS, *words))
    reductions = {
        (player.name, name): term.reduction for player in game.players.values() for name, term in player.terms.items()
    }
    assert [key for key, reduction in reductions.items() if reduction] == [("generator", "loss")]
    whole = build_game(compose(*WORDS, "regularizer=output_l1"))
    assert take_steps(game)["loss/generator"] == take_steps(whole)["loss/generator"]  # k is the whole batch
    assert take_steps(game, 1, 1)["loss/generator"] < take_steps(whole, 1, 1)["loss/generator"]  # -D of the best half
    assert list(Term(lambda view: view).state_dict()) == ["value"]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["regularizer.top_k.on=[discriminator]"], ["regularizer.top_k", "generator"]),
        (["regularizer.top_k.least=0"], ["regularizer.top_k.least=0"]),
        (["+regularizer.top_k.weight=1"], ["regularizer.top_k.weight"]),
    ],
)
def test_refusals(words: list[str], named: list[str]) -> None:
    with pytest.raises(ConfigError, match=naming(*named)):
        build(compose(*WORDS, "regularizer=top_k", *words), [])


def test_two_reductions_are_refused() -> None:
    config = compose(*WORDS, "regularizer=top_k")
    config["regularizer"]["another"] = config["regularizer"]["top_k"]
    with pytest.raises(ConfigError, match=naming("regularizer.top_k", "regularizer.another")):
        build(config, [])
