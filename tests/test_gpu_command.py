"""`python -m tests.gpu`, as far as it goes without a GPU: its processes, its answers, and its checks on a CPU."""

import itertools
import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gan_runner.games.term import Term
from tests.gpu import __main__ as command
from tests.gpu import child, correctness, shell, timings
from tests.gpu.jobs import Job, Outcome, Running
from tests.gpu.record import Record
from tests.helpers import compose, some
from tests.helpers.taped import taped

CPU, GPU = torch.device("cpu"), torch.device("cuda")
HOLDS = "import json, sys; json.dump({'values': {'x': 1}, 'notes': ['seen'], 'failures': []}, open(sys.argv[1], 'w'))"
FAILS = "import json, sys; json.dump({'failures': ['3 is not 4']}, open(sys.argv[1], 'w')); sys.exit(1)"
RAISES = "print('before'); raise RuntimeError('CUDA error: an illegal memory access was encountered')"
KILLED = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
SLEEPS = (
    "import subprocess, sys, time, pathlib\n"
    "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
    "pathlib.Path('started').write_text(str(own.pid))\n"
    "time.sleep(600)"
)


def job(code: str, name: str = "part/check", limit: float = 60.0) -> Job:
    return Job(name, [sys.executable, "-c", code], limit)


def outcomes(folder: Path, *jobs: Job, at_once: int = 2, seconds: float = 60.0) -> list[Outcome]:
    told: list[Outcome] = []
    found = Running(folder, at_once, seconds).outcomes(jobs, told.append)
    assert sorted(each.name for each in told) == sorted(each.name for each in found)
    return found


# --- processes --------------------------------------------------------------------------------------------------------


def test_one_process_spoils_no_other(tmp_path: Path) -> None:
    codes = {"holds": HOLDS, "fails": FAILS, "raises": RAISES, "killed": KILLED, "silent": "pass"}
    found = outcomes(tmp_path, *(job(code, f"part/{name}") for name, code in codes.items()))
    assert [each.name for each in found] == [f"part/{name}" for name in codes]
    assert [each.status for each in found] == ["held", "failed", "failed", "killed", "failed"]
    holds, fails, raises, killed, silent = found
    assert (holds.values, holds.notes, holds.reasons) == ({"x": 1}, ["seen"], [])
    assert fails.reasons == ["3 is not 4"]
    assert "illegal memory access" in raises.reasons[-1]
    assert "SIGKILL" in killed.reasons[0]
    assert "no record" in silent.reasons[0]
    assert "before" in (tmp_path / "part_raises.log").read_text()


@pytest.mark.slow
def test_a_process_that_takes_too_long_ends_with_all_that_it_started(tmp_path: Path) -> None:
    (found,) = outcomes(tmp_path, job(SLEEPS, limit=2.0))
    assert found.status == "too long"
    assert 2 <= found.seconds < 30
    started = Path("/proc", (tmp_path / "started").read_text(), "stat")
    end = time.monotonic() + 10
    while started.exists() and started.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_what_has_no_time_left_is_not_started(tmp_path: Path) -> None:
    found = outcomes(tmp_path, job(SLEEPS), job(HOLDS), at_once=1, seconds=2.0)
    assert [each.status for each in found] == ["too long", "not started"]


def test_a_record_of_before_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    assert outcomes(tmp_path, job(HOLDS))[0].status == "held"
    assert outcomes(tmp_path, job(KILLED))[0].values == {}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "expected"), [(HOLDS, 0), (FAILS, 1), (KILLED, 1)])
def test_exit_code_and_file(code: str, expected: int, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["shell", "--device", "cpu", "--out", "found.json"]
    assert command.main(words, lambda part, *_: [job(HOLDS, f"{part}/one"), job(code, f"{part}/two")]) == expected
    found = json.loads(Path("found.json").read_text())
    assert found["held"] == (expected == 0)
    assert set(found["parts"]["shell"]) == {"shell/one", "shell/two"}
    assert found["parts"]["shell"]["shell/one"]["values"] == {"x": 1}
    assert found["machine"]["torch"] == torch.__version__
    out = capsys.readouterr().out
    assert f"{2 - expected} of 2 checks held" in out
    assert ("3 is not 4" in out) == (code == FAILS)


def test_nothing_checked_is_nothing_held() -> None:
    assert command.main(["--device", "cpu", "--out", "found.json", "--only", "no such check"]) == 1


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["--out", "found.json"]) == 2
    out, error = capsys.readouterr()
    assert not out
    assert error.count("\n") == 1
    assert "no GPU" in error
    assert not list(Path().iterdir())


