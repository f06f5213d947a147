"""Samples that are too many for the device: they stay where they are, and batches are fetched ahead by processes."""

import contextlib
import copy
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, Self

import torch
from torch.utils.data import DataLoader

from gan_runner.datasets.data import WHOLE, Data, Labelled, Recorded, Samples
from gan_runner.datasets.memory import SHARE, free_memory, size
from gan_runner.datasets.on_disk import UnreadableError

PREFETCHED = 2  # batches that each worker is ahead: all of them lie in /dev/shm, of which a container has 64 MiB
# A worker is a fork where that is sound: nothing is copied or pickled, and a start takes milliseconds. It only reads
# rows, on one thread, and uses neither CUDA nor a lock that another thread of its parent might have held.
CONTEXT = "fork" if sys.platform == "linux" else "spawn"
PR_SET_PDEATHSIG = 1  # of Linux' prctl

Place = Literal["auto"] | bool
"""Whether a dataset streams; auto = if it takes more than `SHARE` of the memory that the device has free."""


class Streamed(Samples):
    """Samples in host memory, or in files, with the batches that they have when they are resident on the device.

    Rows are picked by processes, pinned where the device is a GPU, and copied to it without waiting; they are flipped
    and normalised there. Batches that follow on each other are fetched ahead; any other request starts the processes
    anew.

    workers: processes; 0 = pick the rows when they are asked for.
    """

    def __init__(self, samples: Samples, workers: int) -> None:
        vars(self).update(vars(samples))
        self.workers = workers
        self._source = samples
        self._feed: Iterator[Labelled | UnreadableError] | None = None
        self._next: tuple[int, int, int, slice] | None = None  # the request that the feed is at

    def to(self, device: torch.device | str) -> Self:
        """The same data, for `device`, staying where they are."""
        moved = copy.copy(self)
        moved.device, moved._feed, moved._next = torch.device(device), None, None
        for name in ("scale", "shift", "centres"):
            value = getattr(self, name)
            setattr(moved, name, None if value is None else value.to(device))
        return moved

    def batch(self, index: int, batch_size: int, seed: int, positions: slice = WHOLE) -> Labelled:
        """The batch that `Samples` has.

        Raises RuntimeError if a worker died, UnreadableError naming an image file.
        """
        samples, labels = self._fetched(index, batch_size, seed, positions)
        samples = samples.to(self.device, non_blocking=True)
        labels = None if labels is None else labels.to(self.device, non_blocking=True)
        return self.finished(samples, index, batch_size, seed, positions), labels

    def close(self) -> None:
        feed: Any = self._feed
        self._feed = self._next = None
        if feed is None:
            return
        feed._shutdown_workers()  # DataLoader has no public way that does not wait for the garbage collector
        for worker in feed._workers:
            if worker.is_alive():
                worker.kill()
                worker.join()

    def training(self, count: int | None) -> Labelled:
        """Training samples, as from `Samples`. Raises ValueError if all are wanted and exceed the host's memory."""
        are_all = count is None or count >= self.size
        available = free_memory(torch.device("cpu")) if self.is_on_disk and are_all else None
        if available is not None and self.nbytes > available:
            raise ValueError(
                f"all training samples are asked for: they take {size(self.nbytes)} of memory, and "
                f"{size(available)} are free; ask for some, as metric.NAME.real_samples=10000 does"
            )
        return super().training(count)

    def _fetched(self, index: int, batch_size: int, seed: int, positions: slice) -> Labelled:
        """A batch as it is stored: in host memory, which is pinned for a GPU."""
        if self.workers == 0:
            samples, labels = self._source.stored(index, batch_size, seed, positions)
            if self.device.type != "cuda":
                return samples, labels
            return samples.pin_memory(), None if labels is None else labels.pin_memory()
        wanted = (index, batch_size, seed, positions)
        if self._feed is None or self._next != wanted:
            self.close()
            self._feed = self._started(index, batch_size, seed, positions)
        self._next = None
        try:
            found = next(self._feed)
        except (ConnectionError, EOFError) as error:  # it was killed while it passed a batch on
            raise RuntimeError(f"DataLoader worker is gone: {error}") from error
        if isinstance(found, UnreadableError):
            raise found
        self._next = (index + 1, batch_size, seed, positions)
        return found

    def _started(
        self, index: int, batch_size: int, seed: int, positions: slice
    ) -> Iterator[Labelled | UnreadableError]:
        """Workers that fetch all batches from `index` on."""
        source = copy.copy(self._source)
        source._orders, source.cached_orders = {}, 2  # in each worker: a batch may lie across the border of two epochs
        if CONTEXT != "fork":
            source.share_memory()
        is_cuda = self.device.type == "cuda"
        loader = DataLoader(
            StoredBatches(source, batch_size, seed, positions),
            batch_size=None,
            sampler=range(index, sys.maxsize),
            num_workers=self.workers,
            prefetch_factor=PREFETCHED,
            pin_memory=is_cuda,
            worker_init_fn=partial(end_with_parent, os.getpid()),  # who may be gone before the worker looks
            multiprocessing_context=CONTEXT,
            generator=torch.Generator(),  # or it would draw from the one that the run's noise comes from
        )
        # Memory is pinned in the context of the current device, which need not be this one.
        current = torch.cuda.device(self.device) if is_cuda else contextlib.nullcontext()
        with current, deaf_children():
            return iter(loader)


