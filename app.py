"""The page and the API: drop a photo, see its matte and its cutout, take them home."""

from __future__ import annotations

import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # read at Gradio's import; no request leaves the machine
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "100")  # it remembers so many calls
os.environ.setdefault("FORWARDED_ALLOW_IPS", "")  # whether a proxy is believed is for `page.guard` to say

import spaces  # before torch, which it patches on a ZeroGPU Space  # isort: skip
from background_remover.page.files import SettingError, Upload, choose_folder, file_store, write_zip  # isort: skip

choose_folder()  # before Gradio's components, which ask for it

import inspect
import logging
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.responses import FileResponse
from starlette.routing import Route

import background_remover
from background_remover import (
    BackgroundRemover,
    Cutout,
    EngineError,
    Finish,
    WeightsError,
    monitoring,
)
from background_remover.choices import BACKGROUND_IMAGE, TEXTS
from background_remover.compositing import BLUR
from background_remover.framing import MARGIN
from background_remover.page import editing, gradio_overrides, several
from background_remover.page.blocks import CheckedBlocks
from background_remover.page.bodies import MAX_BYTES, MAX_FILES, fetch_upload
from background_remover.page.components import (
    THEME,
    about,
    custom,
    head,
    in_order,
    link_tags,
    photo_input,
    photos_input,
    picture,
    privacy,
    status_line,
    status_text,
)
from background_remover.page.controls import (
    PRIVATE,
    SOLID,
    apply_presets,
    background_controls,
    format_control,
    frame_controls,
    preset_control,
    read_controls,
    shadow_controls,
)
from background_remover.page.guard import client_address, listeners
from background_remover.page.pictures import (
    recent,
    save_cutout,
    save_matte,
)
from background_remover.page.requests import by_name, plain_errors, plainly
from background_remover.page.state import read_number
from background_remover.page.turns import (
    BatchTurns,
    check_count,
    check_wanted,
    sandbox,
    scheduler,
    turn,
)
from background_remover.page.words import words_routes
from background_remover.pipeline import EXAMPLES as PHOTOS
from background_remover.routes import routes
from background_remover.scheduler import WAITING, Kind
from background_remover.shadows import DIRECTION, SHADOWS, SOFTNESS, STRENGTH

logging.basicConfig(level=logging.INFO, format="%(message)s")
for chatty in ("httpx", "mcp"):
    logging.getLogger(chatty).setLevel(logging.WARNING)

background_remover.keep_freed_memory()
try:
    file_store()
    sandbox()
    remover = BackgroundRemover.from_pretrained(on_device=spaces.GPU(duration=10), between_steps=check_wanted)
    remover.engine.warm_up()
except (SettingError, WeightsError, EngineError) as error:
    raise SystemExit(str(error)) from None

PACKAGE = Path(background_remover.__file__).parent
EXAMPLES = file_store().add_examples(in_order(PHOTOS))
# Calls that Gradio holds at once: more than `scheduler` admits, so that it is what refuses.
MAX_EVENTS = sum(most for *_, most in WAITING.values()) + 64
MAX_SESSIONS = 1000  # visitors whose photo at hand is remembered; each takes a few kB
ENDING = 10.0  # seconds that work in hand has when the server is told to end

TITLE = "Background remover"
TEXT = "Drop a photo: its subject comes back on a transparent background, at full size."
PICTURE = PACKAGE / "page" / "preview.jpg"
ABOUT = about(remover.weights, str(remover.engine))
PRIVACY = privacy(file_store().lifetime)


# --- the API: names, parameters, their order and outputs are a contract (tests/test_api.py) -------------

# What Gradio's documentation and the tools of `mcp_tools` say of a parameter, in every endpoint that has it.
PARAMETERS = {
    "image": "the photo; for /edit without a matte, a cutout with transparency as /cutout gives it.",
    "photos": f"the photos, up to {MAX_FILES}; if one can't be read, the report says why and the others go on.",
    "matte": "what /matte gave for the photo; leave it out for a cutout.",
    "background_image": f"{BACKGROUND_IMAGE}.",
    **{name: f"{text}." for name, text in TEXTS.items()},
    "blur": f"{TEXTS['blur']}; for /edit it needs photo and matte.",
    "format": f'"png", "webp" or "jpg", {TEXTS["format"]}.',
}


