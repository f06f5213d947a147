"""The components of one's own in tests/examples, which the README shows, work."""

from pathlib import Path

import pytest
import yaml

from tests.helpers import SMALL
from tests.helpers.runs import metrics, rows

EXAMPLES = Path(__file__).parent / "examples"
OPTIONS = sorted(str(path.relative_to(EXAMPLES / "my_conf").with_suffix("")) for path in EXAMPLES.rglob("*.yaml"))
IMAGES = [word for word in SMALL if not word.startswith("metric=")]


def test_each_group_of_components_has_an_example():
    assert [option.partition("/")[0] for option in OPTIONS] == [
        "augmentation", "dataset", "features", "loss", "lr_schedule", "metric", "model", "optimizer",
    ]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_an_example_trains(option, run_cli, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    group, _, name = option.partition("/")
    if group == "model":
        small = ["steps=3", "batch_size=8", "device=cpu", "metric=none", "log_every=1", "conditional=true"]
    elif group == "features":
        small = [*IMAGES, "metric=frechet", "metric.frechet.samples=40"]
    elif group == "metric":
        small = [*IMAGES, "metric.mean_gap.samples=40", "metric.mean_gap.real_samples=40"]
    else:
        small = SMALL
    words = [*small, "--config-dir", str(EXAMPLES / "my_conf"), "trust=[my_gan]", f"{group}={name}"]
    code, out, error = run_cli(*words, "hydra.run.dir=run")
    assert code == 0, error
    assert "warning" not in out
    assert len(metrics()) == 3
    config = yaml.safe_load(Path("run/.hydra/config.yaml").read_text())
    assert "my_gan" in str(config[group])
    if group == "metric":
        ((_, metric),) = rows("run/evaluations.jsonl")[0]["metrics"].items()
        assert metric["values"]["gap"] > metric["floor"]["values"]["gap"] > 0
