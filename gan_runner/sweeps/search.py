"""`gan-runner -m hydra/sweeper=search`: values drawn trial after trial, each in the light of those before."""

import itertools
import json
import logging
import math
import random
import shlex
import statistics
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import optuna
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from gan_runner.config.check import check_arguments
from gan_runner.config.compose import trusted_packages
from gan_runner.config.errors import ConfigError, Stopped
from gan_runner.config.explain import explain, one_line
from gan_runner.config.keys import LONGEST_NAME, find_key, identity, shorten_keys, tidy
from gan_runner.storage.outputs import SEARCH
from gan_runner.sweeps.batched_launcher import run_batched
from gan_runner.sweeps.cluster import run_on_slurm
from gan_runner.sweeps.grid import launch_of, sweep_directory
from gan_runner.sweeps.jobs import Composer
from gan_runner.sweeps.launchers import Launch, cores, run_in_processes, run_sequentially, visible_gpus
from gan_runner.sweeps.sweep import DONE, FAILED, DataCache, Job, Sweep, make_row, print_sweep_report
from gan_runner.torch_utils.bounds import NonNegativeInt, PositiveInt
from gan_runner.torch_utils.randomness import derive
from gan_runner.training.evaluation import Objective, tags

TRIALS_AT_ONCE = 8  # batched or on a cluster: more would be drawn before any is known, fewer would leave it idle


@dataclass(frozen=True)
class SearchSettings:
    """The keys of hydra.sweeper."""

    n_trials: PositiveInt
    sampler: Literal["tpe", "random", "grid"]
    seed: NonNegativeInt
    pruner: Literal["none", "median"]
    startup: PositiveInt
    batch: PositiveInt | None


