"""The dense-deconvolution GAN, the variational autoencoder, and discriminators at several scales."""

import importlib
import inspect
import typing
from functools import partial

import pytest
import torch
import yaml
from pydantic import TypeAdapter
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap

from gan_runner.models import dcgan, layers
from gan_runner.models.multi_scale import MultiScale, half
from gan_runner.models.vae import Autoencoder
from tests.models.test_models import CONF, convolution, make, norm, outputs_of, parameters

IMAGES = [(1, 8, 8), (4, 9, 8), (3, 28, 28), (2, 30, 45), (3, 17, 9), (1, 64, 48)]
NORMALIZATIONS = ["batch", "layer", "none"]
NODES = [("dense_deconv", "generator"), ("dense_deconv", "discriminator"), ("vae", "autoencoder")]
LATENTS = 5


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def read(model):
    config = yaml.safe_load((CONF / f"{model}.yaml").read_text())
    config.get("discriminator", {}).pop("scales", None)  # the builder's
    return config


def network_class(model, name):
    module, qualified = read(model)[name]["_target_"].rsplit(".", 1)
    return getattr(importlib.import_module(module), qualified)


def dense_deconv(shape, num_classes=0, **keys):
    return make("dense_deconv", "generator", shape, num_classes, **({"dense": [6, 7], "width": 2} | keys))


def autoencoder(shape, num_classes=0, *, latent_size=LATENTS, **keys):
    node = read("vae")["autoencoder"] | {"encoder_width": [8, 9], "decoder_width": [9, 8]} | keys
    del node["_target_"]
    return Autoencoder(shape, latent_size, num_classes, **node)


def multi_scale(shape, scales, num_classes=0, **keys):
    node = {"width": 4, "normalization": "none"} | keys
    return MultiScale(lambda size: make("dcgan", "discriminator", size, num_classes, **node), shape, scales)


def reconstruct(network, x, labels=None):
    """The decoder's output at the mean plus the standard deviation: every parameter takes part."""
    mean, log_variance = network.encode(x, labels)
    return network.decode(mean + (log_variance / 2).exp(), labels)


# --- the config


@pytest.mark.parametrize(("model", "name"), NODES)
def test_every_default_stands_in_the_yaml_and_fits_its_type(model, name):
    constructor = network_class(model, name).__init__
    keys = {k: p for k, p in inspect.signature(constructor).parameters.items() if p.kind is p.KEYWORD_ONLY}
    config = read(model)[name]
    assert list(config) == ["_target_", *keys], "the YAML lists the keys of the constructor, in its order"
    assert {p.default for p in keys.values()} == {inspect.Parameter.empty}
    hints = typing.get_type_hints(constructor, include_extras=True)
    for key in keys:
        TypeAdapter(hints[key]).validate_python(config[key], strict=True)


@pytest.mark.parametrize("model", ["dense_deconv", "vae"])
def test_the_yaml_comments_every_key(model):
    text = (CONF / f"{model}.yaml").read_text()
    assert "latent_distribution" in yaml.safe_load(text)
    lines = [line for line in text.splitlines() if ": " in line and line[0] != "#"]
    assert [line for line in lines if "#" not in line and "_target_" not in line] == []


@pytest.mark.parametrize(("key", "wrong"), [("dense", [256, 0]), ("momentum", 0.0), ("momentum", 1.1)])
def test_the_types_reject_wrong_values(key, wrong):
    hint = typing.get_type_hints(network_class("dense_deconv", "generator").__init__, include_extras=True)[key]
    with pytest.raises(ValueError, match="Input should be"):
        TypeAdapter(hint).validate_python(wrong, strict=True)


# --- the dense-deconvolution GAN


def linear(before, after):
    return before * after + after


STACK = [linear(100, 256), norm(256), linear(256, 512), norm(512), linear(512, 1024), norm(1024), linear(1024, 8192)]
FIRST = [convolution(512, 256, 4), norm(256), convolution(256, 128, 4), norm(128), convolution(128, 64, 4), norm(64)]


