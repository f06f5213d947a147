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

import pytest
import yaml
from PIL import Image

from gan_runner.reporting.writer import write_report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")

CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")]

WORDS = [
    "experiment=ring", "device=cpu", "batch_size=16", "steps=4", "evaluate_every=2", "sample_every=2", "log_every=1",
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


def open_page(browser: Any, path: Path, width: int = 1280, **options: Any) -> Any:
    """A page from a file; it may ask for nothing else, and complain of nothing."""
    page = browser.new_page(viewport={"width": width, "height": 800}, **options)
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.goto(path.as_uri())
    return page


def write_settings(directory: Path, settings: list[dict], seeds: int = 2) -> Path:
    """The report of completed runs: each setting's distance falls to its number + 1, at steps 10 and 20."""
    for number, setting in enumerate(settings):
        for seed in range(seeds):
            path = directory / f"{number}-{seed}"
            (path / ".hydra").mkdir(parents=True)
            (path / "samples").mkdir()
            config = yaml.dump(nested(setting) | {"seed": seed})
            (path / ".hydra" / "config.yaml").write_text(config)
            value = number + 1 + 0.4 * seed
            rows = [
                {"step": step, "images": 64 * step, "seconds": step / 5, "metric/modes/distance": value + 20 - step}
                for step in (10, 20)
            ]
            for row in rows:
                row["metric/modes/covered"] = 8.0
            words = [f"{key}={text}" for key, text in setting.items()] + [f"seed={seed}"]
            (path / ".hydra" / "overrides.yaml").write_text(yaml.dump(words))
            (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            metric = {
                "values": {}, "higher_is_better": {"distance": False, "covered": True},
                "bounds": {"distance": [0, None]}, "floor": {"values": {"distance": 0.5}},
            }  # fmt: skip
            record = {"step": 20, "metrics": {"modes": metric}}
            (path / "evaluations.jsonl").write_text(json.dumps(record) + "\n")
            summary = {"status": "completed", "step": 20, "wall_time": 4.0, "started": f"2026-01-01T00:{number:02}:00"}
            (path / "summary.json").write_text(json.dumps(summary))
            for step, color in ((10, "red"), (20, "blue")):
                Image.new("RGB", (200, 200), color).save(path / "samples" / f"step_{step:08}.png")
    write_report(directory)
    return directory / "report.html"


def nested(setting: dict) -> dict:
    """Dotted keys as a config has them."""
    config: dict = {}
    for key, value in setting.items():
        *parents, last = key.split(".")
        node = config
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return config


WEIGHTS = [{"regularizer.r1.weight": weight} for weight in (0.1, 1, 10)]


@pytest.fixture(scope="module")
def page_of_weights(browser, tmp_path_factory) -> Any:
    return open_page(browser, write_settings(tmp_path_factory.mktemp("page") / "weights", WEIGHTS))


@pytest.fixture
def weights(page_of_weights) -> Any:
    """The page of a sweep over one key, as it is in the beginning."""
    page_of_weights.emulate_media(color_scheme="light", media="screen")
    page_of_weights.mouse.move(0, 0)
    page_of_weights.evaluate("state.hidden.clear(), state.value = 0, state.against = 'steps', update()")
    return page_of_weights


def traces(page: Any, section: str, plot: int = 0) -> list[dict]:
    """The traces of a plot, as Plotly has them."""
    return page.evaluate(
        """([section, plot]) => document.querySelectorAll(`#${section} .plot`)[plot].data.map(trace => ({
            x: Array.from(trace.x || []), y: Array.from(trace.y || []), hover: [].concat(trace.hovertext || []),
            fill: trace.fill || "", places: [].concat(trace.customdata ?? [])}))""",
        [section, plot],
    )


def settings_in(page: Any, section: str) -> set[int]:
    """The settings that a plot shows."""
    return {place for trace in traces(page, section) for place in trace["places"] if isinstance(place, int)}


def axis(page: Any, section: str, letter: str, plot: int = 0) -> dict:
    """The title, type and range of an axis."""
    return page.evaluate(
        """([section, letter, plot]) => {
            const axis = document.querySelectorAll(`#${section} .plot`)[plot]._fullLayout[`${letter}axis`];
            return {title: axis.title.text, type: axis.type, range: axis.range, ticks: axis.ticktext};}""",
        [section, letter, plot],
    )


def shown_rows(page: Any) -> list[str]:
    """The first cells of the rows of the table of settings that are shown."""
    return [text.strip() for text in page.locator("table.settings tbody tr:visible td:first-child").all_inner_texts()]


# --- the page of a sweep ----------------------------------------------------------------------------------------------


def test_the_page_of_a_sweep(sweep, browser):
    page = open_page(browser, sweep / "report.html")
    best: dict[str, list[float]] = {}
    for row in rows_of(sweep):
        loss = next(word.removeprefix("loss=") for word in row["overrides"] if word.startswith("loss="))
        best.setdefault(loss, []).append(row["best"]["value"])
    expected = sorted((statistics.fmean(values), loss) for loss, values in best.items())
    found = [row.locator("td").all_inner_texts() for row in page.locator("table.settings tbody tr").all()]
    assert [(cells[0].strip(), cells[1]) for cells in found] == [("1", expected[0][1]), ("2", expected[1][1])]
    for cells, (mean, _) in zip(found, expected, strict=True):
        assert float(cells[2].partition(" ±")[0]) == pytest.approx(mean, rel=0.1)
    assert f"loss={expected[0][1]}" in page.locator(".lead").inner_text()
    lines = page.locator(".commands code").all_inner_texts()
    assert lines[0].startswith("gan-runner -m experiment=ring")
    assert lines[1].startswith("gan-runner experiment=ring")
    assert f"loss={expected[0][1]}" in lines[1]
    assert lines[2].startswith(f"gan-runner sample {Path('outputs/sweeps/shown')}/")
    assert page.locator("img").count() == 2
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 100)")
    assert page.locator("a").count() == 0
    assert [url for url in page.asked if not url.startswith("data:")] == [(sweep / "report.html").as_uri()]
    assert page.complaints == []


def test_a_click_on_a_setting_hides_it_everywhere_and_shows_it_again(weights):
    assert settings_in(weights, "intervals") == settings_in(weights, "curves") == {0, 1, 2}
    weights.locator(".chip").nth(1).click()
    for section in ("intervals", "against", "curves"):
        assert settings_in(weights, section) == {0, 2}
    assert weights.locator("#samples figure:visible").count() == 2
    assert weights.locator("td .toggle").nth(1).get_attribute("aria-pressed") == "false"
    weights.locator("td .toggle").nth(1).click()
    assert settings_in(weights, "curves") == {0, 1, 2}
    weights.locator("#none").click()
    assert settings_in(weights, "intervals") == set()
    weights.locator("#all").click()
    assert settings_in(weights, "intervals") == {0, 1, 2}
    assert weights.complaints == []


def test_a_click_on_a_point_hides_its_setting(weights):
    point = weights.locator("#against .plot .scatterlayer .trace").last.locator(".point").nth(2)
    point.evaluate("point => point.scrollIntoView({block: 'center'})")  # not under the bar at the top
    box = point.bounding_box()
    weights.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    weights.wait_for_timeout(200)
    weights.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    weights.wait_for_timeout(400)
    assert settings_in(weights, "curves") == {0, 1}


def test_hovering_names_setting_seed_and_value(weights):
    _, means = (trace["hover"] for trace in traces(weights, "intervals"))
    assert means[0].startswith("#1 regularizer.r1.weight=0.1<br>mean of 2 seeds: 1.2<br>95 % interval 0 to 3.741")
    seeds, _ = (trace["hover"] for trace in traces(weights, "intervals"))
    assert seeds[1] == "#1 regularizer.r1.weight=0.1<br>seed 1: 1.4"
    point = weights.locator("#intervals .scatterlayer .trace").last.locator(".point").first
    point.evaluate("point => point.scrollIntoView({block: 'center'})")  # not under the bar at the top
    box = point.bounding_box()
    weights.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=5)
    assert "mean of 2 seeds" in weights.locator(".hoverlayer .hovertext").first.text_content()


