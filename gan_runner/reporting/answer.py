"""The answer of a sweep: the best setting, how sure its mean is, and which others are told apart from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from gan_runner.reporting.formats import decimals, rounded, value_text
from gan_runner.reporting.settings import Quantity, Setting, Study, floor_of

LEVEL = 0.05  # of a test, two-sided; 1 - LEVEL is the confidence of an interval
POWER = 0.8
MOST_SEEDS = 1000  # that are counted up to
NAMED = 4  # settings in a sentence
ONE_SEED = (
    "With one seed nothing can be said of how much is chance: more of them, as by -m 'seed=range(5)', would tell."
)


class Interval(NamedTuple):
    """A mean, and where it is with a confidence of 95 %."""

    mean: float
    low: float
    high: float


class Comparison(NamedTuple):
    """A setting beside the best one."""

    setting: Setting
    p: float | None  # Welch's, corrected; None where there is no spread to judge by, or fewer than two seeds
    more_seeds: int | None  # of each of the two, that would tell them apart; None where it is so, or cannot be said

    @property
    def is_told_apart(self) -> bool:
        return self.p is not None and self.p <= LEVEL


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a study says of its best setting."""

    study: Study
    objective: Quantity
    best: Setting
    values: list[float]  # of the runs of the best setting
    comparisons: list[Comparison]  # with every other setting that has a value, in their order

    @property
    def interval(self) -> Interval | None:
        """None of a single seed."""
        return interval(self.values, self.objective.bounds) if len(self.values) > 1 else None

    @cached_property
    def sentences(self) -> list[str]:
        """The answer in words."""
        found = [*self.of_the_unfinished(), self.of_the_best(), ranked_by(self.objective)]
        if floor := floor_text(self.study, self.objective, self.best):
            found.append(floor)
        if len(self.values) < 2:
            return [*found, ONE_SEED]
        return [*found, *self.of_the_others()]

    def of_the_unfinished(self) -> list[str]:
        """Whether runs are still to come, which may change the rest."""
        left = self.study.unfinished
        are = "is" if left == 1 else "are"
        return [f"{left:,} of {self.study.planned:,} runs {are} not finished, so this may change."] if left else []

    def of_the_best(self) -> str:
        """Which setting it is, and its mean with an interval."""
        direction = "higher" if self.objective.higher_is_better else "lower"
        which = f"{self.objective.name}, {direction} is better"
        if self.comparisons:
            is_shown = any(one.is_told_apart for one in self.comparisons)
            first = "Best" if is_shown else {"higher": "Highest", "lower": "Lowest"}[direction]
            which = f"{first} of {len(self.comparisons) + 1:,} settings by {which}: {self.best.label}"
        mean = math.fsum(self.values) / len(self.values)
        if not self.interval:
            return f"{which}, at {mean:.4g} with one seed."
        _, low, high = self.interval
        if high == low:
            return f"{which}, {mean:.4g} at each of {len(self.values)} seeds."
        digits = decimals(high - low)
        numbers = f"{rounded(mean, digits)}, 95 % interval {rounded(low, digits)} to {rounded(high, digits)}"
        return f"{which}, mean {numbers} over {len(self.values)} seeds."

    def of_the_others(self) -> list[str]:
        """Which of the others are told apart, which are not, and how many seeds would tell these."""
        told = [one for one in self.comparisons if one.is_told_apart]
        tested = [one for one in self.comparisons if one.p is not None and not one.is_told_apart]
        count = len(told) + len(tested)
        of_test = f"Welch's test at 5 %, by Holm's correction for {count:,} comparisons"
        how = of_test if count > 1 else "Welch's test at 5 %"
        found = []
        if told:
            found.append(f"Told apart from it ({how}): {self.names([one.setting for one in told])}.")
        if tested:
            which = [f"{self.name(one.setting)}: {p_text(one.p)}{seeds_text(one.more_seeds)}" for one in tested]
            left = [f"and {len(which) - NAMED:,} more"] if len(which) > NAMED else []
            how = "" if told else f" ({how})"
            found.append(f"Not told apart from it{how}: {'; '.join([*which[:NAMED], *left])}.")
        if any(one.more_seeds for one in tested):
            found.append("With that many more seeds of each, such a difference would be found with a power of 80 %.")
        if tested and not told:
            found.append("So the data do not show which is best.")
        if untested := [one.setting for one in self.comparisons if one.p is None]:
            found.append(f"Without two seeds that differ, nothing can be said of {self.names(untested)}.")
        return found

    def names(self, settings: list[Setting]) -> str:
        """Some settings: by value where only one key tells them apart, or else by number and values."""
        found = [self.name(setting) for setting in settings[:NAMED]]
        found += [f"{len(settings) - NAMED:,} more"] if len(settings) > NAMED else []
        return " and ".join([", ".join(found[:-1]), found[-1]]) if len(found) > 1 else found[0]

    def name(self, setting: Setting) -> str:
        """'weight=0.1', or '#3 (0.1, hinge)'."""
        values = ", ".join(map(value_text, setting.values.values()))
        if len(self.study.columns) > 1:
            return f"#{setting.number} ({values})"
        (key,) = self.study.columns
        return f"{key.rpartition('.')[2]}={values}"


