"""The page and the API: drop a photo, see its matte and its cutout, take them home."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read at Gradio's import; no request leaves the machine
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import spaces  # before torch, which it patches on a ZeroGPU Space  # isort: skip

import base64
import binascii
import contextlib
import functools
import html
import inspect
import logging
import secrets
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from gradio import processing_utils
from gradio.components import Component
from gradio.data_classes import FileData, ImageData, ListFiles

import mcp_tools
from engines import EngineError
from fetch import fetch
from pipeline import BLANK, BackgroundRemover, Cutout
from strokes import Stroke, paint, read_strokes
from utilities import BLUR, MARGIN, MAX_BYTES, PhotoError, Pixels, open_photo, safe_stem, save_pixels
from weights import WeightsError

logging.basicConfig(level=logging.INFO, format="%(message)s")
logger = logging.getLogger(__name__)
for chatty in ("httpx", "mcp"):
    logging.getLogger(chatty).setLevel(logging.WARNING)

try:
    remover = BackgroundRemover.from_pretrained(on_device=spaces.GPU(duration=10))
except (WeightsError, EngineError) as error:
    raise SystemExit(str(error)) from None

EXAMPLES = sorted(str(path) for path in (Path(__file__).parent / "examples").glob("*.[jp][pn]g"))
Upload = str | bytes  # a path in Gradio's upload folder, or the content of a data: URL

EXTENSIONS = ["png", "webp", "jpg"]
MAX_PHOTOS = 100  # in one batch

ABOUT = " · ".join(
    (
        f"Weights: **{remover.weights.name}**",
        f"Licence: {remover.weights.licence}",
        f"Running on: {remover.engine}",
    )
) + (f"\n\n{remover.weights.note}" if remover.weights.note else "")
ASSETS = Path(__file__).parent / "page"


def photo_input(**kwargs: Any) -> gr.Image:
    """An image component that hands the upload over as it is: `utilities.open_photo` decides what is a photo."""
    return gr.Image(type="filepath", image_mode=None, buttons=["fullscreen"], **kwargs)


def raw_upload(_: gr.Image, payload: ImageData | None) -> str | bytes | None:
    """The upload's path, or its bytes where a client sent a data: URL."""
    if payload is None:
        return None
    if payload.url and payload.url.startswith("data:"):
        try:
            return base64.b64decode(payload.url.partition(",")[2], validate=True)
        except binascii.Error:
            return b"not a photo"
    return payload.path


# In the class, since Gradio builds a component anew for each visitor whose page shows or hides it.
gr.Image.preprocess = raw_upload  # type: ignore[assignment, method-assign]


def photos_input(**kwargs: Any) -> gr.File:
    """A component for several files, which hands their paths over; `utilities.open_photo` decides on each."""
    component = gr.File(file_count="multiple", **kwargs)
    component.preprocess = raw_uploads  # type: ignore[assignment, method-assign]
    return component


def raw_uploads(payload: ListFiles | None) -> list[str]:
    return [file.path for file in payload] if payload else []


async def safe_download(url: str, cache_dir: str) -> str:
    """`fetch` in the place of Gradio's own download, which has no limit and lets some private networks be reached."""
    try:
        return await fetch(url, cache_dir)
    except PhotoError as error:
        raise gr.Error(str(error), print_exception=False) from None


processing_utils.async_ssrf_protected_download = safe_download


def picture(label: str, **kwargs: Any) -> gr.Image:
    """An image that is shown and downloaded exactly as it was written."""
    return gr.Image(
        label=label,
        type="filepath",
        image_mode=None,
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        **kwargs,
    )


@contextlib.contextmanager
def plain_errors(name: str) -> Iterator[None]:
    """Tell the visitor what is wrong in one sentence; what is our fault goes to the log alone."""
    try:
        yield
    except PhotoError as error:
        raise gr.Error(str(error), print_exception=False) from None
    except Exception:
        logger.exception("%s failed", name)
        message = "Something went wrong here: try again, or try another photo."
        raise gr.Error(message, print_exception=False) from None


