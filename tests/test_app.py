"""The page in a real browser, against `python app.py` as a user starts it."""

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    PATIENCE,
    choose,
    choose_format,
    download,
    fill,
    opened,
    press,
    start_with,
    touch_up,
    unfold,
    upload,
    wait_done,
    wait_shows,
)
from helpers import EXAMPLES, PERSON, SENTENCES, pixels
from PIL import Image
from playwright.sync_api import expect

from background_remover.page.components import size_text
from background_remover.page.strokes import paint, read_strokes

# --- one photo ---


def test_a_photo_gives_three_pictures_and_lossless_downloads(page, refined):
    about = page.locator("#about")
    expect(about).to_contain_text("isnet-general-use")
    expect(about).to_contain_text("Apache-2.0")
    expect(page.locator("#download")).to_be_disabled()
    start_with(page, PERSON)
    expect(page.locator("#status")).to_contain_text("512 × 512")
    for pane, label in (("photo", "Photo"), ("matte", "Mask"), ("cutout", "Cutout")):
        expect(page.locator(f"#{pane} img")).to_be_visible()
        expect(page.locator(f"#{pane}")).to_contain_text(label)
    name, path = download(page, "#matte a[download]")
    assert name == "person-matte.png"
    assert np.array_equal(pixels(path), np.asarray(refined.matte))
    name, path = download(page, "#download")
    assert name == "person-cutout.png"
    assert np.array_equal(pixels(path), np.asarray(refined.image))
    press(page, "Mask")
    name, path = download(page, "#download")
    assert name == "person-matte.png"
    assert np.array_equal(pixels(path), np.asarray(refined.matte))


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_the_status_says_what_the_download_will_be(page, tmp_path):
    upload(page, large(tmp_path))
    status = page.locator("#status")
    expect(status).to_contain_text("PNG, 2400 × 1600 pixels, ", timeout=PATIENCE)
    for choice, words in (("JPEG", "JPEG"), ("WebP small", "small WebP")):
        choose_format(page, choice)
        expect(status).to_contain_text(re.compile(f"{words}, 2400 × 1600 pixels, [\\d.]+ [kM]B"), timeout=PATIENCE)
        said = status.inner_text()
        _, path = download(page, "#download")
        assert size_text(path.stat().st_size) in said
        with Image.open(path) as saved:
            assert saved.size == (2400, 1600)


