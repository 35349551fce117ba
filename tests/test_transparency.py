"""What is transparent, in each way in which a file or an image can say so, against what was put in."""

import io
import struct

import numpy as np
import pytest
import tifffile
from helpers import encoded
from PIL import Image
from tagged import GREY, RGB, packed_png

from background_remover import Cutout, Photo, PhotoError
from background_remover.compositing import contrasting_grey
from background_remover.photos import open_photo

RNG = np.random.default_rng(1)
PHOTO = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (40, 60), dtype=np.uint8)


# --- one colour of a PNG ---


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_of_a_grey_png_exactly_the_grey_that_it_names_is_transparent(bits):
    greys = range(2**bits) if bits < 16 else (0, 255, 256, 257, 1000, 1001, 40_000, 65_535)
    greys = list(greys)
    for key in greys[:: max(1, len(greys) // 8)]:
        text = "".join(f"{grey:0{bits}b}" for grey in greys)
        row = int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8))
        photo = open_photo(packed_png([row], len(greys), bits, GREY, struct.pack(">H", key)))
        assert photo.alpha[0].tolist() == [0 if grey == key else 255 for grey in greys]
        assert photo.rgb[0, :, 0].tolist() == [round(255 * grey / (2**bits - 1)) for grey in greys]


def test_of_a_16_bit_png_exactly_the_colour_that_it_names_is_transparent():
    colours = np.array([[(1000, 2000, 3000), (1001, 2000, 3000), (1000, 2000, 3001), (1000, 0, 3000)]], np.uint16)
    for key in colours[0]:
        photo = open_photo(packed_png([colours[0].astype(">u2").tobytes()], 4, 16, RGB, struct.pack(">3H", *key)))
        assert photo.alpha[0].tolist() == [0 if (colour == key).all() else 255 for colour in colours[0]]
        assert np.array_equal(photo.deep, colours)


def test_of_an_8_bit_png_exactly_the_colour_that_it_names_is_transparent():
    photo = open_photo(encoded(Image.fromarray(PHOTO), "PNG", transparency=tuple(int(value) for value in PHOTO[3, 5])))
    assert np.array_equal(photo.alpha == 0, (PHOTO[3, 5] == PHOTO).all(2))
    assert np.array_equal(photo.rgb, PHOTO)


# --- images of Pillow's modes ---


def test_a_palette_may_have_an_alpha_for_each_colour():
    image = Image.fromarray(PHOTO).quantize(8)
    alphas = bytes((0, 10, 100, 200, 255, 254, 128, 1))
    for photo in (open_photo(encoded(image, "PNG", transparency=alphas)), open_photo(image_with(image, alphas))):
        assert np.array_equal(photo.alpha, np.frombuffer(alphas, np.uint8)[np.asarray(image)])
        assert np.array_equal(photo.rgb, np.asarray(image.convert("RGB")))
    with_alpha = Image.merge("LA", (Image.fromarray(np.asarray(image)), Image.fromarray(ALPHA)))
    pa = image.convert("PA")
    pa.putalpha(with_alpha.getchannel("A"))
    assert np.array_equal(open_photo(pa).alpha, ALPHA)


def image_with(image: Image.Image, transparency: bytes) -> Image.Image:
    image = image.copy()
    image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_premultiplied_colours_become_straight(mode):
    straight = Image.fromarray(np.dstack((PHOTO, np.maximum(ALPHA, 128)))).convert(mode)
    photo = open_photo(straight.convert({"RGBA": "RGBa", "LA": "La"}[mode]))
    assert np.array_equal(photo.alpha, np.maximum(ALPHA, 128))
    assert np.abs(photo.rgb.astype(int) - np.asarray(straight.convert("RGB"))).max() <= 1


# --- other files ---


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("kind", "straight"), [("assocalpha", False), ("unassalpha", True)])
def test_a_tiffs_alpha_is_straight_or_made_so(bits, kind, straight):
    most = 2**bits - 1
    alpha = np.maximum(ALPHA, 64) / 255
    rgb = PHOTO / 255
    pixels = np.dstack((rgb if straight else rgb * alpha[..., None], alpha))
    file = io.BytesIO()
    tifffile.imwrite(
        file, np.rint(pixels * most).astype(f"u{bits // 8}"), photometric="rgb", extrasamples=[kind], compression="zlib"
    )
    photo = open_photo(file.getvalue())
    assert np.array_equal(photo.alpha, np.maximum(ALPHA, 64))
    assert np.abs(photo.rgb.astype(int) - PHOTO).max() <= (3 if bits == 8 else 1)
    assert (photo.deep is None) == (bits == 8)


