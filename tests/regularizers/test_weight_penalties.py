"""Penalties on weights: l1, l2, orthogonal, by hand."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from gan_runner.models.layers import ConditionalBatchNorm2d
from gan_runner.regularizers import penalties
from gan_runner.regularizers.spectral_norm import spectral_norm
from gan_runner.torch_utils.precision import tensor_cores
from tests.helpers.penalties import Linear, Stacked, Unlabelled, a_view, some, view_of
from tests.helpers.precision import Products


class Assorted(nn.Module):
    """Weights, and what is none. The constructor's ranges give every parameter known entries."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.convolution = nn.Conv2d(1, 2, 2)
        self.embedding = nn.Embedding(2, 2)
        self.batch = nn.BatchNorm2d(2)
        self.layer = nn.LayerNorm([2, 2])  # its gain has two axes
        self.conditional = ConditionalBatchNorm2d(2, num_classes=3)  # likewise
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(100.0)
            self.linear.weight.copy_(torch.tensor([[1.0, -2], [3, 0], [0, 1]]))
            self.convolution.weight.copy_(torch.tensor([[1.0, 0, -1, 2], [0, 2, 0, 1]]).reshape(2, 1, 2, 2))
            self.embedding.weight.copy_(torch.tensor([[0.5, 0], [-1, 2]]))


WEIGHTS = {"linear.weight": (7, 15), "convolution.weight": (7, 11), "embedding.weight": (3.5, 5.25)}  # Σ|w|, Σw²


WEIGHT_COUNT = 6 + 8 + 4


OTHERS_COUNT = 3 + 2 + 2 * 2 + 2 * 4 + 2 * 6  # biases, gains and shifts, each of 100


@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "spectral_norm"])
@pytest.mark.parametrize("power", [1, 2])
def test_l1_and_l2(power, parametrized):
    network = spectral_norm(Assorted(), iterations=1) if parametrized else Assorted()
    view = view_of(network, some(1), some(1))
    penalty: Callable[..., Tensor] = (penalties.l1, penalties.l2)[power - 1]
    weights = sum(sums[power - 1] for sums in WEIGHTS.values())
    everything = weights + OTHERS_COUNT * 100**power
    for biases, reduction, expected in [
        (False, "sum", weights),
        (False, "mean", weights / WEIGHT_COUNT),
        (True, "sum", everything),
        (True, "mean", everything / (WEIGHT_COUNT + OTHERS_COUNT)),
    ]:
        result = penalty(view, biases=biases, reduction=reduction)
        assert result.shape == (1,)
        assert result.item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "spectral_norm"])
def test_orthogonal(parametrized):
    network = spectral_norm(Assorted(), iterations=1) if parametrized else Assorted()
    result = penalties.orthogonal(view_of(network, some(1), some(1)))
    # Twice the squared products of the rows: linear 3, -2, 0; convolution 0·1 + 2·0 - 1·0 + 2·1 = 2; embedding -0.5.
    assert result.tolist() == [2 * (9 + 4 + 0) + 2 * 4 + 2 * 0.25]


def test_orthogonal_is_zero_on_orthogonal_rows_of_any_length():
    network = nn.Linear(16, 8)
    nn.init.orthogonal_(network.weight)
    with torch.no_grad():
        network.weight *= torch.linspace(0.5, 2, 8)[:, None]
    view = view_of(network, some(1), some(1))
    assert penalties.orthogonal(view).item() < 1e-10
    with torch.autocast("cpu", torch.bfloat16):  # whose own rounding would be the larger part
        assert penalties.orthogonal(view).item() < 1e-10


def test_orthogonal_leaves_tf32():
    """Its gradient too, which is computed outside."""
    network = nn.Linear(4, 3)
    with tensor_cores(True), torch.autocast("cpu", torch.bfloat16), Products() as products:
        penalties.orthogonal(view_of(network, some(1), some(1))).sum().backward()
    assert products.seen == [("ieee", False)] * 3


def test_weights_are_the_learner_s():
    """The generator's own, where the penalty is on the generator."""
    discriminator, generator = Linear(some(3)), nn.Linear(2, 2).double()
    view = a_view(generator, Unlabelled(discriminator), some(2, 3), some(2, 3))
    result = penalties.l1(view, biases=False, reduction="sum")
    torch.testing.assert_close(result, generator.weight.abs().sum().reshape(1))


@pytest.mark.parametrize(
    "penalty",
    [
        partial(penalties.l1, biases=False, reduction="sum"),
        partial(penalties.l1, biases=True, reduction="mean"),
        partial(penalties.l2, biases=False, reduction="mean"),
        partial(penalties.l2, biases=True, reduction="sum"),
        penalties.orthogonal,
    ],
)
def test_weights_of_stacked_runs_equal_the_loop(penalty):
    shapes = [(4, 3), (4,), (2, 4, 3, 3), (2,)]
    stacked = Stacked(*shapes)
    result = penalty(view_of(stacked, some(1), some(1)))
    assert result.shape == (3, 1)
    for run in range(3):
        alone = Stacked(*shapes)
        alone.run_axes = 0
        alone.all = nn.ParameterList(parameter[run] for parameter in stacked.all)
        torch.testing.assert_close(result[run], penalty(view_of(alone, some(1), some(1))))
