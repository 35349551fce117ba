"""The page for everyone: by keyboard, by screen reader, at every size and theme."""

import shutil
import subprocess
from pathlib import Path

import pytest
from browsing import (
    PATIENCE,
    choose,
    open_several,
    opened,
    press,
    start_with,
    touch_up,
    unfold,
    upload,
)
from helpers import PERSON, SENTENCES
from playwright.sync_api import expect


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
    ]


@pytest.mark.parametrize("look", [("desktop", "dark"), ("phone", "light")])
def test_axe_finds_nothing_serious_in_any_state(browser, app_url, axe, bad_files, look):
    with opened(browser, app_url, look[0], color_scheme=look[1]) as page:
        expect(page.locator("#examples button").first).to_be_visible()
        assert findings(page, axe) == []
        start_with(page, PERSON)
        for section in ("frame", "shadow"):
            unfold(page, section)
        choose(page, "frame", "Custom size")
        choose(page, "shadow", "Drop")
        choose(page, "background", "Blur")
        for shown in ("#blur", "#height", "#direction"):
            expect(page.locator(shown)).to_be_visible()
        press(page, "Before/after")
        expect(page.locator("#cutout .divider")).to_be_visible()
        assert findings(page, axe) == []
        press(page, "Cutout")
        page.locator("#preset input").click()
        page.get_by_role("option", name="Amazon main image").click()
        expect(page.locator("#check details")).to_be_visible(timeout=PATIENCE)
        press(page, "Mask")
        page.locator("#about summary").click()
        touch_up(page)
        assert findings(page, axe) == []
        page.locator("#cutout .picker").click()
        expect(page.locator("#cutout .outlines button")).to_have_count(1)
        assert findings(page, axe) == []
        upload(page, bad_files["text.jpg"])
        expect(page.locator("#status")).to_contain_text(SENTENCES["text.jpg"], timeout=PATIENCE)
        assert findings(page, axe) == []
        open_several(page, [PERSON, bad_files["text.jpg"]])
        assert findings(page, axe) == []
        page.locator("#start").click()
        expect(page.locator("#zip")).to_be_enabled(timeout=PATIENCE)
        page.mouse.move(0, 0)
        assert findings(page, axe) == []


def test_the_keyboard_goes_through_the_page_in_its_order(browser, app_url):
    with opened(browser, app_url) as page:
        start_with(page, PERSON)
        expect(page.locator("#download")).to_be_enabled()
        focused = "let e = document.activeElement; while (e && !e.id) e = e.parentElement; return e ? e.id : '';"
        order = []
        for _ in range(60):
            page.keyboard.press("Tab")
            name = page.evaluate(f"() => {{ {focused} }}")
            if name not in order:
                order.append(name)
        wanted = ["photo", "matte", "download", "background", "frame-section", "shadow-section"]
        assert [name for name in order if name in wanted] == wanted
