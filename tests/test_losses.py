"""Losses: closed forms against independent formulas, direction, laziness."""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_runner import losses
from tests.helpers.games import make_game
from tests.helpers.penalties import (
    some,
)


class Given(NamedTuple):
    """A view that has logits and nothing else: a loss that reads more fails."""

    real_logits: Tensor
    fake_logits: Tensor


def classes() -> dict[str, type]:
    """Every loss in the module."""
    found = vars(losses).items()
    return {name: value for name, value in found if inspect.isclass(value) and hasattr(value, "discriminator")}


LOSSES = classes()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_differences_are_those_that_a_shift_leaves_alone(name):
    logits = torch.randn(2, 8, dtype=torch.float64)
    loss = LOSSES[name]()
    at_first, shifted = (loss.discriminator(Given(*each)) for each in (logits, logits + 3))
    assert torch.allclose(at_first, shifted) == getattr(loss, "is_of_differences", False)


def says_real(logits: Tensor) -> Tensor:
    """Cross-entropy towards the label 1."""
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits), reduction="none")


def says_fake(logits: Tensor) -> Tensor:
    """Cross-entropy towards the label 0."""
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits), reduction="none")


def over_mean(logits: Tensor, others: Tensor) -> Tensor:
    """Each logit less the mean of the other kind, by a loop over the samples."""
    return torch.stack([one - sum(others.unbind(-1)) / others.shape[-1] for one in logits.unbind(-1)], -1)


Formula = Callable[[Tensor, Tensor], Tensor]  # (real, fake) -> values
FORMULAS: dict[str, tuple[Formula, Formula]] = {  # discriminator, generator
    "BinaryCrossEntropy": (lambda r, f: says_real(r) + says_fake(f), lambda r, f: says_real(f)),
    "SaturatingBinaryCrossEntropy": (
        lambda r, f: -torch.log(1 / (1 + torch.exp(-r))) - torch.log(1 - 1 / (1 + torch.exp(-f))),
        lambda r, f: torch.log(1 - torch.sigmoid(f)),
    ),
    "Wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "Hinge": (
        lambda r, f: torch.maximum(torch.zeros_like(r), 1 - r) + torch.maximum(torch.zeros_like(f), 1 + f),
        lambda r, f: -f,
    ),
    "LeastSquares": (lambda r, f: 0.5 * (r - 1) ** 2 + 0.5 * f**2, lambda r, f: 0.5 * (f - 1) ** 2),
    "Relativistic": (
        lambda r, f: -torch.log(torch.sigmoid(r - f)),
        lambda r, f: -torch.log(torch.sigmoid(f - r)),
    ),
    "RelativisticAverage": (
        lambda r, f: says_real(over_mean(r, f)) + says_fake(over_mean(f, r)),
        lambda r, f: says_real(over_mean(f, r)) + says_fake(over_mean(r, f)),
    ),
}

each_loss = pytest.mark.parametrize("name", LOSSES)
each_player = pytest.mark.parametrize("player", ["discriminator", "generator"])


def logits(*shape: int) -> tuple[Tensor, Tensor]:
    """Real and fake logits, on both sides of the hinge's corners."""
    generator = torch.Generator().manual_seed(0)
    return tuple(2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))  # type: ignore[return-value]


def value(name: str, player: str, real: Tensor, fake: Tensor) -> Tensor:
    return getattr(LOSSES[name](), player)(Given(real, fake))


def test_every_loss_has_a_formula_here():
    assert set(LOSSES) == set(FORMULAS)


@each_player
@each_loss
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 7), (2, 3, 7)], ids=str)
def test_closed_form_unreduced(name, player, shape):
    real, fake = logits(*shape)
    expected = FORMULAS[name][player == "generator"](real, fake)
    result = value(name, player, real, fake)
    assert result.shape == shape
    torch.testing.assert_close(result, expected)


@each_player
@each_loss
def test_runs_do_not_see_each_other(name, player):
    real, fake = logits(3, 7)
    one_by_one = [value(name, player, *run) for run in zip(real, fake, strict=True)]
    torch.testing.assert_close(value(name, player, real, fake), torch.stack(one_by_one))


