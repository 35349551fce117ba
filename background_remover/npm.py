"""Packages from npm, by the `npm` that is installed: nothing of them runs, and npm's own words are heard."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tqdm import tqdm

from background_remover.downloads import DISK_ERRORS, folder_size, wait

logger = logging.getLogger(__name__)

STALL_NOTICE = 10.0  # seconds without progress after which that is said
STALL_LIMIT = 120.0  # seconds without progress after which npm is given up
MAX_WORDS = 200  # characters of npm's own in an error
# A network that is not there is tried thrice in about 10 seconds; npm's own pauses add up to more than a minute.
OPTIONS = (
    "--ignore-scripts",
    "--loglevel=error",
    "--logs-max=0",
    "--no-update-notifier",
    "--fetch-retries=2",
    "--fetch-retry-mintimeout=2000",
    "--fetch-retry-maxtimeout=10000",
)


class NpmError(Exception):
    """npm did not do it: a clause that says why."""


def pack(package: str, folder: Path, byte_count: int) -> Path:
    """The .tgz of a package, "name@version", of about so many bytes, in an empty folder.

    A bar shows on a terminal how far it has come.

    Raises NpmError, and OSError if npm says that the disk is to blame.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise NpmError("npm is not installed")
    command = [npm, "pack", package, *OPTIONS, f"--cache={folder / 'npm'}"]
    try:
        with _running(command, folder) as (process, said):
            _wait(process, folder, package, byte_count)
    except TimeoutError:
        raise NpmError("npm made no progress") from None
    except OSError as error:
        raise NpmError(f"npm could not be started ({error.strerror})") from error
    if process.returncode:
        _raise_disk_error(said)
        raise NpmError(f"npm failed ({_last_words(said) or f'with exit status {process.returncode}'})")
    packed = next(folder.glob("*.tgz"), None)
    if packed is None:
        raise NpmError("npm left no package")
    return packed


@contextmanager
def _running(command: list[str], folder: Path) -> Iterator[tuple[subprocess.Popen[str], deque[str]]]:
    """The process and its last lines; whatever happens, it and what it started do not outlive this."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,  # no file: the disk may be full
        text=True,
        errors="replace",
        start_new_session=True,
    )
    said: deque[str] = deque(maxlen=50)
    errors = process.stderr
    assert errors is not None  # noqa: S101  # for mypy
    reader = threading.Thread(target=said.extend, args=(errors,), daemon=True)
    reader.start()
    try:
        yield process, said
    finally:
        if process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL) if os.name == "posix" else process.kill()
            process.wait()
        reader.join(1)
        if not reader.is_alive():  # else something that npm left running has the other end
            errors.close()


def _wait(process: subprocess.Popen[str], folder: Path, package: str, byte_count: int) -> None:
    def ended(seconds: float) -> bool:
        with suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        return process.returncode is not None

    # disable=None: on a terminal only, as the Hub's client does it
    with tqdm(desc=package, total=byte_count, unit="B", unit_scale=True, disable=None) as bar:

        def progress() -> int:
            size = folder_size(folder)
            bar.update(min(size, byte_count) - bar.n)
            return size

        told = False
        for seconds in wait(ended, progress, STALL_LIMIT):
            if seconds > STALL_NOTICE and not told:
                logger.warning("npm has made no progress for %.0f s: given up after %.0f s.", seconds, STALL_LIMIT)
            told = seconds > STALL_NOTICE


def _raise_disk_error(said: deque[str]) -> None:
    words = " ".join(said)
    code = getattr(errno, match[1], 0) if (match := re.search(r"\b(E[A-Z]+)\b", words)) else 0
    if code in DISK_ERRORS and "connect" not in words:
        raise OSError(code, os.strerror(code))


def _last_words(said: deque[str]) -> str:
    """What npm said last, without paths: its error's code and text, or the last line that says anything."""
    lines = [re.sub(r"^npm (error|ERR!)\s*", "", line).strip() for line in said]
    lines = [line for line in lines if line and "complete log of this run" not in line and "debug-0.log" not in line]
    code = next((number for number, line in enumerate(lines) if re.fullmatch(r"code \w+", line)), None)
    words = ": ".join(lines[-1:] if code is None else [lines[code].removeprefix("code "), *_text(lines[code + 1 :])])
    words = re.sub(r"(\w+://)(?:[^/\s]*@)?([^/\s]+)\S*", r"\1\2", words)  # of an address, the host
    words = re.sub(r"(?<![\w:/])(?:/|~/|[A-Za-z]:\\)[^\s'\"]*", "…", words)
    return words if len(words) <= MAX_WORDS else f"{words[:MAX_WORDS]}…"


def _text(lines: list[str]) -> list[str]:
    """The first line that is more than a number or the name of a system call."""
    return [line for line in lines if not re.fullmatch(r"(errno|syscall|path|dest|file) .*|\d*", line)][:1]
