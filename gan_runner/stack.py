"""Copies of one network that differ in their weights, evaluated as one program."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Stacked(nn.Module):
    """M copies of a network, `runs` of them: (M, N, ...) -> (M, N, ...), the m-th copy for the m-th batch.

    `weights` maps parameters of the network to their values in the copies, (M, *shape); the others are the same in all.
    `parameters()` and `modules()` are the network's, each parameter with a leading axis for the copies, as the
    functions of `parameters` expect. Every copy has buffers of its own, so that what the copies do to BatchNorm's
    statistics or to the vectors of spectral normalization reaches neither each other nor the network. All copies see
    the same dropout, the one that the network itself would see.
    """

    run_axes = 1

    def __init__(self, network: nn.Module, runs: int, weights: Mapping[nn.Parameter, Tensor]):
        super().__init__()
        self.runs = runs
        self.shared = {f"network.{name}" for name, weight in network.named_parameters() if weight not in weights}
        replacements = {id(weight): weight.detach().expand(runs, *weight.shape) for weight in network.parameters()}
        replacements |= {id(buffer): buffer.expand(runs, *buffer.shape).clone() for buffer in network.buffers()}
        replacements |= {id(weight): values for weight, values in weights.items()}
        # deepcopy takes these for copies that it has made already, wherever it meets the originals.
        self.network = copy.deepcopy(network, replacements)

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
        """A method of each copy."""
        called = Method(self.network, method)
        tensors = {**dict(called.named_parameters()), **dict(called.named_buffers())}
        axes = {name: None if name in self.shared else 0 for name in tensors}
        tensors = {name: tensor[0] if name in self.shared else tensor for name, tensor in tensors.items()}

        def call_one(tensors: dict[str, Tensor], *arguments: Tensor | None) -> Tensor:
            return functional_call(called, tensors, arguments)

        argument_axes = (None if argument is None else 0 for argument in arguments)
        return torch.vmap(call_one, (axes, *argument_axes), randomness="same")(tensors, *arguments)


class Method(nn.Module):
    """A network's method as the forward pass of a module, which is all that `functional_call` calls."""

    def __init__(self, network: nn.Module, name: str):
        super().__init__()
        self.network, self.name = network, name

    def forward(self, *arguments: Tensor | None) -> Tensor:
        """Call the method."""
        return getattr(self.network, self.name)(*arguments)


def alongside(network: nn.Module, learner: nn.Module) -> nn.Module:
    """The network as the learner's opponent: itself, or beside stacked copies of a learner one equal copy for each.

    One long batch of all that the copies make would do for most networks, but BatchNorm would mix the copies in it.
    """
    return Stacked(network, learner.runs, {}) if isinstance(learner, Stacked) else network
