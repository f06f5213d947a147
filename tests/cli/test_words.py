"""Words that people bring along, and words that would have had no effect: each is answered with what to type."""

import shutil
from pathlib import Path

import pytest
import yaml

from gan_runner import __version__
from gan_runner.config import words
from gan_runner.config.schema import GROUPS, known_keys
from tests.helpers import compose, options, refusal, some

FAST = ["model=mlp", "steps=2", "batch_size=8", "device=cpu", "sample_count=4", "metric=none"]
MINE = """
import torch
from torch import nn

class Generator(nn.Module):
    def __init__(self, shape, latent_size):
        super().__init__()
        self.shape, self.layer = shape, nn.Linear(latent_size, 64)
    def forward(self, latents, labels): return self.layer(latents).view(-1, *self.shape)

class Discriminator(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64))
    def forward(self, samples, labels): return samples.flatten(1) @ self.weight
"""
OWN = "--config-dir conf model=mine trust=brought_nets"

ANSWERS = {  # what was typed -> what the one line of the answer names
    "lr=1e-4": "lr optimizer.lr=1e-4",
    "learning_rate=1e-4": "learning_rate optimizer.lr=1e-4",
    "optimizer.learning_rate=1e-4": "optimizer.learning_rate optimizer.lr=1e-4",
    "optimizer.discriminator.learning_rate=1": "'optimizer.discriminator.learning_rate' 'lr'",
    "width=16": "width model.generator.width=16 model.discriminator.width=16",
    "model.width=16": "model.width model.generator.width=16 model.discriminator.width=16",
    "n_critic=5": "n_critic discriminator_steps=5",
    "steps=2 --config-dir conf conf": "conf key=value",
    "optimizer.beta1=0.5": "beta1 'optimizer.betas=[0.5,0.99]'",
    "d_lr=1e-4": "d_lr optimizer.discriminator.lr=1e-4",
    "LOSS.adv_loss=hinge": "LOSS.adv_loss loss=hinge",
    "MODEL.apply_r1_reg=true": "MODEL.apply_r1_reg regularizer=r1",
    "LOSS.apply_lecam=false": "LOSS.apply_lecam leave regularizer=lecam",
    "MODEL.d_cond_mtd=D2DCE": "MODEL.d_cond_mtd head=reacgan conditional=true",
    "MODEL.d_cond_mtd=SPD": "MODEL.d_cond_mtd head=OPTION projection",
    "LOSS.adv_loss=MH": "LOSS.adv_loss loss=hinge head=multi_hinge conditional=true",
    "MODEL.z_dim=80": "MODEL.z_dim model.latent_size=80",
    "OPTIMIZATION.batch_size=64": "OPTIMIZATION.batch_size batch_size=64",
    "head=PD": "head=PD head=projection conditional=true",
    "-metrics is fid prdc": "-metrics 'metric=[inception_score,frechet,prdc]' features=inception",
    "metric=[is,fid,prdc]": "metric=fid 'metric=[inception_score,frechet,prdc]' features=inception",
    "-cfg CIFAR10/BigGAN.yaml": "-cfg experiment= --config-dir",
    "metric=FID": "metric=FID metric=frechet features=inception",
    "metric=kid": "metric=kid metric=kernel_distance features=inception",
    "metric=is": "metric=is metric=inception_score features=inception",
    "dataset=MNIST": "dataset=MNIST 'mnist'",
    "dataset=/a/folder": "dataset=/a/folder dataset=image_folder dataset.root=/a/folder",
    "dataset=~/a": "dataset=~/a dataset=image_folder \"dataset.root='~/a'\"",
    f"dataset={'x' * 300}": "dataset=xxx options: digits",
    "dataset=photos": "dataset=photos dataset=image_folder dataset.root=photos",
    "dataset=image_folder dataset.root=~/x": "\"dataset.root='~/x'\"",
    "dataset=image_folder dataset.root=fotos_ü": "\"dataset.root='fotos_ü'\"",
    "dataset=image_folder dataset.root=fotos(1)": "\"dataset.root='fotos(1)'\"",
    "dataset.image_size=2000": "dataset.image_size=2000 batch_size memory",
    "regularizer.gradient_penalty=5": "regularizer.gradient_penalty.weight=5",
    "regularizer.gradient_penalty=null": "regularizer.gradient_penalty=null regularizer.gradient_penalty.weight=0",
    "regularizer=null": "regularizer=null regularizer=none",
    "loss=null": "loss=null loss=OPTION hinge",
    "metric={...}": "metric={...} metric=OPTION",
    "seed=range(3)": "gan-runner -m 'seed=range(3)'",
    "steps=1,2 model=mlp": "gan-runner -m steps=1,2 model=mlp",
    "sweep=x model=mlp": "sweep=x gan-runner -m sweep=x model=mlp",
    "hydra/launcher=pool": "hydra/launcher=pool gan-runner -m hydra/launcher=pool",
    "retry_failed=true": "retry_failed=true gan-runner -m retry_failed=true",
    "regularizer=r1 regularizer=l1": "regularizer=r1 'regularizer=[r1,l1]'",
    "-m regularizer=r1 regularizer=[l1,l2] seed=0,1": "'regularizer=[r1,l1,l2]'",
    "regularizer.gradient_penalty.schedule=-inf": "regularizer.gradient_penalty.schedule=-Infinity lr_schedule@",
    "regularizer=r1 regularizer.r1.schedule=cosine": "lr_schedule@regularizer.r1.schedule=cosine",
    "ema_half_life_schedule=cosine": "lr_schedule@ema_half_life_schedule=cosine",
    "augmentation=apa augmentation.apa.target=null augmentation.apa.p=0.5 "
    "lr_schedule@augmentation.apa.p_schedule=linear augmentation.apa.p_schedule.start=5": "p_schedule p 2.5",
    "regularizer.gradient_penalty.schedule=cosine": "lr_schedule@regularizer.gradient_penalty.schedule=cosine",
    "--config-dir conf lr_schedule=empty": "lr_schedule _target_",
    "--config-dir conf lr_schedule@regularizer.gradient_penalty.schedule=empty": "gradient_penalty.schedule _target_",
    "features.width=0 metric=none": "features.width=0 1",
    "features.foo=1": "features.foo features.",
    "model=stylegan2 model.generator.mapping_lr_multiplier=0": "mapping_lr_multiplier 0",
    "model=r3gan regularizer=spectral_norm": "spectral_norm zeros",
    "model=r3gan model.generator.width=[8,8,8,8,8,8,8]": "width 7 8 4",
    f"{OWN} conditional=true": "conditional=true model.generator conditional=false",
    f"{OWN} loss=hinge regularizer=l1": "regularizer.l1 discriminator regularizer.l1.biases=true",
    f"{OWN} loss=hinge regularizer=l2": "regularizer.l2 discriminator regularizer.l2.biases=true",
    f"{OWN} loss=hinge regularizer=orthogonal regularizer.orthogonal.on=[discriminator]": "orthogonal discriminator",
    f"{OWN} loss=hinge regularizer=spectral_norm": "regularizer.spectral_norm discriminator .on=[PLAYER]",
    "train loss=hinge": "train gan-runner loss=hinge",
    "eval run": "eval gan-runner evaluate run",
    "sample": "DIR gan-runner sample outputs/DATE/TIME",
    "evaluate --raw": "DIR gan-runner evaluate outputs/DATE/TIME",
    "resume run loss=hinge steps=9": "loss=hinge gan-runner model=mlp loss=hinge steps=9 init_from=run",
    "evaluate run metric={...}": "metric={...} metric=OPTION",
    "sample run --count few": "--count few number",
    "sample run --labels 1,,2": "--labels 1,,2 numbers",
    "sample run --truncation x": "--truncation x number",
    "evaluate run metric=fid": "metric=frechet features=inception",
    "resume run lr=1": "lr optimizer.lr=1",
}


