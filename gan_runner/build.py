"""From a config to a game: the only place that imports what a `_target_` names."""

import functools
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan_runner import latents
from gan_runner.config import LIST_GROUPS, ConfigError, Settings, active, check_arguments, load_settings, suggest
from gan_runner.datasets.data import Data
from gan_runner.ema import MovingAverage
from gan_runner.games.adversarial import Adversarial
from gan_runner.player import LOSS, Player
from gan_runner.randomness import Randomness, derive
from gan_runner.terms import Term

PLAYERS = ("generator", "discriminator")

# Where a `_target_` may point. A config can come from a stranger, and a name is enough to run code: torch.load is one.
OWN_MODULES = (
    "models",
    "datasets",
    "losses",
    "penalties",
    "projections",
    "gradients",
    "wrappers",
    "schedules",
    "augmentations",
)
LIBRARIES = ("torch.nn", "torch.optim")  # only their classes


# --- components -------------------------------------------------------------------------------------------------------


def resolve(target: Any, key: str, trust: list[str]) -> Callable[..., Any]:
    """The class or function that `_target_` names; nothing is imported before its name is allowed.

    Raises ConfigError where the name, or the place where the object was really defined, is not allowed.
    """
    parts = target.split(".") if isinstance(target, str) else []
    if not all(part.isidentifier() and not part.startswith("_") for part in parts) or not is_allowed(parts, trust):
        raise ConfigError(
            f"{key}._target_={target}: not allowed; a target is part of gan_runner, a class of torch.nn or torch.optim"
            + (f", or of a package of your own with trust=[{parts[0]}]" if parts else "")
        )
    found: Any = None
    for end in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError as error:
            if error.name is None or not ".".join(parts).startswith(error.name):
                raise
            continue
        break
    for part in parts[end:]:
        found = getattr(found, part, None)
    if not callable(found):
        raise ConfigError(f"{key}._target_={target}: there is no such class or function{suggest_target(parts)}")
    origin = [*str(getattr(found, "__module__", "")).split("."), getattr(found, "__qualname__", "")]
    if not is_allowed(origin, trust) or (parts[0] == "torch" and not inspect.isclass(found)):
        raise ConfigError(f"{key}._target_={target}: not allowed; it was defined in {'.'.join(origin[:-1])}")
    return found


def is_allowed(parts: list[str], trust: list[str]) -> bool:
    """Whether a dotted name lies where a `_target_` may point."""
    name = ".".join(parts)
    places = [f"gan_runner.{module}" for module in OWN_MODULES] + list(LIBRARIES) + trust
    return any(name.startswith(f"{place}.") for place in places)


def suggest_target(parts: list[str]) -> str:
    """The nearest public name in the module that a target's name leads to."""
    try:
        module = importlib.import_module(".".join(parts[:-1]))
    except ModuleNotFoundError:
        return ""
    return suggest(parts[-1], [name for name in vars(module) if not name.startswith("_")])


def component(
    node: Mapping[str, Any], key: str, trust: list[str], siblings: Iterable[str] = (), **provided: Any
) -> Any:
    """What a node of the config describes: its class built, or its function bound to the node's other keys.

    Nested nodes with a `_target_` come first. Hydra's own `instantiate` would do, but its partial objects check their
    target again at every call (0.2 ms), and its errors name no key.
    """
    target = resolve(node["_target_"], key, trust)
    parameters = inspect.signature(target).parameters
    if inspect.isclass(target):
        taken = set(provided)
    else:  # what a function takes by position is the call's: the view of a penalty, the step of a schedule
        taken = {name for name, parameter in parameters.items() if parameter.kind is not parameter.KEYWORD_ONLY}
    arguments = {
        name: component(value, f"{key}.{name}", trust) if isinstance(value, dict) and "_target_" in value else value
        for name, value in node.items()
        if name != "_target_"
    }
    arguments = check_arguments(key, target, arguments, taken, siblings)
    if not inspect.isclass(target):
        return functools.partial(target, **arguments)
    try:
        return target(**arguments, **{name: value for name, value in provided.items() if name in parameters})
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error


# --- a game -----------------------------------------------------------------------------------------------------------


