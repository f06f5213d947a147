"""The settings of a sweep: what its runs differ in, grouped over seeds, ranked."""

import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from gan_runner.config.keys import find_key
from gan_runner.reporting.formats import MISSING, canonical, enumerate_counts, is_number, sort_key, value_text
from gan_runner.reporting.stored_runs import UNBOUNDED, Run

Rank = Literal["best", "last"]


class Spread(NamedTuple):
    """Mean and standard deviation (of a sample, NaN of one value) of the finite values among some."""

    mean: float
    sd: float
    of: int


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A number of each run that settings are compared by."""

    tag: str
    is_best: bool  # the best value of the run, not the last
    higher_is_better: bool | None
    bounds: tuple[float, float] = UNBOUNDED  # that it lies between

    def of(self, run: Run) -> float | None:
        """The number of one run, None where it has none."""
        return run.best(self.tag, self.higher_is_better) if self.is_best else run.last.get(self.tag)

    @property
    def name(self) -> str:
        return self.tag.removeprefix("metric/")

    @property
    def title(self) -> str:
        return f"{self.name}, best" if self.is_best else self.name


@dataclass(kw_only=True)
class Setting:
    """Runs that differ in nothing but the seed."""

    number: int  # 1 is the best
    values: dict[str, Any]  # of the study's columns
    label: str
    runs: list[Run]

    @property
    def completed(self) -> list[Run]:
        return [run for run in self.runs if run.status == "completed"]


@dataclass(kw_only=True)
class Study:
    """A sweep as a whole, or any other collection of runs."""

    runs: list[Run]
    columns: dict[str, str]  # key -> name, of what tells the settings apart
    varied: list[str]  # all config keys that differ, and the words
    settings: list[Setting]  # best first
    objective: Quantity | None
    quantities: list[Quantity]  # the objective first
    values: (
        pd.DataFrame
    )  # a row per run that has a setting: its number, status, wall_time; a column per quantity's title
    spreads: (
        pd.DataFrame
    )  # a row per setting's number: (title, mean), (title, std), (title, count) of the completed ones
    missing: int = 0  # jobs that have no directory yet
    of_search: bool = False  # whether a search drew its values

    def spread(self, setting: Setting, quantity: Quantity) -> Spread:
        """Over the completed runs of a setting."""
        return self.spreads_by_title[quantity.title][setting.number - 1]

    @cached_property
    def spreads_by_title(self) -> dict[str, list[Spread]]:
        """The same table, to look many of its cells up: title -> a spread per setting."""
        return {
            quantity.title: [
                Spread(mean, sd, int(count)) for mean, sd, count in self.spreads[quantity.title].to_numpy().tolist()
            ]
            for quantity in self.quantities
        }

    def finite(self, setting: Setting, quantity: Quantity) -> list[float]:
        """The numbers of the completed runs of a setting, without those that are not finite."""
        return finite(quantity.of(run) for run in setting.completed)

    def time(self, setting: Setting) -> float:
        """The mean wall time of the completed runs of a setting in seconds; NaN where none has one."""
        return float(self.spreads["wall_time"]["mean"].iloc[setting.number - 1])

    def not_counted(self, setting: Setting, quantity: Quantity | None) -> str:
        """What is left out of the mean of a quantity, and why: '1 failed, 2 running'."""
        counts = Counter(run.status for run in setting.runs if run.status != "completed")
        if quantity and (odd := len(setting.completed) - self.spread(setting, quantity).of):
            counts["without a finite value"] = odd
        return enumerate_counts(counts)

    @property
    def planned(self) -> int:
        """How many runs there are, or will be."""
        return len(self.runs) + self.missing

    @property
    def unfinished(self) -> int:
        """How many runs can still give a value."""
        return self.missing + sum(run.status in ("running", "interrupted", "killed") for run in self.runs)

    @property
    def counts(self) -> str:
        """How the runs stand: '4 runs, 2 settings: 3 completed, 1 failed'."""
        counts = Counter(run.status for run in self.runs)
        counts["not started"] += self.missing
        runs, settings = self.planned, len(self.settings)
        head = f"{runs:,} run{'s' * (runs != 1)}, {settings:,} setting{'s' * (settings != 1)}"
        return f"{head}: {enumerate_counts(+counts)}"


def floor_of(runs: list[Run], tag: str) -> float | None:
    """What real data have, where that is the same in all runs that know it."""
    found = {run.floors[tag] for run in runs if tag in run.floors}
    return found.pop() if len(found) == 1 else None


def make_study(runs: list[Run], missing: int = 0, rank: Rank = "best", *, of_search: bool = False) -> Study:
    """Group runs over seeds, and rank the groups by the objective: the best value of each run, or its last."""
    known = [run for run in runs if run.config]
    varied = varied_keys([run.config for run in known])
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in known:
        groups.setdefault(tuple(canonical(run.config.get(key)) for key in varied), []).append(run)
    columns = {key: key_name(key) for key in choose_columns(list(groups.values()), varied)}
    settings = []
    for members in groups.values():
        values = {key: value_of(members[0], key) for key in columns}
        label = ", ".join(f"{columns[key]}={value_text(value)}" for key, value in values.items())
        runs_by_seed = sorted(members, key=lambda run: (sort_key(run.seed), run.name))
        settings.append(Setting(number=0, values=values, label=label or "the only setting", runs=runs_by_seed))
    settings.sort(key=lambda setting: [sort_key(value) for value in setting.values.values()])
    objective, quantities = find_quantities(runs, rank)
    if objective:
        settings = by_objective(settings, objective)
    for place, setting in enumerate(settings, start=1):
        setting.number = place
    words = [
        key
        for key in varied_keys([run.words or {} for run in known])
        if all(isinstance(run.config.get(key, {}), dict) for run in known)  # a choice: no key of the config itself
    ]
    values = table_of_values(settings, quantities)
    return Study(
        runs=runs, columns=columns, varied=[*words, *varied], settings=settings, objective=objective,
        quantities=quantities, values=values, spreads=spreads_of(values, quantities), missing=missing,
        of_search=of_search,
    )  # fmt: skip


def table_of_values(settings: list[Setting], quantities: list[Quantity]) -> pd.DataFrame:
    """A row per run that has a setting; what is not finite is NaN."""
    rows = [
        {"setting": setting.number, "status": run.status, "wall_time": run.wall_time}
        | {quantity.title: quantity.of(run) for quantity in quantities}
        for setting in settings
        for run in setting.runs
    ]
    names = ["wall_time", *(quantity.title for quantity in quantities)]
    table = pd.DataFrame(rows, columns=["setting", "status", *names])
    table[names] = table[names].astype(float).where(np.isfinite)
    return table


def spreads_of(values: pd.DataFrame, quantities: list[Quantity]) -> pd.DataFrame:
    """Mean, standard deviation and count of the completed runs of each setting."""
    names = ["wall_time", *(quantity.title for quantity in quantities)]
    groups = values[values.status == "completed"].groupby("setting")[names]
    found = groups.agg(["mean", "std", "count"]).reindex(values.setting.unique())
    return found.fillna({(name, "count"): 0 for name in names})


def by_objective(settings: list[Setting], objective: Quantity) -> list[Setting]:
    """The best mean first; what has no value comes last, and equal ones stay in their order."""

    def rank(setting: Setting) -> float:
        values = finite(objective.of(run) for run in setting.completed)
        mean = statistics.fmean(values) if values else math.inf
        return -mean if values and objective.higher_is_better else mean

    return sorted(settings, key=rank)


def finite(values: Iterable[float | None]) -> list[float]:
    """The finite values among some."""
    return [value for value in values if value is not None and math.isfinite(value)]


def find_quantities(runs: list[Run], rank: Rank) -> tuple[Quantity | None, list[Quantity]]:
    """The objective, and all quantities: the objective first, then the last value of each metric.

    Of the objective's metric only where it differs from the objective. Where there is no metric, the last values of the
    losses.
    """
    higher: dict[str, bool] = {}
    bounds: dict[str, tuple[float, float]] = {}
    for run in runs:
        higher |= run.higher_is_better
        bounds |= run.bounds
    tags = list(dict.fromkeys(tag for run in runs for tag in run.last))
    metrics = [tag for tag in tags if tag.startswith("metric/")]
    last = [
        Quantity(tag=tag, is_best=False, higher_is_better=higher.get(tag), bounds=bounds.get(tag, UNBOUNDED))
        for tag in metrics or [tag for tag in tags if tag.startswith("loss/")]
    ]
    objectives = Counter(run.objective for run in runs if run.objective in higher)
    if not objectives:
        return None, last
    (tag, _), *_ = objectives.most_common(1)
    assert tag is not None, "None is no key of higher"
    objective = Quantity(
        tag=tag, is_best=rank == "best", higher_is_better=higher[tag], bounds=bounds.get(tag, UNBOUNDED)
    )
    others = [each for each in last if each.tag != tag or any(each.of(run) != objective.of(run) for run in runs)]
    return objective, [objective, *others]


def key_name(key: str) -> str:
    """A key as one types it: `loss` for loss._target_, and without the + that adds it."""
    return key.lstrip("+").removesuffix("._target_")


# --- what varies ------------------------------------------------------------------------------------------------------


def varied_keys(configs: list[dict[str, Any]]) -> list[str]:
    """The keys that tell settings apart and that differ, in their order; null and missing are the same."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [
        key for key in keys if find_key(key).tells_apart and len({canonical(config.get(key)) for config in configs}) > 1
    ]