def test_curves_against_steps_images_and_time(weights):
    line = next(trace for trace in traces(weights, "curves") if not trace["fill"])
    assert line["x"] == [10, 20]
    weights.locator("#against-what").select_option("images")
    line = next(trace for trace in traces(weights, "curves") if not trace["fill"])
    assert line["x"] == [640, 1280]
    assert axis(weights, "curves", "x")["title"] == "real images"
    weights.locator("#against-what").select_option("seconds")
    line = next(trace for trace in traces(weights, "curves") if not trace["fill"])
    assert line["x"] == [2, 4]
    assert axis(weights, "curves", "x")["title"] == "time, s"


def test_bands_end_where_the_metric_does_and_the_floor_is_dashed(weights):
    bands = [trace for trace in traces(weights, "curves") if trace["fill"]]
    assert len(bands) == 3
    assert min(value for trace in bands for value in trace["y"]) >= 0
    shapes = weights.evaluate("document.querySelector('#curves .plot').layout.shapes")
    assert [(shape["y0"], shape["line"]["dash"]) for shape in shapes] == [(0.5, "dash")]
    assert weights.locator("#curves .annotation-text", has_text="floor 0.5").count() == 1


def test_a_logarithmic_scale_says_so(weights):
    found = axis(weights, "against", "x")
    assert found["title"] == "regularizer.r1.weight (logarithmic)"
    assert found["ticks"] == ["0.1", "1", "10"]


