"""How long steps take on a device, how busy it is, with which kernels, and how much memory they take."""

import gc
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from gan_runner.games.cuda_graph import WARM_UP, CapturedStep, why_not_capturable
from gan_runner.games.stacked_game import StackedGame
from gan_runner.training.build import Built, arithmetic_of, build
from tests.benchmarks.bare import BareLoop, Loss, Problem
from tests.benchmarks.naive import NaiveLoop
from tests.benchmarks.roofline import synchronize
from tests.benchmarks.timing import peak_of_process
from tests.gpu.record import Check, Record
from tests.helpers import compose
from tests.helpers.taped import taped

LATENTS = 100
KERNELS = 15  # of those that take longest
BLOCKS = 7  # measurements, of which the median is taken
SECONDS = 0.1  # that each takes at least
PROFILED = 5  # steps


class Row(NamedTuple):
    """What is trained; `loss` is what the loops by hand call it, and None where they know nothing like it."""

    words: list[str]
    loss: str | None = None
    runs: int = 1  # penalty weights that are trained as one program


def widths(generator: int, discriminator: int) -> list[str]:
    return [f"model.generator.width={generator}", f"model.discriminator.width={discriminator}"]


ROWS = {
    "dcgan wgan_gp": Row(["model=dcgan", *widths(64, 64), "loss=wgan_gp"], "wgan_gp"),
    "resnet hinge spectral_norm": Row(
        ["model=resnet", "loss=hinge", "regularizer=spectral_norm"], "hinge+spectral_norm"
    ),
    "resnet relativistic r1 r2": Row(
        ["model=resnet", "loss=relativistic", "regularizer=[r1,r2]"], "relativistic+r1+r2"
    ),
    "ring wgan_gp": Row(["model=mlp", "dataset=ring", "loss=wgan_gp"], "wgan_gp"),
    "ring, 16 penalty weights": Row(["model=mlp", "dataset=ring", "loss=wgan_gp"], runs=16),
    "ring, 64 penalty weights": Row(["model=mlp", "dataset=ring", "loss=wgan_gp"], runs=64),
}
ARITHMETIC = {
    "tf32": ["precision=fp32", "tf32=true"],
    "fp32": ["precision=fp32", "tf32=false"],
    "bf16": ["precision=bf16"],
}
SMALLER = widths(8, 8)  # on a CPU, to try the measurement itself

Step = Callable[[], object]


def checks() -> dict[str, Check]:
    """All of them, by name: a row in one arithmetic."""
    return {
        f"timings/{name}, {arithmetic}": partial(timings, row, words)
        for (name, row), (arithmetic, words) in itertools.product(ROWS.items(), ARITHMETIC.items())
    }


def timings(row: Row, arithmetic: list[str], device: torch.device, record: Record) -> None:
    """The runner eager and captured, and the loops by hand where they know the row, one after another."""
    with tempfile.TemporaryDirectory() as folder:
        images = np.random.default_rng(0).integers(0, 256, (1000, 3, 32, 32), dtype=np.uint8)
        if device.type == "cpu":
            images = images[:100, :, :8, :8]
        path = Path(folder) / "images.npy"
        np.save(path, images)
        words = [*row.words, f"model.latent_size={LATENTS}", "batch_size=64", "metric=none", *arithmetic]
        words += [f"device={device}", "capture=false", *(SMALLER if device.type == "cpu" else [])]
        if "dataset=ring" not in words:
            words += ["dataset=npy", f"dataset.path={path}"]
        config = compose(*words)
        settings = build(config, []).settings
        with arithmetic_of(settings, record.say):
            for name, make in contestants(row, config, images, record).items():
                try:
                    record.values[name] = found = measured(make, device)
                except NotThereError as reason:
                    record.say(f"{name}: {reason}")
                else:
                    record.expect(found["kernels of a step"] > 0, f"{name}: the profiler saw nothing run")
    record.expect("eager" in record.values, "the runner's own steps were not measured")


class NotThereError(Exception):
    """Why something cannot be measured."""


def contestants(row: Row, config: dict[str, Any], images: np.ndarray, record: Record) -> dict[str, Callable[[], Step]]:
    """What makes the steps of each; raises NotThereError where it has none."""
    found: dict[str, Callable[[], Step]] = {
        "eager": partial(eager_step, row, config),
        "captured": partial(captured_step, row, config, record),
    }
    if row.loss not in get_args(Loss):
        record.say(f"bare, naive: not measured, as the loops by hand have no row '{row.loss or 'many runs at once'}'")
    elif config["precision"] == "bf16":
        record.say("bare, naive: not measured, as the loops by hand have no bf16")
    else:
        kinds = {"bare": BareLoop, "naive": NaiveLoop}
        found |= {name: partial(by_hand, kind, row, config, images) for name, kind in kinds.items()}
    return found


def members(row: Row, config: dict[str, Any]) -> list[Built]:
    """The runs of a row: one, or several that differ in the penalty's weight."""
    found = []
    for number in range(row.runs):
        regularizers = dict(config.get("regularizer") or {})
        if row.runs > 1:
            weight = 0.1 * 1.5 ** (16 * number / row.runs)
            regularizers["gradient_penalty"] = regularizers["gradient_penalty"] | {"weight": weight}
        found.append(build(config | {"regularizer": regularizers}, []))
    return found


