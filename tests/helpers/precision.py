"""How long the factors of products are, as far as a CPU can see: what a GPU would be told."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FACTORS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
PRODUCTS = (
    "mm",
    "bmm",
    "addmm",
    "baddbmm",
    "mv",
    "convolution",
    "convolution_backward",
    "_cdist_forward",
    "_euclidean_dist",
)


def factors() -> str:
    """What GPUs do with the factors of float32: `tf32` or `ieee`."""
    return " and ".join(sorted({backend.fp32_precision for backend in FACTORS}))


class Products(TorchDispatchMode):
    """Of each product and convolution, what GPUs do with float32 then, and whether operators are deterministic."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, bool]] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in PRODUCTS:
            self.seen.append((factors(), torch.are_deterministic_algorithms_enabled()))
        return function(*args, **(kwargs or {}))
