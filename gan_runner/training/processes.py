"""The processes of one run: process 0 runs the training loop, the others take the steps that it asks for.

Process 0 does all that a run in one process does. Before each step it tells the others its number, and hears whether
one of them got a signal; in the step all average their gradients. torchrun and srun start all processes, and set their
ranks in the environment. Otherwise process 0 starts the others (`devices=N`), and sets the same variables for them.
The samples that an evaluation looks at are made by all of them, a batch each at a time.

The others wait, however long process 0 loads data or evaluates, until it begins the first step, or ends without one.
When a process dies its connections break, and the others end. If process 0 started the others it reports which one
died, and how; if its own GPU hangs waiting for that process, it kills the rest and exits.
"""

import datetime
import functools
import io
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from gan_runner.config.process_rank import ProcessRank, launched_process, rendezvous
from gan_runner.games.player import Values
from gan_runner.storage import checkpoint
from gan_runner.torch_utils.ranks import as_rank
from gan_runner.training.build import Built, arithmetic_of, build
from gan_runner.training.evaluation import Generation, one_by_one
from gan_runner.training.signals import StopRequest

END, GENERATE, NOTHING = -1, -2, -3  # in the place of a step's number
LONG = datetime.timedelta(days=7)  # before a step process 0 may load data, or evaluate, for hours
RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=30)  # until all are there
RUN, BEGINS, HEARD = "run", "begins", "heard"  # keys of the store, and what RUN is: this, or a code to exit with
GRACE = 10.0  # seconds in which a process that lost another ends by itself
STARTED = "GAN_RUNNER_STARTED"  # in the environment of a process that process 0 has started


class LostError(ConnectionError):
    """Another process of the run is gone."""


