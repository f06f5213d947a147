"""CUDA graphs: a training step recorded once, double backward pass, optimizer and moving average included; replayed.

A small network's step is bound by the launches of its operators; a replay is one launch for all of them. What differs
from step to step reaches a graph from outside: the batches through tensors that are filled before a replay, the
schedules' values likewise, the noise by seeding the generators. Each set of active terms has its own graph.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from gan_runner.games.game import Batch, Game
from gan_runner.games.player import Values
from gan_runner.games.term import Schedule
from gan_runner.optimizers import wants_closure
from gan_runner.torch_utils.buffers import buffers_in_place
from gan_runner.torch_utils.randomness import default_generator

WARM_UP = 3  # steps before a recording, as the libraries choose and set up their kernels at the first calls
BETAS = ("beta1_schedule", "beta2_schedule")  # of a player
MOST_GRAPHS = 32  # sets of active terms; each graph costs some memory, and half a second to record


class Graph(Protocol):
    """What records the work of a function without doing it, and does it at a replay: a CUDA graph, or a test's."""

    def record(self, work: Callable[[], None]) -> None:
        """Call the function once."""

    def replay(self) -> None:
        """Do what was recorded, on what the tensors hold now."""


class CudaGraph:
    """PyTorch's, recorded on a stream into the memory pool of those before; the work draws from the generators."""

    def __init__(self, pool: Any, stream: torch.cuda.Stream, generators: Sequence[torch.Generator]):
        self.graph, self.pool, self.stream, self.generators = torch.cuda.CUDAGraph(), pool, stream, generators

    def record(self, work: Callable[[], None]) -> None:
        """Raises RuntimeError for work that waits for the device, or moves data to it from the host."""
        before, default = torch.cuda.current_stream(self.stream.device), default_generator(self.stream.device)
        for generator in {*self.generators} - {default}:  # which a capture knows
            self.graph.register_generator_state(generator)
        try:
            # Other threads may go on, such as the one that pins batches of a dataset that streams.
            with torch.cuda.graph(self.graph, self.pool, self.stream, capture_error_mode="thread_local"):
                work()
        except BaseException:
            # Older versions of torch leave the stream current, the pool open (pytorch#180395: a later `empty_cache`
            # asserts, or frees nothing), and the generators recording.
            torch.cuda.set_stream(before)
            with suppress(RuntimeError):  # it is closed
                torch._C._cuda_endAllocateToPool(self.stream.device.index, self.pool)
            for generator in {*self.generators, default}:
                generator.graphsafe_set_state(generator.clone_state())
            raise

    def replay(self) -> None:
        self.graph.replay()


class DeviceSchedule:
    """A schedule whose value is a tensor, which `fill` sets before each step: a graph reads it where it lies.

    The value is (), or (M,) where M runs have different ones.
    """

    def __init__(self, schedule: Schedule, device: torch.device, dtype: torch.dtype | None = None):
        self.schedule, self.device, self.dtype = schedule, device, dtype
        self.tensors: dict[torch.Size, Tensor] = {}  # of each shape there was
        self.value: Tensor | None = None
        self.last: float | Tensor | None = None

    def fill(self, step: int) -> None:
        """Fill in the value at a step; most stay as they are."""
        value = self.schedule(step)
        if isinstance(value, Tensor):  # the same one, as long as its numbers stay as they are
            if value is not self.last:
                self.tensor_of(value.shape).copy_(value)
        elif value != self.last:
            self.tensor_of(torch.Size()).fill_(value)
        self.last = value

    def tensor_of(self, shape: torch.Size) -> Tensor:
        """The tensor of this shape, which is the value from now on."""
        if shape not in self.tensors:
            self.tensors[shape] = torch.empty(shape, device=self.device, dtype=self.dtype)
        self.value = self.tensors[shape]
        return self.value

    def __call__(self, step: int) -> Tensor:
        """The tensor, whatever the step."""
        assert self.value is not None, "it is filled before the step"
        return self.value


class Recording(NamedTuple):
    """A graph, and the values that its step returns: tensors that each replay fills anew.

    Graphs share their memory: what is kept here no later one takes for its own.
    """

    graph: Graph
    values: Values


