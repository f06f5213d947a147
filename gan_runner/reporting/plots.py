"""Plots of a sweep or a run, as SVG that takes the colour of the text around it."""

import io
import itertools
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from gan_runner.reporting.settings import (
    MISSING,
    Quantity,
    Setting,
    Study,
    canonical,
    finite,
    floor_of,
    is_number,
    sort_key,
    spread,
    value_text,
)
from gan_runner.reporting.stored_runs import Curve, Run, thin

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito: for any colour vision
GREY = "#888888"
DISTINCT = 2 * len(COLORS)  # lines of a style of their own, solid ones and dashed ones
DETAILED = 40  # settings that are drawn
MOST_PLOTS = 16  # of a kind
DECADES = 1e30  # that an axis spans at most
MOST_SHOWN = 12  # values along an axis that are written at it
MOST_LETTERS = 40  # that stand beside each other at it
INK = "#010203"  # in the place of the page's own colour of text
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "svg.hashsalt": "gan_runner", "text.parse_math": False, "font.size": 9,
    "font.sans-serif": ["DejaVu Sans"], "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none", "axes.grid": True,
    "grid.alpha": 0.2, "axes.axisbelow": True, "axes.formatter.use_mathtext": False, "axes.unicode_minus": False,
    "text.color": INK, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "grid.color": INK,
}  # fmt: skip


class Key(NamedTuple):
    """What a line of a plot stands for."""

    label: str
    color: str
    is_dashed: bool


class Plot(NamedTuple):
    """A picture of the page."""

    title: str
    svg: str
    legend: list[Key] = []  # noqa: RUF012 -- the default of a NamedTuple, never changed


def line_style(place: int) -> tuple[str, bool]:
    """Colour, and whether dashed, of the line in a place from 0 on; from DISTINCT on all are grey."""
    return (COLORS[place % len(COLORS)], place >= len(COLORS)) if place < DISTINCT else (GREY, False)


@contextmanager
def drawing(width: float = 4.6, height: float = 3.0) -> Iterator[Figure]:
    """A figure in the page's style, without pyplot, which would keep it in a global list."""
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the browser has it
        yield Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> str:
    """A figure as SVG for use within a page: numbers of a tenth of a pixel, no header, no metadata."""
    buffer = io.StringIO()
    FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})  # savefig would draw everything twice
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), count=1, flags=re.DOTALL)
    head = re.search(r"<svg[^>]*?(viewBox=\"[^\"]*\")[^>]*>", text)
    assert head, "matplotlib writes one"
    body = re.sub(r"(\d\.\d)\d{2,}(?=[\s\"])", r"\1", text[head.end() :])
    return f"<svg {head[1]}>{body}".replace(INK, "currentColor")


# --- curves -----------------------------------------------------------------------------------------------------------


