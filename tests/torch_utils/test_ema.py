"""The moving average of a network's weights."""

import copy

import pytest
import torch
from torch import nn

from gan_runner.regularizers.spectral_norm import spectral_norm
from gan_runner.torch_utils.ema import HalfLife, MovingAverage, estimate_statistics
from tests.helpers.networks import floats


@pytest.mark.parametrize(("half_life", "images"), [(1000.0, 50), (640.0, 64)])
def test_half_life(half_life, images):
    """The distance to weights that stand still halves with every half-life of images."""
    source = nn.Linear(3, 2)
    average = MovingAverage.of(source, HalfLife(half_life, images))
    start = [parameter.clone() for parameter in average.network.parameters()]
    goal = [floats(*parameter.shape, seed=7) for parameter in source.parameters()]
    with torch.no_grad():
        for parameter, value in zip(source.parameters(), goal, strict=True):
            parameter.copy_(value)
    for halvings in (1, 2, 3):
        for _ in range(int(half_life / images)):
            average.update(0)
        for parameter, first, last in zip(average.network.parameters(), start, goal, strict=True):
            torch.testing.assert_close(parameter, last + (first - last) / 2**halvings)


def test_each_update_is_one_convex_step():
    source = nn.Linear(3, 2)
    average = MovingAverage.of(source, HalfLife(half_life=100, batch_size=100))  # a rate of 1/2
    with torch.no_grad():
        source.weight.fill_(1)
    before = [parameter.clone() for parameter in average.network.parameters()]
    average.update(0)
    for parameter, old, new in zip(average.network.parameters(), before, source.parameters(), strict=True):
        torch.testing.assert_close(parameter, (old + new) / 2)


def test_moving_average_copies_buffers_and_leaves_its_source():
    source = spectral_norm(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), iterations=1)
    average = MovingAverage.of(source, HalfLife(half_life=1000, batch_size=10))
    for step in range(3):
        source(floats(8, 4, seed=step)).sum().backward()
    before = copy.deepcopy(source.state_dict())
    average.update(0)
    assert all(value.equal(before[name]) for name, value in source.state_dict().items())
    assert source.training
    assert all(parameter.requires_grad for parameter in source.parameters())
    assert [name for name, _ in average.network.named_buffers()] == [name for name, _ in source.named_buffers()]
    for copied, buffer in zip(average.network.buffers(), source.buffers(), strict=True):
        assert copied.equal(buffer)
        assert copied is not buffer
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    average.network(floats(8, 4))  # in evaluation: its own buffers stand still, and the source's do
    assert all(value.equal(before[name]) for name, value in source.state_dict().items())
    assert all(copied.equal(buffer) for copied, buffer in zip(average.network.buffers(), source.buffers(), strict=True))


def test_a_ramp_forgets_the_start_at_once():
    """The half-life of Karras et al. 2020: min(half-life, ramp x images so far)."""
    rate = HalfLife(half_life=1000, batch_size=10, ramp=0.05)
    assert rate(0) == 1
    assert rate(1) == pytest.approx(1 - 0.5 ** (10 / 0.5))
    assert rate(1000) == pytest.approx(1 - 0.5 ** (10 / 500))
    assert rate(2000) == rate(10**9) == pytest.approx(1 - 0.5 ** (10 / 1000)) == HalfLife(1000, 10)(0)


def test_before_the_start_the_average_is_the_network():
    source = nn.Linear(3, 2)
    average = MovingAverage.of(source, HalfLife(half_life=1e9, batch_size=10, start=2))
    kept = []
    for step in range(4):
        source.weight.data.add_(1)
        average.update(step)
        kept.append(average.weights[0].equal(source.weight))
    assert kept == [True, True, False, False]


@pytest.mark.parametrize(
    ("half_life", "updates", "share"),
    [
        (HalfLife(1000, 100), 10, 0.5),
        (HalfLife(1000, 100, start=10), 20, 0.5),
        (HalfLife(1000, 100, ramp=0.05), 0, 1.0),
        (HalfLife(1000, 100, ramp=0.05), 1, 0.0),
    ],
)
def test_what_is_left_of_the_start(half_life, updates, share):
    assert half_life.share_of_start(updates) == share
    source = nn.Linear(1, 1, bias=False)
    average = MovingAverage.of(source, half_life)
    start = source.weight.detach().clone()
    for step in range(updates):
        source.weight.data.fill_(0 if step >= half_life.start else float(start))
        average.update(step)
    torch.testing.assert_close(average.weights[0], share * start, rtol=1e-4, atol=1e-7)


def test_a_half_life_on_a_schedule():
    """From 0 on, as in R3GAN: the average begins as the network."""
    half_life = HalfLife(1000, 100, schedule=lambda update: update / 10)
    assert half_life(0) == 1
    assert half_life(5) == pytest.approx(1 - 0.5 ** (100 / 500))
    assert half_life(20) == pytest.approx(1 - 0.5 ** (100 / 2000))
    assert [half_life.share_of_start(updates) for updates in (0, 1, 5)] == [1, 0, 0]
    falling = HalfLife(1000, 100, schedule=lambda update: 1 / (1 + update))
    assert falling.share_of_start(3) == pytest.approx(0.5 ** (0.1 + 0.2 + 0.3))
    assert falling.share_of_start(10**9) == 0
    assert HalfLife(1000, 100, ramp=0.05, schedule=lambda update: 0.01)(10**6) == pytest.approx(1 - 0.5**10)


def test_a_rate_on_the_device_gives_the_same_bits():
    source = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    averages = [MovingAverage.of(source, HalfLife(100, 30)) for _ in range(2)]
    averages[1].rate = lambda step: torch.full((), averages[1].half_life(step))
    for parameter in source.parameters():
        parameter.data = floats(*parameter.shape, seed=7)
    for average in averages:
        average.update(0)
    assert all(one.equal(other) for one, other in zip(averages[0].weights, averages[1].weights, strict=True))


class TwoArguments(nn.Module):
    """A network with a layer that its batches do not reach."""

    def __init__(self):
        super().__init__()
        self.reached, self.dropout, self.other = nn.BatchNorm1d(3, momentum=0.2), nn.Dropout(0.5), nn.BatchNorm1d(3)

    def forward(self, x, shift):
        return self.reached(self.dropout(x) + shift)


def test_statistics_are_the_mean_over_the_batches():
    network = TwoArguments().eval()
    statistics = network.state_dict()
    statistics["other.running_mean"].fill_(5)
    batches = [(floats(8, 3, seed=seed), seed) for seed in range(3)]
    for _ in range(2):  # whatever they were before
        estimate_statistics(network, batches)
    seen = torch.stack([x + shift for x, shift in batches])
    torch.testing.assert_close(statistics["reached.running_mean"], seen.mean((0, 1)))
    torch.testing.assert_close(statistics["reached.running_var"], seen.var(1).mean(0))
    assert statistics["other.running_mean"].eq(5).all()
    assert network.reached.momentum == 0.2
    assert not any(module.training for module in network.modules())
