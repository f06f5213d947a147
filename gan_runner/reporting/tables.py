"""Tables: for the terminal, as Markdown, as CSV."""

import html
import re
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from gan_runner.reporting.answer import Answer
from gan_runner.reporting.commands import Command
from gan_runner.reporting.formats import (
    ARROWS,
    MISSING,
    duration_text,
    new_table,
    number_text,
    spread_text,
    step_text,
    value_text,
)
from gan_runner.reporting.settings import Quantity, Study, floor_of, value_of
from gan_runner.reporting.stored_runs import Run

WIDE = 3  # columns of keys that a terminal has room for
LONG = 34  # letters of a key that are broken at its dots
IN_TERMINAL = 40  # settings


# --- of a study -------------------------------------------------------------------------------------------------------


def of_settings(study: Study) -> pd.DataFrame:
    """The full table as text: a row per setting, the best first."""
    first = study.quantities[0] if study.quantities else None
    rows = [
        [
            str(setting.number),
            *(value_text(value) for value in setting.values.values()),
            *(spread_text(*study.spread(setting, quantity)) for quantity in study.quantities),
            str(study.spread(setting, first).of if first else len(setting.completed)),
            duration_text(study.time(setting)),
            study.not_counted(setting, first),
        ]
        for setting in study.settings
    ]
    return pd.DataFrame(rows, columns=headings(study))


def headings(study: Study) -> list[str]:
    """The headings of the full table."""
    return ["#", *study.columns.values(), *map(heading, study.quantities), "n", "time", "not counted"]


def heading(quantity: Quantity) -> str:
    """The heading of a quantity's column."""
    return f"{quantity.title}{ARROWS[quantity.higher_is_better]}"


def terminal(study: Study) -> Table:
    """The best settings, in 80 columns."""
    shown = study.quantities[: 1 if study.objective else 2]
    table = new_table(meaning_of_numbers(study))
    table.add_column("#", justify="right")
    is_wide = len(study.columns) <= WIDE
    names = [name.replace(".", ".\n") if is_wide or len(name) > LONG else name for name in study.columns.values()]
    for name in names if is_wide else [",\n".join(names)]:
        table.add_column(Text(name), overflow="fold")
    for quantity in shown:
        name = f"{quantity.name}{ARROWS[quantity.higher_is_better]}"
        table.add_column(Text(name.replace("/", "/\n")), justify="right", overflow="fold")
    table.add_column("n", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("not counted", overflow="fold")
    cells = of_settings(study).head(IN_TERMINAL)
    for row in cells.to_numpy().tolist():
        number, rest = row[0], row[1 + len(study.columns) :]
        keys = row[1 : 1 + len(study.columns)]
        keys = keys if is_wide else [", ".join(keys)]
        table.add_row(*map(Text, [number, *keys, *rest[: len(shown)], *rest[-3:]]))
    if left := len(study.settings) - IN_TERMINAL:
        table.caption = f"and {left:,} more" if left > 0 else None
    return table


def meaning_of_numbers(study: Study) -> str:
    """What the numbers of a study are."""
    if not study.objective:
        return "last values, mean ± sd over seeds, by setting: nothing was measured to rank by"
    direction = "higher" if study.objective.higher_is_better else "lower"
    which = "best" if study.objective.is_best else "last"
    return f"{study.objective.name}, {direction} is better: the {which} of each run, mean ± sd over seeds"


def floors_text(study: Study) -> str:
    """What real data have against real data, beside the last values of setting 1; empty where that is not known."""
    parts = []
    for quantity in {quantity.tag: quantity for quantity in study.quantities}.values():
        floor = floor_of(study.runs, quantity.tag)
        if floor is not None:
            first = study.spread(study.settings[0], quantity) if study.settings else None
            beside = f" (setting 1: {spread_text(*first)})" if first and first.of else ""
            parts.append(f"{quantity.name} {floor:.4g}{beside}")
    return f"real data: {', '.join(parts)}" if parts else ""


def unfinished(study: Study) -> list[Run]:
    """The runs that did not come to an end of their own; a pruned one did."""
    return [run for run in study.runs if run.status not in ("completed", "pruned")]


def markdown(title: str, study: Study, answer: Answer | None, commands: list[Command]) -> str:
    """report.md of a sweep."""
    parts = [f"# {escape(title)}", *([escape(" ".join(answer.sentences))] if answer else [])]
    parts += [f"{escape(study.counts)}.", *(f"{escape(what)}:\n\n    {line}" for what, line in commands)]
    if study.settings:
        parts += [f"{escape(meaning_of_numbers(study))}.", markdown_table(of_settings(study))]
        parts += [f"{escape(floors)}."] if (floors := floors_text(study)) else []
    if others := unfinished(study):
        lines = [[run.name, run.status, step_text(run.step), run.reason] for run in others]
        table = pd.DataFrame(lines, columns=["run", "status", "step", "reason"])
        parts += ["## Not completed", markdown_table(table)]
    return "\n\n".join(parts) + "\n"


def markdown_table(table: pd.DataFrame) -> str:
    """A table, of text that may hold anything."""
    made = [f"| {' | '.join(map(escape, cells))} |" for cells in [list(table.columns), *table.to_numpy().tolist()]]
    return "\n".join([made[0], "|---" * len(table.columns) + "|", *made[1:]])


def escape(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*|\[\]])", r"\\\1", html.escape(text, quote=False))


