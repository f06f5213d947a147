"""BigGAN and SAGAN: sizes to the unit, chunks of the latents, shared embeddings, attention."""

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck

from gan_runner.models.biggan import ModulatedBatchNorm2d
from gan_runner.models.layers import SelfAttention
from gan_runner.regularizers.spectral_norm import spectral_norm
from tests.helpers import naming
from tests.helpers.models import make, outputs_of, parameters
from tests.helpers.penalties import some

NONE = {"attention": None}
AT_64 = {"growth": 2, "depth": 4, "plain_blocks": 1, "end_growth": 2}  # discriminators
AT_128 = {"growth": 2, "depth": 5, "plain_blocks": 1}


@pytest.mark.parametrize(
    ("data", "generator", "discriminator", "expected"),  # the data: model, pixels, classes, latents
    [
        # StudioGAN for CIFAR-10, as its logs print them: BigGAN, SNGAN with projection, SAGAN
        (("biggan", 32, 10, 80), {}, {}, (9_416_196, 2_415_170)),
        (("biggan", 32, 0, 80), {}, {}, (8_825_092, 2_413_250)),
        (("biggan", 32, 100, 80), {}, {}, (9_427_716, 2_432_450)),
        (("sagan", 32, 10, 128), NONE, NONE, (4_304_387, 1_055_105)),
        (("sagan", 32, 0, 128), NONE, NONE, (4_276_739, 1_053_825)),
        (("sagan", 32, 10, 128), {}, {}, (4_386_308, 1_075_586)),
        # and for 64x64: SAGAN with 64 channels, BigGAN with 80
        *(
            (("sagan", 64, k, 128), {"width": 64, "growth": 2, "start_growth": 2}, AT_64 | {"width": 64}, expected)
            for k, expected in (
                (0, (12_241_156, 19_547_842)), (10, (12_292_996, 19_558_082)), (100, (12_811_396, 19_650_242)),
            )
        ),
        *(
            (("biggan", 64, k, 100), {"width": 80, "growth": 2, "start_growth": 2}, AT_64 | {"width": 80}, expected)
            for k, expected in ((0, (16_388_004, 30_540_722)), (100, (17_322_404, 30_668_722)))
        ),
        # the authors' PyTorch code: CIFAR-10, twice, ImageNet at 64x64 and 128x128, SAGAN at 128x128
        (("sagan", 32, 10, 128), NONE, NONE | {"width": 256}, (4_304_387, 4_207_361)),
        (("biggan", 32, 10, 80), NONE, NONE | {"width": 384}, (9_231_875, 9_456_769)),
        (("biggan", 64, 1000, 100), {"width": 128, "growth": 2}, AT_64 | {"width": 64}, (31_866_116, 20_571_842)),
        (("biggan", 128, 1000, 120), {"width": 96, "growth": 2}, AT_128 | {"width": 96}, (70_433_988, 87_982_370)),
        (("sagan", 128, 1000, 128), {"width": 64, "growth": 2}, AT_128 | {"width": 64}, (42_017_412, 39_448_258)),
        # a toy; that code's discriminator has attention behind all four blocks at 32x32, of 1281 parameters each
        (("biggan", 32, 10, 16), {"width": 32, "shared_embedding": 8}, {"width": 16}, (68_116, 17_522)),
        (("biggan", 32, 10, 16), {"width": 32, "shared_embedding": 8}, {"width": 32}, (68_116, 72_293 - 3 * 1281)),
    ],
)  # fmt: skip
def test_parameters_are_those_of_the_published_code(data, generator, discriminator, expected):
    model, side, classes, latents = data
    with torch.device("meta"):
        shape, plain = (3, side, side), {"initialization": "default"}  # which costs nothing
        of_generator = parameters(make(model, "generator", shape, classes, latent_size=latents, **plain, **generator))
        of_discriminator = parameters(make(model, "discriminator", shape, classes, **plain, **discriminator))
    assert (of_generator, of_discriminator) == expected


def small(classes=3, latent_size=8, **keys):
    torch.manual_seed(0)
    keys = {"width": 4, "shared_embedding": 5} | keys
    return make("biggan", "generator", (3, 32, 32), classes, latent_size=latent_size, **keys)


def test_the_stages_of_128_pixels_and_where_attention_stands():
    generator = make("biggan", "generator", (3, 128, 128), latent_size=12, width=2, growth=2)
    assert outputs_of(generator, SelfAttention, torch.randn(2, 12)) == [(4, 64, 64)]
    assert outputs_of(generator, nn.Unflatten, torch.randn(2, 12)) == [(32, 4, 4)]
    discriminator = make("biggan", "discriminator", (3, 64, 64), width=8, **AT_64)
    assert outputs_of(discriminator, SelfAttention, torch.zeros(2, 3, 64, 64)) == [(8, 32, 32)]
    made = [type(layer).__name__ for layer in discriminator.layers]
    assert made == ["Block", "SelfAttention", "Block", "Block", "Block", "Block", "Identity", "ReLU", "SharedDropout"]


