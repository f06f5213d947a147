"""What the machine could do: its rate of matrix products, and the FLOPs of a step."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


def synchronize(device: torch.device) -> None:
    """Wait for all that the device was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest of some products of square matrices, in this process and with its threads."""
    side = 8192 if device.type == "cuda" else 2048
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize(device)
        start = time.perf_counter()
        one @ other
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def count_flops(step: Callable[[], object]) -> int:
    """FLOPs of convolutions and matrix products, two for each multiplication and addition."""
    with Counter() as counter:
        step()
    return counter.total


class Counter(TorchDispatchMode):
    """PyTorch's FlopCounterMode without its account of modules, which fails where a gradient is differentiated."""

    total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        if function._overloadpacket in flop_registry:
            self.total += flop_registry[function._overloadpacket](*args, **(kwargs or {}), out_val=found)
        return found
