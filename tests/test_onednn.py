"""The packed convolutions and the steps between them against PyTorch's own, in double precision or byte by byte."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from background_remover import hardware, onednn
from background_remover.onednn import (
    FINER,
    ByteConv,
    ByteStem,
    Conv,
    FirstByteConv,
    Head,
    Stem,
    TwoByteConv,
    halve,
    with_stem,
)
from briarmbg import join

pytestmark = pytest.mark.skipif(not (onednn.can_pack() and hardware.is_x86()), reason="no oneDNN here")
needs_vnni = pytest.mark.skipif(not hardware.SUPPORTED["int8"](), reason="needs a processor with VNNI")
needs_bf16 = pytest.mark.skipif(not hardware.SUPPORTED["bf16"](), reason="needs a processor that computes in bf16")
FLOATS = [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def laid(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def conv_of(channels: int, outputs: int, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, 3, padding=dilation, dilation=dilation)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1, 16, 8, 6), (2, 3, 2, 2), (1, 64, 32, 128)])
def test_halving_is_max_pooling(dtype, shape):
    x = laid((torch.randn(shape) * 100).abs().to(dtype))
    half = halve(x)
    assert half.dtype == dtype
    assert torch.equal(half.double(), F.max_pool2d(x.double(), 2))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("images", [1, 2])
def test_what_a_convolution_joins_is_doubled_as_interpolation_does(dtype, images):
    """Against double precision: but for one rounding of what is doubled, up to the very border."""
    conv = conv_of(48, 32)
    deep, skip = laid(torch.randn(images, 32, 6, 10)).to(dtype), laid(torch.randn(images, 16, 12, 20)).to(dtype)
    ours = Conv(conv, conv.weight.to(dtype), [1, 48, 12, 20])(deep, skip)
    exact = F.conv2d(join(deep.double(), skip.double()), conv.weight.to(dtype).double(), conv.bias.double(), padding=1)
    assert (ours.double() - exact.relu()).abs().max() < (1e-5 if dtype == torch.float32 else 0.04)
    same = Conv(conv, conv.weight.to(dtype), [1, 48, 12, 20])(laid(torch.randn(images, 32, 12, 20)).to(dtype), skip)
    assert same.shape == ours.shape


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_first_two_convolutions_are_one(dtype):
    """Which pads with zeros where the second does, so the outermost pixels tell."""
    first, second = nn.Conv2d(3, 64, 3, stride=2, padding=1), conv_of(64, 32)
    images = torch.randint(0, 256, (2, 40, 24, 3), dtype=torch.uint8)
    centred = images.permute(0, 3, 1, 2).double() / 255 - 0.5
    exact = second.double()(first.double()(centred)).relu()
    second, first = second.float(), first.float()
    patches = Stem(dtype, 40, 24)(images)
    ours = Conv(second, with_stem(second.weight, first, dtype), [1, onednn.PATCH, 20, 12])(patches)
    assert (ours.double() - exact).abs().max() < (1e-5 if dtype == torch.float32 else 0.02)
    assert patches[0, 13, 3, 4] * 256 == 2 * int(images[0, 6, 8, 1]) - 255  # row 1, column 1 of green


@needs_vnni
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("offset", [0, 40])
def test_the_first_two_convolutions_of_bytes_are_as_near_as_their_weights_are(dtype, offset):
    """To a hundredth of what comes out, up to the border, also where the first one's bias is far above the rest."""
    first, second = nn.Conv2d(3, 64, 3, stride=2, padding=1), conv_of(64, 32)
    first.bias += offset
    images = torch.nn.functional.interpolate(torch.rand(2, 3, 10, 6), size=(40, 24), mode="bilinear") * 255
    images = images.round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    exact = second.double()(first.double()(images.permute(0, 3, 1, 2).double() / 255 - 0.5)).relu()
    second, first = second.float(), first.float()
    patches = ByteStem(40, 24)(images)
    assert patches.dtype == torch.uint8
    assert patches[0, 13, 3, 4] == images[0, 6, 8, 1]  # row 1, column 1 of green
    assert patches[0, 0, 0, 0] == onednn.MIDDLE  # left of the image
    ours = FirstByteConv(second, first, [1, onednn.PATCH, 20, 12], dtype)(patches)
    assert ours.dtype == dtype
    off = (ours.double() - exact).square().mean((0, 1)).sqrt() / exact.square().mean().sqrt()  # pixel by pixel
    assert off.max() < 0.02
    assert off.mean() < 0.01


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("channels", [64, 48])
def test_the_head_is_its_convolution_of_a_sum(dtype, channels):
    conv = nn.Conv2d(64, 1, 3, padding=1)
    x, y = (laid(torch.randn(2, count, 10, 14) / 2**0.5).to(dtype) for count in (64, channels))
    ours = Head(conv, ([1, 64, 10, 14], [1, channels, 10, 14]), dtype)((x, y))
    assert ours.dtype == torch.float32
    both = x.double()
    both[:, :channels] += y
    exact = F.conv2d(both, conv.weight.to(dtype).double(), conv.bias.double(), padding=1)
    assert (ours.double() - exact).abs().max() < (1e-5 if dtype == torch.float32 else 0.01)


