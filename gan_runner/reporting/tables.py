"""Tables: for the terminal, as Markdown, as CSV."""

import csv
import html
import io
import math
import re
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gan_runner.reporting.settings import MISSING, Quantity, Spread, Study, floor_of, spread, value_of, value_text
from gan_runner.reporting.stored_runs import Run, printable

WIDE = 3  # columns of keys that a terminal has room for
IN_TERMINAL = 40  # settings
ARROWS = {True: " ↑", False: " ↓", None: ""}  # the direction that is better


def terminal(study: Study) -> Table:
    """The best settings, in 80 columns."""
    shown = [quantity for quantity in study.quantities if quantity is study.objective] or study.quantities[:2]
    table = new_table(meaning_of_numbers(study))
    table.add_column("#", justify="right")
    is_wide = len(study.columns) <= WIDE
    for name in study.columns.values() if is_wide else ["setting"]:
        table.add_column(Text(name), overflow="fold")
    for quantity in shown:
        table.add_column(Text(f"{quantity.name}{ARROWS[quantity.higher_is_better]}"), justify="right", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("not counted", overflow="fold")
    for setting in study.settings[:IN_TERMINAL]:
        keys = [value_text(value) for value in setting.values.values()] if is_wide else [setting.label]
        spreads = [setting.spread(quantity) for quantity in shown]
        cells = [
            str(setting.number), *keys, *map(spread_text, spreads),
            str(spreads[0].of if spreads else len(setting.completed)),
            duration_text(mean_time(setting.completed)), setting.not_counted(shown[0] if shown else None),
        ]  # fmt: skip
        table.add_row(*map(Text, cells))
    if left := len(study.settings) - IN_TERMINAL:
        table.caption = f"and {left:,} more" if left > 0 else None
    return table


def new_table(title: str) -> Table:
    """An empty one, as wide as its title on 80 columns."""
    return Table(
        min_width=min(len(title), 79), title=Text(title), title_justify="left", title_style="",
        caption_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
    )  # fmt: skip


def meaning_of_numbers(study: Study) -> str:
    """What the numbers of a study are."""
    if not study.objective:
        return "last values, mean ± sd over seeds, by setting: there is no objective"
    direction = "higher" if study.objective.higher_is_better else "lower"
    return f"{study.objective.name}, {direction} is better: the best of each run, mean ± sd over seeds"


def floors_text(study: Study) -> str:
    """What real data have against real data, beside the last values of setting 1; empty where that is not known."""
    parts = []
    for quantity in study.quantities:
        floor = floor_of(study.runs, quantity.tag)
        if floor is not None and not quantity.is_best:
            first = study.settings[0].spread(quantity) if study.settings else spread([])
            parts.append(f"{quantity.name} {floor:.4g}" + (f" (setting 1: {spread_text(first)})" if first.of else ""))
    return f"real data: {', '.join(parts)}" if parts else ""


def headings(study: Study) -> list[str]:
    """The headings of the full table."""
    return ["#", *study.columns.values(), *map(heading, study.quantities), "n", "time", "not counted"]


def heading(quantity: Quantity) -> str:
    """The heading of a quantity's column."""
    return f"{quantity.name}{', best' if quantity.is_best else ''}{ARROWS[quantity.higher_is_better]}"


def rows(study: Study) -> list[list[str]]:
    """The full table: a row per setting."""
    first = study.quantities[0] if study.quantities else None
    return [
        [
            str(setting.number),
            *(value_text(value) for value in setting.values.values()),
            *(spread_text(setting.spread(quantity)) for quantity in study.quantities),
            str(setting.spread(first).of if first else len(setting.completed)),
            duration_text(mean_time(setting.completed)),
            setting.not_counted(first),
        ]
        for setting in study.settings
    ]


def unfinished(study: Study) -> list[Run]:
    """The runs that did not come to an end of their own; a pruned one did."""
    return [run for run in study.runs if run.status not in ("completed", "pruned")]


def markdown(title: str, study: Study) -> str:
    """report.md of a sweep."""
    parts = [f"# {escape(title)}", f"{escape(study.counts)}."]
    if study.settings:
        parts += [f"{escape(meaning_of_numbers(study))}.", markdown_table(headings(study), rows(study))]
        parts += [f"{escape(floors)}."] if (floors := floors_text(study)) else []
    if others := unfinished(study):
        lines = [[run.path.name, run.status, step_text(run.step), run.reason] for run in others]
        parts += ["## Not completed", markdown_table(["run", "status", "step", "reason"], lines)]
    return "\n\n".join(parts) + "\n"


def markdown_table(headers: list[str], lines: list[list[str]]) -> str:
    """A table, of text that may hold anything."""
    made = [f"| {' | '.join(map(escape, cells))} |" for cells in [headers, *lines]]
    return "\n".join([made[0], "|---" * len(headers) + "|", *made[1:]])


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*|\[\]])", r"\\\1", html.escape(text, quote=False))