@pytest.mark.parametrize(
    ("side", "last", "sizes"),
    [
        (32, [convolution(64, 3, 4)], [(256, 5, 5), (128, 8, 8), (64, 16, 16), (3, 32, 32)]),
        (
            64,
            [convolution(64, 64, 4), norm(64), convolution(64, 3, 4)],
            [(256, 5, 5), (128, 8, 8), (64, 16, 16), (64, 32, 32), (3, 64, 64)],
        ),
    ],
)
def test_the_documents_generator(side, last, sizes):
    with torch.device("meta"):
        generator = make("dense_deconv", "generator", (3, side, side), latent_size=100)
        assert outputs_of(generator, nn.ConvTranspose2d, torch.randn(2, 100)) == sizes
        assert outputs_of(generator, layers.Crop, torch.randn(2, 100)) == [(256, 4, 4), (3, side, side)]
    assert parameters(generator) == sum(STACK + FIRST + last)
    momenta = [m.momentum for m in generator.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert momenta == [0.2] * (len(sizes) + 2)


def test_the_documents_order_of_layers():
    kinds = [type(layer) for layer in make("dense_deconv", "generator", (3, 16, 16), width=1).layers]
    hidden = [nn.LeakyReLU, nn.BatchNorm1d, nn.Dropout]
    of_map = [nn.ReLU, nn.BatchNorm2d, nn.Dropout]
    assert kinds == [
        layers.LatentInput, *[nn.Linear, *hidden] * 3, nn.Linear, nn.Unflatten, nn.ReLU, nn.Identity, nn.Dropout,
        nn.ConvTranspose2d, layers.Crop, *of_map, nn.ConvTranspose2d, *of_map, nn.ConvTranspose2d, layers.Crop, nn.Tanh,
    ]  # fmt: skip


def test_the_first_transposed_convolution_is_keras_same():
    """An input pixel reaches one row and column before it and two after it."""
    found = dense_deconv((1, 32, 32)).layers
    index = next(i for i, layer in enumerate(found) if isinstance(layer, nn.ConvTranspose2d))
    for pixel, reached in [(1, [True, True, True, True]), (2, [False, True, True, True])]:
        x = torch.zeros(1, 16, 4, 4)
        x[0, :, pixel, pixel] = 1
        change = (found[index : index + 2](x) - found[index].bias[:, None, None]).detach()[0, 0].abs() > 0
        assert change.shape == (4, 4)
        assert change.any(0).tolist() == change.any(1).tolist() == reached


def test_the_documents_discriminator():
    discriminator = make("dense_deconv", "discriminator", (3, 64, 64))
    assert parameters(discriminator) == convolution(3, 64, 4) + convolution(64, 128, 4) + 128 * 16 * 16 + 1
    kinds = [type(layer) for layer in discriminator.layers if not isinstance(layer, nn.Identity)]
    assert kinds == [*[nn.Conv2d, nn.LeakyReLU, nn.Dropout] * 2, nn.Flatten]
    assert [m.p for m in discriminator.modules() if isinstance(m, nn.Dropout)] == [0.3, 0.3]
    assert [m.negative_slope for m in discriminator.modules() if isinstance(m, nn.LeakyReLU)] == [0.2, 0.2]
    assert [m.stride for m in discriminator.modules() if isinstance(m, nn.Conv2d)] == [(2, 2), (2, 2)]
    x = torch.randn(2, 3, 64, 64)
    assert not torch.equal(discriminator(x), discriminator(x))


@pytest.mark.parametrize("shape", [*IMAGES, (1, 65, 65)])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_dense_deconv_shapes(shape, normalization):
    generator = dense_deconv(shape, normalization=normalization, activation="softplus")
    fake = generator(torch.randn(16, LATENTS))
    assert fake.shape == (16, *shape)
    assert (fake.std(0) > 0).all(), "no pixel is left blank"
    assert make("dense_deconv", "discriminator", shape, width=4)(fake).shape == (16,)


@pytest.mark.parametrize(("side", "stages"), [(8, 1), (9, 2), (16, 2), (17, 3), (28, 3), (32, 3), (64, 4), (65, 5)])
def test_the_depth_follows_the_size(side, stages):
    def convolutions(**keys):
        return sum(isinstance(module, nn.ConvTranspose2d) for module in dense_deconv((1, side, side), **keys).modules())

    assert convolutions() == stages + 1
    assert convolutions(depth=1) == 2


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("initialization", ["default", *layers.INITIALIZATIONS])
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_dense_deconv_options_train(normalization, initialization, activation):
    keys = {"normalization": normalization, "initialization": initialization, "dropout": 0.2}
    generator = dense_deconv((2, 17, 9), 3, activation=activation, dense_activation="tanh", **keys)
    generator(torch.randn(8, LATENTS), torch.arange(8) % 3).square().sum().backward()
    assert [name for name, parameter in generator.named_parameters() if parameter.grad is None] == []
    assert {type(module) for module in generator.modules()} >= {nn.Tanh, type(layers.ACTIVATIONS[activation]())}
    dropouts = [module.p for module in generator.modules() if isinstance(module, nn.Dropout)]
    assert dropouts == [0.2] * 5  # two dense layers, the first map, two hidden maps


def test_dense_deconv_without_dense_layers():
    generator = dense_deconv((1, 8, 8), dense=[])
    assert generator(torch.randn(3, LATENTS)).shape == (3, 1, 8, 8)
    assert parameters(generator) == (
        linear(LATENTS, 256) + convolution(16, 8, 4) + norm(8) + convolution(8, 1, 4)
    )  # fmt: skip


def test_dense_deconv_output_activation():
    def values(**keys):
        torch.manual_seed(1)
        return dense_deconv((1, 8, 8), **keys)(10 * torch.randn(4, LATENTS))

    raw = values(output_activation="linear")
    torch.testing.assert_close(values(default_output="sigmoid"), raw.sigmoid())
    torch.testing.assert_close(values(), raw.tanh())


def test_dense_deconv_errors():
    with pytest.raises(ValueError, match=r"model=dense_deconv is for images.*shape \(2,\)"):
        dense_deconv((2,))
    with pytest.raises(ValueError, match=r"model=dense_deconv takes images from 8x8 pixels.*28x7"):
        dense_deconv((1, 28, 7))
    with pytest.raises(ValueError, match="depth: 5 halvings are too many for a side of 28 pixels"):
        dense_deconv((1, 28, 30), depth=5)
    for key in ("activation", "dense_activation", "normalization", "initialization", "output_activation"):
        with pytest.raises(ValueError, match=f"{key.removeprefix('dense_')}: 'x' is none of"):
            dense_deconv((1, 8, 8), **{key: "x"})


# --- the variational autoencoder


def test_the_documents_autoencoder():
    node = read("vae")
    keys = {key: value for key, value in node["autoencoder"].items() if key != "_target_"}
    network = Autoencoder((1, 28, 28), node["latent_size"], **keys)
    assert parameters(network.encoder) == linear(784, 128) + linear(128, 256) + linear(256, 64)
    assert parameters(network.decoder) == linear(32, 256) + linear(256, 128) + linear(128, 784)
    assert parameters(network) == 100_480 + 33_024 + 16_448 + 8_448 + 32_896 + 101_136
    assert [type(layer) for layer in network.encoder if not isinstance(layer, nn.Identity | nn.Dropout)] == [
        nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear,
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(2,), (7,), (1, 5, 3), *IMAGES])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_autoencoder_shapes(shape, num_classes):
    network = autoencoder(shape, num_classes)
    labels = torch.tensor([0, 1, 2]) if num_classes else None
    mean, log_variance = network.encode(torch.randn(3, *shape), labels)
    assert mean.shape == log_variance.shape == (3, LATENTS)
    latents = torch.randn(3, LATENTS)
    assert network.decode(latents, labels).shape == (3, *shape)
    assert torch.equal(network(latents, labels), network.decode(latents, labels))


