"""What a request may carry: how much, told before it is read, and where it is kept meanwhile.

A photo in JSON, as a data: URL, is put into a file before Gradio sees it, so that no large text is ever parsed, copied
or kept in a queue.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import mmap
import re
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import IO

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import Message, Receive, Scope, Send

from background_remover.fetch import fetch
from background_remover.page.files import ONCE, Upload, file_store, remove
from background_remover.photos import read_data_url
from background_remover.scheduler import BusyError
from utilities import PhotoError

SERVICE = "/v1/"  # how the paths for programs begin,
REMOVEBG = "/v1.0/"  # and those for clients of remove.bg
MAX_BYTES = 100_000_000  # of a photo's file
MAX_FILES = 100  # of a request
MAX_UPLOAD = 500_000_000  # bytes of all files of a request
MAX_JSON = MAX_BYTES * 4 // 3 + 4_000_000  # a photo as a data: URL, and the rest
MAX_REST = 4_000_000  # bytes of JSON without its data: URLs: 50,000 points of a brush take about two
IN_MEMORY = 1 << 20  # bytes of a body that is looked through as it is; a longer one lies on the disk meanwhile
STEP = 32_000_000  # bytes of a body for which room is made on the disk at a time, at most
FIRST_STEP = 1_000_000  # and first: a step is as long as all that came before it
SECONDS = 30.0  # in which a body has to arrive, and one more for every
PACE = 10_000  # bytes of it
DRAIN = 2.0  # seconds for which a body that is refused is read on, so that its sender can read the answer
CHUNK = 1 << 20  # characters of a data: URL that are read at a time
MAX_HEAD = 256  # characters of a data: URL before its comma
MAX_ODD = 20_000_000  # characters of a data: URL that is read all at once, being spelled in a rare way
STORED = "data:,stored:"  # before the name of the folder in which lies what a data: URL held, as PHOTO
PHOTO = "photo"
FETCHES = 4, 16  # photos that are fetched at once, of an address and of all
REST_OF_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)

TOO_LARGE = "This is more than can be sent at once: photos may have {0} MB each, {1} MB together."
TOO_MANY = f"These are more than {MAX_FILES} photos: send them in several requests."
CUT_OFF = "This did not arrive whole: send it again."
UNREADABLE = "This data: URL can't be read: send the photo as a file."
TOO_SLOW = "This did not arrive in time: send it again."


class RefusedError(Exception):
    """A request that gets no further. One sentence; `code` is remove.bg's word for it, `headers` go with it."""

    def __init__(self, status: int, sentence: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence.encode("utf-8", "replace").decode()  # JSON can name halves of characters
        self.code = code
        self.headers = headers or {}

    def response(self, path: str) -> Response:
        """What says so to a client of that path."""
        if path.startswith("/gradio_api/upload"):  # Gradio's page shows that
            return PlainTextResponse(self.sentence, self.status, self.headers)
        if path.startswith(REMOVEBG):
            error = {"title": self.sentence, "code": self.code or HTTPStatus(self.status).name.lower()}
            return JSONResponse({"errors": [error]}, self.status, self.headers)
        if path.startswith(SERVICE):  # RFC 9457
            said = {"title": HTTPStatus(self.status).phrase, "status": self.status, "detail": self.sentence}
            return JSONResponse(said, self.status, self.headers, media_type="application/problem+json")
        return JSONResponse({"detail": self.sentence, "error": self.sentence}, self.status, self.headers)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say so, to one whose body may not have been read."""
        response = self.response(scope["path"])
        response.headers["Connection"] = "close"
        await send({"type": "http.response.start", "status": self.status, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": response.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN):
                while (await receive()).get("more_body"):
                    pass
        await send({"type": "http.response.body", "body": b""})


def too_large() -> RefusedError:
    return RefusedError(413, TOO_LARGE.format(MAX_BYTES // 1_000_000, MAX_UPLOAD // 1_000_000))


@contextlib.asynccontextmanager
async def admitted(scope: Scope, receive: Receive) -> AsyncIterator[Receive]:
    """While a request runs: what gives the app its body, within the limits.

    Raises RefusedError, also later, when the app asks for more.
    """
    if scope["method"] != "POST":
        yield receive
        return
    is_upload = scope["path"].startswith("/gradio_api/upload")
    is_service = scope["path"].startswith((SERVICE, REMOVEBG))
    most = MAX_UPLOAD if is_upload else 2 * MAX_BYTES + MAX_REST if is_service else MAX_JSON
    told = Headers(scope=scope).get("content-length", "")
    if told.isdecimal() and int(told) > most:
        raise too_large()
    with file_store().receiving(on_show=is_upload) as make_room:
        counted = Counted(receive, most, make_room, 0 if is_upload else IN_MEMORY)
        if is_upload or is_service:
            yield counted
            return
        body = await read_json(counted)
    scope["headers"] = [
        (name, str(len(body)).encode() if name == b"content-length" else value) for name, value in scope["headers"]
    ]
    yield given(body, receive)


class Counted:
    """What gives a body, of no more than `most` bytes, at some pace, and after `room` bytes with room on the disk.

    It raises RefusedError otherwise.
    """

    def __init__(self, receive: Receive, most: int, make_room: Callable[[int], None], room: int) -> None:
        self._receive, self._most, self._make_room, self._room = receive, most, make_room, room
        self._count = 0
        self._start = time.monotonic()
        self._ended = False

    async def __call__(self) -> Message:
        """The next part, or what comes after the last."""
        if self._ended:
            return await self._receive()
        late = self._start + SECONDS + self._count / PACE - time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), late)
        except TimeoutError:
            raise RefusedError(408, TOO_SLOW) from None
        self._ended = not message.get("more_body")
        self._count += len(message.get("body", b""))
        if self._count > self._most:
            raise too_large()
        if self._count > self._room:
            step = min(STEP, max(FIRST_STEP, self._count))
            self._room += step
            with refusing(507):
                await asyncio.to_thread(self._make_room, step)
        return message


def given(body: bytes, receive: Receive) -> Receive:
    """A body that has been read already, and what comes after it."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive_given() -> Message:
        return next(messages, None) or await receive()

    return receive_given


async def read_json(receive: Receive) -> bytes:
    """The body, its data: URLs in files. Raises RefusedError."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(file_store().folder)) as file:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise RefusedError(400, CUT_OFF)
            file.write(message.get("body", b""))
            more = bool(message.get("more_body"))
        size = file.tell()
        if size == 0:
            return b""
        with refusing(422):
            return await asyncio.to_thread(store_data_urls, file, size)


@contextlib.contextmanager
def refusing(status: int) -> Iterator[None]:
    """A PhotoError as what refuses the request."""
    try:
        yield
    except PhotoError as error:
        raise RefusedError(status, str(error)) from None


def store_data_urls(file: IO[bytes], size: int) -> bytes:
    """JSON with each data: URL replaced by STORED and the name of a folder, in which a file has what it held.

    Raises PhotoError for one that can't be read, and RefusedError for more than MAX_BYTES in one, more than MAX_FILES
    and a background image, and more than MAX_REST besides.
    """
    file.seek(0)
    text = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size > IN_MEMORY else file.read()
    parts, rest, done, count = [], 0, 0, 0
    start = text.find(b'"data:')
    while start >= 0:
        if text[start - 1 : start] == b"\\":  # within a text
            start = text.find(b'"data:', start + 1)
            continue
        count += 1
        if count > MAX_FILES + 1:
            raise RefusedError(413, TOO_MANY)
        end = end_of_string(text, start)
        parts += [text[done:start], b'"', store(text, start + 1, end), b'"']
        rest += start - done
        if rest > MAX_REST:
            raise too_large()
        done = end + 1
        start = text.find(b'"data:', done)
    if rest + size - done > MAX_REST:
        raise too_large()
    return b"".join([*parts, text[done:]])


def end_of_string(text: bytes | mmap.mmap, start: int) -> int:
    """Where the quotation mark is that ends the JSON string that begins at `start`. Raises PhotoError."""
    end = text.find(b'"', start + 1)
    if end >= 0 and text.find(b"\\", start + 1, end) < 0:
        return end
    if found := REST_OF_STRING.match(text, start + 1, start + MAX_ODD):
        return found.end() - 1
    raise PhotoError(UNREADABLE)


def store(text: bytes | mmap.mmap, start: int, end: int) -> bytes:
    """STORED and the name of a new folder with what the data: URL there held, as JSON has it. Raises PhotoError."""
    if text[start : start + len(STORED)] == STORED.encode():
        return text[start:end]  # a tool's, which has come through here before
    if (end - start) * 3 // 4 > MAX_BYTES * 1.01:
        raise too_large()
    folder = file_store().new_folder(ONCE)
    try:
        with (folder / PHOTO).open("wb") as file:
            write_data_url(text, start, end, file)
    except BaseException:
        remove(folder)
        raise
    return f"{STORED}{folder.name}".encode()


def write_data_url(text: bytes | mmap.mmap, start: int, end: int, file: IO[bytes]) -> None:
    """What the data: URL there holds, into a file. Raises PhotoError."""
    head = re.fullmatch(rb"data:[^,\\]*;base64", text[start : start + MAX_HEAD].partition(b",")[0], re.IGNORECASE)
    with contextlib.suppress(ValueError):
        if head:
            for place in range(start + head.end() + 1, end, CHUNK):
                file.write(base64.b64decode(text[place : min(place + CHUNK, end)], validate=True))
            return
    if end - start > MAX_ODD:  # spelled in some other way: by the browsers' rules, all at once
        raise PhotoError(UNREADABLE)
    file.seek(0)
    file.truncate()
    try:
        url = json.loads(text[start - 1 : end + 1])
    except ValueError:  # no JSON
        raise PhotoError(UNREADABLE) from None
    file.write(read_data_url(url, max_bytes=MAX_BYTES))


def stored_path(url: str) -> Path:
    """Where what a data: URL held was put, by what it became; wherever else that leads if a client made it up."""
    return file_store().folder / url.removeprefix(STORED) / PHOTO


# --- photos by URL ---

fetches: Counter[str] = Counter()  # that run, by address


async def fetch_upload(url: str, address: str, into: Path | None = None) -> Upload:
    """What a URL holds, as an upload, for whoever is at that address; a new one lies in `into`, if that is given.

    Raises PhotoError, BusyError.
    """
    with fetching(address), file_store().receiving(on_show=True) as make_room:
        await asyncio.to_thread(make_room, STEP)
        return await fetch(url, str(file_store().folder), max_bytes=MAX_BYTES, into=into)


@contextlib.contextmanager
def fetching(address: str) -> Iterator[None]:
    """While one who calls fetches a photo. Raises BusyError if too many are fetched, for the caller or in all."""
    if fetches[address] >= FETCHES[0] or fetches.total() >= FETCHES[1]:
        raise BusyError("Many photos are being fetched just now: send this one as a file, or try again in 30 seconds.")
    fetches[address] += 1
    try:
        yield
    finally:
        fetches[address] -= 1
        if not fetches[address]:
            del fetches[address]