def plainly(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A handler, or one that yields, with `plain_errors`."""

    @functools.wraps(handler)
    def told(*args: Any) -> Any:
        with plain_errors(handler.__name__):
            return handler(*args)

    @functools.wraps(handler)
    def told_in_turn(*args: Any) -> Any:
        with plain_errors(handler.__name__):
            yield from handler(*args)

    return told_in_turn if inspect.isgeneratorfunction(handler) else told


def new_folder() -> Path:
    """Where Gradio serves files from, in a folder that nobody can guess."""
    folder = Path(demo.GRADIO_CACHE) / secrets.token_urlsafe(16)
    folder.mkdir(parents=True)
    return folder


def file_for(photo: Upload, what: str, suffix: str = ".png") -> str:
    """A new file's path, named after the upload."""
    stem = safe_stem(photo if isinstance(photo, str) else "photo").removesuffix(f"-{what}")
    return str(new_folder() / f"{stem}-{what}{suffix}")


def cut(photo: Upload | None, refine: bool = False) -> Cutout:
    if photo is None:
        raise PhotoError("There is no photo yet: choose one first.")
    return remover(photo, refine)


def counted(photos: list[str] | None) -> list[str]:
    """The photos of a batch. Raises PhotoError if they are none or too many."""
    if not photos:
        raise PhotoError("There are no photos yet: choose some first.")
    if len(photos) > MAX_PHOTOS:
        raise PhotoError(f"These are more than {MAX_PHOTOS} photos: send them in parts.")
    return photos


def save_matte(cutout: Cutout, photo: Upload) -> str:
    path = file_for(photo, "matte")
    save_pixels(cutout.alpha, path)
    return path


def save_cutout(cutout: Cutout, photo: Upload, background: str, image: Upload | None) -> str:
    path = file_for(photo, "cutout")
    finish(cutout, path, background, image)
    return path


def finish(
    cutout: Cutout,
    path: str | Path,
    background: str,
    image: Upload | None,
    blur: float = BLUR,
    crop: bool = False,
    margin: float = MARGIN,
    width: int = 0,
    height: int = 0,
    quality: int | None = None,
) -> None:
    """Save a cutout as it was asked for: on "transparent", "blur", a CSS colour or an image, which wins.

    `crop` to the subject and its margin; a width or height is that of a canvas to crop to, one alone makes a square.
    """
    if crop or width or height:
        cutout = cutout.framed(margin, (width or height, height or width) if width or height else None)
    if image is not None:
        cutout.save(path, Path(image) if isinstance(image, str) else image, quality=quality)
    else:
        cutout.save(path, None if background == "transparent" else background, blur, quality)


# --- the API: names, parameters, their order and outputs are a contract (tests/test_api.py) -------------
# Gradio's documentation and the tools of `mcp_tools` show these docstrings; a parameter's text is its one line.


@plainly
def predict(image: Upload) -> str:
    """Cut the subject out of a photo: a PNG with transparent background at the photo's size.

    Args:
        image: the photo.
    """
    return save_cutout(cut(image), image, "transparent", None)


@plainly
def remove_background(
    image: Upload, background: str = "transparent", background_image: Upload | None = None
) -> tuple[str, str]:
    """The matte of a photo and its subject on a background, both as PNGs at the photo's size.

    Args:
        image: the photo.
        background: "transparent", "blur" (the photo's own background, blurred) or a CSS colour such as "#ffffff".
        background_image: an image to put the subject on; it fills the frame and wins over `background`.
    """
    result = cut(image)
    return save_matte(result, image), save_cutout(result, image, background, background_image)


@plainly
def cutout(image: Upload, background: str = "transparent", background_image: Upload | None = None) -> str:
    """Remove the background of a photo: its subject on transparency or on another background, as one PNG.

    Args:
        image: the photo.
        background: "transparent", "blur" (the photo's own background, blurred) or a CSS colour such as "#ffffff".
        background_image: an image to put the subject on; it fills the frame and wins over `background`.
    """
    return save_cutout(cut(image), image, background, background_image)


@plainly
def matte_alone(image: Upload, refine: bool = True) -> str:
    """The alpha matte of a photo, as a grey PNG at the photo's size: 255 is subject, 0 background, between is partial.

    Args:
        image: the photo.
        refine: whether edges follow the photo's own hair and fur; without it the matte is that of /cutout, sooner.
    """
    return save_matte(cut(image, refine), image)


@plainly
def edit(
    image: Upload,
    matte: Upload | None = None,
    background: str = "transparent",
    background_image: Upload | None = None,
    blur: float = BLUR,
    crop: bool = False,
    margin: float = MARGIN,
    width: int = 0,
    height: int = 0,
    format: str = "png",  # noqa: A002  # the API's word
    quality: int | None = None,
) -> str:
    """Change what was cut out before, at once: put it on a background, crop to the subject, choose size and format.

    Args:
        image: a cutout with transparency, as /cutout gives it; or the photo, with its `matte`.
        matte: what /matte gave for the photo; leave it out for a cutout.
        background: "transparent", "blur" (the photo's own background, blurred) or a CSS colour such as "#ffffff".
        background_image: an image to put the subject on; it fills the frame and wins over `background`.
        blur: how strong "blur" is, as a share of the longer side, 0.001 to 0.2; it needs the photo and its matte.
        crop: whether to crop to the subject.
        margin: room around a subject that is cropped to, as a share of its longer side, 0 to 1.
        width: of a canvas in pixels, on which the subject is centred and fitted; 0 for none, or as high as wide.
        height: of that canvas; 0 for none, or as wide as high.
        format: "png", "webp" or "jpg", which is white where it would be transparent.
        quality: 1 to 100, for a smaller "webp" or "jpg"; without it a "webp" is lossless.
    """
    if image is None:
        raise PhotoError("There is no picture yet: choose one first.")
    path = file_for(image, "cutout", f".{format}")
    finish(Cutout.open(image, matte), path, background, background_image, blur, crop, margin, width, height, quality)
    return path


@plainly
def batch(
    photos: list[str],
    refine: bool = True,
    background: str = "transparent",
    background_image: Upload | None = None,
    blur: float = BLUR,
    crop: bool = False,
    margin: float = MARGIN,
    width: int = 0,
    height: int = 0,
    format: str = "png",  # noqa: A002  # the API's word
    quality: int | None = None,
) -> Iterator[tuple[str | None, list[dict[str, str | None]]]]:
    """Cut the subjects out of several photos: a zip of the results, and what became of each photo.

    The report grows as photos finish; the zip, which is null if no photo could be cut out, comes last.

    Args:
        photos: the photos, up to 100; one that can't be read has its reason in the report and stops no other.
        refine: whether edges follow the photos' own hair and fur, in about twice the time.
        background: "transparent", "blur" (the photo's own background, blurred) or a CSS colour such as "#ffffff".
        background_image: an image to put the subjects on; it fills the frame and wins over `background`.
        blur: how strong "blur" is, as a share of the longer side, 0.001 to 0.2.
        crop: whether to crop to the subject.
        margin: room around a subject that is cropped to, as a share of its longer side, 0 to 1.
        width: of a canvas in pixels, on which the subject is centred and fitted; 0 for none, or as high as wide.
        height: of that canvas; 0 for none, or as wide as high.
        format: "png", "webp" or "jpg", which is white where it would be transparent.
        quality: 1 to 100, for a smaller "webp" or "jpg"; without it a "webp" is lossless.
    """
    photos = counted(photos)
    how = background, background_image, blur, crop, margin, width, height, quality
    folder = new_folder()
    report: list[dict[str, str | None]] = []
    try:
        finish(BLANK, folder / f"try.{format}", *how)  # what can't be asked for is told at once
        (folder / f"try.{format}").unlink()
        with zipfile.ZipFile(folder / "cutouts.zip", "w") as archive:
            outcomes = remover.each(
                photos, folder, lambda cutout, path: finish(cutout, path, *how), f".{format}", refine=refine
            )
            for done in outcomes:
                if done.path:
                    archive.write(done.path, done.path.name)
                    done.path.unlink()
                file = done.path.name if done.path else None
                report.append({"name": done.name, "file": file, "reason": done.reason or None})
                yield None, report
    except BaseException:  # the client has gone, too: nothing is left behind
        shutil.rmtree(folder)
        raise
    some = any(entry["file"] for entry in report)
    yield (str(folder / "cutouts.zip") if some else None), report


# --- the page -------------------------------------------------------------------------------------------
# What follows a photo is derived from the upload and the network's matte of it, so that no change asks it again.

COLOURS = {"White": "#ffffff", "Light grey": "#f2f2f2", "Black": "#000000"}
BACKGROUNDS = ["Transparent", *COLOURS, "Colour", "Image", "Blur"]
FRAMES = ["Whole photo", "Subject", "Square", "Custom size"]
# extension and quality
DOWNLOADS = {"PNG": (".png", None), "WebP lossless": (".webp", None), "WebP small": (".webp", 90), "JPEG": (".jpg", 92)}
SHOWN = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".avif"}  # what a browser shows as it is
SIDE = 1600  # pixels: the longer side of a preview
THUMBNAIL = 480  # pixels: the same in the gallery
THEME = gr.themes.Default(
    primary_hue="emerald", secondary_hue="emerald", neutral_hue="zinc", font="system-ui", font_mono="monospace"
).set(
    body_text_color_subdued="*neutral_600",
    body_text_color_subdued_dark="*neutral_400",
    block_label_text_color="*neutral_600",
    block_info_text_color="*neutral_600",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_dark="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_primary_background_fill_hover_dark="*primary_800",
    link_text_color="*primary_700",
)


