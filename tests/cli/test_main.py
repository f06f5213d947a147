"""The command line: one short message for each mistake, and answers before torch is imported."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import METRIC, refusal, some

FAST = ["model=mlp", "steps=2", "batch_size=8", "device=cpu", "sample_count=4", "metric=none"]

MISTAKES = {  # the words of a line -> what its one message names: the key, the value, what it may be
    "regularizer=gpp": "regularizer=gpp 'gradient_penalty' (options:",
    "loss=hing": "loss=hing 'hinge'",
    "modle=mlp": "'modle' 'model'",
    "optmizer.lr=1": "'optmizer.lr' 'optimizer.lr'",
    "regularizer=r1 regularizer.r1.weigth=1": "'regularizer.r1.weigth' r1.weight'",
    "regularizer.r1.weight=3": "regularizer.r1 regularizer=r1",
    "lr_schedule@regularizer.r1.schedule=linear": "regularizer.r1 regularizer=r1",
    "+stpes=1": "'stpes' 'steps'",
    "+model.generator.widht=1": "'model.generator.widht' 'width'",
    "+regularizer.gradient_penalty.wieght=1": "'regularizer.gradient_penalty.wieght' 'weight'",
    "optimizer.discriminator.lrr=1": "'optimizer.discriminator.lrr' 'lr'",
    "+regularizer.r9.weight=1": "regularizer.r9 'r9'",
    "steps=abc": "steps=abc number",
    "steps=1.5": "steps=1.5 whole number",
    "steps=0": "steps=0 1",
    "steps=null": "steps epochs null",
    "batch_size=true": "batch_size=true number",
    "seed=-1": "seed=-1 0",
    "precision=fp16": "precision=fp16 'fp32' 'bf16'",
    "optimizer.lr=fast": "optimizer.lr=fast number",
    "optimizer.lr=-1": "optimizer -1",
    "model.generator.width=wide": "model.generator.width=wide number",
    "model.generator.activation=rleu": "model.generator.activation=rleu 'relu',",
    "model.latent_distribution=gauss": "model.latent_distribution=gauss normal uniform",
    "regularizer.gradient_penalty.weight=-1": "gradient_penalty.weight=-1 0",
    "regularizer.gradient_penalty.every=0": "gradient_penalty.every=0 1",
    "regularizer=l1 regularizer.l1.on=[both]": "regularizer.l1.on=[\"both\"] 'generator' 'discriminator'",
    "regularizer=r1 +regularizer.r1.on=[generator]": "regularizer.r1.on= discriminator",
    "regularizer=[l1,l1]": "regularizer 'l1' twice",
    "augmentation=[diffaugment,diffaugment]": "augmentation 'diffaugment' twice",
    "model.discriminator.normalization=batch": "normalization=batch regularizer.gradient_penalty",
    "batch_size=5000": "batch_size=5000 1617",
    "dataset=ring model=mlp steps=null epochs=2": "epochs=2 steps=",
    "dataset=ring": "model.generator model=mlp",
    "device=cuda:7": "device=cuda:7",
    "device=tpu": "device=tpu",
    "dataset=image_folder": "dataset.root dataset.root=...",
    "dataset=image_folder dataset.root=nowhere": "dataset.root nowhere",
    "dataset=npy dataset.path=nowhere.npy": "dataset.path nowhere.npy",
    "steps=1,2": "steps=1,2 -m",
    "foo=[1": "'foo=[1'",
    "steps=2 foo": "'foo' key=value",
    "--seed=3": "--seed=3 seed=VALUE",
    "--mutlirun": "--mutlirun '--multirun'",
    "smaple x": "smaple 'sample'",
    "resum x": "resum 'resume'",
    "resume x": "x run directory",
    "sample nowhere": "nowhere run directory",
    "init_from=nowhere": "init_from=nowhere nowhere/checkpoints/last.pt",
    "hydra.run.dir=taken": "taken hydra.run.dir",
    "name=../x": "name=../x letters",
    "name=latest": "name=latest reserved",
    "-m name=x seed=0,1": "name=x sweep=NAME",
    "sample latest": "latest outputs",
    "loss=[bce,hinge]": "loss=[bce,hinge] -m loss=",
    "~loss": "~loss",
    "~regularizer.gradient_penalty.weight": "~regularizer.gradient_penalty.weight",
    "+regularizer.gradient_penalty.on=[]": "regularizer.gradient_penalty.on=[]",
    "+regularizer.loss._target_=gan_runner.penalties.r1": "regularizer.loss name",
    "regularizer=[r1,r3]": "regularizer=r3 r1, r2",
    "+model.foo=1": "'model.foo'",
    "model.latent_size=0": "model.latent_size=0 1",
    "augmentation=diffaugment dataset=ring model=mlp": "augmentation=diffaugment images",
    "model.generator=null": "model.generator",
    "loss._target_=torch.nn.ReLU": "loss model ReLU",
    "--experimental-rerun=x.pickle": "--experimental-rerun",
    "hydra.output_subdir=.hydra": "hydra.output_subdir",
    "steps": "steps steps=VALUE",
    "--steps 20": "--steps steps=VALUE",
    "sample": "sample DIR",
    "loss._target_=torch.load": "loss._target_=torch.load not allowed",
    "loss._target_=torch.hub.load": "loss._target_=torch.hub.load not allowed",
    "loss._target_=torch.nn.functional.importlib.import_module": "import_module not allowed",
    "loss._target_=torch.nn.functional.relu": "functional.relu not allowed",
    "loss._target_=mine.Loss": "mine.Loss not allowed trust=[mine]",
    "loss._target_=gan_runner.losses.Hindge": "Hindge 'Hinge'",
    "loss._target_=gan_runner.penalties.torch.load": "penalties.torch.load not allowed",
}


@pytest.mark.parametrize("line", some(MISTAKES, every=4))
def test_a_mistake_gets_one_short_message(line, run_cli):
    Path("taken").mkdir()
    Path("taken/summary.json").write_text("{}")
    before = sorted(Path().rglob("*"))
    outcome = run_cli(*line.split())
    refusal(outcome, *MISTAKES[line].split())
    assert not outcome[1]
    assert sorted(Path().rglob("*")) == before  # no directory for a run that never began


def test_bad_data_is_named(run_cli):
    Path("photos dir").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(f"photos dir/{name}.png")
    whole = Path("photos dir/b.png").read_bytes()
    Path("photos dir/b.png").write_bytes(whole[: len(whole) // 2])
    words = ["dataset=image_folder", "dataset.root=photos dir", *FAST, "batch_size=2"]
    refusal(run_cli(*words), "dataset", "b.png")
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save("photos dir/b.png")
    refusal(run_cli(*words), "dataset.image_size")
    assert run_cli(*words, "dataset.image_size=16")[0] == 0
    np.save("array.npy", np.zeros((4, 3), dtype="U1"))
    refusal(run_cli("dataset=npy", "dataset.path=array.npy", *FAST), "dataset", "array.npy")


@pytest.mark.slow
def test_a_preset_gives_way_to_the_command_line(run_cli, tmp_path):
    """A group chosen on the command line comes without the preset's settings for another option."""
    Path("mine/experiment").mkdir(parents=True)
    Path("mine/experiment/mine.yaml").write_text(
        "# @package _global_\n"
        "defaults: [{override /model: mlp}, {override /loss: hinge}, {override /regularizer: [r1, l1]},"
        " {override /optimizer: adam}, _self_]\n"
        "model: {generator: {width: [8, 8], depth: null}}\n"
        "regularizer: {r1: {weight: 3.0}, l1: {weight: 0.5}}\n"
        "optimizer: {betas: [0.5, 0.9]}\n"
    )
    base = ["--config-dir", "mine", "experiment=mine", *FAST[1:], "on_divergence=ignore", "hydra.run.dir=run"]

    def config(*words):
        code, _, error = run_cli(*base, *words)
        assert code == 0, error
        import shutil

        import yaml

        stored = yaml.safe_load(Path("run/.hydra/config.yaml").read_text())
        log = Path("run/gan_runner.log").read_text()
        shutil.rmtree("run")
        return stored, log

    stored, _ = config()
    assert stored["regularizer"]["r1"]["weight"] == 3
    stored, _ = config("dataset=ring", "dataset.modes=3")  # a key that the preset's dataset does not have
    assert stored["dataset"]["modes"] == 3
    assert stored["optimizer"]["betas"] == [0.5, 0.9]
    stored, log = config("optimizer=rmsprop", "optimizer.lr=0.5", "model=mlp", "regularizer=r1")
    assert "betas" not in stored["optimizer"]
    assert stored["optimizer"]["lr"] == 0.5
    assert stored["model"]["generator"]["width"] == [8, 8]  # mlp is what the preset chose
    assert set(stored["regularizer"]) == {"r1"}
    assert stored["regularizer"]["r1"]["weight"] == 3
    assert re.search(r"regularizer\.l1 .*preset", log)
    stored, _ = config("model=dcgan", "model.generator.width=8")
    assert stored["model"]["generator"]["width"] == 8
    assert stored["model"]["discriminator"]["_target_"] == "gan_runner.models.dcgan.Discriminator"


