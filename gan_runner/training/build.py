"""From a config to a game."""

import copy
import functools
import inspect
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Annotated, Any, Literal, NamedTuple

import torch
from annotated_types import MinLen
from torch import nn

from gan_runner.augmentations.adaptation import Adaptive, adaptations
from gan_runner.augmentations.scheduled import Scheduled
from gan_runner.config.check import active, check_arguments, load_settings, show_value, signature
from gan_runner.config.errors import ConfigError, suggest
from gan_runner.config.instantiate import component, resolve
from gan_runner.config.process_rank import ALONE, ProcessRank, launched_process, process_in_run
from gan_runner.config.schema import Settings
from gan_runner.config.stored import RENAMED_ROLES
from gan_runner.datasets.data import Data
from gan_runner.datasets.memory import free_memory
from gan_runner.datasets.memory import size as readable
from gan_runner.datasets.streamed import place
from gan_runner.features.network import FeatureNetwork
from gan_runner.games.adversarial import Adversarial, Augmentation
from gan_runner.games.autoencoder import Autoencoder
from gan_runner.games.cuda_graph import why_not_capturable
from gan_runner.games.game import Game, evaluating
from gan_runner.games.latents import DISTRIBUTIONS, Latents
from gan_runner.games.player import HEAD, LOSS, Player
from gan_runner.games.term import Reduction, Term
from gan_runner.loggers import Logger
from gan_runner.metrics.auto import Auto
from gan_runner.metrics.metric import Metric
from gan_runner.models.layers import HeadedDiscriminator, LinearHead
from gan_runner.models.multi_scale import MultiScale
from gan_runner.models.packed import Packed
from gan_runner.optimizers import FiniteDifference, wants_closure
from gan_runner.torch_utils.bounds import PositiveInt
from gan_runner.torch_utils.ema import HalfLife, MovingAverage
from gan_runner.torch_utils.parameters import kernels, mixes_samples
from gan_runner.torch_utils.precision import arithmetic, is_slow_at_bf16
from gan_runner.torch_utils.randomness import Randomness, derive, fixed_randomness
from gan_runner.torch_utils.scheduled_adam import ScheduledAdam
from gan_runner.training.budgets import least_memory, within_budget
from gan_runner.training.evaluation import Evaluator, choose_objective

PLAYERS = ("generator", "discriminator", "autoencoder")
RATES = {"images": 5e-4, "points": 2e-4}  # of learning, where the key is null, as it is in stored configs too
LARGE = 256  # pixels of a side, beyond which memory is asked for before images are resized and networks built
LATENTS_OF_IMAGES = 100  # where `model.latent_size` is null


class Built(NamedTuple):
    """What a config describes."""

    game: Game
    settings: Settings
    steps: int
    """Training steps, the first limit reached."""
    notes: list[str]
    """What had to be changed to fit, for the log."""
    trust: list[str]
    """The packages that the present command line trusts."""
    evaluator: Evaluator
    loggers: list[Logger]
    process: ProcessRank
    """Which of the run's processes this is."""
    recipe: dict[str, Any]
    """The arguments of `build`, for the others: config, trust, horizon."""


def build(config: dict[str, Any], trust: list[str], data: Data | None = None, horizon: int | None = None) -> Built:
    """The game that a plain config describes, and what goes with it.

    `trust` are the packages that the present command line trusts; the config's own list does not count.
    `data` stands in for the dataset, where only the networks are wanted. `horizon` is that of schedules which have none
    of their own: the run's steps by default.
    Raises ConfigError before any work is done.
    """
    builder = Builder(config, trust, data, horizon)
    # Of its products only the shapes matter, and what has no deterministic form is told of when it is trained.
    with arithmetic_of(builder.settings, lambda line: None):
        return builder.build()


def arithmetic_of(settings: Settings, say: Callable[[str], None]) -> AbstractContextManager[None]:
    """The arithmetic of a run, for all that is computed in it; `say` gets a line on what is not deterministic."""

    def tell(line: str) -> None:
        say(f"warning: deterministic=true does not hold: {line}")

    return arithmetic(tf32=settings.tf32, is_deterministic=settings.deterministic, say=tell)


