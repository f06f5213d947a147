"""Optimizers beside torch's: gradients from values alone are near backpropagated ones, and leave no trace."""

import copy
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from gan_runner.config.errors import ConfigError
from gan_runner.games.adversarial import Adversarial
from gan_runner.games.game import Batch
from gan_runner.games.player import Closure
from gan_runner.optimizers import FiniteDifference, Subgradient, wants_closure
from gan_runner.torch_utils.parameters import kernels
from gan_runner.training.build import build
from tests.helpers import CONF, TINY, compose, naming, options, some

DIFFERENCES = ["optimizer=finite_difference", "optimizer.directions=null"]
SMALL = [
    f"model.{player}.{key}"
    for player in ("generator", "discriminator")
    for key in ("width=5", "depth=1", "activation=softplus")
]
POINTS = ["dataset=gaussian_2d", "batch_size=8", "model.latent_size=3", "model=mlp", *SMALL, "loss=bce"]
POINTS += ["device=cpu", "discriminator_steps=1"]
IMAGES = [*TINY, "model=mlp", *SMALL, "discriminator_steps=1", "model.latent_size=2", "dataset.image_size=4"]
PENALTIES = [
    name for name in options("regularizer") if "role: penalty" in (CONF / f"regularizer/{name}.yaml").read_text()
]
LOSSES = [name for name in options("loss") if name != "elbo"]


@pytest.fixture
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


exact = pytest.mark.usefixtures("_float64")


