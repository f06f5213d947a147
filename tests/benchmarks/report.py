"""How long a report of a large sweep takes, and how much memory: `python -m tests.benchmarks.report [--runs 1000]`

Writes a synthetic sweep of finished runs into a temporary directory, or into --out, and reports on it in a process of
its own.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from gan_runner.storage.atomic_files import json_safe
from tests.helpers import compose

VALUES = {"wasserstein": False, "covered": True, "high_quality": True, "reverse_kl": False}

CHILD = """
import sys, time
start = time.perf_counter()
from gan_runner.cli.report import main
main(sys.argv[1:])
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(time.perf_counter() - start, time.process_time(), int(peak) / 2**10)
"""  # getrusage would count the memory of the process that this one was forked from


def make_sweep(out: Path, runs: int, points: int, seeds: int) -> None:
    """`runs` finished runs of `points` log points, every tenth evaluated: a random search over two keys."""
    base = compose("experiment=ring")
    draw = np.random.default_rng(0)
    for number in range(runs):
        if number % seeds == 0:
            lr, weight = 10 ** draw.uniform(-5, -2), 10 ** draw.uniform(-3, 1)
        config = base | {"seed": number % seeds, "optimizer": base["optimizer"] | {"lr": float(lr)}}
        config["regularizer"] = base["regularizer"] | {"r1": base["regularizer"]["r1"] | {"weight": float(weight)}}
        words = ["experiment=ring", f"optimizer.lr={lr}", f"regularizer.r1.weight={weight}", f"seed={number % seeds}"]
        write_run(out / f"{number:04d}", config, words, points, draw)


def write_run(path: Path, config: dict, words: list[str], points: int, draw: np.random.Generator) -> None:
    """One run directory."""
    (path / ".hydra").mkdir(parents=True)
    (path / ".hydra" / "config.yaml").write_text(yaml.dump(config))
    (path / ".hydra" / "overrides.yaml").write_text(yaml.dump(words))
    tags = [
        "loss/generator", "loss/discriminator", "penalty/r1", "weight/r1", "penalty/r2", "weight/r2", "logits/real",
        "logits/fake", "accuracy/real", "accuracy/fake", "gradient_norm/generator", "gradient_norm/discriminator",
        "learning_rate/generator", "learning_rate/discriminator", "diversity",
    ]  # fmt: skip
    level = abs(math.log10(config["optimizer"]["lr"]) + 3) + 0.1
    numbers = draw.normal(size=(points, len(tags))).round(12).tolist()
    row: dict[str, float] = {}
    with (path / "metrics.jsonl").open("w") as file:
        for index, values in enumerate(numbers, start=1):
            row = {"step": 50 * index, "images": 12800 * index, "seconds": 0.3 * index, "images_per_second": 4e4}
            row |= dict(zip(tags, values, strict=True))
            if index % 10 == 0:
                row |= {f"metric/modes/{name}": level + values[0] / index for name in VALUES}
            file.write(json.dumps(json_safe(row)) + "\n")
    record = {"step": 50 * points, "metrics": {"modes": {"values": {}, "higher_is_better": VALUES}}}
    (path / "evaluations.jsonl").write_text(f"{json.dumps(record)}\n" * (points // 10))
    best = {"objective": "metric/modes/wasserstein", "value": level, "step": 50 * points}
    summary = {"status": "completed", "reason": None, "step": 50 * points, "wall_time": 0.3 * points, "best": best}
    (path / "summary.json").write_text(json.dumps(summary | {"metrics": row}))
    (path / "samples").mkdir()
    noise = draw.integers(0, 256, (512, 512), dtype=np.uint8)
    Image.fromarray(noise).save(path / "samples" / f"step_{50 * points:08d}.png", compress_level=1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--out", type=Path, help="where the sweep is written, and found the next time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        out = options.out or Path(temporary) / "sweep"
        if not out.exists():
            make_sweep(out, options.runs, options.points, options.seeds)
        found = subprocess.run([sys.executable, "-c", CHILD, str(out)], check=True, stdout=subprocess.PIPE, text=True)
        *_, last = found.stdout.splitlines()
        seconds, cpu, peak = map(float, last.split())
        size = (out / "report.html").stat().st_size / 1e6
        print(f"{options.runs} runs of {options.points} points: {seconds:.1f} s, {cpu:.1f} s of a core, {peak:.0f} MiB")
        print(f"report.html: {size:.1f} MB")


if __name__ == "__main__":
    main()
