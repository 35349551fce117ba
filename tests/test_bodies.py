"""How much a request may carry, told before it is read; photos in JSON lie in files before anything parses them."""

import base64
import io
import json
import logging
import random
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi import Echo, connect, head, read_all, send_raw, served
from helpers import run_async
from starlette.requests import Request

from background_remover.page import bodies
from background_remover.page import files as files_module
from background_remover.page.bodies import CUT_OFF, MAX_FILES, STORED, TOO_MANY, TOO_SLOW, UNREADABLE
from background_remover.page.files import FULL, ONCE, FileStore
from background_remover.page.guard import Guard
from utilities import PhotoError

UPLOAD, CALL = "/gradio_api/upload", "/gradio_api/call/cutout"
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
DATA_URL = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"


@pytest.fixture
def store(tmp_path, monkeypatch) -> FileStore:
    store = FileStore(tmp_path / "files")
    store.folder.mkdir()
    monkeypatch.setattr(files_module, "LEAST", 0)
    monkeypatch.setattr(bodies, "file_store", lambda: store)
    monkeypatch.setattr(bodies, "DRAIN", 0.3)
    return store


@pytest.fixture(scope="module")
def app() -> Echo:
    return Echo()


@pytest.fixture(scope="module")
def port(app) -> Iterator[int]:
    with served(Guard(app, ())) as port:
        yield port


@pytest.fixture(autouse=True)
def no_traceback(caplog) -> Iterator[None]:
    """Whatever a client sends, nothing of it is a fault of the server's."""
    with caplog.at_level(logging.INFO):
        yield
    assert not [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR]


@pytest.fixture
def small(store, monkeypatch) -> FileStore:
    """A store, with limits that a test can reach."""
    monkeypatch.setattr(bodies, "MAX_UPLOAD", 100_000)
    monkeypatch.setattr(bodies, "MAX_JSON", 100_000)
    return store


def read(answer: str) -> tuple[int, Any]:
    """The status, and what is said: JSON, or text."""
    text = answer.partition("\r\n\r\n")[2]
    return int(answer.split()[1]), json.loads(text) if text.startswith("{") else text


def send(port: int, path: str, body: bytes | str, *headers: str) -> tuple[int, Any]:
    body = body.encode() if isinstance(body, str) else body
    return read(send_raw(port, head(f"POST {path}", f"Content-Length: {len(body)}", *headers), body))


def chunked(body: bytes, size: int = 5000) -> bytes:
    parts = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def files(store: FileStore) -> list[bytes]:
    """What lies in the folder."""
    return [path.read_bytes() for path in store.folder.rglob("*") if path.is_file()]


# --- how much ---


@pytest.mark.parametrize("path", [UPLOAD, CALL])
def test_what_is_too_much_is_refused_before_it_is_read(port, app, small, path):
    before = len(app.asked)
    with connect(port) as connection:
        connection.sendall(head(f"POST {path}", "Content-Length: 100001"))
        status, said = read(read_all(connection))
    assert status == 413
    assert "MB" in (said if path == UPLOAD else said["detail"])
    assert len(app.asked) == before
    assert files(small) == []


@pytest.mark.parametrize("path", [UPLOAD, CALL])
def test_whoever_sends_it_all_the_same_can_read_the_answer(port, small, path):
    """A client that is still sending when the other side closes may never see what that said."""
    assert send(port, path, bytes(400_000))[0] == 413


@pytest.mark.parametrize("path", [UPLOAD, CALL])
def test_what_turns_out_to_be_too_much_is_refused_then(port, app, small, path):
    before = len(app.asked)
    body = chunked(b'["' + bytes(200_000).replace(b"\0", b"a") + b'"]')
    status, said = read(send_raw(port, head(f"POST {path}", "Transfer-Encoding: chunked"), body))
    assert status == 413
    assert "MB" in (said if path == UPLOAD else said["detail"])
    assert len(app.asked) == before


