"""Gradient penalties: closed forms, derivatives, leading axes, the bugs that others have; what is true of all."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import yaml
from torch import Tensor, nn
from torch.func import functional_call

from gan_runner.config.errors import ConfigError
from gan_runner.losses import BinaryCrossEntropy
from gan_runner.regularizers import penalties
from gan_runner.training.build import build
from tests.helpers import CONF, compose, options
from tests.helpers.games import POINTS, make_game, take_steps
from tests.helpers.meta import meta_device, step_without_host
from tests.helpers.penalties import (
    Curved,
    Given,
    Linear,
    Probe,
    Quadratic,
    Seeded,
    Unlabelled,
    a_view,
    smooth_network,
    some,
    view_of,
)

GRADIENT_PENALTIES: dict[str, Callable[..., Tensor]] = {
    "gradient_penalty": partial(penalties.gradient_penalty, target=1.5),
    "gradient_penalty_one_sided": partial(penalties.gradient_penalty_one_sided, target=1.5),
    "zero_centered_gradient_penalty": penalties.zero_centered_gradient_penalty,
    "r1": penalties.r1,
    "r2": penalties.r2,
    "dragan": partial(penalties.dragan, target=1.5, scale=0.5),
    "wasserstein_divergence": partial(penalties.wasserstein_divergence, power=6.0),
}


SHAPES: dict[str, Callable[[Tensor], Tensor]] = {  # of the slope
    "gradient_penalty": lambda slope: (slope - 1.5) ** 2,
    "gradient_penalty_one_sided": lambda slope: (slope - 1.5).clamp(min=0) ** 2,
    "zero_centered_gradient_penalty": lambda slope: slope**2 / 2,
    "r1": lambda slope: slope**2 / 2,
    "r2": lambda slope: slope**2 / 2,
    "dragan": lambda slope: (slope - 1.5) ** 2,
    "wasserstein_divergence": lambda slope: slope**6,
}


each_penalty = pytest.mark.parametrize("name", GRADIENT_PENALTIES)


@each_penalty
@pytest.mark.parametrize("sample", [(3,), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("size", [0.5, 2.0])
def test_linear_discriminator(name, sample, size):
    weight = some(torch.Size(sample).numel())
    weight *= size / weight.norm()
    result = GRADIENT_PENALTIES[name](view_of(Linear(weight), some(5, *sample), some(5, *sample, seed=1)))
    expected = SHAPES[name](torch.full((5,), size, dtype=torch.float64))
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@each_penalty
def test_quadratic_discriminator_at_known_points(name):
    real, fake, position, noise = (
        some(6, 3),
        some(6, 3, seed=1),
        some(6, seed=2).sigmoid(),
        some(6, 3, seed=3).sigmoid(),
    )
    network = Quadratic(some(3, 3, seed=4))
    average = sum(x for row in real for x in row) / 18
    spread = (sum((x - average) ** 2 for row in real for x in row) / 17) ** 0.5
    points, draws = {
        "r1": (real, []),
        "r2": (fake, []),
        "dragan": (real + 0.5 * spread * noise * position[:, None], [noise, position]),
    }.get(name, (position[:, None] * real + (1 - position[:, None]) * fake, [position]))
    slopes = torch.stack([(network.matrix.detach() @ point).norm() for point in points])
    assert (slopes < 1.5).any()  # both sides of the target
    assert (slopes > 1.5).any()
    result = GRADIENT_PENALTIES[name](view_of(network, real, fake, Given(*draws)))
    torch.testing.assert_close(result, SHAPES[name](slopes), rtol=1e-9, atol=1e-9)


@each_penalty
def test_each_sample_alone(name):
    """A norm over the whole batch, or one point per batch, would make a sample's value depend on the others."""
    real, fake, network = some(4, 3), some(4, 3, seed=1), Quadratic(some(3, 3, seed=4))
    randomness = Seeded()
    together = GRADIENT_PENALTIES[name](view_of(network, real, fake, randomness))
    assert len(set(together.tolist())) == 4 or name == "gradient_penalty_one_sided"
    if name == "dragan":  # whose noise is as wide as the batch
        return
    for n in range(4):
        draws = [draw[n : n + 1] for draw in randomness.drawn]
        alone = GRADIENT_PENALTIES[name](view_of(network, real[n : n + 1], fake[n : n + 1], Given(*draws)))
        torch.testing.assert_close(alone[0], together[n])