def test_the_table_sorts_by_number_and_filters_the_plots_with_it(browser, tmp_path):
    settings = [{"loss": loss, "lr": lr} for loss in ("bce", "hinge") for lr in (9, 80, 0.5)]
    page = open_page(browser, write_settings(tmp_path / "filtered", settings, seeds=1))
    page.locator(".filter").first.fill("loss=hinge")
    assert shown_rows(page) == ["4", "5", "6"]
    assert settings_in(page, "curves") == {3, 4, 5}
    head = page.locator("table.settings th button", has_text="lr")
    head.click()
    assert shown_rows(page) == ["6", "4", "5"]
    head.click()
    assert shown_rows(page) == ["5", "4", "6"]
    assert page.locator("th[aria-sort=descending]").count() == 1
    page.locator(".filter").first.fill("")
    assert settings_in(page, "curves") == set(range(6))


def test_three_keys_have_parallel_axes_and_maps(browser, tmp_path):
    settings = [{"a": a, "b": b, "c": c} for a in (1, 2) for b in (0.1, 1) for c in ("x", "y")]
    page = open_page(browser, write_settings(tmp_path / "three", settings, seeds=1))
    assert page.locator("#against .plot").count() == 3
    assert len(traces(page, "parallel")) == 8
    assert page.locator("#maps .plot").count() == 3
    cells = page.evaluate("document.querySelector('#maps .plot').data[0].z.map(row => Array.from(row))")
    assert cells == [[1.5, 3.5], [5.5, 7.5]]  # means over c
    page.locator(".chip").nth(0).click()
    cells = page.evaluate("document.querySelector('#maps .plot').data[0].z.map(row => Array.from(row))")
    assert cells == [[2, 3.5], [5.5, 7.5]]
    assert page.complaints == []


def test_a_search_has_its_history_and_what_matters(browser, tmp_path):
    settings = [{"lr": 10 ** -(1 + number / 10), "width": (7 * number) % 20 + 1} for number in range(20)]
    page = open_page(browser, write_settings(tmp_path / "drawn", settings, seeds=1))
    history, best = traces(page, "search")
    assert history["y"] == [float(number) for number in range(1, 21)]
    assert best["y"] == [1.0] * 20
    shares = dict(zip(axis(page, "search", "y", 1)["ticks"], traces(page, "search", 1)[0]["x"], strict=True))
    assert shares["lr"] > 80 > shares["width"]
    assert page.complaints == []


