"""A turn whose batch is computed in parts (`accumulate`) is the turn of the whole batch, in the memory of a part."""

import pytest
import torch

from tests.conformance.cases import DCGAN, MLP
from tests.helpers import TINY, compose, some
from tests.helpers.games import build_game
from tests.helpers.ranks import train

WHOLE, PARTS = 8, 4
CASES = {
    "gradient penalty": [*MLP, "loss=wgan_gp"],
    "memories": [*MLP, "loss=hinge", "regularizer=[lecam,r1,spectral_norm]", "regularizer.lecam.start=0"],
    "dropout": [*MLP, "loss=bce", "model.generator.dropout=0.3", "model.discriminator.dropout=0.3"],
    "packs": [*MLP, "model.discriminator.pack=2", "loss=bce", "regularizer=[r1,gradient_penalty]"],
    "pseudo samples": [*MLP, "loss=bce", "augmentation=apa", "augmentation.apa.target=null", "augmentation.apa.p=0.5"],
    "a larger generator's batch": [*MLP, "loss=hinge", "generator_batch_size=16"],
    "labels and augmentations": [
        *DCGAN, "discriminator_steps=1", "loss=hinge", "conditional=true", "augmentation=[diffaugment,input_noise]",
        "model.generator.normalization=none",
    ],
}  # fmt: skip


def words_of(name: str, *more: str) -> list[str]:
    short = [word for word in TINY if not word.startswith("batch_size")]
    return [*short, "metric=none", *CASES[name], f"batch_size={WHOLE}", *more]


@pytest.mark.parametrize("name", some(CASES, every=2))
def test_parts_end_with_the_weights_of_the_whole(name):
    (expected, logged), (found, values) = (
        train(words_of(name, *more), 5, torch.float64) for more in ([], [f"accumulate={PARTS}"])
    )
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9, msg=key)
    assert values == pytest.approx(logged, rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_networks_see_a_part_at_a_time(name):
    """But for what remembers, which looks at the whole batch without a graph."""
    game = build_game(compose(*words_of(name, f"accumulate={PARTS}")))
    seen: dict[str, set[int]] = {"generator": set(), "discriminator": set()}

    def look(player: str, given: tuple[torch.Tensor, ...]) -> None:
        if player == "generator" or torch.is_grad_enabled():
            seen[player].add(len(given[0]))

    for player in seen:
        game.players[player].network.register_forward_pre_hook(lambda _, given, player=player: look(player, given))
    for step in range(2):
        game.step(step, is_logged=True)
    game.data.close()
    largest = (16 if "batch" in name else WHOLE) // PARTS
    assert max(seen["generator"]) == largest
    assert max(seen["discriminator"]) <= 2 * largest  # real and fake samples at once
