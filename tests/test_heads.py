"""Heads: closed forms, sizes, what reaches which player, what is refused, what old configs mean."""

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_runner import heads, losses
from gan_runner.config.errors import ConfigError
from gan_runner.config.keys import identity
from gan_runner.config.stored import translate_stored
from gan_runner.models.layers import Head, HeadOutputs
from gan_runner.training.build import build, refuse_ignored
from tests.helpers import TINY, TINY_MODEL, compose, naming, options
from tests.helpers.games import build_game, take_steps

LABELS = torch.tensor([0, 0, 1, 1])
WORDS = [*TINY, "conditional=true", "loss=hinge", "metric=none"]
TRAINED = [name for name in options("head") if name != "projection"]  # that have a loss


def game_of(head: str, *words: str) -> Any:
    return build_game(compose(*WORDS, "model=mlp", *TINY_MODEL, f"head={head}", *words))


# --- the formulas -----------------------------------------------------------------------------------------------------


def embedded(embedding: Tensor, proxies: Tensor, labels: Tensor = LABELS) -> HeadOutputs:
    """What an embedding head makes of samples, were these their embeddings and these the classes' proxies."""
    return HeadOutputs(
        torch.zeros(len(labels)), {"embedding": embedding, "proxy": (embedding * proxies[labels]).sum(-1)}
    )


CONTRAGAN = heads.Contragan(temperature=1.0, dimension=4)
REACGAN = heads.Reacgan(temperature=0.5, margin=0.98, dimension=4)


def test_contrasts_of_orthonormal_embeddings() -> None:
    """Each sample's proxy being its own embedding."""
    outputs = HeadOutputs(torch.zeros(4), {"embedding": torch.eye(4), "proxy": torch.ones(4)})
    torch.testing.assert_close(REACGAN.contrast(outputs, LABELS), torch.full((4,), math.log(3)))
    two = torch.full((4,), math.log((math.e + 3) / (math.e + 1)))
    torch.testing.assert_close(CONTRAGAN.contrast(outputs, LABELS), two)


def test_contrasts_of_equal_embeddings() -> None:
    embedding = F.one_hot(torch.zeros(4, dtype=torch.long), 4).float()
    outputs = embedded(embedding, embedding[:2])
    torch.testing.assert_close(REACGAN.contrast(outputs, LABELS), torch.full((4,), math.log(1 + 2 * math.exp(1.96))))
    torch.testing.assert_close(CONTRAGAN.contrast(outputs, LABELS), torch.full((4,), math.log(2)))


@pytest.mark.parametrize("name", ["contragan", "reacgan"])
def test_contrasts_as_the_papers_write_them(name: str) -> None:
    """Sample by sample, in plain numbers; also of two runs at once."""
    generator = torch.Generator().manual_seed(0)
    e = F.normalize(torch.randn(7, 5, generator=generator, dtype=torch.float64), dim=-1)
    p = F.normalize(torch.randn(3, 5, generator=generator, dtype=torch.float64), dim=-1)
    labels = torch.tensor([0, 1, 2, 0, 1, 0, 2])
    temperature, margin = 0.7, 0.6
    expected = []
    for i, y in enumerate(labels):
        others = [(j, float(e[i] @ e[j])) for j in range(7)]
        if name == "contragan":
            own = math.exp(float(e[i] @ p[y]) / temperature)
            alike = sum(math.exp(value / temperature) for j, value in others if j != i and labels[j] == y)
            every = sum(math.exp(value / temperature) for j, value in others if j != i)
            expected.append(-math.log((own + alike) / (own + every)))
        else:
            own = math.exp(min(float(e[i] @ p[y]) - margin, 0) / temperature)
            unlike = [value for j, value in others if labels[j] != y]
            every = sum(math.exp(max(value - (1 - margin), 0) / temperature) for value in unlike)
            expected.append(-math.log(own / (own + every)))
    head: Any = heads.Contragan(temperature=temperature, dimension=5)
    if name == "reacgan":
        head = heads.Reacgan(temperature=temperature, margin=margin, dimension=5)
    outputs = embedded(e, p, labels)
    wanted = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(head.contrast(outputs, labels), wanted)
    stacked = HeadOutputs(outputs.logits, {key: torch.stack([value] * 2) for key, value in outputs.extra.items()})
    torch.testing.assert_close(head.contrast(stacked, labels.expand(2, 7)), torch.stack([wanted] * 2))


@pytest.mark.parametrize("fakes", [False, True])
def test_the_auxiliary_classifier(fakes: bool) -> None:
    real, fake = torch.randn(4, 3), torch.randn(4, 3)
    view: Any = SimpleNamespace(
        real_head_outputs=HeadOutputs(torch.zeros(4), {"classes": real}),
        fake_head_outputs=HeadOutputs(torch.zeros(4), {"classes": fake}),
        labels=LABELS,
    )
    head = heads.Acgan(fakes=fakes)
    on_real, on_fake = (F.cross_entropy(each, LABELS, reduction="none") for each in (real, fake))
    torch.testing.assert_close(head.discriminator(view), on_real + on_fake if fakes else on_real)
    torch.testing.assert_close(head.generator(view), on_fake)


