"""`gan-runner list`: the runs and sweeps in a folder."""

import argparse
from pathlib import Path

from rich.console import Console

from gan_runner.config.errors import ConfigError
from gan_runner.reporting.overview import overview
from gan_runner.storage.outputs import OUTPUTS


def parser() -> argparse.ArgumentParser:
    """The verb's flags."""
    parser = argparse.ArgumentParser(
        prog="gan-runner list",
        description="A table of the runs and sweeps in a folder, the newest first: status, what their command lines "
        "change, the best value of the objective, and how long ago they began. Of a sweep's directory, its runs.",
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, default=OUTPUTS, help="default: outputs")
    return parser


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where there is no such folder."""
    directory = parser().parse_args(arguments).directory
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory")
    Console(highlight=False).print(overview(directory), markup=False)
