"""The answer of a sweep: intervals, tests and numbers of seeds against scipy and closed forms, and what is said."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gan_runner.reporting.answer import answer, holm, interval, more_seeds, power, seeds_needed, welch
from gan_runner.reporting.settings import Rank, Study, make_study
from gan_runner.reporting.stored_runs import Run

TAG = "metric/modes/distance"


def study_of(values: dict[float, list[float]], *, rank: Rank = "best", higher: bool = False, **more: object) -> Study:
    """A study of completed runs: weight -> the best values of its seeds; the last ones are worse by 10."""
    runs = [
        Run(
            path=Path(f"{weight}-{seed}"), status="completed", config={"regularizer.r1.weight": weight, "seed": seed},
            last={TAG: value - 10 if higher else value + 10}, lowest={TAG: value}, highest={TAG: value},
            higher_is_better={TAG: higher}, objective=TAG, **more,  # type: ignore[arg-type]
        )
        for weight, found in values.items()
        for seed, value in enumerate(found)
    ]  # fmt: skip
    return make_study(runs, rank=rank)


def words_of(study: Study) -> str:
    found = answer(study)
    assert found
    return " ".join(found.sentences)


# --- statistics -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [[1.0, 2.0], [0.3, 0.1, 0.7, 0.2], [-5.0, 1e6, 3.0]])
def test_an_interval_is_students(values):
    found = interval(values)
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert found == pytest.approx((np.mean(values), low, high))


def test_an_interval_of_two_values_in_closed_form():
    """t of one degree of freedom is Cauchy's: its quantile is tan(pi (p - 1/2))."""
    assert interval([0.0, 2.0]).high == pytest.approx(1 + math.tan(math.pi * 0.475))


def test_an_interval_ends_at_what_a_value_can_be():
    assert interval([0.1, 0.9], (0, 1)) == (0.5, 0.0, 1.0)
    assert interval([1.5, 1.7], (0, 1)).high == pytest.approx(1.6)  # a mean beyond it is still inside


@pytest.mark.parametrize("seed", range(3))
def test_welch_is_scipys(seed):
    draw = np.random.default_rng(seed)
    first, second = draw.normal(size=4), 1 + 3 * draw.normal(size=7)
    assert welch(first.tolist(), second.tolist()) == pytest.approx(
        stats.ttest_ind(first, second, equal_var=False).pvalue
    )


@pytest.mark.parametrize(
    ("first", "second"), [([1.0], [1.0, 2.0]), ([8.0, 8.0], [7.0, 7.0]), ([1e-200, 2e-200], [1e-200, 3e-200])]
)
def test_nothing_is_tested_without_spread(first, second):
    assert welch(first, second) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(("effect", "count"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17), (1.2, 12)])
def test_the_seeds_needed_are_those_of_cohens_tables(effect, count):
    """Cohen 1988, table 2.4.1: two-sided, 5 %, power 80 %."""
    assert seeds_needed(effect) == count


def test_power_against_drawn_samples():
    draw = np.random.default_rng(0)
    first, second = draw.normal(size=(2, 5, 4000))
    rejected = stats.ttest_ind(first, 1.5 + second).pvalue < 0.05
    assert power(1.5, 5, 0.05) == pytest.approx(rejected.mean(), abs=0.02)
    assert power(1e9, 5, 0.05) == 1.0


def test_more_seeds():
    assert more_seeds([0.0, 2.0], [1.0, 3.0], 0.05) == seeds_needed(1 / math.sqrt(2)) - 2  # type: ignore[operator]
    assert more_seeds([0.0, 2.0], [0.0, 2.0], 0.05) is None
    assert more_seeds([0.0, 1.0], [1e6, 1e6 + 1], 0.05) == 1


# --- words ------------------------------------------------------------------------------------------------------------


