"""The variational autoencoder: the document's architecture, its sizes, its keys."""

import pytest
import torch
from torch import nn

from gan_runner.models import layers
from gan_runner.models.vae import Autoencoder
from tests.helpers.models import IMAGES, LATENTS, NORMALIZATIONS, autoencoder, linear, parameters, read, reconstruct


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


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


def test_the_label_reaches_encoder_and_decoder():
    network, labels = autoencoder((2,), 3), torch.tensor([0, 1, 2])
    x, z = torch.randn(3, 2), torch.randn(3, LATENTS)
    assert not torch.allclose(network.encode(x, labels)[0][0], network.encode(x, labels.flip(0))[0][0])
    assert not torch.allclose(network.decode(z, labels)[0], network.decode(z, labels.flip(0))[0])


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
