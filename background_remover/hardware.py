"""What this machine computes in: which device, and which precision on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable

import torch

from background_remover.onednn import can_pack

FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = (*FLOATS, "int8")  # int8 is for most of the network; the rest is in what is quickest of the others
# By these variables, of which the first counts, oneDNN is kept from instructions that the processor has: up to those
# named here it has no VNNI, or no bf16.
LIMITS = "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"
NO_BYTES = ("SSE41", "AVX", "AVX2", "AVX512_CORE")
NO_HALVES = (*NO_BYTES, "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI")
# Whether an x86 processor computes in it. One that does not takes ten times as long as in fp32 for half precision, or
# fails, and saves little in int8.
SUPPORTED: dict[str, Callable[[], bool]] = {
    "fp32": lambda: True,
    "bf16": lambda: bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    "fp16": lambda: bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
    "int8": lambda: can_pack() and any(map(_cpu().get, ("avx512_vnni", "avx_vnni"))) and _limit() not in NO_BYTES,
}


class EngineError(RuntimeError):
    """The network can't be run here as asked. One sentence: what is wrong and what to do."""


def choose_device(name: str | None) -> torch.device:
    """The device of that name, or else CUDA if there, Apple's MPS, the CPU. Raises EngineError."""
    if name is None:
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # which one depends on the device that is not there
        raise EngineError(f"There is no device '{name}' here: set RMBG_DEVICE to cpu, cuda or mps.") from error
    return device


def choose_precision(name: str | None, device: torch.device, *, known: bool = False) -> str:
    """One of PRECISIONS: that one, or else the quickest that keeps the matte.

    `known` says that the weights are to be packed, and that what int8 needs to know of them comes with the package: so
    their mattes in it were measured. Raises EngineError.
    """
    if name is None:
        if device.type == "cuda":
            return "fp16"  # as quick as bf16, a tenth of its error; IS-Net's features are far from where it ends
        floats = native_floats() if device.type == "cpu" else "fp32"
        # Bytes take half of fp32's time, and three quarters of bf16's, which moves the matte less.
        return "int8" if floats == "fp32" and known and SUPPORTED["int8"]() else floats
    if name not in PRECISIONS:
        raise EngineError(f"There is no precision '{name}': set RMBG_PRECISION to one of {', '.join(PRECISIONS)}.")
    if name == "int8" and not (device.type == "cpu" and is_x86()):
        raise EngineError("int8 is for x86 processors alone: set RMBG_PRECISION to bf16 or fp32, or leave it unset.")
    if device.type == "cpu" and is_x86() and not SUPPORTED[name]():
        raise EngineError(f"This processor does not compute in {name}: set RMBG_PRECISION to fp32, or leave it unset.")
    return name


def native_floats() -> str:
    """The quickest floats that this processor computes in."""
    native = any(_cpu().get(way) for way in ("avx512_bf16", "amx_bf16", "bf16"))
    return "bf16" if native and _limit() not in NO_HALVES else "fp32"


def cpu_name() -> str:
    return str(_cpu().get("cpu_name") or platform.machine())


def is_x86() -> bool:
    """Whether oneDNN has its own convolutions here, with which half precision is either fast or forbidden."""
    return platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _limit() -> str:
    """The last instructions that oneDNN may use; what is no name of any is no limit."""
    return next((value.upper() for name in LIMITS if (value := os.environ.get(name))), "")


def _cpu() -> dict[str, object]:
    """What torch knows of this processor."""
    return dict(getattr(torch.cpu, "get_capabilities", dict)())  # not there before version 2.11