def bitmap(alpha: np.ndarray) -> bytes:
    """A BMP of 32 bits with a mask for each channel, alpha's included."""
    pixels = np.dstack((PHOTO[..., ::-1], alpha))[::-1].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 60, 40, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
    return struct.pack("<2sIII", b"BM", 14 + len(info) + len(pixels), 0, 14 + len(info)) + info + pixels


def test_a_bitmap_whose_alpha_is_0_throughout_is_opaque():
    assert open_photo(bitmap(np.zeros_like(ALPHA))).alpha is None
    photo = open_photo(bitmap(ALPHA))
    assert np.array_equal(photo.alpha, ALPHA)
    assert np.array_equal(photo.rgb, PHOTO)


# --- what becomes of it ---


@pytest.mark.parametrize("colour", [(128, 128, 128), (255, 255, 255), (0, 0, 0), (100, 140, 120), (250, 240, 235)])
def test_a_subject_on_transparency_stands_out_from_what_is_put_behind_it(colour):
    rgb = np.full((80, 80, 3), 77, np.uint8)
    alpha = np.zeros((80, 80), np.uint8)
    rgb[20:60, 20:60], alpha[20:60, 20:60] = colour, 255
    seen = Photo(rgb, alpha).opaque().astype(int)
    assert (seen[20:60, 20:60] == colour).all()
    assert np.abs(seen[0, 0] - seen[40, 40]).max() >= 100
    assert np.ptp(seen[0, 0]) == 0


def test_a_subject_of_two_greys_stands_out_with_both():
    rgb = np.full((80, 80, 3), 255, np.uint8)
    rgb[:40] = 128
    grey = contrasting_grey(rgb, np.full((80, 80), 255, np.uint8))
    assert min(abs(grey - 255), abs(grey - 128)) >= 100


def test_nothing_to_be_seen_has_mid_grey_behind_it():
    assert contrasting_grey(PHOTO, np.zeros_like(ALPHA)) == 128


def test_a_cutout_serves_as_its_own_matte():
    cutout = Cutout.from_matte(Photo(PHOTO), ALPHA, foreground=False)
    for matte in (cutout.image, encoded(cutout.image, "PNG"), cutout.matte, np.asarray(cutout.image)):
        assert np.array_equal(Cutout.open(PHOTO, matte).alpha, ALPHA)
    opaque = Image.fromarray(np.dstack((ALPHA, ALPHA, ALPHA, np.full_like(ALPHA, 255))))
    assert np.array_equal(Cutout.open(PHOTO, opaque).alpha, ALPHA)
    with pytest.raises(PhotoError, match="no transparency"):
        Cutout.open(PHOTO)


# --- WebP, which has a way of its own ---


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA"])
@pytest.mark.parametrize("how", [{"quality": 80}, {"lossless": True}, {"lossless": True, "exact": True}])
def test_a_webp_has_the_pixels_that_pillow_finds(mode, how):
    image = Image.fromarray(np.dstack([PHOTO, ALPHA])).convert(mode)
    data = encoded(image, "WEBP", **how)
    truth = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
    photo = open_photo(data)
    seen = truth[..., 3] > 0
    assert np.array_equal(photo.rgb[seen], truth[..., :3][seen])
    assert np.array_equal(ALPHA * 0 + 255 if photo.alpha is None else photo.alpha, truth[..., 3])


def test_of_an_animated_webp_the_first_picture_counts_and_a_false_canvas_is_told():
    first, second = Image.fromarray(PHOTO), Image.fromarray(PHOTO[::-1].copy())
    data = encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(open_photo(data).rgb, PHOTO)
    whole = encoded(Image.new("RGB", (4000, 4000)), "WEBP", lossless=True)
    canvas = struct.pack("<4sI", b"VP8X", 10) + bytes(4) + (9).to_bytes(3, "little") * 2
    with pytest.raises(PhotoError, match="damaged"):
        open_photo(struct.pack("<4sI4s", b"RIFF", len(whole) - 8 + len(canvas), b"WEBP") + canvas + whole[12:])
