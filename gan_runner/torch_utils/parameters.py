"""A network's parameters, seen one run at a time.

The parameters of a single network have no leading axes. Those of a sweep trained as one program have one for the runs,
and whatever reduces over weights must leave it alone: `run_axes` says how many there are.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn


def run_axes(network: nn.Module) -> int:
    """The number of leading axes of every parameter that count runs."""
    return int(getattr(network, "run_axes", 0))


def is_normalization(module: nn.Module) -> bool:
    """Whether the module's parameters are gains and shifts, not weights."""
    is_torchs = type(module).__module__.startswith("torch.nn.modules.") and "Norm" in type(module).__name__
    return is_torchs or getattr(module, "is_normalization", False)


def mixes_samples(network: nn.Module) -> bool:
    """Whether what the network makes of a sample depends on the others of its batch.

    A module of one's own that computes statistics of the batch says so by an attribute `mixes_samples`.
    """
    batch_norm = nn.modules.batchnorm._BatchNorm
    return any(
        isinstance(module, batch_norm) or getattr(module, "mixes_samples", False) for module in network.modules()
    )


def compares_samples(network: nn.Module) -> bool:
    """Whether the network looks at several samples at once, by statistics or, as minibatch deviation, to compare them.

    A module that compares says so by an attribute `compares_samples`. Other than where the samples are mixed, penalties
    on the gradient of the summed logits go with it.
    """
    return mixes_samples(network) or any(getattr(module, "compares_samples", False) for module in network.modules())


def kernels(network: nn.Module) -> Iterator[Tensor]:
    """The weight matrices and convolution kernels: no biases, no gains or shifts of a normalization."""
    axes = run_axes(network)
    skipped: set[nn.Module] = set()
    for module in network.modules():
        if module in skipped or is_normalization(module):
            skipped.update(module.modules())
            continue
        yield from (parameter for parameter in module.parameters(recurse=False) if parameter.ndim - axes > 1)


def per_run(parameter: Tensor, network: nn.Module) -> Tensor:
    """A parameter as (..., entries): one row per run."""
    return parameter.reshape(*parameter.shape[: run_axes(network)], -1)  # `flatten` refuses a scalar per run


def as_matrix(kernel: Tensor, network: nn.Module) -> Tensor:
    """A kernel of the network as a matrix of its first axis and all others: (..., rows, columns)."""
    return kernel.flatten(run_axes(network) + 1)


def gradient_norm(network: nn.Module) -> Tensor:
    """The Euclidean norm of the whole gradient, (...,)."""
    norms = [per_run(gradient, network).norm(dim=-1) for gradient in gradients(network)]
    return torch.stack(norms).norm(dim=0)


def gradients(network: nn.Module) -> list[Tensor]:
    """The gradients that the last backward pass left, one per parameter that had one."""
    return [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
