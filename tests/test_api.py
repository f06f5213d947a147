"""gan_runner from Python."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gan_runner
from gan_runner.config.errors import ConfigError, Stopped
from tests.helpers import METRIC, SMALL, naming
from tests.helpers.runs import metrics, rows

SAMPLE = ["sample", "run", "--out", "s.npz", "--count", "7", "--seed", "3"]


def test_an_import_imports_nothing_else():
    code = (
        "import sys, gan_runner; "
        "assert {'load', 'runs', 'train'} <= set(dir(gan_runner)); "
        "found = {'torch', 'numpy', 'pandas', 'hydra', 'omegaconf', 'rich', 'pydantic', 'yaml'} & set(sys.modules); "
        "assert not found, found; "
        "assert callable(gan_runner.runs); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="nothing"):
        gan_runner.nothing  # noqa: B018


def test_samples_are_those_of_the_verb(small_run, run_cli):
    run = gan_runner.load("run")
    samples = run.sample(7, seed=3)
    assert (samples.shape, samples.dtype) == ((7, 1, 8, 8), torch.float32)
    assert 0 <= samples.min() < samples.max() <= 1
    code, _, error = run_cli(*SAMPLE)
    assert code == 0, error
    assert np.array_equal((samples * 255).round().to(torch.uint8).numpy(), np.load("s.npz")["samples"])
    truncated = run.sample(7, seed=3, truncation=0.5)
    assert run_cli(*SAMPLE, "--truncation", "0.5")[0] == 0
    assert np.array_equal((truncated * 255).round().to(torch.uint8).numpy(), np.load("s.npz")["samples"])
    assert torch.equal(run.sample(7, seed=3), samples)  # the truncation was for one call
    with pytest.raises(ValueError, match="conditional"):
        run.sample(2, labels=3)
    for bound in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="above 0 and finite"):
            run.sample(2, truncation=bound)


@pytest.mark.slow
def test_the_truncation_of_a_style_based_model_is_its_own(run_cli):
    """Towards the mean style: at 1 nothing changes, near 0 all samples are alike; reproducible with the seed."""
    style = ["model.generator.style_size=4", "model.generator.depth=1", "model.discriminator.depth=1"]
    words = [word for word in SMALL if word != "model=mlp"] + ["model=stylegan2", *style, "name=run", "loss=bce"]
    assert run_cli(*words)[0] == 0
    shutil.move("outputs/run", "run")
    run = gan_runner.load("run")
    samples = run.sample(7, seed=3)
    assert torch.equal(run.sample(7, seed=3), samples)
    assert torch.equal(run.sample(7, seed=3, truncation=1.0), samples)
    spreads = [float(run.sample(7, seed=3, truncation=t).std(0).mean()) for t in (1e-3, 0.5)]
    assert spreads[0] < 0.01 * spreads[1] < spreads[1] < float(samples.std(0).mean())
    assert torch.equal(run.sample(7, seed=3), samples)  # the truncation was for one call
    made = []
    for _ in range(2):
        code, _, error = run_cli(*SAMPLE, "--truncation", "0.7", "--interpolate")
        assert code == 0, error
        made.append(np.load("s.npz")["samples"])
    assert np.array_equal(*made)


def test_the_networks(small_run):
    run, raw = gan_runner.load("run"), gan_runner.load("run", raw=True)
    latents = torch.randn(5, 4)
    assert not run.generator.training
    assert not run.discriminator.training
    made = run.generator(latents, None)
    judged = run.discriminator(made, None)
    assert judged.shape == (5,)
    assert torch.allclose(run.logits((made + 1) / 2), judged, atol=1e-5)  # of images as `sample` gives them
    saved = torch.load("run/checkpoints/last.pt", weights_only=True)["game"]
    own = raw.generator.state_dict()
    assert all(torch.equal(own[name], value) for name, value in saved["generator"]["network"].items())
    assert any(not torch.equal(own[name], value) for name, value in run.generator.state_dict().items())


def test_what_a_run_says_of_itself(small_run):
    run = gan_runner.load("run")
    assert (run.status, run.step, run.config["batch_size"], str(run.path)) == ("completed", 3, 8, "run")
    assert run.config["loss"]["_target_"] == "gan_runner.losses.Wasserstein"
    logged = rows("run/metrics.jsonl")
    assert list(run.metrics.index) == [1, 2, 3]
    assert run.metrics["loss/generator"].tolist() == [line["loss/generator"] for line in logged]
    assert "step 3" in repr(run)


def test_labels_of_a_conditional_run(run_cli):
    code, _, error = run_cli(*SMALL, "conditional=true", "hydra.run.dir=run")
    assert code == 0, error
    run = gan_runner.load("run")
    latents_only = run.sample(4, labels=3, seed=1)
    assert torch.equal(latents_only, run.sample(4, labels=[3], seed=1))
    assert not torch.equal(latents_only, run.sample(4, labels=[3, 4], seed=1))
    assert torch.equal(latents_only[0::2], run.sample(4, labels=[3, 4], seed=1)[0::2])
    with pytest.raises(ValueError, match=naming("12", "0 to 9")):
        run.sample(2, labels=12)
    of_threes = run.logits(latents_only, 3)
    assert torch.equal(of_threes, run.logits(latents_only, [3] * 4))
    assert not torch.allclose(of_threes, run.logits(latents_only, torch.arange(4)))
    for labels, named in (([3, 4], ["2", "4 samples"]), ([], ["0", "4 samples"]), (12, ["12", "0 to 9"])):
        with pytest.raises(ValueError, match=naming(*named)):
            run.logits(latents_only, labels)


def test_a_head_that_is_the_loss(run_cli):
    """What is read of its run needs no loss, which the head would refuse if it were another."""
    words = [*SMALL, "conditional=true", "loss=hinge", "head=multi_hinge", "hydra.run.dir=run"]
    assert run_cli(*words)[0] == 0
    run = gan_runner.load("run")
    assert run.logits(run.sample(2, labels=3), 3).shape == (2,)
    assert run_cli("sample", "run")[0] == 0


def test_an_autoencoder_has_no_discriminator(run_cli):
    words = ["model=vae", "loss=elbo", "dataset.normalization=unit", "steps=1", "metric=none", "device=cpu"]
    assert run_cli(*words, "hydra.run.dir=run")[0] == 0
    run = gan_runner.load("run")
    assert run.sample(2).shape == (2, 1, 8, 8)
    with pytest.raises(AttributeError, match="discriminator"):
        run.discriminator  # noqa: B018
    with pytest.raises(AttributeError, match="discriminator"):
        run.logits(run.sample(2))


def test_training_is_that_of_the_shell(small_run, capsys):
    run = gan_runner.train([*SMALL, "name=mine"])
    assert (str(run.path), run.status, run.step) == ("outputs/mine", "completed", 3)
    assert metrics("outputs/mine") == metrics("run")
    for name in ("config.yaml", "overrides.yaml", "hydra.yaml"):
        assert Path("outputs/mine/.hydra", name).exists()
    with pytest.raises(ConfigError, match=naming("outputs/mine", "name")):
        gan_runner.train([*SMALL, "name=mine"])
    unnamed = gan_runner.train([*SMALL, "seed=1"])
    assert unnamed.path.parts[0] == "outputs"
    assert gan_runner.load("latest").path == unnamed.path


def test_what_the_shell_refuses_python_refuses(run_cli):
    for word, names in {
        "loss=hing": ["loss=hing", "'hinge'"],
        "modle=mlp": ["'modle'", "'model'"],
        "steps=abc": ["steps=abc", "number"],
        "name=../x": ["name=../x", "letters"],
        "-m": ["-m", "shell"],
        "sweep=abc": ["sweep=abc", "only a sweep"],
        "hydra/launcher=pool": ["hydra/launcher=pool", "only a sweep"],
    }.items():
        with pytest.raises(ConfigError, match=naming(*names)):
            gan_runner.train([word])
        with pytest.raises(ConfigError, match="a list of words"):
            gan_runner.train(word)
    with pytest.raises(ConfigError, match="nowhere"):
        gan_runner.load("nowhere")
    assert not Path("outputs").exists()


def test_no_process_of_several_trains_a_run_of_its_own(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="2 processes"):
        gan_runner.train([*SMALL, "name=mine"])
    assert not Path("outputs").exists()


def test_a_run_that_diverges(capsys):
    with pytest.raises(Stopped, match="diverged"):
        gan_runner.train([*SMALL, "optimizer=sgd", "optimizer.lr=1e30", "steps=50"])


def make_runs(small_run) -> None:
    for name, seed, best, status in (("a", 0, 2.5, "completed"), ("b", 1, "nan", "failed")):
        path = Path("outputs/sweeps/s", name)
        shutil.copytree(small_run, path)
        config = (path / ".hydra/config.yaml").read_text()
        (path / ".hydra/config.yaml").write_text(config.replace("seed: 0\nsteps", f"seed: {seed}\nsteps"))
        summary = json.loads((path / "summary.json").read_text())
        summary |= {"status": status, "best": {"objective": "metric/x/y", "value": best, "step": 1}}
        summary["options"]["loss"] = name
        (path / "summary.json").write_text(json.dumps(summary))
    Path("outputs/sweeps/s/jobs.jsonl").touch()


def test_a_table_of_runs(small_run):
    make_runs(small_run)
    table = gan_runner.runs("outputs/sweeps/s")
    assert list(table.index) == ["a", "b"]
    assert list(table.columns[:7]) == ["sweep", "status", "step", "wall_time", "objective", "best", "loss"]
    assert table["sweep"].tolist() == ["s", "s"]
    assert table["status"].tolist() == ["completed", "failed"]
    assert table["seed"].tolist() == [0, 1]
    best, none = table["best"]
    assert best == 2.5
    assert math.isnan(none)
    assert table["loss/generator"].tolist() == [rows("run/metrics.jsonl")[-1]["loss/generator"]] * 2
    assert list(gan_runner.runs("outputs").index) == list(gan_runner.runs().index) == ["sweeps/s/a", "sweeps/s/b"]
    assert len(gan_runner.runs(small_run)) == 1
    of_both = gan_runner.runs("outputs/sweeps/s", small_run, "outputs")
    assert list(of_both.index) == ["outputs/sweeps/s/a", "outputs/sweeps/s/b", str(small_run)]
    assert of_both["sweep"].isna().tolist() == [False, False, True]
    with pytest.raises(ConfigError, match="nowhere"):
        gan_runner.runs("nowhere")


def test_every_metric_of_a_run_is_in_the_table(run_cli):
    words = [word for word in SMALL if not word.startswith("metric")]
    assert run_cli(*words, *METRIC, "hydra.run.dir=run")[0] == 0
    table = gan_runner.runs("run")
    assert table["objective"].tolist() == ["metric/sliced_wasserstein/distance"]
    assert table["best"].tolist() == table["metric/sliced_wasserstein/distance"].tolist()
