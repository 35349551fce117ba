"""The page and the API: drop a photo, see its matte and its cutout, take them home."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read at Gradio's import; no request leaves the machine
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import spaces  # before torch, which it patches on a ZeroGPU Space  # isort: skip

import base64
import binascii
import functools
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData

from engines import EngineError
from pipeline import BackgroundRemover, Cutout
from utilities import MAX_BYTES, PhotoError, open_photo, save_pixels
from weights import WeightsError

logging.basicConfig(level=logging.INFO, format="%(message)s")
logger = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)

try:
    remover = BackgroundRemover.from_pretrained(on_device=spaces.GPU(duration=15))
except (WeightsError, EngineError) as error:
    raise SystemExit(str(error)) from None

EXAMPLES = sorted(str(path) for path in (Path(__file__).parent / "examples").glob("*.[jp][pn]g"))
Upload = str | bytes  # a path in Gradio's upload folder, or the content of a data: URL

BACKGROUNDS = ["Transparent", "Colour", "Image", "Blur"]
ABOUT = " · ".join(
    (
        f"Weights: **{remover.weights.name}**",
        f"Licence: {remover.weights.licence}",
        f"Running on: {remover.engine}",
    )
) + (f"\n\n{remover.weights.note}" if remover.weights.note else "")

# The checkerboard stands behind every picture with alpha; a picture without alpha covers it.
CSS = """
.checker img { background: repeating-conic-gradient(#ccc 0 25%, #fff 0 50%) 0 / 20px 20px !important; }
"""


def photo_input(**kwargs: Any) -> gr.Image:
    """An image component that hands the upload over as it is: `utilities.open_photo` decides what is a photo."""
    component = gr.Image(type="filepath", image_mode=None, buttons=["fullscreen"], **kwargs)
    component.preprocess = raw_upload  # type: ignore[assignment, method-assign]
    return component


def raw_upload(payload: ImageData | None) -> str | bytes | None:
    """The upload's path, or its bytes where a client sent a data: URL."""
    if payload is None:
        return None
    if payload.url and payload.url.startswith("data:"):
        try:
            return base64.b64decode(payload.url.partition(",")[2], validate=True)
        except binascii.Error:
            return b"not a photo"
    return payload.path


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


def plainly(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Tell the visitor what is wrong in one sentence; what is our fault goes to the log alone."""

    @functools.wraps(handler)
    def told(*args: Any) -> Any:
        try:
            return handler(*args)
        except PhotoError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except Exception:
            logger.exception("%s failed", handler.__name__)
            message = "Something went wrong here: try again, or try another photo."
            raise gr.Error(message, print_exception=False) from None

    return told


def file_for(photo: Upload, what: str) -> str:
    """A PNG's path, named after the upload, where Gradio serves it from: in a folder that nobody can guess."""
    stem = re.sub(r"[^\w.-]+", "-", Path(photo).stem)[:80] if isinstance(photo, str) else "photo"
    folder = Path(demo.GRADIO_CACHE) / secrets.token_urlsafe(16)
    folder.mkdir(parents=True)
    return str(folder / f"{stem}-{what}.png")


def cut(photo: Upload | None) -> Cutout:
    if photo is None:
        raise PhotoError("There is no photo yet: choose one first.")
    return remover(photo)


def save_matte(cutout: Cutout, photo: Upload) -> str:
    path = file_for(photo, "matte")
    save_pixels(cutout.alpha, path)
    return path


def save_cutout(cutout: Cutout, photo: Upload, background: str, image: Upload | None) -> str:
    """On "transparent", "blur" or a CSS colour, or on an image, which wins if there is one."""
    path = file_for(photo, "cutout")
    if image is not None:
        cutout.save(path, Path(image) if isinstance(image, str) else image)
    else:
        cutout.save(path, None if background == "transparent" else background)
    return path


# --- the API: names, parameters, their order and outputs are a contract (tests/test_app.py) -------------


@plainly
def predict(image: Upload) -> str:
    """Cut the subject out of a photo: a PNG with transparent background at the photo's size."""
    return save_cutout(cut(image), image, "transparent", None)


@plainly
def remove_background(
    image: Upload, background: str = "transparent", background_image: Upload | None = None
) -> tuple[str, str]:
    """The matte of a photo and its subject on a background, both as PNGs at the photo's size.

    background: "transparent", "blur" (the photo's own background, blurred) or a CSS colour such as "#ffffff".
    background_image: an image to put the subject on; it fills the frame and wins over `background`.
    """
    result = cut(image)
    return save_matte(result, image), save_cutout(result, image, background, background_image)


@plainly
def cutout(image: Upload, background: str = "transparent", background_image: Upload | None = None) -> str:
    """The subject of a photo on a background, as one PNG; the parameters are those of /remove_background."""
    return save_cutout(cut(image), image, background, background_image)


# --- the page -------------------------------------------------------------------------------------------


def background_choice(kind: str, colour: str, image: Upload | None) -> tuple[str, Upload | None]:
    """What the page's controls mean in the API's terms: background, background_image."""
    return {"Colour": colour, "Blur": "blur"}.get(kind, "transparent"), image if kind == "Image" else None


@plainly
def on_photo(photo: Upload | None, kind: str, colour: str, image: Upload | None) -> tuple[str | None, str | None, str]:
    if photo is None:
        return None, None, ABOUT
    start = time.perf_counter()
    try:
        result = cut(photo)
    except PhotoError as error:  # not raised, so that the last photo's pictures leave the page
        gr.Warning(str(error))
        return None, None, f"**{error}**\n\n{ABOUT}"
    seconds = time.perf_counter() - start
    height, width = result.photo.size
    done = f"**Done in {seconds:.1f} s**, {width} × {height} pixels."
    if not result.found:
        done = "**Nothing in this photo stands out as its subject**, so the matte is empty: try another photo."
    placed = save_cutout(result, photo, *background_choice(kind, colour, image))
    return save_matte(result, photo), placed, f"{done}\n\n{ABOUT}"


@plainly
def on_background(photo: Upload | None, matte: str | None, kind: str, colour: str, image: Upload | None) -> str | None:
    """Another background for the matte at hand; the network is not asked again."""
    if photo is None or matte is None:
        return None
    opened = open_photo(photo)
    alpha = open_photo(matte).rgb[..., 0]
    if alpha.shape != opened.size:  # a new photo is on its way, and its own event brings the picture
        return None
    result = Cutout.from_matte(opened, alpha)
    return save_cutout(result, photo, *background_choice(kind, colour, image))


def on_kind(kind: str) -> tuple[Any, Any]:
    return gr.update(visible=kind == "Colour"), gr.update(visible=kind == "Image")


with gr.Blocks(title="Background remover", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as demo:
    with gr.Row(visible=False):  # what the API's endpoints take and give; the page has controls of its own
        api_image = photo_input(label="image")
        api_background = gr.Textbox("transparent", label="background")
        api_background_image = photo_input(label="background_image")
        api_matte = picture("matte")
        api_cutout = picture("cutout")
        api_call = gr.Button()
    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "model"}
    api_inputs = [api_image, api_background, api_background_image]
    api_call.click(predict, [api_image], [api_cutout], api_name="predict", **one_at_a_time)
    api_call.click(
        remove_background, api_inputs, [api_matte, api_cutout], api_name="remove_background", **one_at_a_time
    )
    api_call.click(cutout, api_inputs, [api_cutout], api_name="cutout", **one_at_a_time)

    gr.Markdown("# Background remover\nDrop a photo: its subject comes back on a transparent background, in full size.")
    with gr.Row(equal_height=True):
        photo = photo_input(label="Photo", elem_id="photo", sources=["upload", "clipboard"], height=420)
        matte = picture("Matte", elem_id="matte", height=420)
        result = picture("Cutout", elem_id="cutout", elem_classes=["checker"], height=420)
    with gr.Row():
        kind = gr.Radio(BACKGROUNDS, value=BACKGROUNDS[0], label="Background", elem_id="background")
        colour = gr.ColorPicker("#ffffff", label="Colour", elem_id="colour", visible=False)
        backdrop = photo_input(label="Background image", elem_id="backdrop", visible=False, height=160)
    status = gr.Markdown(ABOUT, elem_id="status")
    gr.Examples(EXAMPLES, inputs=[photo], label="Examples", examples_per_page=12, elem_id="examples")

    private: dict[str, Any] = {"api_visibility": "private"}
    photo.change(on_photo, [photo, kind, colour, backdrop], [matte, result, status], **private, **one_at_a_time)
    kind.change(on_kind, [kind], [colour, backdrop], queue=False, show_progress="hidden", **private)
    gr.on(
        [kind.change, colour.change, backdrop.change],
        on_background,
        [photo, matte, kind, colour, backdrop],
        [result],
        trigger_mode="always_last",
        **private,
    )

demo.queue(api_open=False, max_size=64)

if __name__ == "__main__":
    demo.launch(
        css=CSS,
        theme=gr.themes.Default(font="system-ui", font_mono="monospace"),
        enable_monitoring=False,
        footer_links=["api"],
        max_file_size=MAX_BYTES,
        run_history=False,
        show_error=False,
        ssr_mode=False,
    )
