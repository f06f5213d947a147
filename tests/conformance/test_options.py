"""What is true of every option, alone and in combinations: it trains, resumes, is captured, is stacked, never waits.

The fixture `config` is of the module, so that all that is asked of a case follows on composing it once.
"""

import copy
import re
from typing import Any

import pytest
import torch

from gan_runner.cli.help import comment
from gan_runner.games.cuda_graph import WARM_UP, put_schedules_on_device
from gan_runner.games.stacked_game import why_not_stackable
from tests.conformance.cases import CASES, assert_trains, every_option, words_of
from tests.helpers import CONF, compose
from tests.helpers.games import build_game, floats, restore, save, take_steps
from tests.helpers.meta import step_on_meta
from tests.helpers.runs import differences
from tests.helpers.stacked import default_dtype, largest_difference, variants
from tests.helpers.taped import state_tensors, taped

# By default every fourth option, and every eighth where a test is dear; combinations take as long again.
ALIKE = ("head=projection", "head=contragan", "regularizer=improved_consistency")  # as far as a step goes, to others
LARGE = ("model=sagan", "model=r3gan", "model=biggan")
FOURTH = list(every_option())[::4]
EIGHTH = [name for name in every_option() if name not in (*ALIKE, *LARGE)][::8]
PARAMS = [pytest.param(name, marks=[pytest.mark.slow] * (name not in FOURTH)) for name in CASES]
DEAR = [pytest.param(name, marks=[pytest.mark.slow] * (name not in EIGHTH)) for name in CASES]
every_eighth = pytest.mark.parametrize("name", DEAR, ids=list(CASES), indirect=True, scope="module")


@pytest.fixture(scope="module", params=PARAMS, ids=list(CASES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def config(name: str) -> dict[str, Any]:
    return compose(*words_of(CASES[name]))


@every_eighth
def test_it_goes_on_from_its_state(config: dict[str, Any]) -> None:
    """To the last bit: weights, optimizers, memories, moving average, and what is logged, which are finite numbers."""
    game, fresh = assert_trains(config), build_game(config)
    restore(fresh, save(game))
    torch.rand(3)  # what comes before does not matter
    for step in range(3, 6):
        assert not list(differences(take_steps(game, 1, step), take_steps(fresh, 1, step)))
    assert not list(differences(game.state_dict(), fresh.state_dict()))


def test_it_needs_nothing_of_the_host(name: str, config: dict[str, Any]) -> None:
    """No step waits for the device, and no tensor is left on the host."""
    if "optimizer" not in name:  # Adam, which has a case of its own, takes half of the time
        config = {**config, "optimizer": compose("optimizer=sgd")["optimizer"]}
    if config["optimizer"]["_target_"].endswith("FiniteDifference"):  # once for each weight would take seconds
        config = {**config, "optimizer": {**config["optimizer"], "directions": 2}}
    step_on_meta(config)


# RMSprop reads its rate on the host where the weights are on a CPU; the others compute there.
NOT_CAPTURED = ("RMSprop", "Subgradient", "FiniteDifference")


@every_eighth
def test_captured_steps_are_eager_ones(name: str, config: dict[str, Any]) -> None:
    """Recorded on a tape and replayed, with NaN in whatever memory a graph may not count on."""
    eager, step = build_game(config), taped(build_game(config))
    if any(type(player.optimizer).__name__ in NOT_CAPTURED for player in eager.players.values()):
        pytest.skip("the optimizer is not captured")
    schedules = put_schedules_on_device(eager)
    last = WARM_UP + 4
    for number in range(last):
        for schedule in schedules:
            schedule.fill(number)
        expected, found = eager.step(number, is_logged=True), step(number, is_logged=True)
        assert floats(expected) == floats(found), number
    for one, other in zip(state_tensors(eager), state_tensors(step.game), strict=True):
        assert torch.equal(one, other)
    active = [step.game.active_terms(number) for number in range(last)]
    assert len(step.recordings) == len(
        {terms for number, terms in enumerate(active) if number >= WARM_UP and terms in active[:number]}
    )
    assert not step.said


# --- stacked runs -----------------------------------------------------------------------------------------------------


FALLS_BACK = {
    "model=dense_deconv",
    "optimizer=finite_difference",
    "conditional=true regularizer=[r1,path_length] regularizer.r1.every=2 regularizer.path_length.every=3 loss=bce "
    "model=stylegan2",
    "model.generator.dropout=0.3 model.discriminator.dropout=0.3 optimizer=finite_difference model=mlp",
    "optimizer=finite_difference optimizer.rule=sgd optimizer.momentum=0.9 regularizer=lecam "
    "regularizer.lecam.start=0 model=mlp",
}


def test_what_falls_back_is_what_the_help_says() -> None:
    help_text = comment(CONF / "hydra/launcher/batched.yaml")
    named = {f"{group}={option}" for group, option in re.findall(r"(\w+)=(\w+)", help_text)}
    assert {name for name in FALLS_BACK if " " not in name} == named & set(CASES)


def stackable(name: str, config: dict[str, Any]) -> list[dict[str, Any]]:
    """The variants of a case, whose rounding is small; the others are left out, as they should be."""
    assert bool(why_not_stackable(build_game(config))) == (name in FALLS_BACK)
    if name in FALLS_BACK or config["precision"] == "bf16":
        pytest.skip("it runs one by one, or rounds")
    return variants(config)


@every_eighth
def test_stacked_runs_are_those_alone(name: str, config: dict[str, Any]) -> None:
    configs = stackable(name, config)
    with default_dtype(torch.float64):
        error, where = largest_difference(configs, steps=4)
    assert error < 1e-8, where


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-8), (torch.float32, 1e-2)], ids=["double", "single"])
def test_many_stacked_steps(name: str, config: dict[str, Any], dtype: torch.dtype, limit: float) -> None:
    configs = stackable(name, config)
    if dtype == torch.float32:
        configs = [without_kinks(config) for config in configs]
    with default_dtype(dtype):
        error, where = largest_difference(configs, steps=50)
    assert error < limit, where


def without_kinks(config: dict[str, Any]) -> dict[str, Any]:
    """A config with SiLU for its activations.

    In float32, rounding puts a value on the other side of a ReLU's kink within 50 steps of many a seed, and from there
    on the runs go apart.
    """
    changed = copy.deepcopy(config)
    for node in changed["model"].values():
        if isinstance(node, dict) and "activation" in node:
            node["activation"] = "silu"
    return changed
