"""Files against what decoders other than ours read from them."""

import io
import struct
import tempfile
import unicodedata
import zlib

import cv2
import numpy as np
import pytest
from helpers import EXAMPLES
from PIL import Image, ImageCms

from background_remover.compositing import widen, with_alpha
from background_remover.encoding import ENCODERS, safe_stem, save_pixels
from background_remover.fastpng import encode_png
from utilities import PhotoError

RNG = np.random.default_rng(1)
PHOTO = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (60, 90), dtype=np.uint8)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF"])
def test_lossless_formats_save_every_pixel_and_the_profile(tmp_path, suffix):
    rgba = with_alpha(PHOTO, ALPHA)
    save_pixels(rgba, tmp_path / f"a{suffix}", SRGB)
    with Image.open(tmp_path / f"a{suffix}") as saved:
        assert np.array_equal(np.asarray(saved), rgba)
        assert saved.info["icc_profile"] == SRGB


@pytest.mark.parametrize("suffix", [*ENCODERS])
def test_the_same_pixels_are_the_same_bytes_whatever_memory_held_before(suffix):
    """A byte that nobody writes tells of others' photos. Pillow has one in every other TIFF that it makes in memory."""
    rgba = RNG.integers(0, 256, (120, 300, 4), dtype=np.uint8)
    for rows in (117, 118, 119, 120):
        files = set()
        for value in range(30):
            dirt = [bytes([value + 1]) * int(length) for length in RNG.integers(1, 200_000, 8)]
            del dirt
            buffer = io.BytesIO()
            save_pixels(rgba[:rows], buffer, suffix=suffix)
            files.add(buffer.getvalue())
        assert len(files) == 1


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("suffix", [*ENCODERS])
def test_open_files_need_no_name(suffix, deep):
    rgba = with_alpha(PHOTO, ALPHA)
    if deep and ENCODERS[suffix].deep:
        rgba = widen(rgba)
    buffer = io.BytesIO()
    save_pixels(rgba, buffer, suffix=suffix)
    for new in (tempfile.TemporaryFile, tempfile.SpooledTemporaryFile):
        with new() as file:
            save_pixels(rgba, file, suffix=suffix)
            file.seek(0)
            assert file.read() == buffer.getvalue()


def test_jpeg_is_saved_over_white(tmp_path):
    alpha = np.zeros((64, 64), np.uint8)
    alpha[:, :32] = 255
    save_pixels(with_alpha(np.zeros((64, 64, 3), np.uint8), alpha), tmp_path / "a.jpg")
    with Image.open(tmp_path / "a.jpg") as saved:
        pixels = np.asarray(saved)
    assert pixels[:, :16].max() < 8
    assert pixels[:, 48:].min() > 247


