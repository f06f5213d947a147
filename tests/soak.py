"""Runs that are killed again and again, resumed each time, and compared with runs that were left alone.

`python -m tests.soak --kills 200` kills real processes (SIGKILL) at random moments, two thirds of them by the clock and
one third at a random file operation, and now and then damages the newest checkpoint. Every process is forked from one
that has imported everything, so that a start costs milliseconds.
"""

import argparse
import importlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked

import torch

from tests.helpers.runs import contents, differences, summary

COMMON = ["batch_size=16", "device=cpu", "sample_count=4", "log_every=3", "sample_every=20", "checkpoint_every=7"]
SMALL = ["model.latent_size=4", "model.generator.width=8", "model.discriminator.width=8"]
CONFIGS = {
    "ring": [
        "experiment=ring", *SMALL, "steps=120", "evaluate_every=10", "metric.modes.samples=200",
        "metric.modes.pairs=200",
    ],
    "wgan_gp": [
        "regularizer=[lecam,spectral_norm]", "regularizer.lecam.start=0", *SMALL, "steps=60", "evaluate_every=10",
        "metric=[frechet,classes]", "metric.frechet.samples=200", "metric.classes.samples=200", "features.steps=5",
    ],
    "vae": ["model=vae", "loss=elbo", "dataset.normalization=unit", "dataset.flip=true", "steps=150", "metric=none"],
    "conditional": [
        "model=mlp", *SMALL, "conditional=true", "loss=hinge", "augmentation=diffaugment", "optimizer=rmsprop",
        "lr_schedule=cosine", "steps=120", "evaluate_every=25", "metric=frechet", "metric.frechet.samples=200",
        "features.steps=5",
    ],
    "lazy": [
        "model=mlp", *SMALL, "loss=bce", "precision=bf16", "regularizer=[r1,iterative_gradient_penalty,gradient_clip]",
        "regularizer.r1.every=4", "regularizer.iterative_gradient_penalty.every=3", "discriminator_steps=2",
        "optimizer@optimizer.discriminator=sgd", "optimizer.discriminator.momentum=0.9", "steps=120", "metric=none",
    ],
}  # fmt: skip


# --- processes --------------------------------------------------------------------------------------------------------


PHASES = ("starting", "preparing", "training", "logging", "evaluating", "drawing", "saving", "cutting back", "ending")


