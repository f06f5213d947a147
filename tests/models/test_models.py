"""MLP, DCGAN and ResNet: shapes at any size, the papers' architectures, classes, config keys."""

import math
import typing

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from gan_runner.models import layers
from tests.helpers.models import (
    IMAGES,
    LATENTS,
    MODELS,
    PLAYERS,
    convolution,
    inputs_of,
    make,
    network_class,
    norm,
    normalizations,
    outputs_of,
    parameters,
    tiny,
)

IMAGE_MODELS = ["dcgan", "resnet"]
EVERY_NORMALIZATION = [(model, name) for model in MODELS for name in normalizations(model)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("key", "wrong"),
    [("width", 0), ("depth", -1), ("dropout", 1.0), ("dropout", -0.1), ("activation", "relux"), ("normalization", "x")],
)
def test_the_types_reject_wrong_values(model, key, wrong):
    hint = typing.get_type_hints(network_class(model, "generator").__init__, include_extras=True)[key]
    with pytest.raises(ValueError, match="Input should be"):
        TypeAdapter(hint).validate_python(wrong, strict=True)


def test_the_allowed_names_are_the_tables():
    assert set(typing.get_args(layers.Activation)) == set(layers.ACTIVATIONS)
    assert set(typing.get_args(layers.Normalization)) == set(layers.IMAGE_NORMALIZATIONS)
    assert set(typing.get_args(layers.Initialization)) == {"default", *layers.INITIALIZATIONS}
    assert set(typing.get_args(layers.Output)) == set(layers.OUTPUT_ACTIVATIONS)
    mlp_normalization = typing.get_type_hints(network_class("mlp", "generator").__init__)["normalization"]
    assert set(typing.get_args(mlp_normalization)) == set(layers.VECTOR_NORMALIZATIONS)


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize(("model", "normalization"), EVERY_NORMALIZATION)
def test_shapes(model, normalization, shape):
    generator = tiny(model, "generator", shape, normalization=normalization)
    discriminator = tiny(model, "discriminator", shape, normalization=normalization)
    x = generator(inputs_of("generator", shape))
    assert x.shape == (3, *shape)
    logits = discriminator(x)
    assert logits.shape == (3,)
    features = discriminator.features(x)
    assert features.dim() == 2
    torch.testing.assert_close(discriminator.head(features, None), logits)
    torch.testing.assert_close(discriminator.head.linear(features)[:, 0], logits)


@pytest.mark.parametrize("model", IMAGE_MODELS)
@pytest.mark.parametrize("shape", IMAGES)
def test_every_pixel_counts(model, shape):
    """No image's odd last row or column is ignored by the discriminator or left blank by the generator."""
    x = inputs_of("discriminator", shape).requires_grad_()
    (gradient,) = torch.autograd.grad(tiny(model, "discriminator", shape, activation="softplus")(x).sum(), x)
    assert (gradient != 0).all()
    fake = tiny(model, "generator", shape, initialization="he")(inputs_of("generator", shape, samples=16))
    assert (fake.std(0) > 0).all()


def test_points():
    generator, discriminator = tiny("mlp", "generator", (2,)), tiny("mlp", "discriminator", (2,))
    points = generator(inputs_of("generator", (2,)))
    assert points.shape == (3, 2)
    assert discriminator(points).shape == (3,)


@pytest.mark.parametrize("model", MODELS)
def test_output_activation(model):
    latents = 100 * inputs_of("generator", (1, 8, 8), samples=64)

    def values(default_output, output_activation):
        torch.manual_seed(1)
        keys = {"initialization": "he", "normalization": "none", "output_activation": output_activation}
        network = tiny(model, "generator", (1, 8, 8), default_output=default_output, **keys)
        return network(latents)

    raw = values("linear", None)
    assert raw.abs().max() > 2
    torch.testing.assert_close(values("tanh", None), raw.tanh())
    torch.testing.assert_close(values("tanh", "sigmoid"), raw.sigmoid())
    torch.testing.assert_close(values("tanh", "linear"), raw)