class Work(NamedTuple):
    """What the page keeps of a visitor's photo: three paths in Gradio's cache."""

    photo: str
    matte: str  # as the network gave it
    preview: str  # of the photo, for a browser


@dataclass(frozen=True)
class Look:
    """What a visitor chose for the result; the fields are the controls in their order."""

    background: str
    colour: str
    backdrop: Upload | None
    blur: float
    frame: str
    margin: float
    width: float
    height: float
    format: str

    def frame_of(self, cutout: Cutout) -> Cutout:
        width, height = int(self.width or 0), int(self.height or 0)
        size = {"Square": (width, width), "Custom size": (width, height)}.get(self.frame)
        return cutout if self.frame == FRAMES[0] else cutout.framed(self.margin / 100, size)

    def under(self) -> dict[str, Any]:
        """The background in terms of `Cutout.pixels`."""
        image = Path(self.backdrop) if isinstance(self.backdrop, str) else self.backdrop
        colour = {**COLOURS, "Colour": self.colour, "Blur": "blur", "Image": image}
        return {"background": colour.get(self.background), "blur": self.blur / 100}

    def save(self, framed: Cutout, path: str | Path) -> None:
        framed.save(path, **self.under(), quality=DOWNLOADS[self.format][1])


@functools.lru_cache(maxsize=4)
def kept(photo: str, matte: str, refine: bool, strokes: tuple[Stroke, ...]) -> tuple[Cutout, Cutout]:
    """The cutout of a photo and its matte, ready for any look, at full size and as a preview."""
    if strokes:
        cutout, _ = kept(photo, matte, refine, ())
        cutout = cutout.touched_up(*paint(strokes, cutout.photo.size))
    elif Path(photo).is_file() and Path(matte).is_file():
        cutout = Cutout.from_matte(open_photo(photo), open_photo(matte).rgb[..., 0], refine=refine)
    else:
        raise PhotoError("This photo was deleted here in the meantime: choose it again.")
    return cutout, cutout.preview(SIDE)


