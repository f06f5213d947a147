"""What the plots of a page show, as plain lists and dicts for its script; numbers have four digits."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gan_runner.reporting.answer import half_width
from gan_runner.reporting.formats import MISSING, canonical, is_number, sort_key, value_text
from gan_runner.reporting.settings import Quantity, Study, floor_of
from gan_runner.reporting.stored_runs import UNBOUNDED, Curve, Run, thin

MOST_NUMBERS = 350_000  # of all curves: about 2.3 MB
MOST_LINES = 12  # of one plot of a single run
TICKS = 12  # values that are written at an axis
DECADES = 1e30  # that a logarithmic axis spans at most
FEWEST = 8  # settings that make a search
MOST_IN_A_MAP = 40  # values along a side of a heat map
CLOCK_POINTS = 40
Json = dict[str, Any]


def of_study(study: Study) -> tuple[Json, list[str]]:
    """All that the plots of a sweep show, and what was left out, a sentence each."""
    curves, left_out = learning_curves(study)
    seeds = study.values[study.values.status == "completed"]
    runs = [run for setting in study.settings for run in setting.runs]
    data = {
        "columns": list(study.columns.values()),
        "settings": [
            {"number": one.number, "label": one.label, "values": [value_text(value) for value in one.values.values()]}
            for one in study.settings
        ],
        "quantities": [describe(study, quantity) for quantity in study.quantities],
        "means": [means(study, quantity) for quantity in study.quantities],
        "runs": [
            [setting - 1, value_text(runs[row].seed), numbers(values)]
            for row, setting, values in zip(seeds.index, seeds.setting, seeds[titles(study)].to_numpy(), strict=True)
        ],
        "axes": [axis([setting.values[key] for setting in study.settings]) for key in study.columns],
        "maps": heat_maps(study),
        **curves,
    }
    if is_search(study) and study.objective:
        data["history"] = history(study, study.objective)
        data["importance"] = importance(study, study.objective)
    return data, left_out


def of_run(run: Run) -> Json:
    """All that the plots of a single run show: a plot for each metric, and one for each other kind of tags."""
    groups: dict[str, list[str]] = {}
    for tag, curve in run.curves.items():
        if np.isfinite(curve.values).any():
            groups.setdefault(tag if tag.startswith("metric/") else tag.partition("/")[0], []).append(tag)
    order = sorted(groups, key=lambda name: (name != run.objective, not name.startswith("metric/"), name != "loss"))
    steps = Steps()
    curves = []
    for name in order:
        tags = groups[name][:MOST_LINES]
        lines = [
            {"name": tag.partition("/")[2] if len(tags) > 1 else tag.removeprefix("metric/"), "setting": 0,
             "steps": steps.place(run.curves[tag].steps), "mean": numbers(run.curves[tag].values)}
            for tag in tags
        ]  # fmt: skip
        known = np.concatenate([run.curves[tag].values for tag in tags])
        curves.append(chart(name.removeprefix("metric/"), known, lines, run.floors.get(name), run.bounds.get(name)))
    return {"curves": curves, "steps": steps.lists, "clocks": [clock([run], steps)]}


def titles(study: Study) -> list[str]:
    """The columns of the quantities."""
    return [quantity.title for quantity in study.quantities]


def describe(study: Study, quantity: Quantity) -> Json:
    """A quantity: its name, direction and floor."""
    floor = floor_of(study.runs, quantity.tag)
    values = study.spreads[(quantity.title, "mean")].to_numpy(dtype=float)
    known = np.append(values[np.isfinite(values)], [] if floor is None else [floor])
    return {
        "title": quantity.title, "higher": quantity.higher_is_better, "floor": number(floor),
        "isLog": spans_decades(known),
    }  # fmt: skip


def means(study: Study, quantity: Quantity) -> list[list[float | None]]:
    """Of each setting the mean, the ends of its 95 % interval over seeds, and their number."""
    table = study.spreads[quantity.title]
    mean, count = table["mean"].to_numpy(dtype=float), table["count"].to_numpy(dtype=float)
    half = half_width(table["std"].to_numpy(dtype=float), count)
    low, high = within(mean, half, quantity.bounds)
    return [numbers(row) for row in np.stack([mean, low, high, count], axis=1)]


def within(mean: np.ndarray, half: np.ndarray, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """The ends of an interval, cut off at what a value can be."""
    low = np.maximum(mean - half, np.minimum(bounds[0], mean))
    return low, np.minimum(mean + half, np.maximum(bounds[1], mean))


# --- curves -----------------------------------------------------------------------------------------------------------


class Steps:
    """The different lists of steps that curves have."""

    def __init__(self) -> None:
        self.lists: list[list[int]] = []
        self.places: dict[bytes, int] = {}

    def place(self, steps: np.ndarray) -> int:
        """Where a list is, which is added if it is new."""
        key = steps.astype(np.int64).tobytes()
        if key not in self.places:
            self.places[key] = len(self.lists)
            self.lists.append([int(step) for step in steps])
        return self.places[key]


def learning_curves(study: Study) -> tuple[Json, list[str]]:
    """Objective, losses and metrics against the step: the mean of every setting with its 95 % interval over seeds."""
    tags = list(dict.fromkeys(tag for run in study.runs for tag in run.curves))
    objective = study.objective.tag if study.objective else None
    tags.sort(key=lambda tag: (tag != objective, not tag.startswith("loss/")))
    bounds = {quantity.tag: quantity.bounds for quantity in study.quantities}
    steps, charts, room, left = Steps(), [], MOST_NUMBERS, 0
    for tag in tags:
        lines, known = [], []
        for place, setting in enumerate(study.settings):
            curve = mean_curve([run.curves[tag] for run in setting.runs if tag in run.curves])
            if curve is None or not np.isfinite(curve[1]).any():
                continue
            at, mean, half = curve
            has_band = bool(np.isfinite(half).any())
            room -= len(at) * (1 + has_band)
            if room < 0:
                left += 1
                continue
            known.append(mean)
            band = {"half": numbers(half)} if has_band else {}
            lines.append({"setting": place, "steps": steps.place(at), "mean": numbers(mean), **band})
        if lines:
            floor = floor_of(study.runs, tag)
            made = chart(tag.removeprefix("metric/"), np.concatenate(known), lines, floor, bounds.get(tag))
            charts.append(made | {"isFirst": tag == objective})
    charts.sort(key=lambda one: (not one["isFirst"], one["title"].startswith("loss/")))
    clocks = [clock(setting.runs, steps) for setting in study.settings]
    left_out = [f"{left:,} curves of settings that are not among the best, or of further metrics"] if left else []
    return {"curves": charts, "steps": steps.lists, "clocks": clocks}, left_out


def chart(
    title: str, known: np.ndarray, lines: list[Json], floor: float | None, bounds: tuple[float, float] | None
) -> Json:
    """A plot of curves."""
    finite = known[np.isfinite(known)]
    least, greatest = bounds or UNBOUNDED
    return {
        "title": title, "floor": number(floor), "bounds": [number(least), number(greatest)],
        "isLog": spans_decades(np.append(finite, [] if floor is None else [floor])), "lines": lines,
    }  # fmt: skip


def mean_curve(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps, mean over seeds, and half of its 95 % interval, NaN where there are fewer than two; None of no curve.

    Seeds are logged at the same steps, as a rule; elsewhere they are interpolated, each within its own steps.
    """
    if not curves:
        return None
    steps = np.unique(np.concatenate([curve.steps for curve in curves]))
    steps = steps[thin(len(steps))]
    each = np.stack([np.interp(steps, *curve, left=np.nan, right=np.nan) for curve in curves])
    each[~np.isfinite(each)] = np.nan
    counts = (~np.isnan(each)).sum(0)
    mean = np.nansum(each, 0) / np.where(counts, counts, np.nan)
    deviations = np.nansum((each - mean) ** 2, 0)
    return steps, mean, half_width(np.sqrt(deviations / np.where(counts > 1, counts - 1, np.nan)), counts)


