"""`gan-runner report DIR`: a table of a sweep or a run, and files to read and to show."""

import argparse
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from gan_runner.config import ConfigError
from gan_runner.reporting.report import write_report


class Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print a page of usage and exit with 2."""

    def error(self, message: str) -> NoReturn:
        """One line."""
        raise ConfigError(f"report: {message}; {self.prog} --help says more")


def parser() -> Parser:
    """The verb's flags."""
    parser = Parser(
        "gan-runner report",
        description="A table of a sweep or a run, and report.html, report.md and sweep.csv in its directory.",
    )
    parser.add_argument("directory", metavar="DIR", type=Path, help="of a sweep or a run, which may still be running")
    return parser


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory is neither."""
    print_report(parser().parse_args(arguments).directory)


def print_report(directory: Path) -> None:
    """Write the report of a directory, and print its table."""
    Console(highlight=False, soft_wrap=False).print(write_report(directory), markup=False)
