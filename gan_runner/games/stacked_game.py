"""The games of many runs as one game, in which everything has a leading axis for the runs.

The runs differ in numbers alone: seeds, weights of terms, learning rates, the numbers of schedules. Their networks are
stacked, and whatever else holds a number for each run holds a tensor (M,); so the game, the players and the terms are
the ordinary ones. The games of the single runs stay, with views of the stacked tensors, so that they are logged,
evaluated and saved as if each had been trained alone.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn, optim

from gan_runner.augmentations.adaptation import adaptations
from gan_runner.datasets.data import WHOLE, Data, Labelled
from gan_runner.datasets.streamed import Streamed
from gan_runner.games.adversarial import Adversarial
from gan_runner.games.game import Game
from gan_runner.games.player import Player, Values
from gan_runner.games.term import Schedule, Term, as_tensor
from gan_runner.optimizers import Subgradient
from gan_runner.torch_utils.ema import MovingAverage
from gan_runner.torch_utils.randomness import Randomness, derive
from gan_runner.torch_utils.scheduled_adam import ScheduledAdam
from gan_runner.torch_utils.stacked_network import StackedNetwork, stack

# Each moves every weight by its rate times something that does not depend on the rate.
LINEAR_IN_RATE = (
    optim.Adam, optim.AdamW, optim.RMSprop, optim.SGD, optim.Adagrad, optim.Adamax, optim.NAdam, optim.RAdam,
    ScheduledAdam, Subgradient,
)  # fmt: skip


class StackedGame:
    """Games of one structure, after equally many steps, and `game`, which trains all of them at once.

    `take_step` takes its steps, one operator after another unless it is replaced.
    """

    def __init__(self, games: Sequence[Game]):
        first = games[0]
        self.games = games
        self.game = copy.copy(first)
        self.take_step: Callable[..., Values] = self.game.step
        networks = {name: StackedNetwork([game.players[name].network for game in games]) for name in first.players}
        self.game.players = {
            name: stacked_player([game.players[name] for game in games], network) for name, network in networks.items()
        }
        seeds = [game.randomness.seed for game in games]
        self.game.data = StackedData(first.data, seeds)
        self.game.randomness = StackedRandomness(seeds, first.randomness.device)
        averages = [game.moving_average for game in games]
        if first.moving_average:
            source = networks[next(name for name, player in first.players.items() if player.network is first.sampler)]
            stacked = StackedNetwork([average.network for average in averages if average])
            self.game.moving_average = MovingAverage(source, stacked, first.moving_average.half_life)
        if isinstance(self.game, Adversarial) and isinstance(first, Adversarial):
            others = [game.augmentations for game in games if isinstance(game, Adversarial)]
            like = next(networks["discriminator"].parameters())
            self.game.augmentations = [stacked_augmentation(same, like) for same in zip(*others, strict=True)]

    def step(self, step: int, *, is_logged: bool = False) -> Values:
        """Training step number `step` of all runs; of a logged one, tag -> tensor (M,), or () for all."""
        values = self.take_step(step, is_logged=is_logged)
        return values | self.host_numbers(step) if is_logged else values

    def host_numbers(self, step: int) -> Values:
        """Weights and rates as each run alone logs them, in full precision: (M,) each."""
        found: dict[str, list[Tensor]] = defaultdict(list)
        for game in self.games:
            for name, player in game.players.items():
                rate = player.optimizer.param_groups[0]["initial_lr"] * player.lr_schedule(step)
                found[f"learning_rate/{name}"].append(as_tensor(rate))
            for tag, term in game.penalties():
                if not hasattr(term.fn, "factor"):  # which lies with the stacked term
                    found[f"weight/{tag}"].append(as_tensor(term.weight_at(step)))
        return {tag: torch.stack(numbers) for tag, numbers in found.items()}

    def values_of(self, run: int, values: Values) -> Values:
        """What a step did in one run: tag -> tensor ()."""
        return {tag: value[run] if value.ndim else value for tag, value in values.items()}

    def hand_out(self, step: int) -> None:
        """Give the single games the state that lies elsewhere than in their networks, before one of them is saved."""
        for run, game in enumerate(self.games):
            game.average_has_moved()
            if isinstance(game, Adversarial) and isinstance(self.game, Adversarial):
                stacked = adaptations(self.game.augmentations)
                for name, adaptation in adaptations(game.augmentations).items():
                    hand_out_buffers(stacked[name], adaptation, run)
        for name, player in self.game.players.items():
            singles = [game.players[name] for game in self.games]
            for run, single in enumerate(singles):
                for term_name, term in player.terms.items():
                    hand_out_buffers(term, single.terms[term_name], run)
                single.set_rates(lambda schedule: schedule(step))
            assert isinstance(player.optimizer, StackedOptimizer)
            player.optimizer.hand_out([single.optimizer for single in singles])


def hand_out_buffers(stacked: nn.Module, single: nn.Module, run: int) -> None:
    """Make the buffers of one run's module those of the stacked one, which may have assigned others."""
    for module, its in zip(stacked.modules(), single.modules(), strict=True):
        for name, buffer in module._buffers.items():
            its._buffers[name] = None if buffer is None else buffer[run]


