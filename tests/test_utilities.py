"""Pixels against closed forms, the model card's formulas and real encoders."""

import contextlib
import io
import math
import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import EXAMPLES, card_matte
from PIL import Image, ImageCms, ImageOps

import utilities
from fastpng import encode_png
from utilities import (
    PhotoError,
    blur_background,
    composite,
    enlarge,
    image_background,
    open_photo,
    parse_colour,
    postprocess_image,
    preprocess_image,
    save_pixels,
    shrink,
    with_alpha,
)

RNG = np.random.default_rng(1)
PHOTO = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (60, 90), dtype=np.uint8)


def encoded(image: Image.Image, name: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def card_input(photo: np.ndarray, size: list[int]) -> torch.Tensor:
    tensor = torch.tensor(photo, dtype=torch.float32).permute(2, 0, 1)
    tensor = F.interpolate(torch.unsqueeze(tensor, 0), size=size, mode="bilinear").type(torch.uint8)
    return (torch.divide(tensor, 255.0) - 0.5) / 1.0


# --- preprocess_image ---


@pytest.mark.parametrize("shape", [(60, 90), (1, 1), (1500, 700), (1024, 1024)])
@pytest.mark.parametrize("size", [[1024, 1024], [256, 320]])
def test_preprocess_is_the_cards_bit_for_bit(shape, size):
    photo = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert torch.equal(preprocess_image(photo, size), card_input(photo, size))


@pytest.mark.parametrize(
    "same",
    [
        pytest.param(lambda rgb: np.dstack((rgb, ALPHA)), id="RGBA"),
        pytest.param(lambda rgb: rgb.astype(np.uint16) * 257, id="uint16"),
        pytest.param(lambda rgb: rgb.astype(np.uint16), id="uint16 holding 8 bits"),
        pytest.param(lambda rgb: rgb.astype(np.int64), id="int64"),
        pytest.param(lambda rgb: rgb / 255, id="float64 in 0..1"),
        pytest.param(lambda rgb: (rgb / 255).astype(np.float32), id="float32 in 0..1"),
        pytest.param(lambda rgb: rgb.astype(np.float32), id="float32 in 0..255"),
        pytest.param(lambda rgb: rgb[:, ::-1][:, ::-1], id="not contiguous"),
    ],
)
def test_preprocess_gives_the_photos_result_for_other_arrays_of_it(same):
    assert torch.equal(preprocess_image(same(PHOTO), [64, 48]), card_input(PHOTO, [64, 48]))


def test_preprocess_takes_grey_as_three_equal_channels():
    grey = PHOTO[..., 0]
    truth = card_input(np.dstack((grey, grey, grey)), [64, 48])
    for array in (grey, grey[..., None], np.dstack((grey, ALPHA)), grey.astype(np.uint16) * 257, grey / 255):
        assert torch.equal(preprocess_image(array, [64, 48]), truth)
    assert torch.equal(preprocess_image(grey > 127, [64, 48]), preprocess_image((grey > 127) * np.uint8(255), [64, 48]))


@pytest.mark.parametrize("array", [np.zeros(5), np.zeros((4, 4, 5)), np.zeros((2, 4, 4, 3)), np.array([["a"]])])
def test_preprocess_refuses_what_is_no_photo(array):
    with pytest.raises(PhotoError, match="H x W"):
        preprocess_image(array, [64, 64])


# --- postprocess_image ---


@pytest.mark.parametrize("size", [[60, 90], [1, 1], [2000, 37]])
def test_postprocess_is_the_cards_bit_for_bit(size):
    result = torch.rand(1, 1, 128, 128)
    big = torch.squeeze(F.interpolate(result, size=size, mode="bilinear"), 0)
    if big.max() > big.min():
        big = (big - big.min()) / (big.max() - big.min())
        truth = np.squeeze((big * 255).permute(1, 2, 0).numpy().astype(np.uint8))
        assert np.array_equal(postprocess_image(result, size), truth)
    untouched = result.clone()
    postprocess_image(result, [128, 128])
    assert torch.equal(result, untouched)


@pytest.mark.parametrize(
    "result",
    [
        torch.zeros(1, 1, 64, 64),
        torch.ones(1, 1, 64, 64),
        torch.full((1, 1, 64, 64), 0.5),
        0.1 * torch.rand(1, 1, 64, 64),
    ],
)
def test_a_constant_or_empty_map_gives_zeros(result):
    matte = postprocess_image(result, [50, 70])
    assert matte.shape == (50, 70)
    assert matte.dtype == np.uint8
    assert not matte.any()


def test_the_two_around_the_network_are_the_cards_usage(seeded_net):
    image = preprocess_image(PHOTO, [1024, 1024])
    with torch.no_grad():
        matte = postprocess_image(seeded_net(image)[0][0], PHOTO.shape[:2])
    assert matte.max() == 255
    assert np.array_equal(matte, card_matte(seeded_net, PHOTO))


# --- open_photo ---


@pytest.mark.parametrize("name", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_open_to_their_pixels(name):
    options = {"lossless": True} if name == "WEBP" else {}
    photo = open_photo(encoded(Image.fromarray(PHOTO), name, **options))
    assert np.array_equal(photo.rgb, PHOTO)
    assert photo.alpha is None


@pytest.mark.parametrize("name", ["JPEG", "WEBP", "AVIF", "HEIF", "GIF", "JPEG2000"])
def test_lossy_formats_open(name):
    utilities.pillow_heif.register_heif_opener()
    smooth = np.asarray(Image.fromarray(PHOTO[:4, :4]).resize((90, 60), Image.Resampling.BICUBIC))
    photo = open_photo(encoded(Image.fromarray(smooth), name))
    assert photo.rgb.shape == smooth.shape
    assert np.abs(photo.rgb.astype(int) - smooth).mean() < 8


def test_path_bytes_image_and_array_open_alike(tmp_path):
    image = Image.fromarray(PHOTO)
    image.save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), data, image, PHOTO):
        assert np.array_equal(open_photo(source).rgb, PHOTO)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    upright = PHOTO
    transposes = {2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1]}
    transposes |= {5: lambda a: a.swapaxes(0, 1), 6: lambda a: np.rot90(a, -1)}
    transposes |= {7: lambda a: np.rot90(a.swapaxes(0, 1), 2), 8: np.rot90}
    truth = transposes.get(orientation, lambda a: a)(upright)
    assert np.array_equal(open_photo(encoded(Image.fromarray(PHOTO), "PNG", exif=exif)).rgb, truth)
    jpeg = encoded(Image.fromarray(PHOTO), "JPEG", exif=exif)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert np.array_equal(open_photo(jpeg).rgb, np.asarray(ImageOps.exif_transpose(image)))


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


