"""A run that was killed, interrupted or is longer than at first goes on as if nothing had happened, bit for bit."""

import functools
import itertools
import json
import os
import platform
import re
import shutil
import signal
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from omegaconf import OmegaConf

from gan_runner.config.compose import to_yaml
from gan_runner.config.errors import Stopped
from gan_runner.games.adversarial import Adversarial
from gan_runner.storage import atomic_files as files
from gan_runner.storage import checkpoint, run_directory
from gan_runner.storage.run_directory import RunDirectory
from gan_runner.storage.status import run_status
from gan_runner.training import run as runner
from gan_runner.training.evaluation import Evaluator, Generation
from gan_runner.training.health import Guard
from gan_runner.training.log import EventFile, RunLog, event_files, records
from gan_runner.training.preview import Preview
from gan_runner.training.run import prepare
from tests.helpers import CONF, METRIC, TINY, TINY_MODEL, compose, naming, refusal, some
from tests.helpers.runs import contents, differences, rows, summary

MLP = ["model=mlp", *TINY_MODEL]


# --- whole runs -------------------------------------------------------------------------------------------------------

RUN = Path("run")
WORDS = [
    *MLP, *TINY, "steps=12", "log_every=2", "sample_every=6", "evaluate_every=4", "checkpoint_every=3",
    "sample_count=4", "regularizer=lecam", "regularizer.lecam.start=0",
]  # fmt: skip


def logged(name="metrics.jsonl"):
    return rows(RUN / name)


def load(name="last", run=RUN):
    return torch.load(run / f"checkpoints/{name}.pt", weights_only=True)


@functools.cache
def config_of(*words):
    return compose(*WORDS, *([] if "metric=none" in words else METRIC), *words)


def begin(path, *words):
    """A new run, without Hydra, which would take longer than the run: its exit code."""
    config = config_of(*words)
    try:
        prepare(config, [])(path, hydra_files={".hydra/config.yaml": to_yaml(config)}, title="", notes=[])
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture
def start(capsys):
    """A new run: what it prints, and why it stopped."""

    def start(*words, code=0):
        try:
            assert begin(RUN, *words) == code
        except Stopped as error:
            assert code == 1
            return capsys.readouterr().out, str(error)
        return capsys.readouterr().out, ""

    return start


@pytest.fixture
def resume(run_cli):
    """`gan-runner resume`."""

    def go_on(*words, code=0):
        found, out, error = run_cli("resume", str(RUN), *words)
        assert found == code, error
        if code == 1:
            assert error.count("\n") == 1, error
        return out, error

    return go_on


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """What a run leaves that nothing interrupts."""
    path = tmp_path_factory.mktemp("straight") / "run"
    assert begin(path) == 0
    return contents(path)


class Kill(BaseException):
    """Nothing handles it."""


def at(patch, where, what, after=False):
    """Do `what` at call number `call` of a function, counted from 1, before it or after."""
    owner, name, call = where
    original, calls = getattr(owner, name), itertools.count(1)

    def replacement(*arguments, **keywords):
        now = next(calls) == call
        if now and not after:
            what()
        result = original(*arguments, **keywords)
        if now and after:
            what()
        return result

    patch.setattr(owner, name, replacement)


def kill():
    raise Kill


@pytest.fixture
def killed(monkeypatch):
    """Have a run killed at a call of a function, before it or after."""

    def killed(begin, *where, after=False, words=()):
        with monkeypatch.context() as patch:
            at(patch, where, kill, after)
            with pytest.raises(Kill):
                begin(*words)

    return killed


