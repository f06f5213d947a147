"""`python -m tests.gpu.child CHECK DEVICE FILE`: one check, whose record goes to the file; exit code 1 if it fails."""

import sys
from pathlib import Path

import torch

from tests.gpu import correctness, shell, timings
from tests.gpu.record import Check, Record

PARTS = {"correctness": correctness.checks, "shell": shell.checks, "timings": timings.checks}


def find(name: str) -> Check:
    """The check of a name, which begins with its part."""
    return PARTS[name.partition("/")[0]]()[name]


def main(name: str, device: str, path: Path) -> int:
    """Do one check."""
    check, record = find(name), Record()
    try:
        check(torch.device(device), record)
    except BaseException as error:
        lines = str(error).strip().splitlines()
        record.failures.append(f"{type(error).__name__}: {lines[0] if lines else ''}")
        raise
    finally:
        record.write(path)
    return 1 if record.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
