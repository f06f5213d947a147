"""How exact the arithmetic is: the same bits every time, and factors of full length, or as tensor cores want them."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.backends.cpu import get_cpu_capability

# What PyTorch's warnings have in common, whatever their case: "... does not have a deterministic implementation",
# "Deterministic behavior was enabled ..., but this operation is not deterministic because it uses CuBLAS",
# "Flash Attention defaults to a non-deterministic algorithm".
NOT_DETERMINISTIC = r"(?s).*\bdeterministic\b"


@contextmanager
def arithmetic(*, tf32: bool, is_deterministic: bool, say: Callable[[str], None]) -> Iterator[None]:
    """What a run's settings say of its arithmetic, while the context lasts: see `tensor_cores` and `deterministic`.

    Unless it is to be deterministic, cuDNN tries its algorithms at the first convolution of each shape, and takes the
    fastest; a run has few shapes. All of this holds for the whole process, and is put back in the end. So contexts must
    nest: runs that are trained as one program have one for all.
    """
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = not is_deterministic
    try:
        with deterministic(is_deterministic, say), tensor_cores(tf32):
            yield
    finally:
        torch.backends.cudnn.benchmark = before


def is_slow_at_bf16(device: torch.device) -> bool:
    """Whether it is a CPU with AVX2 and no AVX-512, on which convolutions in bf16 take ten times as long as in fp32."""
    return device.type == "cpu" and get_cpu_capability() == "AVX2"


@contextmanager
def deterministic(wanted: bool, say: Callable[[str], None]) -> Iterator[None]:
    """PyTorch's deterministic algorithms while the context lasts; `say` is told, once, of each operator that has none.

    The CPU's are deterministic anyway, for one number of threads. cuBLAS wants an environment variable besides, which
    the package sets when it is imported.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    options: Any = torch.utils.deterministic  # a module that has properties
    fills = options.fill_uninitialized_memory
    show, told = warnings.showwarning, set()

    def tell(message: Warning | str, *rest: object) -> None:
        if not re.match(NOT_DETERMINISTIC, str(message), re.IGNORECASE):
            show(message, *rest)  # type: ignore[arg-type]
            return
        line = str(message).partition(". ")[0]
        if line not in told:
            told.add(line)
            say(line)

    torch.use_deterministic_algorithms(True, warn_only=True)
    options.fill_uninitialized_memory = False  # a kernel for each `empty`, and nothing reads it
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=NOT_DETERMINISTIC)
            warnings.showwarning = tell  # type: ignore[assignment]
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        options.fill_uninitialized_memory = fills


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


def full_product(left: Tensor, right: Tensor) -> Tensor:
    """left @ right, (..., N, K) and (..., K, M) of the same leading axes; neither TF32 nor autocast rounds the factors.

    Nor do they those of its gradients, which are computed when a context around the product has ended.
    """
    made: Tensor = FullProduct.apply(left, right)
    return made


class FullProduct(torch.autograd.Function):
    """A product of matrices in full precision, in both directions."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor) -> Tensor:
        ctx.save_for_backward(left, right)
        with full_precision(left.device):
            return left @ right

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        left, right = ctx.saved_tensors
        (gradient,) = gradients
        wants_left, wants_right = ctx.needs_input_grad
        return (
            full_product(gradient, right.mT) if wants_left else None,
            full_product(left.mT, gradient) if wants_right else None,
        )


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Neither TF32 nor autocast while the context lasts."""
    with without_autocast(device), tensor_cores(False):
        yield


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast while the context lasts, on the meta device too, which knows none."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else nullcontext()