def make(*words: str) -> Adversarial:
    """A game whose tensors all have the default type, as only the weights and the noise would have by themselves."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    game = build(compose(*words), [])[0]
    torch.set_default_dtype(dtype)
    assert isinstance(game, Adversarial)
    assert game.moving_average
    batch = game.batch
    game.data.held_out = lambda count: None  # type: ignore[method-assign]

    def in_the_default_type(index: int, size: int | None = None) -> Batch:
        real, labels = batch(index, size)
        return real.to(dtype), labels

    game.batch = in_the_default_type  # type: ignore[method-assign]
    modules = [part for player in game.players.values() for part in (player.network, *player.terms.values())]
    for module in (*modules, game.moving_average.network):
        module.to(dtype)
    return game


def gradients(game: Adversarial, step: int = 0) -> dict[str, Tensor]:
    """Every gradient of a step whose updates move nothing."""
    for player in game.players.values():
        player.lr_schedule = lambda step: 0.0
        player.projections = ()
    game.step(step)
    return {
        f"{name}.{key}": parameter.grad.clone()
        for name, player in game.players.items()
        for key, parameter in player.network.named_parameters()
        if parameter.grad is not None
    }


def distance(found: dict[str, Tensor], expected: dict[str, Tensor], player: str = "") -> float:
    """The relative error of all of them together."""
    names = [name for name in expected if name.startswith(player)]
    error = sum((found[name] - expected[name]).square().sum() for name in names)
    return float((error / sum(expected[name].square().sum() for name in names)) ** 0.5)


def state(game: Adversarial) -> dict[str, Tensor]:
    """Every tensor that is saved, but those of the optimizers."""
    return {
        f"{name}.{part_name}.{key}": value.clone()
        for name, player in game.players.items()
        for part_name, part in {"network": player.network, **player.terms}.items()
        for key, value in part.state_dict().items()
    }


# --- against backpropagation ------------------------------------------------------------------------------------------


@pytest.mark.slow
@exact
@pytest.mark.parametrize(("method", "order"), [("forward", 1), ("central", 2)])
@pytest.mark.parametrize("player", some(["generator", "discriminator"], every=2))
def test_the_error_falls_with_epsilon_as_the_theory_says(method: str, order: int, player: str) -> None:
    expected = gradients(make(*POINTS))
    sizes = [1e-1, 1e-2, 1e-3]
    errors = [
        distance(
            gradients(make(*POINTS, *DIFFERENCES, f"optimizer.method={method}", f"optimizer.epsilon={epsilon}")),
            expected,
            player,
        )
        for epsilon in sizes
    ]
    for larger, smaller in itertools.pairwise(errors):
        assert math.log10(larger / smaller) == pytest.approx(order, abs=0.1)


def agrees(*words: str, tolerance: float = 1e-5) -> None:
    expected, found = make(*words), make(*words, *DIFFERENCES, "optimizer.method=central", "optimizer.epsilon=5e-5")
    for step in range(2):  # the second with a memory
        assert distance(gradients(found, step), gradients(expected, step)) < tolerance
    for name, player in expected.players.items():
        for key, value in player.network.state_dict().items():
            torch.testing.assert_close(found.players[name].network.state_dict()[key], value)
        for key, term in player.terms.items():
            for kept, value in term.state_dict().items():
                torch.testing.assert_close(found.players[name].terms[key].state_dict()[kept], value)
    values = found.step(2, is_logged=True)
    for tag, value in expected.step(2, is_logged=True).items():
        if not tag.startswith("gradient_norm"):
            torch.testing.assert_close(values[tag], value)
        assert values[tag].ndim == 0


@pytest.mark.slow
@exact
@pytest.mark.parametrize("loss", some(LOSSES, every=3))
def test_every_loss(loss: str) -> None:
    agrees(*POINTS, f"loss={loss}", "discriminator_steps=1")


@exact
@pytest.mark.parametrize(
    "regularizer",
    [pytest.param(name, marks=[pytest.mark.slow] * (name not in ("r1", "lecam"))) for name in PENALTIES],
)
def test_every_penalty(regularizer: str) -> None:
    agrees(
        *IMAGES, "loss=relativistic", f"regularizer={regularizer}", f"regularizer.{regularizer}.start=0", "batch_size=4"
    )


@exact
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["augmentation=diffaugment"], marks=pytest.mark.slow),
        pytest.param(["augmentation=input_noise"], marks=pytest.mark.slow),
        ["model.generator.normalization=batch", "model.discriminator.normalization=batch"],
        pytest.param(["model.generator.dropout=0.3", "model.discriminator.dropout=0.3"], marks=pytest.mark.slow),
        [
            "regularizer=[gradient_penalty,dragan,lecam,l2]",
            "regularizer.lecam.start=0",
            "augmentation=diffaugment",
            "model.discriminator.dropout=0.3",
        ],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.slow
def test_every_evaluation_sees_the_noise_of_the_first(words: list[str]) -> None:
    agrees(*IMAGES, "loss=bce", "batch_size=4", *words)


@exact
@pytest.mark.slow
def test_through_spectral_normalization() -> None:
    """Whose singular vectors, constants for backpropagation, depend on the weights unless they have converged."""
    words = [*POINTS, "regularizer=spectral_norm", "regularizer.spectral_norm.iterations=50"]
    agrees(*words, tolerance=1e-3)


@exact
def test_coordinates_find_the_parameters_that_learn_and_leave_the_others() -> None:
    game = make(*POINTS, *DIFFERENCES)
    weight = next(game.discriminator.network.parameters()).requires_grad_(False)
    game.discriminator.__post_init__()
    before = weight.clone()
    game.step(0)
    assert weight.grad is None
    assert weight.equal(before)


# --- random directions ------------------------------------------------------------------------------------------------


class Parabola(nn.Module):
    """1/2 wᵀ A w + bᵀ w of d weights, at each of N samples alike: (N, 1) -> (N,)."""

    matrix: Tensor

    def __init__(self, size: int):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(size, generator=draw, dtype=torch.float64))
        root = torch.randn(size, size, generator=draw, dtype=torch.float64)
        self.register_buffer("matrix", root @ root.mT / size)

    def forward(self, samples: Tensor, labels: Tensor | None = None) -> Tensor:
        weight = self.weight
        return (weight @ self.matrix @ weight / 2 + weight.sum()).expand(len(samples))

    def gradient(self) -> Tensor:
        return (self.matrix @ self.weight + 1).detach()


def estimated(network: Parabola, **keys: object) -> Tensor:
    """The gradient that the optimizer makes of the values alone."""
    before = network.weight.detach().clone()
    differences(network, lr=1e-300, **keys).step(lambda: network(torch.zeros(2, 1)).mean())
    assert network.weight.grad is not None
    assert network.weight.equal(before)
    return network.weight.grad


def differences(network: nn.Module, **keys: object) -> FiniteDifference:
    defaults = {"method": "forward", "epsilon": 1e-4, "directions": None, "max_coordinates": 1000}
    rule = {"rule": "sgd", "lr": 0.1, "betas": (0.9, 0.99), "momentum": 0.0}
    return FiniteDifference(network.parameters(), **{**defaults, **rule, **keys})  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("method", some(["forward", "central"], every=2))
def test_random_directions_are_unbiased(method: str) -> None:
    torch.manual_seed(0)
    network, count = Parabola(6), 20000
    expected = network.gradient()
    found = estimated(network, method=method, directions=count)
    # Per entry (g·u) u_i has the variance |g|² + g_i².
    deviation = ((expected.square().sum() + expected.square()) / count).sqrt()
    assert ((found - expected).abs() < 4 * deviation + 1e-3).all()
    assert ((found - expected).abs() > 0.01 * deviation).any()


@pytest.mark.slow
def test_the_variance_falls_with_the_number_of_directions() -> None:
    torch.manual_seed(0)
    network = Parabola(6)
    expected = network.gradient()
    for count in (10, 1000):
        errors = []
        for _ in range(50):
            errors.append((estimated(network, method="central", directions=count) - expected).square().sum())
        predicted = 7 * expected.square().sum() / count  # (d + 1) |g|² / K
        assert 0.6 < torch.stack(errors).mean() / predicted < 1.6


def test_directions_follow_from_the_seed_and_the_step() -> None:
    words = [*POINTS, "optimizer=finite_difference", "optimizer.directions=4"]
    first, again, other = gradients(make(*words)), gradients(make(*words)), gradients(make(*words, "seed=1"))
    assert distance(again, first) == 0
    assert distance(other, first) > 0.1
    assert distance(gradients(make(*words), 1), first) > 0.1


def test_a_step_too_small_for_the_rounding_is_no_step() -> None:
    network = Parabola(6).float()
    with torch.no_grad():
        network.weight.fill_(100.0)
    assert estimated(network, epsilon=1e-7).equal(torch.zeros(6))


# --- no trace ---------------------------------------------------------------------------------------------------------


def test_further_evaluations_see_the_same_and_leave_no_trace() -> None:
    words = [
        *IMAGES,
        "loss=bce",
        "regularizer=[lecam,spectral_norm]",
        "regularizer.lecam.start=0",
        "model.generator.normalization=batch",
    ]
    game = make(*words, "model.discriminator.dropout=0.3", "optimizer=finite_difference")
    seen: list[Tensor] = []

    def evaluate_again(closure: Closure) -> Tensor:
        first = closure()
        torch.rand(1)  # as an optimizer draws directions
        before, noise = state(game), torch.get_rng_state()
        with torch.no_grad():
            seen.extend([first, closure(), closure()])
        assert all(value.equal(before[key]) for key, value in state(game).items())
        assert torch.get_rng_state().equal(noise)
        return first

    for player in game.players.values():
        player.optimizer.step = evaluate_again  # type: ignore[method-assign,assignment]
    game.step(0)
    for first, second, third in (seen[:3], seen[3:]):
        assert second.equal(third)
        torch.testing.assert_close(second, first, rtol=1e-3, atol=1e-3)  # spectral norm has moved on since


def test_the_weights_come_back_after_an_error() -> None:
    network, calls = Parabola(3), []
    before = network.weight.detach().clone()

    def fail_later() -> Tensor:
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("stop")
        return network(torch.zeros(2, 1)).mean()

    with pytest.raises(RuntimeError, match="stop"):
        differences(network).step(fail_later)
    assert network.weight.equal(before)


def test_only_what_evaluates_several_times_wants_a_closure() -> None:
    weights = [nn.Parameter(torch.ones(1))]
    assert wants_closure(torch.optim.LBFGS(weights))
    assert wants_closure(differences(Parabola(2)))
    for optimizer in (
        torch.optim.Adam(weights),
        torch.optim.SGD(weights, lr=0.1),
        Subgradient(weights, lr=1.0, normalize=False),
    ):
        assert not wants_closure(optimizer)


def test_lbfgs_learns_through_its_own_closure() -> None:
    """Which it calls with gradients enabled: the first call of a turn is the turn's own."""
    words = [*POINTS, "regularizer=[lecam,gradient_clip]", "regularizer.lecam.start=0"]
    game = make(*words)
    for player in game.players.values():
        player.optimizer = torch.optim.LBFGS(player.network.parameters(), lr=1e-3, max_iter=4)
        player.__post_init__()
    before = state(game)
    game.step(0)
    assert game.discriminator.terms["lecam"].memory()["updates"] == 1
    assert not all(value.equal(before[key]) for key, value in state(game).items() if "network" in key)


