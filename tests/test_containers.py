"""Files whose structure keeps decoders busy, and what of the others is passed on: against Pillow's reading of both."""

import io
import struct
import time
import zlib

import numpy as np
import pillow_heif
import pytest
from helpers import encoded
from PIL import Image, ImageCms

from background_remover.containers import MAX_RUN_LENGTHS, simplify
from background_remover.kinds import SLOW
from background_remover.photos import open_photo
from utilities import PhotoError

PIXELS = np.random.default_rng(1).integers(0, 256, (40, 60, 4), dtype=np.uint8)
PICTURE = Image.fromarray(PIXELS[..., :3])
FRAMES = [PICTURE.rotate(angle) for angle in range(100)]
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
PATIENCE = 2  # seconds of a processor


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_with(part: bytes) -> bytes:
    """A PNG with something between its header and its pixels."""
    data = encoded(PICTURE, "PNG")
    return data[:33] + part + data[33:]


def flat_png(width: int, height: int) -> bytes:
    """Black, a bit for a pixel."""
    header, rows = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0), bytes((1 + -(-width // 8)) * height)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b"")
    return b"".join((b"\x89PNG\r\n\x1a\n", *parts))


def gif_with(part: bytes) -> bytes:
    """A GIF with something between its palette and its picture."""
    data = encoded(PICTURE, "GIF")
    at = 13 + (3 << (data[10] % 8 + 1) if data[10] & 128 else 0)
    return data[:at] + part + data[at:]


def with_boxes(name: str, count: int) -> bytes:
    """An AVIF or HEIC with empty boxes before its first."""
    pillow_heif.register_heif_opener()
    return b"\0\0\0\x08free" * count + encoded(PICTURE, name)


def tiff_of(count: int, tag: int, values: int) -> bytes:
    """A directory of so many entries, each of which says to have so many values."""
    return b"II*\0" + struct.pack("<IH", 8, count) + struct.pack("<HHII", tag, 4, values, 0) * count + bytes(9000)


def tiff_chain(count: int) -> bytes:
    """A directory after another, the last leading to the first."""
    nexts = [26 + 18 * index for index in range(count - 1)] + [8]
    return b"II*\0\x08\0\0\0" + b"".join(struct.pack("<HHHIII", 1, 256, 4, 1, 5, at) for at in nexts)


def run_lengths(side: int) -> bytes:
    data = encoded(Image.new("P", (side, side)), "BMP")
    return data[:30] + struct.pack("<I", 1) + data[34:]


TOO_MANY = {
    "comments": lambda: gif_with(b"!\xfe\0" * 500_000),
    "a comment in pieces": lambda: gif_with(b"!\xfe" + b"\1a" * 500_000 + b"\0"),
    "texts": lambda: png_with(chunk(b"tEXt", b"a\0b") * 500_000),
    "pixels in pieces": lambda: png_with(chunk(b"IDAT", b"") * 100_000),
    "palettes": lambda: png_with(chunk(b"PLTE", bytes(768)) * 100_000),
    "run lengths": lambda: run_lengths(int(MAX_RUN_LENGTHS**0.5) + 1),
    "values": lambda: tiff_of(2, 273, 2_000_000),
}
SLOW_BEFORE = {
    "a long comment": (lambda: gif_with(b"!\xfe" + (b"\xff" + b"a" * 255) * 100_000 + b"\0"), True),
    "junk before a picture": (lambda: gif_with(bytes(50_000_000)), False),
    "many texts": (lambda: png_with(chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(9_000_000))) * 500), True),
    "many profiles": (lambda: png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(SRGB)) * 10_000), True),
    "many entries": (lambda: tiff_of(65535, 273, 1), False),
    "many directories": (lambda: tiff_chain(500_000), False),
    "boxes of a HEIC": (lambda: with_boxes("HEIF", 500_000), False),
    "boxes of an AVIF": (lambda: with_boxes("AVIF", 500_000), False),
    "a thin PNG": (lambda: flat_png(1, 20_000_000), False),
    "a wide PNG": (lambda: flat_png(80_000_000, 1), False),
}


