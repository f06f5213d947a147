"""Frechet distances on MNIST, of run directories: `python -m tests.benchmarks.lenet --root DATA --lenet FILE RUN ...`

DATA holds MNIST/raw as torchvision lays it out; FILE is LeNet's state dict of github abdulfatir/gan-metrics-pytorch.
Frechet distance (Heusel et al. 2017, arXiv:1706.08500) in the 84 features of that LeNet, between 5,000 samples of the
generator's moving average and the 60,000 training images, in float64.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from gan_runner.datasets.vision import mnist

SAMPLES = 5_000
Moments = tuple[Tensor, Tensor]


def features(images: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """(N, 1, 28, 28) in [0, 1] -> (N, 84)."""
    x = F.interpolate(images, size=32, mode="bilinear", antialias=True)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, weights["convnet.c1.weight"], weights["convnet.c1.bias"])), 2)
    x = F.max_pool2d(torch.tanh(F.conv2d(x, weights["convnet.c3.weight"], weights["convnet.c3.bias"])), 2)
    x = torch.tanh(F.conv2d(x, weights["convnet.c5.weight"], weights["convnet.c5.bias"])).flatten(1)
    return torch.tanh(F.linear(x, weights["fc.f6.weight"], weights["fc.f6.bias"]))


@torch.no_grad()
def moments(pixels: Tensor, weights: dict[str, Tensor]) -> Moments:
    """Mean and covariance of the features of uint8 images (N, 1, 28, 28), in float64."""
    rows = torch.cat([features(some / 255, weights) for some in pixels.split(1000)]).double()
    return rows.mean(0), rows.T.cov()


def frechet(first: Moments, second: Moments) -> float:
    """|m1 - m2|² + tr(C1 + C2 - 2 (C1 C2)^1/2)."""
    (m1, c1), (m2, c2) = first, second
    root = torch.linalg.eigvals(c1 @ c2).real.clamp_min(0).sqrt().sum()
    return float((m1 - m2).square().sum() + c1.trace() + c2.trace() - 2 * root)


def real_moments(root: Path, weights: dict[str, Tensor]) -> Moments:
    """Those of MNIST's training images."""
    data = mnist(
        root=str(root), download=False, image_size=None, channels=None, normalization="unit", flip=False, seed=0
    )
    return moments(data.to_pixels(data.fixed(60_000)[0]), weights)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--lenet", type=Path, required=True)
    parser.add_argument("runs", type=Path, nargs="+")
    options = parser.parse_args()
    weights = torch.load(options.lenet, weights_only=True)
    real = real_moments(options.root, weights)
    for run in options.runs:
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/samples.npz"
            words = ["sample", str(run), "--count", str(SAMPLES), "--out", out]
            subprocess.run([sys.executable, "-m", "gan_runner", *words], check=True, stdout=subprocess.DEVNULL)
            samples = torch.from_numpy(np.load(out)["samples"])
        overrides = yaml.safe_load((run / ".hydra/overrides.yaml").read_text())
        print(f"{frechet(real, moments(samples, weights)):10.2f}  {run}  {' '.join(overrides)}", flush=True)


if __name__ == "__main__":
    main()
