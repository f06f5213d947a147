"""The Dirac-GAN's decay rates against the prediction: Mescheder, Geiger and Nowozin 2018, arXiv:1801.04406.

    python -m tests.benchmarks.dirac --picture .readme/dirac.png

The data is a point at 0, G = θ, D(x) = ψ x, trained by the package's own game, see tests/dirac.py. Rates are per unit
of time, a step of the game being h of it; negative ones decay. They are measured as the spectral radius of the
least-squares map from each point to the next. At the equilibrium, with f'(0) = 1/2 and f''(0) = -1/4 for
f(t) = -log(1 + exp(-t)), the flow's Jacobian has the eigenvalues

    no penalty       ± i f'(0)
    r1, weight γ     -γ/2 ± √(γ²/4 - f'(0)²)
    noise, sd s      f''(0) s² ± √(f''(0)² s⁴ - f'(0)²)

of which the larger real part is the rate. Steps alternate and are finite: without a penalty they rotate as the flow
does (simultaneous ones would grow by h/8), and only near the critical damping, γ = 1 or s = √2, where the two
eigenvalues meet, do they differ from it, by √(h/8).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from gan_runner import losses
from gan_runner.augmentations import InputNoise
from gan_runner.regularizers import penalties
from tests.helpers.dirac import alternating_map, axis_crossings, fitted_map, gradient_penalty_orbit, path, rate_of

H = 0.02  # of a step
SHORT, LONG = 1_000, 5_000  # steps
BATCH_SIZE = 2**15  # under noise: its mean over the batch is what drowns the decay in the end
GAMMAS = (0.3, 1.0, 2.0)
DEVIATIONS = (0.5, 1.0, 1.5)
WEIGHTS = (0.3, 10.0)
NEAR, FAR = (0.006, 0.008), (0.0, 3.0)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # of Okabe and Ito


@dataclass
class Decay:
    """A game with cross-entropy, one path per seed."""

    name: str
    label: str  # in the picture
    gamma: float  # what damps it: the weight of r1, or s²/2 under noise of standard deviation s
    paths: list[np.ndarray]

    def row(self) -> str:
        flow = float((-self.gamma / 2 + np.emath.sqrt(self.gamma**2 / 4 - 1 / 4)).real)
        steps = rate_of(alternating_map(H, self.gamma)) / H
        measured = [rate_of(fitted_map(points)) / H for points in self.paths]
        spread = f" ± {np.std(measured, ddof=1):.4f}" if len(measured) > 1 else ""
        rates = " | ".join(f"{rate:z.4f}" for rate in (flow, steps, np.mean(measured)))
        return f"| {self.name} | {rates}{spread} |"


@dataclass
class Orbit:
    """A game with the Wasserstein loss, which does not arrive."""

    name: str
    label: str
    weight: float  # of the penalty
    axis: float  # the predicted |θ| on the axis ψ = 0
    points: np.ndarray

    def row(self) -> str:
        late = self.points[LONG // 2 :]
        crossings = axis_crossings(late)
        measured = crossings.mean() if len(crossings) else abs(late[-1, 1])
        first, least = np.linalg.norm(self.points[0]), np.linalg.norm(late, axis=1).min()
        return f"| {self.name} | {first:.2f} | {least:.2f} | {self.axis:.2f} | {measured:.2f} |"


def decays(seeds: list[int]) -> Iterator[Decay]:
    train = partial(path, losses.BinaryCrossEntropy(), h=H, steps=SHORT)
    for gamma in (0.0, *GAMMAS):
        name = f"`r1`, weight {gamma:g}" if gamma else "none"
        label = f"γ = {gamma:g}" if gamma else "no penalty"
        yield Decay(name, label, gamma, [train(NEAR, weight=gamma)])
    for sd in DEVIATIONS:
        noisy = partial(train, augmentations=[InputNoise(sd=sd)], batch_size=BATCH_SIZE)
        paths = [noisy((0.06, 0.08), seed=seed) for seed in seeds]  # further away than NEAR, above the batch's noise
        yield Decay(f"`input_noise`, sd {sd:g}", f"s = {sd:g}", sd**2 / 2, paths)


def orbits() -> Iterator[Orbit]:
    train = partial(path, losses.Wasserstein(), h=H, steps=LONG)
    yield Orbit("`wasserstein`", "wasserstein", 0.0, 1.0, train((0.0, 1.0)))
    for weight in WEIGHTS:
        for start in (NEAR, FAR) if weight < 1 else (NEAR,):
            points = train(start, weight=weight, penalty=partial(penalties.gradient_penalty, target=1.0))
            name, label = f"`gradient_penalty`, weight {weight:g}", f"gradient_penalty {weight:g}"
            yield Orbit(name, label, weight, gradient_penalty_orbit(weight), points)


def flow(gamma: float, slope: float, start: np.ndarray, steps: int) -> np.ndarray:
    """(ψ, θ) of the linear flow dψ/dt = -γ ψ - slope θ, dθ/dt = slope ψ at multiples of H: (steps + 1, 2)."""
    step_map = torch.linalg.matrix_exp(H * torch.tensor([[-gamma, -slope], [slope, 0.0]], dtype=torch.float64)).numpy()
    points = [start]
    for _ in range(steps):
        points.append(step_map @ points[-1])
    return np.array(points)


def orbit_of_flow(weight: float) -> np.ndarray:
    """The closed orbit of `wasserstein` through (0, 1), or under `gradient_penalty` of weight λ < 1 the limit cycle."""
    angular = np.sqrt(1 - weight**2)
    bottom = np.array([0.0, -gradient_penalty_orbit(weight) if weight else -1.0])
    centre = np.array([0.0, 2 * weight])
    half = centre + flow(2 * weight, 1.0, bottom - centre, round(np.pi / angular / H))
    return np.concatenate([half, -half])


def draw(found: list[Decay], lost: list[Orbit], picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), dpi=150, layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    measured, predicted = {"linewidth": 2, "alpha": 0.6}, {"color": "black", "linewidth": 1, "linestyle": "--"}
    time = H * np.arange(SHORT + 1)
    few = len(GAMMAS) + 1
    for axes, rows, title in (
        (left, found[:few], "bce and r1, weight γ"),
        (middle, found[few:], "bce and noise, sd s"),
    ):
        for row, color in zip(rows, COLORS, strict=False):
            for number, points in enumerate(row.paths):
                label = None if number else row.label
                axes.plot(time, np.linalg.norm(points, axis=1), color=color, label=label, **measured)
            axes.plot(time, np.linalg.norm(flow(row.gamma, 0.5, row.paths[0][0], SHORT), axis=1), **predicted)
        axes.set(yscale="log", xlabel="time")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, loc="lower left")
    left.set_ylabel("|(ψ, θ)|")
    for orbit in lost:
        if orbit.weight < 1:  # the rest leaves the picture
            color = COLORS[1 if orbit.weight else 0]
            label = None if orbit.points[0].tolist() == list(FAR) else orbit.label
            right.plot(*orbit.points.T, color=color, label=label, linewidth=1.2, alpha=0.8)
            right.plot(*orbit.points[0], "o", color=color, markersize=4)
            right.plot(*orbit_of_flow(orbit.weight).T, **predicted)
    right.plot(0, 0, "k+", markersize=10)
    right.set(xlabel="ψ", ylabel="θ", xlim=(-3, 3), ylim=(-2.3, 5.0), aspect="equal")
    right.set_title("wasserstein", fontsize=10)
    right.plot([], [], label="predicted", **predicted)
    right.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(picture)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"| penalty under `bce` | predicted, flow | predicted, steps of {H:g} | measured |\n|---|---|---|---|")
    found = []
    for decay in decays(options.seeds):
        found.append(decay)
        print(decay.row(), flush=True)
    late = f"{H * LONG / 2:g} to {H * LONG:g}"
    print(f"\n| penalty under `wasserstein` | distance at the start | least distance, time {late} ", end="")
    print("| predicted \\|θ\\| where ψ = 0 | measured |\n|---|---|---|---|---|")
    lost = []
    for orbit in orbits():
        lost.append(orbit)
        print(orbit.row(), flush=True)
    if options.picture:
        draw(found, lost, options.picture)


if __name__ == "__main__":
    main()