def painted(value: Any) -> tuple[Stroke, ...]:
    return read_strokes(value.get("strokes", []) if isinstance(value, dict) else [])


def save_preview(pixels: Pixels, photo: Upload, what: str, icc: bytes | None = None) -> str:
    path = file_for(photo, what, ".png" if pixels.shape[2:] == (4,) else ".jpg")
    save_pixels(pixels, path, icc)
    return path


def results(work: Work, cutouts: tuple[Cutout, Cutout], look: Look) -> list[Any]:
    """The result's file, before and after for the slider, and the download."""
    cutout, small = cutouts
    framed = look.frame_of(cutout)
    path = file_for(work.photo, "cutout", DOWNLOADS[look.format][0])
    look.save(framed, path)
    if framed is not cutout:
        small = framed.preview(SIDE)
    before = save_preview(small.photo.opaque(), work.photo, "before", small.photo.icc)
    after = save_preview(small.pixels(**look.under()), work.photo, "after", small.photo.icc)
    return [path, (before, after), gr.update(value=path, interactive=True)]


def mattes(work: Work, cutouts: tuple[Cutout, Cutout], taken: int = 0) -> list[Any]:
    """The matte's file, and what the brush paints on; `taken` strokes are in it."""
    cutout, small = cutouts
    canvas = {"photo": work.preview, "matte": save_preview(small.alpha, work.photo, "brush")}
    return [
        save_matte(cutout, work.photo),
        {name: FileData(path=path).model_dump() for name, path in canvas.items()} | {"taken": taken},
    ]