BEFORE = {
    "before the first step": (Adversarial, "step", 1),
    "before the first checkpoint": (Adversarial, "step", 3),
    "in a step": (Adversarial, "generator_turn", 8),
    "in a log point": (RunLog, "scalars", 4),
    "in an evaluation": (Evaluator, "evaluate", 2),
    "between an evaluation and its log point": (RunLog, "scalars", 2),
    "between the log and the first checkpoint": (checkpoint, "save_last", 1),
    "between the log and a checkpoint": (checkpoint, "save_last", 3),
    "in the last evaluation": (Evaluator, "evaluate", 3),
}
AFTER = {
    "a log point": (RunLog, "scalars", 4),
    "an evaluation": (Evaluator, "evaluate", 2),
    "the log point of an evaluation": (RunLog, "scalars", 2),
    "a picture": (Preview, "draw", 1),
    "the best checkpoint": (checkpoint, "save", 3),
    "the last checkpoint": (checkpoint, "save_last", 4),
}
MOMENTS = some([(*moment, False) for moment in BEFORE.values()], every=4)
MOMENTS += [pytest.param((*moment, True), marks=pytest.mark.slow) for moment in AFTER.values()]


def finish(resume, straight, without=()):
    """Resume, and compare with the run that nothing interrupted."""
    resume()
    found = contents(RUN)
    for name in without:
        found["checkpoints"][name] = straight["checkpoints"][name]
    assert not list(differences(straight, found))
    assert not list(RUN.rglob(".*.tmp"))


@pytest.mark.parametrize("moment", MOMENTS, ids=[*BEFORE, *(f"after {name}" for name in AFTER)])
def test_a_killed_run_goes_on(start, resume, straight, killed, moment):
    *where, is_after = moment
    killed(start, *where, after=is_after)
    assert summary()["status"] == "running"
    finish(resume, straight)


CALLS = {"last.pt": 4, "best.pt": 1}  # at which to kill; 3 for the others
FILES = ["last.pt", "last.pt.sha256", "previous.pt", "previous.pt.sha256", "best.pt", "best.pt.sha256", "summary.json"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * name.endswith("sha256")) for name in FILES]
)
def test_killed_at_a_file(start, resume, straight, monkeypatch, name):
    """While it is exchanged: what was there stays whole."""
    original, calls = Path.replace, itertools.count(1)

    def replace(self, target):
        if Path(target).name == name and next(calls) == CALLS.get(name, 3):
            (self.parent / f".{name}.0.tmp").write_bytes(b"half")  # a process that is killed leaves this
            raise Kill
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(Kill):
            start()
    assert list(RUN.rglob(".*.tmp"))
    assert all(files.is_intact(path) for path in RUN.glob("checkpoints/*.pt"))
    finish(resume, straight)


