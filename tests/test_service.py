"""HTTP for programs: one request, one picture, from `python app.py` as a user starts it; and what it refuses."""

import io
import json
import logging
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import fastapi
import httpx
import numpy as np
import pytest
from asgi import connect, head, served
from asking import SOON, health_watched, leaving_nothing
from helpers import EXAMPLES, LEAK, META, PERSON, call, data_url, encoded, run_async, serving
from PIL import Image
from starlette.middleware import Middleware

from background_remover import Cutout, Finish, fetch, messages, service
from background_remover.choices import CHOICES
from background_remover.page import bodies
from background_remover.page.bodies import MAX_BYTES
from background_remover.page.files import FileStore
from background_remover.page.guard import OTHER_HOST, OTHER_SITE, Guard
from background_remover.page.requests import WRONG
from background_remover.routes import routes
from background_remover.service import NO_PHOTO, wanted_format

PATH = "/v1/remove-background"
PHOTO = PERSON.read_bytes()
IN_JSON = {"Content-Type": "application/json"}
IN_WORDS = {"Content-Type": "application/x-www-form-urlencoded"}
IN_PARTS = {"Content-Type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'


@pytest.fixture(scope="module")
def ask(app_url) -> Iterator[Callable[..., httpx.Response]]:
    """Ask the server, a photo of PERSON unless something else is sent; gives the answer."""
    with httpx.Client(base_url=app_url, timeout=120) as client:

        def ask(path: str = PATH, method: str = "POST", **how: Any) -> httpx.Response:
            if method == "POST" and not how.keys() & {"content", "files", "data", "json"}:
                how["content"] = PHOTO
            return client.request(method, path, **how)

        yield ask


@pytest.fixture
def clean(uploads, app_url) -> Iterator[None]:
    with leaving_nothing(uploads):
        yield


def problem(answer: httpx.Response, status: int) -> str:
    """The one sentence of a refusal."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/problem+json"
    said = answer.json()
    assert said.keys() == {"title", "status", "detail"}
    assert said["status"] == status
    sentence = said["detail"]
    assert re.fullmatch(r"[A-Z].{10,300}\.", sentence)
    assert not re.search(LEAK, sentence.replace("/v1/openapi.json", ""))
    return sentence


def saved(cutout: Cutout, finish: Finish | None = None) -> bytes:
    """The library's file."""
    finish = finish or Finish()
    with tempfile.TemporaryDirectory() as folder:  # in memory libtiff leaves a byte between two parts as it is
        path = Path(folder, f"a{finish.suffix}")
        finish.save(cutout, path)
        return path.read_bytes()


def in_parts(*more: bytes, name: bytes = b"image", data: bytes = PHOTO) -> dict[str, Any]:
    """A form with a photo under that name, after other fields."""
    fields = [b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\nx\r\n' % field for field in more]
    return {"content": b"".join(fields) + PART.replace(b"image", name) + data + b"\r\n--b--", "headers": IN_PARTS}


# --- one picture, whichever way the photo comes ---


@pytest.mark.parametrize(
    "how",
    [
        {"content": PHOTO},
        {"content": PHOTO, "headers": {"Content-Type": "image/jpeg"}},
        {"content": PHOTO, "headers": IN_WORDS},  # curl --data-binary
        {"files": {"image": ("person.jpg", PHOTO, "image/jpeg")}},
        {"files": {"image": ("a/../../b", PHOTO)}, "data": {"format": ""}},
        in_parts(),  # without an end of the last line, as an old client sends it
        {"json": {"image_url": data_url(PERSON)}},
        {"json": {"image_url": data_url(PERSON).replace("data", "DATA"), "format": None}},
        {"data": {"image_url": data_url(PERSON)}},
    ],
)
def test_each_way_of_sending_gives_the_bytes_of_the_library(ask, truth, clean, how):
    answer = ask(**how)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content == saved(truth)


def test_the_bytes_are_those_of_the_pages_api(ask, app_url):
    said = call(app_url, {"url": data_url(PERSON), "meta": META}, "transparent", None, name="cutout")
    url = json.loads(re.findall(r"event: complete\ndata: (.*)", said)[0])[0]["url"]
    assert ask().content == httpx.get(url).content


CHOSEN = [
    {"background": "#30a060"},
    {"background": "blur", "blur": 0.1},
    {"crop": True, "margin": 0.2},
    {"width": 90, "height": 300},
    {"width": 120, "format": "webp", "quality": 60},
    {"format": "jpg", "quality": 40},
    {"format": "tif"},
    {"output": "matte"},
    {"shadow": "drop", "shadow_strength": 0.7, "shadow_softness": 0.05, "shadow_direction": 225},
    {"shadow": "contact", "crop": True, "background": "white", "clean": True},
    {"output": "matte", "crop": True, "format": "webp", "background": "#30a060"},
]


def test_all_choices_are_tried():
    assert {name for chosen in CHOSEN for name in chosen} == {choice.name for choice in CHOICES}


@pytest.mark.parametrize("chosen", CHOSEN, ids=str)
def test_every_choice_does_what_the_library_does(ask, truth, clean, chosen):
    expected = saved(truth, Finish(**chosen))
    as_text = {name: str(value).lower() for name, value in chosen.items()}
    assert ask(params=as_text).content == expected
    assert ask(files={"image": ("a.jpg", PHOTO)}, data=as_text).content == expected
    assert ask(json={"image_url": data_url(PERSON)} | chosen).content == expected


def test_a_matte_is_the_alpha_in_grey(ask, truth):
    with Image.open(io.BytesIO(ask(params={"output": "matte"}).content)) as matte:
        assert matte.mode == "L"
        assert np.array_equal(np.asarray(matte), truth.alpha)


def test_refined_edges_are_those_of_the_library(ask, refined, truth):
    answer = ask(params={"refine": "on"}).content
    assert answer == saved(refined)
    assert answer != saved(truth)


@pytest.mark.parametrize(
    "chosen", [{"box": "100,0,400,300"}, {"points": "256,300"}, {"points": "5,5,0", "refine": True}]
)
def test_a_subject_can_be_picked(ask, remover, chosen):
    expected = saved(remover(PERSON, **chosen))
    assert ask(params={name: str(value) for name, value in chosen.items()}).content == expected
    assert ask(json={"image_url": data_url(PERSON)} | chosen).content == expected


def test_a_box_beside_the_photo_is_refused(ask):
    answer = ask(params={"box": "9000,0,9100,50"})
    assert answer.status_code == 422
    assert "512 × 512" in answer.json()["detail"]


@pytest.mark.parametrize("how", ["files", "json", "query"])
def test_a_background_image_fills_the_frame(ask, truth, clean, how):
    coffee, url = EXAMPLES / "coffee.jpg", data_url(EXAMPLES / "coffee.jpg")
    answer = {
        "files": lambda: ask(files={"image": ("a.jpg", PHOTO), "background_image": ("b.jpg", coffee.read_bytes())}),
        "json": lambda: ask(json={"image_url": data_url(PERSON), "background_image_url": url}),
        "query": lambda: ask(data={"background_image_url": url, "image_url": data_url(PERSON)}),
    }[how]()
    assert answer.content == saved(truth, Finish(background_image=coffee))


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "png"),
        ("*/*", "png"),
        ("image/*", "png"),
        ("text/html", "png"),
        ("image/webp", "webp"),
        ("image/jpeg", "jpg"),
        ("image/tiff, */*;q=0.1", "tif"),
        ("image/webp, image/png", "png"),
        ("image/png;q=0.5, IMAGE/WEBP;q=0.6", "webp"),
        ("image/avif,image/webp,*/*;q=0.8", "webp"),
        ("image/webp;q=0, image/jpeg;q=0.1", "jpg"),
        ("image/webp;q=nan, image/jpeg;q=x", "png"),
        (";;,=;q=,", "png"),
    ],
)
def test_the_format_that_is_accepted_most(accept, expected):
    assert wanted_format(accept) == expected


