"""Several networks of one structure, evaluated as one program: copies of one run's, and those of many runs."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Stacked(nn.Module):
    """M networks of one structure: (M, N, ...) -> (M, N, ...), the m-th network for the m-th batch.

    `parameters()` and `modules()` are those of one network, each parameter with a leading axis for the M, as the
    functions of `parameters` expect. Every network has buffers of its own.
    """

    run_axes = 1

    def __init__(self, network: nn.Module, runs: int, tensors: Mapping[int, Tensor], shared: set[int]):
        """Of a network, and for each of its parameters and buffers (by `id`) their values in all networks, (M, *shape).

        Those `shared` are the same in all.
        """
        super().__init__()
        self.runs = runs
        own = [*network.parameters(), *network.buffers()]
        is_shared = [id(tensor) in shared for tensor in own]
        # deepcopy takes these for copies that it has made already, wherever it meets the originals.
        self.network = copy.deepcopy(network, dict(tensors))
        slots = [*places(self.network, "_parameters"), *places(self.network, "_buffers")]
        self.slots = [(place, name) for place, name in slots if place[name] is not None]
        self.axes = self.shared_axes(is_shared)

    def shared_axes(self, is_shared: list[bool]) -> tuple[int | None, ...]:
        """Which axis of each slot's tensor counts the networks; None for those that are the same in all."""
        first = {id(tensor): flag for tensor, flag in zip(self.tensors(), is_shared, strict=True)}
        return tuple(None if first[id(place[name])] else 0 for place, name in self.slots)

    def tensors(self) -> list[Tensor]:
        """The parameters and the buffers, each once."""
        return [*self.network.parameters(), *self.network.buffers()]

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """(M, N, ...) -> (M, N, ...); labels (M, N)."""
        return self.call("__call__", samples, labels)

    def features(self, samples: Tensor) -> Tensor:
        """What a discriminator's last layer sees: (M, N, *sample) -> (M, N, F)."""
        return self.call("features", samples)

    def encode(self, samples: Tensor, labels: Tensor | None = None) -> Any:
        """What an autoencoder's encoder makes of samples (M, N, *sample): its own tensors, each (M, N, ...)."""
        return self.call("encode", samples, labels)

    def call(self, method: str, *arguments: Tensor | None) -> Any:
        """A method of each network."""
        called = getattr(self.network, method)
        found = [place[name] for place, name in self.slots]
        tensors = [value if axis is not None else value[0] for value, axis in zip(found, self.axes, strict=True)]

        def call_one(tensors: Sequence[Tensor], *arguments: Tensor | None) -> Any:
            with self.holding(tensors):
                return called(*arguments)

        argument_axes = (None if argument is None else 0 for argument in arguments)
        return torch.vmap(call_one, (list(self.axes), *argument_axes), randomness="same")(tensors, *arguments)

    @contextmanager
    def holding(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """The network with one network's tensors in the places of the stacked ones.

        `torch.func.functional_call` does the same, and looks for the places anew at every call.
        """
        stacked = [place[name] for place, name in self.slots]
        for (place, name), tensor in zip(self.slots, tensors, strict=True):
            place[name] = tensor
        try:
            yield
        finally:
            for (place, name), tensor in zip(self.slots, stacked, strict=True):
                place[name] = tensor


class Copies(Stacked):
    """M copies of a network that differ in some of their weights.

    `weights` maps parameters of the network to their values in the copies, (M, *shape); the others are the same in all.
    Every copy has buffers of its own, so that what the copies do to BatchNorm's statistics or to the vectors of
    spectral normalization reaches neither each other nor the network. All copies see the same dropout, the one that the
    network itself would see.
    """

    def __init__(self, network: nn.Module, runs: int, weights: Mapping[nn.Parameter, Tensor]):
        own = {id(weight): weights.get(weight) for weight in network.parameters()}
        tensors = {
            id(weight): weight.detach().expand(runs, *weight.shape) if values is None else values
            for weight, values in zip(network.parameters(), own.values(), strict=True)
        }
        tensors |= {id(buffer): buffer.expand(runs, *buffer.shape).clone() for buffer in network.buffers()}
        super().__init__(network, runs, tensors, {key for key, values in own.items() if values is None})
        self.copies = runs


class Runs(Stacked):
    """The networks of M runs, whose parameters and buffers become views of the stacked ones: no second copy remains."""

    def __init__(self, networks: Sequence[nn.Module]):
        tensors: dict[int, Tensor] = {}
        for parts in zip(*(network.parameters() for network in networks), strict=True):
            stacked = stack([part.detach() for part in parts])
            tensors[id(parts[0])] = nn.Parameter(stacked, requires_grad=parts[0].requires_grad)
            for part, view in zip(parts, stacked, strict=True):
                part.data = view
        for parts in zip(*(network.buffers() for network in networks), strict=True):
            tensors[id(parts[0])] = stacked = stack(parts)
            for part, view in zip(parts, stacked, strict=True):
                part.data = view
        super().__init__(networks[0], len(networks), tensors, set())
        self.is_dense = all(is_dense(module) for module in networks[0].modules())
        if self.is_dense:
            self.network = dense(self.network)

    def call(self, method: str, *arguments: Tensor | None) -> Any:
        """A method of each network. What is made of linear layers alone takes the leading axis as it is: that is
        twice as quick as vmap, on a CPU."""
        return getattr(self.network, method)(*arguments) if self.is_dense else super().call(method, *arguments)


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """(M, *shape), contiguous."""
    return torch.stack([tensor.detach() for tensor in tensors])


def alongside(network: nn.Module, learner: nn.Module) -> nn.Module:
    """The network as the learner's opponent: itself, or beside stacked copies of a learner one equal copy for each.

    One long batch of all that the copies make would do for most networks, but BatchNorm would mix the copies in it.
    """
    return Copies(network, learner.runs, {}) if isinstance(learner, Copies) else network


def places(network: nn.Module, kind: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Where the network's tensors stand: every module's own dict, and the name there."""
    for module in network.modules():
        own = getattr(module, kind)
        yield from ((own, name) for name in own)


# --- networks of linear layers ----------------------------------------------------------------------------------------


class StackedLinear(nn.Module):
    """x (M, N, inputs) -> x_m W_mᵀ + b_m: (M, N, outputs), in one call."""

    def __init__(self, stacked: nn.Linear):
        super().__init__()
        self.weight, self.bias = stacked.weight, stacked.bias  # (M, outputs, inputs), (M, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply and add."""
        if self.bias is None:
            return torch.bmm(x, self.weight.mT)
        return torch.baddbmm(self.bias.unsqueeze(-2), x, self.weight.mT)


class StackedLayerNorm(nn.Module):
    """x (M, N, F) -> gain_m * normalized(x) + shift_m."""

    is_normalization = True

    def __init__(self, stacked: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias = stacked.weight, stacked.bias  # (M, F)
        self.shape, self.eps = stacked.normalized_shape, stacked.eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize, scale, shift."""
        normalized = nn.functional.layer_norm(x, self.shape, eps=self.eps)
        return torch.addcmul(self.bias.unsqueeze(-2), normalized, self.weight.unsqueeze(-2))


# Modules that take an axis before that of the samples, as they are or replaced; a class of the models says so itself,
# by `takes_leading_axes`.
AS_THEY_ARE = (
    nn.Sequential, nn.Identity, nn.Dropout, nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Softplus, nn.Tanh,
    nn.Sigmoid,
)  # fmt: skip


def is_dense(module: nn.Module) -> bool:
    """Whether the module is of those above, or replaced by `dense`. A subclass may do anything."""
    if type(module) is nn.Flatten:
        return (module.start_dim, module.end_dim) == (1, -1)
    if type(module) is nn.Unflatten:
        return module.dim == -1
    if type(module) is nn.LayerNorm:
        return len(module.normalized_shape) == 1 and module.elementwise_affine and module.bias is not None
    is_known = type(module) is nn.Linear or type(module) in AS_THEY_ARE
    return is_known or "takes_leading_axes" in vars(type(module))


def dense(module: nn.Module) -> nn.Module:
    """The module, whose parameters are stacked, with those parts replaced that take no leading axis."""
    for name, child in module.named_children():
        setattr(module, name, dense(child))
    if isinstance(module, nn.Linear):
        return StackedLinear(module)
    if isinstance(module, nn.LayerNorm):
        return StackedLayerNorm(module)
    return nn.Flatten(2) if isinstance(module, nn.Flatten) else module
