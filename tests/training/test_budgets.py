"""Budgets: what is counted, where the boundary lies, and what is taken off."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from gan_runner.models.layers import ConditionalBatchNorm2d
from gan_runner.regularizers.spectral_norm import spectral_norm
from gan_runner.training.budgets import count_layers, count_parameters, within_budget
from tests.helpers import naming, some
from tests.helpers.models import make, read

CONFIG = {
    "mlp": (1, 8, 8),
    "dcgan": (1, 32, 32),
    "resnet": (1, 32, 32),
    "dense_deconv": (3, 16, 16),
    "r3gan": (1, 8, 8),
    "sagan": (1, 32, 32),
}


def build(node, model="mlp", player="generator", num_classes=0):
    return make(model, player, CONFIG[model], num_classes, **node)


def node_of(model="mlp", player="generator", **keys):
    return read(model)[player] | keys


def fitted(node, *, layers=None, parameters=None, policy="fit", model="mlp", player="generator"):
    nodes = []

    def record(node):
        nodes.append(node)
        return build(node, model, player)

    network, changes = within_budget(
        record, node, f"model.{player}", layers=layers, parameters=parameters, policy=policy
    )
    return network, changes, nodes[-1]


# --- what is counted


def test_parameters_of_a_known_network():
    network = build(node_of(width=[128, 256], depth=None))  # 5 -> 128 -> 256 -> 64
    assert count_parameters(network) == (5 * 128 + 128) + (128 * 256 + 256) + (256 * 64 + 64)
    assert count_parameters(nn.BatchNorm1d(7)) == 14
    shared = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(shared, shared)) == 12


@pytest.mark.parametrize(
    ("layers", "network"),
    [
        (3, build(node_of(width=4, depth=2))),
        (3, build(node_of(width=4, depth=2, normalization="layer"))),
        (4, build(node_of(width=4, depth=2), num_classes=3)),  # the label's embedding
        (4, make("mlp", "discriminator", (2,), 3, width=4, depth=2)),  # the label's projection
        (4, make("dcgan", "generator", (1, 32, 32), width=2)),
        (4, make("dcgan", "generator", (1, 32, 32), 3, width=2)),  # class-conditional normalization has matrices
        (4 + 2 * 2 + 2 * 3 - 4 + 1, make("resnet", "discriminator", (1, 32, 32), width=2)),  # 3 + 3 + 2 + 2 + 1
        (1, nn.Conv1d(2, 3, 1)),
        (0, ConditionalBatchNorm2d(4, 3)),
        (0, nn.LayerNorm([3, 4])),  # its gains form a matrix
        (2, nn.MultiheadAttention(4, 2)),
    ],
)
def test_layers_of_known_networks(layers, network):
    assert count_layers(network) == layers


def test_a_parametrized_layer_counts_once():
    network = make("dcgan", "discriminator", (1, 16, 16), 3, width=2)
    before = count_layers(network), count_parameters(network)
    assert before[0] == 4
    spectral_norm(network, iterations=1)
    assert parametrize.is_parametrized(network.head.linear)
    assert (count_layers(network), count_parameters(network)) == before
    assert count_layers(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))) == 1


# --- the boundary


@pytest.mark.parametrize("policy", ["error", "fit"])
def test_a_budget_that_is_met_changes_nothing(policy):
    node = node_of(width=16, depth=2)
    torch.manual_seed(1)
    network = build(node)
    torch.manual_seed(1)
    layers, parameters = count_layers(network), count_parameters(network)
    same, changes, _ = fitted(node, layers=layers, parameters=parameters, policy=policy)
    assert changes == []
    for mine, yours in zip(network.parameters(), same.parameters(), strict=True):
        assert torch.equal(mine, yours)


def test_errors_over_budget():
    node = node_of(width=16, depth=2)
    count = count_parameters(build(node))
    assert count == 96 + 272 + 17 * 64
    over = naming("model.generator", "1,456", "budget.generator.parameters=1455", "budget.policy=fit", "width")
    with pytest.raises(ValueError, match=over):
        fitted(node, parameters=count - 1, policy="error")
    over = naming("model.discriminator", "3", "budget.discriminator.layers=2", "budget.policy=fit", "depth")
    with pytest.raises(ValueError, match=over):
        fitted(node_of(player="discriminator", depth=2), layers=2, policy="error", player="discriminator")


# --- what is taken off


@pytest.mark.parametrize("model", ["mlp", "dcgan", "resnet", "dense_deconv"])
@pytest.mark.parametrize("player", some(["generator", "discriminator"], every=2))
def test_fit_finds_the_widest(model, player):
    node = node_of(model, player, width=24) | (
        {"dense": [4, 5]} if (model, player) == ("dense_deconv", "generator") else {}
    )
    counts = {width: count_parameters(build(node | {"width": width}, model, player)) for width in (1, 9, 10, 23, 24)}
    for budget, width in [
        (counts[24], 24), (counts[24] - 1, 23), (counts[10], 10), (counts[10] - 1, 9), (counts[1], 1),
    ]:  # fmt: skip
        network, changes, used = fitted(node, parameters=budget, model=model, player=player)
        assert used == node | {"width": width}
        assert count_parameters(network) == counts[width] <= budget
        assert len(changes) == (width != 24)
    assert changes == [
        f"model.{player}.width: 24 -> 1, for {counts[1]:,} parameters within budget.{player}.parameters={counts[1]}"
    ]


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_fit_meets_the_budget_where_wider_may_be_smaller(player):
    """The groups of r3gan's convolutions are larger for widths that are powers of two."""
    node = node_of("r3gan", player, width=24)
    for budget in (2_000, 7_001, 15_000):
        network, _, used = fitted(node, parameters=budget, model="r3gan", player=player)
        assert budget / 2 < count_parameters(network) <= budget
        assert 1 < used["width"] < 24