def test_a_format_that_is_named_wins_over_what_is_accepted(ask):
    accept = {"Accept": "image/webp"}
    assert ask(headers=accept).headers["content-type"] == "image/webp"
    assert ask(headers=accept, params={"format": ""}).headers["content-type"] == "image/webp"
    assert ask(headers=accept, params={"format": "jpg"}).headers["content-type"] == "image/jpeg"
    assert ask(PATH + "?format=webp&format=tif").headers["content-type"] == "image/tiff"  # the last one counts


def test_headers_tell_what_was_made(ask, truth):
    headers = ask(params={"width": 70, "height": 50}).headers
    assert (headers["x-width"], headers["x-height"], headers["x-found"]) == ("70", "50", "true")
    assert "isnet" in headers["x-weights"].lower()
    assert "Apache" in headers["x-licence"]
    assert 1 < int(headers["x-milliseconds"]) < 60_000
    assert headers["x-content-type-options"] == "nosniff"
    headers = ask(content=encoded(Image.new("RGB", (40, 30), "grey"), "PNG")).headers
    assert (headers["x-width"], headers["x-height"], headers["x-found"]) == ("40", "30", "false")


def test_the_picture_is_named_after_the_photo_in_letters_of_any_script(ask, clean):
    disposition = ask(files={"image": ('Grüße/日 "a"\r\nX-Evil: 1.jpg', PHOTO)}).headers["content-disposition"]
    assert disposition.isascii()
    assert "filename*=UTF-8''%E6%97%A5" in disposition
    assert ask().headers["content-disposition"].startswith('inline; filename="photo-cutout.png"')