def run_search(
    config: DictConfig, loader: ConfigLoader, launcher: Any, overrides: list[str], keys: dict[str, Any]
) -> None:
    """Draw trials and run them until there are so many, and report.

    Raises ConfigError before the first starts, Stopped where one is not done in the end, or all have failed.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = SearchSettings(**check_arguments("hydra.sweeper", SearchSettings, keys))
    parsed = OverridesParser.create(config_loader=loader).parse_overrides(overrides)
    last = {override.get_key_element(): override for override in parsed}  # the command line's after the config's
    space = Space(last, settings)
    launch = launch_of(launcher)
    directory = sweep_directory(config)
    trust = trusted_packages(sys.argv[1:])
    with Sweep(directory) as sweep:
        sweep.is_on_slurm = launch.func is run_on_slurm
        if sweep.jobs() and not (directory / SEARCH).exists():
            raise ConfigError(f"{directory} holds a sweep that is no search: choose another sweep=NAME")
        composer = Composer(loader, config.hydra.sweeper.get("params") or ())
        objective = check_space(space, composer, trust)
        sweep.plan([])  # which makes the directory a sweep's
        sweep.write_shared_files(OmegaConf.to_yaml({"hydra": config.hydra}), [objective.tag])
        line = {key: text for key, text in space.line.items() if find_key(key).is_identity}
        own = {key: value for key, value in asdict(settings).items() if key not in ("n_trials", "batch")}
        line |= {f"hydra.sweeper.{key}": value for key, value in own.items()}
        with open_study(directory / SEARCH, objective, line) as study:
            search = Search(
                sweep=sweep,
                study=study,
                space=space,
                composer=composer,
                objective=objective,
                launch=partial(launch, trust=trust),
            )
            try:
                search.run(settings.batch or at_once(launch, config.device), retry_failed=bool(config.retry_failed))
            except (SystemExit, KeyboardInterrupt):
                print(f"gan-runner: interrupted; {search.continuing()}", file=sys.stderr, flush=True)
                raise
            finally:
                print_sweep_report(sweep)
            search.raise_unless_done()


class Space:
    """What a search draws from: the values of some keys. The other overrides of the command line stay."""

    def __init__(self, line: dict[str, Override], settings: SearchSettings):
        self.settings = settings
        self.line = {key: (override.input_line or "").partition("=")[2] for key, override in line.items()}
        self.axes = {key: distribution(override) for key, override in line.items() if override.is_sweep_override()}
        if refused := [key for key in self.axes if not find_key(key.lstrip("+")).is_identity]:
            raise ConfigError(f"{refused[0]}={self.line[refused[0]]}: all runs of a search have the same {refused[0]}")
        if not self.axes:
            raise ConfigError("nothing to search: give a key a range, such as 'optimizer.lr=tag(log,interval(1e-4,1))'")
        self.short = shorten_keys(self.axes)
        is_grid = settings.sampler == "grid"
        self.points = list(itertools.product(*map(all_values, self.axes.values()))) if is_grid else []
        random.Random(settings.seed).shuffle(self.points)  # fewer trials than points are then spread out
        self.total = min(settings.n_trials, len(self.points) or settings.n_trials)

    def draw(self, study: optuna.Study) -> Trial:
        """The next trial: a function of the seed, its number and what is known of the trials before."""
        trials = study.get_trials(deepcopy=False)
        waiting = [trial for trial in trials if trial.state == TrialState.WAITING]
        number = len(trials) - len(waiting)
        if self.points and not waiting:
            study.enqueue_trial(dict(zip(self.axes, self.points[number], strict=True)))
        seed = derive(self.settings.seed, "trial", number) % 2**32
        study.sampler = (
            optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.settings.startup)
            if self.settings.sampler == "tpe"
            else optuna.samplers.RandomSampler(seed=seed)
        )
        return study.ask(self.axes)

    def overrides(self, drawn: dict[str, Any]) -> list[str]:
        """The overrides of a job with the values drawn."""
        return [f"{key}={drawn.get(key, text)}" for key, text in self.line.items() if not find_key(key).is_of_sweep]

    def name(self, trial: Trial) -> str:
        """The name of a trial's job: its number and its values."""
        drawn = "_".join(f"{self.short[key]}-{tidy(str(value))}" for key, value in trial.params.items())
        return f"trial-{trial.number:03d}_{drawn}"[:LONGEST_NAME]

    def options(self, drawn: dict[str, Any]) -> list[list[str]]:
        """The overrides of as many trials as it takes for every option to occur; all else is as in the trial drawn."""
        return [
            self.overrides(drawn | {key: choice})
            for key, axis in self.axes.items()
            for choice in (axis.choices if isinstance(axis, CategoricalDistribution) else ())
        ]

    def ends(self, drawn: dict[str, Any]) -> list[list[str]]:
        """The overrides of a trial at the low ends of all intervals, and of one at the high ends, if there are any."""
        numbers = {key: axis for key, axis in self.axes.items() if not isinstance(axis, CategoricalDistribution)}
        extremes = [{key: getattr(axis, end) for key, axis in numbers.items()} for end in ("low", "high")]
        return [self.overrides(drawn | extreme) for extreme in extremes if extreme]


def distribution(override: Override) -> BaseDistribution:
    """What a swept value is drawn from. Raises ConfigError."""
    sweep = override.value()
    try:
        if isinstance(sweep, IntervalSweep | RangeSweep):
            if sweep.tags - {"log"}:
                raise ConfigError(f"the only tag is log, not {', '.join(sorted(sweep.tags - {'log'}))}")
            if isinstance(sweep, RangeSweep):
                numbers = sorted(sweep.range())
                if not numbers:
                    raise ConfigError("there is nothing in it")
                low, high, step = numbers[0], numbers[-1], abs(sweep.step)
            else:
                low, high, step = sweep.start, sweep.end, None
            if isinstance(low, int) and isinstance(high, int):
                return IntDistribution(low, high, log="log" in sweep.tags, step=int(step or 1))
            return FloatDistribution(low, high, log="log" in sweep.tags, step=step)
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except ValueError as error:
        raise ConfigError(f"{override.input_line}: {error}") from None


def all_values(axis: BaseDistribution) -> list[Any]:
    """All that may be drawn. Raises ConfigError where there is no end of it."""
    if isinstance(axis, CategoricalDistribution):
        return list(axis.choices)
    assert isinstance(axis, IntDistribution | FloatDistribution)
    if axis.step is None:
        raise ConfigError("hydra.sweeper.sampler=grid: an interval has no end of values; tpe and random draw some")
    return [axis.low + number * axis.step for number in range(round((axis.high - axis.low) / axis.step) + 1)]


