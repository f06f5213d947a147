"""The benchmarks work, and what they would find in an hour is looked for in a minute."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from gan_runner.games.cuda_graph import WARM_UP
from gan_runner.torch_utils import precision
from gan_runner.training.build import build
from tests.benchmarks import batched, processes, speed
from tests.benchmarks.bare import BareLoop
from tests.benchmarks.naive import NaiveLoop
from tests.benchmarks.roofline import count_flops
from tests.benchmarks.speed import LOSSES, Model, runs, set_up, timed
from tests.benchmarks.timing import peak_of_process
from tests.helpers import compose, some
from tests.helpers.precision import factors

CPU = torch.device("cpu")
SMALL = {
    "points": Model("points", ["model=mlp", "dataset=ring", "metric=none"], []),
    "images": Model("images", ["model=dcgan", "model.generator.width=8", "model.discriminator.width=8"], []),
}


@pytest.mark.parametrize("name", some(SMALL, every=2))
@pytest.mark.parametrize("loss", some(LOSSES, every=len(LOSSES)))
def test_all_contestants_do_the_same_work(name, loss, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "get_cpu_capability", lambda: "AVX512")
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (100, 3, 8, 8), dtype=np.uint8))
    made = set_up(SMALL[name], loss, CPU, path, tune=False)
    assert set(made.contestants) >= {"naive", "bare", "runner", "bf16"}
    flops = {kind: count_flops(step) for kind, step in made.contestants.items()}
    assert flops["runner"] == made.flops
    if loss != "wgan_gp":  # PyTorch's power method does another product
        assert flops["runner"] == pytest.approx(flops["bare"], rel=0.02 if "spectral" in loss else 0)
    else:  # PyTorch's double backward pass does more
        assert 0.8 * flops["bare"] < flops["runner"] < flops["bare"]
    assert flops["naive"] > flops["bare"]
    found = timed(made.contestants, CPU, rounds=1)
    assert all(seconds > 0 for seconds in found.values())


def test_bf16_is_left_out_where_a_cpu_is_slow_at_it(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "get_cpu_capability", lambda: "AVX2")
    assert list(runs(SMALL["points"], "hinge", CPU, tmp_path)) == ["runner"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"channels_last": True}, {"joined": True}, {"fused": False}])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_options_of_the_bare_loop_change_no_loss(options, loss, tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (100, 3, 8, 8), dtype=np.uint8))
    losses = []
    both: list[dict[str, bool]] = [{}, options]
    for each in both:
        made = set_up(SMALL["images"], loss, CPU, path, tune=False)
        naive = made.contestants["naive"].__self__  # type: ignore[attr-defined]
        assert isinstance(naive, NaiveLoop)
        torch.manual_seed(0)
        loop = BareLoop(naive.problem, **each)
        real, fake = torch.rand(2, 64, 3, 8, 8)
        losses.append(loop.discriminator_loss(real, fake))
        loop.step()
    torch.testing.assert_close(*losses)


def test_what_is_built_for_graphs_is_stepped_by_them(monkeypatch):
    built = build(compose("model=mlp", "dataset=ring", "metric=none", "device=cpu", "batch_size=8"), [])
    seen: list[int] = []
    monkeypatch.setattr(speed, "CapturedStep", lambda game, say: seen.append)
    for capture, expected in ((False, []), (True, list(range(WARM_UP + 3)))):
        seen.clear()
        speed.stepper(built._replace(settings=replace(built.settings, capture=capture)))()
        assert seen == expected


def test_steps_are_measured_in_the_arithmetic_of_a_run(monkeypatch):
    seen: list[str] = []

    def look(*_: object) -> None:
        seen.append(factors())
        raise StopIteration

    monkeypatch.setattr(speed, "matrix_rate", lambda *_: 1.0)
    monkeypatch.setattr(speed, "set_up", look)
    with pytest.raises(StopIteration):
        speed.speed(1, "cpu", ["mlp"])
    assert seen == ["tf32"]


def test_few_processes_share_a_gpu(monkeypatch):
    monkeypatch.setattr(batched, "cores", lambda: 16)
    assert batched.processes(CPU) == 16
    assert batched.processes(torch.device("cuda")) == 4


def test_flops_are_counted_through_a_double_backward():
    layer, samples = nn.Linear(3, 5, bias=False), torch.rand(7, 3, requires_grad=True)

    def step() -> None:
        (gradient,) = torch.autograd.grad(layer(samples).square().sum(), samples, create_graph=True)
        gradient.square().sum().backward(inputs=list(layer.parameters()))

    one = 2 * 7 * 3 * 5
    assert count_flops(step) in range(4 * one, 8 * one)
    assert count_flops(lambda: layer(samples)) == one


def test_a_process_has_a_peak_of_its_own():
    """Whatever that of its parent, this one, was: PyTorch alone takes more."""
    assert peak_of_process() > 150
    code = "from tests.benchmarks.timing import peak_of_process; print(peak_of_process())"
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert 0 < float(ran.stdout) < 100


@pytest.mark.slow
def test_two_processes_are_measured(capsys, monkeypatch):
    monkeypatch.setattr(processes, "RUNS", {"small": [*SMALL["points"].words, "batch_size=8"]})
    processes.processes(rounds=1, steps=3)
    (line,) = re.findall(r"small .* ms .* MiB sent +(\d+)% in the all-reduce", capsys.readouterr().out)
    assert 0 < int(line) < 100


@pytest.mark.slow
def test_a_long_run_is_flat():
    """Of its speed little can be said where other tests run beside it."""
    code = (
        "from tests.benchmarks.endurance import endurance\n"
        "found = endurance(3_000, ['device=cpu', 'log_every=100'])\n"
        "raise SystemExit(0 if found.memory <= 1.02 and found.speed > 0.5 else 1)"
    )
    root = Path(__file__).parents[1]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