# --- what is refused, in one sentence ---


def test_what_is_no_photo_is_told_apart(ask, bad_files, clean):
    statuses = {"text.jpg": 415, "truncated.jpg": 422, "bomb.png": 413, "drawing.svg": 415}
    for name, status in statuses.items():
        problem(ask(content=bad_files[name].read_bytes()), status)
        problem(ask(files={"image": (name, bad_files[name].read_bytes())}), status)
    assert problem(ask(content=b""), 400) == NO_PHOTO
    assert "empty" in problem(ask(files={"image": ("a.jpg", b"")}), 422)


@pytest.mark.parametrize(
    ("chosen", "word"),
    [
        ({"crop": "maybe"}, "'crop' is true or false"),
        ({"width": "1.5"}, "'width' is a whole number"),
        ({"width": "inf"}, "'width' is a whole number"),
        ({"blur": "nan"}, "'blur' is a number"),
        ({"format": "gif"}, "'format' is one of png"),
        ({"output": "alpha"}, "'output' is one of cutout"),
        ({"quality": "101"}, "quality"),
        ({"background": "no colour"}, "not a colour"),
        ({"margin": "2", "crop": "1"}, "margin"),
        ({"shadow": "long"}, "'shadow' is one of none, drop, contact"),
        ({"shadow": "drop", "shadow_softness": "0.5"}, "softness"),
        ({"width": "100000"}, "canvas"),
        ({"größe": "1"}, "There is no parameter 'größe'"),
        ({"background_image_url": "file:///etc/passwd"}, "could be fetched"),
        ({"background_image_url": "http://127.0.0.1/a.png"}, "not a public"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(ask, clean, chosen, word):
    assert word in problem(ask(params=chosen), 422)
    assert word in problem(ask(files={"image": ("a.jpg", PHOTO)}, data=chosen), 422)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"image_url":' * 100_000,
        b'{"image_url": "x", "crop": ' + b"[" * 970 + b"]" * 970 + b"}",  # just so deep that it can be read
        b'{"image_url": "x", "crop": [' + b"1," * 3_000_000 + b"1]}",
        b'{"image_url": {"path": "/etc/passwd"}}',
        b'{"image_url": "x", "width": ' + b"1" * 5000 + b"}",
        b"[1]",
        b"null",
        b'"image"',
        b"{",
        b"\xff\xfe{",
        PHOTO,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_json_that_is_no_object_of_plain_values_is_refused_at_once(ask, clean, body):
    start = time.monotonic()
    assert "in JSON" in problem(ask(content=body, headers=IN_JSON), 400)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    "url", ["\\ud800", "http://\\ud800.example/", "data:\\ud800", "data:image/png;base64,!", "x" * 200_000]
)
def test_an_address_that_is_none_is_refused(ask, clean, url):
    problem(ask(content=f'{{"image_url": "{url}"}}'.encode(), headers=IN_JSON), 422)


def test_half_a_character_in_a_name_is_told_all_the_same(ask, clean):
    body = json.dumps({"image_url": data_url(PERSON), "\ud800": 1})
    assert "There is no parameter '?'" in problem(ask(content=body.encode(), headers=IN_JSON), 422)


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"content": b"hello" * 100, "headers": IN_PARTS}, "can't be read"),
        ({"content": b"hello", "headers": {"Content-Type": "multipart/form-data"}}, "can't be read"),
        ({"content": PART[:-4] + b"\r\nX-A: " + b"a" * 20_000_000, "headers": IN_PARTS}, "can't be read"),
        ({"files": {"photo": ("a.jpg", PHOTO)}}, "no file 'photo'"),
        ({"files": {"../../../tmp/a": ("a.jpg", PHOTO)}}, "no file '../../../tmp/a'"),
        ({"files": [("image", ("a.jpg", PHOTO))] * 5}, "can't be read"),
        (in_parts(*[b"f%d" % number for number in range(1000)]), "can't be read"),
        ({"data": {f"f{number}": "x" for number in range(1000)}}, "can't be read"),
        ({"files": {"image": ("a.jpg", PHOTO)}, "data": {"background": "x" * 2_000_000}}, "can't be read"),
        ({"files": {"image": (None, "a text")}}, "no photo here"),
        ({"content": PART + PHOTO[:5000], "headers": IN_PARTS}, "no photo here"),  # the form has no end
        ({"content": b"a=1", "headers": IN_WORDS}, "no photo here"),
    ],
    ids=range(12),
)
def test_a_form_that_is_none_or_too_much_is_refused(ask, clean, how, word):
    answer = ask(**how)
    assert answer.status_code == 400
    assert word in answer.json()["detail"]


