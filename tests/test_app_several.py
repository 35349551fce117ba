"""Several photos on the page, in a real browser."""

import csv
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from browsing import (
    PATIENCE,
    SIZES,
    choose,
    download,
    fill,
    open_several,
    opened,
    start_with,
    unfold,
    wait_shows,
)
from helpers import PERSON, SENTENCES, pixels
from PIL import Image
from playwright.sync_api import expect
from test_app import COUNTED

from background_remover.page.strokes import paint, read_strokes

# --- several photos ---


def copies(folder: Path, count: int, side: int = 96) -> list[Path]:
    """Photos with a subject, each a little different."""
    folder.mkdir(exist_ok=True)
    with Image.open(PERSON) as image:
        for number in range(count):
            image.resize((side + number, side)).save(folder / f"photo {number:02d}.png")
    return sorted(folder.iterdir())


def result(photo: Path) -> str:
    """What its cutout is called."""
    return photo.name.replace(" ", "-")


def names(path: Path) -> list[str]:
    """What is in a zip, its report not among it."""
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        inside = archive.namelist()
    assert len(inside) == len({name.lower() for name in inside})
    assert inside[-1] == "report.csv"
    return inside[:-1]


def picture(path: Path, name: str) -> np.ndarray:
    with zipfile.ZipFile(path) as archive:
        return pixels(io.BytesIO(archive.read(name)))


def says(page, text, patience=PATIENCE) -> None:
    expect(page.locator("#batch-status .line")).to_have_text(text, timeout=patience)


def cut_out_all(page, text: str) -> None:
    page.locator("#start").click()
    says(page, text, 4 * PATIENCE)


# What the status said, one after the other.
LISTEN = """() => {
    const line = document.querySelector("#batch-status .line");
    window.lines = [];
    new MutationObserver(() => lines.push(line.textContent)).observe(line, { childList: true });
}"""


def test_of_several_photos_two_are_broken_and_the_others_are_not_lost(page, bad_files, remover, tmp_path):
    count = 12 if page.viewport_size["width"] == SIZES["desktop"][0] else 5
    good = copies(tmp_path / "good", count - 2)
    open_several(page, [good[0], bad_files["text.jpg"], *good[1:], bad_files["truncated.jpg"]])
    says(page, f"{count} photos are ready.")
    expect(page.locator("#gallery .tile img").first).to_be_visible()
    choose(page, "batch-background", "White")
    expect(page.locator("#zip")).to_be_disabled()
    page.evaluate(LISTEN)
    cut_out_all(page, f"{count - 2} cut out, 2 failed")
    said = page.evaluate("lines")
    assert {f"1 of {count} done", f"2 of {count} done"} <= set(said)  # of which one is sound: nothing is known yet
    assert any(re.fullmatch(rf"3 of {count} done, about \d+ s left", line) for line in said)
    assert f"{count} of {count} done" not in said
    expect(page.locator("#gallery .thumbnail-item img")).to_have_count(count - 2)
    reasons = page.locator("#batch-status li")
    expect(reasons).to_have_count(2)
    for reason, name in zip(reasons.all(), ("text.jpg", "truncated.jpg"), strict=True):
        expect(reason).to_contain_text(f"{name}: {SENTENCES[name]}")
        expect(page.locator("#gallery .tile.failed").filter(has_text=name)).to_contain_text(SENTENCES[name])
    expect(page.locator("#start")).to_be_disabled()
    expect(page.locator("#zip")).to_have_class(re.compile("primary"))
    name, path = download(page, "#zip")
    assert name == "cutouts.zip"
    inside = names(path)
    assert inside == [result(photo) for photo in good]
    for photo, entry in ((good[0], inside[0]), (good[-1], inside[-1])):
        truth = np.asarray(remover(photo, refine=True).composite("white"))
        assert np.array_equal(picture(path, entry), truth)
    with zipfile.ZipFile(path) as archive:
        rows = list(csv.reader(io.StringIO(archive.read("report.csv").decode("utf-8-sig"), newline="")))
    assert rows[0] == ["photo", "file", "outcome", "reason"]
    assert rows[1] == [good[0].name, inside[0], "cut out", ""]
    assert rows[2][:3] == ["text.jpg", "", "failed"]
    assert SENTENCES["text.jpg"] in rows[2][3]
    assert len(rows) == 1 + count


