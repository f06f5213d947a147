"""Gradient clipping: torch's, and for each of several stacked runs."""

from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gan_runner.regularizers.gradient_clip import gradient_clip
from gan_runner.torch_utils.parameters import gradient_norm
from tests.helpers.networks import Stacked, with_gradients


@pytest.mark.parametrize("scale", [1e-3, 1e3], ids=["below", "above"])
@pytest.mark.parametrize(("norm", "value"), [(1.0, None), (None, 0.1), (0.5, 0.1), (None, None)])
def test_gradient_clip_is_torch_s(scale, norm, value):
    ours, torch_s = with_gradients(scale), with_gradients(scale)
    if value is not None:
        clip_grad_value_(torch_s.parameters(), value)
    if norm is not None:
        clip_grad_norm_(torch_s.parameters(), norm)
    gradient_clip(ours, norm=norm, value=value)
    for a, b in zip(ours.parameters(), torch_s.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad)
    if norm is not None and scale > 1:
        assert gradient_norm(ours).item() == pytest.approx(norm, rel=1e-4)


def test_gradient_norm_skips_what_has_no_gradient():
    network = with_gradients(1.0)
    everything = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient_norm(network), everything.norm())
    bias: Any = network[0].bias
    without = (gradient_norm(network).square() - bias.grad.square().sum()).sqrt()
    bias.grad = None
    torch.testing.assert_close(gradient_norm(network), without)


@pytest.mark.parametrize(("norm", "value"), [(1.0, None), (0.5, 0.1)])
def test_gradient_clip_of_stacked_runs_equals_the_loop(norm, value):
    networks = [with_gradients(scale, seed) for seed, scale in enumerate([1e-3, 1.0, 1e3])]
    stacked = Stacked(networks)
    torch.testing.assert_close(gradient_norm(stacked), torch.stack([gradient_norm(network) for network in networks]))
    gradient_clip(stacked, norm=norm, value=value)
    for network in networks:
        gradient_clip(network, norm=norm, value=value)
    expected = Stacked(networks)
    for parameter, other in zip(stacked.all, expected.all, strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