AGAIN = [
    (run_directory, "truncate_after", 1), (run_directory, "truncate_after", 2), (RunDirectory, "update", 1),
    (RunLog, "say", 1), (Adversarial, "step", 1),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("where", AGAIN, ids=[f"{name}-{call}" for _, name, call in AGAIN])
def test_killed_again_while_it_resumes(start, resume, straight, killed, where):
    killed(start, Adversarial, "step", 2)
    killed(resume, Adversarial, "step", 6)
    killed(resume, *where)
    finish(resume, straight)


def test_torn_lines_and_events_are_cut(start, resume, straight, killed):
    killed(start, Adversarial, "step", 9)
    with (RUN / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "images": 32')
    with event_files(RUN)[-1].open("ab") as file:
        file.write((100).to_bytes(8, "little") + b"torn")
    finish(resume, straight)
    # TensorBoard's own server does not look for restarts, as the accumulator of `contents` does.
    steps = []
    for path in event_files(RUN):
        found = list(records(path.read_bytes()))
        assert sum(len(record) for record, _ in found) == path.stat().st_size
        steps += [step for record, step in found if b"loss/generator" in record and step]
        assert b"torn" not in path.read_bytes()
    assert steps == [row["step"] for row in logged()]


def test_event_files_are_read_in_the_order_of_writing(tmp_path):
    names = []
    for _ in range(3):  # within one second
        names.append(EventFile(tmp_path).file)
        names[-1].close()
    assert [path.name for path in event_files(tmp_path)] == [Path(file.name).name for file in names]


@pytest.mark.slow
def test_what_a_verb_measured_stays(start, resume, run_cli, killed):
    killed(start, Adversarial, "step", 9)
    code, _, error = run_cli("evaluate", str(RUN))
    assert code == 0, error
    resume()
    assert [(row["step"], "checkpoint" in row) for row in logged("evaluations.jsonl")] == [
        (4, False), (6, True), (8, False), (12, False),
    ]  # fmt: skip


# --- signals ----------------------------------------------------------------------------------------------------------


def send(*numbers):
    """What sends this process signals."""

    def send():
        for number in numbers:
            os.kill(os.getpid(), number)

    return send


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves(start, resume, straight, monkeypatch, number):
    with monkeypatch.context() as patch:
        at(patch, (Adversarial, "generator_turn", 5), send(number))
        out, _ = start(code=128 + number)
    assert re.search(r"interrupted .*\b5\b.*\brun\b", out)
    assert (summary()["status"], summary()["reason"], summary()["step"]) == ("interrupted", number.name, 5)
    assert load()["step"] == 5
    finish(resume, straight)


@pytest.mark.parametrize("call", [1, 3], ids=["between", "last"])
def test_a_signal_breaks_off_an_evaluation(start, resume, straight, monkeypatch, call):
    with monkeypatch.context() as patch:
        at(patch, (Generation, "batch", call), send(signal.SIGTERM), after=True)
        start(code=143)
    assert summary()["status"] == "interrupted"
    assert load()["step"] == 4 * call
    assert load()["report"]["pending"]
    assert len(logged("evaluations.jsonl")) == call - 1
    assert 4 * call not in [row["step"] for row in logged()]
    if call == 3:  # and again
        with monkeypatch.context() as patch:
            at(patch, (Generation, "batch", 1), send(signal.SIGTERM))
            resume(code=143)
        assert load()["report"]["pending"]
    finish(resume, straight, without=["previous.pt"] if call == 3 else [])  # there was one more checkpoint


def test_a_second_sigint_ends_at_once(start, resume, straight, monkeypatch):
    with monkeypatch.context() as patch:
        at(patch, (Adversarial, "generator_turn", 5), send(signal.SIGINT, signal.SIGINT))
        start(code=130)
    assert summary()["status"] == "interrupted"
    assert load()["step"] == 3
    finish(resume, straight)


@pytest.mark.parametrize("name", some(["last.pt", "last.pt.sha256", "previous.pt"], every=3))
def test_a_second_sigint_breaks_no_file(start, resume, straight, monkeypatch, name):
    original, calls = Path.replace, itertools.count(1)

    def replace(self, target):
        if Path(target).name == name and next(calls) == 3:
            send(signal.SIGINT, signal.SIGINT)()
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        start(code=130)
    checkpoint.load(RUN / "checkpoints/last.pt")
    finish(resume, straight)


LAST = [
    (Adversarial, "generator_turn", 12), (Preview, "draw", 2), (checkpoint, "save_last", 4),
    (runner, "describe_evaluation", 1),
]  # fmt: skip


@pytest.mark.parametrize("where", some(LAST, every=2), ids=[name for _, name, _ in LAST])
def test_a_signal_in_the_last_step_comes_too_late(start, resume, monkeypatch, where):
    at(monkeypatch, where, send(signal.SIGTERM))
    start("metric=none")
    assert (summary()["status"], summary()["step"]) == ("completed", 12)
    assert "finished" in resume()[0]


def test_a_run_killed_on_its_last_line_is_completed_by_resume(start, resume, killed):
    killed(start, checkpoint, "save_last", 4, after=True)
    assert "finished" in resume()[0]
    assert summary()["status"] == "completed"


# --- another machine --------------------------------------------------------------------------------------------------


@pytest.fixture
def left_running(start, killed, monkeypatch):
    """Have a run killed on a machine of another name, in a job of SLURM's."""

    def left_running(environment):
        with monkeypatch.context() as patch:
            patch.setattr(platform, "node", lambda: "node-7")
            for name, value in environment.items():
                patch.setenv(name, value)
            killed(start, checkpoint, "save_last", 3, after=True)
            assert run_status(RUN) == "killed"  # as this machine sees it

    return left_running


def test_a_run_of_another_machine_is_not_taken_for_killed(left_running, resume, straight):
    left_running({})
    assert run_status(RUN) == "running"
    assert "run was running on node-7; if it is not any more, resume --take-over goes on with it" in resume(code=1)[1]
    with FileLock(RUN / ".lock"):  # and it runs here
        assert "belongs to a process that is running" in resume("--take-over", code=1)[1]
    finish(functools.partial(resume, "--take-over"), straight)


@pytest.mark.parametrize(
    "job", [{"SLURM_JOB_ID": "5"}, {"SLURM_JOB_ID": "5", "SLURM_ARRAY_JOB_ID": "4", "SLURM_ARRAY_TASK_ID": "1"}]
)
def test_a_job_that_a_scheduler_starts_again_goes_on(left_running, resume, straight, monkeypatch, job):
    left_running(job)
    assert run_status(RUN) == "running"
    monkeypatch.setenv("SLURM_JOB_ID", "6")
    assert run_status(RUN) == "running"
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    assert run_status(RUN) == "killed"
    finish(resume, straight)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")
    (path.parent / f"{path.name}.sha256").unlink()


@pytest.mark.parametrize("damage", some([truncate, flip, empty], every=3))
def test_a_damaged_checkpoint_falls_back(start, resume, straight, killed, damage):
    killed(start, Adversarial, "step", 11)
    damage(RUN / "checkpoints/last.pt")
    out, _ = resume()
    assert re.search(r"warning: .*last\.pt.*previous\.pt", out)
    assert summary()["resumed"][-1]["step"] == 6
    assert (RUN / "checkpoints/last.pt.damaged").exists()
    assert not list(differences(straight, contents(RUN)))


def test_no_whole_checkpoint(start, resume):
    start()
    for name in ("last.pt", "previous.pt"):
        truncate(RUN / "checkpoints" / name)
    before = (RUN / "metrics.jsonl").read_bytes()
    assert "last.pt" in resume("steps=20", code=1)[1]
    assert (RUN / "metrics.jsonl").read_bytes() == before


def rewrite(change):
    content = load()
    change(content)
    checkpoint.save(RUN / "checkpoints/last.pt", content)


def test_checkpoints_that_do_not_fit(start, resume):
    start()
    rewrite(lambda content: content.update(format=1))
    assert "format 1" in resume("steps=20", code=1)[1]
    rewrite(lambda content: content.update(format=checkpoint.FORMAT))
    rewrite(lambda content: content["versions"].update(torch="1.0"))
    assert "torch 1.0" in resume("steps=20", code=1)[1]
    resume("steps=13", "--any-version")
    assert summary()["resumed"][-1]["step"] == 12
    rewrite(lambda content: content["versions"].update(gan_runner="0.0.1"))
    assert "gan_runner 0.0.1" in resume("steps=14")[0]
    assert summary()["resumed"][-1]["step"] == 13
    rewrite(lambda content: content["game"]["generator"]["network"].popitem())
    assert "networks" in resume("steps=20", code=1)[1]
    path = RUN / ".hydra/config.yaml"
    path.write_text(path.read_text().replace("width: 8", "width: 9"))
    assert "networks" in resume("steps=20", code=1)[1]
    assert summary()["status"] == "completed"


def test_the_digest_is_what_sha256sum_checks(start):
    start()
    for path in (RUN / "checkpoints").glob("*.pt"):
        assert files.digest_path(path).read_text() == f"{sha256(path)}  {path.name}\n"


def sha256(path):
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


# --- overrides --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_longer_run_keeps_its_horizon(start, resume):
    start("lr_schedule=linear", "lr_schedule.end=0.5")
    assert logged()[-1]["learning_rate/generator"] == pytest.approx(5e-4 * (1 - 0.5 * 11 / 12))
    resume("steps=20", "log_every=1")
    assert [row["step"] for row in logged()] == [2, 4, 6, 8, 10, 12, *range(13, 21)]
    assert logged()[-1]["learning_rate/generator"] == 5e-4 / 2
    assert (summary()["step"], summary()["status"]) == (20, "completed")
    resume("steps=40", "lr_schedule.steps=40")
    assert logged()[-1]["learning_rate/generator"] == pytest.approx(5e-4 * (1 - 0.5 * 39 / 40))
    config = OmegaConf.load(RUN / ".hydra/config.yaml")
    assert (config.steps, config.lr_schedule.steps, config.log_every) == (40, 40, 1)


def test_epochs_keep_their_horizon(start, resume):
    start("steps=null", "epochs=1", "batch_size=200", "lr_schedule=linear", "metric=none", "discriminator_steps=1")
    done = summary()["step"]
    resume("epochs=2")
    assert summary()["step"] == 2 * done
    assert logged()[-1]["learning_rate/generator"] == 0


def test_a_longer_run_is_the_run_of_that_length(start, resume, straight, monkeypatch):
    with monkeypatch.context() as patch:
        at(patch, (Adversarial, "generator_turn", 5), send(signal.SIGINT))
        start("steps=8", "lr_schedule.steps=12", code=130)
    resume("steps=12")
    assert not list(differences(straight, contents(RUN)))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("optimizer.lr=1e-3", "optimizer.lr null 0.001"),
        ("steps=1", "12 1 larger"),
        ("batch_size=4 seed=1", "batch_size 8 4 seed 0 1"),
        ("regularizer.lecam.weight=1", "regularizer.lecam.weight 0.3 1"),
        ("regularizer.lecam=null", "regularizer.lecam"),
        ("loss.nothing=1", "'loss.nothing'"),
        ("stpes=3", "stpes 'steps'"),
        ("steps=0", "steps=0"),
        ("steps", "'steps'"),
        ("metric=mods", "mods 'modes'"),
        ("device=tpu", "device=tpu"),
    ],
)
def test_another_run_is_refused(resume, finished, line, named):
    before = contents(RUN), (RUN / ".hydra/config.yaml").read_bytes()
    assert re.search(naming(*named.split()), resume(*line.split(), code=1)[1])
    assert before[1] == (RUN / ".hydra/config.yaml").read_bytes()
    assert not list(differences(before[0], contents(RUN)))


