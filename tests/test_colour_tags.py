"""What files say of their colours, against the formulas of the standards and what littleCMS makes of them."""

import io
import struct
import zlib

import numpy as np
import pillow_heif
import pytest
from helpers import encoded, iou
from PIL import Image, ImageCms
from tagged import chrm, chunk, cicp, gama, one_way_profile, png_with

from background_remover import Cutout, Photo
from background_remover.colour_tags import MAX_META, told_colours
from background_remover.colours import is_srgb
from background_remover.hdr import pq_from_light
from background_remover.photos import open_photo
from background_remover.profiles import (
    MOST_BYTES,
    PRIMARIES,
    SRGB_CURVE,
    Curve,
    _colour_space,
    colour_space,
    write_grey_profile,
    write_profile,
)
from utilities import shrink

pillow_heif.register_heif_opener()

PATCHES = np.array([(255, 255, 255), (128, 128, 128), (200, 60, 40), (60, 180, 90), (40, 60, 200), (30, 30, 30)])
PHOTO = PATCHES.astype(np.uint8).repeat(16, 0)[None].repeat(32, 0).copy()  # 32 x 96, in blocks that codecs keep
RAMP = np.arange(256, dtype=np.uint8)[None].repeat(4, 0).copy()
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
P3 = (0.3127, 0.3290, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)
ADOBE = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
LINEAR = write_profile(PRIMARIES[1], Curve(1))
# White and primaries, and light of a number, as ITU-T H.273 has them.
SPACES = {1: PRIMARIES[1], 9: (0.3127, 0.3290, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046), 12: P3}
LIGHT = {
    1: lambda x: np.where(x < 0.0812, x / 4.5, ((x + 0.0993) / 1.0993) ** (1 / 0.45)),
    4: lambda x: x**2.2,
    8: lambda x: x,
    13: lambda x: np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4),
}


def xyz(space: tuple[float, ...]) -> np.ndarray:
    ends = np.array([(x / y, 1, (1 - x - y) / y) for x, y in zip(space[::2], space[1::2], strict=True)]).T
    return ends[:, 1:] * np.linalg.solve(ends[:, 1:], ends[:, 0])


def as_srgb(rgb: np.ndarray, space: tuple[float, ...], light) -> np.ndarray:
    """By the formulas, in floats."""
    linear = light(rgb / 255) @ (np.linalg.inv(xyz(PRIMARIES[1])) @ xyz(space)).T
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def shown(photo: Photo) -> np.ndarray:
    """What its pixels look like, by littleCMS."""
    if photo.icc is None:
        return photo.rgb.astype(float)
    profiles = ImageCms.ImageCmsProfile(io.BytesIO(photo.icc)), ImageCms.createProfile("sRGB")
    return np.asarray(ImageCms.profileToProfile(Image.fromarray(photo.rgb), *profiles)).astype(float)


def with_cicp(name: str, primaries: int, transfer: int) -> bytes:
    image = Image.fromarray(PHOTO)
    if name == "PNG":
        return png_with(PHOTO, cicp(primaries, transfer))
    if name == "HEIF":
        numbers = {"color_primaries": primaries, "transfer_characteristics": transfer}
        numbers |= {"matrix_coefficients": 6, "full_range_flag": 1}
        return encoded(image, name, quality=100, chroma=444, **numbers)
    told = struct.pack(">4sHH", b"nclx", 1, 13)
    data = encoded(image, name, quality=100, subsampling="4:4:4")
    assert data.count(told) == 1
    return data.replace(told, struct.pack(">4sHH", b"nclx", primaries, transfer))


def same(one: np.ndarray, other: np.ndarray, most: float = 3) -> bool:
    return bool(np.abs(one - other).max() <= most)


# --- H.273's numbers ---


@pytest.mark.parametrize("name", ["PNG", "HEIF", "AVIF"])
@pytest.mark.parametrize("primaries", SPACES)
@pytest.mark.parametrize("transfer", LIGHT)
def test_colours_told_by_numbers_are_those_of_the_standard_and_the_output_says_so(name, primaries, transfer):
    photo = open_photo(with_cicp(name, primaries, transfer))
    assert same(photo.rgb.astype(float), PHOTO, 0 if name == "PNG" else 12)
    truth = as_srgb(photo.rgb, SPACES[primaries], LIGHT[transfer])
    assert same(shown(photo), truth)
    cutout = Cutout.from_matte(photo, np.full(photo.shape, 255, np.uint8))
    assert cutout.image.info.get("icc_profile") == photo.icc
    assert (photo.icc is None) == ((primaries, transfer) == (1, 13))


