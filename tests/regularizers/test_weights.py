"""What is done to weights and their gradients: projections, gradient transforms, wrappers, the moving average."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from gan_runner.models.layers import ConditionalBatchNorm2d
from gan_runner.regularizers.gradient_clip import gradient_clip
from gan_runner.regularizers.projections import weight_clip
from gan_runner.regularizers.spectral_norm import SpectralNorm, spectral_norm
from gan_runner.torch_utils.ema import MovingAverage
from gan_runner.torch_utils.parameters import gradient_norm, kernels, per_run


def some(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_network(seed: int = 0) -> nn.Sequential:
    """Images (N, 2, 4, 4) -> (N,)."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.LayerNorm([3, 4, 4]), nn.Tanh(), nn.Flatten(), nn.Linear(48, 1), nn.Flatten(0)
    )


class Stacked(nn.Module):
    """Parameters of several runs, with gradients."""

    run_axes = 1

    def __init__(self, networks: list[nn.Sequential]):
        super().__init__()
        pairs = list(zip(*(network.parameters() for network in networks), strict=True))
        self.all = nn.ParameterList(torch.stack([p.detach() for p in pair]) for pair in pairs)
        for parameter, pair in zip(self.all, pairs, strict=True):
            parameter.grad = torch.stack([p.grad for p in pair if p.grad is not None])


def with_gradients(scale: float, seed: int = 0) -> nn.Sequential:
    network = small_network(seed)
    (scale * network(some(5, 2, 4, 4, seed=seed)).square().sum()).backward()
    return network


# --- parameters -------------------------------------------------------------------------------------------------------


def test_kernels_are_neither_biases_nor_normalizations():
    class Own(nn.Module):
        is_normalization = True

        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

    network = nn.ModuleDict(
        {
            "linear": nn.Linear(2, 3),
            "nested": nn.Sequential(nn.ConvTranspose2d(2, 3, 4), nn.BatchNorm2d(3), nn.PReLU()),
            "conditional": ConditionalBatchNorm2d(3, num_classes=4),
            "layer": nn.LayerNorm([2, 2]),
            "embedding": nn.Embedding(5, 2),
            "own": Own(),
        }
    )
    expected = [(3, 2), (2, 3, 4, 4), (5, 2)]
    assert [tuple(kernel.shape) for kernel in kernels(network)] == expected
    assert [tuple(kernel.shape) for kernel in kernels(spectral_norm(network, iterations=1))] == expected


def test_per_run():
    stacked = Stacked([with_gradients(1.0, seed) for seed in range(3)])
    assert [tuple(per_run(p, stacked).shape) for p in stacked.all] == [(3, size) for size in (54, 3, 48, 48, 48, 1)]
    scalars = nn.Module()
    scalars.run_axes = 1  # type: ignore[assignment]
    assert per_run(torch.zeros(3), scalars).shape == (3, 1)
    assert per_run(torch.zeros(()), nn.Module()).shape == (1,)


# --- projections ------------------------------------------------------------------------------------------------------


def test_weight_clip():
    network = small_network()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    assert any((parameter.abs() > 0.05).any() for parameter in before)
    weight_clip(network, bound=0.05)
    for parameter, old in zip(network.parameters(), before, strict=True):  # biases and normalization too, as the paper
        assert parameter.equal(old.clip(-0.05, 0.05))
        assert parameter.requires_grad
        assert parameter.is_leaf


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [1e-3, 1e3], ids=["below", "above"])
@pytest.mark.parametrize(("norm", "value"), [(1.0, None), (None, 0.1), (0.5, 0.1), (None, None)])
def test_gradient_clip_is_torch_s(scale, norm, value):
    ours, torch_s = with_gradients(scale), with_gradients(scale)
    if value is not None:
        clip_grad_value_(torch_s.parameters(), value)
    if norm is not None:
        clip_grad_norm_(torch_s.parameters(), norm)
    gradient_clip(ours, norm=norm, value=value)
    for a, b in zip(ours.parameters(), torch_s.parameters(), strict=True):
        assert a.grad is not None
        torch.testing.assert_close(a.grad, b.grad)
    if norm is not None and scale > 1:
        assert gradient_norm(ours).item() == pytest.approx(norm, rel=1e-4)


def test_gradient_norm_skips_what_has_no_gradient():
    network = with_gradients(1.0)
    everything = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
    torch.testing.assert_close(gradient_norm(network), everything.norm())
    bias: Any = network[0].bias
    without = (gradient_norm(network).square() - bias.grad.square().sum()).sqrt()
    bias.grad = None
    torch.testing.assert_close(gradient_norm(network), without)


@pytest.mark.parametrize(("norm", "value"), [(1.0, None), (0.5, 0.1)])
def test_gradient_clip_of_stacked_runs_equals_the_loop(norm, value):
    networks = [with_gradients(scale, seed) for seed, scale in enumerate([1e-3, 1.0, 1e3])]
    stacked = Stacked(networks)
    torch.testing.assert_close(gradient_norm(stacked), torch.stack([gradient_norm(network) for network in networks]))
    gradient_clip(stacked, norm=norm, value=value)
    for network in networks:
        gradient_clip(network, norm=norm, value=value)
    expected = Stacked(networks)
    for parameter, other in zip(stacked.all, expected.all, strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)


# --- spectral normalization -------------------------------------------------------------------------------------------


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
    return torch.zeros(shape, dtype=torch.long) if len(shape) == 1 else some(*shape)


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
        layer(some(8, 20, seed=step)).square().mean().backward()
        optimizer.step()
    for _ in range(5):
        layer(some(8, 20))
    assert singular_value(layer.weight) == pytest.approx(1, abs=0.02)