def test_a_class_of_ones_own_package(run_cli, monkeypatch):
    Path("my_package").mkdir()
    Path("my_package/__init__.py").write_text("")
    Path("my_package/losses.py").write_text(
        "class Mine:\n"
        "    def discriminator(self, view): return view.fake_logits - view.real_logits\n"
        "    def generator(self, view): return -view.fake_logits\n"
    )
    Path("conf/loss").mkdir(parents=True)
    Path("conf/loss/mine.yaml").write_text("_target_: my_package.losses.Mine\n")
    monkeypatch.syspath_prepend(".")
    words = ["--config-dir", "conf", "loss=mine", *FAST]
    refusal(run_cli(*words), "trust=[my_package]")
    assert run_cli(*words, "trust=[my_package]")[0] == 0
    Path("conf/loss/mine.yaml").write_text(
        "# @package _global_\nloss: {_target_: my_package.losses.Mine}\ntrust: [my_package]\n"
    )
    refusal(run_cli(*words), "my_package.losses.Mine", "not allowed")  # a file cannot trust itself


def python(*code: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(code)]


@pytest.mark.parametrize("flag", ["--help", "--cfg=job"])
def test_help_and_cfg_import_neither_torch_nor_numpy(flag):
    code = python(
        "import sys",
        f"sys.argv = ['gan-runner', '{flag}']",
        "from gan_runner.cli.main import main",
        "try: main()",
        "except SystemExit: pass",
        "loaded = {'torch', 'numpy', 'torchvision', 'matplotlib', 'PIL', 'rich', 'pydantic'} & set(sys.modules)",
        "assert not loaded, loaded",
    )
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    wanted = (
        ["gan-runner sample", "regularizer:", "relativistic_average"]
        if flag == "--help"
        else ["discriminator_steps: 5"]
    )
    assert all(text in done.stdout for text in wanted), done.stdout


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gan_runner", *words]


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_from_another_directory_into_a_pipe(count, tmp_path):
    """As a user: a subprocess, a path with a space, output to a pipe, two runs at once."""
    place = tmp_path / "a place"
    place.mkdir()
    words = command("model=mlp", "steps=3", "batch_size=8", "log_every=1", "sample_every=2", *METRIC)
    runs = [
        subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for run in runs:
        out, error = run.communicate(timeout=120)
        assert run.returncode == 0, error
        assert not error
        assert out.startswith("gan-runner ")
        assert "\x1b" not in out
        assert "outputs/" in out
    found = sorted(place.glob("outputs/*/*"))
    assert len(found) == count
    for directory in found:
        names = {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}
        events = {name for name in names if name.startswith("events.out")}
        assert len(events) == 1
        assert names - events == {
            ".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml", "gan_runner.log", "metrics.jsonl",
            "summary.json", "samples/real.png", "samples/step_00000002.png", "samples/step_00000003.png",
            "checkpoints/last.pt", "checkpoints/last.pt.sha256", "checkpoints/best.pt", "checkpoints/best.pt.sha256",
            "evaluations.jsonl", ".lock",
        }  # fmt: skip


@pytest.mark.slow  # within a process it stands in tests/training/test_resume.py
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_marks_the_run(number, code, tmp_path):
    import json

    words = command("dataset=ring", "metric=none", "model=mlp", "steps=1000000", "log_every=1", "hydra.run.dir=run")
    run = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 100
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert json.loads((tmp_path / "run/summary.json").read_text())["status"] == "running"
    run.send_signal(number)
    out, error = run.communicate(timeout=60)
    assert run.returncode == code, error
    assert not error
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("interrupted", signal.Signals(number).name)
    import torch

    saved = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)
    assert saved["step"] == summary["step"] > 0
    assert re.search(rf"interrupted .*{summary['step']:,}", out)
    assert "\n  gan-runner resume run\n" in out


