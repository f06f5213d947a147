"""Small runs, one for every option of every group and for combinations with a life of their own."""

import math
from typing import Any

import yaml

from tests.helpers import CONF, TINY, TINY_MODEL, options
from tests.helpers.games import build_game, take_steps

STYLE = [
    *(word for word in TINY_MODEL if "width" in word), "model.generator.depth=1", "model.generator.style_size=8",
]  # fmt: skip
SMALL_MODELS = {
    "biggan": [*(word.replace("depth=2", "depth=1") for word in TINY_MODEL), "model.generator.attention=0"],
    "sagan": [*(word.replace("depth=2", "depth=1") for word in TINY_MODEL), "model.generator.attention=0"],
    "stylegan2": [*STYLE, "model.generator.noise=false", "model.generator.style_mixing=0"],
    "resnet": [word.replace("depth=2", "depth=1") for word in TINY_MODEL],
    "dense_deconv": ["model.generator.width=4", "model.generator.dense=[8]", "model.discriminator.width=4"],
    "r3gan": [
        f"model.{player}.{key}"
        for player in ("generator", "discriminator")
        for key in ("width=4", "blocks=1", "group_size=4")
    ],
    "vae": [
        "loss=elbo", "dataset.normalization=unit", "model.autoencoder.encoder_width=[8]",
        "model.autoencoder.decoder_width=[8]",
    ],
}  # fmt: skip


def model(name: str) -> list[str]:
    """A small model; the loss that is its own where it goes with no other."""
    return [f"model={name}", *SMALL_MODELS.get(name, TINY_MODEL)]


MLP, VAE, DCGAN, RESNET = model("mlp"), model("vae"), model("dcgan"), model("resnet")
NETS = (MLP, DCGAN, RESNET)
STYLEGAN2 = ["model=stylegan2", *STYLE]  # with noise and style mixing
BCE = ["loss=bce", "discriminator_steps=2", *MLP]


def node_of(group: str, option: str) -> dict[str, Any]:
    """An option's file."""
    return yaml.safe_load((CONF / group / f"{option}.yaml").read_text()) or {}


def is_penalty(regularizer: str) -> bool:
    """Whether a regularizer is a term, which has a weight and a schedule."""
    return node_of("regularizer", regularizer).get("role") == "penalty"


PENALTIES = [name for name in options("regularizer") if is_penalty(name)]
AUTOENCODING = ("elbo", "vae")  # go with each other alone
LOSSES = [name for name in options("loss") if name not in AUTOENCODING]
POINTS = ("gaussian_2d", "grid", "ring", "swiss_roll")  # generated
FROM_FILES = (
    "celeba", "cifar10", "fashion_mnist", "huggingface", "image_folder", "mnist", "npy", "stacked_mnist", "webdataset",
)  # fmt: skip


def every_option() -> dict[str, list[str]]:
    """Name -> the words of a small run with that option."""
    found: dict[str, list[str]] = {}
    for name in options("model"):
        found[f"model={name}"] = model(name)
    for name in options("loss"):
        found[f"loss={name}"] = VAE if name in AUTOENCODING else [f"loss={name}", *MLP]
    for name in options("regularizer"):
        keys = [f"regularizer.{name}.every=2", f"regularizer.{name}.start=0"] if is_penalty(name) else []
        found[f"regularizer={name}"] = [f"regularizer={name}", *keys, *BCE]
    for name in options("head"):
        found[f"head={name}"] = [f"head={name}", "conditional=true", *MLP, "loss=hinge"]
    for name in options("augmentation"):
        found[f"augmentation={name}"] = [f"augmentation={name}", *BCE]
    for name in options("optimizer"):
        found[f"optimizer={name}"] = [f"optimizer={name}", *BCE]
    for name in options("lr_schedule"):
        found[f"lr_schedule={name}"] = [f"lr_schedule={name}", "lr_schedule.warmup=2", "steps=7", *BCE]
        slot = f"lr_schedule@regularizer.gradient_penalty.schedule={name}"
        found[slot] = [slot, "loss=wgan_gp", "discriminator_steps=2", "steps=7", *MLP]
    for name in (*POINTS, "digits"):
        found[f"dataset={name}"] = [f"dataset={name}", *BCE]
    return found


