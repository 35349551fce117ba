"""Who is admitted: so many of a visitor, of an address and of all; the others are told when to try again."""

import re
import threading
import time
from contextlib import suppress

import pytest

from background_remover import scheduler as module
from background_remover.scheduler import WAITING, BusyError, Client, Scheduler


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler({"large": 1000, "other": 100, "edit": 100})


@pytest.mark.parametrize("kind", WAITING)
@pytest.mark.parametrize(("place", "session", "address"), [(0, "{0}", "{0}"), (1, "{1}", "{0}"), (2, "{1}", "{1}")])
def test_one_session_one_address_and_all_together_have_so_many_jobs(scheduler, kind, place, session, address):
    def client(number: int) -> Client:
        return Client(session.format("same", number), address.format("same", number))

    most = WAITING[kind][place]
    jobs = [scheduler.admit(kind, client(number)) for number in range(most)]
    with pytest.raises(BusyError) as refused:
        scheduler.admit(kind, client(most))
    assert re.fullmatch(
        r"There is much to do here just now: try again in about \d+ (seconds|minutes)\.", str(refused.value)
    )
    other = next(one for one in WAITING if one != kind)
    scheduler.end(scheduler.admit(other, client(most)))  # kinds don't take each other's places
    if place < 2:
        scheduler.end(scheduler.admit(kind, Client("other", "other")))
    scheduler.end(jobs[0])
    scheduler.end(jobs[0])  # told twice
    scheduler.admit(kind, client(most))
    with pytest.raises(BusyError):
        scheduler.admit(kind, client(most + 1))


def test_a_call_is_refused_when_it_arrives_as_soon_as_that_is_clear(scheduler, monkeypatch):
    """Of a hundred that come together each is on its way for a while, and none of them is a job as yet."""
    _, of_address, of_all = WAITING["photo"]
    for _ in range(of_address):
        scheduler.expect("photo", "here")
    with pytest.raises(BusyError, match="try again in about"):
        scheduler.expect("photo", "here")
    scheduler.expect("edit", "here")
    for _ in range(of_all - of_address):
        scheduler.expect("photo", "there")
    with pytest.raises(BusyError):
        scheduler.expect("photo", "elsewhere")
    monkeypatch.setattr(module, "COMING", 0.05)
    time.sleep(0.06)
    scheduler.expect("photo", "elsewhere")  # those that never became jobs count no longer


def test_whoever_is_let_in_is_not_counted_twice(scheduler):
    _, of_address, _ = WAITING["photo"]
    for number in range(of_address):
        scheduler.expect("photo", "here")
        scheduler.admit("photo", Client(f"session {number}", "here"))
    with pytest.raises(BusyError):
        scheduler.expect("photo", "here")
    scheduler.expect("photo", "there")


def test_a_call_may_take_the_place_of_one_that_nobody_listens_to(scheduler, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD", 0.0)
    for number in range(WAITING["photo"][1]):
        scheduler.admit("photo", Client(f"session {number}", "here"), lambda: False)
    scheduler.expect("photo", "here")


def test_whoever_nobody_listens_to_makes_way_after_a_while_and_no_more_of_them_than_must(scheduler, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD", 0.05)
    of_session, of_address, _ = WAITING["photo"]
    jobs = [
        scheduler.admit("photo", Client(f"session {number // of_session}", "here"), lambda: False)
        for number in range(of_address)
    ]
    last = jobs[-1].client  # both its session and its address have all they may
    with pytest.raises(BusyError):
        scheduler.admit("photo", last)
    time.sleep(0.06)
    newest = scheduler.admit("photo", last)
    assert [job for job in jobs if job.left] == [jobs[-of_session]]
    assert not newest.left


def test_whoever_is_heard_keeps_its_place(scheduler, monkeypatch):
    monkeypatch.setattr(module, "UNHEARD", 0)
    client = Client("a", "a")
    jobs = [scheduler.admit("photo", client) for _ in range(WAITING["photo"][0])]
    with pytest.raises(BusyError):
        scheduler.admit("photo", client)
    assert not any(job.left for job in jobs)


def test_the_time_to_try_again_follows_the_time_that_turns_take(scheduler, monkeypatch):
    def told() -> int:
        client = Client("a", "a")
        jobs = [scheduler.admit("photo", client) for _ in range(WAITING["photo"][0])]
        with pytest.raises(BusyError) as refused:
            scheduler.admit("photo", client)
        for job in jobs:
            scheduler.end(job)
        number, unit = re.search(r"about (\d+) (\w+)", str(refused.value)).groups()
        return int(number) * (60 if unit == "minutes" else 1)

    quick = told()
    clock = time.monotonic
    for _ in range(30):
        job = scheduler.admit("photo", Client("b", "b"))
        with scheduler.slot(job):
            monkeypatch.setattr(time, "monotonic", lambda: clock() + 60)
        monkeypatch.setattr(time, "monotonic", clock)
        scheduler.end(job)
    assert quick < 15
    assert 200 < told() <= 300  # 8 photos of a minute, two at a time


def test_many_who_ask_at_once_get_no_more_places_than_there_are(scheduler):
    admitted, start = [], threading.Barrier(30)

    def ask() -> None:
        start.wait()
        with suppress(BusyError):
            admitted.append(scheduler.admit("photo", Client("a", "a")))

    threads = [threading.Thread(target=ask) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert len(admitted) == WAITING["photo"][0]


def test_a_call_of_which_nothing_comes_gives_its_place_back(scheduler):
    for _ in range(WAITING["batch"][1]):
        scheduler.expect("batch", "here")
    with pytest.raises(BusyError):
        scheduler.expect("batch", "here")
    scheduler.expect_no_more("batch", "here")
    scheduler.expect("batch", "here")
    scheduler.expect_no_more("batch", "nowhere")
