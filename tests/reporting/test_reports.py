"""`gan-runner report`: what it reads, how it groups and ranks, and what it writes."""

import contextlib
import csv
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import yaml
from filelock import FileLock
from PIL import Image
from rich.console import Console

from gan_runner.cli.report import main
from gan_runner.config.errors import ConfigError
from gan_runner.reporting import plots
from gan_runner.reporting.settings import Spread, Study, make_study
from gan_runner.reporting.stored_runs import Curve, Run, find_runs, read_run
from gan_runner.reporting.tables import rows, spread_text
from gan_runner.reporting.writer import write_report
from gan_runner.storage.atomic_files import json_safe
from gan_runner.storage.status import host_name, run_status

SWEEP = Path("sweep")
NAN = float("nan")
DISTANCE, COVERED = "metric/modes/distance", "metric/modes/covered"


def write_run(
    name: str,
    config: dict,
    distances: list[float] = (),  # type: ignore[assignment]
    *,
    status: str = "completed",
    words: list[str] | None = None,
    objective: str | None = DISTANCE,
    **summary: object,
) -> Path:
    """A run directory, evaluated at steps 10, 20, ... with these values."""
    path = SWEEP / name
    (path / ".hydra").mkdir(parents=True)
    (path / "samples").mkdir()
    (path / ".hydra" / "config.yaml").write_text(yaml.dump(config))
    if words is not None:
        (path / ".hydra" / "overrides.yaml").write_text(yaml.dump(words))
    lines = []
    for index, value in enumerate(distances, start=1):
        lines.append({"step": 10 * index - 5, "seconds": 1.0, "loss/generator": 0.5, "loss/discriminator": -0.5})
        lines.append(
            {"step": 10 * index, "seconds": 2.0, "loss/generator": 1.0 / index, DISTANCE: value, COVERED: 8.0 - index}
        )
    (path / "metrics.jsonl").write_text("".join(json.dumps(json_safe(line)) + "\n" for line in lines))
    higher = {"distance": False, "covered": True}
    record = {"step": 10, "metrics": {"modes": {"values": {}, "higher_is_better": higher}}}
    (path / "evaluations.jsonl").write_text(json.dumps(record) + "\n" if distances else "")
    finite = [value for value in distances if not math.isnan(value)]
    best = {"best": {"objective": objective, "value": min(finite), "step": 10}} if objective and finite else {}
    facts = {"status": status, "reason": None, "step": 10 * len(distances), "wall_time": 6.0, "host": host_name()}
    (path / "summary.json").write_text(json.dumps(json_safe({**facts, "pid": 1, **best, **summary})))
    Image.new("RGB", (600, 600), "red").save(path / "samples" / "step_00000010.png")
    return path


def read_study() -> Study:
    return make_study([read_run(path) for path in find_runs(SWEEP)])


def printed() -> str:
    """What the terminal shows in 80 columns."""
    console = Console(width=80, highlight=False, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(write_report(SWEEP))
        return console.export_text()


def weights(*values: float, seeds: int = 1) -> None:
    """A sweep over a weight, which is also the distance, and seeds, which add their number to it."""
    for value in values:
        for seed in range(seeds):
            config = {"seed": seed, "device": f"cuda:{seed}", "regularizer": {"r1": {"weight": value}}}
            write_run(f"weight-{value}-{seed}", config, [9.0, value + seed, value + seed + 1])


def test_seeds_are_grouped_by_mean_deviation_and_count():
    weights(2, 1, seeds=3)
    first, second = rows(read_study())
    # the best of each run is 1, 2, 3; the last 2, 3, 4; covered is last 5 = 8 - 3
    assert first == ["1", "1", "2 ± 1", "3 ± 1", "5 ± 0", "3", "6 s", ""]
    assert second[:4] == ["2", "2", "3 ± 1", "4 ± 1"]


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("prune", [None, [[10, 3.0]], [[10, 2.5]]]),  # a search sets it from the trials before
        ("workers", [2, 0, 4]),
        ("stream", ["auto", True, False]),
        ("monitor", [{"diversity": 0.2}, {"diversity": 0.3}, {"diversity": None}]),
    ],
)
def test_what_says_only_how_a_run_is_executed_splits_no_setting(key, values):
    for seed, value in enumerate(values):
        for weight in (1.0, 2.0):
            config = {"seed": seed, key: value, "regularizer": {"r1": {"weight": weight}}}
            words = [f"seed={seed}", f"regularizer.r1.weight={weight}", f"{key}={value}"]
            write_run(f"{weight}-{seed}", config, [weight + seed], words=words)
    study = read_study()
    assert [len(setting.runs) for setting in study.settings] == [3, 3]
    assert list(study.columns.values()) == ["weight"]
    assert study.settings[0].spread(study.quantities[0]) == Spread(2.0, 1.0, 3)


