"""Runs as a table for Python: a pandas DataFrame."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_runner.config.errors import ConfigError
from gan_runner.config.keys import hyperparameters
from gan_runner.config.stored import read_stored
from gan_runner.storage.hydra_files import CONFIG
from gan_runner.storage.outputs import OUTPUTS, find, is_run, is_sweep
from gan_runner.storage.status import status_of

if TYPE_CHECKING:
    import pandas as pd


def run_table(*directories: str | Path) -> "pd.DataFrame":
    """The runs in directories (of sweeps, of one run alone; by default all of `outputs`), a row for each.

    The index is the run's path, below the directory where there is only one. Columns, in this order:

        sweep                    the name of its sweep
        status, step, wall_time  as in summary.json; `killed` where a running one's process is gone; seconds
        objective, best          the tag that the run is ranked by, and its best value
        KEY                      every key of the configs that is not the same in all runs, groups by the name of the
                                 option: loss, optimizer.lr, seed
        TAG                      the last values of the log: loss/generator, metric/frechet/distance

    What a run does not have is NaN. Raises ConfigError where a directory has no run, or a config cannot be read.
    """
    import pandas as pd

    directories = directories or (OUTPUTS,)
    found = {directory: list(all_runs(Path(directory))) for directory in directories}
    for directory, paths in found.items():
        if not paths:
            raise ConfigError(f"{directory}: there is no run in it")
    paths = list(dict.fromkeys(itertools.chain(*found.values())))
    names = [path.relative_to(directories[0]) for path in paths] if len(directories) == 1 else paths
    rows = [read_row(path) for path in paths]
    known = [row["keys"] for row in rows]
    keys = dict.fromkeys(key for each in known for key in each)
    varied = [key for key in keys if len({json.dumps(each.get(key)) for each in known}) > 1]
    made = [row["facts"] | {key: row["keys"].get(key) for key in varied} | row["values"] for row in rows]
    return pd.DataFrame(made, index=pd.Index(map(str, names), name="run"))


def all_runs(directory: Path) -> Iterator[Path]:
    """The run directories at and below a directory, those of sweeps among them."""
    if is_run(directory):
        yield directory
        return
    for path in find(directory):
        yield from find(path) if is_sweep(path) else [path]


def read_row(path: Path) -> dict[str, dict[str, Any]]:
    """What a run says of itself: facts, keys of its config, last values of its log. Raises ConfigError."""
    try:
        summary = json.loads((path / "summary.json").read_bytes())
        config = read_stored(path / CONFIG)
        best = summary.get("best") or {}
        facts = {
            "sweep": path.parent.name if is_sweep(path.parent) else None,
            "status": status_of(path, summary),
            "step": summary.get("step"),
            "wall_time": summary.get("wall_time"),
            "objective": best.get("objective"),
            "best": plain_number(best.get("value")),
        }
        values = {tag: plain_number(value) for tag, value in summary.get("metrics", {}).items()}
        return {"facts": facts, "keys": hyperparameters(config, summary.get("options", {})), "values": values}
    except ConfigError:
        raise
    except Exception as error:  # whatever a damaged file makes its reader stumble over
        raise ConfigError(f"{path}: it cannot be read ({type(error).__name__}: {error})") from error


def plain_number(value: Any) -> float | None:
    """A number as these files have it, NaN and infinities by name."""
    return None if value is None else float(value)


def log_table(path: Path) -> "pd.DataFrame":
    """metrics.jsonl of a run: a row for each log point, a column for each tag, the step as the index.

    A value that a log point does not have is NaN. A last line that is still being written is left out.
    """
    import pandas as pd

    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append({key: plain_number(value) for key, value in json.loads(line).items()})
        except ValueError:  # of a run that is being written
            continue
    return pd.DataFrame(rows).astype({"step": int}).set_index("step") if rows else pd.DataFrame()