# --- the rule, the state, the errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("loaded", [False, True])
def test_the_rule_is_torchs(rule: str, loaded: bool) -> None:
    network, reference = Parabola(4), Parabola(4)
    optimizer = differences(network, rule=rule, momentum=0.5)
    expected = (
        torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.5)
        if rule == "sgd"
        else torch.optim.Adam(reference.parameters(), lr=0.1, betas=(0.9, 0.99))
    )
    for update in range(4):
        if loaded:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = differences(network, rule=rule, momentum=0.5, lr=0.7)
            optimizer.load_state_dict(saved)
        for one in (optimizer, expected):
            one.zero_grad(set_to_none=True)
            one.param_groups[0]["lr"] = 0.1 / (update + 1)
        assert network.weight.grad is None
        optimizer.step(lambda: network(torch.zeros(2, 1)).mean())
        assert network.weight.grad is not None
        reference.weight.grad = network.weight.grad.clone()
        expected.step()
        assert network.weight.equal(reference.weight)


@pytest.mark.parametrize(
    "words",
    [
        ["optimizer=finite_difference", "optimizer.directions=3"],
        ["optimizer=finite_difference", "optimizer.directions=null", "optimizer.rule=sgd", "optimizer.momentum=0.5"],
        ["optimizer=subgradient", "optimizer.lr=0.01"],  # at 0.3 the critic of this loss diverges
    ],
    ids=str,
)
def test_a_resumed_run_goes_on_bit_for_bit(words: list[str]) -> None:
    words = [
        *POINTS,
        *words,
        "loss=wgan_gp",
        "discriminator_steps=2",
        "lr_schedule=linear",
        "regularizer=lecam",
        "regularizer.lecam.start=0",
    ]
    straight, resumed, fresh = (make(*words) for _ in range(3))
    for step in range(4):
        straight.step(step)
    for step in range(2):
        resumed.step(step)
    fresh.load_state_dict(copy.deepcopy(resumed.state_dict()))
    for step in (2, 3):
        fresh.step(step)
    assert all(value.equal(state(straight)[key]) for key, value in state(fresh).items())
    assert not all(value.equal(state(resumed)[key]) for key, value in state(fresh).items())


