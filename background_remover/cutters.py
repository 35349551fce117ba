"""Photos cut out in a process of its own, which may hang, die or take all memory: that costs one photo and no other.

`Cutter` is the side that survives. It gives the process as many photos at a time as that works on, so that it knows
what was in hand when it dies. Those are tried again, each alone, and what ends the process alone, twice, has failed.
Tasks go there as pickles; answers come back as JSON, from which nothing can be run, and are believed only as far as
they can be true, since a photo may have taken the process over.
"""

from __future__ import annotations

import itertools
import json
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

import pyarrow as pa

from background_remover.allocator import total_memory
from background_remover.cutout import Finish
from background_remover.manifest import SCHEMA, STATUSES

if TYPE_CHECKING:
    from background_remover.pipeline import BackgroundRemover

SECONDS = 120.0  # for one photo, all in all
STARTING = 600.0  # seconds for a process to start, and to fetch its weights
STARTS = 3  # in a row that may end at once, as by a system that is short of memory
TRIES = 2  # of a photo that is to blame
POLL = 0.2  # seconds between two looks at time and memory
ENDING = 30.0  # seconds for a process to be gone once it was killed; one that waits for a dead disk never is
MEMORY = 3_000_000_000  # bytes for a process with no photo in hand
PHOTO_MEMORY = 2_000_000_000  # bytes for each photo that it has in hand
SHARE = 0.9  # of the machine's memory, that a process may have at most
LANES = 256  # photos in hand at most: no process has more that is sound
MAX_ANSWER = 1 << 13  # bytes of an answer, all but the picture
MAX_RESULT = 1 << 31  # bytes of a picture

TOO_SLOW = "This photo took longer than {:.0f} seconds, twice: save it again as an ordinary JPEG or PNG."
KILLS = "This photo ended the process that worked on it, twice: save it again, or make it smaller."
TOO_HUNGRY = "This photo took more memory than there is for one, twice: make it smaller first."
CANT_START = "The process that cuts photos out can't be started: see its log."
CANT_LOAD = "The network takes too long to load: see whether its weights can be fetched."
CLOSED = "No more photos are cut out here: start again."

# descriptors of its own for what comes and goes, since what else it imports may print
BEGIN = (
    "import os; comes, goes = os.dup(0), os.dup(1); os.dup2(os.open(os.devnull, os.O_RDONLY), 0); os.dup2(2, 1); "
    "from background_remover.bench import work; work(comes, goes)"
)
ROW = pa.struct(list(SCHEMA))
OWN = ("id", "source", "output", "version", "way", "weights", "licence")  # of a row, which need no answer


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
    solid: bool = False
    threads: int = 1
    share: float = 1  # of a GPU's memory
    seconds: float = SECONDS
    load: Callable[[Order], BackgroundRemover] | None = None

    @property
    def cut(self) -> dict[str, bool]:
        """What the remover is asked for beside the photo."""
        return {name: True for name in ("refine", "solid") if getattr(self, name)}


class Job(NamedTuple):
    """One photo: a row of a catalogue, the path of its result below the folder for these, its bytes, if at hand."""

    id: str
    source: str
    offset: int
    size: int
    version: str
    output: str
    data: bytes | None = None
    reason: str | None = None  # why they can't be had, in one sentence


@dataclass(eq=False)
class _Attempt:
    """A job on its way, with what is known of how it went before."""

    job: Job
    future: Future[tuple[dict[str, Any], bytes]] = field(default_factory=Future)
    since: float = 0.0
    blamed: Counter[str] = field(default_factory=Counter)  # for what, and how often
    alone: bool = False


class WorkerError(RuntimeError):
    """No more photos can be cut out. One sentence: what is wrong and what to do."""


