"""The main flow on the page in Firefox, which draws, masks and saves with code of its own."""

import json
import shutil
import time

import numpy as np
import pytest
from bidi import PATIENCE, running
from helpers import PERSON, pixels
from PIL import Image

from background_remover.page.strokes import paint, read_strokes

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
NEAR = 8.0  # levels by which two ways of scaling a picture may differ, on average


@pytest.fixture
def firefox(app_url, tmp_path):
    """The open page; afterwards, no request may have left the machine and nothing may have failed in it."""
    if FIREFOX is None:
        pytest.skip("no Firefox")
    with running(FIREFOX, tmp_path) as firefox:
        firefox.open(app_url, 1280, 800)
        yield firefox
        assert firefox.value("document.documentElement.scrollWidth <= window.innerWidth"), "scrolls sideways"
        urls = [params["request"]["url"] for name, params in firefox.events if name == "network.beforeRequestSent"]
        assert [url for url in urls if not url.startswith((app_url, "data:", "blob:"))] == []
        logged = [params for name, params in firefox.events if name == "log.entryAdded"]
        assert [entry["text"] for entry in logged if entry["level"] == "error"] == []


def coarse(picture: object) -> np.ndarray:
    """64 pixels a side, in which all ways of scaling a picture come to much the same."""
    return np.asarray(Image.fromarray(np.asarray(picture)).resize((64, 64), Image.Resampling.BOX)).astype(int)


def wait_looks(firefox, truth, where=True) -> None:
    """Until the result is on the screen, in the part of it that counts."""
    where = np.broadcast_to(where, (64, 64))
    end = time.monotonic() + PATIENCE
    while (error := np.abs(coarse(firefox.seen("#cutout img")) - coarse(truth))[where].mean()) > NEAR:
        assert time.monotonic() < end, f"differs by {error:.1f}"


def sent_strokes(firefox) -> list[dict]:
    """The strokes that the page has sent last."""
    bodies = [json.loads(body)["data"] for body in firefox.sent("/queue/join")]
    states = [item for data in bodies for item in data if isinstance(item, dict) and "strokes" in item]
    return states[-1]["strokes"]


def test_a_photo_is_cut_out_touched_up_and_downloaded_in_firefox(firefox, refined):
    subject, backdrop = coarse(refined.alpha) == 255, coarse(refined.alpha) == 0
    firefox.upload("#photo input[type=file]", PERSON)
    firefox.wait("document.querySelector('#status').textContent.includes('Done in')")
    wait_looks(firefox, refined.composite("white"), subject)
    firefox.wait("document.querySelector('#status').textContent.includes(' kB')")  # the page is at rest

    firefox.click("#background input[value=White]")
    wait_looks(firefox, refined.composite("white"))

    firefox.click("#cutout .brush")
    differs = np.abs(coarse(firefox.seen("#cutout canvas")) - coarse(refined.photo.rgb)).mean(-1)
    assert differs[subject].mean() < NEAR
    assert differs[backdrop].mean() > 4 * NEAR  # it is red

    firefox.drag("#cutout canvas", (0.1, 0.1), (0.2, 0.11), (0.3, 0.12))
    firefox.element("#cutout .view[aria-busy=false]")
    strokes = sent_strokes(firefox)
    (stroke,) = strokes
    assert np.allclose([stroke["points"][0], stroke["points"][-1]], [(0.1, 0.1), (0.3, 0.12)], atol=0.01)
    touched = refined.touched_up(*paint(read_strokes(strokes), refined.photo.shape))
    assert (touched.alpha > refined.alpha).sum() > 500

    firefox.click("#download:not(:disabled)")
    assert firefox.wait_event("browsingContext.downloadWillBegin")["suggestedFilename"] == "person-cutout.png"
    saved = firefox.wait_event("browsingContext.downloadEnd")["filepath"]
    assert np.array_equal(pixels(saved), np.asarray(touched.composite("white")))
