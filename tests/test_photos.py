"""Opening what comes from outside, against its pixels and Pillow's decoders."""

import contextlib
import io
import struct

import numpy as np
import pillow_heif
import pytest
from helpers import encoded
from PIL import Image, ImageCms

from background_remover.photos import LONGEST_SIDE, measure_photo, open_photo
from utilities import PhotoError

RNG = np.random.default_rng(1)
PHOTO = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (60, 90), dtype=np.uint8)


@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_open_to_their_pixels(name):
    options = {"lossless": True} if name == "WEBP" else {}
    photo = open_photo(encoded(Image.fromarray(PHOTO), name, **options))
    assert np.array_equal(photo.rgb, PHOTO)
    assert photo.alpha is None


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF", "HEIF", "GIF"])
def test_lossy_formats_open(name):
    pillow_heif.register_heif_opener()
    smooth = np.asarray(Image.fromarray(PHOTO[:4, :4]).resize((90, 60), Image.Resampling.BICUBIC))
    photo = open_photo(encoded(Image.fromarray(smooth), name))
    assert photo.rgb.shape == smooth.shape
    assert np.abs(photo.rgb.astype(int) - smooth).mean() < 8


def test_every_kind_of_source_opens_alike(tmp_path):
    image = Image.fromarray(PHOTO)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as file:
        for source in (tmp_path / "a.png", str(tmp_path / "a.png"), data, bytearray(data), image, PHOTO, file):
            assert np.array_equal(open_photo(source).rgb, PHOTO)
    for source in (io.BytesIO(data), Reader(data), open_photo(data)):
        assert np.array_equal(open_photo(source).rgb, PHOTO)


class Reader:
    """What a network gives: some bytes at a time, and nothing but those."""

    def __init__(self, data: bytes) -> None:
        self.data, self.read_bytes = data, 0

    def read(self, most: int) -> bytes:
        part = self.data[self.read_bytes : self.read_bytes + min(most, 100)]
        self.read_bytes += len(part)
        return part


def test_file_objects_that_are_no_photos_are_refused(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(PHOTO), "PNG"))
    with (
        (tmp_path / "a.png").open(encoding="latin-1") as file,
        pytest.raises(PhotoError, match="open it in binary mode"),
    ):
        open_photo(file)
    with pytest.raises(PhotoError, match="open it in binary mode"):
        open_photo(io.StringIO("text"))
    with (tmp_path / "a.png").open("rb") as file:
        file.read()
        with pytest.raises(PhotoError, match="This file is empty"):
            open_photo(file)
    for broken in (file, (tmp_path / "b").open("wb")):  # closed, and open for writing alone
        with pytest.raises(PhotoError, match="can't be read"):
            open_photo(broken)
        broken.close()


def test_of_a_file_object_no_more_is_read_than_is_allowed():
    reader = Reader(bytes(5000))
    with pytest.raises(PhotoError, match=r"more than 0\.003 MB"):
        open_photo(reader, max_bytes=3000)
    assert reader.read_bytes == 3001


@pytest.mark.parametrize("opens", [open_photo, measure_photo])
def test_limits_can_be_lowered(opens, tmp_path):
    data = encoded(Image.fromarray(PHOTO), "PNG")
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert opens(source, max_pixels=PHOTO[..., 0].size, max_bytes=len(data))
        with pytest.raises(PhotoError, match=r"more than 0\.005399 megapixels: make it smaller"):
            opens(source, max_pixels=PHOTO[..., 0].size - 1)
        with pytest.raises(PhotoError, match=r"more than .* MB: save it smaller"):
            opens(source, max_bytes=len(data) - 1)
    if opens is open_photo:
        for source in (PHOTO, Image.fromarray(PHOTO)):
            with pytest.raises(PhotoError, match="megapixels"):
                opens(source, max_pixels=5399)


def test_a_side_has_a_limit_of_its_own():
    assert open_photo(np.zeros((1, LONGEST_SIDE), np.uint8)).shape == (1, LONGEST_SIDE)
    for source in (np.zeros((1, LONGEST_SIDE + 1), np.uint8), Image.new("1", (1, LONGEST_SIDE + 1))):
        with pytest.raises(PhotoError, match="more than 65535 pixels on a side"):
            open_photo(source)