def choose_columns(groups: list[list[Run]], varied: list[str]) -> list[str]:
    """The keys that settings are told apart by: the words that vary, as one choice (loss=wgan) sets many keys.

    Keys of the config where the words do not tell, or are not there: numbers, but not two that are always equal
    (`steps` and lr_schedule.steps), then whatever is needed beside these.
    """
    runs = [run for members in groups for run in members]
    words = varied_keys([run.words for run in runs if run.words is not None])
    if any(run.words is None for run in runs):
        words = []
    chosen = [
        key
        for key in words
        if all(len({identify(run, key) for run in members}) == 1 for members in groups)
        and len({identify(members[0], key) for members in groups}) > 1
    ]
    if is_told(groups, chosen):
        return chosen
    for key in sorted(varied, key=lambda key: key.count(".")):
        values = [identify(members[0], key) for members in groups]
        is_new = all(values != [identify(members[0], other) for members in groups] for other in chosen)
        if is_new and all(is_number(value_of(members[0], key)) for members in groups):
            chosen.append(key)
    while not is_told(groups, chosen):
        rest = [key for key in varied if key not in chosen and refines(groups, chosen, key)]
        if not rest:
            break
        chosen.append(max(rest, key=lambda key: len({identify(members[0], key) for members in groups})))
    return chosen


def is_told(groups: list[list[Run]], keys: list[str]) -> bool:
    """Whether the keys tell all groups apart."""
    return len({tuple(identify(members[0], key) for key in keys) for members in groups}) == len(groups)


def refines(groups: list[list[Run]], keys: list[str], key: str) -> bool:
    """Whether one more key tells more groups apart."""
    told = {tuple(identify(members[0], one) for one in keys) for members in groups}
    return len({tuple(identify(members[0], one) for one in [*keys, key]) for members in groups}) > len(told)


def value_of(run: Run, key: str) -> Any:
    """A run's value of a config key, or of an override that chose an option and is no key of the config."""
    value = run.config.get(key, {})
    return (run.words or {}).get(key, run.config.get(key, MISSING)) if isinstance(value, dict) else value


def identify(run: Run, key: str) -> str:
    """`value_of`, to compare by."""
    value = value_of(run, key)
    return canonical(None if value is MISSING else value)
