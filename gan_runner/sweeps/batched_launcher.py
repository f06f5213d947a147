"""Jobs that differ only in numbers, trained as one program."""

import contextlib
import hashlib
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from gan_runner.config.check import load_settings
from gan_runner.config.errors import ConfigError, out_of_memory
from gan_runner.config.keys import find_key, without_keys
from gan_runner.config.schema import Settings
from gan_runner.datasets.data import Data
from gan_runner.datasets.memory import free_memory
from gan_runner.games.adversarial import Adversarial
from gan_runner.games.cuda_graph import WARM_UP
from gan_runner.games.game import Game
from gan_runner.games.stacked_game import StackedGame, why_different, why_not_stackable
from gan_runner.storage.atomic_files import write_bytes
from gan_runner.sweeps.launchers import run_sequentially, terminated_by_exit
from gan_runner.sweeps.sweep import (
    DONE,
    GOING_ON,
    DataCache,
    Job,
    Sweep,
    empty_cache,
    ended_row,
    own_hydra_files,
    prepare_job,
    why_failed,
)
from gan_runner.torch_utils.precision import tensor_cores
from gan_runner.training.build import arithmetic_of, build, choose_device, load_data, place_data
from gan_runner.training.loop import TrainingLoop, Wanted, WantedNumbers, WantedStep, is_looked_at
from gan_runner.training.recorder import read_at_once
from gan_runner.training.run import PreparedRun, stepper, supervised_loop
from gan_runner.training.signals import Interrupted, StopRequest

Stack = Literal["auto", "always"]

STACKING = "stacking.json"  # in the sweep's directory: what a step took, for each structure
MAX_GROUP = 64  # jobs at once, if memory and files suffice
MOST_TIMED = 16  # jobs whose steps are timed together,
LEAST_TIMED = 10  # for so many steps after the warm-up,
MOST_SECONDS = 20.0  # or fewer, if these have gone
TRIAL_SAMPLES = 8  # in a batch of the trial
FILES_OF_A_RUN = 8  # open at once: the logs, the lock, what is just written
SECONDS_BETWEEN_LINES = 10.0


class Regrouped(Interrupted):
    """Many runs cannot go on as one program: each goes on from its last checkpoint, with fewer others or alone."""

    def __init__(self, reason: str):
        Exception.__init__(self, reason)
        self.exit_code = 0


class StopOfAll(StopRequest):
    """A signal counts for all runs from the same step on: that after which the group has heeded it."""

    def __init__(self) -> None:
        super().__init__()
        self.heeded: int | None = None

    @property
    def signal(self) -> int | None:
        return self.heeded

    def heed(self) -> None:
        self.heeded = self.came


class GroupMember(NamedTuple):
    """A run of a group, with its training loop."""

    job: Job
    prepared: PreparedRun
    loop: TrainingLoop

    @property
    def game(self) -> Game:
        """The game of this run, with views of the stacked tensors."""
        return self.prepared.built.game


# --- which jobs go together -------------------------------------------------------------------------------------------


