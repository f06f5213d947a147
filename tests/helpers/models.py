"""The networks of conf/model, and what they are made of."""

import importlib
from pathlib import Path
from typing import Any

import torch
import yaml

from gan_runner.models import layers
from gan_runner.models.multi_scale import MultiScale
from gan_runner.models.vae import Autoencoder
from gan_runner.training.build import KEYS_OF_DISCRIMINATORS

CONF = Path(__file__).parents[2] / "conf" / "model"
LATENTS = 5
IMAGES = [(1, 8, 8), (4, 9, 8), (3, 28, 28), (2, 30, 45), (3, 17, 9), (1, 64, 48)]
NORMALIZATIONS = ["batch", "layer", "none"]


def read(model):
    config = yaml.safe_load((CONF / f"{model}.yaml").read_text())
    for key in KEYS_OF_DISCRIMINATORS:
        config.get("discriminator", {}).pop(key, None)
    return config


def network_class(model, player):
    module, name = read(model)[player]["_target_"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)


def make(model, player, shape, num_classes=0, *, latent_size=LATENTS, default_output="tanh", **keys):
    """The network of a YAML, with these keys replaced."""
    config = read(model)[player] | keys
    del config["_target_"]
    inputs = {"latent_size": latent_size, "default_output": default_output} if player == "generator" else {}
    return network_class(model, player)(shape, num_classes=num_classes, **inputs, **config)


def parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


def convolution(before, after, kernel):
    return after * before * kernel**2 + after


def norm(channels):
    return 2 * channels


def outputs_of(network, kinds, x):
    """The (C, H, W) of what every layer of these kinds yields."""
    shapes: list[tuple[int, ...]] = []
    hooks = [
        module.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape[1:])))
        for module in network.modules()
        if isinstance(module, kinds)
    ]
    network(x)
    for hook in hooks:
        hook.remove()
    return shapes


def linear(before, after):
    return before * after + after


def dense_deconv(shape, num_classes=0, **keys):
    return make("dense_deconv", "generator", shape, num_classes, **({"dense": [6, 7], "width": 2} | keys))


def autoencoder(shape, num_classes=0, *, latent_size=LATENTS, **keys):
    node = read("vae")["autoencoder"] | {"encoder_width": [8, 9], "decoder_width": [9, 8]} | keys
    del node["_target_"]
    return Autoencoder(shape, latent_size, num_classes, **node)


def multi_scale(shape, scales, num_classes=0, **keys):
    node = {"width": 4, "normalization": "none"} | keys
    return MultiScale(lambda size: make("dcgan", "discriminator", size, num_classes, **node), shape, scales)


def r3gan(player, num_classes=0, **keys):
    """Without the keys that it does not have; blocks that are the identity at the start are not."""
    network = make("r3gan", player, (2, 12, 8), num_classes, width=[4, 8], blocks=1, group_size=4)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    return network


def reconstruct(network, x, labels=None):
    """The decoder's output at the mean plus the standard deviation: every parameter takes part."""
    mean, log_variance = network.encode(x, labels)
    return network.decode(mean + (log_variance / 2).exp(), labels)


MODELS = ["mlp", "dcgan", "resnet"]
PLAYERS = ["generator", "discriminator"]
TINY = {"mlp": {"width": 8, "depth": 2}, "dcgan": {"width": 4}, "resnet": {"width": 4}}


def tiny(model, player, shape, num_classes=0, **keys):
    return make(model, player, shape, num_classes, **(TINY[model] | keys))


# Models beside these, whose networks have keys of their own; none of the generators draws noise here.
OTHERS: dict[str, dict[str, Any]] = {
    "biggan": {"width": 4, "depth": 2, "split_latents": False, "attention": 1},
    "sagan": {"width": 4, "depth": 2, "attention": 1},
    "stylegan2": {"width": 8, "style_size": 6, "noise": False, "style_mixing": 0.0},
}


def of_its_keys(model, player, shape, num_classes=0, **keys):
    """A small network of the models above, with those of these keys that its file has."""
    known = read(model)[player]
    given = {key: value for key, value in (OTHERS[model] | keys).items() if key in known}
    return make(model, player, shape, num_classes, **given)


def inputs_of(player, shape, samples=3):
    return torch.randn(samples, LATENTS) if player == "generator" else torch.randn(samples, *shape)


def normalizations(model, but=()):
    table = layers.VECTOR_NORMALIZATIONS if model == "mlp" else layers.IMAGE_NORMALIZATIONS
    return [name for name in table if name not in but]
