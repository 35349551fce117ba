"""What holds for every request: which routes there are, under which names, and what browsers are told."""

import json
import logging
import re
from collections.abc import Callable, Iterator

import httpx
import pytest
from asgi import Echo, head, send_raw, served
from helpers import run_async
from starlette.requests import Request

from background_remover.page import guard as module
from background_remover.page.guard import Guard, client_address, host_name, known_hosts
from background_remover.scheduler import BusyError


class Server:
    """An app behind a guard."""

    def __init__(self, port: int, app: Echo) -> None:
        self.port, self.app = port, app

    def ask(self, path: str, *headers: str, method: str = "GET", host: str = "127.0.0.1", body: bytes = b"") -> str:
        """The answer, its head included."""
        length = [f"Content-Length: {len(body)}"] if body or method == "POST" else []
        return send_raw(self.port, head(f"{method} {path}", *headers, *length, host=host) + body)

    def status(self, path: str, *headers: str, **options: object) -> int:
        return int(self.ask(path, *headers, **options).split()[1])


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Server]]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(*hosts: str) -> Server:
            app = Echo()
            return Server(stack.enter_context(served(Guard(app, hosts))), app)

        yield start


@pytest.fixture(scope="module")
def server(start) -> Server:
    return start()


@pytest.fixture(scope="module")
def behind_proxy(start) -> Server:
    return start("cutouts.example", "WWW.cutouts.example")


# --- routes ---

OPEN = [
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/config"),
    ("GET", "/assets/index-a1.js"),
    ("GET", "/gradio_api/info"),
    ("GET", "/gradio_api/queue/data?session_hash=a"),
    ("GET", "/gradio_api/heartbeat/abc-1"),
    ("GET", "/gradio_api/file=/tmp/a%20b.png"),
    ("HEAD", "/gradio_api/file=/tmp/a.png"),
    ("GET", "/gradio_api/call/cutout/0a1b"),
    ("POST", "/gradio_api/call/cutout"),
    ("POST", "/gradio_api/call/v2/cutout"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/upload"),
    ("POST", "/gradio_api/upload?upload_id=a"),
    ("POST", "/gradio_api/mcp/"),
    ("DELETE", "/gradio_api/mcp/"),
    ("OPTIONS", "/gradio_api/queue/join"),
]
CLOSED = [
    ("GET", "/gradio_api/deep_link?session_hash=a"),
    ("GET", "/gradio_api/proxy=http://127.0.0.1/"),
    ("GET", "/gradio_api/file=http://127.0.0.1/a.png"),
    ("GET", "/gradio_api/file=HTTPS://127.0.0.1/a.png"),
    ("GET", "/gradio_api/file=https%3A//127.0.0.1/a.png"),
    ("GET", "/gradio_api/%66ile=%68ttp://127.0.0.1/a.png"),
    ("GET", "/gradio_api/file/etc/passwd"),
    ("GET", "/gradio_api/custom_component/1/client/component/a.js"),
    ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"),
    ("POST", "/gradio_api/component_server"),
    ("POST", "/gradio_api/process_recording"),
    ("POST", "/gradio_api/vibe-edit"),
    ("POST", "/gradio_api/run-history/connect"),
    ("POST", "/gradio_api/api/cutout"),
    ("GET", "/monitoring"),
    ("GET", "/monitoring/summary"),
    ("POST", "/login"),
    ("GET", "/docs"),
    ("GET", "/openapi.json"),
    ("GET", "/gradio_api/token"),
    # spellings
    ("GET", "//config"),
    ("GET", "/./config"),
    ("GET", "/%2e/config"),
    ("GET", "/gradio_api/../monitoring"),
    ("GET", "/gradio_api/%2e%2e/monitoring"),
    ("GET", "/gradio_api//info"),
    ("GET", "/GRADIO_API/info"),
    ("GET", "/Config"),
    ("GET", "/config/../monitoring"),
    ("GET", "/config%00"),
    ("GET", "/config%0a"),
    ("GET", "/monitoring?/config"),
    ("GET", "/monitoring;/config"),
    ("POST", "/gradio_api/upload/"),
    ("POST", "/gradio_api/call/cutout/../../api/cutout"),
    # methods
    ("POST", "/"),
    ("POST", "/config"),
    ("GET", "/gradio_api/queue/join"),
    ("PUT", "/gradio_api/upload"),
    ("PATCH", "/"),
    ("DELETE", "/gradio_api/file=/tmp/a.png"),
    ("TRACE", "/"),
    ("post", "/gradio_api/upload"),
    ("OPTIONS", "/monitoring"),
    ("OPTIONS", "*"),
]


@pytest.mark.parametrize(("method", "path"), OPEN)
def test_what_the_page_and_its_clients_need_is_open(server, method, path):
    assert server.status(path, method=method) == 200


@pytest.mark.parametrize(("method", "path"), CLOSED)
def test_all_else_is_closed_however_it_is_spelled(server, method, path):
    before = len(server.app.asked)
    answer = server.ask(path, method=method)
    assert answer.split()[1] in ("404", "400")
    assert len(server.app.asked) == before
    assert answer.split()[1] == "400" or module.NO_ROUTE in answer


def test_a_whole_url_as_the_target_is_no_way_round(server):
    assert server.status("http://127.0.0.1/monitoring") in (400, 404)
    assert server.status("http://evil.example/config", host="evil.example") == 421


def test_there_are_no_web_sockets(server):
    upgrade = ("Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    assert server.status("/monitoring", *upgrade) == 404
    sent: list[dict] = []

    async def app(scope: object, receive: object, send: object) -> None:
        sent.append({"type": "let through"})

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {"type": "websocket", "path": "/config", "headers": [(b"host", b"evil.example")]}
    run_async(Guard(app, ())(scope, None, send))
    assert sent == [{"type": "websocket.close"}]
    run_async(Guard(app, ())({"type": "lifespan"}, None, send))
    assert sent[1:] == [{"type": "let through"}]


# --- names ---


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:7860",
        "localhost",
        "LOCALHOST:1",
        "a.localhost",
        "desktop",
        "desktop:80",
        "my_pc.local",
        "192.168.1.20",
        "[::1]",
        "[::1]:7860",
        "[fe80::1]:80",
        "[2001:DB8::1]",
    ],
)
def test_addresses_and_names_of_the_local_network_are_ours(server, host):
    assert server.status("/config", host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "localhost@evil.example",
        "evil.example:80:80",
        "evil.example/a.local",
        "evil.example?.localhost",
        "evil.example#.local",
        "cutouts.example",
        "[::1].evil.example",
        "[evil.example]",
        "a.gradio.live",
        "локальный",
        "127.0.0.1, evil.example",
    ],
)
def test_other_names_are_not(server, host):
    """A website can have its own name lead here, and would be the same site to the browser that shows it."""
    before = len(server.app.asked)
    answer = send_raw(server.port, head("GET /config", host=host.encode().decode("latin-1")))
    assert answer.split()[1] in ("421", "400")
    assert len(server.app.asked) == before


