"""Which subjects of a photo are cut out: picked on the page, all of them again, and wide parts whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import PATIENCE, choose, download, open_several, opened, shown, start_with, touch_up, upload, wait_shows
from helpers import EXAMPLES, pixels
from PIL import Image
from playwright.sync_api import Page, expect

from background_remover import BackgroundRemover, Cutout
from background_remover.page.strokes import paint, read_strokes

SIZE = 640, 360
PLACES = {"cat": (0.2, 0.75), "gamepad": (0.68, 0.65)}  # shares of the photo, on each
NOTHING = "Nothing was found there: click elsewhere, or draw a box around it."


@pytest.fixture(scope="module")
def two(remover: BackgroundRemover, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cat to the left and a gamepad to the right, on plain paper."""
    photo = Image.new("RGB", SIZE, (205, 214, 222))
    for name, left in (("cat", 20), ("gamepad", 370)):
        cutout = remover(EXAMPLES / f"{name}.jpg", refine=True).image
        part = cutout.crop(cutout.getchannel("A").point(lambda alpha: 255 * (alpha >= 128)).getbbox())
        part.thumbnail((250, 250))
        photo.paste(part, (left, 340 - part.height), part)
    path = tmp_path_factory.mktemp("two") / "two.png"
    photo.save(path)
    return path


@pytest.fixture(scope="module")
def truth(remover: BackgroundRemover, two: Path) -> dict[str, Cutout]:
    """What the library makes of it: of each subject, and of both."""
    found = {name: remover(two, refine=True, points=[(x * SIZE[0], y * SIZE[1])]) for name, (x, y) in PLACES.items()}
    return found | {"both": remover(two, refine=True)}


def picker(page: Page) -> None:
    """The photo with its outlines."""
    page.locator("#cutout .picker").click()
    expect(page.locator("#cutout .outlines")).to_be_visible()
    expect(page.locator("#cutout .picker")).to_have_attribute("aria-pressed", "true")