@pytest.mark.parametrize("line", some(ANSWERS, every=5))
def test_the_answer_says_what_to_type(line, run_cli, small_run, monkeypatch):
    Path("brought_nets.py").write_text(MINE)
    monkeypatch.syspath_prepend(".")
    for folder in ("photos", "conf/model", "conf/lr_schedule"):
        Path(folder).mkdir(parents=True)
    Path("conf/lr_schedule/empty.yaml").write_text("end: 3\n")
    Path("conf/model/mine.yaml").write_text(
        "latent_size: 8\nlatent_distribution: normal\ngenerator: {_target_: brought_nets.Generator}\n"
        "discriminator: {_target_: brought_nets.Discriminator}\n"
    )
    outcome = run_cli(*line.split())
    refusal(outcome, *ANSWERS[line].split())
    assert not outcome[1]


@pytest.mark.slow
def test_the_table_answers_with_words_that_there_are():
    for typed, line in words.OPTIONS.items():
        group, option = typed.split("=")
        assert option not in options(group)
        compose(*line.split())
    keys = {name for group in GROUPS for name in options(group)} | set(known_keys())
    known = {*keys, "lr", "betas", "width", "latent_size", "root", "weight", "image_size"}
    assert set(words.SYNONYMS.values()) <= known


@pytest.mark.slow
def test_who_says_one_limit_means_that_one(run_cli):
    def limits(*said):
        code, _, error = run_cli(*FAST[:1], *FAST[2:], "batch_size=800", *said, "hydra.run.dir=run")
        assert code == 0, error
        config = yaml.safe_load(Path("run/.hydra/config.yaml").read_text())
        steps = yaml.safe_load(Path("run/summary.json").read_text())["step"]
        shutil.rmtree("run")
        return config["steps"], config["epochs"], steps

    assert limits("epochs=1", "discriminator_steps=1") == (None, 1, 3)  # more than the default of 2,000 would be, too
    assert limits("steps=2") == (2, None, 2)
    assert limits("steps=2", "epochs=9") == (2, 9, 2)
    assert limits("experiment=dense_deconv_npy", "dataset=digits", "model=mlp", "loss=bce", "epochs=1")[:2] == (None, 1)


def test_a_whole_number_may_be_written_as_a_float(run_cli):
    code, out, error = run_cli("model=mlp", "steps=2e0", "batch_size=8.0", "metric=none", "hydra.run.dir=run")
    assert code == 0, error
    assert "2 steps" in out
    refusal(run_cli("steps=2.5"), "steps=2.5", "whole number")


@pytest.mark.slow
def test_a_resumed_run_may_be_told_either_limit(run_cli, small_run):
    code, out, error = run_cli("resume", "run", "steps=5")
    assert code == 0, error
    code, out, error = run_cli("resume", "run", "epochs=1", "checkpoint_every=null", "log_every=null")
    assert code == 0, error
    assert "41 steps" in out  # 1,617 samples in 8 x 5


def test_the_version_is_ours(run_cli):
    assert run_cli("--version") == (0, f"gan-runner {__version__}\n", "")