def build(config: dict[str, Any], trust: list[str], data: Data | None = None) -> tuple[Adversarial, Settings, int]:
    """The game that a plain config describes, its settings, and the number of steps to train.

    `trust` are the packages that the present command line trusts; the config's own list does not count.
    `data` stands in for the dataset, where only the networks are wanted.
    Raises ConfigError before any work is done.
    """
    settings = load_settings(config)
    nodes = {group: active(config, group) for group in LIST_GROUPS}
    device = choose_device(settings.device)
    data = (data or load_data(config["dataset"], trust)).to(device)
    steps = count_steps(settings, data)
    loss = component(config["loss"], "loss", trust)
    regularizers = [Regularizer(name, node, trust, steps) for name, node in nodes["regularizer"].items()]
    augmentations = [component(node, f"augmentation.{name}", trust) for name, node in nodes["augmentation"].items()]
    model = config["model"]

    def player(name: str) -> Player:
        torch.manual_seed(derive(settings.seed, "weights", name))
        network = component(
            model[name],
            f"model.{name}",
            trust,
            shape=data.shape,
            num_classes=0,
            latent_size=model["latent_size"],
            default_output=data.output_activation,
        )
        own = [regularizer for regularizer in regularizers if name in regularizer.on]
        for wrap in (regularizer.made for regularizer in own if regularizer.role == "wrapper"):
            network = wrap(network)
        network.to(device)
        terms = {
            regularizer.name: regularizer.term().to(device) for regularizer in own if regularizer.role == "penalty"
        }
        return Player(
            network,
            {LOSS: Term(getattr(loss, name)).to(device), **terms},
            optimizer(config["optimizer"], name, network, trust),
            schedule(config["lr_schedule"], "lr_schedule", trust, steps),
            [regularizer.made for regularizer in own if regularizer.role == "gradient"],
            [regularizer.made for regularizer in own if regularizer.role == "projection"],
        )

    players = {name: player(name) for name in PLAYERS}
    needy = [regularizer.key for regularizer in regularizers if regularizer.is_of_each_sample]
    if needy:
        refuse_batch_statistics(players["discriminator"].network, needy[0])
        if settings.precision == "bf16" and device.type == "cpu":
            refuse_wrong_gradients(players["discriminator"].network, needy[0])
    generator = players["generator"].network
    game = Adversarial(
        players=players,
        data=data,
        draw_latents=latent_distribution(model),
        randomness=Randomness(settings.seed, device),
        batch_size=settings.batch_size,
        is_conditional=False,
        discriminator_steps=settings.discriminator_steps,
        augmentations=augmentations,
        autocast=torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"),
        moving_average=MovingAverage(generator, settings.ema_half_life, settings.batch_size)
        if settings.ema_half_life
        else None,
    )
    return game, settings, steps


def choose_device(name: str) -> torch.device:
    """The device that a name means, with its index; auto is cuda, else mps, else cpu."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind in available if available[kind])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device={name}: no such device; auto, {', '.join(available)} or cuda:1 are") from None
    if not available.get(device.type, False):
        raise ConfigError(f"device={name}: PyTorch finds no such device here; device=auto takes what there is")
    if device.type == "cuda":
        index, count = device.index or 0, torch.cuda.device_count()
        if index >= count:
            raise ConfigError(f"device={name}: PyTorch finds {count} CUDA devices here, cuda:0 to cuda:{count - 1}")
        return torch.device("cuda", index)
    return device


def load_data(node: dict[str, Any], trust: list[str]) -> Data:
    """The dataset, loaded."""
    try:
        return component(node, "dataset", trust)()
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"dataset: {error}") from error


def count_steps(settings: Settings, data: Data) -> int:
    """How many steps to train: the first reached of `steps` and `epochs`."""
    limits = [settings.steps] if settings.steps else []
    if data.size is not None and settings.batch_size > data.size:
        raise ConfigError(f"batch_size={settings.batch_size}: the dataset has only {data.size} samples")
    if settings.epochs:
        if data.size is None:
            raise ConfigError(f"epochs={settings.epochs}: this dataset is endless; say steps=... and epochs=null")
        samples_per_step = settings.batch_size * settings.discriminator_steps
        limits.append(settings.epochs * -(-data.size // samples_per_step))
    return min(limits)


def latent_distribution(model: dict[str, Any]) -> Callable[[Randomness, int], Tensor]:
    """(randomness, count) -> latents (count, latent_size)."""
    name, size = model["latent_distribution"], model["latent_size"]
    if name not in latents.DISTRIBUTIONS:
        raise ConfigError(
            f"model.latent_distribution={name}: must be {' or '.join(latents.DISTRIBUTIONS)}"
            + suggest(str(name), latents.DISTRIBUTIONS)
        )
    return lambda randomness, count: latents.DISTRIBUTIONS[name](randomness, count, size)


def schedule(node: dict[str, Any], key: str, trust: list[str], steps: int) -> Callable[[int], float]:
    """A schedule whose horizon is its own `steps`, or the run's."""
    return component({**node, "steps": node.get("steps") or steps}, key, trust)


