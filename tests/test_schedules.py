"""Schedules: closed forms, and torch's schedulers."""

import math

import pytest
import torch
from torch.optim import lr_scheduler

from gan_runner import schedules

KEYS = {
    schedules.constant: {},
    schedules.linear: {"end": 0.2},
    schedules.cosine: {"end": 0.2},
    schedules.exponential: {"end": 0.2},
    schedules.step: {"step_size": 30, "gamma": 0.5},
}
# At 0, a quarter, half and the whole of a decay over 100 steps.
DECAYS = {
    schedules.constant: (1, 1, 1, 1),
    schedules.linear: (1, 0.8, 0.6, 0.2),
    schedules.cosine: (1, 0.2 + 0.8 * (0.5 + math.sqrt(2) / 4), 0.6, 0.2),
    schedules.exponential: (1, 0.2**0.25, math.sqrt(0.2), 0.2),
    schedules.step: (1, 1, 0.5, 0.125),
}
every_schedule = pytest.mark.parametrize("schedule", KEYS, ids=lambda schedule: schedule.__name__)


@every_schedule
@pytest.mark.parametrize("warmup", [0, 1, 40])
def test_closed_form(schedule, warmup):
    for since_warmup, expected in zip((0, 25, 50, 100), DECAYS[schedule], strict=True):
        multiplier = schedule(warmup + since_warmup, steps=warmup + 100, warmup=warmup, **KEYS[schedule])
        assert multiplier == pytest.approx(expected, abs=1e-12)


@every_schedule
def test_warmup_rises_in_a_line_to_one(schedule):
    rise = [schedule(now, steps=100, warmup=4, **KEYS[schedule]) for now in range(5)]
    assert rise == [0.25, 0.5, 0.75, 1, 1]


@every_schedule
def test_stays_at_its_end_beyond_the_horizon(schedule):
    end = DECAYS[schedule][-1]
    # 200 steps later the step schedule would have fallen six times more.
    assert schedule(310, steps=110, warmup=10, **KEYS[schedule]) == pytest.approx(end, abs=1e-12)


@every_schedule
@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (5, 5), (5, 10)])
def test_no_steps_left_to_decay(schedule, steps, warmup):
    multipliers = [schedule(now, steps=steps, warmup=warmup, **KEYS[schedule]) for now in range(20)]
    assert multipliers[:warmup] == [(now + 1) / warmup for now in range(warmup)]
    assert all(0.2 <= multiplier <= 1 for multiplier in multipliers[warmup:])


def test_ends_are_exact():
    for schedule in (schedules.linear, schedules.cosine, schedules.exponential):
        assert schedule(7, steps=7, warmup=0, end=0.1) == 0.1


def test_linear_rises_to_an_end_above_one():
    assert [schedules.linear(now, steps=4, warmup=0, end=3.0) for now in range(6)] == [1, 1.5, 2, 2.5, 3, 3]


STEPS = 37
TORCH = [
    (schedules.linear, {"end": 0.1}, lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=STEPS), 2 * STEPS),
    (schedules.cosine, {"end": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.1), STEPS),
    (schedules.exponential, {"end": 0.1}, lambda o: lr_scheduler.ExponentialLR(o, 0.1 ** (1 / STEPS)), STEPS),
    (schedules.step, {"step_size": 5, "gamma": 0.7}, lambda o: lr_scheduler.StepLR(o, 5, 0.7), STEPS),
]


@pytest.mark.parametrize(("schedule", "keys", "reference", "last"), TORCH, ids=[row[0].__name__ for row in TORCH])
def test_agrees_with_torch(schedule, keys, reference, last):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = reference(optimizer)
    for now in range(last + 1):
        expected = optimizer.param_groups[0]["lr"]
        assert schedule(now, steps=STEPS, warmup=0, **keys) == pytest.approx(expected, rel=1e-6), now
        optimizer.step()
        scheduler.step()
