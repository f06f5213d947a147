"""The report of a directory: what is written into it, and what is printed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from gan_runner.reporting import page, tables
from gan_runner.reporting.settings import make_study
from gan_runner.reporting.stored_runs import find_runs, missing_jobs, printable, read_run
from gan_runner.storage.atomic_files import write_bytes

TOLD = 5  # runs that were not completed


@dataclass(frozen=True)
class Report:
    """What prints, by rich, as a table and a few lines."""

    table: Table
    lines: list[str]

    def __rich_console__(self, *_: object) -> Iterator[RenderableType]:
        yield self.table
        yield from map(Text, self.lines)


def write_report(directory: Path) -> Report:
    """Write report.html and report.md into the directory of a sweep or a run; of a sweep, two CSV files too.

    report.csv has a row per setting, sweep.csv a row per run.

    Raises ConfigError where it is neither.
    """
    found = find_runs(directory)
    return report_run(directory) if found == [directory] else report_sweep(directory, found)


def report_run(directory: Path) -> Report:
    """Write the report of a single run."""
    run = read_run(directory, prefixes=("",))
    title = printable(directory.resolve().name)
    write(directory, {"report.md": tables.markdown_of_run(title, run), "report.html": page.of_run(title, run)})
    return Report(tables.terminal_of_run(run), [str(directory / "report.html")])


def report_sweep(directory: Path, found: list[Path]) -> Report:
    """Write the report of a sweep."""
    study = make_study([read_run(path) for path in found], missing_jobs(directory, found))
    title = printable(directory.resolve().name)
    documents = {
        "sweep.csv": tables.csv_of_runs(directory, study),
        "report.csv": tables.csv_of_settings(study),
        "report.md": tables.markdown(title, study),
        "report.html": page.of_study(title, directory, study),
    }
    write(directory, documents)
    lines = [*filter(None, [tables.floors_text(study)]), study.counts]
    others = [run for run in tables.unfinished(study) if run.status != "running"]
    lines += [f"{printable(run.path.name)}: {run.status}{run.reason and ', '}{run.reason}" for run in others[:TOLD]]
    if len(others) > TOLD:
        lines.append(f"and {len(others) - TOLD:,} more that are not completed: report.md names them")
    return Report(tables.terminal(study), [*lines, str(directory / "report.html")])


def write(directory: Path, documents: dict[str, str]) -> None:
    """Files, name -> content, each at once."""
    for name, text in documents.items():
        write_bytes(directory / name, text.encode(errors="replace"))


def print_report(directory: Path) -> None:
    """Write the report of a directory, and print its table."""
    Console(highlight=False, soft_wrap=False).print(write_report(directory), markup=False)
