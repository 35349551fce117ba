"""The network's convolutions and what lies between them, by PyTorch's own oneDNN operators, packed for this processor.

Tensors are N x C x H x W in channels_last. Those in floats hold values; those in bytes hold value x rate, of a rate for
each channel, see `quantization`. A convolution reads either and joins what it is given by itself: what is enlarged is
written to where the convolution reads it, with no tensor between. Sizes are those that the network has for images of
1024 x 1024: whatever is enlarged is doubled.

Everything here is of what PyTorch's compiler emits as well, called by hand: without the compiler there is no other way
to a convolution whose weights are laid out once, to its ReLU inside of it, or to 8 bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache, partial

import torch
from torch import Tensor, nn

# In bytes, what is not positive is 0: those of ReLUs lose nothing.
LARGEST = 255
LARGEST_WEIGHT = 127
TILE = 128  # groups whose weights are rounded side by side: few enough to lie close together
FINER = 8  # steps of two bytes, which have 15 bits, to one of a byte, on average
TINY = torch.finfo(torch.float32).tiny
CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))  # row and column of the four pixels that one becomes
NEAR, FAR = 3, 1  # quarters of a doubled pixel that are of the pixel it lies in, and of its neighbour
SIXTEENTHS = 16
PIXELS, PATCH = 27, 32  # of a patch of 3 x 3: its values, and its channels, the rest of which are 1
CONSTANTS = (255, 255, 255, 255, 1)  # those in bytes, behind the pixels: large ones for the bulk, 1 for what they leave
# PyTorch converts bf16 to int8 four times as fast as to uint8, and rounds towards 0: this much below the byte, rounding
# is to the nearest for bytes up to 64, where bf16 has halves, and a quarter off above.
MIDDLE, BELOW = 128, 128.25

Steps = Callable[[Tensor], Tensor]


def can_pack() -> bool:
    """Whether this PyTorch has the operators."""
    return (
        hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
        and hasattr(torch.ops.onednn, "qconv_pointwise")
    )


def halve(x: Tensor) -> Tensor:
    """Max-pool to half the height and width, which are even; by rows first, which are memory as it lies.

    PyTorch's own takes 1.5 to 3 times as long in bf16, and has no bytes.
    """
    images, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(images, height // 2, 2, width * channels)
    pairs = torch.maximum(rows[:, :, 0], rows[:, :, 1]).view(images, height // 2, width // 2, 2, channels)
    return torch.maximum(pairs[..., 0, :], pairs[..., 1, :]).permute(0, 3, 1, 2)


class Stem(nn.Module):
    """Images to the patches of 3 x 3 pixels that the network's first convolution sees, N x PATCH x H/2 x W/2.

    That convolution has no ReLU, so it can be part of the next one, see `with_stem`: a third of the operations of both
    are left, and no rounding in between. Patches rather than pixels, since both pad with zeros of their own. Pixels are
    centred, (2 p - 255) / 256, and exact in any float; the convolution only sorts them.
    """

    def __init__(self, dtype: torch.dtype, height: int, width: int) -> None:
        super().__init__()
        weight = torch.zeros(PATCH, 3, 3, 3)
        weight[:PIXELS] = torch.eye(PIXELS).view(PIXELS, 3, 3, 3)
        constant = torch.zeros(PATCH)
        constant[PIXELS:] = 1
        self.call = _packed(weight.to(dtype), constant, [1, 3, height, width], padding=1, stride=2)
        self.dtype = dtype

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.permute(0, 3, 1, 2).to(self.dtype)
        return self.call(pixels.mul_(2 / 256).sub_(255 / 256))


def with_stem(weight: Tensor, stem: nn.Conv2d, dtype: torch.dtype) -> Tensor:
    """The weights out x PATCH x 3 x 3 on patches that come to `weight` out x in x 3 x 3 on what `stem` makes of images.

    Its bias has as many of the constant channels as there are, each for what rounding leaves of those before.
    """
    pixels, rest = _merged(weight, stem)
    pixels = pixels * (256 / 510)
    constants = []
    for _ in range(PATCH - PIXELS):
        constants.append(rest.to(dtype).float())
        rest = rest - constants[-1]
    rounded = pixels if dtype == torch.float32 else round_by_diffusion(pixels, dtype, group=PIXELS)
    return torch.cat([rounded, torch.stack(constants, 1).to(dtype)], 1)


def _merged(weight: Tensor, stem: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """The weights out x PIXELS x 3 x 3 for pixels -0.5..0.5 that a `stem` sees first, and its bias', out x 3 x 3."""
    pixels = torch.einsum("omyx,mi->oiyx", weight, stem.weight.flatten(1))
    return pixels, torch.einsum("omyx,m->oyx", weight, stem.bias)