def test_a_stop_keeps_what_is_done_and_a_start_does_the_rest(page, tmp_path):
    count = 6
    open_several(page, copies(tmp_path / "many", count))
    page.locator("#start").click()
    expect(page.locator("#gallery .thumbnail-item img").nth(1)).to_be_visible(timeout=PATIENCE)
    page.locator("#stop").click()
    says(page, re.compile(rf"Stopped: [2-5] of {count} cut out\."))
    expect(page.locator("#start")).to_be_enabled()
    expect(page.locator("#stop")).to_be_disabled()
    done = page.locator("#gallery .thumbnail-item").count()
    assert 2 <= done < count
    assert len(names(download(page, "#zip")[1])) == done
    page.locator("#start").click()  # as soon as it can be pressed
    expect(page.locator("#gallery .thumbnail-item").nth(done)).to_be_visible(timeout=PATIENCE)
    page.locator("#stop").click()
    expect(page.locator("#start")).to_be_enabled()
    page.locator("#start").click()
    says(page, f"{count} cut out", 2 * PATIENCE)
    assert len(names(download(page, "#zip")[1])) == count


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_a_folder_can_be_chosen(page, tmp_path):
    copies(tmp_path / "folder", 2)
    (tmp_path / "folder" / ".hidden").write_bytes(b"no photo")
    page.get_by_role("tab", name="Several photos").click()
    with page.expect_file_chooser() as chooser:
        page.locator("#choose-folder").click()
    chooser.value.set_files(tmp_path / "folder")
    says(page, "2 photos are ready.")
    cut_out_all(page, "2 cut out")


def test_no_look_asks_the_network_again_and_each_photo_can_have_its_own(browser, start_app, remover, tmp_path):
    count = tmp_path / "count"
    photos = copies(tmp_path / "photos", 3)
    with start_app("-c", COUNTED, str(count)) as url, opened(browser, url) as page:
        open_several(page, photos)
        stale = page.get_by_text("The look was changed: apply it to all, or the zip has the old one.")
        page.locator("#start").click()
        expect(page.locator("#gallery .busy")).to_be_visible()
        expect(stale).to_be_hidden()
        choose(page, "batch-background", "White")  # too late for this run
        says(page, "3 cut out", 2 * PATIENCE)
        expect(stale).to_be_visible()
        forwards = count.read_text()
        assert picture(download(page, "#zip")[1], result(photos[0])).shape[2] == 4
        page.locator("#apply").click()
        expect(stale).to_be_hidden()
        says(page, "3 cut out")
        truth = [remover(photo, refine=True) for photo in photos]
        path = download(page, "#zip")[1]
        for photo, cutout in zip(photos, truth, strict=True):
            assert np.array_equal(picture(path, result(photo)), np.asarray(cutout.composite("white")))

        # one of them has another look, and a stroke
        page.locator("#gallery .thumbnail-item").nth(1).click()
        expect(page.locator("#background input:checked")).to_have_value("White")
        wait_shows(page, "cutout", truth[1].composite("white"))
        choose(page, "background", "Black")
        wait_shows(page, "cutout", truth[1].composite("#000000"))
        page.locator("#cutout .brush").click()
        box = page.locator("#cutout canvas").bounding_box()
        with page.expect_request(
            lambda sent: "/queue/join" in sent.url and '"width"' in (sent.post_data or "")
        ) as sent:
            page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.1 * box["height"])
            page.mouse.down()
            page.mouse.move(box["x"] + 0.4 * box["width"], box["y"] + 0.1 * box["height"], steps=4)
            page.mouse.up()
        strokes = next(item["strokes"] for item in sent.value.post_data_json["data"] if isinstance(item, dict))
        touched = truth[1].touched_up(*paint(read_strokes(strokes), truth[1].photo.shape))
        assert (touched.alpha != truth[1].alpha).any()
        page.locator("#back").click()
        expect(page.locator("#gallery .busy")).to_have_count(0, timeout=PATIENCE)
        path = download(page, "#zip")[1]
        assert np.array_equal(picture(path, result(photos[1])), np.asarray(touched.composite("#000000")))
        assert np.array_equal(picture(path, result(photos[2])), np.asarray(truth[2].composite("white")))
        name, path = download(page, "#gallery .tile:nth-child(2) .get")
        assert name == result(photos[1])
        assert np.array_equal(pixels(path), np.asarray(touched.composite("#000000")))

        # the next look is that of all, and the stroke stays
        choose(page, "batch-background", "Transparent")
        page.locator("#apply").click()
        expect(stale).to_be_hidden()
        says(page, "3 cut out")
        path = download(page, "#zip")[1]
        assert np.array_equal(picture(path, result(photos[1])), np.asarray(touched.image))
        assert count.read_text() == forwards

        # what is added is all that the network is asked for
        page.locator("#photos input[type=file]").set_input_files(copies(tmp_path / "more", 1))
        says(page, "3 cut out, 1 to do")
        cut_out_all(page, "4 cut out")
        assert count.read_text().count("forward") == forwards.count("forward") + 1
        assert names(download(page, "#zip")[1])[-1] == "photo-00-2.png"


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_another_photo_in_the_editor_changes_no_tile(page, tmp_path):
    open_several(page, copies(tmp_path / "photos", 1))
    cut_out_all(page, "1 cut out")
    before = page.locator("#gallery .get").get_attribute("href")
    for _ in range(2):  # with the look that the editor has already, and once more
        page.locator("#gallery .thumbnail-item").click()
        expect(page.locator("#download")).to_be_enabled(timeout=PATIENCE)
        page.locator("#back").click()
        expect(page.locator("#gallery .thumbnail-item")).to_be_focused()
        expect(page.locator("#gallery .busy")).to_have_count(0)
        assert page.locator("#gallery .get").get_attribute("href") == before
    page.locator("#gallery .thumbnail-item").click()
    expect(page.locator("#back")).to_be_focused()
    start_with(page, PERSON)
    expect(page.locator("#back")).to_be_hidden()
    choose(page, "background", "Black")
    page.get_by_role("tab", name="Several photos").click()
    says(page, "1 cut out")
    assert page.locator("#gallery .get").get_attribute("href") == before


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_what_was_deleted_meanwhile_is_told_and_sent_again(page, uploads, tmp_path):
    first, second = copies(tmp_path / "photos", 2)
    open_several(page, [first, second])
    for file in uploads.rglob(first.name):
        file.unlink()
    cut_out_all(page, "1 cut out, 1 failed")
    sentence = "This photo has since been deleted here: try it again."
    expect(page.locator("#batch-status li")).to_have_text(f"{first.name}: {sentence}")
    page.locator("#retry").click()
    says(page, "2 cut out")
    for result in uploads.rglob("photo-01.png"):
        result.unlink()
    page.locator("#zip").click()
    says(page, "Some results have since been deleted here: try the failed again.")
    page.locator("#retry").click()
    says(page, "2 cut out")
    assert names(download(page, "#zip")[1]) == ["photo-00.png", "photo-01.png"]


