"""Where photos of a catalogue are cut out: the inside of the process that a `Cutter` starts, and starts again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from background_remover import stages, storage
from background_remover.allocator import keep_freed_memory
from background_remover.cutout import Cutout
from background_remover.cutters import Job, Order, new_row
from background_remover.decoding import Photo
from background_remover.downloads import WeightsError
from background_remover.outputs import Task, is_whole, read_origin
from background_remover.photos import measure_photo, open_photo
from background_remover.pipeline import NOTHING_FOUND, BackgroundRemover
from utilities import PhotoError


def work(descriptor: int) -> None:
    """Work on what comes through a connection until it ends."""
    connection = Connection(descriptor)
    order: Order = pickle.loads(connection.recv_bytes())  # noqa: S301  # of the process that started this one
    keep_freed_memory()
    try:
        remover = (order.load or load)(order)
    except Exception as error:  # WeightsError, EngineError, or what a stand-in raises
        connection.send_bytes(json.dumps({"error": str(error)}).encode())
        return
    _Bench(connection, order, remover).run()


def load(order: Order) -> BackgroundRemover:
    """The network that an order asks for. Raises WeightsError, EngineError."""
    remover = BackgroundRemover.from_pretrained(order.weights, order.device, order.precision)
    if order.sha256 and remover.weights.sha256 != order.sha256:
        raise WeightsError(
            f"The weights '{order.weights}' differ from machine to machine: give a path that all of them share."
        )
    return remover


class _Bench:
    """Where the work is done."""

    def __init__(self, connection: Connection, order: Order, remover: BackgroundRemover) -> None:
        self._connection, self._order, self._remover = connection, order, remover
        self._jobs: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
        self._in_hand: dict[str, tuple[Job, dict[str, Any]]] = {}  # by key, each with its row
        self._mine = threading.local()  # the job that a thread has in hand, and its row
        self._sending = threading.Lock()
        stages.observers.append(self._note)
        threading.Thread(target=self._receive, daemon=True).start()

    def run(self) -> None:
        """Until there is nobody left who sends."""
        lanes = self._remover.engine.split(1 << 20)
        self._connection.send_bytes(json.dumps({"lanes": lanes}).encode())
        for outcome in self._remover.run(self._tasks(), self._save, self._opening, refine=self._order.refine):
            _, row = self._in_hand.pop(str(outcome.photo))
            if outcome.path is None:
                row |= {"status": row["status"] or "failed", "reason": outcome.reason, "output": None, "data": None}
            self._send(str(outcome.photo), row | {"seconds": outcome.seconds})

    def _receive(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                self._jobs.put(pickle.loads(self._connection.recv_bytes()))  # noqa: S301  # as above
        os._exit(0)  # whatever is in hand: nobody waits for it

    def _tasks(self) -> Iterator[Task]:
        while True:
            key, job = self._jobs.get()
            row = new_row(job, self._order)
            if made := self._made_before(job):
                self._send(str(key), row | made)
            else:
                self._in_hand[str(key)] = job, row
                yield Task(str(key), Path(job.output))

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

    @contextmanager
    def _opening(self, key: str) -> Iterator[Photo]:
        job, row = self._in_hand[key]
        self._mine.job, self._mine.row = job, row
        data = _read(job)
        try:
            photo = open_photo(data)
        except PhotoError:
            row["status"] = "refused"
            raise
        row["height"], row["width"] = photo.shape
        yield photo

    def _save(self, cutout: Cutout, _: Path) -> None:
        job, row = self._mine.job, self._mine.row
        buffer = io.BytesIO()
        self._order.finish.save(cutout, buffer)
        data = buffer.getvalue()
        if self._order.results:
            name, root = storage.join(self._order.results, job.output), self._order.results
            storage.write(name, data, root, origin(job, self._order, cutout.found))
        else:
            row["data"] = data
        row |= _said_of(data, cutout.found)

    def _note(self, stage: str, seconds: float) -> None:
        """How long a stage took, for the photo that the thread has in hand."""
        row = getattr(self._mine, "row", {})
        name = f"{stage}_seconds"
        if name in row:
            row[name] = (row[name] or 0) + seconds

    def _send(self, key: str, row: dict[str, Any]) -> None:
        row |= {"weights": self._remover.weights.name, "licence": self._remover.weights.licence}
        data = row.pop("data", None)
        with self._sending:
            self._connection.send_bytes(json.dumps([int(key), data is not None, row]).encode())
            if data is not None:
                self._connection.send_bytes(data)


def _read(job: Job) -> bytes:
    """The bytes of a photo's file. Raises PhotoError."""
    if job.data is not None:
        return job.data
    return storage.read(job.source, job.offset, job.size) if job.offset >= 0 else storage.read(job.source)


def origin(job: Job, order: Order, found: bool) -> str:
    """What a result is given that says of which photo it is, how it was made, and whether it has a subject."""
    said = f"{job.id}\n{job.version}\n{order.way}\n{found}"
    return hashlib.sha256(said.encode()).hexdigest() if job.version else ""


def _said_of(data: bytes, found: bool) -> dict[str, Any]:
    """What is said of a result."""
    return {
        "status": "done" if found else "no subject",
        "reason": None if found else NOTHING_FOUND,
        "output_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