class ByteStem(nn.Module):
    """A `Stem` in bytes, for `FirstByteConv`: pixels as they are, and CONSTANTS behind them.

    Around the image is what is nearest to 0 once it is centred.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        weight = torch.zeros((PATCH, 3, 3, 3), dtype=torch.int8)
        weight[:PIXELS] = torch.eye(PIXELS).view(PIXELS, 3, 3, 3)
        bias = torch.cat([torch.zeros(PIXELS), torch.tensor(CONSTANTS, dtype=torch.float32)])
        shape = [1, 3, height + 1, width + 1]
        self.call = _packed_bytes(weight, torch.ones(PATCH), bias, shape, torch.uint8, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        count, height, width, channels = images.shape
        around = torch.full((count, height + 1, width + 1, channels), MIDDLE, dtype=torch.uint8)
        around[:, 1:, 1:] = images
        return self.call(around.permute(0, 3, 1, 2))


class FirstByteConv(nn.Module):
    """The network's first two convolutions as one of the bytes of a `ByteStem`, and its ReLU; the result is in `dtype`.

    Pixels are centred by what the constants are given: 127.5 times the weights, as these were rounded, is taken away.
    """

    def __init__(self, conv: nn.Conv2d, stem: nn.Conv2d, shape: list[int], dtype: torch.dtype) -> None:
        super().__init__()
        pixels, rest = _merged(conv.weight, stem)
        pixels = pixels / LARGEST
        most = torch.maximum(
            pixels.abs().amax((1, 2, 3)), (rest - LARGEST / 2 * pixels.sum(1)).abs().amax((1, 2)) / sum(CONSTANTS)
        )
        scales = most.clamp_min(TINY) / LARGEST_WEIGHT
        whole = round_by_diffusion(pixels / scales[:, None, None, None], torch.int8, group=PIXELS)
        left = rest / scales[:, None, None] - LARGEST / 2 * whole.sum(1)
        constants = []
        for constant in CONSTANTS:
            constants.append((left / constant).round().clamp(-LARGEST_WEIGHT, LARGEST_WEIGHT))
            left = left - constant * constants[-1]
        whole = torch.cat([whole, torch.stack(constants, 1).to(torch.int8)], 1)
        self.call = _packed_bytes(whole, scales, conv.bias, shape, dtype, padding=1, relu=True)

    def forward(self, x: Tensor, skip: None = None) -> Tensor:  # noqa: ARG002
        return self.call(x)


class Conv(nn.Module):
    """A convolution of floats and its ReLU, in one call.

    In eager mode the weights are laid out anew at every call and the ReLU is another pass over memory, together 5 % of
    the time in bf16 and 9 % in fp32. `shape` is that of its input; others are right too. It is `conv` with other
    weights, whose type it has; the bias stays fp32.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor, shape: list[int]) -> None:
        super().__init__()
        dilation = conv.dilation[0]
        self.call = _packed(weight, conv.bias, shape, padding=dilation, dilation=dilation, relu=True)
        self.dtype = weight.dtype

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        return self.call(x.to(self.dtype) if skip is None else _join(x.to(self.dtype), skip))