def test_autoencoder_computes_the_formula():
    """One hidden layer, by hand; the output is linear."""
    network = autoencoder((1, 2, 3), latent_size=4, encoder_width=[8], decoder_width=[7], activation="tanh")
    x, z = torch.randn(5, 1, 2, 3), torch.randn(5, 4)
    first, last = network.encoder[0], network.encoder[-1]
    both = (x.reshape(5, 6) @ first.weight.T + first.bias).tanh() @ last.weight.T + last.bias
    mean, log_variance = network.encode(x)
    torch.testing.assert_close(mean, both[:, :4])
    torch.testing.assert_close(log_variance, both[:, 4:])
    first, last = network.decoder[0], network.decoder[-1]
    out = (z @ first.weight.T + first.bias).tanh() @ last.weight.T + last.bias
    torch.testing.assert_close(network.decode(z), out.reshape(5, 1, 2, 3))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("initialization", ["default", *layers.INITIALIZATIONS])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_autoencoder_options_train(normalization, initialization, dropout):
    network = autoencoder((1, 5, 4), 3, normalization=normalization, initialization=initialization, dropout=dropout)
    x, labels = torch.randn(6, 1, 5, 4), torch.arange(6) % 3
    reconstruct(network, x, labels).square().sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []
    assert torch.equal(reconstruct(network, x, labels), reconstruct(network, x, labels)) == (dropout == 0)
    assert [module.p for module in network.modules() if isinstance(module, nn.Dropout)] == [dropout] * 4