@pytest.mark.parametrize("numbers", [(2, 2), (3, 13), (255, 255), (1, 3), (0, 0)])
def test_numbers_that_say_nothing_count_as_none(numbers):
    assert open_photo(png_with(PHOTO, cicp(*numbers))).icc is None


def test_a_picture_in_avif_has_its_own_colours_and_not_those_of_an_item_beside_it():
    data = with_cicp("AVIF", 12, 13)
    box = struct.pack(">I4s4sHHHB", 19, b"colr", b"nclx", 9, 8, 0, 128)
    at = data.index(b"ipco")
    (size,) = struct.unpack_from(">I", data, at - 4)
    longer = bytearray(data[: at - 4 + size] + box + data[at - 4 + size :])
    for name in (b"meta", b"iprp", b"ipco"):
        place = longer.index(name) - 4
        struct.pack_into(">I", longer, place, struct.unpack_from(">I", longer, place)[0] + len(box))
    offset = longer.index(b"iloc")
    extent = longer.index(struct.pack(">I", data.index(b"mdat") + 4), offset)
    struct.pack_into(">I", longer, extent, data.index(b"mdat") + 4 + len(box))
    photo = open_photo(bytes(longer))
    assert same(shown(photo), as_srgb(photo.rgb, P3, LIGHT[13]))


# --- PNG's chunks ---


def test_what_a_file_says_of_its_colours_at_endless_length_is_not_looked_through():
    """Neither boxes by the million, nor a profile that would stay in memory for the next photo to be compared with."""
    data = with_cicp("AVIF", 12, 13)
    meta = data.index(b"meta") - 4
    end = meta + int.from_bytes(data[meta : meta + 4])
    more = struct.pack(">I4s", 8, b"free") * (MAX_META // 8)
    longer = struct.pack(">I", end - meta + len(more)) + data[meta + 4 : end] + more
    image = Image.open(io.BytesIO(data))
    assert told_colours(image, data) is not None
    assert told_colours(image, data[:meta] + longer + data[end:]) is None
    kept = _colour_space.cache_info()
    assert colour_space(bytes(MOST_BYTES + 1)) == ""
    assert _colour_space.cache_info() == kept


def test_of_a_pngs_chunks_the_newer_counts():
    linear = chunk(b"iCCP", b"x\0\0" + zlib.compress(LINEAR))
    said = (cicp(12, 13), linear, chunk(b"sRGB", b"\0"), gama(1.0))
    truths = [
        as_srgb(PHOTO, P3, LIGHT[13]),
        as_srgb(PHOTO, PRIMARIES[1], LIGHT[8]),
        PHOTO.astype(float),
        as_srgb(PHOTO, PRIMARIES[1], LIGHT[8]),
    ]
    for first, truth in enumerate(truths):
        assert same(shown(open_photo(png_with(PHOTO, *said[first:]))), truth)


@pytest.mark.parametrize("pixels", [PHOTO, PHOTO.astype(np.uint16) * 257, PHOTO[..., 0].copy()])
@pytest.mark.parametrize(("gamma", "space"), [(1.0, P3), (1 / 2.2, ADOBE), (1 / 1.8, PRIMARIES[1])])
def test_gama_and_chrm_make_a_profile(pixels, gamma, space):
    photo = open_photo(png_with(pixels, gama(gamma), chrm(*space)))
    assert same(shown(photo), as_srgb(photo.rgb, space, lambda x: x ** (1 / gamma)))


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(0),),
        (gama(1000),),
        (chrm(*[0] * 8), gama(1.0)),
        (chrm(*[0.3] * 8),),
        (chunk(b"cICP", b"\1"),),
        (chunk(b"iCCP", b"x\0\0" + b"nonsense"),),
    ],
)
def test_broken_chunks_are_ignored(chunks):
    photo = open_photo(png_with(PHOTO, *chunks))
    assert photo.icc is None
    assert np.array_equal(photo.rgb, PHOTO)


# --- EXIF ---


