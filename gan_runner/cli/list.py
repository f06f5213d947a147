"""`gan-runner list`: the runs and sweeps in a folder."""

from rich.console import Console

from gan_runner.cli.parser import list_parser as parser
from gan_runner.config.errors import ConfigError
from gan_runner.reporting.overview import overview


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where there is no such folder."""
    directory = parser().parse_args(arguments).directory
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory")
    Console(highlight=False).print(overview(directory), markup=False)
