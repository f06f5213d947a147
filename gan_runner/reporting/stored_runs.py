"""What run directories say, as far as they can be read: a stranger's may hold anything, a running one half a line."""

import contextlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml

from gan_runner.config.errors import ConfigError
from gan_runner.config.stored import translate_stored
from gan_runner.storage.hydra_files import CONFIG, load_yaml, words_of_run
from gan_runner.storage.outputs import PLAN
from gan_runner.storage.status import is_locked, status_of

POINTS = 200  # of a curve, at most
LARGEST = 1e100  # of a number that can be drawn and squared; PyTorch's end at 1e38
UNBOUNDED = (-math.inf, math.inf)
LONGEST = 300  # characters of anything that is shown
MARKS = ("summary.json", ".hydra", "metrics.jsonl", ".lock")  # one of them makes a directory a run's
COMPARED = ("metric/", "loss/")  # tags that runs are compared by
CLOCKS = ("images", "seconds")  # what a step may be counted as instead


class Curve(NamedTuple):
    """A tag of metrics.jsonl, thinned: steps (N,), ascending, and values (N,), which may be NaN."""

    steps: np.ndarray
    values: np.ndarray


@dataclass(kw_only=True)
class Run:
    """One run directory."""

    path: Path
    name: str = ""  # its place below the directory that is reported on
    status: str  # as in summary.json, or killed, pruned, damaged
    reason: str = ""
    step: int | None = None
    started: str = ""  # an ISO date
    wall_time: float | None = None  # seconds; of a run that was trained together with others, its share
    config: dict[str, Any] = field(default_factory=dict)  # dotted key -> value; empty where it cannot be read
    words: dict[str, str] | None = None  # the overrides of its command line, key -> value
    curves: dict[str, Curve] = field(default_factory=dict)
    last: dict[str, float] = field(default_factory=dict)  # tag -> value; so the next two
    lowest: dict[str, float] = field(default_factory=dict)
    highest: dict[str, float] = field(default_factory=dict)
    images: Curve | None = None  # real samples that the discriminator has seen, at the steps logged
    seconds: Curve | None = None  # of training, at the same; a share, as `wall_time`
    higher_is_better: dict[str, bool] = field(default_factory=dict)  # of tags metric/NAME/VALUE; so the next
    bounds: dict[str, tuple[float, float]] = field(default_factory=dict)  # that a value lies between
    floors: dict[str, float] = field(default_factory=dict)  # tag -> what real data have, of as many samples
    objective: str | None = None  # the tag that it is ranked by

    @property
    def seed(self) -> Any:
        """What repetitions differ in."""
        return self.config.get("seed")

    def best(self, tag: str, higher_is_better: bool | None) -> float | None:
        """The best value of a metric so far, None where it has none or no direction is known; NaN is the worst."""
        if higher_is_better is None:
            return None
        return (self.highest if higher_is_better else self.lowest).get(tag)


def find_runs(directory: Path) -> list[Path]:
    """A run alone, the runs of a sweep, or all that are anywhere below a directory, in the order of their names.

    Numbers in the names count as numbers. Raises ConfigError where there is none.
    """
    if not directory.is_dir():
        raise ConfigError(f"{directory} is no directory")
    if is_run(directory):
        return [directory]
    found = list(runs_below(directory))
    if found or (directory / PLAN).exists():
        return sorted(found, key=natural)
    raise ConfigError(f"{directory} is neither a run nor a sweep: there is no run directory in it")


def runs_below(directory: Path) -> Iterator[Path]:
    """The run directories below one that is none; a link may lead to a run, but is not searched."""
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            if is_run(path):
                if not is_starting(path):
                    yield path
            elif not path.is_symlink():
                yield from runs_below(path)


def is_run(path: Path) -> bool:
    """Whether a directory is a run's. A sweep's has a plan; it has a lock too."""
    return any((path / mark).exists() for mark in MARKS) and not (path / PLAN).exists()


def natural(path: Path) -> list[tuple[bool, float, str]]:
    """To sort paths by, numbers in them as numbers: weight-9 before weight-10, 0.5 before 1e3."""
    parts = re.split(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)", str(path), flags=re.IGNORECASE)
    return [(False, float(part), "") if place % 2 else (True, 0.0, part) for place, part in enumerate(parts)]


def is_starting(path: Path) -> bool:
    """Whether a process is just making a run directory: summary.json comes last."""
    return not (path / "summary.json").exists() and is_locked(path / ".lock")


def missing_jobs(directories: Iterable[Path], found: list[Path]) -> int:
    """How many jobs have not begun, of the plans in some directories and in those that the runs lie in."""
    names = {path.resolve() for path in found}
    places = {path.resolve() for path in [*directories, *(path.parent for path in found)]}
    planned = {place / str(row.get("name")) for place in places for row in json_lines(place / PLAN)}
    return sum(not (path / "summary.json").exists() for path in planned - names)


