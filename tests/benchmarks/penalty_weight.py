"""Which weight of WGAN-GP's penalty? On the grid of 25 and on digits: `python -m tests.benchmarks.penalty_weight`

Runs the two sweeps of RESULTS.md in the present directory, or goes on with them, prints its table and draws its figure.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt

WEIGHTS = ["regularizer.gradient_penalty.weight=0.01,0.1,1,10,100,1000", "seed=range(3)"]
SWEEPS = {
    "grid": [
        "dataset=grid", "model=mlp", "model.generator.width=128", "model.discriminator.width=128", "batch_size=256",
        "discriminator_steps=2", "optimizer.lr=2e-3", "optimizer.betas=[0.5,0.9]", "lr_schedule=cosine", "steps=4000",
        "evaluate_every=500", "checkpoint_every=null",
    ],
    "digits": ["steps=1000", "evaluate_every=250", "checkpoint_every=null"],
}  # fmt: skip
VALUES = {"grid": ["wasserstein", "covered", "high_quality"], "digits": ["distance"]}
METRICS = {"grid": "modes", "digits": "frechet"}
LABELS = {"grid": "2-Wasserstein, grid of 25", "digits": "Frechet distance, digits"}


def results(name: str) -> dict[float, dict[str, list[float]]]:
    """The last values of each weight's runs."""
    found: dict[float, dict[str, list[float]]] = {}
    rows = [json.loads(line) for line in Path(f"outputs/sweeps/{name}/sweep.jsonl").read_text().splitlines()]
    for row in {row["job"]: row for row in rows}.values():  # a job that was gone on with has several
        weight = next(float(word.partition("=")[2]) for word in row["overrides"] if ".weight=" in word)
        for value in VALUES[name]:
            its = found.setdefault(weight, {}).setdefault(value, [])
            its.append(float(row["metrics"][f"metric/{METRICS[name]}/{value}"]))
    return dict(sorted(found.items()))


def spread(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3g} ± {stdev(values):.2g}"


def main() -> None:
    """Run, tell, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    pool = ["hydra/launcher=pool", f"hydra.launcher.processes={options.processes}"]
    for name, words in SWEEPS.items():
        command = [sys.executable, "-m", "gan_runner", "-m", *words, *WEIGHTS, f"sweep={name}", *pool]
        subprocess.run(command, check=True)
    found = {name: results(name) for name in SWEEPS}
    print("| weight | grid: distance | modes | high quality | digits: distance |\n|---|---|---|---|---|")
    for weight, values in found["grid"].items():
        modes = ", ".join(f"{count:.0f}" for count in values["covered"])
        share = f"{mean(values['high_quality']):.1%} ± {stdev(values['high_quality']):.1%}"
        digits = spread(found["digits"][weight]["distance"])
        print(f"| {weight:g} | {spread(values['wasserstein'])} | {modes} | {share} | {digits} |")
    if options.picture:
        figure, axes = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
        for axis, name in zip(axes, SWEEPS, strict=True):
            weights, runs = list(found[name]), [each[VALUES[name][0]] for each in found[name].values()]
            axis.errorbar(weights, [mean(run) for run in runs], [stdev(run) for run in runs], capsize=3, marker="o")
            for weight, run in zip(weights, runs, strict=True):
                axis.plot([weight] * len(run), run, ".", color="black", alpha=0.4)
            axis.set(xscale="log", yscale="log", xlabel="gradient penalty weight", ylabel=LABELS[name])
        figure.savefig(options.picture, dpi=100)


if __name__ == "__main__":
    main()