def test_what_is_told_apart_and_what_is_not():
    study = study_of({1.0: [1.0, 1.1, 1.2], 2.0: [1.1, 1.3, 1.2], 3.0: [5.0, 5.1, 5.2], 4.0: [9.0]})
    found = answer(study)
    assert found
    assert found.best.values == {"regularizer.r1.weight": 1.0}
    assert found.interval == interval([1.0, 1.1, 1.2])
    assert [one.is_told_apart for one in found.comparisons] == [False, True, False]
    second, third, fourth = found.comparisons
    raw = [welch([1.0, 1.1, 1.2], [1.1, 1.3, 1.2]), welch([1.0, 1.1, 1.2], [5.0, 5.1, 5.2])]
    assert [second.p, third.p, fourth.p] == [*holm(raw), None]  # type: ignore[arg-type]
    assert second.more_seeds == more_seeds([1.0, 1.1, 1.2], [1.1, 1.3, 1.2], 0.05)
    assert (third.more_seeds, fourth.more_seeds) == (None, None)
    text = words_of(study)
    assert text.startswith("Best of 4 settings by ")
    assert "regularizer.r1.weight=1, mean 1.10, 95 % interval 0.85 to 1.35 over 3 seeds" in text
    assert "Holm's correction for 2 comparisons): weight=3." in text
    assert f"Not told apart from it: weight=2: p = 0.29, about {second.more_seeds} more seeds." in text
    assert "nothing can be said of weight=4." in text
    assert "So the data do not show which is best." not in text
    assert "So the data do not show which is best." in words_of(study_of({1.0: [1.0, 1.1, 1.2], 2.0: [1.1, 1.3, 1.2]}))


def test_seeds_that_are_all_alike():
    assert "weight=1, 0.00012 at each of 3 seeds." in words_of(study_of({1.0: [1.2e-4] * 3, 2.0: [3.0, 4.0]}))


def test_what_is_not_finished_comes_first():
    study = study_of({1.0: [1.0, 1.1], 2.0: [3.0]})
    study.missing = 1
    study.runs.append(replace(study.runs[0], path=Path("other"), status="interrupted"))
    assert words_of(study).startswith("2 of 5 runs are not finished, so this may change. Lowest of 2 settings")
    assert study.counts.startswith("5 runs, 2 settings")


def test_of_one_seed_nothing_is_said():
    text = words_of(study_of({1.0: [1.0], 2.0: [2.0, 3.0]}))
    assert "weight=1, at 1 with one seed" in text
    assert "nothing can be said" in text
    assert "old apart" not in text


def test_the_rank_is_said_and_counts():
    values = {1.0: [1.0, 1.2], 2.0: [3.0, 3.3]}
    assert "mean 1.1" in words_of(study_of(values))
    assert "Ranked by the best evaluation" in words_of(study_of(values))
    text = words_of(study_of(values, rank="last"))
    assert "mean 11.1" in text
    assert "Ranked by the last evaluation" in text


def test_the_direction_counts():
    text = words_of(study_of({1.0: [1.0, 1.2], 2.0: [3.0, 3.3]}, higher=True))
    assert "higher is better: regularizer.r1.weight=2" in text


def test_the_floor_is_said():
    assert "real data against real data, is 0.25." in words_of(study_of({1.0: [1.0, 1.2]}, floors={TAG: 0.25}))


def test_the_interval_stays_within_the_bounds_of_the_metric():
    assert "interval 0.0 to" in words_of(study_of({1.0: [0.1, 0.9]}, bounds={TAG: (0.0, math.inf)}))


def test_equal_seeds_are_not_told_apart():
    text = words_of(study_of({1.0: [8.0, 8.0], 2.0: [7.0, 7.0]}))
    assert "nothing can be said of weight=1" in text


def test_without_an_objective_there_is_no_answer():
    study = study_of({1.0: [1.0]})
    for run in study.runs:
        run.objective = None
    assert answer(make_study(study.runs)) is None


def test_many_settings_are_counted():
    text = words_of(study_of({float(weight): [weight, weight + 0.01] for weight in range(20)}))
    assert "and 15 more" in text