def large(folder: Path) -> Path:
    """A photo that is larger than what the page shows of it."""
    with Image.open(EXAMPLES / "coffee.jpg") as image:
        image.resize((2400, 1600)).save(folder / "large.jpg", quality=90)
    return folder / "large.jpg"


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_every_background_can_be_chosen(page, refined):
    start_with(page, PERSON)
    for kind, colour in (("White", "#ffffff"), ("Light grey", "#f2f2f2"), ("Black", "#000000"), ("Blur", "blur")):
        choose(page, "background", kind)
        wait_shows(page, "cutout", refined.composite(colour))
    fill(page, "blur", 6)
    page.keyboard.press("Tab")
    wait_shows(page, "cutout", refined.composite("blur", 0.06))
    choose(page, "background", "Colour")
    wait_shows(page, "cutout", refined.composite("#2f6fed"))
    page.locator("#colour button").first.click()
    page.locator("#colour input[type=text]").fill("#ff8800")
    page.keyboard.press("Enter")
    wait_shows(page, "cutout", refined.composite("#ff8800"))
    page.keyboard.press("Escape")
    choose(page, "background", "Image")
    page.locator("#backdrop input[type=file]").set_input_files(EXAMPLES / "coffee.jpg")
    wait_shows(page, "cutout", refined.composite(EXAMPLES / "coffee.jpg"))
    choose(page, "background", "Transparent")
    wait_shows(page, "cutout", refined.image)


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_what_is_chosen_while_the_network_has_the_photo_counts(page, refined):
    upload(page, PERSON)
    expect(page.locator("#photo img")).to_be_visible()
    choose(page, "background", "Black")
    wait_done(page)
    wait_shows(page, "cutout", refined.composite("#000000"))


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_newer_photo_takes_the_place_of_one_that_is_still_worked_on(page, remover, tmp_path):
    """Of one that no browser shows the page sets its own preview, which must not cover the newer one."""
    first = tmp_path / "first.tif"
    Image.open(EXAMPLES / "cat.jpg").save(first)
    upload(page, first)
    expect(page.locator("#photo img")).to_have_count(1)
    upload(page, PERSON)
    expect(page.locator("#status")).to_contain_text("512 × 512", timeout=PATIENCE)
    wait_shows(page, "cutout", remover(PERSON, refine=True).image)
    page.wait_for_timeout(1000)
    wait_shows(page, "cutout", remover(PERSON, refine=True).image)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_the_subject_is_framed(page, refined):
    start_with(page, PERSON)
    unfold(page, "frame")
    choose(page, "frame", "Subject")
    wait_shows(page, "cutout", refined.framed(0.05).image)
    fill(page, "margin", 20)
    page.keyboard.press("Tab")
    wait_shows(page, "cutout", refined.framed(0.2).image)
    choose(page, "frame", "Square")
    wait_shows(page, "cutout", refined.framed(0.2, (1600, 1600)).image, error=3)
    choose(page, "frame", "Custom size")
    fill(page, "width", 300)
    fill(page, "height", 200)
    wait_shows(page, "cutout", refined.framed(0.2, (300, 200)).image)
    fill(page, "width", 6000)
    expect(page.locator("#status")).to_contain_text("choose 1 to 5000 pixels a side")
    expect(page.locator("#download")).to_be_disabled()
    fill(page, "width", 400)
    expect(page.locator("#status")).to_contain_text("400 × 200")
    expect(page.locator("#download")).to_be_enabled()


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_every_format_is_downloaded_under_the_photos_name(page, refined):
    start_with(page, PERSON)
    formats = {"WebP lossless": ("webp", 0.0), "WebP small": ("webp", 4.0), "JPEG": ("jpg", 4.0), "PNG": ("png", 0.0)}
    for choice, (suffix, error) in formats.items():
        choose_format(page, choice)
        name, path = download(page, "#download")
        assert name == f"person-cutout.{suffix}"
        with Image.open(path) as saved:
            assert saved.format == {"jpg": "JPEG"}.get(suffix, suffix.upper())
            truth = refined.composite("white") if suffix == "jpg" else refined.image
            assert saved.mode == truth.mode
            solid = refined.alpha == 255 if truth.mode == "RGBA" else np.ones_like(refined.alpha, dtype=bool)
            assert np.abs(np.asarray(saved).astype(int) - np.asarray(truth))[solid].mean() <= error


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_refinement_can_be_switched_off_and_on(page, refined, remover):
    start_with(page, PERSON)
    wait_shows(page, "matte", refined.alpha)
    page.locator("#refine input").uncheck()
    plain = remover(PERSON, refine=False)
    wait_shows(page, "matte", plain.alpha)
    wait_shows(page, "cutout", plain.image)
    page.locator("#refine input").check()
    wait_shows(page, "matte", refined.alpha)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_before_and_after_lie_over_each_other_and_the_keyboard_moves_the_line(page, refined):
    start_with(page, PERSON)
    choose(page, "background", "Black")
    wait_shows(page, "cutout", refined.composite("#000000"))
    press(page, "Before/after")
    divider = page.locator("#cutout .divider")
    expect(divider).to_be_visible()
    view = page.locator("#cutout .view")
    corner = lambda: colour_at(page, view, page.locator("#cutout .sheet"), 0.9, 0.1)  # noqa: E731  # background there
    divider.focus()
    page.keyboard.press("Home")
    assert np.abs(corner()).max() < 12  # all of it is the cutout, on black
    page.keyboard.press("End")
    assert np.abs(corner() - refined.photo.rgb[51, 461].astype(int)).max() < 40  # all of it the photo
    page.keyboard.press("ArrowLeft")
    assert float(divider.input_value()) == 99.5


