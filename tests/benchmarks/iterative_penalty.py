"""The claim of Chen, Song & Yu 2019, measured: does the iterated penalty converge faster than WGAN-GP on MNIST?

    python -m tests.benchmarks.iterative_penalty train --root DATA --lenet mnist-lenet.pth --out results.jsonl \\
        --seeds 0 1 2 --steps 2000 --every 200 model=mlp
    python -m tests.benchmarks.iterative_penalty draw --out results.jsonl --picture .readme/iterative_penalty.png

Frechet distance in LeNet's features (features=lenet) along the way.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from gan_runner.training.build import build
from tests.helpers import compose

REGULARIZERS = ("gradient_penalty", "iterative_gradient_penalty")


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    metric = ["metric=frechet", "metric.frechet.samples=5000", "features=lenet", f"features.weights={options.lenet}"]
    for seed in options.seeds:
        for regularizer in REGULARIZERS:
            words = ["experiment=iterative_penalty_mnist", f"regularizer={regularizer}", f"seed={seed}", *options.words]
            built = build(compose(*words, *metric, f"dataset.root={options.root}"), [])
            game, evaluator = built.game, built.evaluator
            evaluator.prepare(game.data, print)
            start = time.perf_counter()
            for step in range(1, options.steps + 1):
                values = game.step(step - 1, is_logged=True)
                if step % options.every == 0:
                    row = {
                        "regularizer": regularizer,
                        "seed": seed,
                        "step": step,
                        "frechet": evaluator.evaluate(game)["metrics"]["frechet"]["values"]["distance"],
                        "seconds": time.perf_counter() - start,
                    }
                    row |= {tag: float(value) for tag, value in values.items() if "gradient_penalty" in tag}
                    with options.out.open("a") as file:
                        print(json.dumps(row), file=file)


def draw(options: argparse.Namespace) -> None:
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in options.out.read_text().splitlines()]
    figure = Figure(figsize=(6.4, 3.6), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for regularizer, color in zip(REGULARIZERS, ("#0072B2", "#D55E00"), strict=True):
        found: dict[int, list[float]] = {}
        for row in rows:
            if row["regularizer"] == regularizer:
                found.setdefault(row["step"], []).append(row["frechet"])
        steps = sorted(found)
        means = [statistics.mean(found[step]) for step in steps]
        spread = [statistics.stdev(found[step]) for step in steps]
        axes.plot(steps, means, color=color, label=f"{regularizer}, {len(found[steps[-1]])} seeds")
        low, high = ([m + sign * s for m, s in zip(means, spread, strict=True)] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        for step, mean, deviation in zip(steps, means, spread, strict=True):
            print(f"{regularizer:<28} step {step:5d}  {mean:8.2f} ± {deviation:.2f}")
    axes.set_yscale("log")
    axes.set_xlabel("step (one generator update)")
    axes.set_ylabel("Frechet distance, LeNet features")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(options.picture)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["train", "draw"])
    parser.add_argument("--root", type=Path)
    parser.add_argument("--lenet", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("words", nargs="*", help="further overrides")
    options = parser.parse_intermixed_args()
    {"train": train, "draw": draw}[options.action](options)
