"""Whose turn it is: so much memory and so many at once, fairly between visitors, for those who still wait.

A server's framework counts requests; what they need is counted here, until their work has really ended. A request is
admitted as a `Job`, or refused at once. Each photo that it works on is a turn: it waits for memory, is opened, waits
for a slot of its kind, and gives both back at its end. Jobs run in threads, and wait in them.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from background_remover.allocator import resident_memory, total_memory, trim_memory
from utilities import PhotoError

Kind = Literal["photo", "edit", "batch"]

# How many turns of a kind run at once. Two photos, so that one is opened and saved while the network has the other.
SLOTS = {"photo": 2, "edit": 2}
WAITING = {"photo": (8, 32, 64), "edit": (8, 32, 64), "batch": (2, 4, 8)}  # jobs of a session, an address, all together
# Bytes that the photos in hand may need, beside the network's 900 MB: large ones have one share, in which they wait
# for each other, edits of large ones among them, all others another, so that these are never held up by those, and
# the other edits a third.
MEMORY = {"large": 1_300_000_000, "other": 450_000_000, "edit": 350_000_000}
# Bytes of memory, more than before the first job, from which what is freed goes back to the system. What the network
# needs at every photo is in that already; it would take half a second each time to have it anew.
GROWN = 250_000_000
POLL = 0.1  # seconds between two looks at whether somebody still waits
UNHEARD = 0.5  # seconds after which a job for whose result nobody listens makes way for another
PATIENCE = 10.0  # seconds for which a photo of a batch lets single ones go before it, and a large one smaller ones
COMING = 3.0  # seconds for which a request that was let in counts before it is a job
RECENT = 20  # turns from whose length a waiting time is told

ENDING = "This server is about to end: try again in a minute."


class BusyError(PhotoError):
    """There is too much to do already. One sentence, with a time to try again; `seconds` is that time."""

    def __init__(self, sentence: str, seconds: int = 30) -> None:
        super().__init__(sentence)
        self.seconds = seconds


class EndingError(BusyError):
    """The server is about to end."""


class AbandonedError(BaseException):
    """Nobody waits for this work any longer. No `Exception`, so that no handler of those goes on with it."""


class PostponedError(BaseException):
    """Others go before this work, which starts anew later. No `Exception` either."""


@dataclass(frozen=True)
class Client:
    """Who asks: one page or program, and where it is."""

    session: str
    address: str


@dataclass(eq=False)
class Job:
    """A request, from when it is admitted until its work has ended."""

    kind: Kind
    client: Client
    since: float  # when it was admitted, in seconds of the monotonic clock
    heard: Callable[[], bool] = lambda: True  # whether somebody listens for its result just now
    left: bool = False
    large: bool = False  # what its turn is about
    share: str = ""  # of the memory, that it has or waits for

    def check(self) -> None:
        """Raises AbandonedError if nobody waits for it any longer; called between the steps of its work."""
        if self.left:
            raise AbandonedError

    def leave(self) -> None:
        """Nobody waits any longer: its work ends at its next step."""
        self.left = True


@dataclass(eq=False)
class Wait:
    """A job that waits for its part of something, until `fits` says that there is as much."""

    job: Job
    what: str
    fits: Callable[[], bool]
    since: float
    yields: Callable[[], bool]  # whether others may always go before it


class Scheduler:
    """Turns for jobs. `memory` is in bytes, as MEMORY; a machine that has little gives less."""

    def __init__(self, memory: dict[str, int] | None = None) -> None:
        scale = min(1.0, total_memory() / 4e9)
        self._memory = memory or {share: int(scale * byte_count) for share, byte_count in MEMORY.items()}
        self._claimed = dict.fromkeys(self._memory, 0)
        self._resident = resident_memory()
        self._jobs: set[Job] = set()
        self._coming: dict[tuple[Kind, str], deque[float]] = {}  # by kind and address, since when
        self._turns: Counter[str] = Counter()  # that run, of each session and each address
        self._slots: dict[str, list[Job]] = {kind: [] for kind in SLOTS}  # those that work
        self._waiting: list[Wait] = []
        self._changed = threading.Condition()
        self._seconds = {kind: deque([2.0], RECENT) for kind in WAITING}
        self._closed = False
        self.refused: Counter[Kind] = Counter()  # since the start, for too much to do

    # --- jobs ---

    @property
    def closed(self) -> bool:
        """Whether no more jobs are admitted."""
        return self._closed

    def count(self) -> Counter[tuple[Kind, str]]:
        """How many jobs of each kind there are, "working" or "waiting"."""
        with self._changed:
            at_work = {id(job) for jobs in self._slots.values() for job in jobs}
            return Counter((job.kind, "working" if id(job) in at_work else "waiting") for job in self._jobs)

    def expect(self, kind: Kind, address: str) -> None:
        """A request from there will ask for a job. Raises BusyError at once if it is clear by now that it gets none.

        It is far from a request's arrival to its job when a hundred come together.
        """
        with self._changed:
            self._check_open()
            now = time.monotonic()
            for key, times in [*self._coming.items()]:
                while times and now - times[0] > COMING:
                    times.popleft()
                if not times:
                    del self._coming[key]
            jobs = [job for job in self._jobs if job.kind == kind and not self._makes_way(job, now)]
            of_address = [job for job in jobs if job.client.address == address]
            coming = sum(len(times) for (of_kind, _), times in self._coming.items() if of_kind == kind)
            from_there = self._coming.setdefault((kind, address), deque())
            _, of_one, of_all = WAITING[kind]
            if len(of_address) + len(from_there) >= of_one or len(jobs) + coming >= of_all:
                raise self._busy(kind, len(jobs) + coming)
            from_there.append(now)

    def expect_no_more(self, kind: Kind, address: str) -> None:
        """One of these requests has come to nothing."""
        with self._changed:
            if coming := self._coming.get((kind, address)):
                coming.pop()

    def admit(self, kind: Kind, client: Client, heard: Callable[[], bool] = lambda: True) -> Job:
        """A new job. Raises BusyError if there are too many of its session, its address or in all that are heard."""
        with self._changed:
            self._check_open()
            now = time.monotonic()
            if coming := self._coming.get((kind, client.address)):
                coming.popleft()
            jobs = [job for job in self._jobs if job.kind == kind and not job.left]
            of_session = [job for job in jobs if job.client.session == client.session]
            of_address = [job for job in jobs if job.client.address == client.address]
            for several, most in zip((of_session, of_address, jobs), WAITING[kind], strict=True):
                if sum(not job.left for job in several) < most:  # one may have made way already
                    continue
                unheard = [job for job in several if self._makes_way(job, now)]
                if not unheard:
                    raise self._busy(kind, len(jobs))
                min(unheard, key=lambda job: job.since).leave()
            job = Job(kind, client, now, heard)
            self._jobs.add(job)
            return job

    def _makes_way(self, job: Job, now: float) -> bool:
        """Whether nobody listens for its result, or nobody waits for it at all."""
        return job.left or (now - job.since > UNHEARD and not job.heard())

    def _check_open(self) -> None:
        if self._closed:
            raise EndingError(ENDING, 60)

    def _busy(self, kind: Kind, count: int) -> BusyError:
        """With when those that are before it will have ended."""
        self.refused[kind] += 1
        mean = sum(self._seconds[kind]) / len(self._seconds[kind])
        seconds = max(5, math.ceil(mean * count / SLOTS.get(kind, 1) / 5) * 5)
        text = f"about {seconds} seconds" if seconds < 90 else f"about {math.ceil(seconds / 60)} minutes"
        return BusyError(f"There is much to do here just now: try again in {text}.", seconds)

    def end(self, job: Job) -> None:
        """The job's work has ended, whichever way."""
        with self._changed:
            self._jobs.discard(job)
            self._changed.notify_all()

    def close(self, seconds: float) -> None:
        """Admit no more jobs, and give those that are there so many seconds to end."""
        deadline = time.monotonic() + seconds
        with self._changed:
            self._closed = True
            while self._jobs and time.monotonic() < deadline:
                self._changed.wait(POLL)
            for job in self._jobs:
                job.leave()

    # --- turns ---

    @contextmanager
    def memory(self, job: Job, byte_count: int) -> Iterator[None]:
        """While it runs, so many bytes are the job's. Waits for them; raises AbandonedError."""
        share = "edit" if job.kind == "edit" else "other"
        share = "large" if byte_count > self._memory[share] else share
        byte_count = min(byte_count, self._memory[share])

        def fits() -> bool:
            return self._claimed[share] + byte_count <= self._memory[share] and not self._is_postponed(job)

        with self._changed:
            job.large, job.share = share == "large", f"memory {share}"
            self._wait(job, job.share, fits)
            self._claimed[share] += byte_count
            self._turns.update((f"session {job.client.session}", f"address {job.client.address}"))
        try:
            yield
        finally:
            with self._changed:
                self._claimed[share] -= byte_count
                self._turns.subtract((f"session {job.client.session}", f"address {job.client.address}"))
                self._turns += Counter()  # without those that have none
                self._changed.notify_all()
            if resident_memory() > self._resident + GROWN:
                trim_memory()

    @contextmanager
    def slot(self, job: Job) -> Iterator[None]:
        """While it runs, the job is one of the few of its kind that work. Waits; raises AbandonedError.

        Large photos never have all slots, so that a small one is next in another; and what nobody listens for has one
        only while nothing else does.
        """
        kind = "edit" if job.kind == "edit" else "photo"
        have = self._slots[kind]

        def is_unheard() -> bool:
            return job.kind != "batch" and self._makes_way(job, time.monotonic())

        def fits() -> bool:
            if is_unheard():
                return not have
            return len(have) < SLOTS[kind] and not (job.large and any(other.large for other in have))

        def check() -> None:
            job.check()
            if is_unheard() and any(wait.what == job.share and wait.job.heard() for wait in self._waiting):
                raise PostponedError  # it has the memory for which another waits

        with self._changed:
            self._wait(job, f"slot {kind}", fits, lambda: job.large or is_unheard(), check)
            have.append(job)
        start = time.monotonic()
        try:
            if job.large:
                trim_memory()
            yield
        finally:
            with self._changed:
                have.remove(job)
                self._seconds[job.kind].append(time.monotonic() - start)
                self._changed.notify_all()

    def check(self, job: Job) -> None:
        """Raises AbandonedError as `Job.check`, and PostponedError for one photo that nobody listens for just now while
        somebody does for another that is as far.
        """
        job.check()
        with self._changed:
            if job.kind != "batch" and self._is_postponed(job):
                raise PostponedError

    def _is_postponed(self, job: Job) -> bool:
        """Whether nobody listens for it just now, while somebody does for another that has a slot."""
        now = time.monotonic()
        if not self._makes_way(job, now):
            return False
        return any(not self._makes_way(other, now) for other in self._slots["edit" if job.kind == "edit" else "photo"])

    def _wait(
        self,
        job: Job,
        what: str,
        fits: Callable[[], bool],
        yields: Callable[[], bool] = lambda: False,
        check: Callable[[], None] | None = None,
    ) -> None:
        """Until `fits`, and none comes before it; `check`, else the job's, may raise meanwhile."""
        wait = Wait(job, what, fits, time.monotonic(), yields)
        self._waiting.append(wait)
        try:
            while True:
                (check or job.check)()
                if self._next(what) is wait:
                    return
                self._changed.wait(POLL)
        finally:
            self._waiting.remove(wait)
            self._changed.notify_all()

    def _next(self, what: str) -> Wait | None:
        """Who gets a part of it now: the first that fits, but none goes before one that has waited for long.

        Else smaller ones that keep coming would take whatever is given back, and a large one would wait for ever.
        """
        waiting = [wait for wait in self._waiting if wait.what == what and not wait.job.left]
        for wait in sorted(waiting, key=self._rank):
            if wait.fits():
                return wait
            if time.monotonic() - wait.since > PATIENCE and not wait.yields():
                break
        return None

    def _rank(self, wait: Wait) -> tuple[bool, bool, int, int, float]:
        """The least is next: who listens, before whole batches, whoever has least of the work, who was first.

        A batch was there before most others; its photos count from when their patience ends, or those of several
        batches, which then follow each other without a gap, would let nobody in.
        """
        job, due = wait.job, wait.since + PATIENCE
        yields = job.kind == "batch" and time.monotonic() < due
        in_hand = self._turns[f"session {job.client.session}"], self._turns[f"address {job.client.address}"]
        return not job.heard(), yields, *in_hand, due if job.kind == "batch" else job.since
