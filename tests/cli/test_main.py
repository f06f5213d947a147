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

FAST = ["model=mlp", "steps=2", "batch_size=8", "device=cpu", "sample_count=4", "metric=none"]

MISTAKES = [
    (["regularizer=gpp"], r"regularizer=gpp: no such option; did you mean 'gradient_penalty'\? \(options: "),
    (["loss=hing"], r"loss=hing: no such option; did you mean 'hinge'\?"),
    (["modle=mlp"], r"unknown key 'modle'; did you mean 'model'\?"),
    (["optmizer.lr=1"], r"unknown key 'optmizer.lr'; did you mean 'optimizer.lr'\?"),
    (
        ["regularizer=r1", "regularizer.r1.weigth=1"],
        r"unknown key 'regularizer.r1.weigth'; did you mean '.*r1.weight'\?",
    ),
    (["regularizer.r1.weight=3"], r"regularizer.r1 is not switched on: add regularizer=r1"),
    (["lr_schedule@regularizer.r1.schedule=linear"], r"regularizer.r1 is not switched on: add regularizer=r1"),
    (["+stpes=1"], r"unknown key 'stpes'; did you mean 'steps'\?"),
    (["+model.generator.widht=1"], r"unknown key 'model.generator.widht'; did you mean 'width'\?"),
    (["+regularizer.gradient_penalty.wieght=1"], r"unknown key 'regularizer.gradient_penalty.wieght'.*'weight'"),
    (["optimizer.discriminator.lrr=1"], r"unknown key 'optimizer.discriminator.lrr'; did you mean 'lr'\?"),
    (["+regularizer.r9.weight=1"], r"regularizer.r9 is set, but 'r9' is not switched on"),
    (["steps=abc"], r"steps=abc: must be a whole number"),
    (["steps=1.5"], r"steps=1.5: must be a whole number"),
    (["steps=0"], r"steps=0: must be greater than or equal to 1"),
    (["steps=null"], r"steps and epochs are both null"),
    (["batch_size=true"], r"batch_size=true: must be a whole number"),
    (["seed=-1"], r"seed=-1: must be greater than or equal to 0"),
    (["precision=fp16"], r"precision=fp16: must be 'fp32' or 'bf16'"),
    (["optimizer.lr=fast"], r"optimizer.lr=fast: must be a number"),
    (["optimizer.lr=-1"], r"optimizer: Invalid learning rate: -1"),
    (["model.generator.width=wide"], r"model.generator.width=wide: must be a whole number"),
    (["model.generator.activation=rleu"], r"model.generator.activation=rleu: must be 'relu', "),
    (["model.latent_distribution=gauss"], r"model.latent_distribution=gauss: must be normal or uniform"),
    (["regularizer.gradient_penalty.weight=-1"], r"gradient_penalty.weight=-1: must be greater than or equal to 0"),
    (["regularizer.gradient_penalty.every=0"], r"gradient_penalty.every=0: must be greater than or equal to 1"),
    (["regularizer=l1", "regularizer.l1.on=[both]"], r"regularizer.l1.on=\[\"both\"\]: must be 'generator', 'discr"),
    (
        ["regularizer=r1", "+regularizer.r1.on=[generator]"],
        r"regularizer.r1.on=.*: this penalty is only for the discriminator",
    ),
    (["regularizer=[l1,l1]"], r"regularizer: 'l1' is named twice"),
    (["augmentation=[diffaugment,diffaugment]"], r"augmentation: 'diffaugment' is named twice"),
    (
        ["model.discriminator.normalization=batch"],
        r"normalization=batch: it mixes the samples, but regularizer.gradient_p",
    ),
    (["batch_size=5000"], r"batch_size=5000: the dataset has only \d+ samples"),
    (["dataset=ring", "model=mlp", "steps=null", "epochs=2"], r"epochs=2: this dataset is endless; say steps="),
    (["dataset=ring"], r"model.generator: .*model=mlp"),
    (["device=cuda:7"], r"device=cuda:7: PyTorch finds "),
    (["device=tpu"], r"device=tpu: no such device"),
    (["dataset=image_folder"], r"dataset.root is not set: add dataset.root=\.\.\."),
    (["dataset=image_folder", "dataset.root=nowhere"], r"dataset.root.*nowhere"),
    (["dataset=npy", "dataset.path=nowhere.npy"], r"dataset.path.*nowhere.npy"),
    (["steps=1,2"], r"steps=1,2: several values are a sweep and want -m"),
    (["foo=[1"], r"cannot read 'foo=\[1'"),
    (["steps=2", "foo"], r"cannot read 'foo'; a setting is key=value"),
    (["--seed=3"], r"--seed=3: no such flag; a setting has no dashes: seed=VALUE"),
    (["--mutlirun"], r"--mutlirun: no such flag; did you mean '--multirun'\?"),
    (["smaple", "x"], r"smaple: no such verb; did you mean 'sample'\?"),
    (["resum", "x"], r"resum: no such verb; did you mean 'resume'\?"),
    (["resume", "x"], r"x is no run directory"),
    (["sample", "nowhere"], r"nowhere is no run directory"),
    (["init_from=nowhere"], r"init_from=nowhere: nowhere/checkpoints/last.pt: there is no such checkpoint"),
    (["hydra.run.dir=taken"], r"taken already holds a run; choose another hydra.run.dir"),
    (["loss=[bce,hinge]"], r"loss=\[bce,hinge\]: loss is one option; for a sweep over several, -m loss=A,B"),
    (["loss=null"], r"Config group override must be a string or a list"),
    (["~loss"], r"~loss: nothing can be taken out"),
    (["~regularizer.gradient_penalty.weight"], r"~regularizer.gradient_penalty.weight: nothing can be taken out"),
    (["+regularizer.gradient_penalty.on=[]"], r"regularizer.gradient_penalty.on=\[\]: must be "),
    (["+regularizer.loss._target_=gan_runner.penalties.r1"], r"regularizer.loss: the name loss is taken"),
    (["regularizer=[r1,r3]"], r"regularizer=r3: no such option.*r1, r2"),
    (["+model.foo=1"], r"unknown key 'model.foo'"),
    (["model.latent_size=0"], r"model.latent_size=0: must be greater than or equal to 1"),
    (["augmentation=diffaugment", "dataset=ring", "model=mlp"], r"augmentation=diffaugment needs images"),
    (["model.generator=null"], r"model.generator: must be keys and values"),
    (["loss._target_=torch.nn.ReLU"], r"loss and model do not fit: ReLU has no side"),
    (["--experimental-rerun=x.pickle"], r"--experimental-rerun: not here: it reads a pickle"),
    (["hydra.output_subdir=.hydra"], r"hydra.output_subdir: not here"),
    (["steps"], r"steps: a setting wants a value: steps=VALUE"),
    (["--steps", "20"], r"--steps: no such flag; a setting has no dashes: steps=VALUE"),
    (["sample"], r"sample: the following arguments are required"),
    (["loss._target_=torch.load"], r"loss._target_=torch.load: not allowed"),
    (["loss._target_=torch.hub.load"], r"loss._target_=torch.hub.load: not allowed"),
    (["loss._target_=torch.nn.functional.importlib.import_module"], r"not allowed"),
    (["loss._target_=torch.nn.functional.relu"], r"not allowed"),
    (["loss._target_=mine.Loss"], r"not allowed; .*trust=\[mine\]"),
    (["loss._target_=gan_runner.losses.Hindge"], r"there is no such class or function; did you mean 'Hinge'\?"),
    (["loss._target_=gan_runner.penalties.torch.load"], r"not allowed"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(words) for words, _ in MISTAKES])
