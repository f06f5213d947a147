"""One HTML page of a sweep or a run, with all that it needs inside."""

import base64
import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gan_runner.reporting import charts, pictures, tables
from gan_runner.reporting.answer import Answer
from gan_runner.reporting.commands import Command
from gan_runner.reporting.formats import MISSING, duration_text, number_text, step_text, value_text
from gan_runner.reporting.pictures import Album
from gan_runner.reporting.settings import Setting, Study
from gan_runner.reporting.stored_runs import Run
from gan_runner.reporting.verdict import against_defaults

MOST_BYTES = 9_500_000  # of a page; what its script, tables and curves leave of them is room for pictures,
MOST_OF_PICTURES = 4_000_000  # of which these are the most
CHIPS = 24  # settings that have a button of their own
WARNINGS = 20  # that are shown


class Cell(NamedTuple):
    """A cell of a table."""

    text: str
    key: float | str | None = None  # what it is sorted by, if not its text


class Row(NamedTuple):
    """A row of a table."""

    cells: list[Cell]
    setting: int | None = None  # the place of its setting, from 0 on


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table."""

    title: str
    headers: list[str]
    rows: list[Row]
    is_open: bool = True
    note: str = ""
    has_toggles: bool = False


@dataclass(frozen=True, kw_only=True)
class Page:
    """What the template fills in."""

    title: str
    kind: str
    sentences: list[str]
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    commands: list[Command]
    folded: list[Command] = field(default_factory=list)
    sheets: list[Sheet]
    data: dict[str, Any]
    chips: list[Setting] = field(default_factory=list)
    albums: list[Album] = field(default_factory=list)
    real: str | None = None
    last: list[Sheet]
    left_out: list[str] = field(default_factory=list)
    beside: str = ""


def of_study(
    title: str, study: Study, answer: Answer | None, target: Path, *, of_sweeps: list[Command], of_best: list[Command]
) -> str:
    """The page of a sweep, or of several runs; `target` is the directory that it goes to."""
    data, left_out = charts.of_study(study)
    common = common_words(study)
    folded = of_sweeps if len(of_sweeps) > 1 else []
    page = Page(
        title=title, kind="study", sentences=answer.sentences if answer else [no_answer(study)],
        lines=[f"{study.counts}.", *([f"In all runs: {common}"] if common else [])],
        commands=of_best if folded else [*of_sweeps, *of_best], folded=folded, data=data,
        sheets=[settings_sheet(study)] if study.settings else [], chips=study.settings[:CHIPS],
        last=[runs_sheet(study)], left_out=left_out, beside=str(target),
    )  # fmt: skip
    albums, without = pictures.of_study(study, room_for_pictures(page))
    return render(page, albums=albums, left_out=[*left_out, *without])


def of_run(
    title: str, run: Run, target: Path, *, sentences: list[str], warnings: list[str], commands: list[Command]
) -> str:
    """The page of a single run."""
    metrics = tables.of_run(run)
    differences = against_defaults(run) if run.config else []
    own = [one for one in differences if not one.is_default]
    same = [one for one in differences if one.is_default]
    page = Page(
        title=title, kind="run", sentences=sentences, commands=commands, data=charts.of_run(run),
        warnings=warnings[:WARNINGS] + ([f"and {len(warnings) - WARNINGS:,} more"] if len(warnings) > WARNINGS else []),
        sheets=[Sheet(title="Metrics", headers=list(metrics.columns), rows=rows_of(metrics))] if len(metrics) else [],
        last=[
            *([Sheet(title="What differs from the defaults", headers=["key", "value", "default"],
                     rows=[Row([Cell(text) for text in one]) for one in own])] if own else []),
            *([Sheet(title="What does not", headers=["key", "value"], is_open=False,
                     rows=[Row([Cell(text) for text in one[:2]]) for one in same])] if same else []),
        ],
        beside=str(target),
    )  # fmt: skip
    albums, real, left_out = pictures.of_run(run, room_for_pictures(page))
    return render(page, albums=albums, real=real, left_out=left_out)


def no_answer(study: Study) -> str:
    """Why there is no best setting."""
    if not study.objective:
        return "Nothing was measured to rank by: metric=NAME would."
    return f"No completed run has a value of {study.objective.name} yet."


def room_for_pictures(page: Page) -> int:
    """The bytes that a page without pictures leaves for them."""
    return min(MOST_OF_PICTURES, MOST_BYTES - len(render(page).encode()))


def render(page: Page, **changes: Any) -> str:
    """The page. Its policy lets only the two scripts run that are its own."""
    from plotly.offline import get_plotlyjs

    folder = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    fields = vars(page) | changes
    albums = fields["albums"]
    grids = [
        [album.setting, album.run, [*map(list, album.pictures[:-1]), [album.pictures[-1].step, None]]]
        for album in albums
    ]  # the last is in the page itself
    scripts = [get_plotlyjs(), (folder / "page.js").read_text()]
    steps = sorted({picture.step for album in albums for picture in album.pictures})
    data = fields["data"] | {"albums": grids, "pictureSteps": steps}
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    fields |= {
        "style": (folder / "page.css").read_text(), "scripts": scripts, "steps": steps,
        "policy": " ".join(f"'sha256-{digest(script)}'" for script in scripts),
        "data": text.replace("<", "\\u003c"),
        "names": data.get("columns", []),
        "texts": lambda setting: [value_text(value) for value in setting.values.values()],
    }  # fmt: skip
    return environment.get_template("page.html").render(fields)


def digest(script: str) -> str:
    """What a content security policy knows a script by."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def common_words(study: Study) -> str:
    """The words of the command line that all runs share."""
    first, *others = [run.words for run in study.runs if run.words is not None] or [{}]
    return " ".join(
        f"{key}={value}" for key, value in first.items() if all(key in one and one[key] == value for one in others)
    )


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The rows of a table of text."""
    return [Row([Cell(text) for text in row]) for row in table.to_numpy().tolist()]


def settings_sheet(study: Study) -> Sheet:
    """A row per setting."""
    first = len(study.columns) + 1
    rows = []
    for place, (setting, cells) in enumerate(zip(study.settings, rows_of(tables.of_settings(study)), strict=True)):
        keys: list[Any] = [setting.number, *setting.values.values()]
        keys += [finite(study.spread(setting, quantity).mean) for quantity in study.quantities]
        keys += [None, finite(study.time(setting)), None]
        sorted_by = [key if isinstance(key, int | float) and not isinstance(key, bool) else None for key in keys]
        sorted_by[first + len(study.quantities)] = float(cells.cells[first + len(study.quantities)].text)
        rows.append(Row([Cell(cell.text, key) for cell, key in zip(cells.cells, sorted_by, strict=True)], place))
    notes = filter(None, [tables.meaning_of_numbers(study), tables.floors_text(study)])
    headers = [*tables.headings(study)]
    return Sheet(title="Settings", headers=headers, rows=rows, note=f"{'; '.join(notes)}.", has_toggles=True)


def finite(value: float | None) -> float | None:
    """The value, None where it is not a number."""
    return None if value is None or math.isnan(value) else value


def runs_sheet(study: Study) -> Sheet:
    """A row per run."""
    numbers = {run.path: setting.number for setting in study.settings for run in setting.runs}
    rows = []
    for run in study.runs:
        value = study.objective.of(run) if study.objective else None
        number = numbers.get(run.path)
        rows.append(
            Row(
                [
                    Cell(MISSING if number is None else str(number), number),
                    Cell(MISSING if run.seed is None else value_text(run.seed)),
                    Cell(run.status), Cell(step_text(run.step), run.step), Cell(number_text(value), finite(value)),
                    Cell(duration_text(run.wall_time), run.wall_time), Cell(run.reason), Cell(run.name),
                ],
                None if number is None else number - 1,
            )
        )  # fmt: skip
    name = tables.heading(study.objective) if study.objective else "objective"
    headers = ["setting", "seed", "status", "step", name, "time", "reason", "directory"]
    return Sheet(title="Runs", headers=headers, rows=rows, is_open=bool(tables.unfinished(study)))
