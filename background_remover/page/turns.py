"""A turn for the work on a photo: files opened, memory and a slot; for one, one of a batch, or another look."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from background_remover.cutout import Cutout, Finish
from background_remover.decoding import Photo
from background_remover.page.bodies import MAX_BYTES, MAX_FILES
from background_remover.page.files import NOT_HERE, Upload, number_setting
from background_remover.sandbox import Sandbox
from background_remover.scheduler import Job, Scheduler
from utilities import PhotoError

MAX_PIXELS = 2**26  # of a photo, 67 million: the largest full-frame cameras and 64-megapixel phones; RMBG_MAX_PIXELS
WORK = 5  # bytes that the work on a photo needs for each byte of its pixels

NO_PHOTO = "There is no photo yet: choose one first."

current_job: contextvars.ContextVar[Job] = contextvars.ContextVar("current_job")


@functools.cache
def scheduler() -> Scheduler:
    """The one of this process."""
    return Scheduler()


@functools.cache
def sandbox() -> Sandbox:
    """The one of this process, as the environment has it. Raises SettingError."""
    pixels = number_setting("RMBG_MAX_PIXELS", MAX_PIXELS)
    return Sandbox(int(pixels), MAX_BYTES)


def check_wanted() -> None:
    """Raises AbandonedError if nobody waits any longer for the job that this thread works on; else nothing."""
    if job := current_job.get(None):
        job.check()


class Opened(NamedTuple):
    """What a turn is about."""

    photo: Photo
    matte: Photo | None
    backdrop: Photo | None


@contextmanager
def turn(photo: Upload | None, matte: Upload | None = None, backdrop: Upload | None = None) -> Iterator[Opened]:
    """A photo opened, and what belongs to it; while it runs there is memory for the work on them, and a slot.

    Raises PhotoError, AbandonedError.
    """
    if photo is None:
        raise PhotoError(NO_PHOTO)
    with _turn((photo, matte, backdrop)) as opened:
        yield Opened(*opened)  # type: ignore[arg-type]  # the first is none only where its upload is


@contextmanager
def edit_turn(photo: Upload, matte: Upload, finish: Finish) -> Iterator[Finish]:
    """A turn for another look of a photo that may still be at hand, and so is not opened; its background image is.

    Raises PhotoError, AbandonedError.
    """
    if not (Path(photo).is_file() and Path(matte).is_file()):
        raise PhotoError("This photo has since been deleted here: choose it again.")
    with _turn((check_finish(finish),), beside=(photo,)) as (backdrop,):
        yield replace(finish, background_image=backdrop)


@contextmanager
def _turn(uploads: Sequence[Upload | None], beside: Sequence[Upload] = ()) -> Iterator[list[Photo | None]]:
    """`beside` are files that are worked on as well, and count, but are not opened."""
    job = current_job.get()
    files = [file for file in (*uploads, *beside) if file]
    if not all(Path(file).is_file() for file in files):
        raise PhotoError(NOT_HERE)
    headers = [sandbox().measure(file, job.check) for file in files]
    with scheduler().memory(job, WORK * sum(header.byte_count for header in headers)):
        photos = [sandbox().open(upload, job.check) if upload else None for upload in uploads]
        with scheduler().slot(job):
            job.check()
            yield photos


def open_upload(upload: Upload) -> Photo:
    """The photo in an upload, within a turn. Raises PhotoError."""
    return sandbox().open(upload, check_wanted)


def check_finish(finish: Finish) -> Upload | None:
    """The path of the background image, if there is one; all else is checked, before any photo is opened.

    Raises PhotoError for what can't be made of any cutout.
    """
    backdrop = finish.background_image
    if backdrop is None:
        finish.check()
        return None
    replace(finish, background="transparent", background_image=None).check()
    return str(backdrop)


def check_count(photos: list[str] | None) -> list[str]:
    """The photos of a batch. Raises PhotoError if they are none or too many."""
    if not photos:
        raise PhotoError("There are no photos yet: choose some first.")
    if len(photos) > MAX_FILES:
        raise PhotoError(f"These are more than {MAX_FILES} photos: send them in several batches.")
    return photos


class BatchTurns:
    """A turn for each photo of a batch, so that others come in between; `finish` is what the results should be.

    Raises PhotoError for what can't be made of any photo.
    """

    def __init__(self, finish: Finish) -> None:
        self._backdrop = check_finish(finish)
        with _turn((self._backdrop,)):
            pass  # it can be opened
        self.finish = finish

    @contextmanager
    def open(self, path: Path) -> Iterator[Photo]:
        """While it runs, the photo's turn. The background image is opened each time, since nothing is held between."""
        with turn(str(path), backdrop=self._backdrop) as opened:
            self.finish = replace(self.finish, background_image=opened.backdrop)
            yield opened.photo

    def save(self, cutout: Cutout, path: Path) -> None:
        """The result's file, within the turn."""
        self.finish.save(cutout, path)