def endpoint(kind: Kind) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A handler of the API: a job of that kind, its parameters described as Gradio reads it."""

    def describe(handler: Callable[..., Any]) -> Callable[..., Any]:
        lines = [f"    {name}: {PARAMETERS[name]}" for name in inspect.signature(handler).parameters]
        handler.__doc__ = "\n".join([inspect.getdoc(handler) or "", "", "Args:", *lines])
        return plainly(kind)(handler)

    return describe


@endpoint("photo")
def predict(image: Upload, refine: bool = False, solid: bool = False, box: str = "", points: str = "") -> str:
    """Cut the subject out of a photo: a PNG with a transparent background, at the photo's size."""
    with turn(image, Finish()) as opened:
        result = remover(opened.photo, refine=refine, solid=solid, box=box, points=points)
        return save_cutout(result, image, opened.finish)


@endpoint("photo")
def remove_background(
    image: Upload,
    background: str = "transparent",
    background_image: Upload | None = None,
    refine: bool = False,
    solid: bool = False,
    box: str = "",
    points: str = "",
) -> tuple[str, str]:
    """The matte of a photo and its subject on a background, both as PNGs at the photo's size."""
    with turn(image, Finish(background, background_image)) as opened:
        result = remover(opened.photo, refine=refine, solid=solid, box=box, points=points)
        return save_matte(result, image), save_cutout(result, image, opened.finish)


@endpoint("photo")
def cutout(
    image: Upload,
    background: str = "transparent",
    background_image: Upload | None = None,
    refine: bool = False,
    solid: bool = False,
    box: str = "",
    points: str = "",
) -> str:
    """Remove the background of a photo: its subject on transparency or on another background, as one PNG."""
    with turn(image, Finish(background, background_image)) as opened:
        result = remover(opened.photo, refine=refine, solid=solid, box=box, points=points)
        return save_cutout(result, image, opened.finish)


@endpoint("photo")
def matte(image: Upload, refine: bool = True, solid: bool = False, box: str = "", points: str = "") -> str:
    """The alpha matte of a photo, as a grey PNG at the photo's size: 255 is subject, 0 background, the rest partial.

    Without `refine` it is the matte that /cutout uses.
    """
    with turn(image, Finish()) as opened:
        return save_matte(remover(opened.photo, refine=refine, solid=solid, box=box, points=points), image)


@endpoint("edit")
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
    shadow: str = "none",
    shadow_strength: float = STRENGTH,
    shadow_softness: float = SOFTNESS,
    shadow_direction: float = DIRECTION,
    clean: bool = False,
) -> str:
    """Change an earlier cutout, without running the network again: its background, crop, size and format."""
    shadows = shadow, shadow_strength, shadow_softness, shadow_direction
    size = crop, margin, width, height
    finish = Finish(background, background_image, blur, *size, format, quality, "cutout", *shadows, clean)
    with turn(image, finish, matte) as opened:
        return save_cutout(Cutout.open(opened.photo, opened.matte), image, opened.finish)


@endpoint("batch")
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
    shadow: str = "none",
    shadow_strength: float = STRENGTH,
    shadow_softness: float = SOFTNESS,
    shadow_direction: float = DIRECTION,
    clean: bool = False,
    solid: bool = False,
) -> Iterator[tuple[str | None, list[dict[str, str | None]]]]:
    """Cut the subjects out of several photos: a zip of the results, and what became of each photo.

    The report grows as photos finish; the zip, which is null if no photo could be cut out, comes last.
    """
    check_count(photos)
    shadows = shadow, shadow_strength, shadow_softness, shadow_direction
    size = crop, margin, width, height
    turns = BatchTurns(Finish(background, background_image, blur, *size, format, quality, "cutout", *shadows, clean))
    folder = file_store().new_folder()
    report: list[dict[str, str | None]] = []
    try:
        for outcome in remover.each(
            photos, folder, turns.save, turns.finish.suffix, turns.open, refine=refine, solid=solid
        ):
            file = outcome.path.name if outcome.path else None
            report.append({"name": outcome.name, "file": file, "reason": outcome.reason or None})
            yield None, report
        files = [folder / entry["file"] for entry in report if entry["file"]]
        archive = write_zip(files, file_store().new_folder() / "cutouts.zip") if files else None
    finally:  # the zip has all of it; and if the client has gone, nothing is left behind
        shutil.rmtree(folder)
    yield archive, report


