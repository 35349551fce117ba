"""Which way up a photo is, against Pillow's turning, and against Chromium."""

import base64
import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from helpers import encoded
from PIL import Image, ImageOps

from background_remover.orientation import minimal_exif, parse_orientation
from background_remover.photos import measure_photo, open_photo

EXIF_ORIENTATION = 274
# four quarters of one colour each, so that lossy formats and their subsampling keep them apart
QUARTERS = np.array([[[230, 20, 20], [20, 200, 20]], [[20, 20, 220], [240, 240, 240]]], np.uint8)
PICTURE = Image.fromarray(QUARTERS.repeat(32, axis=0).repeat(48, axis=1))
# every format that a browser shows, and what it is saved with
SHOWN = {
    "JPEG": {"quality": 95},
    "PNG": {},
    "WEBP": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "AVIF": {"quality": 95},
}
DRAW = """async (url) => {
    const image = new Image();
    image.src = url;
    await image.decode();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
    return {shape: [canvas.height, canvas.width, 4], pixels: btoa(String.fromCharCode(...data))};
}"""
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
XMP += b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
# An EXIF block is a TIFF; what is none is ignored.
NO_EXIF = {"no TIFF": b"Exif\0\0garbage, and more of it", "a name alone": b"Exif\0\0", "its end missing": b"MM\0*\0\0"}


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return exif


def turned(orientation: int) -> np.ndarray:
    """PICTURE as Pillow turns it."""
    image = PICTURE.copy()
    image.getexif()[EXIF_ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def is_like(pixels: np.ndarray, truth: np.ndarray) -> bool:
    """The same but for what lossy formats change."""
    return pixels.shape == truth.shape and np.abs(pixels.astype(int) - truth).mean() < 12


def with_unreadable_rational(orientation: int) -> bytes:
    """An EXIF block with a resolution whose value lies behind its end: it can be read past, but not written back."""
    entries = struct.pack(">HHII", 282, 5, 1, 9999) + struct.pack(">HHIHH", EXIF_ORIENTATION, 3, 1, orientation, 0)
    return b"Exif\0\0" + struct.pack(">4sIH", b"MM\0*", 8, 2) + entries + bytes(4)


def png_with_late_exif(orientation: int) -> bytes:
    """EXIF behind the pixels, where browsers no longer look."""
    data = encoded(PICTURE, "PNG")
    block = b"eXIf" + minimal_exif(orientation)[6:]
    chunk = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    return data[:-12] + chunk + data[-12:]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["JPEG", "PNG", "TIFF", "AVIF", "HEIF"])
def test_a_photo_stands_as_its_file_says_and_has_the_size_that_was_measured(name, orientation):
    pillow_heif.register_heif_opener()
    data = encoded(
        PICTURE, name, exif=exif_of(orientation).tobytes()
    )  # and as a property of the picture, HEIC's and AVIF's
    photo = open_photo(data)
    assert is_like(photo.rgb, turned(orientation))
    assert measure_photo(data).size == photo.rgb.shape[1::-1]
    assert photo.rgb.flags.c_contiguous


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_that_cannot_be_written_back_still_says_the_way_up(mode, orientation):
    name = "PNG" if mode == "RGBA" else "JPEG"
    data = encoded(PICTURE.convert(mode), name, exif=with_unreadable_rational(orientation))
    truth = np.asarray(Image.fromarray(turned(orientation)).convert(mode).convert("RGB"))
    assert is_like(open_photo(data).rgb, truth)


def test_what_only_exif_says_of_a_heic_or_webp_is_not_its_way_up():
    """A HEIC has a property for that, which decoders have followed; that of a WebP browsers don't read."""
    pillow_heif.register_heif_opener()
    data = encoded(PICTURE, "HEIF", exif=exif_of(6))
    assert b"irot" not in data
    assert is_like(open_photo(data).rgb, np.asarray(PICTURE))
    assert is_like(open_photo(encoded(PICTURE, "WEBP", exif=exif_of(6))).rgb, np.asarray(PICTURE))


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_tiff_whose_exif_lies_nowhere_opens_as_its_own_tags_say(orientation, tmp_path):
    PICTURE.save(tmp_path / "a.tif", tiffinfo={EXIF_ORIENTATION: orientation, 34665: 5_000_000})
    assert is_like(open_photo(tmp_path / "a.tif").rgb, turned(orientation))
    with Image.open(tmp_path / "a.tif") as image:
        assert is_like(open_photo(image).rgb, turned(orientation))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("loaded", [False, True])
