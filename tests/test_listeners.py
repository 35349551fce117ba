"""Who listens for a result, and what happens when nobody does any more."""

import threading
import time
from collections.abc import Callable

from asgi import connect, head, served

from background_remover.page.guard import Guard, heard_by, listeners


def scope(path: str, query: str = "", method: str = "GET") -> dict:
    return {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}


def test_a_request_for_results_listens_for_its_session_or_its_event():
    assert heard_by(scope("/gradio_api/queue/data", "session_hash=abc")) == "abc"
    assert heard_by(scope("/gradio_api/queue/data", "a=b&session_hash=abc&c=d")) == "abc"
    assert heard_by(scope("/gradio_api/queue/data", "not_session_hash=abc")) == ""
    assert heard_by(scope("/gradio_api/queue/data")) == ""
    assert heard_by(scope("/gradio_api/call/cutout/e1")) == "e1"
    assert heard_by(scope("/gradio_api/call/v2/cutout/e1")) == "e1"
    assert heard_by(scope("/gradio_api/call/cutout")) == ""
    assert heard_by(scope("/gradio_api/queue/data", "session_hash=abc", "POST")) == ""
    assert heard_by(scope("/gradio_api/queue/data", "session_hash=a%20b+c")) == "a b c"  # as Gradio reads it


def test_whoever_leaves_last_ends_what_was_for_them_alone():
    left: list[str] = []
    first, second = (lambda: left.append("first")), (lambda: left.append("second"))
    listeners.on_leaving("session 1", "event 1", first)
    listeners.on_leaving("session 2", "", second)
    try:
        with listeners.listening("another"), listeners.listening(""):
            pass
        assert left == []
        assert not listeners.has_left("")  # whoever listens for nothing can't leave it
        with listeners.listening("session 1"):
            with listeners.listening("session 1"), listeners.listening("event 1"):
                assert listeners.heard("session 1", "")
            assert left == []
            assert listeners.heard("x", "session 1")
        assert left == ["first"]
        assert not listeners.heard("session 1", "event 1", "", "session 2")
        listeners.forget(second)
        with listeners.listening("session 2"):
            pass
        assert left == ["first"]
    finally:
        listeners.forget(first)
        listeners.forget(second)


def test_a_client_that_goes_away_is_noticed():
    left = threading.Event()

    async def app(scope: dict, receive: Callable, send: Callable) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: \n\n", "more_body": True})
        while (await receive())["type"] != "http.disconnect":
            pass

    listeners.on_leaving("visitor", "", left.set)
    try:
        with served(Guard(app, ())) as port, connect(port) as connection:
            connection.sendall(head("GET /gradio_api/queue/data?session_hash=visitor"))
            connection.recv(1000)
            deadline = time.monotonic() + 5
            while not listeners.heard("visitor") and time.monotonic() < deadline:
                time.sleep(0.01)
            assert listeners.heard("visitor")
            assert not left.is_set()
            connection.close()
            assert left.wait(5)
        assert not listeners.heard("visitor")
    finally:
        listeners.forget(left.set)


def test_whoever_has_left_is_remembered_until_somebody_listens_again():
    with listeners.listening("event 7"):
        assert not listeners.has_left("event 7")
    assert listeners.has_left("event 7")
    assert not listeners.has_left("event 8")
    with listeners.listening("event 7"):
        assert not listeners.has_left("event 7")
    for number in range(2000):
        with listeners.listening(f"other {number}"):
            pass
    assert not listeners.has_left("event 7")  # of the last ones alone, since they come without an end