# A folder as browsers give what was dropped: its entries come some at a time.
FOLDER = """async () => {
    const file = (name) => ({ name, isFile: true, file: (take) => take(new File(["x"], name)) });
    const folder = (name, ...inside) => ({
        name, createReader: () => ({ readEntries: (take) => take(inside.splice(0, 2)) }),
    });
    const dropped = folder("trip", file("a.jpg"), file(".hidden"), folder("day", file("b.jpg")), file("Thumbs.db"));
    return (await page.files([dropped, file("c.jpg")])).map(({ name }) => name);
}"""


@pytest.mark.parametrize("page", ["desktop"], indirect=True)
def test_what_is_in_a_dropped_folder_is_taken(page):
    assert page.evaluate(FOLDER) == ["a.jpg", "b.jpg", "c.jpg"]


def test_photos_can_be_taken_away_by_keyboard(page, tmp_path):
    open_several(page, copies(tmp_path / "photos", 3))
    page.get_by_role("button", name="Remove photo 01.png").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#gallery .tile .name")).to_have_text(["photo 00.png", "photo 02.png"])
    expect(page.get_by_role("button", name="Remove photo 02.png")).to_be_focused()
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#gallery .tile")).to_have_count(0)
    expect(page.locator("#start")).to_be_disabled()


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_what_can_not_be_asked_for_is_told(page, tmp_path):
    open_several(page, copies(tmp_path / "photos", 1))
    unfold(page, "batch-frame")
    choose(page, "batch-frame", "Custom size")
    fill(page, "batch-width", 9999)
    page.keyboard.press("Tab")
    page.locator("#start").click()
    expect(page.locator("#batch-status .line.bad")).to_contain_text("choose 1 to 5000 pixels a side")
    expect(page.locator("#start")).to_be_enabled()
    fill(page, "batch-width", 200)
    fill(page, "batch-height", 100)
    page.keyboard.press("Tab")
    cut_out_all(page, "1 cut out")
