"""How the verbs read their words."""

import argparse
import hashlib
import math
import os
from pathlib import Path
from typing import NoReturn

from gan_runner.config.errors import ConfigError

CHECKPOINTS = ("last", "previous", "best")  # those with a name of their own; the first is the default


class VerbParser(argparse.ArgumentParser):
    """The flags of a verb and its directory. Raises ConfigError where argparse would print its usage and exit."""

    def __init__(self, verb: str, description: str, directory: str = "a run directory"):
        super().__init__(prog=f"gan-runner {verb}", description=description)
        self.add_argument("directory", metavar="DIR", type=Path, help=directory)

    def error(self, message: str) -> NoReturn:
        verb = self.prog.rpartition(" ")[2]
        if message.startswith("the following arguments are required: DIR"):
            raise ConfigError(
                f"{verb}: DIR is missing; type {self.prog} outputs/DATE/TIME; {self.prog} --help says more"
            )
        raise ConfigError(f"{verb}: {message}; {self.prog} --help says more")


class RunParser(VerbParser):
    """The flags of a verb that builds the networks of a run: its config may be changed."""

    def __init__(self, verb: str, description: str):
        super().__init__(verb, description)
        self.add_argument(
            "overrides", metavar="key=value", nargs="*", help="changes to the stored config, such as device=cpu"
        )

    def add_weights(self) -> None:
        """The flags that choose weights of the run."""
        self.add_argument(
            "--checkpoint",
            default=CHECKPOINTS[0],
            metavar=f"{'|'.join(CHECKPOINTS)}|FILE",
            help="the weights to load (default: last)",
        )
        self.add_argument("--raw", action="store_true", help="the weights themselves, not their moving average")
        self.add_argument(
            "--truncation", type=positive_number, metavar="T", help="keep every entry of normal latents within [-T, T]"
        )


def checkpoint_path(options: argparse.Namespace) -> Path:
    """The file that `--checkpoint` means: of one of the run's own, or any other."""
    if options.checkpoint in CHECKPOINTS:
        return options.directory / "checkpoints" / f"{options.checkpoint}.pt"
    return Path(options.checkpoint)


def weights_in_name(options: argparse.Namespace) -> list[str]:
    """What the flags of `add_weights` add to the name of a picture, as far as they are not the default."""
    parts = []
    if options.checkpoint in CHECKPOINTS[1:]:
        parts.append(options.checkpoint)
    elif options.checkpoint != CHECKPOINTS[0]:
        parts.append(f"{Path(options.checkpoint).stem}_{digest(str(Path(options.checkpoint).absolute()))}")
    if options.truncation is not None:
        parts.append(f"truncation_{options.truncation:g}")
    return [*parts, "raw"] if options.raw else parts


def digest(text: str) -> str:
    """Eight characters in the place of a text that is too long for a file's name."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8]


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
