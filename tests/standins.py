"""For tests of catalogues: a network that copies, photos that make it do harm, jobs, and who runs.

A photo is bad by its width. The process of a `Cutter` imports this module by its name.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from helpers import encoded
from PIL import Image

from background_remover import BackgroundRemover, Cutout
from background_remover.cutout import Finish
from background_remover.cutters import Job, Order

SLOW = 0.2  # seconds that a slow photo takes
LANES = 3
SOON = 10.0  # seconds; for what takes a fraction of one, on a machine that does something else as well


# --- deeds ---


def sleep() -> None:
    time.sleep(3600)


def hold_the_interpreter() -> None:
    """Sleep in C, so that no other thread of the process runs."""
    ctypes.PyDLL(None).sleep(3600)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def leave() -> None:
    raise SystemExit


def take_all_memory() -> None:
    hoard = []
    while True:
        hoard.append(np.ones(1 << 24, np.uint8))


def run_out_of_memory() -> None:
    raise MemoryError


def break_the_device() -> None:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def raise_something_odd() -> None:
    raise LookupError("nobody expects this")


def be_slow() -> None:
    time.sleep(SLOW)


def print_much() -> None:
    for _ in range(2000):
        os.write(1, b"x" * 79 + b"\n")


DEEDS = [sleep, hold_the_interpreter, kill, crash, leave, take_all_memory, run_out_of_memory, break_the_device]
DEEDS += [raise_something_odd, be_slow, print_much]
WIDTHS = {deed.__name__: 100 + number for number, deed in enumerate(DEEDS)}


# --- networks ---


class Copying(BackgroundRemover):
    """A remover whose mattes are the photos' own green, and which does what is bad by name."""

    def __init__(self, lanes: int = LANES) -> None:
        self.weights = SimpleNamespace(name="stand-in", licence="none", sha256="0")
        self.engine = Engine(lanes)
        self._between_steps = lambda: None

    def __call__(self, photo: Any, **options: bool) -> Cutout:
        for deed in DEEDS:
            if hasattr(photo, "rgb") and WIDTHS[deed.__name__] == photo.shape[1]:
                deed()
        return super().__call__(photo, **options)


class Engine:
    def __init__(self, lanes: int) -> None:
        self.lanes = self.threads = lanes

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return images[..., 1]

    def split(self, count: int) -> int:
        return min(count, self.lanes)

    def one_of(self, lanes: int) -> AbstractContextManager[None]:
        return nullcontext()


def copying(order: Order) -> BackgroundRemover:
    return Copying()


def one_by_one(order: Order) -> BackgroundRemover:
    return Copying(1)


def without_attributes(order: Order) -> BackgroundRemover:
    """As on a file system that keeps none."""
    del os.setxattr, os.getxattr
    return Copying()


def while_it_is_there(order: Order) -> BackgroundRemover:
    """Only while the file that stands for the weights is there."""
    if not Path(order.weights or "").exists():
        raise FileNotFoundError("The weights are gone: put them back.")
    return Copying()


def at_the_third_try(order: Order) -> BackgroundRemover:
    """Ended twice before, as by a system that is short of memory; each try leaves a byte in a file."""
    with Path(order.weights or "").open("ab", buffering=0) as file:
        file.write(b".")
        if file.tell() < 3:
            kill()
    return Copying()


def never(order: Order) -> BackgroundRemover:
    os._exit(3)


# --- photos, jobs, results ---


def photo(seed: int = 0, deed: str = "", size: tuple[int, int] = (24, 16)) -> bytes:
    """The file of a photo that is like no other, or of a bad one."""
    width, height = (WIDTHS[deed], 16) if deed else size
    noise = np.random.default_rng(seed).integers(130, 256, (height, width, 3), np.uint8)
    return encoded(Image.fromarray(noise), "PNG")


def job(number: int, deed: str = "", **more: Any) -> Job:
    """A job that brings its bytes."""
    name = f"{number}.png"
    return Job(str(number), f"photos/{name}", -1, 0, "1-1", name, photo(number, deed))._replace(**more)


def result(data: bytes | Path, remover: Callable[[Any], Cutout] | None = None, finish: Finish | None = None) -> bytes:
    """The file that the library makes of a photo."""
    buffer = io.BytesIO()
    (finish or Finish()).save((remover or Copying())(data), buffer)
    return buffer.getvalue()


# --- processes ---


def children() -> set[int]:
    """The processes that were started here, and that have not ended."""
    lists = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return {int(pid) for pids in lists for pid in pids if runs(int(pid))}


def runs(pid: int) -> bool:
    """Whether a process has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until(condition: Callable[[], object], seconds: float = SOON) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())