@plainly
def on_photo(photo: Upload | None, work: Work | None, refine: bool, *choices: Any) -> list[Any]:
    """A new photo: the only handler here that runs the network."""
    if photo is None:
        return nothing("")
    if work and photo in (work.photo, work.preview):  # the page tells of some changes twice, and of our own
        return [gr.skip()] * 8
    start = time.perf_counter()
    try:
        if isinstance(photo, bytes):
            raise PhotoError("Choose the photo as a file: the page works on files alone.")
        rough = remover(photo, refine=False, foreground=False)
        small = rough.preview(SIDE).photo
        preview = save_preview(small.opaque(), photo, "preview", small.icc)
        work = Work(photo, save_matte(rough, photo), preview)
        cutouts = kept(photo, work.matte, refine, ())
        made = [*mattes(work, cutouts), *results(work, cutouts, Look(*choices))]
    except PhotoError as error:  # not raised, so that the last photo's pictures leave the page
        return nothing(say(str(error), bad=True))
    seconds = time.perf_counter() - start
    height, width = rough.photo.size
    text = f"Done in {seconds:.1f} s, {width} × {height} pixels."
    if not rough.found:
        text = "Nothing in this photo stands out as its subject: try another photo, or paint it in under 'Touch up'."
    shown = gr.skip() if Path(photo).suffix.lower() in SHOWN else preview
    return [shown, work, say(text, bad=not rough.found), *made]


def nothing(status: str) -> list[Any]:
    """The page without a photo to work on."""
    return [gr.skip(), None, status, None, None, None, None, gr.update(value=None, interactive=False)]


@plainly
def on_touch(work: Work | None, refine: bool, brush: Any, *choices: Any) -> list[Any]:
    """Another matte: refined or not, and with what the brush brought back or removed."""
    if work is None:
        return [gr.skip()] * 5
    strokes = painted(brush)
    cutouts = kept(work.photo, work.matte, refine, strokes)
    return [*mattes(work, cutouts, len(strokes)), *results(work, cutouts, Look(*choices))]


@plainly
def on_look(work: Work | None, refine: bool, brush: Any, *choices: Any) -> list[Any]:
    """Another background, frame or format for the matte at hand."""
    if work is None:
        return [gr.skip()] * 3
    return results(work, kept(work.photo, work.matte, refine, painted(brush)), Look(*choices))