# --- numbers ----------------------------------------------------------------------------------------------------------


def numbers(values: Sequence[float], like: Tensor) -> float | Tensor:
    """A number for each run, (M,); the number itself where all have the same, which then costs nothing."""
    if all(value == values[0] for value in values):
        return values[0]
    made = torch.tensor(values, dtype=like.dtype)
    # A copy from pageable memory would wait for the device.
    return made.pin_memory().to(like.device, non_blocking=True) if like.is_cuda else made.to(like.device)


class StackedSchedule:
    """The multipliers of M runs as one schedule, whose tensor is the same one as long as its numbers are."""

    def __init__(self, schedules: Sequence[Schedule], like: Tensor):
        self.schedules, self.like = schedules, like
        self.values: list[float] = []
        self.made: float | Tensor = 1.0

    def __call__(self, step: int) -> float | Tensor:
        values = [float(schedule(step)) for schedule in self.schedules]
        if values != self.values:
            self.values, self.made = values, numbers(values, self.like)
        return self.made


def stacked_schedule(schedules: Sequence[Schedule | None], like: Tensor) -> Schedule | None:
    """The multipliers of all runs, where they have schedules."""
    made = [schedule for schedule in schedules if schedule]
    return StackedSchedule(made, like) if made else None


# --- players ----------------------------------------------------------------------------------------------------------


def stacked_player(players: Sequence[Player], network: StackedNetwork) -> Player:
    """One player of all runs."""
    first, like = players[0], next(network.parameters())
    schedule = stacked_schedule([player.lr_schedule for player in players], like)
    assert schedule is not None, "every player has one"
    return Player(
        first.name,
        network,
        {name: stacked_term([player.terms[name] for player in players], like) for name in first.terms},
        StackedOptimizer([player.optimizer for player in players], network, like),
        schedule,
        first.gradient_transforms,
        first.projections,
        first.beta1_schedule,
        first.beta2_schedule,
    )


def stacked_term(terms: Sequence[Term], like: Tensor) -> Term:
    """One term of all runs, with what each remembers."""
    first = terms[0]
    made = copy.deepcopy(first) if isinstance(first.fn, nn.Module) else copy.copy(first)
    made._buffers = dict(made._buffers)  # which a shallow copy shares
    made.reduction = copy.copy(made.reduction)  # whose schedule may be replaced by one on the device
    made.weight = numbers([float(term.weight) for term in terms], like)
    made.schedule = stacked_schedule([term.schedule for term in terms], like)
    stack_buffers(made, terms)
    return made


def stack_buffers(made: nn.Module, singles: Sequence[nn.Module]) -> None:
    """Give a module, made like those of the single runs, the buffers of all of them."""
    for module, *its in zip(made.modules(), *(single.modules() for single in singles), strict=True):
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else stack([each._buffers[name] for each in its])


def stacked_augmentation(augmentations: Sequence[Any], like: Tensor) -> Any:
    """An augmentation of all runs, which may differ in the numbers of its schedule, and in what it remembers."""
    made = augmentations[0]
    if adaptation := getattr(made, "adaptation", None):
        made = copy.copy(made)
        made.adaptation = copy.deepcopy(adaptation)
        stack_buffers(made.adaptation, [augmentation.adaptation for augmentation in augmentations])
    if getattr(made, "schedule", None):
        made = copy.copy(made)
        made.schedule = stacked_schedule([augmentation.schedule for augmentation in augmentations], like)
    return made


