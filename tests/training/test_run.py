"""A run directory, from the first line to `sample`."""

import io
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageColor
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from gan_runner.training.image_grid import REAL
from gan_runner.training.log import RunLog
from tests.helpers import refusal, runs

WORDS = [
    "model=mlp", "model.generator.width=16", "model.discriminator.width=16", "model.latent_size=4", "steps=5",
    "batch_size=8", "log_every=2", "sample_every=3", "checkpoint_every=2", "sample_count=9", "device=cpu",
    "regularizer=[r1,lecam]", "regularizer.lecam.start=0", "ema_half_life=8", "metric=none", "hydra.run.dir=run dir",
]  # fmt: skip
RUN = Path("run dir")


def pixels(name: str) -> np.ndarray:
    with Image.open(RUN / name) as image:
        return np.asarray(image)


def summary():
    return runs.summary(RUN)


def metrics():
    return runs.rows(RUN / "metrics.jsonl")


@pytest.fixture
def run(run_cli):
    code, out, error = run_cli(*WORDS)
    assert code == 0, error
    return out


def test_the_log(run):
    rows = metrics()
    assert [row["step"] for row in rows] == [2, 4, 5]  # and the last, whatever the interval
    assert [row["images"] for row in rows] == [80, 160, 200]  # 5 discriminator updates a step
    assert set(rows[0]) == {
        "step", "images", "seconds", "images_per_second", "loss/generator", "loss/discriminator",
        "penalty/gradient_penalty", "weight/gradient_penalty", "penalty/r1", "weight/r1", "penalty/lecam",
        "weight/lecam", "state/lecam/real_mean", "state/lecam/fake_mean", "state/lecam/updates", "logits/real",
        "logits/fake", "logits/held_out", "accuracy/real", "accuracy/fake", "accuracy/held_out",
        "diversity", "gradient_norm/generator", "gradient_norm/discriminator", "learning_rate/generator",
        "learning_rate/discriminator",
    }  # fmt: skip
    assert rows[-1]["state/lecam/updates"] == 25
    assert rows[-1]["weight/gradient_penalty"] == 10
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert rows[0]["loss/discriminator"] == pytest.approx(rows[0]["logits/fake"] - rows[0]["logits/real"], abs=1e-5)
    text = (RUN / "gan_runner.log").read_text()
    assert text == run
    assert text.startswith("gan-runner ")
    assert "wgan_gp + gradient_penalty + r1 10 + lecam 0.3" in text
    assert "as suits images: optimizer.lr=0.0005 regularizer.gradient_penalty.weight=10" in text


def test_tensorboard_shows_the_same(run):
    assert len(list(RUN.glob("events.out.tfevents.*"))) == 1
    assert not [path for path in RUN.iterdir() if path.is_dir() and path.name.isdigit()]
    events = EventAccumulator(str(RUN))
    events.Reload()
    tags = events.Tags()
    assert set(tags["scalars"]) == set(metrics()[0]) - {"step"}
    assert [(e.step, e.value) for e in events.Scalars("loss/generator")] == [
        (row["step"], pytest.approx(row["loss/generator"], rel=1e-6)) for row in metrics()
    ]
    assert [image.step for image in events.Images("samples")] == [3, 5]
    assert events.Images("samples")[-1].encoded_image_string == (RUN / "samples/step_00000005.png").read_bytes()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert hparams["loss"].string_value == "wgan_gp"
    assert not [name for name in hparams if "_target_" in name]
    (text,) = events.Tensors("config/text_summary")[0].tensor_proto.string_val
    assert text.decode() == f"```yaml\n{(RUN / '.hydra/config.yaml').read_text()}```"


def test_the_summary(run):
    found = summary()
    assert (found["status"], found["reason"], found["step"]) == ("completed", None, 5)
    assert found["metrics"]["loss/generator"] == metrics()[-1]["loss/generator"]
    assert found["parameters"]["discriminator"] == 64 * 16 + 16 + 2 * (16 * 16 + 16) + 16 + 1
    assert found["versions"]["torch"] == torch.__version__
    assert found["wall_time"] > 0
    assert {"host", "pid", "commit", "device", "started", "images_per_second"} <= set(found)


def test_the_pictures(run):
    first, last = pixels("samples/step_00000003.png"), pixels("samples/step_00000005.png")
    assert first.shape == last.shape == pixels("samples/real.png").shape == (100, 100)  # 3 x 32, and 2 gaps of 2
    assert (first != last).any()


