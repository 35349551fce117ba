"""HTTP for programs: one request with a photo gives the picture; and what an operator asks of a server.

These are routes of the page's own server, which share its limits, its queue and its model.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from background_remover import monitoring
from background_remover.choices import CHOICES, CUTS, YES
from background_remover.cutout import Cutout, Finish
from background_remover.keys import NO_KEY, TOO_OFTEN, WRONG_KEY, Keys
from background_remover.messages import MEDIA, Asked, Made, Once, plain, read, refusing
from background_remover.page.bodies import MAX_FILES, RefusedError
from background_remover.page.files import SettingError, Upload, file_store, remove
from background_remover.page.guard import client_address
from background_remover.page.requests import run_job
from background_remover.page.turns import sandbox, scheduler, turn
from background_remover.photos import FORMATS
from background_remover.pipeline import BackgroundRemover
from background_remover.scheduler import Client
from background_remover.weights import public_name
from utilities import PhotoError

IMAGE = ("image", "image_url")  # the photo as a file, and by its address
BACKGROUND = ("background_image", "background_image_url")
OWN_CHOICES = (*CHOICES, *CUTS)
DEFAULT = "png"

NO_PHOTO = "There is no photo here: send it as the file 'image' of a form, as the body, or by 'image_url' in JSON."


class Service:
    """The routes, for a remover; `keys` says who may use them."""

    def __init__(self, remover: BackgroundRemover, keys: Keys | None = None) -> None:
        self.remover = remover
        try:
            self.keys = keys or Keys.from_environment()
        except ValueError as error:
            raise SettingError(str(error)) from None
        self.shows_metrics = os.environ.get("RMBG_METRICS", "").lower() in YES

    def admit(self, who: str) -> dict[str, str]:
        """Headers for the answer to somebody who may ask now. Raises RefusedError, before anything is read."""
        left = self.keys.left(who)
        if left and not left.within:
            headers = left.headers | {"Retry-After": str(left.seconds)}
            raise RefusedError(429, TOO_OFTEN.format(left.seconds), "rate_limit_exceeded", headers)
        return left.headers if left else {}

    def who(self, request: Request, status: int = 401) -> str:
        """Whose request it is: a key's, or an address's. Raises RefusedError if a key is needed, of that status."""
        headers = request.headers
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        key = headers.get("x-api-key") or (bearer.strip() if scheme.lower() == "bearer" else "")
        address = client_address(request)
        if not self.keys.needed:
            return address
        owner = self.keys.owner(key)
        if owner is None:
            self.admit(f"without a key, {address}")
            asks = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
            raise RefusedError(status, WRONG_KEY if key else NO_KEY, "auth_failed", asks)
        return owner

    @asynccontextmanager
    async def reading(self, request: Request, who: str) -> AsyncIterator[Asked]:
        """A request that is read, and looked through meanwhile; refused on its arrival if there is too much to do.

        Raises RefusedError.
        """
        with refusing():
            scheduler().expect("photo", who)
        asked = None
        try:
            asked = await read(request, IMAGE[0])
            yield asked
        except BaseException:
            scheduler().expect_no_more("photo", who)
            if asked:
                remove(asked.folder)
            raise

    async def work(self, request: Request, who: str, asked: Asked, path: Path, make: Callable[[], Made]) -> Made:
        """What is made in the file `path`, as a job of the queue that all share. Raises RefusedError."""
        try:
            with refusing():
                client = Client(f"request {id(request)}", who)
                return await run_job("photo", client, make, tuple(asked.uploads), gone(request))
        except BaseException:
            remove(path.parent)
            raise
        finally:
            remove(asked.folder)

    # --- one request, one picture ---

    async def remove_background(self, request: Request) -> Response:
        """Cut the subject out of a photo."""
        who = self.who(request)
        allowed = self.admit(who)
        async with self.reading(request, who) as asked:
            photo = await asked.upload(*IMAGE)
            if photo is None:
                raise RefusedError(400, NO_PHOTO)
            background = await asked.upload(*BACKGROUND)
            with refusing():
                finish, cut = self._choices(asked.fields, request.headers, background)
            path = file_store().new_folder() / f"{asked.name}-{finish.output}{finish.suffix}"
        made = await self.work(request, who, asked, path, lambda: self.make(photo, finish, cut, path))
        return Once(path, headers=allowed | self._headers(made, path), media_type=MEDIA[finish.format])

    def make(self, photo: Upload, finish: Finish, cut: dict[str, Any], path: Path) -> Made:
        """A picture of a photo, cut out by what CUTS has, in a file. Raises PhotoError."""
        start = time.perf_counter()
        with turn(photo, finish) as opened:
            cutout: Cutout = self.remover(opened.photo, **cut)
            framed = opened.finish.frame(cutout)
            opened.finish.write(framed, path)
            height, width = framed.alpha.shape
        return Made(path, (width, height), cutout.found, round((time.perf_counter() - start) * 1000))

    def _choices(
        self, fields: Mapping[str, Any], headers: Headers, background: Upload | None
    ) -> tuple[Finish, dict[str, Any]]:
        """What a request chooses of the look, and of the cut. Raises PhotoError."""
        known = {choice.name: choice for choice in OWN_CHOICES}
        for name in sorted(fields.keys() - known.keys() - {*IMAGE, *BACKGROUND}):
            raise PhotoError(f"There is no parameter '{name[:40]}': see /v1/openapi.json for those that there are.")
        given = {name: value for name, value in fields.items() if name in known and value not in ("", None)}
        try:
            chosen = {name: known[name].read(value) for name, value in given.items()}
        except ValueError as error:
            raise PhotoError(str(error)) from None
        cut = {choice.name: chosen.pop(choice.name) for choice in CUTS if choice.name in chosen}
        chosen.setdefault("format", wanted_format(headers.get("accept", "")))
        return Finish(**chosen, background_image=background), cut

    def _headers(self, made: Made, path: Path) -> dict[str, str]:
        name = plain(path.name).replace("?", "_")
        return {
            "X-Width": str(made.size[0]),
            "X-Height": str(made.size[1]),
            "X-Found": str(made.found).lower(),
            "X-Weights": plain(public_name(self.remover.weights)),
            "X-Licence": plain(self.remover.weights.licence),
            "X-Milliseconds": str(made.milliseconds),
            "Content-Disposition": f"inline; filename=\"{name}\"; filename*=UTF-8''{quote(path.name)}",
        }

    # --- what an operator, or a program before it starts, asks ---

    async def health(self, _: Request) -> Response:
        """The server is alive."""
        return JSONResponse({"status": "ok"})

    async def ready(self, _: Request) -> Response:
        """It has its weights, has run the network, and takes photos; 503 once it is about to end."""
        if scheduler().closed:
            return JSONResponse({"status": "ending"}, 503, {"Retry-After": "60"})
        return JSONResponse({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        """For Prometheus: with a key, or for all if RMBG_METRICS is "true"."""
        if not self.shows_metrics:
            if not self.keys.needed:
                raise RefusedError(404, "There is nothing here.")
            self.who(request)
        return Response(monitoring.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def info(self, request: Request) -> Response:
        """Which weights these are, what they run on, and the limits."""
        allowed = self.admit(self.who(request))
        weights, limits = self.remover.weights, sandbox().limits
        about = {
            "weights": {"name": public_name(weights), "licence": weights.licence, "sha256": weights.sha256},
            "device": str(self.remover.engine),
            "precision": self.remover.engine.precision,
            "limits": {**limits, "max_files": MAX_FILES},
            "formats": {"in": [name.lower() for name in FORMATS], "out": [*MEDIA]},
        }
        return JSONResponse(about, headers=allowed)


async def gone(request: Request) -> None:
    """Ends when whoever asked has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def wanted_format(accept: str) -> str:
    """The format of those in MEDIA that an Accept header wants most; PNG where it does not care."""
    best, most = DEFAULT, 0.0
    for part in accept.split(","):
        kind, *parameters = (word.strip().lower() for word in part.split(";"))
        weight = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    weight = float(parameter[2:])
                except ValueError:
                    weight = 0.0
        names = [name for name, media in MEDIA.items() if media == kind]
        name = names[0] if names else DEFAULT if kind in ("*/*", "image/*") else None
        if name and (weight > most or (weight == most and name == DEFAULT)):
            best, most = name, weight
    return best