def read_run(path: Path, prefixes: tuple[str, ...] = COMPARED, *, name: str | None = None) -> Run:
    """Read a run directory, with the curves of the tags that begin with one of the prefixes."""
    status, reason, summary = "damaged", "", {}
    try:
        summary = json.loads((path / "summary.json").read_bytes())
        status, reason = printable(status_of(path, summary)), printable(summary.get("reason") or "")
        if status == "killed":
            reason = "its process is gone"
    except FileNotFoundError:
        reason = "it has no summary.json"
    except (OSError, ValueError, RecursionError, TypeError, KeyError, AttributeError):
        summary, reason = {}, "its summary.json cannot be read"
    run = Run(path=path, name=printable(path.name if name is None else name), status=status, reason=reason)
    try:
        stored = load_yaml(path / CONFIG)
        run.config = dict(dotted_items(translate_stored(stored) if isinstance(stored, dict) else stored))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        run.status, run.reason = "damaged", run.reason or "its .hydra/config.yaml cannot be read"
    run.words = read_words(path)
    read_log(run, prefixes)
    read_summary(run, summary)
    run.higher_is_better, run.bounds = read_directions(run.path / "evaluations.jsonl")
    run.objective = run.objective or configured_objective(run)
    read_floors(run)
    return run


def read_summary(run: Run, summary: dict[str, Any]) -> None:
    """What only summary.json knows, and what a lost metrics.jsonl would have said."""
    steps = [step for step in (summary.get("step"), run.step) if isinstance(step, int)]
    run.step = max(steps, default=None)
    for tag, value in as_dict(summary.get("metrics")).items():
        if printable(tag).startswith(COMPARED) and (found := number(value)) is not None:
            run.last.setdefault(printable(tag), found)
    together = number(summary.get("stacked")) or 1.0  # runs trained as one program, whose time is that of all
    run.wall_time = number(summary.get("wall_time"))
    run.started = printable(summary.get("started") or "")
    if 1 < together < math.inf:
        run.wall_time = run.wall_time and run.wall_time / together
        run.seconds = run.seconds and Curve(run.seconds.steps, run.seconds.values / together)
    best = as_dict(summary.get("best"))
    if isinstance(best.get("objective"), str):
        run.objective = tag = printable(best["objective"])
        if (found := number(best.get("value"))) is not None:
            run.lowest.setdefault(tag, found)
            run.highest.setdefault(tag, found)