def test_the_checks_have_names_of_their_part() -> None:
    for part, checks in child.PARTS.items():
        assert all(name.startswith(f"{part}/") for name in checks())
        assert command.jobs(part, "cpu", "*")
    marked = [name for name in correctness.checks() if "/pytest " in name]
    assert "correctness/pytest games/test_cuda_graph.py" in marked
    assert "correctness/pytest test_gpu_command.py" not in marked
    assert command.processes_at_once("timings") == 1


def test_a_check_is_written_down_however_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(device: torch.device, record: Record) -> None:
        record.values["seen"] = str(device)
        record.expect(False, "it was not so")
        raise ValueError("at the end")

    monkeypatch.setitem(child.PARTS, "shell", lambda: {"shell/check": check})
    with pytest.raises(ValueError, match="at the end"):
        child.main("shell/check", "cpu", Path("found.json"))
    found = json.loads(Path("found.json").read_text())
    assert found["values"] == {"seen": "cpu"}
    assert found["failures"] == ["it was not so", "ValueError: at the end"]


# --- correctness ------------------------------------------------------------------------------------------------------

POINTS = ["model=mlp", "dataset=ring", "model.generator.width=4", "model.discriminator.width=4"]
LAZY = [*POINTS, "loss=bce", "regularizer=r1", "regularizer.r1.every=2"]


@pytest.fixture
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "STEPS", 8)


@pytest.mark.slow
def test_the_configs_compose() -> None:
    for words in (correctness.CONFIGS | correctness.NOT_CAPTURED).values():
        assert compose(*words)["model"]
    for row in timings.ROWS.values():
        assert compose(*row.words)["model"]


@pytest.mark.usefixtures("few_steps")
@pytest.mark.parametrize("precision", some(reversed(correctness.PRECISIONS), every=2))
def test_steps_from_tapes_are_eager_ones(precision: str) -> None:
    record = Record()
    correctness.trains([*POINTS, f"precision={precision}"], True, CPU, record)
    assert not record.failures
    assert record.values["graphs"] == 1
    assert record.values["state differs by"] <= correctness.TOLERANCE[precision]


def test_on_a_gpu_what_waits_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)

    def step() -> None:
        raise ValueError(f"in mode {modes[-1]}")

    with pytest.raises(ValueError, match="in mode error"), correctness.no_waiting(GPU):
        step()
    assert modes == ["error", "default"]


@pytest.mark.usefixtures("few_steps")
def test_another_state_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(game, say):
        with torch.no_grad():
            next(game.generator.network.parameters()).mul_(1.01)
        return taped(game)

    monkeypatch.setattr(correctness, "captured", changed)
    record = Record()
    correctness.captured_is_eager(compose(*POINTS, "metric=none", "device=cpu"), CPU, record)
    assert any("the state differs" in line for line in record.failures)


@pytest.mark.usefixtures("few_steps")
def test_a_capture_that_is_refused_is_seen() -> None:
    record = Record()

    def add(game):
        game.players["discriminator"].terms["fails"] = Term(correctness.Reads())

    correctness.captured_is_eager(compose(*LAZY, "metric=none", "device=cpu"), CPU, record, change=add)
    assert "the host waits for a number" in record.notes[0]
    assert len(record.failures) == 2  # the note, and too few graphs


@pytest.mark.slow
def test_failed_captures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(correctness, "DCGAN", LAZY)
    monkeypatch.setattr(correctness, "STEPS", 12)
    record = Record()
    correctness.failed_capture(CPU, record)
    assert not record.failures
    assert len(record.notes) == 2


# --- the command line -------------------------------------------------------------------------------------------------


