"""The term: weight, schedule, every, what it saves."""

import pytest
import torch
from torch import Tensor, nn

from gan_runner.games.term import Term
from gan_runner.regularizers import penalties
from tests.helpers.penalties import Logits, take_turn, view_of


def test_term():
    term = Term(lambda values: values, weight=3.0, every=4, schedule=lambda step: step / 10)
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    result = term(values, step=5)
    assert result.item() == pytest.approx(3 * 0.5 * 4 * 2)  # weight x schedule x every x mean
    assert term.weight_at(5) == pytest.approx(1.5)
    assert term.value.item() == 2  # unweighted
    assert not term.value.requires_grad
    (gradient,) = torch.autograd.grad(result, values)
    assert gradient.tolist() == pytest.approx([6 / 2, 6 / 2])
    assert [update for update in range(10) if term.is_active(update)] == [0, 4, 8]


def test_term_by_default_is_the_mean():
    term = Term(lambda values: values)
    assert term(torch.tensor([1.0, 3.0]), step=7).item() == 2
    assert all(term.is_active(update) for update in range(3))
    assert term(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), step=0).tolist() == [2, 6]  # one per run
    assert term.value.tolist() == [2, 6]
    assert term.memory() == {}


def test_a_term_waits_for_its_start():
    late = Term(lambda values: values, start=3)
    assert [update for update in range(6) if late.is_active(update)] == [3, 4, 5]
    assert late.logged("late", 0)["penalty/late"].item() == 0
    lazy = Term(lambda values: values, every=4, start=5)  # the updates are those that `every` has without a start
    assert [update for update in range(16) if lazy.is_active(update)] == [8, 12]


def test_lazy_term_adds_up_to_the_eager_one():
    """Over k updates, evaluating every k-th and multiplying by k adds what evaluating every time adds."""
    lazy, eager = (Term(lambda values: values, weight=2.0, every=every) for every in (3, 1))
    values = torch.tensor([5.0])
    assert sum(term(values, 0) for term in [eager] for _ in range(6)) == sum(
        lazy(values, 0) for update in range(6) if lazy.is_active(update)
    )


def test_term_saves_its_value_and_its_penalty_s_state():
    term = Term(penalties.LeCam(decay=0.9))
    take_turn(term, view_of(Logits(), torch.ones(2, 1), torch.zeros(2, 1)), 0)
    assert {name: value.item() for name, value in term.state_dict().items()} == {
        "value": 2.0,  # (1 - 0)² + (0 - 1)²
        "fn.real_mean": 1.0,
        "fn.fake_mean": 0.0,
        "fn.updates": 1.0,
    }


def test_a_factor_multiplies_the_weight():
    class Halved(nn.Module):
        factor = 0.5

        def forward(self, values: Tensor) -> Tensor:
            return values

    term = Term(Halved(), weight=3.0, every=2, schedule=lambda step: 0.1)
    assert term(torch.tensor([1.0, 3.0]), 0).item() == pytest.approx(3 * 0.1 * 0.5 * 2 * 2)
    assert term.weight_at(0) == pytest.approx(0.15)
    assert term.value.item() == 2
    assert Term(lambda values: values, weight=0.3).weight_at(0) == 0.3
