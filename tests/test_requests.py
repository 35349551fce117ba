"""A handler is a job in a thread: counted until it has really ended, ended when nobody waits, errors in a sentence."""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import aclosing, suppress
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio.context import LocalContext
from helpers import run_async

from background_remover.page import requests
from background_remover.page.files import FileStore
from background_remover.page.guard import listeners
from background_remover.page.requests import by_name, plainly
from background_remover.page.turns import current_job
from background_remover.scheduler import WAITING, BusyError, Client, PostponedError, Scheduler
from utilities import PhotoError

SOON = 5.0  # seconds in which a thread gets to what it may do
PLACES = WAITING["photo"][0]


@pytest.fixture(autouse=True)
def scheduler(tmp_path, monkeypatch) -> Scheduler:
    scheduler, store = Scheduler({"large": 10, "other": 10, "edit": 10}), FileStore(tmp_path)
    monkeypatch.setattr(requests, "scheduler", lambda: scheduler)
    monkeypatch.setattr(requests, "file_store", lambda: store)
    return scheduler


def run(coroutine: Coroutine[Any, Any, Any], session: str = "visitor") -> Any:
    async def as_visitor() -> Any:
        LocalContext.request.set(SimpleNamespace(session_hash=session, request=None))
        return await coroutine

    return run_async(as_visitor())


def all_ended(scheduler: Scheduler, session: str = "visitor") -> bool:
    """Whether nothing of a visitor's counts any longer: as many jobs as there may be are admitted."""
    deadline = time.monotonic() + SOON
    while time.monotonic() < deadline:
        jobs = []
        with suppress(BusyError):
            jobs = [scheduler.admit("photo", Client(session, "")) for _ in range(PLACES)]
        for job in jobs:
            scheduler.end(job)
        if len(jobs) == PLACES:
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def work() -> Iterator[SimpleNamespace]:
    """A handler that works until it is let go, or finds that nobody waits."""
    started, go, ended = threading.Event(), threading.Event(), threading.Event()

    def handler(value: Any) -> Any:
        started.set()
        try:
            while not go.wait(0.01):
                current_job.get().check()
            return value
        finally:
            ended.set()

    yield SimpleNamespace(started=started, go=go, ended=ended, handler=handler)
    go.set()


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def test_a_handlers_value_comes_from_a_thread_with_a_job(scheduler):
    @plainly("photo")
    def handler(a: int, b: int) -> tuple[int, str, bool]:
        return a + b, current_job.get().client.session, threading.current_thread() is threading.main_thread()

    assert run(handler(3, 4)) == (7, "visitor", False)
    assert handler.__name__ == "handler"
    assert all_ended(scheduler)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PhotoError("This is a sentence."), "This is a sentence."),
        (gr.Error("Another."), "Another."),
        (OSError("/srv/secret.py"), "Something went wrong here: try again, or try another photo."),
        (MemoryError(), "Something went wrong here: try again, or try another photo."),
        (StopIteration("odd"), "Something went wrong here: try again, or try another photo."),
    ],
)
def test_an_error_is_one_sentence_and_takes_no_place(scheduler, error, told):
    @plainly("photo")
    def handler() -> None:
        raise error

    logging.getLogger(requests.__name__).disabled = True
    try:
        for _ in range(3 * PLACES):
            with pytest.raises(gr.Error) as caught:
                run(handler())
            assert caught.value.message == told
    finally:
        logging.getLogger(requests.__name__).disabled = False
    assert all_ended(scheduler)


def test_too_many_at_once_are_told_when_to_try_again(work, scheduler):
    handler = plainly("photo")(work.handler)

    async def ask() -> list[Any]:
        asked = [asyncio.ensure_future(handler(number)) for number in range(PLACES + 3)]
        await until(lambda: sum(one.done() for one in asked) == 3)
        work.go.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    answers = run(ask())
    assert answers[:PLACES] == [*range(PLACES)]
    assert all("try again in about" in str(error) for error in answers[PLACES:])
    assert all_ended(scheduler)


