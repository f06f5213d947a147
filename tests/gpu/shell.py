"""Whether the command line does on a device what it promises: its own processes, and what they leave."""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.gpu.jobs import REPOSITORY
from tests.gpu.record import Check, Record
from tests.helpers import METRIC, SMALL
from tests.helpers.runs import checkpoint, differences, rows, summary
from tests.helpers.stacked import numbers

CLOSE = 1e-2  # relative difference of numbers that are the same to rounding


class Shell:
    """The command line in a folder of its own, on one device; networks are small where that is a CPU."""

    def __init__(self, folder: Path, device: torch.device, record: Record):
        self.folder, self.device, self.record = folder, device, record
        self.small = [word for word in SMALL if "=" in word] if device.type == "cpu" else []

    def call(self, *words: str) -> str:
        """What `gan-runner WORDS` prints. Raises RuntimeError where it fails, with its last lines."""
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "GAN_RUNNER_CACHE": str(self.folder / "cache"),
        }
        ran = subprocess.run(
            [sys.executable, "-m", "gan_runner", *words], cwd=self.folder, env=environment, check=False,
            capture_output=True, text=True,
        )  # fmt: skip
        if ran.returncode:
            lines = " | ".join((ran.stderr or ran.stdout).strip().splitlines()[-3:])
            raise RuntimeError(f"gan-runner {' '.join(words)}: exit code {ran.returncode}: {lines}")
        return ran.stdout

    def train(self, name: str, *words: str, steps: int = 300) -> Path:
        """The directory of a run that has been trained, with what must be so of any."""
        self.call(*once([*self.small, f"device={self.device}", *words, f"steps={steps}", f"hydra.run.dir={name}"]))
        return self.trained(name)

    def trained(self, name: str) -> Path:
        run = self.folder / name
        found = summary(run)
        self.record.expect(found["status"] == "completed", f"{name}: {found['status']}, {found['reason']}")
        wrong = [tag for tag, value in found["metrics"].items() if not isinstance(value, int | float)]
        self.record.expect(not wrong, f"{name}: not finite: {', '.join(wrong)}")
        for line in (run / "gan_runner.log").read_text().splitlines():
            if "note: capture" in line or "warning" in line:
                self.record.say(f"{name}: {line.strip()}")
                self.record.expect("note: capture" not in line, f"{name}: {line.strip()}")
        return run


def once(words: list[str]) -> list[str]:
    """The words, of those that set one key the last."""
    return list({word.partition("=")[0]: word for word in words}.values())


def checks() -> dict[str, Check]:
    """All of them, by name."""
    found = {
        "default, evaluate": default_and_evaluate,
        "the same bits": same_bits,
        "batched sweep": batched_sweep,
        "resumed between two lazy terms": resumed,
        "stream": streams,
        "device with a number": numbered_device,
    }
    return {f"shell/{name}": partial(in_a_folder, check) for name, check in found.items()}


def in_a_folder(check: Callable[[Shell], None], device: torch.device, record: Record) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Shell(Path(folder), device, record))


def default_and_evaluate(shell: Shell) -> None:
    """A default run; `evaluate` finds the numbers of the run's last evaluation."""
    run = shell.train("run", *(METRIC if shell.device.type == "cpu" else []))
    found = summary(run)
    shell.record.values |= {key: found[key] for key in ("device", "wall_time", "images_per_second")}
    shell.call("evaluate", "run")
    before, after = rows(run / "evaluations.jsonl")[-2:]
    pairs = {f"{tag} {way}": value for way, line in (("run", before), ("evaluate", after)) for tag, value in of(line)}
    shell.record.values |= pairs
    for (tag, one), (_, other) in zip(of(before), of(after), strict=True):
        shell.record.expect(math.isclose(one, other, rel_tol=CLOSE), f"{tag} is {one} in the run, {other} afterwards")


def of(line: dict[str, Any]) -> list[tuple[str, float]]:
    """The values of an evaluation."""
    return [
        (f"{name}/{key}", value) for name, found in line["metrics"].items() for key, value in found["values"].items()
    ]


def same_bits(shell: Shell) -> None:
    """`deterministic=true` gives them twice."""
    one, other = (shell.train(name, "deterministic=true", "metric=none", steps=200) for name in ("one", "other"))
    shell.record.expect(summary(one)["deterministic"], "summary.json says that it was not deterministic")
    games = [checkpoint(run / "checkpoints" / "last.pt")["game"] for run in (one, other)]
    unlike = list(differences(*games))
    shell.record.values["tensors that differ"] = len(unlike)
    shell.record.expect(not unlike, f"{len(unlike)} tensors differ, the first: {unlike[:1]}")


def batched_sweep(shell: Shell) -> None:
    """Runs as one program, each in a directory of its own."""
    weights = ["0.1", "1", "10", "100"]
    words = ["model=mlp", "dataset=ring", f"device={shell.device}", "steps=300", "metric=none", "sweep=ring"]
    sweep = [f"regularizer.gradient_penalty.weight={','.join(weights)}", "hydra/launcher=batched"]
    said = shell.call("-m", *once([*shell.small, *words]), *sweep)
    shell.record.expect(f"{len(weights)} jobs as one program" in said, "they were not trained as one program")
    runs = sorted(path.parent for path in (shell.folder / "outputs/sweeps/ring").rglob("summary.json"))
    shell.record.values["runs"] = len(runs)
    shell.record.expect(len(runs) == len(weights), f"{len(runs)} runs, not {len(weights)}")
    for run in runs:
        shell.trained(str(run.relative_to(shell.folder)))


def resumed(shell: Shell) -> None:
    """A run that is resumed between two steps at which its lazy term is due goes on as if it had not ended."""
    words = [
        "loss=bce", "regularizer=r1", "regularizer.r1.every=16", "deterministic=true", "metric=none", "log_every=5",
    ]  # fmt: skip
    whole = shell.train("whole", *words, steps=70)
    parts = shell.train("parts", *words, steps=37)
    shell.call("resume", "parts", "steps=70")
    shell.trained("parts")
    games = [checkpoint(run / "checkpoints" / "last.pt")["game"] for run in (whole, parts)]
    unlike = list(differences(*games))
    one, other = (numbers(game) for game in games)
    error = max(float((other[key] - value).abs().max()) for key, value in one.items() if value.numel())
    shell.record.values |= {"tensors that differ": len(unlike), "by at most": error}
    shell.record.expect(error < CLOSE, f"{len(unlike)} tensors differ, by up to {error:.2g}")


def streams(shell: Shell) -> None:
    """Batches that two processes read and the host passes on are those of a dataset that is resident."""
    words = ["deterministic=true", "metric=none", "workers=2"]
    one, other = (shell.train(f"stream_{way}", *words, f"stream={way}", steps=60) for way in ("true", "false"))
    games = [checkpoint(run / "checkpoints" / "last.pt")["game"] for run in (one, other)]
    unlike = list(differences(*games))
    shell.record.values["tensors that differ"] = len(unlike)
    shell.record.expect(not unlike, f"{len(unlike)} tensors differ, the first: {unlike[:1]}")


def numbered_device(shell: Shell) -> None:
    """`device=cuda:0` is the first of them."""
    name = "cuda:0" if shell.device.type == "cuda" else str(shell.device)
    run = shell.train("numbered", f"device={name}", "metric=none", steps=20)
    shell.record.values["device"] = summary(run)["device"]
