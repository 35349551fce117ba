"""Photos by URL, from a real server on the loopback, one address of which is taken for a public one."""

import asyncio
import contextlib
import gzip
import ipaddress
import itertools
import random
import shutil
import ssl
import subprocess
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from helpers import PERSON, run_async, serving

from background_remover import fetch
from utilities import PhotoError

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"
PACKED = gzip.compress(PERSON.read_bytes())

# What the server says to a path that begins so: status and headers; what follows is in `Handler.send`.
ANSWERS: dict[str, tuple[int, dict[str, str]]] = {
    "gone": (404, {}),
    "packed": (200, {"Content-Encoding": "gzip"}),
    "torn": (200, {"Content-Encoding": "gzip"}),
    "bomb": (200, {"Content-Encoding": "gzip"}),
    "brotli": (200, {"Content-Encoding": "br"}),
    "short": (200, {"Content-Length": "99999"}),
    "announced": (200, {"Content-Length": str(10**12)}),
    "negative": (200, {"Content-Length": "-1"}),
    "header": (200, {"X-Large": "x" * 300_000}),
}
SENDS = {
    "photo": [PERSON.read_bytes()],
    "packed": [PACKED],
    "torn": [PACKED[:-20]],
    "bomb": [gzip.compress(bytes(50_000_000))],
    "brotli": [b"x"],
    "short": [b"a part"],
    "announced": [b"a part"],
}


@pytest.fixture
def server(monkeypatch):
    """Its port, and of each connection the address that it came to, and of each request host and path.

    It can be reached at both addresses.
    """
    monkeypatch.setattr(fetch, "is_public", lambda address: address == PUBLIC)
    reached, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            super().setup()
            reached.append(self.connection.getsockname()[0])

        def do_GET(self) -> None:
            asked.append((self.headers["Host"].partition(":")[0], self.path))
            assert self.headers["Accept-Encoding"] == "identity"
            kind, _, rest = self.path[1:].partition("/")
            if kind in ("to", "loop"):
                self.answer(302, {"Location": rest if kind == "to" else self.path})
            else:
                self.answer(*ANSWERS.get(kind, (200, {})))
                with contextlib.suppress(OSError):  # whoever asked has had enough
                    self.send(kind)

        def answer(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def send(self, kind: str) -> None:
            endless = itertools.repeat(bytes(1000)) if kind in ("endless", "slow") else ()
            for data in SENDS.get(kind, endless):
                self.wfile.write(data)
                time.sleep(0.2 if kind == "slow" else 0)

    with serving(Handler) as port:
        yield port, reached, asked
    assert PRIVATE not in reached


@pytest.fixture
def resolve(monkeypatch):
    """Make names of an example domain have these addresses, one list for each time that they are looked up."""

    def install(*answers: list[str]) -> None:
        left = iter(answers)

        async def getaddrinfo(_: object, host: str, *__: object, **___: object) -> list[tuple]:
            addresses = next(left) if host.endswith(".example") else [host]
            return [(2, 1, 6, "", (address, 0)) for address in addresses]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)

    return install


def get(url: str, folder: Path, **limits: int) -> Path:
    return Path(run_async(fetch.fetch(url, str(folder), **limits)))


def refused(url: str, folder: Path, match: str, **limits: int) -> None:
    """It ends with that sentence, and leaves nothing."""
    with pytest.raises(PhotoError, match=match):
        get(url, folder, **limits)
    assert [*folder.iterdir()] == []


def test_a_photo_comes_with_its_name(server, tmp_path):
    port, *_ = server
    path = get(f"http://{PUBLIC}:{port}/photo/A%20cat..jpg?size=2", tmp_path)
    assert path.read_bytes() == PERSON.read_bytes()
    assert path.is_relative_to(tmp_path)
    assert path.name == "A-cat"


def test_a_photo_that_a_store_keeps_packed_is_unpacked(server, tmp_path):
    port, *_ = server
    assert get(f"http://{PUBLIC}:{port}/packed/a.jpg", tmp_path).read_bytes() == PERSON.read_bytes()


# --- redirects ---


def test_redirects_are_followed_where_they_lead_to_public_addresses(server, tmp_path):
    port, *_ = server
    for target in ("/photo/a.jpg", f"http://{PUBLIC}:{port}/photo/a.jpg", "/to/" * 4 + "/photo/a.jpg"):
        assert get(f"http://{PUBLIC}:{port}/to/{target}", tmp_path).read_bytes() == PERSON.read_bytes()


@pytest.mark.parametrize("target", ["http://{}:{}/photo/a.jpg", "//{}:{}/photo/a.jpg", "https://{}:{}/"])
def test_a_redirect_to_a_private_address_is_not_followed(server, tmp_path, target):
    port, reached, _ = server
    refused(f"http://{PUBLIC}:{port}/to/{target.format(PRIVATE, port)}", tmp_path, "not a public one")
    assert reached == [PUBLIC]


