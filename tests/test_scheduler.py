"""Who runs when: nothing is given out twice, nobody waits for ever, and what is left is given back."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from background_remover import allocator
from background_remover import scheduler as module
from background_remover.scheduler import (
    SLOTS,
    WAITING,
    AbandonedError,
    BusyError,
    Client,
    Job,
    Kind,
    PostponedError,
    Scheduler,
)

MEMORY = {"large": 1000, "other": 100, "edit": 100}
SOON = 5.0  # seconds in which a thread gets to what it may do
A_WHILE = 0.25  # seconds after which what has not begun is taken to be waiting


class Turn:
    """A thread that takes a turn for a job, and keeps it until it is told to end."""

    def __init__(self, scheduler: Scheduler, job: Job, byte_count: int = 1, slot: bool = True) -> None:
        self.has_memory, self.works, self.ends = threading.Event(), threading.Event(), threading.Event()
        self.outcome: BaseException | None = None
        self.job = job
        self._scheduler, self._byte_count, self._slot = scheduler, byte_count, slot
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._scheduler.memory(self.job, self._byte_count):
                self.has_memory.set()
                if self._slot:
                    with self._scheduler.slot(self.job):
                        self.works.set()
                        self.ends.wait(20)
                else:
                    self.ends.wait(20)
        except BaseException as error:
            self.outcome = error
        finally:
            self._scheduler.end(self.job)

    def end(self) -> None:
        self.ends.set()
        self.join()

    def join(self) -> None:
        self._thread.join(SOON)
        assert not self._thread.is_alive()


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler(dict(MEMORY))


@pytest.fixture
def take(scheduler) -> Iterator[Callable[..., Turn]]:
    """Admit a job and let it take its turn; each is of a client of its own, unless one is named."""
    turns: list[Turn] = []

    def start(
        kind: Kind = "photo",
        byte_count: int = 1,
        client: Client | None = None,
        heard: Callable[[], bool] = lambda: True,
        slot: bool = True,
    ) -> Turn:
        client = client or Client(f"session {len(turns)}", f"address {len(turns)}")
        turns.append(Turn(scheduler, scheduler.admit(kind, client, heard), byte_count, slot))
        return turns[-1]

    yield start
    for turn in turns:
        turn.ends.set()
    for turn in turns:
        turn.join()


def begun(turn: Turn) -> bool:
    return turn.works.wait(SOON)


def waits(*turns: Turn) -> bool:
    time.sleep(A_WHILE)
    return not any(turn.works.is_set() for turn in turns)


# --- what is given out ---


@pytest.mark.parametrize("seed", range(4))
def test_no_more_is_given_out_than_there_is_and_all_of_it_comes_back(scheduler, seed):
    """Whatever the jobs are, whether they end well, fail, or are left while they wait or work."""
    chance = random.Random(seed)
    held, lock, worst = Counter(), threading.Lock(), Counter()

    def use(what: str, count: int) -> None:
        with lock:
            held[what] += count
            worst[what] = max(worst[what], held[what])

    def run(kind: Kind, byte_count: int, seconds: float, fails: bool, client: Client) -> None:
        try:
            job = scheduler.admit(kind, client)
        except BusyError:
            return
        if chance.random() < 0.2:
            threading.Timer(seconds * chance.random() * 4, job.leave).start()
        share = "edit" if kind == "edit" else "other"
        share = "large" if byte_count > MEMORY[share] else share
        try:
            with suppress(AbandonedError, ZeroDivisionError), scheduler.memory(job, byte_count):
                use(share, min(byte_count, MEMORY[share]))
                try:
                    with scheduler.slot(job):
                        use(f"slots of {'edit' if kind == 'edit' else 'photo'}", 1)
                        try:
                            time.sleep(seconds)
                            assert not fails or 1 / 0
                        finally:
                            use(f"slots of {'edit' if kind == 'edit' else 'photo'}", -1)
                finally:
                    use(share, -min(byte_count, MEMORY[share]))
        finally:
            scheduler.end(job)

    threads = []
    for number in range(60):
        kind = chance.choice(("photo", "photo", "edit", "batch"))
        byte_count = chance.choice((1, 10, 40, 60, 100, 101, 400, 700, 5000))
        client = Client(f"session {number % 7}", f"address {number % 5}")
        arguments = (kind, byte_count, 0.05 + chance.random() * 0.05, chance.random() < 0.2, client)
        threads.append(threading.Thread(target=run, args=arguments))
        threads[-1].start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    for share, most in MEMORY.items():
        assert worst[share] <= most
    for kind, most in SLOTS.items():
        assert worst[f"slots of {kind}"] <= most
    assert worst["slots of photo"] == SLOTS["photo"]  # and no less, or the test would show nothing
    assert not scheduler._waiting
    everything = [
        Turn(scheduler, scheduler.admit("photo", Client("a", "a")), MEMORY[share]) for share in ("other", "large")
    ]
    everything.append(Turn(scheduler, scheduler.admit("edit", Client("a", "a")), MEMORY["edit"]))
    assert all(map(begun, everything))
    for turn in everything:
        turn.end()


def test_a_photo_that_needs_more_than_there_is_gets_all_of_it_and_has_it_alone(take):
    huge = take(byte_count=50 * MEMORY["large"])
    assert begun(huge)
    another = take(byte_count=MEMORY["other"] + 1)
    assert waits(another)
    huge.end()
    assert begun(another)


def test_large_photos_wait_for_each_other_and_hold_up_no_small_one(take):
    large = take(byte_count=900)
    assert begun(large)
    others = [take(byte_count=900) for _ in range(3)]
    small = take(byte_count=50)
    assert begun(small)
    assert waits(*others)


def test_an_edit_waits_for_no_photo(take):
    for _ in range(SLOTS["photo"]):
        assert begun(take(byte_count=MEMORY["other"] // 2))
    assert begun(take("edit", MEMORY["edit"]))


def test_what_fails_gives_its_memory_and_its_slot_back(scheduler):
    for _ in range(SLOTS["photo"] + 1):
        job = scheduler.admit("photo", Client("a", "a"))
        with pytest.raises(ZeroDivisionError), scheduler.memory(job, MEMORY["other"]), scheduler.slot(job):
            1 / 0  # noqa: B018
        scheduler.end(job)
    turn = Turn(scheduler, scheduler.admit("photo", Client("b", "b")), MEMORY["other"])
    assert begun(turn)
    turn.end()


# --- fairness ---


def test_who_has_least_of_the_work_is_next(take):
    """One visitor sends many photos, then another sends one."""
    many = [take(client=Client("many", "here")) for _ in range(6)]
    time.sleep(A_WHILE)
    working = [turn for turn in many if turn.works.is_set()]
    assert len(working) == SLOTS["photo"]
    one = take(client=Client("one", "there"))
    assert waits(one)
    working[0].end()
    assert begun(one)


def test_sessions_that_are_made_up_gain_nothing_where_the_address_is_the_same(scheduler, take):
    several = [take(byte_count=50, client=Client(f"session {n}", "here"), slot=False) for n in range(6)]
    time.sleep(A_WHILE)
    having = [turn for turn in several if turn.has_memory.is_set()]
    assert len(having) == 2
    one = take(byte_count=50, client=Client("one", "there"), slot=False)
    time.sleep(A_WHILE)
    having[0].end()
    assert one.has_memory.wait(SOON)


def test_those_for_whom_nobody_listens_come_last_and_do_come(take):
    running = [take() for _ in range(SLOTS["photo"])]
    assert all(map(begun, running))
    unheard = take(heard=lambda: False)
    assert waits(unheard)
    heard = take()
    assert waits(heard)
    running[0].end()
    assert begun(heard)
    assert waits(unheard)
    heard.end()
    assert waits(unheard)
    running[1].end()
    assert begun(unheard)


def test_a_batch_lets_single_photos_go_first(take):
    running = [take() for _ in range(SLOTS["photo"])]
    assert all(map(begun, running))
    batch = take("batch")
    assert waits(batch)
    single = take()
    assert waits(single)
    running[0].end()
    assert begun(single)
    assert waits(batch)


def test_a_batch_goes_on_however_many_single_photos_come(take, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    running = [take() for _ in range(SLOTS["photo"])]
    assert all(map(begun, running))
    batch = take("batch")
    for _ in range(30):  # each time that one ends, another waits already
        running.append(take())
        time.sleep(0.02)
        running.pop(0).end()
        if batch.works.wait(0.03):
            return
    raise AssertionError("it never got its turn")


def test_a_single_photo_waits_for_no_more_than_one_photo_of_each_batch(scheduler, monkeypatch):
    """Many batches make each other wait for longer than their patience, again and again."""
    monkeypatch.setattr(module, "PATIENCE", 0.02)
    count, started, stop = WAITING["batch"][-1], Counter(), threading.Event()

    def run(job: Job) -> None:
        while not stop.is_set():
            with scheduler.memory(job, 1), scheduler.slot(job):
                started["batch"] += 1
                time.sleep(0.02)
        scheduler.end(job)

    jobs = [scheduler.admit("batch", Client(f"session {n}", f"address {n}")) for n in range(count)]
    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    before = started["batch"]
    single = Turn(scheduler, scheduler.admit("photo", Client("single", "single")))
    got_in = begun(single)
    went_first = started["batch"] - before
    stop.set()
    for thread in threads:
        thread.join(SOON)
    single.end()
    assert got_in
    assert before > count  # they did take turns
    assert went_first <= count + SLOTS["photo"]


@pytest.mark.parametrize("byte_count", [90, MEMORY["other"]])
def test_a_photo_that_needs_much_is_not_passed_for_ever_by_those_that_need_little(take, monkeypatch, byte_count):
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    small = [take(byte_count=40, slot=False) for _ in range(2)]
    assert all(turn.has_memory.wait(SOON) for turn in small)
    much = take(byte_count=byte_count, slot=False)
    for _ in range(40):  # never is there as much free as it needs, unless it is kept for it
        small.append(take(byte_count=40, slot=False))
        time.sleep(0.02)
        small.pop(0).end()
        if much.has_memory.wait(0.03):
            return
    raise AssertionError("it never got its turn")


@pytest.mark.parametrize("seed", range(3))
def test_nobody_starves(scheduler, monkeypatch, seed):
    """Jobs of any kind keep coming from everywhere; each gets all its turns, and none is passed by hundreds."""
    monkeypatch.setattr(module, "PATIENCE", 0.1)
    chance = random.Random(seed)
    lock, began, passed = threading.Lock(), [], []

    def run(job: Job, byte_counts: list[int]) -> None:
        for byte_count in byte_counts:
            since = len(began)
            with scheduler.memory(job, byte_count), scheduler.slot(job), lock:
                passed.append(len(began) - since)
                began.append(job)
                time.sleep(0.001)
        scheduler.end(job)

    threads = []
    for number in range(300):
        kind = chance.choice(("photo", "photo", "photo", "edit", "batch"))
        client = Client(f"session {number}", f"address {number % 40}")
        byte_counts = [chance.choice((1, 20, 40, 99, 101, 900)) for _ in range(4 if kind == "batch" else 1)]
        with suppress(BusyError):
            threads.append(threading.Thread(target=run, args=(scheduler.admit(kind, client), byte_counts)))
            threads[-1].start()
        time.sleep(0.001)
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert len(threads) > 100
    assert max(passed) < 200


@pytest.mark.parametrize("why", ["large", "unheard"])
def test_slow_ones_leave_a_slot_for_the_next_small_photo(take, monkeypatch, why):
    """Else a small photo would wait for whole turns of two of them, whoever sends them."""
    monkeypatch.setattr(module, "UNHEARD", 0.0)
    monkeypatch.setattr(module, "PATIENCE", 0.1)  # not even one that has waited for long keeps it
    slow = [
        take(byte_count=MEMORY["other"] + 1 if why == "large" else 1, heard=lambda: why == "large") for _ in range(3)
    ]
    assert begun(slow[0])
    assert waits(*slow[1:])
    small = take()
    assert begun(small)
    slow[0].end()
    if why == "unheard":
        assert waits(*slow[1:])
        small.end()
    assert begun(slow[1])


def test_whoever_is_heard_again_is_slow_no_longer(take, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD", 0.0)
    heard = threading.Event()
    assert begun(take(heard=lambda: False))
    second = take(heard=heard.is_set)
    assert waits(second)
    heard.set()
    assert begun(second)


def test_what_nobody_listens_for_is_postponed_while_somebody_waits_as_far_on(scheduler, take, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD", 0.0)
    unheard, batch = take(heard=lambda: False), Job("batch", Client("b", "b"), 0.0, lambda: False)
    assert begun(unheard)
    scheduler.check(unheard.job)  # nobody else is there
    small = take()
    assert begun(small)
    with pytest.raises(PostponedError):
        scheduler.check(unheard.job)
    scheduler.check(small.job)
    scheduler.check(batch)  # it could not start anew
    small.end()
    scheduler.check(unheard.job)
    unheard.job.leave()
    with pytest.raises(AbandonedError):
        scheduler.check(unheard.job)


def test_what_nobody_listens_for_gives_back_the_memory_for_which_somebody_waits(take, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD", 0.0)
    listens = threading.Event()
    listens.set()
    running = [take() for _ in range(SLOTS["photo"])]
    assert all(map(begun, running))
    first = take(byte_count=MEMORY["large"], heard=listens.is_set)
    assert first.has_memory.wait(SOON)
    large = take(byte_count=MEMORY["large"])
    assert waits(first, large)
    listens.clear()
    assert large.has_memory.wait(SOON)
    first.join()
    assert isinstance(first.outcome, PostponedError)


# --- who leaves ---


def test_whoever_leaves_waits_no_longer_and_the_next_has_the_place(take):
    running = [take() for _ in range(SLOTS["photo"])]
    assert all(map(begun, running))
    first, second = take(), take()
    assert waits(first, second)
    first.job.leave()
    first.join()
    assert isinstance(first.outcome, AbandonedError)
    running[0].end()
    assert begun(second)


def test_whoever_has_left_takes_nothing(scheduler):
    job = scheduler.admit("photo", Client("a", "a"))
    job.leave()
    with pytest.raises(AbandonedError), scheduler.memory(job, 1):
        pytest.fail("it has left")
    with pytest.raises(AbandonedError):
        job.check()


def test_no_handler_of_errors_goes_on_with_abandoned_work():
    assert not issubclass(AbandonedError, Exception)


# --- the end ---


def test_at_the_end_new_work_is_refused_and_what_is_in_hand_may_finish(scheduler, take):
    working = take()
    assert begun(working)
    closing = threading.Thread(target=scheduler.close, args=(20,))
    closing.start()
    time.sleep(0.05)
    with pytest.raises(BusyError, match="about to end"):
        scheduler.admit("photo", Client("late", "late"))
    assert closing.is_alive()
    working.end()
    closing.join(SOON)
    assert not closing.is_alive()
    assert working.outcome is None


def test_what_has_not_ended_by_then_ends_at_its_next_step(scheduler, take):
    working = [take() for _ in range(SLOTS["photo"])]
    assert all(map(begun, working))
    waiting = [take(), take("batch"), take(byte_count=MEMORY["other"])]
    start = time.monotonic()
    scheduler.close(0.2)
    assert time.monotonic() - start < 2
    for turn in waiting:
        turn.join()
        assert isinstance(turn.outcome, AbandonedError)
    for turn in working:
        with pytest.raises(AbandonedError):
            turn.job.check()


def test_closing_when_there_is_nothing_to_do_takes_no_time(scheduler):
    start = time.monotonic()
    scheduler.close(20)
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(("limit", "least"), [("1000000000\n", 1_000_000_000), ("max\n", 1 << 60), ("", 1 << 60)])
def test_a_container_has_as_much_memory_as_it_may_use(monkeypatch, tmp_path, limit, least):
    monkeypatch.setattr(allocator.os, "sysconf", lambda name: 1 << 30)  # so many pages of so many bytes
    (tmp_path / "memory.max").write_text(limit)
    monkeypatch.setattr(allocator, "open", lambda _: (tmp_path / "memory.max").open(), raising=False)
    assert allocator.total_memory() == least
