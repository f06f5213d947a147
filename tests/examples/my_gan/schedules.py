"""A schedule: a multiplier, as a pure function of the step."""


def triangle(now: int, *, steps: int, period: int) -> float:
    """Up from 0 to 1 and down again in `period` steps, over and over; `steps`, the horizon, changes nothing."""
    return 1 - abs(2 * (now % period) / period - 1)
