"""The tab for one photo: what comes of a new photo, of another subject in it, and of another look of that.

The first two ask the network for a matte. All else follows from the photo and that matte, so that it asks nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from background_remover.cutout import Cutout, Finish
from background_remover.page.components import describe, findings_text, status_text
from background_remover.page.controls import advice, read_controls, read_preset
from background_remover.page.files import Upload
from background_remover.page.pictures import (
    PREVIEW,
    make_file,
    open_cutout,
    save_matte,
    save_preview,
    show_result,
    show_view,
)
from background_remover.page.state import Pick, State, Work, is_solid, read_number, read_state
from background_remover.page.turns import open_upload, page_turn
from background_remover.photos import Pixels
from background_remover.presets import check
from background_remover.subjects import find_subjects
from utilities import PhotoError

Answer = dict[str, Any]  # values by the names of components
Remover = Callable[..., Cutout]

OUTLINES = 12  # subjects of a photo that the page outlines, the largest; others can be picked all the same
NOTHING_THERE = "Nothing was found there: click elsewhere, or draw a box around it."


# --- what asks the network ---


def new_photo(
    remover: Remover, photo: Upload, sent: Any, *, refine: bool, solid: bool, controls: tuple[Any, ...]
) -> Answer:
    """A new photo, with all subjects that are in it. Raises PhotoError."""
    start = time.perf_counter()
    state = read_state(sent)._replace(strokes=(), pick=Pick(), have="")
    with page_turn(photo, read_controls(*controls)):
        rough, work = cut_out(remover, photo, solid)
        shown = show_anew(state._replace(solid=solid), work, rough, refine=refine, controls=controls, start=start)
    return {"photo": work.preview} | shown


def new_subject(remover: Remover, sent: Any, *, refine: bool, solid: bool, controls: tuple[Any, ...]) -> Answer:
    """Another subject of the photo, or the same one whole, with the look and the strokes that there are.

    Where nothing was found, what was there before stays, and the status says why. Raises PhotoError.
    """
    start = time.perf_counter()
    state = read_state(sent)
    if state.work is None:
        return {}
    finish = read_controls(*controls)
    with page_turn(state.work.photo, finish):
        try:
            rough, work = cut_out(remover, state.work.photo, solid, state.pick, state.work.preview)
        except PhotoError as error:
            shown = show(state, state.work, refine, finish, controls=controls, start=start)
            shown["cutout"]["missed"] = True
            return shown | {"status": status_text(str(error), bad=True), "solid": state.solid}
        return show_anew(state._replace(solid=solid), work, rough, refine=refine, controls=controls, start=start)


def cut_out(
    remover: Remover, photo: Upload, solid: bool = False, pick: Pick | None = None, preview: Upload = ""
) -> tuple[Cutout, Work]:
    """A photo with the network's matte of what was picked in it, and the files that the page needs; within a turn.

    `preview` is the photo's, where there is one. Raises PhotoError, also if nothing is where it was picked.
    """
    pick, opened = pick or Pick(), open_upload(photo)
    box, points = pick.in_pixels(opened.shape)
    rough = remover(opened, foreground=False, solid=solid, box=box, points=points)
    if (box or points) and not rough.found:
        raise PhotoError(NOTHING_THERE)
    if not preview:
        small = rough.preview(PREVIEW).photo
        preview = save_preview(small.opaque(), photo, "preview", small.icc)
    return rough, Work(photo, save_matte(rough, photo), preview)


def show_anew(
    state: State, work: Work, rough: Cutout, *, refine: bool, controls: tuple[Any, ...], start: float
) -> Answer:
    """What the page shows of a matte that was just made, and of what it was made."""
    finish = read_controls(*controls)
    open_cutout(work, refine, (), rough)  # which keeps it at hand
    try:
        shown = show(state, work, refine, finish, controls=controls, start=start)
    except PhotoError as error:  # a control can't be as it is; the matte stays, and takes the next change
        shown = show(state, work, refine, Finish(), controls=controls, start=start)
        shown["status"] = status_text(str(error), bad=True)
        shown["cutout"]["failed"] = True
    made = {"pick": state.pick._asdict(), "solid": state.solid}
    if state.pick == Pick():
        made["subjects"] = outlines(rough.alpha)
    shown["cutout"] |= made
    return shown


def outlines(alpha: Pixels) -> list[list[float]]:
    """Where the subjects of a matte are: left, top, right and bottom, then x and y of a place on each, in shares."""
    height, width = alpha.shape
    return [
        [round(number / whole, 5) for number, whole in zip((*one.box, *one.place), (width, height) * 3, strict=True)]
        for one in find_subjects(alpha)[:OUTLINES]
    ]


# --- what asks nobody ---


def new_look(sent: Any, refine: bool, controls: tuple[Any, ...]) -> Answer:
    """Another look of the same matte. Raises PhotoError."""
    start = time.perf_counter()
    state = read_state(sent)
    if state.work is None:
        return {}
    finish = read_controls(*controls)
    with page_turn(state.work.photo, finish):
        return show(state, state.work, refine, finish, controls=controls, start=start)


def show(state: State, work: Work, refine: bool, finish: Finish, *, controls: tuple[Any, ...], start: float) -> Answer:
    """What the page shows of a finish, made since `start`; within a turn. Raises PhotoError."""
    shown = show_result(state, work, open_cutout(work, refine, state.strokes), finish, refine)
    value = shown["cutout"]
    value["took"] = time.perf_counter() - start
    return {"status": describe(finish, value, value["took"], advice(*controls))} | shown


def view(sent: Any, refine: bool, controls: tuple[Any, ...]) -> Answer:
    """The full pixels of what is in view. Raises PhotoError."""
    state = read_state(sent)
    if state.work is None:
        return {}
    finish = read_controls(*controls)
    with page_turn(state.work.photo, finish):
        return show_view(state, state.work, refine, finish)


def file(sent: Any, refine: bool, controls: tuple[Any, ...]) -> Answer:
    """The file itself, and whether it is what a shop asks for. Raises PhotoError."""
    state = read_state(sent)
    if state.work is None:
        return {"made": None}
    finish = read_controls(*controls)
    if "mask" in (state.mode, state.task):
        finish = replace(finish, background="transparent", background_image=None, output="matte")
    if state.task:
        finish = replace(finish, format="png", quality=None)
    preset = read_preset(*controls)
    with page_turn(state.work.photo, finish):
        made = make_file(state, state.work, refine, finish)
        findings = check(Path(made["file"]["path"]), preset) if preset and finish.output == "cutout" else []
    if state.task:
        return {"made": made}
    status = describe(finish, made, state.took, advice(*controls))
    told = findings_text(preset, findings) if preset and findings else ""
    return {"made": made, "status": status, "check": told}


# --- where nothing comes of it ---


def refused(reason: str, *inputs: Any) -> Answer:
    """The page where a change came to nothing: the sentence that says why, and no download."""
    number = max(map(read_number, inputs))
    return {"status": status_text(reason, bad=True), "cutout": {"answered": number, "failed": True}}


def refused_subject(reason: str, sent: Any, *inputs: Any) -> Answer:
    """The same where it was another subject: the switch is back at what the matte that stays was made with."""
    return refused(reason, sent, *inputs) | {"solid": is_solid(sent)}


def refused_file(reason: str, *_: Any) -> Answer:
    """The same where it was a file."""
    return {"status": status_text(reason, bad=True), "made": None}