@pytest.fixture
def finished(straight_run):
    """A finished run, copied."""
    shutil.copytree(straight_run, RUN)


@pytest.fixture(scope="module")
def straight_run(tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "run"
    assert begin(path, "metric=none") == 0
    return path


def test_other_intervals_and_metrics(finished, resume):
    resume("steps=16", "sample_every=null", "metric=sliced_wasserstein", "metric.sliced_wasserstein.samples=30")
    assert summary()["best"]["step"] == 16
    resume("steps=18", "metric=none", "divergence.loss=null", "device=cpu")
    assert re.search(r"finished.*\b18\b.*\b18\b.*steps=", resume()[0])
    refusal((1, *resume("steps=5", code=1)), "18 steps", "the 5 asked for")
    assert summary()["status"] == "completed"
    assert [entry["step"] for entry in summary()["resumed"]] == [12, 16]


def test_the_words_of_a_run_follow_its_changes(finished, resume):
    """What trains the run again: a changed key has one word, and a changed group none for what lay in the old one."""
    path = RUN / ".hydra/overrides.yaml"
    words = ["loss=hinge", "metric=frechet", "++metric.frechet.samples=30", "+steps=12", "steps_of_mine=3"]
    path.write_text(yaml.safe_dump(words))
    resume("steps=14", "metric=none", "trust=json")
    assert yaml.safe_load(path.read_text()) == ["loss=hinge", "steps_of_mine=3", "steps=14", "metric=none"]


def test_resume_of_nothing(run_cli):
    Path("empty").mkdir()
    for name in ("empty", "nowhere"):
        refusal(run_cli("resume", name), name, "run directory")
    assert not Path("nowhere").exists()
    Path("outputs/first").mkdir(parents=True)
    for name in ("first", "frist", "outputs/frist"):
        refusal(run_cli("resume", name), "did you mean 'outputs/first'?")
    assert "mean" not in refusal(run_cli("resume", "outputs/first"), "run directory")


# --- one writer -------------------------------------------------------------------------------------------------------


def test_a_running_run_has_one_writer(finished, resume):
    with RunDirectory.restore(RUN):
        assert f"pid {os.getpid()}" in resume("steps=20", code=1)[1]
    assert (RUN / ".lock").exists()  # a dead process's
    resume("steps=13")


# --- divergence -------------------------------------------------------------------------------------------------------


def poison(step, value=float("nan")):
    """A network with a weight that is no number, after a step."""
    original = Adversarial.take_turns

    def take_turns(self, now, batches, **options):
        values = original(self, now, batches, **options)
        if now == step - 1:
            next(self.generator.network.parameters()).data.fill_(value)
        return values

    return take_turns


def test_weights_that_are_not_finite_end_a_run(start, resume, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Adversarial, "take_turns", poison(7))
        _, error = start(code=1)
    assert re.search(r"\brun\b.* diverged .*\b8\b.*\b6\b", error)
    assert summary()["status"] == "diverged"
    assert summary()["reason"].startswith("step 8: ")
    assert load()["step"] == 6
    assert all(value.isfinite().all() for value in load()["game"]["generator"]["network"].values())
    resume()
    assert summary()["status"] == "completed"


def test_it_is_found_before_a_checkpoint_too(start, monkeypatch):
    monkeypatch.setattr(Adversarial, "take_turns", poison(9, float("inf")))
    _, error = start("log_every=null", "metric=none", code=1)
    assert re.search("step 9.*weights/generator", error)
    assert load()["step"] == 6


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["divergence.loss=1e-6"], "step 2: loss/generator is "),
        (["divergence.dead_gradient=1e9", "divergence.dead_steps=4"], "step 6: the generator is dead: "),
        (["optimizer=sgd", "optimizer.lr=1e30"], "step 2: "),
    ],
)
def test_thresholds(start, words, reason):
    _, error = start(*words, code=1)
    assert summary()["reason"].startswith(reason)
    assert "\n" not in error
    assert summary()["step"] == int(reason.split()[1][:-1])


