"""Layers that look beyond a pixel, or beyond a sample: self-attention, minibatch deviation."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from gan_runner.models.layers import MinibatchStdDev, SelfAttention
from gan_runner.torch_utils.parameters import compares_samples, mixes_samples
from tests.helpers.models import parameters
from tests.helpers.penalties import some


def attention(channels: int = 8, gain: float = 0.7) -> SelfAttention:
    torch.manual_seed(0)
    layer = SelfAttention(channels).double()
    nn.init.constant_(layer.gain, gain)
    return layer


@pytest.mark.parametrize(("channels", "count"), [(64, 5121), (192, 46_081), (256, 81_921), (384, 184_321)])
def test_attention_has_the_parameters_of_the_authors_code(channels, count):
    assert parameters(SelfAttention(channels)) == count


def test_attention_begins_as_the_identity_and_learns_its_gain_first():
    torch.manual_seed(0)
    layer, x = SelfAttention(16), torch.randn(2, 16, 5, 6)
    assert torch.equal(layer(x), x)
    layer(x).square().sum().backward()
    assert layer.gain.grad is not None
    assert layer.gain.grad.abs() > 0
    others = [weight.grad for name, weight in layer.named_parameters() if name != "gain"]
    assert all(gradient is not None and not gradient.any() for gradient in others)


@pytest.mark.parametrize("side", [2, 3])  # odd: the pooling's last window is narrower
def test_attention_is_its_formula(side):
    layer, x = attention(), some(2, 8, side, side)
    weights = {name: weight.detach()[:, :, 0, 0] for name, weight in layer.named_parameters() if weight.ndim == 4}
    for sample, found in zip(x, layer(x), strict=True):
        keys, values = (
            [
                torch.tensordot(weights[name], sample, 1)[:, i : i + 2, j : j + 2].amax((1, 2))
                for i in range(0, side, 2)
                for j in range(0, side, 2)
            ]
            for name in ("keys.weight", "values.weight")
        )
        for i in range(side):
            for j in range(side):
                query = weights["queries.weight"] @ sample[:, i, j]
                scores = torch.stack([query @ key for key in keys]).softmax(0)
                seen = sum(score * value for score, value in zip(scores, values, strict=True))
                expected = sample[:, i, j] + 0.7 * (weights["back.weight"] @ seen)
                torch.testing.assert_close(found[:, i, j], expected)


def test_attention_has_second_derivatives():
    layer, x = attention(2), some(1, 2, 3, 2).requires_grad_()
    assert gradcheck(layer, x)
    assert gradgradcheck(layer, x)


# --- minibatch deviation ----------------------------------------------------------------------------------------------


def test_minibatch_deviation_is_of_strided_groups():
    """Samples i and i + N/group are compared; the channels and pixels of a group share one number."""
    x = some(6, 2, 3, 2)
    found = MinibatchStdDev(group=3)(x)
    assert torch.equal(found[:, :2], x)
    for start in range(2):  # two groups, of the samples start, start + 2, start + 4
        expected = (x[start::2].var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[start::2, 2], expected.expand(3, 3, 2))
    torch.testing.assert_close(
        MinibatchStdDev(group=64)(x)[:, 2], (x.var(0, correction=0) + 1e-8).sqrt().mean().expand(6, 3, 2)
    )


@pytest.mark.parametrize("samples", [1, 2, 5, 7, 13])
def test_minibatch_deviation_takes_any_number_of_samples(samples):
    x = some(samples, 2, 3, 3)
    found = MinibatchStdDev(group=4)(x)
    groups = -(-samples // 4)
    filled = torch.cat([x, x])[: groups * -(-samples // groups)]
    for sample in range(samples):
        expected = (filled[sample % groups :: groups].var(0, correction=0) + 1e-8).sqrt().mean()
        torch.testing.assert_close(found[sample, 2], expected.expand(3, 3))


def test_minibatch_deviation_sees_a_lack_of_variety():
    one = some(1, 2, 3, 3)
    assert MinibatchStdDev(4)(one.repeat(4, 1, 1, 1))[:, 2].max() < 2e-4
    assert MinibatchStdDev(4)(some(4, 2, 3, 3))[:, 2].min() > 0.3


@pytest.mark.parametrize("samples", [4, 5])
def test_minibatch_deviation_has_second_derivatives(samples):
    layer, x = MinibatchStdDev(group=2), some(samples, 2, 2, 2).requires_grad_()
    assert gradcheck(layer, x)
    assert gradgradcheck(layer, x)


def test_minibatch_deviation_compares_samples_and_does_not_mix_them():
    """So a gradient penalty may stand beside it, but real and generated samples are not judged together."""
    network = nn.Sequential(MinibatchStdDev())
    assert compares_samples(network)
    assert not mixes_samples(network)
    assert compares_samples(nn.Sequential(nn.BatchNorm2d(3)))
    assert not compares_samples(nn.Sequential(nn.Conv2d(3, 3, 1)))