def seconds(data: bytes) -> tuple[float, str]:
    """How long a processor takes for an answer, and which it is."""
    start = time.process_time()
    try:
        answer = open_photo(data).format
    except PhotoError as error:
        answer = str(error)
    return time.process_time() - start, answer


@pytest.mark.parametrize("make", TOO_MANY.values(), ids=TOO_MANY)
def test_more_parts_than_photos_have_are_refused_at_once(make):
    took, answer = seconds(make())
    assert answer == SLOW
    assert took < PATIENCE


@pytest.mark.parametrize(("make", "opens"), SLOW_BEFORE.values(), ids=SLOW_BEFORE)
def test_what_kept_decoders_busy_is_answered_soon(make, opens):
    took, answer = seconds(make())
    assert (answer in ("PNG", "GIF")) == opens
    assert took < PATIENCE


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_of_many_frames_or_pages_the_first_counts_and_costs(name):
    data = encoded(PICTURE, name, save_all=True, append_images=FRAMES)
    took, answer = seconds(data)
    assert answer == name
    assert took < PATIENCE
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(open_photo(data).rgb, image.convert("RGB"))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_what_follows_a_picture_is_ignored(name):
    pillow_heif.register_heif_opener()
    data = encoded(PICTURE, name)
    for junk in (bytes(9999), b"garbage" * 99):
        assert np.array_equal(open_photo(data + junk).rgb, open_photo(data).rgb)


def test_a_png_keeps_what_makes_its_picture_and_no_more():
    text = chunk(b"tEXt", b"Title\0nonsense") + chunk(b"zTXt", b"a\0\0nonsense") + chunk(b"eXIf", b"nonsense")
    colours = chunk(b"gAMA", bytes(4)) + chunk(b"cICP", b"\x0c\x0d\0\1") + chunk(b"pHYs", bytes(9))
    assert simplify(png_with(text + colours)) == png_with(colours)
    assert simplify(png_with(chunk(b"gAMA", b"1") + chunk(b"iCCP", b"a\0\0nonsense"))) == encoded(PICTURE, "PNG")
    profile = encoded(PICTURE, "PNG", icc_profile=SRGB)
    assert simplify(profile) == profile
    assert np.array_equal(open_photo(png_with(text)).rgb, PIXELS[..., :3])


def test_a_png_without_its_end_opens_and_one_without_its_last_rows_does_not():
    data = encoded(PICTURE, "PNG")
    assert np.array_equal(open_photo(data[:-12]).rgb, PIXELS[..., :3])
    with pytest.raises(PhotoError, match="damaged"):
        open_photo(data[:-40])


def test_a_gif_keeps_the_colour_that_is_transparent():
    clear = Image.new("P", (8, 8), 3)
    clear.putpalette(bytes(range(48)))
    data = encoded(clear, "GIF", transparency=3, comment=b"a comment")
    assert b"a comment" in data
    assert b"a comment" not in simplify(data)
    assert not open_photo(data).alpha.any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"])
def test_a_tiff_keeps_its_pixels_and_resolution_whatever_their_coding(mode, compression):
    if (compression == "group4" and mode != "1") or (compression == "jpeg" and mode not in ("L", "RGB", "CMYK")):
        pytest.skip("no such file")
    image = Image.new(mode, (60, 40)) if mode in ("I;16", "F") else Image.fromarray(PIXELS).convert(mode)
    data = encoded(image, "TIFF", compression=compression, dpi=(300, 300), description="left out", icc_profile=SRGB)
    simple = simplify(data)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(simple)) as after:
        assert np.array_equal(before, after)
        assert before.mode == after.mode
        assert after.info["dpi"] == (300, 300)
        assert after.info["icc_profile"] == SRGB
        assert 270 not in after.tag_v2
