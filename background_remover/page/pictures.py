"""The files of a result, and what the page shows of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr
from gradio.data_classes import FileData

from background_remover import Cutout, Finish
from background_remover.encoding import save_pixels
from background_remover.page.files import Upload, file_store
from background_remover.page.recent import Pair, RecentCutouts
from background_remover.page.strokes import Stroke, paint
from background_remover.page.turns import check_finish, open_finish, open_upload
from background_remover.photos import Pixels

PREVIEW = 1600  # pixels: the longer side of a preview
THUMBNAIL = 480  # pixels: the same in the gallery


recent = RecentCutouts()


class Work(NamedTuple):
    """What the page keeps of a visitor's photo: three paths in the upload folder, and what was made first of them."""

    photo: str
    matte: str  # as the network gave it
    preview: str  # of the photo, for a browser
    choices: tuple[Any, ...]  # what its first result was made with: whether refined, and the other controls


def save_matte(cutout: Cutout, photo: Upload) -> str:
    """The path of the matte, as a PNG that is named after the upload."""
    path = file_store().new_file(photo, "matte")
    save_pixels(cutout.alpha, path)
    return path


def save_cutout(cutout: Cutout, photo: Upload, finish: Finish) -> str:
    """The path of the finished cutout, which is named after the upload."""
    path = file_store().new_file(photo, "cutout", finish.suffix)
    finish.save(cutout, path)
    return path


def open_cutout(work: Work, refine: bool, strokes: tuple[Stroke, ...], rough: Cutout | None = None) -> Pair:
    """The cutout of a photo and its matte, ready for any finish, at full size and as a preview; within a turn.

    `rough` is the photo with its matte, where they are at hand.
    """

    def make() -> Pair:
        if strokes:
            cutout, _ = open_cutout(work, refine, ())
            cutout = cutout.touched_up(*paint(strokes, cutout.photo.shape))
        elif rough:
            cutout = Cutout.from_matte(rough.photo, rough.alpha, refine=refine)
        else:
            cutout = Cutout.open(open_upload(work.photo), open_upload(work.matte), refine=refine)
        return cutout, cutout.preview(PREVIEW)

    return recent.get((work.photo, work.matte, refine, strokes), make)


def save_preview(pixels: Pixels, photo: Upload, what: str, icc: bytes | None = None) -> str:
    """The path of a picture for the page alone: a JPEG, or a PNG where it has alpha."""
    path = file_store().new_file(photo, what, ".png" if pixels.shape[2:] == (4,) else ".jpg")
    save_pixels(pixels, path, icc)
    return path


def show_result(work: Work, cutouts: tuple[Cutout, Cutout], finish: Finish) -> dict[str, Any]:
    """The result's file, before and after for the slider, and the download. Raises PhotoError."""
    cutout, small = cutouts
    check_finish(finish)
    finish = open_finish(finish)
    framed = finish.frame(cutout)
    path = file_store().new_file(work.photo, "cutout", finish.suffix)
    finish.write(framed, path)
    if framed is not cutout:
        small = framed.preview(PREVIEW)
    before = save_preview(small.photo.opaque(), work.photo, "before", small.photo.icc)
    after = save_preview(finish.pixels(small), work.photo, "after", small.photo.icc)
    return {"cutout": path, "compare": (before, after), "download": gr.update(value=path, interactive=True)}


def show_matte(work: Work, cutouts: tuple[Cutout, Cutout], taken: int = 0) -> dict[str, Any]:
    """The matte's file, and what the brush paints on; `taken` strokes are in it."""
    cutout, small = cutouts
    canvas = {"photo": work.preview, "matte": save_preview(small.alpha, work.photo, "brush")}
    files = {name: FileData(path=path).model_dump() for name, path in canvas.items()}
    return {"matte": save_matte(cutout, work.photo), "touchup": files | {"taken": taken}}


def show_nothing(status: str) -> dict[str, Any]:
    """The page without a photo to work on."""
    empty = gr.update(value=None, interactive=False)
    return dict.fromkeys(("work", "matte", "touchup", "cutout", "compare")) | {"status": status, "download": empty}
