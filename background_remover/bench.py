"""Where photos of a catalogue are cut out: the inside of the process that a `Cutter` starts, and starts again."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import io
import json
import logging
import os
import pickle
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from background_remover import stages, storage
from background_remover.allocator import keep_freed_memory
from background_remover.cutout import Cutout
from background_remover.cutters import OWN, Job, Order, new_row
from background_remover.decoding import Photo
from background_remover.downloads import WeightsError
from background_remover.outputs import Task, is_whole, read_origin
from background_remover.photos import measure_photo, open_photo
from background_remover.pipeline import NOTHING_FOUND, BackgroundRemover
from utilities import PhotoError

logger = logging.getLogger(__name__)

LONGEST_SENTENCE = 1000  # characters of a reason
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what no other photo's result would fare better with
PR_SET_PDEATHSIG = 1  # from sys/prctl.h


def work(comes: int, goes: int) -> None:
    """Work on what comes through one descriptor until it ends, and answer through the other."""
    end_with_parent()
    keep_freed_memory()
    try:
        _Bench(os.fdopen(comes, "rb"), os.fdopen(goes, "wb")).run()
    except BaseException:
        logger.exception("The work on photos has ended")
    os._exit(1)  # whatever other threads still do


def end_with_parent() -> None:
    """Have the system end this process with the one that started it, whatever code runs here then; on Linux alone.

    Elsewhere it ends as soon as a thread can run that sees it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def load(order: Order) -> BackgroundRemover:
    """The network that an order asks for. Raises WeightsError, EngineError."""
    if order.share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(order.share)
    remover = BackgroundRemover.from_pretrained(order.weights, order.device, order.precision)
    if order.sha256 and remover.weights.sha256 != order.sha256:
        raise WeightsError(
            f"The weights '{order.weights}' differ from machine to machine: give a path that all of them share."
        )
    return remover


class _MadeBeforeError(PhotoError):
    """There is nothing to be made."""