class StackedOptimizer(optim.Optimizer):
    """The optimizers of M runs as one of their kind, over stacked weights and with a learning rate for each run.

    Where the rates differ, torch's own take none of more than one element: they step at the rate 1, and each run's
    change is multiplied by its rate, which for those in LINEAR_IN_RATE is the same.
    """

    def __init__(self, optimizers: Sequence[optim.Optimizer], network: StackedNetwork, like: Tensor):
        super().__init__(list(network.parameters()), {})
        first = optimizers[0]
        mine = dict(zip(first.param_groups[0]["params"], network.parameters(), strict=True))
        self.rule = copy.copy(first)
        self.rule.state = defaultdict(dict)
        self.rule.param_groups = [
            {**group, "params": [mine[weight] for weight in group["params"]], "run_axes": 1}
            for group in first.param_groups
        ]
        (group,) = self.rule.param_groups
        group["initial_lr"] = numbers([o.param_groups[0]["initial_lr"] for o in optimizers], like)
        is_fused = isinstance(first, optim.Adam) and like.device.type in ("cpu", "cuda")
        if is_fused := is_fused and not any(group[name] for name in ("differentiable", "foreach", "capturable")):
            group["fused"] = True  # one pass over the weights instead of ten
        for weights in zip(*(o.param_groups[0]["params"] for o in optimizers), strict=True):
            states = [optimizer.state[weight] for optimizer, weight in zip(optimizers, weights, strict=True)]
            stacked = mine[weights[0]]
            for key, value in states[0].items():
                made = stack([state[key] for state in states]) if is_of_each_run(key, value) else copy.copy(value)
                if key == "step" and isinstance(value, Tensor):
                    is_there = is_fused or group.get("fused") or group.get("capturable")
                    made = value.clone().to(stacked.device if is_there else value.device)
                self.rule.state[stacked][key] = made
        self.param_groups, self.state, self.defaults = self.rule.param_groups, self.rule.state, self.rule.defaults
        self.hand_out(optimizers)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        value = None
        if closure is not None:
            with torch.enable_grad():
                value = closure()
        differing = [group for group in self.param_groups if isinstance(group["lr"], Tensor) and group["lr"].ndim]
        before = [[weight.clone() for weight in group["params"]] for group in differing]
        rates = [group["lr"] for group in differing]
        for group in differing:
            group["lr"] = 1.0
        self.rule.step()
        for group, rate, old in zip(differing, rates, before, strict=True):
            group["lr"] = rate
            for weight, start in zip(group["params"], old, strict=True):
                weight.copy_(start.lerp_(weight, rate.reshape(-1, *[1] * (weight.ndim - 1))))
        return value

    def hand_out(self, optimizers: Sequence[optim.Optimizer]) -> None:
        """Make the states of the single runs' optimizers views of this one's."""
        for run, optimizer in enumerate(optimizers):
            for group, its in zip(self.param_groups, optimizer.param_groups, strict=True):
                for stacked, weight in zip(group["params"], its["params"], strict=True):
                    optimizer.state[weight] = {
                        key: value[run] if is_of_each_run(key, value) else on_host(value)
                        for key, value in self.state.get(stacked, {}).items()
                    }


def is_of_each_run(key: str, value: Any) -> bool:
    """Whether an entry of an optimizer's state is of a weight; the number of steps is of all."""
    return isinstance(value, Tensor) and key != "step"


def on_host(value: Any) -> Any:
    """The number of steps where a single run's optimizer has it."""
    return value.detach().cpu().clone() if isinstance(value, Tensor) else value


# --- randomness -------------------------------------------------------------------------------------------------------