def test_the_last_word_for_a_key_counts() -> None:
    assert shell.once(["steps=3", "device=cpu", "steps=5"]) == ["steps=5", "device=cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("name", shell.checks())
def test_what_the_shell_is_asked_holds_on_a_cpu(name: str, tmp_path: Path) -> None:
    (found,) = outcomes(tmp_path, *command.jobs("shell", "cpu", name), seconds=280)
    assert found.status == "held", found.reasons


@pytest.mark.slow
def test_words_that_are_refused_are_a_failure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no_such_loss"):
        shell.Shell(tmp_path, CPU, Record()).call("loss=no_such_loss")


@pytest.mark.slow
def test_tests_that_are_skipped_did_not_hold(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("they run")
    (found,) = outcomes(tmp_path, *command.jobs("correctness", "cpu", "*pytest games/*"))
    assert found.status == "failed"
    assert any("no test passed" in reason for reason in found.reasons)


# --- timings ----------------------------------------------------------------------------------------------------------


def test_the_time_covered_by_intervals() -> None:
    assert timings.covered([]) == 0
    assert timings.covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4


@pytest.mark.parametrize(("name", "contestants"), [
    ("ring wgan_gp", {"eager", "captured", "bare", "naive"}),
    pytest.param("ring, 16 penalty weights", {"eager", "captured"}, marks=pytest.mark.slow),
])  # fmt: skip
@pytest.mark.slow
def test_a_row_of_the_table(name: str, contestants: set[str], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for constant, value in {"BLOCKS": 1, "SECONDS": 1e-3, "PROFILED": 1}.items():
        monkeypatch.setattr(timings, constant, value)
    record = Record()
    timings.timings(timings.ROWS[name], timings.ARITHMETIC["tf32"], CPU, record)
    assert not record.failures
    assert contestants - set(record.values) <= {"captured"}  # of stacked runs, perhaps not yet
    for values in record.values.values():
        assert values["milliseconds"] > 0
        assert values["busy"] > 0
        assert values["kernels of a step"] >= len(values["longest kernels"]) > 0
    command.print_timings([Outcome(f"timings/{name}", "held", values=record.values)], Console(width=200))
    out = capsys.readouterr().out
    assert "eager" in out
    assert "aten::" in out


def test_the_seconds_of_a_step() -> None:
    steps = itertools.count()

    def step() -> None:
        time.sleep(0.01)
        next(steps)

    seconds = timings.seconds_of(step, CPU)
    assert 0.009 < seconds < 0.1
    assert next(steps) >= timings.BLOCKS


def test_a_gpu_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step takes a GPU 5 ms, however soon the host has told it."""
    steps = itertools.count()

    class Event:
        def __init__(self, *, enable_timing: bool):
            assert enable_timing

        def record(self) -> None:
            self.at = next(steps)

        def elapsed_time(self, other: "Event") -> float:
            return 5.0 * (other.at - self.at - 1)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    waited: list[torch.device] = []
    monkeypatch.setattr(timings, "synchronize", waited.append)
    assert timings.timed(lambda: next(steps), 20, GPU) == pytest.approx(0.005)
    assert waited == [GPU, GPU]
    monkeypatch.setattr(timings, "profiled", lambda *_: ([{"name": "gemm", "count": 3.0, "microseconds": 9.0}], 0.004))
    memory = {"memory_allocated": 1 * 2**20, "max_memory_allocated": 4 * 2**20}
    for name in ("empty_cache", "reset_peak_memory_stats", *memory):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: memory.get(name))
    found = timings.measured(lambda: lambda: next(steps), GPU)
    assert found["milliseconds"] == pytest.approx(5)
    assert found["busy"] == pytest.approx(0.8)
    assert (found["peak MiB"], found["kernels of a step"]) == (3, 3)


def test_each_process_has_its_share_of_the_cores(tmp_path: Path) -> None:
    code = "import json, os, sys; json.dump({'values': dict(os.environ)}, open(sys.argv[1], 'w'))"
    (found,) = outcomes(tmp_path, job(code), at_once=2)
    assert int(found.values["OMP_NUM_THREADS"]) == max(1, (os.cpu_count() or 1) // 2)
