"""Penalties on generated samples: output_l1, feature matching, reconstruction."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan_runner.regularizers import penalties
from gan_runner.torch_utils.precision import tensor_cores
from tests.helpers.games import counted, make_game
from tests.helpers.penalties import Stacked, a_view, some
from tests.helpers.precision import Products


@pytest.mark.parametrize("sample", [(2,), (3, 4, 4)], ids=str)
def test_output_l1(sample):
    fake = some(5, *sample).requires_grad_()
    result = penalties.output_l1(a_view(nn.Module(), None, some(5, *sample, seed=1), fake))
    torch.testing.assert_close(result, torch.stack([sum(x.abs() for x in one.flatten()) for one in fake]))
    (gradient,) = torch.autograd.grad(result.mean(), fake)
    torch.testing.assert_close(gradient, fake.detach().sign() / 5)  # descent: towards 0


def test_output_l1_of_codes():
    """Of whatever the view calls outputs: those of an autoencoder are its codes."""
    view: Any = SimpleNamespace(outputs=torch.tensor([[1.0, -2, 0], [0.5, 0, -4]]), batch_shape=(2,))
    assert penalties.output_l1(view).tolist() == [3, 4.5]


def test_output_l1_of_stacked_runs():
    stacked = Stacked((1,))
    fake = some(3, 5, 2)
    result = penalties.output_l1(a_view(stacked, stacked, fake, fake))
    torch.testing.assert_close(result, fake.abs().sum(-1))


def test_output_l1_is_on_the_generator_and_shrinks_its_samples():
    means = []
    for weight in (0.0, 10.0):
        game = make_game("regularizer=output_l1", f"regularizer.output_l1.weight={weight}", "optimizer.lr=1e-2")
        assert list(game.generator.terms) == ["loss", "output_l1"]
        assert list(game.discriminator.terms) == ["loss"]
        for step in range(20):
            game.step(step)
        means.append(game.generator.network(game.draw_latents(game.randomness, 64), None).abs().mean())
    assert means[1] < 0.3 * means[0]


class Featured(nn.Module):
    """A discriminator whose features are tanh(W x): (..., N, D) -> (..., N, F)."""

    def __init__(self, weight: Tensor):
        super().__init__()
        self.run_axes = weight.ndim - 2
        self.weight = nn.Parameter(weight)

    def features(self, x: Tensor) -> Tensor:
        return (x @ self.weight.mT).tanh()

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.features(x).sum(-1)


TERMS: dict[str, Callable[..., Tensor]] = {
    "feature_matching": penalties.feature_matching,
    "l1": partial(penalties.reconstruction, norm="l1"),
    "l2": partial(penalties.reconstruction, norm="l2"),
}


each_term = pytest.mark.parametrize("name", TERMS)


def test_feature_matching_by_hand():
    network = Featured(some(4, 3))
    real, fake = some(6, 3, seed=1).requires_grad_(), some(6, 3, seed=2).requires_grad_()
    result = penalties.feature_matching(a_view(nn.Module(), network, real, fake))
    difference = network.features(real).mean(0) - network.features(fake).mean(0)
    assert result.shape == (1,)
    torch.testing.assert_close(result, difference.square().sum().reshape(1))
    result.sum().backward()
    assert real.grad is None
    assert fake.grad is not None


def test_feature_matching_sees_augmented_samples():
    network = Featured(some(4, 3))
    real, fake = some(6, 3, seed=1), some(6, 3, seed=2)
    view = a_view(nn.Module(), network, real, fake, augment=lambda samples: 3 * samples)
    torch.testing.assert_close(
        penalties.feature_matching(view), penalties.feature_matching(a_view(nn.Module(), network, 3 * real, 3 * fake))
    )


@pytest.mark.parametrize("sample", [(2,), (3, 4, 4)], ids=str)
@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_reconstruction_by_a_loop(norm, sample):
    real, fake = some(40, *sample), some(40, *sample, seed=1)

    def distance(x: Tensor, y: Tensor) -> Tensor:
        return (x - y).abs().mean() if norm == "l1" else (x - y).square().mean()

    result = penalties.reconstruction(a_view(nn.Module(), None, real, fake), norm=norm)
    torch.testing.assert_close(result, torch.stack([min(distance(x, y) for y in fake) for x in real]))


def test_reconstruction_pulls_the_nearest_and_leaves_the_others():
    """Two real samples share one neighbour: both pull at it."""
    real = torch.tensor([[0.0, 0.0], [1.0, 0.0], [9.0, 9.0]])
    fake = torch.tensor([[0.4, 0.0], [8.0, 9.0], [-50.0, 0.0]], requires_grad=True)
    result = penalties.reconstruction(a_view(nn.Module(), None, real, fake), norm="l2")
    assert result.tolist() == pytest.approx([0.08, 0.18, 0.5])
    result.sum().backward()
    assert fake.grad is not None
    torch.testing.assert_close(fake.grad, torch.tensor([[0.4 - 0.6, 0.0], [-1.0, 0.0], [0.0, 0.0]]))


@each_term
def test_generator_terms_push_towards_the_data(name):
    """Gradient descent on the samples makes the term, and their distance to the data, smaller."""
    network, real = Featured(some(4, 3) / 2), some(64, 3, seed=1) + 1
    fake = (some(64, 3, seed=2) - 1).requires_grad_()
    values = []
    for _ in range(200):
        value = TERMS[name](a_view(nn.Module(), network, real, fake)).mean()
        values.append(value.item())
        (gradient,) = torch.autograd.grad(value, fake)
        fake = (fake.detach() - 10 * gradient).requires_grad_()
    assert values[-1] < 0.5 * values[0]
    assert (fake.mean(0) - real.mean(0)).norm() < 3.4 < 12**0.5  # the distance of the two means at the start


@each_term
def test_generator_terms_of_stacked_runs_equal_the_loop(name):
    weight, real, fake = some(3, 4, 2), some(3, 5, 2), some(3, 5, 2, seed=1)
    result = TERMS[name](a_view(Stacked((1,)), Featured(weight), real, fake))
    assert result.shape == ((3, 1) if name == "feature_matching" else (3, 5))
    for run in range(3):
        alone = TERMS[name](a_view(nn.Module(), Featured(weight[run]), real[run], fake[run]))
        torch.testing.assert_close(result[run], alone)
    # One discriminator, many generators: it sees one long batch.
    result = TERMS[name](a_view(Stacked((1,)), Featured(weight[0]), real, fake))
    torch.testing.assert_close(result[1], TERMS[name](a_view(nn.Module(), Featured(weight[0]), real[1], fake[1])))


@each_term
def test_generator_terms_finite_differences(name):
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    names, weights = zip(*generator.named_parameters(), strict=True)

    def value(*values: Tensor) -> Tensor:
        fake = functional_call(generator, dict(zip(names, values, strict=True)), (some(6, 2, seed=1),))
        return TERMS[name](a_view(generator, Featured(some(4, 3)), some(6, 3), fake)).mean(-1)

    assert torch.autograd.gradcheck(value, weights)


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_reconstruction_under_autocast_is_exact(norm):
    real, fake = some(40, 6).float(), some(40, 6, seed=1).float()
    view = a_view(nn.Module(), None, real, fake)
    with torch.autocast("cpu", torch.bfloat16):
        assert penalties.reconstruction(view, norm=norm).equal(penalties.reconstruction(view, norm=norm).float())
        low = penalties.reconstruction(view, norm=norm)
    assert low.equal(penalties.reconstruction(view, norm=norm))


@pytest.mark.parametrize("name", ["feature_matching", "reconstruction", "output_l1"])
def test_generator_terms_leave_the_discriminator_alone(name):
    game = make_game(f"regularizer={name}")
    with counted(game.discriminator.network) as asked:
        values = game.step(0, is_logged=True)
    assert asked == [True, False]
    assert f"penalty/{name}" in values


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_reconstruction_leaves_tf32(norm):
    """The distances, the choice, and its gradient: of long samples, distances are computed by products."""
    real, fake = torch.rand(30, 40), torch.rand(30, 40, requires_grad=True)
    with tensor_cores(True), Products() as products:
        penalties.reconstruction(a_view(nn.Module(), None, real, fake), norm=norm).sum().backward()
    assert len(products.seen) == 3
    assert set(products.seen) == {("ieee", False)}
