"""Photos by URL: from public addresses alone and within limits, so that nobody reads a private network through us.

A name is resolved once, and the addresses that were checked are the ones connected to; each redirect is checked anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import secrets
import shutil
import socket
import tempfile
import zlib
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import httpx

from background_remover import photos
from background_remover.encoding import safe_stem
from background_remover.kinds import TooLargeError, too_many_bytes
from utilities import PhotoError

MAX_REDIRECTS = 5
MAX_SECONDS = 30.0  # for all of a download
CONNECT_SECONDS = 5.0  # for one of a host's addresses, before the next is tried
CHUNK = 1 << 16  # bytes of a photo at once
# Photos are also served by what people run themselves, above 1023; below lie mail, shells and the like.
WEB_PORTS = {None, 80, 443, *range(1024, 65536)}
OWN = "/gradio_api/file="  # what comes before the path in the URL of a file that this server gave out
HEADERS = {"Accept": "image/*,*/*;q=0.5", "Accept-Encoding": "identity", "User-Agent": "background-remover"}

# IANA's registries of special-purpose addresses, written out, since the interpreter's own list is of its own age.
NOT_PUBLIC_IPV4 = [
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # a provider's own, behind its NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # a cloud's service for its own machines, among public ones
        "169.254.0.0/16",  # link-local, where clouds tell machines their secrets
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
]
# Whatever is outside this is none: loopback, private, link- and site-local, mapped and compatible IPv4, NAT64.
UNICAST_IPV6 = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC_IPV6 = [
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, which embeds IPv4, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4, which embeds IPv4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
]

NOT_PUBLIC = "This address is not a public one: send the photo itself instead."
NO_PHOTO = "No photo could be fetched from this address: check it, or send the photo itself."
DELETED = "This result has been deleted here since: make it again."


async def fetch(url: str, folder: str, *, max_bytes: int = photos.MAX_BYTES, into: Path | None = None) -> str:
    """The path in `folder`, or in `into`, of what an http or https URL holds, downloaded; at most `max_bytes`.

    `folder` is where the server keeps what it gives out: a URL of one of those files, under whatever name the
    server was called, is that file, and nothing is asked for.

    Raises PhotoError: no public address, nothing there, too large, too slow, deleted.
    """
    folder = str(Path(folder).resolve())
    target = Path(into or folder) / secrets.token_urlsafe(16) / safe_stem(unquote(url.partition("?")[0]))
    own = None
    try:
        own = _own_path(url, folder)
        if own and own.is_file():
            return str(own)
        async with asyncio.timeout(MAX_SECONDS):
            await _download(url, target, max_bytes)  # of another such server, or of this one, which has deleted it
    except PhotoError as error:
        raise PhotoError(DELETED) if own and error.args == (NOT_PUBLIC,) else error from None
    # a TimeoutError is an OSError
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError, zlib.error) as error:
        raise PhotoError(DELETED if own else NO_PHOTO) from error
    return str(target)


def fetch_now(url: str) -> bytes:
    """The bytes of a photo at a public address, for who has no event loop. Raises PhotoError, as `fetch` does."""
    with tempfile.TemporaryDirectory() as folder:
        return Path(asyncio.run(fetch(url, folder))).read_bytes()


def _own_path(url: str, folder: str) -> Path | None:
    """Where in `folder` the file lies, or lay, whose URL this server gave out. Nothing outside is looked up."""
    path = Path(os.path.normpath(unquote(re.split("[?#]", url.partition(OWN)[2])[0])))
    if not path.is_relative_to(folder):
        return None
    found = path.resolve()
    return found if found.is_relative_to(folder) else None


async def _download(url: str, target: Path, max_bytes: int) -> None:
    at = httpx.URL(url)
    timeout = httpx.Timeout(MAX_SECONDS, connect=CONNECT_SECONDS)
    async with httpx.AsyncClient(transport=PublicTransport(), headers=HEADERS, timeout=timeout) as client:
        for _ in range(MAX_REDIRECTS + 1):
            # not by the client's own redirects, for which it reads what comes with them to its end
            async with client.stream("GET", at, follow_redirects=False) as answer:
                if answer.has_redirect_location:
                    at = at.join(answer.headers["Location"])
                    continue
                answer.raise_for_status()
                return await _save(answer, target, max_bytes)
    raise PhotoError(NO_PHOTO)


async def _save(answer: httpx.Response, target: Path, max_bytes: int) -> None:
    _check_size(int(answer.headers.get("Content-Length", 0)), max_bytes)
    target.parent.mkdir(parents=True)
    try:
        with target.open("wb") as file:
            async for chunk in _content(answer, max_bytes):
                file.write(chunk)
    except BaseException:  # one is that whoever asked has gone
        shutil.rmtree(target.parent, ignore_errors=True)
        raise


async def _content(answer: httpx.Response, max_bytes: int) -> AsyncIterator[bytes]:
    """What an answer holds, uncompressed, in pieces of CHUNK bytes at most.

    No compression was asked for, but some stores keep and send files as gzip. httpx would unpack a whole piece of
    the network at once, one encoding inside another, and a few kilobytes can come to gigabytes so.
    """
    encoding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", "gzip", "x-gzip"):
        raise PhotoError(NO_PHOTO)
    unpacker = None if encoding == "identity" else zlib.decompressobj(16 + zlib.MAX_WBITS)
    received = unpacked = 0
    async for data in answer.aiter_raw(CHUNK):
        received += len(data)
        _check_size(received, max_bytes)
        while data:
            piece = unpacker.decompress(data, CHUNK) if unpacker else data
            data = unpacker.unconsumed_tail if unpacker else b""
            unpacked += len(piece)
            _check_size(unpacked, max_bytes)
            yield piece
    if unpacker and not unpacker.eof:
        raise PhotoError(NO_PHOTO)


def _check_size(count: int, max_bytes: int) -> None:
    if count > max_bytes:
        raise TooLargeError(too_many_bytes(max_bytes))


class PublicTransport(httpx.AsyncHTTPTransport):
    """Connects to public addresses alone, and to those that were checked, whatever the name turns into afterwards."""

    def __init__(self) -> None:
        # No connection is kept: it would be found again by its address, and may be another host's.
        super().__init__(limits=httpx.Limits(max_keepalive_connections=0))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As httpx asks for it. Raises PhotoError unless all addresses that the host has are public."""
        *others, last = await _addresses(request.url)
        # What the server is called, for its certificate; the header Host has it already.
        extensions = request.extensions | {"sni_hostname": request.url.raw_host.decode("ascii")}

        def at(address: str) -> httpx.Request:
            url = request.url.copy_with(host=address)
            return httpx.Request(request.method, url, headers=request.headers, extensions=extensions)

        for address in others:
            with suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await super().handle_async_request(at(address))
        return await super().handle_async_request(at(last))


async def _addresses(url: httpx.URL) -> list[str]:
    """The addresses that a URL's host has, in the system's order. Raises PhotoError unless all are public."""
    host = url.raw_host.decode("ascii")
    if url.scheme not in ("http", "https") or url.port not in WEB_PORTS or url.userinfo or not host or "%" in host:
        raise PhotoError(NO_PHOTO)
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    if not all(is_public(address) for address in addresses):
        raise PhotoError(NOT_PUBLIC)
    return addresses


def is_public(address: str) -> bool:
    """Whether an IP address is anybody's to reach, and no way round to one that is not."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv4Address):
        return not any(ip in network for network in NOT_PUBLIC_IPV4)
    embeds_ipv4 = int(ip) >> 32 & 0xFDFFFFFF == 0x5EFE  # ISATAP (RFC 5214), below any prefix
    return (
        not ip.scope_id
        and ip in UNICAST_IPV6
        and not embeds_ipv4
        and not any(ip in network for network in NOT_PUBLIC_IPV6)
    )
