"""The tab for several photos: what its page, `tiles.js`, sends, what becomes of each photo, and all of them as a zip.

The page has the list of photos, not the server: it names those that are to be worked on and is told, one by one, what
became of them. What it keeps of each is what it needs for the next change: the photo, its matte, its preview.
"""

from __future__ import annotations

import csv
import io
import logging
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from background_remover.cutout import Cutout, Finish
from background_remover.encoding import safe_stem
from background_remover.page.bodies import MAX_FILES
from background_remover.page.editing import outlines
from background_remover.page.files import Upload, file_store
from background_remover.page.pictures import (
    PREVIEW,
    THUMBNAIL,
    framed,
    save_matte,
    save_preview,
)
from background_remover.page.state import Work, read_state
from background_remover.page.strokes import Stroke, paint
from background_remover.page.turns import BatchTurns, check_finish, open_finish, page_turn, turn
from background_remover.photos import PhotoSource
from utilities import PhotoError

logger = logging.getLogger(__name__)

Outcome = dict[str, Any]  # as the page reads it
Remover = Callable[..., Cutout]

LONGEST_NAME = 255  # characters of a photo's name that come from the page,
LONGEST_REASON = 500  # and of a reason
OUTCOMES = ("cut out", "no subject", "failed", "not done")  # the words of a report
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how cells begin that spreadsheets run

UNREADABLE = "What the page sent can't be read: reload it, and choose the photos again."
NO_PHOTOS = "There are no photos yet: choose some first."
TOO_MANY = f"These are more than {MAX_FILES} photos: take away some of them."
GONE = "This photo has since been deleted here: try it again."
NO_SUBJECT = "Nothing in this photo stands out as the subject: open it, and paint it in with 'Touch up'."
WRONG = "Something went wrong with this photo: try it again on its own."


class Tile(NamedTuple):
    """One of the photos."""

    number: int  # the page's
    photo: Upload = ""  # empty if it is no longer here
    work: Work | None = None  # of an earlier run: then only the look is made anew
    strokes: tuple[Stroke, ...] = ()
    refine: bool = True


class Task(NamedTuple):
    """Photos that are to be worked on; `run` is the page's number for that."""

    run: int
    tiles: tuple[Tile, ...]


# --- what the page sends, which anybody else can send as well ---


def read_task(sent: Any) -> Task:
    """A task in what a page sent: {run, tiles: [{id, photo} or {id, work, strokes, refine}, ...]}.

    Raises PhotoError.
    """
    return Task(read_run(sent), tuple(map(read_tile, read_list(sent))))


def read_run(sent: Any) -> int:
    """The number of a task, 0 if it is none."""
    return read_number(sent.get("run")) if isinstance(sent, dict) else 0


def read_number(value: Any) -> int:
    """A number of the page's, 0 for what is none."""
    return value if isinstance(value, int) and abs(value) < 2**53 else 0


def read_list(sent: Any) -> list[dict[str, Any]]:
    """The tiles of what a page sent. Raises PhotoError."""
    tiles = sent.get("tiles") if isinstance(sent, dict) else None
    if not tiles:
        raise PhotoError(NO_PHOTOS)
    if not isinstance(tiles, list) or not all(isinstance(tile, dict) for tile in tiles):
        raise PhotoError(UNREADABLE)
    if len(tiles) > MAX_FILES:
        raise PhotoError(TOO_MANY)
    return tiles


def read_tile(sent: dict[str, Any]) -> Tile:
    """One of the tiles; one whose files are gone is a tile without any. Raises PhotoError."""
    number = read_number(sent.get("id"))
    if sent.get("work") is None:
        return Tile(number, read_path(sent.get("photo")))
    paths = [sent["work"].get(name) for name in Work._fields] if isinstance(sent["work"], dict) else []
    if not all(map(read_path, paths)):
        return Tile(number)
    state = read_state(sent)
    if state.work is None:
        raise PhotoError(UNREADABLE)
    return Tile(number, state.work.photo, state.work, state.strokes, sent.get("refine") is not False)


def read_path(value: Any) -> Upload:
    """The path of a file in the upload folder, empty for one that is not there.

    Raises PhotoError for what is no path.
    """
    if not isinstance(value, str):
        raise PhotoError(UNREADABLE)
    with suppress(PhotoError):
        return file_store().admit(value)
    return ""


# --- what becomes of the photos ---


def work_through(remover: Remover, task: Task, finish: Finish) -> Iterator[dict[str, Any]]:
    """One photo after the other, each in a turn of its own; gives what has become of all of them so far.

    Gradio sends no more of that than what is new. Raises PhotoError for what can't be made of any photo.
    """
    BatchTurns(finish)
    done: list[Outcome] = []
    yield {"run": task.run, "done": []}
    for tile in task.tiles:
        start = time.perf_counter()
        outcome = attempt(remover, tile, finish)
        done.append(outcome | {"id": tile.number, "took": round(time.perf_counter() - start, 3)})
        yield {"run": task.run, "done": [*done]}


