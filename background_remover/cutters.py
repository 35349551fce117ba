"""Photos cut out in a process of its own, which may hang, die or take all memory: that costs one photo and no other.

`Cutter` is the side that survives. It gives the process as many photos at a time as that works on, so that it knows
what was in hand when it dies. Those are tried again, each alone, and what twice ends the process alone has failed.
Tasks go there as pickles, results come back as JSON, from which nothing can be run.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from background_remover.cutout import Finish
from background_remover.manifest import SCHEMA

if TYPE_CHECKING:
    from background_remover.pipeline import BackgroundRemover

SECONDS = 120.0  # for one photo, all in all
STARTING = 600.0  # seconds for a process to start, and to fetch its weights
TRIES = 2  # of a photo alone
POLL = 0.2  # seconds between two looks at time and memory
MEMORY = 3_000_000_000  # bytes for a process with no photo in hand
PHOTO_MEMORY = 2_000_000_000  # bytes for each photo that it has in hand

TOO_SLOW = "This photo took longer than {:.0f} seconds, twice: save it again as an ordinary JPEG or PNG."
KILLS = "This photo ended the process that worked on it, twice: save it again, or make it smaller."
TOO_HUNGRY = "This photo took more memory than there is for one, twice: make it smaller first."


@dataclass(frozen=True)
class Order:
    """What to make of all photos of a catalogue, and with what.

    `results` is the folder for results, "" where they come back as bytes. `load` gives the network.
    """

    finish: Finish
    results: str = ""
    way: str = ""
    weights: str | None = None
    sha256: str = ""  # of these weights, if only they will do
    device: str | None = None
    precision: str | None = None
    refine: bool = False
    threads: int = 1
    seconds: float = SECONDS
    load: Callable[[Order], BackgroundRemover] | None = None


class Job(NamedTuple):
    """One photo: a row of a catalogue, the path of its result below the folder for these, its bytes, if at hand."""

    id: str
    source: str
    offset: int
    size: int
    version: str
    output: str
    data: bytes | None = None


@dataclass(eq=False)
class _Attempt:
    """A job on its way, with what is known of how it went before."""

    job: Job
    future: Future[dict[str, Any]] = field(default_factory=Future)
    since: float = 0.0
    deaths: int = 0  # of processes that had this job alone
    alone: bool = False


class WorkerError(RuntimeError):
    """The process can't be started. One sentence: what is wrong and what to do."""