@pytest.mark.parametrize(
    "path",
    ["/to/file:///etc/passwd", "/to/gopher://127.0.0.1/", "/to/data:,x", "/to/http://", "/to//" * 6 + "/photo/a.jpg"],
)
def test_other_redirects_end_with_one_sentence(server, tmp_path, path):
    port, *_ = server
    refused(f"http://{PUBLIC}:{port}{path}", tmp_path, "No photo could be fetched")


def test_a_redirect_to_itself_ends(server, tmp_path):
    port, reached, _ = server
    refused(f"http://{PUBLIC}:{port}/loop", tmp_path, "No photo could be fetched")
    assert len(reached) == 1 + fetch.MAX_REDIRECTS


# --- names ---


def test_a_name_that_has_a_private_address_too_is_refused(server, tmp_path, resolve):
    port, reached, _ = server
    resolve([PUBLIC, PRIVATE])
    refused(f"http://photos.example:{port}/photo/a.jpg", tmp_path, "not a public one")
    assert reached == []


def test_the_address_that_was_checked_is_the_one_connected_to(server, tmp_path, resolve):
    """A name that turns private between the check and the connection, as in DNS rebinding, gains nothing."""
    port, reached, asked = server
    resolve([PUBLIC], [PRIVATE], [PRIVATE])
    assert get(f"http://photos.example:{port}/photo/a.jpg", tmp_path).read_bytes() == PERSON.read_bytes()
    assert reached == [PUBLIC]
    assert asked == [("photos.example", "/photo/a.jpg")]


def test_a_name_is_checked_anew_after_a_redirect(server, tmp_path, resolve):
    port, reached, _ = server
    resolve([PUBLIC], [PRIVATE])
    at = f"http://photos.example:{port}"
    refused(f"{at}/to/{at}/photo/a.jpg", tmp_path, "not a public one")
    assert reached == [PUBLIC]


def test_where_nobody_is_at_the_first_address_the_next_is_asked(server, tmp_path, resolve, monkeypatch):
    port, *_ = server
    monkeypatch.setattr(fetch, "is_public", lambda address: address in ("::1", PUBLIC))
    resolve(["::1", PUBLIC])  # the server has no IPv6
    assert get(f"http://photos.example:{port}/photo/a.jpg", tmp_path).read_bytes() == PERSON.read_bytes()


@pytest.mark.parametrize(
    "host",
    [
        *("2130706434", "0x7f000002", "0177.0.0.2", "127.2", "127.0.0.2.", "127。0。0。2", "１２７.0.0.2"),
        *("LOCALHOST", "127.0.0.1@127.0.0.2", "[::ffff:127.0.0.2]", "[::1]", "[fe80::1%25eth0]", "[fe80::1%eth0]"),
        "127.0.0.1\\@127.0.0.2",
    ],
)
def test_odd_spellings_of_a_private_address_gain_nothing(server, tmp_path, monkeypatch, host):
    port, reached, _ = server
    monkeypatch.setattr(fetch, "is_public", lambda _: False)
    refused(f"http://{host}:{port}/photo/a.jpg", tmp_path, "not a public one|No photo could be fetched")
    assert reached == []


@pytest.mark.parametrize(
    "url",
    [
        "http://a.invalid/a.jpg",
        "http://",
        "http://[::1/",
        "ftp://127.0.0.1/a",
        "http://127.0.0.1:25/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
        f"http://a.invalid{fetch.OWN}\0",
        f"http://a.invalid{fetch.OWN}{'a' * 999}",
    ],
)
def test_what_is_no_address_is_told(server, tmp_path, url):
    refused(url, tmp_path, "No photo could be fetched")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_a_certificate_is_for_the_name_and_not_for_the_address(server, tmp_path, resolve, monkeypatch):
    certificate = tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=photos.example"]
    command += ["-addext", "subjectAltName=DNS:photos.example", "-keyout", certificate, "-out", tmp_path / "public.pem"]
    subprocess.run(command, check=True, capture_output=True)
    with certificate.open("ab") as file:
        file.write((tmp_path / "public.pem").read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "public.pem"))

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    class Handler(BaseHTTPRequestHandler):
        def setup(self) -> None:
            self.request = context.wrap_socket(self.request, server_side=True)
            super().setup()

        def finish(self) -> None:
            super().finish()
            self.request.close()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(PERSON.read_bytes())

    with serving(Handler) as port:
        resolve([PUBLIC], [PUBLIC])
        assert get(f"https://photos.example:{port}/a.jpg", tmp_path).read_bytes() == PERSON.read_bytes()
        with pytest.raises(PhotoError, match="No photo could be fetched"):
            get(f"https://other.example:{port}/a.jpg", tmp_path)


# --- hostile servers ---


@pytest.mark.parametrize("kind", ["gone", "torn", "brotli", "short", "negative", "header"])
def test_an_answer_without_a_photo_is_told(server, tmp_path, kind):
    port, *_ = server
    refused(f"http://{PUBLIC}:{port}/{kind}", tmp_path, "No photo could be fetched")


@pytest.mark.parametrize("kind", ["endless", "announced", "bomb", "photo"])
def test_a_download_ends_at_the_limit_of_size(server, tmp_path, kind):
    port, *_ = server
    limit = 500_000 if kind != "photo" else PERSON.stat().st_size - 1
    refused(f"http://{PUBLIC}:{port}/{kind}", tmp_path, f"more than {limit / 1e6:g} MB", max_bytes=limit)


