"""CUDA graphs: what a recorded step must get from outside, shown without a GPU; on one, the real thing."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gan_runner.config.errors import ConfigError
from gan_runner.games.cuda_graph import (
    MOST_GRAPHS,
    WARM_UP,
    CapturedStep,
    CudaGraph,
    DeviceSchedule,
    put_schedules_on_device,
    why_not_capturable,
)
from gan_runner.games.stacked_game import StackedGame, StackedSchedule
from gan_runner.training.build import build
from tests.helpers import compose, some
from tests.helpers.games import floats
from tests.helpers.taped import TapedGraph, state_tensors, taped

MLP = ["model=mlp", "dataset=ring"]
WIDTHS = ["model.generator.width=4", "model.discriminator.width=4"]
CONFIGS = {
    "wgan_gp": [],
    "hinge": ["loss=hinge", "regularizer=spectral_norm"],
    "relativistic": ["loss=relativistic", "regularizer=[r1,r2]"],
    "lazy": ["loss=bce", "regularizer=r1", "regularizer.r1.every=3"],
    "remembers": ["loss=hinge", "regularizer=lecam", "regularizer.lecam.start=0"],
    "iterates": ["regularizer=iterative_gradient_penalty", "loss=wasserstein"],
    "schedules": ["lr_schedule=cosine", "lr_schedule@regularizer.gradient_penalty.schedule=linear"],
    "noise": ["loss=hinge", "augmentation=input_noise", "lr_schedule@augmentation.input_noise.schedule=linear"],
    "betas": [
        "optimizer.betas=[0.0,0.9]",
        "lr_schedule@optimizer.beta2_schedule=cosine",
        "optimizer.beta2_schedule.end=1.1",
        "lr_schedule@ema_half_life_schedule=linear",
        "ema_half_life_schedule.start=0",
        "ema_half_life_schedule.end=1",
        "ema_ramp=null",
        "ema_half_life=100",
        "loss=hinge",
    ],
    "clips": ["loss=wgan", "regularizer=gradient_clip", "optimizer=sgd"],
    "labels": ["conditional=true"],
    "images": ["model=dcgan", *WIDTHS, "model.generator.normalization=batch", "augmentation=diffaugment"],
    "vae": ["model=vae", "loss=elbo", "dataset.normalization=unit"],
}
IN_TURN = [
    "loss=hinge",
    "regularizer=[lecam,iterative_gradient_penalty,r1]",
    "regularizer.lecam.start=0",
    "regularizer.r1.every=2",
]
# RMSprop reads its rate on the host where the weights are on a CPU.
ON_A_GPU = CONFIGS | {"in turn": IN_TURN, "rmsprop": ["loss=wgan", "optimizer=rmsprop"]}
STEPS = 14


def make(words):
    network = [] if any(word.startswith("model=") for word in words) else [*MLP, *WIDTHS]
    common = ["batch_size=8", "model.latent_size=4", "steps=20", "device=cpu", "metric=none"]
    return build(compose(*common, *network, *words), []).game


def rates(game):
    groups = [group for player in game.players.values() for group in player.optimizer.param_groups]
    return [float(number) for group in groups for number in (group["lr"], *group.get("betas", ()))]


def agree(words):
    """The captured steps of a game, each of which did what an eager one does."""
    eager, step = make(words), taped(make(words))
    schedules = put_schedules_on_device(eager)
    for number in range(STEPS):
        for schedule in schedules:
            schedule.fill(number)
        expected, found = eager.step(number, is_logged=True), step(number, is_logged=True)
        assert floats(expected) == floats(found), number
        assert rates(step.game) == pytest.approx(rates(eager), rel=1e-6), number  # a checkpoint has them
        assert floats(eager.held_out_values()) == floats(step.game.held_out_values()), number
    for one, other in zip(state_tensors(eager), state_tensors(step.game), strict=True):
        assert torch.equal(one, other)
    groups = [group for player in step.game.players.values() for group in player.optimizer.param_groups]
    assert all(isinstance(number, float) for group in groups for number in (group["lr"], *group.get("betas", ())))
    return step


@pytest.mark.parametrize(
    "name", some(["remembers", "lazy", "betas", "images"], every=2)
)  # the conformance suite asks every option
def test_replayed_steps_are_those_taken_one_operator_after_another(name):
    step = agree(CONFIGS[name])
    assert len(step.recordings) == len({step.game.active_terms(number) for number in range(WARM_UP, STEPS)})
    assert not step.said


def test_graphs_and_single_operators_in_turn(monkeypatch):
    """Terms that remember, where there is a graph for every other step alone."""
    monkeypatch.setattr("gan_runner.games.cuda_graph.MOST_GRAPHS", 1)
    step = agree(IN_TURN)
    assert len(step.recordings) == 1
    assert "in more than 1 combinations" in step.said[0]


STACKED = {
    "weights": [[f"regularizer.gradient_penalty.weight={weight}"] for weight in (0.1, 1, 10)],
    "seeds and rates": [[f"seed={seed}", f"optimizer.lr={rate}"] for seed, rate in ((0, 1e-3), (1, 1e-4), (1, 1e-3))],
    # For a while all are the same, and then they are not.
    "schedules": [["lr_schedule=linear", f"lr_schedule.steps={steps}", "lr_schedule.warmup=4"] for steps in (10, 20)],
    "lazy": [[*CONFIGS["lazy"], f"seed={seed}"] for seed in (0, 1)],
    "images": [[*CONFIGS["images"], "conditional=true", f"seed={seed}"] for seed in (0, 1)],
    "betas": [[*CONFIGS["betas"], f"optimizer.lr={rate}"] for rate in (1e-3, 1e-4)],
}


@pytest.mark.parametrize("name", some(STACKED, every=3))
def test_stacked_runs_are_recorded(name):
    together = [StackedGame([make(words) for words in STACKED[name]]) for _ in range(2)]
    eager, captured = together
    schedules = put_schedules_on_device(eager.game)
    captured.take_step = step = taped(captured.game)
    for number in range(STEPS):
        for schedule in schedules:
            schedule.fill(number)
        expected, found = eager.step(number, is_logged=True), captured.step(number, is_logged=True)
        for run in range(len(STACKED[name])):
            assert floats(eager.values_of(run, expected)) == floats(captured.values_of(run, found)), number
    for each in together:
        each.hand_out(STEPS - 1)
    for one, other in zip(eager.games, captured.games, strict=True):
        for ours, theirs in zip(state_tensors(one), state_tensors(other), strict=True):
            assert torch.equal(ours, theirs)
    assert step.recordings
    assert not step.said


def test_runs_that_are_stacked_again_keep_their_schedules():
    """As when one of them has ended: a reduction's schedule on the device belongs to the stack, not to the run."""
    games = [make(["regularizer=top_k", "regularizer.top_k.interval=1", f"seed={seed}"]) for seed in (0, 1)]
    for step in (1, 5):
        stacked = StackedGame(games)
        for schedule in put_schedules_on_device(stacked.game):
            schedule.fill(step)
        reduction: Any = stacked.game.players["generator"].terms["loss"].reduction
        assert float(reduction.schedule(step)) == pytest.approx(reduction.share(step))


