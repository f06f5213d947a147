"""What a browser shows: the page of a report, and a sweep in TensorBoard. Needs Chromium, and is skipped without."""

import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")]

WORDS = [
    "experiment=ring", "device=cpu", "batch_size=16", "steps=4", "evaluate_every=2", "sample_every=4",
    "metric.modes.samples=50", "loss=bce,hinge", "seed=range(2)", "sweep=shown",
]  # fmt: skip
OBJECTIVE = "metric/modes/wasserstein"
GRID_ROWS = """grid => [...grid.shadowRoot.querySelectorAll("#items tr")].map(
    row => [...row.querySelectorAll("slot")].map(
        slot => slot.assignedNodes().map(node => node.textContent).join("").trim()))"""


@pytest.fixture
def sweep(run_cli, tmp_path_factory) -> Path:
    """A sweep over two losses and two seeds with its report; made once."""
    made = tmp_path_factory.getbasetemp() / "shown"
    if not made.exists():
        code, _, error = run_cli("-m", *WORDS)
        assert code == 0, error
        shutil.copytree("outputs/sweeps/shown", made)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM)


def rows_of(sweep: Path) -> list[dict]:
    """What the sweep itself wrote of its jobs."""
    return [json.loads(line) for line in (sweep / "sweep.jsonl").read_text().splitlines()]


def open_page(browser: Any, path: Path, width: int) -> Any:
    """A page from a file; it may ask for nothing else, and complain of nothing."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(path.as_uri())
    return page


def test_the_page_of_a_sweep(sweep, browser):
    page = open_page(browser, sweep / "report.html", 1280)
    table = page.locator("table").first
    best: dict[str, list[float]] = {}
    for row in rows_of(sweep):
        loss = next(word.removeprefix("loss=") for word in row["overrides"] if word.startswith("loss="))
        best.setdefault(loss, []).append(row["best"]["value"])
    expected = sorted((statistics.fmean(values), loss) for loss, values in best.items())
    found = [row.locator("td").all_inner_texts() for row in table.locator("tbody tr").all()]
    assert [(cells[0].strip(), cells[1]) for cells in found] == [("1", expected[0][1]), ("2", expected[1][1])]
    for cells, (mean, _) in zip(found, expected, strict=True):
        assert float(cells[2].partition(" ±")[0]) == pytest.approx(mean, rel=1e-3)
    links = [link.evaluate("link => link.href") for link in table.locator("a").all()]
    directories = {Path(unquote(urlsplit(link).path)) for link in links}
    assert directories == {sweep / row["job"] for row in rows_of(sweep)}
    assert page.locator("img").count() == 2
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
    assert page.locator("figure > svg").count() >= 8
    assert page.get_by_text("modes/wasserstein, best against loss").is_visible()
    assert [url for url in page.asked if not url.startswith("data:")] == [(sweep / "report.html").as_uri()]
    assert page.complaints == []


def test_the_page_of_a_run(sweep, browser):
    from gan_runner.reporting.writer import write_report

    run = sweep / rows_of(sweep)[0]["job"]
    write_report(run)
    page = open_page(browser, run / "report.html", 1280)
    assert page.locator("tbody tr", has_text="modes/wasserstein").count() == 1
    assert page.evaluate("[...document.images].map(image => image.naturalWidth > 100)") == [True, True]
    assert page.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_but_a_table_scrolls_sideways(sweep, browser, scheme):
    page = open_page(browser, sweep / "report.html", 390)
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator(".scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth && box.getBoundingClientRect().right <= 390")
    box.evaluate("box => box.scrollLeft = 200")
    number = page.locator("tbody td").first.bounding_box()
    assert 0 < number["x"] < 40  # it stays in sight
    assert page.evaluate("Math.min(...[...document.querySelectorAll('figure')].map(one => one.clientWidth))") > 150


@pytest.fixture
def tensorboard(sweep) -> Iterator[str]:
    """The address of a TensorBoard on the sweep."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(sweep), "--port", "0", "--load_fast", "false"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stderr
            yield next(found[0] for line in process.stderr if (found := re.search(r"http://localhost:\d+/", line)))
        finally:
            process.terminate()


def test_tensorboard_shows_every_run_with_its_hyperparameters_and_metrics(sweep, tensorboard, browser):
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.goto(f"{tensorboard}#hparams")
    jobs = rows_of(sweep)
    for job in jobs:
        page.locator("vaadin-grid-cell-content", has_text=job["job"]).first.wait_for(state="attached")
    grid = page.locator("vaadin-grid").first
    headers = [text.strip() for text in page.locator("vaadin-grid-cell-content").all_inner_texts()]
    columns = headers[: headers.index("")]
    assert {"loss._target_", "seed", OBJECTIVE} <= set(columns)
    table = {cells[0]: dict(zip(columns, cells, strict=False)) for cells in grid.evaluate(GRID_ROWS) if cells[0]}
    assert set(table) == {job["job"] for job in jobs}
    for job in jobs:
        shown = table[job["job"]]
        words = dict(word.split("=", 1) for word in job["overrides"])
        assert float(shown["seed"]) == float(words["seed"])
        assert {"bce": "BinaryCrossEntropy", "hinge": "Hinge"}[words["loss"]] in shown["loss._target_"]
        assert float(shown[OBJECTIVE]) == pytest.approx(job["metrics"][OBJECTIVE], rel=1e-3)
