"""The errors of this package, each of which is one line for the user."""

import difflib
import errno
from collections.abc import Iterable

from gan_runner.config.words import SYNONYMS


class ConfigError(ValueError):
    """A config that cannot be run. The message names the key, what is allowed, and the nearest name."""


class Stopped(Exception):  # noqa: N818 -- no error of the program
    """A run ended before its time, for a reason that the message says in one line."""


class TrainingFailed(Exception):  # noqa: N818 -- its cause is the error
    """Training raised what is no mistake in the config."""


def out_of_memory(error: BaseException) -> str | None:
    """One line about an error that means that memory ran out, or None for any other error."""
    first = str(error).strip().partition("\n")[0]
    by_system = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    by_torch = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in first  # on a GPU, on the CPU
    if not by_system and not by_torch:
        return None
    return f"out of memory ({first or 'MemoryError'}); a smaller batch_size, dataset.image_size or model needs less"


def suggest(word: str, words: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest of `words`, or nothing when none is near."""
    word = SYNONYMS.get(word, word).lower()
    ranked = sorted(words, key=lambda other: similarity(word, other), reverse=True)
    return f"; did you mean '{ranked[0]}'?" if ranked and similarity(word, ranked[0]) > 0.6 else ""


def similarity(word: str, other: str) -> float:
    """How near two names are, in [0, 1]; initials count, so that gp is near gradient_penalty."""
    initials = "".join(part[0] for part in other.split("_") if part)
    return max(
        difflib.SequenceMatcher(None, word, other).ratio(),
        0.95 * difflib.SequenceMatcher(None, word, initials).ratio() if "_" in other else 0.0,
    )