def scored(scores: Tensor, features: Tensor) -> HeadOutputs:
    return HeadOutputs(torch.zeros(len(scores)), {"scores": scores, "features": features})


def test_multi_hinge() -> None:
    real, fake = torch.randn(4, 3), torch.randn(4, 3)  # two classes, and the generated ones
    features = torch.randn(4, 5), torch.randn(4, 5)
    view: Any = SimpleNamespace(
        real_head_outputs=scored(real, features[0]), fake_head_outputs=scored(fake, features[1]), labels=LABELS
    )
    head = heads.MultiHinge(generator_weight=0.05, feature_matching=2.0)

    def hinge(v: Tensor, y: int) -> float:
        return max(0.0, 1 + max(float(v[k]) for k in range(3) if k != y) - float(v[y]))

    of_real, of_fake = [hinge(v, int(y)) for v, y in zip(real, LABELS, strict=True)], [hinge(v, 2) for v in fake]
    torch.testing.assert_close(head.discriminator(view), torch.tensor(of_real) + torch.tensor(of_fake))
    matching = (features[0].mean(0) - features[1].mean(0)).abs().mean()
    of_labels = torch.tensor([hinge(v, int(y)) for v, y in zip(fake, LABELS, strict=True)])
    torch.testing.assert_close(head.generator(view), 0.05 * of_labels + 2 * matching)


def test_multi_hinge_of_one_class_is_the_hinge_loss() -> None:
    scores = heads.Scores(5, 1)
    features, labels = (torch.randn(4, 5), torch.randn(4, 5)), torch.zeros(4, dtype=torch.long)
    real, fake = (scores.outputs(each, labels) for each in features)
    view: Any = SimpleNamespace(
        real_head_outputs=real, fake_head_outputs=fake, labels=labels, real_logits=real.logits, fake_logits=fake.logits
    )
    ours = heads.MultiHinge(generator_weight=1.0, feature_matching=0.0).discriminator(view)
    torch.testing.assert_close(ours, losses.Hinge().discriminator(view))


# --- the modules ------------------------------------------------------------------------------------------------------

MODULES: dict[str, tuple[Callable[[int, int], Head], int]] = {  # of 192 features and 10 classes, without w·φ + b: 193
    "projection": (heads.Projection.make, 1920),
    "acgan": (heads.Acgan(fakes=False).make, 1920),
    "contragan": (heads.Contragan(temperature=1.0, dimension=512).make, 103_936),
    "reacgan": (heads.Reacgan(temperature=0.5, margin=0.98, dimension=512).make, 103_936),
    "multi_hinge": (heads.MultiHinge(generator_weight=0.05, feature_matching=1.0).make, 1930),
}


@pytest.mark.parametrize("name", options("head"))
def test_as_many_parameters_as_in_studiogan(name: str) -> None:
    """On BigGAN's features for 32x32, more than an unconditional discriminator has."""
    make, more = MODULES[name]
    assert sum(parameter.numel() for parameter in make(192, 10).parameters()) == 193 + more


@pytest.mark.parametrize("name", options("head"))
def test_what_a_module_makes(name: str) -> None:
    """Of one sample whatever the others; the logits are what a forward pass gives; embeddings have the length 1."""
    torch.manual_seed(0)
    module, features, labels = MODULES[name][0](6, 3), torch.randn(4, 6), torch.tensor([0, 1, 2, 1])
    logits, made = module.outputs(features, labels)
    assert logits.shape == (4,)
    torch.testing.assert_close(module(features, labels), logits)
    alone = module.outputs(features[1:2], labels[1:2])
    torch.testing.assert_close(alone.logits, logits[1:2])
    for key, value in made.items():
        torch.testing.assert_close(alone.extra[key], value[1:2], msg=key)
    if "embedding" in made:
        torch.testing.assert_close(made["embedding"].norm(dim=-1), torch.ones(4))
        assert isinstance(module, heads.Embedding)
        proxies = F.normalize(module.proxies.weight, dim=-1)
        torch.testing.assert_close(made["proxy"], (made["embedding"] * proxies[labels]).sum(-1))


# --- in games ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRAINED)
def test_both_players_learn_from_the_head(name: str) -> None:
    game = game_of(name)
    wanted = {"loss"} if name == "multi_hinge" else {"loss", "head"}
    assert {*game.generator.terms} == {*game.discriminator.terms} == wanted
    before = {key: value.clone() for key, value in game.discriminator.network.head.named_parameters()}
    values = take_steps(game, 2)
    assert all(math.isfinite(value) for value in values.values())
    moved = {key for key, value in game.discriminator.network.head.named_parameters() if not value.equal(before[key])}
    assert moved | {"linear.bias"} == {*before, "linear.bias"}  # which the hinge loss may push as far up as down
    if name != "multi_hinge":
        assert values["penalty/head/generator"] > 0
        assert values["weight/head/discriminator"] == game.discriminator.terms["head"].weight


