"""Spectral normalization: the largest singular value, its derivative, its buffers."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from gan_runner.regularizers.spectral_norm import SpectralNorm, spectral_norm
from gan_runner.torch_utils.stacked_network import StackedNetwork
from tests.helpers.networks import floats, small_network


def normalized(make: Callable[[], nn.Module], iterations: int = 1) -> Any:
    torch.manual_seed(0)
    return spectral_norm(make(), iterations=iterations)


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {  # a layer and its input
    "linear": (lambda: nn.Linear(20, 12), (3, 20)),
    "wide": (lambda: nn.Linear(30, 1), (3, 30)),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), (3, 4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), (3, 4, 5, 5)),
    "embedding": (lambda: nn.Embedding(7, 5), (3,)),
}


def an_input(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.long) if len(shape) == 1 else floats(*shape)


def singular_value(weight: Tensor) -> float:
    """The largest, of the matrix (outputs, inputs)."""
    return float(np.linalg.svd(weight.detach().flatten(1).numpy(), compute_uv=False)[0])


@pytest.mark.parametrize("name", LAYERS)
def test_largest_singular_value_is_one(name):
    make, shape = LAYERS[name]
    layer = normalized(make)
    original = layer.parametrizations.weight.original
    with torch.no_grad():
        for _ in range(300):
            layer(an_input(*shape))
    layer.eval()
    assert singular_value(layer.weight) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(layer.weight, original / singular_value(original))


def test_it_follows_weights_that_change():
    """One iteration at each forward pass in training is enough when the weights move little."""
    layer = normalized(lambda: nn.Linear(20, 12))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    for step in range(300):
        optimizer.zero_grad()
        layer(floats(8, 20, seed=step)).square().mean().backward()
        optimizer.step()
    for _ in range(5):
        layer(floats(8, 20))
    assert singular_value(layer.weight) == pytest.approx(1, abs=0.02)


def test_more_iterations_are_nearer():
    layers = [normalized(lambda: nn.Linear(40, 40), iterations) for iterations in (1, 30)]
    errors = []
    for layer in layers:
        with torch.no_grad():
            layer.parametrizations.weight.original.copy_(floats(40, 40, seed=9))
        errors.append(abs(singular_value(layer.weight) - 1))
    assert errors[1] < errors[0] / 3


def spectral_network(seed: int = 0) -> nn.Sequential:
    """Images (N, 2, 4, 4) -> (N,), normalized."""
    network = small_network(seed)
    assert spectral_norm(network, iterations=1) is network
    return network


def buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def test_only_weights_are_wrapped_and_no_random_number_is_drawn():
    state = torch.get_rng_state()
    network = spectral_network()
    torch.set_rng_state(state)
    small_network()
    after = torch.get_rng_state()
    torch.set_rng_state(state)
    spectral_network()
    assert torch.get_rng_state().equal(after)
    wrapped = [name for name, module in network.named_modules() if isinstance(module, SpectralNorm)]
    assert wrapped == ["0.parametrizations.weight.0", "4.parametrizations.weight.0"]


def test_evaluation_leaves_the_buffers():
    network = spectral_network().eval()
    before = buffers(network)
    outputs = [network(floats(3, 2, 4, 4)) for _ in range(3)]
    assert all(output.equal(outputs[0]) for output in outputs)
    assert all(buffer.equal(before[name]) for name, buffer in network.named_buffers())
    network.train()(floats(3, 2, 4, 4))
    assert not any(buffer.equal(before[name]) for name, buffer in network[0].named_buffers(prefix="0"))


@pytest.mark.parametrize("training", [True, False])
def test_two_forward_passes_then_one_backward(training):
    """Real, then fake: the second pass writes the buffers that the first one used."""
    network = spectral_network().train(training)
    (network(floats(3, 2, 4, 4)).sum() - network.train()(floats(3, 2, 4, 4, seed=1)).sum()).backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_gradient_of_the_normalized_weight():
    """W / (uᵀ W v) with u and v held fixed: Miyato et al. 2018, equation 12."""
    layer = normalized(lambda: nn.Linear(5, 4)).double().eval()
    norm = layer.parametrizations.weight[0]
    assert torch.autograd.gradcheck(norm, floats(4, 5).double().requires_grad_())
    assert torch.autograd.gradgradcheck(norm, floats(4, 5).double().requires_grad_())
    weight, upstream = floats(4, 5).double().requires_grad_(), floats(4, 5, seed=1).double()
    (gradient,) = torch.autograd.grad(norm(weight), weight, upstream)
    left = F.normalize(weight @ norm.right, dim=0)
    sigma = left @ weight @ norm.right
    direction = torch.outer(left, norm.right)
    torch.testing.assert_close(gradient, (upstream - (upstream * weight / sigma).sum() * direction) / sigma)


def test_double_backward():
    """A gradient penalty through a normalized discriminator in training."""
    network, samples = spectral_network(), floats(3, 2, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(network(samples).sum(), samples, create_graph=True)
    network(floats(3, 2, 4, 4, seed=1))  # the buffers move on
    slope.square().sum().backward()
    for name, parameter in network.named_parameters():
        if name.endswith("original"):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_a_state_of_version_0_1():
    """Which had the left singular vectors too."""
    network, inputs = spectral_network(), floats(3, 2, 4, 4)
    network(inputs)
    state = network.state_dict()
    left = {name.replace("right", "left"): torch.zeros(1) for name in state if name.endswith("right")}
    assert len(left) == 2
    loaded = spectral_network(seed=1)
    loaded.load_state_dict(state | left)
    assert loaded.eval()(inputs).equal(network.eval()(inputs))


def test_deepcopy_and_state_dict():
    network, inputs = spectral_network(), floats(3, 2, 4, 4)
    network(inputs)
    copied = copy.deepcopy(network)
    loaded = spectral_network(seed=1)
    loaded.load_state_dict(network.state_dict())
    before = buffers(network)
    evaluated, first, second = network.eval()(inputs), network.train()(inputs), network(inputs)
    assert not first.equal(second)
    for other in (copied, loaded):
        assert all(buffer.equal(before[name]) for name, buffer in other.named_buffers())
        assert other.eval()(inputs).equal(evaluated)
        assert other.train()(inputs).equal(first)
        assert other(inputs).equal(second)
    before = buffers(network)
    copied(inputs)
    assert all(buffer.equal(before[name]) for name, buffer in network.named_buffers())


def test_stacked_runs_equal_the_loop():
    """Under functional_call and vmap each run has its own singular vectors, advanced in its own buffers."""
    networks = [spectral_network(seed) for seed in range(3)]
    inputs = floats(3, 5, 2, 4, 4)
    parameters, state = stack_module_state(networks)
    first = {name: buffer.clone() for name, buffer in state.items()}
    skeleton = networks[0]

    def logits(parameters: dict[str, Tensor], state: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(skeleton, (parameters, state), (inputs,))

    outputs = vmap(logits)(parameters, state, inputs)
    outputs.sum().backward()
    of_convolution = "0.parametrizations.weight.0.right"  # that of the linear layer, one row, is exact from the start
    assert not state[of_convolution].equal(first[of_convolution])
    own = [buffers(network) for network in networks]
    for run, network in enumerate(networks):
        assert all(buffer.equal(own[run][name]) for name, buffer in network.named_buffers())  # untouched so far
        expected = network(inputs[run])
        expected.sum().backward()
        torch.testing.assert_close(outputs[run], expected)
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(state[name][run], buffer)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameters[name].grad[run], parameter.grad)


def test_spectral_norm_under_autocast_is_in_float32():
    layer = normalized(lambda: nn.Linear(64, 64))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        for _ in range(300):
            layer(floats(2, 64))
        weight = layer.weight
    assert singular_value(weight) == pytest.approx(1, abs=2e-4)


class EqualLayers(nn.Sequential):
    """Samples (N, 6) -> (N, 6), as a discriminator is called."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(6, 6) for _ in range(4)))

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        return super().forward(samples)