def test_a_call_that_is_cancelled_counts_until_its_thread_has_ended(scheduler):
    started, go, ended = threading.Event(), threading.Event(), threading.Event()

    @plainly("photo")
    def handler() -> None:
        started.set()
        go.wait(SOON)
        ended.set()
        current_job.get().check()

    async def ask() -> None:
        asked = [asyncio.ensure_future(handler()) for _ in range(PLACES)]
        await until(started.is_set)
        for one in asked:
            one.cancel()
        assert all(
            isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*asked, return_exceptions=True)
        )
        assert len(scheduler._jobs) == PLACES
        go.set()
        await until(lambda: not scheduler._jobs)
        assert ended.is_set()

    run(ask())
    assert all_ended(scheduler)


def test_whoever_stops_listening_ends_the_work(work, scheduler):
    handler = plainly("photo")(work.handler)

    async def ask() -> None:
        with listeners.listening("visitor"):
            asked = asyncio.ensure_future(handler(1))
            await until(work.started.is_set)
            assert not work.ended.is_set()
        await until(work.ended.is_set)
        with pytest.raises(gr.Error, match="nobody listened"):
            await asked
        await until(lambda: not scheduler._jobs)

    run(ask())


# --- handlers that yield ---


def test_a_handler_that_yields_gives_all_its_values_and_ends(scheduler):
    @plainly("batch")
    def handler(count: int) -> Iterator[int]:
        yield from range(count)

    async def ask() -> list[int]:
        return [value async for value in handler(5)]

    assert run(ask()) == [0, 1, 2, 3, 4]
    assert all_ended(scheduler)


@pytest.mark.parametrize("how", ["close", "listener"])
def test_what_is_left_between_two_steps_is_closed_and_goes_no_further(scheduler, caplog, how):
    steps, ended, closing = [], threading.Event(), threading.Event()

    @plainly("batch")
    def handler() -> Iterator[int]:
        try:
            for number in range(9):
                steps.append(number)
                yield number
        finally:
            closing.set()
            time.sleep(0.1)  # folders are deleted, say
            ended.set()

    async def ask() -> list[int]:
        values = []
        async with aclosing(handler()) as answers:
            with listeners.listening("visitor"):
                values += [await anext(answers), await anext(answers)]
            if how == "listener":
                await asyncio.to_thread(closing.wait, SOON)
                values += [value async for value in answers]
        await until(lambda: not scheduler._jobs)
        return values

    assert run(ask()) == [0, 1]
    assert ended.is_set()
    assert steps == [0, 1]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert all_ended(scheduler)


@pytest.mark.parametrize("seed", range(2))
def test_whenever_calls_are_cancelled_nothing_is_left_of_them(scheduler, caplog, seed):
    chance, running = random.Random(seed), []

    @plainly("photo")
    def handler(count: int) -> Iterator[int]:
        running.append(1)
        try:
            for number in range(count):
                time.sleep(0.002)
                current_job.get().check()
                yield number
        finally:
            running.pop()

    async def one(count: int) -> None:
        async for _ in handler(count):
            await asyncio.sleep(0.002)

    async def ask() -> None:
        for _ in range(12):
            asked = [asyncio.ensure_future(one(chance.randrange(6))) for _ in range(PLACES)]
            for task in asked:
                await asyncio.sleep(chance.random() * 0.004)
                if chance.random() < 0.7:
                    task.cancel()
            for error in await asyncio.gather(*asked, return_exceptions=True):
                assert error is None or isinstance(error, asyncio.CancelledError)
            await until(lambda: not scheduler._jobs)

    run(ask())
    assert running == []
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert all_ended(scheduler)


def test_there_is_a_thread_for_every_job_that_there_can_be():
    """Else jobs that wait for each other's memory could have all threads, and what would free it none."""
    assert requests._threads._max_workers > sum(most for *_, most in WAITING.values())


def test_what_was_postponed_starts_anew(scheduler):
    tries = []

    @plainly("photo")
    def handler(value: str) -> str:
        tries.append(value)
        if len(tries) < 3:
            raise PostponedError
        return value

    assert run(handler("a")) == "a"
    assert tries == ["a"] * 3
    assert all_ended(scheduler)


