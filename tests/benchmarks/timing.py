"""What is measured: medians of things timed in turn, which the machine's ups and downs hit alike; peaks of memory."""

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def medians(contestants: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, float]:
    """The median time of each, in seconds, over rounds in which each runs once."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(warmup + rounds):
        for name, run in contestants.items():
            start = time.perf_counter()
            run()
            if turn >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in times.items()}


def peak_of_process() -> float:
    """The most memory that this process has had resident, MiB. `getrusage` would begin at its parent's."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) / 2**10
