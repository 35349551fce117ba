"""The page's controls for how a result should look, and what they come to: a `Finish`.

One photo and several have them in common; `prefix` sets their elem_ids apart.
"""

from __future__ import annotations

import json
from typing import Any

import gradio as gr
from gradio.components import Component

from background_remover.compositing import BLUR
from background_remover.cutout import Finish
from background_remover.framing import MARGIN
from background_remover.page.components import photo_input
from background_remover.page.files import Upload

COLOURS = {"White": "#ffffff", "Light grey": "#f2f2f2", "Black": "#000000"}
BACKGROUNDS = ["Transparent", *COLOURS, "Colour", "Image", "Blur"]
FRAMES = ["Whole photo", "Subject", "Square", "Custom size"]
DOWNLOADS: dict[str, tuple[str, int | None]] = {  # format and quality
    "PNG": ("png", None),
    "WebP lossless": ("webp", None),
    "WebP small": ("webp", 90),
    "JPEG": ("jpg", None),
}
PRIVATE: dict[str, Any] = {"api_visibility": "private"}


def show_for(kind: gr.Radio, choices: dict[Component, list[str]]) -> None:
    """Show each component for some choices alone; in the browser, where nobody waits for it."""
    names = json.dumps([*choices.values()])
    updates = f"(kind) => {names}.map((some) => ({{ visible: some.includes(kind), __type__: 'update' }}))"
    kind.change(None, kind, [*choices], js=updates, **PRIVATE)


def background_controls(prefix: str = "") -> list[Component]:
    """Which background, and what belongs to the one that is chosen."""
    kind = gr.Radio(
        BACKGROUNDS, value=BACKGROUNDS[0], label="Background", elem_id=f"{prefix}background", elem_classes=["swatches"]
    )
    only: dict[str, Component] = {
        "Colour": gr.ColorPicker("#2f6fed", label="Colour", visible=False, elem_id=f"{prefix}colour"),
        "Image": photo_input(
            label="Background image", visible=False, height=200, sources=["upload"], elem_id=f"{prefix}backdrop"
        ),
        "Blur": gr.Slider(
            0.5,
            10,
            round(100 * BLUR, 1),
            step=0.5,
            label="Blur, % of the longer side",
            visible=False,
            elem_id=f"{prefix}blur",
        ),
    }
    show_for(kind, {component: [name] for name, component in only.items()})
    return [kind, *only.values()]


def frame_controls(prefix: str = "") -> list[Component]:
    """What is shown, with which margin, on a canvas of which size."""
    with gr.Accordion("Crop and size", open=False, elem_id=f"{prefix}frame-section"):
        kind = gr.Radio(FRAMES, value=FRAMES[0], show_label=False, container=False, elem_id=f"{prefix}frame")
        with gr.Row():
            margin = gr.Slider(
                0,
                50,
                round(100 * MARGIN),
                step=1,
                label="Margin, % of the subject",
                visible=False,
                elem_id=f"{prefix}margin",
            )
            width = gr.Number(1600, label="Width, pixels", precision=0, visible=False, elem_id=f"{prefix}width")
            height = gr.Number(1200, label="Height, pixels", precision=0, visible=False, elem_id=f"{prefix}height")
    show_for(kind, {margin: FRAMES[1:], width: FRAMES[2:], height: FRAMES[3:]})
    return [kind, margin, width, height]


def format_control(prefix: str = "") -> gr.Dropdown:
    """Format and quality, in one choice."""
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


def read_controls(
    background: str,
    colour: str,
    backdrop: Upload | None,
    blur: float,
    frame: str,
    margin: float,
    width: float | None,
    height: float | None,
    download: str,
) -> Finish:
    """What a visitor chose, in the page's words and percents, as a `Finish`."""
    words = {"Transparent": "transparent", **COLOURS, "Colour": colour, "Blur": "blur", "Image": "transparent"}
    square, custom = frame == "Square", frame == "Custom size"
    form, quality = DOWNLOADS[download]
    return Finish(
        background=words[background],
        background_image=backdrop if background == "Image" else None,
        blur=blur / 100,
        crop=frame != FRAMES[0],
        margin=margin / 100,
        width=int(width or 0) if square or custom else 0,
        height=int(height or 0) if custom else 0,
        format=form,
        quality=quality,
    )
