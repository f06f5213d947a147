"""`gan-runner report DIR ...`: tables of sweeps and runs, and files to read and to show."""

from pathlib import Path

from gan_runner.cli.parser import VerbParser


def parser() -> VerbParser:
    """The verb's flags."""
    made = VerbParser(
        "report",
        "The best setting of a sweep, with a table, report.html and report.md in its directory; also report.csv, a row "
        "per setting, and sweep.csv, a row per run. Several directories, of sweeps or runs, are compared.",
        "of a sweep, of a run, which may still be running, or one with some below it; latest: the newest in outputs",
        nargs="+",
    )
    made.add_argument(
        "--rank", choices=("best", "last"), default="best",
        help="the value of a run that counts: its best evaluation, or its last one (default: best)",
    )  # fmt: skip
    made.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where the files go (default: into DIR; of several, into comparison/ beside them)",
    )  # fmt: skip
    return made


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where there is no run."""
    options = parser().parse_args(arguments)
    from gan_runner.reporting.writer import print_report

    print_report(*options.directory, rank=options.rank, out=options.out)
