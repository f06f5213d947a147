"""Samples of a trained generator: which latents and which labels they are made of."""

from collections.abc import Sequence

import torch
from torch import Tensor

from gan_runner.games.game import Game
from gan_runner.torch_utils.randomness import fixed_randomness

BATCH = 256  # samples generated at once


def draw_samples(game: Game, latents: Tensor, labels: Tensor) -> Tensor:
    """Samples (N, *sample), as the generator makes them, of latents (N, latent_size) and labels (N,)."""
    chunks = zip(latents.split(BATCH), labels.to(latents.device).split(BATCH), strict=True)
    return torch.cat([game.sample(some, their_labels) for some, their_labels in chunks])


def draw_latents(game: Game, seed: int, count: int, each: int = 1) -> Tensor:
    """(count, latent_size); in rows of `each` on the way from one latent to another, if that is more than 1."""
    randomness = fixed_randomness(seed, "sample", game.randomness.device)
    if each == 1:
        return game.draw_latents(randomness, count)
    rows = -(-count // each)
    start, end = game.draw_latents(randomness, 2 * rows).unsqueeze(1).chunk(2)  # (rows, 1, latent_size)
    position = torch.linspace(0, 1, each, device=start.device).view(1, -1, 1)
    return game.latents.interpolate(start, end, position).flatten(0, 1)[:count]


def choose_labels(game: Game, wanted: Sequence[int] | None, count: int, each: int = 1) -> Tensor:
    """(count,): the wanted classes in turn, or all of them, `each` times in a row.

    Raises ValueError where the run has no such class.
    """
    classes = game.data.num_classes if game.is_conditional else 0
    if wanted and not classes:
        raise ValueError("labels: this run is not conditional: its generator knows no classes")
    for label in wanted or []:
        if not 0 <= label < classes:
            raise ValueError(f"labels {label}: the classes are 0 to {classes - 1}")
    cycle = torch.tensor(list(wanted) if wanted else list(range(max(1, classes)))).repeat_interleave(each)
    return cycle.repeat(-(-count // len(cycle)))[:count]