@pytest.mark.parametrize("charset", ["undefined", "idna", "punycode", "utf-7", "base64", "unicode_escape", "utf-16"])
def test_a_form_is_in_utf_8_whatever_it_says(ask, truth, clean, charset):
    how = in_parts(b"background_image_url")
    how["content"] = how["content"].replace(b"\r\n\r\nx\r\n", b"\r\n\r\n\r\n").replace(b"a.jpg", b"\xff+2AA-.jpg")
    how["headers"] = {"Content-Type": f"multipart/form-data; boundary=b; charset={charset}"}
    assert ask(**how).content == saved(truth)


def test_too_many_bytes_are_refused_before_they_are_read(app_url, ask, clean):
    port = int(app_url.rpartition(":")[2])
    with connect(port) as connection:
        connection.sendall(head(f"POST {PATH}", "Content-Length: 250000000"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")
    assert "100 MB" in problem(ask(content=bytes(MAX_BYTES + 1)), 413)
    assert "100 MB" in problem(ask(**in_parts(data=bytes(MAX_BYTES + 1))), 413)


def test_the_server_answers_others_while_it_reads_what_is_large(ask, app_url, clean):
    """200 MB of a body, and texts in which each character is a value: nothing of it holds up the loop."""
    bodies = [
        ({"content": bytes(200_000_000)}, 413),
        (
            {
                "content": b"image_url=" + b"1+" * 45_000_000,
                "headers": {"Content-Type": "application/x-www-form-urlencoded"},
            },
            422,
        ),
        (
            {
                "content": b"image_url=" + b"%41" * 30_000_000,
                "headers": {"Content-Type": "application/x-www-form-urlencoded"},
            },
            413,
        ),
        ({"content": b'{"image_url": "data:;base64,' + b"A" * 90_000_000 + b'"}', "headers": IN_JSON}, 415),
    ]
    for how, status in bodies:
        with health_watched(app_url) as seconds:
            problem(ask(**how), status)
        assert len(seconds) > 3
        assert max(seconds) < 0.5


@pytest.mark.parametrize(
    ("headers", "body"), [({}, PHOTO), (IN_PARTS, PART + PHOTO), (IN_JSON, b'{"image_url": "' + b"a" * 90_000)]
)
def test_a_body_that_breaks_off_leaves_nothing(app_url, clean, headers, body):
    lines = [f"{name}: {value}" for name, value in headers.items()]
    with connect(int(app_url.rpartition(":")[2])) as connection:
        connection.sendall(head(f"POST {PATH}", f"Content-Length: {len(body) + 9}", *lines) + body)
        time.sleep(0.2)
    time.sleep(0.2)


def test_the_work_ends_when_its_client_leaves(app_url, ask, clean):
    """More leave than there may be jobs; others don't wait for these."""
    port = int(app_url.rpartition(":")[2])
    start = time.monotonic()
    assert ask().status_code == 200
    once = time.monotonic() - start
    for _ in range(40):
        with connect(port) as connection:
            connection.sendall(head(f"POST {PATH}?refine=1", f"Content-Length: {len(PHOTO)}") + PHOTO)
            time.sleep(0.05)
    deadline = time.monotonic() + SOON
    while ask().status_code == 429 and time.monotonic() < deadline:
        time.sleep(0.1)
    start = time.monotonic()
    assert ask().status_code == 200
    assert time.monotonic() - start < 3 * once + 2


@pytest.mark.slow
def test_of_a_hundred_at_once_each_gets_its_picture_or_is_told_to_come_again(app_url, uploads, remover):
    sizes = [(60 + number, 80) for number in range(100)]
    with Image.open(PERSON) as person:
        photos = [encoded(person.resize(size), "PNG") for size in sizes]

    def send(number: int) -> tuple[int, float, httpx.Response]:
        start = time.monotonic()
        answer = httpx.post(f"{app_url}{PATH}", content=photos[number], timeout=250)
        return number, time.monotonic() - start, answer

    with leaving_nothing(uploads), health_watched(app_url) as seconds, ThreadPoolExecutor(100) as pool:
        answers = [*pool.map(send, range(100))]
    made = [(number, answer) for number, _, answer in answers if answer.status_code == 200]
    refused = [(took, answer) for _, took, answer in answers if answer.status_code == 429]
    assert len(made) + len(refused) == 100
    assert len(made) >= 20
    for number, answer in made:
        with Image.open(io.BytesIO(answer.content)) as picture:
            assert picture.size == sizes[number]
    for number, answer in made[:3]:
        assert answer.content == saved(remover(photos[number]))
    for took, answer in refused:
        assert "try again" in problem(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 600
        assert took < 5  # of which most is this test's own: a hundred clients on two cores
    assert np.median(seconds) < 0.1
    assert max(seconds) < 2


# --- methods, hosts, other sites, proxies ---


def test_other_methods_are_refused_and_head_is_answered_where_get_is(ask, clean):
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH"):
        assert ask(method=method).status_code == 404
    assert ask(method="OPTIONS").status_code == 405
    for path in ("/health", "/ready", "/v1/info", "/v1/openapi.json"):
        answer = ask(path, "HEAD")
        assert (answer.status_code, answer.content) == (200, b"")
        assert ask(path, "POST").status_code == 404
    assert problem(ask("/v1/nothing", "GET"), 404)


def test_the_guard_stands_before_these_paths_too(ask, clean):
    assert problem(ask(headers={"Host": "evil.example"}), 421) == OTHER_HOST
    assert problem(ask(headers={"Origin": "https://evil.example"}), 403) == OTHER_SITE
    assert problem(ask(headers={"Sec-Fetch-Site": "cross-site"}), 403) == OTHER_SITE
    assert "access-control-allow-origin" not in ask(headers={"X-Forwarded-Host": "evil.example"}).headers


def test_a_path_at_a_proxy_changes_nothing(start_app, truth):
    with start_app(GRADIO_ROOT_PATH="/cut") as url:
        assert httpx.post(f"{url}{PATH}", content=PHOTO, timeout=60).content == saved(truth)
        for how in ({"content": b""}, {"content": b"text"}, {"content": b"[", "headers": IN_JSON}):
            problem(httpx.post(f"{url}{PATH}", **how), 415 if how["content"] == b"text" else 400)
        assert httpx.get(f"{url}/v1/info").json()["formats"]["out"]


# --- the same in this process ---


@pytest.fixture
def here(remover) -> Iterator[str]:
    """The same routes, behind the guard."""
    with served(fastapi.FastAPI(routes=routes(remover), middleware=[Middleware(Guard, hosts=())])) as port:
        yield f"http://127.0.0.1:{port}"


def test_what_is_our_fault_is_one_sentence_too_and_goes_to_the_log(here, monkeypatch, caplog):
    """Also a ValueError, of which a PhotoError is one, and one from within the job."""
    for module, name in ((service, "wanted_format"), (service.Service, "make"), (service.Service, "admit")):
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):

            def fail(*_: Any) -> None:
                raise ValueError("operands could not be broadcast")

            patch.setattr(module, name, fail)
            assert problem(httpx.post(f"{here}{PATH}", content=PHOTO), 500) == WRONG
        assert "broadcast" in caplog.text
        caplog.clear()


def test_a_photo_that_was_fetched_goes_with_its_request(tmp_path, monkeypatch):
    """A file that this server gave out stays where it is."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PHOTO)

    store = FileStore(tmp_path)
    monkeypatch.setattr(bodies, "file_store", lambda: store)
    monkeypatch.setattr(fetch, "is_public", lambda address: True)
    folder = store.new_folder("once-")
    given = store.new_folder() / "a.png"
    given.write_bytes(b"own")
    with serving(Handler, "127.0.0.1") as port:
        asked = messages.Asked(folder, "", {"image_url": f"http://127.0.0.1:{port}/a.jpg"})
        found = Path(run_async(asked.upload("image", "image_url")))
    assert found.read_bytes() == PHOTO
    assert found.is_relative_to(folder)
    own = messages.Asked(folder, "", {"image_url": f"http://127.0.0.1:1/gradio_api/file={given}"})
    assert run_async(own.upload("image", "image_url")) == str(given)
