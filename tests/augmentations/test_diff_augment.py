"""DiffAugment against loops over samples with the same draws, and its derivatives."""

import math
from functools import partial
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from gan_runner.augmentations import InputNoise, diffaugment
from gan_runner.augmentations.draws import Randomness
from gan_runner.augmentations.scheduled import Scheduled
from gan_runner.config.errors import ConfigError
from gan_runner.games.adversarial import Adversarial
from gan_runner.schedules import linear
from gan_runner.torch_utils.randomness import fixed_randomness
from gan_runner.training.build import build
from tests.helpers import CONF, TINY, TINY_MODEL, compose, naming
from tests.helpers.games import POINTS, make_game
from tests.helpers.penalties import some
from tests.helpers.stacked import default_dtype, largest_difference

OFF: dict[str, Any] = {"color": False, "translation": 0.0, "cutout": 0.0}
ALL: dict[str, Any] = {"color": True, "translation": 0.125, "cutout": 0.5}


class Seeded:
    """Draws from a seed, and remembers them."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)
        self.drawn: list[Tensor] = []

    def uniform(self, *shape: int) -> Tensor:
        self.drawn.append(torch.rand(shape, generator=self.generator))
        return self.drawn[-1]

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)


class Given(Seeded):
    """Draws that the test gives: numbers for all samples, or tensors with one number per sample."""

    def __init__(self, *draws: float | Tensor):
        self.draws = list(draws)

    def uniform(self, *shape: int) -> Tensor:
        draw = torch.as_tensor(self.draws.pop(0), dtype=torch.float32)
        return draw.reshape(shape) if draw.ndim else draw.expand(shape)


def some_images(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5), dtype=dtype) * 2 - 1


def test_color_is_the_paper_s_formula():
    images, randomness = some_images(6, 3, 5, 4), Seeded(0)
    result = diffaugment(images, randomness, **OFF | {"color": True})
    brightness, saturation, contrast = (draw.flatten().tolist() for draw in randomness.drawn)
    for n, image in enumerate(images):
        expected = image + (brightness[n] - 0.5)
        for i in range(5):
            for j in range(4):
                grey = expected[:, i, j].mean()
                expected[:, i, j] = (expected[:, i, j] - grey) * (2 * saturation[n]) + grey
        expected = (expected - expected.mean()) * (contrast[n] + 0.5) + expected.mean()
        torch.testing.assert_close(result[n], expected)


@pytest.mark.parametrize(
    ("draws", "expected"),
    [
        ((0.0, 0.5, 0.5), lambda x: x - 0.5),
        ((0.5, 0.0, 0.5), lambda x: x.mean(1, keepdim=True).expand_as(x)),
        ((0.5, 0.5, 0.0), lambda x: (x + x.mean((1, 2, 3), keepdim=True)) / 2),
        ((0.5, 0.5, 0.5), lambda x: x),
    ],
    ids=["darkest", "grey", "least contrast", "neutral"],
)
def test_color_at_known_draws(draws, expected):
    images = some_images(2, 3, 4, 4)
    result = diffaugment(images, Given(*draws), **OFF | {"color": True})
    torch.testing.assert_close(result, expected(images))


def test_saturation_leaves_grey_images():
    images = some_images(2, 1, 4, 4)
    result = diffaugment(images, Given(0.5, 0.9, 0.5), **OFF | {"color": True})
    torch.testing.assert_close(result, images)


def test_translation_moves_a_pixel_and_pads_with_zeros():
    images = torch.ones(1, 1, 8, 16)
    images[0, 0, 3, 5] = 7
    # Shifts of -1, 0, 1 rows and -2 ... 2 columns: the last of 3 is one row down, the first of 5 two columns left.
    result = diffaugment(images, Given(0.99, 0.0), **OFF | {"translation": 0.125})
    expected = torch.ones(1, 1, 8, 16)
    expected[..., 0, :] = expected[..., -2:] = 0
    expected[0, 0, 4, 3] = 7
    assert result.equal(expected)


def test_translation_against_a_loop():
    images, randomness = some_images(32, 2, 16, 12), Seeded(1)
    result = diffaugment(images, randomness, **OFF | {"translation": 0.25})
    down, right = (draw.flatten().tolist() for draw in randomness.drawn)
    expected = torch.zeros_like(images)
    for n in range(len(images)):
        di, dj = math.floor(down[n] * 9) - 4, math.floor(right[n] * 7) - 3
        for i in range(16):
            for j in range(12):
                if 0 <= i + di < 16 and 0 <= j + dj < 12:
                    expected[n, :, i + di, j + dj] = images[n, :, i, j]
    assert result.equal(expected)


@pytest.mark.parametrize(("size", "fraction", "cut"), [(16, 0.5, 8), (10, 0.5, 5), (7, 0.5, 4), (8, 1.0, 8)])
def test_cutout_against_a_loop(size, fraction, cut):
    images, randomness = some_images(64, 2, size, size).abs() + 0.1, Seeded(2)
    result = diffaugment(images, randomness, **OFF | {"cutout": fraction})
    rows, columns = (draw.flatten().tolist() for draw in randomness.drawn)
    centres = size + (1 - cut % 2)
    expected = images.clone()
    for n in range(len(images)):
        ci, cj = math.floor(rows[n] * centres), math.floor(columns[n] * centres)
        for i in range(ci - cut // 2, ci - cut // 2 + cut):
            for j in range(cj - cut // 2, cj - cut // 2 + cut):
                if 0 <= i < size and 0 <= j < size:
                    expected[n, :, i, j] = 0
    assert result.equal(expected)


@pytest.mark.parametrize(("draw", "area"), [(0.5, 16), (0.0, 4), (0.999, 4)], ids=["centre", "corner", "far corner"])
def test_cutout_area(draw, area):
    result = diffaugment(torch.ones(3, 1, 8, 8), Given(draw, draw), **OFF | {"cutout": 0.5})
    assert (result == 0).sum((1, 2, 3)).tolist() == [area] * 3


def test_all_off_is_the_identity_and_draws_nothing():
    images, randomness = some_images(2, 3, 8, 8), Seeded(0)
    assert diffaugment(images, randomness, **OFF).equal(images)
    assert not randomness.drawn


def test_depends_on_the_draws_alone_and_leaves_its_input():
    images = some_images(4, 3, 8, 8)
    before = images.clone()
    one, same, other = (diffaugment(images, Seeded(seed), **ALL) for seed in (0, 0, 1))
    assert one.equal(same)
    assert not one.equal(other)
    assert images.equal(before)


def test_each_sample_has_its_own_draws():
    image = some_images(1, 3, 16, 16)
    for key in OFF:
        result = diffaugment(image.expand(8, -1, -1, -1), Seeded(0), **OFF | {key: ALL[key]})
        assert len({sample.numpy().tobytes() for sample in result}) > 4, key


@pytest.mark.parametrize("leading", [(3,), (2, 3)], ids=str)
def test_leading_axes_equal_the_loop(leading):
    images, randomness = some_images(*leading, 5, 3, 8, 16), Seeded(0)
    result = diffaugment(images, randomness, **ALL)
    assert result.shape == images.shape
    draws = [draw.reshape(-1, 5) for draw in randomness.drawn]
    for run, (one, expected) in enumerate(zip(images.flatten(0, -5), result.flatten(0, -5), strict=True)):
        torch.testing.assert_close(diffaugment(one, randomness=Given(*(draw[run] for draw in draws)), **ALL), expected)


def test_gradcheck():
    images = some_images(2, 2, 4, 5, dtype=torch.float64).requires_grad_()
    keys = ALL | {"translation": 0.25}
    augment = lambda x: diffaugment(x, Seeded(3), **keys)  # noqa: E731
    assert augment(images).dtype == torch.float64
    assert torch.autograd.gradcheck(augment, images)
    assert torch.autograd.gradgradcheck(lambda x: augment(x) ** 2, images)


def test_gradient_penalty_through_it():
    images = some_images(4, 3, 8, 8).requires_grad_()
    weight = some_images(3, 8, 8).requires_grad_()
    logits = (diffaugment(images, Seeded(0), **ALL).tanh() * weight).sum((1, 2, 3))
    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    slope.square().sum().backward()
    for tensor in (images, weight):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0


def test_no_host_sync():
    class Fake(Seeded):
        def uniform(self, *shape: int) -> Tensor:
            return torch.rand(shape)

    with FakeTensorMode():
        images = torch.empty(4, 3, 8, 8, requires_grad=True)
        diffaugment(images, randomness=Fake(0), **ALL).sum().backward()


def test_p_is_the_share_of_samples_that_are_augmented():
    images, randomness = some_images(2000, 3, 4, 4), Seeded(0)
    result = diffaugment(images, randomness, **ALL, p=0.3)
    is_changed = (result != images).flatten(1).any(1)
    assert is_changed.double().mean().item() == pytest.approx(0.3, abs=0.04)
    expected = diffaugment(images, Given(*randomness.drawn[:-1]), **ALL)
    assert result[is_changed].equal(expected[is_changed])
    assert diffaugment(images, Seeded(0), **ALL, p=0.0).equal(images)
    assert diffaugment(images, Seeded(0), **ALL, p=1).equal(expected)
    p: Any = torch.tensor([0.0, 1.0])[:, None, None, None, None]
    of_runs = diffaugment(images.expand(2, -1, -1, -1, -1), Seeded(0), **ALL, p=p)
    assert [bool((its == images).all()) for its in of_runs] == [True, False]


def test_keeps_the_type_of_the_images():
    assert diffaugment(some_images(2, 3, 8, 8).bfloat16(), Seeded(0), **ALL).dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(8, 2), (3, 8, 2)], ids=str)
def test_points_raise(shape):
    with pytest.raises(ValueError, match="augmentation=diffaugment needs images"):
        diffaugment(torch.zeros(shape), Seeded(0), **ALL)


def test_its_defaults_are_the_paper_s():
    node = yaml.safe_load((CONF / "augmentation" / "diffaugment.yaml").read_text())
    assert {key: node[key] for key in ALL} == ALL


# --- input noise ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(400, 2), (40, 3, 8, 8), (3, 200, 2)], ids=str)
def test_input_noise(shape):
    samples = some(*shape).float()
    noise = InputNoise(sd=0.3, schedule=None)
    difference = noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), 5) - samples
    assert difference.std().item() == pytest.approx(0.3, rel=0.1)
    assert difference.mean().abs() < 0.05
    assert len(set(difference.flatten(0, -2)[:, 0].tolist())) > 10  # each sample has its own
    again = noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), 9)
    assert again.equal(samples + difference) or torch.allclose(again, samples + difference)


def test_input_noise_fades_with_its_schedule():
    samples = some(100, 3).float()
    noise = InputNoise(sd=0.5, schedule=partial(linear, steps=10, warmup=0, end=0.0))
    sizes = [
        (noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), step) - samples).norm() for step in range(11)
    ]
    for step in range(11):
        torch.testing.assert_close(sizes[step], sizes[0] * (1 - step / 10), rtol=1e-4, atol=1e-4)
    assert noise(samples, fixed_randomness(0, "noise", torch.device("cpu")), 10).equal(samples)
    low = noise(samples.bfloat16(), fixed_randomness(0, "noise", torch.device("cpu")), 0)
    assert low.dtype == torch.bfloat16


def seen_at(game: Adversarial, step: int) -> tuple[Tensor, Tensor]:
    """The real batch of a step, and what the discriminator was shown of it first."""
    shown: list[Tensor] = []
    network = game.discriminator.network
    handle = network.register_forward_pre_hook(lambda _, inputs: shown.append(inputs[0].detach()))
    game.step(step)
    handle.remove()
    real, _ = game.batch(step)
    shown = [samples[: len(real)] for samples in shown]  # generated ones may be in the same batch
    return real, next(samples for samples in shown if (samples - real).norm() <= 0.5 * real.norm())


@pytest.mark.parametrize("data", [["dataset=digits", "dataset.held_out=0.05"], ["dataset=ring"]], ids=str)
def test_input_noise_fades_in_a_game(data: list[str]):
    words = [*POINTS, *data, "augmentation=input_noise", "augmentation.input_noise.sd=0.2", "steps=4"]
    game = build(compose(*words, "lr_schedule@augmentation.input_noise.schedule=linear"), [])[0]
    assert isinstance(game, Adversarial)
    for step in range(6):
        real, shown = seen_at(game, step)
        assert (shown - real).std().item() == pytest.approx(0.2 * max(1 - step / 4, 0), rel=0.5)
        assert shown.equal(real) == (step >= 4)
    constant = build(compose(*words), [])[0]
    assert isinstance(constant, Adversarial)
    real, shown = seen_at(constant, 5)
    assert (shown - real).std().item() == pytest.approx(0.2, rel=0.5)


def test_input_noise_s_schedule_ends_with_a_run_counted_in_epochs():
    words = [*TINY, "model=mlp", *TINY_MODEL, "loss=hinge", "discriminator_steps=1", "steps=null", "epochs=1"]
    built = build(
        compose(*words, "augmentation=[input_noise]", "lr_schedule@augmentation.input_noise.schedule=linear"), []
    )
    game, steps = built[0], built[2]
    assert isinstance(game, Adversarial)
    (noise,) = game.augmentations
    samples = torch.zeros(2, 1, 8, 8)
    assert not noise(samples, game.randomness, steps - 1).equal(samples)
    assert noise(samples, game.randomness, steps).equal(samples)


def test_functions_and_classes_of_augmentations_go_together():
    game = make_game("augmentation=[diffaugment,input_noise]", "regularizer=r1")
    for step in range(2):
        game.step(step)
    samples = some(4, 1, 8, 8).float()
    game.randomness.start_step(3)
    result = game.augment(samples, 3)
    game.randomness.start_step(3)
    node = yaml.safe_load((CONF / "augmentation" / "diffaugment.yaml").read_text())
    expected = diffaugment(samples, game.randomness, **{key: node[key] for key in ("color", "translation", "cutout")})
    torch.testing.assert_close(result, expected + 0.1 * game.randomness.normal(4, 1, 8, 8))


# --- numbers of augmentations on a schedule


def blend(samples: Tensor, randomness: Randomness, *, share: float | Tensor) -> Tensor:
    """One of a user's, with a number that may be a tensor for the runs."""
    return samples * (1 - share) + share * randomness.uniform(*samples.shape)