# --- the page -------------------------------------------------------------------------------------------
# What follows a photo is derived from the upload and the network's matte of it, so that few changes ask it again.
# Handlers give values by the names of components, see `by_name`; `*controls` are those of `read_controls`.


@plainly("photo", on_page=True, refused=editing.refused)
def on_photo(photo: Upload | None, sent: Any, refine: bool, solid: bool, *controls: Any) -> dict[str, Any]:
    """A new photo."""
    return (
        {}
        if photo is None
        else editing.new_photo(remover, photo, sent, refine=refine, solid=bool(solid), controls=controls)
    )


@plainly("photo", on_page=True, refused=editing.refused_subject)
def on_subject(sent: Any, refine: bool, solid: bool, *controls: Any) -> dict[str, Any]:
    """Another subject of the photo: with a new photo all that runs the network for this tab."""
    return editing.new_subject(remover, sent, refine=refine, solid=bool(solid), controls=controls)


@plainly("edit", on_page=True, refused=editing.refused)
def on_look(sent: Any, refine: bool, *controls: Any) -> dict[str, Any]:
    """Another look of the same photo: its background, its frame, its edges, or what the brush changed."""
    return editing.new_look(sent, refine, controls)


@plainly("edit")
def on_zoom(sent: Any, refine: bool, *controls: Any) -> dict[str, Any]:
    """The full pixels of what is in view."""
    return editing.view(sent, refine, controls)


@plainly("edit", refused=editing.refused_file)
def on_file(sent: Any, refine: bool, *controls: Any) -> dict[str, Any]:
    """The file itself, for the download, the clipboard, or to say how large it is."""
    return editing.file(sent, refine, controls)


async def on_link(address: str, request: gr.Request) -> dict[str, Any]:
    """A photo by its address on the web."""
    try:
        with plain_errors("on_link"):
            return {"photo": await fetch_upload(address.strip(), client_address(request.request))}
    except gr.Error as error:
        return {"status": status_text(error.message, bad=True)}


def refused_photos(reason: str, sent: Any, *_: Any) -> dict[str, Any]:
    """The tiles where nothing more comes of what was asked: the sentence that says why."""
    return {"gallery": {"run": several.read_run(sent), "refused": reason}}


@plainly("batch", refused=refused_photos)
def on_photos(sent: Any, *controls: Any) -> Iterator[dict[str, Any]]:
    """Several photos, one after the other: cut out, or those that have been, with another look."""
    finish = read_controls(*controls)
    for value in several.work_through(remover, several.read_task(sent), finish):
        yield {"gallery": value}


@plainly("edit", refused=lambda reason, sent, *_: {"asked": read_number(sent), "refused": reason})
def on_edited(sent: Any, refine: bool, *controls: Any) -> dict[str, Any]:
    """One of several photos, as it left the editor."""
    return several.edit(sent, refine, read_controls(*controls))


@plainly("edit", refused=lambda reason, sent: {"run": several.read_run(sent), "refused": reason})
def on_zip(sent: Any) -> dict[str, Any]:
    """What the tiles show, as one zip."""
    return several.pack(sent)


# --- the layout; an elem_id is a promise too, since people script the page --------------------------------

AT_ONCE: dict[str, Any] = {"concurrency_limit": None}  # whose turn it is is ours to say, see `scheduler`
STATE: dict[str, Any] = {"js": "(_, ...rest) => [page.stage.state(), ...rest]"}  # instead of the stage's own value
LOCAL: dict[str, Any] = {"show_progress": "hidden"} | PRIVATE
QUIET = LOCAL | AT_ONCE  # the stage says itself that it waits


