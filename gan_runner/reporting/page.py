"""One HTML page of a sweep or a run: nothing in it comes from elsewhere."""

import base64
import io
import math
import os
import warnings
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from gan_runner.reporting import tables
from gan_runner.reporting.plots import (
    DETAILED,
    DISTINCT,
    MOST_PLOTS,
    Key,
    Plot,
    against_keys,
    curves_of,
    heat_map,
    learning_curves,
    line_style,
)
from gan_runner.reporting.settings import MISSING, Quantity, Setting, Study, value_text
from gan_runner.reporting.stored_runs import Run, printable

THUMBNAIL = 320  # pixels
LARGE = 800  # pixels, of a single run's samples
MOST_BYTES = 4_000_000  # of all pictures
IN_A_ROW = 12  # pictures of a single run's past
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)


class Link(NamedTuple):
    """A link to a run directory beside the page."""

    text: str
    href: str


class Row(NamedTuple):
    """A row of a table."""

    cells: list[str]
    key: Key | None = None  # the line that stands for it in the plots
    links: list[Link] = []  # noqa: RUF012 -- never changed


class Sheet(NamedTuple):
    """A table."""

    title: str
    headers: list[str]
    rows: list[Row]
    is_open: bool = True
    note: str = ""


class Picture(NamedTuple):
    """A picture of samples."""

    source: str  # a data URI
    caption: str
    href: str = ""


class Section(NamedTuple):
    """A part of the page."""

    title: str
    note: str = ""
    legend: list[Key] = []  # noqa: RUF012
    plots: list[Plot] = []  # noqa: RUF012
    pictures: list[Picture] = []  # noqa: RUF012


