"""`python -m tests.benchmarks.sweep`: what a sweep costs beyond its runs, which differ in values only."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WORDS = [
    "model=mlp", "dataset=ring", "steps=5", "batch_size=64", "device=cpu", "metric=none", "log_every=null",
    "sample_every=null", "sweep=overhead",
]  # fmt: skip


def main() -> None:
    """(wall time - sum of the runs' own) / jobs, whole, and without the start of the program."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("words", nargs="*")
    options = parser.parse_args()
    values = ",".join(f"{1 + index / 100:g}" for index in range(options.jobs // 10))
    words = [*WORDS, f"regularizer.gradient_penalty.weight={values}", "seed=range(10)", *options.words]
    command = [sys.executable, "-m", "gan_runner"]
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run([*command, "-m", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter() - start
        rows = [json.loads(line) for line in (Path(folder) / "outputs/sweeps/overhead/sweep.jsonl").open()]
        start = time.perf_counter()
        subprocess.run([*command, "-m", *words], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        again = time.perf_counter() - start
    own, jobs = sum(row["wall_time"] for row in rows), sum(row["seconds"] for row in rows)
    count = len(rows)
    print(f"{count} jobs: {whole:.1f} s; their training {own:.1f} s; the line again, all done: {again:.1f} s")
    print(f"overhead per job: {1000 * (whole - own) / count:.1f} ms; in the job {1000 * (jobs - own) / count:.1f} ms")


if __name__ == "__main__":
    main()
