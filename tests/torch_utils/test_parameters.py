"""Which parameters are kernels, and their axes for each run."""

import torch
from torch import nn

from gan_runner.models.layers import ConditionalBatchNorm2d
from gan_runner.regularizers.spectral_norm import spectral_norm
from gan_runner.torch_utils.parameters import kernels, per_run
from tests.helpers.networks import Stacked, with_gradients


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
