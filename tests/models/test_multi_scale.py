"""Discriminators at several scales."""

import pytest
import torch

from gan_runner.models.multi_scale import MultiScale, half
from tests.helpers.models import make, multi_scale


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_one_scale_is_the_discriminator_itself():
    torch.manual_seed(1)
    alone = make("dcgan", "discriminator", (1, 16, 16), width=4)
    torch.manual_seed(1)
    wrapped = multi_scale((1, 16, 16), 1)
    x = torch.randn(3, 1, 16, 16)
    assert torch.equal(wrapped(x), alone(x))
    assert torch.equal(wrapped.features(x), alone.features(x))


@pytest.mark.parametrize(("shape", "scales"), [((1, 64, 64), 4), ((3, 33, 45), 3), ((2, 28, 30), 2)])
def test_each_scale_sees_its_size(shape, scales):
    seen: list[tuple[int, ...]] = []

    def discriminator(size):
        seen.append(size)
        return make("dcgan", "discriminator", size, width=2)

    network = MultiScale(discriminator, shape, scales)
    expected = [(shape[0], *(-(-side // 2**scale) for side in shape[1:])) for scale in range(scales)]
    assert seen == expected
    x = torch.randn(3, *shape)
    assert [image.shape[1:] for _, image in network.pairs(x)] == expected
    logits = [part(image) for part, image in network.pairs(x)]
    assert network(x).shape == (3,)
    torch.testing.assert_close(network(x), sum(logits) / scales)
    features = [part.features(image) for part, image in network.pairs(x)]
    torch.testing.assert_close(network.features(x), torch.cat(features, dim=1))
    assert len({parameter.data_ptr() for parameter in network.parameters()}) == len(list(network.parameters()))


def test_a_scale_averages_blocks():
    x = torch.randn(2, 3, 16, 16)
    blocks = x.reshape(2, 3, 4, 4, 4, 4).mean((3, 5))
    torch.testing.assert_close(half(half(x)), blocks)
    checkerboard = (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
    assert not half(checkerboard[None, None]).any()
    odd = torch.arange(15.0).reshape(1, 1, 3, 5)
    assert half(odd)[0, 0].tolist() == [[3, 5, 6.5], [10.5, 12.5, 14]]


@pytest.mark.parametrize("model", ["dcgan", "resnet", "mlp", "dense_deconv"])
def test_every_discriminator_at_several_scales(model):
    network = MultiScale(lambda size: make(model, "discriminator", size, 3, width=2), (1, 19, 16), 2)
    x = torch.randn(3, 1, 19, 16, requires_grad=True)
    network(x, torch.tensor([0, 1, 2])).sum().backward()
    assert x.grad is not None
    assert (x.grad != 0).any()


def test_errors_of_scales():
    with pytest.raises(ValueError, match=r"model.discriminator.scales=2: only images have scales.*shape \(2,\)"):
        MultiScale(lambda size: make("mlp", "discriminator", size), (2,), 2)
    with pytest.raises(ValueError, match=r"model.discriminator.scales=0: must be 1 or more"):
        multi_scale((1, 16, 16), 0)
    multi_scale((1, 28, 28), 2)
    with pytest.raises(
        ValueError, match=r"model.discriminator.scales=4: at most 2; the next would see 7x7 pixels: model=dcgan takes"
    ):
        multi_scale((1, 28, 28), 4)
    with pytest.raises(ValueError, match="scales=2: at most 1; the next would see 8x8 pixels: depth: 4 halvings"):
        multi_scale((1, 16, 16), 2, depth=4)
    MultiScale(lambda size: make("mlp", "discriminator", size), (1, 4, 4), 3)
    with pytest.raises(ValueError, match="at most 3; the next would see 1x1 pixels: one pixel cannot be halved"):
        MultiScale(lambda size: make("mlp", "discriminator", size), (1, 4, 4), 4)
    with pytest.raises(ValueError, match=r"^activation: 'x' is none of"):
        multi_scale((1, 16, 16), 2, activation="x")
