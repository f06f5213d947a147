"""The table of `gan-runner list`: the runs and sweeps in a folder, as far as their small files tell."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from gan_runner.config.keys import find_key, shorten_keys
from gan_runner.reporting.formats import enumerate_counts, new_table
from gan_runner.reporting.stored_runs import as_dict, json_lines, number, printable, read_directions, read_words
from gan_runner.storage.outputs import PLAN, began, find, is_sweep
from gan_runner.storage.status import run_status

NONE = "–"
SHOWN = 4  # values of a key that a sweep varies
UNITS = {"d": 86400.0, "h": 3600.0, "min": 60.0, "s": 1.0}


class Best(NamedTuple):
    """The best value of an objective."""

    tag: str
    value: float

    def __str__(self) -> str:
        return f"{self.tag.removeprefix('metric/')} {self.value:.4g}"


def overview(directory: Path) -> Table | Text:
    """A table of the runs and sweeps below a directory, the newest first; of a sweep's directory, its runs."""
    found = sorted(find(directory), key=began, reverse=True)
    of_sweep = common_words([read_words(path) or {} for path in found]) if is_sweep(directory) else set()
    if not found:
        return Text(f"no runs in {printable(directory)}")
    table = new_table(f"{len(found):,} in {printable(directory)}")
    table.add_column("directory", overflow="fold", ratio=3)
    table.add_column("status", overflow="fold")
    of_what = "in the sweep" if is_sweep(directory) else "from the defaults"
    table.add_column(f"what differs {of_what}", overflow="fold", ratio=4)
    table.add_column("best objective", overflow="fold", ratio=2)
    table.add_column("age", justify="right", no_wrap=True)
    for path in found:
        status, words, best = describe_sweep(path) if is_sweep(path) else describe_run(path, of_sweep)
        name = printable(path.relative_to(directory))
        table.add_row(*map(Text, [name, status, words, str(best or NONE), age(time.time() - began(path))]))
    return table


def describe_run(path: Path, left_out: set[tuple[str, str]]) -> tuple[str, str, Best | None]:
    """A run's status, the words of its command line but those left out, and the best of its objective."""
    words = {key: value for key, value in (read_words(path) or {}).items() if (key, value) not in left_out}
    return printable(run_status(path)), gather([words]), best_of(path)


def common_words(lines: list[dict[str, str]]) -> set[tuple[str, str]]:
    """The words that all command lines have, where there are several."""
    return set.intersection(*(set(line.items()) for line in lines)) if len(lines) > 1 else set()


def describe_sweep(path: Path) -> tuple[str, str, Best | None]:
    """The same of a sweep: how its jobs stand, their words together, and the best of all."""
    rows = ((printable(row.get("name")), row) for row in json_lines(path / PLAN))
    jobs = {name: row for name, row in rows if Path(name).name == name}  # and none that leads out of the sweep
    statuses = [printable(run_status(path / name)) for name in jobs]
    counts = Counter("not started" if status == "new" else status for status in statuses)
    overrides = [row["overrides"] for row in jobs.values() if isinstance(row.get("overrides"), list)]
    pairs = [dict(printable(word).lstrip("+").split("=", 1) for word in each if "=" in str(word)) for each in overrides]
    found = [best for name in jobs if (best := best_of(path / name))]
    return enumerate_counts(counts) or "no jobs", gather(pairs), choose(found, [path / name for name in jobs])


def gather(lines: list[dict[str, str]]) -> str:
    """Command lines, key -> value each, as one: 'loss=bce,hinge steps=500'; what makes no other run is left out."""
    keys = [key for key in dict.fromkeys(key for line in lines for key in line) if find_key(key).is_identity]
    parts = []
    for key, short in shorten_keys(keys).items():
        values = list(dict.fromkeys(line[key] for line in lines if key in line))
        more = f",... ({len(values)})" if len(values) > SHOWN else ""
        parts.append(f"{short}={','.join(values[:SHOWN])}{more}")
    return " ".join(parts) or NONE


def best_of(path: Path) -> Best | None:
    """The best of a run's objective; None where nothing was evaluated."""
    try:
        best: Any = as_dict(as_dict(json.loads((path / "summary.json").read_bytes())).get("best"))
    except (OSError, ValueError, RecursionError):
        return None
    value = number(best.get("value"))
    return None if value is None or "objective" not in best else Best(printable(best["objective"]), value)


def choose(found: list[Best], paths: list[Path]) -> Best | None:
    """The best of several runs, by the objective that most have; None where its direction is not known."""
    if not found:
        return None
    ((tag, _),) = Counter(best.tag for best in found).most_common(1)
    all_directions = (read_directions(path / "evaluations.jsonl")[0] for path in paths)
    directions: dict[str, bool] = next(filter(None, all_directions), {})
    if tag not in directions:
        return None
    values = [best.value for best in found if best.tag == tag]
    return Best(tag, max(values) if directions[tag] else min(values))


def age(seconds: float) -> str:
    """'12 s', '3 min', '5 h', '20 d'."""
    unit = next((unit for unit, size in UNITS.items() if seconds >= 2 * size), "s")
    return f"{max(0.0, seconds) / UNITS[unit]:.0f} {unit}"
