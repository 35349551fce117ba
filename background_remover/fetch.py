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
    tunnels = isinstance(ip, ipaddress.IPv6Address) and ip.sixtofour is not None
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or tunnels)
