"""What stands before Gradio's routes: which of them there are, who may ask, how much, and what a browser is told.

ASGI middleware, the one place for whatever holds for every request.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from background_remover.page.bodies import REMOVEBG, SERVICE, RefusedError, admitted
from background_remover.page.files import read_names
from background_remover.scheduler import BusyError

logger = logging.getLogger(__name__)

# Of Gradio 6.31's routes, those that the page, the clients and the tools need.
READ = (
    r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/preview\.jpg|/manifest\.json|/(static|assets|svelte)/.+"
    r"|/gradio_api/(app_id|info/?|openapi\.json|theme\.css|startup-events|queue/(data|status)|upload_progress"
    r"|login_check/?|user/?|heartbeat/[\w-]+|call/(v2/)?\w+/\w+|file=(?!(?i:https?:)).+)"
    r"|/words/(de|es|fr|ja|pt|zh)\.json|/health|/ready|/metrics|/v1/(info|openapi\.json)|/v1\.0/account"
)
WRITE = r"/gradio_api/(upload|queue/join|cancel|reset/?|(run|call|call/v2)/\w+/?)|/v1/remove-background|/v1\.0/removebg"
TOOLS = r"/gradio_api/mcp(/.*)?"
ROUTES = {
    "GET": re.compile(f"{READ}|{TOOLS}", re.DOTALL),
    "HEAD": re.compile(f"{READ}|{TOOLS}", re.DOTALL),
    "POST": re.compile(f"{WRITE}|{TOOLS}"),
    "DELETE": re.compile(TOOLS),
    "OPTIONS": re.compile(f"{READ}|{WRITE}|{TOOLS}", re.DOTALL),
}

# Headers that a proxy sets, from which Gradio makes URLs: only a proxy that is configured is believed.
FORWARDED = {b"forwarded", b"x-forwarded-host", b"x-forwarded-proto", b"x-forwarded-for", b"x-gradio-server"}
ANY = "*"  # among the hosts: whatever the proxy says
ON_A_SPACE = "SPACE_ID" in os.environ  # Hugging Face's proxy is before us, and its site shows the page in a frame

SHARED = [".gradio.live"] if os.environ.get("GRADIO_SHARE") == "True" else []  # Gradio's tunnel

# What Gradio's page can live with: its scripts are inline and made from text, its workers are blobs.
PAGE_POLICY = "; ".join((
    "default-src 'self'",
    "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:",
    "media-src 'self' data: blob:",
    "font-src 'self' data:",
    "connect-src 'self' data: blob:",
    "worker-src 'self' blob:",
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    f"frame-ancestors 'self'{' https://huggingface.co https://*.hf.space' if ON_A_SPACE else ''}",
))  # fmt: skip
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; frame-ancestors 'none'"

CALL = re.compile(r"/gradio_api/call/(?:v2/)?(\w+)/?")

REMEMBERED = 1000  # listeners that have left

NO_ROUTE = "There is nothing here."
OTHER_HOST = "This server does not go by that name: use its address, or put the name into RMBG_HOSTS where it runs."
OTHER_SITE = (
    "Nothing can be sent here by the pages of other websites: open this page itself, or call it from a program."
)
WRONG = "This request can't be read: see the API's description for its parameters."


class Guard:
    """The middleware.

    `hosts` are names under which the server is reached, through a proxy, beside its addresses. `expect` is told of each
    call, by its endpoint and its sender's address; it gives what to do if nothing comes of it, or raises BusyError.
    """

    def __init__(
        self,
        app: ASGIApp,
        hosts: Iterable[str] | None = None,
        expect: Callable[[str, str], Callable[[], None]] = lambda *_: lambda: None,
    ) -> None:
        self.app = app
        self._expect = expect
        self.hosts = frozenset(host.lower() for host in (known_hosts() if hosts is None else hosts))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no routes for anything else
            await send({"type": "websocket.close"})
            return
        sender = Sender(scope["path"], send)
        try:
            self._admit(scope)
            sender.on_refusal = self._expected(scope)
            async with admitted(scope, receive) as body:
                with listeners.listening(heard_by(scope)):
                    await self.app(scope, body, sender)
        except ClientDisconnect:
            return  # in the middle of an upload; nobody is left to be told
        except RefusedError as error:
            if sender.started:
                raise
            await error.answer(scope, receive, sender)
        except Exception as error:
            if sender.started or not scope["path"].startswith("/gradio_api/call/"):
                raise
            await RefusedError(422, what_is_wrong(error)).answer(scope, receive, sender)

    def _admit(self, scope: Scope) -> None:
        """Raises RefusedError for another host, another site's pages, and routes that there are not."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            raise RefusedError(421, OTHER_HOST)
        if not self.hosts or not self._is_ours(headers.get("x-forwarded-host", "localhost").split(",")[0]):
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name not in FORWARDED]
        elif "x-gradio-server" in headers:
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != b"x-gradio-server"]
        if scope["method"] in ("POST", "DELETE") and from_elsewhere(Headers(scope=scope)):
            raise RefusedError(403, OTHER_SITE)
        routes = ROUTES.get(scope["method"])
        if not (routes and routes.fullmatch(scope["path"])):
            raise RefusedError(404, NO_ROUTE)

    def _expected(self, scope: Scope) -> Callable[[], None]:
        """What to do if nothing comes of a request. Raises RefusedError for a call when there is too much to do."""
        call = CALL.fullmatch(scope["path"]) if scope["method"] == "POST" else None
        if not call:
            return lambda: None
        try:
            return self._expect(call[1], client_address(Request(scope)))
        except BusyError as error:
            raise RefusedError(503, str(error)) from None

    def _is_ours(self, host: str) -> bool:
        """Whether a Host header is an address, a name that only a local network knows, or one of `hosts`.

        A page of somebody else's can have its own name lead here, and would then be the same site to the browser.
        """
        name = host_name(host)
        if name in self.hosts or ANY in self.hosts:
            return True
        if re.fullmatch(r"[a-z0-9_.-]+", name) and (
            "." not in name or name.endswith((".localhost", ".local", *SHARED))
        ):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