def test_mlp_layers():
    generator = make("mlp", "generator", (1, 28, 28), latent_size=100, width=[128, 256], depth=None)
    assert parameters(generator) == 12_928 + 33_024 + 201_488  # 100 -> 128 -> 256 -> 784, with biases
    discriminator = make("mlp", "discriminator", (1, 28, 28), width=[256, 128], depth=None)
    assert parameters(discriminator) == 200_960 + 32_896 + 129  # 784 -> 256 -> 128 -> 1
    by_depth = make("mlp", "generator", (1, 28, 28), latent_size=100, width=128, depth=2)
    assert parameters(by_depth) == 12_928 + 16_512 + 101_136  # 100 -> 128 -> 128 -> 784


def test_mlp_without_hidden_layers_is_linear():
    discriminator = make("mlp", "discriminator", (2,), depth=0)
    x, linear = torch.randn(3, 2), discriminator.head.linear
    torch.testing.assert_close(discriminator(x), x @ linear.weight[0] + linear.bias)


def test_dcgan_of_the_paper():
    generator = make("dcgan", "generator", (3, 64, 64), latent_size=100, width=64)
    discriminator = make("dcgan", "discriminator", (3, 64, 64), width=64)
    assert outputs_of(generator, nn.ConvTranspose2d, torch.randn(2, 100)) == [
        (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64),
    ]  # fmt: skip
    assert outputs_of(discriminator, nn.Conv2d, torch.randn(2, 3, 64, 64)) == [
        (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4),
    ]  # fmt: skip
    assert parameters(generator) == (
        827_392 + norm(512)  # 100 -> 512 x 4 x 4
        + 2_097_408 + norm(256)  # 512 x 256 x 4 x 4 + 256
        + 524_416 + norm(128)
        + 131_136 + norm(64)
        + 3_075  # 64 x 3 x 4 x 4 + 3
    )  # fmt: skip
    assert parameters(discriminator) == 3_136 + 131_200 + 524_544 + 2_097_664 + 8_193


@pytest.mark.parametrize(
    ("side", "model", "player", "start"),
    [
        *[(side, model, "generator", start) for model in IMAGE_MODELS for side, start in
          [(8, 2), (9, 3), (17, 5), (28, 7), (32, 4), (64, 4)]],
        *[(side, "dcgan", "discriminator", end) for side, end in [(8, 2), (9, 2), (17, 4), (28, 7), (32, 4), (64, 4)]],
        *[(side, "resnet", "discriminator", end) for side, end in [(8, 4), (9, 5), (16, 8), (28, 7), (32, 8), (64, 8)]],
    ],
)  # fmt: skip
def test_the_depth_follows_the_size(side, model, player, start):
    shape = (1, side, side)
    network = tiny(model, player, shape)
    sizes = outputs_of(network, (nn.Unflatten, nn.Conv2d, nn.AvgPool2d), inputs_of(player, shape))
    assert min(height for _, height, _ in sizes) == start


def test_sngan_for_cifar():
    generator = make("resnet", "generator", (3, 32, 32), latent_size=128)
    up = norm(256) + convolution(256, 256, 3) + norm(256) + convolution(256, 256, 3) + convolution(256, 256, 1)
    assert parameters(generator) == 129 * 4096 + 3 * up + norm(256) + convolution(256, 3, 3)
    assert outputs_of(generator, nn.Conv2d, torch.randn(2, 128))[-1] == (3, 32, 32)

    discriminator = make("resnet", "discriminator", (3, 32, 32))
    image = convolution(3, 128, 3) + convolution(128, 128, 3) + convolution(3, 128, 1)
    down = 2 * convolution(128, 128, 3) + convolution(128, 128, 1)
    plain = 2 * convolution(128, 128, 3)
    assert parameters(discriminator) == image + down + 2 * plain + 129
    assert (discriminator.features(torch.randn(2, 3, 32, 32)) >= 0).all(), "a relu comes before the pooling"
    blocks = type(discriminator.layers[0])
    assert outputs_of(discriminator, blocks, torch.randn(2, 3, 32, 32)) == [
        (128, 16, 16), (128, 8, 8), (128, 8, 8), (128, 8, 8),
    ]  # fmt: skip


def test_wgan_gp_for_64_pixels():
    generator = make("resnet", "generator", (3, 64, 64), width=4, growth=2)
    block = type(generator.layers[3])
    assert outputs_of(generator, (nn.Unflatten, block), torch.randn(2, LATENTS)) == [
        (32, 4, 4), (32, 8, 8), (16, 16, 16), (8, 32, 32), (4, 64, 64),
    ]  # fmt: skip
    discriminator = make("resnet", "discriminator", (3, 64, 64), width=4, growth=2, depth=4, plain_blocks=1)
    assert outputs_of(discriminator, block, torch.randn(2, 3, 64, 64)) == [
        (4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4), (32, 4, 4),
    ]  # fmt: skip


