"""R3GAN: parameter counts to the unit, the initialization, sizes, derivatives."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_runner.models import r3gan
from gan_runner.models.resampling import Downsample, Upsample
from gan_runner.models.resnet import Block
from gan_runner.torch_utils.double_backward import gradient_at
from tests.helpers import naming
from tests.helpers.models import make, outputs_of, parameters

RGB = (3, 32, 32)
TOY: dict[str, Any] = {"width": [32] * 4, "blocks": 1}
# (image, classes, keys, generator's, discriminator's)
COUNTS: dict[str, tuple[tuple[int, ...], int, dict[str, Any], int, int]] = {
    "CIFAR-10": (RGB, 10, {"width": 768}, 20_781_952, 21_280_512),
    "CIFAR-10, unconditional": (RGB, 0, {"width": 768}, 20_732_160, 20_683_776),
    "FFHQ-64": ((3, 64, 64), 0, {"width": [768, 768, 768, 768, 384]}, 22_429_824, 22_381_440),
    "FFHQ-256": ((3, 256, 256), 0, {"width": [768, 768, 768, 768, 384, 192, 96]}, 23_057_952, 23_009_568),
    "ImageNet-32": (RGB, 1000, {"width": 1536, "group_size": 32}, 82_914_304, 86_548_992),
    "ImageNet-64": ((3, 64, 64), 1000, {"width": 1536, "group_size": 32}, 103_570_432, 107_205_120),
    "toy": (RGB, 0, TOY, 56_416, 54_400),
    "toy, 10 classes": (RGB, 10, TOY, 59_104, 55_712),
    "toy, widths": (RGB, 0, {"width": [64, 64, 32, 16]}, 186_288, 182_256),
}


def network(player: str, shape: tuple[int, ...] = RGB, num_classes: int = 0, **keys: Any) -> Any:
    given: dict[str, Any] = {"latent_size": 64} if player == "generator" else {}
    return make("r3gan", player, shape, num_classes, **given, **keys)


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name: str) -> None:
    shape, classes, keys, *expected = COUNTS[name]
    with torch.device("meta"):
        networks = [network(player, shape, classes, **keys) for player in ("generator", "discriminator")]
    assert [parameters(each) for each in networks] == expected


def test_layer_by_layer() -> None:
    """In the generator a transition, then blocks; in the discriminator the other way; 1x1 ones at the low side."""
    kinds = (r3gan.Basis, Block, Upsample, Downsample, r3gan.BasisProducts)
    keys: dict[str, Any] = {"width": [16, 16, 8], "blocks": 2}
    generator, discriminator = (network(player, (3, 28, 28), **keys) for player in ("generator", "discriminator"))
    up = [*[(16, 7, 7)] * 3, *[(16, 14, 14)] * 3, *[(8, 28, 28)] * 3]
    assert outputs_of(generator, kinds, torch.randn(2, 64)) == up
    down = [*[(8, 28, 28)] * 2, (8, 14, 14), *[(16, 14, 14)] * 2, (16, 7, 7), *[(16, 7, 7)] * 2, (16,)]
    assert outputs_of(discriminator, kinds, torch.zeros(2, 3, 28, 28)) == down
    block = next(each for each in generator.modules() if isinstance(each, Block))
    first, _, second, _, last = block.residual
    assert [layer.bias is not None for layer in (first, second, last)] == [True, True, False]
    assert (second.groups, second.kernel_size) == (2, (3, 3))
    assert [m.negative_slope for m in block.residual if isinstance(m, nn.LeakyReLU)] == [0.2, 0.2]
    bare = [m for m in (*generator.modules(), *discriminator.modules()) if isinstance(m, nn.Linear | nn.Conv2d)]
    assert sum(m.bias is not None for m in bare) == 2 * 2 * 6  # two in each block, and nowhere else


@pytest.mark.parametrize(("blocks", "gain"), [(1, 0.98058), (2, 0.82457)])  # of 4 and 8 blocks
def test_initialization(blocks: int, gain: float) -> None:
    torch.manual_seed(0)
    generator = network("generator", num_classes=10, width=96, blocks=blocks)
    discriminator = network("discriminator", num_classes=10, width=96, blocks=blocks)
    assert gain == pytest.approx(math.sqrt(2 / 1.04) * (4 * blocks) ** -0.25, abs=1e-5)

    def spread(weight: Tensor) -> float:
        return float(weight.detach().std() * math.sqrt(weight[0].numel()))

    for each in (generator, discriminator):
        of_blocks = {id(m): block for block in each.modules() if isinstance(block, Block) for m in block.residual}
        for module in each.modules():
            if isinstance(module, Block):
                layers: Any = module.residual
                first, _, second, _, last = layers
                assert spread(first.weight) == pytest.approx(gain, rel=0.03)
                assert spread(second.weight) == pytest.approx(gain, rel=0.03)
                assert (last.weight == 0).all()
                assert not first.bias.any()
            elif isinstance(module, nn.Conv2d) and id(module) not in of_blocks:
                assert spread(module.weight) == pytest.approx(1, rel=0.1)
    assert float(generator.layers[1].maps.detach().std()) == pytest.approx(1, rel=0.05)
    assert float(discriminator.layers[-1].maps.detach().std()) == pytest.approx(1 / 4, rel=0.05)
    assert float(generator.layers[0].embedding.weight.detach().std()) == pytest.approx(10**-0.5, rel=0.1)
    assert float(discriminator.head.projection.weight.detach().std()) == pytest.approx(960**-0.5, rel=0.1)
    assert spread(discriminator.head.linear.weight) == pytest.approx(1, rel=0.05)


def test_the_head_is_the_projection_alone() -> None:
    """The sum over k of (Vφ)_k e(y)_k; features are the vector before V."""
    discriminator = network("discriminator", (1, 8, 8), 3, width=8)
    images, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 2, 1, 2])
    features = discriminator.features(images)
    assert features.shape == (4, 8)
    embedded = discriminator.head.projection.weight[labels]
    torch.testing.assert_close(discriminator(images, labels), (discriminator.head.linear(features) * embedded).sum(1))
    with pytest.raises(ValueError, match="labels"):
        discriminator(images)


@pytest.mark.parametrize(
    ("shape", "smallest"),
    [((1, 8, 8), (4, 4)), ((1, 28, 28), (7, 7)), ((3, 48, 64), (6, 8)), ((3, 64, 64), (4, 4)), ((2, 9, 13), (9, 13))],
)
def test_the_smallest_map_follows_the_size(shape: tuple[int, int, int], smallest: tuple[int, int]) -> None:
    depth = 0 if shape[1] % 2 else None
    generator = network("generator", shape, width=8, blocks=1, depth=depth)
    assert generator.layers[1].maps.shape == (8, *smallest)
    assert generator(torch.randn(2, 64)).shape == (2, *shape)
    assert network("discriminator", shape, width=8, blocks=1, depth=depth)(torch.randn(2, *shape)).shape == (2,)


@pytest.mark.parametrize(
    ("shape", "keys", "named"),
    [
        ((1, 30, 45), {}, ["r3gan", "30x45", "multiples of 4", "dataset.image_size=32"]),
        ((1, 6, 6), {}, ["r3gan", "8x8"]),
        ((2,), {}, ["model=mlp"]),
        ((1, 8, 8), {"width": [8, 8, 8, 8, 8]}, ["width: 5", "at most 4"]),
        ((1, 8, 8), {"width": [8, 8], "depth": 1}, ["depth", "null"]),
        ((1, 24, 24), {"width": [8] * 5}, ["24x24", "multiples of 16"]),
    ],
)
@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_sizes_that_do_not_fit(player: str, shape: tuple[int, ...], keys: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(ValueError, match=naming(*named)):
        network(player, shape, **{"width": 8, **keys})


def test_a_group_size_that_does_not_divide() -> None:
    (second,) = (m for m in r3gan.residual_block(20, 16).modules() if isinstance(m, nn.Conv2d) and m.groups > 1)
    assert second.groups == 5  # of 8 of the 40 channels


LAYERS = {
    "block": (lambda: r3gan.residual_block(2, 2), (2, 2, 3, 4)),
    "basis": (lambda: r3gan.Basis(3, (2, 2, 3)), (2, 3)),
    "basis products": (lambda: r3gan.BasisProducts((2, 2, 3)), (2, 2, 2, 3)),
    "head": (lambda: r3gan.ProjectionHead(3, 2), (2, 3)),
    "head without classes": (lambda: r3gan.ProjectionHead(3, 0), (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_is_twice_differentiable(name: str) -> None:
    """In the input and in all weights; away from kinks, which values of this seed are."""
    torch.manual_seed(0)
    build, shape = LAYERS[name]
    layer, x = build().double(), torch.randn(shape, dtype=torch.float64, requires_grad=True)
    names = [key for key, _ in layer.named_parameters()]
    weights = [weight.detach().requires_grad_() for weight in layer.parameters()]
    labels = [torch.tensor([0, 1])] if "head" in name else []

    def call(x: Tensor, *weights: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (x, *labels))

    assert torch.autograd.gradcheck(call, (x, *weights))
    assert torch.autograd.gradgradcheck(call, (x, *weights))


def test_a_gradient_penalty_is_pytorchs() -> None:
    """Through grouped convolutions and the filters, by the layers of `double_backward`."""
    torch.manual_seed(0)
    discriminator = network("discriminator", (2, 16, 16), width=[8, 8, 4], blocks=1, group_size=4).double()
    with torch.no_grad():
        for weight in discriminator.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    images = torch.randn(3, 2, 16, 16, dtype=torch.float64, requires_grad=True)
    ours = gradient_at(images, discriminator)
    (theirs,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    weights = list(discriminator.parameters())
    found, expected = (
        torch.autograd.grad(gradient.square().sum(), weights, materialize_grads=True) for gradient in (ours, theirs)
    )
    torch.testing.assert_close(found, expected)
    assert sum(bool(each.any()) for each in found) == sum(weight.ndim > 1 for weight in weights)  # no bias has one
