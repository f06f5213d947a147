"""How the verbs read their words."""

import argparse
import math
import os
from pathlib import Path
from typing import NoReturn

from gan_runner.config.errors import ConfigError
from gan_runner.storage.outputs import CHECKPOINTS, LATEST, checkpoint_file, newest


class VerbParser(argparse.ArgumentParser):
    """The flags of a verb and its directory. Raises ConfigError where argparse would print its usage and exit."""

    def __init__(
        self,
        verb: str,
        description: str,
        directory: str = "a run directory; latest: the newest in outputs",
        nargs: str | None = None,
    ):
        super().__init__(prog=f"gan-runner {verb}", description=description)
        self.add_argument("directory", metavar="DIR", type=run_or_sweep, nargs=nargs, help=directory)

    def error(self, message: str) -> NoReturn:
        verb = self.prog.rpartition(" ")[2]
        raise ConfigError(f"{verb}: {message}; {self.prog} --help says more")


def run_or_sweep(text: str) -> Path:
    """The directory that a word means, for argparse: `latest` is the run or sweep in `outputs` that began last."""
    try:
        return newest() if text == LATEST else Path(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


class RunParser(VerbParser):
    """The flags of a verb that builds the networks of a run: its config may be changed."""

    def __init__(self, verb: str, description: str):
        super().__init__(verb, description)
        self.add_argument(
            "overrides", metavar="key=value", nargs="*", help="changes to the stored config, such as device=cpu"
        )

    def add_weights(self, *, truncation: bool = True) -> None:
        """The flags that choose weights of the run."""
        self.add_argument(
            "--checkpoint",
            default="last",
            metavar=f"{'|'.join(CHECKPOINTS)}|STEP|FILE",
            help="the weights to load (default: last); STEP is one that checkpoint_keep has kept",
        )
        self.add_argument("--raw", action="store_true", help="the weights themselves, not their moving average")
        if truncation:
            self.add_argument(
                "--truncation",
                type=positive_number,
                metavar="T",
                help="keep every entry of normal latents within [-T, T]",
            )


def checkpoint_path(options: argparse.Namespace) -> Path:
    """The file that `--checkpoint` means."""
    return checkpoint_file(options.directory, options.checkpoint)


def truncation_suffix(options: argparse.Namespace) -> str:
    """What `--truncation` adds to the name of a picture."""
    return "" if options.truncation is None else f"_truncation_{options.truncation:g}"


def positive(text: str) -> int:
    """An int of at least 1, for argparse."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0, for argparse."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0 and finite, not {text}")
    return value


def refuse_links(directory: Path, *names: str) -> None:
    """Refuse links, in these places of a directory and below them, that lead out of it: a verb writes only inside.

    A received directory could have it write over one's own files. Raises ConfigError.
    """
    inside = directory.resolve()
    for name in names:
        below = [Path(at) / entry for at, folders, files in os.walk(directory / name) for entry in [*folders, *files]]
        for path in [directory / name, *below]:
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(inside):
                raise ConfigError(f"{path} is a link to {os.readlink(path)}: nothing is written outside {directory}")
