"""Optimizers beside torch's own.

An optimizer with a method `estimate_gradient(network, objective)` fills the gradients itself; for any other the player
backpropagates.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from torch import Tensor, nn, optim

from gan_runner.torch_utils.stacked_network import Copies

Count = Annotated[int, Ge(1)]
Positive = Annotated[float, Gt(0)]
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

    The perturbed copies are evaluated `chunk` directions at a time, as one program; memory grows with chunk x (weights
    + activations). The directions come from the device's default generator, as all noise of training does: they follow
    from the seed and the step, and `chunk` does not change them.

    Raises:
        ValueError: more than `max_coordinates` weights without `directions`; an objective that is not a value per copy.

    Source: Kiefer & Wolfowitz 1952, Ann. Math. Stat. 23 (coordinates); Nesterov & Spokoiny 2017 (directions).
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        method: Literal["forward", "central"],
        epsilon: Positive,
        directions: Count | None,
        chunk: Count,
        max_coordinates: Count,
        rule: Literal["sgd", "adam"],
        lr: Positive,
        betas: tuple[Fraction, Fraction],
        momentum: Fraction,
    ):
        super().__init__(params, {})
        learned = [weight for group in self.param_groups for weight in group["params"] if weight.requires_grad]
        count = sum(weight.numel() for weight in learned)
        if directions is None and count > max_coordinates:
            raise ValueError(
                f"directions=null perturbs every weight in turn, but the network has {count:,} and max_coordinates is "
                f"{max_coordinates:,}; random directions do for large networks: optimizer.directions=64"
            )
        self.method, self.epsilon, self.directions, self.chunk = method, epsilon, directions, chunk
        self.rule = (
            optim.SGD(self.param_groups, lr=lr, momentum=momentum)
            if rule == "sgd"
            else optim.Adam(self.param_groups, lr=lr, betas=betas)
        )
        self.share()

    def share(self) -> None:
        """Make the rule's groups and state one's own: who reads or sets either sets both."""
        self.param_groups, self.state, self.defaults = self.rule.param_groups, self.rule.state, self.rule.defaults

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.rule.load_state_dict(state_dict)
        self.share()

    def step(self, closure: Any = None) -> Any:
        """The rule's."""
        return self.rule.step(closure)

    def estimate_gradient(self, network: nn.Module, objective: Callable[[nn.Module], Tensor]) -> None:
        """Fill the gradients of the network's weights; `objective` maps M stacked copies of it to values (M,)."""
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        start = torch.cat([weight.detach().flatten() for weight in weights])
        estimate = self.by_coordinates if self.directions is None else self.by_directions
        gradient = estimate(start, partial(evaluate, objective, network, weights))
        for weight, part in zip(weights, gradient.split([weight.numel() for weight in weights]), strict=True):
            weight.grad = torch.empty_like(weight).copy_(part.view_as(weight))  # its entries lie as the weight's do

    def by_coordinates(self, start: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """The gradient at the weights `start`, (d,); `evaluate` maps rows of weights (M, d) to values (M,).

        Divided by the step that the rounded weights really took; one that rounds to 0 tells nothing.
        """
        gradient = torch.empty_like(start)
        for first in range(0, len(start), self.chunk):
            here = start[first : first + self.chunk]
            rows = self.rows(start, len(here))
            ahead, behind = rows[: len(here)].diagonal(first), here
            ahead += self.epsilon
            if self.method == "central":
                behind = rows[len(here) :].diagonal(first)
                behind -= self.epsilon
            values = evaluate(rows)
            step = (ahead - behind).clamp(min=torch.finfo(start.dtype).tiny)
            gradient[first : first + self.chunk] = (values[: len(here)] - values[len(here) :]) / step
        return gradient

    def by_directions(self, start: Tensor, evaluate: Callable[[Tensor], Tensor]) -> Tensor:
        """Likewise, the mean over random directions, each a draw of its own."""
        assert self.directions is not None
        gradient = torch.zeros_like(start)
        for first in range(0, self.directions, self.chunk):
            directions = start.new_empty(min(self.chunk, self.directions - first), len(start))
            for direction in directions:
                direction.normal_()
            rows = self.rows(start, len(directions))
            rows[: len(directions)].add_(directions, alpha=self.epsilon)
            if self.method == "central":
                rows[len(directions) :].sub_(directions, alpha=self.epsilon)
            values = evaluate(rows)
            gradient += (values[: len(directions)] - values[len(directions) :]) @ directions
        return gradient / (self.directions * self.epsilon * (2 if self.method == "central" else 1))

    def rows(self, start: Tensor, count: int) -> Tensor:
        """The weights, to be moved ahead `count` times and then, for central differences, as often behind: (M, d)."""
        return start.repeat(2 * count if self.method == "central" else count + 1, 1)


def evaluate(
    objective: Callable[[nn.Module], Tensor], network: nn.Module, weights: list[nn.Parameter], rows: Tensor
) -> Tensor:
    """The objective of one copy of the network for each row of weights: (M, d) -> (M,)."""
    parts = rows.split([weight.numel() for weight in weights], dim=1)
    values = {weight: part.reshape(-1, *weight.shape) for weight, part in zip(weights, parts, strict=True)}
    value = objective(Copies(network, len(rows), values)).detach()
    if value.shape != rows.shape[:1]:
        raise ValueError(
            f"optimizer=finite_difference: of {len(rows)} copies of the network the objective has the shape "
            f"{tuple(value.shape)}; a loss or penalty must return (..., N), and reduce over nothing else"
        )
    return value


class Subgradient(optim.Optimizer):
    """w <- w - lr / √t g at the t-th update, g a subgradient: what backpropagation gives where L has a kink.

    A step of fixed length never settles at a kink (of the hinge, |w|, ReLU); one that diminishes with a divergent sum
    does, for convex L. With `normalize` g is divided by its norm |g| over all weights, so that lr / √t is the length
    of the step. The logged learning rate is `lr`, without the root.

    Source: Shor 1985, Minimization Methods for Non-Differentiable Functions, section 2.2.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, lr: Positive, normalize: bool):
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