def csv_of_settings(study: Study) -> str:
    """report.csv: a row per setting, the best first; numbers in full, and a count of the runs by status."""
    table = pd.DataFrame({"setting": [setting.number for setting in study.settings]}, dtype=object)
    for key, name in study.columns.items():
        table[name] = [csv_value(setting.values[key]) for setting in study.settings]
    for quantity in study.quantities:
        columns = {"mean": "mean", "std": "sd", "count": "count"}
        found = study.spreads[quantity.title].rename(columns=columns).astype({"count": int})
        which = "best" if quantity.is_best else "last"
        table = table.join(found.add_prefix(f"{which} {quantity.name} "), on="setting")
    statuses = list(dict.fromkeys(["completed", *(run.status for run in study.runs)]))
    counts = pd.crosstab(study.values.setting, study.values.status).reindex(columns=statuses, fill_value=0)
    table = table.join(counts, on="setting")
    table["wall_time"] = [study.time(setting) for setting in study.settings]
    return table.to_csv(index=False, lineterminator="\n")


def csv_of_runs(study: Study) -> str:
    """sweep.csv: a row per job."""
    metrics = list(dict.fromkeys(quantity.tag for quantity in study.quantities))
    of_tag = {quantity.tag: quantity for quantity in study.quantities}
    rows = []
    for run in study.runs:
        row: dict[str, Any] = {key: csv_value(value_of(run, key)) for key in study.varied}
        row |= {"seed": run.seed, "status": run.status, "reason": run.reason, "step": run.step}
        row["objective"] = study.objective.of(run) if study.objective else None
        row |= {f"last {of_tag[tag].name}": run.last.get(tag) for tag in metrics}
        directed = [tag for tag in metrics if of_tag[tag].higher_is_better is not None]
        row |= {f"best {of_tag[tag].name}": run.best(tag, of_tag[tag].higher_is_better) for tag in directed}
        rows.append(row | {"wall_time": run.wall_time, "directory": run.name})
    return pd.DataFrame(rows, dtype=object).to_csv(index=False, lineterminator="\n") if rows else ""


def csv_value(value: Any) -> Any:
    """The value of a key, which may be null, or no key of this run."""
    if value is MISSING:
        return ""
    return value_text(value) if value is None or isinstance(value, bool | list | dict) else value


# --- of a run ---------------------------------------------------------------------------------------------------------


def of_run(run: Run) -> pd.DataFrame:
    """A single run's metrics as text."""
    tags = [tag for tag in run.last if tag.startswith("metric/")]
    rows = []
    for tag in tags or [tag for tag in run.last if tag.startswith("loss/")]:
        higher = run.higher_is_better.get(tag)
        numbers = [run.last[tag], run.best(tag, higher), run.floors.get(tag)]
        rows.append([f"{tag.removeprefix('metric/')}{ARROWS[higher]}", *map(number_text, numbers)])
    table = pd.DataFrame(rows, columns=["", "last", "best", "real data"])
    return table if run.floors else table.drop(columns="real data")


def state_of(run: Run) -> str:
    """How a run stands, in a line."""
    parts = [run.status, f"step {step_text(run.step)}", duration_text(run.wall_time), run.reason]
    return ", ".join(part for part in parts if part and not part.endswith(MISSING))


def terminal_of_run(run: Run) -> Table:
    """A single run."""
    cells = of_run(run)
    table = new_table(state_of(run))
    for number, name in enumerate(cells.columns):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in cells.to_numpy().tolist():
        table.add_row(*map(Text, row))
    return table


def markdown_of_run(title: str, run: Run, sentences: list[str], commands: list[Command]) -> str:
    """report.md of a single run."""
    parts = [f"# {escape(title)}", escape(" ".join(sentences)), escape(state_of(run))]
    parts += [f"{escape(what)}:\n\n    {line}" for what, line in commands]
    return "\n\n".join([*parts, markdown_table(of_run(run))]) + "\n"
