"""`gan-runner export`: files that make what the run makes, and their cards."""

import json
import re
from pathlib import Path

import pytest
import torch

import gan_runner
from gan_runner.games.latents import Normal, TruncatedNormal, Uniform
from gan_runner.training import exporters
from gan_runner.training.model_card import LATENTS
from tests.helpers import METRIC, SMALL, refusal, some
from tests.helpers.processes import cli

CONDITIONAL = ["conditional=true", "model.generator.normalization=batch", "loss=hinge", "regularizer=none"]


def inputs(run: gan_runner.TrainedRun, count: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return torch.randn(count, 4), *([torch.arange(count)] if run.config["conditional"] else [])


def outputs(run: gan_runner.TrainedRun, *given: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return run.generator(given[0], given[1] if len(given) > 1 else None)


@pytest.mark.parametrize("words", some([CONDITIONAL, []], every=2), ids=["conditional", "unconditional"])
def test_a_program_of_pytorch(words, run_cli):
    code, _, error = run_cli(*SMALL, *words, "name=run")
    assert code == 0, error
    code, out, error = run_cli("export", "outputs/run", "--format", "pt2")
    assert (code, error) == (0, "")
    path = Path("outputs/run/export/generator.pt2")
    assert out.splitlines()[0].startswith(str(path))
    texts = {"config": "", "generator": ""}
    program = torch.export.load(path, extra_files=texts).module()
    run = gan_runner.load("outputs/run")
    for count in (2, 9):
        given = inputs(run, count)
        torch.testing.assert_close(program(*given), outputs(run, *given), atol=1e-5, rtol=0)
    assert json.loads(texts["config"])["batch_size"] == 8
    about = json.loads(texts["generator"])
    assert (about["latent_size"], about["shape"], about["num_classes"]) == (4, [1, 8, 8], 10 if words else 0)
    assert sorted(path.name for path in path.parent.iterdir()) == ["generator.png", "generator.pt2", "generator.pt2.md"]


def test_the_card(run_cli):
    words = [word for word in SMALL if not word.startswith("metric")]
    assert run_cli(*words, *METRIC, "name=run", "regularizer=l1")[0] == 0
    assert run_cli("export", "outputs/run", "--format", "pt2", "--out", "away/mine.pt2")[0] == 0
    card = Path("away/mine.pt2.md").read_text()
    assert "name=run regularizer=l1`" in card
    assert "digits, 1,617 samples" in card
    assert Path("away/mine.png").exists()
    assert "![Samples](mine.png)" in card
    summary = json.loads(Path("outputs/run/summary.json").read_text())
    tag = "metric/sliced_wasserstein/distance"
    row = re.search(r"sliced_wasserstein.distance \| (\S+) \| (\S+)", card)
    assert row
    assert float(row[1]) == pytest.approx(summary["metrics"][tag], rel=1e-4)
    assert float(row[2]) == pytest.approx(summary["floors"][tag]["floor"], rel=1e-3)
    code = re.search(r"```python\n(.*?)```", card, re.S)
    assert code
    names: dict = {}
    exec(code[1].replace("mine.pt2", "away/mine.pt2"), names)
    assert names["samples"].shape == (16, 1, 8, 8)


def test_a_file_that_makes_other_samples_does_not_stay(small_run, run_cli, monkeypatch):
    read = exporters.ExportedProgram.read

    def wrong(self, path, sampler):
        run = read(self, path, sampler)
        return lambda *given: run(*given) + 2e-4

    monkeypatch.setattr(exporters.ExportedProgram, "read", wrong)
    refusal(run_cli("export", "run", "--format", "pt2"), "generator.pt2", "0.0002", "removed")
    assert not list(Path("run/export").iterdir())


def test_what_cannot_be_exported(small_run, run_cli, monkeypatch):
    refusal(run_cli("export", "run", "--format", "pt2", "--out", "x.onnx"), "x.onnx", ".pt2")
    refusal(run_cli("export", "run", "--format", "keras"), "keras", "onnx")
    refusal(run_cli("export", "run", "--format", "pt2", "--checkpoint", "7"), "step_00000007.pt")
    monkeypatch.setattr(exporters, "find_spec", lambda name: None)
    refusal(run_cli("export", "run", "--format", "onnx"), "onnxruntime", "pip install 'gan-runner[export]'")


def test_onnx(small_run):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    process = cli("export", "run", "--format", "onnx")
    _, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    session = onnxruntime.InferenceSession("run/export/generator.onnx")
    assert json.loads(session.get_modelmeta().custom_metadata_map["config"])["batch_size"] == 8
    run = gan_runner.load("run")
    (latents,) = inputs(run, 9)
    (found,) = session.run(None, {"latents": latents.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), outputs(run, latents), atol=1e-5, rtol=0)


def test_safetensors(small_run, run_cli):
    safetensors = pytest.importorskip("safetensors.torch")
    assert run_cli("export", "run", "--format", "safetensors", "--raw")[0] == 0
    found = safetensors.load_file("run/export/generator.safetensors")
    saved = gan_runner.load("run", raw=True).generator.state_dict()
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)


@pytest.mark.parametrize(
    "latents", [Normal(3), Uniform(3), TruncatedNormal(3, bound=0.5)], ids=lambda it: type(it).__name__
)
def test_the_latents_of_a_card(latents):
    import numpy as np
    import scipy.stats

    for kind, template in LATENTS[type(latents)].items():
        code = template.format(size=latents.size, bound=getattr(latents, "bound", None))
        drawn = np.concatenate([np.asarray(eval(code, {"np": np, "torch": torch, "scipy": scipy})) for _ in range(200)])
        assert drawn.shape == (3200, 3), kind
        reach = {Normal: 3.0, Uniform: 1.0, TruncatedNormal: 0.5}[type(latents)]
        assert 0.8 * reach < np.abs(drawn).max() <= (9 if type(latents) is Normal else reach)


def test_snapshots_are_kept_by_step(run_cli):
    code, _, error = run_cli(*SMALL, "steps=5", "checkpoint_keep=2", "name=run")
    assert code == 0, error
    folder = Path("outputs/run/checkpoints")
    assert sorted(path.name for path in folder.glob("step_*.pt")) == ["step_00000004.pt", "step_00000005.pt"]
    assert torch.load(folder / "step_00000004.pt", weights_only=True)["step"] == 4
    for name in ("4", "step_00000004", str(folder / "step_00000004.pt")):
        assert gan_runner.load("outputs/run", checkpoint=name).step == 4
    assert gan_runner.load("outputs/run", checkpoint=5).step == 5
    code, _, error = run_cli("sample", "outputs/run", "--checkpoint", "4")
    assert code == 0, error
    refusal(run_cli("sample", "outputs/run", "--checkpoint", "3"), "step_00000003.pt")
    (folder / "step_00000009.pt").touch()  # of a run that came farther before it was killed
    code, _, error = run_cli("resume", "outputs/run", "steps=6")
    assert code == 0, error
    assert sorted(path.name for path in folder.glob("step_*")) == [
        "step_00000005.pt", "step_00000005.pt.sha256", "step_00000006.pt", "step_00000006.pt.sha256",
    ]  # fmt: skip
