"""`gan-runner report DIR`: a table of a sweep or a run, and files to read and to show."""

from pathlib import Path

from rich.console import Console

from gan_runner.arguments import Parser
from gan_runner.reporting.report import write_report


def parser() -> Parser:
    """The verb's flags."""
    return Parser(
        "report",
        "A table of a sweep or a run, with report.html and report.md in its directory; of a sweep also report.csv, a "
        "row per setting, and sweep.csv, a row per run.",
        "of a sweep or a run, which may still be running",
    )


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory is neither."""
    print_report(parser().parse_args(arguments).directory)


def print_report(directory: Path) -> None:
    """Write the report of a directory, and print its table."""
    Console(highlight=False, soft_wrap=False).print(write_report(directory), markup=False)