def build_api() -> None:
    """The endpoints, on components that nobody sees; the page has controls of its own."""
    with gr.Row(visible=False):
        image = photo_input(label="image")
        background = gr.Textbox("transparent", label="background")
        background_image = photo_input(label="background_image")
        matte_out = picture("matte")
        cutout_out = picture("cutout")
        photos = photos_input(label="photos")
        refine, plain = gr.Checkbox(True, label="refine"), gr.Checkbox(label="refine")
        which: list[Any] = [gr.Checkbox(label="solid"), gr.Textbox("", label="box"), gr.Textbox("", label="points")]
        matte_in = photo_input(label="matte")
        finish: list[Any] = [
            background,
            background_image,
            gr.Number(BLUR, label="blur"),
            gr.Checkbox(label="crop"),
            gr.Number(MARGIN, label="margin"),
            gr.Number(0, label="width", precision=0),
            gr.Number(0, label="height", precision=0),
            gr.Dropdown(["png", "webp", "jpg"], label="format"),
            gr.Number(None, label="quality", precision=0),
            gr.Dropdown([*SHADOWS], label="shadow"),
            gr.Number(STRENGTH, label="shadow_strength"),
            gr.Number(SOFTNESS, label="shadow_softness"),
            gr.Number(DIRECTION, label="shadow_direction"),
            gr.Checkbox(label="clean"),
        ]
        archive = gr.File(label="zip")
        report = gr.JSON(label="report")
        call = gr.Button()
    on_background: list[Any] = [image, background, background_image, plain, *which]
    call.click(predict, [image, plain, *which], [cutout_out], api_name="predict", **AT_ONCE)
    call.click(remove_background, on_background, [matte_out, cutout_out], api_name="remove_background", **AT_ONCE)
    call.click(cutout, on_background, [cutout_out], api_name="cutout", **AT_ONCE)
    call.click(matte, [image, refine, *which], [matte_out], api_name="matte", **AT_ONCE)
    call.click(edit, [image, matte_in, *finish], [cutout_out], api_name="edit", **AT_ONCE)
    call.click(batch, [photos, refine, *finish, which[0]], [archive, report], api_name="batch", **AT_ONCE)