@pytest.mark.slow
def test_too_many_coordinates() -> None:
    with pytest.raises(ConfigError, match=r"optimizer: directions=null .* has 32 .*20.*optimizer.directions=64"):
        make(*POINTS, *DIFFERENCES, "optimizer.max_coordinates=20")
    make(*POINTS, "optimizer=finite_difference", "optimizer.max_coordinates=20").step(0)
    make(*POINTS, *DIFFERENCES, "optimizer.max_coordinates=40")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optimizer.epsilon=0", r"optimizer.epsilon=0: must be greater than 0"),
        ("optimizer.method=backward", r"optimizer.method=backward: must be 'forward' or 'central'"),
        ("optimizer.rule=rmsprop", r"optimizer.rule=rmsprop: must be 'sgd' or 'adam'"),
        ("optimizer.directions=0", r"optimizer.directions=0: must be greater than or equal to 1"),
    ],
)
def test_errors(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(*POINTS, "optimizer=finite_difference", word)


def test_half_precision_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision=bf16: .*precision=fp32"):
        make(*POINTS, "optimizer=finite_difference", "precision=bf16")


# --- the subgradient method -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [False, True])
def test_subgradient_by_hand(normalize: bool) -> None:
    weights = [nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.tensor(3.0))]
    optimizer = Subgradient(weights, lr=0.5, normalize=normalize)
    first, second = [1.0, 2.0], 3.0
    for update in range(1, 5):
        if update == 3:
            saved = copy.deepcopy(optimizer.state_dict())
            optimizer = Subgradient(weights, lr=0.7, normalize=not normalize)
            optimizer.load_state_dict(saved)
        weights[0].grad, weights[1].grad = torch.tensor([0.0, 2.0 * update]), torch.tensor(-1.0)
        optimizer.step()
        length = 0.5 / math.sqrt(update) / (math.sqrt(4 * update**2 + 1) if normalize else 1)
        first, second = [first[0], first[1] - length * 2 * update], second + length
        torch.testing.assert_close(weights[0].detach(), torch.tensor(first))
        torch.testing.assert_close(weights[1].detach(), torch.tensor(second))


