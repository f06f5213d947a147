"""`gan-runner report DIR`: a table of a sweep or a run, and files to read and to show."""

from gan_runner.cli.parser import VerbParser
from gan_runner.reporting.writer import print_report


def parser() -> VerbParser:
    """The verb's flags."""
    return VerbParser(
        "report",
        "A table of a sweep or a run, with report.html and report.md in its directory; of a sweep also report.csv, a "
        "row per setting, and sweep.csv, a row per run.",
        "of a sweep or a run, which may still be running; latest: the newest in outputs",
    )


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where the directory is neither."""
    print_report(parser().parse_args(arguments).directory)