BETWEEN = [
    "gradient_penalty", "gradient_penalty_one_sided", "zero_centered_gradient_penalty", "wasserstein_divergence",
]  # fmt: skip


@pytest.mark.parametrize("name", BETWEEN)
def test_one_interpolation_point_per_sample(name):
    """Not one for the batch, and not one for each pixel."""
    randomness = Seeded()
    GRADIENT_PENALTIES[name](view_of(Linear(some(24)), some(5, 2, 3, 4), some(5, 2, 3, 4, seed=1), randomness))
    assert [draw.shape for draw in randomness.drawn] == [(5,)]


def test_interpolation_runs_from_fake_to_real():
    network, real, fake = Quadratic(torch.eye(3, dtype=torch.float64)), some(2, 3), some(2, 3, seed=1)
    ends = Given(torch.tensor([0.0, 1.0], dtype=torch.float64))
    expected = torch.stack([fake[0], real[1]]).square().sum(-1) / 2
    torch.testing.assert_close(penalties.zero_centered_gradient_penalty(view_of(network, real, fake, ends)), expected)


def test_gradient_is_taken_before_the_augmentation():
    network = Linear(some(3))
    view = view_of(network, some(4, 3), some(4, 3, seed=1))
    view = a_view(network, Unlabelled(network), view.real, view.fake, augment=lambda samples: 3 * samples)
    expected = (9 * network.weight.square().sum() / 2).expand(4)
    for penalty in (penalties.r1, penalties.r2, penalties.zero_centered_gradient_penalty):
        torch.testing.assert_close(penalty(view), expected)


@each_penalty
def test_labels_reach_the_discriminator(name):
    """A conditional discriminator, here of slope 1 + y, is judged under the samples' own labels."""
    labels = torch.tensor([0, 2, 1])

    def conditional(samples: Tensor, its_labels: Tensor | None) -> Tensor:
        assert its_labels is not None
        return samples[:, 0] * (1 + its_labels)

    real, fake = some(3, 2).requires_grad_(), some(3, 2, seed=1).requires_grad_()
    view = a_view(nn.Module(), conditional, real, fake, labels=labels)
    torch.testing.assert_close(GRADIENT_PENALTIES[name](view), SHAPES[name](1 + labels.double()), rtol=1e-9, atol=1e-9)


@each_penalty
def test_stacked_runs_equal_the_loop(name):
    weights, real, fake = some(3, 8), some(3, 5, 2, 4), 3 * some(3, 5, 2, 4, seed=1)
    randomness = Seeded()
    stacked = GRADIENT_PENALTIES[name](view_of(Curved(weights), real, fake, randomness))
    assert stacked.shape == (3, 5)
    for run in range(3):
        draws = Given(*(draw[run] for draw in randomness.drawn))
        alone = GRADIENT_PENALTIES[name](view_of(Curved(weights[run]), real[run], fake[run], draws))
        torch.testing.assert_close(stacked[run], alone)


@pytest.mark.parametrize(
    "penalty",
    [
        *GRADIENT_PENALTIES.values(),
        partial(penalties.gradient_penalty_one_sided, target=0.05),  # where it is not 0
        partial(penalties.l1, biases=True, reduction="mean"),
        partial(penalties.l2, biases=False, reduction="sum"),
        penalties.orthogonal,
    ],
)
def test_finite_differences(penalty):
    probe = Probe(smooth_network(), penalty)
    names, weights = zip(*probe.named_parameters(), strict=True)
    assert torch.autograd.gradcheck(
        lambda *values: functional_call(probe, dict(zip(names, values, strict=True)), ()), weights
    )


