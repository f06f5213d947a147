"""Runs as one program, beside the same runs alone."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from gan_runner.sweeps.batched_launcher import structure
from gan_runner.sweeps.sweep import DataCache
from gan_runner.torch_utils.parameters import gradient_norm
from gan_runner.training.build import build, load_data
from tests.helpers.games import take_steps, take_steps_together


def variants(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Configs that differ in all that jobs of one structure may: seeds, weights, rates, the numbers of schedules."""
    configs = [copy.deepcopy(config) for _ in range(3)]
    for number, changed in enumerate(configs):
        changed["seed"] = (0, 1, 1)[number]
        if "samples" in changed["dataset"]:
            changed["dataset"]["samples"] = None  # drawn anew, in the precision of the networks
        changed["optimizer"]["lr"] = (1, 1, 1.5)[number] * (changed["optimizer"]["lr"] or 5e-4)
        for node in (changed.get("regularizer") or {}).values():
            if node["role"] == "penalty":
                node["weight"] = (number + 1) * (node["weight"] or 10)  # null suits the samples
        if "end" in changed["lr_schedule"]:
            changed["lr_schedule"] |= {"end": 0.1 * (number + 1), "steps": 40 + number}
    assert len({structure(changed) for changed in configs}) == 1
    return configs


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def games_of(configs: list[dict[str, Any]]) -> list[Any]:
    """Their games, which share their data."""
    data = DataCache(lambda node: load_data(node, []))
    return [build(config, [], data.of(config)).game for config in configs]


def numbers(state: Any, path: str = "") -> dict[str, torch.Tensor]:
    """The tensors of nested dicts, and the numbers, by their paths; mean squares by their roots, as means."""
    if isinstance(state, dict):
        return {key: value for name, part in state.items() for key, value in numbers(part, f"{path}/{name}").items()}
    if isinstance(state, list | tuple):
        return numbers(dict(enumerate(state)), path)
    if isinstance(state, torch.Tensor | int | float) and "fused" not in path:
        value = torch.as_tensor(state, dtype=torch.float64)
        return {path: value.sqrt() if path.endswith(("exp_avg_sq", "square_avg")) else value}
    return {}


def kind(path: str) -> str:
    """What a tensor's entries are compared with: the whole network's, the same memory of a whole optimizer."""
    _, player, part, *rest = path.split("/")
    return f"{player}/{part}/{rest[-1]}" if part in ("optimizer", "terms") else player


def idle_weights(game: Any) -> list[str]:
    """The paths of weights whose gradient is rounding, and what goes with them."""
    found = []
    for name, player in game.players.items():
        norm = gradient_norm(player.network)
        for number, (weight_name, weight) in enumerate(player.network.named_parameters()):
            assert weight.grad is not None
            if weight.grad.abs().max() < 100 * torch.finfo(weight.dtype).eps * norm:
                found += [f"/{name}/network/{weight_name}", f"/{name}/optimizer/state/{number}/"]
                found += [f"/moving_average/{weight_name}"] if player.network is game.sampler else []
    return found


def largest_difference(configs: list[dict[str, Any]], steps: int) -> tuple[float, str]:
    """Between jobs trained together and alone, of all that a checkpoint holds; where.

    Relative to the largest entry of the whole network, and of one kind of an optimizer's memory; without weights that
    have no gradient but rounding, of which Adam makes steps: biases before a normalization that takes out the mean.
    """
    alone, single = games_of(configs), games_of(configs)
    of_single = take_steps_together(single, steps)
    of_alone = [take_steps(game, steps) for game in alone]
    found = []
    for one, other, expected_values, values in zip(alone, single, of_alone, of_single, strict=True):
        expected, got = numbers(one.state_dict()), numbers(other.state_dict())
        assert expected.keys() == got.keys()
        scales: dict[str, float] = {}
        for key, value in expected.items():
            if value.numel():
                scales[kind(key)] = max(scales.get(kind(key), 1e-6), float(value.abs().max()))
        idle = idle_weights(one)
        found += [
            (float((got[key] - value).abs().max()) / scales[kind(key)], key)
            for key, value in expected.items()
            if not any(key.startswith(prefix) for prefix in idle)
        ]
        for tag, wanted in expected_values.items():
            if tag.startswith(("loss", "penalty", "gradient_norm", "weight", "learning_rate", "state", "logits/real")):
                least = 1.0 if tag.startswith("logits") else 1e-6  # a mean of logits may be 0
                found.append((abs(values[tag] - wanted) / max(abs(wanted), least), tag))
    assert all(math.isfinite(error) for error, _ in found), found
    return max(found)
