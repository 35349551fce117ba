"""Gradio's components made to fit: inputs that open nothing by themselves.

They are subclasses with `is_template`, so that Gradio's page draws them as what they derive from, the API names them
so, and a component that Gradio builds anew for a visitor keeps its class. They have no constructor of their own, from
whose signature Gradio would build them; the functions below make them with what all of ours have in common.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.data_classes import ImageData, ListFiles

from background_remover.cutout import Finish
from background_remover.page.bodies import MAX_BYTES, MAX_FILES, STORED, stored_path
from background_remover.page.files import Upload, file_store, read_names
from background_remover.page.requests import plain_errors
from background_remover.page.words import LANGUAGES
from background_remover.presets import Finding, Preset
from background_remover.subjects import MAX_POINTS
from background_remover.weights import Weights

ASSETS = Path(__file__).parent
ENLARGED = 1.05  # times larger than its photo has it, from which that is told
FINE, NOT_FINE = "this file is what is asked for", "this file is not what is asked for"
NOT_FOUND = "Nothing in this photo stands out as the subject: try another photo, or paint it in with 'Touch up'."
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


def in_order(folder: Path) -> list[Path]:
    """The example photos of a folder, in the order of their credits, the clearest first."""
    credits_file = folder / "CREDITS.md"
    names = re.findall(r"^\| `(.+?)`", credits_file.read_text(), re.MULTILINE) if credits_file.is_file() else []
    return [folder / name for name in names]


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


def describe(finish: Finish, made: Mapping[str, Any], took: float, advice: str = "") -> str:
    """A status line's HTML: what a download will be, and how many seconds it took to show it.

    `made` has its "size" in pixels, how many times it is "enlarged", once it is known how many "bytes" it has, and
    whether a subject was "found".
    """
    if not made["found"]:
        return status_text(NOT_FOUND, bad=True)
    name = FORMATS[finish.format] if finish.quality is None or finish.format != "webp" else "small WebP"
    width, height = made["size"]
    more = f", enlarged {made['enlarged']:.1f} ×" if made["enlarged"] >= ENLARGED else ""
    weight = f", {size_text(made['bytes'])}" if "bytes" in made else ""
    text = status_text(f"Done in {took:.1f} s: {name}, {width} × {height} pixels{more}{weight}.")
    return text + (f'<p class="advice">{html.escape(advice)}</p>' if advice else "")


def findings_text(preset: Preset, findings: list[Finding]) -> str:
    """The HTML of whether a file is what a shop asks for, and why not."""
    lines = [
        f"<li class={'good' if finding.ok else 'bad'}>{html.escape(finding.text)}"
        f"{'' if finding.verified else ' <small>(typical)</small>'}</li>"
        for finding in findings
    ]
    fine = all(finding.ok for finding in findings)
    outcome = FINE if fine else NOT_FINE
    title = f"{html.escape(preset.title)}: {outcome}"
    note = f"<p>{html.escape(preset.rule.note)}</p>" if preset.rule.note else ""
    return f"<details{'' if fine else ' open'}><summary>{title}</summary><ul>{''.join(lines)}</ul>{note}</details>"


def size_text(byte_count: int) -> str:
    """Bytes in kB or MB, as file managers have them."""
    return f"{byte_count / 1e3:.0f} kB" if byte_count < 999_500 else f"{byte_count / 1e6:.1f} MB"


def custom(name: str, *scripts: str, **kwargs: Any) -> gr.HTML:
    """A component of our own: the HTML, the styles and the script of that name beside this file.

    The other `scripts` become one with it, before it: they define what it uses.
    """
    html_template, css_template = ((ASSETS / f"{name}.{part}").read_text() for part in ("html", "css"))
    js_on_load = "\n".join((ASSETS / f"{script}.js").read_text() for script in (*scripts, name))
    return gr.HTML(
        None,
        html_template=html_template,
        css_template=css_template,
        js_on_load=js_on_load,
        elem_classes=[name],
        **kwargs,
    )


def link_tags(title: str, text: str, picture: str) -> str:
    """The tags in the page's head by which others show a link to it; `picture` is its path on this server."""
    hosts = [*read_names("SPACE_HOST"), *read_names("RMBG_HOSTS")]  # only a whole address finds it from elsewhere
    picture = f"https://{hosts[0]}{picture}" if hosts else picture
    tags = {"og:title": title, "og:description": text, "og:image": picture, "og:type": "website"}
    lines = [f'<meta property="{name}" content="{html.escape(value)}">' for name, value in tags.items()]
    lines.append(f'<meta name="description" content="{html.escape(text)}">')
    lines.append('<meta name="twitter:card" content="summary_large_image">')
    return "\n".join(lines)


def head(lifetime: float) -> str:
    """What stands in the page's head, before all its parts, which share it; files are kept for `lifetime` seconds."""
    limits = {"bytes": MAX_BYTES, "files": MAX_FILES, "points": MAX_POINTS, "seconds": lifetime}
    parts = "\n".join((ASSETS / name).read_text() for name in ("words.js", "page.js"))
    script = f"const LANGUAGES = {json.dumps(LANGUAGES)};\n{parts}\npage.limits = {json.dumps(limits)};"
    # Gradio would have this rule for what is within the page alone: the button for the download covers what is there.
    style = "@media (max-width: 640px) { html { scroll-padding-bottom: 72px; } }"
    return f"<style>{style}</style><script>(() => {{{script}}})()</script>"


def about(weights: Weights, engine: str) -> str:
    """Which weights these are; their licence is always shown."""
    lines = [f"Weights: <b>{html.escape(weights.name)}</b>", f"Running on: {html.escape(engine)}"]
    lines += [html.escape(weights.note)] if weights.note else []
    text = "".join(f"<p>{line}</p>" for line in lines)
    return f"<details><summary>Licence of the weights: {html.escape(weights.licence)}</summary>{text}</details>"


def privacy(lifetime: float) -> str:
    """Where photos are, and how long, in seconds: on the visitor's computer only if the server is there alone."""
    minutes = f"{lifetime / 60:.0f} minutes" if lifetime < 7200 else f"{lifetime / 3600:.0f} hours"
    remote = (
        f"<span class=remote>Photos are worked on on this server, and deleted {minutes} after their last use.</span>"
    )
    name = os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    shared = os.environ.get("GRADIO_SHARE") == "True" or "SPACE_ID" in os.environ
    if shared or name not in ("127.0.0.1", "localhost", "::1"):
        return remote
    return f"<span class=local>Photos stay on this computer.</span>{remote}"
