"""Which convolutions run in 8 bits, and at what rates: how many steps of a byte there are to 1, for each channel.

A byte has 255 steps for what a channel reaches, and where to end is the whole question. In the encoder a channel's
largest value is little more than usual, and what is cut off there moves the matte. In the decoder it is up to hundreds
of times the usual, in places that are decided long before: there a channel ends below what a thousandth of its pixels
reach. Channels of one tensor are drawn towards the largest of them, so that rare large values of small ones are kept.
Both were found with benchmarks/precision.py, which also gave the list: what moved the matte most for the time that it
saved is left out. It was measured on photos that the rates do not come from.

Rates belong to one set of weights, see `calibration`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from background_remover.channels import sources
from briarmbg import DECODER, ENCODER

# Of each stage, the convolutions that run in 8 bits: 62 % of the network's operations.
INT8 = {
    "stage1": ("in", "2", "3d", "2d", "1d"),
    "stage2": ("1", "2d", "1d"),
    "stage3": ("in", "1", "2d", "1d"),
    "stage4": ("in", "1", "2d", "1d"),
    "stage5": ("1", "2", "3", "4", "3d", "2d"),
    "stage3d": ("2d",),
    "stage2d": ("in", "1", "2d", "1d"),
    "stage1d": ("in", "1", "2d", "1d"),
}
FIRST = "stage1.rebnconvin"  # it reads the photo itself
# Where the floats beside them would be fp32: those in two bytes, instead of one or of floats. Not the sixth stage,
# which sees the photo as 16 x 16 and decides what is subject: 1.6 % of the operations. Nor is FIRST in bytes there:
# that moved the worst matte by more than 1 of 255.
_ALL = ("in", "1", "2", "3", "4", "3d", "2d", "1d")
TWO_BYTES: dict[str, tuple[str, ...]] = {
    "stage2": ("in",),
    "stage5": _ALL,
    "stage5d": _ALL,
    "stage4d": ("in", "1", "2d", "1d"),
    "stage3d": ("in", "1", "2d", "1d"),
}
FAR_ABOVE = 2.0  # how many times the usual the largest value of a decoder's channels is
CUT = 0.75  # of the usual where such a channel ends
DRAWN = 0.4  # how far a channel is drawn towards the largest of its tensor, as an exponent
LEAST = 1e-3  # of the largest channel that every channel has at least
MANTISSA = 8  # rates are 8..15 times a power of two: so they and their products with 9, 3 and 1 are exact in bf16
EXPONENTS = 16  # of rates, from -16 to 15, in a byte with the mantissa

Rates = dict[str, Tensor]


def names(table: dict[str, tuple[str, ...]]) -> list[str]:
    """The convolutions of INT8 or TWO_BYTES, by their blocks' names."""
    return [f"{stage}.rebnconv{level}" for stage, levels in table.items() for level in levels]


def chosen(floats: torch.dtype) -> tuple[list[str], list[str]]:
    """The convolutions in a byte, and those in two, where the others are in such floats."""
    if floats != torch.float32:
        return names(INT8), []
    wider = names(TWO_BYTES)
    return [name for name in names(INT8) if name not in wider and name != FIRST], wider


def read_by(net: nn.Module) -> list[str]:
    """The modules that convolutions in a byte or two read; the photo needs no rates."""
    read = {source for name in (*names(INT8), *names(TWO_BYTES)) for source in sources(net, name)}
    return sorted(read - {"conv_in"})


def only_bytes(net: nn.Module, chosen: Collection[str]) -> set[str]:
    """Of the convolutions in 8 bits, those that nothing reads but others of them."""
    mixed = {f"{stage}.rebnconv{end}" for stage in (*ENCODER, *DECODER) for end in ("in", "1d")}  # which are added up
    for stage in (*ENCODER, *DECODER):
        for block, _ in net.get_submodule(stage).named_children():
            if (name := f"{stage}.{block}") not in chosen:
                mixed.update(sources(net, name))
    return set(chosen) - mixed


def rates_of(largest: Tensor, usual: Tensor) -> Tensor:
    """From what the channels reach at most and usually."""
    alive = usual > usual.max() / 100
    ends = CUT * usual if (largest / usual)[alive].median() > FAR_ABOVE else largest
    top = ends.max().clamp_min(torch.finfo(torch.float32).tiny)
    exact = 255 / (ends.clamp_min(LEAST * top) ** (1 - DRAWN) * top**DRAWN)
    return rates_from(codes_of(exact))


def codes_of(rates: Tensor) -> Tensor:
    """In a byte each, exact for what `rates_from` gives."""
    exponents = (rates.log2().floor() - 3).clamp(-EXPONENTS, EXPONENTS - 1)
    mantissas = (rates / 2**exponents).round()
    over = mantissas == 2 * MANTISSA
    exponents, mantissas = exponents + over, torch.where(over, MANTISSA, mantissas)
    return (8 * (exponents + EXPONENTS) + mantissas - MANTISSA).clamp(0, 255).to(torch.uint8)


def rates_from(codes: Tensor) -> Tensor:
    return (MANTISSA + codes % 8).float() * torch.pow(2.0, codes // 8 - float(EXPONENTS))
