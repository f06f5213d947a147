"""Games on PyTorch's meta device, whose tensors have shapes but no values: a GPU, as far as a step's operators go.

Nothing can be read there, so whatever waits for a GPU fails, and a tensor that was left on the host meets those of
another device. The device lacks some things that a GPU has, and `meta_device` puts something else in their place:

- `choose_device` does not know it.
- It has no generator of its own: one of the CPU says that it is of this device. There are no numbers to differ.
- It has no autocast: the context does nothing, so that precision=bf16 is stepped in float32. Yet the device is said to
  have it, or PyTorch's convolution would take the place of that in `double_backward`.
- The order of an epoch's samples comes from pinned memory on a GPU, and nothing waits for it: here it may be copied.

torch's optimizers know nothing of capturing and fused kernels here: their steps are those of a plain GPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from gan_runner.datasets.data import Samples
from gan_runner.games.game import Game
from gan_runner.optimizers import Subgradient
from gan_runner.training.build import build

META = torch.device("meta")
# On a GPU these read whether a decomposition failed, and whether what they are given is a probability or a deviation;
# on the meta device they do not.
READS = ("_linalg_check_errors", "multinomial", "normal")
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")
LITERALS = ("lift_fresh", "lift_fresh_copy")  # `torch.tensor`, and an index that is a list
COUNTS_ON_HOST = (Subgradient,)  # the number of the update, without axes, as some of torch's optimizers do


class NoHost(TorchDispatchMode):
    """Raises AssertionError where an operator waits for the device, or mixes its tensors with those of the host.

    So it does for a tensor of the host without axes, which PyTorch takes for a number in most places, unless `counts`:
    some operators copy it, and a CUDA graph would never see it change.
    """

    def __init__(self, *, counts: bool = False):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        assert name not in READS, f"{function} waits for the device"
        if name in INDEXING:
            masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
            assert not masks, f"{function} waits for the device: its result has as many entries as the mask is true at"
        found = function(*args, **kwargs)
        given, made = tensors((args, kwargs)), tensors(found)
        together = [each for each in (*given, *made) if each.device == META or each.ndim or not self.counts]
        assert len({each.device for each in together}) < 2, f"{function} mixes {describe(given)} to {describe(made)}"
        is_literal = name in LITERALS and made[0].device == META
        assert not is_literal, f"{function} copies numbers of the host to the device: {describe(made)}"
        return found


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def describe(some: list[Tensor]) -> str:
    return ", ".join(f"{each.device.type} {tuple(each.shape)}" for each in some)


class Generator(torch.Generator):
    """One of the CPU, which says that it is of the device that it was asked for."""

    asked_for: torch.device

    def __new__(cls, device: torch.device | str = "cpu") -> "Generator":
        made = super().__new__(cls)
        made.asked_for = torch.device(device)
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.asked_for


class Autocast(torch.autocast):
    """That of a device which has it, and none on the meta device."""

    def __init__(self, device_type: str, *args: Any, **kwargs: Any):
        self.is_meta = device_type == "meta"
        if not self.is_meta:
            super().__init__(device_type, *args, **kwargs)

    def __enter__(self) -> Any:
        return self if self.is_meta else super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        return None if self.is_meta else super().__exit__(*error)


@contextmanager
def meta_device() -> Iterator[None]:
    """Games that are built and stepped within are on the meta device, whatever their config says."""
    is_available, is_enabled, order = torch.amp.is_autocast_available, torch.is_autocast_enabled, Samples._order

    def pinned_order(data: Samples, seed: int, epoch: int) -> Tensor:
        with _disable_current_modes():
            return order(data, seed, epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan_runner.training.build.choose_device", lambda name, place: META)
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "autocast", Autocast)
        patch.setattr(torch.amp, "is_autocast_available", lambda kind: kind == "meta" or is_available(kind))
        patch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and is_enabled(kind))
        patch.setattr(Samples, "_order", pinned_order)
        yield


def step_without_host(game: Game, steps: int = 2) -> None:
    """Take steps, every second of them logged, of a game on the meta device, and judge held-out samples.

    Raises AssertionError, or what PyTorch does, where it waits for the device or leaves a tensor on the host.
    """
    counts = any(isinstance(player.optimizer, COUNTS_ON_HOST) for player in game.players.values())
    with NoHost(counts=counts):
        for step in range(steps):
            game.step(step, is_logged=step % 2 == 0)
        game.held_out_values()


def step_on_meta(config: dict[str, Any], steps: int = 2) -> Game:
    """The game of a config on the meta device, after some steps. Raises as `step_without_host` does."""
    if "discriminator_steps" in config:
        config = {**config, "discriminator_steps": 1}  # five turns are alike, and meta tensors slow
    with meta_device():
        game = build(config, []).game
        step_without_host(game, steps)
    return game
