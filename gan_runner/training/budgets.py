"""Hard regularization by size: budgets on the number of layers and of parameters of a network, checked as it is built.

Networks are counted on the meta device, where they take neither memory nor time, and no random number.
"""

import json
from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_runner.torch_utils.parameters import is_normalization

Node = dict[str, Any]


def count_parameters(network: nn.Module) -> int:
    """The number of parameters: every weight, bias, gain and shift, shared ones once; no buffers."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_layers(network: nn.Module) -> int:
    """The number of layers: modules with a weight matrix, a convolution kernel, an embedding table or learned maps.

    It is the number of layers, not the length of the longest path: a residual block's 1x1 convolution counts, as do a
    conditional network's embedding and projection of the label. Normalizations do not. A parametrized module (spectral
    norm) counts once.
    """
    normalizations = {part for module in network.modules() if is_normalization(module) for part in module.modules()}
    return sum(
        any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        for module in network.modules()
        if module not in normalizations
    )


@torch.no_grad()
def least_memory(network: nn.Module, inputs: Tensor) -> int:
    """Bytes that training takes at the least: the weights, their gradients and two moments, the outputs of the layers.

    These are kept for the backward pass. With a network on the meta device nothing is computed.
    """
    outputs = 0

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal outputs
        outputs += output.numel() * output.element_size() if isinstance(output, Tensor) else 0

    layers = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    network.eval()(inputs, None)
    for hook in hooks:
        hook.remove()
    return outputs + 4 * sum(weight.numel() * weight.element_size() for weight in network.parameters())


def within_budget(
    build: Callable[[Node], nn.Module],
    node: Node,
    key: str,
    *,
    layers: int | None,
    parameters: int | None,
    policy: Literal["error", "fit"],
) -> tuple[nn.Module, list[str]]:
    """The network of a config node (`key` is where it stands) within its budgets, and what was changed, line by line.

    A network over budget is an error or, under `policy` fit, made smaller: first `depth` by as little as the budget of
    layers wants, or the lists of widths lose their last entries; then `width` to the widest within the budget of
    parameters, where lists of widths shrink in proportion. Widths are the keys `width` and those that end in `_width`.

    `build` is called once for the network itself, last, and on the meta device for all that is only counted: weights
    are drawn as if the fitted node had stood in the config.

    Raises:
        ValueError: a network over budget, with its count; a budget that no depth or no width meets, with the smallest.
    """
    changes: list[str] = []
    for unit, budget in (("layers", layers), ("parameters", parameters)):
        if budget is not None:
            node, changed = fit(build, node, key, unit=unit, budget=budget, policy=policy)
            changes += changed
    return build(node), changes


def fit(
    build: Callable[[Node], nn.Module], node: Node, key: str, *, unit: str, budget: int, policy: str
) -> tuple[Node, list[str]]:
    """The node within one budget, the nearest to what it was, and what was changed."""
    count, taken_off, smaller = UNITS[unit]
    name_of_budget = f"budget.{key.rpartition('.')[2]}.{unit}={budget}"

    def counted(candidate: Node) -> int:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return count(build(candidate))

    def can_be_built(candidate: Node) -> bool:
        try:
            counted(candidate)
        except ValueError:
            return False
        return True

    current = counted(node)
    if current <= budget:
        return node, []
    if policy == "error":
        raise ValueError(
            f"{key} has {current:,} {unit}, over {name_of_budget}; budget.policy=fit takes off {taken_off}"
        )
    candidates = smaller(node, current)
    if unit == "layers":  # a depth may not fit the data, the latents or an attention's place; any width does
        candidates = list(filter(can_be_built, candidates))
    if not candidates:
        raise ValueError(f"{key} has {current:,} {unit}, over {name_of_budget}, and no {taken_off} to take off")
    if (least := counted(candidates[0])) > budget:
        at = ", ".join(f"{name}={json.dumps(value)}" for name, value in differences(node, candidates[0]).items())
        raise ValueError(f"{key} has {least:,} {unit} at the least (with {at}), over {name_of_budget}")
    fitted = candidates[bisect_left(candidates, True, key=lambda candidate: counted(candidate) > budget) - 1]
    why = f"for {counted(fitted):,} {unit} within {name_of_budget}"
    return fitted, [
        f"{key}.{name}: {json.dumps(node.get(name))} -> {json.dumps(value)}, {why}"
        for name, value in differences(node, fitted).items()
    ]


def differences(node: Node, other: Node) -> Node:
    """What the other node has differently."""
    return {name: value for name, value in other.items() if value != node.get(name)}


def widths(node: Node) -> Node:
    """The keys that hold a width, or a list of the hidden layers' widths."""
    return {name: width for name, width in node.items() if name == "width" or name.endswith("_width")}


def shallower(node: Node, layers: int) -> list[Node]:
    """The node with every smaller depth, from 1 on. What null stands for is at most the present number of layers."""
    lists = {name: width for name, width in widths(node).items() if isinstance(width, list)}
    if lists:
        deepest = max(map(len, lists.values()))
        return [node | {name: width[:depth] for name, width in lists.items()} for depth in range(1, deepest)]
    return [node | {"depth": depth} for depth in range(1, node["depth"] or layers)] if "depth" in node else []


def narrower(node: Node, _parameters: int) -> list[Node]:
    """The node with every smaller width, from 1 on; of several, the widest counts and the others follow."""
    given = widths(node)
    widest = max(
        (size for width in given.values() for size in (width if isinstance(width, list) else [width])), default=1
    )

    def scaled(size: int, widest_now: int) -> int:
        return max(1, size * widest_now // widest)

    return [
        node
        | {
            name: [scaled(size, now) for size in width] if isinstance(width, list) else scaled(width, now)
            for name, width in given.items()
        }
        for now in range(1, widest)
    ]


# unit -> how it is counted, what is taken off, and the smaller nodes, from the smallest on.
UNITS: dict[str, tuple[Callable[[nn.Module], int], str, Callable[[Node, int], list[Node]]]] = {
    "layers": (count_layers, "depth", shallower),
    "parameters": (count_parameters, "width", narrower),
}
