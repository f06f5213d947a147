"""Bad days, file by file: which of them has grown too large, cannot be put into its place, or is damaged."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gan_runner.games.adversarial import Adversarial
from gan_runner.runs.log import RunLog
from gan_runner.runs.recorder import Best
from gan_runner.storage import checkpoint
from tests.helpers import SMALL

RUN = Path("run")
ENDLESS = [*SMALL, "steps=1000000", "sample_every=7", "hydra.run.dir=run"]


def summary():
    return json.loads((RUN / "summary.json").read_text())


def stopped(outcome, message):
    """One line, and no other."""
    code, out, error = outcome
    assert code == 1, error
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1, error
    assert "Traceback" not in out + error


def is_whole(directory: Path) -> int:
    """Of a run that was broken off: the step of its newest checkpoint. Nothing half-written is left."""
    assert not [path for path in directory.rglob("*") if path.suffix == ".tmp"]
    saved, warning = checkpoint.load_newest(directory / "checkpoints")
    assert warning is None
    assert saved
    json.loads((directory / "summary.json").read_text())
    return saved["step"]


@contextlib.contextmanager
def files_no_larger_than(size):
    """The system's limit, which is as a full disk for one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- no space


@pytest.mark.parametrize("size", [0, 400, 3000, 30_000])
def test_no_file_may_grow(size, run_cli):
    """At each size another file is too large: the summary, the log, metrics, pictures, events, checkpoints."""
    with files_no_larger_than(size):
        stopped(run_cli(*ENDLESS), "File too large")
    if (RUN / "summary.json").exists() and size >= 3000:
        assert summary()["status"] == "failed"
        assert "EFBIG" in summary()["reason"]
        if (RUN / "checkpoints/last.pt").exists():
            step = is_whole(RUN)
            code, _, error = run_cli("resume", "run", f"steps={step + 2}")
            assert code == 0, error
            assert is_whole(RUN) == step + 2


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("name", ["metrics", "text", "evaluations", "events"])
def test_a_full_disk_in_the_middle_of_a_log(name, run_cli, monkeypatch):
    """/dev/full takes everything, and has no space for it (nor can it be flushed to a disk: EINVAL)."""
    full = open("/dev/full", "wb") if name == "events" else open("/dev/full", "w", buffering=1)  # noqa: SIM115
    original = RunLog.scalars

    def scalars(self, step, values):
        if step == 4 and name == "events":
            self.events.records._writer = full
            monkeypatch.setattr(self.events, "file", full)
        elif step == 4:
            monkeypatch.setattr(self, name, full)
        original(self, step, values)

    monkeypatch.setattr(RunLog, "scalars", scalars)
    words = ["evaluate_every=4", "metric=sliced_wasserstein"] if name == "evaluations" else []
    stopped(
        run_cli(*ENDLESS, *words), r"run: cannot write: (ENOSPC|EINVAL) .*; its last checkpoint, of step [34], is whole"
    )
    with contextlib.suppress(OSError):
        full.close()
    assert summary()["status"] == "failed"
    assert is_whole(RUN) in (3, 4)


