"""Schedules: multipliers of a learning rate, a weight or any other number, as pure functions of the training step.

A multiplier is `rise x decay`. The rise is a linear warm-up over the first `warmup` steps, 1/warmup, 2/warmup, ..., 1,
so that the first step already learns. The decay starts at 1, or at `start`, runs over the remaining steps up to the
horizon `steps`, and stays where it is from there on; with a warm-up longer than the horizon, it falls once the warm-up
is over.

Everything is counted in training steps (generator updates), from 0; multipliers have no unit.
"""

import math

from gan_runner.torch_utils.bounds import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


def constant(now: NonNegativeInt, *, steps: NonNegativeInt, warmup: NonNegativeInt) -> float:
    """1 after the warm-up. `steps` changes nothing; it is here so that all schedules have the same keys."""
    return _rise(now, warmup)


def linear(
    now: NonNegativeInt,
    *,
    steps: NonNegativeInt,
    warmup: NonNegativeInt,
    start: NonNegativeFloat = 1.0,
    end: NonNegativeFloat,
) -> float:
    """(1 - p) start + p end, with progress p from 0 to 1: an `end` above `start` rises, as for a weight that grows."""
    progress = _progress(now, steps, warmup)
    return _rise(now, warmup) * ((1 - progress) * start + progress * end)


def cosine(
    now: NonNegativeInt,
    *,
    steps: NonNegativeInt,
    warmup: NonNegativeInt,
    start: NonNegativeFloat = 1.0,
    end: NonNegativeFloat,
) -> float:
    """c start + (1 - c) end, where c = (1 + cos(π p)) / 2, with progress p from 0 to 1.

    A number v0 that is to go to v1 in T steps, and stay there, is v0 with `steps` T and `end` v1 / v0; one that begins
    at 0 is v1 with `start` 0 and `end` 1.

    Source: Loshchilov and Hutter, 2017, SGDR, arXiv:1608.03983, without the restarts.
    """
    half_wave = (1 + math.cos(math.pi * _progress(now, steps, warmup))) / 2
    return _rise(now, warmup) * (half_wave * start + (1 - half_wave) * end)


def exponential(now: NonNegativeInt, *, steps: NonNegativeInt, warmup: NonNegativeInt, end: PositiveFloat) -> float:
    """end^p, with progress p from 0 to 1: the same factor at every step, and `end` at the horizon."""
    return _rise(now, warmup) * end ** _progress(now, steps, warmup)


def step(
    now: NonNegativeInt, *, steps: NonNegativeInt, warmup: NonNegativeInt, step_size: PositiveInt, gamma: PositiveFloat
) -> float:
    """gamma^floor(n / step_size), where n counts the steps since the warm-up, up to the horizon."""
    since_warmup = max(min(now, steps) - warmup, 0)
    return _rise(now, warmup) * gamma ** (since_warmup // step_size)


def _rise(now: int, warmup: int) -> float:
    return min((now + 1) / warmup, 1.0) if warmup else 1.0


def _progress(now: int, steps: int, warmup: int) -> float:
    """How much of the decay is over, 0 to 1. The decay lasts one step at least."""
    return min(max(now - warmup, 0) / max(steps - warmup, 1), 1.0)
