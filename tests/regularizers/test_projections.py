"""Hard constraints: clipped weights, ranges of values, rows of bounded length."""

from functools import partial

import pytest
import torch
from torch import nn

from gan_runner.config.errors import ConfigError
from gan_runner.regularizers.projections import ValueRange, max_norm, weight_clip
from tests.helpers.games import make_game
from tests.helpers.networks import small_network
from tests.helpers.penalties import Stacked, unstacked


def test_weight_clip():
    network = small_network()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    assert any((parameter.abs() > 0.05).any() for parameter in before)
    weight_clip(network, bound=0.05)
    for parameter, old in zip(network.parameters(), before, strict=True):  # biases and normalization too, as the paper
        assert parameter.equal(old.clip(-0.05, 0.05))
        assert parameter.requires_grad
        assert parameter.is_leaf


@pytest.mark.parametrize("biases", [False, True])
def test_value_range(biases):
    torch.manual_seed(0)
    first = nn.Linear(3, 4)
    network = nn.Sequential(first, nn.BatchNorm1d(4), nn.Linear(4, 2))
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    ValueRange(min=-0.05, max=0.2, biases=biases)(network)
    for name, value in network.named_parameters():
        bound = biases or name in ("0.weight", "2.weight")
        assert value.equal(before[name].clip(-0.05, 0.2) if bound else before[name]), name
        assert value.requires_grad
        assert value.is_leaf
    assert first.weight.min().item() == pytest.approx(-0.05)  # there was something to do on either side
    assert first.weight.max().item() == pytest.approx(0.2)


@pytest.mark.parametrize("role", ["generator", "discriminator"])
@pytest.mark.parametrize("bounds", [(-0.1, 0.1), (0.01, 0.03), (-0.2, -0.05)], ids=str)
def test_value_range_holds_after_every_update(bounds, role):
    """In a real game, for the players that it is on and no other; the steps are far longer than the range is wide."""
    low, high = bounds
    game = make_game(
        "regularizer=value_range",
        f"regularizer.value_range.on=[{role}]",
        f"regularizer.value_range.min={low}",
        f"regularizer.value_range.max={high}",
        "optimizer=sgd",
        "optimizer.lr=1.0",
        "discriminator_steps=2",
    )
    seen = []
    for name, player in game.players.items():
        update = player.optimizer.step

        def looking(closure, update=update, player=player, name=name):
            update(closure)
            outside = [((p < low) | (p > high)).any() for p in player.parameters]
            seen.append((name, any(outside)))

        player.optimizer.step = looking  # type: ignore[method-assign,assignment]
    for step in range(4):
        game.step(step)
        for name, player in game.players.items():
            within = all(bool(((p >= low) & (p <= high)).all()) for p in player.network.parameters())
            assert within == (name == role)
    assert (role, True) in seen  # the optimizer alone leaves the range


def test_value_range_on_both_players_by_default():
    game = make_game("regularizer=value_range")
    game.step(0)
    assert all(p.abs().max() <= 0.1 for player in game.players.values() for p in player.network.parameters())


@pytest.mark.parametrize("bounds", [(0.1, 0.1), (0.2, -0.2)], ids=str)
def test_an_empty_value_range_is_refused_before_the_first_step(bounds):
    low, high = bounds
    with pytest.raises(ValueError, match=rf"^min={low} must be below max={high}$"):
        ValueRange(min=low, max=high, biases=True)
    words = [f"regularizer.value_range.min={low}", f"regularizer.value_range.max={high}"]
    with pytest.raises(ConfigError, match=rf"^regularizer.value_range: min={low} must be below max={high}"):
        make_game("regularizer=value_range", *words)


def test_max_norm_by_hand():
    dense, convolution, gain = nn.Linear(2, 3), nn.Conv2d(1, 2, 2), nn.LayerNorm([3, 3])
    with torch.no_grad():
        dense.weight.copy_(torch.tensor([[3.0, 4], [0.3, 0.4], [0, -10]]))
        dense.bias.fill_(7)
        convolution.weight.copy_(torch.tensor([[1.0, 1, 1, 1], [4, 4, 4, 4]]).reshape(2, 1, 2, 2))
    max_norm(nn.ModuleList([dense, convolution, gain]), norm=1.0)
    torch.testing.assert_close(dense.weight.detach(), torch.tensor([[0.6, 0.8], [0.3, 0.4], [0, -1]]))
    assert dense.weight[1].equal(torch.tensor([0.3, 0.4]))  # what is short enough, bit for bit
    assert convolution.weight.flatten().tolist() == [0.5] * 8
    assert dense.bias.tolist() == [7.0] * 3
    assert gain.weight.tolist() == [[1.0] * 3] * 3  # no kernel, though it has rows that are longer


def test_max_norm_of_zeros_is_zeros():
    network = nn.Linear(2, 3)
    network.weight.data.zero_()
    max_norm(network, norm=1.0)
    assert (network.weight == 0).all()


@pytest.mark.parametrize(
    "project", [partial(max_norm, norm=1.5), ValueRange(min=-0.3, max=0.9, biases=False)], ids=["max_norm", "range"]
)
def test_projections_of_stacked_runs_equal_the_loop(project):
    stacked = Stacked((4, 3), (4,), (2, 4, 3, 3))
    alone = [unstacked(stacked, run) for run in range(3)]
    before = [parameter.detach().clone() for parameter in stacked.all]
    project(stacked)
    assert [p.equal(old) for p, old in zip(stacked.all, before, strict=True)] == [False, True, False]
    for run, network in enumerate(alone):
        project(network)
        for together, single in zip(stacked.all, network.all, strict=True):
            torch.testing.assert_close(together[run], single.detach())


def test_max_norm_holds_in_a_game():
    game = make_game("regularizer=max_norm", "regularizer.max_norm.norm=0.1", "optimizer.lr=0.1")
    for step in range(3):
        game.step(step)
        rows = [p.norm(dim=1) for p in game.discriminator.network.parameters() if p.ndim == 2]
        assert all((row <= 0.1 + 1e-6).all() for row in rows)
    assert any((row > 0.0999).any() for row in rows)
    assert any((p.norm(dim=1) > 0.2).any() for p in game.generator.network.parameters() if p.ndim == 2)