def test_whoever_goes_on_sending_what_is_too_much_is_answered_once(port, small):
    with connect(port) as connection:
        connection.sendall(head(f"POST {UPLOAD}", "Transfer-Encoding: chunked"))
        for _ in range(6):
            connection.sendall(b"9c40\r\n" + bytes(40_000) + b"\r\n")
            time.sleep(0.03)
        answer = read_all(connection)
    assert answer.count("HTTP/1.1 413") == answer.count("HTTP/1.1") == 1


def test_an_upload_that_its_sender_breaks_off_is_no_fault(store):
    """Whoever closes the page meanwhile does that."""
    ended = threading.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await Request(scope, receive).body()
        finally:
            ended.set()

    with served(Guard(app, ())) as port:
        with connect(port) as connection:
            connection.sendall(head(f"POST {UPLOAD}", "Content-Length: 1000") + b"abc")
            time.sleep(0.1)
        assert ended.wait(5)


@pytest.mark.parametrize("path", [UPLOAD, CALL])
@pytest.mark.parametrize("size", [0, 1, 99_996])
def test_what_is_just_enough_arrives_whole_whichever_way_it_is_sent(port, small, path, size):
    body = json.dumps("a" * size).encode() if size else b""
    told = send(port, path, body)
    parts = send_raw(port, head(f"POST {path}", "Transfer-Encoding: chunked"), chunked(body))
    assert told[0] == read(parts)[0] == 200
    assert told[1]["body"] == read(parts)[1]["body"] == body.decode()


@pytest.mark.parametrize("length", ["-1", "1e3", "0x10", "\xb2", "1" * 30, "1" * 6000, "100001, 1", "", "+5"])
@pytest.mark.parametrize("path", [UPLOAD, CALL])
def test_a_length_that_is_none_is_refused(port, app, small, path, length):
    before = len(app.asked)
    answer = send_raw(port, head(f"POST {path}", f"Content-Length: {length}"), b'"abc"')
    assert answer.split()[1] in ("400", "413", "431")
    assert len(app.asked) == before


def test_a_length_and_chunks_are_not_two_requests(port, app, store):
    """One server that goes by one of them and another that goes by the other could be told different things."""
    before = len(app.asked)
    smuggled = b"0\r\n\r\n" + head("GET /config")
    headers = head(f"POST {CALL}", f"Content-Length: {len(smuggled)}", "Transfer-Encoding: chunked")
    answer = send_raw(port, headers, smuggled)
    assert [one["path"] for one in app.asked[before:]] in ([], [CALL])
    assert answer.count("HTTP/1.1") == 1


def test_a_body_that_is_shorter_than_it_says_is_not_read_as_if_it_were_whole(port, app, store):
    before = len(app.asked)
    with connect(port) as connection:
        connection.sendall(head(f"POST {CALL}", "Content-Length: 100") + b'{"data": [7]}')
        connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    time.sleep(0.1)
    assert len(app.asked) == before

    async def cut_off() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    with pytest.raises(bodies.RefusedError, match=CUT_OFF):
        run_async(bodies.read_json(cut_off))


def test_a_body_that_does_not_arrive_is_not_waited_for_long(port, app, store, monkeypatch):
    monkeypatch.setattr(bodies, "SECONDS", 0.3)
    monkeypatch.setattr(bodies, "DRAIN", 0.2)
    before = len(app.asked)
    with connect(port) as connection:
        connection.sendall(head(f"POST {CALL}", "Content-Length: 100") + b'{"data": ')
        start = time.monotonic()
        for _ in range(4):  # slowly, and for ever
            time.sleep(0.1)
            connection.sendall(b" ")
        status, said = read(read_all(connection))
    assert (status, said["error"]) == (408, TOO_SLOW)
    assert time.monotonic() - start < 3
    assert len(app.asked) == before