class Sender:
    """Sends on what the app answers, with headers for browsers; knows whether it has begun.

    What FastAPI says of a body that it can't read, which may repeat that body, becomes one sentence.
    """

    def __init__(self, path: str, send: Send) -> None:
        self.started = False
        self.on_refusal: Callable[[], None] = lambda: None  # called if the app, or the guard, answers with an error
        self._unread: Message | None = None  # the start of such an answer
        self._replaced = False
        self._is_file = path.startswith("/gradio_api/file=")
        self._is_own = path.startswith(("/gradio_api/upload", SERVICE, REMOVEBG))  # and says itself what is wrong
        self._send = send

    async def __call__(self, message: Message) -> None:
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            self.started = True
            if message["status"] >= 400:
                self.on_refusal()
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "same-origin"
            headers["Content-Security-Policy"] = FILE_POLICY if self._is_file else PAGE_POLICY
            if not ON_A_SPACE:
                headers["X-Frame-Options"] = "SAMEORIGIN"
            if message["status"] in (400, 422) and not self._is_own:
                self._unread = message
                return
        if self._unread is not None:
            start, self._unread = self._unread, None
            if b'"error":' not in message.get("body", b""):
                body = json.dumps({"detail": WRONG, "error": WRONG}).encode()
                MutableHeaders(scope=start)["Content-Length"] = str(len(body))
                message = {"type": "http.response.body", "body": body}
                self._replaced = True
            await self._send(start)
        await self._send(message)


def known_hosts() -> frozenset[str]:
    """RMBG_HOSTS, names with commas between them, and the Space's own; any where only the path at a proxy is known."""
    hosts = frozenset((*read_names("RMBG_HOSTS"), *read_names("SPACE_HOST")))
    return hosts or frozenset({ANY} if os.environ.get("GRADIO_ROOT_PATH") else ())


