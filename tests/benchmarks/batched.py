"""`python -m tests.benchmarks.batched`: sixteen penalty weights one by one, in the pool, and as one program."""

import argparse
import copy
import multiprocessing
import time
from typing import Any

import torch

from gan_runner.games.game import Game
from gan_runner.games.stacked_game import StackedGame
from gan_runner.sweeps.launchers import cores
from gan_runner.training.build import arithmetic_of, build
from tests.benchmarks.roofline import synchronize
from tests.benchmarks.speed import waited
from tests.benchmarks.timing import medians
from tests.helpers import compose

RUNS = 16
STEPS_ON_GPU = 20  # that are measured together: the host tells a GPU the next one before it has done the last
PROCESSES_ON_GPU = 4  # each has a context of CUDA, of half a gigabyte


def configs(width: int, batch_size: int, *words: str) -> list[dict[str, Any]]:
    """WGAN-GP on the ring with sixteen weights of the penalty."""
    own = [f"model.generator.width={width}", f"model.discriminator.width={width}", f"batch_size={batch_size}"]
    first = compose("dataset=ring", "model=mlp", "device=cpu", "metric=none", *own, *words)
    made = [copy.deepcopy(first) for _ in range(RUNS)]
    for number, config in enumerate(made):
        config["regularizer"]["gradient_penalty"]["weight"] = 0.1 * 1.5**number
    return made


def games(found: list[dict[str, Any]]) -> list[Game]:
    return [build(config, []).game for config in found]


def processes(device: torch.device) -> int:
    """How many share a device: one for each core, and a few on a GPU."""
    return min(cores(), PROCESSES_ON_GPU) if device.type == "cuda" else cores()


def in_processes(config: dict[str, Any], seconds: float, count: int) -> float:
    """Steps per second of so many processes, one thread each: the pool at its best."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(count) as pool:
        pool.map(work, [(config, 0.5)] * count, chunksize=1)  # until all are there
        return sum(pool.map(work, [(config, seconds)] * count, chunksize=1))


def work(task: tuple[dict[str, Any], float]) -> float:
    """Steps per second of one run in this process."""
    torch.set_num_threads(1)
    config, seconds = task
    built = build(config, [])
    game, device, step = built.game, built.game.randomness.device, 0
    count = STEPS_ON_GPU if device.type == "cuda" else 1
    with arithmetic_of(built.settings, print):
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(count):
                game.step(step)
                step += 1
            synchronize(device)
        return step / (time.perf_counter() - start)


def main() -> None:
    """Steps of a run per second, over all runs, and the ratios to one by one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    print(f"{RUNS} penalty weights, mlp on the ring, WGAN-GP, {cores()} cores, {torch.get_num_threads()} threads")
    for width, batch_size in ((64, 64), (128, 256)):
        found = configs(width, batch_size, *options.words)
        built = build(found[0], [])
        single, together, device = built.game, StackedGame(games(found)), built.game.randomness.device
        steps = [iter(range(10**9)), iter(range(10**9))]
        count = STEPS_ON_GPU if device.type == "cuda" else 1
        contestants = {
            "one by one": waited(lambda: single.step(next(steps[0])), count, device),  # noqa: B023
            "batched": waited(lambda: together.step(next(steps[1])), count, device),  # noqa: B023
        }
        with arithmetic_of(built.settings, print):
            times = {name: seconds / count for name, seconds in medians(contestants, options.rounds).items()}
        pool = in_processes(found[0], options.seconds, processes(device))
        rates = {"one by one": 1 / times["one by one"], "pool": pool}
        rates["batched"] = RUNS / times["batched"]
        print(f"\nwidth {width}, batch {batch_size}")
        for name, rate in rates.items():
            print(f"  {name:12} {rate:8.1f} steps/s  {rate / rates['one by one']:5.2f} x")


if __name__ == "__main__":
    main()