def test_missing_files_odd_types_and_huge_files_are_refused(tmp_path, monkeypatch):
    with pytest.raises(PhotoError, match=r"no file 'gone\.jpg'"):
        open_photo(tmp_path / "gone.jpg")
    with pytest.raises(PhotoError, match="can't be read"):
        open_photo(tmp_path)
    with pytest.raises(PhotoError, match="int is not a photo"):
        open_photo(3)
    with pytest.raises(PhotoError, match="no pixels"):
        open_photo(np.zeros((0, 5, 3), np.uint8))
    monkeypatch.setattr(utilities, "MAX_BYTES", 1_000_000)
    (tmp_path / "big.jpg").write_bytes(bytes(1_000_001))
    with pytest.raises(PhotoError, match="more than 1 MB"):
        open_photo(tmp_path / "big.jpg")


def test_random_damage_never_escapes_as_another_exception():
    whole = [encoded(Image.fromarray(PHOTO), name) for name in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "AVIF")]
    for index in range(300):
        data = bytearray(whole[index % len(whole)])
        for _ in range(8):
            data[RNG.integers(0, min(len(data), 400))] = RNG.integers(0, 256)
        with contextlib.suppress(PhotoError):
            assert open_photo(bytes(data)).rgb.dtype == np.uint8


# --- compositing ---


def test_composite_is_the_exact_rounded_blend():
    under = RNG.integers(0, 256, PHOTO.shape, dtype=np.uint8)
    a = ALPHA[..., None].astype(np.float64)
    truth = np.floor((a * PHOTO + (255 - a) * under) / 255 + 0.5).astype(np.uint8)
    assert np.array_equal(composite(PHOTO, ALPHA, under), truth)
    flat = np.floor((a * PHOTO + (255 - a) * np.array((9, 200, 77))) / 255 + 0.5).astype(np.uint8)
    assert np.array_equal(composite(PHOTO, ALPHA, (9, 200, 77)), flat)


def test_with_alpha_keeps_colours_and_zeroes_hidden_ones():
    rgba = with_alpha(PHOTO, ALPHA)
    assert np.array_equal(rgba[..., 3], ALPHA)
    assert np.array_equal(rgba[ALPHA > 0][:, :3], PHOTO[ALPHA > 0])
    assert not rgba[ALPHA == 0].any()


@pytest.mark.parametrize(
    ("text", "rgb"),
    [
        ("white", (255, 255, 255)),
        ("#f80", (255, 136, 0)),
        (" #FF8800 ", (255, 136, 0)),
        ("rgb(1, 2, 3)", (1, 2, 3)),
        ("rgba(254.6, 2.2, 3, 0.5)", (255, 2, 3)),
        ("hsl(120, 100%, 50%)", (0, 255, 0)),
    ],
)
def test_colours_are_read_as_css_writes_them(text, rgb):
    assert parse_colour(text) == rgb


@pytest.mark.parametrize("text", ["", "nocolour", "#12", "rgb(1,2)", "transparent-ish"])
def test_other_words_are_no_colours(text):
    with pytest.raises(PhotoError, match="not a colour"):
        parse_colour(text)