def test_subgradient_settles_at_a_kink_where_a_fixed_step_does_not() -> None:
    ends = []
    for make_optimizer in (
        lambda weights: Subgradient(weights, lr=0.3, normalize=False),
        lambda weights: torch.optim.SGD(weights, lr=0.3),
    ):
        weight = nn.Parameter(torch.tensor(1.0))
        optimizer = make_optimizer([weight])
        for _ in range(2000):
            optimizer.zero_grad()
            (weight - 0.1).abs().backward()
            optimizer.step()
        ends.append(abs(float(weight.detach()) - 0.1))
    assert ends[0] < 0.01
    assert ends[1] > 0.05


def test_subgradient_of_nothing_is_no_step() -> None:
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    Subgradient([weight], lr=1.0, normalize=True).step()
    assert weight.equal(torch.ones(2))


# --- the preset -------------------------------------------------------------------------------------------------------


def test_the_presets_networks() -> None:
    game = build(compose("experiment=subgradient_gaussian2d", "device=cpu"), [])[0]
    assert isinstance(game, Adversarial)
    sizes = {name: [tuple(k.shape) for k in kernels(player.network)] for name, player in game.players.items()}
    assert list(sizes) == ["generator", "discriminator"]
    assert sizes == {
        "generator": [(128, 100), (128, 128), (2, 128)],
        "discriminator": [(128, 2), (128, 128), (1, 128)],
    }
    counts = [sum(p.numel() for p in player.network.parameters()) for player in game.players.values()]
    assert sorted(counts) == [17025, 29698]
    for player in game.players.values():
        assert isinstance(player.optimizer, FiniteDifference)
        assert isinstance(player.optimizer.rule, torch.optim.Adam)
        assert any(isinstance(module, nn.LeakyReLU) for module in player.network.modules())
    assert [game.players[name].optimizer.param_groups[0]["lr"] for name in sizes] == [2e-4, 1e-3]
    assert game.data.size == 1000
    assert game.batch_size == 128


