"""Files on a disk or in a bucket, by one name; what is written there appears whole or not at all.

A name is a path, or `scheme://place/key`, as in "s3://bucket/photos/a.jpg"; keys are taken as they are, nothing in them
is decoded. What a scheme needs to know (keys, regions, addresses) comes from its own environment variables.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import unquote

from pyarrow import ArrowException, ArrowInvalid, fs, memory_map

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
    if not name.lower().startswith("file://"):
        return name
    return "/" + unquote(name[len("file://") :].partition("/")[2], errors="surrogateescape")


def absolute(name: str) -> str:
    """The same name for whoever is in another folder."""
    name = local_path(name)
    return name if is_remote(name) else os.path.abspath(name)  # noqa: PTH100


def printable(path: str) -> str:
    """A path as text that no other has: bytes of a name that are none are written out, and "\\" is doubled."""
    return path.replace("\\", "\\\\").encode(errors="surrogateescape").decode(errors="backslashreplace")


def join(folder: str, *parts: str) -> str:
    """The name of what lies in a folder."""
    return "/".join([re.sub(r"(?<![:/])/+\Z", "", folder or "."), *parts])


def version_of(size: int, time: int | None) -> str:
    """What tells a file from a later one of that name, by its bytes and its nanoseconds; "" if nothing is known."""
    return "" if time is None else f"{size}-{time}"


def locate(name: str) -> tuple[fs.FileSystem, str]:
    """The file system of a name, and the path in it. Raises PhotoError if it can't be had."""
    name = local_path(name)
    parts = SCHEME.match(name)
    if not parts:
        return fs.LocalFileSystem(), os.path.abspath(name)  # noqa: PTH100
    system, place = _system(parts[1].lower(), parts[2])
    if parts[3].startswith("/") or "//" in parts[3]:  # which Arrow does not take
        raise PhotoError(f"'{parts[3].rpartition('/')[2]}' has a key with nothing between two '/': rename it.")
    return system, f"{place.rstrip('/')}/{parts[3]}" if parts[3] else place


@lru_cache(maxsize=64)
def _system(scheme: str, place: str) -> tuple[fs.FileSystem, str]:
    """Arrow's own file system for a scheme, else fsspec's."""
    root = f"{scheme}://{place}"
    try:
        return fs.FileSystem.from_uri(root)  # type: ignore[no-any-return]
    except ArrowInvalid:  # it knows no such scheme
        pass
    except (ArrowException, OSError) as error:
        raise PhotoError(f"'{root}' can't be reached ({_why(error)}): check the name, and your keys.") from error
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(root)
    except Exception as error:  # of packages that nobody here knows
        raise PhotoError(f"'{root}' can't be reached ({_why(error)}): check the name, and its package.") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def kind_of(name: str) -> str:
    """What there is: "file", "folder" or "" for nothing. Raises PhotoError if that can't be told."""
    name = local_path(name)
    if not is_remote(name):
        # a pipe or a device is neither, and would be waited for
        return "folder" if os.path.isdir(name) else "file" if os.path.isfile(name) else ""  # noqa: PTH112, PTH113
    system, path = locate(name)
    info = _do(name, lambda: system.get_file_info(path))
    if info.type == fs.FileType.NotFound and path.count("/") == 0:
        raise PhotoError(f"There is no '{name}', or it may not be looked into: check its name and your keys.")
    return {fs.FileType.File: "file", fs.FileType.Directory: "folder"}.get(info.type, "")


def look_at(name: str) -> tuple[int, str]:
    """The bytes and the version of a file, -1 and "" of one that can't be looked at."""
    name = local_path(name)
    if is_remote(name):
        system, path = locate(name)
        info = _do(name, lambda: system.get_file_info(path))
        return -1 if info.size is None else info.size, version_of(info.size or 0, info.mtime_ns)
    try:
        found = os.stat(name)  # noqa: PTH116  # a million times
    except (OSError, ValueError):
        return -1, ""
    return found.st_size, version_of(found.st_size, found.st_mtime_ns)


def entries(folder: str) -> Iterator[Entry]:
    """All files below a folder, in order, but for hidden ones and those in hidden ones. Raises PhotoError."""
    if not is_remote(folder):
        yield from _local_entries(folder)
        return
    system, path = locate(folder)
    selector = fs.FileSelector(path, recursive=True, allow_not_found=True)
    start = len(path.rstrip("/")) + 1
    found = _do(folder, lambda: system.get_file_info(selector))
    found.sort(key=lambda info: info.path, reverse=True)
    while found:
        info = found.pop()  # there may be millions, which need not stay
        if info.type == fs.FileType.File and not re.search(r"(^|/)\.", info.path[start:]):
            yield Entry(info.path[start:], info.size or 0, version_of(info.size or 0, info.mtime_ns))


def _local_entries(top: str) -> Iterator[Entry]:
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(folder, top)
        for name in sorted(name for name in names if not name.startswith(".")):
            with suppress(OSError):
                found = os.stat(f"{folder}/{name}")  # noqa: PTH116
                if stat.S_ISREG(found.st_mode):
                    path = printable(name if below == "." else f"{below}/{name}")
                    yield Entry(path, found.st_size, version_of(found.st_size, found.st_mtime_ns))


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
    path = local_path(name)
    if not is_remote(path) and size is None:
        try:
            return read_path(Path(path), MAX_BYTES)
        except PhotoError as error:  # its sentence has the name, which need not be text
            raise PhotoError(printable(str(error))) from error
    system, path = locate(name)

    def get() -> bytes:
        with system.open_input_file(path) as file:
            count = file.size() if size is None else size
            check_bytes(count)
            return bytes(file.read_at(count, offset))

    return _do(name, get)  # type: ignore[no-any-return]


def write(name: str, data: Any, root: str | None = None, origin: str = "") -> None:
    """A file of some bytes, whole or not at all; on a disk within `root`, and with an `origin`. Raises PhotoError."""
    if not is_remote(name):
        with whole_file(Path(name), Path(root) if root else None, origin) as target:
            target.write(data)
        return
    system, path = locate(name)

    def put() -> None:
        with system.open_output_stream(path) as target:  # an object is there when this ends, and not before
            target.write(data)

    def put_in_folder() -> None:
        try:
            put()
        except FileNotFoundError:  # of what has folders, as sftp
            system.create_dir(path.rpartition("/")[0])
            put()

    _do(name, put_in_folder)


@contextmanager
def writing(name: str, root: str | None = None) -> Iterator[BinaryIO]:
    """A file to write more to than should be in memory, whole or not at all, within `root`. Raises PhotoError."""
    if not is_remote(name):
        with whole_file(Path(name), Path(root) if root else None) as target:
            yield target
        return
    # first here, since a stream that is left halfway would end as an object
    try:
        with tempfile.NamedTemporaryFile() as file:
            yield file  # type: ignore[misc]
            file.flush()
            with memory_map(file.name) as mapped:
                write(name, mapped.read_buffer())
    except OSError as error:
        raise PhotoError(f"There is no room for a temporary file ({_why(error)}): free some.") from error


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
    short = printable(name.rstrip("/").rpartition("/")[2] or name)
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
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)  # Arrow's own has a path in it
    text = " ".join(str(error).split())
    code = re.search(r"AWS Error (\w+)|HTTP response code (\d+)", text)
    return (code[1] or code[2]).replace("_", " ").lower() if code else type(error).__name__
