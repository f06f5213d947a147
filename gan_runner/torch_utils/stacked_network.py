"""The networks of several runs, of one structure, evaluated as one program."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class StackedNetwork(nn.Module):
    """M networks of one structure: (M, N, ...) -> (M, N, ...), the m-th network for the m-th batch.

    `parameters()` and `modules()` are those of one network, each parameter with a leading axis for the M, as the
    functions of `parameters` expect. The parameters and buffers of the single networks become views of the stacked
    ones: no second copy remains.
    """

    run_axes = 1

    def __init__(self, networks: Sequence[nn.Module]):
        super().__init__()
        tensors: dict[int, Tensor] = {}
        for parts in zip(*(network.parameters() for network in networks), strict=True):
            stacked = stack(parts)
            tensors[id(parts[0])] = nn.Parameter(stacked, requires_grad=parts[0].requires_grad)
            for part, view in zip(parts, stacked, strict=True):
                part.data = view
        for parts in zip(*(network.buffers() for network in networks), strict=True):
            tensors[id(parts[0])] = stacked = stack(parts)
            for part, view in zip(parts, stacked, strict=True):
                part.data = view
        # deepcopy takes these for copies that it has made already, wherever it meets the originals.
        self.network = copy.deepcopy(networks[0], tensors)
        slots = [*tensor_slots(self.network, "_parameters"), *tensor_slots(self.network, "_buffers")]
        self.slots = [(place, name) for place, name in slots if place[name] is not None]
        self.has_styles = getattr(networks[0], "has_styles", False)
        self.is_dense = all(is_dense(module) for module in networks[0].modules())
        if self.is_dense:
            self.network = dense(self.network)

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        """(M, N, ...) -> (M, N, ...); labels (M, N)."""
        return self.call("__call__", samples, labels)

    def features(self, samples: Tensor) -> Tensor:
        """What a discriminator's last layer sees: (M, N, *sample) -> (M, N, F)."""
        return self.call("features", samples)

    def outputs(self, samples: Tensor, labels: Tensor | None = None) -> Any:
        """What a discriminator's head makes of samples (M, N, *sample): its own tensors, each (M, N, ...)."""
        return self.call("outputs", samples, labels)

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """What a style-based generator makes of latents (M, N, Z): (M, N, L, S)."""
        return self.call("styles", latents, labels)

    def synthesize(self, styles: Tensor) -> Tensor:
        """What it makes of styles: samples (M, N, *sample)."""
        return self.call("synthesize", styles)

    def encode(self, samples: Tensor, labels: Tensor | None = None) -> Any:
        """What an autoencoder's encoder makes of samples (M, N, *sample): its own tensors, each (M, N, ...)."""
        return self.call("encode", samples, labels)

    def call(self, method: str, *arguments: Tensor | None) -> Any:
        """A method of each network.

        What is made of linear layers alone takes the leading axis as it is: that is twice as quick as vmap, on a CPU.
        """
        called = getattr(self.network, method)
        if self.is_dense:
            return called(*arguments)

        def call_one(tensors: Sequence[Tensor], *arguments: Tensor | None) -> Any:
            with self.holding(tensors):
                return called(*arguments)

        argument_axes = (None if argument is None else 0 for argument in arguments)
        tensors = [place[name] for place, name in self.slots]
        return torch.vmap(call_one, (0, *argument_axes), randomness="same")(tensors, *arguments)

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


def stack(tensors: Sequence[Tensor]) -> Tensor:
    """(M, *shape), contiguous."""
    return torch.stack([tensor.detach() for tensor in tensors])


def tensor_slots(network: nn.Module, kind: str) -> Iterator[tuple[dict[str, Any], str]]:
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
