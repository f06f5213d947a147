"""How values, numbers and times are written, compared and sorted."""

import json
import math
from collections import Counter
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from gan_runner.reporting.stored_runs import LARGEST

MISSING = "–"  # in the place of what is not there
ARROWS = {True: " ↑", False: " ↓", None: ""}  # the direction that is better


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


def decimals(scale: float) -> int:
    """The decimal places at which a deviation of this size has two digits; three where there is none."""
    return 1 - math.floor(math.log10(scale)) if 0 < scale < math.inf else 3


def rounded(value: float, places: int) -> str:
    """A number with so many decimal places; very large and very small ones with an exponent."""
    if not math.isfinite(value):
        return f"{value:g}"
    if places > 7 or abs(value) >= 1e7:
        digits = places + (math.floor(math.log10(abs(value))) if value else 0)
        return f"{value:.{max(0, min(digits, 15))}e}"
    return f"{round(value, places) + 0.0:.{max(0, places)}f}"


def spread_text(mean: float, sd: float, count: int) -> str:
    """'0.465 ± 0.012', both to the second digit of the deviation; the mean alone where there is no deviation."""
    if not count:
        return MISSING
    if math.isnan(sd) or sd == 0:
        return f"{mean:.4g}" if math.isnan(sd) else f"{mean:.4g} ± 0"
    return f"{rounded(mean, decimals(sd))} ± {rounded(sd, decimals(sd))}"


def number_text(value: float | None) -> str:
    """Four digits."""
    return MISSING if value is None else f"{value:.4g}"


def step_text(step: int | None) -> str:
    """A step with its thousands apart."""
    return MISSING if step is None else f"{step:,}"


def duration_text(seconds: float | None) -> str:
    """'7 s', '3.2 min', '1.5 h'."""
    if seconds is None or not seconds < 1e9:
        return MISSING
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def enumerate_counts(counts: Counter[str]) -> str:
    """'3 failed, 1 running'."""
    return ", ".join(f"{count:,} {what}" for what, count in counts.most_common())


def new_table(title: str) -> Table:
    """An empty one, as wide as its title on 80 columns."""
    return Table(
        min_width=min(len(title), 79), title=Text(title), title_justify="left", title_style="",
        caption_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False,
    )  # fmt: skip
