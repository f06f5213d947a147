"""CUDA graphs: what a recorded step must get from outside, shown without a GPU; on one, the real thing."""

import copy
from typing import Any

import pytest
import torch

from gan_runner.build import build
from gan_runner.capture import MOST_GRAPHS, WARM_UP, CapturedStep, hindrance, hold_schedules, left_behind
from gan_runner.config import ConfigError
from tests.conftest import compose

MLP = ["model=mlp", "dataset=ring"]
WIDTHS = ["model.generator.width=4", "model.discriminator.width=4"]
CONFIGS = {
    "wgan_gp": [],
    "hinge": ["loss=hinge", "regularizer=spectral_norm"],
    "relativistic": ["loss=relativistic", "regularizer=[r1,r2]"],
    "lazy": ["loss=bce", "regularizer=r1", "regularizer.r1.every=3"],
    "remembers": ["loss=hinge", "regularizer=lecam"],
    "iterates": ["regularizer=iterative_gradient_penalty", "loss=wasserstein"],
    "schedules": ["lr_schedule=cosine", "lr_schedule@regularizer.gradient_penalty.schedule=linear"],
    "noise": ["loss=hinge", "augmentation=input_noise", "lr_schedule@augmentation.input_noise.schedule=linear"],
    "clips": ["loss=wgan", "regularizer=gradient_clip", "optimizer=rmsprop"],
    "labels": ["conditional=true"],
    "images": ["model=dcgan", *WIDTHS, "model.generator.normalization=batch", "augmentation=diffaugment"],
    "vae": ["model=vae", "loss=elbo", "dataset.normalization=unit"],
}
STEPS = 14


class Replay:
    """Like a CUDA graph: recording leaves every tensor as it was, and a replay repeats the work of that very step."""

    def __init__(self, game):
        self.game = game

    def record(self, work):
        before = copy.deepcopy(self.game.state_dict())
        work()
        self.game.load_state_dict(before)
        self.work, self.made = work, flat(left_behind(self.game))

    def replay(self):
        self.work()
        for static, new in zip(self.made, flat(left_behind(self.game)), strict=True):
            static.data.copy_(new)


def flat(found):
    gradients, attributes = found
    values = [*gradients.values(), *(value for _, _, value in attributes)]
    return [leaf for value in values for leaf in leaves(value)]


def make(words):
    network = [] if any(word.startswith("model=") for word in words) else [*MLP, *WIDTHS]
    common = ["batch_size=8", "model.latent_size=4", "steps=20", "device=cpu", "metric=none"]
    return build(compose(*common, *network, *words), []).game


def trace(game):
    return {tag: float(value) for tag, value in game.statistics().items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_replayed_steps_are_those_taken_one_operator_after_another(name):
    eager, captured = make(CONFIGS[name]), make(CONFIGS[name])
    schedules = hold_schedules(eager)
    step = CapturedStep(captured, lambda: Replay(captured))
    for number in range(STEPS):
        for schedule in schedules:
            schedule.hold(number)
        eager.step(number)
        step(number)
        assert trace(eager) == trace(captured), number
    assert len(step.recordings) == len({eager.due(number) for number in range(WARM_UP, STEPS)})
    assert not captured.remarks
    for one, other in zip(leaves(eager.state_dict()), leaves(captured.state_dict()), strict=True):
        assert torch.equal(one, other)


def leaves(state):
    if isinstance(state, dict):
        return [leaf for value in state.values() for leaf in leaves(value)]
    if isinstance(state, list):
        return [leaf for value in state for leaf in leaves(value)]
    return [state] if isinstance(state, torch.Tensor) else []


@pytest.mark.parametrize("name", ["schedules", "noise"])
def test_a_schedule_on_the_device_is_the_schedule(name):
    plain, held = make(CONFIGS[name]), make(CONFIGS[name])
    schedules = hold_schedules(held)
    assert len(schedules) >= 2
    for number in range(2):
        for schedule in schedules:
            schedule.hold(number)
        plain.step(number)
        held.step(number)
        assert trace(held) == pytest.approx(trace(plain), rel=1e-3)


def test_what_cannot_be_recorded_goes_on_without():
    class Broken(Replay):
        def record(self, work):
            work()
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    game = make(CONFIGS["remembers"])
    step = CapturedStep(game, lambda: Broken(game))
    for number in range(WARM_UP + 3):
        step(number)
    assert not step.recordings
    assert game.remarks == [
        "capture: operation not permitted when stream is capturing; steps without a CUDA graph from here on"
    ]


@pytest.mark.parametrize("is_recorded", [True, False])
def test_each_batch_is_fetched_once(is_recorded, monkeypatch):
    """Twice the same would start the workers of a dataset that streams anew."""
    game, asked = make(CONFIGS["lazy"]), []
    original = game.data.batch
    monkeypatch.setattr(game.data, "batch", lambda index, *rest: asked.append(index) or original(index, *rest))  # type: ignore[func-returns-value]
    make_graph: Any = (lambda: Replay(game)) if is_recorded else lambda: None
    step = CapturedStep(game, make_graph)
    for number in range(8):
        step(number)
    assert asked == list(range(8))
    assert bool(step.recordings) == is_recorded


def test_many_sets_of_due_terms(monkeypatch):
    words = ["loss=bce", "regularizer=[r1,r2]", "regularizer.r1.every=5", "regularizer.r2.every=7"]
    game = make(words)
    step = CapturedStep(game, lambda: Replay(game))
    monkeypatch.setattr("gan_runner.capture.MOST_GRAPHS", 2)
    for number in range(20):
        step(number)
    assert len(step.recordings) == 2 < MOST_GRAPHS
    assert "in more than 2 combinations" in game.remarks[0]


def test_capture_on_the_cpu():
    assert "CUDA device" in (hindrance(make([])) or "")
    with pytest.raises(ConfigError, match="capture=true: CUDA graphs need a CUDA device, and this run is on the cpu"):
        make(["capture=true"])
    make(["capture=false"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", CONFIGS)
def test_graphs_on_a_gpu(name):
    eager, captured = make([*CONFIGS[name], "device=cuda"]), make([*CONFIGS[name], "device=cuda"])
    schedules = hold_schedules(eager)
    step = CapturedStep(captured)
    for number in range(100):
        for schedule in schedules:
            schedule.hold(number)
        eager.step(number)
        step(number)
    assert step.recordings
    assert not captured.remarks
    assert trace(captured) == pytest.approx(trace(eager), rel=1e-3, abs=1e-5)