@pytest.mark.slow
def test_the_stored_config_gives_the_same_run(run, run_cli):
    shutil.move(RUN, "first")
    words = yaml.safe_load(Path("first/.hydra/overrides.yaml").read_text())
    assert words == WORDS[:-1]  # hydra.run.dir is Hydra's
    code, _, error = run_cli("--config-path", str(Path("first/.hydra").absolute()), "--config-name", "config",
                             "hydra.run.dir=run dir", "hydra.output_subdir=null", "hydra/job_logging=none")  # fmt: skip
    assert code == 0, error
    assert runs.metrics(RUN) == runs.metrics("first")


def test_checkpoints(run):
    last, previous = (torch.load(RUN / f"checkpoints/{name}.pt", weights_only=True) for name in ("last", "previous"))
    assert (last["step"], previous["step"]) == (5, 4)
    assert not [path for path in RUN.rglob("*") if "tmp" in path.name]


def test_init_from(run, run_cli):
    words = [word for word in WORDS if "hydra" not in word]
    code, _, error = run_cli(*words, "init_from=run dir", "optimizer.lr=0", "hydra.run.dir=next", "seed=1")
    assert code == 0, error
    start, end = (torch.load(f"{name}/checkpoints/last.pt", weights_only=True)["game"] for name in ("run dir", "next"))
    for key, value in start["generator"]["network"].items():
        assert value.equal(end["generator"]["network"][key])
    other = run_cli(*words, "init_from=run dir", "model.generator.width=8", "hydra.run.dir=other")
    refusal(other, "init_from=run dir", "size mismatch")


def test_a_failing_run_says_so(run_cli, monkeypatch):
    from gan_runner.games.adversarial import Adversarial

    def fail(self, step, **options):
        raise RuntimeError("the sky fell")

    monkeypatch.setattr(Adversarial, "step", fail)
    code, _, error = run_cli(*WORDS)
    assert code == 1
    assert "RuntimeError: the sky fell" in error
    assert "Traceback" in error
    assert (summary()["status"], summary()["reason"]) == ("failed", "RuntimeError: the sky fell")
    assert "Traceback" in (RUN / "gan_runner.log").read_text()


def test_epochs_end_a_run(run_cli):
    code, _, error = run_cli(*WORDS, "steps=null", "epochs=2", "batch_size=200", "discriminator_steps=4")
    assert code == 0, error
    assert summary()["step"] == 2 * 3  # 1617 training digits in steps of 800 samples, rounded up


# --- what is shown while it runs


def test_an_evaluation_is_printed_with_the_best_so_far(run_cli):
    words = [word for word in WORDS if not word.startswith("metric")]
    words += ["dataset=ring", "metric=wasserstein", "metric.wasserstein.samples=30", "evaluate_every=2"]
    code, out, error = run_cli(*words)
    assert code == 0, error
    lines = re.findall(r"^step (\d): wasserstein/distance \S+  \(best wasserstein/distance (.*)\)", out, re.MULTILINE)
    assert [step for step, _ in lines] == ["2", "4"]
    assert lines[0][1] == "so far"
    assert lines[1][1] == "so far" or lines[1][1].endswith(", at step 2")
    assert "measured by wasserstein, every 2 steps" in out
    assert " points/s" in out
    assert "images/s" not in out


def test_an_autoencoder_shows_its_losses(run_cli):
    code, out, error = run_cli(
        "model=vae", "loss=elbo", "dataset.normalization=unit", "metric=none", "steps=2", "hydra.run.dir=run dir"
    )
    assert code == 0, error
    assert re.search(r"step 2/2  autoencoder \S+  kl \S+  \d+ images/s", out)


def test_progress_in_a_pipe_has_the_time_that_remains(tmp_path):
    with RunLog(tmp_path, 100, {}) as log:
        log.advance(10)
        assert log.began is not None
        log.began = (log.began[0] - 60, 10)
        assert log.remaining(20) == "  ETA 0:08:00"
        assert log.remaining(100) == ""


@pytest.mark.parametrize("width", [50, 60, 80, 120])
def test_the_counter_is_whole_in_a_narrow_terminal(tmp_path, width):
    with RunLog(tmp_path, 123456, {}) as log:
        log.progress.update(log.bar, completed=98765, losses="generator -1.234  discriminator 0.1234  12345 images/s")
        shown = io.StringIO()
        Console(width=width, file=shown, color_system=None).print(log.progress.get_renderable())
        line = shown.getvalue()
    assert line.startswith("98765/123456 ")
    assert "generator" in line
    assert len(line.splitlines()) == 1


