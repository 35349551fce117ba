"""Photos opened in processes of their own, which can be killed: a file that takes for ever, or all memory, or that
finds a hole in a decoder, harms nothing but the one who sent it.

A worker is given the path of a file, opens it with `photos.open_photo`, and leaves the pixels in memory that both
processes share; all else goes to and fro as lines of JSON, from which nothing can be run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import mmap
import os
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from background_remover import photos
from background_remover.allocator import trim_memory
from background_remover.decoding import Photo, Pixels
from background_remover.depth import Deep
from background_remover.kinds import NotAPhotoError, TooLargeError
from background_remover.photos import PhotoHeader
from background_remover.scheduler import ENDING
from background_remover.stages import stage
from utilities import PhotoError

try:
    import fcntl
    import resource
except ImportError:  # on Windows there is neither
    BOUNDED = False
else:
    BOUNDED = True  # whether this system can bound a process

WORKERS = 4  # processes at most; 50 MB each while they have nothing to do
WARM = 2  # of them that are started at once
SECONDS = 10.0  # for one file
STARTING = 60.0  # for a worker to start, on a machine that has much else to do
SECONDS_WHILE_OTHERS_WAIT = 2.0  # a photo of 64 megapixels takes one or two
LONG = 1.0  # seconds for which somebody has to wait for that
MEMORY = 1 << 30  # bytes that a worker may have of its own: 64 megapixels with alpha, or 45 of 16 bits
NICE = 10  # of a worker
LARGE = 64 << 20  # bytes of a photo from which what it needed is given back to the system
LONGEST_ERROR = 300  # characters of a sentence
MAX_ANSWER = 1 << 16  # bytes of a worker's answer, all but the pixels
POLL = 0.1  # seconds between two looks at whether somebody still waits

TOO_SLOW = "This photo takes too long to open: save it again as an ordinary JPEG or PNG."
CANNOT = "This photo can't be opened within the memory that there is for one: make it smaller first."

ERRORS = {error.__name__: error for error in (PhotoError, NotAPhotoError, TooLargeError)}
KINDS = {"bytes": "uint8", "uint8": "uint8", "uint16": "uint16"}  # of what is shared, and how its numbers are kept

Answer = TypeVar("Answer")


def nobody_left() -> None:
    """For whoever does not care whether anybody still waits."""


class Sandbox:
    """Opens photos in worker processes, or in this one where a system can't bound others; from any thread.

    `max_pixels` and `max_bytes` are those of `open_photo`.
    """

    def __init__(
        self,
        max_pixels: int = photos.MAX_PIXELS,
        max_bytes: int = photos.MAX_BYTES,
    ) -> None:
        self.limits = {"max_pixels": max_pixels, "max_bytes": max_bytes}
        self._arena_size = max_pixels * 10 + (64 << 20)  # 8 and 16 bits, alpha, and the rest
        self._free: list[Worker] = []
        self._busy: list[Worker] = []
        self._changed = threading.Condition()
        self._waiting: list[float] = []  # for a worker, since when
        self._closed = False
        for _ in range(WARM if BOUNDED else 0):
            self._free.append(Worker(self._arena_size))

    def measure(self, path: str, check: Callable[[], None] = nobody_left) -> PhotoHeader:
        """What a file says of itself, before any pixel is decoded. Raises PhotoError."""
        if not BOUNDED:
            return photos.measure_photo(path, **self.limits)
        return self._ask("measure", path, check, read_header)

    def open(self, path: str, check: Callable[[], None] = nobody_left) -> Photo:
        """The photo in a file.

        `check` is called while it waits, and may raise to end that. Raises PhotoError: that of `open_photo`, or that
        it takes longer than SECONDS (SECONDS_WHILE_OTHERS_WAIT, while they do) or more memory than MEMORY.
        """
        if not BOUNDED:
            return photos.open_photo(path, **self.limits)
        with stage("open"):
            return self._ask("open", path, check, read_photo)

    def close(self) -> None:
        """End all workers, and start no more; what they have in hand fails."""
        with self._changed:
            self._closed = True
            for worker in self._busy:
                worker.stop()
            while self._free:
                self._free.pop().kill()
            self._changed.notify_all()

    def _ask(self, what: str, path: str, check: Callable[[], None], read: Callable[..., Answer]) -> Answer:
        worker = self._take(check)
        try:
            worker.send({"what": what, "path": path, **self.limits}, check)
            return worker.read(worker.receive(check, self._seconds), read)
        except PhotoError:
            if self._closed:  # and the worker was ended for that
                raise PhotoError(ENDING) from None
            raise
        finally:
            with self._changed:
                self._busy.remove(worker)
                stays = worker.alive and not self._closed
                if stays:
                    self._free.append(worker)
                self._changed.notify()
            if not stays:
                worker.kill()

    def _seconds(self) -> float:
        """What a photo may take."""
        return SECONDS_WHILE_OTHERS_WAIT if self._others_wait() else SECONDS

    def _others_wait(self) -> bool:
        """Whether somebody has waited for a worker for long."""
        return time.monotonic() - min(self._waiting, default=math.inf) > LONG

    def _take(self, check: Callable[[], None]) -> Worker:
        """A worker with nothing to do."""
        with self._changed:
            since = time.monotonic()
            self._waiting.append(since)
            try:
                while not (self._free or self._closed) and len(self._busy) >= WORKERS:
                    self._changed.wait(POLL)
                    check()
            finally:
                self._waiting.remove(since)
            if self._closed:
                raise PhotoError(ENDING)
            while self._free and not self._free[-1].idles():  # the system may have ended it, for its memory
                self._free.pop().kill()
            worker = self._free.pop() if self._free else Worker(self._arena_size)
            self._busy.append(worker)
            return worker


class Worker:
    """One process, and the memory that is shared with it."""

    def __init__(self, arena_size: int) -> None:
        self.alive = True
        self._ready = False
        self._file = open_shared(arena_size)
        self._arena = mmap.mmap(self._file.fileno(), arena_size)
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from background_remover.sandbox import work; work()", str(self._file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._file.fileno()],
            env=bare_environment(),
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    def idles(self) -> bool:
        """Whether it waits for something to do: it has not ended, and says nothing that it was not asked for."""
        return self._process.poll() is None and not (self._ready and self._speaks(0))

    def _speaks(self, seconds: float) -> bool:
        """Whether there is something to read within that time; `select` takes no descriptor above 1023."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return bool(poll.poll(seconds * 1000))

    def send(self, request: dict[str, Any], check: Callable[[], None]) -> None:
        """Give it something to do, once it has started, which is not counted as the photo's time.

        Raises PhotoError if it has died meanwhile.
        """
        if not self._ready:
            self.receive(check, lambda: STARTING)
            self._ready = True
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except OSError as error:
            self.kill()
            raise PhotoError(CANNOT) from error

    def receive(self, check: Callable[[], None], most: Callable[[], float]) -> bytes:
        """What it answers within `most` seconds.

        Kills it, and raises, if it dies, takes longer, or nobody waits for it any longer.
        """
        start, line = time.monotonic(), b""
        try:
            while not line.endswith(b"\n"):
                seconds = time.monotonic() - start
                if seconds > most():
                    raise PhotoError(TOO_SLOW)
                if seconds > SECONDS_WHILE_OTHERS_WAIT:
                    check()
                if self._speaks(POLL):
                    part = os.read(self._answers.fileno(), MAX_ANSWER)
                    if not part or len(line) + len(part) > MAX_ANSWER:
                        raise PhotoError(CANNOT)
                    line += part
        except BaseException:
            self.kill()
            raise
        return line

    def read(self, line: bytes, read: Callable[..., Answer]) -> Answer:
        """What `read` makes of an answer, the arrays and bytes in the shared memory copied.

        Raises PhotoError: the one in the answer, or, for what no sound worker answers, another; then it is killed.
        """
        try:
            answer = dict(json.loads(line))
            told, kind = answer.get("error"), str(answer.get("kind"))
            if told is None:
                arrays = {name: self._copy(*place) for name, place in answer["arrays"].items()}
                found = read(**answer["values"], **arrays)
                if int(answer.get("end", 0)) > LARGE and hasattr(mmap, "MADV_REMOVE"):
                    self._arena.madvise(mmap.MADV_REMOVE)
        except Exception as error:
            self.kill()
            raise PhotoError(CANNOT) from error
        if told is not None:
            raise ERRORS.get(kind, PhotoError)(str(told)[:LONGEST_ERROR])
        return found

    def _copy(self, kind: str, shape: list[int], start: int) -> NDArray[Any] | bytes:
        if min(shape) < 1:
            raise ValueError
        dtype = np.dtype(KINDS[kind])
        view = np.frombuffer(self._arena, dtype, math.prod(shape), start)
        return view.tobytes() if kind == "bytes" else view.reshape(shape).copy()

    def stop(self) -> None:
        """End its process; from any thread, while another waits for its answer."""
        self._process.kill()

    def kill(self) -> None:
        """End it at once, and give back what it has."""
        if not self.alive:
            return
        self.alive = False
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._answers, self._file):
            with contextlib.suppress(OSError):
                pipe.close()
        with contextlib.suppress(BufferError):  # an error that is being told of may hold a view
            self._arena.close()


