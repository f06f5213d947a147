"""The tables of RESULTS.md are what the stored evaluations say."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.benchmarks import tables
from tests.benchmarks.tables import FLOOR, RESULTS, TABLES, Table, at, draw, markdown, text, words_of
from tests.helpers import CONF, compose, naming, some

TEXT = CONF.parent.joinpath("RESULTS.md").read_text()


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.csv")), ids=lambda path: path.stem)
def test_a_table_is_that_of_its_file(path):
    assert markdown(path.stem, pd.read_csv(path)) in TEXT


@pytest.mark.parametrize("name", some(TABLES, every=3))
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


def test_runs_of_unequal_length_count_at_their_ends(monkeypatch):
    settings = {"short": ["loss=bce"], "long": ["loss=hinge"]}
    found = evaluations({"short": [3.0, 3.1], "long": [1.0, 1.1]}, {"short": 1.0, "long": 1.0})
    found = found[(found.setting != "short") | (found.step == 10)]
    for own_length, cells in ((True, ["13.05 ± 0.64 |", "1, 1.1 |"]), (False, ["13.05 ± 0.64", "11.05 ± 0.64"])):
        table = Table(shared=[], settings=settings, values={"m/x": "distance"}, own_length=own_length)
        monkeypatch.setitem(tables.TABLES, "t", table)
        assert [row.split(" | ")[2] for row in markdown("t", found).splitlines()[2:4]] == cells


def test_one_seed_is_not_tested(monkeypatch):
    settings = {"a": ["loss=bce"], "b": ["loss=hinge"]}
    monkeypatch.setitem(tables.TABLES, "t", Table(shared=[], settings=settings, values={"m/x": "distance"}, seeds=1))
    head = markdown("t", evaluations({"a": [3.0], "b": [1.0]}, {"a": 1.0, "b": 1.0})).splitlines()[0]
    assert head == "| setting | runs | distance |"


def test_a_figure_of_every_table_with_evaluations(monkeypatch, tmp_path):
    settings = {"one": ["loss=bce"], "two": ["loss=hinge"]}
    found = evaluations({"one": [3.0, 3.1], "two": [1.0]}, {"one": 1.0, "two": 2.0})
    for equal_time, rows, panels in ((False, found[found.step != 10], 1), (False, found, 2), (True, found, 3)):
        table = Table(shared=[], settings=settings, values={"m/x": "distance"}, equal_time=equal_time)
        monkeypatch.setitem(tables.TABLES, "t", table)
        draw("t", rows, tmp_path / "t.png")
        with Image.open(tmp_path / "t.png") as figure:
            assert figure.width == pytest.approx(100 * (1.4 + 3.2 * panels), abs=1)


def test_values_that_spread_far_and_counts_are_listed():
    assert text([1.0, 9.0, 2.0], "x/distance") == "1, 9, 2"
    assert text([8.0, 7.0, 8.0], "modes/covered") == "8, 7, 8"
    assert text([2.0], "x/distance") == "2"


def write_run(sweep: str, seed: int, metrics: list[dict]) -> None:
    """A finished run of a table, evaluated at steps 10, 20, ..."""
    run = Path("outputs/sweeps") / sweep / f"seed-{seed}"
    (run / ".hydra").mkdir(parents=True)
    (run / ".hydra/config.yaml").write_text(f"seed: {seed}")
    (run / "summary.json").write_text('{"status": "completed"}')
    rows = [{"step": 10 * (index + 1), "seconds": 1.0} for index in range(len(metrics))]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    records = [{"step": row["step"], "metrics": {"m": found}} for row, found in zip(rows, metrics, strict=True)]
    (run / "evaluations.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in records))


def test_the_evaluations_of_finished_runs(monkeypatch):
    of_training = {"values": {"x": 3.0}, "floor": {"values": {"x": 0.5}}}
    of_both = of_training | {"held_out": {"values": {"distance": 2.0}, "training": {"distance": 1.0}}}
    table = Table(shared=[], settings={"a": []}, values={"m/x": "x"})
    monkeypatch.setitem(tables.TABLES, "t", table)
    write_run("t-a", 4, [of_training, of_both])
    found = tables.evaluations("t", Path())
    assert found[["setting", "step", "m/x"]].to_numpy().tolist()[0] == ["a", 10, 3.0]  # a later evaluate is not its own
    assert found["m/x"].tolist() == [3.0, 0.5]
    monkeypatch.setitem(tables.TABLES, "t", replace(table, values={"m/y": "y"}))
    with pytest.raises(ValueError, match=naming("t", "m/y")):
        tables.evaluations("t", Path())


def test_rows_without_a_run_here_stay_as_they_were(monkeypatch):
    table = Table(shared=[], settings={"a": [], "b": []}, values={"m/x": "x"})
    monkeypatch.setitem(tables.TABLES, "t", table)
    write_run("t-b", 0, [{"values": {"x": 3.0}, "floor": {"values": {"x": 0.5}}}])
    earlier = evaluations({"gone": [9.0], "b": [7.0], "a": [2.0]}, {"gone": 1.0, "b": 1.0, "a": 1.0})
    found = tables.evaluations("t", Path(), earlier)
    assert found.setting.tolist() == ["a", "a", "b", FLOOR]
    assert found["m/x"].tolist() == [12.0, 2.0, 3.0, 0.5]


def test_a_table_of_both_splits_takes_the_evaluation_of_both(monkeypatch):
    of_training = {"values": {"distance": 3.0}, "floor": {"values": {"distance": 0.5}}}
    of_both = of_training | {"held_out": {"values": {"distance": 2.0}, "training": {"distance": 1.0}}}
    values = {"m/held_out": "held-out", "m/training": "training"}
    table = Table(shared=[], settings={"a": []}, values=values, of_both_splits=True)
    monkeypatch.setitem(tables.TABLES, "t", table)
    write_run("t-a", 0, [of_training, of_both])
    assert tables.evaluations("t", Path())[[*values]].to_numpy().tolist() == [[2.0, 1.0], [0.5, 0.5]]


def test_values_between_two_evaluations_lie_on_a_line():
    found = evaluations({"a": [3.0, 4.0]}, {"a": 2.0})
    for clock, limit, expected in (("step", 10, [13, 14]), ("step", 15, [8, 9]), ("seconds", 38, [4, 5])):
        assert at(found, clock, limit, ["m/x"])["m/x"].tolist() == pytest.approx(expected)
    assert at(found, "step", float("inf"), ["m/x"])["m/x"].tolist() == [3, 4]
