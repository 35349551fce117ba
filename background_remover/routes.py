"""The paths for programs and operators, and what they take and give, in OpenAPI's words."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.openapi.utils import get_openapi
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from background_remover import monitoring
from background_remover.choices import BACKGROUND_IMAGE, Choice
from background_remover.messages import MEDIA
from background_remover.page.bodies import RefusedError
from background_remover.page.requests import WRONG
from background_remover.page.turns import scheduler
from background_remover.pipeline import BackgroundRemover
from background_remover.removebg import RemoveBg
from background_remover.service import BACKGROUND, IMAGE, OWN_CHOICES, Service

logger = logging.getLogger(__name__)

Handler = Callable[[Request], Awaitable[Response]]
REASONS = {400: "unreadable", 401: "key", 403: "key", 413: "too large", 415: "not a photo", 422: "parameter or photo",
           429: "busy or too often", 503: "ending"}  # fmt: skip


PICTURE: dict[str, Any] = {"description": "The picture.", "content": {kind: {} for kind in sorted({*MEDIA.values()})}}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": text, "content": {"application/problem+json": {}}}
    for status, text in (
        (400, "There is no photo, or the request can't be read."),
        (401, "A key is needed, or it is not known."),
        (413, "The photo has too many bytes or pixels."),
        (415, "It is no photo."),
        (422, "A parameter is wrong, or the photo is damaged."),
        (429, "There is too much to do, or these are too many requests: see Retry-After."),
        (503, "The server is about to end."),
    )
}


def body_of(choices: tuple[Choice, ...]) -> dict[str, Any]:
    """The body of the request, in OpenAPI's words."""
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    fields: dict[str, Any] = {}
    for choice in choices:
        fields[choice.name] = {"type": kinds[choice.kind], "description": choice.text}
        if choice.default is not None:
            fields[choice.name]["default"] = choice.default
        if choice.values:
            fields[choice.name]["enum"] = [*choice.values]
    urls = {
        IMAGE[1]: {"type": "string", "format": "uri", "description": "where the photo is, instead of the file"},
        BACKGROUND[1]: {"type": "string", "format": "uri", "description": BACKGROUND_IMAGE},
    }
    files = {
        IMAGE[0]: {"type": "string", "format": "binary", "description": "the photo"},
        BACKGROUND[0]: {"type": "string", "format": "binary", "description": BACKGROUND_IMAGE},
    }
    query = [
        {"name": name, "in": "query", "schema": {k: v for k, v in told.items() if k != "description"},
         "description": told["description"]}
        for name, told in fields.items()
    ]  # fmt: skip
    return {
        "parameters": query,
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": {"type": "object", "properties": files | urls | fields}},
                "application/json": {"schema": {"type": "object", "properties": urls | fields}},
                "image/*": {"schema": {"type": "string", "format": "binary"}},
            },
        },
    }


def openapi(routes: list[BaseRoute]) -> dict[str, Any]:
    """The description of routes."""
    return get_openapi(title="Background remover", version="1", routes=routes)


def answering(handler: Handler) -> Handler:
    """A handler whose refusals are answered in the words of its path, and counted."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except RefusedError as error:
            refusal = error
        except ClientDisconnect:
            raise
        except Exception:
            logger.exception("%s failed", handler.__name__)
            refusal = RefusedError(500, WRONG)
        monitoring.refusals.labels(REASONS.get(refusal.status, monitoring.OTHER)).inc()
        if request.method == "POST" and not request.scope.get("read"):
            raise refusal  # the guard reads the rest of the body, so that the answer arrives
        return refusal.response(request.scope["path"])

    answer.__name__ = handler.__name__
    return answer


def routes(remover: BackgroundRemover) -> list[BaseRoute]:
    """All routes for programs and operators. Raises SettingError."""
    service = Service(remover)
    removebg = RemoveBg(service)
    router = APIRouter()

    def add(path: str, method: str, handler: Handler, **more: Any) -> None:
        about = (handler.__doc__ or "").partition("\n")[0]
        answer = answering(handler)
        router.add_api_route(path, answer, methods=[method], summary=about, response_class=Response, **more)
        if method == "GET":
            router.add_api_route(path, answer, methods=["HEAD"], include_in_schema=False)

    add("/v1/remove-background", "POST", service.remove_background, openapi_extra=body_of(OWN_CHOICES),
        responses={200: PICTURE, **PROBLEMS})  # fmt: skip
    add("/v1/info", "GET", service.info)
    add("/v1.0/removebg", "POST", removebg.remove)
    add("/v1.0/account", "GET", removebg.account)
    add("/health", "GET", service.health)
    add("/ready", "GET", service.ready)
    add("/metrics", "GET", service.metrics)
    described = [*router.routes]

    async def describe(_: Request) -> Response:
        """What these paths take and give, for other programs."""
        return JSONResponse(openapi(described))

    add("/v1/openapi.json", "GET", describe)
    monitoring.count_jobs(lambda: (scheduler().count(), scheduler().refused))
    return [*router.routes]