def exif(space: int | None, index: str | None) -> Image.Exif:
    block = Image.Exif()
    block[0x010F] = "Camera"
    inner = block.get_ifd(0x8769)
    if space is not None:
        inner[0xA001] = space
    if index:
        inner[0xA005] = {1: index, 2: b"0100"}
    return block


@pytest.mark.parametrize(
    ("space", "index", "adobe"),
    [
        (65535, "R03", True),
        (None, "R03", True),
        (2, None, True),
        (1, "R98", False),
        (65535, "R98", False),
        (65535, None, False),
        (1, "R03", False),
    ],
)
def test_adobe_rgb_is_known_by_what_cameras_write(space, index, adobe):
    data = encoded(Image.fromarray(PHOTO), "JPEG", quality=100, subsampling=0, exif=exif(space, index))
    photo = open_photo(data)
    truth = as_srgb(photo.rgb, ADOBE, lambda x: x ** (563 / 256)) if adobe else photo.rgb.astype(float)
    assert same(shown(photo), truth)


# --- profiles ---


@pytest.mark.parametrize("srgb", [None, SRGB, write_profile(PRIMARIES[1], SRGB_CURVE)])
def test_the_network_gets_srgb_as_it_is(srgb):
    assert srgb is None or is_srgb(srgb)
    noise = np.random.default_rng(1).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    assert np.array_equal(Photo(noise, icc=srgb).for_network(64), shrink(noise, 64))


@pytest.mark.parametrize("icc", [LINEAR, write_profile(P3, SRGB_CURVE), write_profile(ADOBE, Curve(2.2))])
def test_the_network_sees_srgb_whatever_the_profile(icc):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(icc))
    other = np.asarray(ImageCms.profileToProfile(Image.fromarray(PHOTO), *profiles))
    seen = open_photo(encoded(Image.fromarray(other), "PNG", icc_profile=icc)).for_network(96).astype(int)
    blocks = [slice(8 + 16 * patch, 9 + 16 * patch) for patch in range(5)]  # of the sixth 8 bits leave little
    assert all(same(seen[:, block], PHOTO[:1, block], 6 if icc == LINEAR else 3) for block in blocks)


def test_a_profile_without_a_way_back_ends_in_srgb_and_white_stays_white():
    """A negative, as some scanners make it: its black is white, and nothing leads from colours to its numbers."""
    ends = np.stack(np.meshgrid((1, 0), (1, 0), (1, 0), indexing="ij"), -1).astype(float)
    data = encoded(Image.fromarray(PHOTO), "PNG", icc_profile=one_way_profile(b"RGB ", ends))
    photo = open_photo(data)
    assert photo.icc is None
    assert same(photo.rgb.astype(float), as_srgb(255.0 - PHOTO, PRIMARIES[1], LIGHT[8]))
    placed = Cutout.from_matte(photo, np.zeros(photo.shape, np.uint8)).composite("white")
    assert (np.asarray(placed) == 255).all()
    assert "icc_profile" not in placed.info