def eager_step(row: Row, config: dict[str, Any]) -> Step:
    built = members(row, config)
    step = built[0].game.step if row.runs == 1 else StackedGame([each.game for each in built]).step
    return partial(take, step, itertools.count())


def take(step: Callable[[int], object], numbers: Iterator[int]) -> None:
    step(next(numbers))


def captured_step(row: Row, config: dict[str, Any], record: Record) -> Step:
    """Steps from CUDA graphs, recorded already; elsewhere from tapes. Raises NotThereError where there are none."""
    built = members(row, config)
    said: list[str] = []
    numbers = itertools.count()
    try:
        game = built[0].game if row.runs == 1 else StackedGame([each.game for each in built]).game
        device = game.randomness.device
        if device.type == "cuda" and (reason := why_not_capturable(game)):
            raise NotThereError(reason)
        step = CapturedStep(game, said.append) if device.type == "cuda" else taped(game)
        for _ in range(WARM_UP + 2):
            step(next(numbers))
    except NotThereError:
        raise
    except Exception as error:
        if row.runs == 1:
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotThereError(f"stacked runs are not capturable yet: {line}") from error
    said += getattr(step, "said", [])
    if said:
        record.expect(row.runs > 1, "; ".join(said))
        raise NotThereError("; ".join(said))
    return partial(take, step, numbers)


def by_hand(kind: type[BareLoop] | type[NaiveLoop], row: Row, config: dict[str, Any], images: np.ndarray) -> Step:
    """A loop by hand, from the same start weights."""
    regularizers = {name: node for name, node in config["regularizer"].items() if name != "spectral_norm"}
    game: Any = build(config | {"regularizer": regularizers}, []).game
    loss: Any = row.loss
    return kind(Problem.of(game, loss, LATENTS, None if game.data.centres is not None else images)).step


# --- measuring --------------------------------------------------------------------------------------------------------


def measured(make: Callable[[], Step], device: torch.device) -> dict[str, Any]:
    """Milliseconds of a step, the share of them that the device works, its longest kernels, and the peak of memory."""
    gc.collect()
    is_cuda, held = device.type == "cuda", 0
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
    step = make()
    for _ in range(WARM_UP):
        step()
    seconds = seconds_of(step, device)
    peak = (torch.cuda.max_memory_allocated(device) - held) / 2**20 if is_cuda else peak_of_process()
    kernels, busy = profiled(step, device)
    return {
        "milliseconds": 1000 * seconds,
        "peak MiB": peak,
        "busy": busy / seconds,
        "kernels of a step": sum(each["count"] for each in kernels),
        "longest kernels": kernels[:KERNELS],
    }


def seconds_of(step: Step, device: torch.device) -> float:
    """The median seconds of a step, of several blocks of so many that a block takes a while."""
    once = timed(step, 1, device)
    count = max(1, round(SECONDS / max(once, 1e-6)))
    if count > 1:
        count = max(1, round(SECONDS / max(timed(step, min(count, 20), device), 1e-6)))
    return statistics.median(timed(step, count, device) for _ in range(BLOCKS))


def timed(step: Step, count: int, device: torch.device) -> float:
    """Seconds of a step, the mean of so many: by events of the GPU, elsewhere by the clock."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(count):
            step()
        return (time.perf_counter() - start) / count
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    synchronize(device)
    begin.record()
    for _ in range(count):
        step()
    end.record()
    synchronize(device)
    return begin.elapsed_time(end) / 1000 / count


def profiled(step: Step, device: torch.device) -> tuple[list[dict[str, Any]], float]:
    """The kernels of a step, the longest in sum first, and the seconds of a step in which at least one runs.

    On a CPU its operators.
    """
    is_cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]
    with quiet_garbage(), profile(activities=activities) as found:
        for _ in range(PROFILED):
            step()
        synchronize(device)
    wanted = DeviceType.CUDA if is_cuda else DeviceType.CPU
    events: list[Any] = [each for each in found.events() or [] if each.device_type == wanted]
    events = [each for each in events if not each.is_user_annotation]
    sums: dict[str, list[float]] = {}
    for each in events:
        sums.setdefault(each.name, []).append(each.time_range.elapsed_us() if is_cuda else each.self_cpu_time_total)
    kernels = [
        {"name": name, "count": len(times) / PROFILED, "microseconds": sum(times) / PROFILED}
        for name, times in sums.items()
    ]
    busy = covered([(each.time_range.start, each.time_range.end) for each in events]) / 1e6 / PROFILED
    return sorted(kernels, key=lambda each: -each["microseconds"]), busy


def covered(intervals: list[tuple[float, float]]) -> float:
    """The length of the union of intervals."""
    total, last = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, last))
        last = max(last, end)
    return total


@contextmanager
def quiet_garbage() -> Iterator[None]:
    """Without a collection of garbage."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