def build_one() -> list[Any]:
    """The tab for one photo; gives what an opened one sets: its refinement, and the controls."""
    with gr.Column(elem_classes=["editor"], elem_id="editor"):
        with gr.Row(elem_classes=["panes"]):
            photo = photo_input(label="Photo", elem_id="photo", sources=["upload", "clipboard", "webcam"])
            with gr.Column(elem_classes=["pane"], elem_id="matte-pane", min_width=0):
                matte = picture("Mask", elem_id="matte")
            cutout = custom("stage", "brush", "picker", elem_id="cutout")
        with gr.Row(elem_classes=["bar"]):
            status = status_line("status")
            refine = gr.Checkbox(True, label="Refine edges", container=False, elem_id="refine", min_width=120)
            solid = gr.Checkbox(SOLID, label="Whole subject", container=False, elem_id="solid", min_width=120)
            download_format = format_control()
            copy = gr.Button("Copy", interactive=False, elem_id="copy", min_width=80)
            download = gr.Button("Download", variant="primary", interactive=False, elem_id="download", min_width=150)
        gr.HTML('<p>Your last results</p><div class="recents"></div>', elem_id="recent")
        if EXAMPLES:
            gr.Examples(EXAMPLES, inputs=[photo], label="Examples", examples_per_page=24, elem_id="examples", **PRIVATE)
        with gr.Row(elem_id="link-row"):
            link = gr.Textbox(
                placeholder="https://", label="A photo's address on the web", elem_id="link", max_lines=1, scale=4
            )
            fetch = gr.Button("Fetch", elem_id="fetch", min_width=90, scale=1)
        check_line = gr.HTML(elem_id="check")
        preset, background = preset_control(), background_controls()
        frame, shadow = frame_controls(), shadow_controls()
        controls: list[Any] = [preset, *background, *frame, *shadow, download_format]
        apply_presets(preset, [*background, *frame, download_format])
    made, view = gr.HTML(visible=False), gr.HTML(visible=False)  # they only pass on what scripts read

    shown: dict[str, Any] = {"cutout": cutout, "matte": matte, "status": status}
    lost = {"fn": None, "js": "() => page.stage.failed()"} | LOCAL
    inputs: list[Any] = [cutout, refine, *controls]
    everything = {"photo": photo} | shown
    again = {"solid": solid} | shown
    photo.change(None, photo, [matte, status, check_line], js="(photo) => page.change(photo)", **LOCAL)
    photo.change(
        by_name(on_photo, everything),
        [photo, cutout, refine, solid, *controls],
        list(everything.values()),
        js="(photo, _, ...rest) => [photo, page.stage.state(), ...rest]",
        trigger_mode="multiple",  # else the browser keeps a newer photo back until the one before is done
        **QUIET,
    ).failure(**lost)
    changes = [refine.input, *(control.change for control in controls)]
    settings = gr.BrowserState(storage_key="background-remover-settings", secret="of nobody")  # noqa: S106
    kept = [*inputs[1:], solid]
    gr.on(changes, None, kept, settings, js="(...values) => page.ask() || [values]", **LOCAL)
    solid.input(None, kept, settings, js="(...values) => page.stage.pickAnew() || [values]", **LOCAL)
    demo.load(None, settings, kept, js=f"(values) => page.settings(values, {len(kept)})", **LOCAL)
    cutout.opened(None, None, [photo, solid], js="() => page.stage.opening()", **LOCAL)
    gr.on(
        [cutout.input, *changes],
        by_name(on_look, shown),
        inputs,
        list(shown.values()),
        trigger_mode="always_last",
        **STATE,
        **QUIET,
    ).failure(**lost)
    cutout.picked(
        by_name(on_subject, again),
        [cutout, refine, solid, *controls],
        list(again.values()),
        trigger_mode="multiple",
        **STATE,
        **QUIET,
    ).failure(**lost)
    cutout.zoomed(on_zoom, inputs, view, trigger_mode="always_last", **STATE, **QUIET).success(
        None, view, None, js="(view) => page.stage.detail(view)", **LOCAL
    )
    files: dict[str, Any] = {"made": made, "status": status, "check": check_line}
    for event in (cutout.wanted, cutout.settled):
        event(by_name(on_file, files), inputs, [*files.values()], **STATE, **QUIET).success(
            None, made, None, js="(made) => page.stage.made(made)", **LOCAL
        ).failure(**lost)
    cutout.locked(None, None, [download, copy], js="() => page.buttons()", **LOCAL)
    download.click(None, None, None, js="() => page.stage.download()", **LOCAL)
    copy.click(None, None, None, js="() => page.stage.copy()", **LOCAL)
    found: dict[str, Any] = {"photo": photo, "status": status}
    gr.on([fetch.click, link.submit], by_name(on_link, found), link, [photo, status], **QUIET)
    return inputs[1:]