def learning_curves(study: Study) -> list[Plot]:
    """Each metric and each loss against the step: the mean of every setting, with the deviation over its seeds."""
    shown = study.settings[:DETAILED]
    tags = list(dict.fromkeys(tag for setting in shown for run in setting.runs for tag in run.curves))
    first = [study.objective.tag] if study.objective else []
    tags.sort(key=lambda tag: (tag not in first, not tag.startswith("metric/"), not tag.startswith("loss/")))
    plots = []
    for tag in tags[:MOST_PLOTS]:
        found = [
            (setting, mean_curve([run.curves[tag] for run in setting.runs if tag in run.curves])) for setting in shown
        ]
        curves = [(setting, curve) for setting, curve in found if curve and np.isfinite(curve[1]).any()]
        if not curves:
            continue
        with drawing() as figure:
            axes = figure.add_subplot()
            for setting, (steps, mean, sd) in reversed(curves):
                color, is_dashed = line_style(setting.number - 1)
                is_grey = color == GREY
                axes.plot(
                    steps, mean, color=color, linestyle="--" if is_dashed else "-", linewidth=0.7 if is_grey else 1.5,
                    marker="." if np.isfinite(mean).sum() < 30 and not is_grey else "",
                )  # fmt: skip
                if not is_grey and np.isfinite(sd).any():
                    axes.fill_between(steps, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
            axes.set_xlabel("step")
            floor, keys = draw_floor(axes, study.runs, tag)
            scale(axes, np.concatenate([*(mean for _, (_, mean, _) in curves), floor]))
            plots.append(Plot(tag.removeprefix("metric/"), svg(figure), keys))
    return plots


def curves_of(run: Run) -> list[Plot]:
    """All that a single run logged: a plot for each metric, and one for each other kind of tags."""
    groups: dict[str, list[str]] = {}
    for tag, curve in run.curves.items():
        if np.isfinite(curve.values).any():
            groups.setdefault(tag if tag.startswith("metric/") else tag.partition("/")[0], []).append(tag)
    order = sorted(groups, key=lambda name: (not name.startswith("metric/"), name != "loss"))
    plots = []
    for name in order[: 2 * MOST_PLOTS]:
        tags = groups[name][:DISTINCT]
        with drawing() as figure:
            axes = figure.add_subplot()
            keys = []
            for place, tag in enumerate(tags):
                color, is_dashed = line_style(place)
                steps, values = run.curves[tag]
                mark = "." if len(steps) < 30 else ""
                axes.plot(steps, values, color=color, linestyle="--" if is_dashed else "-", marker=mark)
                keys.append(Key(tag.partition("/")[2] or tag, color, is_dashed))
            axes.set_xlabel("step")
            floor, its_key = draw_floor(axes, [run], tags[0])
            keys = (keys if len(tags) > 1 else []) + its_key
            scale(axes, np.concatenate([*(run.curves[tag].values for tag in tags), floor]))
            plots.append(Plot(name.removeprefix("metric/"), svg(figure), keys))
    return plots


def draw_floor(axes: Axes, runs: list[Run], tag: str, letter: Literal["x", "y"] = "y") -> tuple[np.ndarray, list[Key]]:
    """A dashed line where real data are, and its key; of no length where that is not known, and no key."""
    floor = floor_of(runs, tag)
    if floor is None:
        return np.empty(0), []
    (axes.axvline if letter == "x" else axes.axhline)(floor, color=GREY, linestyle="--", linewidth=1)
    return np.array([floor]), [Key("real data", GREY, True)]


def mean_curve(curves: list[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Steps, mean and standard deviation over seeds, NaN where there are fewer than two; None of no curve.

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
    return steps, mean, np.sqrt(deviations / np.where(counts > 1, counts - 1, np.nan))


# --- against the keys swept -------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """Settings that differ in one key alone."""

    label: str  # what they have in common
    settings: list[Setting]


def against_keys(study: Study) -> list[Plot]:
    """Each quantity against each key swept; a line for each combination of the other keys, if they are few."""
    metrics = [quantity for quantity in study.quantities if not study.objective or quantity.tag != study.objective.tag]
    quantities = ([study.objective] if study.objective else []) + metrics
    plots = (against(study, quantity, key) for quantity, key in itertools.product(quantities, study.columns))
    return list(itertools.islice(filter(None, plots), MOST_PLOTS))


def against(study: Study, quantity: Quantity, key: str) -> Plot | None:
    """One quantity against one key, numbers or names; None where there is nothing to draw, or too many names."""
    lines = lines_of(study, quantity, key)
    values = [setting.values[key] for _, members in lines for setting in members]
    are_numbers, count = all(map(is_number, values)), len(set(map(canonical, values)))
    if count < 2 or (count > DETAILED and not are_numbers):
        return None
    draw = against_numbers if are_numbers else against_names
    floor = [] if floor_of(study.runs, quantity.tag) is None else [Key("real data", GREY, True)]
    title = f"{quantity.name}{', best' if quantity.is_best else ''} against {study.columns[key]}"
    legend = [Key(label, *line_style(place)) for place, (label, _) in enumerate(lines)]
    return Plot(title, draw(study, quantity, key, lines), (legend if len(lines) > 1 else []) + floor)


def lines_of(study: Study, quantity: Quantity, key: str) -> list[Line]:
    """The settings that have a value of a quantity, apart by all keys but one, with what they have in common.

    All as one where they would be too many, as in a random search, of which no two are in a line.
    """
    lines: dict[tuple[str, ...], list[Setting]] = {}
    for setting in study.settings:
        if setting.values[key] is not MISSING and setting.spread(quantity).of:
            others = tuple(canonical(value) for other, value in setting.values.items() if other != key)
            lines.setdefault(others, []).append(setting)
    settings = [setting for members in lines.values() for setting in members]
    if len(lines) > DISTINCT or len(lines) > len(settings) / 2:
        return [Line("", settings)]
    named = []
    for members in lines.values():
        common = {other: value for other, value in members[0].values.items() if other != key}
        label = ", ".join(f"{study.columns[other]}={value_text(value)}" for other, value in common.items())
        named.append(([sort_key(value) for value in common.values()], label, members))
    return [Line(label, members) for _, label, members in sorted(named, key=lambda line: line[0])]


def against_numbers(study: Study, quantity: Quantity, key: str, lines: list[Line]) -> str:
    """Mean and deviation of each setting, along an axis of numbers."""
    with drawing() as figure:
        axes = figure.add_subplot()
        for place, (label, members) in enumerate(lines):
            color, is_dashed = line_style(place)
            members.sort(key=lambda setting: setting.values[key])
            spreads = [setting.spread(quantity) for setting in members]
            is_line = label or len(study.columns) == 1
            axes.errorbar(
                [float(setting.values[key]) for setting in members], [found.mean for found in spreads],
                yerr=[found.sd or 0.0 for found in spreads], color=color, marker="o", markersize=4, capsize=2.5,
                elinewidth=1, linestyle="none" if not is_line else "--" if is_dashed else "-",
            )  # fmt: skip
        points = [setting for _, members in lines for setting in members]
        axes.set_xlabel(plain(study.columns[key]))
        scale_x(axes, sorted({float(setting.values[key]) for setting in points}))
        floor, _ = draw_floor(axes, study.runs, quantity.tag)
        scale(axes, np.append([setting.spread(quantity).mean for setting in points], floor))
        return svg(figure)


def against_names(study: Study, quantity: Quantity, key: str, lines: list[Line]) -> str:
    """Mean and deviation over the runs with a name, and a dot for each; one below the other where names are long."""
    names = categories(setting.values[key] for _, members in lines for setting in members)
    is_flat = sum(map(len, names.values())) > MOST_LETTERS
    room = 1 / (len(lines) + 1)  # of a line, where names are 1 apart
    ends = -0.5, len(names) - 0.5
    with drawing(height=max(3.0, 0.8 + len(names) * max(0.25, 0.1 * len(lines))) if is_flat else 3.0) as figure:
        axes = figure.add_subplot()
        shown: list[float] = []
        for (index, name), (place, (_, members)) in itertools.product(enumerate(names), enumerate(lines)):
            completed = [run for one in members if canonical(one.values[key]) == name for run in one.completed]
            values = finite(map(quantity.of, completed))
            found, at = spread(values), index + ends[0] + (place + 1) * room
            style: dict[str, Any] = {"color": line_style(place)[0], "linestyle": "none"}
            mean: dict[str, Any] = {"marker": "o", "markersize": 4, "capsize": 2.5, "elinewidth": 1, **style}
            dots: dict[str, Any] = {"marker": ".", "markersize": 6, "alpha": 0.6, **style}
            beside = [at + room / 4] * len(values) if len(values) > 1 else []
            if is_flat:
                axes.errorbar(found.mean, at, xerr=found.sd or 0.0, **mean)
                axes.plot(values[: len(beside)], beside, **dots)
            else:
                axes.errorbar(at, found.mean, yerr=found.sd or 0.0, **mean)
                axes.plot(beside, values[: len(beside)], **dots)
            shown += values
        axis = axes.yaxis if is_flat else axes.xaxis
        axis.set_ticks(range(len(names)), labels=[plain(name, 24) for name in names.values()])
        axis.set_label_text(plain(study.columns[key]))
        axis.grid(visible=False)
        axes.set(**({"ylim": ends[::-1]} if is_flat else {"xlim": ends}))
        floor, _ = draw_floor(axes, study.runs, quantity.tag, "x" if is_flat else "y")
        scale(axes, np.append(shown, floor), "x" if is_flat else "y")
        return svg(figure)


def categories(values: Iterable[Any]) -> dict[str, str]:
    """The different ones among some values, in their order: what equal ones share -> what is shown."""
    return {canonical(value): value_text(value) for value in sorted(values, key=sort_key)}


def heat_map(study: Study) -> Plot | None:
    """The objective over exactly two keys, where at least half of their combinations are there; None otherwise."""
    quantity = study.objective or next(iter(study.quantities), None)
    if len(study.columns) != 2 or not quantity:
        return None
    down, across = study.columns
    found = [(setting.values, setting.spread(quantity)) for setting in study.settings]
    cells = {(canonical(values[down]), canonical(values[across])): spread.mean for values, spread in found}
    rows, columns = (categories(values[key] for values, _ in found) for key in (down, across))
    if min(len(rows), len(columns)) < 2 or len(rows) * len(columns) > 2 * len(cells):
        return None
    table = np.array([[cells.get((row, column), np.nan) for column in columns] for row in rows])
    known = table[np.isfinite(table)]
    if not len(known):
        return None
    norm = LogNorm if spans_decades(known) else Normalize
    colors = mpl.colormaps["viridis" if quantity.higher_is_better else "viridis_r"]  # the better the brighter
    with drawing(max(4.6, 1.5 + 0.6 * len(columns)), max(3.0, 1.0 + 0.3 * len(rows))) as figure:
        axes = figure.add_subplot()
        axes.grid(visible=False)
        mesh = axes.pcolormesh(table, cmap=colors, norm=norm(known.min(), known.max()))
        is_small = max(len(rows), len(columns)) <= MOST_SHOWN
        for (row, column), value in np.ndenumerate(table) if is_small else ():
            if np.isfinite(value):
                brightness = np.dot(mesh.to_rgba(value)[:3], (0.3, 0.6, 0.1))
                color = "black" if brightness > 0.5 else "white"
                axes.text(column + 0.5, row + 0.5, f"{value:.4g}", ha="center", va="center", color=color)
        for axis, values, key in ((axes.xaxis, columns, across), (axes.yaxis, rows, down)):
            kept, names = thin_ticks(len(values)), list(values.values())
            axis.set_ticks([place + 0.5 for place in kept], labels=[plain(names[place], 20) for place in kept])
            axis.set_label_text(plain(study.columns[key]))
        if not is_small:
            figure.colorbar(mesh, format=FuncFormatter(tick))
        return Plot(f"{quantity.name}{', best' if quantity.is_best else ''}", svg(figure))


def thin_ticks(count: int) -> list[int]:
    """The places along an axis that are written at it."""
    return list(range(0, count, math.ceil(count / (2 * MOST_SHOWN))))


# --- scales -----------------------------------------------------------------------------------------------------------


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


def scale_x(axes: Axes, values: list[float]) -> None:
    """An axis for the values swept, which are written at it if they are few; zero stands a decade below the least."""
    if is_log_spaced(values):
        least = min(value for value in values if value > 0)
        if values[0] == 0:
            axes.set_xscale("symlog", linthresh=least, linscale=1)
            axes.set_xlim(-0.2 * least, values[-1] * (values[-1] / least) ** 0.05)
        else:
            axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
    if len(values) <= MOST_SHOWN:
        axes.set_xticks(values, labels=[f"{value:g}" for value in values], rotation=45 if len(values) > 6 else 0)
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(tick))


def scale(axes: Axes, values: np.ndarray, letter: Literal["x", "y"] = "y") -> None:
    """An axis that is logarithmic where values span decades; symmetrically so where outliers would flatten all else."""
    known = values[np.isfinite(values)]
    if not len(known):
        return
    set_scale, axis = (axes.set_xscale, axes.xaxis) if letter == "x" else (axes.set_yscale, axes.yaxis)
    middle = float(np.median(np.abs(known)))
    if spans_decades(known):
        set_scale("log")
    elif middle > 0 and (largest := np.abs(known).max()) > 20 * middle:
        set_scale("symlog", linthresh=max(middle, largest / DECADES))
    else:
        return
    axis.set_major_formatter(FuncFormatter(tick))
    axis.set_minor_formatter(NullFormatter())


def spans_decades(values: np.ndarray) -> bool:
    """Whether values want a logarithmic axis."""
    return bool(0 < 100 * values.min() < values.max() < DECADES * values.min())


def tick(value: float, _: Any = None) -> str:
    """A number at an axis, without mathematical text."""
    return f"{value:g}"


def plain(text: str, most: int = 40) -> str:
    """The end of a text, to stand at an axis."""
    return text if len(text) <= most else f"...{text[3 - most :]}"
