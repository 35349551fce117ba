"""Sixteen bits from file to file, floats, pixels an inch, and what never comes out, by decoders other than ours."""

import io

import cv2
import numpy as np
import pillow_heif
import pytest
import tifffile
from helpers import encoded
from PIL import Image, TiffImagePlugin
from tagged import png_with

from background_remover import Cutout, Finish, Photo, PhotoError
from background_remover.encoding import ENCODERS, save_pixels
from background_remover.fastpng import encode_png
from background_remover.photos import open_photo
from background_remover.profiles import PRIMARIES, Curve, write_profile

pillow_heif.register_heif_opener()

RNG = np.random.default_rng(1)
DEEP = RNG.integers(0, 65536, (40, 60, 3), dtype=np.uint16)
OWN = RNG.integers(1, 256, (40, 60), dtype=np.uint16) * 257
MATTE = np.zeros((40, 60), np.uint8)
MATTE[10:30, 15:45] = 255
MATTE[10, 15:45] = 100
LINEAR = write_profile(PRIMARIES[1], Curve(1))
UPRIGHT = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 6: lambda a: np.rot90(a, -1), 8: np.rot90}


def tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **({"photometric": "rgb"} | options))
    return file.getvalue()


def read(path) -> np.ndarray:
    """By OpenCV, in the file's own depth, as RGB(A)."""
    pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    return pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


# --- in ---


@pytest.mark.parametrize(
    "data",
    [
        png_with(DEEP),
        png_with(np.dstack((DEEP, OWN))),
        tiff(DEEP),
        tiff(DEEP, byteorder=">"),
        tiff(DEEP, compression="zlib", predictor=True),
        tiff(DEEP, tile=(16, 16)),
        tiff(np.moveaxis(DEEP, 2, 0), planarconfig="separate"),
        tiff(np.moveaxis(DEEP, 2, 0), planarconfig="separate", compression="zlib"),
        tiff(np.dstack((DEEP, OWN)), extrasamples=["unassalpha"]),
    ],
)
def test_sixteen_bits_are_read_and_shown_in_eight(data):
    photo = open_photo(data)
    assert np.array_equal(photo.deep, DEEP)
    assert np.abs(photo.rgb - DEEP / 257).max() <= 0.501
    assert photo.alpha is None or np.array_equal(photo.alpha, OWN / 257)