def test_what_it_is_measured_by_makes_another_setting():
    for samples in (100, 200):
        write_run(str(samples), {"seed": samples, "metric": {"modes": {"samples": samples}}}, [1.0])
    assert [setting.label for setting in read_study().settings] == ["samples=100", "samples=200"]


def test_one_seed_has_no_deviation():
    weights(2, 1)
    assert [row[2] for row in rows(read_study())] == ["1", "2"]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Spread(1.23456789, 0.5, 3), "1.235 ± 0.5"),
        (Spread(1.23456789, 0.00123, 3), "1.2346 ± 0.0012"),
        (Spread(1.23456789, 1e-9, 3), "1.2345679 ± 1e-09"),
        (Spread(123456.0, 3.0, 3), "123456 ± 3"),
        (Spread(0.0, 0.1, 3), "0 ± 0.1"),
        (Spread(-2.0, 0.0, 2), "-2 ± 0"),
        (Spread(1e-99, 1e99, 2), "1e-99 ± 1e+99"),
        (Spread(1.23456789, None, 1), "1.235"),
        (Spread(NAN, None, 0), "–"),
    ],
)
def test_a_mean_has_the_digits_of_its_deviation(found, text):
    assert spread_text(found) == text


@pytest.mark.parametrize(("objective", "first"), [(DISTANCE, "1"), (COVERED, "2")])
def test_the_best_comes_first_in_the_direction_of_the_objective(objective, first):
    write_run("a", {"weight": 1}, [1.0, 1.0, 1.0], objective=objective)  # covered at best 7
    write_run("b", {"weight": 2}, [2.0], objective=objective)
    path = SWEEP / "b" / "metrics.jsonl"
    path.write_text(path.read_text().replace(f'"{COVERED}": 7.0', f'"{COVERED}": 7.5'))
    assert rows(read_study())[0][1] == first


def test_without_an_objective_the_order_is_that_of_the_settings():
    for weight in (10, 9, 0.5):
        path = write_run(f"w{weight}", {"weight": weight}, [weight])
        (path / "evaluations.jsonl").unlink()
    assert [row[1] for row in rows(read_study())] == ["0.5", "9", "10"]
    assert "no objective" in printed()


def test_nan_and_nothing_rank_last_and_are_counted():
    write_run("a", {"weight": 1}, [NAN, NAN])
    write_run("b", {"weight": 2}, [5.0, NAN])
    write_run("c", {"weight": 3}, [], status="failed", reason="out of memory")
    write_run("d", {"weight": 4}, [1e9])
    study = read_study()
    assert [row[1] for row in rows(study)] == ["2", "4", "1", "3"]
    assert rows(study)[0][2] == "5"  # NaN is not the best
    assert [row[-1] for row in rows(study)] == ["", "", "1 without a finite value", "1 failed"]


def test_what_is_not_completed_is_counted_and_not_averaged():
    for seed, (value, status, reason) in enumerate(
        [
            (1.0, "completed", None),
            (100.0, "running", None),
            (101.0, "running", None),
            (102.0, "interrupted", "pruned at step 10: metric/modes/distance 102"),
            (103.0, "diverged", "step 7: loss/generator is nan"),
            (104.0, "failed", "out of memory"),
            (105.0, "interrupted", None),
        ]
    ):
        write_run(f"seed-{seed}", {"seed": seed}, [value], status=status, reason=reason)
    with FileLock(SWEEP / "seed-1" / ".lock"):
        study = read_study()
        out = printed()
    assert {run.path.name: run.status for run in study.runs}["seed-2"] == "killed"
    (row,) = rows(study)
    assert row[1] == "1"
    assert row[-1] == "1 running, 1 killed, 1 pruned, 1 diverged, 1 failed, 1 interrupted"
    assert "7 runs, 1 setting: 1 completed, 1 running, 1 killed, 1 pruned" in out
    assert "seed-5: failed, out of memory" in out
    assert "seed-3" not in out  # it is done
    text = (SWEEP / "report.md").read_text()
    assert "step 7: loss/generator is nan" in text
    assert "pruned at" not in text


@pytest.mark.parametrize("is_held", [True, False])
@pytest.mark.parametrize("status", ["running", "interrupted", "completed"])
@pytest.mark.parametrize("reason", [None, "stopped by SIGTERM", "pruned at step 2"])
def test_a_run_stands_as_the_sweep_has_it(status, reason, is_held):
    path = write_run("a", {"weight": 1}, [1.0], status=status, reason=reason)
    with FileLock(path / ".lock") if is_held else contextlib.nullcontext():
        assert read_run(path).status == run_status(path)


