"""The dense-deconvolution GAN: the document's architecture, its sizes, its keys."""

import typing

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from gan_runner.models import dcgan, layers
from tests.helpers.models import (
    IMAGES,
    LATENTS,
    NORMALIZATIONS,
    convolution,
    dense_deconv,
    linear,
    make,
    network_class,
    norm,
    outputs_of,
    parameters,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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
    hidden = [nn.LeakyReLU, layers.BatchNorm1d, layers.SharedDropout]
    of_map = [nn.ReLU, layers.BatchNorm2d, layers.SharedDropout]
    assert kinds == [
        layers.LatentInput, *[nn.Linear, *hidden] * 3, nn.Linear, nn.Unflatten, nn.ReLU, nn.Identity,
        layers.SharedDropout,
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
    assert kinds == [*[nn.Conv2d, nn.LeakyReLU, layers.SharedDropout] * 2, nn.Flatten]
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


@pytest.mark.parametrize(("key", "wrong"), [("dense", [256, 0]), ("momentum", 0.0), ("momentum", 1.1)])
def test_the_types_reject_wrong_values(key, wrong):
    hint = typing.get_type_hints(network_class("dense_deconv", "generator").__init__, include_extras=True)[key]
    with pytest.raises(ValueError, match="Input should be"):
        TypeAdapter(hint).validate_python(wrong, strict=True)


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


def test_the_discriminator_is_dcgans():
    assert network_class("dense_deconv", "discriminator") is dcgan.Discriminator