class Process:
    """`gan-runner ARGUMENTS` in a forked process, which notes what it is doing where its parent can read it."""

    def __init__(self, arguments: list[str], log: Path, run: Path, fatal_operation: int | None = None):
        self.phase = multiprocessing.RawValue("i", 0)
        self.status: int | None = None
        self.pid = os.fork()
        if not self.pid:
            code = 99
            try:
                descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                os.dup2(descriptor, 1)
                os.dup2(descriptor, 2)
                self.watch(run, fatal_operation)
                code = call(arguments)
            finally:
                os._exit(code)

    def watch(self, run: Path, fatal_operation: int | None) -> None:
        """Note the phases; die at the n-th file operation on the run's directory."""
        from gan_runner.games.game import Game
        from gan_runner.storage import checkpoint
        from gan_runner.storage.run_directory import RunDirectory
        from gan_runner.training import run as runner
        from gan_runner.training.evaluation import Evaluator
        from gan_runner.training.log import RunLog
        from gan_runner.training.preview import Preview

        owners: list[tuple[Any, str, str]] = [
            (runner, "build", "preparing"), (Game, "step", "training"), (RunLog, "scalars", "logging"),
            (Evaluator, "evaluate", "evaluating"), (Preview, "draw", "drawing"), (checkpoint, "save", "saving"),
            (checkpoint, "hard_link", "saving"), (RunDirectory, "go_on", "cutting back"),
            (RunLog, "__exit__", "ending"),
        ]  # fmt: skip
        for owner, name, phase in owners:
            setattr(owner, name, self.noting(getattr(owner, name), PHASES.index(phase)))
        left = fatal_operation

        def audit(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            is_operation = event in ("open", "os.rename", "os.remove", "os.link")
            if left is not None and is_operation and str(arguments[0]).startswith(str(run)):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)

    def noting(self, function: Callable[..., Any], phase: int) -> Callable[..., Any]:
        """The function, and a note while it works."""

        def noted(*arguments: Any, **keywords: Any) -> Any:
            before, self.phase.value = self.phase.value, phase
            result = function(*arguments, **keywords)
            self.phase.value = before if before > 1 else 2
            return result

        return noted

    def wait(self, seconds: float) -> bool:
        """Whether the process has ended within so many seconds."""
        end = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = status
            elif time.monotonic() > end:
                return False
            else:
                time.sleep(0.002)
        return True

    def kill(self) -> None:
        """SIGKILL."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            _, self.status = os.waitpid(self.pid, 0)

    @property
    def was_killed(self) -> bool:
        """Whether it died of SIGKILL."""
        return self.status is not None and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL


def call(arguments: list[str]) -> int:
    """`gan-runner ARGUMENTS` in this process: its exit code."""
    from gan_runner.cli.main import main

    sys.argv = ["gan-runner", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 98
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def import_everything() -> None:
    """What a run imports, so that forked processes have it."""
    for name in (
        "matplotlib.pyplot", "scipy.optimize", "sklearn.datasets", "tensorboard.compat.proto.event_pb2",
        "tensorboard.summary.writer.record_writer", "torch._dynamo", "torch.utils.tensorboard.summary",
        "torch_fidelity", "gan_runner.cli.main", "gan_runner.cli.resume", "gan_runner.training.run",
    ):  # fmt: skip
        importlib.import_module(name)
    torch.set_num_threads(1)


# --- the soak ---------------------------------------------------------------------------------------------------------


class Job(NamedTuple):
    """A run to be killed so many times."""

    folder: Path
    config: str
    seed: int
    kills: int


def straight(job: Job) -> float:
    """The run that is left alone; the seconds that it took."""
    run, start = job.folder / job.config, time.monotonic()
    process = Process([*COMMON, *CONFIGS[job.config], f"hydra.run.dir={run}"], run.with_suffix(".txt"), run)
    process.wait(600)
    if process.status:
        raise RuntimeError(f"{job.config}: {run.with_suffix('.txt').read_text()}")
    return time.monotonic() - start


def soak(job: Job, seconds: float) -> tuple[Counter[str], list[str]]:
    """Kill and resume a run, and compare it: where it was killed, and what went wrong."""
    chance, seen, wrong = random.Random(job.seed), Counter[str](), []
    run = job.folder / f"{job.config}_{job.seed}"
    log = run.with_suffix(".txt")
    kills = 0
    while True:
        begun = (run / "summary.json").exists()
        if not begun:
            shutil.rmtree(run, ignore_errors=True)
        arguments = ["resume", str(run)] if begun else [*COMMON, *CONFIGS[job.config], f"hydra.run.dir={run}"]
        by_operation = kills < job.kills and chance.random() < 1 / 3
        process = Process(arguments, log, run, chance.randint(1, 80) if by_operation else None)
        process.wait(600 if by_operation or kills >= job.kills else chance.uniform(0, seconds / 2))
        process.kill()
        if not process.was_killed:
            if process.status:
                wrong.append(f"{run.name}: exit status {process.status}: {log.read_text()}")
            break
        kills += 1
        seen["kills"] += 1
        seen["kills at a file operation"] += by_operation
        seen[f"killed {PHASES[process.phase.value]}"] += 1
        seen.update(found_in(run))
        last, previous = (run / f"checkpoints/{name}.pt" for name in ("last", "previous"))
        both = last.exists() and previous.exists() and not last.samefile(previous)  # of one file they are two names
        if both and chance.random() < 0.05:
            seen["newest checkpoint damaged"] += 1
            last.write_bytes(last.read_bytes()[: chance.randrange(last.stat().st_size)])
    seen["runs"] += 1
    if not wrong:
        wrong += [f"{run.name}{line}" for line in differences(contents(job.folder / job.config), contents(run))]
        wrong += [f"{run.name}: {path} is left" for path in run.rglob("*.tmp")]
        seen["resumed"] += len(summary(run).get("resumed", []))
    if not wrong:
        shutil.rmtree(run)
    return seen, wrong


def found_in(run: Path) -> Iterator[str]:
    """What a killed process left in its directory."""
    if not (run / "summary.json").exists():
        yield "left no summary.json"
    elif not (run / "checkpoints/last.pt").exists():
        yield "left no checkpoint"
    if any((run / "checkpoints").glob(".*.tmp")):
        yield "left a temporary file of a checkpoint"
    elif any(run.rglob("*.tmp")):
        yield "left another temporary file"
    for digest in (run / "checkpoints").glob("*.sha256"):
        if len(digest.read_text().splitlines()) > 1:
            yield "left two digests of a checkpoint"
    metrics = run / "metrics.jsonl"
    if metrics.exists() and metrics.read_bytes()[-1:] not in (b"\n", b""):
        yield "left a torn line"


def work(job: Job, seconds: float) -> tuple[Counter[str], list[str]]:
    """`soak`, whose own errors are failures too."""
    try:
        return soak(job, seconds)
    except Exception as error:
        return Counter(), [f"{job.config}_{job.seed}: {type(error).__name__}: {error}"]


def main(arguments: list[str] | None = None) -> int:
    """Print figures; 1 where a run went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--configs", nargs="*", default=list(CONFIGS), choices=list(CONFIGS))
    options = parser.parse_args(arguments)
    import_everything()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ["GAN_RUNNER_CACHE"] = str(folder / "cache")
        figures: Counter[str] = Counter()
        wrong: list[str] = []
        seconds = {config: straight(Job(folder, config, 0, 0)) for config in options.configs}
        print("uninterrupted:", ", ".join(f"{config} {took:.1f} s" for config, took in seconds.items()), flush=True)
        with multiprocessing.get_context("fork").Pool(options.processes) as pool:
            seed = options.seed
            while figures["kills"] < options.kills and not wrong:
                jobs = []
                each = max(1, min(10, (options.kills - figures["kills"]) // len(options.configs)))
                for config in options.configs:
                    seed += 1
                    jobs.append((Job(folder, config, seed, each), seconds[config]))
                for seen, found in pool.starmap(work, jobs, chunksize=1):
                    figures += seen
                    wrong += found
                print(f"{time.monotonic() - start:.0f} s: {figures['kills']} kills, {len(wrong)} wrong", flush=True)
    for what, count in sorted(figures.items()):
        print(f"{count:6d}  {what}")
    for line in wrong[:20]:
        print(f"WRONG {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
