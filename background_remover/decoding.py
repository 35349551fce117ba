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
import resource
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import IO, Any, cast

import numpy as np

from background_remover import photos
from background_remover.allocator import keep_freed_memory, trim_memory
from background_remover.photos import Photo, PhotoHeader
from utilities import PhotoError

WORKERS = 4  # processes at most; 50 MB each while they have nothing to do
WARM = 2  # of them that are started at once
SECONDS = 10.0  # for one file
SECONDS_WHILE_OTHERS_WAIT = 2.0  # a photo of 64 megapixels takes one or two
MEMORY = 1536 << 20  # bytes that a worker may have of its own: 64 megapixels of 16 bits with alpha, twice
LARGE = 64 << 20  # bytes of a photo from which what it needed is given back to the system
POLL = 0.1  # seconds between two looks at whether somebody still waits

TOO_SLOW = "This photo takes too long to open: save it again as an ordinary JPEG or PNG."
CANNOT = "This photo can't be opened within the memory that there is for one: make it smaller first."


def nobody_left() -> None:
    """For whoever does not care whether anybody still waits."""


class Decoder:
    """Opens photos in worker processes; from any thread.

    `max_pixels` and `max_bytes` are those of `open_photo`; `others_wait` says whether somebody waits for what the
    one whose photo is being opened has, beside those who wait for a worker.
    """

    def __init__(
        self,
        max_pixels: int = photos.MAX_PIXELS,
        max_bytes: int = photos.MAX_BYTES,
        others_wait: Callable[[], bool] = lambda: False,
    ) -> None:
        self._others_wait = others_wait
        self._limits = {"max_pixels": max_pixels, "max_bytes": max_bytes}
        self._arena_size = max_pixels * 8 + (64 << 20)  # 16 bits with alpha, and the rest
        self._free: list[Worker] = []
        self._busy: list[Worker] = []
        self._changed = threading.Condition()
        self._waiting = 0
        self._closed = False
        for _ in range(WARM):
            self._free.append(Worker(self._arena_size))

    def measure(self, path: str, check: Callable[[], None] = nobody_left) -> PhotoHeader:
        """What a file says of itself, before any pixel is decoded. Raises PhotoError."""
        return PhotoHeader(**self._ask("measure", path, check)[0])

    def open(self, path: str, check: Callable[[], None] = nobody_left) -> Photo:
        """The photo in a file.

        `check` is called while it waits, and may raise to end that. Raises PhotoError: that of `open_photo`, or that
        it takes longer than SECONDS (SECONDS_WHILE_OTHERS_WAIT, while they do) or more memory than MEMORY.
        """
        values, arrays = self._ask("open", path, check)
        return Photo(**values, **arrays)

    def close(self) -> None:
        """End all workers; what they have in hand fails."""
        with self._changed:
            self._closed = True
            for worker in (*self._free, *self._busy):
                worker.kill()

    def _ask(self, what: str, path: str, check: Callable[[], None]) -> tuple[dict[str, Any], dict[str, Any]]:
        worker = self._take(check)
        try:
            worker.send({"what": what, "path": path, **self._limits})
            answer = worker.receive(check, lambda: self._waiting > 0 or self._others_wait())
            if "error" in answer:
                raise PhotoError(answer["error"])
            return answer["values"], worker.read(answer["arrays"])
        finally:
            with self._changed:
                self._busy.remove(worker)
                if worker.alive and not self._closed:
                    self._free.append(worker)
                self._changed.notify()

    def _take(self, check: Callable[[], None]) -> Worker:
        """A worker with nothing to do."""
        with self._changed:
            self._waiting += 1
            try:
                while not self._free and len(self._busy) >= WORKERS:
                    self._changed.wait(POLL)
                    check()
            finally:
                self._waiting -= 1
            worker = self._free.pop() if self._free else Worker(self._arena_size)
            self._busy.append(worker)
            return worker