def csv_of_settings(study: Study) -> str:
    """report.csv: a row per setting, the best first; numbers in full, and a count of the runs by status."""
    statuses = list(dict.fromkeys(["completed", *(run.status for run in study.runs)]))
    names = [f"{'best' if quantity.is_best else 'last'} {quantity.name}" for quantity in study.quantities]
    columns = [f"{name} {what}" for name in names for what in ("mean", "sd", "count")]
    table: list[list[Any]] = [["setting", *study.columns, *columns, *statuses, "wall_time"]]
    for setting in study.settings:
        spreads = [setting.spread(quantity) for quantity in study.quantities]
        numbers = [number for one in spreads for number in (one.mean if one.of else None, one.sd, one.of)]
        counts = [sum(run.status == status for run in setting.runs) for status in statuses]
        keys = map(csv_value, setting.values.values())
        table.append([setting.number, *keys, *numbers, *counts, mean_time(setting.completed)])
    return comma_separated(table)


def csv_of_runs(directory: Path, study: Study) -> str:
    """sweep.csv: a row per job."""
    metrics = [quantity for quantity in study.quantities if not quantity.is_best]
    best = [
        Quantity(tag=quantity.tag, is_best=True, higher_is_better=quantity.higher_is_better)
        for quantity in metrics
        if quantity.higher_is_better is not None
    ]
    columns = [*(f"last {quantity.name}" for quantity in metrics), *(f"best {quantity.name}" for quantity in best)]
    table: list[list[Any]] = [
        [*study.varied, "seed", "status", "reason", "step", "objective", *columns, "wall_time", "directory"]
    ]
    for run in study.runs:
        values = [quantity.of(run) for quantity in [*metrics, *best]]
        own = [value_of(run, key) for key in study.varied]
        objective = study.objective.of(run) if study.objective else None
        facts = [run.seed, run.status, run.reason, run.step, objective, *values, run.wall_time]
        table.append([*map(csv_value, own), *facts, printable(run.path.relative_to(directory))])
    return comma_separated(table)


def csv_value(value: Any) -> Any:
    """The value of a key, which may be null, or no key of this run."""
    if value is MISSING:
        return ""
    return value_text(value) if value is None or isinstance(value, bool | list | dict) else value


def comma_separated(table: list[list[Any]]) -> str:
    """A CSV file; its headings are in the first row."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(table)
    return file.getvalue()


def of_run(run: Run) -> tuple[list[str], list[list[str]]]:
    """A single run's metrics: headings and rows."""
    tags = [tag for tag in run.last if tag.startswith("metric/")]
    table = []
    for tag in tags or [tag for tag in run.last if tag.startswith("loss/")]:
        higher = run.higher_is_better.get(tag)
        best = run.best(tag, higher)
        row = [f"{tag.removeprefix('metric/')}{ARROWS[higher]}", number_text(run.last[tag]), number_text(best)]
        table.append([*row, number_text(run.floors.get(tag))] if run.floors else row)
    return ["", "last", "best", *(["real data"] if run.floors else [])], table


def state_of(run: Run) -> str:
    """How a run stands, in a line."""
    parts = [run.status, f"step {step_text(run.step)}", duration_text(run.wall_time), run.reason]
    return ", ".join(part for part in parts if part and not part.endswith(MISSING))


def terminal_of_run(run: Run) -> Table:
    """A single run."""
    headers, lines = of_run(run)
    table = new_table(state_of(run))
    for number, name in enumerate(headers):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for line in lines:
        table.add_row(*map(Text, line))
    return table


def markdown_of_run(title: str, run: Run) -> str:
    """report.md of a single run."""
    parts = [f"# {escape(title)}", escape(state_of(run)), markdown_table(*of_run(run))]
    return "\n\n".join(parts) + "\n"


def mean_time(runs: list[Run]) -> float | None:
    """Wall time of those that have one."""
    times = [run.wall_time for run in runs if run.wall_time is not None]
    return sum(times) / len(times) if times else None


def spread_text(found: Spread) -> str:
    """'0.4647 ± 0.012': four digits of the mean, or as many as the deviation has."""
    if not found.of:
        return MISSING
    if found.sd is None:
        return f"{found.mean:.4g}"
    digits = 4
    if found.mean and found.sd:
        digits = max(4, min(8, 2 + math.floor(math.log10(abs(found.mean))) - math.floor(math.log10(found.sd))))
    return f"{found.mean:.{digits}g} ± {found.sd:.2g}"


def number_text(value: float | None) -> str:
    """Four digits."""
    return MISSING if value is None else f"{value:.4g}"


def step_text(step: int | None) -> str:
    """A step with its thousands apart."""
    return MISSING if step is None else f"{step:,}"


def duration_text(seconds: float | None) -> str:
    """'7 s', '3.2 min', '1.5 h'."""
    if seconds is None or not seconds < 1e9:
        return MISSING
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
