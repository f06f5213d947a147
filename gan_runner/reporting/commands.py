"""Shell lines that repeat what a report is about."""

import math
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from gan_runner.config.keys import find_key
from gan_runner.reporting.settings import Quantity, Setting, Study
from gan_runner.reporting.stored_runs import Run, as_dict
from gan_runner.storage.hydra_files import HYDRA, MULTIRUN, flags_of, read_or_none, words_of_run


class Command(NamedTuple):
    """A shell line and what it does."""

    purpose: str
    line: str


def of_sweeps(directories: list[Path]) -> list[Command]:
    """The line of each sweep."""
    one = len(directories) == 1
    found = [("The sweep" if one else f"The sweep {path.name}", sweep_line(path)) for path in directories]
    return [Command(purpose, line) for purpose, line in found if line]


def of_best(study: Study, best: Setting) -> list[Command]:
    """The lines that train the best setting again and draw samples from its best run."""
    run = best_run(best, study.objective)
    found = [("The best setting again", training_line(run)), ("Samples of its best run", sampling_line(run, study))]
    return [Command(purpose, line) for purpose, line in found if line]


def of_run(run: Run) -> list[Command]:
    """The line that trains a run again, and the one that samples from it."""
    found = [("The run again", training_line(run)), ("Samples of it", sampling_line(run))]
    return [Command(purpose, line) for purpose, line in found if line]


def sweep_line(directory: Path) -> str | None:
    """The line that a sweep was last started by; None where that is not known."""
    hydra = as_dict(as_dict(read_or_none(directory / MULTIRUN)).get("hydra"))
    overrides = as_dict(hydra.get("overrides"))
    words = overrides.get("task")
    if not isinstance(words, list):
        return None
    if not any(str(word).startswith("sweep=") for word in words):
        words = [*words, f"sweep={directory.resolve().name}"]
    own = overrides.get("hydra")
    own = [word for word in own if not str(word).startswith("hydra.mode=")] if isinstance(own, list) else []
    return shell_line("gan-runner", "-m", *flags_of(directory / MULTIRUN), *own, *words)


def training_line(run: Run) -> str | None:
    """The line that trains a run again; None where its words are not known."""
    words = words_of_run(run.path)
    if words is None:
        return None
    keys = {word: word.lstrip("+").partition("=")[0] for word in words}
    own = [word for word, key in keys.items() if not find_key(key).is_of_sweep and key not in ("prune", "name")]
    return shell_line("gan-runner", *flags_of(run.path / HYDRA), *own)


def sampling_line(run: Run, study: Study | None = None) -> str | None:
    """The line that draws samples from a run: of the checkpoint that it is ranked by; None where it has none."""
    wanted = ["best", "last"] if study and study.objective and study.objective.is_best else ["last", "best"]
    there = [name for name in wanted if (run.path / "checkpoints" / f"{name}.pt").exists()]
    if not there:
        return None
    return shell_line("gan-runner", "sample", str(run.path), *(["--checkpoint", "best"] if there[0] == "best" else []))


def shell_line(*words: Any) -> str | None:
    """Words as one types them; None where one cannot be shown."""
    if not all(str(word).isprintable() for word in words):
        return None
    return shlex.join(map(str, words))


def best_run(setting: Setting, objective: Quantity | None) -> Run:
    """The run of a setting that is the best: a completed one before the others."""
    return sorted(setting.runs, key=lambda run: place(run, objective))[0]


def place(run: Run, objective: Quantity | None) -> tuple[bool, bool, float]:
    """To sort runs by: the completed ones before the others, then the best first."""
    value = objective.of(run) if objective else None
    if objective is None or value is None or math.isnan(value):
        return run.status != "completed", True, 0.0
    return run.status != "completed", False, -value if objective.higher_is_better else value