def test_no_lock_is_opened_through_a_link():
    path = write_run("a", {"weight": 1}, [1.0], status="running")
    Path("precious").write_text("mine")
    (path / ".lock").symlink_to(Path("precious").absolute())
    assert read_run(path).status == "killed"
    assert Path("precious").read_text() == "mine"


def test_damaged_directories_are_counted():
    weights(1, 2)
    write_run("no-summary", {"weight": 1}, [1.0])
    (SWEEP / "no-summary" / "summary.json").unlink()
    write_run("bad-summary", {"weight": 1}, [1.0])
    (SWEEP / "bad-summary" / "summary.json").write_text('["status"]')
    write_run("bad-config", {"weight": 1}, [1.0])
    (SWEEP / "bad-config" / ".hydra" / "config.yaml").write_text("{")
    write_run("aliases", {"weight": 1}, [1.0])
    (SWEEP / "aliases" / ".hydra" / "config.yaml").write_text("a: &a [1, 1]\nb: [*a, *a]\n")
    write_run("no-log", {"regularizer": {"r1": {"weight": 1}}}, [3.0], metrics={DISTANCE: 4.0})
    (SWEEP / "no-log" / "metrics.jsonl").unlink()
    (SWEEP / "only-a-lock").mkdir()
    (SWEEP / "only-a-lock" / ".lock").touch()
    (SWEEP / "plots").mkdir()  # the user's own
    (SWEEP / ".retried" / "old").mkdir(parents=True)
    out = printed()
    assert "8 runs" in out
    assert "5 damaged" in out
    assert "bad-config: damaged, its .hydra/config.yaml cannot be read" in out
    (no_log,) = (run for run in read_study().runs if run.path.name == "no-log")
    assert no_log.last == {DISTANCE: 4.0}
    assert no_log.best(DISTANCE, higher_is_better=False) == 3.0


@pytest.mark.parametrize("junk", [b'{"step": 30, "met', b"\xff\xfe\n", b"[" * 5000 + b"\n", b"7\n", b'{"step": "x"}\n'])
def test_a_torn_or_strange_line_is_left_out(junk):
    weights(1)
    with (SWEEP / "weight-1-0" / "metrics.jsonl").open("ab") as file:
        file.write(junk)
    (run,) = read_study().runs
    assert run.step == 30
    assert run.curves[DISTANCE].steps.tolist() == [10, 20, 30]


def test_infinities_are_read_by_name():
    write_run("a", {"weight": 1}, [math.inf, 2.0, NAN])
    (run,) = read_study().runs
    assert run.curves[DISTANCE].values.tolist()[:2] == [math.inf, 2.0]
    assert math.isnan(run.last[DISTANCE])
    assert run.best(DISTANCE, higher_is_better=False) == 2.0
    assert run.best(DISTANCE, higher_is_better=True) == math.inf