def test_the_blocks_compute_the_papers_order():
    """An up block upsamples before its convolutions, a down block pools after them, on both paths."""
    generator, discriminator = tiny("resnet", "generator", (1, 8, 8)), tiny("resnet", "discriminator", (1, 32, 32))
    x = torch.randn(3, 4, 8, 8)

    up = generator.layers[3].eval()
    first_norm, _, _, _, first, second_norm, _, _, second = up.residual
    bigger = nn.functional.interpolate(x, scale_factor=2)
    shortcut = nn.functional.conv2d(bigger, up.shortcut[0].weight, up.shortcut[0].bias)
    hidden = first(nn.functional.interpolate(first_norm(x).relu(), scale_factor=2))
    torch.testing.assert_close(up(x), shortcut + second(second_norm(hidden).relu()))

    down = discriminator.layers[1]
    _, _, _, first, _, _, _, second, _ = down.residual
    shortcut = nn.functional.conv2d(x, down.shortcut[1].weight, down.shortcut[1].bias)
    expected = nn.functional.avg_pool2d(shortcut + second(first(x.relu()).relu()), 2)
    torch.testing.assert_close(down(x), expected)

    plain = discriminator.layers[2]
    _, _, _, first, _, _, _, second = plain.residual
    torch.testing.assert_close(plain(x), x + second(first(x.relu()).relu()))

    image = discriminator.layers[0]
    first, _, _, _, second, _ = image.residual
    pixels = torch.randn(3, 1, 8, 8)
    shortcut = nn.functional.conv2d(pixels, image.shortcut[1].weight, image.shortcut[1].bias)
    torch.testing.assert_close(image(pixels), nn.functional.avg_pool2d(shortcut + second(first(pixels).relu()), 2))


def test_pooling():
    networks = {}
    for pooling in ["sum", "mean"]:
        torch.manual_seed(1)
        networks[pooling] = tiny("resnet", "discriminator", (1, 16, 16), pooling=pooling)
    x = torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(networks["sum"].features(x), 64 * networks["mean"].features(x))


def test_no_normalization_at_the_discriminators_input():
    for model in IMAGE_MODELS:
        network = tiny(model, "discriminator", (1, 32, 32), normalization="layer")
        kinds = [type(module) for module in network.modules() if isinstance(module, nn.Conv2d | nn.GroupNorm)]
        assert kinds[:2] == [nn.Conv2d, nn.Conv2d]
        assert nn.GroupNorm in kinds


@pytest.mark.parametrize("model", IMAGE_MODELS)
def test_conditional_batch_normalization_stands_in_for_the_embedding(model):
    def kinds(normalization):
        network = tiny(model, "generator", (1, 8, 8), 3, normalization=normalization)
        return {type(module) for module in network.modules()}

    assert layers.ConditionalBatchNorm2d in kinds("batch")
    assert nn.Embedding not in kinds("batch")
    for normalization in normalizations(model, but=["batch"]):
        assert nn.Embedding in kinds(normalization)
        assert layers.ConditionalBatchNorm2d not in kinds(normalization)


def test_conditional_batch_normalization_starts_as_plain():
    conditional, plain = layers.ConditionalBatchNorm2d(4, num_classes=3), nn.BatchNorm2d(4)
    labels = torch.tensor([0, 1, 2, 2, 0])
    for _ in range(2):
        x = 3 + 2 * torch.randn(5, 4, 6, 6)
        torch.testing.assert_close(conditional(x, labels), plain(x))
    torch.testing.assert_close(conditional.eval()(x, labels), plain.eval()(x))
    with torch.no_grad():
        conditional.gain[2] = torch.arange(4.0)
        conditional.shift[2] = 7
    expected = plain(x)
    expected[2:4] = expected[2:4] * torch.arange(4.0)[:, None, None] + 7
    torch.testing.assert_close(conditional(x, labels), expected)


