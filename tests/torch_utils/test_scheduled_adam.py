"""Adam with betas that change: torch's own, whether they are numbers or tensors."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim

from gan_runner.torch_utils.scheduled_adam import ScheduledAdam
from tests.helpers import naming

KINDS: dict[str, tuple[type[optim.Adam], dict[str, Any]]] = {
    "Adam": (optim.Adam, {"betas": (0.5, 0.9)}),
    "Adam, no momentum": (optim.Adam, {"betas": (0.0, 0.99)}),
    "Adam, decay": (optim.Adam, {"betas": (0.5, 0.9), "weight_decay": 0.1}),
    "AdamW": (optim.AdamW, {"betas": (0.5, 0.999), "weight_decay": 0.1}),
}


def weights(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype)) for shape in ((3, 4), (2,), ())]


def steps(optimizer: optim.Optimizer, ours: list[nn.Parameter], as_betas: Any) -> list[Tensor]:
    """Six steps of gradients of their own, with a first beta that stays and a second that rises."""
    beta1, first = optimizer.param_groups[0]["betas"]
    generator = torch.Generator().manual_seed(1)
    for number in range(6):
        for place, weight in enumerate(ours):
            is_left_out = place == 1 and number == 0  # its count of steps is another
            weight.grad = None if is_left_out else torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        beta2 = first + number * (0.9995 - first) / 6
        for group in optimizer.param_groups:
            group["betas"], group["lr"] = as_betas(beta1, beta2), as_betas(0.0, 0.1 / (1 + number))[1]
        optimizer.step()
    return [weight.detach() for weight in ours]


def numbers(beta1: float, beta2: float) -> tuple[float, float]:
    return beta1, beta2


def tensors(beta1: float, beta2: float) -> tuple[float, Tensor]:
    return beta1, torch.tensor(beta2, dtype=torch.float64)


@pytest.mark.parametrize("fused", [True, None])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("kind", KINDS)
def test_is_torchs(kind: str, dtype: torch.dtype, limit: float, fused: bool | None) -> None:
    make, keys = KINDS[kind]
    theirs = make(weights(dtype), lr=0.1, fused=fused, **keys)
    expected = steps(theirs, theirs.param_groups[0]["params"], numbers)
    for as_betas in (numbers, tensors):
        ours = ScheduledAdam(weights(dtype), **make(weights(dtype), lr=0.1, fused=fused, **keys).defaults)
        found = steps(ours, ours.param_groups[0]["params"], as_betas)
        torch.testing.assert_close(found, expected, rtol=limit, atol=limit)
        for one, other in zip(ours.state.values(), theirs.state.values(), strict=True):
            assert {*one} == {*other}
            torch.testing.assert_close(list(one.values()), list(other.values()), rtol=limit, atol=limit)


def test_a_state_goes_from_the_one_form_to_the_other() -> None:
    """A run that is captured after some steps, or resumed."""
    ours = ScheduledAdam(weights(torch.float64), betas=(0.5, 0.9))
    for as_betas in (numbers, tensors, numbers):
        steps(ours, ours.param_groups[0]["params"], as_betas)
    assert sorted(float(state["step"]) for state in ours.state.values()) == [15, 18, 18]


@pytest.mark.parametrize("key", ["amsgrad", "maximize"])
def test_refuses_what_it_does_not_have(key: str) -> None:
    with pytest.raises(ValueError, match=naming("amsgrad", "maximize")):
        ScheduledAdam(weights(torch.float32), **{key: True})
