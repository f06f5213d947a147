"""The gradient at the samples, differentiated in the weights: against PyTorch's own, and what it costs."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_runner.games import adversarial
from gan_runner.regularizers import penalties
from gan_runner.torch_utils.double_backward import gradient_at
from gan_runner.torch_utils.parameters import gradients
from gan_runner.torch_utils.stacked_network import StackedNetwork
from gan_runner.training.build import build
from tests.benchmarks.roofline import count_flops
from tests.helpers import compose, some

CONVOLUTIONS = {
    "stride": {"kernel_size": 4, "stride": 2, "padding": 1},
    "a row left over": {"kernel_size": 3, "stride": 2, "padding": (0, 1)},
    "dilation": {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 1},
    "groups": {"kernel_size": (3, 2), "stride": (3, 1), "groups": 2, "padding": 1},
    "same": {"kernel_size": 3, "padding": "same"},
    "same, uneven": {"kernel_size": (4, 2), "padding": "same", "dilation": (1, 3)},
    "one number": {"kernel_size": 3, "stride": (2,), "padding": [1], "dilation": np.int64(1)},
    "reflect": {"kernel_size": 3, "padding": 1, "padding_mode": "reflect", "bias": False},
}
ACTIVATIONS = {
    "relu": nn.ReLU(),
    "leaky": nn.LeakyReLU(0.2),
    "relu in place": nn.ReLU(inplace=True),
    "leaky in place": nn.LeakyReLU(0.2, inplace=True),
    "tanh": nn.Tanh(),
}
NORMALIZATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "layer": lambda channels: nn.GroupNorm(1, channels),
}


def pytorchs(samples: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """The same gradient, by PyTorch's layers."""
    samples = samples.detach().requires_grad_()
    return torch.autograd.grad(function(samples).sum(), samples, create_graph=True)[0]


def weight_gradients(
    how: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor], network: nn.Module, samples: Tensor
) -> list[Tensor]:
    """Those of (|∇D| - 1)² + D, the last of another pass; a weight that has none has zeros."""
    network.zero_grad()
    slopes = how(samples, network).flatten(1).norm(dim=1)
    ((slopes - 1).square().mean() + network(samples).mean()).backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in network.parameters()]


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("convolution", CONVOLUTIONS)
def test_is_pytorchs_gradient(convolution: str, activation: str, normalization: str) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        ACTIVATIONS[activation],
        nn.Conv2d(4, 6, **CONVOLUTIONS[convolution]),  # type: ignore[arg-type]
        NORMALIZATIONS[normalization](6),
        ACTIVATIONS[activation],
        nn.Flatten(),
        nn.LazyLinear(1),
    ).double()
    samples = torch.randn(3, 2, 11, 10).double()
    network(samples)
    ours, theirs = (weight_gradients(how, network, samples) for how in (gradient_at, pytorchs))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_values_that_take_part_as_well() -> None:
    """D |∇D|²: the value comes from the very pass that was differentiated."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(1)).double()
    samples = torch.randn(3, 2, 6, 6).double()
    found = []
    for how in (gradient_at, pytorchs):
        kept: list[Tensor] = []

        def ask(samples: Tensor, kept: list[Tensor] = kept) -> Tensor:
            kept.append(network(samples).squeeze(-1))
            return kept[0]

        network.zero_grad()
        slopes = how(samples, ask).flatten(1).square().sum(1)
        (kept[0] * slopes).sum().backward()
        found.append([parameter.grad for parameter in network.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("activation", ["relu", "leaky", "relu in place", "leaky in place"])
def test_costs_four_forward_passes(activation: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 8, 4, 2, 1), ACTIVATIONS[activation], nn.Conv2d(8, 16, 4, 2, 1), ACTIVATIONS[activation],
        nn.Flatten(), nn.Linear(16 * 16, 1),
    )  # fmt: skip
    samples = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        forward = count_flops(lambda: network(samples))
    ours, theirs = (
        count_flops(lambda how=how: how(samples, network).square().sum().backward())  # type: ignore[misc]
        for how in (gradient_at, pytorchs)
    )
    assert ours == pytest.approx(4 * forward, rel=0.01)
    assert theirs > 5.5 * forward, "PyTorch has learnt it: this module can go"


@pytest.mark.parametrize(
    "words",
    [
        ["model=mlp", "dataset=ring", "metric=none"],
        ["model=dcgan", "model.discriminator.scales=2", "dataset.image_size=16", "+regularizer=spectral_norm"],
        ["model=dcgan", "model.discriminator.normalization=layer", "model.discriminator.activation=relu"],
        ["model=resnet", "model.discriminator.width=4", "model.generator.width=4", "conditional=true"],
    ],
    ids=" ".join,
)
def test_is_pytorchs_in_a_step(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The gradient that the discriminator's only turn leaves, weight by weight."""
    found = []
    for how in (gradient_at, pytorchs):
        monkeypatch.setattr(penalties, "gradient_at", how)
        game = build(compose(*words, "loss=wgan_gp", "discriminator_steps=1", "batch_size=8", "device=cpu"), []).game
        game.step(0)
        found.append(gradients(game.players["discriminator"].network))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()
    assert torch.stack([theirs.norm() for theirs in found[1]]).norm() > 1