def test_a_list_of_widths_shrinks_in_proportion():
    node = node_of(width=[10, 40, 20], depth=None)
    counts = [count_parameters(build(node | {"width": widths})) for widths in ([4, 19, 9], [5, 20, 10], [1, 1, 1])]
    network, changes, used = fitted(node, parameters=counts[1])
    assert used["width"] == [5, 20, 10]
    assert count_parameters(network) == counts[1]
    assert changes[0].startswith("model.generator.width: [10, 40, 20] -> [5, 20, 10], for ")
    assert fitted(node, parameters=counts[1] - 1)[2]["width"] == [4, 19, 9]
    assert fitted(node, parameters=counts[2])[2]["width"] == [1, 1, 1]


@pytest.mark.parametrize(("budget", "depth"), [(5, 4), (4, 3), (2, 1)])
def test_depth_is_taken_off(budget, depth):
    network, changes, used = fitted(node_of(width=4, depth=6), layers=budget)
    assert used == node_of(width=4, depth=depth)
    assert count_layers(network) == budget
    assert changes == [
        f"model.generator.depth: 6 -> {depth}, for {budget} layers within budget.generator.layers={budget}"
    ]


@pytest.mark.parametrize(
    ("model", "budget", "depth", "layers"), [("dcgan", 3, 2, 3), ("dcgan", 2, 1, 2), ("resnet", 7, 1, 5)]
)
def test_an_open_depth_is_the_networks_own(model, budget, depth, layers):
    node = node_of(model, width=2)
    assert node["depth"] is None
    network, changes, used = fitted(node, layers=budget, model=model)
    assert used["depth"] == depth
    assert count_layers(network) == layers
    assert changes[0].startswith(f"model.generator.depth: null -> {depth}, for {layers} layers within")


def test_depths_that_cannot_be_built_are_passed_over():
    """BigGAN's latents of 100 divide into chunks at depths 1, 3 and 4, and not at 2; attention=1 wants two blocks."""

    def build_biggan(node):
        return make("biggan", "generator", (1, 64, 64), latent_size=100, **node)

    node = read("biggan")["generator"] | {"width": 4, "attention": None}
    layers = {depth: count_layers(build_biggan(node | {"depth": depth})) for depth in (1, 3, 4)}
    network, changes = within_budget(
        build_biggan, node, "model.generator", layers=layers[4] - 1, parameters=None, policy="fit"
    )
    assert count_layers(network) == layers[3]
    assert changes[0].startswith("model.generator.depth: null -> 3,")
    node = node_of("sagan", width=4)
    assert node["attention"]
    with pytest.raises(ValueError, match="layers at the least"):
        fitted(node, layers=1, model="sagan")


def test_a_list_of_widths_loses_its_last():
    network, changes, used = fitted(node_of(width=[7, 6, 5, 4], depth=None), layers=3)
    assert used["width"] == [7, 6]
    assert used["depth"] is None
    assert count_layers(network) == 3
    assert changes[0].startswith("model.generator.width: [7, 6, 5, 4] -> [7, 6], for 3 layers")


