"""The first steps of small runs, through the command line, have the numbers of the record beside this file.

With GAN_RUNNER_EXACT=1 they are the same bit for bit, as they are with the libraries, and on the kind of machine, that
made the record. `python tests/test_recorded_steps.py` makes it anew, of the words in it: a new config begins as
`"NAME": {"words": [...]}` there.
"""

import contextlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra

RECORD = Path(__file__).with_name("recorded_steps.json")
CONFIGS: dict[str, dict[str, Any]] = json.loads(RECORD.read_text())
DEFAULTS = [  # where a config's own words do not say otherwise
    "steps=12", "epochs=null", "batch_size=8", "device=cpu", "metric=none",
    "log_every=1", "sample_every=null", "evaluate_every=null", "checkpoint_every=null",
    "ema_ramp=null", "ema_statistics=0",  # as when the record was made
]  # fmt: skip
IMAGES = {"grey28": (28, 28), "colour28": (28, 28, 3), "colour32": (32, 32, 3), "colour64": (64, 64, 3)}
OF_EVERY_STEP = ("loss/", "gradient_norm/", "penalty/", "state/", "metric/")
OF_THE_LAST = (*OF_EVERY_STEP, "weight/", "learning_rate/", "logits/")

Steps = list[tuple[int, dict[str, float]]]


def command_line() -> Callable[[], object]:
    """What `gan-runner` calls."""
    try:
        module = importlib.import_module("gan_runner.cli.main")
    except ModuleNotFoundError:  # before there was that module
        module = importlib.import_module("gan_runner.cli")
    return module.main


def train(words: list[str], directory: Path) -> Steps:
    """The numbers of a run in a directory, by step and tag; those of a sweep's runs stand behind the run's name."""
    own = {word.split("=")[0] for word in words}
    words = words + [word for word in DEFAULTS if word.split("=")[0] not in own]
    arguments = ["gan-runner", *words, "hydra.run.dir=run", "hydra.sweep.dir=run"]
    torch.set_num_threads(1)
    with contextlib.chdir(directory), patch.object(sys, "argv", arguments), patch.dict(os.environ):
        for name, shape in IMAGES.items():
            np.save(f"{name}.npy", np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8))
        try:
            command_line()()
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"{' '.join(arguments)} ends with {end.code}") from end
        finally:
            GlobalHydra.instance().clear()
    steps: dict[int, dict[str, float]] = {}
    for path in sorted((directory / "run").rglob("metrics.jsonl")):
        run = f"{path.parent.name}: " if "-m" in words else ""
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            wanted = OF_THE_LAST if row is rows[-1] else OF_EVERY_STEP
            values = {f"{run}{tag}": value for tag, value in row.items() if tag.startswith(wanted)}
            steps.setdefault(row["step"], {}).update(values)
    return list(steps.items())


def margin(words: list[str]) -> dict[str, Any] | None:
    """How far the numbers may be off, for pytest.approx; None is not at all."""
    if {"optimizer=finite_difference", "experiment=subgradient_gaussian2d"} & set(words):
        # A loss is rounded to 1e-7 of itself, which is divided by an epsilon of 1e-3 (central: 1e-2): each of some 400
        # weights (central: 50) gets a gradient that is off by 1e-4 / sqrt(directions) (central: 1e-5), and the norm of
        # all by 1e-3 of itself.
        return {"rel": 1e-2, "abs": 1e-3}
    if os.environ.get("GAN_RUNNER_EXACT") == "1":
        return None
    if "precision=bf16" in words:  # 8 bits of mantissa
        return {"rel": 1e-1, "abs": 1e-2}
    return {"rel": 1e-3, "abs": 1e-5}  # another processor has other kernels


# One of each kind of game, model and optimizer; the conformance suite trains with every option.
BY_DEFAULT = (
    "default", "metrics", "streamed", "dcgan_conditional", "resnet_conditional", "vae", "wgan_gp", "iterative",
    "stacked_wgan_gp",
)  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name not in BY_DEFAULT)) for name in CONFIGS]
)
def test_steps_are_as_recorded(name, tmp_path):
    words, recorded = CONFIGS[name]["words"], CONFIGS[name]["steps"]
    found, allowed = train(words, tmp_path), margin(words)
    assert [step for step, _ in found] == [step for step, _ in recorded]
    for (step, values), (_, expected) in zip(found, recorded, strict=True):
        assert values == (pytest.approx(expected, **allowed) if allowed else expected), f"step {step}"


def record() -> None:
    """Train every config of the record, and write what comes of it in the place of what it says."""
    entries = []
    for name, config in CONFIGS.items():
        with tempfile.TemporaryDirectory() as directory:
            steps = train(config["words"], Path(directory))
        lines = ",\n".join(f"  {json.dumps(step)}" for step in steps)
        entries.append(f'{json.dumps(name)}: {{"words": {json.dumps(config["words"])}, "steps": [\n{lines}\n]}}')
    RECORD.write_text("{\n" + ",\n".join(entries) + "\n}\n")


if __name__ == "__main__":
    record()
