"""Adam with betas that change during training."""

from typing import Any

import torch
from torch import Tensor, optim


class ScheduledAdam(optim.Adam):
    """torch's Adam or AdamW, whose betas may be tensors () on the weights' device, as a CUDA graph needs them.

    A graph reads a number once, when it is recorded; and torch moves betas that are tensors to the host, or raises
    them to a power there. With numbers for betas this is torch's own step. With tensors it is the same to rounding,
    weight by weight: m and v are the means of the gradient g and of g², t counts the steps,

        m <- m + (1 - beta1) (g - m),  v <- v + (1 - beta2) (g² - v),
        w <- w - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)

    Raises:
        ValueError: amsgrad, or maximize, which the second form does not have.

    Source: Kingma and Ba 2014, arXiv:1412.6980; Loshchilov and Hutter 2017, arXiv:1711.05101.
    """

    def __init__(self, params: Any, **keys: Any) -> None:
        if keys.get("amsgrad") or keys.get("maximize"):
            raise ValueError("betas that change go with neither amsgrad nor maximize")
        super().__init__(params, **keys)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all weights that have a gradient."""
        if not any(isinstance(beta, Tensor) for group in self.param_groups for beta in group["betas"]):
            return super().step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.move(weight, weight.grad, group)
        return loss

    def move(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """One update of a weight."""
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        mean, square, step = state["exp_avg"], state["exp_avg_sq"], state["step"].add_(1)
        beta1, beta2 = group["betas"]
        rate, decay = group["lr"], group["weight_decay"]
        if decay and group["decoupled_weight_decay"]:
            weight.mul_(1 - rate * decay)
        elif decay:
            gradient = gradient.add(weight, alpha=decay)
        mean.lerp_(gradient, as_weight(1 - beta1, weight))
        square.lerp_(gradient.square(), as_weight(1 - beta2, weight))
        spread = (square / as_weight(1 - beta2**step, weight)).sqrt_().add_(group["eps"])
        weight.sub_(rate / as_weight(1 - beta1**step, weight) * mean / spread)


def as_weight(number: float | Tensor, weight: Tensor) -> Any:
    """A number of the type of a weight."""
    return number.to(weight.dtype) if isinstance(number, Tensor) else number
