"""`gan-runner report DIR`: a table of a sweep or a run, and files to read and to show."""

from gan_runner.cli.parser import report_parser as parser
from gan_runner.reporting.writer import print_report


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory is neither."""
    print_report(parser().parse_args(arguments).directory)
