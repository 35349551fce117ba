"""The files of a result, and what the page shows of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from gradio.data_classes import FileData

from background_remover import Cutout, Finish
from background_remover.compositing import with_alpha
from background_remover.encoding import save_pixels
from background_remover.framing import Frame
from background_remover.page.files import Upload, file_store
from background_remover.page.recent import Pair, RecentCutouts
from background_remover.page.state import State, Work
from background_remover.page.strokes import Stroke, paint
from background_remover.page.turns import check_finish, open_finish, open_upload
from background_remover.photos import Pixels
from background_remover.presets import enlargement

PREVIEW = 1600  # pixels: the longer side of a preview
VIEW = 2048  # the same of a part of the picture, in its full pixels
THUMBNAIL = 480  # and of a picture among several
EXACT = 640_000  # pixels up to which a preview is lossless, since it is small all the same
QUALITY = 90  # of a larger one

recent = RecentCutouts()


def save_matte(cutout: Cutout, photo: Upload) -> str:
    """The path of the matte, as a PNG that is named after the upload."""
    path = file_store().new_file(photo, "matte")
    save_pixels(cutout.alpha, path)
    return path


def save_cutout(cutout: Cutout, photo: Upload, finish: Finish) -> str:
    """The path of the finished cutout, which is named after the upload."""
    path = file_store().new_file(photo, finish.output, finish.suffix)
    finish.save(cutout, path)
    return path


def open_cutout(work: Work, refine: bool, strokes: tuple[Stroke, ...], rough: Cutout | None = None) -> Pair:
    """The cutout of a photo and its matte, ready for any finish, at full size and as a preview; within a turn.

    `rough` is the photo with its matte, where they are at hand.
    """

    def make() -> Pair:
        if strokes:
            cutout, _ = open_cutout(work, refine, (), rough)
            cutout = cutout.touched_up(*paint(strokes, cutout.photo.shape))
        elif rough:
            cutout = Cutout.from_matte(rough.photo, rough.alpha, refine=refine)
        else:
            cutout = Cutout.open(open_upload(work.photo), open_upload(work.matte), refine=refine)
        return cutout, cutout.preview(PREVIEW)

    return recent.get((work.photo, work.matte, refine, strokes), make)


def framed(work: Work, refine: bool, strokes: tuple[Stroke, ...], finish: Finish, rough: Cutout | None = None) -> Pair:
    """What a finish shows of the cutout, at full size and as a preview; within a turn. Raises PhotoError."""
    cutout, small = open_cutout(work, refine, strokes, rough)

    def make() -> Pair:
        shown = finish.frame(cutout)
        return shown, small if shown is cutout else shown.preview(PREVIEW)

    frame = frame_of(finish)
    return recent.get((work.photo, work.matte, refine, strokes, frame), make) if frame else (cutout, small)


def frame_of(finish: Finish) -> tuple[Any, ...]:
    """All of a finish that says which part of a cutout is shown and how large, nothing for the whole as it is."""
    frame = (finish.margin, finish.size) if finish.crop or finish.size else ()
    return (finish.clean, *frame) if finish.clean else frame


def look_of(matte: Upload, refine: bool, strokes: tuple[Stroke, ...], finish: Finish) -> str:
    """A short name of what the matte and the frame of a result depend on."""
    return hashlib.sha256(repr((matte, refine, strokes, frame_of(finish))).encode()).hexdigest()[:16]


def save_preview(pixels: Pixels, photo: Upload, what: str, icc: bytes | None = None) -> str:
    """The path of a picture for the page alone: a PNG if it is small, else a JPEG, or a WebP where it has alpha."""
    height, width = pixels.shape[:2]
    suffix = ".jpg" if pixels.shape[2:] == (3,) else ".webp"
    if height * width <= EXACT or pixels.ndim == 2:
        suffix = ".png"
    path = file_store().new_file(photo, what, suffix)
    save_pixels(pixels, path, icc, QUALITY)
    return path


def file_data(path: str) -> dict[str, Any]:
    """A file as Gradio sends it to the page, which gives it a URL."""
    return FileData(path=path).model_dump()


def show_result(state: State, work: Work, pair: Pair, finish: Finish, refine: bool) -> dict[str, Any]:
    """The stage's value and the matte: what it shows of a result, without what the page has already.

    Raises PhotoError, for what can't be made.
    """
    check_finish(finish)
    finish = open_finish(finish)
    full, small = framed(work, refine, state.strokes, finish)
    after = save_preview(finish.pixels(small), work.photo, "cutout", small.photo.icc)
    height, width = full.alpha.shape
    plain = finish.background_image is None and finish.background != "blur"
    value: dict[str, Any] = {
        "answered": state.asked,
        "work": {name: file_data(path) for name, path in work._asdict().items()},
        "name": Path(work.photo).name,
        "cutout": file_data(after),
        "size": [width, height],
        "enlarged": enlargement(pair[0], finish),
        "found": pair[0].found,
        "css": finish.background if plain and finish.background != "transparent" else "transparent" if plain else "",
        "look": look_of(work.matte, refine, state.strokes, finish),
        "taken": len(state.strokes),
    }
    if value["look"] == state.have:
        return {"cutout": value}
    whole = pair[1]
    mask = alpha = save_preview(whole.alpha, work.photo, "matte")
    before = work.preview
    if small is not whole:
        mask = save_preview(small.alpha, work.photo, "matte")
        before = save_preview(small.photo.opaque(), work.photo, "before", small.photo.icc)
    shape = pair[0].alpha.shape
    files = {"before": before, "mask": mask, "alpha": alpha, "photo": work.preview}
    value |= {name: file_data(path) for name, path in files.items()} | {"whole": [shape[1], shape[0]]}
    return {"cutout": value, "matte": mask}


def make_file(state: State, work: Work, refine: bool, finish: Finish) -> dict[str, Any]:
    """The finished cutout's file, or the mask's, for a page that is at that state; within a turn. Raises PhotoError."""
    check_finish(finish)
    finish = open_finish(finish)
    cutout, _ = open_cutout(work, refine, state.strokes)
    full, _ = framed(work, refine, state.strokes, finish)
    path = file_store().new_file(work.photo, finish.output, finish.suffix)
    finish.write(full, path)
    height, width = full.alpha.shape
    return {
        "asked": state.asked,
        "mode": state.mode,
        "task": state.task,
        "file": file_data(path),
        "name": Path(path).name,
        "size": [width, height],
        "bytes": Path(path).stat().st_size,
        "enlarged": enlargement(cutout, finish),
        "found": cutout.found,
    }


def show_view(state: State, work: Work, refine: bool, finish: Finish) -> dict[str, Any]:
    """The full pixels of the part in view, of the result and of the photo; no more than VIEW on the longer side."""
    finish = open_finish(finish)
    full, _ = framed(work, refine, state.strokes, finish)
    pixels = {
        **({"mask": full.alpha} if state.mode == "mask" else {"after": finish.pixels(full)}),
        "before": full.photo.opaque(),
    }
    height, width = full.alpha.shape
    left, top = int(state.view[0] * width), int(state.view[1] * height)
    right, bottom = max(left + 1, round(state.view[2] * width)), max(top + 1, round(state.view[3] * height))
    frame = Frame.within(VIEW, (bottom - top, right - left))
    pictures = {}
    for name, whole in pixels.items():
        part = reduced(whole[top:bottom, left:right], frame)
        pictures[name] = file_data(save_preview(part, work.photo, "view", full.photo.icc))
    view = [left / width, top / height, right / width, bottom / height]
    return {"asked": state.asked, "view": list(state.view), "shown": view, "pictures": pictures}


def reduced(pixels: Pixels, frame: Frame) -> Pixels:
    """What a frame shows of pixels H x W (x 3 or 4, with straight alpha)."""
    if pixels.shape[2:] == (4,):
        return with_alpha(*frame.subject(pixels[..., :3], pixels[..., 3]))
    shown: Pixels = frame.photo(pixels)
    return shown
