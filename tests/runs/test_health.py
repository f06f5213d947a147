"""The monitors of a GAN's ways to fail."""

import re
from pathlib import Path

import pytest
import torch

from gan_runner.config.schema import Monitor
from gan_runner.runs.health import Monitors, mean_distance
from tests.helpers import SMALL

LIMITS = Monitor(vanishing_gradient=1e-6, exploding_gradient=1e4, saturation=0.99, diversity=0.2)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"gradient_norm/generator": 1e-7}, "gradient generator vanish"),
        ({"gradient_norm/discriminator": 1e5}, "gradient discriminator explode"),
        ({"accuracy/real": 1.0, "accuracy/fake": 0.995}, "discriminator saturat"),
        ({"diversity": 0.1}, "samples collapse"),
    ],
)
def test_each_threshold_warns_once(values, words):
    monitors = Monitors(LIMITS)
    (line,) = monitors.warnings(values)
    assert all(word in line for word in words.split())
    assert not monitors.warnings(values)
    assert not Monitors(Monitor(None, None, None, None)).warnings(values)


def test_a_healthy_run_gets_no_warning():
    values = {"gradient_norm/generator": 1.0, "accuracy/real": 1.0, "accuracy/fake": 0.5, "diversity": 0.9}
    assert not Monitors(LIMITS).warnings(values)


def test_mean_distance():
    assert mean_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)


def test_a_run_warns_in_one_line_and_logs_the_diversity(run_cli):
    words = [*SMALL, "steps=6", "hydra.run.dir=run", "monitor.diversity=1e9"]
    code, out, error = run_cli(*words)
    assert code == 0, error
    lines = [line for line in out.splitlines() if line.startswith("warning:")]
    assert len(lines) == 1
    assert re.search("step 1.*collapse", lines[0])
    assert '"diversity"' in Path("run/metrics.jsonl").read_text()