class Shrink:
    """The same as an object."""

    capturable = True

    def __init__(self, *, by: float):
        self.by = by

    def __call__(self, samples: Tensor, randomness: Randomness, step: int) -> Tensor:
        return samples * self.by


@pytest.mark.parametrize("kind", [partial(blend, share=0.5), Shrink(by=0.5)], ids=["function", "object"])
def test_a_number_on_a_schedule(kind: Any) -> None:
    key = "share" if isinstance(kind, partial) else "by"
    augment = Scheduled(kind, key, 0.5, lambda step: 1 - step / 4)
    samples, randomness = some(3, 1, 4, 4).float(), fixed_randomness(0, "noise", torch.device("cpu"))
    uniform = fixed_randomness(0, "noise", torch.device("cpu")).uniform(3, 1, 4, 4)
    number = 0.5 * (1 - 3 / 4)
    expected = samples * (1 - number) + number * uniform if key == "share" else samples * number
    torch.testing.assert_close(augment(samples, randomness, 3), expected)
    assert augment.capturable
    runs = torch.stack([samples, samples])
    augment.schedule = lambda step: torch.tensor([0.0, 2.0])  # of two runs
    shown = augment(runs, fixed_randomness(0, "noise", torch.device("cpu")), 0)
    assert shown[0].equal(samples if key == "share" else torch.zeros_like(samples))
    assert not shown[1].equal(samples) or key == "by"