def test_a_head_costs_no_pass_of_its_own() -> None:
    """One of the discriminator's turn, for real and generated samples, and one of the generator's."""
    game = game_of("reacgan")
    seen: list[int] = []
    game.discriminator.network.layers.register_forward_hook(lambda _module, _inputs, output: seen.append(len(output)))
    game.step(0)
    assert seen == [16, 8]


def test_generated_classes_come_to_be_the_ones_asked_for() -> None:
    """Points of two classes that lie apart: with a generator's term alone, the class's cross-entropy falls."""
    game = game_of("acgan", "head.weight=5", "optimizer.lr=5e-3")
    first = take_steps(game, 1)["penalty/head/generator"]
    assert take_steps(game, 150, start=1)["penalty/head/generator"] < 0.5 * first


@pytest.mark.parametrize("name", TRAINED)
def test_losses_that_look_at_the_whole_batch_say_so(name: str) -> None:
    made = build(compose(*WORDS, "model=mlp", *TINY_MODEL, f"head={name}"), []).game
    sides = [term.fn for player in made.players.values() for key, term in player.terms.items() if key == "head"]
    sides = sides or [player.terms["loss"].fn for player in made.players.values()]
    marks = [getattr(side, "gathers_batch", False) for side in sides]
    assert marks == {"acgan": [False] * 2, "multi_hinge": [True, False]}.get(name, [True] * 2)


def test_the_schedule_of_a_head() -> None:
    game = game_of("reacgan", "lr_schedule@head.schedule=linear", "head.weight=2", "steps=100")
    assert [game.generator.terms["head"].weight_at(step) for step in (0, 50, 100)] == pytest.approx([2, 1, 0])


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["head=acgan", "conditional=false"], ["head=acgan", "conditional=true"]),
        (["head=multi_hinge", "loss=bce"], ["head=multi_hinge", "loss=hinge"]),
        (["head=reacgan", "model.discriminator.scales=2"], ["head=reacgan", "model.discriminator.scales=2"]),
        (["head=reacgan", "+head.weigth=1"], ["head.weigth", "weight"]),
        (["head=multi_hinge", "+head.weight=1"], ["head.weight", "generator_weight"]),
        (["head=reacgan", "head.temperature=0"], ["head.temperature=0"]),
        (["head=acgan", "model=vae", "loss=elbo", "dataset.normalization=unit"], ["head=acgan", "head=projection"]),
    ],
)
def test_refusals(words: list[str], named: list[str]) -> None:
    small = [] if "model=vae" in words else ["model=mlp", *TINY_MODEL]
    with pytest.raises(ConfigError, match=naming(*named)):
        build(compose(*WORDS, *small, *words), [])


class Headless(nn.Module):
    """A discriminator of a user's."""

    def __init__(self, shape: tuple[int, ...], num_classes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(math.prod(shape), 1 + num_classes)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.linear(x.flatten(1)).gather(1, labels[:, None]).squeeze(1)


def test_a_network_of_ones_own_has_its_own_head() -> None:
    config = compose(*WORDS, "model=mlp", *TINY_MODEL)
    config["model"]["discriminator"] = {"_target_": "tests.test_heads.Headless"}
    assert take_steps(build(config, ["tests"]).game)
    config["head"] = compose("head=acgan")["head"]
    with pytest.raises(ConfigError, match=naming("head=acgan", "Headless", "HeadedDiscriminator")):
        build(config, ["tests"])


@pytest.mark.parametrize("name", TRAINED)
def test_a_head_is_told_the_labels_where_the_logit_is_not(name: str) -> None:
    """A discriminator whose logit is the same for every label learns them all the same."""
    config = compose(*WORDS, "model=mlp", *TINY_MODEL, f"head={name}")
    refuse_ignored(build(config, []), config, [])


# --- configs of before ------------------------------------------------------------------------------------------------


def test_a_config_without_a_head_has_the_projection() -> None:
    config = compose(*WORDS, "model=mlp", *TINY_MODEL)
    before = {key: value for key, value in config.items() if key != "head"}
    before["model"] = {**config["model"], "discriminator": {**config["model"]["discriminator"]}}
    del before["model"]["discriminator"]["pack"]
    assert identity(translate_stored(before)) == identity(config)
    other = compose(*WORDS, "model=mlp", *TINY_MODEL, "head=acgan")
    assert identity(translate_stored(other)) != identity(config)


def test_the_names_of_parameters_are_what_they_were() -> None:
    names = {name for name, _ in game_of("projection").discriminator.network.head.named_parameters()}
    assert names == {"linear.weight", "linear.bias", "projection.weight"}
