"""The report of directories: what is written, and what is printed."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from gan_runner.reporting import commands, page, tables
from gan_runner.reporting.answer import answer
from gan_runner.reporting.commands import Command
from gan_runner.reporting.settings import Rank, make_study
from gan_runner.reporting.stored_runs import find_runs, missing_jobs, printable, read_run, read_warnings
from gan_runner.reporting.verdict import verdict
from gan_runner.storage.atomic_files import write_bytes
from gan_runner.storage.outputs import PLAN, SEARCH

TOLD = 5  # runs that were not completed
OF_SEVERAL = "comparison"  # the directory of a report on several


@dataclass(frozen=True)
class Report:
    """What prints, by rich, as a table and a few lines."""

    table: Table
    lines: list[str]
    commands: list[Command]
    path: Path

    def __rich_console__(self, *_: object) -> Iterator[RenderableType]:
        yield self.table
        yield from map(Text, self.lines)
        for purpose, line in self.commands:
            yield Text(f"{purpose}:")
            yield Text(f"  {line}", no_wrap=True, overflow="ignore")  # in one piece, to be copied
        yield Text(str(self.path), overflow="fold")


def write_report(*directories: Path, rank: Rank = "best", out: Path | None = None) -> Report:
    """Write report.html and report.md of runs, sweeps, or whatever lies below directories.

    Of more than a single run report.csv, with a row per setting, and sweep.csv, with a row per run, too. They are
    written into the directory, or, of several, into comparison/ below the directory that these have in common, or into
    `out`. Settings are ranked by the `rank` value of each run, "best" or "last".

    Raises ConfigError where there is no run.
    """
    found = {path.resolve(): path for directory in directories for path in find_runs(directory)}
    runs = list(found.values())
    if len(directories) == 1:
        base = directories[0]
        target = out or base
    else:
        shared = Path(os.path.commonpath([directory.absolute() for directory in directories]))
        base = shared if any(directory.is_absolute() for directory in directories) else Path(os.path.relpath(shared))
        target = out or base / OF_SEVERAL
    if runs == [base]:
        return report_run(base, target)
    return report_study(list(directories), base, target, runs, rank)


def report_run(directory: Path, target: Path) -> Report:
    """Write the report of a single run."""
    run = read_run(directory, prefixes=("",))
    title = printable(directory.resolve().name)
    warnings = read_warnings(directory)
    lines = verdict(run, warnings)
    shell = commands.of_run(run)
    documents = {
        "report.md": tables.markdown_of_run(title, run, lines, shell),
        "report.html": page.of_run(title, run, target, sentences=lines, warnings=warnings, commands=shell),
    }
    write(target, documents)
    return Report(tables.terminal_of_run(run), [" ".join(lines)], shell, target / "report.html")


def report_study(directories: list[Path], base: Path, target: Path, paths: list[Path], rank: Rank) -> Report:
    """Write the report of a sweep, or of several runs."""
    runs = [read_run(path, name=os.path.relpath(path, base)) for path in paths]
    of_search = all((directory / SEARCH).exists() for directory in directories)
    study = make_study(runs, missing_jobs(directories, paths), rank, of_search=of_search)
    found = answer(study)
    title = ", ".join(printable(directory.resolve().name) for directory in directories)
    sweeps = [directory for directory in directories if (directory / PLAN).exists()]
    of_sweeps = commands.of_sweeps(sweeps)
    of_best = commands.of_best(study, found.best) if found else []
    documents = {
        "sweep.csv": tables.csv_of_runs(study),
        "report.csv": tables.csv_of_settings(study),
        "report.md": tables.markdown(title, study, found, [*of_sweeps, *of_best]),
        "report.html": page.of_study(title, study, found, target, of_sweeps=of_sweeps, of_best=of_best),
    }
    write(target, documents)
    lines = [*filter(None, [tables.floors_text(study)]), study.counts]
    others = [run for run in tables.unfinished(study) if run.status != "running"]
    lines += [f"{run.name}: {run.status}{run.reason and ', '}{run.reason}" for run in others[:TOLD]]
    if len(others) > TOLD:
        lines.append(f"and {len(others) - TOLD:,} more that are not completed: report.md names them")
    if found:
        lines += ["", " ".join(found.sentences)]
    return Report(tables.terminal(study), lines, of_best, target / "report.html")


def write(target: Path, documents: dict[str, str]) -> None:
    """Files, name -> content, each at once."""
    target.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        write_bytes(target / name, text.encode(errors="replace"))


def print_report(*directories: Path, rank: Rank = "best", out: Path | None = None) -> None:
    """Write a report, and print its table."""
    Console(highlight=False, soft_wrap=False).print(
        write_report(*directories, rank=rank, out=out), markup=False, crop=False
    )