def answer(study: Study) -> Answer | None:
    """The answer of a study; None where no completed run has a value of an objective."""
    objective = study.objective
    if not objective:
        return None
    known = [setting for setting in study.settings if study.spread(setting, objective).of]
    if not known:
        return None
    best, *others = known
    values = study.finite(best, objective)
    each = [study.finite(other, objective) for other in others]
    tested = {place: p for place, other in enumerate(each) if (p := welch(values, other)) is not None}
    corrected = dict(zip(tested, holm(list(tested.values())), strict=True))
    levels = dict(zip(tested, holm_levels(list(tested.values())), strict=True))
    comparisons = [
        Comparison(
            setting,
            corrected.get(place),
            more_seeds(values, each[place], levels[place]) if corrected.get(place, 0) > LEVEL else None,
        )
        for place, setting in enumerate(others)
    ]
    return Answer(study=study, objective=objective, best=best, values=values, comparisons=comparisons)


# --- statistics -------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float], bounds: tuple[float, float] = (-math.inf, math.inf)) -> Interval:
    """The mean of at least two values with its 95 % interval by Student's t, cut off at what a value can be."""
    mean = math.fsum(values) / len(values)
    half = float(half_width(np.std(values, ddof=1), len(values)))
    return Interval(mean, max(mean - half, min(bounds[0], mean)), min(mean + half, max(bounds[1], mean)))


def half_width(sd: ArrayLike, count: ArrayLike) -> np.ndarray:
    """Half of the 95 % interval of a mean: t sd / sqrt(count), t of count - 1 degrees of freedom; NaN of one value."""
    known = np.where(np.asarray(count) > 1, count, np.nan)
    return stats.t.ppf(1 - LEVEL / 2, known - 1) * np.asarray(sd) / np.sqrt(known)


def welch(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The p-value of Welch's t-test, two-sided; None of fewer than two values, or where all of each are equal.

    Welch 1947, The generalization of Student's problem when several different population variances are involved.
    """
    if min(len(first), len(second)) < 2 or (np.ptp(first) == 0 and np.ptp(second) == 0):
        return None
    terms = [float(np.var(values, ddof=1)) / len(values) for values in (first, second)]
    if sum(terms) == 0:  # too small to be squared
        return None
    return float(
        stats.ttest_ind_from_stats(
            np.mean(first), np.std(first, ddof=1), len(first), np.mean(second), np.std(second, ddof=1), len(second),
            equal_var=False,
        ).pvalue
    )  # fmt: skip


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order: the k-th smallest of m times m - k + 1.

    None is below that of a smaller one, nor above 1.
    Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    if not p_values:
        return []
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(p_values))
    factors = np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(np.array(p_values)[order] * factors), 1.0)
    return corrected.tolist()


def holm_levels(p_values: Sequence[float]) -> list[float]:
    """The level that each of some p-values must be below in Holm's procedure."""
    order = np.argsort(p_values, kind="stable")
    levels = np.empty(len(p_values))
    levels[order] = LEVEL / np.arange(len(p_values), 0, -1)
    return levels.tolist()


def more_seeds(first: Sequence[float], second: Sequence[float], level: float) -> int | None:
    """How many more values of each would tell two apart, were their difference and their spread as they seem.

    None where they have the same mean, or would need more than MOST_SEEDS.
    """
    difference = abs(float(np.mean(first)) - float(np.mean(second)))
    sd = math.sqrt((float(np.var(first, ddof=1)) + float(np.var(second, ddof=1))) / 2)
    needed = seeds_needed(difference / sd, level) if sd > 0 else None
    return needed and max(1, needed - min(len(first), len(second)))


def seeds_needed(effect: float, level: float = LEVEL) -> int | None:
    """The least number of values of each of two samples at which a t-test has a power of 80 %.

    `effect` is the difference of the means in standard deviations. None where that is above MOST_SEEDS.
    Cohen 1988, Statistical power analysis for the behavioral sciences, chapter 2.
    """
    least, most = 2, MOST_SEEDS
    if power(effect, most, level) < POWER:
        return None
    while least < most:  # the power grows with the number
        middle = (least + most) // 2
        least, most = (least, middle) if power(effect, middle, level) >= POWER else (middle + 1, most)
    return least


def power(effect: float, count: int, level: float = LEVEL) -> float:
    """The power of the two-sided t-test of two samples of `count` values each."""
    freedom, shift = 2 * count - 2, effect * math.sqrt(count / 2)
    if shift > 30:  # where scipy's noncentral t loses its digits
        return 1.0
    critical = float(stats.t.ppf(1 - level / 2, freedom))
    found = stats.nct.sf(critical, freedom, shift) + stats.nct.cdf(-critical, freedom, shift)
    return float(np.nan_to_num(found, nan=1.0))


# --- words ------------------------------------------------------------------------------------------------------------


def ranked_by(objective: Quantity) -> str:
    """Which value of a run counts."""
    return f"Ranked by the {'best' if objective.is_best else 'last'} evaluation of each run."


def floor_text(study: Study, objective: Quantity, best: Setting) -> str:
    """What real data have against real data; where that is of fewer samples, beside what the best setting then has."""
    floor = floor_of(study.runs, objective.tag)
    if floor is not None:
        return f"The floor, real data against real data, is {floor:.4g}."
    for quantity in study.quantities:
        floor = floor_of(study.runs, quantity.tag)
        if quantity.tag.startswith(f"{objective.tag} of ") and floor is not None:
            its_own = study.spread(best, quantity)
            count = quantity.tag.removeprefix(f"{objective.tag} of ")
            beside = f", where this setting has {its_own.mean:.4g} in the end" if its_own.of else ""
            return f"The floor, real data against real data, is {floor:.4g} of {count}{beside}."
    return ""


def p_text(p: float | None) -> str:
    """'p = 0.12'."""
    return f"p = {p:.2g}" if p is not None and p >= 0.001 else "p < 0.001"


def seeds_text(count: int | None) -> str:
    """', about 7 more seeds'."""
    return "" if count is None else f", about {count:,} more seed{'s' * (count != 1)}"