class Cutter:
    """Jobs done in a process that is started again whenever it ends; from any thread. Raises WorkerError."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._todo: deque[_Attempt] = deque()
        self._alone: deque[_Attempt] = deque()  # those that were in hand when a process died
        self._changed, self._told = Pipe(duplex=False)  # a byte for each change of what is to do
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._process: _Process | None = _Process(order)
        self._ended = False
        threading.Thread(target=self._supervise, name="cutter", daemon=True).start()

    def cut(self, jobs: list[Job]) -> list[tuple[dict[str, Any], bytes]]:
        """Rows of the manifest, one for each job, and the bytes of results, where they are wanted."""
        attempts = [_Attempt(job) for job in jobs]
        with self._lock:
            self._todo.extend(attempts)
            self._told.send_bytes(b".")
        return [(row, row.pop("data", b"")) for row in (attempt.future.result() for attempt in attempts)]

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._ended = True
            self._told.send_bytes(b".")

    def _supervise(self) -> None:
        """Give out what is to do and take what is done, for good."""
        in_hand: dict[int, _Attempt] = {}
        try:
            while not self._ended:
                process = self._process = self._process or _Process(self._order)
                if reason := self._tend(process, in_hand):
                    process.kill()
                    self._process = None
                    self._blame(in_hand, reason)
        except BaseException as error:  # nobody else can tell those who wait
            with self._lock:
                waiting = [*in_hand.values(), *self._alone, *self._todo]
            for attempt in waiting:
                attempt.future.set_exception(error if isinstance(error, WorkerError) else WorkerError(str(error)))
        if self._process:
            self._process.kill()

    def _tend(self, process: _Process, in_hand: dict[int, _Attempt]) -> str:
        """One step: send what there is room for, wait for an answer. Gives why the process has to go, or is gone."""
        try:
            for attempt in self._next(process.lanes, in_hand):
                attempt.since = time.monotonic()
                key = next(self._numbers)
                in_hand[key] = attempt
                process.send(key, attempt.job)
            for ready in wait([process.connection, self._changed], POLL):
                if ready is self._changed:
                    self._changed.recv_bytes()
                    continue
                key, row = process.receive()
                in_hand.pop(key).future.set_result(row)
        except (EOFError, OSError):
            return KILLS
        if any(time.monotonic() - attempt.since > self._order.seconds for attempt in in_hand.values()):
            return TOO_SLOW.format(self._order.seconds)
        return TOO_HUNGRY if process.memory() > MEMORY + process.lanes * PHOTO_MEMORY else ""

    def _next(self, lanes: int, in_hand: dict[int, _Attempt]) -> list[_Attempt]:
        """What to send now: as many as the process works on at once, and alone what has to be."""
        with self._lock:
            if any(attempt.alone for attempt in in_hand.values()):
                return []
            if self._alone:
                return [self._alone.popleft()] if not in_hand else []
            return [self._todo.popleft() for _ in range(min(lanes - len(in_hand), len(self._todo)))]

    def _blame(self, in_hand: dict[int, _Attempt], reason: str) -> None:
        """What becomes of those that were in hand: who was too slow is known, of the others any may be to blame."""
        now = time.monotonic()
        late = [attempt for attempt in in_hand.values() if now - attempt.since > self._order.seconds]
        for attempt in in_hand.values():
            guilty = attempt in late or (not late and len(in_hand) == 1)
            attempt.deaths += guilty
            if attempt.deaths >= TRIES:
                attempt.future.set_result(new_row(attempt.job, self._order) | {"status": "failed", "reason": reason})
            elif late and not guilty:
                with self._lock:
                    self._todo.appendleft(attempt)
            else:
                attempt.alone = True
                self._alone.append(attempt)
        in_hand.clear()


class _Process:
    """The process, seen from outside."""

    def __init__(self, order: Order) -> None:
        self.connection, theirs = Pipe()
        code = "import sys; from background_remover.bench import work; work(int(sys.argv[1]))"
        path = os.pathsep.join(entry for entry in [os.getcwd(), *sys.path] if entry)  # noqa: PTH109
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(order.threads)},
        )
        theirs.close()
        try:
            self.connection.send_bytes(pickle.dumps(order))
            if not self.connection.poll(STARTING):
                raise WorkerError("The network takes too long to load: see whether its weights can be fetched.")
            answer = json.loads(self.connection.recv_bytes())
        except (EOFError, OSError) as error:
            self.kill()
            raise WorkerError("The process that cuts photos out can't be started: see its log.") from error
        except BaseException:
            self.kill()
            raise
        if "error" in answer:
            self.kill()
            raise WorkerError(answer["error"])
        self.lanes: int = answer["lanes"]
        self._statm = Path(f"/proc/{self._process.pid}/statm")

    def send(self, key: int, job: Job) -> None:
        """Give it a job. Raises OSError if it is gone."""
        self.connection.send_bytes(pickle.dumps((key, job)))

    def receive(self) -> tuple[int, dict[str, Any]]:
        """A job's key and its row, with the result's bytes as "data", if they were wanted. Raises EOFError, OSError."""
        key, has_data, row = json.loads(self.connection.recv_bytes())
        return key, row | ({"data": self.connection.recv_bytes()} if has_data else {})

    def memory(self) -> int:
        """Bytes that it has in memory, 0 where the system does not tell."""
        try:
            return int(self._statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        self.connection.close()


def new_row(job: Job, order: Order) -> dict[str, Any]:
    """The row of a photo of which nothing is known yet."""
    return dict.fromkeys(SCHEMA.names) | {
        "id": job.id, "source": job.source, "version": job.version, "output": job.output, "way": order.way,
    }  # fmt: skip
