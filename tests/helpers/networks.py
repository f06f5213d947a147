"""A small network, and numbers to feed it with."""

import torch
from torch import Tensor, nn


def floats(*shape: int, seed: int = 0) -> Tensor:
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
    (scale * network(floats(5, 2, 4, 4, seed=seed)).square().sum()).backward()
    return network
