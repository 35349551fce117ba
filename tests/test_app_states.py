"""What the page says and allows: while something is made, when it can not be, on the next visit, on any screen."""

import io
import json
import re
import socket
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    PATIENCE,
    SIZES,
    choose,
    choose_format,
    download,
    fill,
    hold_calls,
    opened,
    press,
    start_with,
    unfold,
    upload,
    visitor,
    wait_shows,
)
from helpers import EXAMPLES, PERSON, SENTENCES, pixels
from PIL import Image
from playwright.sync_api import expect

from background_remover.page.bodies import MAX_BYTES
from background_remover.presets import PRESETS, check

# --- while something is made ---


def test_a_new_photo_takes_the_old_pictures_away_at_once(page):
    start_with(page, PERSON)
    expect(page.locator("#download")).to_be_enabled()
    page.route("**/queue/join*", lambda route: None)  # nothing comes back
    upload(page, EXAMPLES / "cat.jpg")
    expect(page.locator("#cutout img")).to_have_count(0)
    expect(page.locator("#matte img")).to_have_count(0)
    expect(page.locator("#download")).to_be_disabled()
    expect(page.locator("#download")).to_contain_text("Not ready yet")
    expect(page.locator("#status")).not_to_contain_text("512 × 512")


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_download_is_that_of_the_newest_change_however_soon_it_is_asked_for(page, refined):
    start_with(page, PERSON)
    for background, truth in (("Black", "#000000"), ("White", "#ffffff"), ("Light grey", "#f2f2f2")):
        choose(page, "background", background)
        _, path = download(page, "#download")
        assert np.array_equal(pixels(path), np.asarray(refined.composite(truth)))


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_download_is_what_it_was_asked_for_though_another_file_is_just_made(page, refined):
    """The page has a file made on its own, once nothing changes, to say how large it is."""
    start_with(page, PERSON)
    expect(page.locator("#status")).to_contain_text("kB")  # at rest
    release = hold_calls(page)
    with page.expect_download() as waiting:
        page.locator("#matte a[download]").click()
        page.wait_for_timeout(500)
        page.evaluate("""() => {
          const { asked } = page.stage.state();
          const url = document.querySelector("#cutout img").src;
          page.stage.made({ asked, mode: "cutout", task: "", file: { url }, name: "another.png" });
        }""")
        page.wait_for_timeout(300)
        release()
    assert waiting.value.suggested_filename == "person-matte.png"
    assert np.array_equal(pixels(Path(waiting.value.path())), np.asarray(refined.matte))


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_nothing_can_be_downloaded_while_an_answer_is_on_its_way(page, refined):
    start_with(page, PERSON)
    expect(page.locator("#status")).to_contain_text("kB")  # at rest
    release = hold_calls(page)
    choose(page, "background", "Black")
    expect(page.locator("#download")).to_be_disabled()
    expect(page.locator("#download")).to_contain_text("Not ready yet")
    release()
    expect(page.locator("#download")).to_be_enabled()
    assert np.array_equal(pixels(download(page, "#download")[1]), np.asarray(refined.composite("#000000")))


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_change_just_after_the_result_is_not_lost(page, refined):
    """The page tells the server of the preview that it has been given; beside that an edit must not come to nothing."""
    for colour, name in (("#000000", "Black"), ("#ffffff", "White"), ("#f2f2f2", "Light grey")):
        upload(page, PERSON)
        page.wait_for_function("document.querySelector('#status').innerText.includes('Done')", polling=10)
        choose(page, "background", name)
        wait_shows(page, "cutout", refined.composite(colour))
        expect(page.locator("#download")).to_be_enabled()
        page.locator("#photo button[aria-label='Remove Image']").click()
        expect(page.locator("#cutout img")).to_have_count(0)


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_switch_of_background_sends_little(page, tmp_path):
    with Image.open(EXAMPLES / "coffee.jpg") as image:
        image.resize((4000, 3000)).save(tmp_path / "large.jpg", quality=92)
    start_with(page, tmp_path / "large.jpg")
    expect(page.locator("#status")).to_contain_text("MB")
    for background in ("White", "Blur", "Transparent"):
        sizes = []
        page.on("response", lambda answer, sizes=sizes: sizes.append(int(answer.headers.get("content-length", 0))))
        source = page.locator("#cutout img").get_attribute("src")
        choose(page, "background", background)
        expect(page.locator("#cutout img")).not_to_have_attribute("src", source, timeout=PATIENCE)
        page.wait_for_timeout(400)
        assert 1000 < sum(sizes) < 900_000  # bytes: under 0.8 s of 10 Mbit/s
    assert page.locator("#cutout img").evaluate("image => image.naturalWidth") == 1600


