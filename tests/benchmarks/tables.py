"""The tables of RESULTS.md that trainings make: `python -m tests.benchmarks.tables NAME --data DIR`

Trains what `outputs/sweeps` does not hold yet, a sweep over seeds for each row, so that the same line goes on where it
was; writes a report of them to outputs/tables/NAME, the evaluations of all finished runs to
tests/benchmarks/results/NAME.csv, and a figure of these to .readme/NAME.png; prints the table. With --print it takes
that file as it is; with --settings it trains only the rows named. Rows without a run in `outputs/sweeps` stay as the
file has them: one whose words change is to be trained again. DIR holds MNIST/ and FashionMNIST/ as torchvision has
them, mnist-lenet.pth, and sign-digits/.
"""

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from matplotlib.figure import Figure

from gan_runner.reporting.answer import half_width, holm, interval, p_text, welch
from gan_runner.reporting.formats import decimals, rounded
from gan_runner.reporting.run_table import log_table
from gan_runner.reporting.writer import write_report
from gan_runner.training.build import build
from tests.benchmarks.data import few_clothes, photographs
from tests.benchmarks.speed import stepper
from tests.benchmarks.timing import medians
from tests.helpers import compose

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[2] / ".readme"
FLOOR = "real data"
STEPS_AT_ONCE = 5  # that are timed


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a row for each setting.

    `shared` are words of the command line for all runs, `settings` those of each row, by a name for its sweep. The
    first of `values`, METRIC/VALUE of evaluations.jsonl with the heading, ranks them.
    """

    shared: list[str]
    settings: dict[str, list[str]]
    values: dict[str, str]
    higher_is_better: bool = False
    seeds: int = 5
    is_timed: bool = False  # whether its runs had a core to themselves, one by one
    equal_time: bool = False  # whether the settings are compared after equal time, too: steps times `paces`
    own_length: bool = False  # whether each counts at its own end, untested, and not where the shortest run ends
    prepare: Callable[[Path], None] | None = None  # writes what its words read into DIR
    of_both_splits: bool = False  # whether each run is compared with as many training and held-out samples in the end


LENET = ["metric=frechet", "metric.frechet.samples=5000", "features=lenet", "features.weights={data}/mnist-lenet.pth"]
MNIST = ["dataset=mnist", "dataset.root={data}", *LENET]
PHOTOGRAPHS = [
    "dataset.path={data}/photographs/images.npy", "dataset.labels={data}/photographs/labels.npy",
    "dataset.image_size=32", "metric=frechet", "metric.frechet.samples=2000", "batch_size=32",
]  # fmt: skip
CLOTHES = ["metric=frechet", "features=lenet", "features.weights={data}/limited/fashion-lenet.pth"]
GRID = [
    "dataset=grid", "model=mlp", "model.generator.width=128", "model.discriminator.width=128", "batch_size=256",
    "optimizer.lr=2e-3", "optimizer.betas=[0.5,0.9]", "lr_schedule=cosine",
]  # fmt: skip
FEW_CLOTHES = ["dataset=npy", "dataset.path={data}/limited/images.npy", "dataset.held_out=0.83333333", *CLOTHES]
SMALL = ["model.generator.width=16", "model.discriminator.width=16"]
WEIGHTS = {
    f"{weight:g}": [f"regularizer.gradient_penalty.weight={weight:g}"] for weight in (0.01, 0.1, 1, 10, 100, 1000)
}
TABLES = {
    "ring-losses": Table(
        shared=["dataset=ring", "model=mlp", "steps=3000", "evaluate_every=null"],
        settings={
            name: [f"loss={name}"] for name in ("bce", "bce_saturating", "hinge", "lsgan", "relativistic", "wgan_gp")
        },
        values={
            "modes/wasserstein": "1-Wasserstein distance", "modes/covered": "modes of 8",
            "modes/high_quality": "within 3 sd",
        },
        is_timed=True,
    ),
    "photographs": Table(
        prepare=photographs,
        shared=[
            "experiment=dense_deconv_npy", *PHOTOGRAPHS, "model.generator.activation=relu", "optimizer.lr=2e-4",
            "optimizer.betas=[0.5,0.999]", "steps=300", "evaluate_every=null", "loss=bce", "discriminator_steps=1",
        ],
        settings={
            "none": [],
            "tanh": ["model.generator.activation=tanh"],
            "tanh-wgan-gp": ["model.generator.activation=tanh", "loss=wgan_gp", "discriminator_steps=3"],
        },
        values={"frechet/distance": "Frechet distance"},
        seeds=3,
    ),
    "stacked-mnist": Table(
        shared=[
            "dataset=stacked_mnist", "dataset.root={data}", "model.generator.width=32", "model.discriminator.width=32",
            "evaluate_every=2500",
        ],
        settings={
            "relativistic-r1-r2": ["loss=relativistic", "regularizer=[r1,r2]", "steps=7500"],
            "bce": ["loss=bce", "steps=2500"],
            "hinge-sn": ["loss=hinge", "regularizer=spectral_norm", "steps=2500"],
            "wgan-gp": ["loss=wgan_gp", "steps=500"],
        },
        values={"modes/reverse_kl": "KL", "modes/covered": "modes of 1,000"},
        seeds=3,
        own_length=True,
    ),
    "grid-losses": Table(
        shared=[*GRID, "steps=8000", "evaluate_every=null"],
        settings={
            "bce": ["loss=bce"],
            "wgan": ["loss=wgan", "discriminator_steps=2", "regularizer.weight_clip.bound=0.05", "optimizer.lr=5e-4"],
            "wgan-gp": ["loss=wgan_gp", "discriminator_steps=2", "regularizer.gradient_penalty.weight=0.1"],
            "hinge-sn": [
                "loss=hinge", "regularizer=spectral_norm", "optimizer.lr=1e-3", "optimizer.betas=[0.0,0.9]",
            ],
            "relativistic-r1-r2": [
                "loss=relativistic", "regularizer=[r1,r2]", "regularizer.r1.weight=0.05", "regularizer.r2.weight=0.05",
            ],
        },
        values={
            "modes/wasserstein": "1-Wasserstein distance", "modes/covered": "modes of 25",
            "modes/high_quality": "within 3 sd",
        },
        seeds=3,
    ),
    "weight-grid": Table(
        shared=[*GRID, "discriminator_steps=2", "steps=4000", "evaluate_every=500"],
        settings=WEIGHTS,
        values={
            "modes/wasserstein": "1-Wasserstein distance", "modes/covered": "modes of 25",
            "modes/high_quality": "within 3 sd",
        },
    ),
    "weight-digits": Table(
        shared=["steps=1000", "evaluate_every=250"],
        settings=WEIGHTS,
        values={"frechet/distance": "Frechet distance"},
    ),
    "losses-mnist": Table(
        shared=[*MNIST, *SMALL, "evaluate_every=250"],
        settings={
            "bce": ["loss=bce", "steps=2000"],
            "bce-r1": ["loss=bce", "regularizer=r1", "steps=1500"],
            "hinge-sn": ["loss=hinge", "regularizer=spectral_norm", "steps=2000"],
            "lsgan": ["loss=lsgan", "steps=2000"],
            "relativistic-r1-r2": ["loss=relativistic", "regularizer=[r1,r2]", "steps=1250"],
            "wgan-gp": ["loss=wgan_gp", "steps=500"],
        },
        values={"frechet/distance": "Frechet distance"},
        equal_time=True,
    ),
    "iterated-penalty": Table(
        shared=[*MNIST, "experiment=iterative_penalty_mnist", "model=mlp", "steps=1000", "evaluate_every=100"],
        settings={
            "iterated": ["regularizer=iterative_gradient_penalty"],
            **{
                f"fixed-{weight}": ["regularizer=gradient_penalty", f"regularizer.gradient_penalty.weight={weight}"]
                for weight in (1, 3, 5, 10)
            },
        },
        values={"frechet/distance": "Frechet distance"},
        equal_time=True,
    ),
    "limited-data": Table(
        prepare=few_clothes,
        shared=[
            *FEW_CLOTHES, *SMALL, "loss=hinge", "steps=4000", "evaluate_every=null",
        ],
        settings={
            "none": ["regularizer=spectral_norm"],
            "diffaugment": ["regularizer=spectral_norm", "augmentation=diffaugment"],
            "ada": ["regularizer=spectral_norm", "augmentation=ada"],
            "lecam": ["regularizer=[spectral_norm,lecam]"],
            "consistency": ["regularizer=[spectral_norm,consistency]"],
        },
        values={"frechet/held_out": "distance to held-out images", "frechet/training": "to the training images"},
        seeds=3,
        of_both_splits=True,
    ),
    "heads": Table(
        shared=[
            *MNIST, "metric=[frechet,class_frechet]", "metric.class_frechet.samples=5000", "conditional=true",
            "loss=hinge", "regularizer=spectral_norm", *SMALL, "steps=1000", "evaluate_every=null",
        ],
        settings={
            name: [f"head={name}"] for name in ("projection", "acgan", "contragan", "reacgan", "multi_hinge")
        },
        values={
            "class_frechet/mean": "mean distance of a class", "class_frechet/worst": "of the worst class",
            "frechet/distance": "Frechet distance of all",
        },
        seeds=3,
    ),
    "networks-digits": Table(
        shared=[*MNIST, "dataset.image_size=32", "loss=relativistic", "regularizer=[r1,r2]", "evaluate_every=200"],
        settings={
            "dcgan": ["model=dcgan", *SMALL, "steps=8000"],
            "resnet": ["model=resnet", *SMALL, "steps=2400"],
            "r3gan": ["experiment=mnist_r3gan"],
        },
        values={"frechet/distance": "Frechet distance"},
        seeds=1,
        equal_time=True,
    ),
    "networks-clothes": Table(
        prepare=few_clothes,
        shared=[
            "dataset=fashion_mnist", "dataset.root={data}", "dataset.image_size=32", "conditional=true", *CLOTHES,
            "loss=hinge", "regularizer=spectral_norm", *SMALL, "evaluate_every=100",
        ],
        settings={
            "dcgan": ["model=dcgan", "steps=2000"],
            "resnet": ["model=resnet", "steps=600"],
            "sagan": ["model=sagan", "steps=600"],
            "biggan": ["model=biggan", "steps=600"],
        },
        values={"frechet/distance": "Frechet distance"},
        seeds=1,
        equal_time=True,
    ),
    "networks-photographs": Table(
        prepare=photographs,
        shared=[
            "dataset=npy", *PHOTOGRAPHS, "loss=relativistic", "regularizer=[r1,r2]", "regularizer.r1.weight=1",
            "regularizer.r2.weight=1", "lr_schedule=cosine", "evaluate_every=200",
        ],
        settings={
            "dcgan": ["model=dcgan", *SMALL, "steps=4000"],
            "resnet": ["model=resnet", *SMALL, "steps=1200"],
            "stylegan2": [
                "model=stylegan2", "model.generator.width=32", "model.discriminator.width=32", "model.latent_size=64",
                "model.generator.style_size=64", "model.generator.style_mixing=0", "optimizer.lr=8e-3",
                "optimizer.betas=[0.0,0.99]", "steps=1000",
            ],
        },
        values={"frechet/distance": "Frechet distance"},
        seeds=1,
        equal_time=True,
    ),
    "limited-data-r3gan": Table(
        prepare=few_clothes,
        shared=[
            *FEW_CLOTHES, "experiment=mnist_r3gan", "dataset.image_size=null", "model.generator.width=[64,32,16]",
            "model.discriminator.width=[64,32,16]", "steps=3200", "evaluate_every=null",
        ],
        settings={
            "none": [],
            "diffaugment": ["augmentation=diffaugment"],
            "ada": ["augmentation=ada", "augmentation.ada.target=null", "augmentation.ada.p=0.3"],
        },
        values={"frechet/held_out": "distance to held-out images", "frechet/training": "to the training images"},
        seeds=1,
        of_both_splits=True,
    ),
    "l1-gan": Table(
        shared=[*MNIST, "experiment=l1_gan_mnist", "epochs=null", "steps=3000", "evaluate_every=null"],
        settings={f"{weight:g}": [f"regularizer.l1.weight={weight:g}"] for weight in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 0)},
        values={"frechet/distance": "Frechet distance"},
        seeds=3,
    ),
    "l1-vae": Table(
        shared=[*MNIST, "experiment=l1_vae_mnist", "epochs=null", "steps=3000", "evaluate_every=null"],
        settings={f"{weight:g}": [f"regularizer.l1.weight={weight:g}"] for weight in (1e-2, 1e-3, 1e-4, 1e-5, 0)},
        values={"frechet/distance": "Frechet distance"},
        seeds=3,
    ),
    "constraints": Table(
        shared=[*MNIST, "experiment=hard_regularization_mnist", "epochs=null", "steps=2000", "evaluate_every=null"],
        settings={
            "none": ["regularizer=none"],
            **{
                f"range-{bound:g}": [
                    "regularizer=value_range", f"regularizer.value_range.min={-bound:g}",
                    f"regularizer.value_range.max={bound:g}",
                ]
                for bound in (0.1, 0.03, 0.01)
            },
            **{
                f"{kind}-{weight:g}": [f"regularizer={kind}", f"regularizer.{kind}.weight={weight:g}"]
                for kind, weights in {"l2": (1e-3, 1e-2), "l1": (1e-4, 1e-3)}.items()
                for weight in weights
            },
        },
        values={"frechet/distance": "Frechet distance"},
        seeds=3,
    ),
}  # fmt: skip


# --- training ---------------------------------------------------------------------------------------------------------


def words_of(name: str, setting: str, data: Path) -> list[str]:
    """What all runs of a row have in common, as typed."""
    table = TABLES[name]
    return [word.replace("{data}", str(data.resolve())) for word in (*table.shared, *table.settings[setting])]


def train(name: str, settings: list[str], data: Path, processes: int) -> None:
    """Train the runs of some rows that are not finished; on one core stacked, where no time is compared.

    A sweep whose words have changed since is refused by the runner.
    """
    table = TABLES[name]
    launcher = ["hydra/launcher=pool", f"hydra.launcher.processes={1 if table.is_timed else processes}"]
    if processes == 1 and not table.is_timed:
        launcher = ["hydra/launcher=batched"]
    for setting in settings:
        words = words_of(name, setting, data)
        command = [sys.executable, "-m", "gan_runner", "-m", *words, f"seed=range({table.seeds})"]
        command += [f"sweep={name}-{setting}", "checkpoint_every=null", "device=cpu"]
        subprocess.run([*command, *launcher], check=True)
    for run in finished(name, settings) if table.of_both_splits else []:
        if not any(is_of_both_splits(record) for record in records(run)):
            subprocess.run([sys.executable, "-m", "gan_runner", "evaluate", str(run), "device=cpu"], check=True)


def finished(name: str, settings: list[str]) -> list[Path]:
    """The directories of the finished runs of some rows."""
    found = [path for setting in settings for path in Path(f"outputs/sweeps/{name}-{setting}").glob("*/summary.json")]
    return [path.parent for path in found if json.loads(path.read_text())["status"] == "completed"]


def records(run: Path) -> list[dict[str, Any]]:
    """The evaluations of a run."""
    return [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]


def is_of_both_splits(record: dict[str, Any]) -> bool:
    """Whether an evaluation compared with training and held-out samples."""
    return any("held_out" in found for found in record["metrics"].values())


def paces(name: str, data: Path) -> dict[str, float]:
    """The seconds that a step of each setting takes, by steps taken in turn, which a busy machine slows alike."""
    torch.set_num_threads(1)
    configs = {setting: compose(*words_of(name, setting, data), "device=cpu") for setting in TABLES[name].settings}
    steps = {setting: stepper(build(config, [])) for setting, config in configs.items()}
    found = medians({setting: partial(take_steps, step) for setting, step in steps.items()}, rounds=10)
    return {setting: seconds / STEPS_AT_ONCE for setting, seconds in found.items()}


def take_steps(step: Callable[[], object]) -> None:
    """Some steps of a run."""
    for _ in range(STEPS_AT_ONCE):
        step()


def evaluations(name: str, data: Path, earlier: pd.DataFrame | None = None) -> pd.DataFrame:
    """A row for each evaluation of a table's finished runs, or an earlier one of a setting without; one for real data.

    Raises:
        ValueError: a value of the table that no evaluation has.
    """
    table, rows = TABLES[name], []
    floors: dict[str, float] = {}
    for setting in table.settings:
        for run in finished(name, [setting]):
            seed = yaml.safe_load((run / ".hydra/config.yaml").read_text())["seed"]
            seconds = log_table(run / "metrics.jsonl")["seconds"]
            compared = [record for record in records(run) if is_of_both_splits(record) == table.of_both_splits]
            for record in compared:
                step = record["step"]
                rows.append({"setting": setting, "seed": seed, "step": step})
                if table.is_timed:
                    rows[-1]["seconds"] = round(seconds[step], 2)
                for metric, found in record["metrics"].items():
                    rows[-1] |= {f"{metric}/{key}": value for key, value in found["values"].items()}
                    if both := found.get("held_out"):
                        rows[-1] |= {f"{metric}/held_out": both["values"]["distance"]}
                        rows[-1] |= {f"{metric}/training": both["training"]["distance"]}
                    floors |= {
                        f"{metric}/{key}": value for key, value in found.get("floor", {}).get("values", {}).items()
                    }
    if table.of_both_splits:  # the floor is the distance of the splits from each other
        floors |= {tag: floors[f"{tag.partition('/')[0]}/distance"] for tag in table.values}
    found = pd.DataFrame([*rows, {"setting": FLOOR, **floors}])
    if earlier is not None:
        found = pd.concat([found, earlier[earlier.setting.isin(set(table.settings) - set(found.setting))]])
    found = found.reindex(columns=["setting", "seed", "step", "seconds", *table.values])
    if missing := [tag for tag in table.values if found[tag].isna().all()]:
        raise ValueError(f"{name}: no run has {', '.join(missing)}")
    if table.equal_time:
        found["seconds"] = (found.step * found.setting.map(paces(name, data))).round(2)
    order = pd.CategoricalDtype([*table.settings, FLOOR])
    found = found.astype({"setting": order, "seed": "Int64", "step": "Int64"})
    return found.sort_values(["setting", "seed", "step"]).astype({"setting": str})


# --- the table --------------------------------------------------------------------------------------------------------


def at(found: pd.DataFrame, clock: str, limit: float, tags: Iterable[str]) -> pd.DataFrame:
    """The values of each run after so many steps or seconds: between evaluations on a line, after the end the last."""
    rows = []
    for (setting, seed), run in found.sort_values(clock).groupby(["setting", "seed"], sort=False):
        values = {tag: np.interp(limit, run[clock], run[tag]) for tag in tags}
        rows.append({"setting": setting, "seed": seed, **values})
    return pd.DataFrame(rows, columns=["setting", "seed", *tags]).sort_values("seed")


def text(values: list[float], name: str) -> str:
    """Mean and half of the 95 % interval; every seed's where it is over half of the mean, and counts."""
    if name.endswith("covered"):
        return ", ".join(f"{value:.0f}" for value in values)
    if len(values) < 2:
        return f"{values[0]:.3g}"
    mean, low, _ = interval(values)
    if mean - low > abs(mean) / 2:
        return ", ".join(f"{value:.3g}" for value in values)
    places = decimals(mean - low)
    return f"{rounded(mean, places)} ± {rounded(mean - low, places)}"


