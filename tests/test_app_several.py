"""Several photos on the page, and the page for everyone: by keyboard, by screen reader, at every size and theme."""

import io
import re
import shutil
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    PATIENCE,
    SIZES,
    choose,
    download,
    open_several,
    opened,
    start_with,
    unfold,
    upload,
)
from helpers import PERSON, SENTENCES, pixels
from PIL import Image
from playwright.sync_api import expect

# --- several photos ---


def copies(folder: Path, count: int, side: int = 96) -> list[Path]:
    """Photos with a subject, each a little different."""
    folder.mkdir(exist_ok=True)
    with Image.open(PERSON) as image:
        for number in range(count):
            image.resize((side + number, side)).save(folder / f"photo {number:02d}.png")
    return sorted(folder.iterdir())


def test_of_several_photos_two_are_broken_and_the_others_are_not_lost(page, bad_files, remover, tmp_path):
    count = 20 if page.viewport_size["width"] == SIZES["desktop"][0] else 5
    good = copies(tmp_path / "good", count - 2)
    open_several(page, [good[0], bad_files["text.jpg"], *good[1:], bad_files["truncated.jpg"]])
    choose(page, "batch-background", "White")
    expect(page.locator("#zip")).to_be_disabled()
    page.locator("#start").click()
    status = page.locator("#batch-status")
    expect(status).to_contain_text(re.compile(rf"\d+ of {count} photos done, about \d+ s left"), timeout=PATIENCE)
    expect(status).to_contain_text(f"{count} of {count} photos done", timeout=6 * PATIENCE)
    expect(page.locator("#zip")).to_be_enabled()
    expect(page.locator("#gallery .thumbnail-item img")).to_have_count(count - 2)
    reasons = status.locator("li")
    expect(reasons).to_have_count(2)
    for reason, name in zip(reasons.all(), ("text.jpg", "truncated.jpg"), strict=True):
        expect(reason).to_contain_text(f"{name}: {SENTENCES[name]}")
    name, path = download(page, "#zip")
    assert name == "cutouts.zip"
    with zipfile.ZipFile(path) as archive:
        assert len(archive.namelist()) == len(set(archive.namelist())) == len(good)
        for photo, entry in zip((good[0], good[-1]), (archive.namelist()[0], archive.namelist()[-1]), strict=True):
            assert np.array_equal(
                pixels(io.BytesIO(archive.read(entry))), np.asarray(remover(photo, refine=True).composite("white"))
            )


def test_stop_keeps_what_is_done(page, tmp_path):
    open_several(page, copies(tmp_path / "many", 30))
    page.locator("#start").click()
    expect(page.locator("#gallery .thumbnail-item img").nth(1)).to_be_visible(timeout=PATIENCE)
    page.locator("#stop").click()
    expect(page.locator("#zip")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator("#start")).to_be_enabled()
    expect(page.locator("#stop")).to_be_disabled()
    with zipfile.ZipFile(download(page, "#zip")[1]) as archive:
        assert 2 <= len(archive.namelist()) < 30
        assert archive.testzip() is None


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_folder_can_be_chosen(page, tmp_path):
    copies(tmp_path / "folder", 2)
    (tmp_path / "folder" / ".hidden").write_bytes(b"no photo")
    page.get_by_role("tab", name="Several photos").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#choose-folder").click()
    chooser.value.set_files(tmp_path / "folder")
    expect(page.locator("#photos .file-preview tr")).to_have_count(2, timeout=PATIENCE)
    page.locator("#start").click()
    expect(page.locator("#batch-status")).to_contain_text("2 of 2 photos done", timeout=PATIENCE)


# --- for everyone ---

# Findings in markup of Gradio's own that the page can't reach: rule, the start of the selector, reason.
GRADIO = [("nested-interactive", 'button[aria-label="common.upload"]', "the file list's icon to upload more")]


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("axe")
    subprocess.run(["npm", "install", "--silent", "axe-core@4"], cwd=folder, check=True, timeout=120)
    return folder / "node_modules" / "axe-core" / "axe.min.js"


def findings(page, axe: Path) -> list[tuple[str, str]]:
    """Rule and selector of all that axe calls serious or critical, in the state that the page is on its way to."""
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; animation: none !important; }")
    page.add_script_tag(path=axe)
    violations = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        (violation["id"], node["target"][0])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if not any(violation["id"] == rule and node["target"][0].startswith(start) for rule, start, _ in GRADIO)
    ]


@pytest.mark.parametrize("look", [("desktop", "light"), ("phone", "dark")])
def test_axe_finds_nothing_serious_in_any_state(browser, app_url, axe, bad_files, look):
    with opened(browser, app_url, look[0], color_scheme=look[1]) as page:
        expect(page.locator("#examples button").first).to_be_visible()
        assert findings(page, axe) == []
        start_with(page, PERSON)
        for section in ("frame", "touchup", "compare"):
            unfold(page, section)
        choose(page, "frame", "Custom size")
        choose(page, "background", "Blur")
        expect(page.locator("#blur")).to_be_visible()
        expect(page.locator("#height")).to_be_visible()
        expect(page.locator("#touchup canvas")).to_be_visible()
        assert findings(page, axe) == []
        upload(page, bad_files["text.jpg"])
        expect(page.locator("#status")).to_contain_text(SENTENCES["text.jpg"])
        assert findings(page, axe) == []
        open_several(page, [PERSON, bad_files["text.jpg"]])
        page.locator("#start").click()
        expect(page.locator("#zip")).to_be_enabled(timeout=PATIENCE)
        page.mouse.move(0, 0)
        assert findings(page, axe) == []


def test_the_keyboard_goes_through_the_page_in_its_order(browser, app_url):
    with opened(browser, app_url) as page:
        start_with(page, PERSON)
        focused = "let e = document.activeElement; while (e && !e.id) e = e.parentElement; return e ? e.id : '';"
        order = []
        for _ in range(60):
            page.keyboard.press("Tab")
            name = page.evaluate(f"() => {{ {focused} }}")
            if name not in order:
                order.append(name)
        wanted = [
            "photo",
            "matte",
            "cutout",
            "download",
            "background",
            "frame-section",
            "touchup-section",
            "compare-section",
        ]
        assert [name for name in order if name in wanted] == wanted
