"""How the verbs read their words."""

import argparse
import hashlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from gan_runner.config.errors import ConfigError
from gan_runner.storage.outputs import CHECKPOINTS, LATEST, OUTPUTS, checkpoint_file, newest

COUNT = 64  # samples, if `sample --count` says nothing
WALK = 8  # samples on the way from one latent to another
NEIGHBORS = 12  # generated samples, if `evaluate --neighbors` says nothing
SPLITS = ("training", "held_out")  # as in gan_runner.datasets.splits
FORMATS = ("onnx", "pt2", "safetensors")  # as in gan_runner.training.exporters


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
        if message.startswith("the following arguments are required: DIR"):
            raise ConfigError(
                f"{verb}: DIR is missing; type {self.prog} outputs/DATE/TIME; {self.prog} --help says more"
            )
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
            "--config-dir", type=Path, metavar="FOLDER", help="one with options of yours, such as metric/mine.yaml"
        )
        self.add_argument(
            "overrides", metavar="key=value", nargs="*", help="changes to the stored config, such as device=cpu"
        )

    def add_weights(self, *, truncation: bool = True) -> None:
        """The flags that choose weights of the run."""
        self.add_argument(
            "--checkpoint",
            default=CHECKPOINTS[0],
            metavar=f"{'|'.join(CHECKPOINTS)}|STEP|FILE",
            help="the weights to load (default: last); STEP is one that checkpoint_keep has kept",
        )
        self.add_argument("--raw", action="store_true", help="the weights themselves, not their moving average")
        if truncation:
            self.add_argument(
                "--truncation",
                type=positive_number,
                metavar="T",
                help="keep every entry of normal latents within [-T, T]; of model=stylegan2 keep every style at the "
                "share T of its way from the mean style",
            )


def checkpoint_path(options: argparse.Namespace) -> Path:
    """The file that `--checkpoint` means."""
    return checkpoint_file(options.directory, options.checkpoint)


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
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


def positive_number(text: str) -> float:
    """A finite number above 0, for argparse."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0 and finite, not {text!r}")
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


def npz(text: str) -> Path:
    """A path that ends in .npz, for argparse."""
    if not text.endswith(".npz"):
        raise argparse.ArgumentTypeError(f"must end in .npz, not {text}")
    return Path(text)


def whole_numbers(text: str) -> list[int]:
    """Ints between commas, for argparse."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers between commas, not {text!r}") from None


# --- the verbs --------------------------------------------------------------------------------------------------------
# Here, and not beside what they do: what each of them takes is known without torch.


def sample_parser() -> RunParser:
    """The verb's flags."""
    parser = RunParser("sample", "Draw samples from the generator of a run, into DIR/generated/.")
    parser.add_weights()
    parser.add_argument("--count", type=positive, default=COUNT, metavar="N", help=f"how many (default: {COUNT})")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--images", action="store_true", help="one PNG for each sample, instead of a grid")
    form.add_argument(
        "--out",
        type=npz,
        metavar="FILE.npz",
        help="arrays `samples`, `latents` and, of a conditional run, `labels` in this file, instead of a grid",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the latents (default: 0)")
    parser.add_argument(
        "--interpolate",
        action="store_true",
        help=f"each row of the grid walks from one latent to another, in {WALK} samples of one class",
    )
    parser.add_argument(
        "--labels", type=whole_numbers, metavar="N,N,...", help="classes, in turn, of a conditional run (default: all)"
    )
    return parser


def evaluate_parser() -> RunParser:
    """The verb's flags."""
    parser = RunParser(
        "evaluate", "Measure samples of a run's generator; metric=NAME measures by others than the run's."
    )
    parser.add_weights()
    parser.add_argument(
        "--split",
        choices=SPLITS,
        default="training",
        help="the real samples to compare with (default: training, as in the run)",
    )
    parser.add_argument(
        "--neighbors",
        nargs="?",
        type=positive,
        const=NEIGHBORS,
        metavar="N",
        help=f"a picture of N generated samples (default: {NEIGHBORS}) and the nearest training samples, instead",
    )
    return parser


def resume_parser() -> RunParser:
    """The parser of the command line of `gan-runner resume`."""
    parser = RunParser(
        "resume",
        "Go on with a run that was killed, interrupted or is to be longer, in its own directory; or with a sweep.",
    )
    parser.add_argument("--any-version", action="store_true", help="even where PyTorch is another than it began with")
    parser.add_argument("--take-over", action="store_true", help="even where it was left running on another machine")
    parser.add_argument("--retry-failed", action="store_true", help="of a sweep: start what failed or diverged anew")
    parser.add_argument("--processes", type=positive, metavar="N", help="of a sweep: so many jobs at once")
    parser.add_argument(
        "--batched", action="store_true", help="of a sweep: as one program, what differs in numbers only"
    )
    return parser


def report_parser() -> VerbParser:
    """The verb's flags."""
    parser = VerbParser(
        "report",
        "The best setting of a sweep, with a table, report.html and report.md in its directory; also report.csv, a row "
        "per setting, and sweep.csv, a row per run. Several directories, of sweeps or runs, are compared.",
        "of a sweep, of a run, which may still be running, or one with some below it; latest: the newest in outputs",
        nargs="+",
    )
    parser.add_argument(
        "--rank", choices=("best", "last"), default="best",
        help="the value of a run that counts: its best evaluation, or its last one (default: best)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="DIR",
        help="where the files go (default: into DIR; of several, into comparison/ beside them)",
    )  # fmt: skip
    return parser


def export_parser() -> RunParser:
    """The verb's flags."""
    parser = RunParser(
        "export",
        "Write a run's generator, its moving average, for use elsewhere: checked, and with a model card beside it.",
    )
    parser.add_weights(truncation=False)
    parser.add_argument("--format", choices=FORMATS, required=True, help="the kind of file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: DIR/export/generator.FORMAT")
    return parser


def list_parser() -> argparse.ArgumentParser:
    """The verb's flags."""
    parser = argparse.ArgumentParser(
        prog="gan-runner list",
        description="A table of the runs and sweeps in a folder, the newest first: status, what their command lines "
        "change, the best value of the objective, and how long ago they began. Of a sweep's directory, its runs.",
    )
    parser.add_argument("directory", metavar="DIR", nargs="?", type=Path, default=OUTPUTS, help="default: outputs")
    return parser


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {
    "sample": sample_parser,
    "evaluate": evaluate_parser,
    "resume": resume_parser,
    "export": export_parser,
    "report": report_parser,
    "list": list_parser,
}
