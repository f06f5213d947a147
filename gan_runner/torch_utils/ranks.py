"""The processes that train one run together, and the shard of a batch that one of them computes.

A run's batch is one batch, whoever computes it: its samples have positions 0, ..., size - 1, of which each process has
an equal range, its shard, and each of a shard's micro-batches (`accumulate`) an equal range of that. What is drawn for
the samples of a batch is drawn for all of it and cut, so every process draws the numbers of a run in one process. What
looks at the whole batch gathers it by `batch_mean`, `batch_sd` or `all_gather`, all differentiable twice.

In a run of one process, and outside of a turn, all of these are what they are without processes. torch.distributed does
the work; `training.processes` starts the group and ends it.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function


@dataclass(frozen=True)
class Shard:
    """Range number `index` of the `count` equal ones that a batch of `size` samples is cut into."""

    index: int
    count: int
    size: int

    @property
    def samples(self) -> int:
        """The samples in the range."""
        return self.size // self.count


@dataclass
class State:
    """Which process this is, and which part of a batch it sees now."""

    rank: int = 0
    processes: int = 1
    process_shard: Shard | None = None  # of the turn's batch, if that is divided
    shard: Shard | None = None  # the same, or a micro-batch of it


state = State()


def processes() -> int:
    """How many processes train this run."""
    return state.processes


@contextmanager
def as_rank(rank: int, count: int) -> Iterator[None]:
    """This is process `rank` of `count`, which torch.distributed has joined in its default group."""
    state.rank, state.processes = rank, count
    try:
        yield
    finally:
        state.rank, state.processes = 0, 1


# --- the shard of a batch


@contextmanager
def sharded(size: int, micro_batches: int) -> Iterator[None]:
    """A turn on a batch of `size` samples, divided among the processes, and by each into so many micro-batches."""
    if state.processes == micro_batches == 1:
        yield
        return
    state.shard = state.process_shard = Shard(state.rank, state.processes, size)
    try:
        yield
    finally:
        state.shard = state.process_shard = None


@contextmanager
def micro_batch(index: int, count: int) -> Iterator[None]:
    """One of the micro-batches that the shard of this process is computed in."""
    whole = state.process_shard
    assert whole is not None, "within a turn"
    state.shard = Shard(whole.index * count + index, whole.count * count, whole.size)
    try:
        yield
    finally:
        state.shard = whole


@contextmanager
def strided(stride: int) -> Iterator[None]:
    """Draws within this context are for every `stride`-th sample of the batch; `stride` divides a shard's size."""
    shard = state.shard
    state.shard = shard and Shard(shard.index, shard.count, shard.size // stride)
    try:
        yield
    finally:
        state.shard = shard


def shard_size(size: int) -> int:
    """How many samples of a batch of `size` this process computes now."""
    return size // state.shard.count if state.shard else size


def positions(size: int) -> slice:
    """Which of a batch of `size` samples this process has."""
    own = size // state.processes
    return slice(state.rank * own, (state.rank + 1) * own)


Samples = TypeVar("Samples", Tensor, Tensor | None)
Marked = TypeVar("Marked", bound=Callable[..., Any])


def of_micro_batch(samples: Samples) -> Samples:
    """Of this process's samples (N, ...), or their labels, those of the present micro-batch."""
    whole, shard = state.process_shard, state.shard
    if samples is None or whole is None or shard is None or shard.count == whole.count:
        return samples
    index = shard.index - whole.index * (shard.count // whole.count)
    return samples.narrow(0, index * shard.samples, shard.samples)


def drawn(shape: Sequence[int], draw: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """What `draw` makes of a shape, or of that of the whole batch, cut to the present shard.

    A first axis of the shard's length, or of a multiple of it where several batches lie one after another, is that of
    the samples. A draw of any other shape is no sample's, and all processes have the same.
    """
    shard = state.shard
    if shard is None or not shape or shape[0] % shard.samples:
        return draw(shape)
    batches, rest = shape[0] // shard.samples, shape[1:]
    whole = draw((batches * shard.size, *rest))
    return whole.unflatten(0, (batches, shard.count, shard.samples))[:, shard.index].flatten(0, 1)


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """`F.dropout`, with the noise of the whole batch cut to the present shard: (N, ...) -> the same."""
    if state.shard is None or not training or p == 0:
        return F.dropout(x, p, training)
    strides = torch.empty_like(x).stride()  # noise is drawn in the order in which the entries lie in memory
    sample = x[:1].numel()

    def noise(shape: Sequence[int]) -> Tensor:
        ones = torch.empty_strided(shape, (sample, *strides[1:]), dtype=x.dtype, device=x.device).fill_(1)
        return F.dropout(ones, p, True)

    return x * drawn(x.shape, noise)


# --- the whole batch, from within one's shard


def batch_mean(x: Tensor, dim: int | list[int] = -1, *, keepdim: bool = False) -> Tensor:
    """The mean over axes, of which the samples' is one, of all processes' values; they have equally many."""
    mean = x.mean(dim, keepdim=keepdim)
    return all_reduce_sum(mean) / state.processes if is_sharded() else mean


def batch_sd(x: Tensor) -> Tensor:
    """The standard deviation of the last axis, of all processes, with Bessel's correction: (..., K) -> (...,)."""
    if not is_sharded():
        return x.std(-1)
    count = x.shape[-1] * state.processes
    variance = batch_mean((x - batch_mean(x, keepdim=True)).square())
    return (variance * (count / (count - 1))).sqrt()


def all_gather(x: Tensor) -> Tensor:
    """The samples of all processes, in the batch's order: (N, ...) -> (processes x N, ...)."""
    if not is_sharded():
        return x
    samples: Tensor = AllGather.apply(x)
    return samples


def own_shard(x: Tensor) -> Tensor:
    """Of what `all_gather` makes the samples of this process: (processes x N, ...) -> (N, ...)."""
    return x[positions(len(x))] if is_sharded() else x


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum of all processes' values of a tensor."""
    summed: Tensor = AllReduceSum.apply(x)
    return summed


class AllReduceSum(Function):
    """The sum over the processes; the gradient of a process's value is the sum of all processes' gradients.

    So is `torch.distributed.nn.functional.all_reduce`, which newer versions of torch warn of.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return all_reduce_sum(*gradients)


class AllGather(Function):
    """All processes' samples, one process after another: (N, ...) -> (processes x N, ...)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        samples = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(state.processes)]
        dist.all_gather(samples, x.contiguous())
        return torch.cat(samples)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gradient,) = gradients
        return all_reduce_sum(gradient)[positions(len(gradient))]


def gathers_batch(function: Marked) -> Marked:
    """Marks a loss or a penalty that looks at the whole batch, and gathers it from all processes."""
    function.gathers_batch = True  # type: ignore[attr-defined]
    return function


def is_sharded() -> bool:
    """Whether a batch is divided among several processes now."""
    return state.shard is not None and state.processes > 1


@torch.no_grad()
def average(tensors: Sequence[Tensor]) -> None:
    """Make each tensor the mean of those of all processes, in place: by one all-reduce for each type of number."""
    if state.processes == 1:
        return
    of_type: dict[torch.dtype, list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        of_type[tensor.dtype].append(tensor)
    for same in of_type.values():
        flat = torch.cat([tensor.flatten() for tensor in same])
        dist.all_reduce(flat)
        flat /= state.processes
        for tensor, mean in zip(same, flat.split([tensor.numel() for tensor in same]), strict=True):
            tensor.copy_(mean.view_as(tensor))
