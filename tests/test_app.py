"""The page in a real browser, against `python app.py` as a user starts it."""

import io
import os
import re
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, PERSON, SENTENCES, pixels
from PIL import Image
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import expect, sync_playwright

# --- the page ---

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        except BrowserError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(params=["desktop", "phone"])
def page(request, browser, app_url):
    """The open page; afterwards, no request may have left the machine and nothing may have failed in it."""
    size = {"desktop": (1280, 900), "phone": (390, 844)}[request.param]
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, accept_downloads=True)
    page = context.new_page()
    urls, errors = [], []
    page.on("request", lambda sent: urls.append(sent.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(app_url)
    expect(page.locator("#photo")).to_be_visible()
    yield page
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
    assert [url for url in urls if not url.startswith((app_url, "data:", "blob:"))] == []
    assert errors == []
    context.close()


def upload(page, path: Path) -> None:
    page.locator("#photo input[type=file]").set_input_files(path)


def shown(page, pane: str) -> np.ndarray:
    """The picture that a pane shows, as the browser decoded it from what the server sent."""
    image = page.locator(f"#{pane} img")
    expect(image).to_be_visible(timeout=30_000)
    with urllib.request.urlopen(image.get_attribute("src"), timeout=30) as answer:
        return pixels(io.BytesIO(answer.read()))


def wait_done(page) -> None:
    expect(page.locator("#status")).to_contain_text("Done in", timeout=30_000)


def test_a_photo_gives_three_pictures_and_lossless_downloads(page, truth):
    status = page.locator("#status")
    expect(status).to_contain_text("isnet-general-use")
    expect(status).to_contain_text("Apache-2.0")
    upload(page, PERSON)
    wait_done(page)
    expect(status).to_contain_text("512 × 512")
    for pane, label in (("photo", "Photo"), ("matte", "Matte"), ("cutout", "Cutout")):
        expect(page.locator(f"#{pane} img")).to_be_visible()
        expect(page.locator(f"#{pane}")).to_contain_text(label)
    assert np.array_equal(shown(page, "matte"), truth.alpha)
    for pane, picture in (("matte", truth.matte), ("cutout", truth.image)):
        with page.expect_download() as download:
            page.locator(f"#{pane} a[download], #{pane} button[aria-label=Download]").first.click()
        assert download.value.suggested_filename == f"person-{pane}.png"
        assert np.array_equal(pixels(download.value.path()), np.asarray(picture))


def test_every_background_can_be_chosen(page, truth):
    upload(page, PERSON)
    wait_done(page)
    first = page.locator("#cutout img").get_attribute("src")
    for kind, placed in (("Colour", truth.composite("#ffffff")), ("Blur", truth.composite("blur"))):
        page.locator("#background").get_by_text(kind, exact=True).click()
        expect(page.locator("#cutout img")).not_to_have_attribute("src", first, timeout=20_000)
        first = page.locator("#cutout img").get_attribute("src")
        assert np.array_equal(shown(page, "cutout"), np.asarray(placed))
    page.locator("#background").get_by_text("Image", exact=True).click()
    page.locator("#backdrop input[type=file]").set_input_files(EXAMPLES / "coffee.jpg")
    truth_pixels = np.asarray(truth.composite(EXAMPLES / "coffee.jpg"))
    for _ in range(100):
        if np.array_equal(shown(page, "cutout"), truth_pixels):
            break
        page.wait_for_timeout(200)
    assert np.array_equal(shown(page, "cutout"), truth_pixels)


def test_an_example_is_one_click_away(page):
    page.locator("#examples button").first.click()
    wait_done(page)
    expect(page.locator("#cutout img")).to_be_visible()


def test_what_is_no_photo_is_told_and_the_next_photo_works(page, bad_files):
    upload(page, PERSON)
    wait_done(page)
    for name, sentence in SENTENCES.items():
        upload(page, bad_files[name])
        expect(page.locator("#status")).to_contain_text(sentence, timeout=20_000)
        expect(page.locator("#cutout img")).to_have_count(0)
    assert not re.search(r"Traceback|/tmp/|\.py\b", page.locator("body").inner_text())
    upload(page, PERSON)
    wait_done(page)
    expect(page.locator("#cutout img")).to_be_visible()


def test_a_photo_without_a_subject_is_told(page, tmp_path):
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "blank.png")
    upload(page, tmp_path / "blank.png")
    expect(page.locator("#status")).to_contain_text("Nothing in this photo stands out", timeout=20_000)


def test_an_iphone_photo_works(page, tmp_path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    with Image.open(PERSON) as image:
        image.save(tmp_path / "IMG 1.heic")
    upload(page, tmp_path / "IMG 1.heic")
    wait_done(page)
    expect(page.locator("#cutout img")).to_be_visible()