def build_several(tab: gr.Tab, editor: list[Any], back: gr.Button) -> None:
    """The tab for several photos, of which each can be opened in the editor: its refinement and controls."""
    custom("inlet", elem_id="photos")
    preset, background = preset_control("batch-"), background_controls("batch-")
    frame, shadow = frame_controls("batch-"), shadow_controls("batch-")
    with gr.Row(elem_classes=["bar"]):
        download_format = format_control("batch-")
        start = gr.Button("Cut out all", variant="primary", interactive=False, elem_id="start", min_width=130)
        stop = gr.Button("Stop", interactive=False, elem_id="stop", min_width=90)
        zipped = gr.Button("Download zip", interactive=False, elem_id="zip", min_width=130)
    controls: list[Any] = [preset, *background, *frame, *shadow, download_format]  # as the editor has them
    apply_presets(preset, [*background, *frame, download_format])
    tiles = custom("tiles", elem_id="gallery")
    packed, edited = gr.JSON(visible=False), gr.JSON(visible=False)

    gr.on([one.change for one in controls], None, controls, None, js="(...look) => page.tiles?.look(look)", **LOCAL)
    start.click(None, None, None, js="() => page.tiles.start()", **LOCAL)
    run = tiles.run(
        by_name(on_photos, {"gallery": tiles}),
        [tiles, *controls],
        [tiles],
        js="(_, ...look) => [page.tiles.task(look), ...look]",
        trigger_mode="multiple",  # else the browser ignores it while a stopped one ends
        **QUIET,
    )
    run.success(None, tiles, None, js="(value) => page.tiles.ended(value)", **LOCAL)
    run.failure(None, None, None, js="() => page.tiles.failed()", **LOCAL)  # also once one has been stopped
    stop.click(None, None, None, js="() => page.tiles.stop()", cancels=[run], **LOCAL)
    asked: list[tuple[Any, ...]] = [
        (tiles.edited, on_edited, [tiles, *editor], edited, "edit"),
        (tiles.packed, on_zip, tiles, packed, "pack"),
    ]
    for event, handler, inputs, answer, name in asked:
        told = event(handler, inputs, answer, js=f"() => page.tiles.{name}()", trigger_mode="multiple", **QUIET)
        told.success(None, answer, None, js=f"(value) => page.tiles.{name}ed(value)", **LOCAL)
        told.failure(None, None, None, js=f"() => page.tiles.{name}ed(null)", **LOCAL)
    zipped.click(None, None, None, js="() => page.tiles.zip()", **LOCAL)
    tiles.told(None, None, [start, stop, zipped, back], js="() => page.tiles.buttons()", **LOCAL)
    tiles.opened(None, None, editor, js="() => page.tiles.opening()", **LOCAL).then(
        None, None, None, js="() => page.tiles.open()", **LOCAL
    )
    back.click(None, None, None, js="() => page.tab(1)", **LOCAL)
    tab.select(None, editor, None, js="(refine, ...look) => page.tiles?.back(refine, look)", **LOCAL)


with CheckedBlocks(title=TITLE, analytics_enabled=False) as demo:
    build_api()
    gr.HTML(f"<h1>{TITLE}</h1><p>{TEXT} {PRIVACY}</p>", elem_id="title")
    with gr.Tabs(elem_id="tabs"):
        with gr.Tab("One photo", id="one"):
            back = gr.Button("← Back to all photos", visible=False, size="md", elem_id="back")
            editor = build_one()
        with gr.Tab("Several photos", id="several") as tab:
            build_several(tab, editor, back)
    gr.HTML(ABOUT, elem_id="about")

try:
    preview = Route(f"/{PICTURE.name}", lambda _: FileResponse(PICTURE))
    demo.more_routes = [*routes(remover), *words_routes(), preview]
except SettingError as error:
    raise SystemExit(str(error)) from None
monitoring.log_requests()
demo.queue(api_open=False, max_size=MAX_EVENTS)
gradio_overrides.install(link_tags(TITLE, TEXT, f"/{PICTURE.name}"))
file_store().keep_sweeping(recent.forget_deleted)


def serve() -> None:
    """The page and the API, until this process is told to end: then no new work, and a while for what is in hand."""
    told = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: told.set())
    demo.launch(
        css_paths=PACKAGE / "page" / "style.css",
        head=head(file_store().lifetime),
        theme=THEME,
        enable_monitoring=False,
        favicon_path=PICTURE.with_name("icon.svg"),
        footer_links=["api"],
        max_file_size=MAX_BYTES,
        max_threads=MAX_EVENTS,
        mcp_server=True,
        prevent_thread_lock=True,
        run_history=False,
        show_error=False,
        ssr_mode=False,
        state_session_capacity=MAX_SESSIONS,
    )
    while not told.wait(1):
        pass
    end = time.monotonic() + ENDING
    scheduler().close(ENDING)
    while listeners.any() and time.monotonic() < end:  # for what is done, and on its way to them
        time.sleep(0.05)
    demo.close()
    sandbox().close()


if __name__ == "__main__":
    serve()