@pytest.mark.parametrize(
    "name",
    [
        "last.pt",
        "previous.pt",
        "last.pt.sha256",
        "summary.json",
        "step_00000007.png",
        pytest.param("best.pt", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("at", ["write", "replace"])
def test_a_file_that_cannot_be_written(name, at, run_cli, monkeypatch):
    """The disk is full, or the file system fails when the file is put into its place."""
    words = ["metric=sliced_wasserstein", "evaluate_every=4"] if name == "best.pt" else []
    failing = False

    original_step = Adversarial.step

    def step(self, index):
        nonlocal failing
        failing = index >= 3
        return original_step(self, index)

    def replace(self, target, original=Path.replace):
        if failing and Path(target).name == name:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        return original(self, target)

    def open_(self, mode="r", *arguments, original=Path.open, **keywords):
        if failing and "w" in mode and f".{name}." in self.name:
            return original(Path("/dev/full"), mode, *arguments, **keywords)
        return original(self, mode, *arguments, **keywords)

    monkeypatch.setattr(Adversarial, "step", step)
    monkeypatch.setattr(Best, "is_beaten_by", lambda self, values, step: True)
    if at == "replace":
        monkeypatch.setattr(Path, "replace", replace)
    elif name == "previous.pt":
        pytest.skip("it is a second name of what is there")
    else:
        monkeypatch.setattr(Path, "open", open_)
    stopped(run_cli(*ENDLESS, *words), "run: .*(EIO|ENOSPC|No space left|Input/output error)")
    step_done = is_whole(RUN)
    assert step_done >= 3
    assert summary()["status"] == ("running" if name == "summary.json" else "failed")
    failing = False
    monkeypatch.setattr(Adversarial, "step", original_step)
    code, _, error = run_cli("resume", "run", f"steps={step_done + 2}", *words[:1])
    assert code == 0, error


SCRIPT = """
set -e
mkdir disk && mount -t tmpfs -o size=%s none disk
%s || echo "code $?"
cp -r disk/run copy
"""


def in_a_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount things; skip the test where that is not allowed."""
    allowed = subprocess.run(
        ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    if allowed.returncode:
        pytest.skip("no right to mount a small disk")
    environment = {key: value for key, value in os.environ.items() if key != "HYDRA_FULL_ERROR"}
    words = ["unshare", "-rm", "sh", "-c", script]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=200, env=environment)


def command(*words: str) -> str:
    return " ".join(f"'{word}'" for word in [sys.executable, "-m", "gan_runner", *words])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare")
def test_a_disk_that_is_really_full():
    done = in_a_namespace(SCRIPT % ("400k", command(*SMALL, "steps=1000000", "hydra.run.dir=disk/run")))
    assert "code 1" in done.stdout, done.stderr
    assert re.search(
        r"gan-runner: disk/run: .*No space left.*; its last checkpoint, of step \d+, is whole", done.stderr
    )
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert is_whole(Path("copy")) > 1


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="no unshare")
def test_a_disk_that_can_only_be_read(small_run):
    """Whoever wants to write says so in a line; nothing is changed."""
    words = [
        ["sample", "disk/run"], ["evaluate", "disk/run", "metric=sliced_wasserstein"],
        ["resume", "disk/run", "steps=4"],
        [*SMALL, "hydra.run.dir=disk/next"], ["sample", "disk/run", "--out", "x.npz"],
    ]  # fmt: skip
    calls = "\n".join(f"{command(*line)} && echo code 0" for line in words)
    done = in_a_namespace(
        f"mkdir disk && mount -t tmpfs none disk && cp -r run disk/run && mount -o remount,ro disk\n{calls}"
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 4, done.stderr
    assert all(
        line.startswith("gan-runner: ") and "disk/" in line and "Read-only file system" in line for line in lines
    ), lines
    assert done.stdout.splitlines()[-2:] == ["x.npz", "code 0"]


def test_a_place_where_nothing_can_be_written(run_cli):
    stopped(run_cli(*SMALL, "hydra.run.dir=/proc/nowhere/run"), "/proc/nowhere")
    Path("file").touch()
    stopped(run_cli(*SMALL, "hydra.run.dir=file"), "file")
    stopped(run_cli(*SMALL, "hydra.run.dir=file/run"), "file/run")
    stopped(run_cli(*SMALL, f"hydra.run.dir={'x' * 300}"), "File name too long")


def test_verbs_that_cannot_write(small_run, run_cli):
    (small_run / "generated").touch()
    stopped(run_cli("sample", "run"), "run/generated")
    stopped(run_cli("sample", "run", "--out", "nowhere/\0/x.npz"), "")
    stopped(run_cli("sample", "run", "--out", "/proc/x.npz"), "/proc/x.npz")
    stopped(run_cli("evaluate", "run", "--neighbors", "1"), "run/generated")
    (small_run / "evaluations.jsonl").unlink(missing_ok=True)
    (small_run / "evaluations.jsonl").mkdir()
    stopped(run_cli("evaluate", "run", "metric=sliced_wasserstein"), "run/evaluations.jsonl")
    (small_run / "generated").unlink()
    with files_no_larger_than(20):
        stopped(run_cli("sample", "run"), "File too large")
        stopped(run_cli("sample", "run", "--out", "x.npz"), "File too large")
        (small_run / "evaluations.jsonl").rmdir()
        stopped(run_cli("evaluate", "run", "metric=sliced_wasserstein"), "File too large")
        stopped(run_cli("resume", "run", "steps=9"), "File too large")
    assert not list(Path().rglob("*.tmp"))
    assert not Path("x.npz").exists()
    assert run_cli("resume", "run", "steps=5")[0] == 0


# --- no memory


def test_no_memory_for_the_networks(run_cli):
    """More than any machine has: the allocation itself fails."""
    words = [*SMALL, "model.generator.width=9000000", "model.generator.depth=2"]
    stopped(run_cli(*words), "out of memory .*; a smaller batch_size or a smaller model needs less")


# --- bytes that change


def test_no_changed_byte_goes_unnoticed_where_the_digest_is_lost(small_run):
    path = small_run / "checkpoints/last.pt"
    whole, content = path.read_bytes(), checkpoint.load(path)
    path.with_name("last.pt.sha256").unlink()
    for at in range(0, len(whole), 256):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            found = checkpoint.load(path)
        except checkpoint.DamagedError:
            continue
        assert repr(found) == repr(content)  # the byte is between the entries, where nothing is


def test_a_changed_byte_and_the_verbs(small_run, run_cli):
    path = small_run / "checkpoints/last.pt"
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)
    for words in (["sample", "run"], ["evaluate", "run", "metric=sliced_wasserstein"]):
        stopped(run_cli(*words), "run/checkpoints/last.pt is damaged: its SHA-256 is not the one in last.pt.sha256")
    stopped(run_cli(*SMALL, "init_from=run", "hydra.run.dir=next"), "init_from=run: .*last.pt is damaged")


# --- files that are not what they were

CUT = b'{"step": 1, "images": 40, "loss/gen'
FILES = [
    ("metrics.jsonl", CUT, "resume", None),
    ("metrics.jsonl", b"", "resume", None),
    ("metrics.jsonl", b"\xff\x00", "resume", None),
    ("evaluations.jsonl", CUT, "evaluate", None),
    ("evaluations.jsonl", CUT, "resume", None),
    ("summary.json", b"", "resume", "run/summary.json is damaged"),
    ("summary.json", b"[]", "resume", "run/summary.json is damaged"),
    ("summary.json", b'"status"', "resume", "run/summary.json is damaged"),
    ("summary.json", b"{", "resume", "run/summary.json is damaged"),
    ("summary.json", b"\xff", "resume", "run/summary.json is damaged"),
    ("summary.json", b"{", "sample", None),
    ("summary.json", b"{", "evaluate", None),
    *(
        (".hydra/config.yaml", content, verb, "run/.hydra/config.yaml: ")
        for content in (
            b"",
            b"[]",
            b"3",
            b"a: [",
            b"\xff",
            b"model: {}",
            b"seed: &a [1]\nx: *a",
            b"[" * 5000,
            b"- " * 5000,
        )
        for verb in ("sample", "evaluate", "resume")
    ),
    (".hydra/overrides.yaml", b"\xff", "resume", None),
    (".hydra/hydra.yaml", b"\xff", "resume", None),
    ("gan_runner.log", b"\xff", "resume", None),
]


@pytest.mark.parametrize(("name", "content", "verb", "message"), FILES)
def test_a_damaged_file_and_a_verb(name, content, verb, message, small_run, run_cli):  # noqa: PLR0917
    (small_run / name).write_bytes(content)
    words = {"resume": ["steps=4"], "evaluate": ["metric=sliced_wasserstein"], "sample": []}[verb]
    outcome = run_cli(verb, "run", *words)
    if message:
        stopped(outcome, re.escape(message))
    else:
        assert outcome[0] == 0, outcome[2]
    if name == "metrics.jsonl":
        rows = [json.loads(line) for line in (small_run / name).read_text().splitlines()]
        assert [row["step"] for row in rows] == [4]  # a line that was cut is none


def test_aliases_fill_no_memory(small_run, run_cli):
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(12))
    (small_run / ".hydra/config.yaml").write_text(bomb)
    stopped(run_cli("sample", "run"), "config.yaml: it has aliases")
