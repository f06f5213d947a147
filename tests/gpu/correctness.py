"""Whether training on a device is right: it never waits, and CUDA graphs do what steps without them do."""

import contextlib
import gc
import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gan_runner.games.cuda_graph import WARM_UP, CapturedStep, put_schedules_on_device, why_not_capturable
from gan_runner.games.game import Game
from gan_runner.games.player import Values
from gan_runner.games.term import Term
from gan_runner.training.build import arithmetic_of, build
from tests.gpu.jobs import REPOSITORY
from tests.gpu.record import Check, Record
from tests.helpers import compose
from tests.helpers.games import floats
from tests.helpers.stacked import idle_weights, kind, numbers
from tests.helpers.taped import taped

WIDTHS = ["model.generator.width=16", "model.discriminator.width=16"]
MLP, DCGAN, RESNET = (
    ["model=mlp", "dataset=ring", *WIDTHS],
    ["model=dcgan", *WIDTHS],
    ["model=resnet", "dataset.image_size=32", *WIDTHS],
)
CONFIGS: dict[str, list[str]] = {
    "default": [],
    "points": [*MLP],
    "spectral_norm": [*DCGAN, "loss=hinge", "regularizer=spectral_norm"],
    "spectral_norm of scales": ["model=mlp", *WIDTHS, "regularizer=spectral_norm", "model.discriminator.scales=2"],
    "resnet": [*RESNET, "loss=hinge", "regularizer=spectral_norm"],
    "resnet relativistic": [*RESNET, "loss=relativistic", "regularizer=[r1,r2]"],
    "resnet conditional": [*RESNET, "conditional=true", "loss=hinge", "regularizer=orthogonal"],
    "r3gan, schedules": [
        "model=r3gan", *WIDTHS, "conditional=true", "loss=relativistic", "regularizer=[r1,r2]", "lr_schedule=cosine",
        "lr_schedule@optimizer.beta2_schedule=cosine", "optimizer.betas=[0.0,0.9]", "optimizer.beta2_schedule.end=1.1",
        "lr_schedule@ema_half_life_schedule=cosine", "ema_half_life_schedule.start=0", "ema_half_life_schedule.end=1",
    ],
    "r1 and r2": [*DCGAN, "loss=relativistic", "regularizer=[r1,r2]"],
    "lazy r1, diffaugment": [
        *DCGAN, "loss=bce", "regularizer=r1", "regularizer.r1.every=4", "augmentation=diffaugment",
    ],
    "lecam": [*DCGAN, "loss=hinge", "regularizer=lecam", "regularizer.lecam.start=6"],
    "iterated penalty": [*MLP, "loss=wasserstein", "regularizer=iterative_gradient_penalty"],
    "dragan, zero-centered": [*DCGAN, "loss=bce", "regularizer=[dragan,zero_centered_gradient_penalty]"],
    "schedules": [*DCGAN, "lr_schedule=cosine", "lr_schedule@regularizer.gradient_penalty.schedule=linear"],
    "noise that fades": [
        *MLP, "loss=hinge", "augmentation=input_noise", "lr_schedule@augmentation.input_noise.schedule=linear",
    ],
    "wgan, rmsprop": [*DCGAN, "loss=wgan", "optimizer=rmsprop"],
    "sgd, clipped": [*MLP, "loss=hinge", "optimizer=sgd", "optimizer.momentum=0.9", "regularizer=gradient_clip"],
    "adamw, bounds": [
        *DCGAN, "loss=hinge", "optimizer=adamw", "optimizer.weight_decay=0.1", "regularizer=[max_norm,value_range]",
    ],
    "autoencoder": ["model=vae", "loss=elbo", "dataset.normalization=unit"],
    "batch norm": [
        *DCGAN, "loss=bce", "model.generator.normalization=batch", "model.discriminator.normalization=batch",
    ],
    "feature matching": [*DCGAN, "loss=bce", "regularizer=feature_matching", "generator_batch_size=80"],
    "consistency": [*DCGAN, "loss=hinge", "regularizer=[consistency,balanced_consistency]", "dataset.flip=true"],
    "nearest samples": [*DCGAN, "loss=hinge", "regularizer=[reconstruction,adversarial_perturbation]"],
    "dense, dropout": ["model=dense_deconv", "loss=lsgan", "dataset.dequantize=true"],
    "l1, l2": [*MLP, "loss=relativistic_average", "regularizer=[l1,l2]", "model.discriminator.dropout=0.1"],
}  # fmt: skip
NOT_CAPTURED: dict[str, list[str]] = {"subgradient": [*MLP, "optimizer=subgradient", "loss=hinge"]}
"""Their optimizer computes on the host."""

