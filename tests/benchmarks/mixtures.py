"""Modes and sharpness of losses on the ring of 8 and the grid of 25: `python -m tests.benchmarks.mixtures --out DIR`

Trains every loss with every seed by the command line, skipping the runs that DIR has, and prints the table of
RESULTS.md: of 2,500 samples of the generator's moving average the modes covered, and the fraction within 3 standard
deviations.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev

import numpy as np

# The same for all: what differs below is the loss with the regularizer and the rates that it needs.
BASE = [
    "model=mlp", "model.generator.width=128", "model.discriminator.width=128", "model.latent_size=2",
    "model.latent_distribution=uniform", "batch_size=256", "steps=8000", "optimizer.lr=2e-3",
    "optimizer.betas=[0.5,0.9]", "lr_schedule=cosine", "evaluate_every=null", "log_every=500", "sample_every=4000",
    "checkpoint_every=4000", "device=cpu",
]  # fmt: skip
LOSSES = {
    "`bce`": ["loss=bce"],
    "`wgan`, clipped at 0.05": [
        "loss=wgan", "discriminator_steps=2", "regularizer.weight_clip.bound=0.05", "optimizer.lr=5e-4"
    ],
    "`wgan_gp`, weight 0.1": [
        "loss=wgan_gp", "discriminator_steps=2", "regularizer.gradient_penalty.weight=0.1"
    ],
    "`hinge`, `spectral_norm`": [
        "loss=hinge", "regularizer=spectral_norm", "optimizer.lr=1e-3", "optimizer.betas=[0.0,0.9]"
    ],
    "`relativistic`, `r1` and `r2` 0.05": [
        "loss=relativistic", "regularizer=[r1,r2]", "regularizer.r1.weight=0.05", "regularizer.r2.weight=0.05"
    ],
}  # fmt: skip
DATA = {"ring": 8, "grid": 25}


def train(words: list[str], run: Path) -> None:
    """One run, unless it is there."""
    if (run / "summary.json").exists() and json.loads((run / "summary.json").read_text())["status"] == "completed":
        return
    command = [sys.executable, "-m", "gan_runner", *words, f"hydra.run.dir={run}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})


def row(name: str, found: dict[str, list[tuple[dict[str, float], float]]]) -> str:
    """A line of the table."""
    cells = [name]
    for data, results in found.items():
        covered = [int(values["covered"]) for values, _ in results]
        quality = [values["high_quality"] for values, _ in results]
        spread = f" ± {stdev(quality):.1%}" if len(quality) > 1 else ""
        cells += [f"{', '.join(map(str, covered))} of {DATA[data]}", f"{mean(quality):.1%}{spread}"]
    seconds = mean(time for results in found.values() for _, time in results)
    return f"| {' | '.join([*cells, f'{seconds:.0f} s'])} |"


def samples(run: Path) -> np.ndarray:
    """2,500 of a run's, (2500, 2)."""
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/samples.npz"
        command = [sys.executable, "-m", "gan_runner", "sample", str(run), "--count", "2500", "--out", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return np.load(out)["samples"]


def draw(out: Path, names: list[str], seed: int, picture: Path) -> None:
    """Samples of every loss, a column each, on both mixtures, a row each."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), dpi=100, layout="constrained")
    panels = figure.subplots(len(DATA), len(names), squeeze=False)
    for row_of_panels, (data, limit) in zip(panels, {"ring": 2.6, "grid": 5.0}.items(), strict=True):
        for axes, name in zip(row_of_panels, names, strict=True):
            x, y = samples(directory(out, data, name, seed)).T
            axes.scatter(x, y, s=1, linewidths=0, color="#0072B2")
            axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])
            if data == "ring":
                axes.set_title(name.replace("`", "").replace(", ", "\n", 1), fontsize=9)
    figure.savefig(picture)


def directory(out: Path, data: str, name: str, seed: int) -> Path:
    """Where a run is."""
    return out / f"{data}_{'_'.join(name.replace('`', '').replace(',', '').split())}_{seed}"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=list(LOSSES), help="names of the table's rows")
    parser.add_argument("--picture", type=Path, help="a PNG of the first seed's samples")
    options = parser.parse_args()
    print("| loss | ring: modes | high quality | grid: modes | high quality | time |\n|---|---|---|---|---|---|")
    for name in options.only:
        found: dict[str, list[tuple[dict[str, float], float]]] = {}
        for data in DATA:
            for seed in options.seeds:
                run = directory(options.out, data, name, seed)
                train([*BASE, f"dataset={data}", *LOSSES[name], f"seed={seed}"], run)
                record = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
                seconds = json.loads((run / "summary.json").read_text())["wall_time"]
                found.setdefault(data, []).append((record["metrics"]["modes"]["values"], seconds))
        print(row(name, found), flush=True)
    if options.picture:
        draw(options.out, options.only, options.seeds[0], options.picture)


if __name__ == "__main__":
    main()
