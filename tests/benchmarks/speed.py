"""The runner's step against a bare loop and a naive one, of the same mathematics, side by side in one process."""

import itertools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from gan_runner.config.errors import ConfigError
from gan_runner.config.schema import known_keys
from gan_runner.games.cuda_graph import WARM_UP, CapturedStep
from gan_runner.torch_utils.precision import is_slow_at_bf16
from gan_runner.training.build import Built, arithmetic_of, build, choose_device
from tests.benchmarks.bare import BareLoop, Loss, Problem, leanest
from tests.benchmarks.naive import NaiveLoop
from tests.benchmarks.roofline import count_flops, matrix_rate, synchronize
from tests.benchmarks.timing import medians
from tests.helpers import compose

LOSSES: dict[Loss, list[str]] = {
    "wgan_gp": ["loss=wgan_gp"],
    "hinge": ["loss=hinge"],
    "hinge+spectral_norm": ["loss=hinge", "regularizer=spectral_norm"],
    "relativistic+r1+r2": ["loss=relativistic", "regularizer=[r1,r2]"],
}
LATENTS = 100
SHORTEST = 0.1  # seconds that a measurement lasts at least
WIDTHS = "model.{}.width={}"


class Model(NamedTuple):
    """A network and its data, by the words of the command line."""

    title: str
    words: list[str]
    on_cpu: list[str]  # what makes it bearable there


MODELS = {
    "mlp": Model("mlp, ring", ["model=mlp", "dataset=ring", "metric=none"], []),
    "dcgan": Model(
        "dcgan 32x32, width 64", ["model=dcgan", *(WIDTHS.format(p, 64) for p in ("generator", "discriminator"))], []
    ),
    "resnet": Model(
        "resnet 32x32", ["model=resnet"], [WIDTHS.format("generator", 32), WIDTHS.format("discriminator", 16)]
    ),
    "r3gan": Model("r3gan 32x32", ["model=r3gan"], [WIDTHS.format(p, 16) for p in ("generator", "discriminator")]),
    "biggan": Model(
        "biggan 32x32", ["model=biggan"], [WIDTHS.format("generator", 32), WIDTHS.format("discriminator", 16)]
    ),
    "sagan": Model(
        "sagan 32x32", ["model=sagan"], [WIDTHS.format("generator", 32), WIDTHS.format("discriminator", 16)]
    ),
    "stylegan2": Model(
        "stylegan2 32x32", ["model=stylegan2"], [WIDTHS.format(p, 32) for p in ("generator", "discriminator")]
    ),
}
STANDARD = ("mlp", "dcgan", "resnet")  # those that are measured unless others are named


class Setup(NamedTuple):
    """One row of the table, ready to run: name -> step."""

    contestants: dict[str, Callable[[], object]]
    flops: int
    lean: dict[str, bool]


def runs(model: Model, loss: Loss, device: torch.device, path: Path) -> dict[str, Built]:
    """The runner in its modes, as far as they go together with the model and the loss."""
    words = [*model.words, *(model.on_cpu if device.type == "cpu" else [])]
    if "dataset=ring" not in words:
        words += ["dataset=npy", f"dataset.path={path}"]
    words += [*LOSSES[loss], "batch_size=64", f"model.latent_size={LATENTS}", f"device={device}"]
    modes = {"runner": ["precision=fp32"]} | ({} if is_slow_at_bf16(device) else {"bf16": ["precision=bf16"]})
    if "capture" in known_keys():
        modes = {name: [*own, "capture=false"] for name, own in modes.items()}
        if device.type == "cuda":
            modes |= {f"{name} captured": [*own[:1], "capture=true"] for name, own in modes.items()}
    found = {}
    for name, own in modes.items():
        try:
            found[name] = build(compose(*words, *own), [])
        except ConfigError as error:
            if not name.startswith("bf16"):
                raise
            print(f"  {model.title}, {loss}, {name}: {error}")
    return found


def stepper(built: Built) -> Callable[[], object]:
    """What takes a run's next step; from CUDA graphs, recorded already, if it was built for them."""
    numbers, game = itertools.count(), built.game
    if built.settings.capture is not True:
        return lambda: game.step(next(numbers))
    captured = CapturedStep(game, say=print)
    for _ in range(WARM_UP + 2):
        captured(next(numbers))
    return lambda: captured(next(numbers))


