"""Photos by URL, from a real server on the loopback, one address of which is taken for a public one."""

import asyncio
import ipaddress
import random
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from helpers import PERSON, run_async, serving

from background_remover import fetch, photos
from utilities import PhotoError

PUBLIC, PRIVATE = "127.0.0.1", "127.0.0.2"


@pytest.fixture
def server(monkeypatch):
    """Its port, and the host and path of each request; it can be reached at both addresses."""
    monkeypatch.setattr(fetch, "is_public", lambda address: address == PUBLIC)
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.headers["Host"].partition(":")[0], self.path))
            kind, _, rest = self.path[1:].partition("/")
            self.send_response({"to": 302, "gone": 404}.get(kind, 200))
            if kind == "to":
                self.send_header("Location", rest)
            self.end_headers()
            if kind == "photo":
                self.wfile.write(PERSON.read_bytes())
            while kind in ("endless", "slow"):
                try:
                    self.wfile.write(bytes(1000))
                except OSError:
                    return
                time.sleep(0.2 if kind == "slow" else 0)

    with serving(Handler) as port:
        yield port, asked


def get(url: str, folder: Path) -> Path:
    return Path(run_async(fetch.fetch(url, str(folder))))


def test_a_photo_comes_with_its_name(server, tmp_path):
    port, _ = server
    path = get(f"http://{PUBLIC}:{port}/photo/A%20cat..jpg?size=2", tmp_path)
    assert path.read_bytes() == PERSON.read_bytes()
    assert path.is_relative_to(tmp_path)
    assert path.name == "A-cat"


def test_redirects_are_followed_where_they_lead_to_public_addresses(server, tmp_path):
    port, _ = server
    for target in ("/photo/a.jpg", f"http://{PUBLIC}:{port}/photo/a.jpg"):
        assert get(f"http://{PUBLIC}:{port}/to/{target}", tmp_path).read_bytes() == PERSON.read_bytes()


@pytest.mark.parametrize("target", ["http://{}:{}/photo/a.jpg", "//{}:{}/photo/a.jpg", "https://{}:{}/"])
def test_a_redirect_to_a_private_address_is_not_followed(server, tmp_path, target):
    port, asked = server
    with pytest.raises(PhotoError, match="not a public one"):
        get(f"http://{PUBLIC}:{port}/to/{target.format(PRIVATE, port)}", tmp_path)
    assert {host for host, _ in asked} == {PUBLIC}
    assert [*tmp_path.iterdir()] == []


def test_a_name_that_has_a_private_address_too_is_refused(server, tmp_path, monkeypatch):
    port, asked = server

    async def resolve(*_: object, **__: object) -> list[tuple]:
        return [(2, 1, 6, "", (address, 0)) for address in (PUBLIC, PRIVATE)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    with pytest.raises(PhotoError, match="not a public one"):
        get(f"http://photos.example:{port}/photo/a.jpg", tmp_path)
    assert asked == []


def test_the_address_that_was_checked_is_the_one_connected_to(server, tmp_path, monkeypatch):
    """A name that turns private between the check and the connection, as in DNS rebinding, gains nothing."""
    port, asked = server
    answers = iter([PUBLIC, PRIVATE, PRIVATE])

    async def resolve(_: object, host: str, *__: object, **___: object) -> list[tuple]:
        return [(2, 1, 6, "", (next(answers) if host == "photos.example" else host, port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    assert get(f"http://photos.example:{port}/photo/a.jpg", tmp_path).read_bytes() == PERSON.read_bytes()
    assert asked == [("photos.example", "/photo/a.jpg")]
    assert next(answers) == PRIVATE


@pytest.mark.parametrize(
    "path", ["/gone", "/to/file:///etc/passwd", "/to//to//to//to//to//to//photo/a.jpg", "/to/http://"]
)
def test_what_is_no_photo_on_the_web_is_told(server, tmp_path, path):
    port, _ = server
    with pytest.raises(PhotoError, match="No photo could be fetched"):
        get(f"http://{PUBLIC}:{port}{path}", tmp_path)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "url",
    [
        "http://a.invalid/a.jpg",
        "http://",
        "http://[::1/",
        "ftp://127.0.0.1/a",
        f"http://a.invalid{fetch.OWN}\0",
        f"http://a.invalid{fetch.OWN}{'a' * 999}",
    ],
)
def test_what_is_no_address_is_told(server, tmp_path, url):
    with pytest.raises(PhotoError, match="No photo could be fetched"):
        get(url, tmp_path)


def test_a_download_ends_at_the_limits_of_size_and_time(server, tmp_path, monkeypatch):
    port, _ = server
    monkeypatch.setattr(photos, "MAX_BYTES", 5_000_000)
    with pytest.raises(PhotoError, match="more than 5 MB"):
        get(f"http://{PUBLIC}:{port}/endless", tmp_path)
    monkeypatch.setattr(fetch, "MAX_SECONDS", 0.5)
    with pytest.raises(PhotoError, match="No photo could be fetched"):
        get(f"http://{PUBLIC}:{port}/slow", tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_file_that_the_server_gave_out_is_not_asked_for_again(server, tmp_path):
    port, asked = server
    (tmp_path / "cache" / "secret").mkdir(parents=True)
    for name in ("cache/secret/a b.png", "outside.png"):
        (tmp_path / name).write_bytes(b"mine")
    inside = str(tmp_path / "cache" / "secret" / "a b.png")
    for quoted in (inside, inside.replace(" ", "%20")):
        assert get(f"http://{PRIVATE}:{port}/tools/gradio_api/file={quoted}", tmp_path / "cache") == Path(inside)
    for outside in (tmp_path / "outside.png", tmp_path / "cache" / "..%2Foutside.png", "/etc/passwd"):
        with pytest.raises(PhotoError, match="not a public one"):
            get(f"http://{PRIVATE}:{port}/gradio_api/file={outside}", tmp_path / "cache")
    assert asked == []


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