def optimizer(node: dict[str, Any], player: str, network: nn.Module, trust: list[str]) -> torch.optim.Optimizer:
    """The optimizer of one player: the shared keys, with the player's slot laid over them.

    A slot with a `_target_` of its own replaces the shared optimizer.
    """
    shared = {name: value for name, value in node.items() if name not in PLAYERS}
    slot = node.get(player) or {}
    key = f"optimizer.{player}" if slot else "optimizer"
    merged = slot if "_target_" in slot else {**shared, **slot}
    return component(merged, key, trust, params=list(network.parameters()))


class Regularizer:
    """One node of the group: what it makes (`made`), the role it plays, and the players it acts on."""

    def __init__(self, name: str, node: dict[str, Any], trust: list[str], steps: int):
        self.name, self.key = name, f"regularizer.{name}"
        own = {key: node.get(key, default) for key, default in (("role", "penalty"), ("on", ["discriminator"]))}
        own = check_arguments(self.key, roles, own)
        self.role, self.on = own["role"], own["on"]
        term_keys = ("weight", "every", "schedule") if self.role == "penalty" else ()
        self.term_arguments = {key: node[key] for key in term_keys if key in node}
        if self.term_arguments.get("schedule"):
            self.term_arguments["schedule"] = schedule(node["schedule"], f"{self.key}.schedule", trust, steps)
        check_arguments(self.key, Term, self.term_arguments, provided={"of"})
        self.siblings = (*own, *term_keys)
        self.rest = {key: value for key, value in node.items() if key not in self.siblings}
        self.trust = trust
        self.made = self.make()
        if self.is_of_each_sample and "generator" in self.on:
            raise ConfigError(f"{self.key}.on={json.dumps(self.on)}: this penalty is on the discriminator's gradient")

    def make(self) -> Any:
        """The penalty, projection, wrapper or transform itself."""
        return component(self.rest, self.key, self.trust, self.siblings)

    def term(self) -> Term:
        """A term of its own for each player, since a penalty may remember."""
        return Term(self.make(), **self.term_arguments)

    @property
    def is_of_each_sample(self) -> bool:
        """Whether the penalty needs each sample's own gradient."""
        return getattr(getattr(self.made, "func", self.made), "of_each_sample", False)


def roles(
    role: Literal["penalty", "projection", "wrapper", "gradient"], on: list[Literal["generator", "discriminator"]]
) -> None:
    """The keys that every regularizer has: what it is, and whose."""


def refuse_batch_statistics(discriminator: nn.Module, regularizer: str) -> None:
    """A penalty on each sample's own gradient, and a discriminator that mixes the samples, do not go together."""
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in discriminator.modules()):
        raise ConfigError(
            f"model.discriminator.normalization=batch: it mixes the samples, but {regularizer} needs each "
            "sample's own gradient; layer, instance and none do not"
        )


def refuse_wrong_gradients(discriminator: nn.Module, regularizer: str) -> None:
    """On the CPU, oneDNN's bf16 convolutions with kernels of 8 or 16 are wrong (pytorch#163347, torch 2.11 to 2.15).

    The double backward pass of a convolution of stride 1 has such kernels: 40 % error in a penalty's gradient.
    """
    for module in discriminator.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (1, 1) and module.kernel_size != (1, 1):
            raise ConfigError(
                f"precision=bf16: on the CPU the gradient of {regularizer} would be wrong through convolutions of "
                "stride 1, by a bug of oneDNN; fp32 is right, as are a GPU and model=dcgan"
            )