class StoredBatches(torch.utils.data.Dataset[Labelled | UnreadableError]):
    """Batches by their index, as a worker picks them, or why that cannot be."""

    def __init__(self, samples: Samples, batch_size: int, seed: int, positions: slice):
        self.samples, self.batch_size, self.seed, self.positions = samples, batch_size, seed, positions

    def __getitem__(self, index: int) -> Labelled | UnreadableError:
        try:
            return self.samples.stored(index, self.batch_size, self.seed, self.positions)
        except UnreadableError as error:  # DataLoader would make its traceback the message
            return error


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that start here never see SIGINT and SIGTERM, which go to all of a run's at once: it ends them itself.

    The mask is inherited, so that there is no moment at which they do see them.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent(parent: int, worker: int) -> None:
    """Make a worker obey its parent's SIGTERM and no one else's, and end at once when the parent is gone."""
    if hasattr(signal, "sigwaitinfo"):
        threading.Thread(target=_obey, args=(parent,), daemon=True).start()
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM,))
    if sys.platform == "linux":  # elsewhere DataLoader sees it within seconds
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _obey(parent: int) -> None:
    while True:
        if signal.sigwaitinfo((signal.SIGTERM,)).si_pid == parent:
            os._exit(0)


def place(data: Data, device: torch.device, stream: Place, workers: int) -> tuple[Data, list[str]]:
    """Put the data on the device, or let it stream there; the data, and lines for the log.

    On the CPU, samples in host memory are resident as they are, and those in files are if they fit it. What has been
    placed on the device before stays as it is, as it would not count in the memory that is free now.
    Raises ValueError where `stream` cannot be had.
    """
    if isinstance(data, Streamed):
        return data.to(device), []
    if not isinstance(data, Samples):
        if stream is True and not isinstance(data, Recorded):
            raise ValueError("stream=true: this dataset makes its samples on the device; stream=auto fits all datasets")
        return data.to(device), []
    is_there = data.device == device and not data.is_on_disk
    takes, free = data.nbytes, None if is_there else free_memory(device)
    sizes = f"the dataset takes {size(takes)}, and {device} has {size(free or 0)} free"
    notes = []
    if stream == "auto":
        stream = free is not None and takes > SHARE * free
        how = f"it streams from {data.source}, workers={workers}; stream=false keeps it there"
        notes = [f"{sizes}: {how}"] if stream else []
    if not stream and free is not None and takes > free:
        raise ValueError(f"stream=false: {sizes}; stream=true leaves it where it is")
    return (Streamed(data, workers) if stream else data).to(device), notes