class ByteConv(nn.Module):
    """A convolution of bytes and its ReLU: weights in 8 bits, sums in 32, twice as fast as bf16 and four times fp32.

    `rates` are those of its input's channels. With `out` it gives bytes at those rates, else floats of `dtype`; `dtype`
    is also that of inputs in floats. The weights of each output have one scale, into which the rates go: a channel's
    rate costs nothing, on either side.
    """

    def __init__(
        self, conv: nn.Conv2d, shape: list[int], rates: Tensor, dtype: torch.dtype, out: Tensor | None = None
    ) -> None:
        super().__init__()
        whole, scales = _whole(conv.weight, rates)
        bias, kind, dilation = conv.bias, dtype, conv.dilation[0]
        if out is not None:
            scales, bias, kind = scales * out, bias * out if bias is not None else None, torch.uint8
        self.call = _packed_bytes(whole, scales, bias, shape, kind, padding=dilation, dilation=dilation, relu=True)
        self.rates, self.dtype = rates, dtype
        self.readers: dict[tuple[int, torch.Size], list[Steps]] = {}

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        if skip is not None:
            return self.call(self._join(x, skip))
        return self.call(self._bytes(x, 0))

    def _join(self, deep: Tensor, skip: Tensor) -> Tensor:
        joined = _empty_join(deep, skip, torch.uint8)
        first, second = joined[..., : deep.shape[1]], joined[..., deep.shape[1] :]
        if deep.shape[2:] == skip.shape[2:]:
            first[:] = self._bytes(deep, 0).permute(0, 2, 3, 1)
        elif deep.dtype == torch.uint8:
            _put_doubled(first, deep, _byte_doublers(deep.shape[1], deep.shape[2:]))
        else:
            _put_doubled(first, deep, self._reader(0, deep, doubles=True))
        second[:] = self._bytes(skip, deep.shape[1]).permute(0, 2, 3, 1)
        return joined.permute(0, 3, 1, 2)

    def _bytes(self, x: Tensor, start: int) -> Tensor:
        """Channels of the input from `start` on, in bytes."""
        return x if x.dtype == torch.uint8 else self._reader(start, x)[0](x)

    def _reader(self, start: int, x: Tensor, doubles: bool = False) -> list[Steps]:
        """What turns floats of `dtype` into bytes: one step, or the four that double at the same time."""
        key = start, x.shape[1:]
        if key not in self.readers:
            rates = self.rates[start : start + x.shape[1]]
            kernels = _corner_kernels() / SIXTEENTHS if doubles else torch.ones(1, 1, 1)
            self.readers[key] = [_to_bytes(kernel, rates, x.shape[2:], self.dtype) for kernel in kernels]
        return self.readers[key]


class TwoByteConv(nn.Module):
    """A convolution of two bytes for each value and its ReLU: two of bytes, added up, in half the time of one in fp32.

    For where 8 bits are too few: only the weights are rounded to as many. `rates` are those that `ByteConv` would have;
    here a channel has 2 to 32 times as many steps, the more the larger its weights are, so that all channels' weights
    use their bits, and room for 4 to 64 times as much. Results are in fp32.
    """

    def __init__(self, conv: nn.Conv2d, shape: list[int], rates: Tensor) -> None:
        super().__init__()
        weights = conv.weight.abs()
        shares = (weights / weights.amax((1, 2, 3), keepdim=True).clamp_min(TINY)).amax((0, 2, 3)).clamp_min(TINY)
        finer = shares / rates
        rates = rates * (FINER * finer / finer.log().mean().exp()).clamp(FINER / 4, FINER * 4)
        whole, scales = _whole(conv.weight, rates)
        bytes_to = partial(
            _packed_bytes, shape=shape, dtype=torch.float32, padding=conv.dilation[0], dilation=conv.dilation[0]
        )
        self.low = bytes_to(whole, scales, None)
        self.add_high = bytes_to(whole, 256 * scales, conv.bias, relu=True, add=True)
        half, largest = torch.full_like(rates, 0.5), torch.iinfo(torch.int16).max  # conversion rounds towards 0
        self.scale = _packed(rates[:, None, None, None], half, shape, groups=len(rates), clamp=(0, largest))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        values = self.scale((x if skip is None else _join(x, skip)).float()).to(torch.int16)
        return self.add_high((values >> 8).to(torch.uint8), self.low(values.to(torch.uint8)))