def test_the_guard_remembers(start, resume, killed):
    words = ["divergence.dead_gradient=1e9", "divergence.dead_steps=8"]
    killed(start, Adversarial, "step", 8, words=words)
    resume(code=1)
    assert summary()["reason"].startswith("step 10: ")


def test_divergence_may_be_ignored(start, monkeypatch):
    monkeypatch.setattr(Adversarial, "take_turns", poison(7))
    out, _ = start("on_divergence=ignore", "metric=none")
    assert summary()["status"] == "completed"
    assert out.count("is nan") == 1  # said once
    assert load()["step"] == 12


def test_the_guard_reads_at_log_points_only(start, monkeypatch):
    steps = []
    original = Guard.reason

    def reason(self, step, values):
        steps.append(step)
        return original(self, step, values)

    monkeypatch.setattr(Guard, "reason", reason)
    start("log_every=5", "metric=none")
    assert steps == [5, 10, 12]


# --- what is said of it -----------------------------------------------------------------------------------------------


def test_the_summary_says_with_what_from_the_start(start, monkeypatch):
    found = {}
    at(monkeypatch, (RunLog, "__init__", 1), lambda: found.update(summary()))
    start("metric=none")
    assert found["status"] == "running"
    assert found["device"] == "cpu"
    assert found["deterministic"] is True
    assert found["threads"] == 1
    assert {"torch", "python", "gan_runner", "numpy"} <= set(found["versions"])
    assert found["horizon"] == 12


def test_another_number_of_threads_is_said(finished, resume):
    (RUN / "summary.json").write_text(json.dumps(summary() | {"threads": 7}))
    assert re.search(r"warning: .*\b1\b.* threads.*\b7\b", resume("steps=13")[0])


def test_a_resumed_run_holds_its_weights_once(finished, resume, monkeypatch):
    import gc

    counts = []

    def count():
        tensors = [item for item in gc.get_objects() if type(item) in (torch.Tensor, torch.nn.Parameter)]
        counts.append([tensor.numel() for tensor in tensors].count(64 * 8))

    count()
    at(monkeypatch, (Adversarial, "step", 1), count)
    resume("steps=14")
    # The layers on the side of the pixels: two, a moving average of one, and Adam's two moments of two.
    assert counts[1] - counts[0] == 2 + 1 + 4


@pytest.mark.slow
def test_soak():
    """Real processes and SIGKILL; `python -m tests.soak --kills 200` takes longer."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "tests.soak", "--kills", "10"]
    done = subprocess.run(command, cwd=CONF.parent, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
