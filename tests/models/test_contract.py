"""What every network does: its keys, classes, second derivatives, stacking, no reads from the device."""

import typing
from functools import partial

import pytest
import torch
from pydantic import TypeAdapter
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, stack_module_state, vmap

from tests.helpers.models import (
    LATENTS,
    NORMALIZATIONS,
    autoencoder,
    dense_deconv,
    multi_scale,
    network_class,
    reconstruct,
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(("key", "wrong"), [("dense", [256, 0]), ("momentum", 0.0), ("momentum", 1.1)])
def test_the_types_reject_wrong_values(key, wrong):
    hint = typing.get_type_hints(network_class("dense_deconv", "generator").__init__, include_extras=True)[key]
    with pytest.raises(ValueError, match="Input should be"):
        TypeAdapter(hint).validate_python(wrong, strict=True)


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
