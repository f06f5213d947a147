"""A long run of tiny steps: memory and speed must stay as they are."""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

from gan_runner.cli.main import main as cli
from gan_runner.games.game import Game

PARTS = 10
MOST_MEMORY, LEAST_SPEED = 1.02, 0.9  # of the last third of the parts, relative to the middle one


class Part(NamedTuple):
    """What a part of the run took."""

    memory: float  # resident at its end, MiB
    wall: float  # seconds
    cpu: float


class Flatness(NamedTuple):
    """The last third of the parts, relative to the middle one."""

    memory: float
    speed: float

    @property
    def is_flat(self) -> bool:
        """Whether it is within the limits."""
        return self.memory <= MOST_MEMORY and self.speed >= LEAST_SPEED


def endurance(steps: int, words: list[str]) -> Flatness:
    """Print a table of the parts of a real run, and return how flat it was.

    Speed is that of the process's own time on the CPU, where it trains there: others may take the machine's.
    """
    size = steps // PARTS
    parts: list[Part] = []
    last = [0.0, 0.0]
    own_step = Game.step

    def step(self: Game, number: int, **options: Any) -> Any:
        if number % size == 0:
            now = [time.perf_counter(), time.process_time()]
            if number:
                parts.append(Part(resident(), now[0] - last[0], now[1] - last[1]))
            last[:] = now
        return own_step(self, number, **options)

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Game, "step", step):
        command = [
            "gan-runner", "model=mlp", "dataset=ring", "metric=none", "model.generator.width=8",
            "model.discriminator.width=8",
            "batch_size=4", f"steps={steps + 1}", "log_every=1000", f"sample_every={size}", f"checkpoint_every={size}",
            f"hydra.run.dir={folder}/run", *words,
        ]  # fmt: skip
        with mock.patch.object(sys, "argv", command):
            cli()
    on_gpu = torch.cuda.is_available() and torch.cuda.memory_allocated() > 0
    print(f"\n{steps:,} steps, mlp of width 8 on the ring, batch 4; {' '.join(words)}")
    for number, part in enumerate(parts, 1):
        print(
            f"  to {number * size:>9,}{part.memory:9.1f} MiB{size / part.wall:9.0f} steps/s"
            f"{1e6 * part.cpu / size:9.0f} us of CPU a step"
        )
    third = len(parts) // 3
    middle, end = parts[third:-third], parts[-third:]
    seconds = [[part.wall if on_gpu else part.cpu for part in some] for some in (middle, end)]
    speed = statistics.median(seconds[0]) / statistics.median(seconds[1])
    memory = max(part.memory for part in end) / max(part.memory for part in middle)
    print(f"  last third to middle third: memory {memory:.3f} (<= {MOST_MEMORY}), speed {speed:.3f} (>= {LEAST_SPEED})")
    return Flatness(memory, speed)


def resident() -> float:
    """Memory of this process, MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
