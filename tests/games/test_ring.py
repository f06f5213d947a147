"""Ground truth: a GAN that works covers all modes of the ring, and training leaves nothing behind."""

import gc
import os

import pytest
import torch

from gan_runner.torch_utils.randomness import fixed_randomness
from gan_runner.training.build import build
from tests.helpers import compose


@pytest.mark.slow
def test_the_ring_is_covered():
    """At least 20 of 2,500 samples within three standard deviations of each of the eight modes."""
    game, _, steps, *_ = build(compose("experiment=ring", "device=cpu"), [])
    assert steps <= 3000
    for step in range(1500):  # of the preset's 3,000
        game.step(step)
    samples = game.sample(game.draw_latents(fixed_randomness(0, "modes", torch.device("cpu")), 2500), None)
    assert game.data.centres is not None
    assert game.data.sd is not None
    distance, mode = torch.cdist(samples, game.data.centres).min(1)
    counts = mode[distance < 3 * game.data.sd].bincount(minlength=8)
    assert (counts >= 20).all(), counts.tolist()


def resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps():
    words = [
        "dataset=ring",
        "model=mlp",
        "batch_size=64",
        "regularizer=lecam",
        "regularizer.lecam.start=0",
        "device=cpu",
    ]
    words += ["model.generator.width=32", "model.discriminator.width=32"]
    game = build(compose(*words), []).game
    for step in range(200):
        game.step(step)
    gc.collect()
    before = resident_bytes()
    gc.disable()  # not even what only the collector could free
    try:
        for step in range(200, 700):
            game.step(step, is_logged=step % 50 == 0)
    finally:
        gc.enable()
    assert resident_bytes() - before < 4 * 2**20  # one graph kept per step would be 500 x 100 KiB