def check_space(space: Space, composer: Composer, trust: list[str]) -> Objective:
    """Compose every option, build the first trial and those at the ends of the intervals; the objective of the first.

    Raises ConfigError.
    """
    from gan_runner.training.build import build, load_data

    data = DataCache(lambda node: load_data(node, trust))
    drawn = space.draw(optuna.create_study()).params
    for overrides in space.options(drawn):  # which of them go together is for the trials to say
        composer.compose(overrides)
    objectives = []
    for overrides in [space.overrides(drawn), *space.ends(drawn)]:
        config = composer.compose(overrides).config
        try:
            objectives.append(build(config, trust, data.of(config)).evaluator.objective)
        except ConfigError as error:
            shown = [override for override in overrides if override.partition("=")[0] in space.axes]
            raise ConfigError(f"{' '.join(shown)}: {error}") from error
    if objectives[0] is None:
        raise ConfigError("a search wants a metric to go by: metric=NAME, and objective=NAME if there are several")
    return objectives[0]


def at_once(launch: Launch, device: str) -> int:
    """How many jobs run at once."""
    if launch.func is run_sequentially:
        return 1
    if launch.func is run_batched:
        return min(TRIALS_AT_ONCE, launch.keywords["max_group"])
    if launch.func is run_on_slurm:
        return min(TRIALS_AT_ONCE, launch.keywords["parameters"].get("array_parallelism", TRIALS_AT_ONCE))
    gpus = visible_gpus() if launch.func is run_in_processes and device in ("auto", "cuda") else []
    return launch.keywords.get("processes") or len(gpus) or max(1, cores() // 2)


@contextmanager
def open_study(path: Path, objective: Objective, line: dict[str, Any]) -> Iterator[optuna.Study]:
    """The study in a file, of this line and no other. Raises ConfigError."""
    direction: Literal["maximize", "minimize"] = "maximize" if objective.higher_is_better else "minimize"
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
        study = optuna.create_study(storage=storage, study_name="search", direction=direction, load_if_exists=True)
        before = study.user_attrs.get("line")
        if before is not None:  # an earlier version counted other keys
            before = {key: text for key, text in before.items() if find_key(key).is_identity}
    except (SQLAlchemyError, RuntimeError, optuna.exceptions.OptunaError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(str(error))}") from error
    line = line | {"objective": objective.tag}
    try:
        if before is None:
            study.set_user_attr("line", line)
        elif before != line:
            changes = [
                f"{key} was {before.get(key)} and is to be {line.get(key)}"
                for key in {**before, **line}
                if before.get(key) != line.get(key)
            ]
            raise ConfigError(f"{path.parent} is another search: {'; '.join(changes)}; choose another sweep=NAME")
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


@dataclass(kw_only=True)
class Search:
    """A study whose trials are the jobs of a sweep."""

    sweep: Sweep
    study: optuna.Study
    space: Space
    composer: Composer
    objective: Objective
    launch: Callable[[Sweep, list[Job]], None]

    def __post_init__(self) -> None:
        self.known = {job.identity: job for job in self.sweep.jobs()}  # the same values twice are one job

    def run(self, size: int, *, retry_failed: bool) -> None:
        """Go on with the trials that are not done, and draw others, so many at once."""
        trials = self.study.get_trials(deepcopy=False)
        begun = [Trial(self.study, trial._trial_id) for trial in trials if trial.state == TrialState.RUNNING]
        retried = {trial.user_attrs.get("retries") for trial in trials}
        for trial in trials:
            if retry_failed and trial.state == TrialState.FAIL and trial.number not in retried:
                self.study.enqueue_trial(trial.params, user_attrs={"retries": trial.number})
        trials = self.study.get_trials(deepcopy=False)
        total = self.space.total + sum("retries" in trial.user_attrs for trial in trials)
        asked = len([trial for trial in trials if trial.state != TrialState.WAITING])
        print(
            f"{self.sweep.directory}: {total} trials"
            + (f", {asked - len(begun)} of them done or failed before" if asked > len(begun) else ""),
            flush=True,
        )
        for start in range(0, len(begun), size):
            self.run_batch(begun[start : start + size], retry_failed)
        for start in range(asked, total, size):
            batch = [self.space.draw(self.study) for _ in range(start, min(start + size, total))]
            self.run_batch(batch, retry_failed)

    def run_batch(self, trials: list[Trial], retry_failed: bool) -> None:
        """Run some trials at once, and tell the study what became of them."""
        jobs = []
        for trial in trials:
            try:
                job = self.job(trial)
            except (ValueError, HydraException, OmegaConfBaseException) as error:  # options that do not go together
                self.fail(trial, one_line(explain(error, [])))
                continue
            if old := self.known.get(job.identity):
                job = job._replace(name=old.name, config={**job.config, "prune": old.config["prune"]})
            if job != old:
                self.sweep.plan([job])
            self.known[job.identity] = job
            jobs.append((trial, job))
        unique = list({job.identity: job for _, job in jobs}.values())
        if to_do := self.sweep.to_do(unique, retry_failed):
            self.launch(self.sweep, to_do)
        for trial, job in jobs:
            self.tell(trial, job)

    def job(self, trial: Trial) -> Job:
        """The job of a trial. Raises ConfigError, HydraException and OmegaConfBaseException."""
        overrides = self.space.overrides(trial.params)
        composed = self.composer.compose(overrides)
        composed.config["prune"] = self.limits()
        return Job(self.space.name(trial), identity(composed.config), overrides, *composed)

    def limits(self) -> list[list[float]] | None:
        """The key `prune` of the next trials: the median of the best values so far of those that are complete."""
        if self.space.settings.pruner == "none":
            return None
        at: dict[int, list[float]] = {}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            for step, value in trial.intermediate_values.items():
                at.setdefault(step, []).append(value)
        least = self.space.settings.startup
        return [[step, statistics.median(at[step])] for step in sorted(at) if step and len(at[step]) >= least] or None

    def tell(self, trial: Trial, job: Job) -> None:
        """Tell the study what became of a trial; one that was interrupted or killed stays, to be gone on with."""
        path = self.sweep.directory / job.name
        outcome = make_row(job, path)
        best = outcome["best"] or {}
        trial.set_user_attr("job", job.name)
        if outcome["status"] in FAILED:
            self.fail(trial, str(outcome["reason"]))
        elif outcome["status"] in DONE:
            if best.get("objective") != self.objective.tag or not math.isfinite(float(best["value"])):
                self.fail(trial, f"no value of {self.objective.tag}")
                return
            for step, value in best_so_far(path, self.objective).items():
                trial.report(value, step)
            if outcome["status"] == "pruned":
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self.study.tell(trial, float(best["value"]))
            self.say(trial, f"{float(best['value']):.4g}" + ", pruned" * (outcome["status"] == "pruned"))

    def fail(self, trial: Trial, reason: str) -> None:
        """Tell the study that a trial has no value."""
        trial.set_user_attr("reason", reason)
        self.study.tell(trial, state=TrialState.FAIL)
        self.say(trial, f"failed: {reason}")

    def say(self, trial: Trial, outcome: str) -> None:
        print(f"{self.space.name(trial)}: {outcome}", flush=True)

    def raise_unless_done(self) -> None:
        """Raises Stopped where a trial is not done, or none has a value."""
        counts = Counter(trial.state.name.lower() for trial in self.study.get_trials(deepcopy=False))
        found = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
        if counts["running"] or not counts["complete"] + counts["pruned"]:
            raise Stopped(f"{counts.total()} trials: {found}; {self.continuing()}")

    def continuing(self) -> str:
        """The command line that goes on with the search."""
        name = f"sweep={self.sweep.directory.name}"
        arguments = sys.argv[1:] if name in sys.argv else [*sys.argv[1:], name]
        return f"gan-runner {shlex.join(arguments)} goes on"


def best_so_far(path: Path, objective: Objective) -> dict[int, float]:
    """The best value so far after each evaluation of a run."""
    best: float | None = None
    found: dict[int, float] = {}
    file = path / "evaluations.jsonl"
    for line in file.read_text().splitlines() if file.exists() else ():
        record = json.loads(line)
        if "checkpoint" in record:  # of the verb
            continue
        value = float(tags(record).get(objective.tag, math.nan))
        if math.isfinite(value) and objective.is_better(value, best):
            best = value
        if best is not None:
            found[record["step"]] = best
    return found