@pytest.mark.parametrize("library", ["hydra", "torch"])
def test_ctrl_c_during_an_import_is_quiet(library, tmp_path):
    Path("early").mkdir()
    Path(f"early/{library}.py").write_text("raise KeyboardInterrupt\n")
    done = subprocess.run(
        command("dataset=ring", *FAST),
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": "early"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert not Path("outputs").exists()


def test_no_file_can_trust_what_the_command_line_does_not(run_cli, monkeypatch):
    """Not even by adding to what Hydra notes as the words of the command line."""
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Loss: pass\n")
    monkeypatch.syspath_prepend(".")
    Path("conf/loss").mkdir(parents=True)
    Path("conf/loss/evil.yaml").write_text(
        "# @package _global_\nloss: {_target_: evil.Loss}\nhydra: {overrides: {task: ['trust=[evil]']}}\n"
    )
    refusal(run_cli("--config-dir", "conf", "loss=evil", *FAST), "evil.Loss", "not allowed")
    assert not Path("ran").exists()


def test_directories_of_the_users_choice_stay(run_cli):
    Path("mine/empty").mkdir(parents=True)
    refusal(run_cli("hydra.run.dir=mine/empty", "steps=0"), "steps=0")
    assert Path("mine/empty").is_dir()
    Path("mine/full").mkdir()
    Path("mine/full/metrics.jsonl").write_text("precious")
    refusal(run_cli("hydra.run.dir=mine/full", *FAST), "mine/full", "metrics.jsonl")
    assert [path.name for path in Path("mine/full").iterdir()] == ["metrics.jsonl"]


def test_a_run_with_a_name(run_cli):
    code, out, error = run_cli("name=first_try", *FAST)
    assert code == 0, error
    assert "outputs/first_try" in out
    before = Path("outputs/first_try/summary.json").read_bytes()
    refusal(run_cli("name=first_try", *FAST), "outputs/first_try", "name")
    assert Path("outputs/first_try/summary.json").read_bytes() == before
    code, out, error = run_cli("sample", "latest")
    assert (code, out) == (0, "outputs/first_try/generated/seed_0.png\n"), error
    refusal(run_cli("resume", "latest", "name=other"), "name")
    refusal(run_cli("name=x", "hydra.run.dir=y", *FAST), "name=x", "hydra.run.dir")


@pytest.mark.slow
def test_a_run_without_a_name_is_called_by_what_differs(run_cli):
    code, _, error = run_cli("dataset=ring", "optimizer.lr=0.10", *FAST)
    assert code == 0, error
    (run,) = Path("outputs").glob("*/*")
    assert re.fullmatch(r"[\d-]{15}_dataset-ring_lr-0.1_model-mlp_steps-2_batch_size-8_metric-none", run.name)


def test_flags_may_stand_anywhere(run_cli):
    code, _, error = run_cli("dataset=ring", "-m", *FAST, "seed=0,1")
    assert code == 0, error
    assert len(list(Path("outputs/sweeps").glob("*/*/summary.json"))) == 2


def test_the_first_line_says_what_is_trained(run_cli):
    _, out, _ = run_cli(*FAST, "regularizer=l1", "regularizer.gradient_penalty.weight=5")
    assert "mlp on digits, wgan_gp + gradient_penalty 5 + l1 0.0001, adam, batch 8, seed 0" in out


@pytest.mark.slow
def test_a_reader_that_goes_away_does_not_end_the_training(tmp_path):
    words = shlex.join(command("dataset=ring", *FAST, "hydra.run.dir=run"))
    subprocess.run(f"{words} | true", shell=True, check=False, capture_output=True, timeout=120)
    assert '"status": "completed"' in (tmp_path / "run/summary.json").read_text()


def test_a_reader_that_goes_away_ends_other_output_quietly():
    process = subprocess.Popen(command("--cfg=job"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    process.stdout.close()
    process.stdout = None
    assert (process.communicate(timeout=60)[1], process.returncode) == ("", 1)


def test_a_network_of_the_wrong_shape_is_refused_before_the_first_step(run_cli, monkeypatch):
    Path("nets.py").write_text(
        "import torch\nclass Column(torch.nn.Module):\n"
        "    def __init__(self, shape): super().__init__(); self.layer = torch.nn.Linear(64, 1)\n"
        "    def forward(self, samples, labels): return self.layer(samples.flatten(1))\n"
    )
    monkeypatch.syspath_prepend(".")
    Path("conf/model").mkdir(parents=True)
    Path("conf/model/column.yaml").write_text("defaults: [mlp, _self_]\ndiscriminator: {_target_: nets.Column}\n")
    words = ["--config-dir", "conf", "model=column", "trust=nets"]
    refusal(run_cli(*words), "'model.discriminator.")  # the keys of mlp, which Column does not take
    Path("conf/model/column.yaml").write_text(
        "latent_size: 4\ngenerator: {_target_: gan_runner.models.mlp.Generator, width: 8, depth: 1, activation: relu,"
        " normalization: none, dropout: 0.0, initialization: default, output_activation: null}\n"
        "discriminator: {_target_: nets.Column}\n"
    )
    refusal(run_cli(*words), "model.discriminator", "(2, 1)", "(2,)")
