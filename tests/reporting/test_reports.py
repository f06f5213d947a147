"""`gan-runner report`: what it reads, how it groups and ranks, and what it writes."""

import base64
import contextlib
import csv
import hashlib
import html
import json
import math
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from PIL import Image
from rich.console import Console

from gan_runner.cli.report import main
from gan_runner.config.errors import ConfigError
from gan_runner.reporting import page
from gan_runner.reporting.formats import spread_text
from gan_runner.reporting.settings import Rank, Spread, Study, make_study
from gan_runner.reporting.stored_runs import Run, find_runs, read_run
from gan_runner.reporting.tables import of_settings
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


def read_study(rank: Rank = "best") -> Study:
    return make_study([read_run(path) for path in find_runs(SWEEP)], rank=rank)


def rows(study: Study) -> list[list[str]]:
    return of_settings(study).to_numpy().tolist()


def page_data(path: Path = SWEEP) -> dict:
    """What the plots of a page show."""
    page = (path / "report.html").read_text()
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def without_scripts(path: Path = SWEEP) -> str:
    """A page but for its scripts."""
    return re.sub(r"<script.*?</script>", "", (path / "report.html").read_text(), flags=re.DOTALL)


def printed() -> str:
    """What the terminal shows in 80 columns."""
    console = Console(width=80, highlight=False, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with console.file:
        console.print(write_report(SWEEP), crop=False)
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
    assert first == ["1", "1", "2.0 ± 1.0", "3.0 ± 1.0", "5 ± 0", "3", "6 s", ""]
    assert second[:4] == ["2", "2", "3.0 ± 1.0", "4.0 ± 1.0"]


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
    assert list(study.columns.values()) == ["regularizer.r1.weight"]
    assert study.spread(study.settings[0], study.quantities[0]) == Spread(2.0, 1.0, 3)


def test_what_it_is_measured_by_makes_another_setting():
    for samples in (100, 200):
        write_run(str(samples), {"seed": samples, "metric": {"modes": {"samples": samples}}}, [1.0])
    assert [setting.label for setting in read_study().settings] == [f"metric.modes.samples={n}" for n in (100, 200)]


def test_one_seed_has_no_deviation():
    weights(2, 1)
    assert [row[2] for row in rows(read_study())] == ["1", "2"]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Spread(1.23456789, 0.5, 3), "1.23 ± 0.50"),
        (Spread(1.23456789, 0.00123, 3), "1.2346 ± 0.0012"),
        (Spread(1.23456789, 1e-9, 3), "1.2345678900e+00 ± 1.0e-09"),
        (Spread(123456.0, 3.0, 3), "123456.0 ± 3.0"),
        (Spread(123456.0, 4321.0, 3), "123500 ± 4300"),
        (Spread(0.0, 0.1, 3), "0.00 ± 0.10"),
        (Spread(-0.001, 0.1, 3), "0.00 ± 0.10"),
        (Spread(-2.0, 0.0, 2), "-2 ± 0"),
        (Spread(1e-99, 1e99, 2), "0 ± 1.0e+99"),
        (Spread(1.23456789, NAN, 1), "1.235"),
        (Spread(NAN, NAN, 0), "–"),
    ],
)
def test_mean_and_deviation_have_one_precision(found, text):
    assert spread_text(*found) == text


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
    assert "nothing was measured" in printed()


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
    assert list(read_study().columns.values()) == ["steps", "optimizer.lr"]


def test_a_random_search_has_all_its_numbers():
    for number in range(3):
        write_run(str(number), {"optimizer": {"lr": 0.1 + number}, "weight": 2**number, "steps": 9}, [1.0])
    assert list(read_study().columns.values()) == ["weight", "optimizer.lr"]


def test_names_are_whole_but_for_the_target_of_a_choice():
    for number in range(2):
        config = {"regularizer": {"r1": {"weight": number}}, "loss": {"_target_": f"gan_runner.losses.{number}"}}
        write_run(str(number), config, [1.0])
    assert set(read_study().columns.values()) == {"regularizer.r1.weight"}
    for number in range(2):
        write_run(f"more-{number}", {"loss": {"_target_": f"gan_runner.losses.{number}"}}, [1.0])
    assert set(read_study().columns.values()) == {"regularizer.r1.weight", "loss"}


