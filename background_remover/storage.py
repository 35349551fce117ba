"""Files on a disk or in a bucket, by one name; what is written there appears whole or not at all.

A name is a path, or `scheme://place/key`, as in "s3://bucket/photos/a.jpg"; keys are taken as they are, nothing in them
is decoded. What a scheme needs to know (keys, regions, addresses) comes from its own environment variables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from pyarrow import ArrowException, fs

from background_remover.outputs import whole_file
from background_remover.photos import MAX_BYTES, check_bytes, read_path
from utilities import PhotoError

SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]+)://([^/]*)/?(.*)", re.DOTALL)


class Entry(NamedTuple):
    """A file: its path below what was listed, how many bytes it has, and what changes whenever it does."""

    path: str
    size: int
    version: str


def is_remote(name: str) -> bool:
    """Whether a name is that of something elsewhere, and no path of this machine."""
    return bool(SCHEME.match(name))


def is_web(name: str) -> bool:
    """Whether a name is a URL of the web, which can be fetched but not listed."""
    return name.lower().startswith(("http://", "https://"))


def local_path(name: str) -> str:
    """The path of a name that may be a file: URL."""
    return unquote(urlsplit(name).path, errors="surrogateescape") if name.lower().startswith("file://") else name


def join(folder: str, *parts: str) -> str:
    """The name of what lies in a folder."""
    return "/".join([folder.rstrip("/") or folder, *parts])


def version_of(size: int, time: int | None) -> str:
    """What tells a file from a later one of that name, by its bytes and its nanoseconds; "" if nothing is known."""
    return "" if time is None else f"{size}-{time}"


def locate(name: str) -> tuple[fs.FileSystem, str]:
    """The file system of a name, and the path in it. Raises PhotoError if it can't be had."""
    parts = SCHEME.match(name)
    if not parts:
        return fs.LocalFileSystem(), os.path.abspath(name)  # noqa: PTH100
    system, place = _system(parts[1].lower(), parts[2])
    return system, f"{place.rstrip('/')}/{parts[3]}" if parts[3] else place


@lru_cache(maxsize=64)
def _system(scheme: str, place: str) -> tuple[fs.FileSystem, str]:
    """Arrow's own file system for a scheme, else fsspec's."""
    root = f"{scheme}://{place}"
    try:
        return fs.FileSystem.from_uri(root)  # type: ignore[no-any-return]
    except (ArrowException, OSError, ValueError):
        pass
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(root)
    except Exception as error:  # of packages that nobody here knows
        raise PhotoError(f"'{root}' can't be reached ({_why(error)}): check the name, and its package.") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def kind_of(name: str) -> str:
    """What there is: "file", "folder" or "" for nothing. Raises PhotoError if that can't be told."""
    if not is_remote(name):
        return "folder" if os.path.isdir(name) else "file" if os.path.exists(name) else ""  # noqa: PTH110, PTH112
    system, path = locate(name)
    info = _do(name, lambda: system.get_file_info(path))
    if info.type == fs.FileType.NotFound and path.count("/") == 0:
        raise PhotoError(f"There is no '{name}', or it may not be looked into: check its name and your keys.")
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(info.type, "")


def entries(folder: str) -> Iterator[Entry]:
    """All files below a folder, in order, but for those in hidden ones. Raises PhotoError."""
    if not is_remote(folder):
        yield from _local_entries(folder)
        return
    system, path = locate(folder)
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    start = len(path.rstrip("/")) + 1
    found = _do(folder, lambda: system.get_file_info(selector))
    found.sort(key=lambda info: info.path)
    for info in found:
        if info.type == fs.FileType.File and not re.search(r"(^|/)\.", info.path[start:]):
            yield Entry(info.path[start:], info.size or 0, version_of(info.size or 0, info.mtime_ns))


def _local_entries(top: str) -> Iterator[Entry]:
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(name for name in names if not name.startswith(".")):
            path = os.path.join(folder, name)  # noqa: PTH118
            with suppress(OSError):
                found = os.stat(path)  # noqa: PTH116
                below = os.path.relpath(path, top)
                yield Entry(below, found.st_size, version_of(found.st_size, found.st_mtime_ns))


def names_in(folder: str) -> list[str]:
    """The names of the files right in a folder, which may not be there. Raises PhotoError."""
    system, path = locate(folder)
    found = _do(folder, lambda: system.get_file_info(fs.FileSelector(path, allow_not_found=True)))
    return sorted(info.base_name for info in found if info.type == fs.FileType.File)


def read(name: str, offset: int = 0, size: int | None = None) -> bytes:
    """The bytes of a file, or so many of them from an offset on. Raises PhotoError, also where they are too many."""
    if is_web(name):
        from background_remover.fetch import fetch_now

        return fetch_now(name)
    if not is_remote(name) and size is None:
        return read_path(Path(name), MAX_BYTES)
    system, path = locate(name)

    def get() -> bytes:
        with system.open_input_file(path) as file:
            count = file.size() if size is None else size
            check_bytes(count)
            return bytes(file.read_at(count, offset))

    return _do(name, get)  # type: ignore[no-any-return]


def write(name: str, data: bytes, root: str | None = None, origin: str = "") -> None:
    """A file, whole or not at all; one on a disk within `root`, and with an `origin`. Raises PhotoError."""
    if not is_remote(name):
        with whole_file(Path(name), Path(root) if root else None, origin) as target:
            target.write(data)
        return
    system, path = locate(name)

    def put() -> None:
        with system.open_output_stream(path) as target:  # an object is there when this ends, and not before
            target.write(data)

    _do(name, put)


def remove(name: str) -> None:
    """Delete a file, if it is there. Raises PhotoError."""
    system, path = locate(name)
    _do(name, lambda: system.delete_file(path) if system.get_file_info(path).type == fs.FileType.File else None)


def open_file(name: str) -> Any:
    """A file for those who read here and there in it. Raises PhotoError."""
    system, path = locate(name)
    return _do(name, lambda: system.open_input_file(path))


def _do(name: str, work: Any) -> Any:
    """What `work` gives; what a file system raises becomes a sentence."""
    short = name.rstrip("/").rpartition("/")[2] or name
    try:
        return work()
    except PhotoError:
        raise
    except FileNotFoundError as error:
        raise PhotoError(f"There is no file '{short}': check the path.") from error
    except Exception as error:  # file systems of others raise what they like
        raise PhotoError(f"'{short}' can't be had ({_why(error)}): check it, and the keys for it.") from error


def _why(error: Exception) -> str:
    """A reason in a few words, without what a file system adds of its own."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    text = " ".join(str(error).split())
    code = re.search(r"AWS Error (\w+)|HTTP response code (\d+)", text)
    return (code[1] or code[2]).replace("_", " ").lower() if code else type(error).__name__
