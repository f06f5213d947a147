"""From a config to a game: what players, optimizers and terms it has."""

import pytest
import torch

from gan_runner.config.errors import ConfigError
from gan_runner.config.process_rank import ProcessRank
from gan_runner.games.latents import Latents, Normal, Uniform
from gan_runner.torch_utils import precision as arithmetic
from gan_runner.training import build as module
from tests.helpers import TINY_MODEL, compose
from tests.helpers.games import make_game, take_steps


def test_the_slots_of_the_players_optimizers() -> None:
    game = make_game("optimizer@optimizer.discriminator=rmsprop", "optimizer.generator.betas=[0.5,0.9]")
    assert isinstance(game.discriminator.optimizer, torch.optim.RMSprop)
    assert game.generator.optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    game = make_game("optimizer.lr=1e-3", "optimizer.discriminator.lr=5e-5")
    assert game.generator.optimizer.param_groups[0]["lr"] == 1e-3
    assert game.discriminator.optimizer.param_groups[0]["lr"] == 5e-5


def test_lr_schedule_acts_on_both_players() -> None:
    game = make_game("lr_schedule=linear", "steps=4", "optimizer.lr=1.0", "optimizer.discriminator.lr=2.0")
    values = take_steps(game, 3)
    assert values["learning_rate/generator"] == 0.5  # of step 2 of 4
    assert values["learning_rate/discriminator"] == 1.0


def test_a_loss_that_brings_a_penalty_keeps_it_beside_others() -> None:
    values = take_steps(make_game("loss=wgan_gp", "regularizer=[l1,r1]", "regularizer.gradient_penalty.weight=3"), 1)
    assert {tag for tag in values if tag.startswith("penalty/")} == {
        "penalty/gradient_penalty", "penalty/l1", "penalty/r1",
    }  # fmt: skip
    assert values["weight/gradient_penalty"] == 3
    assert compose("loss=wgan_gp", "regularizer=l1")["discriminator_steps"] == 5


def test_several_processes_on_the_cpu_are_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"devices=8: .*; device=cpu trains on the CPU"):
        module.choose_device("auto", ProcessRank(world_size=8))
    assert module.choose_device("cpu", ProcessRank(world_size=8)) == module.choose_device("auto") == torch.device("cpu")


@pytest.mark.parametrize(
    ("words", "weight", "latents"),
    [
        (["model=mlp"], 10, Normal(100)),
        (["model=mlp", "dataset=ring"], 0.1, Uniform(2)),
        (["model=mlp", "dataset=ring", "regularizer.gradient_penalty.weight=3", "model.latent_size=5"], 3, Uniform(5)),
        (["model=mlp", "dataset=ring", "model.latent_distribution=normal"], 0.1, Normal(2)),
    ],
)
def test_what_suits_images_and_points(words: list[str], weight: float, latents: Latents) -> None:
    """Where a config leaves it open; a log says which weight it is."""
    config = compose("loss=wgan_gp", *words)
    built = module.build(config, [])
    assert (type(built.game.latents), built.game.latents.size) == (type(latents), latents.size)
    assert built.game.players["discriminator"].terms["gradient_penalty"].weight == weight
    is_open = config["regularizer"]["gradient_penalty"]["weight"] is None
    assert any(f"gradient_penalty.weight={weight:g}" in note for note in built.notes) == is_open


RATE_OF_POINTS = "as suits points: optimizer.lr=0.0002"


@pytest.mark.parametrize(
    ("words", "rates", "said"),
    [
        (["dataset=digits", "loss=wgan_gp"], [5e-4, 5e-4],
         ["as suits images: optimizer.lr=0.0005 regularizer.gradient_penalty.weight=10"]),
        (["dataset=ring"], [2e-4, 2e-4], [RATE_OF_POINTS]),
        (["dataset=ring", "optimizer=adamw", "optimizer.generator.lr=1e-3"], [1e-3, 2e-4], [RATE_OF_POINTS]),
        (["dataset=ring", "optimizer@optimizer.generator=adam", "optimizer.lr=1e-3"], [2e-4, 1e-3],
         ["as suits points: optimizer.generator.lr=0.0002"]),
        (["dataset=ring", "optimizer@optimizer.generator=rmsprop"], [5e-5, 2e-4], [RATE_OF_POINTS]),
        (["dataset=ring", "optimizer.lr=3e-4"], [3e-4, 3e-4], []),
    ],
)  # fmt: skip
def test_a_rate_that_suits_images_and_points(words: list[str], rates: list[float], said: list[str]) -> None:
    """Where the shared one is open, or that of a player's own optimizer."""
    built = module.build(compose(*TINY_MODEL, "model=mlp", "device=cpu", "metric=none", "loss=bce", *words), [])
    assert [player.optimizer.param_groups[0]["lr"] for player in built.game.players.values()] == rates
    assert [note for note in built.notes if note.startswith("as suits")] == said


@pytest.mark.parametrize(
    ("words", "is_told"),
    [(["loss=relativistic"], True), (["loss=hinge"], False), (["loss=wgan_gp", "augmentation.ada.target=null"], False)],
)
def test_a_note_on_a_p_that_adapts_to_signs_which_the_loss_leaves_open(words: list[str], is_told: bool) -> None:
    built = module.build(compose(*TINY_MODEL, "device=cpu", "metric=none", "augmentation=ada", *words), [])
    assert any("augmentation.ada.target=null" in note for note in built.notes) == is_told


@pytest.mark.parametrize(
    ("capability", "precision", "is_told"),
    [("AVX2", "bf16", True), ("AVX2", "fp32", False), ("AVX512", "bf16", False)],
)
def test_a_note_on_bf16_where_a_cpu_is_slow_at_it(monkeypatch, capability: str, precision: str, is_told: bool) -> None:
    monkeypatch.setattr(arithmetic, "get_cpu_capability", lambda: capability)
    built = module.build(compose(*TINY_MODEL, "device=cpu", "metric=none", f"precision={precision}"), [])
    assert any("AVX-512" in note for note in built.notes) == is_told


def test_a_penalty_that_suits_all_data_alike_wants_a_weight() -> None:
    with pytest.raises(ConfigError, match=r"regularizer\.r1\.weight"):
        make_game("loss=bce", "regularizer=r1", "regularizer.r1.weight=null")


@pytest.mark.parametrize(("name", "index"), [("cuda:1", 1), ("cuda", 0), ("auto", 0), ("cpu", None)])
def test_the_gpu_that_is_chosen_is_the_current_one(
    name: str, index: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything goes there: memory is pinned for the current one."""
    current: list[torch.device] = []

    def stop(data: object, device: torch.device, settings: object) -> None:
        raise ConfigError(f"to {device}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(module, "place_data", stop)
    with pytest.raises(ConfigError, match="to c"):
        module.build(compose(f"device={name}"), [])
    assert current == ([] if index is None else [torch.device("cuda", index)])


@pytest.mark.parametrize("model", ["stylegan2", "biggan"])
def test_networks_of_large_images_are_measured_before_they_are_built(monkeypatch, model: str) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 2**20)
    words = [f"model={model}", "model.latent_size=160", "dataset.image_size=512", "device=cpu", "loss=hinge"]
    with pytest.raises(ConfigError, match="training these networks takes at least"):
        module.refuse_giants(compose(*words), [])