def test_long_logs_are_thinned_but_no_evaluation_is_missed():
    path = write_run("a", {"weight": 1}, [5.0])
    lines = [{"step": step, "loss/generator": 1.0} | ({DISTANCE: 0.5} if step == 1234 else {}) for step in range(3000)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(path)
    assert run.best(DISTANCE, higher_is_better=False) == 0.5
    assert 150 < len(run.curves["loss/generator"].steps) <= 200
    assert run.curves["loss/generator"].steps[-1] == 2999


# --- what varies ------------------------------------------------------------------------------------------------------


def test_a_choice_is_one_column_though_it_sets_many_keys():
    plain, penalized = (
        {"loss": {"_target_": f"gan_runner.losses.{loss}"}, "discriminator_steps": steps, "regularizer": penalty}
        for loss, steps, penalty in (("Hinge", 1, {}), ("Wasserstein", 5, {"gradient_penalty": {"weight": 10}}))
    )
    write_run("a", plain, [2.0], words=["loss=hinge", "seed=0", "log_every=1"])
    write_run("b", penalized, [1.0], words=["loss=wgan_gp", "seed=1", "log_every=2"])
    study = read_study()
    assert study.columns == {"loss": "loss"}
    assert [setting.values["loss"] for setting in study.settings] == ["wgan_gp", "hinge"]
    assert "regularizer.gradient_penalty.weight" in study.varied


def test_keys_of_the_config_where_there_are_no_words():
    for steps in (100, 200):
        for rate in (0.1, 0.2):
            config = {"steps": steps, "optimizer": {"lr": rate, "_target_": "torch.optim.Adam"}}
            write_run(f"{steps}-{rate}", config | {"lr_schedule": {"steps": steps}}, [rate])
    assert list(read_study().columns.values()) == ["steps", "lr"]


def test_a_random_search_has_all_its_numbers():
    for number in range(3):
        write_run(str(number), {"optimizer": {"lr": 0.1 + number}, "weight": 2**number, "steps": 9}, [1.0])
    assert list(read_study().columns.values()) == ["weight", "lr"]


def test_names_are_as_short_as_they_can_be():
    for number in range(3):
        config = {
            "regularizer": {"r1": {"weight": number}, "r2": {"weight": number % 2}},
            "optimizer": {"lr": 5 + number},
        }
        write_run(str(number), config, [1.0])
    assert set(read_study().columns.values()) == {"r1.weight", "r2.weight", "lr"}


def test_numbers_are_equal_however_they_are_written():
    write_run("a", {"weight": 1, "seed": 0}, [1.0], words=["weight=1"])
    write_run("b", {"weight": 1.0, "seed": 1}, [1.0], words=["weight=1e0"])
    write_run("c", {"weight": 1.0, "seed": 2, "new_key": None}, [1.0], words=["weight=1.0"])
    study = read_study()
    assert len(study.settings) == 1
    assert study.varied == []
    assert study.columns == {}


# --- plots ------------------------------------------------------------------------------------------------------------


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
    assert plots.is_log_spaced(values) == is_log


def test_zero_has_a_place_on_a_logarithmic_axis():
    weights(0, 0.01, 0.1, 1, seeds=2)
    (plot,) = (plot for plot in plots.against_keys(read_study()) if "distance, best" in plot.title)
    places = {text: float(x) for x, text in re.findall(r"translate\((\S+) \S+\)[^>]*>([\d.]+)</text>", plot.svg)}
    if not places:
        places = {text: float(x) for x, text in re.findall(r'<text[^>]* x="([\d.]+)"[^>]*>([\d.]+)</text>', plot.svg)}
    assert places["0"] < places["0.01"] < places["0.1"] < places["1"]
    assert places["0.1"] - places["0.01"] == pytest.approx(places["1"] - places["0.1"], abs=0.5)


@pytest.fixture
def figures(monkeypatch):
    """Plots hold the figure itself instead of what is drawn of it."""
    monkeypatch.setattr(plots, "svg", lambda figure: figure)
    return lambda plot: plot.svg.axes[0]


def drawn(plot) -> tuple[list, list]:
    """The places and values of means, and of the dots of single runs."""
    (axes,) = plot.svg.axes
    means, dots = ([line.get_xydata() for line in axes.lines if line.get_marker() == mark] for mark in "o.")
    return [point.tolist() for line in means for point in line], [point.tolist() for line in dots for point in line]


@pytest.mark.parametrize("suffix", ["", "_with_a_name_that_is_rather_long"])
def test_names_have_a_plot_with_a_dot_for_each_run(figures, suffix):
    for name, values in {"hinge": [1.0, 2.0, 6.0], "bce": [5.0, 7.0]}.items():
        for seed, value in enumerate(values):
            write_run(f"{name}-{seed}", {"loss": name + suffix, "seed": seed}, [value])
    write_run("bad", {"loss": f"bce{suffix}", "seed": 9}, [1.0], status="diverged")
    (plot,) = (plot for plot in plots.against_keys(read_study()) if plot.title == "modes/distance, best against loss")
    means, dots = drawn(plot)
    axes = figures(plot)
    labels = [label.get_text() for label in (axes.get_yticklabels() if suffix else axes.get_xticklabels())]
    assert [label[:3] for label in labels] == ["bce", "hin"] if not suffix else all(map(str.startswith, labels, "..."))
    across = 0 if suffix else 1
    assert means == [[6.0, 0.0], [3.0, 1.0]] if suffix else means == [[0.0, 6.0], [1.0, 3.0]]
    assert [point[across] for point in dots] == [5.0, 7.0, 1.0, 2.0, 6.0]
    assert plot.legend == []


def test_names_and_another_key(figures):
    for number in range(8):
        config = {"loss": ["bce", "hinge"][number % 2], "weight": [None, 1][number // 2 % 2], "seed": number // 4}
        write_run(str(number), config, [number])
    found = {plot.title: plot for plot in plots.against_keys(read_study())}
    assert len(found) == 4  # the objective and another metric, against each key
    by_loss, by_weight = (found[f"modes/distance, best against {key}"] for key in ("loss", "weight"))
    assert [key.label for key in by_loss.legend] == ["weight=1", "weight=null"]
    assert [key.label for key in by_weight.legend] == ["loss=bce", "loss=hinge"]
    means, dots = drawn(by_loss)
    assert [value for _, value in means] == [4.0, 2.0, 5.0, 3.0]
    assert len(dots) == 8


def test_names_in_a_random_search_share_their_mean(figures):
    for number in range(8):
        loss, rate = ["bce", "hinge"][number % 2], 0.1 + number
        write_run(str(number), {"loss": {"x": loss}, "lr": rate}, [number], words=[f"loss={loss}", f"lr={rate}"])
    plot = next(plot for plot in plots.against_keys(read_study()) if plot.title == "modes/distance, best against loss")
    assert [value for _, value in drawn(plot)[0]] == [3.0, 4.0]
    assert plot.legend == []


def test_too_many_names_have_no_plot():
    for number in range(50):
        write_run(str(number), {"name": f"x{number}"}, [number])
    assert plots.against_keys(read_study()) == []


def test_a_heat_map_is_of_exactly_two_keys():
    for number in range(8):
        config = {"lr": [0.1, 1.0][number % 2], "weight": [1, 2][number // 2 % 2], "batch_size": number // 4}
        write_run(str(number), config, [number + 1.0])
    assert plots.heat_map(read_study()) is None
    for number in range(4, 8):
        os.rename(SWEEP / str(number), f"away-{number}")
    plot = plots.heat_map(read_study())
    assert plot is not None
    assert {">1<", ">2<", ">3<", ">4<"} <= set(re.findall(r">\d<", plot.svg))
    for number in (1, 3):
        os.rename(SWEEP / str(number), f"away-{number}")
    assert plots.heat_map(read_study()) is None  # one key is left


def test_no_heat_map_of_a_random_search():
    for number in range(8):
        write_run(str(number), {"lr": 0.1 * number, "weight": number * 7 % 8}, [1.0])
    assert plots.heat_map(read_study()) is None


def test_a_curve_over_seeds():
    curves = [Curve(np.array([0, 10, 20]), np.array([1.0, 2.0, NAN])), Curve(np.array([0, 10]), np.array([3.0, 5.0]))]
    found = plots.mean_curve(curves)
    assert found is not None
    steps, mean, sd = found
    assert steps.tolist() == [0, 10, 20]
    assert mean[:2].tolist() == [2.0, 3.5]
    assert sd[:2] == pytest.approx([2**0.5, 4.5**0.5])
    assert np.isnan(mean[2])


def test_strange_values_are_drawn_without_warnings():
    """Every warning is an error here."""
    for number, distances in enumerate([[1e300, -1e300], [NAN, NAN], [math.inf, 1.0], [0.0, 0.0], [1e-300, 5.0]]):
        config = {"lr": 10.0**-number, "name": f"_$x^{number}$ \U0001f600 漢", "weight": number - 2}
        for seed in range(2):
            write_run(f"{number}-{seed}", config | {"seed": seed}, [value * (1 + seed) for value in distances])
    write_report(SWEEP)


def test_strange_names_at_the_axes():
    for number in range(4):
        config = {"_$lr$": 10.0 ** -(number % 2), "kind": ["$x^2$ \U0001f600", "_漢"][number // 2]}
        write_run(str(number), config, [number])
    write_report(SWEEP)
    page = (SWEEP / "report.html").read_text()
    assert page.count("_$lr$</text>") == 3  # two plots and a heat map
    assert "$x^2$ \U0001f600</text>" in page


def test_more_settings_than_are_drawn_are_said_to_be_left_out():
    weights(*range(45))
    out = printed()
    assert "and 5 more" in out
    page = (SWEEP / "report.html").read_text()
    assert "The first 40 settings are drawn, 5 are left out." in page
    assert page.count("<img") == 40


# --- what is written --------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page refers to, and its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]


def parse(page: str) -> Links:
    parser = Links()
    parser.feed(page)
    return parser


def test_the_page_stands_alone():
    weights(0.1, 1, 10, seeds=2)
    write_run("odd #1?%41", {"regularizer": {"r1": {"weight": 10}}, "seed": 2}, [1.0])
    write_report(SWEEP)
    page = (SWEEP / "report.html").read_text()
    parsed = parse(page)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", page)
    assert all(link.startswith(("#", "data:image/", "./")) for link in parsed.links)
    assert not {"script", "link", "iframe", "object"} & set(parsed.tags)
    directories = [link for link in parsed.links if link.startswith("./")]
    assert {f"./weight-{w}-{seed}/" for w in (0.1, 1, 10) for seed in (0, 1)} <= set(directories)
    assert all((SWEEP / unquote(link)).is_dir() and not {"#", "?"} & set(link) for link in directories)
    assert parsed.tags.count("img") == 3
    assert 'name="viewport"' in page
    assert "color-scheme: light dark" in page


def test_the_page_says_what_all_runs_have_in_common():
    for number, loss in enumerate(["bce", "hinge"]):
        config = {"loss": {"_target_": loss}, "steps": 9, "seed": number}
        write_run(loss, config, [1.0], words=[f"loss={loss}", "steps=9", "model=<b>", f"seed={number}"])
    write_report(SWEEP)
    assert "<p>In all runs: steps=9 model=&lt;b&gt;</p>" in (SWEEP / "report.html").read_text()


def test_the_curves_have_a_legend_that_names_the_settings():
    weights(*range(1, 15))
    write_report(SWEEP)
    (legend,) = re.findall(r'<p class="legend">(.*?)</p>', (SWEEP / "report.html").read_text(), flags=re.DOTALL)
    assert re.findall(r"#\d+ weight=\d+", legend) == [f"#{number} weight={number}" for number in range(1, 13)]


def test_runs_are_listed_openly_where_one_has_failed():
    weights(1, 2)
    write_report(SWEEP)
    assert "<details><summary><h2>Runs" in (SWEEP / "report.html").read_text()
    write_run("bad", {"regularizer": {"r1": {"weight": 3}}}, [], status="failed")
    write_report(SWEEP)
    assert "<details open><summary><h2>Runs" in (SWEEP / "report.html").read_text()


def test_markup_is_shown_and_not_obeyed():
    evil = '<script>alert(1)</script>"><img src=http://x onerror=alert(1)>'
    path = write_run('<b onclick="x">', {"seed": evil, "name": evil}, [1.0], reason=evil, status=evil)
    write_run("b", {"seed": 1, "name": f"{evil} & more"}, [2.0], reason="\x1b[31mred | [x](http://y)", status="failed")
    metrics = path / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("modes/distance", "modes/</text><script>"))
    write_report(SWEEP)
    for page in [SWEEP / "report.html"]:
        parsed = parse(page.read_text())
        assert "script" not in parsed.tags
        assert "b" not in parsed.tags
        assert not any(name.startswith("on") for name in parsed.attributes)
        assert all(link.startswith(("#", "data:image/", "./")) for link in parsed.links)
    text = (SWEEP / "report.md").read_text()
    assert "<script>" not in text
    assert r"red \| \[x\](http://y)" in text
    write_report(path)
    assert "script" not in parse((path / "report.html").read_text()).tags
    assert "\x1b" not in printed()


def test_csv_has_a_row_per_job():
    weights(2, 1, seeds=2)
    write_run("bad", {"seed": 7, "regularizer": {"r1": {"weight": 3}}}, [], status="failed", reason="=cmd()")
    write_report(SWEEP)
    with (SWEEP / "sweep.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == 5
    first = next(row for row in found if row["directory"] == "weight-2-1")
    assert first == {
        "regularizer.r1.weight": "2", "seed": "1", "status": "completed", "reason": "", "step": "30",
        "objective": "3.0", "last modes/distance": "4.0", "last modes/covered": "5.0", "best modes/distance": "3.0",
        "best modes/covered": "7.0", "wall_time": "6.0", "directory": "weight-2-1",
    }  # fmt: skip
    assert found[0]["objective"] == ""
    assert found[0]["reason"] == "=cmd()"


def test_csv_has_a_row_per_setting():
    weights(2, 1, seeds=2)
    write_run("bad", {"seed": 7, "regularizer": {"r1": {"weight": 3}}}, [], status="failed", reason="=cmd()")
    write_run("worse", {"seed": 2, "regularizer": {"r1": {"weight": 1}}}, [0.1], status="diverged")
    write_report(SWEEP)
    with (SWEEP / "report.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["regularizer.r1.weight"] for row in found] == ["1", "2", "3"]
    assert found[0] == {
        "setting": "1", "regularizer.r1.weight": "1", "best modes/distance mean": "1.5",
        "best modes/distance sd": repr(0.5**0.5), "best modes/distance count": "2", "last modes/distance mean": "2.5",
        "last modes/distance sd": repr(0.5**0.5), "last modes/distance count": "2", "last modes/covered mean": "5.0",
        "last modes/covered sd": "0.0", "last modes/covered count": "2", "completed": "2", "failed": "0",
        "diverged": "1", "wall_time": "6.0",
    }  # fmt: skip
    assert found[2]["best modes/distance mean"] == found[2]["best modes/distance sd"] == ""
    assert found[2]["failed"] == "1"


def test_markdown():
    weights(1, 0.5, seeds=2)
    write_report(SWEEP)
    lines = (SWEEP / "report.md").read_text().splitlines()
    assert lines[0] == "# sweep"
    assert "4 runs, 2 settings: 4 completed." in lines
    assert (
        "| # | weight | modes/distance, best ↓ | modes/distance ↓ | modes/covered ↑ | n | time | not counted |" in lines
    )
    assert "| 1 | 0.5 | 1 ± 0.71 | 2 ± 0.71 | 5 ± 0 | 2 | 6 s |  |" in lines


def test_the_terminal_has_80_columns():
    for number in range(6):
        config = {f"a_rather_long_key_{place}": number * place for place in range(1, 6)}
        write_run(str(number), config, [number + 0.123456789], status=["completed", "diverged"][number % 2])
    out = printed()
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "a_rather_long_key_1=4" in out
    assert "diverged" in out


def test_a_sweep_that_runs_says_what_has_not_started():
    weights(1)
    (SWEEP / "jobs.jsonl").write_text('{"name": "weight-1-0"}\n{"name": "weight-2-0"}\n{"na')
    assert "1 completed, 1 not started" in printed()


def test_a_sweep_of_which_nothing_has_started_yet():
    SWEEP.mkdir()
    (SWEEP / "jobs.jsonl").write_text('{"name": "a"}\n{"name": "b"}\n')
    (SWEEP / "a").mkdir()
    with FileLock(SWEEP / "a" / ".lock"):  # its summary.json comes last
        assert "0 runs, 0 settings: 2 not started" in printed()
    assert "2 not started" in (SWEEP / "report.html").read_text()


def test_a_single_run(small_run, capsys):
    main([str(small_run)])
    out = capsys.readouterr().out
    assert "completed, step 3" in out
    assert "loss/generator" in out
    page = (small_run / "report.html").read_text()
    parsed = parse(page)
    assert parsed.tags.count("img") == 2  # samples and real ones
    assert page.count("<svg viewBox") > 3
    assert "regularizer.gradient_penalty.weight" in page
    assert "loss/generator" in (small_run / "report.md").read_text()
    assert not (small_run / "sweep.csv").exists()


def test_a_damaged_single_run(small_run):
    for name in ("summary.json", "metrics.jsonl", "evaluations.jsonl", "samples/real.png"):
        (small_run / name).unlink()
    write_report(small_run)
    assert "damaged, it has no summary.json" in (small_run / "report.html").read_text()


def test_nothing_but_damage():
    write_run("a", {}, [])
    (SWEEP / "a" / ".hydra" / "config.yaml").unlink()
    assert "1 run, 0 settings: 1 damaged" in printed()


def test_a_report_needs_no_torch():
    code = "import sys, gan_runner.cli.report; assert not {'torch', 'matplotlib.pyplot'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_run_records_what_the_report_ranks_by(run_cli):
    words = ["experiment=ring", "device=cpu", "batch_size=16", "steps=4", "evaluate_every=2", "metric.modes.samples=50"]
    for rate in (0.001, 0.01):
        code, _, err = run_cli(*words, f"optimizer.lr={rate}", f"hydra.run.dir={SWEEP}/{rate}")
        assert code == 0, err
    study = read_study()
    assert study.objective is not None
    assert study.objective.name == "modes/wasserstein"
    assert study.objective.higher_is_better is False
    assert study.columns == {"optimizer.lr": "lr"}
    assert {quantity.name: quantity.higher_is_better for quantity in study.quantities}["modes/covered"] is True
    summaries = [json.loads((run.path / "summary.json").read_text()) for run in study.runs]
    assert [study.objective.of(run) for run in study.runs] == [summary["best"]["value"] for summary in summaries]


def test_a_broken_picture_is_left_out():
    weights(1, 2)
    (SWEEP / "weight-1-0" / "samples" / "step_00000010.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    write_report(SWEEP)
    assert (SWEEP / "report.html").read_text().count("<img") == 1


@pytest.mark.parametrize(
    ("words", "message"), [(["nowhere"], "nowhere"), (["."], "no run"), ([], "DIR"), (["a", "b"], "b")]
)
def test_what_is_no_directory_of_runs_is_refused_in_one_line(words, message):
    with pytest.raises(ConfigError, match=message) as error:
        main(words)
    assert "\n" not in str(error.value)


def test_nothing_is_left_but_the_report():
    weights(1, 2)
    before = {path.name for path in SWEEP.iterdir()}
    write_report(SWEEP)
    write_report(SWEEP)
    assert {path.name for path in SWEEP.iterdir()} - before == {"sweep.csv", "report.csv", "report.md", "report.html"}


def test_a_run_without_a_seed_in_its_config():
    assert Run(path=Path(), status="completed").seed is None


# --- floors


def evaluated(name: str, floor: float, values: list[float], *, fewer: bool = False, **more: object) -> Path:
    """A run whose evaluations have a floor of the distance; where it is of `fewer` samples, the distance is doubled."""
    path = write_run(name, {"seed": name, **more}, values)
    records = []
    for index, value in enumerate(values, start=1):
        metric = {
            "values": {"distance": value, "covered": 8.0},
            "higher_is_better": {"distance": False, "covered": True},
            "floor": {"values": {"distance": floor}, "generated": 1180, "real": 9, "split": "fresh"},
        }
        if fewer:
            metric["at_floor_counts"] = {"values": {"distance": 2 * value}}
        records.append({"step": 10 * index, "metrics": {"modes": metric}})
    (path / "evaluations.jsonl").write_text("".join(json.dumps(json_safe(record)) + "\n" for record in records))
    return path


FEWER = f"{DISTANCE} of 1,180 samples"


def test_a_floor_of_as_many_samples_belongs_to_the_metric():
    run = read_run(evaluated("a", 0.5, [3.0, 2.0]))
    assert run.floors == {DISTANCE: 0.5}
    assert FEWER not in run.curves
    write_report(SWEEP / "a")
    assert "| modes/distance ↓ | 2 | 2 | 0.5 |" in (SWEEP / "a" / "report.md").read_text()
    assert "real data" in (SWEEP / "a" / "report.html").read_text()


def test_a_floor_of_fewer_samples_has_a_curve_beside_it():
    run = read_run(evaluated("a", 0.5, [3.0, 2.0], fewer=True))
    assert run.floors == {FEWER: 0.5}
    assert run.curves[FEWER].steps.tolist() == [10, 20]
    assert run.curves[FEWER].values.tolist() == [6.0, 4.0]
    assert run.higher_is_better[FEWER] is False
    assert run.objective == DISTANCE
    write_report(SWEEP / "a")
    text = (SWEEP / "a" / "report.md").read_text()
    assert "| modes/distance ↓ | 2 | 2 | – |" in text
    assert "| modes/distance of 1,180 samples ↓ | 4 | 4 | 0.5 |" in text


def test_what_the_verb_evaluated_is_not_mixed_in():
    """Another checkpoint, another split, other latents."""
    path = evaluated("a", 0.5, [3.0, 2.0], fewer=True)
    *_, line = (path / "evaluations.jsonl").read_text().splitlines()
    record = json.loads(line.replace("0.5", "99.0")) | {"checkpoint": "x.pt", "truncation": 0.5, "step": 30}
    before = read_run(path)
    with (path / "evaluations.jsonl").open("a") as file:
        file.write(json.dumps(record) + "\n")
    after = read_run(path)
    assert after.floors == before.floors
    assert after.last == before.last
    assert after.curves[FEWER].steps.tolist() == [10, 20]


def test_a_run_of_an_older_version_has_no_floor():
    path = write_run("a", {"seed": 0}, [3.0, 2.0])
    assert read_run(path).floors == {}
    write_report(path)
    assert "real data" not in (path / "report.md").read_text() + (path / "report.html").read_text()


@pytest.mark.parametrize(
    "floor", [None, 3, [], {"values": 3}, {"values": {"distance": "x"}}, {"values": {"distance": "nan"}}], ids=str
)
def test_a_strange_floor_is_left_out(floor):
    path = evaluated("a", 0.5, [3.0])
    record = json.loads((path / "evaluations.jsonl").read_text())
    record["metrics"]["modes"] |= {"floor": floor, "at_floor_counts": 5}
    (path / "evaluations.jsonl").write_text(json.dumps(record))
    assert read_run(path).floors == {}


def test_floors_in_the_report_of_a_sweep():
    for number, fewer in enumerate((False, True)):
        evaluated(f"{number}", 0.5, [3.0, 2.0], fewer=fewer, regularizer={"r1": {"weight": number}})
    text = " ".join(printed().split())
    assert "real data: modes/distance 0.5 (setting 1: 2), modes/distance of 1,180 samples 0.5 2 runs" in text
    assert "real data: modes/distance 0.5" in (SWEEP / "report.md").read_text()
    assert "real data: modes/distance 0.5" in (SWEEP / "report.html").read_text()


def test_no_floor_where_the_runs_have_different_ones():
    for number in (0, 1):
        evaluated(f"{number}", 0.5 + number, [3.0, 2.0], dataset={"seed": number})
    assert "real data" not in printed()


def test_floors_are_dashed_lines(figures):
    for number in (1, 2):
        evaluated(f"{number}", 0.5, [3.0, 2.0 + number], regularizer={"r1": {"weight": number}})
    study = read_study()

    def dashed(plot) -> list[float]:
        """The heights of the dashed lines from side to side."""
        return [line.get_ydata()[0] for line in figures(plot).lines if line.get_linestyle() == "--"]

    of_distance, of_covered = plots.learning_curves(study)[:2]
    assert dashed(of_distance) == [0.5]
    assert figures(of_distance).get_ylim()[0] <= 0.5
    assert dashed(of_covered) == []
    alone = plots.curves_of(study.runs[0])[0]
    assert dashed(alone) == [0.5]
    assert [key.label for key in alone.legend] == ["real data"]
    (against,) = (plot for plot in plots.against_keys(study) if "distance, best" in plot.title)
    assert dashed(against) == [0.5]
    assert [key.label for key in against.legend] == ["real data"]
