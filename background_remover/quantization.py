"""Which convolutions run in 8 bits, and at what rates: how many steps of a byte there are to 1, for each channel.

A byte has 255 steps for what a channel reaches, and where to end is the whole question. In the encoder a channel's
largest value is little more than usual, and what is cut off there moves the matte. In the decoder it is up to hundreds
of times the usual, in places that are decided long before: there a channel ends below what a thousandth of its pixels
reach. Channels of one tensor are drawn towards the largest of them, so that rare large values of small ones are kept.
Both were found with benchmarks/precision.py, which also gave the list: what moved the matte most for the time that it
saved is left out. It was measured on photos that the rates do not come from.

Rates belong to one set of weights. Those of IS-Net's general use lie beside this file; for others they are measured
on the example photos when they are first asked for, and kept.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from briarmbg import DECODER, ENCODER, BriaRMBG

logger = logging.getLogger(__name__)

# Of each stage, the convolutions that run in 8 bits: 57 % of the network's operations.
INT8 = {
    "stage1": ("2", "3d", "2d", "1d"),
    "stage2": ("1", "2d", "1d"),
    "stage3": ("in", "1", "2d", "1d"),
    "stage4": ("in", "1", "2d", "1d"),
    "stage5": ("1", "2", "3", "4", "3d", "2d"),
    "stage3d": ("2d",),
    "stage2d": ("in", "1", "2d", "1d"),
    "stage1d": ("in", "1", "2d", "1d"),
}
# Where the floats beside them would be fp32: those in two bytes, instead of one or of floats. Not the sixth stage,
# which sees the photo as 16 x 16 and decides what is subject: 1.6 % of the operations.
_ALL = ("in", "1", "2", "3", "4", "3d", "2d", "1d")
TWO_BYTES: dict[str, tuple[str, ...]] = {
    "stage2": ("in",),
    "stage5": _ALL,
    "stage5d": _ALL,
    "stage4d": ("in", "1", "2d", "1d"),
    "stage3d": ("in", "1", "2d", "1d"),
}
USUAL = 1e-3  # share of a channel's pixels that are above what is usual
FAR_ABOVE = 2.0  # how many times the usual the largest value of a decoder's channels is
CUT = 0.75  # of the usual where such a channel ends
DRAWN = 0.4  # how far a channel is drawn towards the largest of its tensor, as an exponent
SMALL = 64  # pixels: of larger maps every fourth pixel tells what is usual
LEAST = 1e-3  # of the largest channel that every channel has at least
MANTISSA = 8  # rates are 8..15 times a power of two: so they and their products with 9, 3 and 1 are exact in bf16
EXPONENTS = 16  # of rates, from -16 to 15, in a byte with the mantissa

Pixels = NDArray[np.uint8]
Rates = dict[str, Tensor]


def names(table: dict[str, tuple[str, ...]]) -> list[str]:
    """The convolutions of INT8 or TWO_BYTES, by their blocks' names."""
    return [f"{stage}.rebnconv{level}" for stage, levels in table.items() for level in levels]


def chosen(floats: torch.dtype) -> tuple[list[str], list[str]]:
    """The convolutions in a byte, and those in two, where the others are in such floats."""
    wider = names(TWO_BYTES) if floats == torch.float32 else []
    return [name for name in names(INT8) if name not in wider], wider


def sources(net: nn.Module, name: str) -> list[str]:
    """What a convolution reads, by the modules that give it: one name, or two where they are joined."""
    stage, level = name.split(".rebnconv")
    number = int(stage.removeprefix("stage").removesuffix("d"))
    if level == "in":
        if stage in DECODER:
            return [f"stage{number + 1}d" if f"stage{number + 1}d" in DECODER else f"stage{number + 1}", stage[:-1]]
        return [f"stage{number - 1}" if number > 1 else "conv_in"]
    if level.endswith("d"):
        step = int(level[:-1])
        deepest = step + 1 == net.get_submodule(stage).depth
        return [f"{stage}.rebnconv{step + 1}{'' if deepest else 'd'}", f"{stage}.rebnconv{step}"]
    return [f"{stage}.rebnconv{'in' if level == '1' else int(level) - 1}"]


def _read_by(net: nn.Module) -> list[str]:
    """The modules that convolutions in a byte or two read."""
    return sorted({source for name in (*names(INT8), *names(TWO_BYTES)) for source in sources(net, name)})