def host_name(host: str) -> str:
    """The name or address in a Host header, without the port."""
    bracketed = re.fullmatch(r"\[([0-9a-f:.]+)\](:\d+)?", host.strip().lower())
    return bracketed[1] if bracketed else host.strip().lower().rpartition(":")[0] or host.strip().lower()


def from_elsewhere(headers: Headers) -> bool:
    """Whether a browser says that another site's page sends this."""
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        return True
    if "origin" not in headers:
        return False
    hosts = {headers.get("host", ""), headers.get("x-forwarded-host", "").split(",")[0]}
    return without_default_port(headers["origin"].partition("://")[2]) not in map(without_default_port, hosts - {""})


def without_default_port(host: str) -> str:
    """A host as browsers write it in an origin."""
    return re.sub(r":(80|443)\Z", "", host.strip().lower())


def client_address(request: Any) -> str:
    """Where a request comes from: of what a proxy says, only what the one that we know has added itself."""
    forwarded = ",".join(request.headers.getlist("x-forwarded-for")) if request else ""  # some add a line of their own
    if forwarded:  # `Guard` leaves it only where a proxy is configured
        return str(forwarded.rpartition(",")[2].strip())
    return str(request.client.host) if request and request.client else ""


def what_is_wrong(error: Exception) -> str:
    """One sentence about a call that Gradio's route could not read, from what its client's library says of it."""
    text = str(error)
    if found := re.match(r"Parameter `(\w{1,40})` is", text):
        return f"There is no parameter '{found[1]}': see the API's description for those that there are."
    if found := re.match(r"No value provided for required argument: (\w{1,40})", text):
        return f"The parameter '{found[1]}' is missing: give it a value."
    logger.info("A call that could not be read: %s", type(error).__name__)
    return WRONG


# --- who listens for results ---


def heard_by(scope: Scope) -> str:
    """The session, or the event, whose results a request listens for; none if it doesn't."""
    if scope["path"].startswith((SERVICE, REMOVEBG)):
        return f"request {id(scope)}"
    if scope["method"] != "GET":
        return ""
    if scope["path"] == "/gradio_api/queue/data":
        return QueryParams(scope["query_string"]).get("session_hash", "")
    found = re.fullmatch(r"/gradio_api/call/(?:v2/)?\w+/(\w+)", scope["path"])
    return found[1] if found else ""


class Listeners:
    """Sessions and events for whose results somebody listens just now, and what to do when nobody does any more."""

    def __init__(self) -> None:
        self._count: Counter[str] = Counter()
        self._leaving: dict[Callable[[], None], tuple[str, str]] = {}
        self._left: OrderedDict[str, None] = OrderedDict()  # for whom somebody did listen, the last ones

    def heard(self, *keys: str) -> bool:
        """Whether somebody listens for one of these."""
        return any(self._count[key] > 0 for key in keys if key)

    def any(self) -> bool:
        """Whether somebody listens for anything."""
        return any(key for key in self._count)

    def has_left(self, event: str) -> bool:
        """Whether somebody did listen for this event, and does no more. It is asked of a call, which has but one."""
        return bool(event) and event in self._left and not self.heard(event)

    def on_leaving(self, session: str, event: str, leave: Callable[[], None]) -> None:
        """Call `leave` once nobody listens any more for what somebody did listen for."""
        self._leaving[leave] = (session, event)

    def forget(self, leave: Callable[[], None]) -> None:
        """Don't call it any more."""
        self._leaving.pop(leave, None)

    @contextmanager
    def listening(self, key: str) -> Iterator[None]:
        """While it runs somebody does."""
        self._count[key] += 1
        try:
            yield
        finally:
            self._count[key] -= 1
            if self._count[key] <= 0:
                del self._count[key]
                if key:
                    self._left[key] = None
                if len(self._left) > REMEMBERED:
                    self._left.popitem(last=False)
            if key:
                for leave, keys in [*self._leaving.items()]:
                    if key in keys and not self.heard(*keys):
                        leave()


listeners = Listeners()