def colour_at(page, view, sheet, x: float, y: float) -> np.ndarray:
    """What is on the screen at that place of the sheet, in shares of it."""
    shot = pixels(io.BytesIO(view.screenshot())).astype(int)[..., :3]
    outer, inner = view.bounding_box(), sheet.bounding_box()
    left, top = inner["x"] - outer["x"] + x * inner["width"], inner["y"] - outer["y"] + y * inner["height"]
    return shot[int(top), int(left)]


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_the_photo_is_seen_while_its_button_is_held(page, refined):
    start_with(page, PERSON)
    choose(page, "background", "Black")
    wait_shows(page, "cutout", refined.composite("#000000"))
    view, sheet = page.locator("#cutout .view"), page.locator("#cutout .sheet")
    truth = refined.photo.rgb[51, 461].astype(int)
    button = page.locator("#cutout .original")
    button.scroll_into_view_if_needed()
    box = button.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    assert np.abs(colour_at(page, view, sheet, 0.9, 0.1) - truth).max() < 40
    page.mouse.up()
    assert colour_at(page, view, sheet, 0.9, 0.1).max() < 12
    button.focus()
    page.keyboard.down(" ")
    assert np.abs(colour_at(page, view, sheet, 0.9, 0.1) - truth).max() < 40
    page.keyboard.up(" ")


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_zoomed_in_the_full_pixels_of_what_is_in_view_come(page, remover, tmp_path):
    photo = large(tmp_path)
    start_with(page, photo)
    choose(page, "background", "White")
    expect(page.locator("#status")).to_contain_text("2400 × 1600")
    truth = np.asarray(remover(photo, refine=True).composite("white")).astype(int)
    view, sheet = page.locator("#cutout .view"), page.locator("#cutout .sheet")
    assert page.locator("#cutout img").evaluate("image => image.naturalWidth") == 1600
    page.locator("#cutout .fit").click()
    expect(page.locator("#cutout .fit")).to_have_text("100 %")
    detail = page.locator("#cutout .after .detail")
    expect(detail).to_have_css("background-image", re.compile("url"), timeout=PATIENCE)
    page.wait_for_timeout(300)
    outer, inner = view.bounding_box(), sheet.bounding_box()
    left, top = round(outer["x"] - inner["x"]) + 1, round(outer["y"] - inner["y"]) + 1
    assert inner["width"] == pytest.approx(2400, abs=1)
    shot = pixels(io.BytesIO(view.screenshot())).astype(int)[..., :3]
    part = truth[top : top + 200, left : left + 200]
    best = min(
        np.abs(shot[1 + y : 201 + y, 1 + x : 201 + x] - part[:200, :200]).mean() for y in (-1, 0, 1) for x in (-1, 0, 1)
    )
    assert best < 4  # lossy, but the same pixels
    before = sheet.bounding_box()
    page.mouse.move(outer["x"] + 150, outer["y"] + 150)
    page.mouse.down()
    page.mouse.move(outer["x"] + 110, outer["y"] + 130, steps=4)
    page.mouse.up()
    after = sheet.bounding_box()
    assert (round(after["x"] - before["x"]), round(after["y"] - before["y"])) == (-40, -20)
    page.mouse.wheel(0, 3000)
    expect(page.locator("#cutout .out")).to_be_disabled()


# --- the brush ---