def test_a_mistake_gets_one_short_message(words, message, run_cli):
    Path("taken").mkdir()
    Path("taken/summary.json").write_text("{}")
    before = sorted(Path().rglob("*"))
    code, out, error = run_cli(*words)
    assert code == 1
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1
    assert "Traceback" not in error
    assert not out
    assert sorted(Path().rglob("*")) == before  # no directory for a run that never began


def test_bad_data_is_named(run_cli):
    Path("photos dir").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(f"photos dir/{name}.png")
    whole = Path("photos dir/b.png").read_bytes()
    Path("photos dir/b.png").write_bytes(whole[: len(whole) // 2])
    words = ["dataset=image_folder", "dataset.root=photos dir", *FAST, "batch_size=2"]
    assert re.search(r"dataset: .*b\.png", run_cli(*words)[2])
    Image.fromarray(np.zeros((16, 20, 3), np.uint8)).save("photos dir/b.png")
    assert "dataset.image_size" in run_cli(*words)[2]
    assert run_cli(*words, "dataset.image_size=16")[0] == 0
    np.save("array.npy", np.zeros((4, 3), dtype="U1"))
    assert re.search(r"dataset.*array\.npy", run_cli("dataset=npy", "dataset.path=array.npy", *FAST)[2])


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
    assert "regularizer.l1 of the preset is not in use" in log
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
    code, _, error = run_cli(*words)
    assert code == 1
    assert "trust=[my_package]" in error
    assert run_cli(*words, "trust=[my_package]")[0] == 0
    Path("conf/loss/mine.yaml").write_text(
        "# @package _global_\nloss: {_target_: my_package.losses.Mine}\ntrust: [my_package]\n"
    )
    assert "not allowed" in run_cli(*words)[2]  # a file cannot trust itself


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


def test_from_another_directory_into_a_pipe(tmp_path):
    """As a user: a subprocess, a path with a space, output to a pipe, two runs at once."""
    place = tmp_path / "a place"
    place.mkdir()
    words = command("model=mlp", "steps=3", "batch_size=8", "log_every=1", "sample_every=2", "dataset=ring")
    runs = [
        subprocess.Popen(words, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for run in runs:
        out, error = run.communicate(timeout=120)
        assert run.returncode == 0, error
        assert not error
        assert out.startswith("gan-runner ")
        assert "\x1b" not in out
        assert re.search(r"samples, losses and checkpoints in outputs/", out)
    found = sorted(place.glob("outputs/*/*"))
    assert len(found) == 2
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_marks_the_run(number, code, tmp_path):
    import json

    words = command("model=mlp", "steps=1000000", "batch_size=8", "log_every=1", "hydra.run.dir=run")
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
    assert f"interrupted at step {summary['step']:,}" in out


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
    """Not by `trust`, and not by adding to what Hydra notes as the words of the command line."""
    Path("evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Loss: pass\n")
    monkeypatch.syspath_prepend(".")
    Path("conf/loss").mkdir(parents=True)
    Path("conf/loss/evil.yaml").write_text(
        "# @package _global_\nloss: {_target_: evil.Loss}\nhydra: {overrides: {task: ['trust=[evil]']}}\n"
    )
    code, _, error = run_cli("--config-dir", "conf", "loss=evil", *FAST)
    assert code == 1
    assert "not allowed" in error
    assert not Path("ran").exists()


def test_directories_of_the_users_choice_stay(run_cli):
    Path("mine/empty").mkdir(parents=True)
    assert run_cli("hydra.run.dir=mine/empty", "steps=0")[0] == 1
    assert Path("mine/empty").is_dir()
    Path("mine/full").mkdir()
    Path("mine/full/metrics.jsonl").write_text("precious")
    code, _, error = run_cli("hydra.run.dir=mine/full", *FAST)
    assert code == 1
    assert "mine/full is not empty: it holds metrics.jsonl" in error
    assert [path.name for path in Path("mine/full").iterdir()] == ["metrics.jsonl"]


def test_flags_may_stand_anywhere(run_cli):
    code, _, error = run_cli("dataset=ring", "-m", *FAST, "seed=0,1")
    assert code == 0, error
    assert len(list(Path("outputs/sweeps").glob("*/*/summary.json"))) == 2


def test_the_first_line_says_what_is_trained(run_cli):
    _, out, _ = run_cli(*FAST, "regularizer=l1", "regularizer.gradient_penalty.weight=5")
    assert "mlp on digits, wgan_gp + gradient_penalty 5 + l1 0.0001, adam 0.0005, batch 8, seed 0" in out


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
    error = run_cli(*words)[2]
    assert "unknown key 'model.discriminator." in error  # the keys of mlp, which Column does not take
    Path("conf/model/column.yaml").write_text(
        "latent_size: 4\ngenerator: {_target_: gan_runner.models.mlp.Generator, width: 8, depth: 1, activation: relu,"
        " normalization: none, dropout: 0.0, initialization: default, output_activation: null}\n"
        "discriminator: {_target_: nets.Column}\n"
    )
    error = run_cli(*words)[2]
    assert "model.discriminator: of 2 inputs it makes a tensor of shape (2, 1), not (2,)" in error