# --- what can't be made ---


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_what_a_choice_comes_to_is_said(page, refined):
    start_with(page, PERSON)
    choose_format(page, "JPEG")
    expect(page.locator("#status")).to_contain_text("A JPEG can't be transparent: it is white there")
    choose(page, "background", "Image")
    expect(page.locator("#status")).to_contain_text("Choose an image to put behind the subject")
    choose(page, "background", "White")
    expect(page.locator("#status")).to_contain_text("JPEG, 512 × 512")
    expect(page.locator("#status .advice")).to_have_count(0)
    assert page.locator(".toast-wrap").inner_text() == ""


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_files_that_gradio_would_refuse_are_told_of_in_our_own_words(page, tmp_path, bad_files, refined):
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    upload(page, large)
    expect(page.locator("#status")).to_contain_text("'large.jpg' is larger than the 100 MB that can be sent")
    (tmp_path / "notes.txt").write_bytes(b"not a photo at all")
    upload(page, tmp_path / "notes.txt")
    expect(page.locator("#status")).to_contain_text(SENTENCES["text.jpg"], timeout=PATIENCE)
    (tmp_path / "photo.txt").write_bytes(PERSON.read_bytes())  # what it is called says nothing
    start_with(page, tmp_path / "photo.txt")
    wait_shows(page, "cutout", refined.image)
    assert page.locator(".toast-wrap").inner_text() == ""


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_heic_called_jpg_is_shown(page, tmp_path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    with Image.open(PERSON) as image:
        image.save(tmp_path / "photo.heic")
    (tmp_path / "photo.heic").rename(tmp_path / "photo.jpg")
    start_with(page, tmp_path / "photo.jpg")
    page.wait_for_function("document.querySelector('#photo img')?.naturalWidth === 512")


def test_a_server_that_is_started_anew_goes_on_with_the_photo(browser, start_app, refined, tmp_path):
    """Gradio loads the page anew if a call was cut off; what was in hand is there again then, too."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = {"GRADIO_SERVER_PORT": port, "GRADIO_TEMP_DIR": str(tmp_path)}
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    try:
        with start_app(**settings) as url:
            page.goto(url)
            start_with(page, PERSON)
            expect(page.locator("#status")).to_contain_text("kB")
        with start_app(**settings):
            choose(page, "background", "Black")
            wait_shows(page, "cutout", refined.composite("#000000"))
            assert download(page, "#download")[0] == "person-cutout.png"
        choose(page, "background", "White")  # to nobody
        with start_app(**settings):
            reloaded = "performance.getEntriesByType('navigation')[0].type === 'reload'"
            page.wait_for_function(reloaded, timeout=PATIENCE)
            expect(page.locator("#cutout img")).to_be_visible(timeout=PATIENCE)
            expect(page.locator("#download")).to_be_enabled(timeout=PATIENCE)
            choose(page, "background", "White")
            wait_shows(page, "cutout", refined.composite("#ffffff"))
            for path in tmp_path.rglob("person*"):
                path.unlink()
            choose(page, "background", "Light grey")
            said = "This photo has since been deleted here: choose it again."
            expect(page.locator("#status")).to_contain_text(said, timeout=PATIENCE)
            expect(page.locator("#download")).to_be_disabled()
    finally:
        context.close()


# --- the next visit ---


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_settings_and_the_photo_in_hand_survive_a_reload(page, refined):
    start_with(page, PERSON)
    choose(page, "background", "Black")
    choose_format(page, "JPEG")
    expect(page.locator("#status")).to_contain_text("JPEG, 512 × 512")
    page.reload()
    expect(page.locator("#status")).to_contain_text("JPEG, 512 × 512", timeout=PATIENCE)
    wait_shows(page, "cutout", refined.composite("#000000"))
    expect(page.locator("#photo img")).to_be_visible()


def test_the_last_results_are_one_click_away(browser, app_url, refined, remover):
    with opened(browser, app_url) as page:
        for name in ("cat.jpg", "person.jpg"):
            start_with(page, EXAMPLES / name)
            expect(page.locator("#status")).to_contain_text("kB")
            page.locator("#photo button[aria-label='Remove Image']").click()
            expect(page.locator("#cutout img")).to_have_count(0)
        last = page.locator("#recent button")
        expect(last).to_have_count(2)
        last.nth(1).click()
        wait_shows(page, "cutout", remover(EXAMPLES / "cat.jpg", refine=True).image)
        page.goto("about:blank")
        page.goto(app_url)
        last.nth(1).click()
        wait_shows(page, "cutout", refined.image)


# --- presets, shadow, clipboard, links ---


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_preset_sets_the_controls_and_its_rule_is_checked(page, remover, tmp_path):
    start_with(page, EXAMPLES / "gamepad.jpg")
    page.locator("#preset input").click()
    page.get_by_role("option", name=PRESETS["amazon"].title).click()
    expect(page.locator("#status")).to_contain_text("JPEG, 2000 × 2000 pixels, enlarged", timeout=PATIENCE)
    told = page.locator("#check")
    expect(told).to_contain_text("this file is what is asked for", timeout=PATIENCE)
    name, path = download(page, "#download")
    assert name == "gamepad-cutout.jpg"
    assert all(finding.ok for finding in check(path, PRESETS["amazon"]))
    truth = tmp_path / "truth.jpg"
    PRESETS["amazon"].finish().save(remover(EXAMPLES / "gamepad.jpg", refine=True), truth)
    assert np.array_equal(pixels(path), pixels(truth))
    choose(page, "background", "Black")
    expect(told).to_contain_text("this file is not what is asked for", timeout=PATIENCE)
    expect(told.locator(".bad")).to_contain_text("background")


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_shadow_can_be_cast(page, refined):
    start_with(page, PERSON)
    unfold(page, "shadow")
    choose(page, "shadow", "Drop")
    fill(page, "strength", 80)
    page.keyboard.press("Tab")
    from background_remover.cutout import Finish

    finish = Finish(shadow="drop", shadow_strength=0.8)
    wait_shows(page, "cutout", finish.pixels(refined))
    assert np.array_equal(pixels(download(page, "#download")[1]), finish.pixels(refined))


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_the_cutout_is_copied_to_the_clipboard(page, refined):
    start_with(page, PERSON)
    page.locator("#copy").click()
    read = """async () => {
      const [item] = await navigator.clipboard.read();
      const bytes = new Uint8Array(await (await item.getType("image/png")).arrayBuffer());
      return Array.from(bytes);
    }"""
    opaque = refined.alpha == 255
    for _ in range(50):
        try:
            copied = pixels(io.BytesIO(bytes(page.evaluate(read))))
        except Exception:  # nothing is there yet
            copied = np.zeros(0)
        if copied.shape == (*refined.alpha.shape, 4):
            break
        page.wait_for_timeout(100)
    assert np.array_equal(copied[..., 3], refined.alpha)
    assert np.array_equal(copied[opaque], np.asarray(refined.image)[opaque])


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_an_address_on_the_web_is_only_ever_fetched_by_the_server_and_only_a_public_one(page, app_url):
    fill_in = page.locator("#link input, #link textarea")
    fill_in.fill(f"{app_url}/health")
    page.locator("#fetch").click()
    expect(page.locator("#status")).to_contain_text("public", timeout=PATIENCE)
    assert page.locator(".toast-wrap").inner_text() == ""
    expect(page.locator("#cutout img")).to_have_count(0)


# --- on any screen, by keyboard, and as a link ---


def test_the_result_and_its_download_are_on_the_first_screen(browser, app_url):
    for size in ((390, 844), (1280, 800)):
        context = browser.new_context(viewport={"width": size[0], "height": size[1]}, has_touch=size[0] < 500)
        page = context.new_page()
        page.goto(app_url)
        start_with(page, PERSON)
        for part in ("#cutout", "#download"):
            box = page.locator(part).bounding_box()
            assert 0 <= box["y"] < box["y"] + box["height"] <= size[1], part
        assert page.evaluate("window.scrollY") == 0
        if size[0] == 1280:
            boxes = [page.locator(f"#{pane}").bounding_box() for pane in ("photo", "matte", "cutout")]
            assert boxes[2]["width"] >= 0.45 * size[0]
            assert len({round(box["y"]) for box in boxes}) == 1  # beside each other
        context.close()


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_the_wheel_zooms_about_the_pointer(page):
    start_with(page, PERSON)
    page.locator("#cutout .view").scroll_into_view_if_needed()
    sheet = page.locator("#cutout .sheet")
    before = sheet.bounding_box()
    x, y = before["x"] + 0.6 * before["width"], before["y"] + 0.4 * before["height"]
    page.mouse.move(x, y)
    page.mouse.wheel(0, -300)
    page.wait_for_timeout(100)
    after = sheet.bounding_box()
    assert after["width"] > 1.5 * before["width"]
    assert (x - after["x"]) / after["width"] == pytest.approx(0.6, abs=0.01)
    assert (y - after["y"]) / after["height"] == pytest.approx(0.4, abs=0.01)


LAYOUT = """
window.shift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""


@pytest.mark.parametrize("size", SIZES)
def test_nothing_moves_much_while_the_page_loads(browser, app_url, size):
    page = visitor(browser, size, "light").new_page()
    page.add_init_script(LAYOUT)
    page.goto(app_url)
    expect(page.locator("#examples img").last).to_be_visible()
    page.wait_for_timeout(500)
    assert page.evaluate("window.shift") < 0.1
    page.close()


SMALL = """(least) => [...document.querySelectorAll("button, label:has(input), [role=tab], summary, a")]
  .filter((one) => one.checkVisibility({ visibilityProperty: true }) && !one.closest("footer, .toast-wrap"))
  .map((one) => [one, one.getBoundingClientRect()])
  .filter(([one, box]) => box.height > 1 && Math.min(box.width, box.height) < least - 0.5)
  .map(([one, box]) => `${one.className || one.id} ${one.innerText.trim()} ${box.width} x ${box.height}`)"""


def test_what_can_be_pressed_is_large_enough(page):
    start_with(page, PERSON)
    press(page, "Before/after")
    least = 44 if page.viewport_size["width"] == SIZES["phone"][0] else 24
    small = page.evaluate(SMALL, least)
    assert small == [], small


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_the_whole_flow_can_be_done_with_the_keyboard(page, refined):
    def reach(selector: str) -> None:
        for _ in range(80):
            page.keyboard.press("Tab")
            if page.evaluate("(one) => document.activeElement.matches(one)", selector):
                style = page.evaluate("(one) => getComputedStyle(document.activeElement).outlineStyle", selector)
                inner = page.evaluate("getComputedStyle(document.activeElement).boxShadow")
                around = page.evaluate("getComputedStyle(document.activeElement.parentElement).outlineStyle")
                assert {style, inner, around} != {"none"}, f"no focus is seen on {selector}"
                return
        raise AssertionError(f"the keyboard does not reach {selector}")

    expect(page.locator("#examples img").last).to_be_visible()  # all is there
    page.wait_for_timeout(500)
    reach("#photo .upload-container")
    page.evaluate("""document.querySelector("#photo input[type=file]").addEventListener("click", (event) => {
      event.preventDefault();
      window.asked = true;
    })""")
    page.keyboard.press("Enter")
    page.wait_for_function("window.asked")
    start_with(page, PERSON)
    reach("#background input")
    page.keyboard.press("ArrowRight")  # the swatches are one group
    wait_shows(page, "cutout", refined.composite("#ffffff"))
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    wait_shows(page, "cutout", refined.composite("#000000"))
    page.keyboard.press("Shift+Tab")
    assert not page.evaluate("document.activeElement.matches('#background input')")
    page.locator("body").focus()
    page.evaluate("document.activeElement.blur()")
    reach("#download")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert np.array_equal(pixels(Path(waiting.value.path())), np.asarray(refined.composite("#000000")))


def test_whoever_wants_less_motion_gets_less(browser, app_url):
    context = browser.new_context(reduced_motion="reduce")
    page = context.new_page()
    page.goto(app_url)
    expect(page.locator("#photo")).to_be_visible()
    moving = """() => [...document.querySelectorAll("#cutout .spin")].map((one) =>
      parseFloat(getComputedStyle(one).animationDuration))"""
    assert all(seconds == 0 or seconds >= 3 for seconds in page.evaluate(moving))
    context.close()


def test_a_link_to_the_page_has_a_title_a_text_and_a_picture(app_url):
    with urllib.request.urlopen(app_url, timeout=30) as answer:
        text = answer.read().decode()
    found = re.findall(r'<meta property="og:(\w+)" content="([^"]*)"', text)
    tags = dict(found)
    assert len(found) == len(tags)
    assert "Gradio" not in json.dumps(tags)
    assert tags["title"] == "Background remover"
    assert len(tags["description"]) > 40
    with urllib.request.urlopen(f"{app_url}{tags['image']}", timeout=30) as answer:
        picture = Image.open(io.BytesIO(answer.read()))
    assert picture.size == (1200, 630)
    with urllib.request.urlopen(f"{app_url}/favicon.ico", timeout=30) as answer:
        assert answer.headers["content-type"] == "image/svg+xml"
        assert b"<svg" in answer.read()


def test_what_the_page_keeps_of_a_visitor_is_theirs_alone(browser, app_url):
    """Paths of files that nobody can guess, no photo."""
    with opened(browser, app_url) as page:
        start_with(page, PERSON)
        expect(page.locator("#status")).to_contain_text("kB")
        (kept,) = json.loads(page.evaluate("localStorage.getItem('background-remover-recent')"))
        assert kept.keys() == {*["work", "strokes", "name", "picture", "photo", "time", "pick", "solid", "subjects"]}
        assert "data:" not in json.dumps(kept)