def run_batched(sweep: Sweep, jobs: list[Job], trust: list[str], *, max_group: int, stack: Stack) -> None:
    """Jobs of one structure as one program, in groups that fit into memory; what cannot be stacked one by one.

    With `stack` "auto" those too that take less time one by one, as a trial says; "always" asks for none.
    A signal ends the sweep, with all jobs of the group saved, by SystemExit.
    """
    settings = load_settings(jobs[0].config)  # where it trains, and what streams, is the same for all
    device = choose_device(settings.device)

    def load_and_place(node: dict[str, Any]) -> Data:
        data, notes = place_data(load_data(node, trust), device, settings)
        for note in notes:
            print(note, flush=True)
        return data

    data = DataCache(load_and_place)
    batch = BatchedSweep(sweep, trust, data)
    alone: list[Job] = []
    with terminated_by_exit():
        for same in grouped(jobs, lambda job: (structure(job.config), steps_done(sweep, job))):
            reason, size = batch.trial(same)
            size = min(size, max_group)
            if not reason and size > 1 and stack == "auto":
                reason = batch.why_slower(same, size)
            waiting = [] if reason else chunks(same, size)
            if reason:
                alone += batch.aside(same, reason)
            while waiting:
                group = waiting.pop(0)
                if len(group) == 1:
                    alone += batch.aside(group, "there is no room for two" if size == 1 else "it is the last of many")
                    continue
                failure = batch.run(group)
                left = [job for job in group if sweep.status(job) in GOING_ON]
                if failure and failure.is_memory:
                    size = -(-len(group) // 2)
                    print(f"{failure.reason}; {size} at once from now on", flush=True)
                    waiting = chunks(left + [job for later in waiting for job in later], size)
                else:
                    alone += batch.aside(left, failure.reason if failure else "its checkpoint is of another step")
    if alone:
        run_sequentially(sweep, alone, trust, data)


def grouped(jobs: list[Job], key: Callable[[Job], Any]) -> list[list[Job]]:
    """The jobs of equal keys together."""
    found: dict[Any, list[Job]] = {}
    for job in jobs:
        found.setdefault(key(job), []).append(job)
    return list(found.values())


def chunks(jobs: list[Job], most: int) -> list[list[Job]]:
    """The jobs in as few groups as there can be of `most` at most, none much smaller than another."""
    count = -(-len(jobs) // most)
    return [jobs[len(jobs) * n // count : len(jobs) * (n + 1) // count] for n in range(count)]


def steps_done(sweep: Sweep, job: Job) -> int:
    """How many steps of a job are done, as far as its run says."""
    if sweep.status(job) not in GOING_ON:
        return 0
    return int(json.loads((sweep.path(job) / "summary.json").read_text()).get("step") or 0)


def structure(config: dict[str, Any]) -> str:
    """What jobs that are trained together have in common: a config without the keys in which they may differ.

    These are, above all, the seed, the weights of penalties, learning rates and the arguments of schedules. What is no
    penalty has no weight and no schedule of its own: keys of that name are the component's.
    """
    regularizers = (config.get("regularizer") or {}).items()
    others = tuple(f"regularizer.{name}." for name, node in regularizers if node.get("role", "penalty") != "penalty")
    kept = without_keys(config, lambda key: find_key(key).may_differ and not key.startswith(others))
    return json.dumps(kept, sort_keys=True)


# --- a group ----------------------------------------------------------------------------------------------------------


class Failure(NamedTuple):
    """Why runs could not be trained together, as far as only doing it shows."""

    reason: str
    is_memory: bool


class Timing(NamedTuple):
    """What a step of one run takes, in seconds."""

    alone: float
    together: float
    """Its share of a step of so many stacked `runs`."""
    runs: int


def read_timings(path: Path) -> dict[str, Timing]:
    """What a sweep has found before, by structure. Raises ConfigError for a file that holds something else."""
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
        return {
            key: Timing(float(one["alone"]), float(one["together"]), int(one["runs"])) for key, one in found.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged ({error}); without it the steps are timed anew") from None


class BatchedSweep:
    """The jobs of a sweep, tried out and run in groups."""

    def __init__(self, sweep: Sweep, trust: list[str], data: DataCache):
        self.sweep, self.trust, self.data = sweep, trust, data

    def aside(self, jobs: list[Job], reason: str) -> list[Job]:
        """Return the jobs, and print why they are not stacked."""
        for job in jobs:
            print(f"job {job.name}: one by one: {reason}", flush=True)
        return jobs

    def trial(self, jobs: list[Job]) -> tuple[str | None, int]:
        """Why jobs of one structure cannot be trained together, or None; and how many at once there is memory for.

        Two of them are, for two steps of few samples, beside the same two alone.
        """
        if len(jobs) == 1:
            return "no other job differs from it in numbers alone", 1
        if (devices := max(job.config["devices"] for job in jobs)) > 1:
            return f"devices={devices}, and stacked runs are one process", 1
        for job in jobs:
            pair = [job.config, job.config | {"seed": job.config["seed"] + 1}]
            try:
                alone, stacked = ([self.small_game(config) for config in pair] for _ in range(2))
            except Exception:  # this one fails when its turn comes, with its reason, and another may do
                continue
            with tensor_cores(False):  # whose rounding a stacked product may do in another order
                reason, needed = try_out(alone, stacked)
            activations = needed * larger(job.config, alone[0])
            free = free_memory(alone[0].randomness.device)
            room = math.inf if free is None else free / 2 // (own_bytes(alone[0]) + activations)
            return reason, max(1, int(min(room, files_at_once())))
        return "none of its structure can be built", 1

    def why_slower(self, jobs: list[Job], size: int) -> str | None:
        """Why jobs that can be stacked are not to be: they take longer. None if they do not.

        A few steps of both ways are timed, once for a structure: a sweep that goes on keeps to what it began with.
        """
        path, key = self.sweep.directory / STACKING, hashlib.sha256(structure(jobs[0].config).encode()).hexdigest()[:16]
        measured = read_timings(path)
        if key not in measured:
            timed = islice(filter(self.can_be_built, jobs), min(size, MOST_TIMED))
            try:
                measured[key] = self.time_both(list(timed))
            except Exception as error:
                if out_of_memory(error) is None:
                    raise
                return None  # the runs themselves will meet it, and go on with fewer at once
            write_bytes(
                path, json.dumps({name: found._asdict() for name, found in measured.items()}, indent=2).encode()
            )
        alone, together, runs = measured[key]
        print(
            f"a step of one run takes {1000 * alone:.3g} ms alone and {1000 * together:.3g} ms in a stack of {runs}",
            flush=True,
        )
        if together <= alone:
            return None
        return "stacked they take longer; hydra.launcher.stack=always stacks them all the same"

    def can_be_built(self, job: Job) -> bool:
        """Whether a job's run can; one that cannot fails when its turn comes."""
        try:
            self.small_game(job.config)
        except Exception:  # the reason is shown then
            return False
        return True

    def time_both(self, jobs: list[Job]) -> Timing:
        """Time a run's step alone and together with as many as there are jobs, in turn; the medians."""
        settings = load_settings(jobs[0].config)
        with arithmetic_of(settings, ignore):
            games = [build(job.config, self.trust, self.data.of(job.config)).game for job in [jobs[0], *jobs]]
            together = stacked(games[1:], settings, ignore)
            ways = {"alone": stepper(games[0], settings, ignore), "together": together.take_step}
            times: dict[str, list[float]] = {name: [] for name in ways}
            begun = time.perf_counter()
            for step in range(WARM_UP + 2 + LEAST_TIMED):
                for name, take_step in ways.items():
                    start = time.perf_counter()
                    take_step(step)
                    synchronize(games[0].randomness.device)
                    times[name].append(time.perf_counter() - start)
                if step >= 2 and time.perf_counter() - begun > MOST_SECONDS:
                    break
        seconds = {name: statistics.median(found[len(found) // 2 :]) for name, found in times.items()}
        return Timing(seconds["alone"], seconds["together"] / len(jobs), len(jobs))

    def small_game(self, config: dict[str, Any]) -> Game:
        """A job's game, whose turns are short, and whose numbers are exact enough to be compared."""
        game = build(config | {"precision": "fp32"}, self.trust, self.data.of(config)).game
        game.batch_size = min(game.batch_size, TRIAL_SAMPLES)
        if isinstance(game, Adversarial):
            game.discriminator_steps = 1
            if game.generator_batch_size:
                game.generator_batch_size = min(game.generator_batch_size, TRIAL_SAMPLES)
        return game

    def run(self, jobs: list[Job]) -> Failure | None:
        """Run jobs of one structure together, those that can be; the others are left interrupted, and can go on.

        SystemExit after a signal.
        """
        print(f"\n{len(jobs)} jobs as one program: {jobs[0].name} ... {jobs[-1].name}", flush=True)
        try:
            with StopOfAll() as stop, ExitStack() as held:
                group = Group(self.sweep, stop)
                group.begin(jobs, self.trust, self.data, held)
                return group.run()
        finally:
            empty_cache()


def stacked(games: list[Game], settings: Settings, say: Callable[[str], None]) -> StackedGame:
    """The games as one, whose steps are CUDA graphs where there can be some."""
    together = StackedGame(games)
    together.take_step = stepper(together.game, settings, say)
    return together


def ignore(line: str) -> None:
    """Say nothing: it will be said when the run takes its steps."""


def synchronize(device: torch.device) -> None:
    """Wait until a device has done what it was given."""
    if device.type != "cpu":
        torch.get_device_module(device).synchronize()


def try_out(alone: list[Game], stacked: list[Game]) -> tuple[str | None, float]:
    """Why games cannot be stacked, compared with equal ones alone; what a step of one keeps for backpropagation."""
    if reason := why_not_stackable(alone[0]):
        return reason, 0.0
    saved: list[int] = []
    weights = {
        parameter.untyped_storage().data_ptr()
        for game in alone
        for player in game.players.values()
        for parameter in player.network.parameters()
    }

    def count(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in weights:
            saved.append(tensor.numel() * tensor.element_size())
        return tensor

    try:
        reason = why_different(alone, StackedGame(stacked))
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            alone[0].step(2)
    except Exception as error:  # vmap may refuse whatever a network of a user's does
        first = " ".join(str(error).split())[:200]
        reason = f"it cannot be stacked: {type(error).__name__}: {first}"
    return reason, float(sum(saved))


def larger(config: dict[str, Any], game: Game) -> float:
    """How many times the samples of a small game's turn a job's turn has; of the players', the larger."""
    factor = config["batch_size"] / game.batch_size
    if isinstance(game, Adversarial) and game.generator_batch_size:
        factor = max(factor, config["generator_batch_size"] / game.generator_batch_size)
    return factor


def own_bytes(game: Game) -> int:
    """The bytes of a run's weights, gradients, optimizers' states and moving average."""
    tensors: list[Tensor] = []
    for player in game.players.values():
        tensors += [*player.network.buffers(), *2 * list(player.network.parameters())]
        tensors += [value for state in player.optimizer.state.values() for value in state.values()]
    if game.moving_average:
        tensors += [*game.moving_average.network.parameters(), *game.moving_average.network.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if isinstance(tensor, Tensor))


def files_at_once() -> int:
    """How many runs may have their files open in this process."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    except (ImportError, OSError):
        return 64
    return max(1, (limit - 100) // FILES_OF_A_RUN)


class Group:
    """Runs that are trained together: each has a training loop of its own, and all are at the same step."""

    def __init__(self, sweep: Sweep, stop: StopOfAll):
        self.sweep, self.stop = sweep, stop
        self.hydra_files = sweep.hydra_files()
        self.members: list[GroupMember] = []
        self.began = self.last_line = time.perf_counter()
        self.exit_code: int | None = None

    def begin(self, jobs: list[Job], trust: list[str], data: DataCache, held: ExitStack) -> None:
        """Build the jobs' runs, each with its directory; one that cannot be built fails, and the others are trained."""
        for job in jobs:
            if self.stop.came is not None:
                return
            path, hydra_files = self.sweep.path(job), self.hydra_files | own_hydra_files(job)
            try:
                prepared = prepare_job(job, path, trust, hydra_files, data)
            except Exception as error:
                self.record(job, why_failed(error, path, hydra_files))
                continue
            if prepared is None:
                self.record(job, None)
                continue
            held.enter_context(prepared.directory)
            if self.members:  # one network to look through for all, and the floors of one dataset
                of_first, own = self.members[0].prepared.built.evaluator, prepared.built.evaluator
                own.floors = of_first.floors
                if own.network:
                    own.network, own.real = of_first.network, of_first.real
            self.members.append(GroupMember(job, prepared, supervised_loop(prepared, self.stop, is_alone=False)))
        for member in self.members:  # of whose seconds it is that each has a share
            member.prepared.directory.update(stacked=len(self.members))

    def run(self) -> Failure | None:
        """Train to the end. SystemExit after a signal."""
        failure = None
        if self.members:
            settings = self.members[0].prepared.built.settings  # `structure` has what these say of the arithmetic
            with arithmetic_of(settings, self.not_deterministic):
                try:
                    failure = self.train()
                except BaseException as error:  # a second Ctrl-C
                    for member in list(self.members):
                        with contextlib.suppress(KeyboardInterrupt):
                            self.advance(member, partial(member.loop.throw, error))
                    raise
        if self.stop.came is not None:
            raise SystemExit(self.exit_code or 128 + self.stop.came)
        return failure

    def train(self) -> Failure | None:
        """Train to the end, or as far as it can be done together."""
        wanted = self.go_on({id(member): partial(next, member.loop) for member in self.members})
        if not self.members:
            return None
        step = Counter(wanted.values()).most_common(1)[0][0]
        if others := [member for member in self.members if wanted[id(member)] != step]:
            self.part(others, "its checkpoint is of another step than those of the others")
        together, built = None, self.members[0].prepared.built
        while self.members:
            try:
                together = together or stacked([member.game for member in self.members], built.settings, self.note)
                values = together.step(step.number, is_logged=step.is_logged)
            except Exception as error:
                together = None
                is_memory = out_of_memory(error) is not None
                what = "out of memory" if is_memory else f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
                reason = f"{len(self.members)} runs together: {what}"
                self.part(self.members, reason)
                return Failure(reason, is_memory)
            count = len(self.members)
            self.stop.heed()
            self.unstack_if_wanted(together, step.number)
            sent = {
                id(member): partial(member.loop.send, together.values_of(run, values))
                for run, member in enumerate(self.members)
            }
            step = next(iter(self.go_on(sent).values()), step)
            if len(self.members) < count:
                together = None  # the others are stacked anew
        return None

    def note(self, line: str) -> None:
        """Say what concerns all runs on the terminal, and in the log of each."""
        print(line, flush=True)
        for member in self.members:
            member.prepared.notes.append(line)

    def unstack_if_wanted(self, together: StackedGame, step: int) -> None:
        """Put the state into the single games where they are read or saved; now and then say how far it is."""
        built = self.members[0].prepared.built
        if is_looked_at(built.settings, step + 1, built.steps) or self.stop.signal is not None:
            together.hand_out(step)
        if time.perf_counter() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.perf_counter()
            print(f"step {step + 1}/{built.steps} of {len(self.members)} runs", flush=True)

    def go_on(self, calls: Mapping[int, Callable[[], Wanted]]) -> dict[int, WantedStep]:
        """Let every run go on by its call; the steps that those ask for which have not ended.

        At a log point they ask for numbers first, which come from the device in one transfer.
        """
        steps: dict[int, WantedStep] = {}
        while calls:
            going = [member for member in self.members if id(member) in calls]
            found = {id(member): self.advance(member, calls[id(member)]) for member in going}
            steps |= {key: wanted for key, wanted in found.items() if isinstance(wanted, WantedStep)}
            unread = {key: wanted.values for key, wanted in found.items() if isinstance(wanted, WantedNumbers)}
            read = read_at_once({(key, tag): value for key, values in unread.items() for tag, value in values.items()})
            calls = {
                id(member): partial(member.loop.send, {tag: read[id(member), tag] for tag in unread[id(member)]})
                for member in going
                if id(member) in unread
            }
        return steps

    def part(self, members: list[GroupMember], reason: str) -> None:
        """Let runs end as interrupted, at their last checkpoints, which they go on from in another way."""
        for member in list(members):
            self.advance(member, partial(member.loop.throw, Regrouped(reason)))

    def advance(self, member: GroupMember, go_on: Callable[[], Wanted]) -> Wanted | None:
        """Let a run go on to what it asks for next; None where it has ended, and is no member any more."""
        reason = None
        try:
            return go_on()
        except StopIteration:
            pass
        except SystemExit as end:
            self.exit_code = self.exit_code or int(end.code or 0)
        except Exception as error:
            reason = why_failed(error, self.sweep.path(member.job), {})
        self.members.remove(member)
        member.prepared.directory.lock.release()
        self.record(member.job, reason)
        return None

    def record(self, job: Job, reason: str | None) -> None:
        """Write down and say what became of a job."""
        result = ended_row(job, self.sweep.path(job), reason, time.perf_counter() - self.began)
        self.sweep.record(result)
        said = "" if result["status"] in DONE else f": {result['reason']}"
        print(f"{job.name}: {result['status']}{said}", flush=True)

    def not_deterministic(self, line: str) -> None:
        """Say that an operator has no deterministic form on this device."""
        for member in self.members:
            member.prepared.directory.update(deterministic=False)
        print(line, flush=True)