def test_two_names_are_none(server):
    before = len(server.app.asked)
    assert server.status("/config", "Host: evil.example") in (400, 421)
    assert server.status("/config", "Host: 127.0.0.1", host="evil.example") in (400, 421)
    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"localhost")] * 2}
    sent: list[dict] = []

    async def receive() -> dict:
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    run_async(Guard(server.app, ())(scope, receive, send))
    assert sent[0]["status"] == 421
    assert len(server.app.asked) == before


def test_an_old_request_without_a_name_is_refused(server):
    assert send_raw(server.port, b"GET /config HTTP/1.0\r\n\r\n").split()[1] == "421"


@pytest.mark.parametrize("host", ["cutouts.example", "CUTOUTS.example:443", "www.cutouts.example"])
def test_names_that_are_configured_are_ours(behind_proxy, host):
    assert behind_proxy.status("/config", host=host) == 200
    assert behind_proxy.status("/config", host=f"x{host}") == 421
    assert behind_proxy.status("/config", host=f"x.{host}") == 421


def test_the_names_are_read_from_the_environment(monkeypatch):
    monkeypatch.setenv("RMBG_HOSTS", "a.example, ,b.example")
    monkeypatch.setenv("SPACE_HOST", "c.hf.space")
    assert known_hosts() == {"a.example", "b.example", "c.hf.space"}
    assert Guard(Echo()).hosts == known_hosts()


def test_where_only_the_path_at_a_proxy_is_known_it_is_believed_whatever_its_name(start, monkeypatch):
    for name in ("RMBG_HOSTS", "SPACE_HOST"):
        monkeypatch.delenv(name, raising=False)
    assert known_hosts() == set()
    monkeypatch.setenv("GRADIO_ROOT_PATH", "/tools")
    server = start(*known_hosts())
    answer = server.ask("/", "X-Forwarded-Host: any.example", host="other.example")
    assert answer.split()[1] == "200"
    assert forwarded(answer) == {"x-forwarded-host": "any.example"}
    monkeypatch.setenv("RMBG_HOSTS", "a.example")
    assert known_hosts() == {"a.example"}


