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


# What R3GAN's own code makes of its settings for CIFAR-10 after so many million images: the rate, beta2, the weight
# of R1 and R2, the half-life of the moving average in images, the strength of the augmentation.
R3GAN = {
    0: (2.0e-4, 0.9, 0.05, 0, 0),
    5: (1.7803e-4, 0.913180, 0.0434099, 732_233, 0.0805456),
    10: (1.25e-4, 0.945, 0.0275, 2_500_000, 0.275),
    15: (7.197e-5, 0.976820, 0.0115901, 4_267_767, 0.469454),
    20: (5.0e-5, 0.99, 0.005, 5_000_000, 0.55),
    35: (5.0e-5, 0.99, 0.005, 5_000_000, 0.55),
}


@pytest.mark.parametrize("millions", R3GAN)
def test_the_formula_of_r3gan(millions):
    """From v0 to v1 over T images, then constant: v0 that ends at v1 / v0, or v1 that starts at 0."""

    def value(number, start, end):
        return number * schedules.cosine(millions, steps=20, warmup=0, start=start, end=end)

    numbers = [(2e-4, 1, 0.25), (0.9, 1, 1.1), (0.05, 1, 0.1), (5e6, 0, 1), (0.55, 0, 1)]
    assert [value(*each) for each in numbers] == pytest.approx(R3GAN[millions], rel=1e-4)


def test_a_start():
    for schedule, middle in ((schedules.linear, 1.25), (schedules.cosine, 1.25)):
        found = [schedule(now, steps=4, warmup=0, start=0.5, end=2.0) for now in (0, 2, 4, 9)]
        assert found == pytest.approx([0.5, middle, 2, 2])