def p_values(groups: dict[str, list[float]], higher_is_better: bool) -> dict[str, str]:
    """Welch's test of each setting against that of the best mean, by Holm's correction."""
    if len(groups) < 2:
        return {}
    best = (max if higher_is_better else min)(groups, key=lambda setting: fmean(groups[setting]))
    tested = {name: welch(groups[best], values) for name, values in groups.items() if name != best}
    known = {name: p for name, p in tested.items() if p is not None}
    corrected = dict(zip(known, holm(list(known.values())), strict=True))
    first = "highest" if higher_is_better else "lowest"
    return {name: first if name == best else p_text(corrected[name]) if name in known else "–" for name in groups}


def markdown(name: str, found: pd.DataFrame) -> str:
    """The table as RESULTS.md has it."""
    table, runs = TABLES[name], found[found.setting != FLOOR]
    last = runs.groupby(["setting", "seed"])[["step", "seconds"]].max()
    points = {"step": ("steps", math.inf if table.own_length else int(last.step.min()))}
    if table.equal_time:
        points["seconds"] = ("s", last.seconds.min())
    first = next(iter(table.values))
    headings, rows = ["setting", "runs"], {}
    for setting, words in table.settings.items():
        rows[setting] = [f"`{' '.join(words)}`" if words else "none", str(len(of_setting(last, setting)))]
    rows[FLOOR] = ["real data against real data", ""]
    if table.is_timed or table.equal_time:
        headings.append("time of all steps")
        for setting in table.settings:
            mine = of_setting(last, setting).seconds
            rows[setting].append(f"{mine.mean():.0f} s" if len(mine) else "–")
        rows[FLOOR].append("")
    (floor,) = found[found.setting == FLOOR].to_dict("records")
    for clock, (unit, limit) in points.items():
        then = at(runs, clock, limit, table.values)
        groups = {setting: each[first].tolist() for setting, each in then.groupby("setting", sort=False)}
        p = p_values(groups, table.higher_is_better)
        after = f", {limit:,.0f} {unit}" if table.equal_time else ""
        headings += [f"{heading}{after}" for heading in table.values.values()]
        for setting in table.settings:
            mine = then[then.setting == setting]
            rows[setting] += [text(mine[tag].tolist(), tag) if len(mine) else "–" for tag in table.values]
        rows[FLOOR] += ["" if math.isnan(floor[tag]) else f"{floor[tag]:.3g}" for tag in table.values]
        if table.seeds > 1 and not table.own_length:
            headings.append("p")
            for setting in table.settings:
                rows[setting].append(p.get(setting, "–"))
            rows[FLOOR].append("")
    lines = [headings, ["---"] * len(headings), *rows.values()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of_setting(last: pd.DataFrame, setting: str) -> pd.DataFrame:
    """The runs of a setting, of a table with an index of settings and seeds."""
    return last[last.index.get_level_values("setting") == setting]


def draw(name: str, found: pd.DataFrame, figure_path: Path) -> None:
    """The last values of the seeds with mean and 95 % interval; curves, where there are several; the floor, if near."""
    first, heading = next(iter(TABLES[name].values.items()))
    runs, floor = found[found.setting != FLOOR], found[found.setting == FLOOR][first].item()
    clocks = {"step": "steps", "seconds": "time, s"} if TABLES[name].equal_time else {"step": "steps"}
    clocks = clocks if runs.groupby(["setting", "seed"]).size().max() > 1 else {}
    settings = [setting for setting in TABLES[name].settings if setting in set(runs.setting)]
    last = at(runs, "step", math.inf, [first])
    size = (1.4 + 3.2 * (1 + len(clocks)), max(1.2 + 0.3 * len(settings), 2.8 if clocks else 0))
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    last_values, *curves = figure.subplots(1, 1 + len(clocks), squeeze=False)[0]
    for place, setting in enumerate(settings):
        colour = f"C{place}"
        mine = runs[runs.setting == setting]
        values = last[last.setting == setting][first]
        mean, half = values.mean(), half_width(values.std(), len(values))
        last_values.plot(values, [place] * len(values), "o", color=colour, markersize=4, alpha=0.5)
        last_values.plot([max(mean - half, mean / 1000), mean + half], [place, place], color=colour)
        last_values.plot(mean, place, "|", color=colour, markersize=14)
        for panel, clock in zip(curves, clocks, strict=True):
            each = mine.groupby("step").agg({clock: "mean", first: ["mean", "std", "count"]})
            mean, half = each[first, "mean"], half_width(each[first, "std"], each[first, "count"])
            panel.plot(each[clock, "mean"], mean, color=colour, marker="." if len(each) == 1 else None)
            panel.fill_between(each[clock, "mean"], (mean - half).clip(lower=mean / 1000), mean + half,
                               alpha=0.15, linewidth=0, color=colour)  # fmt: skip
    last_values.set(xlabel=f"{heading}, last of each run", yticks=range(len(settings)))
    last_values.set_yticklabels(settings)
    last_values.invert_yaxis()
    is_near = floor > runs[first].min() / 10
    least = min(runs[first].min() / 2, floor * 0.8 if is_near else math.inf)  # an interval may reach below 0
    if last[first].max() > 10 * last[first].min():
        last_values.set(xscale="log", xlim=(least, None))
    for panel, label in zip(curves, clocks.values(), strict=True):
        panel.set(xlabel=label, ylabel=heading, yscale="log", ylim=(least, None))
    if is_near:
        last_values.axvline(floor, color="black", linestyle="--", linewidth=1)
        for panel in curves:
            panel.axhline(floor, color="black", linestyle="--", linewidth=1)
    for panel in (last_values, *curves):
        panel.grid(alpha=0.3)
    figure.savefig(figure_path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+", choices=list(TABLES), metavar="NAME", help=", ".join(TABLES))
    parser.add_argument("--settings", nargs="+", help="rows to train, of one table; all")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--processes", type=int, default=1, help="of tables that give no times")
    parser.add_argument("--print", action="store_true", help="train nothing, and take the evaluations of the CSV file")
    options = parser.parse_args()
    for name in options.names:
        path, settings = RESULTS / f"{name}.csv", options.settings or list(TABLES[name].settings)
        if unknown := set(settings) - set(TABLES[name].settings):
            parser.error(f"{name} has no setting {', '.join(unknown)}; it has {', '.join(TABLES[name].settings)}")
        if not options.print:
            if prepare := TABLES[name].prepare:
                prepare(options.data)
            train(name, settings, options.data, options.processes)
            sweeps = [Path(f"outputs/sweeps/{name}-{setting}") for setting in TABLES[name].settings]
            write_report(*filter(Path.exists, sweeps), rank="last", out=Path("outputs/tables") / name)
            path.parent.mkdir(exist_ok=True)
            earlier = pd.read_csv(path) if path.exists() else None
            evaluations(name, options.data, earlier).to_csv(path, index=False)
        found = pd.read_csv(path)
        print(markdown(name, found))
        draw(name, found, FIGURES / f"{name}.png")


if __name__ == "__main__":
    main()