def dotted_items(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The dotted keys of nested dicts; lists are values, and so is an empty dict. Raises ValueError for no dict."""
    if not isinstance(node, dict):
        raise ValueError("not a mapping")
    for key, value in node.items():
        name = f"{prefix}{printable(key)}"
        if isinstance(value, dict) and value:
            yield from dotted_items(value, f"{name}.")
        else:
            yield name, value


def read_words(directory: Path) -> dict[str, str] | None:
    """The words of the command line that made a run, key -> value; None where they are not known."""
    words = words_of_run(directory)
    pairs = [printable(word).lstrip("+").partition("=") for word in words or []]
    return None if words is None else {key: value for key, _, value in pairs}


def read_log(run: Run, prefixes: tuple[str, ...]) -> None:
    """The curves of metrics.jsonl: every metric is read, of the rest as many lines as make a curve."""
    path = run.path / "metrics.jsonl"
    try:
        with path.open("rb") as file:
            count = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    except OSError:
        return
    every = max(1, math.ceil(count / POINTS))
    columns: dict[str, dict[int, float]] = {}
    is_read: dict[str, bool] = {}  # tag -> whether
    with path.open("rb") as file:
        for index, line in enumerate(file):
            if index % every and index < count - 2 and b'"metric/' not in line:
                continue
            row = json_object(line)
            step = row.get("step")
            if type(step) is not int or not 0 <= step < 2**53:
                continue
            run.step = max(step, run.step or 0)
            for tag, value in row.items():
                if tag not in is_read:
                    is_read[tag] = tag in CLOCKS or (tag.startswith(prefixes) and tag != "step")
                if is_read[tag] and (found := number(value)) is not None:
                    columns.setdefault(tag, {})[step] = found
    run.images, run.seconds = (make_curve(columns[tag]) if tag in columns else None for tag in CLOCKS)
    for tag, column in columns.items():
        if tag not in CLOCKS:
            add_curve(run, printable(tag), column)


def make_curve(column: dict[int, float]) -> Curve:
    """Step -> value as a curve."""
    steps = np.array(sorted(column))
    values = np.array([column[step] for step in steps.tolist()])
    kept = thin(len(steps))
    return Curve(steps[kept], values[kept])


def add_curve(run: Run, tag: str, column: dict[int, float]) -> None:
    """The values of a tag, step -> value."""
    values = np.array(list(column.values()))
    run.curves[tag] = make_curve(column)
    run.last[tag] = float(run.curves[tag].values[-1])
    comparable = values if np.isnan(values).all() else values[~np.isnan(values)]
    run.lowest[tag], run.highest[tag] = float(comparable.min()), float(comparable.max())


def read_floors(run: Run) -> None:
    """What real data have against real data, by the run's own evaluations; those of the verb say which checkpoint.

    Where that is of fewer samples than the metric's, the metric of as few has a tag and a curve of its own.
    """
    columns: dict[str, dict[int, float]] = {}
    for record in json_lines(run.path / "evaluations.jsonl"):
        step = record.get("step")
        if "checkpoint" in record or type(step) is not int or not 0 <= step < 2**53:
            continue
        for name, metric in as_dict(record.get("metrics")).items():
            floor = as_dict(as_dict(metric).get("floor"))
            fewer = as_dict(as_dict(as_dict(metric).get("at_floor_counts")).get("values"))
            for key, value in as_dict(floor.get("values")).items():
                tag = whole = printable(f"metric/{name}/{key}")
                found, of_fewer = number(value), number(fewer.get(key))
                if found is None or not math.isfinite(found):
                    continue
                if of_fewer is not None and type(count := floor.get("generated")) is int:
                    higher = run.higher_is_better.get(tag)
                    tag = f"{tag} of {count:,} samples"
                    columns.setdefault(tag, {})[step] = of_fewer
                    if higher is not None:
                        run.higher_is_better[tag] = higher
                    run.bounds[tag] = run.bounds.get(whole, UNBOUNDED)
                run.floors[tag] = found
    for tag, column in columns.items():
        add_curve(run, tag, column)


def read_warnings(path: Path) -> list[str]:
    """What a run warned of, by its gan_runner.log."""
    try:
        with (path / "gan_runner.log").open("rb") as file:
            lines = (line.decode(errors="replace").strip() for line in file)
            found = [printable(line.removeprefix("warning: ")) for line in lines if line.startswith("warning: ")]
    except OSError:
        return []
    return found


def thin(count: int) -> np.ndarray:
    """The positions of at most POINTS of `count` points, evenly, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def read_directions(path: Path) -> tuple[dict[str, bool], dict[str, tuple[float, float]]]:
    """By tag whether higher is better, and the bounds that it lies within, as the first evaluation says."""
    is_higher_better: dict[str, bool] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for record in json_lines(path):
        for name, metric in as_dict(record.get("metrics")).items():
            for key, higher in as_dict(as_dict(metric).get("higher_is_better")).items():
                if isinstance(higher, bool):
                    is_higher_better[printable(f"metric/{name}/{key}")] = higher
            for key, ends in as_dict(as_dict(metric).get("bounds")).items():
                if isinstance(ends, list) and len(ends) == 2:
                    least, greatest = (
                        other if (end := number(one)) is None else end
                        for one, other in zip(ends, UNBOUNDED, strict=True)
                    )
                    bounds[printable(f"metric/{name}/{key}")] = (least, greatest)
        if is_higher_better:
            break
    return is_higher_better, bounds


def configured_objective(run: Run) -> str | None:
    """The tag that a run's config wants to be ranked by, as far as it was evaluated: by default the first."""
    tags = [tag for tag in run.last if tag.startswith("metric/")]
    wanted = run.config.get("objective")
    if isinstance(wanted, str):
        path = printable(wanted).replace(".", "/", 1)
        tags = [tag for tag in tags if f"{tag}/".startswith(f"metric/{path}/")]
    return tags[0] if tags else None


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in a file of JSON lines, those that are whole."""
    try:
        with path.open("rb") as file:
            yield from filter(None, map(json_object, file))
    except OSError:
        return


def json_object(line: bytes) -> dict[str, Any]:
    """An object from a line, empty where it is none."""
    try:
        return as_dict(json.loads(line))
    except (ValueError, RecursionError):
        return {}


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is a dict, or else an empty one."""
    return value if isinstance(value, dict) else {}


def number(value: Any) -> float | None:
    """A number as these files have it, NaN and infinities by name; None for anything else."""
    if value in ("nan", "inf", "-inf"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return math.copysign(math.inf, value) if abs(value) > LARGEST else float(value)


def printable(text: Any) -> str:
    """Text without what moves a terminal's cursor, and not too long to show."""
    line = str(text)
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else " " for letter in line[:LONGEST])
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}..."