class Builder:
    """Makes one game: what its parts share, and a method for each kind of part."""

    def __init__(self, config: dict[str, Any], trust: list[str], data: Data | None, horizon: int | None):
        self.config, self.trust = config, trust
        self.settings = load_settings(config)
        self.process = process_in_run(self.settings.devices)
        regularizers, augmentations = active(config, "regularizer"), active(config, "augmentation")
        self.device = choose_device(self.settings.device, self.process)
        if self.device.type == "cuda":  # or pinning memory and waiting for the device would open the first GPU too
            torch.cuda.set_device(self.device)
        loaded = data or load_data(config["dataset"], trust)
        self.data, placed = place_data(loaded, self.device, self.settings)
        self.notes = [*loaded.notes, *placed]
        if self.settings.precision == "bf16" and is_slow_at_bf16(self.device):
            self.notes.append(
                "precision=bf16: this CPU has no AVX-512, and convolutions in bf16 take about ten times as long as in "
                "precision=fp32"
            )
        self.steps = count_steps(self.settings, self.data)
        self.horizon = horizon or self.steps
        self.num_classes = count_classes(self.settings, self.data)
        self.loss = component(config["loss"], "loss", trust)
        self.names = player_names(config["model"], self.loss)
        self.head = ConditioningHead(config["head"], trust, self.horizon)
        self.head.check(self.loss, self.names, self.num_classes)
        self.latents = latent_distribution(config["model"], self.data.shape)
        kind = "points" if len(self.data.shape) == 1 else "images"
        self.optimizer, filled = fill_rates(config["optimizer"], RATES[kind])
        suited = dict.fromkeys(filled, RATES[kind])
        self.regularizers = [
            Regularizer(name, node, trust, self.horizon, self.names, kind=kind) for name, node in regularizers.items()
        ]
        for regularizer in self.regularizers:
            suited |= regularizer.suited
        if suited:
            self.notes.append(f"as suits {kind}: {' '.join(f'{key}={value:g}' for key, value in suited.items())}")
        self.augmentations = [augmentation(name, node, trust, self.horizon) for name, node in augmentations.items()]
        for adaptation in adaptations(self.augmentations).values():
            adaptation.to(self.device)

    def build(self) -> Built:
        """The game, its checks passed."""
        settings = self.settings
        players = {name: self.player(name) for name in self.names}
        terms = [("loss", self.loss), *((own.key, own.function) for own in self.regularizers)]
        adaptive: list[Any] = [augment for augment in self.augmentations if isinstance(augment, Adaptive)]
        terms += [(f"augmentation.{augment.name}", augment) for augment in adaptive]
        check_divided(settings, self.process.world_size, players, terms + self.head.sides(self.names))
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16")
        make: Callable[..., Game]
        if "autoencoder" in players:
            check_autoencoder(settings, self.augmentations, self.loss, self.data)
            make = functools.partial(Autoencoder, loss=self.loss)
        else:
            check_discriminator(players["discriminator"].network, self.regularizers)
            check_augmentations(self.augmentations, self.data)
            self.notes.extend(notes_on_unbounded_loss(self.loss, self.regularizers))
            self.notes.extend(notes_on_signs(self.loss, adaptations(self.augmentations)))
            make = functools.partial(
                Adversarial,
                discriminator_steps=settings.discriminator_steps,
                augmentations=self.augmentations,
                generator_batch_size=settings.generator_batch_size,
                has_head_loss=self.head.has_loss,
            )
        game = make(
            players=players,
            data=self.data,
            latents=self.latents,
            randomness=Randomness(settings.seed, self.device),
            batch_size=settings.batch_size,
            autocast=autocast,
            moving_average=None,
            is_conditional=settings.conditional,
            average_batches=settings.ema_statistics,
            accumulate=settings.accumulate,
        )
        if settings.capture is True and (reason := why_not_capturable(game, self.process.world_size)):
            raise ConfigError(f"capture=true: {reason}; capture=auto takes steps without graphs then")
        if settings.ema_half_life:
            images = settings.generator_batch_size or settings.batch_size
            changes = scheduled(vars(settings), "ema_half_life", "", self.trust, self.horizon)
            half_life = HalfLife(settings.ema_half_life, images, settings.ema_ramp, settings.ema_start, changes)
            game.moving_average = MovingAverage.of(game.sampler, half_life)
        recipe = {"config": self.config, "trust": self.trust, "horizon": self.horizon}
        evaluator, loggers = self.evaluator(), self.loggers()
        return Built(game, settings, self.steps, self.notes, self.trust, evaluator, loggers, self.process, recipe)

    def evaluator(self) -> Evaluator:
        """The metrics, and the network that they look through where one of them needs it."""
        nodes = active(self.config, "metric")
        metrics: dict[str, Metric] = {}
        for name, node in nodes.items():
            made = component(node, f"metric.{name}", self.trust, data=self.data)
            metrics |= made.metrics if isinstance(made, Auto) else {name: made}
        for name, metric in metrics.items():
            if metric.is_by_class and not self.settings.conditional:
                has_labels = "type conditional=true" if self.data.num_classes else "and this dataset has no labels"
                raise ConfigError(f"metric={name}: it compares class with class, of a conditional run; {has_labels}")
        network: FeatureNetwork | None = None
        if any(metric.needs_features(self.data) for metric in metrics.values()):
            network = component(self.config["features"], "features", self.trust)
        objective = choose_objective(self.settings.objective, metrics)
        return Evaluator(metrics=metrics, network=network, objective=objective, seed=self.settings.seed)

    def loggers(self) -> list[Logger]:
        """Where the log goes beside the run's directory."""
        nodes = active(self.config, "logger")
        return [component(node, f"logger.{name}", self.trust) for name, node in nodes.items()]

    def player(self, name: str) -> Player:
        """One player: its network, terms and optimizer."""
        own = [regularizer for regularizer in self.regularizers if name in regularizer.on]
        made = self.network(name)
        for regularizer in own:
            if regularizer.role == "parametrization":
                try:
                    made = regularizer.made(made)
                except ValueError as error:
                    other = f"{regularizer.key}.on=[PLAYER] chooses another network"
                    raise ConfigError(f"{regularizer.key} on the {name}: {error}; {other}") from error
        # Kernels of convolutions are channels last: up to 1.4 times as fast on a CPU, and what tensor cores want.
        made.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        check_output(name, made, self.data, self.latents.size, self.num_classes)
        refuse_without_kernels(name, made, own)
        terms = {LOSS: Term(getattr(self.head.made if self.head.is_the_loss else self.loss, name))}
        terms |= self.head.terms(name)
        terms |= {regularizer.name: regularizer.term() for regularizer in own if regularizer.role == "penalty"}
        terms[LOSS].reduction = reduction(own)
        descent, betas = optimizer(self.optimizer, name, made, self.trust, self.horizon)
        if self.settings.precision == "bf16" and isinstance(descent, FiniteDifference):
            raise ConfigError(
                "precision=bf16: this optimizer estimates gradients from small differences of the loss, which bf16 "
                "rounds away; precision=fp32 keeps them"
            )
        return Player(
            name,
            made,
            {term_name: term.to(self.device) for term_name, term in terms.items()},
            descent,
            schedule(self.config["lr_schedule"], "lr_schedule", self.trust, self.horizon),
            [regularizer.made for regularizer in own if regularizer.role == "gradient"],
            [regularizer.made for regularizer in own if regularizer.role == "projection"],
            *betas,
        )

    def network(self, name: str) -> nn.Module:
        """A player's network, on the CPU, within its budget; its weights depend on the seed and its name alone."""
        key, node, limits = f"model.{name}", self.config["model"][name], getattr(self.settings.budget, name)
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError(f"{key}: must be keys and values with a _target_")
        policy = self.settings.budget.policy
        make = functools.partial(self.unbounded, name)
        try:
            made, changes = within_budget(
                make, node, key, layers=limits.layers, parameters=limits.parameters, policy=policy
            )
        except ConfigError:
            raise
        except ValueError as error:
            raise ConfigError(str(error)) from error
        self.notes.extend(changes)
        return made

    def unbounded(self, name: str, node: dict[str, Any]) -> nn.Module:
        """A network whatever its size; of a discriminator as many as it judges scales, of packs of samples."""
        key = f"model.{name}"
        given: dict[str, Any] = {"num_classes": self.num_classes, "latent_size": self.latents.size}
        given["default_output"] = self.data.output_activation
        torch.manual_seed(derive(self.settings.seed, "weights", name))
        own = {key: node[key] for key in KEYS_OF_DISCRIMINATORS if key in node and name == "discriminator"}
        node = {key: value for key, value in node.items() if key not in own}
        scales, pack = ({"scales": 1, "pack": 1} | check_arguments(key, of_discriminators, own)).values()
        check_packs(pack, self.settings)
        is_taken = name == "discriminator" and self.head.goes_on(node, key, self.trust, scales)
        if is_taken and self.head.made.make is not LinearHead:
            given["head"] = self.head.made.make

        def at(shape: tuple[int, ...]) -> nn.Module:
            return component(node, key, self.trust, shape=shape, **given)

        def of_scales(shape: tuple[int, ...]) -> nn.Module:
            return at(shape) if scales == 1 else MultiScale(at, shape, scales)

        return of_scales(self.data.shape) if pack == 1 else Packed(of_scales, self.data.shape, pack)


