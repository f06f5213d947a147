"""How the verbs read their words."""

import argparse
from pathlib import Path
from typing import NoReturn

from gan_runner.config import ConfigError


class Parser(argparse.ArgumentParser):
    """Of a verb and its directory. Raises ConfigError where argparse would print a page of usage and exit with 2."""

    def __init__(self, verb: str, description: str, directory: str = "a run directory"):
        super().__init__(prog=f"gan-runner {verb}", description=description)
        self.add_argument("directory", metavar="DIR", type=Path, help=directory)

    def error(self, message: str) -> NoReturn:
        """One line."""
        verb = self.prog.rpartition(" ")[2]
        raise ConfigError(f"{verb}: {message}; {self.prog} --help says more")