class StackedRandomness(Randomness):
    """The random numbers of M runs, each as it would draw them alone; runs of one seed share their draws.

    Whoever draws asks for all runs at once, (M, ...).
    """

    def __init__(self, seeds: Sequence[int], device: torch.device):
        super().__init__(seeds[0], device)
        self.runs = OfSeeds(seeds)
        self.leading_shape = (len(seeds),)
        self.own = [torch.Generator(device) for _ in self.runs.seeds]

    @property
    def generators(self) -> Sequence[torch.Generator]:
        return self.own

    def start_step(self, step: int) -> None:
        """Seed all draws of training step `step`."""
        for seed, generator in zip(self.runs.seeds, self.own, strict=True):
            generator.manual_seed(derive(seed, "step", step))

    def normal(self, *shape: int) -> Tensor:
        return self.draw(torch.randn, shape)

    def uniform(self, *shape: int) -> Tensor:
        return self.draw(torch.rand, shape)

    def draw(self, make: Callable[..., Tensor], shape: tuple[int, ...]) -> Tensor:
        assert shape[:1] == self.leading_shape, "all runs draw at once"
        return self.runs.spread([make(shape[1:], generator=each, device=self.device) for each in self.own])


class OfSeeds:
    """What follows from a run's seed is made once for each seed there is, and spread over the runs."""

    def __init__(self, seeds: Sequence[int]):
        self.seeds = list(dict.fromkeys(seeds))
        self.which = [self.seeds.index(seed) for seed in seeds]

    def spread(self, values: list[Tensor]) -> Tensor:
        """One tensor for each seed -> (M, *shape)."""
        if len(values) == 1:
            return values[0].expand(len(self.which), *values[0].shape)
        return torch.stack([values[number] for number in self.which])


class StackedData(Data):
    """The training batches of M runs; nothing else is asked of it."""

    def __init__(self, data: Data, seeds: Sequence[int]):
        self.data, self.runs = data, OfSeeds(seeds)
        data.keep_orders(2 * len(self.runs.seeds))  # of this epoch and the next

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        """Batch number `index` of each run: (M, N, *sample), (M, N)."""
        batches = [self.data.batch(index, batch_size, seed, positions) for seed in self.runs.seeds]
        labels = [labels for _, labels in batches if labels is not None]
        return self.runs.spread([samples for samples, _ in batches]), self.runs.spread(labels) if labels else None

    def held_out(self, count: int) -> Labelled | None:
        return self.data.held_out(count)

    def fixed(self, count: int) -> Labelled:
        return self.data.fixed(count)

    def training(self, count: int | None) -> Labelled:
        return self.data.training(count)


# --- what can be stacked ----------------------------------------------------------------------------------------------


def why_not_stackable(game: Game) -> str | None:
    """Why a game cannot be stacked, as far as one sees without trying; None if nothing is seen."""
    if isinstance(game.data, Streamed):
        return "the dataset streams, to one run at a time"
    if game.accumulate > 1:
        return f"accumulate={game.accumulate}: a stacked batch is in one part"
    return next(filter(None, map(why_player_not_stackable, game.players.values())), None)


def why_player_not_stackable(player: Player) -> str | None:
    """The same of one player."""
    if any(isinstance(module, nn.modules.dropout._DropoutNd) and module.p for module in player.network.modules()):
        return "the networks have dropout, whose draws would be those of another run"
    if any(getattr(module, "draws_noise", False) for module in player.network.modules()):
        return f"the {player.name} draws noise, and its draws would be those of another run"
    if type(player.optimizer) not in LINEAR_IN_RATE:
        return f"the {player.name}'s optimizer, {type(player.optimizer).__name__}, takes no stacked weights"
    if len(player.optimizer.param_groups) > 1:
        return f"the {player.name}'s optimizer has several groups of weights"
    return None


def why_different(alone: Sequence[Game], together: StackedGame, steps: int = 2) -> str | None:
    """What the stacked games make otherwise than equal ones alone, in so many steps; None if all is the same.

    A network, penalty or projection of a user's may reduce over the leading axis, unaware of it.
    """
    for step in range(steps):
        values = together.step(step, is_logged=True)
        for run, game in enumerate(alone):
            found = together.values_of(run, values)
            for tag, value in game.step(step, is_logged=True).items():
                other = found[tag].to(value.dtype)
                if is_of_training(tag) and not torch.allclose(value, other, rtol=1e-2, atol=1e-4, equal_nan=True):
                    return f"stacked, {tag} would be {float(other):.4g} and not {float(value):.4g}"
    return None


def is_of_training(tag: str) -> bool:
    """Whether a value is of a term or a gradient: of a few samples, shares and means of logits may differ by one."""
    return tag.startswith(("loss/", "penalty/", "gradient_norm/"))
