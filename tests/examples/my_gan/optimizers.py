"""An optimizer: torch.optim.Optimizer's own contract; a step may call its closure several times."""

from collections.abc import Callable

import torch
from torch import Tensor


class SignDescent(torch.optim.Optimizer):
    """w -= lr sign(gradient). Bernstein et al. 2018, arXiv:1802.04434."""

    def __init__(self, params, *, lr: float):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        with torch.enable_grad():
            loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.sub_(group["lr"] * weight.grad.sign())
        return loss