def clock(runs: list[Run], steps: Steps) -> Json:
    """What the steps of some runs are in real images, and in seconds."""
    images = [run.images.values[-1] / run.images.steps[-1] for run in runs if run.images and run.images.steps[-1] > 0]
    found: Json = {"images": number(float(np.mean(images))) if images else None}
    curve = mean_curve([run.seconds for run in runs if run.seconds])
    if curve and np.isfinite(curve[1]).all():
        kept = np.unique(np.linspace(0, len(curve[0]) - 1, min(CLOCK_POINTS, len(curve[0]))).round().astype(int))
        found |= {"steps": steps.place(curve[0][kept]), "seconds": numbers(curve[1][kept])}
    return found


# --- against the keys swept -------------------------------------------------------------------------------------------


def axis(values: Sequence[Any]) -> Json:
    """Where the values of a key lie along an axis, None for one that is not there, and the ticks of that.

    Numbers that are spaced so lie on a logarithmic axis: their logarithms to the base 10 on a linear one, so that zero
    can have a place, a decade below the least. Names lie at 0, 1, ... in their order.
    """
    there = [value for value in values if value is not MISSING]
    if not all(map(is_number, there)):
        names = {canonical(value): value_text(value) for value in sorted(there, key=sort_key)}
        places = {name: place for place, name in enumerate(names)}
        positions = [None if value is MISSING else places[canonical(value)] for value in values]
        kept = range(0, len(names), math.ceil(len(names) / (2 * TICKS)))
        written = [[place, list(names.values())[place]] for place in kept]
        return {"positions": positions, "ticks": written, "isLog": False, "isName": True}
    distinct = sorted({float(value) for value in there})
    is_log = is_log_spaced(distinct)
    least = min((value for value in distinct if value > 0), default=1.0)

    def position(value: float) -> float:
        if not is_log:
            return float(value)
        return math.log10(value) if value > 0 else math.log10(least) - 1

    ticks: list[list[Any]] | None = None
    if len(distinct) <= TICKS:
        ticks = [[position(value), f"{value:g}"] for value in distinct]
    elif is_log:
        ticks = decades(least, distinct[-1]) + ([[position(0.0), "0"]] if distinct[0] == 0 else [])
    return {
        "positions": [None if value is MISSING else round(position(value), 6) for value in values],
        "ticks": ticks and spread_out(ticks), "isLog": is_log, "isName": False,
    }  # fmt: skip


