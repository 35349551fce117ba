"""Gradio's components made to fit: inputs that open nothing by themselves.

They are subclasses with `is_template`, so that Gradio's page draws them as what they derive from, the API names them
so, and a component that Gradio builds anew for a visitor keeps its class. They have no constructor of their own, from
whose signature Gradio would build them; the functions below make them with what all of ours have in common.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData, ListFiles

from background_remover.cutout import Finish
from background_remover.page.bodies import STORED, stored_path
from background_remover.page.files import Upload, file_store
from background_remover.page.requests import plain_errors

ASSETS = Path(__file__).parent
FORMATS = {"png": "PNG", "webp": "lossless WebP", "jpg": "JPEG", "tif": "TIFF"}  # of `Finish.format`

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


# --- inputs: what a client names is only ever a file that was uploaded, see `FileStore.admit` ---


class PhotoInput(gr.Image):
    """Hands the upload over as it is: `photos.open_photo` decides what is a photo."""

    is_template = True

    def preprocess(self, payload: ImageData | None) -> Upload | None:
        """The upload's path; that of a data: URL is where `bodies` has put it."""
        if payload is None:
            return None
        url, path = payload.url or "", payload.path
        if url.startswith("data:"):
            path = str(stored_path(url)) if url.startswith(STORED) else None
        with plain_errors("an upload"):
            return file_store().admit(path) if path else None


class PhotosInput(gr.File):
    """Hands the paths of several uploads over."""

    is_template = True

    def preprocess(self, payload: ListFiles | None) -> list[str]:  # type: ignore[override]
        """The uploads' paths."""
        return admit_all(payload)


def admit_all(payload: ListFiles | None) -> list[str]:
    """The paths of several uploads. Raises gr.Error if one is none."""
    with plain_errors("an upload"):
        return [file_store().admit(file.path) for file in payload or ()]


def photo_input(**kwargs: Any) -> PhotoInput:
    """An input for one photo, in any format."""
    return PhotoInput(type="filepath", image_mode=None, buttons=["fullscreen"], **kwargs)


def photos_input(**kwargs: Any) -> PhotosInput:
    """An input for several photos."""
    return PhotosInput(file_count="multiple", **kwargs)


# --- outputs ---


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


def status_line(name: str) -> gr.HTML:
    """A line that screen readers read out when it changes."""
    return gr.HTML("", html_template='<div class="say" role="status">${value}</div>', elem_id=name)


def status_text(text: str, bad: bool = False) -> str:
    """A status line's HTML."""
    return f"<p{' class=bad' if bad else ''}>{html.escape(text)}</p>"


def describe(finish: Finish, size: Sequence[int], byte_count: int = 0, took: float = 0.0) -> str:
    """What a download will be: its format, its size in pixels and, once it is known, in bytes; how long it took."""
    name = FORMATS[finish.format] if finish.quality is None or finish.format != "webp" else "small WebP"
    weight = f", {size_text(byte_count)}" if byte_count else ""
    return f"{f'Done in {took:.1f} s: ' if took else ''}{name}, {size[0]} × {size[1]} pixels{weight}."


def size_text(byte_count: int) -> str:
    """Bytes in kB or MB, as file managers have them."""
    return f"{byte_count / 1e3:.0f} kB" if byte_count < 999_500 else f"{byte_count / 1e6:.1f} MB"


def custom(name: str, **kwargs: Any) -> gr.HTML:
    """A component of our own: the HTML, the styles and the script of that name beside this file."""
    html_template, css_template, js_on_load = (
        (ASSETS / f"{name}.{part}").read_text() for part in ("html", "css", "js")
    )
    return gr.HTML(
        None,
        html_template=html_template,
        css_template=css_template,
        js_on_load=js_on_load,
        elem_classes=[name],
        **kwargs,
    )


def head() -> str:
    """What stands in the page's head: what all its parts share, before any of them."""
    return f"<script>{(ASSETS / 'page.js').read_text()}</script>"