PRECISIONS = ("fp32", "bf16")
STEPS = 24  # of each; every set of active terms is recorded, and replayed
# How far a recorded step's state may be from that of one which is not, relative to the network's largest entry: the
# kernels are the same, and some add in any order.
TOLERANCE = {"fp32": 1e-3, "bf16": 2e-2}


def checks() -> dict[str, Check]:
    """All of them, by name; the longest first."""
    tests = REPOSITORY / "tests"
    marked = [path for path in sorted(tests.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]
    found: dict[str, Check] = {
        f"correctness/pytest {path.relative_to(tests)}": partial(marked_tests, path) for path in marked
    }
    for (name, words), precision in itertools.product((CONFIGS | NOT_CAPTURED).items(), PRECISIONS):
        check = partial(trains, [*words, f"precision={precision}"], name not in NOT_CAPTURED)
        found[f"correctness/{name} {precision}"] = check
    found["correctness/failed capture"] = failed_capture
    return found


# --- tests ------------------------------------------------------------------------------------------------------------


class Counted:
    """A plugin of pytest: how its tests ended."""

    def __init__(self) -> None:
        self.ended: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or not report.passed:
            self.ended[report.outcome].append(report.nodeid)


def marked_tests(path: Path, device: torch.device, record: Record) -> None:
    """The tests of a file that are marked `gpu`."""
    counted = Counted()
    # In a process that has threads, Python 3.12 warns of a fork.
    words = ["-m", "gpu", "-o", "filterwarnings=default", "-p", "no:cacheprovider", "-p", "no:xdist", str(path)]
    with contextlib.chdir(REPOSITORY):
        code = pytest.main(words, plugins=[counted])
    record.values |= {outcome: len(tests) for outcome, tests in counted.ended.items()}
    record.expect(not counted.ended["failed"], f"failed: {', '.join(counted.ended['failed'])}")
    record.expect(code == 0 and bool(counted.ended["passed"]), f"no test passed, or pytest broke off: {code!r}")
    record.expect(not counted.ended["skipped"], f"skipped: {', '.join(counted.ended['skipped'])}")


# --- steps ------------------------------------------------------------------------------------------------------------


def trains(words: list[str], is_captured: bool, device: torch.device, record: Record) -> None:
    """A config's steps: none waits for the device, and those that are captured do what the others do."""
    config = compose("batch_size=64", "metric=none", "capture=false", *words, f"device={device}")
    with repeatable_convolutions():
        built = build(config, [])
        with arithmetic_of(built.settings, record.say):
            never_waits(built.game, record)
            if device.type == "cuda":
                reason = why_not_capturable(built.game)
                record.expect(is_captured == (reason is None), f"whether it can be captured: {reason or 'yes'}")
            if is_captured:
                captured_is_eager(config, device, record)


def never_waits(game: Game, record: Record) -> None:
    """No step waits for the device, whether it is logged or not; values are read in between."""
    device, last = game.randomness.device, Values()
    for step in range(STEPS // 2):
        with contextlib.nullcontext() if step < WARM_UP else no_waiting(device):
            last = game.step(step, is_logged=step % 4 == 0) or last
    finite(floats(last), record)


@contextlib.contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Whatever waits for a GPU raises."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextlib.contextmanager
def repeatable_convolutions() -> Iterator[None]:
    """cuDNN's algorithms are those that give the same bits every time."""
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic = before


def captured(game: Game, say: Callable[[str], None]) -> CapturedStep:
    """The steps of a game from CUDA graphs; elsewhere from tapes."""
    if game.randomness.device.type == "cuda":
        return CapturedStep(game, say)
    step = taped(game)
    step.say = say
    return step


def captured_is_eager(
    config: dict[str, Any],
    device: torch.device,
    record: Record,
    change: Callable[[Game], None] = lambda game: None,
    refusals: int = 0,
) -> None:
    """As many steps of either kind end in the same state, to rounding.

    `change` is made to both games; capturing is refused so many times, and where it never is, every set of active
    terms has its graph.
    """
    eager, game = build(config, []).game, build(config, []).game
    change(eager)
    change(game)
    schedules, said = put_schedules_on_device(eager), list[str]()
    step = captured(game, said.append)
    active: set[Any] = set()
    expected, found = {}, {}
    for number in range(STEPS):
        for schedule in schedules:
            schedule.fill(number)
        active.add(game.active_terms(number))
        is_logged = number % 3 == 2 or number == STEPS - 1
        expected, found = eager.step(number, is_logged=is_logged), step(number, is_logged=is_logged)
    for line in said:
        record.say(line)
    record.values["graphs"] = len(step.recordings)
    record.expect(len(said) == refusals, f"{len(said)} notes of the capture, not {refusals}: {'; '.join(said)}")
    if not refusals:
        record.expect(len(step.recordings) == len(active), f"{len(step.recordings)} graphs for {len(active)} sets")
    finite(floats(expected), record)
    error, where = difference(eager, game)
    record.values |= {"state differs by": error, "most in": where}
    limit = TOLERANCE[config["precision"]]
    record.expect(error <= limit, f"the state differs by {error:.2g}, more than {limit:g}, in {where}")
    compare(floats(expected), floats(found), 10 * limit, record)


def difference(one: Game, other: Game) -> tuple[float, str]:
    """The largest, of all that a checkpoint holds, relative to the largest entry of its kind; and where.

    Without weights whose gradient is rounding, of which Adam makes steps.
    """
    expected, found = numbers(on_host(one.state_dict())), numbers(on_host(other.state_dict()))
    assert expected.keys() == found.keys()
    scales: dict[str, float] = {}
    for key, value in expected.items():
        if value.numel():
            scales[kind(key)] = max(scales.get(kind(key), 1e-6), float(value.abs().max()))
    idle = tuple(idle_weights(one))
    errors = [
        (float((found[key] - value).abs().max()) / scales[kind(key)], key)
        for key, value in expected.items()
        if value.numel() and not key.startswith(idle)
    ]
    unlike = [(math.inf, key) for error, key in errors if not math.isfinite(error)]
    return max(unlike or errors)


def on_host(state: Any) -> Any:
    """The tensors of nested dicts and lists on the CPU."""
    if isinstance(state, dict):
        return {key: on_host(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return [on_host(value) for value in state]
    return state.cpu() if isinstance(state, Tensor) else state


def finite(values: dict[str, float], record: Record) -> None:
    wrong = [tag for tag, value in values.items() if not math.isfinite(value)]
    record.expect(bool(values) and not wrong, f"not finite, or nothing logged: {', '.join(wrong)}")


def compare(expected: dict[str, float], found: dict[str, float], tolerance: float, record: Record) -> None:
    """What two steps logged; shares of samples on the right side may differ by some samples."""
    for tag, value in expected.items():
        limit = 0.1 if tag.startswith("accuracy") else tolerance * max(1.0, abs(value))
        record.expect(abs(found[tag] - value) <= limit, f"{tag} is {found[tag]:.6g}, and {value:.6g} without graphs")


# --- a capture that fails ---------------------------------------------------------------------------------------------

LATE = 8  # the step from which a term reads a value: some graphs are recorded by then


class Reads:
    """A penalty of 0 that waits for the device, which no graph can record."""

    def __call__(self, view: Any) -> Tensor:
        value = view.fake_logits.mean().item()
        return 0 * view.fake_logits + 0 * value


class Copies:
    """A penalty of 0 that takes numbers from the host."""

    def __call__(self, view: Any) -> Tensor:
        return view.fake_logits * torch.zeros(view.fake_logits.shape).to(view.fake_logits.device)


def failed_capture(device: torch.device, record: Record) -> None:
    """Steps go on after it without graphs, the allocator is sound, and another run is captured as ever."""
    config = compose("batch_size=64", "metric=none", "capture=false", *DCGAN, f"device={device}")
    # A tape holds what the host reads against a step, and lets it copy.
    failing = [(Reads(), 0), (Reads(), LATE), *([(Copies(), 0)] if device.type == "cuda" else [])]
    settings = build(config, []).settings
    with repeatable_convolutions(), arithmetic_of(settings, record.say):
        for fn, start in failing:

            def add(game: Game, fn: Any = fn, start: int = start) -> None:
                game.players["discriminator"].terms["fails"] = Term(fn, start=start).to(device)

            captured_is_eager(config, device, record, change=add, refusals=1)
            if device.type == "cuda":
                gc.collect()
                torch.cuda.empty_cache()
        record.values |= memory(device, "after failures")
        captured_is_eager(config, device, record)  # on the memory that was given back
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        record.values |= memory(device, "in the end")


def memory(device: torch.device, when: str) -> dict[str, float]:
    """Memory of a GPU that tensors hold, and that PyTorch holds for them, in MiB."""
    if device.type != "cuda":
        return {}
    held, reserved = torch.cuda.memory_allocated(device), torch.cuda.memory_reserved(device)
    return {f"MiB held {when}": held / 2**20, f"MiB reserved {when}": reserved / 2**20}