def decades(least: float, greatest: float) -> list[list[Any]]:
    """Ticks of a logarithmic axis: powers of ten; 1, 2 and 5 times these where there are few."""
    exponents = range(math.floor(math.log10(least)), math.ceil(math.log10(greatest)) + 1)
    factors = (1,) if len(exponents) > 3 else (1, 2, 5)
    values = [factor * 10.0**exponent for exponent in exponents for factor in factors]
    return [[math.log10(value), f"{value:g}"] for value in values if least / 1.2 <= value <= greatest * 1.2]


def spread_out(ticks: list[list[Any]]) -> list[list[Any]]:
    """The ticks that do not stand within a fifteenth of the axis of the one before."""
    ticks = sorted(ticks)
    apart = (ticks[-1][0] - ticks[0][0]) / 15
    kept: list[list[Any]] = []
    for tick in ticks:
        if not kept or tick[0] - kept[-1][0] >= apart:
            kept.append(tick)
    return kept


def is_log_spaced(values: Sequence[float]) -> bool:
    """Whether numbers lie more evenly on a logarithmic axis than on a linear one; zero may be among them."""
    positive = np.array(sorted({value for value in values if value > 0}))
    if any(value < 0 for value in values) or len(positive) < 2:
        return False
    ratio = positive[-1] / positive[0]
    if len(positive) == 2:
        return bool(10 <= ratio < DECADES)
    gaps, linear = np.diff(np.log(positive)), np.diff(positive)
    return bool(4 <= ratio < DECADES and gaps.std() / gaps.mean() < linear.std() / linear.mean())


def spans_decades(values: np.ndarray) -> bool:
    """Whether values want a logarithmic axis."""
    return bool(len(values) and 0 < 100 * values.min() < values.max() < DECADES * values.min())


def distinct_values(study: Study) -> list[int]:
    """How many values each column has."""
    return [len({canonical(setting.values[key]) for setting in study.settings}) for key in study.columns]


def heat_maps(study: Study) -> list[list[int]]:
    """The pairs of columns that a map can show: at least half of their combinations are there, and no value once."""
    keys = list(study.columns)
    found = []
    for pair in itertools.combinations(range(len(keys)), 2):
        cells = [tuple(canonical(one.values[keys[column]]) for column in pair) for one in study.settings]
        counts = [len(set(values)) for values in zip(*cells, strict=True)]
        is_dense = math.prod(counts) <= 2 * len(set(cells))
        if is_dense and min(counts) > 1 and max(counts) <= min(MOST_IN_A_MAP, len(cells) / 2):
            found.append(list(pair))
    return found


# --- a search ---------------------------------------------------------------------------------------------------------


def is_search(study: Study) -> bool:
    """Whether the settings were drawn: by a search, or so that less than half of all combinations are there."""
    if study.of_search:
        return len(study.settings) > 1
    return len(study.settings) >= FEWEST and 2 * len(study.settings) <= math.prod(distinct_values(study))


def history(study: Study, objective: Quantity) -> list[list[Any]]:
    """The completed runs in the order of their starts, or of their names: [place of the setting, seed, value]."""
    order = {run.path: place for place, run in enumerate(study.runs)}
    found = [
        ((run.started, order[run.path]), setting.number - 1, value_text(run.seed), value)
        for setting in study.settings
        for run in setting.completed
        if (value := objective.of(run)) is not None and math.isfinite(value)
    ]
    return [[place, seed, number(value)] for _, place, seed, value in sorted(found, key=lambda one: one[0])]


def importance(study: Study, objective: Quantity) -> Json | None:
    """What each key matters to the objective: permutation importance in a random forest of its ranks.

    {"share": of the sum, per column; "explained": R² of samples out of the bag}. None where the forest knows nothing.
    Breiman 2001, Random forests.
    """
    known = [setting for setting in study.settings if study.spread(setting, objective).of]
    if len(known) < FEWEST or len(study.columns) < 2:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    table = [axis([setting.values[key] for setting in known])["positions"] for key in study.columns]
    features = np.array([[-1.0 if value is None else value for value in column] for column in table]).T
    ranks = np.arange(len(known)) / len(known)  # they are sorted by it
    forest = RandomForestRegressor(100, oob_score=True, random_state=0, min_samples_leaf=2).fit(features, ranks)
    if not forest.oob_score_ > 0:
        return None
    found = permutation_importance(forest, features, ranks, n_repeats=5, random_state=0).importances_mean.clip(min=0)
    return {"share": numbers(found / max(found.sum(), 1e-12)), "explained": number(forest.oob_score_)}


# --- numbers ----------------------------------------------------------------------------------------------------------


def number(value: float | None) -> float | None:
    """A number of four digits for JSON, None for what is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.4g}")


def numbers(values: Iterable[float]) -> list[float | None]:
    """The same for several."""
    return [number(value) for value in values]