class _Bench:
    """Where the work is done."""

    def __init__(self, comes: BinaryIO, goes: BinaryIO) -> None:
        self._comes, self._goes = comes, goes
        self._order: Order = pickle.load(comes)  # noqa: S301  # of the process that started this one
        self._jobs: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
        self._in_hand: dict[str, tuple[Job, dict[str, Any]]] = {}  # by key, each with its row
        self._mine = threading.local()  # the job that a thread has in hand, and its row
        self._sending = threading.Lock()
        threading.Thread(target=self._receive, daemon=True).start()

    def run(self) -> None:
        """Until there is nobody left who sends."""
        try:
            remover = (self._order.load or load)(self._order)
        except Exception as error:  # WeightsError, EngineError, or what a stand-in raises
            logger.exception("The network can't be loaded")
            self._tell({"error": _short(str(error))})
            return
        stages.observers.append(self._note)
        lanes, weights = remover.engine.split(1 << 20), remover.weights
        self._tell({"lanes": lanes, "weights": weights.name, "licence": weights.licence})
        for outcome in remover.run(self._tasks(), self._save, self._opening, **self._order.cut):
            key = str(outcome.photo)
            _, row = self._in_hand.pop(key)
            data = row.pop("data", None)
            if outcome.path is None and row["status"] not in ("done", "no subject"):
                row |= {"status": row["status"] or "failed", "reason": _short(outcome.reason)}
            said = {name: row[name] for name in row.keys() - set(OWN)}
            self._tell({"key": int(key), **said, "seconds": outcome.seconds}, data)

    def _receive(self) -> None:
        try:
            while True:
                self._jobs.put(pickle.load(self._comes))  # noqa: S301  # as above
        finally:
            os._exit(0)  # whatever is in hand: nobody waits for it

    def _tasks(self) -> Iterator[Task]:
        while True:
            key, job = self._jobs.get()
            self._in_hand[str(key)] = job, new_row(job, self._order)
            yield Task(str(key), Path(job.output))

    @contextmanager
    def _opening(self, key: str) -> Iterator[Photo]:
        job, row = self._in_hand[key]
        self._mine.job, self._mine.row = job, row
        if made := self._made_before(job):
            row |= made
            raise _MadeBeforeError
        try:
            yield self._open(job, row)
        except (MemoryError, RuntimeError, SystemExit):  # torch's are of the second kind
            # The photo may have spoiled more than itself, as a GPU, or have been spoiled: it is tried again elsewhere.
            logger.exception("A photo failed so that the process has to end")
            os._exit(1)

    def _open(self, job: Job, row: dict[str, Any]) -> Photo:
        try:
            data = _read(job)
        except PhotoError as error:  # what can't be had now may be there another time
            row["status"] = "refused" if _is_own(error) and not storage.is_web(job.source) else "failed"
            raise
        try:
            photo = open_photo(data)
        except PhotoError as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from error
            row["status"] = "refused"
            raise
        row["height"], row["width"] = photo.shape
        return photo

    def _made_before(self, job: Job) -> dict[str, Any] | None:
        """What is said of a result that is there already, since a run was killed before it could tell of it."""
        if not self._order.results or storage.is_remote(self._order.results) or not job.version:
            return None
        path = Path(storage.join(self._order.results, job.output))
        said = read_origin(path)
        if said not in {origin(job, self._order, found) for found in (True, False)} or not is_whole(path):
            return None
        try:
            width, height = measure_photo(_read(job)).size
            return _said_of(path.read_bytes(), said == origin(job, self._order, True)) | {
                "width": width, "height": height,
            }  # fmt: skip
        except (PhotoError, OSError):
            return None

    def _save(self, cutout: Cutout, _: Path) -> None:
        job, row = self._mine.job, self._mine.row
        buffer = io.BytesIO()
        self._order.finish.save(cutout, buffer)
        data = buffer.getvalue()
        if self._order.results:
            self._write(job, data, cutout.found)
        else:
            row["data"] = data
        row |= _said_of(data, cutout.found)

    def _write(self, job: Job, data: bytes, found: bool) -> None:
        name, root = storage.join(self._order.results, job.output), self._order.results
        try:
            storage.write(name, data, root, origin(job, self._order, found))
        except PhotoError as error:
            if getattr(error.__cause__, "errno", None) in FULL:
                self._tell({"error": _short(str(error))})
            raise

    def _note(self, stage: str, seconds: float) -> None:
        """How long a stage took, for the photo that the thread has in hand."""
        row = getattr(self._mine, "row", {})
        name = f"{stage}_seconds"
        if name in row:
            row[name] = (row[name] or 0) + seconds

    def _tell(self, said: dict[str, Any], data: bytes | None = None) -> None:
        with self._sending:
            size = None if data is None else len(data)
            self._goes.write(json.dumps(said | {"bytes": size}).encode() + b"\n")
            self._goes.write(data or b"")
            self._goes.flush()


def _read(job: Job) -> bytes:
    """The bytes of a photo's file. Raises PhotoError."""
    if job.reason:
        raise PhotoError(job.reason) from OSError(job.reason)
    if job.data is not None:
        return job.data
    return storage.read(job.source, job.offset, job.size) if job.offset >= 0 else storage.read(job.source)


def _is_own(error: BaseException) -> bool:
    """Whether it is a photo's own fault that it can't be read, and not that of a disk or a network."""
    return _is_own(error.__cause__) if error.__cause__ else isinstance(error, PhotoError)


def origin(job: Job, order: Order, found: bool) -> str:
    """What a result is given that says of which photo it is, how it was made, and whether it has a subject."""
    said = f"{job.id}\n{job.version}\n{order.way}\n{found}"
    return hashlib.sha256(said.encode()).hexdigest() if job.version else ""


def _short(sentence: str) -> str:
    """A sentence that any manifest holds, even if it has the name of a file in it that is no text."""
    return sentence.encode(errors="replace").decode()[:LONGEST_SENTENCE]


def _said_of(data: bytes, found: bool) -> dict[str, Any]:
    """What is said of a result."""
    return {
        "status": "done" if found else "no subject",
        "reason": None if found else NOTHING_FOUND,
        "output_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