def set_up(model: Model, loss: Loss, device: torch.device, path: Path, *, tune: bool = True) -> Setup:
    """All contestants, of the same start weights."""
    found = runs(model, loss, device, path)
    game: Any = found["runner"].game
    images = None if game.data.centres is not None else np.load(path)
    if loss == "hinge+spectral_norm":  # of the same start weights, without the package's layers
        game = runs(model, "hinge", device, path)["runner"].game
    problem = Problem.of(game, loss, LATENTS, images)

    def measure(loops: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        return timed(loops, device, rounds=2)

    lean = leanest(problem, measure) if tune else {}
    contestants: dict[str, Callable[[], object]] = {
        "naive": NaiveLoop(problem).step,
        "bare": BareLoop(problem, **lean).step,
    }
    contestants |= {name: stepper(built) for name, built in found.items()}
    flops = count_flops(contestants["runner"])
    return Setup(contestants, flops, lean)


def timed(contestants: Mapping[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, float]:
    """The median seconds of a step of each; the steps of one measurement last a while together."""
    once = {name: waited(step, 1, device) for name, step in contestants.items()}
    first = medians(once, rounds=1, warmup=0)
    if min(first.values()) < SHORTEST:  # the first steps of all, which take longer
        first = medians(once, rounds=1)
    count = max(1, round(SHORTEST / max(first.values())))
    found = medians({name: waited(step, count, device) for name, step in contestants.items()}, rounds, warmup=0)
    return {name: seconds / count for name, seconds in found.items()}


def waited(step: Callable[[], object], count: int, device: torch.device) -> Callable[[], None]:
    """So many steps, until the device has done them."""

    def run() -> None:
        for _ in range(count):
            step()
        synchronize(device)

    return run


def speed(rounds: int, device_name: str = "auto", models: list[str] | None = None) -> None:
    """The table of ratios."""
    device = choose_device(device_name)
    dtypes = {"fp32": torch.float32} | ({} if is_slow_at_bf16(device) else {"bf16": torch.bfloat16})
    rates = {name: matrix_rate(device, dtype) for name, dtype in dtypes.items()}
    if device.type == "cuda":
        name, threads = torch.cuda.get_device_name(device), ""
    else:
        name, threads = device.type, f", {torch.get_num_threads()} threads"
    print(f"\nOne step, batch 64, on {name}{threads}; medians of {rounds} rounds in turn")
    print("Matrix products: " + ", ".join(f"{each} {rate / 1e9:,.0f} GFLOP/s" for each, rate in rates.items()))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, np.random.default_rng(0).integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8))
        first = runs(MODELS["mlp"], "hinge", device, path)
        modes = list(first)[1:]
        heads = ["naive/runner", "runner/bare", *(f"runner/{mode}" for mode in modes)]
        print(f"{'':<42}{''.join(f'{head:>{width(head)}}' for head in heads)}   GFLOP   GFLOP/s  of rate  bare loop")
        for key, loss in itertools.product(models or STANDARD, LOSSES):
            if key == "mlp" and "+" in loss:  # it is the convolutions that these are about
                continue
            if key == "stylegan2" and "spectral_norm" in loss:  # it has its own way with weights
                continue
            with arithmetic_of(first["runner"].settings, print):  # one for all, those by hand too
                made = set_up(MODELS[key], loss, device, path)
                found = timed(made.contestants, device, rounds)
            options = ", ".join(name for name, is_on in made.lean.items() if is_on)
            print(
                f"{MODELS[key].title + ', ' + loss:<32}{1000 * found['runner']:>7.4g} ms{ratios(found, modes)}"
                f"{roofline(made, found, rates)}  {options or 'plain'}",
                flush=True,
            )


def width(head: str) -> int:
    """Of a column."""
    return len(head) + 2


def ratios(found: dict[str, float], modes: list[str]) -> str:
    """A row's ratios of times."""
    pairs = [("naive", "runner"), ("runner", "bare"), *(("runner", mode) for mode in modes)]
    cells = []
    for one, other in pairs:
        cell = f"{found[one] / found[other]:.3f}" if other in found else "-"
        cells.append(f"{cell:>{width(f'{one}/{other}')}}")
    return "".join(cells)


def roofline(made: Setup, found: dict[str, float], rates: dict[str, float]) -> str:
    """FLOPs of a step, what the runner achieves, and its share of the machine's rate; then the same in bf16."""
    done = made.flops / found["runner"]
    line = f"{made.flops / 1e9:>8.3g}{done / 1e9:>10,.1f}{done / rates['fp32']:>9.1%}"
    return line + (f", bf16 {made.flops / found['bf16'] / rates['bf16']:.1%}" if "bf16" in found else "")