def test_nothing_is_begun_for_whoever_has_left(scheduler):
    begun = []

    @plainly("photo")
    def handler(value: str) -> None:
        begun.append(value)

    async def ask() -> None:
        LocalContext.event_id.set("event 9")
        with listeners.listening("event 9"):
            pass
        await handler("a")

    with pytest.raises(gr.Error, match="nobody listened"):
        run(ask())
    assert begun == []
    assert all_ended(scheduler)


def test_the_threads_that_work_let_the_event_loop_go_first():
    if not hasattr(os, "getpriority"):
        pytest.skip("no priorities of threads")
    own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    @plainly("photo")
    def handler(value: str) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert run(handler("a")) == min(19, own + requests.NICE)


# --- one at a time ---


def test_a_visitors_newer_photo_takes_the_place_of_the_one_before(work, scheduler):
    handler = plainly("photo", on_page=True)(work.handler)

    async def ask() -> list[Any]:
        first = asyncio.ensure_future(handler("a"))
        await until(work.started.is_set)
        again, newer = asyncio.ensure_future(handler("a")), asyncio.ensure_future(handler("b"))
        told = [await again, await first]
        work.go.set()
        return [*told, await newer]

    assert run(ask()) == [{}, {}, "b"]
    assert all_ended(scheduler)


def test_a_newer_photo_ends_an_edit_of_the_one_before(work, scheduler):
    """Else the edit, whenever it ends, shows a photo that is no longer there."""
    edit = plainly("edit", on_page=True)(work.handler)
    photo = plainly("photo", on_page=True)(lambda value: value)

    async def ask() -> list[Any]:
        first = asyncio.ensure_future(edit("a"))
        await until(work.started.is_set)
        newer = await photo("b")
        work.go.set()
        return [newer, await first]

    assert run(ask()) == ["b", {}]
    assert all_ended(scheduler)


def test_while_a_photo_is_worked_on_edits_of_the_one_before_come_to_nothing(work, scheduler):
    photo = plainly("photo", on_page=True)(work.handler)
    edit = plainly("edit", on_page=True)(lambda value: value)

    async def ask() -> list[Any]:
        first = asyncio.ensure_future(photo("b"))
        await until(work.started.is_set)
        told = [await edit("a")]
        work.go.set()
        return [*told, await first, await edit("b")]

    assert run(ask()) == [{}, "b", "b"]
    assert all_ended(scheduler)


def test_who_is_refused_is_told_in_the_handlers_own_way(scheduler):
    for _ in range(PLACES):
        scheduler.admit("photo", Client("visitor", ""), lambda: True)
    own = plainly("photo", refused=lambda reason, *inputs: {"status": reason, "of": inputs})(lambda value: value)
    told = run(own("a"))
    assert "try again in" in told["status"]
    assert told["of"] == ("a",)
    with pytest.raises(gr.Error, match="try again in"):
        run(plainly("photo")(lambda value: value)("a"))


def test_the_same_photo_again_does_not_rely_on_one_that_was_given_up(scheduler):
    """Who lost the connection and comes back would wait for nothing."""
    started, go = threading.Event(), threading.Event()

    @plainly("photo", on_page=True)
    def handler(value: str) -> str:
        first = not started.is_set()
        started.set()
        if first:
            go.wait(SOON)
            current_job.get().check()
        return value

    async def ask() -> Any:
        with listeners.listening("visitor"):
            first = asyncio.ensure_future(handler("a"))
            await until(started.is_set)
        again = await handler("a")
        go.set()
        await asyncio.gather(first, return_exceptions=True)
        return again

    assert run(ask()) == "a"
    assert all_ended(scheduler)


def test_values_are_given_by_the_names_of_components():
    components = {"a": gr.Number(), "b": gr.Textbox()}

    @plainly("edit")
    def one(value: int) -> dict[str, Any]:
        return {"a": value} if value else {}

    @plainly("edit")
    def several() -> Iterator[dict[str, Any]]:
        yield {"b": "x"}
        yield {"a": 1, "b": "y"}

    async def ask() -> list[Any]:
        return [value async for value in by_name(several, components)()]

    assert run(by_name(one, components)(7)) == {components["a"]: 7}
    assert run(by_name(one, components)(0)) == gr.skip()
    assert run(ask()) == [{components["b"]: "x"}, {components["a"]: 1, components["b"]: "y"}]
