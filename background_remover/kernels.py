"""What lies between the network's convolutions, for GPUs, in Triton: each reads its maps once and writes them once.

Maps are N x C x H x W in channels_last, C a power of two; sums are in fp32, rounded once. PyTorch's own operators for
the same take about as long as the convolutions: they enlarge far below the memory's speed, join by another copy, and
write the places of the largest values as well. benchmarks/gpu.py has a forward's time with these and without.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from background_remover.onednn import PATCH, PIXELS

VALUES = 2048  # of one program
PIXELS_OUT = 1024  # of one program of `matte`


@triton.jit
def _corners(pixel, height, width):
    """Of pixels of a doubled map, counted through all images: the four of the map that they are made of, counted alike,
    and the weights of the lower two and the right two, as in `F.interpolate`.
    """
    x, y, image = pixel % width, pixel // width % height, pixel // (width * height)
    rows, columns = height // 2, width // 2
    top, left = (y - 1) >> 1, (x - 1) >> 1
    bottom, right = tl.minimum(top + 1, rows - 1), tl.minimum(left + 1, columns - 1)
    top, left = tl.maximum(top, 0), tl.maximum(left, 0)
    down, across = tl.where(y % 2 == 0, 0.75, 0.25), tl.where(x % 2 == 0, 0.75, 0.25)
    above, below = (image * rows + top).to(tl.int64) * columns, (image * rows + bottom).to(tl.int64) * columns
    return above + left, above + right, below + left, below + right, down, across


@triton.jit
def _join(
    deep, skip, out, count, height, width,
    deep_channels: tl.constexpr, skip_channels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = (pixel < count)[:, None]
    above_left, above_right, below_left, below_right, down, across = _corners(pixel, height, width)
    down, across, channel = down[:, None], across[:, None], tl.arange(0, deep_channels)[None, :]
    above = tl.load(deep + above_left[:, None] * deep_channels + channel, inside).to(tl.float32) * (1 - across)
    above += tl.load(deep + above_right[:, None] * deep_channels + channel, inside).to(tl.float32) * across
    below = tl.load(deep + below_left[:, None] * deep_channels + channel, inside).to(tl.float32) * (1 - across)
    below += tl.load(deep + below_right[:, None] * deep_channels + channel, inside).to(tl.float32) * across
    pixel = pixel.to(tl.int64)[:, None]  # counted in values, they need not fit in 32 bits
    joined = out + pixel * (deep_channels + skip_channels)
    tl.store(joined + channel, (above * (1 - down) + below * down).to(out.dtype.element_ty), inside)
    channel = tl.arange(0, skip_channels)[None, :]
    tl.store(joined + deep_channels + channel, tl.load(skip + pixel * skip_channels + channel, inside), inside)


@triton.jit
def _halve(x, out, count, width, channels: tl.constexpr, block: tl.constexpr):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = (pixel < count)[:, None]
    channel = tl.arange(0, channels)[None, :]
    above = (pixel // width).to(tl.int64) * (4 * width) + pixel % width * 2  # in `x`, which is twice as high and wide
    left = x + above[:, None] * channels + channel
    below = left + 2 * width * channels
    top = tl.maximum(tl.load(left, inside), tl.load(left + channels, inside))
    bottom = tl.maximum(tl.load(below, inside), tl.load(below + channels, inside))
    tl.store(out + pixel.to(tl.int64)[:, None] * channels + channel, tl.maximum(top, bottom), inside)


@triton.jit
def _patches(
    images, out, count, height, width,
    values: tl.constexpr, patch_values: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    value = tl.arange(0, patch_values)[None, :]
    colour, row, column = value // 9, value % 9 // 3, value % 3
    columns, rows = width // 2, height // 2
    x = (pixel % columns * 2)[:, None] + column - 1
    y = (pixel // columns % rows * 2)[:, None] + row - 1
    image = (pixel // (columns * rows)).to(tl.int64)[:, None]
    inside = (pixel < count)[:, None]
    within = inside & (value < values) & (x >= 0) & (y >= 0)  # the other two sides are not reached
    byte = tl.load(images + ((image * height + y) * width + x) * 3 + colour, within, other=0).to(tl.float32)
    centred = tl.where(within, (2 * byte - 255) / 256, 0)
    patch = tl.where(value < values, centred, 1)
    tl.store(out + pixel.to(tl.int64)[:, None] * patch_values + value, patch.to(out.dtype.element_ty), inside)


@triton.jit
def _matte(logits, out, count, height, width, stride, block: tl.constexpr):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    inside = pixel < count
    above_left, above_right, below_left, below_right, down, across = _corners(pixel, height, width)
    above = tl.load(logits + above_left * stride, inside).to(tl.float32) * (1 - across)
    above += tl.load(logits + above_right * stride, inside).to(tl.float32) * across
    below = tl.load(logits + below_left * stride, inside).to(tl.float32) * (1 - across)
    below += tl.load(logits + below_right * stride, inside).to(tl.float32) * across
    probability = 1 / (1 + tl.exp(-(above * (1 - down) + below * down)))
    tl.store(out + pixel, (probability * 255 + 0.5).to(tl.uint8), inside)


def join(deep: Tensor, skip: Tensor) -> Tensor:
    """`briarmbg.join` where `deep` has half the height and width of `skip`, or as much."""
    if deep.shape[2:] == skip.shape[2:]:
        return torch.cat((deep, skip), 1)
    (images, channels, height, width), count = skip.shape, skip.numel() // skip.shape[1]
    out = _new(skip, (images, deep.shape[1] + channels, height, width))
    block = VALUES // max(deep.shape[1], channels)
    _join[(triton.cdiv(count, block),)](
        _laid_out(deep), _laid_out(skip), out, count, height, width, deep.shape[1], channels, block
    )
    return out


def halve(x: Tensor) -> Tensor:
    """`briarmbg.halve` of an even height and width."""
    images, channels, height, width = x.shape
    out = _new(x, (images, channels, height // 2, width // 2))
    count, block = images * height * width // 4, VALUES // channels
    _halve[(triton.cdiv(count, block),)](_laid_out(x), out, count, width // 2, channels, block)
    return out


def patches(images: Tensor, dtype: torch.dtype) -> Tensor:
    """`onednn.Stem`: images N x H x W x 3 in bytes to N x PATCH x H/2 x W/2."""
    count, height, width, _ = images.shape
    out = torch.empty(
        (count, PATCH, height // 2, width // 2), dtype=dtype, device=images.device, memory_format=torch.channels_last
    )
    pixels, block = count * height * width // 4, VALUES // PATCH
    _patches[(triton.cdiv(pixels, block),)](images.contiguous(), out, pixels, height, width, PIXELS, PATCH, block)
    return out


def matte(logits: Tensor) -> Tensor:
    """Logits N x 1 x H x W, which may be among other channels, to probabilities N x 2H x 2W in 1/255."""
    images, _, height, width = logits.shape
    out = torch.empty((images, 2 * height, 2 * width), dtype=torch.uint8, device=logits.device)
    _matte[(triton.cdiv(out.numel(), PIXELS_OUT),)](
        logits, out, out.numel(), 2 * height, 2 * width, logits.stride(3), PIXELS_OUT
    )
    return out


def _new(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=torch.channels_last)


def _laid_out(x: Tensor) -> Tensor:
    """`x` as the kernels count its values."""
    return x.contiguous(memory_format=torch.channels_last)