def say(text: str, bad: bool = False) -> str:
    return f"<p{' class=bad' if bad else ''}>{html.escape(text)}</p>"


@plainly
def on_photos(photos: list[str] | None, *choices: Any) -> Iterator[list[Any]]:
    """Several photos, one after the other; what is done so far is shown, and kept."""
    photos = counted(photos)
    look, folder, start = Look(*choices), new_folder(), time.perf_counter()
    look.frame_of(BLANK).pixels(**look.under())  # what can't be made is told at once
    finished: list[str] = []
    shown: list[tuple[str, str]] = []
    failed: list[str] = []

    def save(cutout: Cutout, path: Path) -> None:
        framed = look.frame_of(cutout)
        look.save(framed, path)
        small = framed.preview(THUMBNAIL)
        shown.append((save_preview(small.pixels(**look.under()), str(path), "small", small.photo.icc), path.name))

    yield [[], progress(0, len(photos), 0.0, []), [], gr.update(interactive=False), *running(True)]
    for done, outcome in enumerate(remover.each(photos, folder, save, DOWNLOADS[look.format][0], refine=True), 1):
        if outcome.reason:
            failed.append(f"{outcome.name}: {outcome.reason}")
        if outcome.path:
            finished.append(str(outcome.path))
        text = progress(done, len(photos), time.perf_counter() - start, failed)
        yield [list(finished), text, list(shown), gr.skip(), gr.skip(), gr.skip()]


@plainly
def on_photos_done(finished: list[str] | None) -> list[Any]:
    """What is done, as one zip; after the last photo as well as after a stop."""
    if not finished:
        return [gr.skip(), *running(False)]
    path = str(new_folder() / "cutouts.zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in map(Path, finished):
            archive.write(file, file.name)
    return [gr.update(value=path, interactive=True), *running(False)]


def running(now: bool) -> tuple[Any, Any]:
    """The start and the stop button."""
    return gr.update(interactive=not now), gr.update(interactive=now)


def progress(done: int, count: int, seconds: float, failed: list[str]) -> str:
    left = f", about {seconds / done * (count - done):.0f} s left" if 0 < done < count else ""
    text = f"<p>{done} of {count} photos done{left}.</p><progress value={done} max={count}></progress>"
    if failed:
        text += f'<p class="bad">Please check {len(failed)}:</p>'
        text += "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in failed) + "</ul>"
    return text


# the parts of the layout that one photo and several have in common; `prefix` sets their elem_ids apart

QUIET: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}


def background_controls(prefix: str = "") -> list[Component]:
    kind = gr.Radio(
        BACKGROUNDS, value=BACKGROUNDS[0], label="Background", elem_id=f"{prefix}background", elem_classes=["swatches"]
    )
    only: dict[str, Component] = {
        "Colour": gr.ColorPicker("#2f6fed", label="Colour", visible=False, elem_id=f"{prefix}colour")
    }
    only["Image"] = photo_input(
        label="Background image", visible=False, height=200, sources=["upload"], elem_id=f"{prefix}backdrop"
    )
    only["Blur"] = gr.Slider(
        0.5, 10, 2, step=0.5, label="Blur, % of the longer side", visible=False, elem_id=f"{prefix}blur"
    )
    kind.change(lambda kind: [gr.update(visible=kind == name) for name in only], kind, list(only.values()), **QUIET)
    return [kind, *only.values()]


