"""Where results go: names that collide with nothing and lead nowhere else, and files that are whole or absent."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image

from background_remover.encoding import cut_name
from utilities import PhotoError

try:
    import fcntl
except ImportError:  # on Windows, where an open file can't be deleted anyway
    fcntl = None  # type: ignore[assignment]

ORIGIN = "user.cutout.origin"  # the extended attribute of a result that says what it was made of
PART = ".cutout-{}.part"  # the name of a file that is being written, with so many hexadecimal digits:
DIGITS = 16
LONGEST_NAME = 255  # bytes that file systems allow


@dataclass(frozen=True)
class Source:
    """A photo, and where its result belongs: beside it, at `home`, or `below` a folder for results."""

    photo: Path | str  # a path or a URL
    name: str  # its file name
    home: Path
    below: Path = Path()


class Task(NamedTuple):
    """A photo, and the path of its result."""

    photo: Path | str
    result: Path


def plan(sources: Iterable[Source], folder: Path | None, ending: str, suffix: str) -> list[Task]:
    """A result for each photo: in `folder`, under the photo's own name, or beside the photo with "-" and `ending`.

    Photos of one folder that differ in their extensions alone keep these in the names of their results, whichever of
    them are there, so that no later run takes the result of one for that of another; what still collides, on a file
    system that takes no notice of case as well, has a number. None is the path of a photo.
    """
    sources = list(sources)
    folders = [_folder_of(source, folder) for source in sources]
    stems = [Path(source.name).stem for source in sources]
    shared = Counter((_key(at), stem.casefold()) for at, stem in zip(folders, stems, strict=True))
    originals = {identity_of(source.photo) for source in sources} - {None}
    taken = {_key(source.photo) for source in sources if isinstance(source.photo, Path)}
    tasks = []
    for source, at, stem in zip(sources, folders, stems, strict=True):
        if shared[_key(at), stem.casefold()] > 1:
            stem = source.name
        is_home = _key(at) == _key(source.home) or identity_of(at) == identity_of(source.home) is not None
        beside = f"-{ending}" if is_home else ""
        number = 1
        while True:
            end = f"{beside}{'' if number == 1 else f'-{number}'}{suffix}"
            path = at / f"{cut_name(stem, LONGEST_NAME - len(end.encode()))}{end}"
            if _key(path) not in taken and identity_of(path) not in originals:
                break
            number += 1
        taken.add(_key(path))
        tasks.append(Task(source.photo, path))
    return tasks


def _folder_of(source: Source, folder: Path | None) -> Path:
    return source.home if folder is None else folder / source.below


def _key(path: Path) -> str:
    """The same for two paths that may be one file."""
    return unicodedata.normalize("NFC", os.path.normpath(path.absolute())).casefold()


def identity_of(path: Path | str) -> tuple[int, int] | None:
    """What tells a file from others whatever it is called, through links and case; None where there is none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def is_done(task: Task, origin: str = "") -> bool:
    """Whether the result is there, newer than its photo, whole, and of that `origin`, where one is known of it."""
    try:
        result, photo = task.result.stat(), Path(task.photo).stat()
    except (OSError, ValueError):
        return False
    is_file = stat.S_ISREG(result.st_mode)  # a pipe would be waited for
    if not is_file or result.st_mtime_ns < photo.st_mtime_ns or read_origin(task.result) not in ("", origin):
        return False
    return is_whole(task.result)


def origin_of(photo: Path | str, how: str) -> str:
    """What tells which photo a result is of, by its name, size and time, and how it was made; "" for a URL."""
    try:
        found = Path(photo).stat()
    except (OSError, ValueError):
        return ""
    said = f"{Path(photo).name}\n{found.st_size}\n{found.st_mtime_ns}\n{how}"
    return hashlib.sha256(said.encode(errors="surrogateescape")).hexdigest()


def read_origin(result: Path) -> str:
    """The origin that a result was given, "" if it has none, as where a file system keeps no such things."""
    try:
        return os.getxattr(result, ORIGIN).decode()
    except (AttributeError, OSError, ValueError):  # other systems than Linux have no getxattr
        return ""


def is_whole(path: Path) -> bool:
    """Whether a picture can be decoded to its end; of a PNG every part has its checksum, which is as good."""
    try:
        with Image.open(path) as image:
            image.verify() if image.format == "PNG" else image.load()
    except Exception:  # a decoder that is fed garbage raises anything
        return False
    return True


@contextmanager
def whole_file(path: Path, root: Path | None = None, origin: str = "") -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of `path` once that is done, and not at all if it fails.

    It is given the `origin`, if there is one. Its folder is made, within `root` wherever links lead.
    Raises PhotoError if it can't be written.
    """
    try:
        if root is not None and not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(root)):
            raise PhotoError(f"A link leads '{path.name}' out of the folder for results: remove the link.")
        path.parent.mkdir(parents=True, exist_ok=True)
        part, file = _begin(path.parent)
        try:
            with file:
                yield file
                file.flush()
                if origin:
                    with suppress(AttributeError, OSError):
                        os.setxattr(file.fileno(), ORIGIN, origin.encode())
                if fcntl:
                    part.replace(path)  # while it is locked, so that none takes it for a leftover
            if not fcntl:
                part.replace(path)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise PhotoError(f"'{path.name}' can't be written ({why}): check the folder for results.") from error


def _begin(folder: Path) -> tuple[Path, BinaryIO]:
    """A new file to write to, locked, which has not been taken for a leftover before it was. Raises OSError."""
    while True:
        part = folder / PART.format(secrets.token_hex(DIGITS // 2))
        file = part.open("xb")
        if fcntl:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink or not fcntl:
            return part, file
        file.close()


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Delete what runs that were killed have left in folders; what one that goes on is writing stays."""
    pattern = PART.format("[0-9a-f]" * DIGITS)
    for part in (part for folder in folders for part in folder.glob(pattern) if part.is_file()):
        with suppress(OSError), part.open("rb") as file:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()
        if not fcntl:
            with suppress(OSError):
                part.unlink()