def test_the_first_line_has_what_is_not_the_default(run_cli):
    words = [word for word in WORDS if not word.startswith("regularizer")]
    _, out, _ = run_cli(
        *words, "optimizer@optimizer.discriminator=rmsprop", "optimizer.generator.lr=0.001", "lr_schedule=cosine",
        "conditional=true", "loss=hinge",
    )  # fmt: skip
    first = out.splitlines()[0]
    for part in ("conditional", "hinge, adam (", "generator adam 0.001", "discriminator rmsprop 5e-05", "cosine rate"):
        assert part in first


# --- sample


def generated():
    return sorted(path.name for path in (RUN / "generated").iterdir())


def test_sample_draws_a_grid(run, run_cli):
    code, out, error = run_cli("sample", str(RUN), "--count", "6", "--seed", "3")
    assert code == 0, error
    assert generated() == ["seed_3_count_6.png"]
    assert out.strip().endswith("seed_3_count_6.png")
    assert pixels("generated/seed_3_count_6.png").shape == (66, 100)
    before = (RUN / "generated/seed_3_count_6.png").read_bytes()
    run_cli("sample", str(RUN), "--count", "6", "--seed", "3")
    assert (RUN / "generated/seed_3_count_6.png").read_bytes() == before


@pytest.mark.slow
def test_what_makes_other_samples_makes_another_name(run, run_cli):
    (RUN / "checkpoints/copy.pt").write_bytes((RUN / "checkpoints/previous.pt").read_bytes())
    flags: list[list[str]] = [
        [], ["--count", "9"], ["--interpolate"], ["--checkpoint", "previous"], ["--raw"], ["--truncation", "2"],
        ["--checkpoint", str(RUN / "checkpoints/copy.pt")], ["--seed", "1"],
    ]  # fmt: skip
    for words in flags:
        assert run_cli("sample", str(RUN), *words)[0] == 0
    assert len(generated()) == len(flags)
    assert "seed_0.png" in generated()
    assert "seed_0_previous.png" in generated()


def test_sample_needs_no_dataset(run_cli, monkeypatch):
    np.save("images.npy", np.random.default_rng(0).integers(0, 256, (20, 12, 10, 3), dtype=np.uint8))
    code, _, error = run_cli(*WORDS, "dataset=npy", "dataset.path=images.npy", "dataset.normalization=standard")
    assert code == 0, error
    Path("images.npy").unlink()
    code, _, error = run_cli("sample", str(RUN), "--count", "2", "--images")
    assert code == 0, error
    assert generated() == ["seed_0_count_2_00000.png", "seed_0_count_2_00001.png"]
    assert pixels("generated/seed_0_count_2_00000.png").shape == (12, 10, 3)


def test_sample_arrays_raw_weights_and_walks(run, run_cli):
    assert run_cli("sample", str(RUN), "--out", "mean.npz", "--count", "5")[0] == 0
    assert run_cli("sample", str(RUN), "--out", "raw.npz", "--count", "5", "--raw")[0] == 0
    mean, raw = (np.load(f"{name}.npz")["samples"] for name in ("mean", "raw"))
    assert mean.shape == raw.shape == (5, 1, 8, 8)
    assert mean.dtype == np.uint8
    assert (mean != raw).any()
    assert run_cli("sample", str(RUN), "--out", "walk.npz", "--count", "16", "--interpolate")[0] == 0
    walk = np.load("walk.npz")["samples"].astype(float)
    steps = np.abs(np.diff(walk, axis=0)).mean((1, 2, 3))
    assert steps[7] > 3 * np.delete(steps, 7).max()  # a new row starts elsewhere
    assert run_cli("sample", str(RUN), "--out", "old.npz", "--count", "5", "--checkpoint", "previous")[0] == 0
    assert (np.load("old.npz")["samples"] != mean).any()


def test_sample_with_truncated_latents(run, run_cli):
    """Less variety, the more so the narrower."""
    spreads = []
    for words in ([], ["--truncation", "0.5"], ["--truncation", "1e-6"]):
        assert run_cli("sample", str(RUN), "--out", "x.npz", "--raw", *words)[0] == 0
        spreads.append(np.load("x.npz")["samples"].astype(float).std(0).mean())
    assert spreads[0] > spreads[1] > spreads[2] == 0
    words = ["--truncation", "0.5", "--count", "8", "--interpolate", "--raw"]
    assert run_cli("sample", str(RUN), *words)[0] == 0
    assert generated() == ["seed_0_count_8_interpolation_truncation_0.5_raw.png"]
    for wrong in ("0", "-1", "nan", "inf", "x"):
        refusal(run_cli("sample", str(RUN), f"--truncation={wrong}"), "--truncation")


