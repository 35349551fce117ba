"""The README's pictures of the page, taken anew in a real browser: `make pictures`."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
SIDE = 1100  # pixels: width of a picture, at most
QUALITY = 82  # of a JPEG


def one(page: Page) -> None:
    """A photo and its results."""
    page.locator("#photo input[type=file]").set_input_files(EXAMPLES / "person.jpg")
    expect(page.locator("#status")).to_contain_text("kB", timeout=60_000)


def touch(page: Page) -> None:
    one(page)
    page.locator("#cutout .brush").click()
    box = page.locator("#cutout canvas").bounding_box()
    assert box
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.15 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.87 * box["width"], box["y"] + 0.32 * box["height"], steps=8)


def several(page: Page) -> None:
    page.get_by_role("tab", name="Several photos").click()
    page.locator("#photos input[type=file]").set_input_files(sorted(EXAMPLES.glob("*.[jp][pn]g")))
    page.locator("#batch-background").get_by_text("White", exact=True).click()
    page.locator("#start").click()
    expect(page.locator("#batch-status")).to_contain_text("cut out", timeout=60_000)


# file: what is done before, width and height of the window, colour scheme
PICTURES: dict[str, tuple[Callable[[Page], None], int, int, str]] = {
    "page.jpg": (one, 1280, 860, "light"),
    "touchup.jpg": (touch, 1280, 860, "dark"),
    "several.jpg": (several, 1280, 860, "light"),
}


def take(browser: Browser, url: str, name: str) -> None:
    prepare, width, height, scheme = PICTURES[name]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
    page.goto(url)
    expect(page.locator("#photo")).to_be_visible()
    prepare(page)
    page.wait_for_timeout(1500)  # pictures that load, colours that fade
    with Image.open(io.BytesIO(page.screenshot())) as shot:
        shot.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        shot.convert("RGB").save(ROOT / "docs" / name, quality=QUALITY, optimize=True)
    page.close()


def main() -> None:
    environment = os.environ | {"RMBG_WEIGHTS": "isnet-general-use", "PYTHONUNBUFFERED": "1"}
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert app.stdout
        url = next(found[0] for line in app.stdout if (found := re.search(r"http://[\d.]+:\d+", line)))
        with sync_playwright() as playwright:
            path = shutil.which("chromium") or shutil.which("chromium-browser")
            browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
            for name in PICTURES:
                take(browser, url, name)
            browser.close()
    finally:
        app.terminate()
        app.wait(20)


if __name__ == "__main__":
    main()