def test_a_host_headers_name_is_what_stands_before_the_port():
    pairs = {"A.b:80": "a.b", "a": "a", "[::1]:80": "::1", "[::1]": "::1", " a ": "a", "": ""}
    assert {host: host_name(host) for host in pairs} == pairs


# --- what a proxy says ---

FORWARDED = {
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "1.2.3.4",
    "X-Gradio-Server": "http://evil.example",
    "Forwarded": "host=evil.example",
}


def forwarded(answer: str) -> dict[str, str]:
    names = {name.lower() for name in FORWARDED}
    return {name: value for name, value in json.loads(answer.partition("\r\n\r\n")[2])["headers"] if name in names}


def test_without_a_proxy_nothing_that_one_would_say_is_believed(server):
    headers = [f"{name}: {value}" for name, value in FORWARDED.items()]
    assert forwarded(server.ask("/config", *headers)) == {}
    assert forwarded(server.ask("/config", "X-Forwarded-Host: localhost", "x-forwarded-for: 1.2.3.4")) == {}


def test_a_proxy_is_believed_but_not_that_the_name_is_another(behind_proxy):
    host = "cutouts.example"
    headers = [f"{name}: {value}" for name, value in FORWARDED.items()]
    assert forwarded(behind_proxy.ask("/config", *headers, host=host)) == {}
    headers[0] = f"X-Forwarded-Host: {host}"
    assert set(forwarded(behind_proxy.ask("/config", *headers, host=host))) == {
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-for",
        "forwarded",
    }
    first_counts = f"X-Forwarded-Host: evil.example, {host}"
    assert forwarded(behind_proxy.ask("/config", first_counts, host=host)) == {}