class CapturedStep:
    """A game's step, replayed from graphs after a few steps of warm-up.

    Each set of active terms has a graph of its own (and one for each way in which the schedules of stacked runs are
    equal or differ), recorded when it is active for the second time: its kernels are chosen and set up at the first,
    which no recording can do. Where one cannot be recorded `say` is told why, and steps
    are then taken one operator after another.
    """

    def __init__(self, game: Game, say: Callable[[str], None], make_graph: Callable[[], Graph] | None = None):
        self.game, self.say = game, say
        device = game.randomness.device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.make_graph = make_graph or cuda_graphs(self.stream, game.randomness.generators)
        self.schedules = put_schedules_on_device(game)
        self.inputs: list[Batch] = []
        self.recordings: dict[tuple[Any, ...], Recording] = {}
        self.taken = 0
        self.warm: set[tuple[Any, ...]] = set()  # sets of active terms that a step was taken with in this process
        self.is_refused = False

    def __call__(self, step: int, *, is_logged: bool = False) -> Values:
        """Training step number `step`, counted from 0, as `Game.step` takes it."""
        for schedule in self.schedules:
            schedule.fill(step)
        self.taken += 1
        active = (self.game.active_terms(step), tuple(schedule(step).shape for schedule in self.schedules))
        batches = self.game.batches(step)
        self.fill(batches)
        is_new = active not in self.recordings
        if is_new and self.taken > WARM_UP and active in self.warm and not self.is_refused:
            self.record(active, step)
        if active in self.recordings:
            self.game.randomness.start_step(step)
            self.game.average_has_moved()
            recording = self.recordings[active]
            recording.graph.replay()
            values = recording.values
        else:
            self.warm.add(active)
            values = self.warm_up(step, batches, is_logged)
        self.set_rates(step)
        return values

    def warm_up(self, step: int, batches: list[Batch], is_logged: bool) -> Values:
        """A step one operator after another, on the stream that steps are recorded on."""
        if self.stream is None:
            with self.in_place():
                return self.game.step_on(step, batches, is_logged=is_logged)
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream), self.in_place():
            values = self.game.step_on(step, batches, is_logged=is_logged)
        current.wait_stream(self.stream)
        return values

    def record(self, active: tuple[Any, ...], step: int) -> None:
        """Record a step of a set of active terms, or say why there are to be no recordings."""
        if len(self.recordings) == MOST_GRAPHS:
            self.refuse(f"the terms are active in more than {MOST_GRAPHS} combinations")
            return
        self.game.randomness.start_step(step)
        graph = self.make_graph()
        values: Values = {}

        def work() -> None:
            with self.in_place():
                values.update(self.game.work(step, self.inputs, is_logged=True))

        try:
            graph.record(work)
        except Exception as error:  # what is wrong with the step itself, it will say again, not recorded
            cause = error.__context__ or error  # CUDA's own says no more than that there was one
            self.refuse(str(cause).strip().partition("\n")[0] or type(cause).__name__)
            self.recordings.clear()  # their noise comes from the generator as it was
            return
        self.recordings[active] = Recording(graph, values)

    def set_rates(self, step: int) -> None:
        """Have a checkpoint find the rates of this step as numbers: their tensors are of one graph or another."""
        for player in self.game.players.values():
            player.set_rates(lambda held: held.schedule(step))

    def refuse(self, reason: str) -> None:
        self.is_refused = True
        self.say(f"capture: {reason}; steps without a CUDA graph from here on")

    def fill(self, batches: list[Batch]) -> None:
        """Put a step's batches where the graphs read them."""
        if not self.inputs:
            self.inputs = [(like(real), None if labels is None else like(labels)) for real, labels in batches]
        for (real, labels), (new, new_labels) in zip(self.inputs, batches, strict=True):
            overwrite(real, new)
            if labels is not None and new_labels is not None:
                overwrite(labels, new_labels)

    def in_place(self) -> AbstractContextManager[None]:
        """Buffers of networks and terms stay where the graphs find them, whatever a step assigns to them."""
        players = self.game.players.values()
        return buffers_in_place(module for player in players for module in (player.network, *player.terms.values()))


def is_shared(batch: Tensor) -> bool:
    """Whether the first axis is of stacked runs that all have the same samples, which lie in memory once."""
    return batch.stride(0) == 0 and len(batch) > 1


def like(batch: Tensor) -> Tensor:
    """Memory for batches like this."""
    return torch.empty_like(batch[0]).expand(batch.shape) if is_shared(batch) else torch.empty_like(batch)


def overwrite(static: Tensor, batch: Tensor) -> None:
    """Put a batch into memory made for it."""
    if is_shared(static):
        static[0].copy_(batch[0])
    else:
        static.copy_(batch)


def cuda_graphs(stream: torch.cuda.Stream | None, generators: Sequence[torch.Generator]) -> Callable[[], Graph]:
    """What makes the graphs of one game, which share their memory."""
    assert stream is not None, "on a GPU there is one"
    pool = torch.cuda.graph_pool_handle()
    return lambda: CudaGraph(pool, stream, generators)


def why_not_capturable(game: Game, processes: int = 1) -> str | None:
    """Why the steps of a game, of so many processes, cannot be recorded, as far as that is known beforehand."""
    device = game.randomness.device
    if device.type != "cuda":
        return f"CUDA graphs need a CUDA device, and this run is on the {device.type}"
    if processes > 1:
        return "several processes average their gradients in the step"
    if game.accumulate > 1:
        return "accumulate sets the noise back for each part of a batch"
    for name, player in game.players.items():
        optimizer = player.optimizer
        is_on_device = all(group.get("capturable") or group.get("fused") for group in optimizer.param_groups)
        if wants_closure(optimizer) or not is_on_device:
            return f"the {type(optimizer).__name__} optimizer of the {name} computes on the host"
    for augment in getattr(game, "augmentations", ()):
        if not (isinstance(augment, FunctionType) or getattr(augment, "capturable", False)):
            changed = getattr(augment, "augment", augment)  # where a schedule changes one of its numbers
            return f"{type(changed).__name__} may read the step's number, which a graph would not change"
    return None


def put_schedules_on_device(game: Game) -> list[DeviceSchedule]:
    """Put a `DeviceSchedule` in the place of each schedule that the game has."""
    players = game.players.values()
    owners: list[tuple[Any, str]] = [(player, "lr_schedule") for player in players]
    owners += [(player, name) for player in players for name in BETAS]
    owners += [
        (own, "schedule") for player in players for term in player.terms.values() for own in (term, term.reduction)
    ]
    owners += [(augment, "schedule") for augment in getattr(game, "augmentations", ())]
    owners += [(game.moving_average, "rate")]
    held = []
    for owner, name in owners:
        if schedule := getattr(owner, name, None):
            # What a beta lacks to 1 has few digits in float32.
            dtype = torch.float64 if name in BETAS else None
            held.append(DeviceSchedule(schedule, game.randomness.device, dtype))
            setattr(owner, name, held[-1])
    return held