def test_arrays_of_sixteen_bits_keep_them_and_those_that_hold_eight_do_not():
    assert np.array_equal(open_photo(DEEP).deep, DEEP)
    assert open_photo(DEEP // 257).deep is None
    assert open_photo((DEEP // 257).astype(np.uint8)).deep is None


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("planar", [False, True])
def test_a_tiff_of_sixteen_bits_is_upright(orientation, planar):
    told = {"extratags": [(274, "H", 1, orientation, True)]}
    data = tiff(np.moveaxis(DEEP, 2, 0), planarconfig="separate", **told) if planar else tiff(DEEP, **told)
    photo = open_photo(data)
    assert np.array_equal(photo.deep, UPRIGHT[orientation](DEEP))
    assert photo.rgb.shape == photo.deep.shape


def test_a_png_of_sixteen_bits_is_upright():
    exif = Image.Exif()
    exif[274] = 6
    chunk = encoded(Image.new("L", (1, 1)), "PNG", exif=exif)
    at = chunk.index(b"eXIf") - 4
    photo = open_photo(png_with(DEEP, chunk[at : at + 12 + int.from_bytes(chunk[at : at + 4])]))
    assert np.array_equal(photo.deep, np.rot90(DEEP, -1))


@pytest.mark.parametrize("cut", [0.5, 0.9])
def test_a_broken_file_of_sixteen_bits_is_no_photo(cut):
    for data in (png_with(DEEP), tiff(DEEP, compression="zlib")):
        with pytest.raises(PhotoError, match="damaged"):
            open_photo(data[: int(cut * len(data))])


# --- out ---


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("own", [None, (OWN // 257).astype(np.uint8)])
def test_the_subjects_solid_pixels_come_out_in_sixteen_bits_as_they_went_in(tmp_path, suffix, own):
    photo = open_photo(DEEP if own is None else np.dstack((DEEP, OWN)))
    cutout = Cutout.from_matte(photo, MATTE)
    box = cutout.framed(0)
    solid, framed = cutout.alpha == 255, box.alpha == 255
    for shown, truth, where in ((cutout, DEEP, solid), (box, DEEP[10:30, 15:45], framed)):
        shown.save(tmp_path / f"a{suffix}")
        pixels = read(tmp_path / f"a{suffix}")
        assert np.array_equal(pixels[where][:, :3], truth[where])
        assert np.array_equal(pixels[..., 3], shown.alpha * np.uint16(257))
        assert not pixels[shown.alpha == 0].any()
        shown.save(tmp_path / f"b{suffix}", "#ff8000")
        placed = read(tmp_path / f"b{suffix}")
        assert np.array_equal(placed[where], truth[where])
        assert (placed[shown.alpha == 0] == (65535, 0x8080, 0)).all()
        assert np.abs(placed / 257 - shown.pixels("#ff8000")).max() <= 2


@pytest.mark.parametrize("size", [(30, 20), (300, 200)])
def test_a_scaled_subject_in_sixteen_bits_is_the_same_in_eight_but_finer(tmp_path, size):
    smooth = np.dstack([cv2.GaussianBlur(DEEP[..., band], (0, 0), 3) for band in range(3)])
    finish = Finish(width=size[0], height=size[1], background="blur")
    framed = finish.frame(Cutout.from_matte(open_photo(smooth), MATTE))
    finish.write(framed, tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    assert pixels.dtype == np.uint16
    assert np.abs(pixels / 257 - finish.pixels(framed)).max() <= 2
    assert np.mean(pixels[framed.alpha == 255] % 257 != 0) > 0.9


@pytest.mark.parametrize("suffix", sorted(ENCODERS))
def test_formats_without_sixteen_bits_and_photos_without_them_have_eight(tmp_path, suffix):
    for photo, deep in ((open_photo(DEEP), suffix in (".png", ".tif", ".tiff")), (Photo(DEEP.astype(np.uint8)), False)):
        Cutout.from_matte(photo, MATTE).save(tmp_path / f"a{suffix}")
        assert (open_photo(tmp_path / f"a{suffix}").deep is not None) == deep


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_files_of_sixteen_bits_are_sound(tmp_path, suffix, channels):
    pixels = RNG.integers(0, 65536, (1200, 800, channels), dtype=np.uint16)
    save_pixels(pixels, tmp_path / f"a{suffix}", LINEAR, dpi=(300, 150))
    assert np.array_equal(read(tmp_path / f"a{suffix}"), pixels)
    with Image.open(tmp_path / f"a{suffix}") as image:
        image.load()
        assert image.mode == ("RGB", "RGBA")[channels - 3]
        assert image.info["icc_profile"] == LINEAR
        assert np.abs(np.array(image.info["dpi"]) - (300, 150)).max() < 0.02


# --- floats and other depths ---


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_floats_are_as_bright_as_without_their_highlights(white):
    grey = np.linspace(0, 1, 2400).reshape(40, 60)
    truth = np.rint(grey * 255)
    for highlights in (0, 9):
        floats = (grey * white).astype(np.float32)
        floats.ravel()[: highlights * 40 : 40] = 8 * white
        for source in (floats, tiff(floats, photometric="minisblack")):
            opened = open_photo(source).rgb[..., 0].astype(int)
            assert (opened != truth).sum() <= highlights
            assert (opened.ravel()[: highlights * 40 : 40] == 255).all()


def test_what_can_not_be_read_is_named():
    jpeg = encoded(Image.new("RGB", (16, 16)), "JPEG")
    at = jpeg.index(b"\xff\xc0") + 4
    with pytest.raises(PhotoError, match=r"12-bit JPEG.*8 bits, or as a PNG\.$"):
        open_photo(jpeg[:at] + b"\x0c" + jpeg[at + 1 :])
    for pixels in (DEEP / np.float32(65535), (DEEP / 65535).astype(np.float16), DEEP.astype(np.uint32)):
        with pytest.raises(PhotoError, match=r"TIFF.*save it with 8 or 16 bits"):
            open_photo(tiff(pixels))


# --- pixels an inch ---


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("name", ["PNG", "JPEG", "TIFF"])
def test_pixels_an_inch_come_out_as_they_went_in(tmp_path, name, suffix):
    photo = open_photo(encoded(Image.fromarray(DEEP.astype(np.uint8)), name, dpi=(300, 150)))
    Cutout.from_matte(photo, MATTE).framed(0.1).save(tmp_path / f"a{suffix}")
    with Image.open(tmp_path / f"a{suffix}") as image:
        assert np.abs(np.array([float(number) for number in image.info["dpi"]]) - (300, 150)).max() < 0.02


def test_pixels_an_inch_turn_with_the_photo():
    exif = Image.Exif()
    exif[274] = 6
    image = Image.fromarray(DEEP.astype(np.uint8))
    assert open_photo(encoded(image, "JPEG", dpi=(300, 150), exif=exif)).dpi == (150, 300)


@pytest.mark.parametrize("dpi", [(0, 0), (1, 1), (60_000, 60_000), None])
def test_numbers_that_no_print_has_are_left_out(dpi):
    image = Image.fromarray(DEEP.astype(np.uint8))
    assert open_photo(encoded(image, "JPEG", **({"dpi": dpi} if dpi else {}))).dpi is None
    image.info["dpi"] = (float("nan"), "x")
    assert open_photo(image).dpi is None
    assert b"pHYs" not in encode_png(DEEP)


# --- what never comes out ---


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize(
    ("name", "deep"),
    [*((name, False) for name in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF", "HEIF")), ("PNG", True), ("TIFF", True)],
)
def test_no_word_about_place_time_or_maker_comes_out(tmp_path, name, suffix, deep):
    photo = open_photo(with_secrets(name, deep))
    assert (photo.deep is not None) == deep
    Cutout.from_matte(photo, MATTE).save(tmp_path / f"a{suffix}")
    Cutout.from_matte(photo, MATTE).image.save(tmp_path / f"b{suffix.replace('jpg', 'png')}")
    for path in tmp_path.iterdir():
        assert b"secret" not in path.read_bytes()
        with Image.open(path) as image:
            tags = set(image.getexif()) - set(range(254, 341)) if path.suffix == ".tif" else set(image.getexif())
            assert tags <= {34675}
            assert not image.info.keys() & {"exif", "xmp", "XML:com.adobe.xmp", "comment"}


def with_secrets(name: str, deep: bool) -> bytes:
    """A photo with EXIF, a place, XMP and a comment, which all say "secret"."""
    exif = Image.Exif()
    exif[0x010E] = exif[0x010F] = "secret"
    exif.get_ifd(0x8769)[0x9003] = "secret"
    exif.get_ifd(0x8825)[1] = "secret"
    image = Image.fromarray(DEEP.astype(np.uint8))
    options = {"exif": exif, "xmp": b"<x>secret</x>", "comment": b"secret"}
    if name == "TIFF":
        if deep:
            return tiff(DEEP, description="secret", software="secret", extratags=[(700, "B", 6, b"secret", True)])
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[270], tags[305] = "secret", "secret"
        options = {"tiffinfo": tags}
    data = encoded(image, name, **options)
    if name == "PNG" and deep:
        at = data.index(b"eXIf") - 4
        return png_with(DEEP, data[at : at + 12 + int.from_bytes(data[at : at + 4])])
    assert b"secret" in data
    return data
