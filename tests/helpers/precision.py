"""How long the factors of products are, as far as a CPU can see: what a GPU would be told."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

FACTORS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
PRODUCTS = ("mm", "bmm", "addmm", "baddbmm", "mv", "convolution", "convolution_backward", "_cdist_forward")


class Products(TorchDispatchMode):
    """Of each product and convolution, what GPUs do with float32 at that time: `tf32` or `ieee`."""

    def __init__(self) -> None:
        super().__init__()
        self.precisions: list[str] = []
        self.is_deterministic: list[bool] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.overloadpacket.__name__ in PRODUCTS:
            (precision,) = {backend.fp32_precision for backend in FACTORS}
            self.precisions.append(precision)
            self.is_deterministic.append(torch.are_deterministic_algorithms_enabled())
        return function(*args, **(kwargs or {}))
