"""data: URLs, against what the standard says of them and what Chromium reads."""

import base64
import contextlib
import time

import pytest

from background_remover.photos import read_data_url
from utilities import PhotoError

BYTES = bytes(range(256))
TEXT = base64.b64encode(BYTES).decode()
# The URL, and what is in it; None where browsers refuse it.
URLS = {
    f"data:image/png;base64,{TEXT}": BYTES,
    f"DATA:;BASE64,{TEXT}": BYTES,
    f"data:image/png;charset=x;a=b; base64  ,{TEXT}": BYTES,
    f"  data:;base64,{TEXT}\n": BYTES,
    f"data:;base64,{TEXT.rstrip('=')}": BYTES,
    f"data:;base64,{TEXT[:50]}\n {TEXT[50:]}%20%0A": BYTES,
    f"data:;base64,{TEXT.replace('+', '%2B').replace('/', '%2f').replace('=', '%3D')}": BYTES,
    f"data:;base64,{TEXT}#part": BYTES,
    "data:;base64,": b"",
    "data:,": b"",
    "data:,a%20b%2": b"a b%2",
    "data:,a%zzb": b"a%zzb",
    "data:,%%41%4%42": b"%A%4B",
    "data:text/plain,a,b": b"a,b",
    "data:;base64;x,YQ": b"YQ",
    "data:base64,YQ": b"YQ",
    "data:,\u00e9": "\u00e9".encode(),
    "data:;base64,YQ": b"a",
    "data:;base64,YQ==": b"a",
    "data:;base64,YR": b"a",
    "data:;base64,YQ=": None,
    "data:;base64,YQ===": None,
    "data:;base64,Y": None,
    "data:;base64,Y=Q=": None,
    "data:;base64,-_-_": None,
    "data:;base64,YQ\u00e9=": None,
    "data:;base64": None,
    "data": None,
    "": None,
    "https://127.0.0.1/a.png": None,
    "xdata:,a": None,
}


@pytest.mark.parametrize(("url", "truth"), URLS.items(), ids=range(len(URLS)))
def test_a_data_url_is_what_the_standard_says(url, truth):
    if truth is None:
        with pytest.raises(PhotoError, match=r"^This is not a photo as a data: URL"):
            read_data_url(url)
    else:
        assert read_data_url(url) == truth


def test_chromium_reads_the_same(browser):
    page = browser.new_page()
    page.goto("about:blank")
    fetched = """async (url) => {
        try { return Array.from(new Uint8Array(await (await fetch(url)).arrayBuffer())); } catch { return null; }
    }"""
    for url, truth in URLS.items():
        if url.strip().lower().startswith("data:"):  # nothing else is to be asked for
            read = page.evaluate(fetched, url)
            assert (None if read is None else bytes(read)) == truth, url
    page.close()


def test_a_size_that_is_not_allowed_is_refused_before_anything_is_decoded():
    assert read_data_url("data:;base64," + "A" * 4000, max_bytes=3000) == bytes(3000)
    assert read_data_url("data:," + "%00" * 3000, max_bytes=3000) == bytes(3000)
    for body in (";base64," + "A" * 4004, "," + "a" * 3001, "," + "%00" * 3001, "," + "%" * 50_000):
        with pytest.raises(PhotoError, match=r"more than 0\.003 MB"):
            read_data_url("data:" + body, max_bytes=3000)


@pytest.mark.parametrize("body", ["%41" * 2_000_000, "%" * 6_000_000, " " * 6_000_000, ";" * 6_000_000])
def test_long_ones_take_time_by_their_length_alone(body):
    for head in ("data:,", "data:;base64,", "data:" if body[0] == ";" else "data:;base64 ,"):
        start = time.process_time()
        with contextlib.suppress(PhotoError):
            read_data_url(head + body)
        assert time.process_time() - start < 2


def test_no_text_at_all_is_refused():
    with pytest.raises(PhotoError, match="data: URL"):
        read_data_url(b"data:,a")