def test_depth_goes_before_width():
    node = node_of(width=32, depth=5)
    budget = count_parameters(build(node | {"depth": 2, "width": 20}))
    network, changes, used = fitted(node, layers=3, parameters=budget)
    assert used == node | {"depth": 2, "width": 20}
    assert [line.partition(":")[0] for line in changes] == ["model.generator.depth", "model.generator.width"]
    only_depth = count_parameters(build(node | {"depth": 2}))
    assert fitted(node, layers=3, parameters=only_depth)[2] == node | {"depth": 2}, "depth alone was enough"
    assert count_layers(network) == 3


def test_every_key_of_widths_shrinks():
    node = {"encoder_width": [8, 16], "decoder_width": [12, 4], "_target_": "x"}

    def autoencoder(node):
        sizes = [10, *node["encoder_width"], 3, *node["decoder_width"], 10]
        return nn.Sequential(*[nn.Linear(before, after) for before, after in itertools.pairwise(sizes)])

    fit = partial(within_budget, autoencoder, node, "model.autoencoder", policy="fit")
    half = node | {"encoder_width": [4, 8], "decoder_width": [6, 2]}
    network, changes = fit(layers=None, parameters=count_parameters(autoencoder(half)))
    assert [layer.out_features for layer in network.children()] == [4, 8, 3, 6, 2, 10]
    assert len(changes) == 2
    network, changes = fit(layers=4, parameters=None)
    assert [layer.out_features for layer in network.children()] == [8, 3, 12, 10]
    assert "budget.autoencoder.layers=4" in changes[0]


# --- what cannot be met


def test_errors_of_budgets_that_nothing_meets():
    least = count_parameters(build(node_of(width=1)))
    over = naming("model.generator", str(least), "width=1", f"budget.generator.parameters={least - 1}")
    with pytest.raises(ValueError, match=over):
        fitted(node_of(), parameters=least - 1)
    with pytest.raises(ValueError, match=naming("2 layers", "depth=1", "budget.generator.layers=1")):
        fitted(node_of(), layers=1)
    with pytest.raises(ValueError, match=naming("2 layers", "width=[7]", "budget.generator.layers=1")):
        fitted(node_of(width=[7, 6], depth=None), layers=1)
    with pytest.raises(ValueError, match=naming("2 layers", "no depth", "budget.generator.layers=1")):
        fitted(node_of(width=4, depth=1), layers=1)

    def fixed(_):
        return nn.Linear(9, 9)

    with pytest.raises(ValueError, match=naming("90", "no width", "budget.x.parameters=8")):
        within_budget(fixed, {}, "model.x", layers=None, parameters=8, policy="fit")


def test_errors_of_the_network_itself_come_through():
    with pytest.raises(ValueError, match=naming("activation", "'x'")):
        fitted(node_of(activation="x"), layers=2)


# --- how it is built


@pytest.mark.parametrize("initialization", ["default", "normal", "xavier", "he", "orthogonal"])
def test_weights_are_those_of_the_fitted_config(initialization):
    node = node_of(width=24, depth=4, initialization=initialization)
    torch.manual_seed(3)
    network, _, used = fitted(node, layers=3, parameters=900)
    after = torch.rand(1)
    assert used["depth"] == 2
    assert used["width"] < 24
    torch.manual_seed(3)
    direct = build(used)
    for mine, yours in zip(network.parameters(), direct.parameters(), strict=True):
        assert torch.equal(mine, yours)
    assert torch.equal(after, torch.rand(1))


def test_counting_draws_no_random_number():
    """Not even for a network that draws some on the CPU, wherever it is built."""

    def build(node):
        network = nn.Linear(node["width"], 1)
        network.register_buffer("frequencies", torch.randn(4, device="cpu"))
        return network

    torch.manual_seed(3)
    direct = build({"width": 5})
    torch.manual_seed(3)
    network, _ = within_budget(build, {"width": 50}, "model.x", layers=None, parameters=6, policy="fit")
    for name, value in direct.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name


def test_built_once_and_counted_few_times():
    devices: list[str] = []

    def build(node):
        network = nn.Linear(node["width"], 1)
        devices.append(network.weight.device.type)
        return network

    node = {"width": 100_000}
    network, changes = within_budget(build, node, "model.generator", layers=1, parameters=70_000, policy="fit")
    assert network.weight.shape == (1, 69_999)
    assert devices[-1] == "cpu"
    assert devices.count("cpu") == 1
    assert len(devices) < 30
    assert node == {"width": 100_000}
    assert len(changes) == 1
    devices.clear()
    within_budget(build, node, "model.generator", layers=None, parameters=None, policy="error")
    assert devices == ["cpu"], "without a budget nothing is counted"