def test_more_iterations_are_nearer():
    layers = [normalized(lambda: nn.Linear(40, 40), iterations) for iterations in (1, 30)]
    errors = []
    for layer in layers:
        with torch.no_grad():
            layer.parametrizations.weight.original.copy_(some(40, 40, seed=9))
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
    outputs = [network(some(3, 2, 4, 4)) for _ in range(3)]
    assert all(output.equal(outputs[0]) for output in outputs)
    assert all(buffer.equal(before[name]) for name, buffer in network.named_buffers())
    network.train()(some(3, 2, 4, 4))
    assert not any(buffer.equal(before[name]) for name, buffer in network[0].named_buffers(prefix="0"))


@pytest.mark.parametrize("training", [True, False])
def test_two_forward_passes_then_one_backward(training):
    """Real, then fake: the second pass writes the buffers that the first one used."""
    network = spectral_network().train(training)
    (network(some(3, 2, 4, 4)).sum() - network.train()(some(3, 2, 4, 4, seed=1)).sum()).backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_gradient_of_the_normalized_weight():
    """W / (uᵀ W v) with u and v held fixed: Miyato et al. 2018, equation 12."""
    layer = normalized(lambda: nn.Linear(5, 4)).double().eval()
    norm = layer.parametrizations.weight[0]
    assert torch.autograd.gradcheck(norm, some(4, 5).double().requires_grad_())
    assert torch.autograd.gradgradcheck(norm, some(4, 5).double().requires_grad_())
    weight, upstream = some(4, 5).double().requires_grad_(), some(4, 5, seed=1).double()
    (gradient,) = torch.autograd.grad(norm(weight), weight, upstream)
    sigma = norm.left @ weight @ norm.right
    direction = torch.outer(norm.left, norm.right)
    torch.testing.assert_close(gradient, (upstream - (upstream * weight / sigma).sum() * direction) / sigma)


def test_double_backward():
    """A gradient penalty through a normalized discriminator in training."""
    network, samples = spectral_network(), some(3, 2, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(network(samples).sum(), samples, create_graph=True)
    network(some(3, 2, 4, 4, seed=1))  # the buffers move on
    slope.square().sum().backward()
    for name, parameter in network.named_parameters():
        if name.endswith("original"):
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_deepcopy_and_state_dict():
    network, inputs = spectral_network(), some(3, 2, 4, 4)
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
    inputs = some(3, 5, 2, 4, 4)
    parameters, state = stack_module_state(networks)
    first = {name: buffer.clone() for name, buffer in state.items()}
    skeleton = networks[0]

    def logits(parameters: dict[str, Tensor], state: dict[str, Tensor], inputs: Tensor) -> Tensor:
        return functional_call(skeleton, (parameters, state), (inputs,))

    outputs = vmap(logits)(parameters, state, inputs)
    outputs.sum().backward()
    for name in ("left", "right"):  # of the convolution; those of the linear layer, one row, are exact from the start
        assert not state[f"0.parametrizations.weight.0.{name}"].equal(first[f"0.parametrizations.weight.0.{name}"])
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
            layer(some(2, 64))
        weight = layer.weight
    assert singular_value(weight) == pytest.approx(1, abs=2e-4)


# --- moving average ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("half_life", "images"), [(1000.0, 50), (640.0, 64)])
def test_half_life(half_life, images):
    """The distance to weights that stand still halves with every half-life of images."""
    source = nn.Linear(3, 2)
    average = MovingAverage.of(source, half_life, images)
    start = [parameter.clone() for parameter in average.network.parameters()]
    goal = [some(*parameter.shape, seed=7) for parameter in source.parameters()]
    with torch.no_grad():
        for parameter, value in zip(source.parameters(), goal, strict=True):
            parameter.copy_(value)
    for halvings in (1, 2, 3):
        for _ in range(int(half_life / images)):
            average.update()
        for parameter, first, last in zip(average.network.parameters(), start, goal, strict=True):
            torch.testing.assert_close(parameter, last + (first - last) / 2**halvings)


def test_each_update_is_one_convex_step():
    source = nn.Linear(3, 2)
    average = MovingAverage.of(source, half_life=100, images_per_update=100)  # a rate of 1/2
    with torch.no_grad():
        source.weight.fill_(1)
    before = [parameter.clone() for parameter in average.network.parameters()]
    average.update()
    for parameter, old, new in zip(average.network.parameters(), before, source.parameters(), strict=True):
        torch.testing.assert_close(parameter, (old + new) / 2)


def test_moving_average_copies_buffers_and_leaves_its_source():
    source = spectral_norm(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), iterations=1)
    average = MovingAverage.of(source, half_life=1000, images_per_update=10)
    for step in range(3):
        source(some(8, 4, seed=step)).sum().backward()
    before = copy.deepcopy(source.state_dict())
    average.update()
    assert all(value.equal(before[name]) for name, value in source.state_dict().items())
    assert source.training
    assert all(parameter.requires_grad for parameter in source.parameters())
    assert [name for name, _ in average.network.named_buffers()] == [name for name, _ in source.named_buffers()]
    for copied, buffer in zip(average.network.buffers(), source.buffers(), strict=True):
        assert copied.equal(buffer)
        assert copied is not buffer
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    average.network(some(8, 4))  # in evaluation: its own buffers stand still, and the source's do
    assert all(value.equal(before[name]) for name, value in source.state_dict().items())
    assert all(copied.equal(buffer) for copied, buffer in zip(average.network.buffers(), source.buffers(), strict=True))
