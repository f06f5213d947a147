"""The moving average of a network's weights."""

import copy

import pytest
import torch
from torch import nn

from gan_runner.regularizers.spectral_norm import spectral_norm
from gan_runner.torch_utils.ema import MovingAverage
from tests.helpers.networks import floats


@pytest.mark.parametrize(("half_life", "images"), [(1000.0, 50), (640.0, 64)])
def test_half_life(half_life, images):
    """The distance to weights that stand still halves with every half-life of images."""
    source = nn.Linear(3, 2)
    average = MovingAverage.of(source, half_life, images)
    start = [parameter.clone() for parameter in average.network.parameters()]
    goal = [floats(*parameter.shape, seed=7) for parameter in source.parameters()]
    with torch.no_grad():
        for parameter, value in zip(source.parameters(), goal, strict=True):
            parameter.copy_(value)
    for halvings in (1, 2, 3):
        for _ in range(int(half_life / images)):
            average.update()
        for parameter, first, last in zip(average.network.parameters(), start, goal, strict=True):
            torch.testing.assert_close(parameter, last + (first - last) / 2**halvings)


def test_each_update_is_one_convex_step():
    source = nn.Linear(3, 2)
    average = MovingAverage.of(source, half_life=100, images_per_update=100)  # a rate of 1/2
    with torch.no_grad():
        source.weight.fill_(1)
    before = [parameter.clone() for parameter in average.network.parameters()]
    average.update()
    for parameter, old, new in zip(average.network.parameters(), before, source.parameters(), strict=True):
        torch.testing.assert_close(parameter, (old + new) / 2)


def test_moving_average_copies_buffers_and_leaves_its_source():
    source = spectral_norm(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), iterations=1)
    average = MovingAverage.of(source, half_life=1000, images_per_update=10)
    for step in range(3):
        source(floats(8, 4, seed=step)).sum().backward()
    before = copy.deepcopy(source.state_dict())
    average.update()
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
