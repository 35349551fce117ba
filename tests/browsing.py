"""What a visitor does on the page, and what they see there."""

from __future__ import annotations

import functools
import io
import urllib.request
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from helpers import pixels
from playwright.sync_api import expect

SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
PATIENCE = 30_000  # ms: how long a state may take to come on a busy machine


@functools.cache
def visitor(browser, size, color_scheme):
    """A browser's context, whose cache makes every page after the first come sooner."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, has_touch=size == "phone", color_scheme=color_scheme
    )
    context.grant_permissions(["camera", "clipboard-read", "clipboard-write"])
    return context


@contextmanager
def opened(browser, url, size="desktop", color_scheme="light"):
    """The open page; afterwards, no request may have left the machine and nothing may have failed in it."""
    page = visitor(browser, size, color_scheme).new_page()
    page.set_default_timeout(PATIENCE)
    urls, errors = [], []
    page.on("request", lambda sent: urls.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(url)
    expect(page.locator("#photo")).to_be_visible()
    try:
        yield page
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
        assert [url_ for url_ in urls if not url_.startswith((url, "data:", "blob:"))] == []
        assert errors == [], errors
    finally:
        page.evaluate("localStorage.clear()")  # the next visitor of this context is another
        page.close()


def upload(page, path: Path) -> None:
    page.locator("#photo input[type=file]").set_input_files(path)


def wait_done(page) -> None:
    expect(page.locator("#status")).to_contain_text("Done in", timeout=PATIENCE)


def start_with(page, path: Path) -> None:
    upload(page, path)
    wait_done(page)


def shown(page, pane: str) -> np.ndarray:
    """The picture that a pane shows, as the server sent it."""
    image = page.locator(f"#{pane} img")
    expect(image).to_be_visible(timeout=PATIENCE)
    with urllib.request.urlopen(image.get_attribute("src"), timeout=30) as answer:
        return pixels(io.BytesIO(answer.read()))


def wait_shows(page, pane: str, truth, error: float = 0.0) -> None:
    """Until a pane shows these pixels: what comes before may still be an earlier answer.

    `error` is by how much, of 255 in the mean of what is opaque, the preview of a large picture may be off.
    """
    truth = np.asarray(truth)
    difference = None
    for _ in range(100):
        picture = shown(page, pane)
        if picture.shape == truth.shape:
            opaque = truth[..., 3] == 255 if truth.shape[2:] == (4,) else np.ones(truth.shape[:2], dtype=bool)
            difference = np.abs(picture.astype(int) - truth)[opaque].mean() if error else (picture != truth).sum()
            if difference <= error:
                return
        page.wait_for_timeout(100)
    raise AssertionError(f"{pane}: {picture.shape} for {truth.shape}, off by {difference}")


def choose(page, group: str, choice: str) -> None:
    page.locator(f"#{group}").get_by_text(choice, exact=True).click()


def choose_format(page, name: str, prefix: str = "") -> None:
    page.locator(f"#{prefix}format input").click()
    page.get_by_role("option", name=name, exact=True).click()


def hold_calls(page) -> Callable[[], None]:
    """Keep back what the page asks of the server from now on; gives what lets it go."""
    held = []

    def hold(route) -> None:
        held.append(route)

    def release() -> None:
        for route in held:
            route.continue_()
        page.unroute("**/queue/join*", hold)

    page.route("**/queue/join*", hold)
    return release


def press(page, mode: str) -> None:
    """What the stage shows: "Cutout", "Before/after" or "Mask"."""
    page.locator("#cutout .modes").get_by_text(mode, exact=True).click()


def touch_up(page) -> None:
    page.locator("#cutout .brush").click()
    expect(page.locator("#cutout canvas")).to_be_visible()


def unfold(page, section: str) -> None:
    page.locator(f"#{section}-section > button").click()


def fill(page, number: str, value: object) -> None:
    page.locator(f"#{number} input[type=number]").fill(str(value))


def download(page, button: str) -> tuple[str, Path]:
    expect(page.locator(button).first).to_be_enabled()
    with page.expect_download() as waiting:
        page.locator(button).first.click()
    return waiting.value.suggested_filename, waiting.value.path()


def open_several(page, paths: list[Path]) -> None:
    page.get_by_role("tab", name="Several photos").click()
    page.locator("#photos input[type=file]").set_input_files(paths)
    expect(page.locator("#gallery .tile")).to_have_count(len(paths), timeout=PATIENCE)
    expect(page.locator("#gallery .tile.uploading")).to_have_count(0, timeout=PATIENCE)
