"""StyleGAN2: sizes to the unit, modulation, noise, mixing, truncation, equalized rates, its forms."""

import math

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from gan_runner.models.stylegan2 import (
    EqualizedConvolution,
    EqualizedLinear,
    Generator,
    Mapping,
    ModulatedConvolution,
    StyledLayer,
    StyleHead,
)
from tests.helpers import naming
from tests.helpers.models import make, parameters
from tests.helpers.penalties import some

WIDER = {"full_width_to": 64}
PLAIN = {"architecture": "plain"}
FORMS = ["skip", "residual", "plain"]


def count(player, side, classes=0, **keys):
    with torch.device("meta"):
        return parameters(
            make(
                "stylegan2",
                player,
                (3, side, side),
                classes,
                **({"latent_size": 512} | keys if player == "generator" else keys),
            )
        )


@pytest.mark.parametrize(
    ("expected", "arguments", "keys"),
    [
        # CIFAR-10 without and with classes, as StudioGAN's logs print the latter
        (19_947_539, ("generator", 32), {}), (20_720_641, ("discriminator", 32), PLAIN),
        (21_507_073, ("discriminator", 32), {}),
        (20_215_315, ("generator", 32, 10), {}), (23_089_664, ("discriminator", 32, 10), PLAIN),
        # the configuration auto at 64, 128, 256, 512 and 1024 pixels, and those of the papers
        (22_243_608, ("generator", 64), {}), (23_407_361, ("discriminator", 64), {}),
        (22_949_277, ("generator", 128), {}), (23_882_369, ("discriminator", 128), {}),
        (23_191_522, ("generator", 256), {}), (24_001_089, ("discriminator", 256), {}),
        (24_767_458, ("generator", 256), {"mapping_layers": 8}),
        (30_034_338, ("generator", 256), {"mapping_layers": 8} | WIDER), (28_864_129, ("discriminator", 256), WIDER),
        (28_700_647, ("generator", 512), WIDER), (30_276_583, ("generator", 512), {"mapping_layers": 8} | WIDER),
        (28_982_849, ("discriminator", 512), WIDER),
        (28_794_124, ("generator", 1024), WIDER), (30_370_060, ("generator", 1024), {"mapping_layers": 8} | WIDER),
        (29_012_513, ("discriminator", 1024), WIDER),
        # toys
        (24_627, ("generator", 32), {"latent_size": 32, "style_size": 32, "width": 16}),
        (21_345, ("discriminator", 32), {"width": 16}),
        (101_651, ("generator", 32, 10), {"latent_size": 64, "style_size": 64, "width": 32}),
        (91_424, ("discriminator", 32, 10), {"width": 32} | PLAIN),
        (275_144, ("generator", 64), {"latent_size": 64, "style_size": 64, "width": 64, "full_width_to": 16}),
        (296_401, ("discriminator", 64), {"width": 64, "full_width_to": 16}),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_published_code(expected, arguments, keys):
    assert count(*arguments, **keys) == expected


def test_parameters_of_the_parts():
    with torch.device("meta"):
        generator = make("stylegan2", "generator", (3, 32, 32), 10, latent_size=512)
        discriminator = make("stylegan2", "discriminator", (3, 32, 32), 10, architecture="plain")
    assert [parameters(block) for block in generator.blocks] == [2_894_852, 5_509_125, 5_509_125, 5_509_125]
    assert parameters(generator.mapping) == 793_088
    assert parameters(discriminator.blocks) == 4_721_664 + 2 * 4_719_616
    assert parameters(discriminator.head.mapping) == 2_106_880


def styled_layers(network):
    return [module for module in network.modules() if isinstance(module, StyledLayer)]


def add_noise(*layers):
    """As if its strength had been learned."""
    for layer in layers:
        nn.init.ones_(layer.noise_strength)


def small(classes=0, shape=(3, 32, 32), **keys) -> Generator:
    torch.manual_seed(0)
    keys = {"latent_size": 6, "width": 8, "style_size": 7} | keys
    made = make("stylegan2", "generator", shape, classes, **keys)
    assert isinstance(made, Generator)
    return made


# --- modulation -------------------------------------------------------------------------------------------------------


def test_modulation_is_a_convolution_with_weights_of_its_own_for_each_sample():
    torch.manual_seed(0)
    layer, x, w = ModulatedConvolution(3, 4, 3, 5).double(), some(2, 3, 6, 5), some(2, 5, seed=1)
    style = w @ layer.style.weight.T / math.sqrt(5) + 1
    for sample, scales, found in zip(x, style, layer(x, w), strict=True):
        weight = layer.weight * scales[:, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        torch.testing.assert_close(found, nn.functional.conv2d(sample[None], weight, padding=1)[0])


def test_without_demodulation_the_weights_are_equalized():
    torch.manual_seed(0)
    layer, x, w = ModulatedConvolution(3, 4, 1, 5, demodulate=False).double(), some(2, 3, 6, 5), some(2, 5, seed=1)
    style = w @ layer.style.weight.T / math.sqrt(5) + 1
    expected = nn.functional.conv2d(x * style[..., None, None], layer.weight / math.sqrt(3))
    torch.testing.assert_close(layer(x, w), expected)


@pytest.mark.parametrize("double", [False, True])
def test_demodulation_makes_unit_variance_of_unit_variance_whatever_the_style(double):
    torch.manual_seed(0)
    layer = ModulatedConvolution(16, 24, 3, 5, double=double)
    x, w = torch.randn(200, 16, 8, 8), 30 * torch.randn(200, 5)
    inner = layer(x, w)[..., 2:-2, 2:-2]
    if not double:
        assert inner.var().item() == pytest.approx(1, rel=0.02)
        assert layer.style(w).std() > 5
    constant = layer(torch.ones_like(x), w)
    assert constant.isfinite().all()


def test_the_double_size_is_filtered_and_keeps_the_mean():
    """Of an image without detail, it is the convolution with the kernel's taps summed in each of the four phases."""
    layer = ModulatedConvolution(1, 1, 3, 2, demodulate=False, double=True).double()
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.style.weight)
    found = layer(torch.ones(1, 1, 6, 6, dtype=torch.double), torch.zeros(1, 2, dtype=torch.double))
    assert found.shape == (1, 1, 12, 12)
    inner = found[0, 0, 4:-4, 4:-4]  # 9 taps over 4 phases, times 4, by the equalizing 1/3
    torch.testing.assert_close(inner, torch.full_like(inner, 9 / 3))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulation_has_second_derivatives(double, demodulate):
    torch.manual_seed(0)
    layer = ModulatedConvolution(2, 2, 3, 2, double=double, demodulate=demodulate).double()
    x, w = some(2, 2, 3, 2).requires_grad_(), some(2, 2, seed=1).requires_grad_()
    assert gradcheck(layer, (x, w))
    assert gradgradcheck(layer, (x, w))


@pytest.mark.parametrize(("kernel", "halve"), [(3, False), (3, True), (1, True)])
def test_equalized_layers_have_second_derivatives(kernel, halve):
    torch.manual_seed(0)
    layer, x = EqualizedConvolution(2, 2, kernel, halve=halve).double(), some(1, 2, 4, 4).requires_grad_()
    assert gradcheck(layer, x)
    assert gradgradcheck(layer, x)
    linear, y = EqualizedLinear(3, 2, bias=1.0, lr_multiplier=0.01).double(), some(2, 3).requires_grad_()
    assert gradgradcheck(linear, y)


def test_mapping_and_head_have_second_derivatives():
    torch.manual_seed(0)
    labels = torch.tensor([0, 2])
    mapping = Mapping(3, 3, 4, layers=2, lr_multiplier=0.01, activation="softplus").double()
    assert gradgradcheck(lambda z: mapping(z, labels), some(2, 3).requires_grad_())
    head = StyleHead(4, 3, mapping_layers=2, lr_multiplier=0.01, activation="softplus").double()
    assert gradgradcheck(lambda x: head(x, labels), some(2, 4).requires_grad_())


def test_a_styled_layer_has_second_derivatives():
    torch.manual_seed(0)
    layer = StyledLayer(2, 2, 3, side=(4, 4), double=True, has_noise=True, activation="softplus").double().eval()
    add_noise(layer)
    assert gradgradcheck(layer, (some(1, 2, 2, 2).requires_grad_(), some(1, 3, seed=1).requires_grad_()))


# --- equalized rates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_equalized_weights_have_unit_spread_and_unit_outputs(rate):
    torch.manual_seed(0)
    layer = EqualizedLinear(400, 300, lr_multiplier=rate)
    assert layer.weight.std().item() == pytest.approx(1 / rate, rel=0.02)
    assert layer(torch.randn(100, 400)).std().item() == pytest.approx(1, rel=0.03)
    convolution = EqualizedConvolution(50, 60, 3)
    assert convolution.weight.std().item() == pytest.approx(1, rel=0.02)
    assert convolution(torch.randn(10, 50, 8, 8))[..., 1:-1, 1:-1].std().item() == pytest.approx(1, rel=0.05)


def test_a_rate_slows_learning_by_as_much():
    """A step of Adam moves each weight by its rate: what the layer makes then moves by `rate` of it."""
    moved = []
    for rate in (1.0, 0.01):
        layer, x = EqualizedLinear(1, 1, lr_multiplier=rate), torch.ones(1, 1)
        before = layer(x)
        with torch.no_grad():
            layer.weight.add_(1e-3)
        moved.append(float((layer(x) - before).detach()))
    assert moved[1] == pytest.approx(0.01 * moved[0], rel=0.05)


# --- noise, mixing, truncation ----------------------------------------------------------------------------------------


def test_noise_follows_the_generator_in_training_and_is_fixed_in_evaluation():
    generator, latents = small(style_mixing=0.0), torch.randn(4, 6)
    strengths = [weight for name, weight in generator.named_parameters() if name.endswith("strength")]
    assert not any(strength.any() for strength in strengths)
    add_noise(*styled_layers(generator))
    torch.manual_seed(3)
    first, other = generator(latents), generator(latents)
    torch.manual_seed(3)
    assert torch.equal(generator(latents), first)
    assert not torch.allclose(first, other)
    generator.eval()
    shown = generator(latents)
    assert torch.equal(generator(latents), shown)
    torch.testing.assert_close(generator(latents[:1]), shown[:1])  # of its latents alone
    generator.load_state_dict(small(style_mixing=0.0).state_dict())  # its buffers are in a checkpoint


def test_noise_is_new_for_every_pixel_and_the_same_for_all_channels():
    torch.manual_seed(0)
    layer = StyledLayer(4, 5, 3, side=(8, 8), double=False, has_noise=True, activation="tanh")
    nn.init.zeros_(layer.convolution.weight)
    add_noise(layer)
    found = layer(torch.randn(3, 4, 8, 8), torch.randn(3, 3)).atanh()
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert found[:, 0].flatten().unique().numel() == 3 * 64
    assert found[:, 0].std().item() == pytest.approx(1, rel=0.15)


def test_a_mix_changes_the_styles_of_all_samples_from_one_layer_on():
    generator, latents = small(style_mixing=1.0), torch.randn(5, 6)
    own = generator.mapping(latents, None)
    cuts = []
    for seed in range(60):
        torch.manual_seed(seed)
        styles = generator.styles(latents)
        is_own = (styles == own.unsqueeze(1)).all(-1)
        assert (is_own == is_own[0]).all()  # one cut for the batch
        cut = int(is_own[0].sum())
        assert is_own[0].tolist() == [True] * cut + [False] * (8 - cut)
        torch.testing.assert_close(styles[:, cut:], own.roll(1, 0).unsqueeze(1).expand(-1, 8 - cut, -1))
        cuts.append(cut)
    assert set(cuts) == set(range(1, 8))
    halfway = small(style_mixing=0.5)
    mixed = sum(not (s := halfway.styles(latents))[:, 0].equal(s[:, -1]) for _ in range(100))
    assert 30 < mixed < 70
    generator.eval()
    assert torch.equal(generator.styles(latents)[:, 0], generator.styles(latents)[:, -1])


def test_a_mix_keeps_the_class():
    generator, latents = small(3, style_mixing=1.0), torch.randn(3, 6)
    labels = torch.tensor([0, 1, 2])
    styles = generator.styles(latents, labels)
    torch.testing.assert_close(styles[:, -1], generator.mapping(latents.roll(1, 0), labels))


def test_the_mean_style_follows_in_training_alone():
    generator, latents = small(), torch.randn(50, 6)
    w = generator.mapping(latents, None).mean(0)
    generator(latents)
    torch.testing.assert_close(generator.mean_style, 0.005 * w)
    generator(latents)
    torch.testing.assert_close(generator.mean_style, (1 - 0.995**2) * w)
    before = generator.mean_style.clone()
    generator.eval()(latents)
    assert torch.equal(generator.mean_style, before)
    assert "mean_style" in generator.state_dict()


def test_truncation_is_towards_the_mean_style_and_leaves_the_network_alone():
    generator, latents = small(noise=False).eval(), torch.randn(5, 6)
    generator.mean_style.normal_()
    whole = generator(latents)
    w = generator.mapping(latents, None)
    styles = generator.truncated(0.7).styles(latents)
    torch.testing.assert_close(styles[:, 3], generator.mean_style + 0.7 * (w - generator.mean_style))
    at_mean = generator.truncated(0.0)(latents)
    torch.testing.assert_close(at_mean, at_mean[:1].expand_as(at_mean))
    assert torch.equal(generator(latents), whole)
    assert torch.equal(generator.truncated(1.0)(latents), whole)


# --- forms and sizes --------------------------------------------------------------------------------------------------


def test_styles_are_told_to_the_layers_that_follow_one_another():
    """Two convolutions a block, in the first block one; the image of a block has the style of the layer behind it."""
    generator = small(noise=False).eval()
    seen: list[torch.Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[1][0, 0]))
        for layer in generator.modules()
        if isinstance(layer, ModulatedConvolution)
    ]
    styles = torch.arange(8.0)[None, :, None].expand(1, 8, 7)
    generator.synthesize(styles)
    assert [int(each) for each in seen] == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7]
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("form", FORMS)
def test_forms(form):
    generator = small(architecture=form)
    images = [block.to_image is not None for block in generator.blocks]
    assert images == [form == "skip"] * 3 + [True]
    shortcuts = [block.shortcut is not None for block in generator.blocks]
    assert shortcuts == [False] + [form == "residual"] * 3
    torch.manual_seed(0)
    discriminator = make("stylegan2", "discriminator", (3, 32, 32), width=8, architecture=form)
    assert [block.from_image is not None for block in discriminator.blocks] == [True] + [form == "skip"] * 2
    assert [block.shortcut is not None for block in discriminator.blocks] == [form == "residual"] * 3
    made = generator(torch.randn(4, 6))
    logits = discriminator(made)
    assert logits.shape == (4,)
    logits.sum().backward()
    for network in (generator, discriminator):
        assert [name for name, weight in network.named_parameters() if weight.grad is None] == []