KEYS_OF_DISCRIMINATORS = ("scales", "pack")


def of_discriminators(scales: PositiveInt = 1, pack: PositiveInt = 1) -> None:
    """The keys that every discriminator has beside those of its own network."""


def refuse_giants(config: dict[str, Any], trust: list[str]) -> None:
    """Refuse a `dataset.image_size` at which training would not go into the memory that is free: raises ConfigError.

    To see that by resizing the dataset and building the networks takes minutes. Only those of this package are asked.
    """
    settings = load_settings(config)
    process = process_in_run(settings.devices)
    device = choose_device(settings.device, process)
    batch_size = max(2, settings.batch_size // (process.world_size * settings.accumulate))
    size, free = config["dataset"].get("image_size"), free_memory(device)
    sides = [size, size] if isinstance(size, int) else size
    if free is None or not isinstance(sides, list) or max(sides, default=0) <= LARGE:
        return
    shape = (config["dataset"].get("channels") or 1, *sides)
    latent_size = config["model"].get("latent_size") or LATENTS_OF_IMAGES
    given: dict[str, Any] = {"num_classes": 0, "latent_size": latent_size, "default_output": "tanh"}
    takes = 0
    for name in PLAYERS:
        node = config["model"].get(name)
        if isinstance(node, dict) and str(node.get("_target_")).startswith("gan_runner.models."):
            node = {key: value for key, value in node.items() if key not in KEYS_OF_DISCRIMINATORS}
            with torch.random.fork_rng(devices=[]), torch.device("meta"):
                network = component(node, f"model.{name}", trust, shape=shape, **given)
                sample = torch.empty(batch_size, *(shape if name == "discriminator" else (latent_size,)))
                takes += least_memory(network, sample)
    if takes > free:
        raise ConfigError(
            f"dataset.image_size={json.dumps(size)}: training these networks takes at least {readable(takes)} of "
            f"memory, in batches of {batch_size}, and {device} has {readable(free)} free; a smaller "
            "dataset.image_size, batch_size or width of the networks takes less"
        )


def player_names(model: dict[str, Any], loss: Any) -> list[str]:
    """The players of a model, which must be those that the loss has a side for."""
    names = [name for name in PLAYERS if name in model]
    for name in names:
        if not hasattr(loss, name):
            raise ConfigError(
                f"loss and model do not fit: {type(loss).__name__} has no side for {' and '.join(names)}; an "
                "autoencoder (model=vae) goes with loss=elbo, a generator and a discriminator go with the other losses"
            )
    return names


def check_divided(settings: Settings, processes: int, players: dict[str, Player], terms: list[tuple[str, Any]]) -> None:
    """Refuse what a batch that several processes share, or that is computed in parts, does not go together with."""
    if processes == settings.accumulate == 1:
        return
    shares = processes * settings.accumulate
    said = [f"{processes} processes"] * (processes > 1) + [f"accumulate={settings.accumulate}"] * (shares > processes)
    who = " and ".join(said)
    packs = [getattr(player.network, "pack", 1) for player in players.values()]
    unit = shares * math.lcm(*packs, *(getattr(term, "shrink", 1) for _, term in terms))
    for key in ("batch_size", "generator_batch_size"):
        size = getattr(settings, key)
        if size is not None and size % unit:
            raise ConfigError(f"{key}={size}: {who} share it equally; a multiple of {unit} would do")
    for key, term in terms:
        refuse_undivided(key, term, settings.accumulate, who)
    for name, player in players.items():
        if wants_closure(player.optimizer):
            kind = type(player.optimizer).__name__
            raise ConfigError(f"optimizer: {kind} of the {name} evaluates a batch several times, which {who} cannot")
        for module in player.network.modules():
            kind = f"model.{name}: {type(module).__name__}"
            refuse_undivided(kind, module, settings.accumulate, who)
            draws = isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0
            if draws and not getattr(module, "is_divisible", False):
                raise ConfigError(
                    f"{kind}: with {who} it would draw other numbers; gan_runner.models.layers.SharedDropout draws "
                    "those of the whole batch"
                )


def refuse_undivided(key: str, part: Any, accumulate: int, who: str) -> None:
    """Refuse a module or term that looks at the whole batch, unless it gathers it, which parts in turn cannot."""
    gathers = getattr(part, "gathers_batch", False)
    if gathers and accumulate > 1:
        raise ConfigError(f"{key}: it looks at the whole batch, which accumulate={accumulate} never computes at once")
    is_mixing = isinstance(part, nn.modules.batchnorm._BatchNorm) or getattr(part, "mixes_samples", False)
    if is_mixing and not gathers:
        raise ConfigError(f"{key}: it mixes the samples of a batch, of which {who} compute a share each")


def check_augmentations(augmentations: list[Augmentation], data: Data) -> None:
    """Refuse an augmentation that the data's samples do not suit."""
    for augment in augmentations:
        try:
            augment(torch.zeros(2, *data.shape, device=data.device), fixed_randomness(0, "check", data.device), 0)
        except ValueError as error:
            raise ConfigError(str(error)) from error


@torch.no_grad()
def check_output(name: str, network: nn.Module, data: Data, latent_size: int, num_classes: int) -> None:
    """Refuse a network of a user's whose output has another shape than the game wants, before it trains for an hour."""
    device = next((parameter.device for parameter in network.parameters()), data.device)
    count = 2 * getattr(network, "pack", 1)
    samples, codes = torch.zeros(count, *data.shape, device=device), torch.zeros(count, latent_size, device=device)
    labels = torch.zeros(count, dtype=torch.long, device=device) if num_classes else None
    with evaluating(network):
        found = network(samples if name == "discriminator" else codes, labels)
    wanted = (count,) if name == "discriminator" else (count, *data.shape)
    if tuple(found.shape) != wanted:
        raise ConfigError(
            f"model.{name}: of {count} inputs it makes a tensor of shape {tuple(found.shape)}, not {wanted}"
        )


def count_classes(settings: Settings, data: Data) -> int:
    """The number of classes that the networks are told of."""
    if settings.conditional and not data.num_classes:
        raise ConfigError("conditional=true: this dataset has no labels; conditional=false needs none")
    return data.num_classes if settings.conditional else 0


def check_autoencoder(settings: Settings, augmentations: list[Any], loss: Any, data: Data) -> None:
    """Refuse what an autoencoder has no use for."""
    if settings.discriminator_steps != 1:
        raise ConfigError(f"discriminator_steps={settings.discriminator_steps}: an autoencoder has no discriminator")
    if settings.generator_batch_size is not None:
        raise ConfigError(f"generator_batch_size={settings.generator_batch_size}: an autoencoder has no generator")
    if augmentations:
        raise ConfigError("augmentation: it changes what a discriminator sees, and an autoencoder has none")
    if getattr(loss, "likelihood", "") == "bernoulli" and data.output_activation != "sigmoid":
        raise ConfigError(
            "loss.likelihood=bernoulli: it wants pixels in [0, 1]: dataset.normalization=unit, or likelihood=gaussian"
        )


def refuse_without_kernels(name: str, network: nn.Module, regularizers: list["Regularizer"]) -> None:
    """Refuse a penalty on weights, or a constraint of them, where the network has none that it means."""
    for regularizer in regularizers:
        if (
            regularizer.mark("of_kernels")
            and not regularizer.rest.get("biases")
            and next(kernels(network), None) is None
        ):
            other = f"{regularizer.key}.biases=true counts these too; " if "biases" in regularizer.rest else ""
            raise ConfigError(
                f"{regularizer.key}: the {name} has no weight matrix or kernel, only parameters of one axis; {other}"
                f"{regularizer.key}.on=[PLAYER] chooses another network"
            )


def refuse_ignored(built: Built, config: dict[str, Any], trust: list[str]) -> None:
    """Refuse what would have no effect on a new run: labels that a network ignores, and wrong keys of `features`.

    Runs that were begun before this was refused go on. Raises ConfigError.
    """
    if built.evaluator.network is None:  # or it has been built
        component(config["features"], "features", trust)
    if built.game.is_conditional and built.game.data.num_classes > 1:
        labelled = ["discriminator"] if getattr(built.game, "has_head_loss", False) else []  # its head is told them
        for name, player in built.game.players.items():
            if name in labelled:
                continue
            refuse_ignored_labels(name, player.network, built.game.data, built.game.latents.size)


@torch.no_grad()
def refuse_ignored_labels(name: str, network: nn.Module, data: Data, latent_size: int) -> None:
    """Refuse a network that makes the same of every label.

    It is asked at other weights than its own: tables of classes may all begin with the same numbers.
    """
    network = copy.deepcopy(network)
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        weight.add_(torch.randn(weight.shape, generator=generator).to(weight), alpha=0.1)
    shape = data.shape if name == "discriminator" else (latent_size,)
    given = torch.randn(1, *shape, generator=generator).expand(2, *shape).to(data.device)
    with evaluating(network):
        one, other = network(given, torch.tensor([0, 1], device=data.device))
    if one.equal(other):
        raise ConfigError(
            f"conditional=true: model.{name} makes the same of every label, so it would not learn them; a network that "
            "is told the labels takes num_classes, or type conditional=false"
        )


def check_discriminator(discriminator: nn.Module, regularizers: list["Regularizer"]) -> None:
    """Refuse a penalty on each sample's own gradient where that would be something else."""
    for regularizer in regularizers:
        if regularizer.mark("of_each_sample"):
            refuse_batch_statistics(discriminator, regularizer.key)


def check_packs(pack: int, settings: Settings) -> None:
    """Refuse batches that are no whole number of packs, and labels, of which a pack has several."""
    if pack > 1 and settings.conditional:
        raise ConfigError(
            f"model.discriminator.pack={pack}: the samples of a pack have labels of their own, and its logit can be of "
            "one alone; conditional=false, or pack=1"
        )
    for key in ("batch_size", "generator_batch_size"):
        if (getattr(settings, key) or 0) % pack:
            raise ConfigError(f"{key}={getattr(settings, key)}: must be a multiple of model.discriminator.pack={pack}")


def notes_on_unbounded_loss(loss: Any, regularizers: list["Regularizer"]) -> list[str]:
    """Lines on a loss without a bound: that nothing holds its critic, or which penalties are made for others."""
    if getattr(loss, "is_bounded", True):
        return []
    if not any("discriminator" in regularizer.on for regularizer in regularizers):
        return [
            f"{type(loss).__name__} alone: nothing keeps the critic Lipschitz, so its loss falls without end and the "
            "generator learns nothing; loss=wgan_gp or regularizer=spectral_norm does"
        ]
    return [
        f"{regularizer.key}: its paper is about discriminator losses that are bounded, and {type(loss).__name__}'s is "
        "not; loss=hinge and loss=bce are"
        for regularizer in regularizers
        if regularizer.mark("for_bounded_losses")
    ]


def notes_on_signs(loss: Any, adaptive: Iterable[str]) -> list[str]:
    """Lines on augmentations that adapt to the signs of logits, where the loss sees differences of logits alone."""
    if not getattr(loss, "is_of_differences", False):
        return []
    return [
        f"augmentation.{name}: p adapts to the sign of the logits, which {type(loss).__name__} leaves open, as it sees "
        f"differences of logits alone; augmentation.{name}.target=null augmentation.{name}.p=0.3 fixes p"
        for name in adaptive
    ]


def choose_device(name: str, process: ProcessRank = ALONE) -> torch.device:
    """The device that a name means, with its index; auto is cuda, else mps, else cpu. Each process has its own GPU.

    Raises ConfigError where there is none of that name, or too few.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if process.world_size > 1:
        available["mps"] = False  # torch.distributed has nothing for it
    if name == "auto":
        name = next(kind for kind in available if available[kind])
        if name == "cpu" and process.world_size > 1 and launched_process(os.environ) is None:
            raise ConfigError(
                f"devices={process.world_size}: PyTorch finds no CUDA device here; device=cpu trains on the CPU"
            )
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={name}: no such device; auto, {', '.join(available)} or cuda:1 are") from None
    if not available.get(device.type, False):
        raise ConfigError(f"device={name}: PyTorch finds no such device here; device=auto takes what there is")
    if device.type == "cuda":
        index, count = device.index or 0, torch.cuda.device_count()
        if process.world_size > 1:
            if device.index is not None:
                raise ConfigError(f"device={name}: {process.world_size} processes have a GPU each; type device=cuda")
            if launched_process(os.environ) is None and process.world_size > count:
                found = f"PyTorch finds {count} CUDA devices here"
                raise ConfigError(f"devices={process.world_size}: {found}; device=cpu trains on the CPU")
            index = process.local_rank % count  # where each has been given one, it sees no other
        if index >= count:
            raise ConfigError(f"device={name}: PyTorch finds {count} CUDA devices here, cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", index)
    return device


def load_data(node: dict[str, Any], trust: list[str]) -> Data:
    """Load the dataset."""
    try:
        return component(node, "dataset", trust)()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"dataset: {error}") from error


def place_data(data: Data, device: torch.device, settings: Settings) -> tuple[Data, list[str]]:
    """Put the data where they are trained from; the data, and lines for the log."""
    try:
        return place(data, device, settings.stream, settings.workers)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def count_steps(settings: Settings, data: Data) -> int:
    """How many steps to train: the first reached of `steps` and `epochs`."""
    limits = [settings.steps] if settings.steps else []
    for key in ("batch_size", "generator_batch_size"):
        if data.size is not None and (getattr(settings, key) or 0) > data.size:
            raise ConfigError(
                f"{key}={getattr(settings, key)}: the dataset has only {data.size} samples, the most allowed"
            )
    if settings.epochs:
        if data.size is None:
            raise ConfigError(f"epochs={settings.epochs}: this dataset is endless; say steps=... and epochs=null")
        samples_per_step = settings.batch_size * settings.discriminator_steps
        limits.append(settings.epochs * -(-data.size // samples_per_step))
    return min(limits)


def latent_distribution(model: dict[str, Any], shape: tuple[int, ...]) -> Latents:
    """The distribution that the keys of a model say; where they say nothing, what suits samples of this shape.

    Of images that is a normal one of 100 latents. Of points it is a uniform one of as many as they have coordinates: a
    network that has to fold more, or the tails of a normal one, into the plane leaves out modes.
    """
    strangers = [key for key in model if key not in (*PLAYERS, *signature(latent)[0])]
    if strangers:
        raise ConfigError(f"unknown key 'model.{strangers[0]}'{suggest(strangers[0], model)}")
    keys = {"latent_distribution": "normal"} | {key: model[key] for key in model if key.startswith("latent_")}
    is_points = len(shape) == 1
    size = check_arguments("model", latent, keys)["latent_size"] or (shape[0] if is_points else LATENTS_OF_IMAGES)
    name = keys["latent_distribution"] or ("uniform" if is_points else "normal")
    if name not in DISTRIBUTIONS:
        raise ConfigError(
            f"model.latent_distribution={name}: must be {' or '.join(DISTRIBUTIONS)}"
            + suggest(str(name), DISTRIBUTIONS)
        )
    return DISTRIBUTIONS[name](size)


def latent(latent_size: PositiveInt | None, latent_distribution: str | None) -> None:
    """The keys of a model that are not a network's."""


def schedule(node: dict[str, Any], key: str, trust: list[str], steps: int) -> Callable[[int], float]:
    """A schedule whose horizon is its own `steps`, or the run's. Raises ConfigError for what is none."""
    if not isinstance(node, dict):
        option = node if isinstance(node, str) else "linear"
        raise ConfigError(
            f"{key}={show_value(node)}: it takes an option of lr_schedule; type lr_schedule@{key}={option}"
        )
    if "_target_" not in node:
        raise ConfigError(f"{key}: must be keys and values with a _target_")
    target = resolve(node["_target_"], key, trust)
    if "steps" in inspect.signature(target).parameters:
        node = {**node, "steps": node.get("steps") or steps}
    return component(node, key, trust, per_call=1)


def scheduled(
    node: Mapping[str, Any], name: str, key: str, trust: list[str], steps: int
) -> Callable[[int], float] | None:
    """What multiplies the number `name` of a node: the schedule in the slot NAME_schedule beside it, if one is there.

    `key` is where the node stands.
    """
    slot = f"{name}_schedule"
    return None if node.get(slot) is None else schedule(node[slot], f"{key}.{slot}" if key else slot, trust, steps)


def extremes(number: Callable[[int], float], node: Mapping[str, Any], steps: int) -> tuple[float, float]:
    """The lowest and the highest value of a number on a schedule, whose node this is, in the run and after it."""
    last = max(steps, *(node.get(length) or 0 for length in ("steps", "warmup")))
    values = [number(step) for step in range(last + 1)]
    return min(values), max(values)


def optimizer(
    node: dict[str, Any], player: str, network: nn.Module, trust: list[str], steps: int
) -> tuple[torch.optim.Optimizer, list[Callable[[int], float] | None]]:
    """The optimizer of one player, and what its two betas are at a training step where they have a schedule.

    Its keys are the shared ones, with the player's slot laid over them; a slot with a `_target_` of its own replaces
    the shared optimizer.
    """
    shared = {name: value for name, value in node.items() if name not in PLAYERS}
    slot = node.get(player) or {}
    key = f"optimizer.{player}" if slot else "optimizer"
    merged = slot if "_target_" in slot else {**shared, **slot}
    parameters = list(network.parameters())
    changes = [scheduled(merged, name, key, trust, steps) for name in ("beta1", "beta2")]
    own = {name: value for name, value in merged.items() if name not in ("beta1_schedule", "beta2_schedule")}
    made: torch.optim.Optimizer = component(own, key, trust, params=parameters)
    betas: list[Callable[[int], float] | None] = [None, None]
    if any(changes):
        if type(made) not in (torch.optim.Adam, torch.optim.AdamW):
            raise ConfigError(f"{key}: {type(made).__name__} has no betas that a schedule could change; Adam has")
        betas = [change and product(beta, change) for beta, change in zip(made.defaults["betas"], changes, strict=True)]
        for name, beta in zip(("beta1", "beta2"), betas, strict=True):
            if beta is None:
                continue
            _, highest = extremes(beta, merged[f"{name}_schedule"], steps)
            if not 0 <= highest < 1:
                raise ConfigError(f"{key}.{name}_schedule: {name} would come to {highest:g}, and must be below 1")
        try:
            made = ScheduledAdam(parameters, **made.defaults)
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from error
    device = parameters[0].device.type
    is_counted = bool(made.state)  # on the host, and from the start: Adagrad
    for group in made.param_groups:
        if "fused" in group and (device == "cpu" or (device == "cuda" and not is_counted)):
            group["fused"] = True  # all weights in one pass
        if "capturable" in group and device == "cuda":
            group["capturable"] = True  # the number of the update on the device, where a CUDA graph finds it
    return made, betas


def fill_rates(node: dict[str, Any], rate: float) -> tuple[dict[str, Any], list[str]]:
    """The optimizer's node, in which this rate stands where a key `lr` is null, and these keys."""
    parts = {"optimizer": node} | {f"optimizer.{name}": node[name] for name in PLAYERS if node.get(name)}
    filled = {key: {**part, "lr": rate} for key, part in parts.items() if part.get("lr", rate) is None}
    slots = {name: filled.get(f"optimizer.{name}", node[name]) for name in PLAYERS if name in node}
    return {**filled.get("optimizer", node), **slots}, [f"{key}.lr" for key in filled]


def product(number: float, change: Callable[[int], float]) -> Callable[[int], float]:
    """The number times its schedule."""
    return lambda step: number * change(step)


def augmentation(name: str, node: dict[str, Any], trust: list[str], steps: int) -> Augmentation:
    """(samples, randomness, step) -> samples. Of the package's augmentations only the classes ask for the step.

    A number KEY with a schedule in KEY_schedule beside it is multiplied by it at each step (see `Scheduled`).
    """
    key = f"augmentation.{name}"
    if node.get("schedule") is not None:
        node = {**node, "schedule": schedule(node["schedule"], f"{key}.schedule", trust, steps)}
    slots = [slot for slot in node if slot.endswith("_schedule") and slot.removesuffix("_schedule") in node]
    plain = {slot: value for slot, value in node.items() if slot not in slots}
    made = component(plain, key, trust, per_call=2)
    if isinstance(made, Adaptive):
        made.name = name
    numbers = [slot.removesuffix("_schedule") for slot in slots if node[slot] is not None]
    if len(numbers) > 1:
        raise ConfigError(f"{key}: only one of its numbers can have a schedule, not {' and '.join(numbers)}")
    for number in numbers:
        if isinstance(node[number], bool) or not isinstance(node[number], int | float):
            raise ConfigError(
                f"{key}.{number}_schedule: it multiplies {number}, and {number}={show_value(node[number])} is no number"
            )
        change = schedule(node[f"{number}_schedule"], f"{key}.{number}_schedule", trust, steps)
        for value in extremes(product(node[number], change), node[f"{number}_schedule"], steps):
            try:
                component({**plain, number: value}, key, trust, per_call=2)
            except ConfigError as error:
                raise ConfigError(f"{key}.{number}_schedule: {number} would come to {value:g}; {error}") from error
        made = Scheduled(made, number, node[number], change)
    if isinstance(made, functools.partial):
        return lambda samples, randomness, step: made(samples, randomness)
    return made


class ConditioningHead:
    """The node `head`: what a discriminator makes of the labels, and the terms of both players that go with it."""

    def __init__(self, node: dict[str, Any], trust: list[str], steps: int):
        if not isinstance(node, dict) or "_target_" not in node:
            raise ConfigError("head: must be keys and values with a _target_")
        target = resolve(node["_target_"], "head", trust)
        self.has_loss = hasattr(target, "discriminator")
        self.is_the_loss = hasattr(target, "in_place_of")
        self.has_terms = self.has_loss and not self.is_the_loss
        term_keys = ("weight", "schedule") if self.has_terms else ()
        self.term_arguments = {key: node[key] for key in term_keys if key in node}
        if self.term_arguments.get("schedule") is not None:
            self.term_arguments["schedule"] = schedule(node["schedule"], "head.schedule", trust, steps)
        check_arguments("head", Term, self.term_arguments, provided={"fn"})
        rest = {key: value for key, value in node.items() if key not in term_keys}
        self.made = component(rest, "head", trust, siblings=term_keys)
        self.name = getattr(target, "name", target.__name__)

    def terms(self, player: str) -> dict[str, Term]:
        """The term of a player that the head adds to its loss, where it adds one."""
        return {HEAD: Term(getattr(self.made, player), **self.term_arguments)} if self.has_terms else {}

    def sides(self, players: list[str]) -> list[tuple[str, Any]]:
        """The head's losses, with the key that an error names."""
        return [(f"head={self.name}", getattr(self.made, player)) for player in players if self.has_loss]

    def check(self, loss: Any, players: list[str], num_classes: int) -> None:
        """Refuse a head without labels, without a discriminator, and beside a loss whose place it takes."""
        if not self.has_loss:
            return
        if "discriminator" not in players:
            raise ConfigError(f"head={self.name}: it is a discriminator's, and this model has none; head=projection")
        if not num_classes:
            raise ConfigError(f"head={self.name}: it wants labels: add conditional=true")
        if self.is_the_loss and type(loss) is not self.made.in_place_of:
            option = self.made.in_place_of.__name__.lower()
            raise ConfigError(f"head={self.name}: it is a {option} loss itself, over the classes; type loss={option}")

    def goes_on(self, node: dict[str, Any], key: str, trust: list[str], scales: int) -> bool:
        """Whether a discriminator takes the head as its own. Raises ConfigError where it must and does not."""
        target = resolve(node["_target_"], key, trust)
        is_headed = inspect.isclass(target) and issubclass(target, HeadedDiscriminator)
        is_taken = is_headed and "head" in inspect.signature(target).parameters
        if self.has_loss and scales > 1:
            raise ConfigError(f"head={self.name}: {key}.scales={scales} are discriminators, each with a head; scales=1")
        if self.has_loss and not is_taken:
            raise ConfigError(
                f"head={self.name}: {key}, {target.__name__}, takes no head; a class that does is a "
                "gan_runner.models.layers.HeadedDiscriminator"
            )
        return is_taken


class Regularizer:
    """One node of the group: what it makes (`made`), the role it plays, and the players it acts on."""

    def __init__(self, name: str, node: dict[str, Any], trust: list[str], steps: int, players: list[str], *, kind: str):
        self.name, self.key = name, f"regularizer.{name}"
        self.suited: dict[str, float] = {}  # a weight that the config leaves open
        if name in (LOSS, HEAD):
            raise ConfigError(f"{self.key}: the name {name} is taken, by the {name}; choose another")
        own = {key: node.get(key, default) for key, default in (("role", "penalty"), ("on", ["discriminator"]))}
        own["role"] = RENAMED_ROLES.get(str(own["role"]), own["role"])  # a file may have been written for version 0.1
        own = check_arguments(self.key, roles, own)
        self.role, self.on = own["role"], own["on"]
        if strangers := [player for player in self.on if player not in players]:
            wanted = f"{self.key}.on=[{','.join(players)}]"
            raise ConfigError(f"{self.key} is on the {strangers[0]}, which this model does not have: {wanted}")
        term_keys = ("weight", "every", "start", "schedule") if self.role == "penalty" else ()
        self.term_arguments = {key: node[key] for key in term_keys if key in node}
        if self.term_arguments.get("schedule") is not None:
            self.term_arguments["schedule"] = schedule(node["schedule"], f"{self.key}.schedule", trust, steps)
        self.siblings = (*own, *term_keys)
        self.rest = {key: value for key, value in node.items() if key not in self.siblings}
        self.trust = trust
        self.made = self.make()
        fitting = self.mark("fitting_weight")
        if fitting and self.term_arguments.get("weight", 1) is None:
            self.term_arguments["weight"] = fitting[kind]
            self.suited = {f"{self.key}.weight": fitting[kind]}
        check_arguments(self.key, Term, self.term_arguments, provided={"fn"})
        allowed = self.mark("only_on", players)
        if self.mark("of_each_sample"):
            allowed = ("discriminator",)
        if any(player not in allowed for player in self.on):
            wrong, right = json.dumps(self.on), " and the ".join(allowed)
            raise ConfigError(f"{self.key}.on={wrong}: this penalty is only for the {right}")

    def make(self) -> Any:
        """The penalty, projection, parametrization or transform itself."""
        return component(self.rest, self.key, self.trust, per_call=1, siblings=self.siblings)

    @property
    def function(self) -> Any:
        """The penalty, as it was written."""
        return getattr(self.made, "func", self.made)

    def term(self) -> Term:
        """A term of its own for each player, since a penalty may remember."""
        return Term(self.make(), **self.term_arguments)

    def mark(self, name: str, default: Any = False) -> Any:
        """What the penalty says of itself, by the decorators of `penalties`."""
        return getattr(self.function, name, default)


def reduction(regularizers: list[Regularizer]) -> Reduction | None:
    """What a player makes of its loss of each sample; None is the mean. Raises ConfigError for two such things."""
    found = [regularizer for regularizer in regularizers if regularizer.role == "reduction"]
    if len(found) > 1:
        raise ConfigError(f"{found[0].key} and {found[1].key}: the loss of a batch can be reduced in one way alone")
    return found[0].made if found else None


def roles(
    role: Literal["penalty", "projection", "parametrization", "gradient", "reduction"],
    on: Annotated[list[Literal["generator", "discriminator", "autoencoder"]], MinLen(1)],
) -> None:
    """The keys that every regularizer has: what it is, and whose."""


def refuse_batch_statistics(discriminator: nn.Module, regularizer: str) -> None:
    """A penalty on each sample's own gradient, and a discriminator that mixes the samples, do not go together."""
    if mixes_samples(discriminator):
        raise ConfigError(
            f"model.discriminator.normalization=batch: it mixes the samples, but {regularizer} needs each "
            "sample's own gradient; layer, instance and none do not"
        )
