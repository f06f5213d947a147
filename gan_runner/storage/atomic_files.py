"""Files that are either whole or not there, and what JSON can hold."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to the disk, and rename it into place.

    A reader, or a crash at any moment, finds the old content or the new one. The folder of `path` is made, but none
    above it: a run directory that has been taken away does not come back.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename, error.filename2 = os.fspath(path), None  # and not the temporary one
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """`write_atomically` of what is already in memory."""
    write_atomically(path, lambda file: file.write(content))


def write_with_digest(
    path: Path, write: Callable[[BinaryIO], object], before: Callable[[], object] = lambda: None
) -> None:
    """`write_atomically`, with the file's SHA-256 beside it, in PATH.sha256, as sha256sum writes it.

    While the file is exchanged PATH.sha256 holds the new digest and the old one: at no moment has the file none.
    `before` is called before it is exchanged, when its content is written.
    """
    digests = digest_path(path)
    old = digests.read_text(errors="replace") if digests.exists() else ""
    new = ""

    def write_both(file: BinaryIO) -> None:
        nonlocal new
        hashing = Hashing(file)
        write(hashing)  # type: ignore[arg-type]  # torch.save asks no more of a file
        before()
        new = f"{hashing.sha256.hexdigest()}  {path.name}\n"
        write_bytes(digests, (new + old).encode())

    write_atomically(path, write_both)
    write_bytes(digests, new.encode())


def hard_link(source: Path, target: Path) -> None:
    """Make `target` another name of the file `source`, with its digest; at no moment is there no `target`."""
    digests, old = digest_path(target), ""
    if digests.exists():
        old = digests.read_text(errors="replace")
    new = digest_path(source).read_text(errors="replace") if digest_path(source).exists() else ""
    new = new.replace(source.name, target.name)
    spare = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    spare.unlink(missing_ok=True)
    try:
        try:
            os.link(source, spare)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, spare)
        write_bytes(digests, (new + old).encode())
        spare.replace(target)
    finally:
        spare.unlink(missing_ok=True)  # it stays, too, where both were names of one file already
    write_bytes(digests, new.encode())


class Hashing:
    """A file to write to, whose bytes are hashed on their way."""

    def __init__(self, file: BinaryIO):
        self.file, self.sha256 = file, hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return self.file.write(content)

    def flush(self) -> None:
        self.file.flush()


def digest_path(path: Path) -> Path:
    """Where the digest of a file is kept."""
    return path.with_name(f"{path.name}.sha256")


def is_intact(path: Path) -> bool:
    """Whether a file has the digest beside it; one without a digest passes."""
    digests = digest_path(path)
    if not digests.exists():
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() in digests.read_text(errors="replace")


def json_safe(value: Any) -> Any:
    """The value with NaN and infinities, which JSON does not know, by name."""
    if isinstance(value, dict):
        return {key: json_safe(item) for key, item in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
