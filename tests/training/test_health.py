"""The monitors of a GAN's ways to fail."""

import json
import re
from pathlib import Path

import pytest
import torch

from gan_runner.config.schema import Monitor
from gan_runner.training.health import Monitors, mean_distance
from tests.helpers import SMALL

LIMITS = Monitor(vanishing_gradient=1e-6, exploding_gradient=1e4, saturation=0.99, diversity=0.2, warm_up=100)
COLLAPSED, DIVERSE = {"diversity": 0.1}, {"diversity": 0.9}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gradient_norm/generator": 1e-7}, "gradient generator vanish"),
        ({"gradient_norm/discriminator": 1e5}, "gradient discriminator explode"),
        ({"accuracy/real": 1.0, "accuracy/fake": 0.995}, "discriminator saturat"),
        (COLLAPSED, "samples collapse"),
    ],
)
def test_each_threshold_warns_once(values, words):
    monitors = Monitors(LIMITS)
    (line,) = monitors.warnings(100, values)
    assert all(word in line for word in words.split())
    assert not monitors.warnings(150, values)
    assert not Monitors(Monitor(None, None, None, None)).warnings(100, values)


def test_a_healthy_run_gets_no_warning():
    values = {"gradient_norm/generator": 1.0, "accuracy/real": 1.0, "accuracy/fake": 0.5, **DIVERSE}
    assert not Monitors(LIMITS).warnings(100, values)


def test_nothing_counts_before_the_warm_up_is_over():
    monitors = Monitors(LIMITS)
    assert not any(monitors.warnings(step, COLLAPSED) for step in (0, 50, 99))
    assert monitors.warnings(100, COLLAPSED)
    assert not monitors.warnings(150, COLLAPSED)


@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_fall_after_a_recovery_is_warned_of_again(is_resumed):
    """But not one after another of values about the threshold."""
    monitors = Monitors(LIMITS)
    found = []
    for step in range(100, 800, 50):
        values = COLLAPSED if step in (100, 250, 300, 600, 650) else DIVERSE
        found += [step] * len(monitors.warnings(step, values))
        if is_resumed:
            state = json.loads(json.dumps(monitors.state_dict()))
            monitors = Monitors(LIMITS)
            monitors.load_state_dict(state)
    assert found == [100, 600]


def test_what_version_0_1_had_warned_of():
    monitors = Monitors(LIMITS)
    monitors.load_state_dict({"warned": ["diversity"]})
    assert not monitors.warnings(100, COLLAPSED)


def test_mean_distance():
    assert mean_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)


def test_a_run_warns_in_one_line_and_logs_the_diversity(run_cli):
    words = [*SMALL, "steps=6", "hydra.run.dir=run", "monitor.diversity=1e9", "monitor.warm_up=3"]
    code, out, error = run_cli(*words)
    assert code == 0, error
    lines = [line for line in out.splitlines() if line.startswith("warning:")]
    assert len(lines) == 1
    assert re.search("step 3.*collapse", lines[0])
    assert '"diversity"' in Path("run/metrics.jsonl").read_text()
