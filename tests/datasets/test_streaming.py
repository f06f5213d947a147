"""Datasets that stream: the same batches as resident ones, the processes that fetch them, and what is left of these."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from gan_runner.datasets import array, memory, streamed
from gan_runner.datasets.data import Endless, Recorded, Samples
from gan_runner.datasets.on_disk import Mapped
from gan_runner.datasets.streamed import Streamed, place
from gan_runner.training.build import build
from tests.helpers import SMALL, compose
from tests.helpers.batches import assert_same
from tests.helpers.runs import metrics, summary

LONG = ["steps=1000000", "log_every=null", "sample_every=null", "checkpoint_every=null", "stream=true", "device=cpu"]
NPY: dict[str, Any] = {
    "labels": None, "layout": "auto", "held_out": 0.2, "image_size": None, "channels": None,
    "normalization": "symmetric", "flip": True, "dequantize": True, "seed": 0,
}  # fmt: skip


def children() -> list[int]:
    """Processes of this one that have not been waited for."""
    lists = Path("/proc/self/task").glob("*/children")
    return [int(number) for each in lists for number in each.read_text().split()]


def images(count: int = 10, **options: Any) -> Samples:
    pixels = torch.randint(256, (count, 3, 4, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return Samples(pixels, torch.arange(count), **{"seed": 0, "flip": True, "dequantize": True} | options)


@pytest.fixture(params=[0, 2])
def workers(request):
    yield request.param
    assert children() == []


# Batches


def test_a_streamed_dataset_has_the_batches_of_a_resident_one(workers):
    resident, data = images(), Streamed(images(), workers)
    for index in range(12):  # batches of 4 of 10: over the borders of five epochs
        assert_same(data.batch(index, 4, seed=3), resident.batch(index, 4, seed=3))
    assert_same(data.fixed(7), resident.fixed(7))
    assert_same(data.training(7), resident.training(7))
    assert_same(data.training(None), resident.training(None))
    assert data.record().keys() == resident.record().keys()
    data.close()


def test_requests_in_any_order(workers):
    resident, data = images(), Streamed(images(), workers)
    for index, batch_size, seed in [(0, 4, 0), (1, 4, 0), (7, 4, 0), (8, 4, 0), (2, 4, 0), (3, 5, 0), (4, 5, 1)]:
        assert_same(data.batch(index, batch_size, seed), resident.batch(index, batch_size, seed))
    data.close()
    assert_same(data.batch(5, 5, 1), resident.batch(5, 5, 1))
    data.close()


def test_batches_that_follow_come_from_the_same_processes():
    data = Streamed(images(), 2)
    data.batch(5, 4, seed=0)
    before = children()
    assert len(before) == 2
    for index in range(6, 40):
        data.batch(index, 4, seed=0)
    assert children() == before
    data.batch(0, 4, seed=0)
    assert len(children()) == 2
    assert children() != before
    data.close()
    assert children() == []


@pytest.mark.parametrize(("size", "updates"), [(13, 2), (16, 1)])
def test_a_generators_batch_of_another_size_starts_no_other_processes(size, updates):
    words = ["model=mlp", "loss=hinge", "batch_size=8", "device=cpu", "metric=none", "stream=true", "workers=2"]
    game = build(compose(*words, f"generator_batch_size={size}", f"discriminator_steps={updates}"), []).game
    game.batches(0)
    before = children()
    assert len(before) == 2
    for step in range(1, 5):
        assert [len(real) for real, _ in game.batches(step)] == [8] * updates + [size]
    assert children() == before
    game.data.close()


def test_streaming_draws_no_noise():
    data = Streamed(images(), 2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    data.batch(0, 4, seed=0)
    data.close()
    assert torch.equal(torch.get_rng_state(), before)


def test_points_and_unlabelled_samples_stream(workers):
    points = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    resident, data = Samples(points, seed=0), Streamed(Samples(points, seed=0), workers)
    for index in range(8):
        assert_same(data.batch(index, 6, seed=0), resident.batch(index, 6, seed=0))
    data.close()


def test_processes_end_with_the_data_that_nobody_closed():
    data = Streamed(images(), 2)
    data.batch(0, 4, seed=0)
    assert children()
    del data
    assert children() == []


def test_workers_keep_two_permutations_at_most():
    source = images()
    source.cached_orders = 2
    for index in range(100):
        source.batch(index, 4, seed=0)
    assert len(source._orders) == 2


# Files


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("uint8", {}),
        ("uint8", {"normalization": "standard", "held_out": 0.0}),
        ("uint8", {"image_size": [5, 3], "channels": 1}),
        (">f4", {"normalization": "unit"}),
        ("f2", {"image_size": 8}),
    ],
)
def test_a_file_gives_the_same_batches_however_it_is_read(kind, options, tmp_path, workers):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 6, 3), dtype=np.uint8)
    path = tmp_path / "images.npy"
    np.save(path, pixels if kind == "uint8" else (pixels / 255).astype(kind))
    np.save(tmp_path / "labels.npy", np.arange(30))
    keys = NPY | {"labels": str(tmp_path / "labels.npy")} | options
    in_file: Any = array.npy(path=str(path), **keys)
    assert in_file.is_on_disk
    resident = in_file.to("cpu")
    assert not resident.is_on_disk
    data = Streamed(in_file, workers).to("cpu")
    for index in range(12):
        assert_same(data.batch(index, 7, seed=0), resident.batch(index, 7, seed=0))
        assert_same(in_file.batch(index, 7, seed=0), resident.batch(index, 7, seed=0))
    for call in ("held_out", "fixed", "training"):
        assert_same(getattr(data, call)(5), getattr(resident, call)(5))
    assert_same(data.training(None), resident.training(None))
    assert data.nbytes == resident.nbytes
    data.close()
    path.unlink()
    resident.batch(0, 7, seed=0)  # it is in memory


def test_the_parts_of_a_pass_are_bounded_by_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("gan_runner.datasets.on_disk.CHUNK_BYTES", 3 * 4 * 6 * 3)
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (10, 3, 4, 6), dtype=np.uint8))
    data: Any = array.npy(path=str(tmp_path / "a.npy"), **NPY | {"held_out": 0.0})
    assert [len(part) for part in data._samples.split(4096)] == [3, 3, 3, 1]
    assert torch.equal(torch.cat(list(data._samples.split(2))), data._samples.to("cpu"))


def test_mapped_samples_travel_as_a_path(tmp_path):
    import pickle

    np.save(tmp_path / "a.npy", np.zeros((1000, 3, 4, 6), np.uint8))
    data: Any = array.npy(path=str(tmp_path / "a.npy"), **NPY)
    packed = pickle.dumps(data._samples)
    assert len(packed) < 20_000
    assert torch.equal(pickle.loads(packed).to("cpu"), data._samples.to("cpu"))


@pytest.fixture
def huge(tmp_path: Path) -> Path:
    """A file of 48 GiB that takes no place on the disk: all of it is zero but two images."""
    path = tmp_path / "huge.npy"
    try:
        opened = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(2**16, 512, 512, 3))
    except OSError as error:
        pytest.skip(str(error))
    opened[0], opened[-1] = 10, 20
    del opened
    return path


def test_a_file_larger_than_memory_streams_and_says_so(huge, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2**30)
    loaded = array.npy(path=str(huge), **NPY)
    data, [note] = place(loaded, torch.device("cpu"), "auto", 1)
    assert note == (
        "the dataset takes 48.0 GiB, and cpu has 1.0 GiB free: it streams from its file, workers=1; stream=false keeps "
        "it there"
    )
    assert isinstance(data, Streamed)
    samples, _ = data.batch(0, 4, seed=0)
    assert samples.shape == (4, 3, 512, 512)
    assert len(data.fixed(4)[0]) == 4
    with pytest.raises(ValueError, match=r"all training samples are asked for: they take 48\.0 GiB .* 1\.0 GiB are fr"):
        data.training(None)
    assert len(data.training(2)[0]) == 2
    data.close()
    with pytest.raises(ValueError, match=r"stream=false: the dataset takes 48\.0 GiB, and cpu has 1\.0 GiB free"):
        place(loaded, torch.device("cpu"), False, 1)


# Where


@pytest.mark.parametrize(
    ("stream", "free", "streams"),
    [("auto", 5000, True), ("auto", 6000, False), ("auto", None, False), (True, 10**9, True), (False, 3000, False)],
)
def test_where_a_dataset_goes(stream, free, streams, monkeypatch):
    monkeypatch.setattr(streamed, "free_memory", lambda _: free)
    small = images(34)  # 2,720 bytes
    assert small.nbytes == 2720
    data, notes = place(small, torch.device("meta"), stream, 2)
    assert isinstance(data, Streamed) == streams
    assert data.device.type == "meta"
    assert bool(notes) == (stream == "auto" and streams)
    if notes:
        assert "the dataset takes 2.66 KiB, and meta has 4.88 KiB free: it streams from host memory" in notes[0]


def test_a_resident_dataset_that_cannot_be_is_refused(monkeypatch):
    monkeypatch.setattr(streamed, "free_memory", lambda _: 2**20)
    large = Samples(torch.zeros(400, 3, 32, 32, dtype=torch.uint8), seed=0)
    with pytest.raises(ValueError, match=r"stream=false: the dataset takes 1\.17 MiB, and meta has 1 MiB free; stream"):
        place(large, torch.device("meta"), False, 2)
    data, notes = place(large, torch.device("cpu"), "auto", 2)  # it is there
    assert notes == []
    assert type(data) is Samples
    place(large, torch.device("cpu"), False, 2)


@pytest.mark.parametrize("device", ["meta", "cpu"])
@pytest.mark.parametrize("stream", ["auto", True, False])
def test_what_was_placed_stays_where_it_is(stream, device, monkeypatch):
    """The runs of a sweep share a dataset, which has taken its part of the memory."""
    monkeypatch.setattr(streamed, "free_memory", lambda _: 6000)
    data, _ = place(images(34), torch.device(device), stream, 2)
    monkeypatch.setattr(streamed, "free_memory", lambda _: 100)
    again, notes = place(data, torch.device(device), stream, 2)
    assert notes == []
    assert type(again) is type(data)
    assert isinstance(again, Samples)
    assert again._samples is data._samples  # type: ignore[attr-defined]
    assert getattr(again, "_source", None) is getattr(data, "_source", None)


def test_what_is_made_on_the_device_does_not_stream():
    endless = Endless(lambda generator, count: (torch.randn(count, 2, generator=generator), None), seed=0)
    with pytest.raises(ValueError, match="stream=true: this dataset makes its samples on the device"):
        place(endless, torch.device("cpu"), True, 2)
    assert place(endless, torch.device("cpu"), "auto", 2)[1] == []
    assert isinstance(place(Recorded(endless.record()), torch.device("cpu"), True, 2)[0], Recorded)


def test_bad_values(run_cli):
    for word, message in [
        ("stream=yes_please", "stream=yes_please: must be 'auto' or true or false"),
        ("workers=-1", "workers=-1: must be greater than or equal to 0"),
    ]:
        code, _, error = run_cli(*SMALL, word)
        assert code == 1
        assert message in error
    code, _, error = run_cli(*SMALL, "dataset=ring", "stream=true")
    assert code == 1
    assert "stream=true: this dataset makes its samples on the device" in error
    assert not Path("outputs").exists()


# Runs


def tensors(directory: str, name: str = "last.pt") -> dict[str, Any]:
    return torch.load(Path(directory) / "checkpoints" / name, weights_only=True)["game"]


WORDS = [*SMALL, "steps=8", "dataset.flip=true", "sample_every=4"]


@pytest.fixture
def resident_run(run_cli):
    code, _, error = run_cli(*WORDS, "stream=false", "hydra.run.dir=resident")
    assert code == 0, error


@pytest.mark.parametrize("count", [0, 2])
def test_a_run_is_the_same_to_the_bit(count, resident_run, run_cli):
    code, _, error = run_cli(*WORDS, "stream=true", f"workers={count}", "hydra.run.dir=streamed")
    assert code == 0, error
    assert metrics("streamed") == metrics("resident")
    torch.testing.assert_close(tensors("streamed"), tensors("resident"), rtol=0, atol=0)
    for name in ("real.png", "step_00000008.png"):
        assert Path("streamed/samples", name).read_bytes() == Path("resident/samples", name).read_bytes()
    assert children() == []


def test_a_streamed_run_goes_on_to_the_same_bits(resident_run, run_cli):
    run_cli(*WORDS, "stream=true", "steps=3", "hydra.run.dir=streamed")
    code, _, error = run_cli("resume", "streamed", "steps=8")
    assert code == 0, error
    assert [row["loss/generator"] for row in metrics("streamed")] == [
        row["loss/generator"] for row in metrics("resident")
    ]
    torch.testing.assert_close(tensors("streamed"), tensors("resident"), rtol=0, atol=0)
    assert children() == []


def test_configs_from_before_there_was_streaming_still_run(run_cli):
    run_cli(*SMALL, "hydra.run.dir=old")
    stored = Path("old/.hydra/config.yaml")
    config = yaml.safe_load(stored.read_text())
    assert (config.pop("stream"), config.pop("workers")) == ("auto", 2)
    stored.write_text(yaml.safe_dump(config))
    code, _, error = run_cli("resume", "old", "steps=4")
    assert code == 0, error


def test_samples_of_a_streamed_run(run_cli):
    run_cli(*SMALL, "stream=true", "hydra.run.dir=run")
    code, _, error = run_cli("sample", "run", "--count", "4")
    assert code == 0, error


@pytest.mark.slow
def test_a_file_streams_in_a_run_and_the_log_says_so(run_cli, tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8))
    words = [*SMALL, "dataset=npy", "dataset.path=images.npy"]
    code, _, error = run_cli(*words, "hydra.run.dir=resident")
    assert code == 0, error
    assert "streams" not in Path("resident/gan_runner.log").read_text()
    monkeypatch.setattr(memory, "available_memory", lambda: 5000)
    code, _, error = run_cli(*words, "hydra.run.dir=streamed")
    assert code == 0, error
    assert "cpu has 4.88 KiB free: it streams from its file, workers=2" in Path("streamed/gan_runner.log").read_text()
    assert metrics("streamed") == metrics("resident")
    monkeypatch.setattr(memory, "available_memory", lambda: 900)
    code, _, error = run_cli(*words, "stream=false", "hydra.run.dir=refused")
    assert (code, error.count("\n")) == (1, 1)
    assert "stream=false: the dataset takes 3.12 KiB, and cpu has 900 B free; stream=true leaves it" in error
    assert not Path("refused/summary.json").exists()


def test_no_processes_after_an_error(run_cli, monkeypatch):
    from gan_runner.games.adversarial import Adversarial

    def fail(*_: Any, **options: Any) -> None:
        assert len(children()) == 2
        raise ZeroDivisionError

    monkeypatch.setattr(Adversarial, "generator_turn", fail)
    code, _, error = run_cli(*SMALL, "stream=true")
    assert code == 1
    assert "ZeroDivisionError" in error
    assert children() == []


def test_an_error_that_a_dying_worker_brings_about_is_the_same_line(run_cli, monkeypatch):
    """torch raises from a signal handler, in whatever Python runs then: on its way out that may fail, too."""
    from gan_runner.games.adversarial import Adversarial

    def interrupted(*_: Any, **options: Any) -> None:
        try:
            raise RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. ")
        finally:
            raise RuntimeError("trying to pop from empty mode stack")

    monkeypatch.setattr(Adversarial, "generator_turn", interrupted)
    code, _, error = run_cli(*SMALL)
    assert (code, error.count("\n")) == (1, 1)
    assert "a process that reads the dataset died (DataLoader worker (pid 12)" in error


def test_a_worker_that_dies_is_one_line(run_cli, monkeypatch):
    parent, stored = os.getpid(), Samples.stored

    def dying(self: Samples, index: int, batch_size: int, seed: int, positions: slice) -> Any:
        if index == 6 and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return stored(self, index, batch_size, seed, positions)

    monkeypatch.setattr(Samples, "stored", dying)
    code, _, error = run_cli(*SMALL, "stream=true", "hydra.run.dir=run")
    assert code == 1
    assert "a process that reads the dataset died (DataLoader worker" in error
    assert "workers=0 reads it without any" in error
    assert "Traceback" not in error
    assert children() == []
    assert summary()["status"] == "failed"


# Signals


def group_is_gone(group: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def streaming_run():
    """A run that streams, in a process group of its own, and has begun."""
    command = [sys.executable, "-m", "gan_runner", *SMALL, *LONG, "hydra.run.dir=run"]
    environment = {**os.environ, "PYTHONPATH": str(Path(streamed.__file__).parents[2])}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment
    )
    end = time.monotonic() + 60
    while len(list_children(process.pid)) < 2 and time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    assert len(list_children(process.pid)) == 2
    yield process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def list_children(number: int) -> list[str]:
    lists = Path(f"/proc/{number}/task").glob("*/children")
    return [word for each in lists for word in each.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_the_whole_group_saves_and_ends_all(streaming_run, number, expected):
    """As Ctrl-C sends it, and a scheduler."""
    os.killpg(streaming_run.pid, number)
    output, error = streaming_run.communicate(timeout=60)
    assert streaming_run.returncode == expected, error
    assert "Traceback" not in output + error
    assert "DataLoader" not in output + error
    assert "Warning" not in output + error
    assert summary()["status"] == "interrupted"
    assert Path("run/checkpoints/last.pt").exists()
    assert group_is_gone(streaming_run.pid, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_workers_die_with_a_run_that_is_killed(streaming_run):
    os.kill(streaming_run.pid, signal.SIGKILL)
    streaming_run.wait()
    assert group_is_gone(streaming_run.pid, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_obeys_its_parents_signal_alone():
    data = Streamed(images(), 1)
    data.batch(0, 4, seed=0)
    [worker] = data._feed._workers  # type: ignore[union-attr]
    stranger = f"import os; os.kill({worker.pid}, {int(signal.SIGTERM)})"
    subprocess.run([sys.executable, "-c", stranger], check=True)
    time.sleep(0.2)
    assert worker.is_alive()
    data.batch(1, 4, seed=0)
    os.kill(worker.pid, signal.SIGTERM)
    worker.join(5)
    assert worker.exitcode == 0
    data.close()


# On a GPU


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_streams_the_batches_that_it_has_resident_without_waiting(workers):
    resident = images(64).to("cuda")
    data = Streamed(images(64), workers).to("cuda")
    data.batch(0, 48, seed=0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [data.batch(index, 48, seed=0) for index in range(1, 9)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for index, batch in enumerate(found, 1):
        assert_same(batch, resident.batch(index, 48, seed=0))
    assert_same(data.fixed(9), resident.fixed(9))
    data.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_streams_what_is_larger_than_its_free_memory(huge):
    free = torch.cuda.mem_get_info()[0]
    if free > 2 * 48 * 2**30:
        pytest.skip("a larger GPU")
    data, notes = place(array.npy(path=str(huge), **NPY), torch.device("cuda", 0), "auto", 2)
    assert isinstance(data, Streamed)
    assert "it streams from its file" in notes[0]
    assert data.batch(0, 4, seed=0)[0].is_cuda
    data.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_run_on_cuda_is_the_same_to_the_bit(run_cli):
    words = [word for word in WORDS if not word.startswith("device")]
    for stream in ("true", "false"):
        code, _, error = run_cli(*words, f"stream={stream}", "device=cuda", f"hydra.run.dir={stream}")
        assert code == 0, error
    assert metrics("true") == metrics("false")


def test_a_mapped_array_is_a_mapped_array(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12, dtype=np.float32).reshape(6, 2))
    data: Any = array.npy(path=str(tmp_path / "a.npy"), **NPY | {"flip": False, "dequantize": False})
    assert isinstance(data._samples, Mapped)
    assert (data._samples.dim(), data._samples.dtype) == (2, torch.float32)
