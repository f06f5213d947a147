"""What took long to make and is the same in all runs: kept in the user's cache directory."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import platformdirs
import torch
from torch import Tensor

from gan_runner.storage.atomic_files import write_atomically


def cache_directory() -> Path:
    """$GAN_RUNNER_CACHE, or else the place that the system has for caches; it need not exist."""
    chosen = os.environ.get("GAN_RUNNER_CACHE")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("gan_runner")


def content_key(*parts: Tensor | str | int) -> str:
    """SHA-256, in hexadecimal, of tensors (their dtype, shape and bytes), texts and numbers, in this order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}\n".encode())
            digest.update(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        else:
            digest.update(f"{part!r}\n".encode())
    return digest.hexdigest()


def cached(name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The file `name` of the cache: plain values and tensors, on the CPU; made and written where it cannot be read.

    A directory that cannot be written costs a warning, and the value is made anew in every run. Processes that make the
    same at once each write a whole file; the last one stays.
    """
    path = cache_directory() / name
    try:
        with ZipFile(path) as archive:
            whole = archive.testzip() is None  # torch.load does not check the checksums
        found = torch.load(path, map_location="cpu", weights_only=True) if whole else None
    except Exception:  # not there; or broken, which raises whatever its bytes happen to mean to the reader
        found = None
    if isinstance(found, dict):
        return found
    value = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: torch.save(value, file))
    except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
        logging.getLogger(__name__).warning("%s cannot be written: %s", path, error)
    return value