def test_a_schedule_beside_a_number_of_the_config() -> None:
    slot = "lr_schedule@augmentation.diffaugment.cutout_schedule"
    words = ["augmentation=diffaugment", "augmentation.diffaugment.color=false", f"+{slot}=linear", "steps=4"]
    game = make_game(*words, "augmentation.diffaugment.translation=0", "augmentation.diffaugment.cutout=1")
    ones = torch.ones(64, 1, 8, 8)
    shares = []
    for step in (0, 2, 4):
        game.randomness.start_step(step)
        shares.append(float((game.augment(ones, step) == 0).float().mean()))
    assert shares[0] > shares[1] > shares[2] == 0
    game.step(0)
    with pytest.raises(ConfigError, match=naming("augmentation.diffaugment.color_schedule", "no number")):
        make_game("augmentation=diffaugment", "+lr_schedule@augmentation.diffaugment.color_schedule=linear")
    with pytest.raises(ConfigError, match=naming("translation", "cutout", "only one")):
        make_game(*words, "+lr_schedule@augmentation.diffaugment.translation_schedule=linear")


def test_stacked_runs_whose_p_differs_are_those_alone() -> None:
    """One keeps p at 1, where nothing would have to be drawn; both draw the same."""
    words = ["augmentation.diffaugment.p=1", "lr_schedule@augmentation.diffaugment.p_schedule=linear", "steps=4"]
    configs = [
        compose(*TINY, *TINY_MODEL, "model=mlp", "loss=hinge", "augmentation=diffaugment", *words,
                f"augmentation.diffaugment.p_schedule.end={end}")
        for end in (1.0, 0.5)
    ]  # fmt: skip
    with default_dtype(torch.float64):
        error, where = largest_difference(configs, steps=3)
    assert error < 1e-8, where
