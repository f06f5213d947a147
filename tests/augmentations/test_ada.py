"""The pipe of ADA: each transformation against a plain one, the laws that they are drawn by, and games with it."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from gan_runner.augmentations import Ada
from gan_runner.augmentations.ada import GATES, GROUPS, POWER, Draws, band_gains, bands, inverse_map, recolored
from gan_runner.config.errors import ConfigError
from gan_runner.torch_utils.randomness import Randomness, fixed_randomness
from gan_runner.training.build import build
from tests.augmentations.test_diff_augment import some_images
from tests.helpers import CONF, compose
from tests.helpers.games import make_game, restore, save, take_steps, take_steps_together
from tests.helpers.meta import step_on_meta

CPU = torch.device("cpu")
OFF: dict[str, Any] = {
    "p": 1.0, "target": None, "interval": 4, "images": 1000, "cutout_size": 0.5, "without": [],
    **dict.fromkeys(GROUPS, 0.0),
}  # fmt: skip
ALL = OFF | dict.fromkeys(GROUPS, 1.0)
MANY = 20_000


def seeded(seed: int = 0) -> Randomness:
    return fixed_randomness(seed, "test", CPU)


def only(*transformations: str, **keys: Any) -> Ada:
    """With these transformations alone."""
    return Ada(**ALL | {"without": [each for each in GATES if each not in transformations]} | keys)


def drawn(ada: Ada, count: int = MANY) -> Draws:
    draws = Draws(ada, (count,), seeded())
    draws.to(torch.float64)
    return draws


# --- what fires -------------------------------------------------------------------------------------------------------


def test_nothing_changes_at_p_0():
    images = some_images(5, 3, 16, 16)
    assert Ada(**ALL | {"p": 0.0})(images, seeded(), 0).equal(images)
    assert not Ada(**ALL)(images, seeded(), 0).equal(images)


def test_each_fires_with_its_probability():
    keys = dict(zip(GROUPS, (1.0, 0.8, 0.5, 0.3, 0.2, 0.9), strict=True))
    draws = drawn(Ada(**ALL | keys | {"p": 0.4}))
    for group, names in GROUPS.items():
        for name in names:
            wanted = 0.4 * keys[group]
            wanted = 1 - math.sqrt(1 - wanted) if "rotation" in name else wanted
            assert draws.fires[name].double().mean().item() == pytest.approx(wanted, abs=0.015), name
    either = draws.any_fires("pre_rotation", "post_rotation").double().mean().item()
    assert either == pytest.approx(0.4 * 0.8, abs=0.015)


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_nothing_fires_with_the_probability_of_the_paper_s_pipe(p):
    draws = drawn(Ada(**OFF | {"p": p, "blit": 1.0, "geometric": 1.0, "color": 1.0}))
    share = 1 - draws.any_fires(*GATES).double().mean().item()
    assert share == pytest.approx((1 - p) ** 12, abs=0.01)


def test_what_is_off_leaves_the_draws_of_the_others():
    images = some_images(8, 3, 16, 16)
    assert only("hue")(images, seeded(), 0).equal(
        Ada(**OFF | {"color": 1.0, "without": [*GROUPS["color"][:3], "saturation"]})(images, seeded(), 0)
    )


def test_without_and_channels_that_there_are_not():
    with pytest.raises(ValueError, match="without=turn: no such transformation; there are x_flip"):
        Ada(**OFF | {"without": ["turn"]})
    for channels in (2, 4):
        images = some_images(2, channels, 8, 8)
        Ada(**ALL | {"color": 0.0})(images, seeded(), 0)
        with pytest.raises(ValueError, match=f"images have {channels} channels, not 1 or 3; color=0"):
            Ada(**ALL)(images, seeded(), 0)
    with pytest.raises(ValueError, match="augmentation=ada needs images"):
        Ada(**ALL)(torch.zeros(8, 2), seeded(), 0)


# --- places -----------------------------------------------------------------------------------------------------------


def test_the_inverse_map_undoes_the_transformations_in_their_order():
    draws, width, height = drawn(Ada(**ALL | {"p": 0.5}), 200), 24, 16
    matrix, offset = inverse_map(draws, height, width)
    uniform, normal, fires = draws.uniform, draws.normal, draws.fires
    seen = torch.tensor([3.0, -5.0], dtype=torch.float64)
    for n in range(200):
        x, y = (matrix[n] @ seen + offset[n]).tolist()
        of = lambda numbers, name, n=n: float(numbers[name][n])  # noqa: E731
        if fires["x_flip"][n] and of(uniform, "x_flip") < 0.5:
            x = -x
        if fires["rotate90"][n]:
            for _ in range(math.floor(4 * of(uniform, "rotate90"))):
                x, y = -y, x
        if fires["integer_shift"][n]:
            x += round((2 * of(uniform, "integer_x") - 1) * width / 8)
            y += round((2 * of(uniform, "integer_y") - 1) * height / 8)
        place = complex(x, y)
        if fires["scale"][n]:
            place *= 2 ** (0.2 * of(normal, "scale"))
        if fires["pre_rotation"][n]:
            angle = math.pi * (2 * of(uniform, "pre_rotation") - 1)
            place *= complex(math.cos(angle), math.sin(angle))
        if fires["anisotropic_scale"][n]:
            factor = 2 ** (0.2 * of(normal, "anisotropic_scale"))
            place = complex(place.real * factor, place.imag / factor)
        if fires["post_rotation"][n]:
            angle = math.pi * (2 * of(uniform, "post_rotation") - 1)
            place *= complex(math.cos(angle), math.sin(angle))
        if fires["fractional_shift"][n]:
            place += complex(of(normal, "fractional_x") * width / 8, of(normal, "fractional_y") * height / 8)
        assert place == pytest.approx(complex(3, -5), abs=1e-5)


def test_the_laws_of_the_places():
    def one(name: str) -> tuple[Tensor, Tensor]:
        return inverse_map(drawn(only(name)), 32, 32)

    flip = one("x_flip")[0]
    assert flip[:, 0, 0].mean().item() == pytest.approx(0, abs=0.03)
    assert flip[:, 0, 0].abs().eq(1).all()
    assert flip[:, 1, 1].eq(1).all()
    turns = one("rotate90")[0]
    for sine, cosine in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        share = ((turns[:, 1, 0] - sine).abs() + (turns[:, 0, 0] - cosine).abs() < 1e-6).double().mean().item()
        assert share == pytest.approx(0.25, abs=0.02)
    shift = one("integer_shift")[1]
    assert shift.round().equal(shift)
    counts = shift[:, 0].long().add(4).bincount()
    assert counts[1:8].double().div(MANY).tolist() == pytest.approx([1 / 8] * 7, abs=0.015)
    assert counts[[0, 8]].double().div(MANY).tolist() == pytest.approx([1 / 16] * 2, abs=0.015)
    assert torch.corrcoef(shift.mT)[0, 1].abs() < 0.03
    logarithm = one("scale")[0][:, 0, 0].log2()
    assert (logarithm.mean().item(), logarithm.std().item()) == pytest.approx((0, 0.2), abs=0.01)
    for name in ("pre_rotation", "post_rotation"):
        matrix = one(name)[0]
        angle = torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])
        assert torch.histc(angle, 8, -math.pi, math.pi).div(MANY).tolist() == pytest.approx([1 / 8] * 8, abs=0.015)
        torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(MANY, dtype=torch.float64))
    across = one("anisotropic_scale")[0]
    torch.testing.assert_close(across[:, 0, 0] * across[:, 1, 1], torch.ones(MANY, dtype=torch.float64))
    assert across[:, 0, 0].log2().std().item() == pytest.approx(0.2, abs=0.01)
    assert one("fractional_shift")[1].std(0).tolist() == pytest.approx([4, 4], abs=0.1)


def test_a_flip_of_an_image():
    images = F.avg_pool2d(some_images(64, 1, 38, 38), 7, 1) * 3
    ada = only("x_flip")
    result, flips = ada(images, seeded(), 0), drawn(ada, 64).uniform["x_flip"] < 0.5
    expected = torch.where(flips[:, None, None, None], images.flip(-1), images)
    assert (result - expected).square().mean() < 0.01 * images.square().mean()
    assert (result[~flips] - images[~flips]).abs().max() < 1e-4


# --- values -----------------------------------------------------------------------------------------------------------


def test_colors_are_products_of_matrices():
    """Of 4 x 4, on (red, green, blue, 1), in the order of the table."""
    images, draws = some_images(50, 3, 4, 5).double(), drawn(Ada(**ALL | {"p": 0.5}), 50)
    result = recolored(images, draws)
    grey = torch.full((3,), 1 / math.sqrt(3), dtype=torch.float64)
    along = torch.outer(grey, grey)
    x, y, z = grey.tolist()
    product = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    for n in range(50):
        value = lambda numbers, name, n=n: float(numbers[name][n])  # noqa: E731
        whole = torch.eye(4, dtype=torch.float64)

        def then(matrix: Tensor, offset: float = 0.0) -> None:
            nonlocal whole
            step = torch.eye(4, dtype=torch.float64)
            step[:3, :3], step[:3, 3] = matrix, offset
            whole = step @ whole

        one = torch.eye(3, dtype=torch.float64)
        if draws.fires["brightness"][n]:
            then(one, 0.2 * value(draws.normal, "brightness"))
        if draws.fires["contrast"][n]:
            then(one * 2 ** (0.5 * value(draws.normal, "contrast")))
        if draws.fires["luma_flip"][n] and value(draws.uniform, "luma_flip") < 0.5:
            then(one - 2 * along)
        if draws.fires["hue"][n]:
            angle = math.pi * (2 * value(draws.uniform, "hue") - 1)
            then(torch.linalg.matrix_exp(angle * product))
        if draws.fires["saturation"][n]:
            then(along + (one - along) * 2 ** value(draws.normal, "saturation"))
        expected = torch.einsum("ij,jhw->ihw", whole[:3, :3], images[n]) + whole[:3, 3, None, None]
        torch.testing.assert_close(result[n], expected, rtol=1e-6, atol=1e-6)


def test_grey_images_are_colored_as_equal_channels_are():
    images, draws = some_images(64, 1, 4, 4).double(), drawn(Ada(**ALL | {"p": 0.5}), 64)
    torch.testing.assert_close(recolored(images, draws), recolored(images.expand(-1, 3, -1, -1), draws)[:, :1])


def test_the_bands_add_up_and_part_the_frequencies():
    parts = bands(48, CPU, torch.float64)
    torch.testing.assert_close(parts.sum(0), torch.eye(48, dtype=torch.float64))
    constant, alternating = torch.ones(48, dtype=torch.float64), (-1.0) ** torch.arange(48, dtype=torch.float64)
    for wave, its in ((constant, 0), (alternating, 3)):
        for band, part in enumerate(parts):
            torch.testing.assert_close(part @ wave, wave * (band == its))
    # As one convolution with the filter of all octaves: that of a wavelet of 4 taps reaches 3 (1 + 2 + 4) pixels.
    low = torch.tensor([-1, 0, 9, 16, 9, 0, -1], dtype=torch.float64) / 32
    lowest = torch.zeros(49, dtype=torch.float64)
    lowest[24] = 1
    for spread in (1, 2, 4):
        wide = torch.zeros(6 * spread + 1, dtype=torch.float64)
        wide[::spread] = low
        lowest = F.conv1d(lowest[None, None], wide[None, None], padding=3 * spread)[0, 0]
    image = some_images(1, 1, 48).double()
    expected = F.conv1d(F.pad(image, (24, 24), mode="reflect"), lowest[None, None])[0, 0]
    torch.testing.assert_close(parts[0] @ image[0, 0], expected)


def test_the_filter():
    draws = drawn(Ada(**ALL))
    gains, power = band_gains(draws), torch.tensor(POWER, dtype=torch.float64)
    own = 2 ** torch.stack([draws.normal[name] for name in GROUPS["filter"]], -1)
    norms = (own.square() * power + 1 - power).sqrt()
    torch.testing.assert_close(gains, own / norms.prod(-1, keepdim=True))
    one = band_gains(drawn(only("band_2")))
    torch.testing.assert_close((one.square() * power).sum(-1), torch.ones(MANY, dtype=torch.float64))
    images = some_images(6, 2, 16, 24)
    result = only("band_1", "band_3")(images, seeded(), 0)
    gains = band_gains(drawn(only("band_1", "band_3"), 6)).float()
    rows, columns = bands(16, CPU, torch.float32), bands(24, CPU, torch.float32)
    for n in range(6):
        by_rows, by_columns = ((gains[n, :, None, None] * each).sum(0) for each in (rows, columns))
        torch.testing.assert_close(result[n], by_rows @ images[n] @ by_columns.mT)


def test_noise():
    images = torch.zeros(3000, 1, 8, 8)
    sds = only("noise")(images, seeded(), 0).flatten(1).std(1)
    torch.testing.assert_close(sds, 0.1 * drawn(only("noise"), 3000).normal["noise"].abs().float(), rtol=0.5, atol=1e-6)
    assert sds.mean().item() == pytest.approx(0.1 * math.sqrt(2 / math.pi), abs=0.004)


@pytest.mark.parametrize("size", [0.5, 0.2])
def test_cutout(size):
    images, ada = torch.ones(40, 2, 20, 10), only("cutout", cutout_size=size)
    result, uniform = ada(images, seeded(), 0), drawn(ada, 40).uniform
    for n in range(40):
        for i in range(20):
            for j in range(10):
                x, y = (j + 0.5) / 10 - float(uniform["cutout_x"][n]), (i + 0.5) / 20 - float(uniform["cutout_y"][n])
                is_cut = abs(x) < size / 2 and abs(y) < size / 2
                assert bool((result[n, :, i, j] == 0).all()) == is_cut


# --- the whole --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_derivatives(channels):
    images, ada = some_images(1, channels, 4, 3, dtype=torch.float64).requires_grad_(), Ada(**ALL)
    augment = lambda x: ada(x, seeded(4), 0)  # noqa: E731
    assert augment(images).dtype == torch.float64
    assert torch.autograd.gradcheck(augment, images)
    assert torch.autograd.gradgradcheck(lambda x: augment(x) ** 2, images, fast_mode=True)


def test_each_run_of_a_sweep_has_its_own_p():
    images = some_images(2, 6, 3, 8, 8)
    ada = Ada(**ALL)
    for p in (torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0]).reshape(2, 1, 1, 1, 1)):
        ada.p = p
        result = ada(images, seeded(), 0)
        assert result[0].equal(images[0])
        assert (result[1] != images[1]).flatten(1).any(1).all()
    ada.p = torch.tensor(0.0)
    assert ada(images, seeded(), 0).equal(images)


def test_it_keeps_the_type_and_autocast_leaves_it_alone():
    images = some_images(4, 3, 8, 8)
    ada = Ada(**ALL)
    assert ada(images.bfloat16(), seeded(), 0).dtype == torch.bfloat16
    leaf = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        result = ada(leaf, seeded(), 0)
        (gradient,) = torch.autograd.grad(result.square().sum(), leaf, create_graph=True)
    torch.testing.assert_close(result.detach(), ada(images, seeded(), 0), rtol=0, atol=0)
    leaf = images.clone().requires_grad_()
    (expected,) = torch.autograd.grad(ada(leaf, seeded(), 0).square().sum(), leaf)
    torch.testing.assert_close(gradient.detach(), expected)


def test_its_defaults_are_the_paper_s():
    node = yaml.safe_load((CONF / "augmentation" / "ada.yaml").read_text())
    assert [node[key] for key in ("p", "target", "interval", "images")] == [0, 0.6, 4, 500_000]
    assert [group for group in GROUPS if node[group] == 1] == ["blit", "geometric", "color"]
    assert [group for group in GROUPS if node[group] == 0] == ["filter", "noise", "cutout"]


# --- games ------------------------------------------------------------------------------------------------------------

QUICK = ["augmentation=ada", "augmentation.ada.images=40", "augmentation.ada.p=0.3", "augmentation.ada.interval=2"]


def test_p_follows_the_discriminator_and_a_resumed_run_goes_on_with_it():
    words = [*QUICK, "regularizer=r1", "augmentation.ada.cutout=1", "augmentation.ada.filter=0.5"]
    game, other = make_game(*words), make_game(*words)
    values = take_steps(game, 3)
    assert values["state/ada/p"] != pytest.approx(0.3)
    saved = save(game)
    restore(other, saved)
    assert other.augmentations[0].p.equal(game.augmentations[0].p)  # type: ignore[attr-defined]
    assert take_steps(game, 2, 3) == take_steps(other, 2, 3)
    assert save(game) == save(other)


def test_p_rises_where_the_discriminator_is_sure():
    game = make_game(*QUICK, "augmentation.ada.target=-1", "batch_size=8")
    assert take_steps(game, 2)["state/ada/p"] == pytest.approx(0.7)  # 16 of 40 images


def test_a_fixed_p_remembers_nothing():
    game = make_game(*QUICK, "augmentation.ada.target=null")
    assert "augmentations" not in game.state_dict()
    assert not any(tag.startswith("state/") for tag in take_steps(game, 2))


@pytest.mark.slow
def test_stacked_runs_have_each_its_own_p():
    words = [*QUICK, "loss=hinge", "optimizer.lr=0.02"]
    games = [make_game(*words, f"seed={seed}") for seed in (0, 1)]
    alone = [take_steps(make_game(*words, f"seed={seed}"), 5)["state/ada/p"] for seed in (0, 1)]
    together = [values["state/ada/p"] for values in take_steps_together(games, 5)]
    assert together == pytest.approx(alone)
    assert [float(game.augmentations[0].p) for game in games] == pytest.approx(alone)  # type: ignore[attr-defined]


@pytest.mark.slow
def test_it_waits_for_nothing_with_all_groups_on():
    on = [f"augmentation.ada.{group}=1" for group in GROUPS]
    step_on_meta(compose("model=mlp", "loss=bce", "regularizer=r1", "batch_size=4", *QUICK, *on))


def test_points_are_refused():
    with pytest.raises(ConfigError, match="augmentation=ada needs images"):
        build(compose("dataset=ring", "model=mlp", "augmentation=ada"), [])