class Worker:
    """One process, and the memory that is shared with it."""

    def __init__(self, arena_size: int) -> None:
        self.alive = True
        self._size = arena_size
        self._file = open_shared(arena_size)
        self._arena = mmap.mmap(self._file.fileno(), arena_size)
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from background_remover.decoding import work; work()", str(self._file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=[self._file.fileno()],
            env=bare_environment(),
        )
        self._requests = cast(IO[bytes], self._process.stdin)
        self._answers = cast(IO[bytes], self._process.stdout)

    def send(self, request: dict[str, Any]) -> None:
        """Give it something to do. Raises PhotoError if it has died meanwhile."""
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
        except OSError as error:
            self.kill()
            raise PhotoError(CANNOT) from error

    def receive(self, check: Callable[[], None], others_wait: Callable[[], bool]) -> dict[str, Any]:
        """What it answers. Kills it, and raises, if it dies, takes too long, or nobody waits for it any longer."""
        start, line = time.monotonic(), b""
        try:
            while not line.endswith(b"\n"):
                seconds = time.monotonic() - start
                if seconds > (SECONDS_WHILE_OTHERS_WAIT if others_wait() else SECONDS):
                    raise PhotoError(TOO_SLOW)
                if seconds > SECONDS_WHILE_OTHERS_WAIT:
                    check()
                if select.select([self._answers], [], [], POLL)[0]:
                    part = os.read(self._answers.fileno(), 1 << 16)
                    if not part:
                        raise PhotoError(CANNOT)
                    line += part
        except BaseException:
            self.kill()
            raise
        answer: dict[str, Any] = json.loads(line)
        return answer

    def read(self, places: dict[str, list[Any]]) -> dict[str, Any]:
        """Copies of the arrays and bytes that it left in the shared memory."""
        found: dict[str, Any] = {}
        end = 0
        for name, (kind, shape, start) in places.items():
            dtype = np.dtype({"bytes": "uint8"}.get(kind, kind))
            count = math.prod(shape)
            end = start + count * dtype.itemsize
            view = np.frombuffer(self._arena, dtype, count, start)
            found[name] = view.tobytes() if kind == "bytes" else view.reshape(shape).copy()
            del view
        if end > LARGE:
            os.truncate(self._file.fileno(), 0)
            os.truncate(self._file.fileno(), self._size)
        return found

    def kill(self) -> None:
        """End it at once."""
        self.alive = False
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(OSError):
            self._process.communicate()  # closes the pipes
        self._file.close()


def open_shared(size: int) -> IO[bytes]:
    """A file of that size in memory, or where there is none such on the disk, without a name; it holds no pages yet."""
    if hasattr(os, "memfd_create"):
        file: IO[bytes] = os.fdopen(os.memfd_create("photo"), "r+b", 0)
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
    keep_freed_memory()
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    for line in sys.stdin.buffer:
        answer = answer_to(json.loads(line), arena)
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
        if answer.get("end", 0) > LARGE:
            trim_memory()


def answer_to(request: dict[str, Any], arena: mmap.mmap) -> dict[str, Any]:
    """What the request comes to, as JSON; arrays are left in the arena."""
    limits = {name: request[name] for name in ("max_pixels", "max_bytes")}
    try:
        if request["what"] == "measure":
            return {"values": dataclasses.asdict(photos.measure_photo(request["path"], **limits)), "arrays": {}}
        return leave(photos.open_photo(request["path"], **limits), arena)
    except PhotoError as error:
        return {"error": str(error)}
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
        places[name] = ["bytes" if isinstance(value, bytes) else array.dtype.str, array.shape, start]
        np.frombuffer(arena, array.dtype, array.size, start).reshape(array.shape)[...] = array
        start += -(-array.nbytes // 64) * 64
    return {"values": values, "arrays": places, "end": start}


def limit_process() -> None:
    """No more memory than MEMORY, no file written, no process started; below everybody else."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with(parent: int) -> None:
    """End this process soon after its parent, whatever a decoder is doing."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