COMBINATIONS = [
    ["conditional=true", *BCE],
    ["conditional=true", *VAE],
    ["conditional=true", *VAE, "regularizer=[output_l1]", "regularizer.output_l1.on=[autoencoder]"],
    ["conditional=true", *DCGAN, "loss=hinge"],
    *(["head=reacgan", "conditional=true", *model, "loss=hinge", "regularizer=[r1,spectral_norm]"] for model in NETS),
    ["head=contragan", "conditional=true", *DCGAN, "loss=bce", "augmentation=diffaugment", "precision=bf16"],
    ["head=multi_hinge", "conditional=true", *RESNET, "loss=hinge", "generator_batch_size=12", "regularizer=lecam"],
    ["head=acgan", "head.fakes=true", "conditional=true", *MLP, "optimizer=rmsprop"],
    ["head=reacgan", "lr_schedule@head.schedule=cosine", "conditional=true", "loss=relativistic", *MLP],
    ["model.discriminator.pack=2", "regularizer=[gradient_penalty,r1]", "loss=hinge", *DCGAN],
    ["model.discriminator.pack=4", "regularizer=spectral_norm", "augmentation=diffaugment", "loss=bce", *RESNET],
    ["regularizer=top_k", "regularizer.top_k.interval=2", "regularizer.top_k.gamma=0.6", "loss=relativistic", *MLP],
    [
        "regularizer=improved_consistency", "model.generator.normalization=batch", "loss=hinge",
        "regularizer.improved_consistency.weight=0.1", "optimizer.lr=1e-4",
        *DCGAN,
    ],
    ["conditional=true", *RESNET, "loss=hinge", "regularizer=orthogonal", "optimizer.lr=1e-4"],
    ["conditional=true", "dataset.flip=true", "regularizer=[gradient_clip,l1]", "ema_half_life=null", *MLP],
    ["model.generator.normalization=batch", "model.discriminator.normalization=batch", "loss=bce", *DCGAN],
    ["model.generator.normalization=batch", "model.discriminator.normalization=layer", *MLP],
    ["model.generator.normalization=layer", "optimizer=subgradient", "optimizer.normalize=true", *MLP],
    ["model.discriminator.normalization=instance", "model.generator.normalization=none", "optimizer.lr=1e-4", *DCGAN],
    ["model.discriminator.scales=2", "regularizer=spectral_norm", *MLP],
    ["model.generator.dropout=0.3", "model.discriminator.dropout=0.3", "optimizer=finite_difference", *MLP],
    [
        "optimizer=finite_difference", "optimizer.rule=sgd", "optimizer.momentum=0.9", "regularizer=lecam",
        "regularizer.lecam.start=0", *MLP,
    ],
    ["optimizer=sgd", "optimizer.lr=1e-3", "optimizer.momentum=0.9", "optimizer@optimizer.generator=rmsprop", *MLP],
    ["optimizer=sgd", "optimizer.momentum=0.9", "optimizer.weight_decay=0.1", "loss=hinge", *MLP],
    ["optimizer=rmsprop", "optimizer.momentum=0.9", "optimizer@optimizer.generator=adamw", *MLP],
    ["precision=bf16", "regularizer=[r1,spectral_norm]", *DCGAN],
    ["precision=bf16", *VAE],
    ["dataset.flip=true", "batch_size=700", *MLP],  # more than two batches, and no whole number, in an epoch
    ["discriminator_steps=3", "regularizer=[r1,iterative_gradient_penalty]", "regularizer.r1.every=4", *MLP],
    ["regularizer=[spectral_norm,r1]", "regularizer.r1.every=2", "loss=hinge", *DCGAN],
    [
        "regularizer=[lecam,iterative_gradient_penalty,r1]", "regularizer.lecam.start=0", "regularizer.r1.every=2",
        "loss=hinge", *MLP,
    ],
    [
        "regularizer=[lecam,r1,l2]", "regularizer.lecam.start=3", "regularizer.r1.start=1", "regularizer.r1.every=2",
        "regularizer.l2.start=2", "regularizer.l2.on=[generator,discriminator]", *BCE,
    ],
    ["regularizer=feature_matching", "augmentation=diffaugment", "loss=bce", *DCGAN],
    ["regularizer=r1", "lr_schedule@regularizer.r1.schedule=cosine", "lr_schedule=step", "loss=hinge", *MLP],
    ["augmentation=input_noise", "lr_schedule@augmentation.input_noise.schedule=linear", *MLP],
    [
        "lr_schedule@optimizer.beta1_schedule=linear", "lr_schedule@optimizer.beta2_schedule=cosine",
        "optimizer.betas=[0.5,0.9]", "optimizer.beta2_schedule.end=1.1", "lr_schedule@ema_half_life_schedule=cosine",
        "ema_half_life_schedule.start=0", "ema_half_life_schedule.end=1", "steps=7", *BCE,
    ],
    ["model.discriminator.dropout=0", "loss=lsgan", *model("dense_deconv")],
    ["conditional=true", *model("r3gan"), "loss=relativistic", "regularizer=[r1,r2]"],
    ["ema_half_life=null", *MLP],
    ["model.discriminator.scales=2", "dataset.image_size=16", "model.discriminator.normalization=layer", *DCGAN],
    [
        "conditional=true", "regularizer=[r1,path_length]", "regularizer.r1.every=2", "regularizer.path_length.every=3",
        "loss=bce", *STYLEGAN2,
    ],
    [
        "regularizer=path_length", "regularizer.path_length.every=2", "conditional=true", "loss=bce",
        "model.generator.architecture=residual", "model.discriminator.architecture=skip", *model("stylegan2"),
    ],
    [
        "conditional=true", "regularizer=spectral_norm", "regularizer.spectral_norm.on=[generator,discriminator]",
        "loss=hinge", *model("biggan"),
    ],
    ["conditional=true", "regularizer=r1", "loss=hinge", *model("sagan")],
    # The generator's real samples: of one of the batches read, of several of them, and of larger ones.
    ["generator_batch_size=5", "regularizer=feature_matching", "dataset.dequantize=true", *BCE],
    ["generator_batch_size=13", "conditional=true", "loss=relativistic", "discriminator_steps=2", *DCGAN],
    ["generator_batch_size=16", "conditional=true", "loss=hinge", *MLP],
    ["generator_batch_size=19", "loss=relativistic_average", "discriminator_steps=2", *MLP],
]  # fmt: skip