def test_the_limit_itself_is_not_too_much(server, tmp_path):
    port, *_ = server
    assert get(f"http://{PUBLIC}:{port}/photo", tmp_path, max_bytes=PERSON.stat().st_size)


def test_a_download_ends_at_the_limit_of_time(server, tmp_path, monkeypatch):
    port, *_ = server
    monkeypatch.setattr(fetch, "MAX_SECONDS", 0.5)
    refused(f"http://{PUBLIC}:{port}/slow", tmp_path, "No photo could be fetched")


# --- files of our own, and addresses ---


def test_a_file_that_the_server_gave_out_is_not_asked_for_again(server, tmp_path):
    port, reached, _ = server
    (tmp_path / "cache" / "secret").mkdir(parents=True)
    for name in ("cache/secret/a b.png", "outside.png"):
        (tmp_path / name).write_bytes(b"mine")
    inside = str(tmp_path / "cache" / "secret" / "a b.png")
    for quoted in (inside, inside.replace(" ", "%20")):
        assert get(f"http://{PRIVATE}:{port}/tools/gradio_api/file={quoted}", tmp_path / "cache") == Path(inside)
    for outside in (tmp_path / "outside.png", tmp_path / "cache" / "..%2Foutside.png", "/etc/passwd"):
        with pytest.raises(PhotoError, match="not a public one"):
            get(f"http://{PRIVATE}:{port}/gradio_api/file={outside}", tmp_path / "cache")
    assert reached == []


@pytest.mark.parametrize("query", ["", "?download=1", "#top"])
def test_a_result_that_was_deleted_since_is_told_as_that(server, tmp_path, query):
    port, reached, _ = server
    path = f"gradio_api/file={tmp_path}/secret/result.png{query}"
    refused(f"http://{PRIVATE}:{port}/{path}", tmp_path, "deleted here since: make it again")
    assert reached == []
    refused(f"http://{PUBLIC}:{port}/gone/{path}", tmp_path, "deleted here since: make it again")


def test_a_result_of_another_such_server_is_fetched(server, tmp_path):
    port, *_ = server
    url = f"http://{PUBLIC}:{port}/photo/gradio_api/file={tmp_path}/secret/result.png"
    assert get(url, tmp_path).read_bytes() == PERSON.read_bytes()


# Addresses of each network that is refused, and the nearest that are not.
REFUSED = """
0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.100.100.200 100.127.255.254 127.0.0.1 127.9.9.9 168.63.129.16 169.254.169.254
172.16.0.0 172.16.0.1 172.31.255.255 192.0.0.8 192.0.0.170 192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.1
192.168.1.1 192.175.48.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.250 240.0.0.1
255.255.255.255
:: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:0:8.8.8.8 64:ff9b::808:808
64:ff9b::a00:1 64:ff9b:1::a00:1 100::1 2001::1 2001:0:1::1 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:10::1
2001:20::1 2001:db8::1 2002:a00:1:: 2002:7f00:1:: 2002:808:808::1 2620:4f:8000::1 3fff::1 3fff:fff:ffff::1 5f00::1
fc00::1 fd12:3456::1 fe80::1 febf::1 fec0::1 feff::1 ff02::1 2a00:1450::5efe:a00:1 2a00:1450::200:5efe:a00:1
2a00:1450::5efe:808:808 2a00:1450::1%eth0
""".split()  # noqa: SIM905
REACHED = """
1.1.1.1 8.8.8.8 93.184.215.14 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 168.63.129.15 169.253.1.1 172.15.0.1
172.32.0.1 192.0.1.1 198.17.1.1 198.20.0.1 223.255.255.255
2001:4860:4860::8888 2606:4700::1111 2606:2800:21f:cb07:6820:80da:af6b:8b2c 2a00:1450:4001:800::200e 2001:200::1 3ffe::1
2a00:1450::5eff:a00:1
""".split()  # noqa: SIM905


@pytest.mark.parametrize("address", REFUSED)
def test_addresses_for_special_purposes_and_ways_round_to_them_are_refused(address):
    assert not fetch.is_public(address)


@pytest.mark.parametrize("address", REACHED)
def test_their_neighbours_are_not(address):
    assert fetch.is_public(address)


def test_every_refused_network_has_an_address_among_those_that_are_tried():
    tried = [ipaddress.ip_address(address) for address in REFUSED]
    for network in (*fetch.NOT_PUBLIC_IPV4, *fetch.NOT_PUBLIC_IPV6):
        assert any(address in network for address in tried), network


def test_nothing_is_reached_that_the_interpreter_calls_private():
    """Its list is another's, so that a slip in ours shows."""
    draw = random.Random(0)
    for _ in range(20_000):
        for address in (
            ipaddress.IPv4Address(draw.getrandbits(32)),
            ipaddress.IPv6Address(1 << 125 | draw.getrandbits(125)),
        ):
            assert address.is_global or not fetch.is_public(str(address))
