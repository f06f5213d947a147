"""The same bits every time, on CUDA too, as far as PyTorch can."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic(wanted: bool, say: Callable[[str], None]) -> Iterator[None]:
    """PyTorch's deterministic algorithms while the context lasts; `say` is told, once, of each operator that has none.

    The CPU's are deterministic anyway, for one number of threads.
    """
    if not wanted:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    show, told = warnings.showwarning, set()

    def tell(message: Warning | str, *rest: object) -> None:
        line = str(message).partition(".")[0]
        if "deterministic" not in line:
            show(message, *rest)  # type: ignore[arg-type]
        elif line not in told:
            told.add(line)
            say(line)

    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=".*deterministic")
            warnings.showwarning = tell  # type: ignore[assignment]
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
