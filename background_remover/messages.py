"""HTTP requests with photos into fields and files, and pictures into answers."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from background_remover.encoding import safe_stem
from background_remover.kinds import NotAPhotoError, TooLargeError
from background_remover.page.bodies import CUT_OFF, MAX_BYTES, RefusedError, fetch_upload, too_large
from background_remover.page.files import ONCE, Upload, file_store, remove
from background_remover.page.guard import client_address
from background_remover.page.requests import WRONG
from background_remover.page.turns import scheduler
from background_remover.photos import read_data_url
from background_remover.scheduler import ENDING, AbandonedError, BusyError, EndingError
from utilities import PhotoError

logger = logging.getLogger(__name__)

MEDIA = {"png": "image/png", "webp": "image/webp", "jpg": "image/jpeg", "jpeg": "image/jpeg", "tif": "image/tiff"}
FILES = ("image", "image_file", "image_file_b64", "background_image", "bg_image_file")  # those that a form may have
MAX_FIELD = 100_000  # characters of a field that is no file; a longer one of JSON lies in a file
MAX_FIELDS = 100
MAX_NAME = 100  # bytes of a field's name
MAX_VALUES = 10_000  # of JSON, told before it is parsed
MAX_ESCAPES = 5_000_000  # of a form without files, about twice as many as base64 of MAX_BYTES has
STATUSES = ((EndingError, 503), (BusyError, 429), (TooLargeError, 413), (NotAPhotoError, 415), (PhotoError, 422))

UNREADABLE = "This request can't be read: send a form (multipart), the photo itself, or JSON."

parsing = threading.Lock()  # of what is parsed in memory


# --- what a request carries ---


@dataclass
class Asked:
    """A request that has been read: its fields, and where its files lie; `folder` is deleted with it."""

    folder: Path
    address: str
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Upload] = field(default_factory=dict)
    uploads: list[Upload] = field(default_factory=list)  # those that are used
    name: str = "photo"  # of the photo, without an extension

    async def upload(self, file: str, url: str) -> Upload | None:
        """The file of that name, or what the field with its address leads to. Raises RefusedError."""
        found = self.files.get(file)
        if found is None and self.fields.get(url):
            with refusing():
                found = await self._fetched(file, url, self.fields[url])
        if found is not None:
            self.uploads.append(found)
        return found

    async def _fetched(self, file: str, url: str, address: Any) -> Upload:
        if isinstance(address, Path) or (isinstance(address, str) and address[:5].lower() == "data:"):
            return await self.keep(file, await asyncio.to_thread(decode_url, address))
        if not isinstance(address, str):
            raise PhotoError(f"The parameter '{url}' is an address.")
        return await fetch_upload(address, self.address, self.folder)

    async def keep(self, file: str, data: bytes) -> Upload:
        """A file of the request, written down."""
        path = self.folder / file
        await asyncio.to_thread(path.write_bytes, data)
        self.files[file] = str(path)
        return str(path)


async def read(request: Request, raw: str) -> Asked:
    """What a request carries: a form, JSON, or a file that is named `raw`; and its query. Raises RefusedError."""
    asked = Asked(file_store().new_folder(ONCE), client_address(request))
    try:
        asked.fields = dict(request.query_params)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            await _read_form(request, asked)
        else:
            await _read_raw(request, asked, raw, kind)
    except BaseException as error:
        remove(asked.folder)
        if isinstance(error, MultiPartException | HTTPException):
            raise RefusedError(400, UNREADABLE) from None
        if isinstance(error, ClientDisconnect):
            raise RefusedError(400, CUT_OFF) from None
        raise
    request.scope["read"] = True
    return asked


class FormParser(MultiPartParser):
    """A form, in which a photo as base64 is a file like others, and all that is none is short."""

    spool_max_size = 1 << 16  # bytes of a file in memory; the rest of it lies where uploads do

    def on_part_begin(self) -> None:
        """Names are in UTF-8, whatever a client says: some of Python's encodings are none for texts."""
        self._charset = "utf-8"
        super().on_part_begin()

    def on_headers_finished(self) -> None:
        """A part begins."""
        disposition = self._current_part.content_disposition or b""
        if re.search(rb'name="?\w+_b64"?', disposition) and b"filename" not in disposition:
            self._current_part.content_disposition = disposition + b'; filename="base64"'
        super().on_headers_finished()
        if self._current_part.file:
            file = tempfile.SpooledTemporaryFile(self.spool_max_size, dir=str(file_store().folder))  # noqa: SIM115
            self._files_to_close_on_error.pop().close()
            self._files_to_close_on_error.append(file)
            self._current_part.file.file = file  # type: ignore[assignment]