def read_header(size: list[int], format: str, byte_count: int) -> PhotoHeader:  # noqa: A002  # the field's name
    """A header from its values in JSON. Raises an error for what can be none."""
    width, height = size
    if min(width, height, byte_count) < 1:
        raise ValueError
    return PhotoHeader((int(width), int(height)), str(format), int(byte_count))


def read_photo(
    rgb: Pixels,
    *,
    alpha: Pixels | None = None,
    icc: bytes | None = None,
    deep: Deep | None = None,
    dpi: list[float] | None = None,
    format: str = "",  # noqa: A002  # the field's name
) -> Photo:
    """A photo from its parts. Raises an error if they don't fit."""
    if rgb.shape[2:] != (3,) or rgb.dtype != np.uint8:
        raise ValueError
    if alpha is not None and (alpha.shape != rgb.shape[:2] or alpha.dtype != np.uint8):
        raise ValueError
    if deep is not None and (deep.shape != rgb.shape or deep.dtype != np.uint16):
        raise ValueError
    across_and_down = None if dpi is None else (float(dpi[0]), float(dpi[1]))
    return Photo(rgb, alpha, icc, deep, across_and_down, str(format))


def open_shared(size: int) -> IO[bytes]:
    """A file of that size in memory, or where there is none such on the disk, without a name; it holds no pages yet.

    It stays of that size: a worker that made it shorter would end whoever reads where it ended before.
    """
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("photo", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "r+b", 0)
        file.truncate(size)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    else:
        file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115  # it is closed with its worker
        file.truncate(size)
    return file


