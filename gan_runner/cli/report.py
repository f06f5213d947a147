"""`gan-runner report DIR ...`: tables of sweeps and runs, and files to read and to show."""

from gan_runner.cli.parser import report_parser as parser


def main(arguments: list[str]) -> None:
    """The verb. Raises ConfigError where there is no run."""
    options = parser().parse_args(arguments)
    from gan_runner.reporting.writer import print_report

    print_report(*options.directory, rank=options.rank, out=options.out)
