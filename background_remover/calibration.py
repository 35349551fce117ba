"""What is known of a set of weights by running it: the rates of its channels for 8 bits, and which of them are dead.

For IS-Net's general use it lies beside this file. Other weights are run on the example photos when they are first asked
for in int8, and their rates are kept. They keep all their channels: what is dead, more photos have to tell.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from background_remover.channels import Dead, find_dead
from background_remover.quantization import Rates, codes_of, rates_from, rates_of, read_by
from briarmbg import REBNCONV, BriaRMBG

logger = logging.getLogger(__name__)

USUAL = 1e-3  # share of a channel's pixels that are above what is usual
SMALL = 64  # pixels: of larger maps every fourth pixel tells what is usual
PROBES = 512  # values of a tensor at most that the fingerprint has: all of a bias
DEAD = "dead:"  # before a block's name in a file

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Calibration:
    """Of one set of weights. `rates` are byte / value for each module that a convolution in 8 bits reads."""

    rates: Rates
    dead: Dead


def shipped(net: BriaRMBG) -> Calibration | None:
    """What comes with this package, as for IS-Net's weights; the network is as it was loaded.

    By default such weights run in int8 where floats are slow, so there is nothing for weights that
    benchmarks/precision.py did not find good enough for that.
    """
    return _read(Path(__file__).with_name(_name(net)), net)


def calibration_of(net: BriaRMBG, samples: Callable[[], Iterable[Pixels]]) -> Calibration:
    """What is shipped, or was measured before, or else is now, on `samples`, 1024 x 1024 x 3 each, and kept.

    The network is as it was loaded. Raises ValueError where there are no samples.
    """
    kept = Path(constants.HF_HOME) / "rmbg" / _name(net)
    if known := shipped(net) or _read(kept, net):
        return known
    logger.warning("These weights are new in int8: what their channels reach is measured on the example photos, once.")
    measured = replace(measure(net, samples()), dead={})
    with suppress(OSError, SafetensorError):  # then it is measured again next time
        kept.parent.mkdir(parents=True, exist_ok=True)
        write(measured, kept)
    return measured


def fingerprint(net: nn.Module) -> str:
    """Which weights these are, by all biases and statistics, and some of the other values of each tensor."""
    parts = [tensor.flatten()[:: -(-tensor.numel() // PROBES)].float() for tensor in net.state_dict().values()]
    return hashlib.sha256(torch.cat(parts).cpu().numpy().tobytes()).hexdigest()[:16]


@torch.inference_mode()
def measure(net: BriaRMBG, images: Iterable[Pixels]) -> Calibration:
    """By what the channels reach in these images, 1024 x 1024 x 3 each, in fp32.

    The network is put into evaluation mode: else it would measure, and change, the statistics of its own.
    """
    net.eval()
    read = read_by(net)
    blocks = [name for name, block in net.named_modules() if isinstance(block, REBNCONV)]
    peaks: dict[str, Tensor] = {}  # before the ReLU
    largest: dict[str, Tensor] = {}
    usual: dict[str, Tensor] = {}

    def highest(best: dict[str, Tensor], name: str, values: Tensor) -> None:
        best[name] = torch.maximum(best[name], values) if name in best else values.clone()

    def record(name: str, out: Tensor) -> None:
        sparse = (out[0, :, ::2, ::2] if out.shape[2] > SMALL else out[0]).flatten(1)
        top = sparse.topk(max(1, int(sparse.shape[1] * USUAL))).values
        highest(largest, name, out[0].amax((1, 2)))
        highest(usual, name, top[:, -1])

    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: record(name, out)) for name in read
    ] + [
        net.get_submodule(f"{name}.bn_s1").register_forward_hook(
            lambda _, __, out, name=name: highest(peaks, name, out[0].amax((1, 2)))
        )
        for name in blocks
    ]
    try:
        for image in images:
            net.features(torch.tensor(image).permute(2, 0, 1)[np.newaxis].float() / 255 - 0.5)
    finally:
        for hook in hooks:
            hook.remove()
    if not largest:
        raise ValueError("There are no photos to measure on.")
    return Calibration({name: rates_of(largest[name], usual[name]) for name in read}, find_dead(peaks))


def write(calibration: Calibration, file: Path) -> None:
    """Complete or not at all."""
    tensors = {name: codes_of(values) for name, values in calibration.rates.items()}
    tensors |= {DEAD + name: mask for name, mask in calibration.dead.items()}
    partial = file.with_suffix(f".{os.getpid()}")
    try:
        save_file(tensors, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _name(net: BriaRMBG) -> str:
    return f"calibration-{fingerprint(net)}.safetensors"


def _read(file: Path, net: BriaRMBG) -> Calibration | None:
    """None where there is no such file, or a damaged one, or one of another list of convolutions."""
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError):
        return None
    if any(tensor.shape != (_channels(net, name.removeprefix(DEAD)),) for name, tensor in tensors.items()):
        return None
    rates = {name: rates_from(codes) for name, codes in tensors.items() if not name.startswith(DEAD)}
    dead = {name.removeprefix(DEAD): mask for name, mask in tensors.items() if name.startswith(DEAD)}
    return Calibration(rates, dead) if rates.keys() >= set(read_by(net)) else None


def _channels(net: BriaRMBG, name: str) -> int:
    """How many a module gives; 0 if the network has none of that name."""
    try:
        module = net.get_submodule(name)
    except AttributeError:
        return 0
    return next((part.out_channels for part in module.modules() if isinstance(part, nn.Conv2d)), 0)
