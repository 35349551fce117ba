"""A drop-in for remove.bg: its fields, its answers, its errors, its published clients, against `python app.py`."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from asking import leaving_nothing
from helpers import EXAMPLES, LEAK, PERSON, data_url, encoded
from PIL import Image
from scipy import ndimage

from background_remover import Cutout, removebg
from background_remover.decoding import Photo
from background_remover.photos import open_photo
from background_remover.removebg import look_at, over_translucent, read_colour

PATH, ACCOUNT = "/v1.0/removebg", "/v1.0/account"
PHOTO = PERSON.read_bytes()
with Image.open(PERSON) as opened:
    WIDTH, HEIGHT = opened.size
FULL = {"size": "full"}
CLOSE = 3  # of 255: by how much a JPEG of high quality may be off, on the mean
THIN = 6  # pixels: what is thinner at the subject's edge may fade when it is made smaller
CLIENT = "remove.bg@1.3.0"
PRELOAD = """
const http = require("http"), https = require("https"), base = new URL(process.env.BASE), request = https.request;
https.request = function (options, answered) {
  if ((options.hostname || options.host) !== "api.remove.bg") return request.apply(this, arguments);
  const at = { protocol: "http:", host: base.hostname, hostname: base.hostname, port: base.port };
  return http.request({ ...options, ...at, agent: http.globalAgent, agents: undefined }, answered);
};
"""


@pytest.fixture(scope="module")
def ask(app_url) -> Iterator[Callable[..., httpx.Response]]:
    """Send fields, PERSON as the file unless there is another source; gives the answer."""
    with httpx.Client(base_url=app_url, timeout=120) as client:

        def ask(
            fields: dict[str, Any] | None = None, files: dict[str, Any] | None = None, **how: Any
        ) -> httpx.Response:
            files = {"image_file": ("person.jpg", PHOTO)} if files is None else files
            return client.post(PATH, data=fields, files=files or None, **how)

        yield ask


@pytest.fixture
def clean(uploads, app_url) -> Iterator[None]:
    """Nothing more lies in the store afterwards."""
    with leaving_nothing(uploads):
        yield


def picture(answer: httpx.Response) -> np.ndarray:
    assert answer.status_code == 200, answer.text[:300]
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image)


def error(answer: httpx.Response, status: int = 400) -> str:
    """The code of a refusal, which is one sentence in remove.bg's shape."""
    assert answer.status_code == status, answer.text[:300]
    assert answer.headers["content-type"] == "application/json"
    assert "x-credits-charged" not in answer.headers
    said = answer.json()
    assert said.keys() == {"errors"}
    assert said["errors"][0].keys() == {"title", "code"}
    assert re.fullmatch(r"[A-Z].{10,300}\.", said["errors"][0]["title"])
    assert not re.search(LEAK, said["errors"][0]["title"])
    return said["errors"][0]["code"]


