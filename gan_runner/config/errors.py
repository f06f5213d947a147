"""The errors of this package, each of which is one line for the user."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A config that cannot be run. The message names the key, what is allowed, and the nearest name."""


class Stopped(Exception):  # noqa: N818 -- no error of the program
    """A run ended before its time, for a reason that the message says in one line."""


class TrainingFailed(Exception):  # noqa: N818 -- its cause is the error
    """Training raised what is no mistake in the config."""


def suggest(word: str, words: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest of `words`, or nothing when none is near."""
    ranked = sorted(words, key=lambda other: similarity(word, other), reverse=True)
    return f"; did you mean '{ranked[0]}'?" if ranked and similarity(word, ranked[0]) > 0.6 else ""


def similarity(word: str, other: str) -> float:
    """How near two names are, in [0, 1]; initials count, so that gp is near gradient_penalty."""
    initials = "".join(part[0] for part in other.split("_") if part)
    return max(
        difflib.SequenceMatcher(None, word, other).ratio(),
        0.95 * difflib.SequenceMatcher(None, word, initials).ratio() if "_" in other else 0.0,
    )