class Cutter:
    """Jobs done in a process that is started again whenever it ends; from any thread. Raises WorkerError."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._lock = threading.Lock()
        self._todo: deque[_Attempt] = deque()
        self._alone: deque[_Attempt] = deque()  # those that were in hand when a process died
        self._in_hand: dict[int, _Attempt] = {}
        self._numbers = itertools.count()
        self._events: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()  # None: look what there is to do
        self._closing = False
        self._ended: WorkerError | None = None
        self._started: Future[None] = Future()
        # It starts the process as well: on Linux that ends with the thread that has started it.
        self._supervisor = threading.Thread(target=self._supervise, name="cutter", daemon=True)
        self._supervisor.start()
        self._started.result()

    def cut(self, jobs: list[Job]) -> list[tuple[dict[str, Any], bytes]]:
        """Rows of the manifest, one for each job, and the bytes of results, where they are wanted."""
        attempts = [_Attempt(job) for job in jobs]
        with self._lock:
            if self._ended:
                raise self._ended
            self._todo.extend(attempts)
        self._events.put(None)
        return [attempt.future.result() for attempt in attempts]

    def close(self) -> None:
        """End the process; what is still in hand fails."""
        self._closing = True
        self._events.put(None)
        self._supervisor.join()

    def _supervise(self) -> None:
        """Give out what is to do and take what is done, for good."""
        process, starts, ended = None, 0, WorkerError(CLOSED)
        try:
            while not self._closing:
                process = process or _Process(self._order, self._events)
                if reason := self._tend(process):
                    process.kill()
                    starts = 0 if process.lanes else starts + 1
                    if starts == STARTS:
                        raise WorkerError(CANT_START)
                    process = None
                    self._blame(reason)
        except WorkerError as error:
            ended = error
        except BaseException as error:  # nobody else can tell those who wait
            ended = WorkerError(CANT_START)
            ended.__cause__ = error
        if process:
            process.kill()
        with self._lock:
            self._ended = ended
        for attempt in (*self._in_hand.values(), *self._alone, *self._todo):
            attempt.future.set_exception(ended)
        if not self._started.done():
            self._started.set_exception(ended)

    def _tend(self, process: _Process) -> str:
        """One step: send what there is room for, take an answer. Gives why the process has to go, or is gone."""
        for attempt in self._next(process.lanes):
            attempt.since = time.monotonic()
            key = next(self._numbers)
            self._in_hand[key] = attempt
            process.send((key, attempt.job))
        try:
            answer = self._events.get(timeout=POLL)
        except queue.Empty:
            return KILLS if process.is_gone() else self._why_to_end(process)
        if answer is None or answer.process is not process:
            return ""
        try:
            self._take(answer)
        except WorkerError:
            raise
        except Exception:  # what is said can't be, whatever that raises
            return KILLS
        return "" if self._events.qsize() else self._why_to_end(process)  # who has answered is not late

    def _take(self, answer: _Answer) -> None:
        """An answer to whoever waits for it. Raises WorkerError if it says so, and whatever for one that can't be."""
        process, said = answer.process, answer.said
        if "error" in said:
            raise WorkerError(str(said["error"]))
        if not process.lanes:
            process.begin(**said)
            if not self._started.done():
                self._started.set_result(None)
            return
        key = said.pop("key")
        job = self._in_hand[key].job
        row = read_row(said, new_row(job, self._order) | process.network)
        if (row["output"] is not None and not self._order.results) != (answer.data is not None):
            raise ValueError
        self._in_hand.pop(key).future.set_result((row, answer.data or b""))

    def _why_to_end(self, process: _Process) -> str:
        """Why a process has to go, "" if it need not."""
        if not process.lanes and time.monotonic() - process.since > STARTING:
            raise WorkerError(CANT_LOAD)
        if any(map(self._is_late, self._in_hand.values())):
            return TOO_SLOW.format(self._order.seconds)
        most = min(MEMORY + process.lanes * PHOTO_MEMORY, total_memory() * SHARE)
        return TOO_HUNGRY if process.memory() > most else ""

    def _is_late(self, attempt: _Attempt) -> bool:
        return time.monotonic() - attempt.since > self._order.seconds

    def _next(self, lanes: int) -> list[_Attempt]:
        """What to send now: as many as the process works on at once, and alone what has to be."""
        if any(attempt.alone for attempt in self._in_hand.values()):
            return []
        if self._alone:
            return [self._alone.popleft()] if lanes and not self._in_hand else []
        with self._lock:
            return [self._todo.popleft() for _ in range(min(lanes - len(self._in_hand), len(self._todo)))]

    def _blame(self, reason: str) -> None:
        """What becomes of those that were in hand: any may be to blame, the only one or a late one is."""
        is_slow = reason == TOO_SLOW.format(self._order.seconds)
        for attempt in self._in_hand.values():
            if len(self._in_hand) == 1 or (is_slow and self._is_late(attempt)):
                attempt.blamed[reason] += 1
            if attempt.blamed[reason] == TRIES:
                row = new_row(attempt.job, self._order) | {"status": "failed", "reason": reason, "output": None}
                attempt.future.set_result((row, b""))
            else:
                attempt.alone = True
                self._alone.append(attempt)
        self._in_hand.clear()