def test_blurred_background_takes_nothing_from_the_subject():
    rgb = np.zeros((120, 200, 3), np.uint8)
    rgb[...] = (10, 120, 240)
    alpha = np.zeros((120, 200), np.uint8)
    alpha[30:90, 60:140] = 255
    rgb[alpha == 255] = (255, 0, 0)
    blurred = blur_background(rgb, alpha)
    assert blurred.shape == rgb.shape
    assert np.abs(blurred[alpha == 0].astype(int) - (10, 120, 240)).max() <= 2


def test_blur_smooths_the_background():
    noise = RNG.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    assert blur_background(noise, np.zeros((300, 400), np.uint8)).std() < 0.15 * noise.std()


@pytest.mark.parametrize("blur", [0.005, 0.02, 0.1])
def test_the_blur_is_a_gaussian_of_the_asked_strength(blur):
    """Of an edge it makes the error function, whose scale is the standard deviation."""
    edge = np.zeros((40, 1001, 3), np.uint8)
    edge[:, 501:] = 255
    edge[:, 500] = 128
    blurred = blur_background(edge, np.zeros((40, 1001), np.uint8), blur)[20, :, 0]
    truth = [127.5 * (1 + math.erf(x / (1001 * blur * 2**0.5))) for x in range(-500, 501)]
    assert np.abs(blurred - truth)[200:-200].max() < 3


@pytest.mark.parametrize("blur", [0, -0.02, 0.5, float("nan")])
def test_other_blurs_are_refused(blur):
    with pytest.raises(PhotoError, match=r"from 0\.001 to 0\.2"):
        blur_background(PHOTO, ALPHA, blur)


def test_background_image_fills_the_frame_without_distortion():
    left_right = np.zeros((100, 400, 3), np.uint8)
    left_right[:, 200:] = 255
    under = image_background(open_photo(left_right), (50, 50))
    assert under.shape == (50, 50, 3)
    assert not under[:, :20].any()
    assert (under[:, 30:] == 255).all()


# --- save_pixels ---

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF"])
def test_lossless_formats_save_every_pixel_and_the_profile(tmp_path, suffix):
    rgba = with_alpha(PHOTO, ALPHA)
    save_pixels(rgba, tmp_path / f"a{suffix}", SRGB)
    with Image.open(tmp_path / f"a{suffix}") as saved:
        assert np.array_equal(np.asarray(saved), rgba)
        assert saved.info["icc_profile"] == SRGB


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


@pytest.mark.parametrize("quality", [0, 101])
def test_other_qualities_are_refused(tmp_path, quality):
    with pytest.raises(PhotoError, match="from 1 to 100"):
        save_pixels(PHOTO, tmp_path / "a.webp", quality=quality)


def test_what_is_too_long_for_a_format_is_refused(tmp_path):
    with pytest.raises(PhotoError, match="16383 pixels a side"):
        save_pixels(np.zeros((1, 16384, 3), np.uint8), tmp_path / "a.webp")
    save_pixels(np.zeros((1, 16383, 3), np.uint8), tmp_path / "a.webp")


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(PhotoError, match=r"'\.docx' is no format"):
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


# --- the fast ways against the exact ones ---


@pytest.mark.parametrize("shape", [(1, 1), (60, 90), (1500, 700), (3000, 4000)])
def test_shrink_is_the_cards_resize_to_the_nearest_byte(shape):
    photo = RNG.integers(0, 256, (*shape, 3), dtype=np.uint8)
    exact = F.interpolate(torch.tensor(photo).permute(2, 0, 1)[None].float(), size=(256, 256), mode="bilinear")
    assert np.abs(shrink(photo, 256) - exact[0].permute(1, 2, 0).numpy()).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (60, 90), (300, 200)])
def test_enlarge_is_the_cards_way_back_to_the_nearest_byte(size):
    matte = (torch.rand(1, 1, 64, 64) * 200 + 20).to(torch.uint8)
    matte[0, 0, 0, :2] = torch.tensor([0, 230])
    truth = F.interpolate(matte.float(), size=size, mode="bilinear")[0, 0] * (255 / 230)
    assert np.abs(enlarge(matte[0, 0].numpy(), size) - truth.numpy()).max() <= 1.5
    assert not enlarge(np.full((64, 64), 200, np.uint8), size).any()


def test_the_fast_jpeg_decoder_gives_pillows_pixels():
    smooth = Image.fromarray(PHOTO[:6, :9]).resize((333, 211), Image.Resampling.BICUBIC)
    for options in ({"quality": 90}, {"quality": 75, "subsampling": 2}, {"progressive": True}):
        data = encoded(smooth, "JPEG", **options)
        assert np.array_equal(open_photo(data).rgb, np.asarray(Image.open(io.BytesIO(data))))