def test_activations_keep_their_scale_at_the_start():
    """Through all layers of both networks, by equalized rates, demodulation and gains."""
    generator = small(width=64, style_size=64, latent_size=64, noise=False, style_mixing=0.0)
    discriminator = make("stylegan2", "discriminator", (3, 32, 32), width=64)
    spreads = []
    kinds = (StyledLayer, EqualizedConvolution)
    for network in (generator, discriminator):
        for layer in network.modules():
            if isinstance(layer, kinds):
                layer.register_forward_hook(lambda _m, _i, output: spreads.append(float(output.square().mean().sqrt())))
    with torch.no_grad():
        discriminator(generator(torch.randn(16, 64)))
    assert min(spreads) > 0.3
    assert max(spreads) < 3


@pytest.mark.parametrize("shape", [(1, 8, 8), (4, 9, 8), (3, 28, 28), (2, 30, 45), (3, 17, 9), (1, 64, 48)])
@pytest.mark.parametrize("form", FORMS)
def test_any_size(shape, form):
    generator = small(shape=shape, architecture=form)
    discriminator = make("stylegan2", "discriminator", shape, 3, width=8, architecture=form)
    images = generator(torch.randn(3, 6))
    assert images.shape == (3, *shape)
    assert discriminator(images, torch.tensor([0, 1, 2])).shape == (3,)
    assert discriminator.features(images).shape == (3, 8)


def test_the_constant_starts_at_four_pixels():
    for side, start in ((8, 4), (16, 4), (28, 7), (32, 4), (64, 4)):
        assert small(shape=(3, side, side)).get_parameter("blocks.0.constant").shape == (8, start, start)


def test_errors():
    with pytest.raises(ValueError, match=naming("architecture", "skip, residual, plain")):
        small(architecture="ladder")
    with pytest.raises(ValueError, match=naming("model=stylegan2", "(2,)")):
        small(shape=(2,))
    with pytest.raises(ValueError, match=naming("depth", "at most 5")):
        small(depth=6)