def name_of(words: list[str]) -> str:
    """A combination's words, without those that only make its networks small."""
    small = {word for words in (TINY_MODEL, STYLE, *SMALL_MODELS.values()) for word in words} - {"loss=elbo"}
    return " ".join(word for word in words if word not in small)


CASES = every_option() | {name_of(words): words for words in COMBINATIONS}


def words_of(words: list[str]) -> list[str]:
    """With what makes a step take milliseconds."""
    are_points = any(word in words for word in (f"dataset={name}" for name in POINTS))
    tiny = [word for word in TINY if not (are_points and "held_out" in word)]
    return [*tiny, "metric=none", *words]


def assert_trains(config: dict[str, Any]) -> Any:
    """Three steps with finite values, and all that it has switched on is there; the game after them."""
    game = build_game(config)
    values = take_steps(game, 3)
    assert all(math.isfinite(value) for value in values.values()), values
    nodes = config.get("regularizer") or {}
    has_head = config["head"]["_target_"].endswith(("Acgan", "Contragan", "Reacgan"))
    on = {role: [name for name, node in nodes.items() if node["role"] == role] for role in ("penalty", "projection")}
    wanted = {*on["penalty"], *(["head"] if has_head else [])}
    assert {tag.split("/")[1] for tag in values if tag.startswith("penalty/")} == wanted
    is_reduced = any(term.reduction for player in game.players.values() for term in player.terms.values())
    assert is_reduced == any(node["role"] == "reduction" for node in nodes.values())
    for player_name, player in game.players.items():
        expected = [name for name in on["projection"] if player_name in nodes[name]["on"]]
        assert len(player.projections) == len(expected)
    return game
