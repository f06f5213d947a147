"""Processes that wait for what a test has them do together.

They are started once, as a Python with torch takes seconds, and joined as those of a run are.
"""

import os
import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_runner.config.process_rank import launched_process, rendezvous
from gan_runner.torch_utils import ranks
from gan_runner.training.processes import connect, store_at
from tests.helpers import compose
from tests.helpers.games import build_game, floats

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = timedelta(seconds=30)  # where one has failed
Outcome = tuple[dict[str, Tensor], dict[str, float]]


class Processes:
    """A group of so many processes beside this one; a context manager that ends them."""

    def __init__(self, count: int):
        self.count = count
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
        self.children = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.helpers.ranks"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env={**os.environ, **given, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            )
            for rank in range(count)
        ]  # fmt: skip

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """What a function of a module returns in each of the processes, all of which call it at once."""
        for child in self.children:
            assert child.stdin is not None
            pickle.dump((function, arguments), child.stdin)
            child.stdin.flush()
        results = [pickle.load(child.stdout) for child in self.children if child.stdout is not None]
        for result in results:
            if isinstance(result, Exception):
                raise result
        return results

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *exception: object) -> None:
        for child in self.children:
            assert child.stdin is not None
            child.stdin.close()
        for child in self.children:
            child.stdin = None
            child.communicate(timeout=30)


def answer(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, or raises."""
    try:
        return function(*arguments)
    except Exception as error:
        traceback.print_exc()
        return RuntimeError(f"{type(error).__name__}: {error}")


def train(words: list[str], steps: int, dtype: torch.dtype, count: int = 1) -> Outcome:
    """The state of the networks and terms of a run of `count` processes after some steps, and what the last logs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        game = build_game(compose(*words, *([] if count == 1 else [f"devices={count}"])))
        for step in range(steps - 1):
            game.step(step)
        values = floats(game.step(steps - 1, is_logged=True))
        game.data.close()
    finally:
        torch.set_default_dtype(before)
    state = {
        f"{name}.{key}": value
        for name, player in game.players.items()
        for part in (player.network, *player.terms.values())
        for key, value in part.state_dict(prefix=f"{type(part).__name__}.").items()
    }
    if game.moving_average:
        state |= game.moving_average.network.state_dict(prefix="average.")
    return state, values


def gradgradcheck(name: str) -> bool:
    """Whether first and second derivatives of a function of `ranks`, of all processes' values, are the numeric ones.

    Every process perturbs the whole batch in the same way, computes with its own range of it, and returns the sum over
    all processes.
    """
    function = {
        "mean": lambda x: ranks.batch_mean(x, 0),
        "sd": lambda x: ranks.batch_sd(x.flatten()),
        "gathered": lambda x: ranks.all_gather(x).roll(1, 0) * ranks.all_gather(x),
    }[name]
    torch.manual_seed(0)  # of the batch, and of the gradients that torch draws
    batch = torch.randn(2 * ranks.processes(), 3, dtype=torch.float64).requires_grad_()

    def of_all(batch: Tensor) -> Tensor:
        own = (ranks.all_reduce_sum(batch) / ranks.processes())[ranks.positions(len(batch))]
        return ranks.all_reduce_sum(function(own.sin()).square().sum())

    with ranks.sharded(len(batch), 1):
        return torch.autograd.gradcheck(of_all, batch) and torch.autograd.gradgradcheck(of_all, batch)


def main() -> None:
    """Be one of the processes: do what is said, until nothing is."""
    process = launched_process(os.environ)
    assert process is not None
    torch.set_num_threads(1)
    with os.fdopen(os.dup(1), "wb") as out, ExitStack() as opened:
        os.dup2(2, 1)  # what is printed is no answer
        connect(opened, process, store_at(*rendezvous(os.environ), process), PATIENCE)
        jobs = os.fdopen(0, "rb")
        while jobs.peek(1):
            function, arguments = pickle.load(jobs)
            pickle.dump(answer(function, *arguments), out)
            out.flush()


if __name__ == "__main__":
    main()