def frame_controls(prefix: str = "") -> list[Component]:
    with gr.Accordion("Crop and size", open=False, elem_id=f"{prefix}frame-section"):
        kind = gr.Radio(FRAMES, value=FRAMES[0], show_label=False, container=False, elem_id=f"{prefix}frame")
        with gr.Row():
            margin = gr.Slider(
                0, 50, 5, step=1, label="Margin, % of the subject", visible=False, elem_id=f"{prefix}margin"
            )
            width = gr.Number(1600, label="Width, pixels", precision=0, visible=False, elem_id=f"{prefix}width")
            height = gr.Number(1200, label="Height, pixels", precision=0, visible=False, elem_id=f"{prefix}height")
    kind.change(
        lambda kind: [gr.update(visible=FRAMES.index(kind) > n) for n in range(3)],
        kind,
        [margin, width, height],
        **QUIET,
    )
    return [kind, margin, width, height]


def format_control(prefix: str = "") -> gr.Dropdown:
    return gr.Dropdown(
        list(DOWNLOADS),
        value="PNG",
        label="Format",
        show_label=False,
        container=False,
        filterable=False,
        elem_id=f"{prefix}format",
        min_width=150,
    )


def status_line(name: str) -> gr.HTML:
    return gr.HTML("", html_template='<div class="say" role="status">${value}</div>', elem_id=name)


TOUCH_UP = {part: (ASSETS / f"touchup.{part}").read_text() for part in ("html", "css", "js")}

