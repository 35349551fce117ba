"""Which photos are meant by what was named, and whether one that arrives has come whole."""

from __future__ import annotations

import errno
import glob
import os
import re
import signal
import stat
import time
from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from urllib.parse import unquote

from background_remover.encoding import cut_name, safe_stem
from background_remover.outputs import LONGEST_NAME, Source

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

# What is a photo in a folder; a file that is named itself is opened whatever it is called.
EXTENSIONS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".heic", ".heif", ".hif", ".avif"),
    *(".gif", ".bmp", ".dib", ".tif", ".tiff"),
}
RESULT = re.compile(r"(.+)(-(cutout|matte)(-\d+)?\.\w+)", re.DOTALL)  # the name of one that lies beside its photo
SETTLED = 2.0  # seconds for which a file has not changed when it counts as whole


def find(names: Iterable[str], results: Path | None) -> list[Source]:
    """The photos that are named, those in folders and those that fit patterns; none twice.

    None of them lies below `results`, and none is the result of another by its name, as from earlier runs.
    """
    found: dict[tuple[str, str], Source] = {}
    for source in (source for name in names for source in _find_named(name, results)):
        # A folder may be called by several names; of the files in it, a link is one of its own.
        folder = os.path.realpath(source.photo.parent) if isinstance(source.photo, Path) else source.photo
        found.setdefault((folder, source.name), source)
    files: dict[str, set[str]] = {}
    for folder, name in found:
        files.setdefault(folder, set()).add(name)
    made = {folder: _results_among(names) for folder, names in files.items()}
    return [source for (folder, name), source in found.items() if name not in made[folder]]


def _results_among(names: set[str]) -> set[str]:
    """Those of the names in a folder that are of results, which lie beside their photos."""
    stems = names | {Path(name).stem for name in names}
    long = [stem for stem in stems if len(stem) > LONGEST_NAME // 5]
    shortened: dict[int, set[str]] = {}  # by the bytes that are left for them, so that many names take no longer each
    results = set()
    for name in names:
        parts = RESULT.fullmatch(name)
        if not parts:
            continue
        most = LONGEST_NAME - len(parts[2].encode(errors="surrogateescape"))
        if parts[1] not in stems and most not in shortened and len(name) > LONGEST_NAME // 5:
            shortened[most] = {cut_name(stem, most) for stem in long}
        if parts[1] in stems or parts[1] in shortened.get(most, ()):
            results.add(name)
    return results


def _find_named(name: str, results: Path | None) -> Iterator[Source]:
    if re.match("https?://", name, re.IGNORECASE):
        yield Source(name, safe_stem(unquote(name.partition("?")[0])) + ".url", Path())
        return
    # Those of `os.path` raise nothing for what is too long or may not be looked at.
    fitting = [] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))  # noqa: PTH110, PTH207
    for path in fitting or [name]:
        if os.path.isdir(path):  # noqa: PTH112
            yield from _find_in(Path(path), results)
        else:
            yield Source(Path(path), Path(path).name, Path(path).parent)


def _find_in(top: Path, results: Path | None) -> Iterator[Source]:
    """The photos below a folder, in order, but for hidden ones.

    A folder that can't be read is one of them, so that it fails with its reason.
    """
    for folder, names in walk(top, results):
        for name in names:
            below = folder.relative_to(top) if folder.is_relative_to(top) else Path()
            yield Source(folder / name, name, folder, below)


def walk(top: Path, results: Path | None, extensions: Container[str] = EXTENSIONS) -> Iterator[tuple[Path, list[str]]]:
    """The folders below one, in order, each with the names of its files of these extensions, but for hidden ones.

    What lies below `results` is left out. A folder that can't be read comes last, as a name in the one above it.
    """
    unreadable: list[Path] = []
    skipped = os.path.realpath(results) if results else ""
    if skipped == os.path.realpath(top):
        skipped = ""
    for at, folders, files in os.walk(top, onerror=lambda error: unreadable.append(Path(str(error.filename)))):
        folder = Path(at)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.realpath(folder / name) != skipped
        )
        names = sorted(name for name in files if not name.startswith("."))
        yield folder, [name for name in names if os.path.splitext(name)[1].lower() in extensions]  # noqa: PTH122
    for folder in unreadable:
        yield folder.parent, [folder.name]


def without_results(names: list[str]) -> list[str]:
    """The names in a folder but for those of results that lie beside their photos."""
    results = _results_among(set(names))
    return [name for name in names if name not in results]


class Settled:
    """Which files have stopped changing."""

    def __init__(self) -> None:
        self._seen: dict[Path | str, tuple[tuple[int, int], float]] = {}
        if hasattr(signal, "SIGIO"):
            signal.signal(signal.SIGIO, signal.SIG_IGN)  # told of a lease, see `is_being_written`

    def state_of(self, photo: Path | str) -> tuple[int, int] | None:
        """Its size and time of change, if it has had them for SETTLED seconds and nobody is writing to it."""
        if isinstance(photo, str):
            return 0, 0  # a URL, which is there or not
        try:
            found = photo.stat()
        except OSError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        state, now = (found.st_size, found.st_mtime_ns), time.monotonic()
        before, since = self._seen.get(photo, (None, now))
        if before != state:
            self._seen[photo] = state, now
            return None
        return None if now - since < SETTLED or is_being_written(photo) else state


def is_being_written(path: Path) -> bool:
    """Whether a process has the file open for writing, where the system tells: Linux gives no lease on it then."""
    try:
        with path.open("rb") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    except AttributeError:  # of another system
        return False
    return False
