"""A CUDA graph without a GPU: operators are taped with the memory that they used, and repeated in that memory."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from gan_runner.augmentations.adaptation import adaptations
from gan_runner.games.cuda_graph import CapturedStep
from gan_runner.games.game import Game


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def state_tensors(game: Game) -> list[Tensor]:
    """Those of a checkpoint but for the learning rates and betas, which are numbers after a captured step."""
    state = game.state_dict()
    for name in game.players:
        for group in state[name]["optimizer"]["param_groups"]:
            del group["lr"]
            group.pop("betas", None)
    return tensors(state)


def aliases(tree: Any) -> Any:
    """The same memory, without a graph."""
    return tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, tree)


def memory(some: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in some}


class Tape(TorchDispatchMode):
    """Every operator with its arguments and results, in the order of the work."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Any, Any, Any, Any]] = []
        self.made: list[Tensor] = []  # new memory

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("the host waits for a number")
        before = aliases((args, kwargs or {}))
        found = function(*args, **(kwargs or {}))
        self.made += [new for new in tensors(aliases(found)) if not memory([new]) & memory(tensors(before))]
        self.operators.append((function, *before, aliases(found)))
        return found

    @torch.no_grad()
    def repeat(self) -> None:
        """The same operators in the same memory, on what it holds now."""
        for function, args, kwargs, found in self.operators:
            old = memory(tensors((args, kwargs)))
            for static, new in zip(tensors(found), tensors(function(*aliases(args), **aliases(kwargs))), strict=True):
                if not memory([static]) & old:
                    static.copy_(new)


class TapedGraph:
    """Recording leaves all that lasts as it was. After a replay, what other graphs may have reused holds NaN.

    The graphs of a step share a pool of memory, in which a later one may use what the earlier ones left free. So a
    replay spoils all the memory of later graphs, and that of earlier ones but for what their recordings keep.
    """

    def __init__(self, step: CapturedStep, graphs: list["TapedGraph"]):
        self.step, self.graphs, self.tape = step, graphs, Tape()

    def record(self, work: Callable[[], None]) -> None:
        lasting = self.lasting()
        before = [tensor.clone() for tensor in lasting]
        try:
            with self.tape:
                work()
        finally:
            for tensor, value in zip(lasting, before, strict=True):
                tensor.copy_(value)
        self.graphs.append(self)

    def lasting(self) -> list[Tensor]:
        """Weights, buffers, and the memories of optimizers and terms."""
        game = self.step.game
        players = game.players.values()
        modules = [module for player in players for module in (player.network, *player.terms.values())]
        modules += [game.moving_average.network] if game.moving_average else []
        modules += adaptations(getattr(game, "augmentations", [])).values()
        networks = [[*module.parameters(), *module.buffers()] for module in modules]
        return tensors(aliases([networks, [list(player.optimizer.state.values()) for player in players]]))

    def kept(self) -> set[int]:
        """The memory that the recording of this graph keeps."""
        its = [each for each in self.step.recordings.values() if each.graph is self]
        return memory(tensors([each.values for each in its]))

    def replay(self) -> None:
        self.tape.repeat()
        for other in self.graphs:
            is_earlier = self.graphs.index(other) < self.graphs.index(self)
            kept = other.kept() if is_earlier else set()
            for tensor in other.tape.made if other is not self else ():
                if tensor.is_floating_point() and not memory([tensor]) & kept:
                    whole = tensor.untyped_storage().nbytes() // tensor.element_size()
                    torch.as_strided(tensor, (whole,), (1,), 0).fill_(float("nan"))


class TapedStep(CapturedStep):
    """A game's step, captured on tapes; `said` is what the log would be told."""

    def __init__(self, game: Game):
        self.said: list[str] = []
        graphs: list[TapedGraph] = []
        super().__init__(game, self.said.append, lambda: TapedGraph(self, graphs))


def taped(game: Game) -> TapedStep:
    return TapedStep(game)