def test_a_state_whose_entries_lie_otherwise_goes_on_alike():
    """The one-pass optimizers read weights and their state in the order of memory."""
    words = [*TINY, "model=dcgan", "model.generator.width=4", "model.discriminator.width=4"]
    first, second = (build(compose(*words), []).game for _ in range(2))
    for step in range(2):
        first.step(step)
    state = copy.deepcopy(first.state_dict())
    for player in ("generator", "discriminator"):
        for group in state[player]["optimizer"]["param_groups"]:
            group |= {"fused": None, "foreach": True}  # as another device does it
        for entries in state[player]["optimizer"]["state"].values():
            entries |= {key: value.contiguous() for key, value in entries.items()}
    second.load_state_dict(state)
    assert second.players["generator"].optimizer.param_groups[0]["fused"]
    for game in (first, second):
        game.step(2)
    for one, other in zip(first.sampler.parameters(), second.sampler.parameters(), strict=True):
        assert torch.equal(one, other)
    assert any(not weight.is_contiguous() for weight in first.sampler.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_one_pass_is_what_one_weight_after_another_is(name):
    words = [*TINY, "model=dcgan", "model.generator.width=4", "model.discriminator.width=4", f"optimizer={name}"]
    # Before a normalization, a bias has a gradient of rounding alone, of which Adam makes whole steps.
    words += ["model.generator.normalization=none"]
    fused, plain = (build(compose(*words), []).game for _ in range(2))
    for player in plain.players.values():
        for group in player.optimizer.param_groups:
            group |= {"fused": False, "foreach": False}
    for step in range(2):
        fused.step(step)
        plain.step(step)
    for one, other in zip(fused.sampler.parameters(), plain.sampler.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


# --- betas on a schedule

RISES = ["lr_schedule@optimizer.beta2_schedule=cosine", "optimizer.betas=[0.0,0.9]", "steps=4"]


@pytest.mark.parametrize("option", ["adam", "adamw"])
def test_betas_on_a_schedule(option: str) -> None:
    """From 0.9 to 0.99, in the optimizer of both players and in what a checkpoint holds."""
    game = make(*POINTS, f"optimizer={option}", *RISES, "optimizer.beta2_schedule.end=1.1")
    found = []
    for step in range(6):
        game.step(step)
        (of_generator,), (of_discriminator,) = (player.optimizer.param_groups for player in game.players.values())
        assert of_generator["betas"] == of_discriminator["betas"]
        assert of_generator["decoupled_weight_decay"] == (option == "adamw")
        assert game.state_dict()["generator"]["optimizer"]["param_groups"][0]["betas"] == of_generator["betas"]
        found.append(of_generator["betas"])
    assert [beta1 for beta1, _ in found] == [0.0] * 6
    assert [beta2 for _, beta2 in found] == pytest.approx([0.9, 0.913180, 0.945, 0.976820, 0.99, 0.99], abs=1e-6)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["optimizer=sgd", "+lr_schedule@optimizer.beta2_schedule=linear"], ["optimizer", "SGD", "betas"]),
        ([*RISES, "optimizer.beta2_schedule.end=1.2"], ["optimizer.beta2_schedule", "1.08", "below 1"]),
        (  # at the end of the warm-up, between two values below 1
            [
                *RISES,
                "optimizer.beta2_schedule.warmup=2",
                "optimizer.beta2_schedule.start=1.2",
                "optimizer.beta2_schedule.end=0.5",
            ],
            ["optimizer.beta2_schedule", "1.08", "below 1"],
        ),
        (  # after the run's own steps
            [*RISES, "optimizer.beta2_schedule.steps=100", "optimizer.beta2_schedule.end=1.2"],
            ["optimizer.beta2_schedule", "1.08", "below 1"],
        ),
        ([*RISES, "+optimizer.amsgrad=true"], ["optimizer", "amsgrad"]),
        (["optimizer.beta2_schedule=3"], ["lr_schedule@optimizer.beta2_schedule"]),
    ],
)
def test_betas_that_cannot_change_so(words: list[str], named: list[str]) -> None:
    with pytest.raises(ConfigError, match=naming(*named)):
        build(compose(*POINTS, *(f"+{word}" if word.endswith("_schedule=3") else word for word in words)), [])


def test_one_player_has_betas_on_a_schedule_of_its_own() -> None:
    words = ["optimizer@optimizer.discriminator=adam", "lr_schedule@optimizer.discriminator.beta1_schedule=linear"]
    game = make(*POINTS, *words, "optimizer.discriminator.betas=[0.5,0.9]", "steps=2")
    game.step(0)
    game.step(1)
    betas = {name: player.optimizer.param_groups[0]["betas"] for name, player in game.players.items()}
    assert betas == {"generator": (0.0, 0.99), "discriminator": (0.25, 0.9)}
