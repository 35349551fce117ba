"""The page in a real browser and the API through real clients, all against `python app.py` as a user starts it."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import EXAMPLES, ROOT
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import expect, sync_playwright

PERSON = EXAMPLES / "person.jpg"


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bad")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 15_000)).save(bomb, "PNG")
    contents = {
        "text.jpg": b"not a photo at all",
        "truncated.jpg": PERSON.read_bytes()[:20_000],
        "bomb.png": bomb.getvalue(),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "empty.png": b"",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


SENTENCES = {
    "text.jpg": "This is not a photo that can be read",
    "truncated.jpg": "This photo is damaged or incomplete",
    "bomb.png": "more than 89 megapixels",
    "drawing.svg": "This is an SVG drawing",
    "empty.png": "This file is empty",
}


# --- the API ---


@pytest.fixture(scope="session")
def client(app_url, tmp_path_factory) -> Client:
    return Client(app_url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="session")
def truth(remover):
    return remover(PERSON)


def test_names_parameters_and_outputs_are_the_contract(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]

    def shape(items: list[dict]) -> list[tuple]:
        names = [item.get("parameter_name", item["label"]) for item in items]
        defaults = [item.get("parameter_default") for item in items]
        needed = [not item.get("parameter_has_default", False) for item in items]
        return list(zip(names, [item["component"] for item in items], defaults, needed, strict=True))

    image = ("image", "Image", None, True)
    rest = [("background", "Textbox", "transparent", False), ("background_image", "Image", None, False)]
    matte, cutout = ("matte", "Image", None, True), ("cutout", "Image", None, True)
    assert {name: (shape(end["parameters"]), shape(end["returns"])) for name, end in endpoints.items()} == {
        "/predict": ([image], [cutout]),
        "/remove_background": ([image, *rest], [matte, cutout]),
        "/cutout": ([image, *rest], [cutout]),
    }


def test_predict_is_function_0_one_image_in_cutout_out(client, truth):
    for how in ({"fn_index": 0}, {"api_name": "/predict"}):
        path = client.predict(handle_file(PERSON), **how)
        assert Path(path).name == "person-cutout.png"
        assert np.array_equal(pixels(path), np.asarray(truth.image))


def test_remove_background_gives_matte_and_composite(client, truth):
    matte, cutout = client.predict(handle_file(PERSON), api_name="/remove_background")
    assert Path(matte).name == "person-matte.png"
    assert np.array_equal(pixels(matte), truth.alpha)
    assert np.array_equal(pixels(cutout), np.asarray(truth.image))


@pytest.mark.parametrize("background", ["#30a060", "blur", "rgb(1, 2, 3)"])
def test_cutout_takes_every_background(client, truth, background):
    path = client.predict(handle_file(PERSON), background, api_name="/cutout")
    assert np.array_equal(pixels(path), np.asarray(truth.composite(background)))


def test_a_background_image_wins(client, truth):
    cup = EXAMPLES / "coffee.jpg"
    path = client.predict(handle_file(PERSON), background_image=handle_file(cup), api_name="/cutout")
    assert np.array_equal(pixels(path), np.asarray(truth.composite(cup)))


@pytest.mark.parametrize("name", SENTENCES)
def test_the_api_refuses_what_is_no_photo_in_one_sentence_and_goes_on(client, bad_files, name):
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(bad_files[name]), api_name="/predict")
    message = str(caught.value)
    assert SENTENCES[name] in message
    assert not re.search(r"/\w+/|Traceback|\.py", message)
    assert client.predict(handle_file(PERSON), api_name="/predict").endswith(".png")


def test_no_photo_and_no_colour_are_told_plainly(client):
    with pytest.raises(AppError, match="no photo yet"):
        client.predict(None, api_name="/predict")
    with pytest.raises(AppError, match="not a colour"):
        client.predict(handle_file(PERSON), "no-such-colour", api_name="/cutout")


def post(url: str, data: object) -> dict:
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def test_curl_works_in_its_three_steps(app_url, truth, tmp_path):
    def curl(*arguments: str) -> str:
        return subprocess.run(["curl", "-sSf", *arguments], capture_output=True, text=True, check=True).stdout

    (uploaded,) = json.loads(curl("-F", f"files=@{PERSON}", f"{app_url}/gradio_api/upload"))
    image = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
    body = json.dumps({"data": [image]})
    event = json.loads(curl("-H", "Content-Type: application/json", "-d", body, f"{app_url}/gradio_api/call/predict"))[
        "event_id"
    ]
    (line,) = re.findall(r"event: complete\ndata: (.*)", curl("-N", f"{app_url}/gradio_api/call/predict/{event}"))
    curl("-o", str(tmp_path / "cutout.png"), json.loads(line)[0]["url"])
    assert np.array_equal(pixels(tmp_path / "cutout.png"), np.asarray(truth.image))


def call(app_url: str, image: dict) -> str:
    event = post(f"{app_url}/gradio_api/call/predict", {"data": [image]})["event_id"]
    with urllib.request.urlopen(f"{app_url}/gradio_api/call/predict/{event}", timeout=60) as answer:
        return answer.read().decode()


def test_a_data_url_is_a_photo_too(app_url):
    data = base64.b64encode(PERSON.read_bytes()).decode()
    meta = {"_type": "gradio.FileData"}
    assert "event: complete" in call(app_url, {"url": f"data:image/jpeg;base64,{data}", "meta": meta})
    assert "This is not a photo" in call(app_url, {"url": "data:image/jpeg;base64,!!!", "meta": meta})


@pytest.mark.parametrize("path", ["/etc/passwd", str(PERSON), str(ROOT / "app.py")])
def test_files_of_the_server_cannot_be_named(app_url, path):
    answer = call(app_url, {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert "event: complete" not in answer
    assert str(ROOT) not in answer
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{app_url}/gradio_api/file={path}", timeout=30)


def test_the_javascript_client_gets_the_same_picture(run_node, app_url, truth, tmp_path):
    script = """
        import { Client } from "@gradio/client";
        import { readFileSync, writeFileSync } from "node:fs";
        const app = await Client.connect(process.argv[2]);
        const photo = new File([readFileSync("examples/person.jpg")], "person.jpg", { type: "image/jpeg" });
        const { data } = await app.predict("/cutout", { image: photo, background: "#30a060" });
        writeFileSync(process.argv[3], Buffer.from(await (await fetch(data[0].url)).arrayBuffer()));
        """
    run_node(script, app_url, str(tmp_path / "cutout.png"))
    assert np.array_equal(pixels(tmp_path / "cutout.png"), np.asarray(truth.composite("#30a060")))


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
