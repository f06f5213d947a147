"""The adversarial game: who is asked what, whose weights move, and what the numbers depend on."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gan_runner.config.errors import ConfigError
from gan_runner.games.adversarial import Adversarial
from gan_runner.games.stacked_game import why_not_stackable
from gan_runner.games.view import AdversarialView
from gan_runner.losses import Hinge
from gan_runner.training.build import build
from tests.helpers import TINY, TINY_MODEL, compose
from tests.helpers.games import POINTS, build_game, counted, floats, make_game, take_steps
from tests.helpers.meta import meta_device, step_without_host
from tests.helpers.runs import differences


def snapshot(game: Adversarial) -> dict[str, Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, player in game.players.items()
        for key, value in player.network.state_dict().items()
    }


@pytest.mark.parametrize(
    ("overrides", "discriminator_calls", "generator_calls"),
    [
        (["loss=hinge"], 1, 1),  # real and fake in one pass; then the fake alone
        (["loss=relativistic"], 1, 2),  # the generator compares with real logits
        (["loss=wgan_gp"], 2, 1),  # and the point between
        (["loss=hinge", "regularizer=[r1,r2]"], 2, 1),  # at samples whose logits the loss has computed already
        (["loss=hinge", "regularizer=dragan"], 2, 1),
        (["loss=hinge", "regularizer=l1"], 1, 1),
    ],
)
def test_a_turn_pays_only_for_what_its_terms_look_at(
    overrides: list[str], discriminator_calls: int, generator_calls: int
) -> None:
    game = make_game(*overrides, "discriminator_steps=3")
    with counted(game.discriminator.network) as asked, counted(game.generator.network) as generated:
        game.step(0)
    assert asked == [True] * 3 * discriminator_calls + [False] * generator_calls
    assert len(generated) == 4


@pytest.mark.parametrize("words", [["loss=hinge"], ["loss=wgan_gp"], ["loss=relativistic", "conditional=true"]])
def test_one_pass_for_real_and_generated_samples_is_what_two_are(words: list[str]) -> None:
    joined, apart = make_game(*words), make_game(*words)
    assert joined.is_joined
    apart.is_joined = False
    for game in (joined, apart):
        for player in game.players.values():
            player.lr_schedule = lambda step: 0.0  # Adam's first step is the sign of a gradient that may be rounding
    assert take_steps(joined) == pytest.approx(take_steps(apart), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        ["loss=bce", "model.discriminator.normalization=batch"],
        ["loss=hinge", "regularizer=r1"],
        ["loss=hinge", "regularizer=adversarial_perturbation"],
    ],
)
def test_where_real_and_generated_samples_go_apart(words: list[str]) -> None:
    assert not make_game(*words).is_joined


def test_a_turn_draws_one_batch_of_the_discriminator_and_none_of_the_generator() -> None:
    game = make_game("discriminator_steps=3")
    drawn = []
    original = game.data.batch
    game.data.batch = lambda index, *rest: drawn.append(index) or original(index, *rest)  # type: ignore[method-assign,func-returns-value]
    game.step(0)
    game.step(1)
    assert drawn == [0, 1, 2, 3, 4, 5]


def seeing(views: list[AdversarialView], objective: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def look(view: AdversarialView, *rest: int) -> Tensor:
        views.append(view)
        return objective(view, *rest)

    return look


def seen_by(game: Adversarial) -> list[tuple[str, tuple[int, ...], tuple[int, ...], Tensor]]:
    """Of each turn of a step: the player, the shapes of its fakes and of its labels, and its real samples."""
    found = []
    original = game.view

    def spy(learner, real, fake, labels, **others):
        assert original(learner, real, fake, labels, **others).batch_shape == fake.shape[:1]
        found.append((learner.name, tuple(fake.shape), tuple(labels.shape), real.detach()))
        return original(learner, real, fake, labels, **others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(game, "view", spy)
        game.step(0)
    return found


@pytest.mark.parametrize(
    ("size", "updates", "read"),
    [(5, 2, 8), (8, 2, 8), (13, 2, 8), (16, 2, 8), (19, 2, 10), (16, 1, 16), (3, 1, 8)],
)
def test_the_generators_turn_has_a_size_of_its_own(size: int, updates: int, read: int) -> None:
    """Its real samples are the last of those that the step reads, in batches of one size that follow on each other."""
    words = ["conditional=true", "loss=relativistic", f"discriminator_steps={updates}"]
    game, asked = make_game(*words, f"generator_batch_size={size}"), []
    original = game.data.batch
    game.data.batch = lambda *request: asked.append(request) or original(*request)  # type: ignore[method-assign,func-returns-value]
    *of_discriminator, of_generator = seen_by(game)
    assert asked == [(index, read, 0, slice(None)) for index in range(updates)]
    batches = [original(index, read, 0)[0] for index in range(updates)]
    for (name, fakes, labels, real), batch in zip(of_discriminator, batches, strict=True):
        assert (name, fakes, labels) == ("discriminator", (8, 1, 8, 8), (8,))
        assert torch.equal(real, batch[:8])
    name, fakes, labels, real = of_generator
    assert (name, fakes, labels) == ("generator", (size, 1, 8, 8), (size,))
    assert torch.equal(real, torch.cat(batches)[-size:])
    assert game.images_per_step == 8 * updates


def test_a_generators_batch_of_the_discriminators_size_changes_nothing() -> None:
    words = ["loss=relativistic", "conditional=true", "discriminator_steps=2"]
    assert take_steps(make_game(*words), 2) == take_steps(make_game(*words, "generator_batch_size=8"), 2)


def test_a_generators_batch_from_an_endless_dataset_and_one_too_large() -> None:
    game = build_game(compose(*POINTS, "generator_batch_size=64"))
    assert math.isfinite(take_steps(game)["loss/generator"])
    with pytest.raises(ConfigError, match="generator_batch_size=2000: the dataset has only 1707 samples"):
        make_game("generator_batch_size=2000")


def test_the_discriminators_fakes_carry_no_graph_and_the_generators_turn_leaves_it_no_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    game = make_game("loss=relativistic", "regularizer=[r1,r2]")
    views: list[AdversarialView] = []
    for _, player in game.players.items():
        monkeypatch.setattr(player, "objective", seeing(views, player.objective))
    game.step(0)
    assert views[0].fake.is_leaf
    assert not views[1].fake.is_leaf
    gradients = [parameter.grad for parameter in game.discriminator.network.parameters()]
    kept = [None if gradient is None else gradient.clone() for gradient in gradients]
    real, labels = game.data.batch(1, 8, 0)
    before = snapshot(game)
    game.generator_turn(real, labels, 1)
    for parameter, gradient in zip(game.discriminator.network.parameters(), kept, strict=True):
        assert parameter.grad is not None
        assert gradient is not None
        assert parameter.grad.equal(gradient)
        assert parameter.requires_grad
    after = snapshot(game)
    changed = {key for key, value in after.items() if not value.equal(before[key])}
    assert changed
    assert all(key.startswith("generator.") for key in changed)


def test_a_discriminators_turn_leaves_the_generator_alone() -> None:
    game = make_game()
    before = snapshot(game)
    real, labels = game.data.batch(0, 8, 0)
    game.discriminator_turn(real, labels, 0, 0)
    changed = {key for key, value in snapshot(game).items() if not value.equal(before[key])}
    assert changed
    assert all(key.startswith("discriminator.") for key in changed)


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    finals = []
    for seed in (0, 0, 1):
        game = make_game(
            f"seed={seed}", "loss=wgan_gp", "model.generator.dropout=0.2", "model.discriminator.dropout=0.2"
        )
        torch.rand(seed + 1)  # what else draws from the default generator does not matter
        for step in range(3):
            game.step(step)
            torch.rand(1)
        finals.append(snapshot(game))
    assert all(value.equal(finals[1][key]) for key, value in finals[0].items())
    assert not all(value.equal(finals[2][key]) for key, value in finals[0].items())


def test_steps_depend_on_their_number_and_the_state_alone() -> None:
    straight = make_game(
        "loss=wgan_gp",
        "regularizer=lecam",
        "regularizer.lecam.start=0",
        "model.discriminator.dropout=0.2",
        "optimizer=adam",
    )
    for step in range(4):
        straight.step(step)
    resumed = make_game(
        "loss=wgan_gp",
        "regularizer=lecam",
        "regularizer.lecam.start=0",
        "model.discriminator.dropout=0.2",
        "optimizer=adam",
    )
    for step in range(2):
        resumed.step(step)
    state = copy.deepcopy(resumed.state_dict())
    fresh = make_game(
        "loss=wgan_gp",
        "regularizer=lecam",
        "regularizer.lecam.start=0",
        "model.discriminator.dropout=0.2",
        "optimizer=adam",
    )
    fresh.load_state_dict(state)
    for step in (2, 3):
        fresh.step(step)
    expected, found = snapshot(straight), snapshot(fresh)
    assert all(value.equal(found[key]) for key, value in expected.items())
    assert take_steps(straight, start=4) == take_steps(fresh, start=4)


def test_looking_changes_nothing() -> None:
    looked, left = (
        make_game("model=dcgan", "regularizer=spectral_norm", "model.generator.normalization=batch") for _ in "ab"
    )
    latents = looked.draw_latents(looked.randomness, 4)
    for step in range(3):
        looked.step(step, is_logged=True)
        left.step(step)
        looked.held_out_values()
        looked.sample(latents, None)
    expected, found = snapshot(left), snapshot(looked)
    assert all(value.equal(found[key]) for key, value in expected.items())


@pytest.mark.parametrize("words", [["conditional=true"], ["model.discriminator.pack=2"]], ids="".join)
def test_large_images_are_looked_at_a_few_at_once(monkeypatch, words: list[str]) -> None:
    game = make_game("model=dcgan", "batch_size=4", *words)
    latents, labels = game.draw_latents(game.randomness, 9), torch.arange(9)
    samples, of_held_out = game.sample(latents, labels, game.sampler), game.held_out_values()
    sizes: dict[str, list[int]] = {"generator": [], "discriminator": []}
    game.generator.network.register_forward_hook(lambda *call: sizes["generator"].append(len(call[2])))
    game.discriminator.network.register_forward_hook(lambda *call: sizes["discriminator"].append(len(call[1][0])))
    monkeypatch.setattr("gan_runner.games.game.PIXELS_AT_ONCE", 5 * 8 * 8)
    torch.testing.assert_close(game.sample(latents, labels, game.sampler), samples)
    torch.testing.assert_close(game.held_out_values(), of_held_out)
    assert sizes["generator"] == [5, 4]
    assert sum(sizes["discriminator"]) > 3 * max(sizes["discriminator"])
    assert max(sizes["discriminator"]) == (4 if game.pack == 2 else 5)


@pytest.mark.slow  # every option by itself stands in the conformance suite
@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet"])
@pytest.mark.parametrize(
    "overrides",
    [
        [
            "loss=wgan_gp",
            "regularizer=[r1,r2,dragan,lecam,l1,gradient_clip]",
            "regularizer.lecam.start=0",
            "model.generator.dropout=0.1",
        ],
        [
            "loss=relativistic_average",
            "regularizer=[orthogonal,spectral_norm,weight_clip]",
            "regularizer.orthogonal.on=[generator,discriminator]",
            "augmentation=diffaugment",
            "dataset.flip=true",
        ],
    ],
)
def test_a_step_needs_nothing_of_the_host(model: str, overrides: list[str]) -> None:
    depth = ["model.generator.depth=1", "model.discriminator.depth=1"] if model == "resnet" else []
    with meta_device():
        step_without_host(make_game(f"model={model}", *TINY_MODEL, *depth, *overrides))


WEIGHTS = torch.tensor([1.0, 2.0] * 4)  # of a batch, on the host

NEEDS_THE_HOST: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a value that is read": (lambda logits: logits * logits.mean().item(), "item"),
    "a condition": (lambda logits: logits if logits.mean() > 0 else -logits, "item"),
    "a tensor of the host": (lambda logits: logits * WEIGHTS, "mixes|not on the expected device"),
    "one without axes": (lambda logits: logits * WEIGHTS[0], "mixes"),
    "one that is moved": (lambda logits: logits * WEIGHTS.to(logits.device), "mixes"),
    "one that is copied": (lambda logits: torch.empty_like(logits).copy_(WEIGHTS) + logits, "mixes"),
    "one that is written": (lambda logits: logits * torch.tensor(2.0, device=logits.device), "copies numbers"),
    "an index of the host": (lambda logits: logits[torch.arange(8)], "mixes"),
    "a list for an index": (lambda logits: logits[[7, 6, 5, 4, 3, 2, 1, 0]], "copies numbers"),
    "a mask": (lambda logits: logits[logits > 0].sum() + logits, "waits for the device"),
    "noise of the host": (lambda logits: logits + torch.randn(8), "mixes|not on the expected device"),
    "a decomposition": (lambda logits: logits * torch.linalg.cholesky(logits.diag()).sum(), "waits for the device"),
}


@pytest.mark.parametrize("name", NEEDS_THE_HOST)
def test_a_loss_that_needs_the_host_is_caught(name: str) -> None:
    change, message = NEEDS_THE_HOST[name]

    class Changed(Hinge):
        def discriminator(self, view: AdversarialView) -> Tensor:  # type: ignore[override]
            return super().discriminator(view) + change(view.real_logits)

    with meta_device():
        game = make_game()
        game.discriminator.terms["loss"].fn = Changed().discriminator
        with pytest.raises((AssertionError, RuntimeError), match=message):
            step_without_host(game)


def test_lazy_terms_count_the_updates_of_their_player() -> None:
    game = make_game("regularizer=r1", "regularizer.r1.every=2", "discriminator_steps=3")
    seen = []
    term = game.discriminator.terms["r1"]
    term.register_forward_hook(lambda *_: seen.append(1))
    game.step(0)
    game.step(1)
    assert len(seen) == 3  # of updates 0 to 5


def test_a_term_that_has_not_started_does_nothing_and_remembers_nothing() -> None:
    """The running means of LeCam begin with the first batch that it sees."""
    words = ["regularizer=lecam", "discriminator_steps=2"]
    game, without = make_game(*words, "regularizer.lecam.start=5"), make_game("discriminator_steps=2")
    for step in range(2):
        found, expected = take_steps(game, 1, step), take_steps(without, 1, step)
        assert {tag: value for tag, value in found.items() if "lecam" not in tag} == expected
        assert {found[f"{tag}/lecam{key}"] for tag, key in LECAM} == {0.0}
    values = take_steps(game, 1, 2)  # whose second update is number 5
    assert values["state/lecam/updates"] == 1
    assert values["state/lecam/real_mean"] == pytest.approx(values["logits/real"], abs=1e-6)
    assert values["state/lecam/fake_mean"] == pytest.approx(values["logits/fake"], abs=1e-6)
    assert values["penalty/lecam"] > 0


LECAM = [("penalty", ""), ("state", "/real_mean"), ("state", "/fake_mean"), ("state", "/updates")]


@pytest.mark.parametrize(
    ("loss", "is_told"), [("wasserstein", True), ("wgan_gp", True), ("hinge", False), ("bce", False), ("lsgan", False)]
)
def test_lecam_under_a_loss_without_a_bound_is_noted(loss: str, is_told: bool) -> None:
    built = build(compose(*TINY, "model=mlp", *TINY_MODEL, f"loss={loss}", "regularizer=lecam"), [])
    notes = [note for note in built.notes if "as suits" not in note]
    assert [note for note in notes if "regularizer.lecam" in note and "bound" in note] == notes
    assert bool(notes) == is_told


@pytest.mark.parametrize(
    ("words", "is_told"),
    [
        (["loss=wasserstein"], True),
        (["loss=wasserstein", "regularizer=l1", "regularizer.l1.on=[generator]"], True),
        (["loss=wasserstein", "regularizer=spectral_norm"], False),
        (["loss=wgan"], False),
        (["loss=hinge"], False),
    ],
)
def test_a_critic_that_nothing_holds_is_noted(words: list[str], is_told: bool) -> None:
    notes = build(compose(*TINY, "model=mlp", *TINY_MODEL, *words), []).notes
    assert ["Lipschitz" in note for note in notes if "as suits" not in note] == [True] * is_told


def test_a_term_on_both_players_has_a_tag_for_each() -> None:
    game = make_game("regularizer=l1", "regularizer.l1.on=[generator,discriminator]")
    tags = take_steps(game)
    for name, player in game.players.items():
        weights = sum(p.abs().sum() for key, p in player.network.named_parameters() if key.endswith("weight"))
        assert f"penalty/l1/{name}" in tags
        assert weights > 0
    game = make_game("regularizer=l1")
    assert "penalty/l1" in take_steps(game)


def test_bf16_keeps_the_weights_and_the_logits_in_float32() -> None:
    logits = []
    for precision in ("bf16", "fp32"):
        views: list[AdversarialView] = []
        game = make_game(f"precision={precision}", "loss=wgan_gp", "model=dcgan")
        game.discriminator.objective = seeing(views, game.discriminator.objective)  # type: ignore[method-assign]
        for step in range(2):
            game.step(step)
        assert all(value.dtype == torch.float32 for value in snapshot(game).values() if value.is_floating_point())
        logits.append(views[-1].real_logits.detach())
    assert logits[0].dtype == torch.float32
    assert 0 < (logits[0] - logits[1]).abs().max() < 0.05 * logits[1].abs().max() + 0.01


def test_only_a_step_that_is_logged_says_what_it_did() -> None:
    game = make_game(
        "loss=wgan_gp", "regularizer=[lecam,gradient_clip]", "regularizer.lecam.start=0", "discriminator_steps=2"
    )
    assert game.step(0) == {}
    values = game.step(1, is_logged=True)
    assert {tag for tag in values if "lecam" not in tag} == {
        "loss/generator", "loss/discriminator", "penalty/gradient_penalty", "weight/gradient_penalty",
        "gradient_norm/generator", "gradient_norm/discriminator", "learning_rate/generator",
        "learning_rate/discriminator", "logits/real", "logits/fake", "accuracy/real", "accuracy/fake",
    }  # fmt: skip
    assert all(value.shape == () and not value.requires_grad for value in values.values())


def test_a_term_that_is_not_due_shows_its_last_value() -> None:
    game = make_game("regularizer=r1", "regularizer.r1.every=3")
    first = take_steps(game)["penalty/r1"]
    assert first > 0
    assert take_steps(game, start=1)["penalty/r1"] == first
    assert take_steps(game, count=2, start=2)["penalty/r1"] != first


def test_the_norm_that_is_logged_is_that_before_clipping() -> None:
    words = ["loss=hinge", "regularizer=gradient_clip", "regularizer.gradient_clip.norm=1e-3"]
    clipped, free = take_steps(make_game(*words)), take_steps(make_game("loss=hinge"))
    assert clipped["gradient_norm/discriminator"] == free["gradient_norm/discriminator"] > 1e-2


def test_batch_statistics_under_a_penalty_on_each_sample_are_refused() -> None:
    for regularizer in ("gradient_penalty", "r1", "dragan", "zero_centered_gradient_penalty"):
        with pytest.raises(ConfigError, match=rf"normalization=batch: .*regularizer.{regularizer}"):
            make_game("model.discriminator.normalization=batch", f"regularizer={regularizer}")
    make_game("model.discriminator.normalization=batch", "regularizer=[l1,lecam]", "regularizer.lecam.start=0").step(0)
    make_game("model.discriminator.normalization=layer", "regularizer=r1").step(0)


def test_the_generators_average_is_what_samples_are_drawn_from() -> None:
    game = make_game("ema_half_life=1e9", "ema_ramp=null", "ema_statistics=0", "model.generator.normalization=none")
    start = {key: value.clone() for key, value in game.generator.network.state_dict().items()}
    latents = game.draw_latents(game.randomness, 4)
    before = game.sample(latents, None)
    for step in range(3):
        game.step(step)
    torch.testing.assert_close(game.sample(latents, None), before)
    assert not all(value.equal(start[key]) for key, value in game.generator.network.state_dict().items())
    assert make_game("ema_half_life=null").moving_average is None


@pytest.mark.parametrize("words", [[], ["conditional=true"]])
def test_the_averages_batch_statistics_are_those_of_its_own_samples(words: list[str]) -> None:
    """In training mode, where each batch has its own, it makes nearly what it makes with these."""
    game = make_game(
        "optimizer.lr=0.05", "model.generator.normalization=batch", "batch_size=100", "ema_statistics=100", *words
    )
    for step in range(20):
        game.step(step)
    assert game.moving_average
    latents, labels = game.draw_latents(game.randomness, 10_000), torch.arange(10_000) % 10
    network = copy.deepcopy(game.moving_average.network)
    with torch.no_grad():
        trained = network(latents, labels if words else None)
        expected = network.train()(latents, labels if words else None)
    error, before = (game.sample(latents, labels) - expected).square().mean(), (trained - expected).square().mean()
    assert error < 0.1 * before


def test_estimating_statistics_is_no_part_of_training() -> None:
    words = ["model.generator.normalization=batch", "optimizer.lr=0.05"]
    looked_at, trained = make_game(*words), make_game(*words)
    for step in range(4):
        expected, found = trained.step(step, is_logged=True), looked_at.step(step, is_logged=True)
        assert floats(found) == floats(expected)
        shown = copy.deepcopy(looked_at.shown.state_dict())
    assert not list(differences(looked_at.state_dict(), trained.state_dict()))
    assert not list(differences(looked_at.state_dict()["moving_average"], shown))


def test_a_frozen_layer_of_a_users_network_stays_frozen() -> None:
    game = make_game()
    frozen = next(game.discriminator.network.parameters()).requires_grad_(False)
    game.discriminator.__post_init__()
    before = frozen.clone()
    for step in range(2):
        game.step(step)
    assert frozen.equal(before)
    assert not frozen.requires_grad


def test_a_network_that_compares_samples_judges_real_and_generated_ones_apart() -> None:
    """Or minibatch deviation would see both in a group; yet penalties on the gradient go with it."""
    words = ["model=stylegan2", "loss=bce", "model.generator.style_size=4", "model.discriminator.depth=1"]
    assert not make_game(*words, "model.generator.depth=1").is_joined
    alone = ["model.generator.depth=1", "model.discriminator.minibatch_group=null"]
    assert make_game(*words, *alone).is_joined
    assert "r1" in make_game(*words, *alone[:1], "regularizer=r1").discriminator.terms


@pytest.mark.parametrize("keys", [["noise=false"], ["style_mixing=0"]])
def test_a_generator_that_draws_noise_is_not_stacked(keys: list[str]) -> None:
    words = ["model=stylegan2", "loss=bce", "model.generator.style_size=4", "model.generator.depth=1"]
    words += ["model.discriminator.depth=1"]
    reason = why_not_stackable(make_game(*words, *(f"model.generator.{key}" for key in keys)))
    assert reason is not None
    assert "generator draws noise" in reason


def test_truncation_is_the_models_own_where_it_has_one() -> None:
    words = ["model=stylegan2", "loss=bce", "model.generator.style_size=4", "model.generator.depth=1"]
    game = make_game(*words, "model.discriminator.depth=1")
    game.step(0)
    latents = game.draw_latents(game.randomness, 6)
    whole, cut = game.sample(latents, None), copy.copy(game)
    cut.truncate(0.5)
    assert cut.latents is game.latents
    halved = cut.sample(latents, None)
    assert halved.std(0).mean() < whole.std(0).mean()
    assert torch.equal(game.sample(latents, None), whole)  # the networks are as they were
    assert torch.equal(cut.sample(latents, None), halved)
