"""How exact the arithmetic is: the same bits every time, and factors of full length, or as tensor cores want them."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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


@contextmanager
def tensor_cores(tf32: bool) -> Iterator[None]:
    """Whether GPUs round the factors of float32 products and convolutions to TF32 while the context lasts."""
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