@needs_vnni
@pytest.mark.parametrize("doubled", [True, False])
@pytest.mark.parametrize("out", [True, False])
def test_a_convolution_of_bytes_is_exact_in_whole_numbers(out, doubled):
    """Its weights are whole and its rates powers of two: then nothing is rounded but what is doubled, and bytes."""
    conv = conv_of(48, 32)
    conv.weight.copy_(torch.randint(-127, 128, conv.weight.shape))
    conv.weight[:, 0, 0, 0] = 127  # so that each output's scale is 1
    conv.bias.copy_(torch.randint(-9000, 9000, conv.bias.shape))
    rates = torch.ones(48)
    deep = laid(torch.randint(0, 256, (2, 32, 6, 10) if doubled else (2, 32, 12, 20), dtype=torch.uint8))
    skip = laid(torch.randint(0, 256, (2, 16, 12, 20), dtype=torch.uint8))
    rate = torch.full((32,), 1 / 512)
    ours = ByteConv(conv, [1, 48, 12, 20], rates, torch.float32, rate if out else None)(deep, skip)
    joined = join(deep.double(), skip.double()).round()  # halves to even, as the processor does
    exact = F.conv2d(joined, conv.weight.double(), conv.bias.double(), padding=1).relu()
    if out:
        assert ours.dtype == torch.uint8
        assert (ours > 0).double().mean() > 0.05
        assert torch.equal(ours.double(), (exact / 512).round().clamp(0, 255))
    else:
        assert (ours.double() - exact).abs().max() < 0.5


@needs_vnni
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("doubled", [True, False])
def test_floats_are_read_as_the_nearest_bytes(dtype, doubled):
    """Each at its channel's rate; below 0 and above 255 there is nothing. In bf16 bytes from 64 on may be one off."""
    rates = torch.tensor([8.0, 12.0, 0.875, 100.0]).repeat(4)
    conv = conv_of(32, 32)
    reader = ByteConv(conv, [1, 32, 32, 32], rates.repeat(2), dtype)
    deep = laid((torch.rand(1, 16, 16, 16) * 300 / rates[:, None, None] - 3).to(dtype))
    skip = laid((torch.rand(1, 16, 32, 32) * 300 / rates[:, None, None] - 3).to(dtype))
    joined = reader._join(deep if doubled else skip, skip)
    exact = join(deep.double() if doubled else skip.double(), skip.double()) * rates.repeat(2)[:, None, None]
    wrong = (joined.double() - exact.clamp(0, 255)).abs()
    low = exact < 63
    assert wrong[low].max() <= (0.5 if dtype == torch.float32 else 0.63)
    assert wrong.max() <= (0.5 if dtype == torch.float32 else 1.3)
    assert (joined.double() - exact.clamp(0, 255))[low].mean().abs() < 0.05
    assert joined.min() == 0
    assert joined.max() == 255


@needs_vnni
@pytest.mark.parametrize("doubled", [True, False])
@pytest.mark.parametrize("dilation", [1, 4])
def test_a_convolution_of_two_bytes_is_exact_in_whole_numbers(dilation, doubled):
    """Steps of 1 / FINER are its whole numbers here, up to what 15 bits hold, where a channel ends."""
    conv = conv_of(48, 32, dilation)
    conv.weight.copy_(torch.randint(-127, 128, conv.weight.shape))
    conv.weight[:, :, 0, 0] = 127  # so that no channel has larger weights than another
    conv.bias.copy_(torch.randint(-9000, 9000, conv.bias.shape))
    deep = laid(torch.randint(-500, 40_000, (1, 32, 6, 10) if doubled else (1, 32, 12, 20)) / FINER)
    skip = laid(torch.randint(-500, 40_000, (1, 16, 12, 20)) / FINER)
    ours = TwoByteConv(conv, [1, 48, 12, 20], torch.ones(48))(deep, skip)
    steps = (join(deep.double(), skip.double()) * FINER + 0.5).floor().clamp(0, 32_767)
    exact = F.conv2d(
        steps / FINER, conv.weight.double(), conv.bias.double(), padding=dilation, dilation=dilation
    ).relu()
    assert (exact > 0).double().mean() > 0.2
    assert ((ours.double() - exact).abs() / exact.max()).max() < 1e-5


@needs_vnni
@pytest.mark.parametrize("dtype", FLOATS)
def test_two_bytes_round_nothing_but_weights(dtype):
    """Of channels that reach from 0.01 to 100: a tenth of what is off with a byte, beyond what is off in the input."""
    reach = torch.logspace(-2, 2, 64)[torch.randperm(64)]
    conv = conv_of(64, 32)
    conv.weight.div_(reach[:, None, None])
    x = laid((torch.rand(1, 64, 16, 16) * reach[:, None, None]).to(dtype))
    exact = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1).relu()
    two = TwoByteConv(conv, [1, 64, 16, 16], 255 / reach)(x)
    assert two.dtype == torch.float32
    one = ByteConv(conv, [1, 64, 16, 16], 255 / reach, dtype)(x)
    assert (two - exact).square().mean().sqrt() < 0.004 * exact.square().mean().sqrt()
    assert (two - exact).square().mean() < (one.double() - exact).square().mean()


def test_whole_weights_keep_the_sums_of_their_groups():
    weight = torch.randn(16, 32, 3, 3) * 40
    rounded = onednn.round_by_diffusion(weight, torch.int8)
    assert rounded.dtype == torch.int8
    inside = weight.abs().amax((1, 2, 3)) < 120
    assert ((rounded - weight)[inside].view(-1, 36).sum(1)).abs().max() <= 0.51
    assert (weight.round() - weight)[inside].view(-1, 36).sum(1).abs().max() > 1
    assert rounded.min() >= -127