@pytest.mark.parametrize(
    ("mode", "name", "byte_count"),
    [
        ("L", "PNG", 3),
        ("1", "PNG", 3),
        ("RGB", "PNG", 3),
        ("RGB", "JPEG", 3),
        ("RGB", "HEIF", 3),
        ("CMYK", "TIFF", 4),
        ("LA", "PNG", 4),
        ("RGBA", "PNG", 4),
        ("RGBA", "WEBP", 4),
        ("P", "GIF", 4),
        ("I;16", "PNG", 6),
        ("I;16", "TIFF", 6),
        ("F", "TIFF", 12),
    ],
)
def test_a_header_tells_the_size_and_the_memory_before_anything_is_decoded(mode, name, byte_count):
    pillow_heif.register_heif_opener()
    image = Image.new(mode, (90, 60)) if mode in ("I;16", "F") else Image.fromarray(PHOTO).convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(100)
    data = encoded(image, name, **({"transparency": 0} if mode == "P" else {}))
    header = measure_photo(data)
    assert (header.size, header.format) == ((90, 60), open_photo(data).format)
    assert header.byte_count == 90 * 60 * byte_count
    with pytest.raises(PhotoError, match="damaged"):
        measure_photo(data[:12])


def test_the_format_of_a_photo_is_that_of_its_content(tmp_path):
    pillow_heif.register_heif_opener()
    for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"):
        Image.fromarray(PHOTO).save(tmp_path / "photo.txt", name)
        assert open_photo(tmp_path / "photo.txt").format == name
        with Image.open(tmp_path / "photo.txt") as image:
            assert open_photo(image).format == name
    Image.fromarray(PHOTO).save(tmp_path / "photo.txt", "MPO", save_all=True, append_images=[Image.fromarray(PHOTO)])
    with Image.open(tmp_path / "photo.txt") as image:
        assert image.format == "MPO"
        assert open_photo(image).format == open_photo(tmp_path / "photo.txt").format == "JPEG"
    assert open_photo(PHOTO).format == open_photo(Image.fromarray(PHOTO)).format == ""


def test_alpha_is_kept_apart_and_opaque_alpha_is_none():
    photo = open_photo(np.dstack((PHOTO, ALPHA)))
    assert np.array_equal(photo.rgb, PHOTO)
    assert np.array_equal(photo.alpha, ALPHA)
    assert open_photo(np.dstack((PHOTO, np.full_like(ALPHA, 255)))).alpha is None
    palette = Image.fromarray(PHOTO[..., 0]).convert("P")
    assert open_photo(encoded(palette, "PNG", transparency=0)).alpha.min() == 0


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "I;16", "I", "F", "CMYK", "YCbCr", "HSV", "RGBX"])
def test_every_mode_of_pillow_opens_to_its_grey(mode):
    grey = np.tile(np.array([0, 255], np.uint8), (8, 4))
    if mode == "I;16":
        image = Image.fromarray(grey.astype(np.uint16) * 257)
    elif mode == "I":
        image = Image.fromarray(grey.astype(np.int32) * 257)
    elif mode == "F":
        image = Image.fromarray(grey.astype(np.float32) / 255)
    elif mode in ("HSV", "YCbCr", "CMYK", "RGBX", "P"):
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    else:
        image = Image.fromarray(grey).convert(mode)
    assert image.mode == mode
    assert np.array_equal(open_photo(image).rgb, np.dstack((grey, grey, grey)))


def test_sixteen_bit_png_is_scaled_not_cut():
    grey = np.array([[0, 1000, 32768, 65535]], np.uint16)
    photo = open_photo(encoded(Image.fromarray(grey), "PNG"))
    assert photo.rgb[0, :, 0].tolist() == [0, 4, 128, 255]


@pytest.mark.parametrize("name", ["PNG", "TIFF"])
def test_a_dark_sixteen_bit_file_is_as_dark_as_it_says(name):
    """200 of 65535 is 1 of 255; only an array does not say of which."""
    grey = np.array([[0, 100, 200, 255]], np.uint16)
    assert open_photo(encoded(Image.fromarray(grey), name)).rgb[0, :, 0].tolist() == [0, 0, 1, 1]
    assert open_photo(Image.fromarray(grey)).rgb[0, :, 0].tolist() == [0, 0, 1, 1]
    assert open_photo(grey).rgb[0, :, 0].tolist() == [0, 100, 200, 255]