def test_uploads_and_large_json_are_refused_where_the_disk_is_full(port, store, monkeypatch):
    monkeypatch.setattr(bodies, "IN_MEMORY", 1000)
    store.max_bytes = 1000
    assert send(port, UPLOAD, bytes(2000)) == (507, FULL)
    status, said = send(port, CALL, json.dumps([DATA_URL]))
    assert (status, said["error"]) == (507, FULL)
    assert send(port, CALL, json.dumps(["a" * 900]))[0] == 200
    assert files(store) == []


def test_room_is_made_by_deleting_what_is_oldest(port, store, monkeypatch):
    body = json.dumps([DATA_URL] * 6)
    monkeypatch.setattr(bodies, "IN_MEMORY", 1000)
    monkeypatch.setattr(bodies, "STEP", len(body))
    (store.new_folder() / "old").write_bytes(bytes(2000))
    time.sleep(0.15)
    store.max_bytes = len(body) + 1000
    assert send(port, CALL, body)[0] == 200
    assert files(store) == [PNG] * 6


def test_an_upload_is_not_swept_while_it_comes_in_nor_counted_twice(store):
    store.max_bytes = 2500
    with store.receiving(on_show=True) as make_room:
        make_room(1000)
        part = store.folder / "part"  # as the form parser keeps it
        part.write_bytes(bytes(1000))
        make_room(1000)
        part.write_bytes(bytes(2000))
        with pytest.raises(PhotoError, match="full"):
            make_room(1000)
        assert part.exists()
    assert store._coming == 0
    store.sweep(room=1000)
    assert not part.exists()


def test_what_comes_in_unseen_keeps_all_its_room(store):
    store.max_bytes = 2500
    with store.receiving(on_show=False) as make_room:
        make_room(1000)
        make_room(1000)
        with pytest.raises(PhotoError, match="full"):
            make_room(1000)


def test_bodies_that_come_in_at_once_have_the_room_of_one(port, store, monkeypatch):
    monkeypatch.setattr(bodies, "STEP", 1000)
    store.max_bytes = 1500
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(head(f"POST {UPLOAD}", "Content-Length: 900") + bytes(800))
        deadline = time.monotonic() + 10
        while not store._coming and time.monotonic() < deadline:
            time.sleep(0.02)
        assert send(port, UPLOAD, bytes(900)) == (507, FULL)
        connection.sendall(bytes(100))
        assert read(read_all(connection))[0] == 200
    assert send(port, UPLOAD, bytes(900))[0] == 200


# --- photos in JSON ---


def stored(text: str) -> Iterator[bytes]:
    """What the files hold that texts name, in order."""
    value = json.loads(text)
    for item in value if isinstance(value, list) else [value]:
        yield held_by(item)


def held_by(url: str) -> bytes:
    """What the file holds that a data: URL has become."""
    assert re.fullmatch(re.escape(STORED + ONCE) + r"[\w-]{20,}", url)
    return bodies.stored_path(url).read_bytes()


def test_a_photo_in_json_is_in_a_file_and_all_else_as_it_was(port, store):
    body = '{"data":[{"url" : "%s", "meta":{}},1e400, NaN ,"\\u00e9\\"é", {"a":1,"a":2}] }\n'
    status, told = send(port, CALL, body % DATA_URL)
    assert status == 200
    arrived = told["body"].encode("latin-1").decode()
    before, after = body.split("%s")
    name = arrived.removeprefix(before + STORED).removesuffix(after)
    assert arrived == f"{before}{STORED}{name}{after}"
    assert held_by(STORED + name) == PNG
    assert str(store.folder) not in arrived  # whatever is told of this body, it is no path
    assert ["content-length", str(len(told["body"]))] in told["headers"]


