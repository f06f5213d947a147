"""What a single run has come to, in words, and what its config has that the defaults have not."""

from typing import Any, NamedTuple

from gan_runner.config.compose import compose_packaged, to_plain
from gan_runner.config.stored import translate_stored
from gan_runner.reporting.formats import MISSING, canonical, duration_text, value_text
from gan_runner.reporting.stored_runs import Run, dotted_items


def verdict(run: Run, warnings: list[str]) -> list[str]:
    """How the run ended, its objective beside the floor, and its warnings: a sentence each."""
    time = duration_text(run.wall_time)
    found = [
        f"{run.status.capitalize()} after {run.step or 0:,} steps"
        + (f" in {time}" if time != MISSING else "")
        + (f": {run.reason}." if run.reason else ".")
    ]
    tag = run.objective
    if tag and (last := run.last.get(tag)) is not None:
        higher = run.higher_is_better.get(tag)
        best = run.best(tag, higher)
        direction = {True: " (higher is better)", False: " (lower is better)", None: ""}[higher]
        at_best = f", at best {best:.4g}" if best is not None and best != last else ""
        found.append(f"{tag.removeprefix('metric/')}{direction} is {last:.4g} in the end{at_best}.")
        for floored in (other for other in run.floors if other == tag or other.startswith(f"{tag} of ")):
            of = floored.removeprefix(tag)
            beside = f", where the run has {run.last[floored]:.4g}" if of and floored in run.last else ""
            found.append(f"The floor, real data against real data, is {run.floors[floored]:.4g}{of}{beside}.")
    else:
        found.append("It was not measured.")
    if not warnings:
        return [*found, "No warnings."]
    head = "1 warning" if len(warnings) == 1 else f"{len(warnings)} warnings, the first"
    return [*found, f"{head}: {warnings[0].rstrip('.')}."]


class Difference(NamedTuple):
    """A key of a config as text, and what the default run has there."""

    key: str
    value: str
    default: str

    @property
    def is_default(self) -> bool:
        return self.value == self.default


def against_defaults(run: Run) -> list[Difference]:
    """Every key of a run's config beside what this version's default run has there; those that differ first."""
    defaults: dict[str, Any] = dict(dotted_items(translate_stored(to_plain(compose_packaged([])))))
    found = []
    for key, value in run.config.items():
        is_same = key in defaults and canonical(defaults[key]) == canonical(value)
        default = value_text(value) if is_same else value_text(defaults[key]) if key in defaults else MISSING
        found.append(Difference(key, value_text(value), default))
    return sorted(found, key=lambda one: one.is_default)