def test_numbers_are_equal_however_they_are_written():
    write_run("a", {"weight": 1, "seed": 0}, [1.0], words=["weight=1"])
    write_run("b", {"weight": 1.0, "seed": 1}, [1.0], words=["weight=1e0"])
    write_run("c", {"weight": 1.0, "seed": 2, "new_key": None}, [1.0], words=["weight=1.0"])
    study = read_study()
    assert len(study.settings) == 1
    assert study.varied == []
    assert study.columns == {}


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
    page = without_scripts()
    parsed = parse(page)
    assert not re.search(r"https?:|//[a-z]|url\((?!#)|@import", re.sub(r"data:image/[^\"]*", "", page))
    assert all(link.startswith("data:image/") for link in parsed.links)  # none to a directory: a mailed page has none
    assert not {"a", "link", "iframe", "object"} & set(parsed.tags)
    assert parsed.tags.count("img") == 3
    assert "odd #1?%41" in page
    assert 'name="viewport"' in page
    assert "screen and (prefers-color-scheme: dark)" in page
    assert "@media print" in page


def test_only_the_scripts_of_the_page_itself_may_run():
    weights(1, 2)
    write_report(SWEEP)
    text = (SWEEP / "report.html").read_text()
    (policy,) = re.findall(r'content="default-src \'none\'; .*?script-src (.*?)"', text)
    bodies = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
    assert html.unescape(policy).split() == [f"'sha256-{digest}'" for digest in digests]
    assert len(bodies) == 2


def test_the_page_says_what_all_runs_have_in_common():
    for number, loss in enumerate(["bce", "hinge"]):
        config = {"loss": {"_target_": loss}, "steps": 9, "seed": number}
        write_run(loss, config, [1.0], words=[f"loss={loss}", "steps=9", "model=<b>", f"seed={number}"])
    write_report(SWEEP)
    assert "In all runs: steps=9 model=&lt;b&gt;</p>" in without_scripts()


def test_runs_are_listed_openly_where_one_has_failed():
    weights(1, 2)
    write_report(SWEEP)
    assert '<details class="sheet"><summary><h2>Runs' in without_scripts()
    write_run("bad", {"regularizer": {"r1": {"weight": 3}}}, [], status="failed")
    write_report(SWEEP)
    assert '<details class="sheet" open><summary><h2>Runs' in without_scripts()


def test_markup_is_shown_and_not_obeyed():
    evil = '</script><script>alert(1)</script>"><img src=http://x onerror=alert(1)>'
    path = write_run('<b onclick="x">', {"seed": evil, "kind": evil}, [1.0], reason=evil, status=evil)
    write_run("b", {"seed": 1, "kind": f"{evil} & more"}, [2.0], reason="\x1b[31mred | [x](http://y)", status="failed")
    metrics = path / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("modes/distance", "modes/</text><script>"))
    write_report(SWEEP)
    assert (SWEEP / "report.html").read_text().count("<script") - plotly_scripts() == 2
    for directory in (SWEEP, path):
        write_report(directory)
        parsed = parse(without_scripts(directory))
        assert not {"script", "b"} & set(parsed.tags)
        assert not any(name.startswith("on") for name in parsed.attributes)
        assert all(link.startswith("data:image/") for link in parsed.links)
    assert any("</script>" in setting["label"] for setting in page_data()["settings"])
    text = (SWEEP / "report.md").read_text()
    assert "<script>" not in text
    assert r"red \| \[x\](http://y)" in text
    assert "\x1b" not in printed()