SPELLINGS = {
    "plain": DATA_URL,
    "no type": DATA_URL.replace("image/png", ""),
    "parameters": DATA_URL.replace("image/png", "image/png;name=a b.png;charset=x"),
    "capitals": DATA_URL.replace(";base64", ";BASE64"),
    "without padding": DATA_URL.rstrip("="),
    "line breaks": DATA_URL[:90] + "\r\n \t" + DATA_URL[90:],
    "percent": DATA_URL.replace("+", "%2B").replace("/", "%2F"),
    "spaces before base64": DATA_URL.replace(";base64", "; base64 "),
    "not base64": "data:image/png," + "".join(f"%{byte:02x}" for byte in PNG),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("slashes", ["/", "\\/", "\\u002f"])
def test_data_urls_are_read_however_they_are_spelled(store, spelling, slashes):
    text = json.dumps(SPELLINGS[spelling]).replace("data:image/", "data:image" + slashes)
    assert [*stored(parse(text).decode())] == [PNG]


def parse(text: str | bytes) -> bytes:
    """What becomes of JSON; as a short body, and as one that lies on the disk."""
    data = text.encode() if isinstance(text, str) else text
    most, found = bodies.IN_MEMORY, []
    try:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            for bodies.IN_MEMORY in (len(data), len(data) - 1) if data else (0,):
                found.append(bodies.store_data_urls(file, len(data)))
    finally:
        bodies.IN_MEMORY = most
    assert len({len(one) for one in found}) == 1
    return found[0]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 786_431, 786_432, 786_433, 2_500_000])
def test_a_photo_of_any_length_is_the_same_in_its_file(store, size):
    photo = random.Random(size).randbytes(size)
    assert [*stored(parse(json.dumps([f"data:;base64,{base64.b64encode(photo).decode()}"])).decode())] == [photo]


@pytest.mark.parametrize(
    "text",
    [
        '{"data": 1}',
        '["say \\"data:image/png;base64,AAAA\\" to me"]',
        '["\\\\\\"data:image/png;base64,AAAA"]',
        '["a data:image/png;base64,AAAA"]',
        '["Data:image/png;base64,AAAA"]',
        '["\\u0064ata:image/png;base64,AAAA"]',
        "",
        "no JSON at all, 'data:a'",
        "[" * 100_000,
    ],
)
def test_what_is_no_data_url_stays_as_it_is(store, text):
    assert parse(text) == text.encode()
    assert files(store) == []


def test_a_data_url_as_a_name_is_no_way_to_have_two_values(store):
    (name,) = json.loads(parse(json.dumps({DATA_URL: DATA_URL})))
    assert held_by(name) == PNG


@pytest.mark.parametrize("backslashes", [1, 2, 3, 63, 64, 65, 66, 127, 128, 129, 5000, 5001])
def test_a_text_ends_where_json_says_so(store, backslashes):
    """Else what follows would be read as something else here than by all that come after."""
    text = "data:,a" + "\\" * backslashes + '","data:,b'
    named = json.loads(parse(json.dumps([text, "c"])))
    assert len(named) == 2
    assert named[1] == "c"
    assert held_by(named[0]) == text.removeprefix("data:,").encode()


@pytest.mark.parametrize("inside", ["\\x", "\\u12", "\n", "\0"])
def test_a_data_url_that_is_no_json_is_refused_and_leaves_nothing(port, store, inside):
    status, said = send(port, CALL, f'["data:,a{inside}b"]')
    assert (status, said["error"]) == (422, UNREADABLE)
    assert [*store.folder.iterdir()] == []


def test_a_data_url_that_is_no_utf8_is_refused(store):
    file = io.BytesIO(b'["data:image/png;base64,' + b"\xff" + b'"]')
    with pytest.raises(PhotoError, match=re.escape(UNREADABLE)):
        bodies.store_data_urls(file, len(file.getvalue()))


@pytest.mark.parametrize("text", ['["data:', '["data:,a', '["data:,a\\"]', '["data:,' + "\\" * 7])
def test_a_text_without_an_end_is_refused(port, store, text):
    status, said = send(port, CALL, text)
    assert (status, said["error"]) == (422, UNREADABLE)


