"""A player: a network, the named terms that it minimises, and how it learns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from gan_runner.games.term import Schedule, Term, held
from gan_runner.torch_utils.parameters import gradient_norm
from gan_runner.torch_utils.randomness import default_generator

WAYS = ("foreach", "fused", "capturable")  # keys of torch's optimizers that say how, and not what, they compute
LOSS = "loss"  # the name of the term that a player always has: its side of the loss


@dataclass
class Player:
    """One gradient step at a time on the sum of the terms that are due."""

    network: nn.Module
    terms: dict[str, Term]
    optimizer: optim.Optimizer
    lr_schedule: Schedule
    gradient_transforms: Sequence[Callable[[nn.Module], None]] = ()
    projections: Sequence[Callable[[nn.Module], None]] = ()

    def __post_init__(self) -> None:
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        self.unclipped_norm: Tensor | None = None

    def due(self, update: int) -> tuple[str, ...]:
        """The names of the terms evaluated at update number `update`, counted from 0."""
        return tuple(name for name, term in self.terms.items() if term.is_due(update))

    def objective(self, view: Any, update: int, step: int) -> Tensor:
        """The sum of the terms due at update number `update`, in training step `step`, both counted from 0: (...,)."""
        return torch.stack([self.terms[name](view, step) for name in self.due(update)]).sum(0)

    def learn(self, objective: Callable[[nn.Module], Tensor], step: int) -> None:
        """One step of the optimizer down the gradient of the objective, a function of the network: (...,).

        The gradient is backpropagated, unless the optimizer estimates it from the objective's values.
        """
        self.optimizer.zero_grad(set_to_none=True)
        estimate_gradient = getattr(self.optimizer, "estimate_gradient", None)
        if estimate_gradient:
            estimate_gradient(self.network, self.repeatable(objective))
        else:
            # Only towards the own weights: not to the samples, which require grad where a penalty differentiates at
            # them. The sum is over the runs, if any, which share no weights.
            objective(self.network).sum().backward(inputs=self.parameters)
        if self.gradient_transforms:
            self.unclipped_norm = gradient_norm(self.network)
        for transform in self.gradient_transforms:
            transform(self.network)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.lr_schedule(step)
        self.optimizer.step()
        for project in self.projections:
            project(self.network)

    def repeatable(self, objective: Callable[[nn.Module], Tensor]) -> Callable[[nn.Module], Tensor]:
        """The objective for copies of the network, after the network itself was evaluated, this once.

        That evaluation is the turn's: it moves on the statistics of the layers, the memories of the terms and the
        noise, and is what is logged. Each evaluation of copies sees the same noise, with the terms' memories as the
        network left them, and leaves no trace. (The copies' layers start from the statistics that the network left.)
        """
        generator = default_generator(self.parameters[0].device)
        before = generator.get_state()
        objective(self.network)

        def repeat(copies: nn.Module) -> Tensor:
            now = generator.get_state()
            generator.set_state(before)
            with held(self.terms.values()):
                value = objective(copies)
            generator.set_state(now)
            return value

        return repeat

    def gradient_norm(self) -> Tensor:
        """The norm of the last update's gradient before any clipping, (...,)."""
        return gradient_norm(self.network) if self.unclipped_norm is None else self.unclipped_norm

    def state_dict(self) -> dict[str, Any]:
        """The state of all that learns or remembers."""
        terms = {name: term.state_dict() for name, term in self.terms.items()}
        return {"network": self.network.state_dict(), "terms": terms, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.network.load_state_dict(state["network"])
        # How it computes is for this device to say, and where a tensor's entries lie for the weights.
        saved, own = state["optimizer"], self.optimizer.param_groups
        ways = [{key: group[key] for key in WAYS if key in group} for group in own]
        groups = [group | way for group, way in zip(saved["param_groups"], ways, strict=True)]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        for weight, entries in self.optimizer.state.items():
            for key, value in entries.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                    entries[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        for name, term in self.terms.items():
            term.load_state_dict(state["terms"][name])
