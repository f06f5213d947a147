"""Files that are either whole or not there, and what JSON can hold."""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it into place.

    A reader, or a crash at any moment, finds the old content or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """`write_atomically` of what is already in memory."""
    write_atomically(path, lambda file: file.write(content))


def named(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not know, by name."""
    if isinstance(value, dict):
        return {key: named(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
