"""The peak of memory of the runner, and of loops by hand, each in a process of its own: DCGAN 32x32 under WGAN-GP."""

import dataclasses
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gan_runner.training.build import arithmetic_of, choose_device
from tests.benchmarks.bare import BareLoop, Problem
from tests.benchmarks.naive import NaiveLoop
from tests.benchmarks.roofline import synchronize
from tests.benchmarks.speed import LATENTS, MODELS, runs, stepper
from tests.benchmarks.timing import peak_of_process

STEPS = 5
KINDS = ("nothing", "bare", "naive", "runner")


def memory(rounds: int, device_name: str) -> None:
    """A table of peaks: resident memory above that of the imports and one convolution, or what a GPU allocated."""
    print(f"\nPeak memory of {STEPS} steps of dcgan 32x32 (width 64), wgan_gp, batch 64; medians of {rounds} processes")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8))
        peaks = {}
        for kind in KINDS:
            command = [sys.executable, "-m", "tests.benchmarks.memory", kind, device_name, str(path)]
            found = [float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(rounds)]
            peaks[kind] = statistics.median(found)
    own = {kind: peak - peaks["nothing"] for kind, peak in peaks.items()}
    for kind in KINDS[1:]:
        print(f"  {kind:<8}{own[kind]:9.1f} MiB   {own[kind] / own['bare']:6.3f} x bare")


def child(kind: str, device: torch.device, path: Path) -> float:
    """The peak, in MiB, of one of `KINDS`."""
    if kind == "nothing":
        module = torch.nn.Conv2d(3, 8, 4).to(device)
        module(torch.zeros(2, 3, 8, 8, device=device)).sum().backward()
        torch.optim.Adam(module.parameters()).step()
    else:
        built = runs(MODELS["dcgan"], "wgan_gp", device, path)["runner"]
        settings, step = built.settings, stepper(built)
        if kind != "runner":
            game: Any = built.game
            problem = Problem.of(game, "wgan_gp", LATENTS, np.load(path))
            loop = BareLoop(problem) if kind == "bare" else NaiveLoop(problem)
            # It has copies of the networks: nothing of the game stays.
            loop.problem = dataclasses.replace(problem, generator=nn.Identity(), discriminator=nn.Identity())
            del problem, game
            step = loop.step
        del built
        with arithmetic_of(settings, print):
            for _ in range(STEPS):
                step()
            synchronize(device)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return peak_of_process()


if __name__ == "__main__":
    print(child(sys.argv[1], choose_device(sys.argv[2]), Path(sys.argv[3])))