def plotly_scripts() -> int:
    """The mentions of a script within plotly's own and this package's, and the element of that itself."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().count("<script") + 1


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
    assert lines[2].startswith("Lowest of 2 settings by modes/distance, lower is better: regularizer.r1.weight=0.5, ")
    assert "4 runs, 2 settings: 4 completed." in lines
    headings = ["#", "regularizer.r1.weight", "modes/distance, best ↓", "modes/distance ↓", "modes/covered ↑"]
    assert f"| {' | '.join(headings)} | n | time | not counted |" in lines
    assert "| 1 | 0.5 | 1.00 ± 0.71 | 2.00 ± 0.71 | 5 ± 0 | 2 | 6 s |  |" in lines


def test_the_terminal_has_80_columns():
    for number in range(6):
        config = {f"a_rather_long_key_{place}": number * place for place in range(1, 6)}
        write_run(str(number), config, [number + 0.123456789], status=["completed", "diverged"][number % 2])
    out = printed()
    assert max(map(len, out.splitlines())) <= 80
    assert "…" not in out
    assert "4, 8, 12, 16, 20" in out
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
        assert "2 runs, 0 settings: 2 not started" in printed()
    assert "2 not started" in without_scripts()


def test_a_single_run(small_run, capsys):
    main([str(small_run)])
    out = capsys.readouterr().out
    assert "completed, step 3" in out
    assert "loss/generator" in out
    page = without_scripts(small_run)
    parsed = parse(page)
    assert parsed.tags.count("img") == 2  # samples and real ones
    assert len(page_data(small_run)["curves"]) > 3
    assert "regularizer.gradient_penalty.weight" in page
    assert "loss/generator" in (small_run / "report.md").read_text()
    assert not (small_run / "sweep.csv").exists()


def test_a_damaged_single_run(small_run):
    for name in ("summary.json", "metrics.jsonl", "evaluations.jsonl", "samples/real.png"):
        (small_run / name).unlink()
    write_report(small_run)
    assert "it has no summary.json" in without_scripts(small_run)


def test_nothing_but_damage():
    write_run("a", {}, [])
    (SWEEP / "a" / ".hydra" / "config.yaml").unlink()
    assert "1 run, 0 settings: 1 damaged" in printed()


def test_a_report_needs_no_torch():
    code = "import sys, gan_runner.reporting.writer; assert not {'torch', 'matplotlib', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_verb_starts_without_pandas():
    code = "import sys, gan_runner.cli.report; assert not {'pandas', 'scipy', 'plotly'} & set(sys.modules)"
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
    assert study.columns == {"optimizer.lr": "optimizer.lr"}
    assert {quantity.name: quantity.higher_is_better for quantity in study.quantities}["modes/covered"] is True
    summaries = [json.loads((run.path / "summary.json").read_text()) for run in study.runs]
    assert [study.objective.of(run) for run in study.runs] == [summary["best"]["value"] for summary in summaries]


def test_a_broken_picture_is_left_out():
    weights(1, 2)
    (SWEEP / "weight-1-0" / "samples" / "step_00000010.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    write_report(SWEEP)
    assert without_scripts().count("<img") == 1


@pytest.mark.parametrize(
    ("words", "message"), [(["nowhere"], "nowhere"), (["."], "no run"), ([], "DIR"), (["--rank", "x", "."], "rank")]
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
    assert "The floor, real data against real data, is 0.5." in without_scripts(SWEEP / "a")
    assert page_data(SWEEP / "a")["curves"][0]["floor"] == 0.5


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
    assert "real data" not in (path / "report.md").read_text() + without_scripts(path).replace("real samples", "")


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
    assert "real data: modes/distance 0.5" in without_scripts()
    assert [one["floor"] for one in page_data()["quantities"]] == [0.5, None, 0.5]  # the best values are the last


def test_no_floor_where_the_runs_have_different_ones():
    for number in (0, 1):
        evaluated(f"{number}", 0.5 + number, [3.0, 2.0], dataset={"seed": number})
    assert "real data" not in printed()


# --- several directories ----------------------------------------------------------------------------------------------


def make_sweeps() -> None:
    """Two sweeps of two runs, the second of which has not begun with a third, and a run alone, all below outputs/."""
    for name, values in {"first": (3.0, 4.0), "second": (1.0, 2.0)}.items():
        for value in values:
            write_run(f"x{value}", {"lr": value, "seed": 0}, [value], words=[f"lr={value}"])
        os.makedirs("outputs/sweeps", exist_ok=True)
        SWEEP.rename(f"outputs/sweeps/{name}")
    Path("outputs/sweeps/second/jobs.jsonl").write_text('{"name": "x1.0"}\n{"name": "x2.0"}\n{"name": "x9.0"}\n')
    write_run("alone", {"lr": 5.0, "seed": 0}, [5.0], words=["lr=5.0"])
    SWEEP.rename("outputs/2026-01-01")


def names_in(page: Path) -> list[str]:
    """The directories of the runs of a report, in the order of its second table."""
    with (page / "sweep.csv").open(newline="") as file:
        return [row["directory"] for row in csv.DictReader(file)]


def test_several_sweeps_are_compared():
    make_sweeps()
    write_report(Path("outputs/sweeps/first"), Path("outputs/sweeps/second"))
    target = Path("outputs/sweeps/comparison")
    assert names_in(target) == ["first/x3.0", "first/x4.0", "second/x1.0", "second/x2.0"]
    assert [setting["label"] for setting in page_data(target)["settings"]] == [f"lr={n}" for n in (1, 2, 3, 4)]
    assert not Path("outputs/sweeps/first/report.html").exists()


def test_runs_are_compared_where_one_wants_the_files():
    make_sweeps()
    main(["outputs/sweeps/second/x1.0", "outputs/2026-01-01/alone", "outputs/sweeps/second/x1.0/", "--out", "made"])
    assert names_in(Path("made")) == ["sweeps/second/x1.0", "2026-01-01/alone"]
    assert "not started" not in Path("made/report.md").read_text().replace("1 not started", "")


def test_all_that_is_below_a_directory():
    make_sweeps()
    text = " ".join(str(line) for line in write_report(Path("outputs")).lines)
    assert "6 runs, 5 settings: 5 completed, 1 not started" in text
    assert set(names_in(Path("outputs"))) == {
        "2026-01-01/alone", "sweeps/first/x3.0", "sweeps/first/x4.0", "sweeps/second/x1.0", "sweeps/second/x2.0",
    }  # fmt: skip
    write_report(Path("outputs"))  # which finds its own files
    assert len(names_in(Path("outputs"))) == 5


def test_runs_are_sorted_by_number():
    for weight in (100, 9, 0.5, 10):
        write_run(f"weight-{weight}", {"weight": weight}, [1.0])
    assert [path.name for path in find_runs(SWEEP)] == [f"weight-{weight}" for weight in (0.5, 9, 10, 100)]


# --- commands, ranks and times ----------------------------------------------------------------------------------------


def test_the_lines_that_repeat_a_sweep():
    for weight in (1, 2):
        words = ["model=mlp", "optimizer.betas=[0,0.9]", f"weight={weight}", "+new.key=a b"]
        words += ["prune=[[1,2]]", "name=taken"]
        write_run(str(weight), {"weight": weight}, [weight], words=words)
    overrides = {
        "hydra": ["hydra/launcher=pool", "hydra.mode=MULTIRUN"],
        "task": ["weight=1,2", "optimizer.betas=[0,0.9]"],
    }
    (SWEEP / "multirun.yaml").write_text(yaml.dump({"hydra": {"overrides": overrides}}))
    (SWEEP / "jobs.jsonl").touch()
    (SWEEP / "1" / "checkpoints").mkdir()
    (SWEEP / "1" / "checkpoints" / "best.pt").touch()
    report = write_report(SWEEP)
    expected = [
        "gan-runner model=mlp 'optimizer.betas=[0,0.9]' weight=1 '+new.key=a b'",
        "gan-runner sample sweep/1 --checkpoint best",
    ]
    assert [line for _, line in report.commands] == expected
    lines = (SWEEP / "report.md").read_text().splitlines()
    assert "    gan-runner -m hydra/launcher=pool weight=1,2 'optimizer.betas=[0,0.9]' sweep=sweep" in lines
    assert set(expected) <= {line.strip() for line in lines}
    shown = html.unescape(without_scripts())
    assert all(line in shown for line in expected)


def test_the_lines_of_several_sweeps_are_folded():
    for name in ("a", "b"):
        sweep = Path(f"sweep-{name}")
        sweep.mkdir()
        write_run(name, {"loss": name}, [1.0 if name == "a" else 2.0], words=[f"loss={name}"]).rename(sweep / name)
        (sweep / "multirun.yaml").write_text(yaml.dump({"hydra": {"overrides": {"task": [f"loss={name}"]}}}))
        (sweep / "jobs.jsonl").touch()
    write_report(Path("sweep-a"), Path("sweep-b"), out=Path("both"))
    page = html.unescape(Path("both/report.html").read_text())
    before, folded = page.partition("The lines of 2 sweeps")[::2]
    assert "gan-runner loss=a" in before
    for name in ("a", "b"):
        line = f"gan-runner -m loss={name} sweep=sweep-{name}"
        assert line not in before
        assert line in folded


def test_a_line_is_not_given_where_a_word_cannot_be_shown():
    write_run("a", {"weight": 1}, [1.0], words=["weight=1", "loss=\x1b[31m"])
    assert write_report(SWEEP).commands == []


def test_the_terminal_gives_lines_in_one_piece(capsys):
    words = [f"some.long.key_{number}={number}" for number in range(20)]
    write_run("a", {"weight": 1}, [1.0], words=words)
    write_run("b", {"weight": 2}, [2.0], words=words)
    main([str(SWEEP)])
    assert f"  gan-runner {' '.join(words)}" in capsys.readouterr().out.splitlines()


def test_ranked_by_the_last_value():
    write_run("a", {"weight": 1}, [1.0, 9.0])
    write_run("b", {"weight": 2}, [5.0, 5.0])
    assert [setting.values["weight"] for setting in read_study().settings] == [1, 2]
    study = read_study(rank="last")
    assert [setting.values["weight"] for setting in study.settings] == [2, 1]
    assert [quantity.title for quantity in study.quantities] == ["modes/distance", "modes/covered"]
    main([str(SWEEP), "--rank", "last"])
    assert "Ranked by the last evaluation of each run." in without_scripts()


def test_the_time_of_a_run_in_a_group_is_its_share():
    run = read_run(write_run("a", {"weight": 1}, [1.0, 1.0], stacked=4))
    assert run.wall_time == 1.5
    assert run.seconds is not None
    assert run.seconds.values.max() == 0.5


@pytest.mark.parametrize("stacked", [0, -3, "x", None, math.inf, True])
def test_a_strange_size_of_a_group_is_none(stacked):
    assert read_run(write_run("a", {"weight": 1}, [1.0], stacked=stacked)).wall_time == 6.0


def test_bounds_are_read():
    path = evaluated("a", 0.5, [3.0])
    record = json.loads((path / "evaluations.jsonl").read_text())
    record["metrics"]["modes"]["bounds"] = {"distance": [0, None], "covered": [0, 8], "odd": 3, "other": [1]}
    (path / "evaluations.jsonl").write_text(json.dumps(record))
    assert read_run(path).bounds == {DISTANCE: (0, math.inf), COVERED: (0, 8)}


# --- a page's room ----------------------------------------------------------------------------------------------------


def test_pictures_have_a_budget_and_the_page_says_what_it_left_out(monkeypatch):
    for weight in (1, 2, 3):
        path = write_run(str(weight), {"weight": weight}, [weight])
        for step in (20, 30):
            Image.new("RGB", (600, 600), "blue").save(path / "samples" / f"step_{step:08}.png")
    write_report(SWEEP)
    albums = page_data()["albums"]
    assert [[step for step, _ in pictures] for _, _, pictures in albums] == [[10, 20, 30]] * 3
    assert "Left out" not in without_scripts()
    one = max(len(source) for _, _, pictures in albums for _, source in pictures[:-1])
    monkeypatch.setattr(page, "MOST_OF_PICTURES", 4 * one + 9)
    write_report(SWEEP)
    assert [[step for step, _ in pictures] for _, _, pictures in page_data()["albums"]] == [[20, 30], [30], [30]]
    assert "5 earlier sample grids" in without_scripts()
    monkeypatch.setattr(page, "MOST_OF_PICTURES", 2 * one + 9)
    write_report(SWEEP)
    assert "the samples of 1 setting;" in without_scripts()


def test_warnings_stand_on_the_page_of_a_run():
    path = write_run("a", {"weight": 1}, [1.0])
    (path / "gan_runner.log").write_text(
        "x\nwarning: step 10: <b> vanishes\nwarning: step 20: again\nnote: warning: no\n"
    )
    write_report(path)
    assert "2 warnings, the first: step 10: &lt;b&gt; vanishes." in without_scripts(path)
    assert "<li>step 20: again</li>" in without_scripts(path)