@pytest.mark.parametrize("model", MODELS)
def test_the_discriminator_projects_the_label(model):
    network = tiny(model, "discriminator", (1, 8, 8), 3)
    x, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 1])
    features = network.features(x)
    embedded = network.head.projection.weight[labels]
    torch.testing.assert_close(network(x, labels), network.head.linear(features)[:, 0] + (embedded * features).sum(1))
    with torch.no_grad():
        network.head.projection.weight.copy_(network.head.projection.weight[:1].clone().expand(3, -1))
    torch.testing.assert_close(network(x, labels), network(x, (labels + 1) % 3))


@pytest.mark.parametrize("model", MODELS)
def test_the_penaltys_gradient_is_the_numerical_one(model):
    network = tiny(model, "discriminator", (1, 8, 8), activation="softplus").double()
    x = torch.randn(2, 1, 8, 8, dtype=torch.double)

    def penalty(x):
        x = x if x.requires_grad else x.requires_grad_()
        (gradient,) = torch.autograd.grad(network(x).sum(), x, create_graph=True)
        return gradient.square().sum()

    weight = next(p for p in network.parameters() if p.dim() > 1)
    (slope,) = torch.autograd.grad(penalty(x), weight)
    direction, step = torch.randn_like(weight), 1e-5
    with torch.no_grad():
        weight += step * direction
    above = penalty(x).item()
    with torch.no_grad():
        weight -= 2 * step * direction
    below = penalty(x).item()
    assert (slope * direction).sum().item() == pytest.approx((above - below) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("player", PLAYERS)
def test_dropout(model, player):
    network = tiny(model, player, (1, 8, 8), dropout=0.5)
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout)} == {0.5}
    x = inputs_of(player, (1, 8, 8))
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    hidden = sum(isinstance(m, nn.ReLU | nn.LeakyReLU) for m in network.modules())
    assert sum(isinstance(m, nn.Dropout) for m in network.modules()) == hidden, "one after each hidden activation"
    without = tiny(model, player, (1, 8, 8))
    assert without.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("activation", layers.ACTIVATIONS)
def test_activation(model, player, activation):
    network = tiny(model, player, (1, 8, 8), activation=activation, default_output="linear")
    kind = type(layers.ACTIVATIONS[activation]())
    every = tuple(type(make_activation()) for make_activation in layers.ACTIVATIONS.values())
    assert {type(module) for module in network.modules() if isinstance(module, every)} == {kind}
    assert all(module.negative_slope == 0.2 for module in network.modules() if isinstance(module, nn.LeakyReLU))
    assert not any(getattr(module, "inplace", False) for module in network.modules())


@pytest.mark.parametrize(("normalization", "axes"), [("batch", (0, 2, 3)), ("layer", (1, 2, 3)), ("instance", (2, 3))])
def test_what_is_normalized(normalization, axes):
    x = 5 + 3 * torch.randn(6, 4, 8, 8) * torch.arange(1.0, 5)[:, None, None]
    expected = (x - x.mean(axes, keepdim=True)) / x.std(axes, correction=0, keepdim=True)
    torch.testing.assert_close(layers.IMAGE_NORMALIZATIONS[normalization](4)(x), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("player", PLAYERS)
def test_normalization(model, player):
    kinds = {"batch": (nn.BatchNorm1d, nn.BatchNorm2d), "layer": (nn.LayerNorm, nn.GroupNorm), "none": ()}
    kinds |= {"instance": (nn.InstanceNorm2d,)} if model != "mlp" else {}
    every = tuple(kind for some in kinds.values() for kind in some)
    for normalization, expected in kinds.items():
        network = tiny(model, player, (1, 8, 8), normalization=normalization)
        found = {type(module) for module in network.modules() if isinstance(module, every)}
        assert len(found) == bool(expected)
        assert all(issubclass(kind, expected) for kind in found)


def weights(network):
    """The matrices (out, in x kernel) that `initialization` fills, and the biases beside them."""
    modules = [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    return [m.weight.detach() for m in modules], [m.bias.detach() for m in modules if m.bias is not None]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("player", PLAYERS)
class TestInitialization:
    def network(self, model, player, initialization):
        width = {"mlp": 128, "dcgan": 32, "resnet": 32}[model]
        return tiny(model, player, (1, 8, 8), 10, width=width, initialization=initialization)

    def large(self, network):
        return [weight for weight in weights(network)[0] if weight.numel() > 4000]

    def test_normal(self, model, player):
        for weight in (large := self.large(self.network(model, player, "normal"))):
            assert weight.std().item() == pytest.approx(0.02, rel=0.05)
            assert weight.mean().abs().item() < 0.002
        assert large

    def test_he(self, model, player):
        for weight in self.large(self.network(model, player, "he")):
            assert weight.std().item() == pytest.approx(math.sqrt(2 / weight[0].numel()), rel=0.05)

    def test_xavier(self, model, player):
        for weight in self.large(self.network(model, player, "xavier")):
            fans = weight[0].numel() + weight[:, 0].numel()
            assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / fans), rel=0.01)

    def test_orthogonal(self, model, player):
        for weight in weights(self.network(model, player, "orthogonal"))[0]:
            matrix = weight.flatten(1)
            gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-4, rtol=0)

    def test_biases(self, model, player):
        for initialization in layers.INITIALIZATIONS:
            assert not any(bias.any() for bias in weights(self.network(model, player, initialization))[1])
        assert all(bias.any() for bias in weights(self.network(model, player, "default"))[1])

    def test_default_is_pytorchs(self, model, player):
        for weight in self.large(self.network(model, player, "default")):
            assert weight.abs().max().item() == pytest.approx(1 / math.sqrt(weight[0].numel()), rel=0.01)