def test_a_profile_of_inks_is_followed():
    """Each ink takes its light away, black all of it: 1 - c, 1 - m and 1 - y, times 1 - k."""
    inks = np.stack(np.meshgrid(*[(1.0, 0.0)] * 4, indexing="ij"), -1)
    icc = one_way_profile(b"CMYK", inks[..., :3] * inks[..., 3:])
    cmyk = np.array([[(0, 0, 0, 0), (255, 0, 0, 0), (0, 128, 0, 0), (0, 0, 255, 0), (0, 0, 0, 128)]], np.uint8)
    photo = open_photo(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF", icc_profile=icc))
    light = (255.0 - cmyk[..., :3]) * (255.0 - cmyk[..., 3:]) / 255
    assert same(photo.rgb.astype(float), as_srgb(light, PRIMARIES[1], LIGHT[8]))
    assert photo.icc is None


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_greys_follow_their_profile(mode):
    icc = write_grey_profile(Curve(1))
    image = Image.fromarray(RAMP.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(RAMP).convert(mode)
    for name in ("PNG", "TIFF"):
        photo = open_photo(encoded(image, name, icc_profile=icc))
        truth = as_srgb(np.dstack([RAMP] * 3), PRIMARIES[1], LIGHT[8])
        assert same(photo.rgb.astype(float), truth, 1)
        if mode == "I;16":
            assert same(photo.deep / 257, truth, 0.1)


def test_a_palettes_profile_is_kept():
    image = Image.fromarray(PHOTO).quantize(16, dither=Image.Dither.NONE)
    photo = open_photo(encoded(image, "PNG", icc_profile=LINEAR))
    assert photo.icc == LINEAR
    assert np.array_equal(photo.rgb, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("icc", [b"nonsense", LINEAR[:200], SRGB[:-300], bytes(200)])
def test_broken_profiles_are_ignored(icc):
    photo = open_photo(encoded(Image.fromarray(PHOTO), "TIFF", icc_profile=icc))
    assert photo.icc is None
    assert np.array_equal(photo.rgb, PHOTO)


# --- HDR ---


def pq_png(light: np.ndarray, bits: int = 16) -> bytes:
    """Greys of so many cd/m2, in BT.2020 and PQ."""
    levels = np.array([pq_from_light(value) for value in light.ravel()]).reshape(light.shape)
    grey = np.rint(levels * (2**bits - 1)).astype(np.uint16 if bits == 16 else np.uint8)
    return png_with(np.dstack([grey] * 3), cicp(9, 16))


@pytest.mark.parametrize("bits", [8, 16])
def test_hdr_without_highlights_is_what_its_light_is_in_srgb(bits):
    light = np.tile(203 * np.array([1.0, 0.18, 0.5, 0.05]), (8, 8))
    photo = open_photo(pq_png(light, bits))
    truth = as_srgb(np.dstack([255 * light / 203] * 3), PRIMARIES[1], LIGHT[8])
    assert photo.icc is None
    assert same(photo.rgb.astype(float), truth, 3 if bits == 8 else 1)


def test_hdr_highlights_are_rolled_off_above_a_white_that_stays_nearly_so():
    light = np.tile(203 * np.array([0.18, 0.5, 0.9, 1.0, 1.5, 2.0, 4.0]), (8, 8))
    card, half, bright, white, *beyond = open_photo(pq_png(light)).rgb[0, :7, 0].astype(int)
    assert abs(card - 118) <= 1  # 18 % in sRGB
    assert abs(half - 188) <= 3  # 50 %
    assert half < bright < white < beyond[0] <= beyond[1] == beyond[2] == 255
    assert white >= 240


def test_hlg_is_lit_as_its_reference_display_does():
    """75 % is diffuse white, 203 cd/m2, and 38 % the grey card, 26 cd/m2 (ITU-R BT.2408, table 1)."""
    grey = np.tile(np.rint(65535 * np.array([0.75, 0.38])).astype(np.uint16), (8, 8))
    photo = open_photo(png_with(np.dstack([grey] * 3), cicp(9, 18)))
    assert photo.rgb[0, 0, 0] >= 254
    assert abs(int(photo.rgb[0, 1, 0]) - as_srgb(np.full(3, 255 * 26 / 203), PRIMARIES[1], LIGHT[8])[0]) <= 3


@pytest.mark.parametrize("name", ["HEIF", "AVIF"])
def test_hdr_in_other_formats_is_toned_down_too(name):
    photo = open_photo(with_cicp(name, 9, 16))
    assert photo.icc is None
    assert photo.rgb[16, 24, 0] > 128  # half of PQ's levels is 92 cd/m2, 45 % of white


def test_hdrs_colours_are_brought_into_srgb():
    """A red of sRGB, at half of white, told in BT.2020."""
    linear = 101.5 * np.linalg.inv(xyz(SPACES[9])) @ xyz(PRIMARIES[1]) @ (1, 0, 0)
    levels = [round(65535 * pq_from_light(value)) for value in np.clip(linear, 0, None)]
    photo = open_photo(png_with(np.full((8, 8, 3), levels, np.uint16), cicp(9, 16)))
    assert same(photo.rgb[0, 0].astype(float), np.array((188, 0, 0)), 3)


@pytest.mark.slow
def test_a_photo_far_from_srgb_has_the_matte_that_it_has_in_srgb(remover, person):
    profiles = ImageCms.createProfile("sRGB"), ImageCms.ImageCmsProfile(io.BytesIO(LINEAR))
    other = np.asarray(ImageCms.profileToProfile(Image.fromarray(person), *profiles))
    cutout = remover(encoded(Image.fromarray(other), "PNG", icc_profile=LINEAR))
    assert iou(cutout.alpha, remover(person).alpha) > 0.98
    assert cutout.photo.icc == LINEAR
