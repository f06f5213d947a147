"""A player: a network, the named terms that it minimises, and how it learns."""

import functools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim

from gan_runner.games.term import Schedule, Term, as_tensor
from gan_runner.optimizers import wants_closure
from gan_runner.torch_utils import ranks
from gan_runner.torch_utils.buffers import unchanged_buffers
from gan_runner.torch_utils.parameters import gradient_norm, gradients
from gan_runner.torch_utils.randomness import default_generator

# Keys of torch's optimizers that say how, and not what, they compute.
IMPLEMENTATION_KEYS = ("foreach", "fused", "capturable")
LOSS = "loss"  # the name of the term that a player always has: its side of the loss
HEAD = "head"  # of the term that a conditioning head adds

Values = dict[str, Tensor]
"""What a step did, for the log: tag -> tensor (), or (M,) for M stacked runs, detached."""


@dataclass
class Player:
    """One gradient step at a time on the sum of the terms that are active."""

    name: str
    network: nn.Module
    terms: dict[str, Term]
    optimizer: optim.Optimizer
    lr_schedule: Schedule
    gradient_transforms: Sequence[Callable[[nn.Module], None]] = ()
    projections: Sequence[Callable[[nn.Module], None]] = ()
    beta1_schedule: Schedule | None = None
    beta2_schedule: Schedule | None = None
    """What Adam's betas are at a training step, where they change."""

    def __post_init__(self) -> None:
        self.parameters = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self.closure: Closure | None = None  # that of the turn under way
        self.is_evaluated_again = wants_closure(self.optimizer)
        for group in self.optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])

    def active_terms(self, update: int) -> tuple[str, ...]:
        """The names of the terms evaluated at update number `update`, counted from 0."""
        return tuple(name for name, term in self.terms.items() if term.is_active(update))

    def objective(self, view: Any, update: int, step: int) -> Tensor:
        """The sum of the terms active at update number `update`, in training step `step`, both counted from 0: (...,).

        Whatever remembers moves at the first evaluation of a turn, and stands still at further ones.
        """
        closure, active = self.closure, self.active_terms(update)
        if closure and closure.is_updating_terms:
            self.terms[LOSS].fn(view)  # which draws first in all turns
            for name in active:
                self.terms[name].update(view)
            return torch.zeros(())
        moves = closure is None or (closure.is_first and closure.accumulate == 1)  # else they have moved already
        summands = []
        for name in active:
            if moves:
                self.terms[name].update(view)
            summands.append(self.terms[name](view, step))
        if closure:
            closure.record({name: self.terms[name] for name in active}, view)
        return functools.reduce(torch.add, summands)

    def learn(
        self,
        objective: Callable[[], Tensor],
        step: int,
        *,
        is_logged: bool = False,
        others: Sequence[nn.Module] = (),
        accumulate: int = 1,
    ) -> Values:
        """One step of the optimizer down the gradient of the objective, (...,).

        The objective is evaluated once, or for each of `accumulate` micro-batches; an optimizer that wants it again
        (finite differences, L-BFGS) does so by torch.optim's own protocol. `others` are the networks beside the own one
        that the objective evaluates.
        Returns what a step that is logged did: the norm of the gradient before any clipping, and the rate.
        """
        self.set_rates(lambda schedule: schedule(step))
        self.closure = Closure(self, objective, is_logged, others, accumulate)
        try:
            self.optimizer.step(self.closure)  # type: ignore[arg-type]  # torch asks for a float, and takes a tensor
            values = self.closure.values
        finally:
            self.closure = None
        for project in self.projections:
            project(self.network)
        if is_logged:
            values[f"learning_rate/{self.name}"] = as_tensor(self.optimizer.param_groups[0]["lr"])
        return values

    def set_rates(self, read: Callable[[Any], float | Tensor]) -> None:
        """Give the optimizer the rate, and the betas that change, as `read` reads them from their schedules."""
        betas = (self.beta1_schedule, self.beta2_schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * read(self.lr_schedule)
            if any(betas):
                pairs = zip(group["betas"], betas, strict=True)
                group["betas"] = tuple(read(schedule) if schedule else beta for beta, schedule in pairs)

    def state_dict(self) -> dict[str, Any]:
        """The state of all that learns or remembers."""
        terms = {name: term.state_dict() for name, term in self.terms.items()}
        return {"network": self.network.state_dict(), "terms": terms, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        # How it computes is for this device to say, and where a tensor's entries lie for the weights.
        saved, own = state["optimizer"], self.optimizer.param_groups
        kept = [{key: group[key] for key in IMPLEMENTATION_KEYS if key in group} for group in own]
        groups = [group | own_keys for group, own_keys in zip(saved["param_groups"], kept, strict=True)]
        self.optimizer.load_state_dict({**saved, "param_groups": groups})
        for weight, entries in self.optimizer.state.items():
            for key, value in entries.items():
                if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                    entries[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)
        for name, term in self.terms.items():
            # Version 0.1 wrote `of.` for `fn.`.
            renamed = {re.sub(r"^of\.", "fn.", key): value for key, value in state["terms"][name].items()}
            term.load_state_dict(renamed)


class Closure:
    """The objective of one turn, as torch.optim's `step(closure)` takes it.

    A call computes the value and, where gradients are enabled, the gradients of the player's weights. The first call is
    the turn's own: it moves on the noise, the statistics of layers and the memories of terms, and is what is logged.
    Further calls, at other weights, see the same noise and leave no trace.

    Of a batch in micro-batches the gradients add up to those of the whole. Terms that remember look at the whole batch,
    before the first.
    """

    def __init__(
        self,
        player: Player,
        objective: Callable[[], Tensor],
        is_logged: bool,
        others: Sequence[nn.Module],
        accumulate: int,
    ) -> None:
        self.player, self.objective, self.is_logged, self.accumulate = player, objective, is_logged, accumulate
        self.networks = [player.network, *others]
        self.modules = [*self.networks, *player.terms.values()]
        self.device = player.parameters[0].device
        self.is_first, self.is_updating_terms = True, False
        self.is_divided = accumulate > 1 or ranks.is_sharded()
        self.values: Values = {}
        self.seen: list[dict[tuple[str, str], Tensor]] = []  # of each micro-batch: values of terms, and what is logged
        if player.is_evaluated_again:
            self.generator = default_generator(self.device)
            self.noise = self.generator.get_state()

    def __call__(self) -> Tensor:
        """The value, ()."""
        wants_gradient = torch.is_grad_enabled()
        if wants_gradient:
            self.player.optimizer.zero_grad(set_to_none=True)
        with ExitStack() as entered:
            entered.enter_context(torch.enable_grad())  # penalties differentiate at samples
            if not self.is_first:
                entered.enter_context(self.same_noise())
            if not wants_gradient:
                entered.enter_context(frozen(self.player.parameters))
            if self.accumulate > 1:
                self.update_terms()
            each = micro_batches(self.accumulate, self.modules, self.device)
            value = functools.reduce(torch.add, [self.evaluate(wants_gradient) for _ in each])
        if wants_gradient:
            if self.is_divided:
                self.average()
            self.finish_gradients()
        self.is_first = False
        return value

    def evaluate(self, wants_gradient: bool) -> Tensor:
        """The value of a micro-batch, (), as its share in that of the batch; its gradients are added."""
        value = self.objective()
        if value.ndim:  # over the runs, which share no weights
            value = value.sum()
        if self.accumulate > 1:
            value = value / self.accumulate
        if wants_gradient:
            # Only towards the own weights: not to the samples, which require grad where a penalty differentiates there.
            value.backward(inputs=self.player.parameters)
        return value.detach()

    def update_terms(self) -> None:
        """Let the terms that remember look at this process's whole shard, without a graph that would not fit."""
        if any(hasattr(term.fn, "update") for term in self.player.terms.values()):
            self.is_updating_terms = True
            with torch.no_grad(), unchanged_state(self.networks, self.device):
                self.objective()
            self.is_updating_terms = False

    def record(self, terms: dict[str, Term], view: Any) -> None:
        """Keep what is logged of the first evaluation; of one micro-batch, or process, until all have theirs."""
        logged = view.logged() if self.is_first and self.is_logged else {}
        if self.is_divided:
            found = {("term", name): term.value for name, term in terms.items()}
            self.seen.append(found | {("logged", tag): value for tag, value in logged.items()})
        else:
            self.values |= logged

    def average(self) -> None:
        """Make the gradients, and what was seen, those of the whole batch: means over micro-batches and processes."""
        found = {key: torch.stack([each[key] for each in self.seen]).mean(0) for key in self.seen[0]}
        ranks.average([*gradients(self.player.network), *found.values()])
        for (kind, name), value in found.items():
            if kind == "term":
                self.player.terms[name].value = value
            else:
                self.values[name] = value

    def finish_gradients(self) -> None:
        """Transform the gradients, which are there: called by an optimizer that makes them itself."""
        network = self.player.network
        if self.is_logged:
            self.values[f"gradient_norm/{self.player.name}"] = gradient_norm(network)
        for transform in self.player.gradient_transforms:
            transform(network)

    @contextmanager
    def same_noise(self) -> Iterator[None]:
        """The noise of the first call, and buffers that stay as they are."""
        now = self.generator.get_state()
        self.generator.set_state(self.noise)
        try:
            with unchanged_buffers(self.modules):
                yield
        finally:
            self.generator.set_state(now)


def micro_batches(accumulate: int, modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Once for each micro-batch of this process's shard: all see the same noise, and buffers as the first does."""
    if accumulate == 1:
        yield
        return
    for index in range(accumulate - 1):
        with ranks.micro_batch(index, accumulate), unchanged_state(modules, device):
            yield
    with ranks.micro_batch(accumulate - 1, accumulate):  # this one moves them, as a turn on the whole batch does
        yield


@contextmanager
def unchanged_state(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Afterwards noise goes on where it was before, and the buffers of the modules are what they were."""
    generator = default_generator(device)
    noise = generator.get_state()
    try:
        with unchanged_buffers(modules):
            yield
    finally:
        generator.set_state(noise)


@contextmanager
def frozen(weights: list[nn.Parameter]) -> Iterator[None]:
    """These take part without getting a gradient, or keeping what one would need."""
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