def bare_environment() -> dict[str, str]:
    """What a worker needs of the environment; no tokens are in it."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH") if name in os.environ}
    return kept | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)) or ".", "OMP_NUM_THREADS": "1"}


# --- in the worker ---


def work() -> None:
    """Open what is asked for until there is nobody to ask."""
    arena = mmap.mmap(int(sys.argv[1]), 0)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a decoder prints is no answer
    limit_process()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    tell(answers, {})  # it has started
    for line in sys.stdin.buffer:
        answer = answer_to(json.loads(line), arena)
        tell(answers, answer)
        trim_memory()


def tell(answers: IO[bytes], answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()


def answer_to(request: dict[str, Any], arena: mmap.mmap) -> dict[str, Any]:
    """What the request comes to, as JSON; arrays are left in the arena."""
    limits = {name: request[name] for name in ("max_pixels", "max_bytes")}
    try:
        if request["what"] == "measure":
            return {"values": dataclasses.asdict(photos.measure_photo(request["path"], **limits)), "arrays": {}}
        return leave(photos.open_photo(request["path"], **limits), arena)
    except PhotoError as error:
        if isinstance(error.__cause__, MemoryError):
            return {"error": CANNOT}
        return {"error": str(error), "kind": type(error).__name__}
    except MemoryError:
        return {"error": CANNOT}


def leave(photo: Photo, arena: mmap.mmap) -> dict[str, Any]:
    """A photo's arrays and bytes in the arena, and where they are; its other values as they are."""
    values, places, start = {}, {}, 0
    for name, value in vars(photo).items():
        if not isinstance(value, np.ndarray | bytes):
            values[name] = value
            continue
        array = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
        places[name] = ["bytes" if isinstance(value, bytes) else array.dtype.name, array.shape, start]
        np.frombuffer(arena, array.dtype, array.size, start).reshape(array.shape)[...] = array
        start += -(-array.nbytes // 64) * 64
    return {"values": values, "arrays": places, "end": start}


def limit_process() -> None:
    """No more memory than MEMORY, no byte written to a file, and the network goes first."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with(parent: int) -> None:
    """End this process soon after its parent, whatever a decoder is doing."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