def test_quality_makes_webp_lossy_with_exact_alpha_and_jpeg_smaller(tmp_path):
    with Image.open(EXAMPLES / "person.jpg") as person:
        rgba = with_alpha(np.asarray(person), np.tile(np.arange(512, dtype=np.uint16) // 2, (512, 1)).astype(np.uint8))
    sizes = {}
    for suffix in (".webp", ".jpg"):
        for quality in (None, 90, 40):
            path = tmp_path / f"{quality}{suffix}"
            save_pixels(rgba, path, SRGB, quality)
            sizes[suffix, quality] = path.stat().st_size
            with Image.open(path) as saved:
                decoded = np.asarray(saved)
                assert saved.info["icc_profile"] == SRGB
            if suffix == ".webp":
                assert np.array_equal(decoded[..., 3], rgba[..., 3])
                assert (np.abs(decoded.astype(int) - rgba)[:, 256:].mean() > 0) == (quality is not None)
                assert np.abs(decoded.astype(int) - rgba)[:, 256:].mean() < 8
        assert sizes[suffix, None] > sizes[suffix, 90] > sizes[suffix, 40]


@pytest.mark.parametrize(
    ("name", "stem"),
    {
        "holiday.jpg": "holiday",
        "/tmp/a.b.c/photo.jpeg": "photo",
        "C:\\Users\\me\\photo.png": "photo",
        "a.b.c": "a.b",
        "a.b.jpg": "a.b",
        ".hidden": "hidden",
        ".hidden.jpg": "hidden",
        "no extension": "no-extension",
        "2024-05-01 12.30.15": "2024-05-01-12.30.15",
        "a.tar.gz.": "a.tar.gz",
        "end...jpg": "end",
        "Ku\u0308che.jpg": "K\u00fcche",  # decomposed, as macOS has it
        "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48.png": "\u0e17\u0e35\u0e48\u0e19\u0e35\u0e48",  # Thai vowels and tones
        "\u0939\u093f\u0928\u094d\u0926\u0940.png": "\u0939\u093f\u0928\u094d\u0926\u0940",  # Hindi
        "\u0645\u064f\u062d\u064e\u0645.png": "\u0645\u064f\u062d\u064e\u0645",  # Arabic with its vowels
        "\u5199\u771f 1.heic": "\u5199\u771f-1",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467.jpg": "photo",
        "me \U0001f600 you.jpg": "me-you",
        "\u202egpj.exe": "gpj",
        "a\u202eb\u200f.jpg": "ab",
        "a\0b\nc.jpg": "a-b-c",
        'a<b>:"|?*c.jpg': "a-b-c",
        "con.jpg": "photo-con",
        "COM1": "photo-COM1",
        "aux.old.jpg": "photo-aux.old",
        "com\u00b9.jpg": "photo-com\u00b9",
        "console.jpg": "console",
        "\u0301.jpg": "photo",  # a mark without a letter
        "..": "photo",
        "": "photo",
        "/": "photo",
        ".jpg": "jpg",
        "-rf.jpg": "rf",
        "\ud800.jpg": "photo",
    }.items(),
)
def test_a_name_keeps_what_any_file_system_takes(name, stem):
    assert safe_stem(name) == stem


@pytest.mark.parametrize("letter", ["a", "\u00e9", "\u0e17\u0e35\u0e48", "\u5199", "\U0001d400", "\u0915\u094d\u0937"])
def test_a_long_name_leaves_room_and_is_cut_between_letters(letter, tmp_path):
    stem = safe_stem(letter * 255 + ".jpg")
    assert 150 < len(stem.encode()) <= 180
    assert (letter * 255).startswith(stem)
    assert unicodedata.category((letter * 255)[len(stem)])[0] != "M"
    (tmp_path / f"{stem}-cutout-12.webp").write_bytes(b"")


def test_letters_that_never_end_are_cut_all_the_same():
    assert len(safe_stem("a" + "\u0301" * 9000).encode()) <= 180
    assert safe_stem("." * 100_000) == "photo"


@pytest.mark.parametrize("quality", [0, 101])
def test_other_qualities_are_refused(tmp_path, quality):
    with pytest.raises(PhotoError, match="from 1 to 100"):
        save_pixels(PHOTO, tmp_path / "a.webp", quality=quality)


def test_what_is_too_long_for_a_format_is_refused(tmp_path):
    with pytest.raises(PhotoError, match="16383 pixels a side"):
        save_pixels(np.zeros((1, 16384, 3), np.uint8), tmp_path / "a.webp")
    save_pixels(np.zeros((1, 16383, 3), np.uint8), tmp_path / "a.webp")


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(PhotoError, match=r"'\.docx' is not a format"):
        save_pixels(PHOTO, tmp_path / "a.docx")


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (3, 5, 4), (1700, 2000, 4), (3, 9000), (5000, 3), (700, 1, 3)])
def test_pngs_decode_to_their_pixels(shape):
    """Sizes of one stripe and of several, every number of channels, noise and flat areas."""
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    pixels[: shape[0] // 2] //= 128
    with Image.open(io.BytesIO(encode_png(pixels, SRGB))) as image:
        image.verify()  # the checksum of every chunk
    with Image.open(io.BytesIO(encode_png(pixels, SRGB))) as image:
        assert np.array_equal(np.asarray(image).reshape(shape), pixels)
        assert image.info["icc_profile"] == SRGB
    for name in ("opencv", "zlib"):
        if name == "opencv":
            decoded = cv2.imdecode(np.frombuffer(encode_png(pixels), np.uint8), cv2.IMREAD_UNCHANGED)
            order = {3: [2, 1, 0], 4: [2, 1, 0, 3]}.get(decoded.shape[-1] if decoded.ndim == 3 else 1)
            assert np.array_equal((decoded[..., order] if order else decoded).reshape(shape), pixels)
        else:  # strict about the stream's checksum, which Pillow is not
            data = encode_png(pixels)
            stream, at = b"", 8
            while at < len(data):
                (length,) = struct.unpack(">I", data[at : at + 4])
                stream += data[at + 8 : at + 8 + length] if data[at + 4 : at + 8] == b"IDAT" else b""
                at += 12 + length
            assert len(zlib.decompress(stream)) == shape[0] * (pixels[0].size + 1)
