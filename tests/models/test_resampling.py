"""Filtered resampling: its frequency response, its derivatives, and a straightforward form."""

import math

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap

from gan_runner.models.resampling import BINOMIAL, Downsample, Upsample, downsample, separable_kernel, upsample
from gan_runner.torch_utils.double_backward import gradient_at
from tests.helpers import naming

TAPS = [BINOMIAL, (1.0, 2.0), (0.5, -1.0, 3.0, 4.0, 1.0, -0.5)]
each_filter = pytest.mark.parametrize("taps", TAPS)


def along_rows(rows: Tensor, taps: tuple[float, ...], *, up: bool) -> Tensor:
    """One axis, (R, W), written out: zeros between the pixels and a convolution, or a correlation and every second."""
    line = [tap / sum(taps) for tap in taps]
    reach = len(line) // 2 - 1
    width = rows.shape[1]
    made = torch.zeros(len(rows), 2 * width if up else width // 2, dtype=rows.dtype)
    for place in range(made.shape[1]):
        for number, tap in enumerate(line):
            at = place + reach - number if up else 2 * place - reach + number
            if up and at % 2 == 0 and 0 <= at < 2 * width:
                made[:, place] += 2 * tap * rows[:, at // 2]
            elif not up and 0 <= at < width:
                made[:, place] += tap * rows[:, at]
    return made


@each_filter
@pytest.mark.parametrize("up", [True, False])
def test_is_the_straightforward_form(taps: tuple[float, ...], up: bool) -> None:
    image = torch.randn(6, 10, dtype=torch.float64)
    expected = along_rows(along_rows(image, taps, up=up).T.contiguous(), taps, up=up).T
    found = (upsample if up else downsample)(image.expand(2, 3, -1, -1), separable_kernel(taps).double())
    assert found.shape == (2, 3, *((12, 20) if up else (3, 5)))
    torch.testing.assert_close(found, expected.expand_as(found), rtol=1e-6, atol=1e-6)  # the taps are of float32


@pytest.mark.parametrize("frequency", [0.0, 0.3, 1.0, 2.0, math.pi])
def test_down_weakens_a_wave_by_the_filters_response(frequency: float) -> None:
    places = torch.arange(32.0)
    image = torch.cos(frequency * places + 0.4).expand(1, 1, 32, 32)
    found = Downsample()(image)[0, 0, 4, 2:-2]
    middles = 2 * torch.arange(16.0)[2:-2] + 0.5
    torch.testing.assert_close(found, math.cos(frequency / 2) ** 3 * torch.cos(frequency * middles + 0.4))


def test_the_response_to_an_impulse_is_the_filter() -> None:
    impulse = torch.zeros(1, 1, 8, 8)
    impulse[..., 4, 4] = 1
    found = torch.fft.fft2(Upsample()(impulse))[0, 0].abs()
    response = torch.cos(math.pi * torch.arange(16.0) / 16).abs() ** 3  # ω/2 of the 16 frequencies
    torch.testing.assert_close(found, 4 * torch.outer(response, response))


def test_up_keeps_what_is_constant_and_takes_out_its_mirror_image() -> None:
    inside = Upsample()(torch.full((1, 2, 6, 6), 3.0))[..., 1:-1, 1:-1]
    torch.testing.assert_close(inside, torch.full_like(inside, 3.0))
    assert Upsample()(torch.ones(1, 1, 6, 6))[..., 0, 0] == 0.75**2  # zeros beyond the border


@each_filter
def test_the_one_is_the_others_adjoint(taps: tuple[float, ...]) -> None:
    kernel = separable_kernel(taps).double()
    small, large = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.randn(2, 3, 8, 10, dtype=torch.float64)
    torch.testing.assert_close((upsample(small, kernel) * large).sum(), 4 * (small * downsample(large, kernel)).sum())


@pytest.mark.parametrize("layer", [Upsample, Downsample])
def test_is_twice_differentiable(layer: type[Upsample] | type[Downsample]) -> None:
    made = layer().double()
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(made, x)
    assert torch.autograd.gradgradcheck(made, x)


@pytest.mark.parametrize("layer", [Upsample, Downsample])
def test_differentiates_a_gradient_in_weights(layer: type[Upsample] | type[Downsample]) -> None:
    made = layer().double()
    x = torch.randn(2, 2, 4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 1, dtype=torch.float64, requires_grad=True)

    def values(samples: Tensor) -> Tensor:
        return made(samples * weight).pow(3)

    ours, (theirs,) = gradient_at(x, values), torch.autograd.grad(values(x).sum(), x, create_graph=True)
    found, expected = (torch.autograd.grad(each.square().sum(), weight)[0] for each in (ours, theirs))
    torch.testing.assert_close(found, expected)


def test_the_filter_is_in_no_checkpoint_and_bears_vmap() -> None:
    layers = [Downsample(), Downsample()]
    assert layers[0].state_dict() == {}
    state = stack_module_state(layers)
    x = torch.randn(2, 3, 2, 8, 8)
    together = vmap(lambda state, x: functional_call(layers[0], state, (x,)))(state, x)
    torch.testing.assert_close(together, torch.stack([layers[0](each) for each in x]))


@pytest.mark.parametrize("taps", [(1.0, 2.0, 1.0), (), (1.0, -1.0)])
def test_refuses_what_is_no_filter(taps: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=naming("taps")):
        separable_kernel(taps)