def equal_layers(seed: int = 0) -> nn.Module:
    """Layers of one shape, normalized."""
    torch.manual_seed(seed)
    return spectral_norm(EqualLayers(), iterations=2)


@pytest.mark.parametrize("is_copied", [False, True])
def test_layers_of_one_shape_together(is_copied):
    """The same as one by one: values, gradients and buffers, in training and after it."""
    together, single = equal_layers(), equal_layers()
    if is_copied:  # its hooks are about its own layers
        together = copy.deepcopy(together)
    single._forward_pre_hooks.clear()
    assert len(together._forward_pre_hooks) == 1
    for step in range(3):
        for network in (together, single):
            network.zero_grad()
            inputs = floats(3, 6, seed=step).requires_grad_()
            (slope,) = torch.autograd.grad(network(inputs).square().sum(), inputs, create_graph=True)
            slope.square().sum().backward()
        for one, other in zip(together.parameters(), single.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        torch.testing.assert_close(buffers(together), buffers(single))
    assert not any(getattr(module, "ahead", None) is not None for module in together.modules())
    torch.testing.assert_close(together.eval()(inputs), single.eval()(inputs))


def test_a_pass_that_fails_leaves_no_weights_behind():
    network = equal_layers()
    with pytest.raises(RuntimeError):
        network(floats(3, 7))
    assert not any(getattr(module, "ahead", None) is not None for module in network.modules())


def test_stacked_layers_of_one_shape():
    networks, alone = ([equal_layers(seed) for seed in range(3)] for _ in range(2))
    inputs, stacked = floats(3, 5, 6), StackedNetwork(networks)
    outputs = stacked(inputs)
    outputs.square().sum().backward()
    for run, network in enumerate(alone):
        expected = network(inputs[run])
        torch.testing.assert_close(outputs[run], expected)
        expected.square().sum().backward()
        torch.testing.assert_close(buffers(networks[run]), buffers(network))
    for parameter, *parts in zip(stacked.parameters(), *(network.parameters() for network in alone), strict=True):
        torch.testing.assert_close(parameter.grad, torch.stack([part.grad for part in parts]))
