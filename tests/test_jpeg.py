"""JPEGs that lost or gained something, against the same JPEGs whole as Pillow decodes them."""

import io
import struct

import numpy as np
import pytest
from helpers import PERSON, encoded
from PIL import Image

from background_remover.jpeg import END, simplify_jpeg
from background_remover.kinds import DAMAGED, SLOW
from background_remover.photos import open_photo
from utilities import PhotoError

with Image.open(PERSON) as person:
    PICTURE = person.convert("RGB").crop((100, 20, 421, 221))  # neither side a whole number of MCUs
KINDS = {
    "baseline": {"subsampling": 0},
    "colours at half size": {"subsampling": 2},
    "progressive": {"progressive": True},
    "restart markers": {"restart_marker_rows": 1},
}
MCU = 16
EXIF = b"\xff\xe1\0\x10Exif\0\0MM\0*\0\0\0\x08"


def decoded(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(params=KINDS.values(), ids=KINDS)
def whole(request) -> bytes:
    return encoded(PICTURE, "JPEG", quality=90, **request.param)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_without_its_end_is_the_photo(mode):
    data = encoded(PICTURE.convert(mode), "JPEG")
    assert data.endswith(END)
    for lost in (1, 2):
        assert np.array_equal(open_photo(data[:-lost]).rgb, open_photo(data).rgb)


@pytest.mark.parametrize("junk", [b"\0" * 999, END * 9, b"\xff" * 99, EXIF * 9, b"\xff\xd8\xff\xe0 another"])
def test_what_follows_the_end_is_ignored(whole, junk):
    assert np.array_equal(open_photo(whole + junk).rgb, decoded(whole))


@pytest.mark.parametrize("junk", [b"\0" * 999, b"\xff" * 99])
def test_what_stands_in_the_place_of_the_end_is_ignored(whole, junk):
    assert np.array_equal(open_photo(whole[:-2] + junk).rgb, decoded(whole))


def test_a_few_bytes_less_than_a_browser_shows_change_the_last_row_of_mcus_alone(whole):
    for lost in (3, 6, 12):
        rgb = open_photo(whole[:-lost]).rgb
        truth = decoded(whole)
        kept = truth.shape[0] // MCU * MCU - 1  # interpolated colours reach a pixel further
        assert np.array_equal(rgb[:kept], truth[:kept])


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.9])
def test_a_jpeg_that_was_cut_off_is_damaged(whole, share):
    with pytest.raises(PhotoError, match=DAMAGED):
        open_photo(whole[: int(len(whole) * share)])


@pytest.mark.parametrize("size", [(400, 8), (8, 400), (64, 64)])
def test_half_of_a_small_or_narrow_one_is_damaged_too(size):
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    data = encoded(noise, "JPEG", quality=90)
    with pytest.raises(PhotoError, match=DAMAGED):
        open_photo(data[: 600 + (len(data) - 600) // 2])


@pytest.mark.parametrize("junk", [b"\xff" * 5000, EXIF * 2900, b"\xff\xfe\0\x09comment" * 2900, b"\xff\xe5\0\x02"])
def test_metadata_by_the_thousand_is_left_out_and_the_pixels_stay(whole, junk):
    data = whole[:2] + junk + whole[2:]
    assert np.array_equal(open_photo(data).rgb, decoded(whole))
    assert len(simplify_jpeg(data)) < len(whole) + 100


def test_colours_and_the_kind_of_their_coding_stay():
    icc = bytes(range(256)) * 600  # more than a segment holds
    data = simplify_jpeg(encoded(PICTURE.convert("CMYK"), "JPEG", icc_profile=icc, comment=b"!"))
    with Image.open(io.BytesIO(data)) as image:
        assert image.info["icc_profile"] == icc
        assert "comment" not in image.info
        assert np.array_equal(image, Image.open(io.BytesIO(encoded(PICTURE.convert("CMYK"), "JPEG"))))


def test_more_segments_or_scans_than_photos_have_are_refused():
    small = encoded(PICTURE, "JPEG")
    large = encoded(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last_scan = large[large.rindex(b"\xff\xda") : -2]
    for data in (small[:2] + EXIF * 20_000 + small[2:], large[:-2] + last_scan * 1000 + END):
        with pytest.raises(PhotoError, match=SLOW):
            open_photo(data)
    small = encoded(Image.new("L", (400, 400)), "JPEG", progressive=True)
    assert open_photo(small[:-2] + last_scan * 30 + END).shape == (400, 400)


def test_what_is_no_segment_ends_in_a_sentence():
    for data in (
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe1\0",
        b"\xff\xd8\xff\xda\0\x02",
        b"\xff\xd8" + b"\xff\xc0\0\x02" * 9,
    ):
        with pytest.raises(PhotoError, match=DAMAGED):
            open_photo(data)
    with pytest.raises(PhotoError, match=DAMAGED):  # a frame that tells of 200 components
        open_photo(b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 8, 8, 16, 16, 200) + b"\xff\xda\0\x02")