def test_a_chunk_reaches_its_own_block_alone():
    """The first makes the first map, the i-th the normalizations of block i."""
    generator = small().eval()
    conditions = generator.conditions(torch.randn(2, 8).split(2, dim=-1), torch.tensor([0, 1]))
    assert [tuple(condition.shape) for condition in conditions] == [(2, 7)] * 3
    shared = [condition[:, :5] for condition in conditions]
    assert all(torch.equal(each, shared[0]) for each in shared)  # one embedding for all
    latents, labels = torch.randn(1, 8), torch.tensor([1])
    seen: list[torch.Tensor] = []
    hooks = [
        block.register_forward_hook(lambda _m, _i, output: seen.append(output))
        for block in generator.blocks
        if not isinstance(block, SelfAttention)
    ]
    for chunk in range(1, 4):
        seen.clear()
        generator(latents, labels)
        changed = latents.clone()
        changed[:, 2 * chunk : 2 * chunk + 2] += 1
        generator(changed, labels)
        before, after = seen[:3], seen[3:]
        assert [torch.equal(*pair) for pair in zip(before, after, strict=True)] == [n < chunk - 1 for n in range(3)]
    for hook in hooks:
        hook.remove()


def test_latents_that_do_not_split_are_refused():
    with pytest.raises(ValueError, match=naming("latent_size=10", "4 chunks")):
        small(latent_size=10)


@pytest.mark.parametrize(("player", "attention"), [("generator", 3), ("discriminator", 0), ("discriminator", 3)])
def test_attention_without_a_place_is_refused(player, attention):
    for model in ("biggan", "resnet"):
        with pytest.raises(ValueError, match=naming(f"attention={attention}")):
            make(
                model,
                player,
                (3, 32, 32),
                width=4,
                attention=attention,
                **({"latent_size": 8} if player == "generator" else {}),
            )


def test_orthogonal_initialization():
    generator = small(classes=10, shared_embedding=6)
    for layer in generator.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d | nn.Embedding):
            matrix = layer.weight.detach().flatten(1)
            gram = matrix @ matrix.T if len(matrix) <= matrix.shape[1] else matrix.T @ matrix
            torch.testing.assert_close(gram, torch.eye(len(gram)), atol=1e-5, rtol=0)


def test_the_spectral_norm_leaves_the_shared_embedding_alone():
    """All else that has a matrix is normalized: the layers of the conditional normalizations too."""
    generator = spectral_norm(small(), iterations=1)
    wrapped = [name for name, module in generator.named_modules() if hasattr(module, "parametrizations")]
    matrices = [n for n, module in generator.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    assert set(wrapped) == set(matrices)
    assert any("gain" in name for name in wrapped)
    assert not hasattr(generator.embedding, "parametrizations")


def test_modulated_normalization_is_plain_at_first_without_its_layers():
    x, condition = some(6, 4, 3, 3), some(6, 5)
    layer = ModulatedBatchNorm2d(4, 5).double()
    for weight in layer.parameters():
        nn.init.zeros_(weight)
    torch.testing.assert_close(layer(x, condition), nn.BatchNorm2d(4, affine=False).double()(x))
    plain = ModulatedBatchNorm2d(4, 0).double()
    torch.testing.assert_close(plain(x, None), nn.BatchNorm2d(4).double()(x))
    assert parameters(plain) == 8


def test_modulated_normalization_is_its_formula_and_has_second_derivatives():
    torch.manual_seed(0)
    layer, x, condition = ModulatedBatchNorm2d(2, 3).double(), some(3, 2, 2, 2), some(3, 3, seed=1)
    of_gain, of_shift = layer.parameters()
    gain, shift = 1 + condition @ of_gain.T, condition @ of_shift.T
    expected = layer.normalize(x) * gain[..., None, None] + shift[..., None, None]
    torch.testing.assert_close(layer(x, condition), expected)
    assert gradcheck(layer, (x.requires_grad_(), condition.requires_grad_()))
    assert gradgradcheck(layer, (x, condition))
    with pytest.raises(ValueError, match=naming("labels")):
        layer(x, None)


@pytest.mark.parametrize(("model", "number"), [("biggan", 1), ("biggan", 3), ("sagan", 2), ("resnet", 2)])
def test_the_shortcut_sees_what_came_in_before_the_activation(model, number):
    """An activation in place would rectify what the shortcut reads, as it does in more than one published code."""
    torch.manual_seed(0)
    discriminator = make(
        model, "discriminator", (3, 32, 32), width=8, **({} if model == "resnet" else {"attention": None})
    )
    block = discriminator.layers[number]
    x = torch.randn(2, 8, 8, 8)
    kept = x.clone()
    for layer in block.residual:
        if isinstance(layer, nn.Conv2d):
            for weight in layer.parameters():
                nn.init.zeros_(weight)
    found = block(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(found, block.shortcut(kept))  # linear in it, negative entries too
    if isinstance(block.shortcut, nn.Identity):
        assert (found < 0).any()
    else:
        torch.testing.assert_close(block.shortcut(-kept) + block.shortcut(kept), 2 * block.shortcut(0 * kept))


def test_a_wide_block_has_the_channels_of_its_output_between():
    for wide, middle in ((True, 16), (False, 8)):
        discriminator = make("resnet", "discriminator", (3, 32, 32), width=8, growth=2, wide=wide)
        first = next(layer for layer in discriminator.layers[1].residual if isinstance(layer, nn.Conv2d))
        assert (first.in_channels, first.out_channels) == (8, middle)


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 30, 45), (3, 17, 9)])
def test_any_size(shape):
    generator = make("biggan", "generator", shape, latent_size=6, width=4, split_latents=False, attention=0)
    discriminator = make("biggan", "discriminator", shape, width=4)
    images = generator(torch.randn(3, 6))
    assert images.shape == (3, *shape)
    assert discriminator(images).shape == (3,)
    assert discriminator.features(images).shape == (3, 4)