@pytest.mark.parametrize(
    ("lines", "address"),
    [
        ([], "9.9.9.9"),
        (["1.1.1.1"], "1.1.1.1"),
        (["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        (["6.6.6.6", "1.1.1.1"], "1.1.1.1"),  # a proxy that adds a line of its own
        (["6.6.6.6, 7.7.7.7", "1.1.1.1"], "1.1.1.1"),
    ],
)
def test_of_the_addresses_that_proxies_name_only_the_last_is_not_the_clients_own_word(lines, address):
    headers = [(b"x-forwarded-for", line.encode()) for line in lines]
    assert client_address(Request({"type": "http", "headers": headers, "client": ("9.9.9.9", 1)})) == address


def test_nobody_has_no_address():
    assert client_address(None) == ""
    assert client_address(Request({"type": "http", "headers": [], "client": None})) == ""


# --- other websites ---

UPLOAD, MCP = "/gradio_api/upload", "/gradio_api/mcp/"


@pytest.mark.parametrize(
    "headers",
    [
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site"],
        ["Origin: http://evil.example"],
        ["Origin: null"],
        ["Origin: http://127.0.0.1.evil.example"],
        ["Origin: http://127.0.0.1:1"],  # another server on this machine
        ["Origin: http://evil.example", "X-Forwarded-Host: evil.example"],
        ["Origin: http://evil.example", "X-Forwarded-Host: evil.example", "Sec-Fetch-Site: same-origin"],
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", UPLOAD), ("POST", "/gradio_api/queue/join"), ("POST", "/gradio_api/call/cutout"), ("DELETE", MCP)],
)
def test_other_sites_pages_send_nothing(server, headers, method, path):
    before = len(server.app.asked)
    answer = server.ask(path, *headers, method=method, body=b"x")
    assert answer.split()[1] == "403"
    assert "open this page itself" in answer
    assert len(server.app.asked) == before


@pytest.mark.parametrize(
    "headers", [[], ["Origin: http://127.0.0.1", "Sec-Fetch-Site: same-origin"], ["Sec-Fetch-Site: none"]]
)
def test_this_page_and_programs_do(server, headers):
    assert server.status(UPLOAD, *headers, method="POST", body=b"x") == 200


def test_a_page_behind_a_proxy_sends_files(behind_proxy):
    headers = ["Origin: https://Cutouts.example", "X-Forwarded-Host: cutouts.example"]
    assert behind_proxy.status(UPLOAD, *headers, method="POST", body=b"x", host="127.0.0.1:7860") == 200
    headers[0] = "Origin: https://evil.example"
    assert behind_proxy.status(UPLOAD, *headers, method="POST", body=b"x", host="127.0.0.1:7860") == 403


# --- what browsers are told ---


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/file=/tmp/a.svg", "/monitoring", "/gradio_api/upload"])
@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example"])
def test_every_answer_says_what_a_browser_may_do_with_it(server, path, host):
    answer = server.ask(path, host=host).partition("\r\n\r\n")[0].lower()
    assert answer.count("x-content-type-options: nosniff") == 1
    assert answer.count("referrer-policy: same-origin") == 1
    assert answer.count("content-security-policy: ") == 1
    assert ("sandbox" in answer) == ("file=" in path)
    assert "frame-ancestors" in answer
    assert "x-frame-options: sameorigin" in answer


def test_no_file_runs_a_script_and_no_page_one_of_another_site(server):
    page, file = (
        re.search(r"(?i)content-security-policy: (.*)\r", server.ask(path))[1]
        for path in ("/", "/gradio_api/file=/tmp/a.html")
    )
    assert "default-src 'none'" in file
    assert "script-src" not in file
    assert "script-src 'self'" in page
    assert "object-src 'none'" in page
    assert not re.search(r"https?:|\*", page + file)


# --- faults in the app ---


def test_what_fastapi_says_of_a_body_is_not_told():
    """It repeats the whole of what it could not read."""
    said = {
        "list": [{"loc": ["body"], "msg": "Input should be a valid list", "input": "secret" * 1000}],
        "sentence": "There was an error parsing the body",
    }

    async def app(scope: dict, receive: object, send: Callable) -> None:
        body = json.dumps({"detail": said[scope["query_string"].decode()]}, separators=(",", ":")).encode()
        headers = [(b"content-length", str(len(body)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 422, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    with served(Guard(app, ())) as port:
        url = f"http://127.0.0.1:{port}/gradio_api/queue/join"
        for what in said:
            answer = httpx.post(f"{url}?{what}")
            assert answer.json() == {"detail": module.WRONG, "error": module.WRONG}
            assert "Content-Security-Policy" in answer.headers


def test_a_call_for_which_there_is_no_place_is_refused_before_it_is_read():
    told, given_back = [], []

    def expect(endpoint: str, address: str) -> Callable[[], None]:
        told.append((endpoint, address))
        if endpoint == "cutout":
            raise BusyError("There is much to do: try again in about 5 seconds.")
        return lambda: given_back.append(endpoint)

    app = Echo()
    with served(Guard(app, (), expect)) as port:
        start = head("POST /gradio_api/call/cutout", "Content-Length: 1000")
        answer = send_raw(port, start)  # no body is waited for
        assert answer.split()[1] == "503"
        assert "try again in about 5 seconds" in answer
        for path in ("/gradio_api/call/v2/matte", "/gradio_api/queue/join", UPLOAD):
            assert httpx.post(f"http://127.0.0.1:{port}{path}", content=b"{}").status_code == 200
        assert given_back == []
        assert httpx.post(f"http://127.0.0.1:{port}/gradio_api/call/edit", content=b'["data:,a').status_code == 422
    assert told == [("cutout", "127.0.0.1"), ("matte", "127.0.0.1"), ("edit", "127.0.0.1")]
    assert given_back == ["edit"]
    assert len(app.asked) == 3


def test_a_call_that_gradio_can_not_read_is_told_in_one_sentence_and_other_faults_are_not_hidden():
    async def app(scope: dict, receive: object, send: object) -> None:
        raise ValueError(scope["query_string"].decode())

    with served(Guard(app, ())) as port:

        def ask(path: str, text: str) -> httpx.Response:
            return httpx.post(f"http://127.0.0.1:{port}{path}", params=text, content=b"{}")

        logging.getLogger("uvicorn.error").disabled = True
        try:
            unknown = ask("/gradio_api/call/v2/cutout", "Parameter `colour` is not a valid key-word argument")
            assert ask("/gradio_api/queue/join", "secret").status_code == 500
        finally:
            logging.getLogger("uvicorn.error").disabled = False
        assert (unknown.status_code, unknown.json()["error"]) == (422, module.WRONG)
    assert module.what_is_wrong(TypeError("Parameter `colour` is not a valid key-word argument")) == (
        "There is no parameter 'colour': see the API's description for those that there are."
    )
    assert module.what_is_wrong(TypeError("No value provided for required argument: image")) == (
        "The parameter 'image' is missing: give it a value."
    )
    assert module.what_is_wrong(TypeError("/srv/app/secret.py")) == module.WRONG