def render(title: str, lines: list[str], sheets: list[Sheet], sections: list[Section], last: list[Sheet]) -> str:
    """The page: tables, sections, and tables that come last."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    sections = [section for section in sections if section.plots or section.pictures]
    return environment.get_template("page.html").render(
        title=title, lines=lines, sheets=sheets, sections=sections, last=last
    )


def of_study(title: str, directory: Path, study: Study) -> str:
    """The page of a sweep."""
    left = len(study.settings) - DETAILED
    drawn = f"The first {DETAILED} settings are drawn, {left:,} are left out. " if left > 0 else ""
    colored = f"The first {DISTINCT} have colours, the others are grey. " if len(study.settings) > DISTINCT else ""
    heat = heat_map(study)
    pictures, without = contact_sheet(directory, study)
    band = "Means over seeds, also those not completed, with a band of one standard deviation."
    common = common_words(study)
    keys = [Key(f"#{setting.number} {setting.label}", *line_style(setting.number - 1)) for setting in study.settings]
    return render(
        title,
        [f"{study.counts}.", *([f"In all runs: {common}"] if common else [])],
        [settings_sheet(directory, study)] if study.settings else [],
        [
            drawings("Against what was swept", "Mean and standard deviation over seeds.", against_keys(study)),
            Section("Over two keys", "Means over seeds, the better the brighter.", plots=[heat] if heat else []),
            drawings(
                "Learning curves",
                f"{drawn}{colored}{band}",
                learning_curves(study),
                keys[:DISTINCT] if len(keys) > 1 else [],
            ),
            Section("Last samples", f"{drawn}{without}A run of each setting: its best.", pictures=pictures),
        ],
        [runs_sheet(directory, study)],
    )


def drawings(title: str, note: str, plots: list[Plot], legend: list[Key] | None = None) -> Section:
    """A section of as many plots as the page has room for."""
    left = f"Only {MOST_PLOTS} plots are drawn. " if len(plots) == MOST_PLOTS else ""
    return Section(title, f"{left}{note}", legend or [], plots)


def common_words(study: Study) -> str:
    """The words of the command line that all runs share."""
    first, *others = [run.words for run in study.runs if run.words is not None] or [{}]
    return " ".join(
        f"{key}={value}" for key, value in first.items() if all(key in one and one[key] == value for one in others)
    )


def of_run(title: str, run: Run) -> str:
    """The page of a single run."""
    headers, lines = tables.of_run(run)
    words = [Row([key, value]) for key, value in (run.words or {}).items()]
    config = [Row([key, value_text(value)]) for key, value in run.config.items()]
    return render(
        title,
        [tables.state_of(run)],
        [Sheet("Metrics", headers, [Row(line) for line in lines])] if lines else [],
        [Section("Samples", pictures=samples_of(run)), Section("Curves", plots=curves_of(run))],
        [
            *([Sheet("Command line", ["key", "value"], words)] if words else []),
            *([Sheet("Config", ["key", "value"], config, is_open=False)] if config else []),
        ],
    )


def settings_sheet(directory: Path, study: Study) -> Sheet:
    """A row per setting, with the line that stands for it."""
    rows = []
    for setting, cells in zip(study.settings, tables.rows(study), strict=True):
        color, is_dashed = line_style(setting.number - 1)
        key = Key("", color, is_dashed) if setting.number <= DETAILED else None
        links = [Link(value_text(run.seed), href(run.path, directory)) for run in setting.runs]
        rows.append(Row(cells, key, links))
    notes = filter(None, [tables.meaning_of_numbers(study), tables.floors_text(study)])
    return Sheet("Settings", [*tables.headings(study), "seeds"], rows, note=f"{'; '.join(notes)}.")


def runs_sheet(directory: Path, study: Study) -> Sheet:
    """A row per run."""
    numbers = {run.path: setting.number for setting in study.settings for run in setting.runs}
    rows = [
        Row(
            [
                str(numbers.get(run.path, MISSING)), MISSING if run.seed is None else value_text(run.seed), run.status,
                tables.step_text(run.step), tables.number_text(study.objective.of(run) if study.objective else None),
                tables.duration_text(run.wall_time), run.reason,
            ],
            links=[Link(printable(run.path.name), href(run.path, directory))],
        )
        for run in study.runs
    ]  # fmt: skip
    name = tables.heading(study.objective) if study.objective else "objective"
    headers = ["setting", "seed", "status", "step", name, "time", "reason", "directory"]
    return Sheet("Runs", headers, rows, is_open=bool(tables.unfinished(study)))


def href(path: Path, directory: Path) -> str:
    """A relative link."""
    return f"./{quote(os.fsencode(path.relative_to(directory)))}/"


def contact_sheet(directory: Path, study: Study) -> tuple[list[Picture], str]:
    """The last samples of each setting, and a remark on those that the page has no room for."""
    pictures, room, without = [], MOST_BYTES, 0
    for setting in study.settings[:DETAILED]:
        runs = by_objective(setting, study.objective)
        source, run = next(((found, run) for run in runs if (found := last_thumbnail(run))), ("", runs[0]))
        if len(source) > room:
            without += 1
        elif source:
            room -= len(source)
            pictures.append(Picture(source, f"#{setting.number} {setting.label}", href(run.path, directory)))
    return pictures, f"{without} pictures are left out, as the page would be too large. " if without else ""


def by_objective(setting: Setting, objective: Quantity | None) -> list[Run]:
    """The runs of a setting: the completed ones before the others, the best first."""

    def place(run: Run) -> tuple[bool, float]:
        value = objective.of(run) if objective else None
        if objective is None or value is None or math.isnan(value):
            return run.status != "completed", math.inf
        return run.status != "completed", -value if objective.higher_is_better else value

    return sorted(setting.runs, key=place)


def last_thumbnail(run: Run) -> str | None:
    """The newest picture of a run that can be read, small."""
    return next(filter(None, (thumbnail(path, THUMBNAIL) for path in reversed(steps_of(run)[-3:]))), None)


def samples_of(run: Run) -> list[Picture]:
    """The newest samples of a single run, real ones, and how they came to be."""
    paths = steps_of(run)
    chosen = [(path, LARGE) for path in paths[-1:]] + [(run.path / "samples" / "real.png", LARGE)]
    earlier = paths[:-1]
    chosen += [(path, THUMBNAIL) for path in earlier[:: max(1, -(-len(earlier) // IN_A_ROW))]]
    pictures, room = [], MOST_BYTES
    for path, size in chosen:
        source = thumbnail(path, size)
        if source and len(source) <= room:
            room -= len(source)
            step = path.stem.rpartition("_")[2]
            caption = f"step {int(step):,}" if step.isdecimal() else "real samples"
            pictures.append(Picture(source, caption, f"./samples/{quote(os.fsencode(path.name))}"))
    return pictures


def steps_of(run: Run) -> list[Path]:
    """The pictures of a run, in the order of their steps."""
    found = (run.path / "samples").glob("step_*.png")
    return sorted(path for path in found if path.stem.removeprefix("step_").isdecimal())


def thumbnail(path: Path, size: int) -> str | None:
    """A picture of at most `size` x `size` pixels as a data URI; None where there is none, or it cannot be read."""
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                small = image.convert("RGB")
        small.thumbnail((size, size), Image.Resampling.LANCZOS)
        small.save(buffer, "JPEG", quality=80)
    except UNREADABLE:
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