class Head(nn.Module):
    """A convolution of 3 x 3 to one map, in a third of its time: nine products of each pixel, added up where they go.

    It is of the sum of two tensors, of which only the products are added up, in their type; the second may have fewer
    channels, the first of them. What follows is fp32. `shapes` are those of both, as for `Conv`, `dtype` is theirs.
    """

    def __init__(self, conv: nn.Conv2d, shapes: tuple[list[int], list[int]], dtype: torch.dtype) -> None:
        super().__init__()
        products = conv.weight[0].flatten(1).t()[..., None, None].to(dtype)
        self.call = _packed(products, None, shapes[0])
        self.add = _packed(products[:, : shapes[1][1]], None, shapes[1], add=True)
        self.bias = torch.zeros(1) if conv.bias is None else conv.bias

    def forward(self, both: tuple[Tensor, Tensor]) -> Tensor:
        images, _, height, width = both[0].shape
        products = self.add(both[1], self.call(both[0])).float()
        out = torch.zeros((images, 1, height + 2, width + 2))
        for index in range(9):
            row, column = 2 - index // 3, 2 - index % 3
            out[:, 0, row : row + height, column : column + width] += products[:, index]
        return out[:, :, 1:-1, 1:-1] + self.bias


def round_by_diffusion(weight: Tensor, dtype: torch.dtype, group: int = 36) -> Tensor:
    """Weights out x in x 3 x 3 rounded to `dtype`, each carrying the rounding error of those before it in its group.

    Features change little from pixel to pixel, so errors that cancel within the nine weights of a channel, and over
    four channels, hardly reach the sum: error diffusion, as in halftoning.
    """
    columns = weight.reshape(-1, math.gcd(weight.numel() // group, TILE), group).mT.contiguous()
    rounded = torch.empty_like(columns, dtype=dtype)
    error = torch.zeros_like(columns[:, 0])
    for exact, nearest in zip(columns.unbind(1), rounded.unbind(1), strict=True):
        error += exact
        nearest.copy_(error if dtype.is_floating_point else error.round().clamp_(-LARGEST_WEIGHT, LARGEST_WEIGHT))
        error -= nearest
    return rounded.mT.reshape(weight.shape)


def _whole(weight: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Weights -127..127 for inputs of these rates, and for each output what one of them comes to."""
    per_byte = weight / rates[:, None, None]
    scales = per_byte.abs().amax((1, 2, 3)).clamp_min(TINY) / LARGEST_WEIGHT
    return round_by_diffusion(per_byte / scales[:, None, None, None], torch.int8), scales


def _packed(
    weight: Tensor,
    bias: Tensor | None,
    shape: list[int],
    *,
    padding: int = 0,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = False,
    clamp: tuple[float, float] | None = None,
    add: bool = False,
) -> Callable[..., Tensor]:
    """A convolution of floats with its weights laid out for inputs of `shape`, and what follows it at once.

    With `add`, it is called with a tensor as well, to which it adds.
    """
    then, limits = ("hardtanh", list(clamp)) if clamp else ("relu" if relu else "none", [])
    way = [padding, padding], [stride, stride], [dilation, dilation], groups
    laid_out = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
        weight.detach().to_mkldnn(), *way, shape
    )
    if add:
        return lambda x, total: torch.ops.mkldnn._convolution_pointwise_.binary(
            total, x, laid_out, bias, *way, "add", 1.0, None, [], None
        )
    return lambda x: torch.ops.mkldnn._convolution_pointwise(x, laid_out, bias, *way, then, limits, "")


def _packed_bytes(
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    shape: list[int],
    dtype: torch.dtype,
    *,
    padding: int = 0,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = False,
    add: bool = False,
) -> Callable[..., Tensor]:
    """The same of bytes and whole weights, -127..127, of a scale for each output; the result is in `dtype`.

    With `add`, it is called with a tensor of floats as well, to which it adds before the ReLU.
    """
    way = [stride, stride], [padding, padding], [dilation, dilation], groups
    laid_out = torch.ops.onednn.qconv_prepack(weight, scales, 1.0, 0, *way, shape)
    zeros, then = torch.zeros(len(scales), dtype=torch.int32), "relu" if relu else "none"
    if add:
        return lambda x, total: torch.ops.onednn.qconv2d_pointwise.binary(
            x, 1.0, 0, laid_out, scales, zeros, total, bias, *way, 1.0, 0, dtype, 1.0, 0, "sum", None, then, [], None
        )
    return lambda x: torch.ops.onednn.qconv_pointwise(
        x, 1.0, 0, laid_out, scales, zeros, bias, *way, 1.0, 0, dtype, then, [], ""
    )


def _to_bytes(kernel: Tensor, rates: Tensor, size: torch.Size, dtype: torch.dtype) -> Steps:
    """A depthwise convolution of floats H x W, or its border around them for more than one weight, to bytes."""
    halves = dtype == torch.bfloat16
    offset, limits = (-BELOW, (-MIDDLE, MIDDLE - 1)) if halves else (0.5, (0, LARGEST))
    channels, border = len(rates), 2 * (kernel.shape[-1] - 1)
    call = _packed(
        (kernel * rates[:, None, None])[:, None].to(dtype),
        torch.full((channels,), offset),
        [1, channels, size[0] + border, size[1] + border],
        groups=channels,
        clamp=limits,
    )
    if halves:
        return lambda x: call(x).to(torch.int8).view(torch.uint8).bitwise_xor_(MIDDLE)
    return lambda x: call(x).to(torch.uint8)


def _corner_kernels() -> Tensor:
    """Bilinear doubling as four kernels of 2 x 2, in sixteenths, in the order of CORNERS: 4 x 2 x 2."""
    weights = torch.tensor([[FAR, NEAR], [NEAR, FAR]], dtype=torch.float32)
    return torch.stack([torch.outer(weights[row], weights[column]) for row, column in CORNERS])


@cache
def _doublers(channels: int, size: torch.Size, dtype: torch.dtype) -> list[Steps]:
    """The four steps for floats."""
    shape = [1, channels, size[0] + 2, size[1] + 2]
    kernels = (_corner_kernels() / SIXTEENTHS).to(dtype)
    return [_packed(kernel.expand(channels, 1, 2, 2), None, shape, groups=channels) for kernel in kernels]


@cache
def _byte_doublers(channels: int, size: torch.Size) -> list[Steps]:
    """The same for bytes, which keep their rates."""
    shape, scales = [1, channels, size[0] + 2, size[1] + 2], torch.full((channels,), 1 / SIXTEENTHS)
    return [
        _packed_bytes(
            kernel.to(torch.int8).expand(channels, 1, 2, 2).contiguous(),
            scales,
            None,
            shape,
            torch.uint8,
            groups=channels,
        )
        for kernel in _corner_kernels()
    ]


def _join(deep: Tensor, skip: Tensor) -> Tensor:
    """Floats: the channels of `deep`, doubled where it is smaller, and after them those of `skip`."""
    if deep.shape[2:] == skip.shape[2:]:
        return torch.cat((deep, skip), 1)
    joined = _empty_join(deep, skip, deep.dtype)
    _put_doubled(joined[..., : deep.shape[1]], deep, _doublers(deep.shape[1], deep.shape[2:], deep.dtype))
    joined[..., deep.shape[1] :] = skip.permute(0, 2, 3, 1)
    return joined.permute(0, 3, 1, 2)


def _empty_join(deep: Tensor, skip: Tensor, dtype: torch.dtype) -> Tensor:
    """Room for both, N x H x W x C."""
    images, channels, height, width = skip.shape
    return torch.empty((images, height, width, deep.shape[1] + channels), dtype=dtype)


def _put_doubled(out: Tensor, x: Tensor, steps: list[Steps]) -> None:
    """`x` N x C x h x w to `out` N x 2h x 2w x C, where it may be among other channels.

    At half the time of `F.interpolate` and a concatenation in bf16, and rounded once: oneDNN's depthwise convolutions
    go at the speed of memory, where PyTorch's enlarging computes.
    """
    height, width = x.shape[2:]
    for (row, column), piece in zip(CORNERS, _pieces(x, steps), strict=True):
        out[:, row::2, column::2] = piece[:, row : row + height, column : column + width]


def _pieces(x: Tensor, steps: list[Steps]) -> Iterator[Tensor]:
    """What each step makes of `x` with its border repeated around it, N x (h + 1) x (w + 1) x C."""
    images, channels, height, width = x.shape
    inner = x.permute(0, 2, 3, 1)
    around = torch.empty((images, height + 2, width + 2, channels), dtype=x.dtype)
    around[:, 1:-1, 1:-1] = inner
    around[:, 1:-1, 0], around[:, 1:-1, -1] = inner[:, :, 0], inner[:, :, -1]
    around[:, 0], around[:, -1] = around[:, 1], around[:, -2]
    for step in steps:
        yield step(around.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