def spread(weight, gain):
    """The standard deviation of a kernel, relative to that of Glorot with this gain, whose range it must have."""
    fans = weight[0].numel() + weight[:, 0].numel()
    sd = gain * math.sqrt(2 / fans)
    assert weight.abs().max() <= math.sqrt(3) * sd
    return float(weight.detach().std()) / sd


@pytest.mark.parametrize("player", PLAYERS)
def test_the_residual_initialization_of_every_kind_of_layer(player):
    """Glorot's with gain √2 in the 3x3 convolutions of blocks, the discriminator's first among them; else 1."""
    network = make("resnet", player, (3, 32, 32), 10, latent_size=128, width=64, initialization="residual")
    residual: dict[str, typing.Any] = {}
    others: dict[str, typing.Any] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.bias is None or not module.bias.any()
            (residual if ".residual." in name else others)[name] = module
    blocks = 3 if player == "generator" else 4
    assert len(residual) == 2 * blocks
    assert all(layer.kernel_size == (3, 3) for layer in residual.values())
    kinds = sorted(type(layer).__name__ + str(getattr(layer, "kernel_size", "")) for layer in others.values())
    if player == "generator":  # the first layer, three shortcuts, the last convolution
        assert kinds == ["Conv2d(1, 1)"] * 3 + ["Conv2d(3, 3)", "Linear"]
    else:  # two shortcuts, the logit, the projection of the labels
        assert kinds == ["Conv2d(1, 1)"] * 2 + ["Linear"] * 2
    for name, layer in residual.items():
        assert spread(layer.weight, math.sqrt(2)) == pytest.approx(1, abs=0.06), name
    for name, layer in others.items():
        assert spread(layer.weight, 1) == pytest.approx(1, abs=0.25 if layer.weight.numel() < 500 else 0.06), name


@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("num_classes", [0, 3])
def test_the_dcgan_initialization(player, num_classes):
    keys = {"width": 32, "initialization": "dcgan", "normalization": "batch"}
    network = make("dcgan", player, (3, 64, 64), num_classes, **keys)
    for weight in weights(network)[0]:
        assert weight.std().item() == pytest.approx(0.02, rel=0.15)
    modules = list(network.modules())
    gains = [m.gain for m in modules if isinstance(m, layers.ConditionalBatchNorm2d)]
    gains += [m.weight for m in modules if isinstance(m, nn.BatchNorm2d) and m.affine]
    shifts = [m.shift for m in modules if isinstance(m, layers.ConditionalBatchNorm2d)]
    shifts += [m.bias for m in modules if isinstance(m, nn.BatchNorm2d) and m.affine]
    assert len(gains) == (4 if player == "generator" else 3)
    everyone = torch.cat([gain.detach().flatten() for gain in gains])
    assert everyone.mean().item() == pytest.approx(1, abs=0.005)
    assert everyone.std().item() == pytest.approx(0.02, rel=0.15)
    assert not any(shift.any() for shift in shifts)