def test_twelve_bits_of_a_tiff_are_read_as_twelve():
    """Two pixels in three bytes, as microscopes and scanners write them; Pillow reads these and can't write them."""
    grey = [0, 2048, 4095, 16]
    packed = bytes.fromhex("".join(f"{value:03x}" for value in grey))
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, len(packed))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    ifd = 8 + len(packed)
    tiff = struct.pack("<2sHI", b"II", 42, ifd) + packed + struct.pack("<H", len(tags)) + entries + bytes(4)
    assert open_photo(tiff).rgb[0, :, 0].tolist() == [0, 128, 255, 1]


def test_colour_profile_is_kept_for_rgb_and_ends_for_others():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert open_photo(encoded(Image.fromarray(PHOTO), "PNG", icc_profile=srgb)).icc == srgb
    assert open_photo(encoded(Image.fromarray(PHOTO), "PNG", icc_profile=b"nonsense")).icc is None
    assert open_photo(encoded(Image.fromarray(PHOTO[..., 0]), "PNG", icc_profile=srgb)).icc is None


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "This file is empty"),
        (b"hello", "This is not a photo"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"%PDF-1.7", "PDF"),
        (encoded(Image.fromarray(PHOTO), "PNG")[:500], "damaged or incomplete"),
        (encoded(Image.fromarray(PHOTO), "JPEG")[:1500], "damaged or incomplete"),
        (encoded(Image.fromarray(PHOTO), "WEBP")[:500], "damaged or incomplete"),
        (encoded(Image.fromarray(PHOTO), "PNG")[:20], "damaged or incomplete"),
        (encoded(Image.new("1", (20_000, 15_000)), "PNG"), "89 megapixels"),
        (encoded(Image.new("1", (10_000, 9_000)), "TIFF", compression="group4"), "89 megapixels"),
        (encoded(Image.fromarray(PHOTO), "TIFF", tiffinfo={254: 1}), "camera raw"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_no_photo_is_refused_in_one_sentence(data, sentence, tmp_path):
    for source in (data, tmp_path / "photo.jpg"):
        (tmp_path / "photo.jpg").write_bytes(data)
        with pytest.raises(PhotoError, match=sentence) as caught:
            open_photo(source)
        message = str(caught.value)
        assert message.count(".") == message.endswith(".") == 1
        assert str(tmp_path) not in message


def test_missing_files_odd_types_and_huge_files_are_refused(tmp_path):
    with pytest.raises(PhotoError, match=r"no file 'gone\.jpg'"):
        open_photo(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="can't be read"):
        open_photo(tmp_path)
    with pytest.raises(PhotoError, match="int is not a photo"):
        open_photo(3)
    with pytest.raises(PhotoError, match="no pixels"):
        open_photo(np.zeros((0, 5, 3), np.uint8))
    (tmp_path / "big.jpg").write_bytes(bytes(1_000_001))
    with pytest.raises(PhotoError, match="more than 1 MB"):
        open_photo(tmp_path / "big.jpg", max_bytes=1_000_000)


def test_random_damage_never_escapes_as_another_exception():
    whole = [encoded(Image.fromarray(PHOTO), name) for name in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")]
    for index in range(300):
        data = bytearray(whole[index % len(whole)])
        for _ in range(8):
            data[RNG.integers(0, min(len(data), 400))] = RNG.integers(0, 256)
        with contextlib.suppress(PhotoError):
            assert open_photo(bytes(data)).rgb.dtype == np.uint8


def test_the_fast_jpeg_decoder_gives_pillows_pixels():
    smooth = Image.fromarray(PHOTO[:6, :9]).resize((333, 211), Image.Resampling.BICUBIC)
    for options in ({"quality": 90}, {"quality": 75, "subsampling": 2}, {"progressive": True}):
        data = encoded(smooth, "JPEG", **options)
        assert np.array_equal(open_photo(data).rgb, np.asarray(Image.open(io.BytesIO(data))))


NAMES = """
import json, sys
import background_remover, background_remover.photos
found = {"light": "torch" not in sys.modules, "shown": dir(background_remover)}
from background_remover import *
print(json.dumps(found | {"where": sorted(background_remover.MODULES), "names": sorted(background_remover.__all__)}))
"""


def test_opening_photos_imports_no_torch_and_the_package_still_has_all_its_names(run_python):
    found = run_python(NAMES)
    assert found["light"]
    assert found["where"] == found["names"]
    assert set(found["names"]) <= set(found["shown"])