async def _read_form(request: Request, asked: Asked) -> None:
    parser = FormParser(request.headers, request.stream(), max_files=4, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD)
    form = await parser.parse()
    try:
        for name, value in form.multi_items():
            if not isinstance(value, UploadFile):
                asked.fields[name] = value
                continue
            if (value.size or 0) > MAX_BYTES:
                raise too_large()
            if not value.size and (not value.filename or name.endswith("_b64")):  # a field that was left empty
                continue
            if name not in FILES:
                raise RefusedError(400, f"There is no file '{plain(name)[:40]}' in a form here: send one as 'image'.")
            asked.name = safe_stem(value.filename or "photo") if name in FILES[:2] else asked.name
            path = asked.folder / name
            with path.open("wb") as file:
                await asyncio.to_thread(shutil.copyfileobj, value.file, file, 1 << 20)
            asked.files[name] = str(path)
    finally:
        await form.close()


async def _read_raw(request: Request, asked: Asked, raw: str, kind: str) -> None:
    """A file as the body, whatever it is called; or JSON, or a form without files, for which curl takes a body too."""
    path, count = asked.folder / raw, 0
    with path.open("wb") as file:
        async for chunk in request.stream():
            count += len(chunk)
            if count > MAX_BYTES:
                raise too_large()
            file.write(chunk)
    if not count:
        return
    with path.open("rb") as file:
        start = file.read(MAX_NAME)
    if kind == "application/json":
        asked.fields |= await asyncio.to_thread(parse, path, parse_json)
    elif kind == "application/x-www-form-urlencoded" and re.match(rb"\w+=", start):
        asked.fields |= await asyncio.to_thread(parse, path, parse_form)
    else:
        asked.files[raw] = str(path)


def parse(path: Path, how: Callable[[bytes], dict[str, Any]]) -> dict[str, Any]:
    """The fields in a file, one such file after the other, since a photo in one is in memory several times.

    A long text becomes the path of a file, so that none is kept in a queue.
    """
    with parsing:
        fields = how(path.read_bytes())
        for number, (name, value) in enumerate(fields.items()):
            if isinstance(value, str) and len(value) > MAX_FIELD:
                fields[name] = path.with_name(f"text-{number}")
                fields[name].write_bytes(value.encode("utf-8", "replace"))
        return fields


def parse_json(body: bytes) -> dict[str, Any]:
    """The fields of an object, plain values all of them. Raises RefusedError."""
    fields = None
    if sum(map(body.count, (b"[", b"{", b","))) < MAX_VALUES:
        with suppress(ValueError, RecursionError):
            fields = json.loads(body)
    if not isinstance(fields, dict) or any(isinstance(value, dict | list) for value in fields.values()):
        raise RefusedError(400, "This is no object of plain values in JSON: send one with 'image_url' in it.")
    return fields


def parse_form(body: bytes) -> dict[str, Any]:
    """The fields of a form without files. Raises RefusedError."""
    if body.count(b"%") > MAX_ESCAPES:
        raise too_large()
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=MAX_FIELDS))
    except ValueError:
        raise RefusedError(400, UNREADABLE) from None


def decode_url(address: str | Path) -> bytes:
    """What a data: URL holds, which may lie in a file. Raises PhotoError."""
    with parsing:
        return read_data_url(address.read_text("utf-8") if isinstance(address, Path) else address, max_bytes=MAX_BYTES)


# --- what comes of it ---


@dataclass(frozen=True)
class Made:
    """A picture that was made, and what is said of it."""

    path: Path
    size: tuple[int, int]  # width and height
    found: bool
    milliseconds: int
    headers: dict[str, str] = field(default_factory=dict)


class Once(FileResponse):
    """A file that is deleted when it was sent, or whoever asked has gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            await asyncio.to_thread(remove, Path(self.path).parent)


@contextmanager
def refusing() -> Iterator[None]:
    """What is wrong with a request as what refuses it. Raises RefusedError, ClientDisconnect."""
    try:
        yield
    except RefusedError:
        raise
    except PhotoError as error:
        status = next((status for kind, status in STATUSES if isinstance(error, kind)), 422)
        headers = {"Retry-After": str(error.seconds)} if isinstance(error, BusyError) else {}
        raise RefusedError(status, str(error), headers=headers) from None
    except AbandonedError:
        if scheduler().closed:
            raise RefusedError(503, ENDING, headers={"Retry-After": "60"}) from None
        raise ClientDisconnect from None
    except Exception:
        logger.exception("A request failed")
        raise RefusedError(500, WRONG) from None


def plain(text: str) -> str:
    """A text that a header can hold."""
    return text.encode("ascii", "replace").decode().replace("\n", " ")
