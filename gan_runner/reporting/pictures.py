"""Sample grids for the page: small, and within what it has room for."""

import base64
import io
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from gan_runner.reporting.commands import place
from gan_runner.reporting.settings import Study
from gan_runner.reporting.stored_runs import Run

THUMBNAIL = 360  # pixels
LARGE = 800  # pixels, of a single run's samples
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning)


class Picture(NamedTuple):
    """A grid of samples after some step."""

    step: int
    source: str  # a data URI


class Album(NamedTuple):
    """The grids of a run, the last one at the end."""

    setting: int  # the place of its setting, from 0 on
    run: str
    pictures: list[Picture]


def of_study(study: Study, room: int) -> tuple[list[Album], list[str]]:
    """The grids of the best run of each setting, and what was left out: `room` bytes hold so many.

    The last grid of every setting comes first, then the earlier ones, those of the best setting first.
    """
    budget = Budget(room)
    albums: list[tuple[Album, list[Path]]] = []
    without = 0
    for number, setting in enumerate(study.settings):
        runs = sorted(setting.runs, key=lambda run: place(run, study.objective))
        newest = next((found for run in runs if (found := last_picture(run))), None) if budget.room else None
        if newest and budget.holds(newest[0]):
            last, run, earlier = newest
            albums.append((Album(number, run.name, [last]), earlier))
        else:
            without += not budget.room
    left = sum(add_earlier(album, paths, budget) for album, paths in albums)
    left_out = [f"the samples of {without:,} setting{'s' * (without != 1)}"] if without else []
    return [album for album, _ in albums], [*left_out, *earlier_text(left)]


def of_run(run: Run, room: int) -> tuple[list[Album], str | None, list[str]]:
    """The grids of a single run, a real one, and what was left out."""
    real = encode(run.path / "samples" / "real.png", LARGE)
    budget = Budget(room - len(real or ""))
    newest = last_picture(run, LARGE)
    if newest is None or not budget.holds(newest[0]):
        return [], real, []
    album = Album(0, run.name, [newest[0]])
    return [album], real, earlier_text(add_earlier(album, newest[2], budget))


class Budget:
    """Bytes that pictures may take; none from the first on that does not fit."""

    def __init__(self, room: int):
        self.room = max(0, room)

    def holds(self, found: Picture) -> bool:
        """Take the room of a picture, if there is so much."""
        fits = len(found.source) <= self.room
        self.room = self.room - len(found.source) if fits else 0
        return fits


def add_earlier(album: Album, paths: list[Path], budget: Budget) -> int:
    """Put earlier grids into an album, from the newest on, and return how many there is no room for."""
    left = 0
    for path in reversed(paths):
        found = picture(path, THUMBNAIL) if budget.room else None
        if found and budget.holds(found):
            album.pictures.insert(0, found)
        else:
            left += not budget.room
    return left


def earlier_text(count: int) -> list[str]:
    """What was left out."""
    return [f"{count:,} earlier sample grid{'s' * (count != 1)}"] if count else []


def last_picture(run: Run, size: int = THUMBNAIL) -> tuple[Picture, Run, list[Path]] | None:
    """The newest grid of a run that can be read, and the files before it."""
    paths = steps_of(run)
    for count in range(len(paths), max(0, len(paths) - 3), -1):
        if found := picture(paths[count - 1], size):
            return found, run, paths[: count - 1]
    return None


def steps_of(run: Run) -> list[Path]:
    """The grids of a run, in the order of their steps."""
    found = (run.path / "samples").glob("step_*.png")
    return sorted((path for path in found if step_of(path).isdecimal()), key=lambda path: int(step_of(path)))


def step_of(path: Path) -> str:
    """The step in the name of a grid."""
    return path.stem.removeprefix("step_")


def picture(path: Path, size: int) -> Picture | None:
    """A grid that is small; None where it cannot be read."""
    source = encode(path, size)
    return Picture(int(step_of(path)), source) if source else None


def encode(path: Path, size: int) -> str | None:
    """A picture of at most `size` x `size` pixels as a data URI; None where there is none, or it cannot be read."""
    buffer = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=["PNG"]) as image:
                small = image.convert("RGB")
        small.thumbnail((size, size), Image.Resampling.LANCZOS)
        small.save(buffer, "WEBP", quality=80)
    except UNREADABLE:
        return None
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