@each_penalty
def test_gradient_of_a_flat_discriminator_is_finite(name):
    """The root has no derivative at 0."""
    network = smooth_network()
    for parameter in network.parameters():
        parameter.data.zero_()
    GRADIENT_PENALTIES[name](view_of(network, some(4, 3), some(4, 3, seed=1))).sum().backward()
    for parameter in network.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_r1_and_r2_share_the_loss_s_forward_pass():
    """The discriminator sees each batch once, and the sum's gradient is that of the parts on their own."""
    network, calls = smooth_network(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    parts = [BinaryCrossEntropy().discriminator, penalties.r1, penalties.r2]

    def gradient(*parts: Callable[..., Tensor]) -> Tensor:
        view = view_of(network, some(4, 3), some(4, 3, seed=1))
        total = torch.stack([part(view).mean(-1) for part in parts]).sum()
        network.zero_grad()
        total.backward(inputs=list(network.parameters()))
        assert view.real.grad is None
        assert view.fake.grad is None
        return torch.cat(
            [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in network.parameters()]
        )

    together = gradient(*parts)
    assert len(calls) == 2
    torch.testing.assert_close(gradient(*reversed(parts)), together)
    torch.testing.assert_close(torch.stack([gradient(part) for part in parts]).sum(0), together)


@each_penalty
def test_under_autocast_values_are_float32(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0))

    class Draws(Seeded):
        def uniform(self, *shape: int) -> Tensor:
            return super().uniform(*shape).float()

    results = []
    for enabled in (False, True):
        network.zero_grad()
        view = view_of(network, 4 * some(32, 6).float(), 4 * some(32, 6, seed=1).float(), Draws())
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = GRADIENT_PENALTIES[name](view)
            value.mean().backward(inputs=list(network.parameters()))
        assert value.dtype == torch.float32
        gradient = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
        results.append((value, gradient))
    for low, exact in zip(*reversed(results), strict=True):
        assert (low - exact).norm() <= 0.03 * exact.norm()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gradient_penalty", {"weight": None, "target": 1.0}),  # see tests/training/test_build.py
        ("gradient_penalty_one_sided", {"weight": 10.0, "target": 1.0}),
        ("r1", {"weight": 10.0}),  # arXiv:1801.04406: gamma
        ("r2", {"weight": 10.0}),
        ("dragan", {"weight": 10.0, "target": 1.0, "scale": 0.5}),  # the code of arXiv:1705.07215
        ("lecam", {"weight": 0.3, "start": 1000, "decay": 0.99}),  # arXiv:2104.03310 on CIFAR
        ("orthogonal", {"weight": 1e-4, "on": ["generator"]}),  # arXiv:1809.11096
        ("weight_clip", {"bound": 0.01, "on": ["discriminator"]}),  # arXiv:1701.07875, algorithm 1
        ("spectral_norm", {"iterations": 1, "on": ["discriminator"]}),  # arXiv:1802.05957
    ],
)
def test_defaults(name, expected):
    node = yaml.safe_load((CONF / "regularizer" / f"{name}.yaml").read_text())
    assert {key: node[key] for key in expected} == expected
    assert node.get("every", 1) == 1


