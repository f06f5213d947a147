"""`gan-runner list`."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gan_runner.reporting.overview import age, describe_sweep, gather
from tests.helpers import refusal


def make_run(path: str, *words: str, status: str = "completed", best: float | None = None, started: str = "") -> None:
    Path(path, ".hydra").mkdir(parents=True)
    Path(path, ".hydra/overrides.yaml").write_text(json.dumps(words))
    started = started or time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(time.time() - 7200))
    summary: dict[str, Any] = {"status": status, "started": started}
    if best is not None:
        summary["best"] = {"objective": "metric/frechet/distance", "value": best, "step": 1}
        record = {"metrics": {"frechet": {"values": {"distance": best}, "higher_is_better": {"distance": False}}}}
        Path(path, "evaluations.jsonl").write_text(json.dumps(record) + "\n")
    Path(path, "summary.json").write_text(json.dumps(summary))


def make_sweep() -> None:
    jobs = []
    for name, value, status in (("a", 3.5, "completed"), ("b", 2.25, "completed"), ("c", None, "failed")):
        words = [f"loss={name}", "steps=7", "device=cpu"]
        make_run(f"outputs/sweeps/s/{name}", *words, status=status, best=value)
        jobs.append({"name": name, "overrides": words})
    jobs.append({"name": "d", "overrides": ["loss=d", "steps=7"]})
    Path("outputs/sweeps/s/jobs.jsonl").write_text("".join(json.dumps(job) + "\n" for job in jobs))


def test_the_table(run_cli):
    make_run("outputs/first_try", "name=first_try", "loss=hinge", "optimizer.lr=0.1", best=12.345)
    make_run("outputs/2026-01-02/12-00-00_seed-1", "seed=1", status="diverged", started="2026-01-02T12:00:00+00:00")
    make_sweep()
    code, out, error = run_cli("list")
    assert (code, error) == (0, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    rows = out.splitlines()[3:]
    (named,) = [row for row in rows if row.startswith("first_try")]
    assert all(text in named for text in ("completed", "loss=hinge", "2 h")), named
    assert "12.3" in "".join(rows)
    assert out.index("sweeps/s") < out.index("first_try") < out.index("2026-01-02")  # the newest first
    assert "device" not in out
    assert "diverged" in out


def test_a_sweep_is_one_row():
    make_sweep()
    status, words, best = describe_sweep(Path("outputs/sweeps/s"))
    assert status == "2 completed, 1 failed, 1 not started"
    assert words == "loss=a,b,c,d steps=7"
    assert best == ("metric/frechet/distance", 2.25)


def test_of_a_sweep_its_runs(run_cli):
    make_sweep()
    _, out, _ = run_cli("list", "outputs/sweeps/s")
    assert "loss=a" in out
    assert "steps=7" not in out  # what all have


def test_what_is_not_there(run_cli):
    refusal(run_cli("list"), "outputs")
    Path("outputs").mkdir()
    code, out, _ = run_cli("list")
    assert (code, out.strip()) == (0, "no runs in outputs")


def test_what_a_stranger_wrote_does_no_harm(run_cli):
    texts = ["[]", "{}", '{"status": 3, "best": 4}', '{"status": "\\u001b[2J", "best": {"x": 1}}']
    for number, text in enumerate(texts):
        Path(f"outputs/{number}/.hydra").mkdir(parents=True)
        Path(f"outputs/{number}/summary.json").write_text(text)
        Path(f"outputs/{number}/.hydra/overrides.yaml").write_text(text)
    Path("outputs/s").mkdir()
    lines = ['{"name": 3, "overrides": 4}', '{"na', "[]", '{"name": "../0", "overrides": [1]}']
    Path("outputs/s/jobs.jsonl").write_text("\n".join(lines))
    code, out, error = run_cli("list")
    assert (code, error) == (0, "")
    assert "\x1b" not in out


def test_it_imports_no_torch():
    Path("outputs").mkdir()
    code = (
        "import sys; sys.argv = ['gan-runner', 'list']; from gan_runner.cli.main import main; main(); "
        "assert not {'torch', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_of_several_lines():
    lines = [{"loss": "a", "optimizer.lr": str(n), "device": "cpu"} for n in range(9)]
    assert gather(lines) == "loss=a lr=0,1,2,3,... (9)"
    assert gather([{}]) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (119, "119 s"), (180, "3 min"), (7200, "2 h"), (2e6, "23 d")]
)
def test_an_age(seconds, text):
    assert age(seconds) == text
