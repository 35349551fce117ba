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
from background_remover.presets import PRESETS, Preset
from background_remover.shadows import DIRECTION, SOFTNESS, SOFTNESSES, STRENGTH

COLOURS = {"White": "#ffffff", "Light grey": "#f2f2f2", "Black": "#000000"}
BACKGROUNDS = ["Transparent", *COLOURS, "Colour", "Image", "Blur"]
SHADOW_KINDS = {"None": "none", "Drop": "drop", "Contact": "contact"}  # as `Finish` has them
NO_PRESET = "Any use"
SHOPS = {preset.title: preset for preset in PRESETS.values()}
FRAMES = ["Whole photo", "Subject", "Square", "Custom size"]
DOWNLOADS: dict[str, tuple[str, int | None]] = {  # format and quality
    "PNG": ("png", None),
    "WebP lossless": ("webp", None),
    "WebP small": ("webp", 90),
    "JPEG": ("jpg", None),
}
SOLID = False  # whether 'Whole subject' is on until a visitor chooses
PRIVATE: dict[str, Any] = {"api_visibility": "private"}


def show_for(kind: gr.Radio, choices: dict[Component, list[str]]) -> None:
    """Show each component for some choices alone; in the browser, where nobody waits for it."""
    names = json.dumps([*choices.values()])
    updates = f"(kind) => {names}.map((some) => ({{ visible: some.includes(kind), __type__: 'update' }}))"
    kind.change(None, kind, [*choices], js=updates, show_progress="hidden", **PRIVATE)


def preset_control(prefix: str = "") -> gr.Dropdown:
    """For which shop or site the result is, see `presets`."""
    return gr.Dropdown(
        [NO_PRESET, *SHOPS], value=NO_PRESET, label="Ready for", filterable=False, elem_id=f"{prefix}preset"
    )


def apply_presets(preset: gr.Dropdown, controls: list[Component]) -> None:
    """Let the choice of a preset set the controls, which can be changed afterwards; in the browser.

    `controls` are those of `read_controls` from the background to the format, without the shadow's.
    """

    def values(preset: Preset) -> list[Any]:
        names = {colour: name for name, colour in COLOURS.items()}
        return [names[preset.background], None, None, None, "Custom size", round(100 * preset.margin), preset.width,
                preset.height, "JPEG"]  # fmt: skip

    table = json.dumps({title: values(shop) for title, shop in SHOPS.items()})
    update = "(value) => value === null ? { __type__: 'update' } : value"
    script = f"(title) => (({table})[title] || Array({len(controls)}).fill(null)).map({update})"
    preset.input(None, preset, controls, js=script, show_progress="hidden", **PRIVATE)


def shadow_controls(prefix: str = "") -> list[Component]:
    """Which shadow, and how it is."""
    with gr.Accordion("Shadow", open=False, elem_id=f"{prefix}shadow-section"):
        kind = gr.Radio([*SHADOW_KINDS], value="None", show_label=False, container=False, elem_id=f"{prefix}shadow")
        with gr.Row():
            strength = gr.Slider(
                0, 100, round(100 * STRENGTH), step=1, label="Strength, %", visible=False, elem_id=f"{prefix}strength"
            )
            softness = gr.Slider(
                100 * SOFTNESSES[0],
                100 * SOFTNESSES[1],
                100 * SOFTNESS,
                step=0.5,
                label="Softness, % of the subject",
                visible=False,
                elem_id=f"{prefix}softness",
            )
            direction = gr.Slider(
                0, 360, DIRECTION, step=5, label="Direction, degrees", visible=False, elem_id=f"{prefix}direction"
            )
    show_for(kind, {strength: ["Drop", "Contact"], softness: ["Drop", "Contact"], direction: ["Drop"]})
    return [kind, strength, softness, direction]


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
    preset: str,
    background: str,
    colour: str,
    backdrop: Upload | None,
    blur: float,
    frame: str,
    margin: float,
    width: float | None,
    height: float | None,
    shadow: str,
    strength: float,
    softness: float,
    direction: float,
    download: str,
) -> Finish:
    """What a visitor chose, in the page's words and percents, as a `Finish`."""
    words = {"Transparent": "transparent", **COLOURS, "Colour": colour, "Blur": "blur", "Image": "transparent"}
    square, custom = frame == "Square", frame == "Custom size"
    form, quality = DOWNLOADS[download]
    shop = SHOPS.get(preset)
    return Finish(
        background=words[background],
        background_image=backdrop if background == "Image" else None,
        blur=blur / 100,
        crop=frame != FRAMES[0],
        margin=margin / 100,
        width=int(width or 0) if square or custom else 0,
        height=int(height or 0) if custom else 0,
        format=form,
        quality=shop.quality if shop and form == shop.format else quality,
        clean=shop is not None,
        shadow=SHADOW_KINDS[shadow],
        shadow_strength=strength / 100,
        shadow_softness=softness / 100,
        shadow_direction=direction,
    )


def read_preset(preset: str, *_: Any) -> Preset | None:
    """The preset among the values of the controls."""
    return SHOPS.get(preset)


def advice(_: str, background: str, __: str, backdrop: Upload | None, *others: Any) -> str:
    """What a visitor should know of a choice that is not quite what it seems; nothing for others."""
    if background == "Image" and backdrop is None:
        return "Choose an image to put behind the subject: until then nothing is there."
    if others[-1] == "JPEG" and background in ("Transparent", "Image"):
        return "A JPEG can't be transparent: it is white there. Choose PNG or WebP to keep it."
    return ""
