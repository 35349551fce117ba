"""Photos by URL: from public addresses alone and within limits, so that nobody reads a private network through us.

A name is resolved once, and the address that was checked is the one connected to; each redirect is checked anew.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import shutil
import socket
from pathlib import Path
from urllib.parse import unquote, urljoin

import httpx
from safehttpx import AsyncSecureTransport

from background_remover import photos
from background_remover.encoding import safe_stem
from utilities import PhotoError

MAX_REDIRECTS = 5
MAX_SECONDS = 30.0  # for all of a download
OWN = "/gradio_api/file="  # what comes before the path in the URL of a file that this server gave out

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


async def fetch(url: str, folder: str) -> str:
    """The path in `folder` of what an http or https URL holds, downloaded; at most photos.MAX_BYTES.

    `folder` is where the server keeps what it gives out: a URL of one of those files, under whatever name the
    server was called, is that file, and nothing is asked for.

    Raises PhotoError: no public address, nothing there, too large, too slow.
    """
    folder = str(Path(folder).resolve())
    target = Path(folder) / secrets.token_urlsafe(16) / safe_stem(unquote(url.partition("?")[0]))
    try:
        if OWN in url:
            inside = Path(os.path.normpath(unquote(url.partition(OWN)[2])))  # nothing outside is looked up
            if inside.is_relative_to(folder) and inside.resolve().is_relative_to(folder) and inside.is_file():
                return str(inside.resolve())
        async with asyncio.timeout(MAX_SECONDS):
            await _download(url, target)
    except PhotoError:
        shutil.rmtree(target.parent, ignore_errors=True)
        raise
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # TimeoutError is an OSError
        shutil.rmtree(target.parent, ignore_errors=True)
        raise PhotoError(NO_PHOTO) from error
    return str(target)


async def _download(url: str, target: Path) -> None:
    for _ in range(MAX_REDIRECTS + 1):
        transport = AsyncSecureTransport(await _address(httpx.URL(url)))
        async with httpx.AsyncClient(transport=transport) as client, client.stream("GET", url) as answer:
            if answer.has_redirect_location:
                url = urljoin(url, answer.headers["Location"])
                continue
            answer.raise_for_status()
            count = 0
            target.parent.mkdir(parents=True)
            with target.open("wb") as file:
                async for chunk in answer.aiter_bytes():
                    count += len(chunk)
                    photos.check_bytes(count)
                    file.write(chunk)
            return
    raise PhotoError(NO_PHOTO)


async def _address(url: httpx.URL) -> str:
    """The address that a URL's host has. Raises PhotoError unless all that it has are public."""
    if url.scheme not in ("http", "https"):
        raise PhotoError(NO_PHOTO)
    found = await asyncio.get_running_loop().getaddrinfo(url.host, None, type=socket.SOCK_STREAM)
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    if not all(is_public(address) for address in addresses):
        raise PhotoError(NOT_PUBLIC)
    return addresses[0]


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