@pytest.mark.parametrize("loss", ["wgan", "wgan_gp"])
def test_losses_that_bring_a_regularizer(loss):
    """The same as the regularizer's own file, and the paper's five critic steps."""
    node = yaml.safe_load((CONF / "loss" / f"{loss}.yaml").read_text())
    assert node["discriminator_steps"] == 5
    assert node["defaults"][0] == "wasserstein@loss"
    ((name, inline),) = node["regularizer"].items()
    assert name == {"wgan": "weight_clip", "wgan_gp": "gradient_penalty"}[loss]
    assert inline == yaml.safe_load((CONF / "regularizer" / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["regularizer=max_norm", "regularizer.max_norm.norm=0"], r"regularizer.max_norm.norm=0: must be .*greater"),
        (["regularizer=value_range", "regularizer.value_range.max=big"], r"regularizer.value_range.max=big: must be"),
        (
            ["regularizer=adversarial_perturbation", "regularizer.adversarial_perturbation.epsilon=0"],
            r"epsilon=0: must",
        ),
        (["regularizer=reconstruction", "regularizer.reconstruction.norm=l3"], r"norm=l3: must be 'l1' or 'l2'"),
        (["regularizer=consistency", "regularizer.consistency.translation=1.5"], r"translation=1.5: must be less"),
        (
            ["regularizer=balanced_consistency", "regularizer.balanced_consistency.fake=-1"],
            r"balanced_consistency.fake=-1: must be greater",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "regularizer.iterative_gradient_penalty.smoothing=1.0"],
            r"smoothing=1.0: must be less than 1",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "regularizer.iterative_gradient_penalty.rate=1.1"],
            r"rate=1.1: must be less than or equal to 1",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "model.discriminator.normalization=batch"],
            r"normalization=batch: .*regularizer.iterative_gradient_penalty",
        ),
        (
            ["regularizer=iterative_gradient_penalty", "+regularizer.iterative_gradient_penalty.on=[generator]"],
            r"iterative_gradient_penalty.on=",
        ),
        (["augmentation=input_noise", "augmentation.input_noise.sd=-1"], r"augmentation.input_noise.sd=-1: must be"),
        (["loss=bce", "loss.real_label=1.1"], r"loss.real_label=1.1: must be less than or equal to 1"),
        (["loss=bce_saturating", "loss.fake_label=-0.1"], r"fake_label=-0.1.*must be"),
        (["loss=bce", "loss.fake_label=1.0"], r"loss: fake_label=1.0, real_label=1.0: must be 0 <= fake < real"),
    ],
)
def test_what_is_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        make_game(*words)


def test_on_lists_only_players_that_the_penalty_speaks_to():
    for name in options("regularizer"):
        node = yaml.safe_load((CONF / "regularizer" / f"{name}.yaml").read_text())
        if node:
            module, _, attribute = node["_target_"].rpartition(".")
            if module == "gan_runner.regularizers.penalties":
                allowed = getattr(getattr(penalties, attribute), "only_on", None)
                assert allowed is None or set(node.get("on", ["discriminator"])) <= set(allowed), name


def test_a_step_with_all_of_it_needs_nothing_of_the_host() -> None:
    words = [
        "model.latent_distribution=truncated_normal",
        "loss=bce",
        "loss.real_label=0.9",
        "augmentation=input_noise",
        "lr_schedule@augmentation.input_noise.schedule=linear",
        "regularizer=[value_range,max_norm,output_l1,iterative_gradient_penalty,adversarial_perturbation,"
        "feature_matching,reconstruction,consistency,balanced_consistency]",
    ]
    with meta_device():
        step_without_host(make_game(*words))


@pytest.mark.parametrize("name", ["output_l1", "iterative_gradient_penalty", "adversarial_perturbation",
                                  "feature_matching", "reconstruction"])  # fmt: skip
def test_on_points(name: str) -> None:
    game = build(compose(*POINTS, f"regularizer={name}", "discriminator_steps=1"), [])[0]
    assert math.isfinite(take_steps(game, 2)[f"penalty/{name}"])


def test_bf16() -> None:
    game = make_game(
        "precision=bf16",
        "regularizer=[output_l1,iterative_gradient_penalty,adversarial_perturbation,feature_matching,reconstruction,"
        "balanced_consistency]",
        "augmentation=input_noise",
    )
    assert all(math.isfinite(value) for value in take_steps(game).values())
    assert game.discriminator.terms["iterative_gradient_penalty"].value.dtype == torch.float32
