"""What every network of every model does: classes, second derivatives, stacking, no reads from the device."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap

from gan_runner.models import layers
from tests.helpers import naming, options, some
from tests.helpers.models import (
    LATENTS,
    MODELS,
    NORMALIZATIONS,
    OTHERS,
    PLAYERS,
    autoencoder,
    dense_deconv,
    multi_scale,
    normalizations,
    of_its_keys,
    r3gan,
    reconstruct,
    tiny,
)

Build = Callable[..., Any]  # (num_classes, **keys) -> network
NETWORKS: dict[str, tuple[Build, tuple[int, ...], list[str]]] = {  # how it is built, its input, its normalizations
    "dense_deconv generator": (partial(dense_deconv, (2, 9, 8)), (LATENTS,), NORMALIZATIONS),
    "vae reconstruction": (partial(autoencoder, (2, 9, 8)), (2, 9, 8), NORMALIZATIONS),
    "vae decoder": (partial(autoencoder, (2, 9, 8)), (LATENTS,), NORMALIZATIONS),
    "multi_scale discriminator": (partial(multi_scale, (2, 17, 16), 2), (2, 17, 16), NORMALIZATIONS),
    "r3gan generator": (partial(r3gan, "generator"), (LATENTS,), ["none"]),
    "r3gan discriminator": (partial(r3gan, "discriminator"), (2, 12, 8), ["none"]),
}
for model in MODELS:
    for player in PLAYERS:
        for shape in ((1, 8, 8), (2, 17, 9)):
            samples = (LATENTS,) if player == "generator" else shape
            build = partial(tiny, model, player, shape)
            NETWORKS[f"{model} {player} {shape}"] = (build, samples, normalizations(model))
for model in OTHERS:
    for player in PLAYERS:
        shape = (2, 17, 9)
        samples = (LATENTS,) if player == "generator" else shape
        NETWORKS[f"{model} {player} {shape}"] = (partial(of_its_keys, model, player, shape), samples, ["none"])
CASES = [(name, normalization) for name, (_, _, known) in NETWORKS.items() for normalization in known]
each_network = pytest.mark.parametrize("name", NETWORKS)
each_case = pytest.mark.parametrize(("name", "normalization"), CASES)
LABELS = torch.tensor([0, 1, 2])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def made(name: str, num_classes: int = 0, **keys: Any) -> tuple[nn.Module, Callable[..., Tensor], Tensor]:
    """A network, what is called of it, and three inputs."""
    build, samples, _ = NETWORKS[name]
    network = build(num_classes, **keys)
    call = partial(reconstruct, network) if "reconstruction" in name else network
    return network, call, torch.randn(3, *samples)


def test_every_model_is_here():
    assert {name.split()[0] for name in NETWORKS} == {*options("model"), "multi_scale"}


@each_case
def test_the_label_matters_to_its_sample_only(name, normalization):
    network, call, x = made(name, 3, normalization=normalization, initialization="he")
    for module in network.modules():
        if isinstance(module, layers.ConditionalBatchNorm2d):
            nn.init.normal_(module.gain)
    network.eval()
    change = call(x, LABELS) - call(x, torch.tensor([0, 1, 1]))
    change = change.reshape(3, -1).abs().amax(1)
    assert change[2] > 1e-5
    assert (change[:2] < 1e-6).all()
    with pytest.raises(ValueError, match=naming("labels", "conditional")):
        call(x)


@each_network
def test_unconditional_networks_ignore_labels(name):
    network, call, x = made(name)
    network.eval()
    torch.testing.assert_close(call(x, LABELS), call(x))


@each_case
def test_double_backward(name, normalization):
    network, call, x = made(name, 3, normalization=normalization, activation="softplus", initialization="he")
    output = call(x.requires_grad_(), LABELS)
    (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    (gradient.square().sum() + output.sum()).backward()
    missing = [key for key, parameter in network.named_parameters() if parameter.grad is None]
    assert [key for key in missing if name != "vae decoder" or not key.startswith("encoder")] == []
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize(("name", "normalization"), [case for case in CASES if "reconstruction" not in case[0]])
@pytest.mark.parametrize("num_classes", some([3, 0], every=2))
def test_vmap_over_stacked_networks(name, normalization, num_classes):
    networks = [made(name, num_classes, normalization=normalization)[0] for _ in range(3)]
    x = made(name)[2]
    state = stack_module_state(networks)
    together = vmap(lambda state: functional_call(networks[0], state, (x, LABELS)))(state)
    torch.testing.assert_close(together, torch.stack([network(x, LABELS) for network in networks]))


@pytest.mark.slow  # with the default normalization in the conformance suite
@each_case
def test_no_reads_from_the_device(name, normalization):
    with FakeTensorMode():
        _, call, x = made(name, 3, normalization=normalization, dropout=0.1)
        call(x, torch.tensor([0, 1, 2])).sum().backward()