def test_schedules_of_runs_that_come_to_differ():
    """The value is one number, then one for each run, in a tensor of its own that stays where it is."""
    schedule = StackedSchedule([lambda step: 1.0, lambda step: 1.0 if step < 2 else 0.1 * (step // 4)], torch.zeros(()))
    held = DeviceSchedule(schedule, torch.device("cpu"))
    found = []
    for step in range(10):
        held.fill(step)
        found.append((held(step).data_ptr(), held(step).tolist()))
    assert [value for _, value in found[:2]] == [1.0, 1.0]
    assert found[9][1] == pytest.approx([1.0, 0.2])
    assert len({place for place, _ in found[:2]}) == len({place for place, _ in found[2:]}) == 1


@pytest.mark.parametrize("name", ["schedules", "noise", "betas"])
def test_a_schedule_on_the_device_is_the_schedule(name):
    plain, held = make(CONFIGS[name]), make(CONFIGS[name])
    schedules = put_schedules_on_device(held)
    assert len(schedules) >= 2
    for number in range(2):
        for schedule in schedules:
            schedule.fill(number)
        expected, found = plain.step(number, is_logged=True), held.step(number, is_logged=True)
        assert floats(found) == pytest.approx(floats(expected), rel=1e-3)


def test_what_cannot_be_recorded_goes_on_without(monkeypatch):
    def fail(graph, work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(TapedGraph, "record", fail)
    step = taped(make(CONFIGS["remembers"]))
    for number in range(WARM_UP + 3):
        step(number)
    assert not step.recordings
    assert step.said == [
        "capture: operation not permitted when stream is capturing; steps without a CUDA graph from here on"
    ]


def test_a_later_recording_that_fails(monkeypatch):
    """The graphs before it are given up, and the log has the cause, not CUDA's remark on it."""
    record = TapedGraph.record

    def fail_later(graph, work):
        if not graph.graphs:
            record(graph, work)
            return
        try:
            raise RuntimeError("the host waits")
        except RuntimeError:
            raise RuntimeError("operation failed due to a previous error during capture") from None

    monkeypatch.setattr(TapedGraph, "record", fail_later)
    step = agree(CONFIGS["lazy"])
    assert not step.recordings
    assert step.said == ["capture: the host waits; steps without a CUDA graph from here on"]


def test_a_set_of_terms_is_recorded_once_it_has_run():
    """A resumed run may meet one after its warm-up: what its first step sets up cannot be recorded."""
    step = taped(make(CONFIGS["lazy"]))
    first = WARM_UP + 4
    alone = step.game.active_terms(first)
    for number in range(1, first):  # numbers of steps at which r1 is not due
        step(3 * number + 1)
    assert step.game.active_terms(3) != alone
    assert [terms for terms, _ in step.recordings] == [alone]
    step(3)
    assert [terms for terms, _ in step.recordings] == [alone]
    step(6)
    assert len(step.recordings) == 2


class FailedCapture:
    """What `torch.cuda.graph` is where the capture ends with an error."""

    def __init__(self, graph, pool, stream, **options):
        pass

    def __enter__(self):
        pass

    def __exit__(self, *exception):
        raise RuntimeError("operation failed due to a previous error during capture")


@pytest.mark.parametrize("is_open", [True, False])
def test_a_failed_recording_leaves_nothing_open(is_open, monkeypatch):
    stream = SimpleNamespace(device=torch.device("cuda", 1))
    closed: list[Any] = []
    current: list[Any] = []
    generators: list[Any] = []

    def close(index, pool):
        closed.append((index, pool))
        if not is_open:
            raise RuntimeError("not currently recording to that pool")

    class Generator:
        def clone_state(self):
            return self

        def graphsafe_set_state(self, state):
            generators.append(state)

    class Graph:
        def register_generator_state(self, generator):
            registered.append(generator)

    registered: list[Any] = []
    default: Any = Generator()
    own: Any = Generator()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", FailedCapture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "the one before")
    monkeypatch.setattr(torch.cuda, "set_stream", current.append)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", close)
    monkeypatch.setattr("gan_runner.games.cuda_graph.default_generator", lambda device: default)
    graph = CudaGraph((0, 7), stream, [default, own])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="a previous error during capture"):
        graph.record(lambda: None)
    assert closed == [(1, (0, 7))]
    assert current == ["the one before"]
    assert registered == [own]
    assert {*generators} == {default, own}


@pytest.mark.parametrize("is_recorded", [True, False])
def test_each_batch_is_fetched_once(is_recorded, monkeypatch):
    """Twice the same would start the workers of a dataset that streams anew."""
    game, asked = make(CONFIGS["lazy"]), []
    original = game.data.batch
    monkeypatch.setattr(game.data, "batch", lambda index, *rest: asked.append(index) or original(index, *rest))  # type: ignore[func-returns-value]
    make_nothing: Any = lambda: None  # noqa: E731
    step = taped(game) if is_recorded else CapturedStep(game, print, make_nothing)
    for number in range(8):
        step(number)
    assert asked == list(range(8))
    assert bool(step.recordings) == is_recorded


def test_many_sets_of_due_terms(monkeypatch):
    words = ["loss=bce", "regularizer=[r1,r2]", "regularizer.r1.every=5", "regularizer.r2.every=7"]
    game = make(words)
    step = taped(game)
    monkeypatch.setattr("gan_runner.games.cuda_graph.MOST_GRAPHS", 2)
    for number in range(20):
        step(number)
    assert len(step.recordings) == 2 < MOST_GRAPHS
    assert "in more than 2 combinations" in step.said[0]


def test_capture_on_the_cpu():
    assert "CUDA device" in (why_not_capturable(make([])) or "")
    with pytest.raises(ConfigError, match="capture=true: CUDA graphs need a CUDA device, and this run is on the cpu"):
        make(["capture=true"])
    make(["capture=false"])


class Fades:
    """An augmentation that reads the step's number."""

    def __call__(self, samples, randomness, step):
        return samples / (1 + step)


@pytest.mark.slow
def test_what_is_known_not_to_be_capturable():
    def reason(words, *augmentations):
        game = make(words)
        game.randomness.device = torch.device("cuda")
        getattr(game, "augmentations", []).extend(augmentations)
        return why_not_capturable(game)

    for words in CONFIGS.values():
        assert reason(words) is None
    assert reason([], Fades()) == "Fades may read the step's number, which a graph would not change"
    assert "FiniteDifference optimizer of the generator" in reason(["optimizer=finite_difference", "loss=hinge"])
    assert "Adafactor optimizer" in reason(
        ["optimizer._target_=torch.optim.Adafactor", "~optimizer.betas", "~optimizer.eps"]
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("most", [1, MOST_GRAPHS])
@pytest.mark.parametrize("name", ON_A_GPU)
def test_graphs_on_a_gpu(name, most, monkeypatch):
    monkeypatch.setattr("gan_runner.games.cuda_graph.MOST_GRAPHS", most)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    eager, captured = make([*ON_A_GPU[name], "device=cuda"]), make([*ON_A_GPU[name], "device=cuda"])
    schedules = put_schedules_on_device(eager)
    said: list[str] = []
    step = CapturedStep(captured, said.append)
    for number in range(100):
        for schedule in schedules:
            schedule.fill(number)
        expected, found = eager.step(number, is_logged=True), step(number, is_logged=True)
    assert step.recordings
    assert all("combinations" in line for line in said)
    assert floats(found) == pytest.approx(floats(expected), rel=1e-3, abs=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", STACKED)
def test_stacked_graphs_on_a_gpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    eager, captured = (StackedGame([make([*words, "device=cuda"]) for words in STACKED[name]]) for _ in range(2))
    said: list[str] = []
    captured.take_step = step = CapturedStep(captured.game, said.append)
    for number in range(30):
        expected, found = eager.step(number, is_logged=True), captured.step(number, is_logged=True)
    assert step.recordings
    assert not said
    for run in range(len(STACKED[name])):
        one, other = floats(eager.values_of(run, expected)), floats(captured.values_of(run, found))
        assert other == pytest.approx(one, rel=1e-2, abs=1e-4)