def only_bytes(net: nn.Module, chosen: Collection[str]) -> set[str]:
    """Of the convolutions in 8 bits, those that nothing reads but others of them."""
    mixed = {f"{stage}.rebnconv{end}" for stage in (*ENCODER, *DECODER) for end in ("in", "1d")}  # which are added up
    for stage in (*ENCODER, *DECODER):
        for block, _ in net.get_submodule(stage).named_children():
            if (name := f"{stage}.{block}") not in chosen:
                mixed.update(sources(net, name))
    return set(chosen) - mixed


def rates_for(net: BriaRMBG, samples: Callable[[], Iterable[Pixels]]) -> Rates:
    """For each module that a convolution in 8 bits reads: byte / value, by its channels.

    Those of known weights are shipped; others are measured on `samples` once, 1024 x 1024 x 3 each, and kept. The
    network is as it was loaded. Raises ValueError where there are no samples.
    """
    name = f"int8-{fingerprint(net)}.safetensors"
    kept = Path(constants.HF_HOME) / "rmbg" / name
    for file in (Path(__file__).with_name(name), kept):
        if (rates := _read(file)) is not None and rates.keys() >= set(_read_by(net)):
            return rates
    logger.warning("These weights are new in int8: what their channels reach is measured on the example photos, once.")
    rates = measure(net, samples())
    with suppress(OSError, SafetensorError):  # then they are measured again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(rates, kept)
    return rates


def fingerprint(net: nn.Module) -> str:
    """Which weights these are, by all biases and statistics: what training changes is among them."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        if tensor.dim() == 1:
            digest.update(name.encode() + tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.inference_mode()
def measure(net: BriaRMBG, images: Iterable[Pixels]) -> Rates:
    """Rates by what the channels reach in these images, 1024 x 1024 x 3 each, in fp32.

    The network is put into evaluation mode: else it would measure, and change, the statistics of its own.
    """
    net.eval()
    read = _read_by(net)
    largest: Rates = {}
    usual: Rates = {}

    def record(name: str, out: Tensor) -> None:
        sparse = (out[0, :, ::2, ::2] if out.shape[2] > SMALL else out[0]).flatten(1)
        top = sparse.topk(max(1, int(sparse.shape[1] * USUAL))).values
        for best, values in ((largest, out[0].amax((1, 2))), (usual, top[:, -1])):
            best[name] = torch.maximum(best[name], values) if name in best else values.clone()

    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: record(name, out)) for name in read
    ]
    try:
        for image in images:
            net.features(torch.tensor(image).permute(2, 0, 1)[np.newaxis].float() / 255 - 0.5)
    finally:
        for hook in hooks:
            hook.remove()
    if not largest:
        raise ValueError("There are no photos to measure on.")
    return {name: _rates(largest[name], usual[name]) for name in read}


def _rates(largest: Tensor, usual: Tensor) -> Tensor:
    """From what the channels reach at most and usually."""
    alive = usual > usual.max() / 100
    ends = CUT * usual if (largest / usual)[alive].median() > FAR_ABOVE else largest
    top = ends.max().clamp_min(torch.finfo(torch.float32).tiny)
    exact = 255 / (ends.clamp_min(LEAST * top) ** (1 - DRAWN) * top**DRAWN)
    return _from_codes(_codes(exact))


def _codes(rates: Tensor) -> Tensor:
    """In a byte each, exact for what `_from_codes` gives."""
    exponents = (rates.log2().floor() - 3).clamp(-EXPONENTS, EXPONENTS - 1)
    mantissas = (rates / 2**exponents).round()
    over = mantissas == 2 * MANTISSA
    exponents, mantissas = exponents + over, torch.where(over, MANTISSA, mantissas)
    return (8 * (exponents + EXPONENTS) + mantissas - MANTISSA).clamp(0, 255).to(torch.uint8)


def _from_codes(codes: Tensor) -> Tensor:
    return (MANTISSA + codes % 8).float() * torch.pow(2.0, codes // 8 - float(EXPONENTS))


def write(rates: Rates, file: Path) -> None:
    """Complete or not at all."""
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        save_file({name: _codes(values) for name, values in rates.items()}, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _read(file: Path) -> Rates | None:
    """None where there is no such file, or a damaged one."""
    try:
        return {name: _from_codes(codes) for name, codes in load_file(file).items()}
    except (OSError, SafetensorError):
        return None
