"""What the plots of a page show."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from gan_runner.reporting import charts
from gan_runner.reporting.formats import MISSING
from gan_runner.reporting.settings import Study, make_study
from gan_runner.reporting.stored_runs import Curve, Run

NAN = float("nan")
TAG = "metric/modes/distance"


def study_of(configs: list[dict], values: list[float] | None = None, **more: object) -> Study:
    """A study of completed runs, each with a curve that ends at its value."""
    runs = []
    for number, config in enumerate(configs):
        value = values[number] if values else float(number)
        curve = Curve(np.array([10, 20]), np.array([value + 1, value]))
        runs.append(
            Run(
                path=Path(str(number)), name=str(number), status="completed", config=config, last={TAG: value},
                lowest={TAG: value}, highest={TAG: value}, higher_is_better={TAG: False}, objective=TAG,
                curves={TAG: curve}, started=f"2026-01-01T00:00:{number:02}", **more,  # type: ignore[arg-type]
            )
        )  # fmt: skip
    return make_study(runs)


# --- axes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "is_log"),
    [
        ([0.1, 1, 10, 100], True),
        ([0, 0.01, 0.1, 1], True),
        ([1, 2, 4, 8], True),
        ([1e-4, 1e-3], True),
        ([1, 2, 3, 4, 5], False),
        ([0, 1], False),
        ([1, 2], False),
        ([-1, 0.1, 10], False),
        ([0.3, 0.5, 0.7, 0.9], False),
    ],
)
def test_when_an_axis_is_logarithmic(values, is_log):
    assert charts.is_log_spaced(values) == is_log
    assert charts.axis(values)["isLog"] == is_log


def test_zero_has_a_place_on_a_logarithmic_axis():
    found = charts.axis([0, 0.01, 0.1, 1])
    assert found["positions"] == [-3, -2, -1, 0]
    assert found["ticks"] == [[-3, "0"], [-2, "0.01"], [-1, "0.1"], [0, "1"]]


def test_names_lie_in_their_order_and_what_is_missing_nowhere():
    found = charts.axis(["hinge", MISSING, "bce", None, 5])
    assert found["positions"] == [2, None, 1, 3, 0]
    assert [text for _, text in found["ticks"]] == ["5", "bce", "hinge", "null"]
    assert found["isName"]


def test_ticks_of_drawn_values_are_round_numbers():
    found = charts.axis((10 ** np.random.default_rng(0).uniform(-5, 1, 50)).tolist())
    assert [text for _, text in found["ticks"]] == ["1e-05", "0.0001", "0.001", "0.01", "0.1", "1", "10"]
    assert charts.axis(np.random.default_rng(0).uniform(0.5, 0.9, 50).tolist())["ticks"] is None


def test_ticks_do_not_lie_on_each_other():
    assert [text for _, text in charts.axis([1, 1.01, 50, 100])["ticks"]] == ["1", "50", "100"]


# --- curves -----------------------------------------------------------------------------------------------------------


def test_a_curve_over_seeds():
    curves = [Curve(np.array([0, 10, 20]), np.array([1.0, 2.0, NAN])), Curve(np.array([0, 10]), np.array([3.0, 5.0]))]
    found = charts.mean_curve(curves)
    assert found is not None
    steps, mean, half = found
    assert steps.tolist() == [0, 10, 20]
    assert mean[:2].tolist() == [2.0, 3.5]
    assert half[:2] == pytest.approx([stats.t.ppf(0.975, 1) * sd / math.sqrt(2) for sd in (2**0.5, 4.5**0.5)])
    assert np.isnan(mean[2])


def test_intervals_of_settings_end_at_the_bounds():
    study = study_of([{"w": 1, "seed": seed} for seed in (0, 1)], [0.1, 0.9], bounds={TAG: (0.0, 1.0)})
    assert charts.means(study, study.quantities[0]) == [[0.5, 0.0, 1.0, 2.0]]
    data, _ = charts.of_study(study)
    assert data["curves"][0]["bounds"] == [0.0, 1.0]


def test_steps_are_told_once():
    data, _ = charts.of_study(study_of([{"w": number} for number in range(5)]))
    assert data["steps"] == [[10, 20]]
    assert [line["steps"] for line in data["curves"][0]["lines"]] == [0] * 5


def test_more_curves_than_there_is_room_for_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(charts, "MOST_NUMBERS", 6)
    data, left_out = charts.of_study(study_of([{"w": number} for number in range(5)]))
    assert [line["setting"] for line in data["curves"][0]["lines"]] == [0, 1, 2]
    assert left_out[0].startswith("2 curves")


def test_what_a_step_is_in_images_and_seconds():
    times = Curve(np.array([10, 20]), np.array([1.0, 3.0]))
    images = Curve(np.array([10, 20]), np.array([640.0, 1280.0]))
    data, _ = charts.of_study(study_of([{"w": 1}], seconds=times, images=images))
    assert data["clocks"] == [{"images": 64.0, "steps": 0, "seconds": [1.0, 3.0]}]


def test_what_is_not_finite_is_null():
    assert charts.numbers([1.23456, NAN, math.inf]) == [1.235, None, None]


# --- maps and searches ------------------------------------------------------------------------------------------------


def test_maps_are_of_grids():
    grid = study_of([{"a": a, "b": b, "c": c} for a in (1, 2) for b in (1, 2, 3) for c in (0, 1)])
    assert charts.heat_maps(grid) == [[0, 1], [0, 2], [1, 2]]
    assert not charts.is_search(grid)
    drawn = np.random.default_rng(0).uniform(size=(20, 2))
    search = study_of([{"a": a, "b": b, "c": int(a > 0.5), "d": number % 2} for number, (a, b) in enumerate(drawn)])
    assert charts.heat_maps(search) == [[2, 3]]
    assert charts.is_search(search)


def test_the_history_is_in_the_order_of_starts():
    drawn = np.random.default_rng(0).uniform(size=5).tolist()
    study = study_of([{"a": a} for a in drawn], [5.0 - number for number in range(5)])
    assert "history" not in charts.of_study(study)[0]  # of a grid
    study.of_search = True
    data, _ = charts.of_study(study)
    assert [value for _, _, value in data["history"]] == [5.0 - number for number in range(5)]
    assert data["history"][0][0] == 4  # it ranks last
    assert data["importance"] is None  # of a single key


def test_what_matters_is_found():
    drawn = np.random.default_rng(0).uniform(size=(60, 3)).tolist()
    study = study_of([{"a": a, "b": b, "c": c} for a, b, c in drawn], [b for _, b, _ in drawn])
    assert study.objective
    found = charts.importance(study, study.objective)
    assert found
    assert found["share"][1] > 0.8
    assert found["explained"] > 0.8


def test_chance_has_no_importance():
    draw = np.random.default_rng(1)
    drawn = draw.uniform(size=(12, 2)).tolist()
    study = study_of([{"a": a, "b": b} for a, b in drawn], draw.uniform(size=12).tolist())
    assert study.objective
    assert charts.importance(study, study.objective) is None