def test_autoencoder_without_hidden_layers_is_linear():
    network = autoencoder((2,), encoder_width=[], decoder_width=[])
    assert parameters(network) == linear(2, 2 * LATENTS) + linear(LATENTS, 2)


def test_autoencoder_errors():
    for key in ("activation", "normalization", "initialization"):
        with pytest.raises(ValueError, match=f"{key}: 'x' is none of"):
            autoencoder((2,), **{key: "x"})


# --- both: classes, second derivatives, stacking, no reads from the device


BOTH = {
    "generator": (partial(dense_deconv, (2, 9, 8)), lambda network: network, (LATENTS,)),
    "reconstruction": (partial(autoencoder, (2, 9, 8)), lambda network: partial(reconstruct, network), (2, 9, 8)),
    "decoder": (partial(autoencoder, (2, 9, 8)), lambda network: network, (LATENTS,)),
    "multi_scale": (partial(multi_scale, (2, 17, 16), 2), lambda network: network, (2, 17, 16)),
}


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_label_matters_to_its_sample_only(name, normalization):
    build, call, shape = BOTH[name]
    network = build(3, normalization=normalization, initialization="he").eval()
    x = torch.randn(3, *shape)
    change = call(network)(x, torch.tensor([0, 1, 2])) - call(network)(x, torch.tensor([0, 1, 1]))
    change = change.reshape(3, -1).abs().amax(1)
    assert change[2] > 1e-5
    assert (change[:2] < 1e-6).all()
    with pytest.raises(ValueError, match="labels: a conditional network"):
        call(network)(x)


@pytest.mark.parametrize("name", BOTH)
def test_unconditional_networks_ignore_labels(name):
    build, call, shape = BOTH[name]
    network = build().eval()
    x = torch.randn(3, *shape)
    torch.testing.assert_close(call(network)(x, torch.tensor([0, 1, 2])), call(network)(x))


def test_the_label_reaches_encoder_and_decoder():
    network, labels = autoencoder((2,), 3), torch.tensor([0, 1, 2])
    x, z = torch.randn(3, 2), torch.randn(3, LATENTS)
    assert not torch.allclose(network.encode(x, labels)[0][0], network.encode(x, labels.flip(0))[0][0])
    assert not torch.allclose(network.decode(z, labels)[0], network.decode(z, labels.flip(0))[0])


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_double_backward(name, normalization):
    build, call, shape = BOTH[name]
    network = build(3, normalization=normalization, activation="softplus", initialization="he")
    x = torch.randn(3, *shape, requires_grad=True)
    output = call(network)(x, torch.tensor([0, 1, 2]))
    (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    (gradient.square().sum() + output.sum()).backward()
    missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert [key for key in missing if name != "decoder" or not key.startswith("encoder")] == []
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", ["generator", "decoder", "multi_scale"])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_vmap_over_stacked_networks(name, normalization):
    build, _, shape = BOTH[name]
    networks = [build(3, normalization=normalization) for _ in range(3)]
    x, labels = torch.randn(3, *shape), torch.tensor([0, 1, 2])
    state = stack_module_state(networks)
    together = vmap(lambda state: functional_call(networks[0], state, (x, labels)))(state)
    torch.testing.assert_close(together, torch.stack([network(x, labels) for network in networks]))


@pytest.mark.parametrize("name", BOTH)
def test_no_reads_from_the_device(name):
    build, call, shape = BOTH[name]
    with FakeTensorMode():
        network = build(3, normalization="batch", dropout=0.1)
        call(network)(torch.randn(3, *shape), torch.tensor([0, 1, 2])).sum().backward()


# --- several scales


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


def test_the_discriminator_is_dcgans():
    assert network_class("dense_deconv", "discriminator") is dcgan.Discriminator
