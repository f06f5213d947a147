"""Two processes of one thread each against one process of two: what sharing a batch costs on a CPU."""

import statistics
import time
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
import torch.distributed as dist

from gan_runner.training.build import build
from tests.helpers import compose
from tests.helpers.ranks import Processes

RUNS = {
    "mlp on the ring, wgan_gp": ["model=mlp", "dataset=ring", "loss=wgan_gp"],
    "dcgan 16x16, hinge": ["model=dcgan", "dataset.image_size=16", "loss=hinge"],
}
WARM_UP = 3


class Measured(NamedTuple):
    """What a process found in one of its steps."""

    seconds: float
    sent: int
    """Bytes that it gave to an all-reduce."""
    waited: float
    """Seconds in an all-reduce, those included in which it waited for the other process."""


def processes(rounds: int, steps: int = 10) -> None:
    """A table of the time of a step, of what is sent in it, and of the all-reduce's share."""
    print(f"\nTwo processes of one thread against one of two; medians of {rounds} rounds of {steps} steps")
    with Processes(2) as pair:
        for name, words in RUNS.items():
            alone, shared = [], []
            for _ in range(rounds):
                alone.append(measure(words, 1, 2, steps))
                shared.append(pair(measure, words, 2, 1, steps)[0])
            one, two = (statistics.median(found.seconds for found in each) for each in (alone, shared))
            waited = statistics.median(found.waited / found.seconds for found in shared)
            print(
                f"  {name:<28}{1e3 * one:8.2f} ms   {1e3 * two:8.2f} ms   {two / one:6.3f} x one   "
                f"{shared[0].sent / 2**20:7.3f} MiB sent   {waited:4.0%} in the all-reduce",
                flush=True,
            )


def measure(words: list[str], count: int, threads: int, steps: int) -> Measured:
    """The median step of one of `count` processes, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    game = build(compose(*words, "metric=none", "device=cpu", f"devices={count}"), []).game
    found = []
    try:
        for step in range(WARM_UP + steps):
            with patch.object(dist, "all_reduce", AllReduce()) as counted:
                start = time.perf_counter()
                game.step(step)
                found.append(Measured(time.perf_counter() - start, counted.sent, counted.seconds))
    finally:
        torch.set_num_threads(before)
    return sorted(found[WARM_UP:])[steps // 2]


class AllReduce:
    """torch.distributed's, which counts."""

    def __init__(self) -> None:
        self.work, self.sent, self.seconds = dist.all_reduce, 0, 0.0

    def __call__(self, tensor: torch.Tensor, *arguments: Any, **keys: Any) -> Any:
        start = time.perf_counter()
        done = self.work(tensor, *arguments, **keys)
        self.seconds += time.perf_counter() - start
        self.sent += tensor.nbytes
        return done
