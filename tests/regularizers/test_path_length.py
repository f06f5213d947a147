"""Path-length regularization: closed forms, what it is of, its running mean."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan_runner.config.errors import ConfigError
from gan_runner.regularizers.penalties import PathLength
from tests.helpers import naming
from tests.helpers.games import make_game, restore, save, take_steps
from tests.helpers.penalties import some
from tests.helpers.runs import differences

STYLE = [
    "model=stylegan2", "model.generator.width=4", "model.generator.depth=1", "model.generator.style_size=4",
    "model.discriminator.width=4", "model.discriminator.depth=null", "loss=bce", "regularizer=path_length",
    "regularizer.path_length.every=1",
]  # fmt: skip


class Normal:
    """Draws that a test knows."""

    def __init__(self) -> None:
        self.drawn: list[Tensor] = []

    def normal(self, *shape: int) -> Tensor:
        self.drawn.append(some(*shape, seed=7))
        return self.drawn[-1]


class LinearImages(nn.Module):
    """Latents (N, Z) -> images A z, (N, 2, 3, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(some(24, 5, seed=3))

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (latents @ self.matrix.T).unflatten(-1, (2, 3, 4))


class LinearStyles(LinearImages):
    """The same of the sum of three layers' styles, which are B z."""

    has_styles = True

    def __init__(self) -> None:
        super().__init__()
        self.mapping = nn.Parameter(some(5, 5, seed=4))

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        return (latents @ self.mapping.T).unsqueeze(1).expand(-1, 3, -1)

    def synthesize(self, styles: Tensor) -> Tensor:
        factors = torch.tensor([1.0, 2.0, 3.0], dtype=styles.dtype)
        return super().forward((styles * factors[:, None]).sum(1))


def a_view(network: nn.Module, samples: int = 6) -> Any:
    return SimpleNamespace(
        learner=network, latents=some(samples, 5), labels=None, batch_shape=(samples,), randomness=Normal()
    )


@pytest.mark.parametrize(("network", "factor"), [(LinearImages(), 1), (LinearStyles(), math.sqrt((1 + 4 + 9) / 3))])
def test_of_a_linear_generator(network, factor):
    """|Aᵀ y|, whatever the latents; over layers the root of the mean square."""
    view, term = a_view(network), PathLength(decay=0.9, shrink=2).double()
    term.update(view)
    found = term(view)
    (noise,) = view.randomness.drawn
    assert noise.shape == (6, 2, 3, 4)
    lengths = factor * (noise[::2].flatten(1) @ network.matrix / math.sqrt(3 * 4)).norm(dim=1)
    mean = 0.1 * lengths.mean()
    torch.testing.assert_close(term.mean_length, mean.detach(), check_dtype=False)
    torch.testing.assert_close(found, (lengths - mean.detach()).square(), check_dtype=False)


def test_its_expectation_is_the_frobenius_norm():
    """E |Aᵀ y|² = |A|² / (H W)."""
    view = a_view(LinearImages(), samples=4000)
    lengths = PathLength(decay=0.9, shrink=1).lengths(view)
    expected = view.learner.matrix.square().sum() / 12
    torch.testing.assert_close(lengths.square().mean(), expected, rtol=0.05, atol=0)


def test_it_reaches_the_weights_of_the_mapping_and_of_the_layers():
    network = LinearStyles()
    view, term = a_view(network), PathLength(decay=0.9, shrink=1)
    term(view).mean().backward()
    assert network.matrix.grad is not None
    game = make_game(*STYLE)
    values = take_steps(game, 2)
    assert values["penalty/path_length"] > 0
    assert list(game.generator.terms) == ["loss", "path_length"]
    assert list(game.discriminator.terms) == ["loss"]
    assert values["state/path_length/mean_length"] > 0


def test_a_further_value_of_the_turn_leaves_the_mean_alone():
    view, term = a_view(LinearImages()), PathLength(decay=0.5, shrink=1).double()
    term.update(view)
    mean, first = term.mean_length.clone(), term(view)
    torch.testing.assert_close(term(view), first)  # from the same draws
    assert torch.equal(term.mean_length, mean)


def test_it_is_refused_on_the_discriminator():
    with pytest.raises(ConfigError, match=naming("regularizer.path_length.on", "generator")):
        make_game(*STYLE, "regularizer.path_length.on=[discriminator]")


def test_a_run_with_noise_mixing_and_path_lengths_resumes_to_the_bit():
    """Noise, mixing and y follow from seed and step; the mean style and the mean length are in the checkpoint."""
    words = [*STYLE, "model.generator.style_mixing=0.9", "regularizer.path_length.every=2"]
    game, fresh = make_game(*words), make_game(*words)
    for step in range(3):
        game.step(step)
    restore(fresh, save(game))
    torch.rand(5)
    for step in range(3, 6):
        assert not list(differences(take_steps(game, 1, step), take_steps(fresh, 1, step)))
    assert not list(differences(game.state_dict(), fresh.state_dict()))
    assert fresh.generator.network.get_buffer("mean_style").any()
