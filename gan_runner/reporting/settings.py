"""The settings of a sweep: what its runs differ in, grouped over seeds, ranked."""

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from gan_runner.config.keys import find_key, shorten_keys
from gan_runner.reporting.stored_runs import LARGEST, Run

MISSING = "–"  # in the place of a key that a run does not have


class Spread(NamedTuple):
    """Mean and standard deviation (of a sample, None of one value) of the finite values among some."""

    mean: float
    sd: float | None
    of: int


@dataclass(kw_only=True)
class Quantity:
    """A number of each run that settings are compared by."""

    tag: str
    is_best: bool  # the best value of the run, not the last
    higher_is_better: bool | None

    def of(self, run: Run) -> float | None:
        """The number of one run, None where it has none."""
        return run.best(self.tag, self.higher_is_better) if self.is_best else run.last.get(self.tag)

    @property
    def name(self) -> str:
        return self.tag.removeprefix("metric/")


@dataclass(kw_only=True)
class Setting:
    """Runs that differ in nothing but the seed."""

    number: int  # 1 is the best
    values: dict[str, Any]  # of the study's columns
    label: str
    runs: list[Run]

    def spread(self, quantity: Quantity) -> Spread:
        return spread(quantity.of(run) for run in self.completed)

    @property
    def completed(self) -> list[Run]:
        return [run for run in self.runs if run.status == "completed"]

    def not_counted(self, quantity: Quantity | None) -> str:
        """What is left out of the mean of a quantity, and why: '1 failed, 2 running'."""
        counts = Counter(run.status for run in self.runs if run.status != "completed")
        if quantity and (odd := len(self.completed) - self.spread(quantity).of):
            counts["without a finite value"] = odd
        return enumerate_counts(counts)


@dataclass(kw_only=True)
class Study:
    """A sweep as a whole."""

    runs: list[Run]
    columns: dict[str, str]  # key -> short name, of what tells the settings apart
    varied: list[str]  # all config keys that differ, and the words
    settings: list[Setting]  # best first
    objective: Quantity | None
    quantities: list[Quantity]  # the objective first
    missing: int = 0  # jobs that have no directory yet

    @property
    def counts(self) -> str:
        """How the runs stand: '4 runs, 2 settings: 3 completed, 1 failed'."""
        counts = Counter(run.status for run in self.runs)
        counts["not started"] += self.missing
        runs, settings = len(self.runs), len(self.settings)
        head = f"{runs:,} run{'s' * (runs != 1)}, {settings:,} setting{'s' * (settings != 1)}"
        return f"{head}: {enumerate_counts(+counts)}"


def floor_of(runs: list[Run], tag: str) -> float | None:
    """What real data have, where that is the same in all runs that know it."""
    found = {run.floors[tag] for run in runs if tag in run.floors}
    return found.pop() if len(found) == 1 else None


def enumerate_counts(counts: Counter[str]) -> str:
    """'3 failed, 1 running'."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


def make_study(runs: list[Run], missing: int = 0) -> Study:
    """Group runs over seeds, and rank the groups by the objective."""
    known = [run for run in runs if run.config]
    varied = varied_keys([run.config for run in known])
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in known:
        groups.setdefault(tuple(canonical(run.config.get(key)) for key in varied), []).append(run)
    columns = choose_columns(list(groups.values()), varied)
    quantities = find_quantities(runs)
    objective = next((quantity for quantity in quantities if quantity.is_best), None)
    short = shorten_keys(columns)
    settings = []
    for members in groups.values():
        values = {key: value_of(members[0], key) for key in columns}
        label = ", ".join(f"{short[key]}={value_text(value)}" for key, value in values.items())
        runs_by_seed = sorted(members, key=lambda run: (sort_key(run.seed), run.path.name))
        settings.append(Setting(number=0, values=values, label=label or "the only setting", runs=runs_by_seed))
    settings.sort(key=lambda setting: [sort_key(value) for value in setting.values.values()])
    if objective:
        settings.sort(key=lambda setting: rank(setting, objective))
    for place, setting in enumerate(settings, start=1):
        setting.number = place
    words = [
        key
        for key in varied_keys([run.words or {} for run in known])
        if all(isinstance(run.config.get(key, {}), dict) for run in known)  # a choice: no key of the config itself
    ]
    return Study(
        runs=runs, columns=short, varied=[*words, *varied], settings=settings, objective=objective,
        quantities=quantities, missing=missing,
    )  # fmt: skip


def rank(setting: Setting, objective: Quantity) -> float:
    """Lower is better; what has no value comes last."""
    found = setting.spread(objective)
    return math.inf if not found.of else -found.mean if objective.higher_is_better else found.mean


def spread(values: Iterable[float | None]) -> Spread:
    """Mean and standard deviation of the finite values."""
    known = finite(values)
    if not known:
        return Spread(math.nan, None, 0)
    return Spread(statistics.fmean(known), statistics.stdev(known) if len(known) > 1 else None, len(known))


def finite(values: Iterable[float | None]) -> list[float]:
    """The finite values."""
    return [value for value in values if value is not None and math.isfinite(value)]


def find_quantities(runs: list[Run]) -> list[Quantity]:
    """The best value of the objective, then the last of each metric; of the losses where there is no metric."""
    higher: dict[str, bool] = {}
    for run in runs:
        higher |= run.higher_is_better
    tags = list(dict.fromkeys(tag for run in runs for tag in run.last))
    metrics = [tag for tag in tags if tag.startswith("metric/")]
    shown = metrics or [tag for tag in tags if tag.startswith("loss/")]
    last = [Quantity(tag=tag, is_best=False, higher_is_better=higher.get(tag)) for tag in shown]
    objectives = Counter(run.objective for run in runs if run.objective in higher)
    if not objectives:
        return last
    (tag, _), *_ = objectives.most_common(1)
    assert tag is not None, "None is no key of higher"
    return [Quantity(tag=tag, is_best=True, higher_is_better=higher[tag]), *last]


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


def canonical(value: Any) -> str:
    """A text that is equal for equal values: 1, 1.0 and 1e0 are."""
    return repr(float(value)) if is_number(value) else json.dumps(value, default=str, sort_keys=True)


def is_number(value: Any) -> bool:
    """A bool is none, nor is NaN, nor what is beyond all bounds."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def value_text(value: Any) -> str:
    """A value as one would type it; of a class, its name."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else canonical(value) if isinstance(value, list | dict) else str(value)
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    text = text.rpartition(".")[2] if text.startswith(("gan_runner.", "torch.")) else text
    return text if len(text) <= 60 else f"{text[:57]}..."


def sort_key(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then the rest by name."""
    return (False, float(value), "") if is_number(value) else (True, 0.0, value_text(value))
