"""What all downloads of weights share: their errors, their hash, one at a time, and patience that has an end."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

BUFFER = 8 << 20  # bytes hashed at a time: between them another thread may hold Python's lock for milliseconds
LONGEST = 3600.0  # seconds after which it is given up anyhow: a file of weights at 50 kB/s

# What an operating system says where a disk or a folder is to blame, and not a network.
DISK_ERRORS = {
    getattr(errno, name)
    for name in (
        *("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EIO"),  # no room, or none to write to
        *("EACCES", "EPERM", "ENOTDIR", "EISDIR", "EEXIST", "ELOOP", "ENAMETOOLONG"),  # no folder that could be ours
    )
    if hasattr(errno, name)
}


class WeightsError(RuntimeError):
    """The weights can't be had or are not what they should be. One sentence: what is wrong and what to do."""


class UnavailableError(WeightsError):
    """The weights can't be had, and it is not their fault. `reason` is a clause, `advice` an imperative."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"The weights can't be had, because {reason}: {advice}.")
        self.reason = reason
        self.advice = advice


class DiskError(UnavailableError):
    """The folder that weights are cached in does not take them, or does not give them."""

    def __init__(self, folder: str | os.PathLike[str], variable: str, error: OSError) -> None:
        super().__init__(
            f"their cache can't be used ({error.strerror or type(error).__name__})",
            f"make '{os.fspath(folder)}' a folder with some space that may be written to, or set {variable} to another",
        )


def sha256(path: Path) -> str:
    """The file's sha256, in hex."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(BUFFER))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def disk_error(error: BaseException) -> OSError | None:
    """The error as the operating system's, if it is one of DISK_ERRORS, or tells of one."""
    code = (error.errno if isinstance(error, OSError) else None) or 0
    if not code and (in_rust := re.search(r"os error (\d+)", str(error))):  # as the Hub's newer transfers report it
        code = int(in_rust[1])
    return OSError(code, os.strerror(code)) if code in DISK_ERRORS else None


def folder_size(folder: Path) -> int:
    """The bytes of all files in a folder, however deep."""
    total = 0
    for at, _, files in os.walk(folder):
        for file in files:
            try:
                total += Path(at, file).lstat().st_size
            except OSError:  # moved in between
                continue
    return total


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """While this runs, no other process is in here with the same path. Raises OSError if the path can't be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        logger.info("Another process is fetching the weights: waiting for it.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def wait(ended: Callable[[float], bool], progress: Callable[[], object], limit: float) -> Iterator[float]:
    """Wait for a download to end; gives time and again for how many seconds it has made no progress.

    `ended` waits so many seconds at most for the end and says whether it came. `progress` is another value whenever
    the download has moved on.

    Raises TimeoutError after `limit` seconds without progress, and after LONGEST seconds.
    """
    started = moved = time.monotonic()
    last = progress()
    while not ended(0.2):
        seen, now = progress(), time.monotonic()
        if seen != last:
            last, moved = seen, now
        if now - moved > limit or now - started > LONGEST:
            raise TimeoutError
        yield now - moved
