"""A turn for the work on a photo: files opened, memory and a slot; for one, one of a batch, or another look."""

from __future__ import annotations

import contextvars
import functools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from background_remover.cutout import Cutout, Finish
from background_remover.decoding import Photo
from background_remover.page.bodies import MAX_BYTES, MAX_FILES
from background_remover.page.files import NOT_HERE, Upload, number_setting
from background_remover.photos import MAX_PIXELS as LARGEST_RESULT
from background_remover.photos import PhotoHeader
from background_remover.sandbox import Sandbox
from background_remover.scheduler import Job, Scheduler
from background_remover.stages import stage
from utilities import PhotoError

MAX_PIXELS = 2**26  # of a photo, 67 million: the largest full-frame cameras and 64-megapixel phones; RMBG_MAX_PIXELS
WORK = 6  # bytes that the work on a photo takes for each byte of its pixels, these included
FRAMED = 25  # bytes that a crop or a canvas takes for each of its pixels

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
    """Raises AbandonedError or PostponedError if the job that this thread works on is not to go on, see `scheduler`."""
    if job := current_job.get(None):
        scheduler().check(job)


class Opened(NamedTuple):
    """What a turn is about."""

    photo: Photo
    matte: Photo | None
    finish: Finish  # its background image opened


@contextmanager
def turn(photo: Upload | None, finish: Finish, matte: Upload | None = None) -> Iterator[Opened]:
    """A photo opened, and what belongs to it; while it runs there is memory for the work on them, and a slot.

    Raises PhotoError, before anything is opened for a finish that can't be made of any photo; AbandonedError.
    """
    if photo is None:
        raise PhotoError(NO_PHOTO)
    check_finish(finish)
    files = [file for file in (photo, matte, finish.background_image) if file]
    if not all(Path(str(file)).is_file() for file in files):
        raise PhotoError(NOT_HERE)
    job = current_job.get()
    headers = [sandbox().measure(str(file), job.check) for file in files]
    with ExitStack() as stack:
        with stage("wait"):
            stack.enter_context(scheduler().memory(job, needed(headers, finish)))
        opened = Opened(open_upload(photo), open_upload(matte) if matte else None, open_finish(finish))
        with stage("wait"):
            stack.enter_context(scheduler().slot(job))
        job.check()
        yield opened


@contextmanager
def page_turn(photo: Upload, finish: Finish) -> Iterator[None]:
    """A turn in which nothing is opened yet: for the page, which may have the photo at hand.

    It opens what it has not by `open_upload` and `open_finish`, one by one, so that what is wrong with the background
    does not lose the photo. Raises PhotoError if it is the photo, AbandonedError.
    """
    job = current_job.get()
    if not Path(photo).is_file():
        raise PhotoError("This photo has since been deleted here: choose it again.")
    try:
        check_finish(finish)
    except PhotoError:  # it is told when the finish is needed
        finish = Finish()
    headers = [sandbox().measure(photo, job.check)]
    if finish.background_image is not None:
        with suppress(PhotoError):
            headers.append(sandbox().measure(str(finish.background_image), job.check))
    with ExitStack() as stack:
        with stage("wait"):
            stack.enter_context(scheduler().memory(job, needed(headers, finish)))
            stack.enter_context(scheduler().slot(job))
        job.check()
        yield


def needed(headers: list[PhotoHeader], finish: Finish) -> int:
    """Bytes that the work on a photo and what belongs to it may take; the first header is the photo's."""
    width, height = headers[0].size
    pixels = 0.0
    if finish.size:
        pixels = finish.size[0] * finish.size[1]
    elif finish.crop:
        pixels = min(width * height * (1 + 2 * finish.margin) ** 2, LARGEST_RESULT)
    return int(WORK * sum(header.byte_count for header in headers) + FRAMED * pixels)


def open_upload(upload: Upload) -> Photo:
    """The photo in an upload, within a turn. Raises PhotoError, AbandonedError."""
    return sandbox().open(upload, current_job.get().check)


def open_finish(finish: Finish) -> Finish:
    """A finish with its background image opened, within a turn. Raises PhotoError."""
    if finish.background_image is None:
        return finish
    return replace(finish, background_image=open_upload(str(finish.background_image)))


def check_finish(finish: Finish) -> None:
    """Raises PhotoError for what can't be made of any cutout; the background image is not looked at."""
    if finish.background_image is not None:
        finish = replace(finish, background="transparent", background_image=None)
    finish.check()


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
        check_finish(finish)
        self._wanted = self.finish = finish
        if finish.background_image is not None:
            with page_turn(str(finish.background_image), Finish()):
                open_finish(finish)  # it can be

    @contextmanager
    def open(self, path: Path) -> Iterator[Photo]:
        """While it runs, the photo's turn. The background image is opened each time, since nothing is held between."""
        with turn(str(path), self._wanted) as opened:
            self.finish = opened.finish
            yield opened.photo
        self.finish = self._wanted

    def save(self, cutout: Cutout, path: Path) -> None:
        """The result's file, within the turn."""
        self.finish.save(cutout, path)