class _Answer(NamedTuple):
    """What a process says: JSON, and a picture if there is one."""

    process: _Process
    said: dict[str, Any]
    data: bytes | None


class _Process:
    """The process, seen from outside. Nothing here waits for it but its end."""

    def __init__(self, order: Order, events: queue.SimpleQueue[_Answer | None]) -> None:
        self.lanes = 0  # until it has started
        self.network: dict[str, str] = {}  # whose weights it has
        self.since = time.monotonic()
        self._events = events
        self._outgoing: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.send(order)
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)  # noqa: PTH109
        known = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}  # as Ray's own key
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", BEGIN],  # -P: no module of the folder that this was started in
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=known | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(order.threads)},
            start_new_session=True,  # so that Ctrl-C is for the supervisor alone
        )
        self._statm = Path(f"/proc/{self._process.pid}/statm")
        for work in (self._write, self._read):
            threading.Thread(target=work, name="cutter", daemon=True).start()

    def begin(self, lanes: int, weights: str, licence: str) -> None:
        """Take in what it says when it has started. Raises ValueError for what can't be."""
        if not 0 < lanes <= LANES:
            raise ValueError
        self.lanes, self.network = lanes, {"weights": weights, "licence": licence}

    def send(self, message: Order | tuple[int, Job]) -> None:
        """Give it something to do, as soon as it takes it."""
        self._outgoing.put(pickle.dumps(message))

    def _write(self) -> None:
        with suppress(OSError), cast(IO[bytes], self._process.stdin) as pipe:
            while message := self._outgoing.get():
                pipe.write(message)
                pipe.flush()

    def _read(self) -> None:
        """Pass on what it says; that it has ended, or says what can't be, is an answer without anything in it."""
        with suppress(Exception), cast(IO[bytes], self._process.stdout) as pipe:
            while True:
                said = dict(json.loads(pipe.readline(MAX_ANSWER)))
                size = said.pop("bytes", None)
                data = None if size is None else pipe.read(size) if 0 <= size <= MAX_RESULT else b""
                if data is not None and len(data) != size:
                    break
                self._events.put(_Answer(self, said, data))
        self._events.put(_Answer(self, {}, None))

    def is_gone(self) -> bool:
        """Whether it has ended, though what it started may keep its pipes open."""
        return self._process.poll() is not None

    def memory(self) -> int:
        """Bytes that it has in memory, 0 where the system does not tell."""
        try:
            return int(self._statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except (OSError, IndexError, ValueError):
            return 0

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._outgoing.put(b"")
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(ENDING)


def new_row(job: Job, order: Order) -> dict[str, Any]:
    """The row of a photo of which nothing is known yet."""
    return dict.fromkeys(SCHEMA.names) | {
        "id": job.id, "source": job.source, "version": job.version, "output": job.output, "way": order.way,
    }  # fmt: skip


def read_row(said: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """A row with what a process says of it. Raises an error for what can't be."""
    if said.keys() != row.keys() - set(OWN) or said["status"] not in STATUSES:
        raise ValueError
    is_made = said["status"] in ("done", "no subject")
    made: dict[str, Any] = pa.array([row | said | ({} if is_made else {"output": None})], ROW)[0].as_py()
    return made
