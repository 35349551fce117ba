"""Where uploads and results lie, and for how long: one folder, which is swept by age and by size.

Each upload and each result has a folder of its own in it, under a name that nobody can guess, since whoever knows a
path there can read it.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from background_remover.encoding import safe_stem
from utilities import PhotoError

logger = logging.getLogger(__name__)

NAME = "background-remover"  # of the folder, so that nothing of others is ever swept
EXAMPLES = "examples"  # in it: copies of the example photos, which stay
ONCE = "once-"  # before the name of what is deleted after the first request that it is given to
LIFETIME = 3600.0  # seconds after its last use for which a file is kept; RMBG_KEEP_SECONDS
MAX_DISK = 2000.0  # megabytes, all files together; RMBG_MAX_DISK
LEAST = 100_000  # bytes for which an entry counts at least, so that their number is bounded as well
SPARE = 1 / 8  # of the disk's share: kept free before a request, for what it makes
SWEEPS = 1.0, 600.0  # seconds between two sweeps, at least and at most; half a lifetime otherwise
LONGEST = 600.0  # seconds after which a request that still runs, or was left, keeps no room for what it makes
CLOCK_TICK = 0.1  # seconds by which the time of a file can be behind the clock

NOT_HERE = "This file was not uploaded here: send the photo itself."
FULL = "This server's disk is full for now: try again in a few minutes."
Upload = str  # a path in the folder


class SettingError(ValueError):
    """An environment variable is not what it should be. One sentence: what is wrong and what to do."""


@dataclass(frozen=True)
class Entry:
    """One of the things that lie in the folder."""

    path: Path
    changed: float  # when it, or anything in it, was last written or used, in seconds since the epoch
    byte_count: int


class FileStore:
    """The folder's files. `lifetime` is in seconds, `max_bytes` what all of them may have before a request starts."""

    def __init__(self, folder: Path, lifetime: float = LIFETIME, max_bytes: float = MAX_DISK * 1e6) -> None:
        self.folder = folder.resolve()
        self.lifetime = lifetime
        self.max_bytes = max_bytes
        self._requests: dict[object, tuple[float, set[str]]] = {}  # those that run: since when, with which entries
        self._coming = 0  # bytes that are being received
        self._lock = threading.RLock()
        self._swept = 0.0

    # --- paths ---

    def admit(self, path: str) -> str:
        """The path that a client named, if it is that of a file in the folder, wherever links lead.

        Raises PhotoError, with the same words whether or not there is such a file. Nothing outside is even looked up,
        not on the way through "..", or one could tell what is there by whether the way led back.
        """
        with suppress(OSError, ValueError, RuntimeError):  # no such file, no path at all, links in a circle
            inside = Path(os.path.normpath(path))
            resolved = inside.resolve(strict=True) if inside.is_relative_to(self.folder) else inside
            if resolved.is_relative_to(self.folder) and resolved.is_file():
                return str(resolved)
        raise PhotoError(NOT_HERE)

    def new_folder(self, kind: str = "") -> Path:
        """An empty one that nobody can guess. One for a kind ONCE is deleted after the request that is given it."""
        return self._make_folder(kind + secrets.token_urlsafe(16))

    def new_file(self, upload: Upload, what: str, suffix: str = ".png") -> str:
        """A new file's path, named after the upload that it is made of."""
        stem = safe_stem(upload).removesuffix(f"-{what}")
        return str(self.new_folder() / f"{stem}-{what}{suffix}")

    def add_examples(self, photos: Iterable[Path]) -> list[str]:
        """Copies of the photos that stay, so that an example is an upload like any other."""
        folder, photos = self._make_folder(EXAMPLES), list(photos)
        for photo in photos:
            copy = folder / f".{photo.name}-{secrets.token_hex(4)}"
            shutil.copyfile(photo, copy)
            copy.replace(folder / photo.name)  # another process may be reading it
        return [str(folder / photo.name) for photo in photos]

    def _make_folder(self, name: str) -> Path:
        """One of that name in the folder, for the owner of this process alone."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder = self.folder / name
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    # --- time and space ---

    @contextmanager
    def request(self, *inputs: Any) -> Iterator[None]:
        """While it runs, what it was given and what it makes stay. Room is made before it starts."""
        used = {path for value in inputs for path in self._paths(value)}
        names = {path.relative_to(self.folder).parts[0] for path in used}
        token = object()
        with self._lock:
            self._requests[token] = time.time() - CLOCK_TICK, names
        try:
            for path in used:
                with suppress(OSError):  # deleted in between
                    os.utime(path)
            self.sweep(at_most_every=SWEEPS[0], room=self.max_bytes * SPARE)
            yield
        finally:
            with self._lock:
                del self._requests[token]
            for name in names:
                if name.startswith(ONCE):
                    remove(self.folder / name)

    @contextmanager
    def receiving(self, on_show: bool) -> Iterator[Callable[[int], None]]:
        """While something comes in, which stays: what is told of the next so many bytes of it, and makes room for them.

        `on_show` says that what came before them can be seen in the folder, and needs no more room. What makes room
        raises PhotoError if what is in use leaves none.
        """
        token, held = object(), 0

        def make_room(byte_count: int) -> None:
            nonlocal held
            with self._lock:
                before = held if on_show else 0
                room = self._coming - before + byte_count
                if self.sweep(room=room) + room > self.max_bytes:
                    raise PhotoError(FULL)
                self._coming += byte_count - before
                held += byte_count - before

        with self._lock:
            self._requests[token] = time.time() - CLOCK_TICK, set()
        try:
            yield make_room
        finally:
            with self._lock:
                del self._requests[token]
                self._coming -= held

    def sweep(self, at_most_every: float = 0.0, room: float = 0.0) -> int:
        """Delete what is older than the lifetime and, the oldest first, what is too much; nothing that is in use.

        Too much is what leaves less than `room` bytes. Gives how many bytes are left, 0 if it was done just before.
        """
        with self._lock:
            now = time.time()
            if now - self._swept < at_most_every:
                return 0
            self._swept = now
            in_use = {EXAMPLES}.union(*(names for _, names in self._requests.values()))
            recent = [started for started, _ in self._requests.values() if started > now - LONGEST]
            entries = sorted(self._entries(), key=lambda entry: entry.changed)
            total = sum(entry.byte_count for entry in entries)
            for entry in entries:
                if entry.path.name in in_use:
                    continue
                made_by_one = recent and entry.changed >= min(recent)
                if entry.changed < now - self.lifetime or (total + room > self.max_bytes and not made_by_one):
                    remove(entry.path)
                    total -= entry.byte_count
            return total

    def keep_sweeping(self, afterwards: Callable[[], None] = lambda: None) -> None:
        """Sweep now, for what a killed run left, and from time to time, in a thread that ends with the process."""
        pause = min(max(self.lifetime / 2, SWEEPS[0]), SWEEPS[1])

        def run() -> None:
            while True:
                try:
                    self.sweep()
                    afterwards()
                except Exception:  # whatever it is, the next sweep must come
                    logger.exception("The folder of uploads and results could not be swept")
                time.sleep(pause)

        threading.Thread(target=run, name="sweep", daemon=True).start()

    def _paths(self, value: Any) -> Iterator[Path]:
        """The paths in the folder that a handler's argument holds, whatever it is."""
        if isinstance(value, str) and value.startswith(f"{self.folder}{os.sep}"):
            with suppress(PhotoError):
                yield Path(self.admit(value))
        elif isinstance(value, dict):
            yield from self._paths([*value.values()])
        elif isinstance(value, list | tuple):
            for item in value:
                yield from self._paths(item)

    def _entries(self) -> Iterator[Entry]:
        for path in [*self.folder.iterdir()] if self.folder.is_dir() else ():
            changed, byte_count = 0.0, 0
            inside = (Path(at, name) for at, folders, files in walk(path) for name in (*folders, *files))
            for file in (path, *inside):
                try:
                    found = file.lstat()
                except OSError:  # deleted in between, by the request that it was of
                    continue
                changed, byte_count = max(changed, found.st_ctime), byte_count + found.st_size
            yield Entry(path, changed, max(byte_count, LEAST))


def walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """`os.walk`, which passes over what vanishes meanwhile; through a link not even where it is the start."""
    return iter(()) if path.is_symlink() else os.walk(path)


def remove(path: Path) -> None:
    """Delete a file, a link or a folder with all that is in it, as far as that is possible."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def write_zip(files: Iterable[str | Path], path: Path) -> str:
    """An archive of files, by their names alone and as they are, since pictures don't shrink any further."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in map(Path, files):
            archive.write(file, file.name)
    return str(path)


@functools.cache
def choose_folder() -> Path:
    """Ours in GRADIO_TEMP_DIR, or else this user's in the system's temporary folder; it is Gradio's from now on, too.

    Gradio reads the variable when it is imported and when a component is made, so call this before. It is always a
    folder below the one that was given, so that nothing else is ever swept, whatever that one is called.
    """
    given = os.environ.get("GRADIO_TEMP_DIR")
    user = f"-{os.getuid()}" if hasattr(os, "getuid") else ""
    folder = Path(given, NAME) if given else Path(tempfile.gettempdir(), NAME + user)
    os.environ["GRADIO_TEMP_DIR"] = str(folder.resolve())
    return folder.resolve()


@functools.cache
def file_store() -> FileStore:
    """The one of this process, as the environment has it. Raises SettingError."""
    folder = choose_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (folder / EXAMPLES).mkdir(exist_ok=True, mode=0o700)
        if hasattr(os, "getuid") and folder.stat().st_uid != os.getuid():
            raise PermissionError("the folder is another user's")
    except OSError as error:
        raise SettingError(f"No files can be kept in '{folder}': set GRADIO_TEMP_DIR to another folder.") from error
    return FileStore(
        folder, number_setting("RMBG_KEEP_SECONDS", LIFETIME), number_setting("RMBG_MAX_DISK", MAX_DISK) * 1e6
    )


def read_names(variable: str) -> list[str]:
    """The names in an environment variable, with commas between them."""
    return [name.strip() for name in os.environ.get(variable, "").split(",") if name.strip()]


def number_setting(variable: str, default: float) -> float:
    """The number in an environment variable. Raises SettingError unless it is above 0."""
    try:
        number = float(os.environ.get(variable) or default)
    except ValueError:
        number = -1
    if not 0 < number < float("inf"):
        raise SettingError(f"{variable} is not a number above 0: set it to one, or leave it unset.")
    return number