class Group:
    """The processes of a run as process 0 sees them; a context manager that starts the others and ends them.

    They meet at the first step. Of one process alone it does nothing.
    """

    def __init__(self, built: Built, directory: Path, stop: StopRequest):
        self.built, self.process, self.directory, self.stop = built, built.process, directory, stop
        self.children: list[subprocess.Popen[bytes]] = []
        self.opened = ExitStack()
        self.store: Any = None  # where the processes that are started here meet
        self.control: Any = None  # the group through which the numbers of steps go, once it is there
        self.is_in_step = self.is_ended = False

    def __enter__(self) -> Self:
        if self.process.world_size > 1:
            self.built.evaluator.make_batches = self.make_batches
            if launched_process(os.environ) is None:
                self.start()
        return self

    def start(self) -> None:
        """Start the other processes of this machine, and wait for none of them."""
        threads = threads_of_each(self.built)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        self.opened.callback(torch.set_num_threads, before)
        self.store = store_at("127.0.0.1", 0, self.process)
        shared = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(self.store.underlying_store.port),
            "WORLD_SIZE": str(self.process.world_size),
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            STARTED: "1",
        }
        for rank in range(1, self.process.world_size):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-c", "from gan_runner.training.processes import follow; follow()"]
            # Ctrl-C is for process 0, which tells the others; the pipe ends when process 0 is gone.
            child = subprocess.Popen(
                command, env={**os.environ, **shared, **own}, stdin=subprocess.PIPE, process_group=0
            )
            self.children.append(child)
        threading.Thread(target=self.watch, daemon=True).start()

    def leading(self, take_step: Callable[..., Values]) -> Callable[..., Values]:
        """Takes a step in all processes. Raises LostError where one of the others is gone."""
        if self.process.world_size == 1:
            return take_step

        def lead(step: int, *, is_logged: bool = False) -> Values:
            with self.together():
                if self.control is None:
                    self.meet()
                self.ask(step, int(is_logged))
                return take_step(step, is_logged=is_logged)

        return lead

    def make_batches(self, generation: Generation, before_batch: Callable[[], object]) -> list[Tensor]:
        """All batches of an evaluation, made by all processes. Raises LostError where one of the others is gone."""
        if self.control is None:  # before the first step
            return one_by_one(generation, before_batch)
        found: list[Tensor] = []
        for first in range(0, len(generation.parts), self.process.world_size):
            before_batch()
            with self.together():
                self.ask(GENERATE, first)
                found += collect_batches(self.control, generation, first)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Within this the others do as this process does. Raises LostError where one of them is gone."""
        self.is_in_step = True
        try:
            yield
        except RuntimeError as error:
            if reason := self.lost_process(error):
                raise LostError(reason) from error
            raise
        self.is_in_step = False

    def ask(self, what: int, flag: int) -> None:
        """Tell the others what comes, and hear of a signal that one of them got."""
        if came := all_reduce_max(self.control, what, flag, 0)[2]:
            self.stop.came = self.stop.came or came

    def meet(self) -> None:
        """Wait for the others, and give them what they need to take the steps."""
        store = self.store or given_store()
        store.set(RUN, BEGINS)
        self.control = connect(self.opened, self.process, store)
        state = io.BytesIO()
        torch.save(self.built.game.state_dict(), state)
        broadcast(self.control, {**self.built.recipe, "state": state.getvalue(), "directory": str(self.directory)})
        if refused := [reason for reason in all_gather(self.control, None) if reason]:
            raise LostError(refused[0])

    def lost_process(self, error: RuntimeError) -> str | None:
        """Which of the others is gone, where an error means that one is."""
        if reason := self.ended_child(seconds=2.0 if self.children else 0.0):
            return reason
        return f"one of the other {self.process.world_size - 1} processes is gone" if is_of_connection(error) else None

    def ended_child(self, seconds: float) -> str | None:
        """The first of the children that has ended, or does so within so many seconds, and how."""
        end = time.monotonic() + seconds
        while True:
            for rank, child in enumerate(self.children, start=1):
                if child.poll() is not None:
                    code = child.returncode
                    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed (code {code})"
                    return f"process {rank} of {self.process.world_size} {how}"
            if time.monotonic() > end:
                return None
            time.sleep(0.05)

    def watch(self) -> None:
        """End this process where a child is gone and it cannot say so itself, because its GPU waits for that child."""
        while not self.is_ended:
            time.sleep(0.5)
            if not self.is_ended and (reason := self.ended_child(0)):
                end = time.monotonic() + GRACE
                while time.monotonic() < end and not self.is_ended:
                    time.sleep(0.1)
                if self.is_in_step and not self.is_ended:
                    print(f"gan-runner: {self.directory}: {reason}; {last_good(self.directory)}", file=sys.stderr)
                    self.kill()
                    os._exit(1)

    def kill(self) -> None:
        for child in self.children:
            child.kill()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        """Let the others end too: as this one does, or, where a step broke off, by force."""
        self.is_ended = True
        if self.control is not None and not self.is_in_step:
            code = error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else int(bool(error))
            with suppress(RuntimeError):  # one has just died
                all_reduce_max(self.control, END, code, 0)
        else:
            self.kill()
        for child in self.children:
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE)
            child.kill()
            child.wait()
            if child.stdin:
                child.stdin.close()
        self.opened.close()


def follow() -> None:
    """Be one of the processes beside process 0: take the steps that it asks for, and end as it does.

    Raises SystemExit. What process 0 says is not said again.
    """
    process = launched_process(os.environ)
    assert process is not None, "the environment says which"
    if STARTED in os.environ:
        threading.Thread(target=end_with_parent, daemon=True).start()
    job: dict[str, Any] = {}
    try:
        with StopRequest() as stop, ExitStack() as opened:
            code = take_part(process, stop, opened, job)
    except RuntimeError as error:
        if not is_of_connection(error):
            raise
        if process.rank == 1 and job:
            directory = Path(job["directory"])
            said = f"process 0 of {process.world_size}, or another, is gone; {last_good(directory)}"
            print(f"gan-runner: {directory}: {said}", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    raise SystemExit(code)


def take_part(process: ProcessRank, stop: StopRequest, opened: ExitStack, job: dict[str, Any]) -> int:
    """Take steps until process 0 ends, and return the code that it ends with; `job` is filled with what it says."""
    store = given_store()
    store.wait([RUN], LONG)
    if (said := store.get(RUN).decode()) != BEGINS:
        store.add(HEARD, 1)
        return int(said)
    control = connect(opened, process, store)
    job.update(broadcast(control, None))
    reason, built = None, None
    try:
        built = build(job["config"], job["trust"], horizon=job["horizon"])
        built.game.load_state_dict(torch.load(io.BytesIO(job["state"]), map_location="cpu", weights_only=True))
    except Exception as error:  # process 0 says it
        first = (str(error).splitlines() or [""])[0]
        reason = f"process {process.rank} of {process.world_size}: {first or type(error).__name__}"
    reasons = all_gather(control, reason)
    if built is None or any(reasons):
        return 1
    game, evaluator = built.game, built.evaluator
    generation: Generation | None = None
    with arithmetic_of(built.settings, lambda line: None), closing(game.data):
        while True:
            step, flag, _ = all_reduce_max(control, NOTHING, 0, stop.came or 0)
            if step == END:
                return flag  # with END it is the code
            if step == GENERATE:  # and with this the first batch of a round
                generation = generation or Generation(game, evaluator.samples, evaluator.seed)
                collect_batches(control, generation, flag)
            else:
                game.step(step, is_logged=bool(flag))


# --- what goes between them -------------------------------------------------------------------------------------------


@contextmanager
def awaited(process: ProcessRank) -> Iterator[None]:
    """Within this, process 0 of several that somebody else started may begin a run; if it does not, the others end too.

    They wait for a run of these words, and exit with the same code.
    """
    store = given_store()
    code = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
        raise
    finally:
        with suppress(dist.DistError):  # the store is torchrun's, which is gone: so are the others
            if not store.check([RUN]):
                store.set(RUN, str(code))
                end_of_grace = time.monotonic() + GRACE
                while store.add(HEARD, 0) < process.world_size - 1 and time.monotonic() < end_of_grace:
                    time.sleep(0.05)  # the store may go with this process


@functools.cache
def given_store() -> Any:
    """Where the processes find each other whose ranks the environment gives."""
    process = launched_process(os.environ)
    assert process is not None
    return store_at(*rendezvous(os.environ), process)


def store_at(host: str, port: int, process: ProcessRank) -> Any:
    """Where the processes of a run find each other: process 0 opens the port, or with 0 a free one."""
    is_first = process.rank == 0 and "TORCHELASTIC_USE_AGENT_STORE" not in os.environ  # torchrun has opened it already
    store = TCPStore(host, port, process.world_size, is_first, timeout=RENDEZVOUS_TIMEOUT, wait_for_workers=False)
    # torchrun keeps its store when it starts them again, with what was said before.
    return PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def connect(
    opened: ExitStack, process: ProcessRank, store: Any, patience: datetime.timedelta = RENDEZVOUS_TIMEOUT
) -> Any:
    """Join torch.distributed's default group, which `opened` leaves again; the group for what is said on the host.

    Gradients go through NCCL where they are on GPUs, through gloo on CPUs. `patience` is how long a process waits in
    a step for another one that does not come.
    """
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=process.rank, world_size=process.world_size, timeout=patience)
    opened.callback(dist.destroy_process_group)
    opened.enter_context(as_rank(process.rank, process.world_size))
    return dist.new_group(backend="gloo", timeout=LONG)


def all_reduce_max(control: Any, step: int, flag: int, came: int) -> tuple[int, int, int]:
    """The step that process 0 asks for, its flag, and the signal that one of the processes got, 0 if none."""
    said = torch.tensor([step, flag, came])
    dist.all_reduce(said, dist.ReduceOp.MAX, group=control)
    step, flag, came = said.tolist()
    return step, flag, came


def broadcast(control: Any, what: Any) -> Any:
    """What process 0 says, in every process."""
    said = [what]
    dist.broadcast_object_list(said, src=0, group=control)
    return said[0]


def all_gather(control: Any, what: Any) -> list[Any]:
    """What each process says, in every process."""
    said = [None] * dist.get_world_size(control)
    dist.all_gather_object(said, what, group=control)
    return said


def collect_batches(control: Any, generation: Generation, first: int) -> list[Tensor]:
    """A batch of each process, from number `first` on, in process 0; of those that there are."""
    number = first + dist.get_rank(control)
    own = generation.batch(number) if number < len(generation.parts) else None
    found: list[Tensor | None] | None = [None] * dist.get_world_size(control) if dist.get_rank(control) == 0 else None
    dist.gather_object(own, found, dst=0, group=control)
    return [batch for batch in found or [] if batch is not None]


def is_of_connection(error: RuntimeError) -> bool:
    """Whether another process is gone."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


# --- around them ------------------------------------------------------------------------------------------------------


def end_with_parent() -> None:
    """End this process where process 0 is gone and it does not notice, because its GPU waits for it."""
    os.read(0, 1)  # `sys.stdin` would have a lock, which the interpreter waits for at its end
    time.sleep(GRACE)
    os._exit(1)


def threads_of_each(built: Built) -> int:
    """How many threads each process of a run has: an equal share, where they are started here and nobody says."""
    if built.process.world_size == 1 or launched_process(os.environ) or "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, torch.get_num_threads() // built.process.world_size)


def last_good(directory: Path, *, ends_again: bool = False) -> str:
    """Where a run that ended early can go on from, and the line for it unless it would only end again."""
    try:
        saved, _ = checkpoint.load_newest(directory / "checkpoints")
    except ValueError:
        return "none of its checkpoints is whole"
    found = f"its last checkpoint, of step {saved['step']:,}, is whole" if saved else "it has no checkpoint yet"
    return found if ends_again else f"{found}; to go on: {shlex.join(['gan-runner', 'resume', str(directory)])}"