@pytest.mark.parametrize("words", [["model.latent_size=1"], ["model.latent_distribution=uniform"]], ids=str)
def test_walks_are_finite(run_cli, words):
    words = [word for word in WORDS if not word.startswith(words[0].split("=")[0])] + words
    assert run_cli(*words)[0] == 0
    assert run_cli("sample", str(RUN), "--out", "walk.npz", "--interpolate")[0] == 0
    rows_of_samples = np.load("walk.npz")["samples"].astype(float).reshape(8, 8, -1)
    assert (np.abs(np.diff(rows_of_samples, axis=1)).sum((1, 2)) > 0).sum() > 4


def test_sample_points(run_cli):
    words = [word for word in WORDS if "hydra" not in word]
    assert run_cli(*words, "dataset=ring", "hydra.run.dir=run dir")[0] == 0
    assert run_cli("sample", str(RUN))[0] == 0
    picture = pixels("generated/seed_0.png")
    assert picture.shape == (512, 512, 3)
    blue = np.array(ImageColor.getrgb(REAL))
    assert (np.abs(picture.astype(int) - blue).max(2) < 60)[40:].sum() > 100  # the real points, below the legend
    assert run_cli("sample", str(RUN), "--out", "points.npz")[0] == 0
    arrays = np.load("points.npz")
    assert {name: arrays[name].shape for name in arrays} == {"samples": (64, 2), "latents": (64, 4)}
    refusal(run_cli("sample", str(RUN), "--images"), "--images")


def test_sample_refuses(run, run_cli):
    def refuses(named, *words):
        outcome = run_cli("sample", str(RUN), *words)
        refusal(outcome, *named.split())
        assert not outcome[1]

    refuses("best.pt", "--checkpoint", "best")
    refuses("'devcie' 'device'", "devcie=cpu")
    refuses("device=tpu", "device=tpu")
    (RUN / "checkpoints/last.pt").write_bytes((RUN / "checkpoints/last.pt").read_bytes()[:1000])
    refuses("last.pt damaged")
    (RUN / "checkpoints/last.pt.sha256").unlink()
    refuses("last.pt")
    (RUN / "checkpoints/last.pt").write_bytes(b"")
    refuses("last.pt")
    (RUN / ".hydra/config.yaml").write_text("a: [")
    refuses("config.yaml")


def test_sample_needs_none_of_what_only_trains(run_cli, monkeypatch):
    """A penalty of a package that is not at hand, or not trusted, is no part of the generator."""
    Path("mine.py").write_text("def drift(view): return view.real_logits.square()\n")
    monkeypatch.syspath_prepend(".")
    Path("conf/regularizer").mkdir(parents=True)
    Path("conf/regularizer/drift.yaml").write_text(
        "# @package regularizer.drift\n_target_: mine.drift\nrole: penalty\nweight: 0.1\n"
    )
    words = [word for word in WORDS if not word.startswith("regularizer")]
    code, _, error = run_cli("--config-dir", "conf", *words, "regularizer=drift", "trust=mine")
    assert code == 0, error
    assert run_cli("sample", str(RUN))[0] == 0
    refusal(run_cli("sample", str(RUN), "--out", "x.png"), "--out", ".npz")
    refusal(run_cli("sample", str(RUN), "--out", "x.npz", "--images"), "--out", "--images")


def test_a_signal_between_the_step_and_its_end_waits_for_the_next_step(run_cli, monkeypatch):
    """It must not end the run unsaved."""
    import os
    import signal

    from gan_runner.training.log import RunLog

    original = RunLog.scalars

    def interrupted(self, step, values):
        original(self, step, values)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(RunLog, "scalars", interrupted)
    words = [word for word in WORDS if not word.startswith(("checkpoint_every", "steps"))]
    assert run_cli(*words, "steps=50", "checkpoint_every=null")[0] == 143
    assert summary()["status"] == "interrupted"
    assert torch.load(RUN / "checkpoints/last.pt", weights_only=True)["step"] == summary()["step"] == 3