with gr.Blocks(title="Background remover", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as demo:
    with gr.Row(visible=False):  # what the API's endpoints take and give; the page has controls of its own
        api_image = photo_input(label="image")
        api_background = gr.Textbox("transparent", label="background")
        api_background_image = photo_input(label="background_image")
        api_matte = picture("matte")
        api_cutout = picture("cutout")
        api_photos = photos_input(label="photos")
        api_refine = gr.Checkbox(True, label="refine")
        api_given_matte = photo_input(label="matte")
        api_look: list[Any] = [
            api_background,
            api_background_image,
            gr.Number(BLUR, label="blur"),
            gr.Checkbox(label="crop"),
            gr.Number(MARGIN, label="margin"),
            gr.Number(0, label="width", precision=0),
            gr.Number(0, label="height", precision=0),
            gr.Dropdown(EXTENSIONS, label="format"),
            gr.Number(None, label="quality", precision=0),
        ]
        api_zip = gr.File(label="zip")
        api_report = gr.JSON(label="report")
        api_call = gr.Button()
    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    api_inputs = [api_image, api_background, api_background_image]
    api_call.click(predict, [api_image], [api_cutout], api_name="predict", **one_at_a_time)
    api_call.click(
        remove_background, api_inputs, [api_matte, api_cutout], api_name="remove_background", **one_at_a_time
    )
    api_call.click(cutout, api_inputs, [api_cutout], api_name="cutout", **one_at_a_time)
    api_call.click(matte_alone, [api_image, api_refine], [api_matte], api_name="matte", **one_at_a_time)
    api_call.click(edit, [api_image, api_given_matte, *api_look], [api_cutout], api_name="edit", concurrency_limit=2)
    # A batch does not hold the model's slot: the engine's lock lets single photos in between two of its own.
    api_call.click(
        batch, [api_photos, api_refine, *api_look], [api_zip, api_report], api_name="batch", concurrency_limit=1
    )

    gr.Markdown(
        "# Background remover\nDrop a photo: its subject comes back on a transparent background, in full size.",
        elem_id="title",
    )
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("One photo", id="one"):
            work = gr.State()
            with gr.Row(equal_height=True):
                photo = photo_input(
                    label="Photo", elem_id="photo", sources=["upload", "clipboard", "webcam"], height=380
                )
                matte = picture("Matte", elem_id="matte", height=380)
                result = picture("Cutout", elem_id="cutout", elem_classes=["checker"], height=380)
            with gr.Row(elem_classes=["bar"]):
                with gr.Column(scale=3, min_width=260):
                    status = status_line("status")
                file_format = format_control()
                download = gr.DownloadButton(
                    "Download", variant="primary", interactive=False, elem_id="download", min_width=150
                )
            backgrounds = background_controls()
            frames = frame_controls()
            with gr.Accordion("Touch up", open=False, elem_id="touchup-section"):
                refine = gr.Checkbox(
                    True, label="Refine edges: hair, fur and other fine detail", container=False, elem_id="refine"
                )
                touch = gr.HTML(
                    None,
                    html_template=TOUCH_UP["html"],
                    css_template=TOUCH_UP["css"],
                    js_on_load=TOUCH_UP["js"],
                    elem_id="touchup",
                )
            with gr.Accordion("Before and after", open=False, elem_id="compare-section"):
                compare = gr.ImageSlider(
                    show_label=False,
                    type="filepath",
                    interactive=False,
                    max_height=700,
                    buttons=["fullscreen"],
                    elem_id="compare",
                    elem_classes=["checker"],
                )
            gr.Examples(
                EXAMPLES,
                inputs=[photo],
                label="Examples",
                examples_per_page=12,
                elem_id="examples",
                api_visibility="private",
            )
        with gr.Tab("Several photos", id="several"):
            finished = gr.State()
            photos = photos_input(label="Photos", height=200, elem_id="photos")
            choose_folder = gr.UploadButton(
                "Choose a folder instead", file_count="directory", size="sm", elem_id="choose-folder"
            )
            choose_folder.preprocess = raw_uploads  # type: ignore[assignment, method-assign]
            batch_look: list[Any] = [*background_controls("batch-"), *frame_controls("batch-")]
            with gr.Row(elem_classes=["bar"]):
                batch_look.append(format_control("batch-"))
                start = gr.Button("Cut out all", variant="primary", elem_id="start", min_width=130)
                stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=130)
                zipped = gr.DownloadButton("Download zip", interactive=False, elem_id="zip", min_width=130)
            batch_status = status_line("batch-status")
            gallery = gr.Gallery(
                label="Cutouts",
                columns=5,
                fit_columns=False,
                height="auto",
                object_fit="contain",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="gallery",
                elem_classes=["checker"],
            )
    gr.Markdown(ABOUT, elem_id="about")

    look: list[Any] = [*backgrounds, *frames, file_format]
    looked = [result, compare, download]
    private: dict[str, Any] = {"api_visibility": "private"}
    edits: dict[str, Any] = {"trigger_mode": "always_last", "concurrency_limit": 2, "concurrency_id": "edit"}
    photo.change(
        on_photo,
        [photo, work, refine, *look],
        [photo, work, status, matte, touch, *looked],
        show_progress_on=[matte, result],
        **private,
        **one_at_a_time,
    )
    gr.on(
        [touch.input, refine.input],
        on_touch,
        [work, refine, touch, *look],
        [matte, touch, *looked],
        show_progress_on=[matte, result],
        **private,
        **edits,
    )
    gr.on(
        [control.change for control in look],
        on_look,
        [work, refine, touch, *look],
        looked,
        show_progress_on=[result],
        **private,
        **edits,
    )

    choose_folder.upload(
        lambda paths: [path for path in paths if not Path(path).name.startswith(".")], choose_folder, photos, **QUIET
    )
    run = start.click(
        on_photos,
        [photos, *batch_look],
        [finished, batch_status, gallery, zipped, start, stop],
        concurrency_limit=1,
        concurrency_id="batch",
        show_progress="hidden",
        **private,
    )
    done: dict[str, Any] = {"fn": on_photos_done, "inputs": [finished], "outputs": [zipped, start, stop], **private}
    run.then(**done)
    stop.click(None, cancels=[run], **private).then(**done)

demo.queue(api_open=False, max_size=64)
mcp_tools.install()

if __name__ == "__main__":
    demo.launch(
        css_paths=ASSETS / "style.css",
        js=(ASSETS / "labels.js").read_text(),
        theme=THEME,
        enable_monitoring=False,
        footer_links=["api"],
        max_file_size=MAX_BYTES,
        mcp_server=True,
        run_history=False,
        show_error=False,
        ssr_mode=False,
    )