@pytest.mark.filterwarnings("ignore:Truncated File Read")  # which Pillow says of the block on opening
def test_an_image_of_pillows_is_turned_as_its_file_is(mode, loaded):
    name = "PNG" if mode == "RGBA" else "JPEG"
    image = Image.open(io.BytesIO(encoded(PICTURE.convert(mode), name, exif=with_unreadable_rational(6))))
    if loaded:
        image.load()
    truth = np.asarray(Image.fromarray(turned(6)).convert(mode).convert("RGB"))
    assert is_like(open_photo(image).rgb, truth)


@pytest.mark.parametrize("block", NO_EXIF.values(), ids=NO_EXIF)
@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "AVIF", "HEIF"])
def test_a_block_that_is_no_exif_damages_no_photo(name, block, tmp_path):
    pillow_heif.register_heif_opener()
    if name in ("AVIF", "HEIF"):  # whose writers refuse such a block: the bytes are changed behind their back
        exif = Image.Exif()
        exif[271] = "maker"
        data = encoded(PICTURE, name, exif=exif.tobytes())
        at = data.index(b"MM\0*") if b"MM\0*" in data else data.index(b"II*\0")
        data = data[:at] + b"garbage!" + data[at + 8 :]
    else:
        data = encoded(PICTURE, name, exif=block)
    (tmp_path / "a").write_bytes(data)
    for source in (data, tmp_path / "a"):
        assert is_like(open_photo(source).rgb, np.asarray(PICTURE))
    if name != "AVIF":  # of which Pillow makes no image
        with Image.open(tmp_path / "a") as image:
            assert is_like(open_photo(image).rgb, np.asarray(PICTURE))


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_an_orientation_in_xmp_alone_is_ignored_as_browsers_do(name, tmp_path):
    if name == "PNG":
        data = bytearray(encoded(PICTURE, name))
        block = b"iTXt" + b"XML:com.adobe.xmp\0\0\0\0\0" + XMP
        data[33:33] = struct.pack(">I", len(block) - 4) + block + struct.pack(">I", zlib.crc32(block))
    else:
        data = encoded(PICTURE, name, **({"tiffinfo": {700: XMP}} if name == "TIFF" else {"xmp": XMP}))
    (tmp_path / "a").write_bytes(data)
    assert is_like(open_photo(bytes(data)).rgb, np.asarray(PICTURE))
    with Image.open(tmp_path / "a") as image:
        assert is_like(open_photo(image).rgb, np.asarray(PICTURE))


@pytest.mark.parametrize(
    ("block", "orientation"),
    [
        (minimal_exif(6), 6),
        (minimal_exif(6)[6:], 6),
        (minimal_exif(0), 1),
        (minimal_exif(9), 1),
        (minimal_exif(6)[:-6], 1),
        (minimal_exif(6).replace(b"\0\3\0\0\0\1", b"\0\4\0\0\0\1"), 1),  # a long where a short belongs
        (b"", 1),
        (None, 1),
        ("Exif", 1),
    ],
)
def test_the_orientation_of_a_block_is_1_where_none_can_be_read(block, orientation):
    assert parse_orientation(block) == orientation


def test_chromium_turns_what_open_photo_turns(browser):
    """All formats that a browser shows, with each orientation, in one page."""
    files = {
        (name, orientation): encoded(PICTURE, name, **options, exif=exif_of(orientation))
        for name, options in SHOWN.items()
        for orientation in range(1, 9)
    }
    files |= {("late", 6): png_with_late_exif(6), ("XMP", 6): encoded(PICTURE, "JPEG", xmp=XMP)}
    files |= {("rational", 6): encoded(PICTURE, "JPEG", exif=with_unreadable_rational(6))}
    page = browser.new_page()
    for (name, orientation), data in files.items():
        drawn = page.evaluate(DRAW, f"data:;base64,{base64.b64encode(data).decode()}")
        truth = np.frombuffer(base64.b64decode(drawn["pixels"]), np.uint8).reshape(drawn["shape"])[..., :3]
        assert is_like(open_photo(data).rgb, truth), f"{name} {orientation}"
    page.close()