@pytest.mark.parametrize("normalization", ["batch", "layer", "instance", "none"])
@pytest.mark.parametrize("num_classes", [0, 3])
@pytest.mark.parametrize("player", PLAYERS)
def test_the_auto_initialization(player, num_classes, normalization):
    """A normalization follows every layer of the generator but the last, and of the discriminator the later stages."""
    keys = {"width": 16, "initialization": "auto", "normalization": normalization}
    network = make("dcgan", player, (3, 32, 32), num_classes, **keys)
    chain = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)]
    normalized = chain[:-1] if player == "generator" else chain[1:3]
    for layer in chain:
        assert layer.bias is None or not layer.bias.any()
        if normalization != "none" and layer in normalized:
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
        else:
            matrix = layer.weight.detach().flatten(1)
            product = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
            torch.testing.assert_close(product, torch.eye(len(product)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", ["mlp", "resnet"])
def test_initializations_of_other_models(model):
    hint = typing.get_type_hints(network_class(model, "generator").__init__, include_extras=True)["initialization"]
    assert ("residual" in typing.get_args(hint)) == (model == "resnet")
    assert "dcgan" not in typing.get_args(hint)
    with pytest.raises(ValueError, match="initialization: 'dcgan' is none of"):
        tiny(model, "generator", (1, 8, 8), initialization="dcgan")


@pytest.mark.parametrize("kernel", [4, 5])
@pytest.mark.parametrize("shape", IMAGES)
def test_kernels_of_dcgan_at_any_size(kernel, shape):
    """Also at odd sides, of which kernel 5 leaves the larger half."""
    generator = tiny("dcgan", "generator", shape, kernel=kernel)
    discriminator = tiny("dcgan", "discriminator", shape, kernel=kernel, activation="softplus")
    assert generator(inputs_of("generator", shape)).shape == (3, *shape)
    x = inputs_of("discriminator", shape).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x)
    assert (gradient != 0).all()
    sides = shape[1:]
    for _, *found in outputs_of(discriminator, nn.Conv2d, x):
        sides = [(side + kernel % 2) // 2 for side in sides]
        assert found == sides


@pytest.mark.parametrize("model", IMAGE_MODELS)
@pytest.mark.parametrize("player", PLAYERS)
def test_errors_of_sizes(model, player):
    with pytest.raises(ValueError, match=rf"model={model} is for images.*shape \(2,\): use model=mlp"):
        tiny(model, player, (2,))
    with pytest.raises(ValueError, match=f"model={model} takes images from 8x8 pixels.*28x7: use model=mlp"):
        tiny(model, player, (1, 28, 7))
    tiny(model, player, (1, 28, 30), depth=4)
    with pytest.raises(ValueError, match=r"depth: 5 halvings are too many for a side of 28 pixels.*at most 4, or null"):
        tiny(model, player, (1, 28, 30), depth=5)
    with pytest.raises(ValueError, match="normalization=instance; at most 3"):
        tiny(model, player, (1, 28, 30), depth=4, normalization="instance")


@pytest.mark.parametrize("player", PLAYERS)
def test_errors_of_the_mlps_widths(player):
    with pytest.raises(ValueError, match=r"depth: width=\[8, 4\] lists the hidden layers already; set depth to null"):
        make("mlp", player, (2,), width=[8, 4])
    with pytest.raises(ValueError, match="depth: null goes with a list of widths, but width is 8"):
        make("mlp", player, (2,), width=8, depth=None)
    with pytest.raises(ValueError, match="normalization: 'instance' is none of batch, layer, none"):
        make("mlp", player, (2,), normalization="instance")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("player", PLAYERS)
@pytest.mark.parametrize("key", ["activation", "normalization", "initialization"])
def test_errors_of_names(model, player, key):
    with pytest.raises(ValueError, match=f"{key}: 'x' is none of .*, "):
        tiny(model, player, (1, 8, 8), **{key: "x"})


def test_errors_of_other_names():
    with pytest.raises(ValueError, match="pooling: 'max' is none of sum, mean"):
        tiny("resnet", "discriminator", (1, 8, 8), pooling="max")
    with pytest.raises(ValueError, match="output_activation: 'relu' is none of tanh, sigmoid, linear"):
        tiny("mlp", "generator", (2,), output_activation="relu")
