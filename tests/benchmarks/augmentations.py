"""What augmentations cost: `python -m tests.benchmarks.augmentations`. Steps on one thread, in processor time.

Each step has all the images of a turn augmented three times: the real and the generated ones of the discriminator's
turn, and those of the generator's, through which its gradient goes back.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from gan_runner.training.build import build
from tests.benchmarks.speed import MODELS
from tests.helpers import compose

ALL = [f"augmentation.ada.{group}=1" for group in ("filter", "noise", "cutout")]
AUGMENTATIONS = {
    "none": [],
    "diffaugment": ["augmentation=diffaugment"],
    "ada": ["augmentation=ada", "augmentation.ada.p=0.5"],
    "ada, all groups": ["augmentation=ada", "augmentation.ada.p=0.5", *ALL],
    "apa": ["augmentation=apa", "augmentation.apa.p=0.5"],
}
LOSSES = {"hinge": ["loss=hinge"], "relativistic+r1+r2": ["loss=relativistic", "regularizer=[r1,r2]"]}


def stepper(words: list[str]) -> Callable[[], float]:
    """What takes a run's next step, and says how many seconds of the processor it took."""
    game, numbers = build(compose(*words), []).game, itertools.count()

    def step() -> float:
        start = time.process_time()
        game.step(next(numbers))
        return time.process_time() - start

    return step


def costs(model: str, loss: str, rounds: int) -> dict[str, float]:
    """The median seconds of a step with each augmentation, of steps taken in turn."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (200, 3, 32, 32), dtype=np.uint8))
        words = [*MODELS[model].words, *MODELS[model].on_cpu, *LOSSES[loss], "dataset=npy", f"dataset.path={path}"]
        words += ["metric=none", "batch_size=64", "device=cpu", "capture=false"]
        steps = {name: stepper([*words, *own]) for name, own in AUGMENTATIONS.items()}
        for step in steps.values():
            step()
        found = [{name: step() for name, step in steps.items()} for _ in range(rounds)]
    return {name: statistics.median(each[name] for each in found) for name in AUGMENTATIONS}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["dcgan", "resnet"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    for model, loss in itertools.product(options.models, LOSSES):
        found = costs(model, loss, options.rounds)
        print(f"\n{MODELS[model].title}, {loss}, batch 64: medians of {options.rounds} steps")
        for name, seconds in found.items():
            print(f"  {name:<16} {1000 * seconds:8.1f} ms   {100 * (seconds / found['none'] - 1):+6.1f} %")


if __name__ == "__main__":
    main()