def paint_line(page, start: tuple[float, float], end: tuple[float, float]) -> list[dict]:
    """Drag over the brush's canvas, in shares of the photo; gives the strokes as they were sent."""
    canvas = page.locator("#cutout canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
    count = page.evaluate("page.stage.state().strokes.length") + 1

    def sent_strokes(request) -> list[dict]:
        if "/queue/join" not in request.url:
            return []
        states = [item for item in request.post_data_json["data"] if isinstance(item, dict)]
        return next((state["strokes"] for state in states if "strokes" in state), [])

    with page.expect_request(lambda request: len(sent_strokes(request)) == count) as sent:
        page.mouse.move(*at[0])
        page.mouse.down()
        page.mouse.move(*at[1], steps=6)
        page.mouse.up()
    return sent_strokes(sent.value)


def test_strokes_bring_back_and_remove_and_can_be_undone(page, refined):
    start_with(page, PERSON)
    touch_up(page)
    strokes = paint_line(page, (0.1, 0.1), (0.3, 0.12))
    (stroke,) = strokes
    assert stroke["keep"]
    assert np.allclose([stroke["points"][0], stroke["points"][-1]], [(0.1, 0.1), (0.3, 0.12)], atol=0.01)
    once = refined.touched_up(*paint(read_strokes(strokes), refined.photo.shape))
    assert (once.alpha > refined.alpha).sum() > 500
    wait_shows(page, "matte", once.alpha)
    wait_shows(page, "cutout", once.image)

    choose(page, "cutout", "Remove")
    strokes = paint_line(page, (0.45, 0.7), (0.55, 0.7))
    assert [stroke["keep"] for stroke in strokes] == [True, False]
    twice = refined.touched_up(*paint(read_strokes(strokes), refined.photo.shape))
    assert (twice.alpha < once.alpha).sum() > 500
    wait_shows(page, "matte", twice.alpha)
    choose(page, "background", "White")  # what was painted stays through every change
    wait_shows(page, "cutout", twice.composite("white"))
    name, path = download(page, "#download")
    assert name == "person-cutout.png"
    assert np.array_equal(pixels(path), np.asarray(twice.composite("white")))

    page.locator("#cutout .undo").click()
    wait_shows(page, "matte", once.alpha)
    page.locator("#cutout .view").focus()
    page.keyboard.press("Control+z")
    wait_shows(page, "matte", refined.alpha)
    expect(page.locator("#cutout .undo")).to_be_disabled()
    page.keyboard.press("Control+Shift+Z")
    wait_shows(page, "matte", once.alpha)
    width = page.locator("#cutout .width")
    for key, value in (("]", "3.5"), ("[", "3"), ("[", "2.5")):
        page.keyboard.press(key)
        expect(width).to_have_value(value)


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_quick_strokes_all_count_and_a_new_photo_starts_without_them(page, refined):
    start_with(page, PERSON)
    touch_up(page)
    for x in (0.05, 0.15, 0.25, 0.85):
        strokes = paint_line(page, (x, 0.05), (x, 0.2))
    assert len(strokes) == 4
    painted = refined.touched_up(*paint(read_strokes(strokes), refined.photo.shape))
    wait_shows(page, "matte", painted.alpha)
    page.locator("#cutout .clear").click()
    wait_shows(page, "matte", refined.alpha)
    paint_line(page, (0.1, 0.1), (0.3, 0.1))
    expect(page.locator("#cutout .undo")).to_be_enabled()
    upload(page, EXAMPLES / "cat.jpg")
    expect(page.locator("#status")).to_contain_text("451 × 300", timeout=PATIENCE)
    expect(page.locator("#cutout .undo")).to_be_disabled()


# --- no change asks the network ---

COUNTED = """
import runpy, sys
from background_remover import engines
forward = engines.Engine.__call__
def counted(self, photos):
    with open(sys.argv[1], "a") as file:
        file.write("forward\\n")
    return forward(self, photos)
engines.Engine.__call__ = counted
runpy.run_path("app.py", run_name="__main__")
"""


def test_no_change_runs_the_network_again(browser, start_app, refined, tmp_path):
    count = tmp_path / "count"
    with start_app("-c", COUNTED, str(count)) as url, opened(browser, url) as page:
        start_with(page, PERSON)
        forwards = count.read_text()
        assert forwards.count("forward") >= 1
        choose(page, "background", "White")
        wait_shows(page, "cutout", refined.composite("white"))
        unfold(page, "frame")
        choose(page, "frame", "Subject")
        wait_shows(page, "cutout", refined.framed().composite("white"))
        choose(page, "frame", "Whole photo")
        choose(page, "background", "Blur")
        wait_shows(page, "cutout", refined.composite("blur"))
        choose_format(page, "JPEG")
        assert download(page, "#download")[0] == "person-cutout.jpg"
        matte = page.locator("#matte img")
        before = matte.get_attribute("src")
        page.locator("#refine input").uncheck()
        expect(matte).not_to_have_attribute("src", before)
        touch_up(page)
        before = matte.get_attribute("src")
        paint_line(page, (0.1, 0.1), (0.3, 0.12))
        expect(matte).not_to_have_attribute("src", before)
        assert count.read_text() == forwards
        upload(page, EXAMPLES / "cat.jpg")  # the count counts
        expect(page.locator("#status")).to_contain_text("451 × 300", timeout=PATIENCE)
        assert count.read_text().count("forward") == forwards.count("forward") + 1


# --- where photos come from ---


def test_an_example_is_one_click_away(page):
    page.locator("#examples button").first.click()
    wait_done(page)
    expect(page.locator("#cutout img")).to_be_visible()


FILE = """
([name, data]) => new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name, { type: "image/png" })
"""


def as_file(page, path: Path):
    return page.evaluate_handle(FILE, [path.name, base64.b64encode(path.read_bytes()).decode()])


@pytest.fixture
def person_png(tmp_path) -> Path:
    with Image.open(PERSON) as image:
        image.save(tmp_path / "dropped.png")
    return tmp_path / "dropped.png"


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_photo_can_be_dropped(page, person_png, refined):
    carried = page.evaluate_handle(
        "(file) => { const carried = new DataTransfer(); carried.items.add(file); return carried; }",
        as_file(page, person_png),
    )
    for place in ("#title", "body", "#photo .upload-container"):  # anywhere
        page.dispatch_event(place, "dragenter", {"dataTransfer": carried})
        assert page.evaluate("document.body.classList.contains('dropping')")
        page.dispatch_event(place, "drop", {"dataTransfer": carried})
        assert not page.evaluate("document.body.classList.contains('dropping')")
    wait_done(page)
    wait_shows(page, "cutout", refined.image)
    assert download(page, "#download")[0] == "dropped-cutout.png"


def test_a_photo_can_be_pasted(page, person_png, refined):
    page.evaluate(
        "(file) => navigator.clipboard.write([new ClipboardItem({ 'image/png': file })])", as_file(page, person_png)
    )
    page.locator("#photo button[aria-label='Paste from clipboard']").click()
    wait_done(page)
    wait_shows(page, "cutout", refined.image)


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_the_camera_takes_a_photo(page):
    page.locator("#photo button[aria-label='Capture from camera']").click()
    page.locator("#photo").get_by_text("Click to Access Webcam").click()
    page.wait_for_function("document.querySelector('#photo video')?.videoWidth > 0")
    page.locator("#photo button[aria-label='capture photo']").click()
    expect(page.locator("#status")).to_contain_text(re.compile("Done in|Nothing in this photo"), timeout=PATIENCE)
    expect(page.locator("#cutout img")).to_be_visible()


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_an_iphone_photo_is_shown_and_cut_out(page, tmp_path):
    import pillow_heif

    pillow_heif.register_heif_opener()
    with Image.open(PERSON) as image:
        image.save(tmp_path / "IMG 1.heic")
    start_with(page, tmp_path / "IMG 1.heic")
    expect(page.locator("#cutout img")).to_be_visible()
    page.wait_for_function("document.querySelector('#photo img')?.naturalWidth === 512")
    assert download(page, "#download")[0] == "IMG-1-cutout.png"
    choose(page, "background", "White")
    page.wait_for_function("document.querySelector('#cutout img')?.naturalWidth === 512")


# --- what goes wrong ---


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_what_is_no_photo_is_told_and_the_next_photo_works(page, bad_files):
    start_with(page, PERSON)
    for name, sentence in SENTENCES.items():
        upload(page, bad_files[name])
        expect(page.locator("#status")).to_contain_text(sentence, timeout=PATIENCE)
        expect(page.locator("#cutout img")).to_have_count(0)
        expect(page.locator("#download")).to_be_disabled()
    assert not re.search(r"Traceback|/tmp/|\.py\b", page.locator("body").inner_text())
    start_with(page, PERSON)
    expect(page.locator("#cutout img")).to_be_visible()


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_photo_without_a_subject_is_told(page, tmp_path):
    Image.new("RGB", (300, 200), "navy").save(tmp_path / "blank.png")
    upload(page, tmp_path / "blank.png")
    expect(page.locator("#status")).to_contain_text("Nothing in this photo stands out", timeout=PATIENCE)
    page.wait_for_timeout(1500)  # and that stays, once the file was made
    expect(page.locator("#status")).to_contain_text("Nothing in this photo stands out")


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_control_that_can_not_be_is_told_and_the_photo_is_not_lost(page, refined):
    unfold(page, "frame")
    choose(page, "frame", "Custom size")
    fill(page, "width", 9999)
    fill(page, "height", 200)
    upload(page, PERSON)
    expect(page.locator("#status")).to_contain_text("choose 1 to 5000 pixels a side", timeout=PATIENCE)
    expect(page.locator("#download")).to_be_disabled()
    wait_shows(page, "matte", refined.alpha)
    fill(page, "width", 300)
    page.keyboard.press("Tab")
    wait_shows(page, "cutout", refined.framed(0.05, (300, 200)).image)
    expect(page.locator("#download")).to_be_enabled()


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_bad_background_image_is_told_and_the_result_stays(page, bad_files, refined):
    start_with(page, PERSON)
    choose(page, "background", "Image")
    page.locator("#backdrop input[type=file]").set_input_files(bad_files["text.jpg"])
    expect(page.locator("#status")).to_contain_text("This is not a photo that can be read")
    expect(page.locator("#download")).to_be_disabled()
    expect(page.locator("#backdrop img")).to_be_hidden()
    choose(page, "background", "Transparent")
    wait_shows(page, "cutout", refined.image)
    expect(page.locator("#download")).to_be_enabled()
