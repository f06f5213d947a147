"""Optimizers beside torch's own."""

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn, optim

from gan_runner.torch_utils.bounds import PositiveFloat, PositiveInt

Fraction = Annotated[float, Ge(0), Lt(1)]


class FiniteDifference(optim.Optimizer):
    """Gradients from values of the objective L alone, handed to SGD or Adam.

    With `directions: null`, every weight w_i in turn, e_i its unit vector (d weights take d evaluations of the copies):

        forward  g_i = (L(w + ε e_i) - L(w)) / ε            error O(ε)
        central  g_i = (L(w + ε e_i) - L(w - ε e_i)) / 2ε    error O(ε²), twice the work

    With `directions: K`, the mean over K directions u ~ N(0, I), for networks with too many weights for that:

        forward  g = mean (L(w + ε u) - L(w)) / ε * u       central likewise

    It is unbiased for the gradient of L smoothed by N(0, ε² I), and K of d directions leave noise of variance
    (d + 1) / K |∇L|² (Nesterov & Spokoiny 2017, Found. Comput. Math. 17, section 2), so take a rule that averages.

    In float32 an L near 1 is known to 1e-7, which the difference quotient divides by ε: ε near 1e-3 suits forward
    differences, 1e-2 central ones, and below 1e-5 little but rounding is left.

    The evaluations follow torch.optim's protocol, `step(closure)`: the weights are moved in place, the closure is
    called, and they are put back. The directions come from the device's default generator, as all noise of training
    does: they follow from the seed and the step.

    Raises:
        ValueError: more than `max_coordinates` weights without `directions`.

    Source: Kiefer & Wolfowitz 1952, Ann. Math. Stat. 23 (coordinates); Nesterov & Spokoiny 2017 (directions).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        method: Literal["forward", "central"],
        epsilon: PositiveFloat,
        directions: PositiveInt | None,
        max_coordinates: PositiveInt,
        rule: Literal["sgd", "adam"],
        lr: PositiveFloat,
        betas: tuple[Fraction, Fraction],
        momentum: Fraction,
    ):
        super().__init__(params, {})
        count = sum(weight.numel() for weight in self.learned())
        if directions is None and count > max_coordinates:
            raise ValueError(
                f"directions=null perturbs every weight in turn, but the network has {count:,} and max_coordinates is "
                f"{max_coordinates:,}; random directions do for large networks: optimizer.directions=64"
            )
        self.method, self.epsilon, self.directions = method, epsilon, directions
        self.rule = (
            optim.SGD(self.param_groups, lr=lr, momentum=momentum)
            if rule == "sgd"
            else optim.Adam(self.param_groups, lr=lr, betas=betas)
        )
        self.share()

    def share(self) -> None:
        """Make the groups and the state of the rule those of this optimizer: whoever sets either sets both."""
        self.param_groups, self.state, self.defaults = self.rule.param_groups, self.rule.state, self.rule.defaults

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rule.load_state_dict(state_dict)
        self.share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]  # it cannot do without
        """One step of the rule down the estimated gradient; the value of the first evaluation is returned.

        A closure that has a method `finish_gradients` is told when the gradients are there, before the rule's step.
        """
        value = closure()
        weights = self.learned()
        start = torch.cat([weight.flatten() for weight in weights])

        def at(point: Tensor) -> Tensor:
            move(weights, point)
            return closure()

        estimate = self.by_coordinates if self.directions is None else self.by_directions
        try:
            gradient = estimate(start, at)
        finally:
            move(weights, start)
        for weight in weights:
            weight.grad = torch.empty_like(weight)  # its entries lie as the weight's do
        move([weight.grad for weight in weights if weight.grad is not None], gradient)
        if finish := getattr(closure, "finish_gradients", None):
            finish()
        self.rule.step()
        return value

    def learned(self) -> list[Tensor]:
        """The weights that are not frozen."""
        return [weight for group in self.param_groups for weight in group["params"] if weight.requires_grad]

    def by_coordinates(self, start: Tensor, at: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient at the weights `start`, (d,); `at` maps weights (d,) to the objective's value there, ().

        Divided by the step that the rounded weights really took; one that rounds to 0 tells nothing.
        """
        gradient, point = torch.empty_like(start), start.clone()
        here = None if self.method == "central" else at(start)
        for index in range(len(start)):
            point[index] += self.epsilon
            ahead, value_ahead = point[index].clone(), at(point)
            point[index] = start[index]
            behind, value_behind = start[index], here
            if value_behind is None:
                point[index] -= self.epsilon
                behind, value_behind = point[index].clone(), at(point)
                point[index] = start[index]
            step = (ahead - behind).clamp(min=torch.finfo(start.dtype).tiny)
            gradient[index] = (value_ahead - value_behind) / step
        return gradient

    def by_directions(self, start: Tensor, at: Callable[[Tensor], Tensor]) -> Tensor:
        """The same as the mean over random directions, each a draw of its own."""
        assert self.directions is not None
        gradient = torch.zeros_like(start)
        here = None if self.method == "central" else at(start)
        for _ in range(self.directions):
            direction = torch.empty_like(start).normal_()
            ahead = at(start + self.epsilon * direction)
            behind = at(start - self.epsilon * direction) if here is None else here
            gradient += (ahead - behind) * direction
        return gradient / (self.directions * self.epsilon * (2 if self.method == "central" else 1))


def move(tensors: list[Tensor], entries: Tensor) -> None:
    """Set tensors to the entries of one vector (d,), one after another."""
    for tensor, part in zip(tensors, entries.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


class Subgradient(optim.Optimizer):
    """w <- w - lr / √t g at the t-th update, g a subgradient: what backpropagation gives where L has a kink.

    A step of fixed length never settles at a kink (of the hinge, |w|, ReLU); one that diminishes with a divergent sum
    does, for convex L. With `normalize` g is divided by its norm |g| over all weights, so that lr / √t is the length
    of the step. The logged learning rate is `lr`, without the root.

    Source: Shor 1985, Minimization Methods for Non-Differentiable Functions, section 2.2.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: PositiveFloat, normalize: bool):
        super().__init__(params, {"lr": lr, "normalize": normalize})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update of all weights that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [
            (weight, group) for group in self.param_groups for weight in group["params"] if weight.grad is not None
        ]
        norm = total_norm([weight.grad for weight, _ in moved], self.param_groups[0].get("run_axes", 0))
        for weight, group in moved:
            state = self.state[weight]
            state["step"] = state.get("step", torch.zeros(())) + 1  # on the host, like Adam's
            length = group["lr"] / state["step"].sqrt()
            gradient = weight.grad
            if group["normalize"]:
                length_of_all = norm.clamp(min=torch.finfo(norm.dtype).tiny)
                gradient = gradient / length_of_all.reshape((*norm.shape, *[1] * (weight.ndim - norm.ndim)))
            weight.sub_(length * gradient)
        return loss


def total_norm(gradients: list[Tensor], run_axes: int) -> Tensor:
    """The Euclidean norm of all gradients together, for each of the runs that their leading axes count: (...,)."""
    if not run_axes:
        return nn.utils.get_total_norm(gradients)
    norms = [gradient.reshape(*gradient.shape[:run_axes], -1).norm(dim=-1) for gradient in gradients]
    return torch.stack(norms).norm(dim=0)


def wants_closure(optimizer: optim.Optimizer) -> bool:
    """Whether an optimizer evaluates the objective several times a step, which its `step` then demands a closure for.

    Those here and in torch are FiniteDifference and L-BFGS.
    """
    return inspect.signature(optimizer.step).parameters["closure"].default is inspect.Parameter.empty