@pytest.mark.parametrize("precision", some(["fp32", "bf16"], every=2))
@pytest.mark.parametrize("penalty", some(["r1", "r2", "adversarial_perturbation"], every=3))
def test_a_turn_at_the_samples_of_the_loss(penalty: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradient is PyTorch's in float32, which in bfloat16 on a CPU may be wrong by 100 %."""
    words = ["model=resnet", "model.discriminator.depth=1", "model.generator.depth=1", "batch_size=8", "device=cpu"]
    words += ["loss=hinge", f"regularizer={penalty}", "metric=none"]
    found = []
    for own in (f"precision={precision}", "precision=fp32"):
        game = build(compose(*words, own), []).game
        game.step(0)
        found.append(gradients(game.players["discriminator"].network))
        monkeypatch.setattr(adversarial, "Layers", contextlib.nullcontext)
    limit = {"fp32": 1e-5, "bf16": 0.15}[precision]
    for ours, exact in zip(*found, strict=True):
        assert (ours - exact).norm() <= limit * exact.norm()
    assert torch.stack([exact.norm() for exact in found[1]]).norm() > 0.1


def test_in_bfloat16() -> None:
    """With a batch of 8 on maps of 8 x 8, where oneDNN is wrong by 100 % in PyTorch's own double backward pass."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 64, 1),
    )  # fmt: skip
    samples = torch.randn(8, 3, 8, 8)
    exact = weight_gradients(pytorchs, network, samples)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = weight_gradients(gradient_at, network, samples)
    for one, other in zip(rounded, exact, strict=True):
        assert (one - other).norm() < 0.15 * other.norm()


class Dynamic(nn.Module):
    """Its kernels and biases depend on the samples, as in attention over kernels, and are used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.Parameter(torch.randn(2, 3, 3, 3, 3))
        self.frozen = nn.Parameter(torch.randn(3, 3, 1, 1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        share = x.mean().sigmoid()
        kernel = share * self.kernels[0] + (1 - share) * self.kernels[1]
        once = F.relu(F.conv2d(x, weight=kernel, bias=kernel.sum((1, 2, 3)), padding=[1, 1]))
        again = F.leaky_relu(F.conv2d(once, kernel / kernel.norm(), stride=2), 0.1)
        return F.conv2d(again, self.frozen, padding="valid").square().flatten(1).sum(1)


class Overwriting(nn.Module):
    """What ReLU and a residual connection may overwrite, and a complex convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
        self.spectral = nn.Parameter(torch.randn(3, 3, 1, 1, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        h = self.convolutions[0](x)
        h += self.convolutions[1](F.relu(h))
        waves = F.conv2d(torch.fft.fft2(h), self.spectral)
        return F.leaky_relu(waves.abs(), np.float32(0.1)).flatten(1).sum(1)  # type: ignore[arg-type]


class InPlace(nn.Module):
    """An activation whose result is found where its input was, on the residual path as well."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        first, second, third = self.convolutions
        h = first(x)
        F.relu(h, inplace=True)
        h = h + second(h)
        h = third(F.leaky_relu(h, 0.2, inplace=True)) + h
        return h.square().flatten(1).sum(1)


@pytest.mark.parametrize("make", [Dynamic, Overwriting, InPlace])
def test_is_pytorchs_gradient_of_unusual_networks(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network, samples = make().double(), torch.randn(3, 3, 7, 6).double()
    ours, theirs = (weight_gradients(how, network, samples) for how in (gradient_at, pytorchs))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_stacked_networks_in_place() -> None:
    torch.manual_seed(0)
    networks, samples = [InPlace().double() for _ in range(3)], torch.randn(3, 4, 3, 5, 5).double()
    alone = [weight_gradients(pytorchs, network, own) for network, own in zip(networks, samples, strict=True)]
    stacked = StackedNetwork(networks)
    slopes = gradient_at(samples, stacked).flatten(2).norm(dim=2)
    ((slopes - 1).square().mean(1) + stacked(samples).mean(1)).sum().backward()
    together = [parameter.grad for parameter in stacked.parameters()]
    torch.testing.assert_close(together, [torch.stack(each) for each in zip(*alone, strict=True)])


class InFullPrecision(nn.Module):
    """A discriminator, or a part of one, that keeps out of autocast."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return self.network(x)


@pytest.mark.parametrize("how_exact", ["without autocast", "float64"])
def test_what_autocast_leaves_alone(how_exact: str) -> None:
    torch.manual_seed(0)
    network: nn.Module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten())
    samples = torch.randn(8, 3, 8, 8)
    if how_exact == "float64":
        network, samples = network.double(), samples.double()
    exact = weight_gradients(pytorchs, network, samples)
    with torch.autocast("cpu", torch.bfloat16):
        wrapped = network if how_exact == "float64" else InFullPrecision(network)
        found = weight_gradients(gradient_at, wrapped, samples)
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-5)


def test_gradients_of_a_higher_order() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.Tanh(), nn.Flatten()).double()
    samples, weights = torch.randn(3, 2, 6, 6).double(), list(network.parameters())
    found = []
    for how in (gradient_at, pytorchs):
        penalty = how(samples, network).square().sum()
        second = torch.autograd.grad(penalty, weights, create_graph=True, materialize_grads=True)
        squares = torch.stack([each.square().sum() for each in second]).sum()
        found.append(torch.autograd.grad(squares, weights, materialize_grads=True))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-12)
