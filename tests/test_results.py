"""The tables of RESULTS.md are what the stored evaluations say."""

import pandas as pd
import pytest

from tests.benchmarks import tables
from tests.benchmarks.tables import FLOOR, RESULTS, TABLES, Table, at, markdown, text, words_of
from tests.helpers import CONF, compose

TEXT = CONF.parent.joinpath("RESULTS.md").read_text()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_table_is_that_of_its_file(path):
    assert markdown(path.stem, pd.read_csv(path)) in TEXT


@pytest.mark.parametrize("name", TABLES)
def test_its_lines_compose(name, tmp_path):
    for setting in TABLES[name].settings:
        compose(*words_of(name, setting, tmp_path))


def evaluations(values: dict[str, list[float]], pace: dict[str, float]) -> pd.DataFrame:
    """Runs that are evaluated at steps 10 and 20, where they have values 10 higher at first."""
    rows = [
        {
            "setting": setting,
            "seed": seed,
            "step": step,
            "seconds": step * pace[setting],
            "m/x": value + 10 * (step < 20),
        }
        for setting, found in values.items()
        for seed, value in enumerate(found)
        for step in (10, 20)
    ]
    return pd.DataFrame([*rows, {"setting": FLOOR, "m/x": 0.5}])


def test_a_table_compares_at_equal_steps_and_at_equal_time(monkeypatch):
    settings = {"quick": ["loss=bce"], "slow": ["loss=hinge", "seed=1"]}
    table = Table(shared=[], settings=settings, values={"m/x": "distance"}, equal_time=True)
    monkeypatch.setitem(tables.TABLES, "t", table)
    found = evaluations({"quick": [3.0, 4.0, 5.0], "slow": [1.0, 1.1, 1.2]}, {"quick": 1.0, "slow": 2.0})
    head, _, quick, slow, floor = markdown("t", found).splitlines()
    assert head == "| setting | runs | time of all steps | distance, 20 steps | p | distance, 20 s | p |"
    assert quick == "| `loss=bce` | 3 | 20 s | 3, 4, 5 | p = 0.036 | 3, 4, 5 | lowest |"
    assert slow == "| `loss=hinge seed=1` | 3 | 40 s | 1.10 ± 0.25 | lowest | 11.10 ± 0.25 | p = 0.0061 |"
    assert floor == "| real data against real data |  |  | 0.5 |  | 0.5 |  |"


def test_values_that_spread_far_and_counts_are_listed():
    assert text([1.0, 9.0, 2.0], "x/distance") == "1, 2, 9"
    assert text([8.0, 7.0, 8.0], "modes/covered") == "8, 7, 8"
    assert text([2.0], "x/distance") == "2"


def test_the_last_evaluation_until_a_limit():
    found = evaluations({"a": [3.0, 4.0]}, {"a": 1.0})
    assert at(found, "step", 19)["m/x"].tolist() == [13.0, 14.0]
    assert at(found, "seconds", 20)["m/x"].tolist() == [3.0, 4.0]
