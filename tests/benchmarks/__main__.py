"""`python -m tests.benchmarks`: tables of ratios."""

import argparse
import copy
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from gan_runner.build import build
from tests.benchmarks.bare import BareLoop
from tests.benchmarks.timing import medians
from tests.conftest import compose


def loop(rounds: int) -> None:
    """The runner's step against a bare loop of the same mathematics: DCGAN 32x32, WGAN-GP, batch 64."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (1000, 32, 32, 3), dtype=np.uint8))
        words = ["dataset=npy", f"dataset.path={path}", "model=dcgan", "loss=wgan_gp", "batch_size=64"]
        words += ["model.generator.width=64", "model.discriminator.width=64"]
        game = build(compose(*words), []).game
        images = torch.from_numpy(np.load(path)).permute(0, 3, 1, 2).contiguous()
    bare_generator, bare_discriminator = (copy.deepcopy(player.network) for _, player in game.players.items())
    bare = BareLoop(bare_generator, bare_discriminator, images, 64, 100)
    step = iter(range(10**9))
    found = medians({"bare loop": bare.step, "gan_runner": lambda: game.step(next(step))}, rounds)
    print(f"\nOne step of DCGAN 32x32 (width 64), WGAN-GP, batch 64, {torch.get_num_threads()} threads")
    table(found, "bare loop")


def startup(rounds: int) -> None:
    """The command line against bare imports."""
    python = sys.executable
    with tempfile.TemporaryDirectory() as folder:

        def run(*words: str) -> object:
            return subprocess.run(words, cwd=folder, check=True, capture_output=True)

        runner = (python, "-m", "gan_runner")
        found = medians(
            {
                "import hydra": lambda: run(python, "-c", "import hydra"),
                "gan-runner --help": lambda: run(*runner, "--help"),
                "gan-runner --cfg job": lambda: run(*runner, "--cfg", "job"),
                "import hydra, torch, torch._dynamo": lambda: run(python, "-c", "import hydra, torch, torch._dynamo"),
                "gan-runner steps=1": lambda: run(*runner, "steps=1"),
            },
            rounds,
        )
    print("\nFrom the shell")
    table(found, "import hydra")


def table(found: dict[str, float], base: str) -> None:
    for name, seconds in found.items():
        print(
            f"  {name:<36} {seconds:8.3f} s   {seconds - found[base]:+8.3f} s   {seconds / found[base]:6.3f} x {base}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("names", nargs="*", choices=["loop", "startup", []], default=["startup", "loop"])
    options = parser.parse_args()
    for name in options.names:
        {"loop": loop, "startup": startup}[name](options.rounds)