@pytest.mark.parametrize(
    "url", ["data:", "data:image/png;base64", "data:;base64,AAA*", "data:;base64,A", "data:;base64,é"]
)
def test_a_data_url_that_holds_nothing_readable_is_told(port, store, url):
    status, said = send(port, CALL, json.dumps([url], ensure_ascii=False))
    assert status == 422
    assert "data: URL" in said["error"]
    assert str(store.folder) not in said["error"]


def test_there_are_no_more_photos_in_one_request_than_a_batch_has(port, store):
    """Each is a folder and a file, however short it is."""
    urls = ["data:,a"] * (MAX_FILES + 1)
    assert send(port, CALL, json.dumps(urls))[0] == 200
    assert len(files(store)) == MAX_FILES + 1
    status, said = send(port, CALL, json.dumps(urls * 1000))
    assert (status, said["error"]) == (413, TOO_MANY)
    assert len(files(store)) <= 2 * (MAX_FILES + 1)


def test_one_photo_is_no_larger_than_a_file_may_be(port, store, monkeypatch):
    monkeypatch.setattr(bodies, "MAX_BYTES", 300_000)
    small, large = (f"data:;base64,{base64.b64encode(bytes(size)).decode()}" for size in (300_000, 310_000))
    assert send(port, CALL, json.dumps([small, small]))[0] == 200
    assert send(port, CALL, json.dumps([small, large]))[0] == 413


@pytest.mark.parametrize("place", [0, 1, 2])
def test_all_else_than_photos_is_no_larger_than_it_must_be(port, store, monkeypatch, place):
    monkeypatch.setattr(bodies, "MAX_REST", 10_000)
    texts = [DATA_URL, DATA_URL]
    texts.insert(place, "a" * 9_900)
    assert send(port, CALL, json.dumps(texts))[0] == 200
    texts[place] = "a" * 10_001
    assert send(port, CALL, json.dumps(texts))[0] == 413


def test_a_photo_that_has_become_a_file_already_stays_that_one(store):
    text = json.dumps([f"{STORED}/somewhere/else"])
    assert parse(text) == text.encode()
    assert files(store) == []


def test_nothing_is_kept_of_a_body_but_its_photos(port, store, monkeypatch):
    monkeypatch.setattr(bodies, "IN_MEMORY", 100)
    for text in ("a" * 1000, DATA_URL, DATA_URL[:-3] + "*"):
        send(port, CALL, json.dumps([text, "b" * 1000]))
    assert [file for file in files(store) if file != PNG] in ([], [PNG[:-1]], [b""])


def test_large_bodies_hold_nobody_up(port, store):
    """They are looked through in another thread."""
    body = json.dumps([f"data:;base64,{base64.b64encode(bytes(20_000_000)).decode()}"]).encode()
    with connect(port) as connection:
        connection.sendall(head(f"POST {CALL}", f"Content-Length: {len(body)}") + body)
        slowest = 0.0
        for _ in range(10):
            start = time.monotonic()
            assert send_raw(port, head("GET /config")).split()[1] == "200"
            slowest = max(slowest, time.monotonic() - start)
        assert read(read_all(connection))[0] == 200
    assert slowest < 5
    assert [len(file) for file in files(store)] == [20_000_000]


def test_what_a_request_is_refused_with_is_text_for_uploads_and_json_else():
    def answer(path: str) -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def run(send: Callable[..., Any]) -> None:
            async def receive() -> dict[str, Any]:
                return {"type": "http.disconnect"}

            await bodies.RefusedError(413, "A sentence.").answer({"type": "http", "path": path}, receive, send)

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        run_async(run(send))
        return sent

    start, body, end = answer(UPLOAD)
    assert (start["status"], body["body"], end.get("more_body", False)) == (413, b"A sentence.", False)
    assert json.loads(answer(CALL)[1]["body"]) == {"detail": "A sentence.", "error": "A sentence."}