def at_zero(name: str, player: str) -> dict[str, Tensor | None]:
    """The gradient of the mean at logits zero, None where a loss does not look."""
    real, fake = (torch.zeros(5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    gradients = torch.autograd.grad(value(name, player, real, fake).mean(), (real, fake), allow_unused=True)
    return dict(zip(("real", "fake"), gradients, strict=True))


@each_loss
def test_discriminator_pushes_real_up_and_fake_down(name):
    gradient = at_zero(name, "discriminator")
    assert gradient["real"] is not None
    assert gradient["fake"] is not None
    assert (gradient["real"] < 0).all()  # descent: up
    if name == "LeastSquares":  # whose target of the fakes is 0 itself
        assert (gradient["fake"] == 0).all()
        fake = torch.full((5,), 0.1, requires_grad=True)
        value(name, "discriminator", torch.zeros(5), fake).sum().backward()
        assert fake.grad is not None
        assert (fake.grad > 0).all()
    else:
        assert (gradient["fake"] > 0).all()


@each_loss
def test_generator_pushes_fake_up(name):
    gradient = at_zero(name, "generator")
    assert gradient["fake"] is not None
    assert (gradient["fake"] < 0).all()
    if gradient["real"] is not None:  # relativistic: a real sample that looks less real is as good
        assert (gradient["real"] > 0).all()


@each_loss
def test_generator_looks_at_real_only_where_its_formula_does(name):
    class Fakes:
        """A view in which looking at real samples costs an error."""

        fake_logits = torch.zeros(3)

        @property
        def real_logits(self) -> NoReturn:
            raise LookupError("real logits computed")

    loss: Any = LOSSES[name]()
    if name.startswith("Relativistic"):
        with pytest.raises(LookupError):
            loss.generator(Fakes())
    else:
        assert loss.generator(Fakes()).shape == (3,)


@each_player
@each_loss
def test_finite_at_large_logits(name, player):
    for sign in (-1, 1):
        real, fake = (torch.full((2,), 200.0 * side, requires_grad=True) for side in (sign, -sign))
        result = value(name, player, real, fake)
        assert result.isfinite().all()
        for gradient in torch.autograd.grad(result.sum(), (real, fake), allow_unused=True):
            assert gradient is None or gradient.isfinite().all()


def test_where_the_generator_s_gradient_vanishes():
    """Where the discriminator wins, only the saturating generator stands still: Goodfellow et al. 2014, section 3."""
    for name, gradient in [("BinaryCrossEntropy", -1.0), ("SaturatingBinaryCrossEntropy", 0.0)]:
        fake = torch.tensor([-30.0], requires_grad=True)
        value(name, "generator", torch.zeros(1), fake).sum().backward()
        assert fake.grad is not None
        assert fake.grad.item() == pytest.approx(gradient, abs=1e-6)


def test_averages_are_the_batch_s_and_carry_gradient():
    """The mean in the relativistic average is differentiated: moving one fake logit moves every real sample's value."""
    real, fake = (x.requires_grad_() for x in logits(4))
    (gradient,) = torch.autograd.grad(value("RelativisticAverage", "discriminator", real, fake)[0], fake)
    # d/df_j of -log σ(r_0 - f̄) is σ(f̄ - r_0) / 4, and of sample 0's own term σ(f_0 - r̄).
    expected = (torch.sigmoid(fake.mean() - real[0]) / 4).expand(4).clone()
    expected[0] += torch.sigmoid(fake[0] - real.mean())
    torch.testing.assert_close(gradient, expected)


# --- label smoothing --------------------------------------------------------------------------------------------------


SMOOTHED = (losses.BinaryCrossEntropy, losses.SaturatingBinaryCrossEntropy)


@pytest.mark.parametrize("loss", SMOOTHED)
@pytest.mark.parametrize(("real_label", "fake_label"), [(1.0, 0.0), (0.9, 0.0), (0.9, 0.1), (0.5, 0.3)])
def test_label_smoothing_is_torch_s_cross_entropy(loss, real_label, fake_label):
    view: Any = SimpleNamespace(real_logits=3 * some(3, 7), fake_logits=3 * some(3, 7, seed=1))
    result = loss(real_label=real_label, fake_label=fake_label).discriminator(view)
    expected = sum(
        F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
        for logits, label in ((view.real_logits, real_label), (view.fake_logits, fake_label))
    )
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("loss", SMOOTHED)
def test_without_smoothing_every_bit_is_as_before(loss):
    real, fake = (10 * some(1000, seed=seed).float() for seed in (0, 1))
    real[:4] = torch.tensor([0.0, -0.0, 200.0, -200.0])
    results = []
    for formula in (loss().discriminator, lambda view: F.softplus(-view.real_logits) + F.softplus(view.fake_logits)):
        view: Any = SimpleNamespace(real_logits=real.requires_grad_(), fake_logits=fake.requires_grad_())
        value = formula(view)
        results.append((value, *torch.autograd.grad(value.sum(), (real, fake))))
    assert all(one.equal(other) for one, other in zip(*results, strict=True))


def test_smoothed_labels_are_where_the_discriminator_comes_to_rest():
    """At σ(x) = t the gradient vanishes, on the smoothed side alone; the generator's side is the same as without."""
    loss, plain = losses.BinaryCrossEntropy(real_label=0.9), losses.BinaryCrossEntropy()
    real = torch.tensor([0.9], dtype=torch.float64).logit().requires_grad_()
    fake = torch.tensor([0.3], dtype=torch.float64).requires_grad_()
    view: Any = SimpleNamespace(real_logits=real, fake_logits=fake)
    on_real, on_fake = torch.autograd.grad(loss.discriminator(view).sum(), (real, fake))
    torch.testing.assert_close(on_real, torch.zeros_like(on_real))
    torch.testing.assert_close(on_fake, fake.detach().sigmoid())
    for smoothed, bare in ((loss, plain), (losses.SaturatingBinaryCrossEntropy(fake_label=0.1, real_label=0.8),
                                          losses.SaturatingBinaryCrossEntropy())):  # fmt: skip
        assert smoothed.generator(view).equal(bare.generator(view))


def test_label_smoothing_on_the_command_line():
    game = make_game("loss=bce", "loss.real_label=0.9", "loss.fake_label=0.1")
    game.step(0)
    loss: Any = game.discriminator.terms["loss"].fn
    assert (loss.__self__.real_label, loss.__self__.fake_label) == (0.9, 0.1)
    with pytest.raises(ValueError, match=r"^fake_label=0.3, real_label=0.2: must be 0 <= fake < real <= 1$"):
        losses.BinaryCrossEntropy(real_label=0.2, fake_label=0.3)