def at(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where on the screen a share of the photo is."""
    box = page.locator("#cutout .sheet").bounding_box()
    assert box is not None
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def click(page: Page, name: str) -> None:
    page.mouse.click(*at(page, *PLACES[name]))


def drag(page: Page, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.mouse.move(*at(page, *start))
    page.mouse.down()
    page.mouse.move(*at(page, *end), steps=3)
    page.mouse.up()


def pick_of(page: Page) -> dict[str, Any]:
    found: dict[str, Any] = page.evaluate("page.stage.state().pick")
    return found


def pressed(page: Page) -> list[str]:
    return [
        str(button.get_attribute("aria-label"))
        for button in page.locator("#cutout .outlines button[aria-pressed=true]").all()
    ]


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_click_picks_a_subject_and_all_are_had_again_after_a_reload(page, two, truth):
    start_with(page, two)
    wait_shows(page, "cutout", truth["both"].image)
    picker(page)
    everything = page.locator("#cutout .everything")
    expect(everything).to_be_disabled()
    expect(page.locator("#cutout .outlines button")).to_have_count(2)
    assert pressed(page) == []
    click(page, "gamepad")
    choose(page, "background", "White")  # at once: both count
    wait_shows(page, "cutout", truth["gamepad"].composite("white"))
    wait_shows(page, "matte", truth["gamepad"].matte)
    expect(page.locator("#cutout .outlines")).to_be_hidden()  # the result is what is shown
    assert np.array_equal(pixels(download(page, "#download")[1]), np.asarray(truth["gamepad"].composite("white")))
    choose(page, "background", "Black")
    wait_shows(page, "cutout", truth["gamepad"].composite("black"))
    page.reload()
    wait_shows(page, "cutout", truth["gamepad"].composite("black"))
    picker(page)
    assert pressed(page) == ["Subject 2"]
    everything.click()
    wait_shows(page, "cutout", truth["both"].composite("black"))
    expect(page.locator("#cutout .picker")).to_be_focused()
    picker(page)
    expect(everything).to_be_disabled()
    assert pressed(page) == []
    page.keyboard.press("Escape")
    expect(page.locator("#cutout .outlines")).to_be_hidden()
    touch_up(page)
    picker(page)  # takes the brush's place
    expect(page.locator("#cutout canvas")).to_be_hidden()
    touch_up(page)
    expect(page.locator("#cutout .outlines")).to_be_hidden()


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_box_more_clicks_and_nothing_at_all(page, two, truth, remover):
    start_with(page, two)
    touch_up(page)
    drag(page, (0.6, 0.75), (0.75, 0.55))
    strokes = page.evaluate("page.stage.state().strokes")
    masks = paint(read_strokes(strokes), SIZE[::-1])
    wait_shows(page, "matte", truth["both"].touched_up(*masks).matte)
    picker(page)
    drag(page, (0.99, 0.97), (0.55, 0.2))
    box = [share * side for share, side in zip(pick_of(page)["box"], SIZE * 2, strict=True)]
    boxed = remover(two, refine=True, box=box)
    assert boxed.alpha[:, : SIZE[0] // 2].max() == 0  # the cat is gone
    wait_shows(page, "cutout", boxed.touched_up(*masks).image)  # and what was painted has stayed
    assert page.evaluate("page.stage.state().strokes") == strokes

    picker(page)
    click(page, "cat")
    wait_shows(page, "cutout", truth["cat"].touched_up(*masks).image)
    picker(page)
    assert pressed(page) == ["Subject 1"]
    page.keyboard.down("Shift")
    click(page, "gamepad")
    page.keyboard.up("Shift")
    both = truth["both"].touched_up(*masks).image
    wait_shows(page, "cutout", both)
    expect(page.locator("#cutout .outlines")).to_be_visible()  # others may follow
    assert pressed(page) == ["Subject 1", "Subject 2"]

    before = shown(page, "cutout")
    drag(page, (0.02, 0.02), (0.1, 0.12))
    expect(page.locator("#status")).to_contain_text(NOTHING, timeout=PATIENCE)
    page.wait_for_timeout(1000)
    expect(page.locator("#status")).to_contain_text(NOTHING)  # nothing else is said over it
    assert len(pick_of(page)["points"]) == 2
    assert np.array_equal(shown(page, "cutout"), before)
    assert np.array_equal(pixels(download(page, "#download")[1]), np.asarray(both))


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_subjects_are_picked_by_keys(page, two, truth):
    start_with(page, two)
    page.locator("#cutout .picker").focus()
    page.keyboard.press("Enter")
    for _ in range(15):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.ariaLabel") == "Subject 2":
            break
    around = "parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
    assert page.evaluate(around) >= 2  # more than those have that are not in focus
    page.keyboard.press("Enter")
    wait_shows(page, "cutout", truth["gamepad"].image)
    expect(page.locator("#cutout .picker")).to_be_focused()


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_finger_picks_and_two_zoom(page, two, truth):
    start_with(page, two)
    picker(page)
    page.locator("#cutout .view").scroll_into_view_if_needed()
    fingers = page.context.new_cdp_session(page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    width = page.locator("#cutout .sheet").bounding_box()["width"]
    (x, y), far = at(page, 0.4, 0.5), at(page, 0.6, 0.5)
    touch("touchStart", (x, y))
    touch("touchStart", (x, y), far)
    touch("touchMove", (x - 40, y), (far[0] + 40, far[1]))
    touch("touchEnd")
    assert page.locator("#cutout .sheet").bounding_box()["width"] > 1.5 * width
    assert pick_of(page) == {"box": None, "points": []}
    page.locator("#cutout .out").tap()
    page.locator("#cutout .out").tap()
    assert page.locator("#cutout .sheet").bounding_box()["width"] == pytest.approx(width, abs=1)
    page.touchscreen.tap(*at(page, *PLACES["cat"]))
    wait_shows(page, "cutout", truth["cat"].image)


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_whole_subjects_are_asked_for_with_the_pick_and_on_the_next_visit(page, two, remover):
    asked: list[list[Any]] = []

    def note(request: Any) -> None:
        if "/queue/join" in request.url:
            asked.append(json.loads(request.post_data)["data"])

    def subjects() -> list[list[Any]]:
        """What on_subject was given: the switch stands behind that for the edges."""
        states = [data for data in asked if isinstance(data[0], dict) and "pick" in data[0]]
        return [data for data in states if isinstance(data[2], bool)]

    page.on("request", note)
    upload(page, two)
    page.locator("#solid input").check()  # while the photo is worked on
    whole = remover(two, refine=True, solid=True)
    expect(page.locator("#status")).to_contain_text(re.compile("Done in .* kB"), timeout=PATIENCE)
    wait_shows(page, "cutout", whole.image)
    assert [(data[2], data[0]["pick"]["points"]) for data in subjects()] == [(True, [])]
    picker(page)
    click(page, "cat")
    x, y = PLACES["cat"]
    wait_shows(page, "cutout", remover(two, refine=True, solid=True, points=[(x * SIZE[0], y * SIZE[1])]).image)
    (pick,) = subjects()[1:]
    assert pick[2] is True
    page.reload()
    expect(page.locator("#download")).to_be_enabled(timeout=PATIENCE)
    expect(page.locator("#solid input")).to_be_checked()
    page.locator("#solid input").uncheck()
    wait_shows(page, "cutout", remover(two, refine=True, points=[(x * SIZE[0], y * SIZE[1])]).image)
    assert subjects()[-1][2] is False
    assert len(subjects()[-1][0]["pick"]["points"]) == 1


def test_one_of_several_photos_keeps_what_was_picked_in_the_editor(browser, app_url, two, truth):
    with opened(browser, app_url) as page:
        open_several(page, [two])
        page.locator("#start").click()
        tile = page.locator("#gallery .tile")
        expect(tile).to_have_class(re.compile("done"), timeout=PATIENCE)
        tile.locator(".open").click()
        expect(page.locator("#status")).to_contain_text("Done in", timeout=PATIENCE)
        picker(page)
        expect(page.locator("#cutout .outlines button")).to_have_count(2)
        click(page, "cat")
        wait_shows(page, "cutout", truth["cat"].image)
        before = tile.locator(".get").get_attribute("href")
        page.locator("#back").click()
        expect(tile.locator(".get")).not_to_have_attribute("href", str(before), timeout=PATIENCE)
        expect(tile).not_to_have_class(re.compile("busy"), timeout=PATIENCE)
        with page.expect_download() as waiting:
            tile.locator(".get").click()
        assert np.array_equal(pixels(Path(waiting.value.path())), np.asarray(truth["cat"].image))
        tile.locator(".open").click()
        wait_shows(page, "cutout", truth["cat"].image)
        picker(page)
        page.locator("#cutout .everything").click()
        wait_shows(page, "cutout", truth["both"].image)