def attempt(remover: Remover, tile: Tile, finish: Finish) -> Outcome:
    """What becomes of one photo, whatever it is."""
    try:
        if not tile.photo:
            return {"reason": GONE, "gone": True}
        return cut(remover, tile, finish) if tile.work is None else restyle(tile, tile.work, finish)
    except PhotoError as error:
        return {"reason": str(error)}
    except Exception:  # the other photos are not to be lost
        logger.exception("A photo of several failed")
        return {"reason": WRONG}


def cut(remover: Remover, tile: Tile, finish: Finish) -> Outcome:
    """A photo that the network has not seen: its result, and what the next change needs. Raises PhotoError."""
    with turn(tile.photo, finish) as opened:
        rough = remover(opened.photo, foreground=False)
        small = rough.preview(PREVIEW).photo
        preview = save_preview(small.opaque(), tile.photo, "preview", small.icc)
        work: dict[str, Any] = {"work": Work(tile.photo, save_matte(rough, tile.photo), preview)._asdict()}
        work["subjects"] = outlines(rough.alpha)  # for the editor
        if not rough.found:
            return work | {"reason": NO_SUBJECT}
        cutout = Cutout.from_matte(rough.photo, rough.alpha, refine=True)
        return work | save_result(opened.finish.frame(cutout), opened.finish, tile.photo)


def restyle(tile: Tile, work: Work, finish: Finish) -> Outcome:
    """Another look of a photo, from the matte that was kept, and with the brush's strokes. Raises PhotoError."""
    with turn(work.photo, finish, work.matte) as opened:
        matte: PhotoSource | None = opened.matte
        cutout = Cutout.open(opened.photo, matte, refine=tile.refine)
        if tile.strokes:
            cutout = cutout.touched_up(*paint(tile.strokes, cutout.photo.shape))
        return save_result(opened.finish.frame(cutout), opened.finish, work.photo)


def edit(sent: Any, refine: bool, finish: Finish) -> Outcome:
    """The result of one photo as it left the editor, which may still have it at hand. Raises PhotoError."""
    state = read_state(sent)
    if state.work is None:
        raise PhotoError(UNREADABLE)
    with page_turn(state.work.photo, finish):
        check_finish(finish)
        finish = open_finish(finish)
        full, _ = framed(state.work, refine, state.strokes, finish)
        return {"asked": state.asked} | save_result(full, finish, state.work.photo)


def save_result(shown: Cutout, finish: Finish, photo: Upload) -> Outcome:
    """The file of what a finish shows, under the photo's name, and a small picture of it for the page."""
    path = file_store().new_folder() / f"{safe_stem(photo)}{finish.suffix}"
    finish.write(shown, path)
    small = shown.preview(THUMBNAIL)
    thumbnail = save_preview(finish.pixels(small), photo, "small", small.photo.icc)
    return {"file": str(path), "name": path.name, "thumbnail": thumbnail}


# --- the zip ---


class Row(NamedTuple):
    """A line of the report."""

    photo: str
    file: str  # in the zip, empty if there is none
    outcome: str  # one of OUTCOMES
    reason: str


def pack(sent: Any) -> dict[str, Any]:
    """All results as one zip, with a report, for {run, tiles: [{id, name, file, outcome, reason}, ...]}.

    Where results have since been deleted there is none, but the numbers of these. Raises PhotoError, also for more than
    the disk has room for.
    """
    tiles = read_list(sent)
    files = [read_path(tile["file"]) if tile.get("file") is not None else None for tile in tiles]
    gone = [read_number(tile.get("id")) for tile, file in zip(tiles, files, strict=True) if file == ""]
    if gone:
        return {"run": read_run(sent), "gone": gone}
    names = unique_names([file and Path(file).name for file in files])
    rows = [
        Row(
            str(tile.get("name") or "")[:LONGEST_NAME],
            name or "",
            tile["outcome"] if tile.get("outcome") in OUTCOMES else OUTCOMES[-1],
            str(tile.get("reason") or "")[:LONGEST_REASON],
        )
        for tile, name in zip(tiles, names, strict=True)
    ]
    path = file_store().new_folder() / "cutouts.zip"
    with file_store().receiving(on_show=False) as make_room:
        make_room(sum(Path(file).stat().st_size for file in files if file))  # a page can name one file many times
        with zipfile.ZipFile(path, "w") as archive:  # pictures don't shrink any further
            for file, name in zip(files, names, strict=True):
                if file and name:
                    archive.write(file, name)
            archive.writestr("report.csv", report(rows))
    return {"run": read_run(sent), "file": str(path), "name": path.name}


def unique_names(names: list[str | None]) -> list[str | None]:
    """The names, those with a number that file systems would take for one before them."""
    taken: set[str] = set()
    found: list[str | None] = []
    for name in names:
        unique, number = name, 1
        while name and unique and unique.lower() in taken:
            number += 1
            unique = f"{Path(name).stem}-{number}{Path(name).suffix}"
        taken.add((unique or "").lower())
        found.append(unique)
    return found


def report(rows: list[Row]) -> bytes:
    """What became of each photo, as CSV (RFC 4180), in UTF-8 as Excel knows it: with a mark before it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(Row._fields)
    writer.writerows([harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode("utf-8-sig", "replace")


def harmless(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.startswith(FORMULA) else cell