def test_samples_by_a_slider_over_steps(weights):
    def pixel() -> list[int]:
        return weights.evaluate(
            """async () => { const image = document.querySelector("#samples img"); await image.decode();
            const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
            const context = canvas.getContext("2d"); context.drawImage(image, 0, 0);
            return [...context.getImageData(0, 0, 1, 1).data]; }"""
        )

    assert pixel()[2] > 200  # blue
    slider = weights.locator("#step")
    slider.focus()
    slider.press("Home")
    assert pixel()[0] > 200  # red
    assert weights.locator("#samples .at").first.inner_text() == "step 10"
    assert weights.locator("#step-text").inner_text() == "10"


def test_a_button_copies_a_line(weights):
    weights.context.grant_permissions(["clipboard-read", "clipboard-write"])
    weights.locator(".copy").first.click()
    weights.locator(".copy", has_text="Copied").wait_for()
    assert weights.evaluate("navigator.clipboard.readText()") == "gan-runner regularizer.r1.weight=0.1 seed=0"


def test_the_value_shown_can_be_chosen(weights):
    weights.locator("#value").select_option(label="modes/covered")
    assert axis(weights, "intervals", "x")["title"] == "modes/covered (higher is better)"


def test_the_dark_scheme_takes_over_but_not_on_paper(weights):
    color = "document.querySelector('#curves .plot')._fullLayout.font.color"
    light = weights.evaluate(color)
    weights.emulate_media(color_scheme="dark")
    weights.wait_for_function(f"light => {color} !== light", arg=light)
    weights.emulate_media(color_scheme="dark", media="print")
    weights.wait_for_function(f"light => {color} === light", arg=light)


def test_print_has_no_controls(weights):
    weights.emulate_media(media="print")
    assert weights.locator(".copy:visible, .bar:visible, .filter:visible, #step:visible").count() == 0
    assert weights.locator(".lead:visible, #curves .plot:visible").count() == 3


def test_the_page_of_a_run(sweep, browser):
    run = sweep / rows_of(sweep)[0]["job"]
    write_report(run)
    page = open_page(browser, run / "report.html")
    assert page.locator(".lead").inner_text().startswith("Completed after 4 steps")
    assert page.locator("tbody tr", has_text="modes/wasserstein").count() == 1
    assert page.evaluate("[...document.images].map(image => image.naturalWidth > 100)") == [True, True]
    differing = page.locator(".sheet", has_text="What differs from the defaults").locator("tbody tr")
    assert ["batch_size", "16", "64"] in [row.locator("td").all_inner_texts() for row in differing.all()]
    page.locator("#step").focus()
    page.locator("#step").press("Home")
    assert page.locator("#samples .at").first.inner_text() == "step 2"
    page.locator("#against-what").select_option("seconds")
    assert axis(page, "curves", "x")["title"] == "time, s"
    assert page.complaints == []


def test_on_a_phone_nothing_but_a_table_scrolls_sideways(sweep, browser):
    page = open_page(browser, sweep / "report.html", 390)
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator(".scroll").first
    assert box.evaluate("box => box.scrollWidth > box.clientWidth && box.getBoundingClientRect().right <= 390")
    box.evaluate("box => box.scrollLeft = 200")
    number = page.locator("table.settings tbody td").first.bounding_box()
    assert 0 < number["x"] < 40  # it stays in sight
    widths = page.evaluate("[...document.querySelectorAll('figure, .plot')].map(one => one.clientWidth)")
    assert min(widths) > 140


# --- TensorBoard ------------------------------------------------------------------------------------------------------


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
    assert {"loss", "seed", OBJECTIVE} <= set(columns)
    table = {cells[0]: dict(zip(columns, cells, strict=False)) for cells in grid.evaluate(GRID_ROWS) if cells[0]}
    assert set(table) == {job["job"] for job in jobs}
    for job in jobs:
        shown = table[job["job"]]
        words = dict(word.split("=", 1) for word in job["overrides"])
        assert float(shown["seed"]) == float(words["seed"])
        assert shown["loss"] == words["loss"]
        assert float(shown[OBJECTIVE]) == pytest.approx(job["metrics"][OBJECTIVE], rel=1e-3)
