"""What strangers must not be able to do, tried on every input of every function, those of the page included."""

import json
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from helpers import META, PERSON, ROOT, call, data_url, post, serving
from PIL import Image

from background_remover.page.files import NAME, NOT_HERE

FILE_INPUTS = {"image", "file", "uploadbutton"}  # Gradio's names of the components that take a client's files
REST = {"predict": [], "cutout": ["white", None], "matte": [False], "edit": [None] * 10}  # what follows an image
SECRET_SIZE = 123, 77  # width and height of a photo that nobody uploaded


@pytest.fixture(scope="module")
def secret(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("private") / "secret.jpg"
    Image.new("RGB", SECRET_SIZE, "orange").save(path)
    return path


@pytest.fixture(scope="module")
def config(app_url) -> dict[str, Any]:
    with urllib.request.urlopen(f"{app_url}/config", timeout=30) as answer:
        return json.load(answer)


def ask(app_url: str, function: int, data: list[Any], session: str | None = None) -> dict[str, Any]:
    """What a function gives, or its error, by the queue as the page itself calls it: whatever the page shows of it."""
    session = session or os.urandom(8).hex()
    try:
        post(f"{app_url}/gradio_api/queue/join", {"data": data, "fn_index": function, "session_hash": session})
    except urllib.error.HTTPError as error:
        return {"success": False, "output": {"error": error.read().decode()}}
    with urllib.request.urlopen(f"{app_url}/gradio_api/queue/data?session_hash={session}", timeout=60) as events:
        for line in events:
            event = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
            if event.get("msg") == "process_completed":
                return event
    raise AssertionError("no answer")


def file_inputs(config: dict[str, Any]) -> Iterator[tuple[int, list[Any], int, bool]]:
    """Every function, the values that its inputs have on the page, and the place of each that takes files."""
    components = {component["id"]: component for component in config["components"]}
    for function in config["dependencies"]:
        inputs = [components[number] for number in function["inputs"]]
        values = [component["props"].get("value") for component in inputs]
        for place, component in enumerate(inputs):
            if component["type"] in FILE_INPUTS and function["backend_fn"]:
                yield function["id"], values, place, component["type"] != "image"


def spellings(secret: Path, uploads: Path, app_url: str) -> Iterator[Any]:
    """Ways to name a file of the server as if it had been uploaded."""
    folder = uploads / NAME / "planted"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / "link.jpg"
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    up = os.path.relpath(secret, uploads / NAME)
    missing = secret.with_name("missing.jpg")
    served = f"{app_url}/gradio_api/file={secret}"
    for path in map(str, (secret, link, uploads / NAME / up, f"{uploads / NAME}/planted/../../../{secret}", missing)):
        yield {"path": path}
        yield {"path": path, "meta": META}
        yield {"path": path, "url": None, "orig_name": "photo.jpg", "mime_type": "image/jpeg", "is_stream": True}
        yield {"path": path, "meta": META, "is_stream": True}
        yield {"path": path, "meta": {"_type": "other"}}
    yield {"path": served, "meta": META}
    yield {"path": served}
    yield {"path": f"file://{secret}", "meta": META}
    yield {"url": f"file://{secret}", "meta": META}
    yield {"url": served}
    yield {"path": None, "url": str(secret)}
    yield {}
    yield 7
    yield str(secret)
    yield [str(secret)]
    yield {"path": {"path": str(secret), "meta": META}, "meta": META}


def test_no_input_of_any_function_opens_a_file_that_was_not_uploaded(app_url, uploads, config, secret):
    places = list(file_inputs(config))
    before = {path for path in uploads.rglob("*") if path.is_file()}
    tried = 0
    for function, values, place, several in places:
        for spelling in spellings(secret, uploads, app_url):
            data = list(values)
            data[place] = [spelling] if several else spelling
            answer = json.dumps(ask(app_url, function, data))
            assert str(secret) not in answer
            assert not {SECRET_SIZE, SECRET_SIZE[::-1]} & set(new_sizes(uploads, before))
            tried += 1
    names = [function["api_name"] for function in config["dependencies"] if function["id"] in {p[0] for p in places}]
    assert {*REST, "remove_background", "batch"} < set(names)
    assert len(names) >= 6 + 5  # the page's own, which anybody can call too: photo, brush, finish, photos, folder
    assert tried > 30 * len(names)


def new_sizes(uploads: Path, before: set[Path]) -> Iterator[tuple[int, int]]:
    """Width and height of all pictures that have come since."""
    for path in uploads.rglob("*"):
        if path not in before and path.is_file() and not path.is_symlink():
            before.add(path)
            try:
                with Image.open(path) as image:
                    yield image.size
            except OSError:
                continue


@pytest.mark.parametrize("name", REST)
def test_a_private_file_and_a_missing_one_are_refused_in_the_same_words(app_url, secret, name):
    answers = [
        call(app_url, {"path": str(path)} | meta, *REST[name], name=name)
        for path in (secret, secret.with_name("missing.jpg"))
        for meta in ({}, {"meta": {"_type": "other"}})
    ]
    assert len(set(answers)) == 1
    assert NOT_HERE in answers[0]


def request(url: str, data: bytes | None = None, **headers: str) -> int:
    """The status of the answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def multipart(field: str, name: str, data: bytes) -> tuple[bytes, dict[str, str]]:
    head = f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'.encode()
    return head + data + b"\r\n--x--\r\n", {"Content-Type": "multipart/form-data; boundary=x"}


def test_routes_that_the_page_does_not_need_are_closed(app_url, uploads):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

    body, headers = multipart("video", "a.mp4", b"ffconcat version 1.0\nfile 'a.m3u8'")
    with serving(Handler) as port:
        assert request(f"{app_url}/gradio_api/file=http://127.0.0.1:{port}/private.png") in (403, 404)
        assert request(f"{app_url}/gradio_api/process_recording", body, **headers) == 404
        assert request(f"{app_url}/gradio_api/component_server", body, **headers) in (404, 422)
    ask(app_url, 0, [None], session="visitor")
    request(f"{app_url}/gradio_api/deep_link?session_hash=visitor")
    assert asked == []
    assert not (uploads / NAME / "deep_links").exists()


def test_whoever_launches_the_page_has_the_guard_before_it(start_app):
    """As a program that imports it does, or Gradio's own command."""
    with start_app("-c", "import app; app.demo.launch()", PYTHONPATH=str(ROOT)) as url:
        assert request(f"{url}/gradio_api/file=http://127.0.0.1:1/private.png") == 404
        assert request(f"{url}/config", None, Host="evil.example") == 421
        assert "event: complete" in call(url, {"url": data_url(PERSON), "meta": META}, False, name="matte")


def test_the_same_file_is_uploaded_to_another_place_each_time(app_url):
    """Else whoever has a file could ask whether, and under which name, somebody else sent it."""
    body, headers = multipart("files", "a.jpg", b"the same")
    places = set()
    for _ in range(3):
        sent = urllib.request.Request(f"{app_url}/gradio_api/upload", body, headers)
        with urllib.request.urlopen(sent, timeout=30) as answer:
            places.add(json.load(answer)[0])
    assert len(places) == 3


def test_the_same_walk_finds_what_is_uploaded(app_url, uploads, secret):
    """The walk would be worth nothing if it found nothing."""
    folder = uploads / NAME / "uploaded"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(secret, folder / "photo.jpg")
    before = {path for path in uploads.rglob("*") if path.is_file()}
    answer = call(app_url, {"path": str(folder / "photo.jpg")}, False, name="matte")
    assert "event: complete" in answer
    assert SECRET_SIZE in set(new_sizes(uploads, before))