def box(alpha: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what is seen, without specks."""
    parts, _ = ndimage.label(alpha >= 32, np.ones((3, 3)))
    counts = np.bincount(parts.ravel())
    counts[0] = 0
    rows, columns = np.nonzero((counts >= max(1, 0.002 * counts.max()))[parts])
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


# --- sources ---


@pytest.mark.parametrize(
    "how",
    [
        {"files": {"image_file": ("image_file", PHOTO)}, "data": {"image_url": "", "image_file_b64": "", "roi": ""}},
        {"data": {"image_file_b64": base64.b64encode(PHOTO).decode()}},
        {"data": {"image_file_b64": base64.urlsafe_b64encode(PHOTO).decode(), "image_file": ""}},
        {"files": {"image_file_b64": (None, base64.encodebytes(PHOTO))}},
        {"files": {"image_file_b64": (None, data_url(PERSON))}},
        {
            "json": {
                "image_file_b64": base64.b64encode(PHOTO).decode(),
                "image_url": None,
                "crop": False,
                "type_level": 1,
            }
        },
        {"json": {"image_url": data_url(PERSON), "unknown": 1}},
    ],
    ids=range(7),
)
def test_each_source_gives_the_cutout(app_url, truth, clean, how):
    for name in ("data", "json"):
        if name in how:
            how = how | {name: how[name] | FULL}
    answer = httpx.post(f"{app_url}{PATH}", params=FULL if "json" not in how else {}, timeout=60, **how)
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(picture(answer), np.asarray(truth.image))


def test_one_source_and_one_background_at_most(ask, clean):
    assert error(ask(files={})) == "missing_source"
    assert error(ask({"image_url": ""}, files={})) == "missing_source"
    assert error(ask({"image_url": "http://a.example/"})) == "multiple_sources"
    assert error(ask({"image_file_b64": "abcd"})) == "multiple_sources"
    both = {"bg_color": "red", "bg_image_url": "http://a.example/"}
    assert error(ask(both)) == "multiple_bg_sources"
    assert picture(ask({"bg_color": "", "bg_image_url": " "})).shape[2] == 4


# --- fields ---


SMALL, WHOLE = (None, "preview", "small", "regular"), ("full", "auto", "4k", "50MP")
SIZES = dict.fromkeys(SMALL, 250_000) | {"medium": 1_500_000, "hd": 4_000_000} | dict.fromkeys(WHOLE, 25_000_000)


@pytest.mark.parametrize(("size", "most"), SIZES.items())
def test_a_size_has_so_many_pixels_at_most(ask, size, most):
    answer = ask({"size": size} if size else {})
    height, width = picture(answer).shape[:2]
    assert (answer.headers["x-width"], answer.headers["x-height"]) == (str(width), str(height))
    share = min(1, (most / (WIDTH * HEIGHT)) ** 0.5)
    assert width * height <= most
    assert abs(width - WIDTH * share) <= 2
    assert abs(height - HEIGHT * share) <= 2


@pytest.mark.parametrize("shape", [(3001, 7), (7, 3001), (503, 499), (1009, 977)])
def test_no_size_is_exceeded_by_rounding(shape):
    wanted = removebg.Wanted.read({}, None)
    photo = Photo(np.zeros((*shape, 3), np.uint8))
    for most in (1000, 1501, 9973, 250_000):
        object.__setattr__(wanted, "most", most)
        framed = wanted.frame(Cutout(photo, np.zeros(shape, np.uint8), photo.rgb)).alpha
        assert framed.size <= most or 1 in framed.shape


@pytest.mark.parametrize(
    ("fields", "media", "mode"),
    [
        ({}, "image/png", "RGBA"),
        ({"format": "auto", "bg_color": "fff"}, "image/jpeg", "RGB"),
        ({"bg_color": "ffffff80"}, "image/png", "RGBA"),
        ({"format": "png", "bg_color": "white"}, "image/png", "RGB"),
        ({"format": "jpg"}, "image/jpeg", "RGB"),
        ({"format": "webp"}, "image/webp", "RGBA"),
        ({"channels": "alpha"}, "image/png", "L"),
        ({"channels": "alpha", "bg_color": "81d4fa"}, "image/png", "L"),
        ({"channels": "alpha", "format": "jpg"}, "image/jpeg", "L"),
    ],
    ids=str,
)
def test_the_format_is_what_was_asked_for_or_follows_from_the_background(ask, clean, fields, media, mode):
    answer = ask(fields)
    assert answer.headers["content-type"] == media
    with Image.open(io.BytesIO(answer.content)) as image:
        assert image.mode == mode
        assert image.get_format_mimetype() == media


def test_a_zip_has_colours_and_an_alpha_in_eight_bits_of_grey(ask, truth, clean):
    answer = ask(FULL | {"format": "zip"})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["color.jpg", "alpha.png"]
        colour, alpha = archive.read("color.jpg"), archive.read("alpha.png")
    assert alpha[24:26] == b"\x08\x00"  # bits and colour type of a PNG: grey, nothing else
    with Image.open(io.BytesIO(alpha)) as image:
        assert np.array_equal(np.asarray(image), truth.alpha)
    with Image.open(io.BytesIO(colour)) as image:
        assert image.mode == "RGB"
        seen = truth.alpha > 0
        assert np.abs(np.asarray(image)[seen].astype(int) - truth.foreground[seen]).mean() < CLOSE


def test_the_matte_alone_is_the_alpha(ask, truth):
    assert np.array_equal(picture(ask(FULL | {"channels": "alpha"})), truth.alpha)


COLOURS = {"81d4fa": "81d4fa", "#81D4FA": "81d4fa", "f00": "ff0000", "#0f0f": "00ff00", "green": "008000"}
COLOURS |= {"bed": "bbeedd"}  # digits, though it is a word


@pytest.mark.parametrize(("colour", "digits"), COLOURS.items())
def test_a_colour_is_behind_the_subject(ask, truth, colour, digits):
    alpha = truth.alpha[..., np.newaxis] / 255
    expected = np.rint(truth.foreground * alpha + np.array([*bytes.fromhex(digits)]) * (1 - alpha))
    shown = picture(ask(FULL | {"bg_color": colour, "format": "png"}))
    assert np.abs(shown - expected).max() <= 1


def test_a_colour_that_lets_something_through_is_mixed_as_light_is(ask, truth):
    """The subject over the colour over any ground is what the result over that ground is."""
    shown = picture(ask(FULL | {"bg_color": "ff000080"})).astype(float)
    alpha = truth.alpha[..., np.newaxis] / 255
    for ground in (0, 255):
        under = np.array((255, 0, 0)) * (128 / 255) + ground * (1 - 128 / 255)
        expected = truth.foreground * alpha + under * (1 - alpha)
        got = shown[..., :3] * shown[..., 3:] / 255 + ground * (1 - shown[..., 3:] / 255)
        assert np.abs(got - expected).max() < 2
    assert read_colour("#12345678") == (0x12, 0x34, 0x56, 0x78)


def test_mixing_takes_little_memory_beside_the_result():
    import tracemalloc

    photo = Photo(np.full((2000, 1000, 3), 90, np.uint8))
    cutout = Cutout(photo, np.full(photo.shape, 77, np.uint8), photo.rgb)
    tracemalloc.start()
    try:
        result = over_translucent(cutout, (1, 2, 3, 4))
        assert tracemalloc.get_traced_memory()[1] < 1.5 * result.nbytes
    finally:
        tracemalloc.stop()
    assert (result == result[0, 0]).all()


@pytest.mark.parametrize("source", ["bg_image_file", "bg_image_url"])
def test_an_image_fills_the_frame_behind_the_subject(ask, app_url, truth, clean, source):
    coffee = EXAMPLES / "coffee.jpg"
    if source == "bg_image_file":
        files = {"image_file": ("a.jpg", PHOTO), source: ("b.jpg", coffee.read_bytes())}
        answer = ask(FULL | {"format": "png"}, files)
    else:
        fields = {"size": "full", "format": "png", "image_url": data_url(PERSON), source: data_url(coffee)}
        answer = httpx.post(f"{app_url}{PATH}", json=fields, timeout=60)
    assert np.array_equal(picture(answer), np.asarray(truth.composite(coffee)))


# --- geometry ---


@pytest.mark.parametrize(
    ("margin", "sides"),
    [
        ("0", (0, 0, 0, 0)),
        ("10px", (10, 10, 10, 10)),
        ("10", (10, 10, 10, 10)),
        ("5px 20px", (5, 20, 5, 20)),
        ("1px,2px,3px,4px", (1, 2, 3, 4)),
        ("10% 20%", ("10%", "20%", "10%", "20%")),
        ("99999px", ("50%", "50%", "50%", "50%")),
    ],
)
def test_a_crop_is_the_subject_and_its_margins(ask, truth, margin, sides):
    """Those above, right of, below and left of it, of its height and width."""
    left, top, right, bottom = box(truth.alpha)
    lengths = (bottom - top, right - left) * 2
    above, after, below, before = (
        min(500, round(int(side[:-1]) / 100 * length)) if isinstance(side, str) else side
        for side, length in zip(sides, lengths, strict=True)
    )
    shown = picture(ask(FULL | {"crop": "true", "crop_margin": margin}))
    padded = np.pad(np.asarray(truth.image), ((600, 600), (600, 600), (0, 0)))
    expected = padded[600 + top - above : 600 + bottom + below, 600 + left - before : 600 + right + after]
    assert np.array_equal(shown, expected)


@pytest.mark.parametrize(
    ("fields", "share", "place"),
    [
        ({"scale": "50%"}, 0.5, (0.5, 0.5)),
        ({"scale": "100%"}, 1, (0.5, 0.5)),
        ({"scale": "25%", "position": "0%"}, 0.25, (0, 0)),
        ({"scale": "25%", "position": "100% 0%"}, 0.25, (1, 0)),
        ({"scale": "40%", "position": "10% 80%"}, 0.4, (0.1, 0.8)),
        ({"position": "center"}, None, (0.5, 0.5)),
    ],
    ids=str,
)
def test_the_subject_is_so_large_and_there(ask, truth, fields, share, place):
    left, top, right, bottom = box(truth.alpha)
    scale = share * min(WIDTH / (right - left), HEIGHT / (bottom - top)) if share else 1
    width, height = (right - left) * scale, (bottom - top) * scale
    across, down = (WIDTH - width) * place[0], (HEIGHT - height) * place[1]
    answer = ask(FULL | fields)
    shown = picture(answer)
    assert shown.shape[:2] == (HEIGHT, WIDTH)
    assert np.abs(np.subtract(box(shown[..., 3]), (across, down, across + width, down + height))).max() <= THIN
    told = [int(answer.headers[f"x-foreground-{name}"]) for name in ("left", "top", "width", "height")]
    assert np.abs(np.subtract(told, (across, down, width, height))).max() <= THIN


def test_what_lies_outside_the_roi_is_background(ask, remover, clean):
    left, top, right, bottom = WIDTH // 4, 0, WIDTH, round(HEIGHT * 0.9)
    shown = picture(ask(FULL | {"roi": f"25% 0px {right}px 90%"}))
    inner = remover(open_photo(PERSON).rgb[top:bottom, left:right])
    assert np.array_equal(shown[top:bottom, left:right, 3], inner.alpha)
    shown = shown.copy()
    shown[top:bottom, left:right] = 0
    assert not shown.any()


def test_a_roi_keeps_alpha_and_sixteen_bits():
    alpha = np.arange(12, dtype=np.uint8).reshape(3, 4)
    photo = Photo(np.zeros((3, 4, 3), np.uint8), alpha=alpha, deep=np.ones((3, 4, 3), np.uint16))
    seen: list[Photo] = []

    def remover(part: Photo) -> Cutout:
        seen.append(part)
        return Cutout(part, np.full(part.shape, 9, np.uint8), np.full_like(part.rgb, 7))

    cutout = look_at(photo, (1, 0, 3, 2), remover)
    assert np.array_equal(seen[0].alpha, alpha[0:2, 1:3])
    assert seen[0].deep.shape == (2, 2, 3)
    assert cutout.alpha.tolist() == [[0, 9, 9, 0], [0, 9, 9, 0], [0, 0, 0, 0]]
    assert cutout.photo is photo


# --- answers ---


def test_headers_say_what_its_clients_read(ask):
    headers = ask({"type": "car"}).headers
    assert headers["x-credits-charged"] == "0"
    assert headers["x-type"] == "car"
    assert ask({"type": "graphic"}).headers["x-type"] == "other"
    assert "x-type" not in ask({"type_level": "none"}).headers


def test_json_is_for_those_alone_that_accept_nothing_else(ask, clean):
    binary = ask({"crop": "1"})
    for accept in ("application/json, text/plain, */*", "*/*", "image/png"):
        assert ask({"crop": "1"}, headers={"Accept": accept}).content == binary.content
    answer = ask({"crop": "1"}, headers={"Accept": "Application/JSON"})
    assert answer.headers["content-type"] == "application/json"
    data = answer.json()["data"]
    assert base64.b64decode(data.pop("result_b64"), validate=True) == binary.content
    assert data == {
        f"foreground_{name}": int(answer.headers[f"x-foreground-{name}"]) for name in ("top", "left", "width", "height")
    }
    assert answer.headers["x-width"] == binary.headers["x-width"]


def test_the_account_has_all_that_its_clients_ask_for(app_url):
    about = httpx.get(f"{app_url}{ACCOUNT}").json()["data"]["attributes"]
    assert about["credits"] == {"total": 0, "subscription": 0, "payg": 0, "enterprise": 0}
    assert about["api"] == {"free_calls": 0, "sizes": "all"}


WRONG = {
    "invalid_size": ("size", "huge", "PREVIEW"),
    "invalid_format": ("format", "gif"),
    "invalid_channels": ("channels", "rgb"),
    "invalid_roi": ("roi", "0 0 10", "0 0 10cm 10", "0 0 -1 10", "1 " * 40_000),
    "roi_exceeds_bounds": ("roi", "0 0 99999 10"),
    "roi_region_empty": ("roi", "50% 0 50% 10", "50% 0 10% 10"),
    "unknown_foreground": ("roi", "0 0 1 1"),
    "invalid_crop_margin": ("crop_margin", "1 2 3", "-1", "1em"),
    "invalid_scale": ("scale", "5%", "101%", "50"),
    "invalid_position": ("position", "101%", "left", "1% 2% 3%"),
    "invalid_bg_color": ("bg_color", "12345", "no colour"),
    "failed_bg_download": ("bg_image_url", "http://127.0.0.1/a.png", "ftp://a.example/a.png"),
    "invalid_file_type": ("bg_image_url", "data:,x"),
}


@pytest.mark.parametrize(
    ("code", "name", "value"), [(code, name, value) for code, (name, *values) in WRONG.items() for value in values]
)
def test_a_field_that_is_wrong_has_its_code(ask, clean, code, name, value):
    assert error(ask({name: value})) == code


def test_a_photo_that_is_wrong_has_its_code(ask, bad_files, clean):
    codes = {"text.jpg": "invalid_file_type", "truncated.jpg": "failed_to_read_image", "bomb.png": "file_too_large"}
    for name, code in codes.items():
        assert error(ask(files={"image_file": (name, bad_files[name].read_bytes())})) == code
    assert error(ask({"image_url": "http://127.0.0.1/a.png"}, files={})) == "failed_image_download"
    assert error(ask({"image_url": "not an address"}, files={})) == "failed_image_download"
    blank = encoded(Image.new("RGB", (50, 50), "white"), "PNG")
    assert error(ask(files={"image_file": ("a.png", blank)})) == "unknown_foreground"


@pytest.mark.parametrize(
    "given", ["!!!!", "abcde", "=", "é", "data:image/png;base64,%%%", " \t", "AAAA" * 90_000 + "!"]
)
def test_base64_that_is_none_is_refused(ask, clean, given):
    expected = {"invalid_image_file_b64"} if given.strip() else {"missing_source", "failed_to_read_image"}
    assert error(ask({"image_file_b64": given}, files={})) in expected
    assert error(ask(files={"image_file_b64": (None, given)})) in expected


@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"image_file_b64": "\ud800"}),
        json.dumps({"image_file_b64": "AAAA", "type": ["car"]}),
        json.dumps({"image_file_b64": "AAAA", "bg_color": "\ud800"}),
        '{"image_url": "x", "size": ' + "[" * 970 + "]" * 970 + "}",
        '{"image_url": "data:,x", "roi": [' + "1," * 1_000_000 + "1]}",
        "[" * 100_000,
    ],
    ids=range(6),
)
def test_json_that_was_made_to_harm_does_none(ask, app_url, clean, body):
    answer = httpx.post(f"{app_url}{PATH}", content=body.encode(), headers={"Content-Type": "application/json"})
    assert error(answer)


def test_the_type_is_a_word_or_nothing(app_url, clean):
    answer = httpx.post(f"{app_url}{PATH}", json={"image_url": data_url(PERSON), "type": 7, "crop": 1}, timeout=60)
    assert answer.headers["x-type"] == "other"


# --- its published clients ---


@pytest.fixture(scope="module")
def guarded(start_app) -> Iterator[str]:
    """A server that asks for a key, allows a client a few requests, and goes by the name that clients ask for."""
    with start_app(RMBG_API_KEYS="right,often", RMBG_RATE_LIMIT="5/hour", RMBG_HOSTS="api.remove.bg") as url:
        yield url


@pytest.mark.network
def test_the_client_from_npm_gets_a_picture_an_error_and_a_rate(guarded, truth, tmp_path):
    if shutil.which("npm") is None:
        pytest.skip("needs Node.js and npm")
    command = ["npm", "install", "--silent", "--ignore-scripts", CLIENT]
    if subprocess.run(command, cwd=tmp_path, timeout=200, capture_output=True, check=False).returncode:
        pytest.skip(f"npm has no {CLIENT}")
    (tmp_path / "preload.cjs").write_text(PRELOAD)
    (tmp_path / "script.cjs").write_text("""
        const client = require("remove.bg"), [path, base64img] = process.argv.slice(2);
        const base = { size: "full", outputFile: "cutout.png" }, url = "http://127.0.0.1/", said = [];
        const told = (call) => call.then((a) => said.push(a), (errors) => said.push(errors));
        (async () => {
          await told(client.removeBackgroundFromImageFile({ ...base, apiKey: "right", path, crop: false }));
          await told(client.removeBackgroundFromImageBase64({ size: "full", apiKey: "right", base64img, crop: true }));
          await told(client.removeBackgroundFromImageFile({ ...base, apiKey: "wrong", path }));
          await told(client.removeBackgroundFromImageUrl({ size: "full", apiKey: "right", url }));
          for (let i = 0; i < 3; i++)
            await told(client.removeBackgroundFromImageUrl({ size: "full", apiKey: "right", url }));
          console.log(JSON.stringify(said));
        })();""")
    small = base64.b64encode(PHOTO).decode()
    run = subprocess.run(
        ["node", "-r", "./preload.cjs", "script.cjs", str(PERSON), small], cwd=tmp_path,
        env=os.environ | {"BASE": guarded}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    whole, cropped, wrong, private, *_, too_often = json.loads(run.stdout.splitlines()[-1])
    with Image.open(tmp_path / "cutout.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(truth.image))
    assert (float(whole["creditsCharged"]), float(whole["resultWidth"])) == (0, WIDTH), whole
    assert "base64img" in cropped, cropped
    left, top, right, bottom = box(truth.alpha)
    with Image.open(io.BytesIO(base64.b64decode(cropped["base64img"]))) as image:
        assert image.size == (right - left, bottom - top)
    assert [wrong[0]["code"], private[0]["code"]] == ["auth_failed", "failed_image_download"]
    assert too_often[0]["code"] == "rate_limit_exceeded"


@pytest.mark.network
def test_the_client_from_pypi_gets_a_picture_an_error_and_a_rate(guarded, truth, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), "removebg==0.4"]
    if subprocess.run(command, timeout=120, capture_output=True, check=False).returncode:
        pytest.skip("PyPI has no removebg")
    code = """
import json, sys
import removebg.removebg as client
client.API_ENDPOINT = sys.argv[1]
said = []
def ask(key, name, **how):
    try:
        getattr(client.RemoveBg(key, "errors.log"), name)(sys.argv[2] if "file" in name else sys.argv[3], **how)
    except client.requests.HTTPError as error:
        said.append([error.response.status_code, error.response.json()["errors"][0]["code"]])
    else:
        said.append(None)
ask("often", "remove_background_from_base64_img", size="full", new_file_name="cutout.png")
ask("often", "remove_background_from_img_file", size="full", bg_color="81d4fa")
ask("wrong", "remove_background_from_img_file")
for _ in range(4):
    ask("often", "remove_background_from_base64_img", size="none")
print(json.dumps(said))
"""
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(PHOTO)
    small = base64.b64encode(PHOTO).decode()
    run = subprocess.run(
        [sys.executable, "-c", code, f"{guarded}{PATH}", str(photo), small], cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    first, second, *refused = json.loads(run.stdout)
    assert first is second is None
    with Image.open(tmp_path / "cutout.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(truth.image))
    shown = np.asarray(Image.open(f"{photo}_no_bg.png").convert("RGB"))
    assert np.abs(shown[0, 0].astype(int) - (0x81, 0xD4, 0xFA)).max() <= CLOSE
    assert refused[0] == [403, "auth_failed"]
    assert refused[1] == [400, "invalid_size"]
    assert refused[-1] == [429, "rate_limit_exceeded"]
