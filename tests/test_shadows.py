"""Shadows against closed forms, and what is laid over them against exact composites."""

import io
import math

import cv2
import numpy as np
import pytest
from helpers import EXAMPLES
from PIL import Image, ImageDraw

from background_remover import Cutout, Finish, Photo, PhotoError
from background_remover.compositing import blur_background, composite, fit_background, widen, with_alpha
from background_remover.shadows import DISTANCE, SHADOWS, SOFTNESSES, Shadow, cut_off

RNG = np.random.default_rng(5)
CAST = SHADOWS[1:]


def drawn(shape: tuple[int, int], *parts: tuple[str, tuple[float, float, float, float]]) -> np.ndarray:
    """A matte of rectangles and ellipses, whose left, top, right and bottom are shares of height and width."""
    height, width = shape
    image = Image.new("L", (4 * width, 4 * height))
    for kind, (left, top, right, bottom) in parts:
        place = (4 * left * width, 4 * top * height, 4 * right * width - 1, 4 * bottom * height - 1)
        getattr(ImageDraw.Draw(image), kind)(place, 255)
    return np.asarray(image.resize((width, height), Image.Resampling.BOX))


BOTTLE = (("rectangle", (0.4, 0.2, 0.6, 0.8)), ("rectangle", (0.46, 0.05, 0.54, 0.3)))
CAR = (
    ("rectangle", (0.1, 0.4, 0.9, 0.6)),
    ("rectangle", (0.25, 0.3, 0.75, 0.5)),
    ("ellipse", (0.2, 0.5, 0.35, 0.7)),
    ("ellipse", (0.65, 0.5, 0.8, 0.7)),
)
MUG = (("rectangle", (0.3, 0.3, 0.6, 0.8)), ("rectangle", (0.6, 0.4, 0.75, 0.55)))
FEET = (
    ("rectangle", (0.3, 0.1, 0.7, 0.5)),
    ("rectangle", (0.3, 0.5, 0.4, 0.9)),
    ("rectangle", (0.6, 0.5, 0.7, 0.8)),
)
THINGS = {"bottle": BOTTLE, "car": CAR, "mug": MUG, "feet": FEET}


def cutout_of(alpha: np.ndarray) -> Cutout:
    """A cutout of noise."""
    photo = np.random.default_rng(2).integers(0, 256, (*alpha.shape, 3), dtype=np.uint8)
    return Cutout(Photo(photo), alpha, photo)


# --- over and behind ---


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_on_a_background_the_blend_is_exact(kind):
    """a F + (1 - a) (1 - s) B, rounded once, for every alpha and every shadow."""
    alpha, shadow = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    most = np.iinfo(kind).max
    foreground, under = RNG.integers(0, most + 1, (2, 256, 256, 3)).astype(kind)
    for background in (under, (most, 0, most // 3)):
        a, s = alpha[..., None].astype(np.int64), shadow[..., None].astype(np.int64)
        parts = 255 * a * foreground + (255 - a) * (255 - s) * np.asarray(background, np.int64)
        made = composite(foreground, alpha, background, shadow)
        assert made.dtype == kind
        assert np.abs(made - (2 * parts + 65025) // (2 * 65025)).max() <= (kind == np.uint16)
        assert np.array_equal(made[alpha == 255], foreground[alpha == 255])


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (48, 160, 96)])
def test_what_is_transparent_looks_the_same_on_every_colour_as_what_was_put_on_it(colour):
    alpha, shadow = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    foreground = RNG.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    rgba = with_alpha(foreground, alpha, shadow)
    later = composite(rgba[..., :3].copy(), rgba[..., 3].copy(), colour)
    direct = composite(foreground, alpha, colour, shadow)
    assert np.abs(later.astype(int) - direct).max() <= 1


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_transparent_shadows_are_black_of_the_alpha_of_the_closed_form(kind):
    alpha, shadow = np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2)
    most = np.iinfo(kind).max
    foreground = RNG.integers(0, most + 1, (256, 256, 3)).astype(kind)
    rgba = with_alpha(foreground, alpha, shadow)
    a, s = alpha / 255, shadow / 255
    both = a + (1 - a) * s
    assert rgba.dtype == kind
    assert np.abs(rgba[..., 3] - both * most).max() <= 0.5001
    colours = (a / np.maximum(both, 1e-9))[..., None] * foreground
    lost = 0.5 + 0.5 * most / np.maximum(1, rgba[..., 3:].astype(float))  # to the rounded alpha
    assert (np.abs(rgba[..., :3] - colours) <= lost).all()
    assert not rgba[alpha == 0][:, :3].any()
    assert np.array_equal(rgba[shadow == 0], with_alpha(foreground, alpha)[shadow == 0])


# --- "drop" ---


@pytest.mark.parametrize("softness", [*SOFTNESSES, 0.03])
@pytest.mark.parametrize("direction", [0, 90, 135, 250.5, 360])
def test_a_drop_is_the_matte_moved_and_blurred(softness, direction):
    """Of a rectangle, the product of two differences of error functions."""
    alpha = np.zeros((700, 800), np.uint8)
    alpha[250:450, 200:600] = 255
    sd = softness * 400
    angle = math.radians(direction)
    centre = 350 - math.cos(angle) * DISTANCE * sd, 400 + math.sin(angle) * DISTANCE * sd

    def across(length: int, middle: float, half: float) -> np.ndarray:
        ends = [(np.arange(length) + 0.5 - middle + side * half) / (sd * 2**0.5) for side in (1, -1)]
        return np.vectorize(math.erf)(ends[0]) / 2 - np.vectorize(math.erf)(ends[1]) / 2

    truth = 255 * 0.8 * np.outer(across(700, centre[0], 100), across(800, centre[1], 200))
    made = Shadow("drop", 0.8, softness, direction).cast(alpha)
    assert np.abs(made - truth).max() < (10 if softness == SOFTNESSES[0] else 4)
    assert np.abs(made - truth).mean() < 0.4


def test_where_the_photo_ends_the_subject_goes_on_and_its_shadow_does_not_fade():
    alpha = np.zeros((300, 400), np.uint8)
    alpha[100:, 100:200] = 255
    shadow = Shadow("drop", direction=90).cast(alpha)
    assert np.abs(shadow[220].astype(int) - shadow[-1]).max() <= 1


# --- "contact" ---


def darkest(alpha: np.ndarray, shadow: np.ndarray) -> np.ndarray:
    """Of each column, the most shadow that is seen."""
    return np.where(alpha < 255, shadow, 0).max(0).astype(int)


def test_a_bottles_shadow_is_darkest_where_it_stands_and_lies_on_the_ground():
    alpha = drawn((600, 500), *BOTTLE)
    shadow = Shadow("contact", 1).cast(alpha)
    seen = darkest(alpha, shadow)
    assert seen[210:290].min() > 190
    assert (np.diff(seen[300:]) <= 0).all()  # it fades away from it
    assert seen[330] < 0.6 * seen[250]
    assert seen[450] < 10
    assert not shadow[:300].any()
    assert shadow[480:486, 250].min() > 100
    assert shadow[560:].max() < 40
    assert np.abs(shadow[:, ::-1].astype(int) - shadow).max() <= 2


def test_a_car_stands_on_two_wheels_with_less_shadow_between():
    alpha = drawn((400, 800), *CAR)
    shadow = Shadow("contact", 1).cast(alpha)
    below = shadow[282].astype(int)  # two rows beneath the wheels
    first, between, second, outside = below[220], below[400], below[580], below[20]
    assert abs(first - second) <= 3
    assert first > 1.5 * between > 3 * outside
    assert between > 30
    assert shadow[270:290, 400].max() > 1.2 * shadow[242, 400]  # on the ground, and not where the car's floor is


def test_a_handle_does_not_touch_the_ground_and_a_second_foot_farther_back_does():
    mug = Shadow("contact", 1).cast(drawn((400, 400), *MUG))
    assert mug[:250].max() < 30
    alpha = drawn((400, 400), *FEET)
    feet = Shadow("contact", 1).cast(alpha)
    assert feet[322, 255:265].min() > 0.6 * feet[362, 135:145].min() > 75
    assert feet[322, 200] < 0.5 * feet[322, 260]


@pytest.mark.parametrize("direction", [0, 90, 270])
def test_a_contact_has_no_direction(direction):
    alpha = drawn((200, 200), *MUG)
    assert np.array_equal(Shadow("contact", direction=direction).cast(alpha), Shadow("contact").cast(alpha))


def test_a_portrait_that_the_photo_cuts_off_has_no_contact_however_it_is_framed():
    alpha = drawn((400, 400), ("ellipse", (0.35, 0.1, 0.65, 0.5)), ("rectangle", (0.2, 0.5, 0.8, 1.1)))
    stem = drawn((400, 400), ("ellipse", (0.3, 0.1, 0.7, 0.5)), ("rectangle", (0.49, 0.5, 0.51, 1.1)))
    for matte in (alpha, stem):
        assert cut_off(matte)
        portrait = cutout_of(matte)
        for shown in (portrait, portrait.framed(0.2), portrait.framed(0.2, (300, 300)), portrait.preview(100)):
            for again in (shown, shown.preview(90), shown.cleaned()):
                bare = again.pixels("white")
                assert np.array_equal(again.pixels("white", shadow=Shadow("contact")), bare)
                assert not np.array_equal(again.pixels("white", shadow=Shadow("drop")), bare)
    whole = cutout_of(drawn((400, 400), *BOTTLE))
    tight = whole.framed(0)  # stands on the canvas's edge, but the photo had it all
    assert not whole.cut_off
    assert not tight.cut_off
    assert Shadow("contact").cast(tight.alpha, tight.cut_off).any()


# --- both ---


@pytest.mark.parametrize("kind", CAST)
@pytest.mark.parametrize("thing", THINGS)
@pytest.mark.parametrize("softness", [0.01, 0.03, 0.1])
def test_a_preview_has_the_shadow_of_the_full_size(kind, thing, softness):
    full = drawn((1500, 2000), *THINGS[thing])
    small = cv2.resize(full, (500, 375), interpolation=cv2.INTER_AREA)
    shadow = Shadow(kind, softness=softness)
    scaled = cv2.resize(shadow.cast(full), (500, 375), interpolation=cv2.INTER_AREA).astype(int)
    difference = np.abs(shadow.cast(small) - scaled)[small < 255]
    assert difference.max() <= (20 if softness < 0.03 else 8)  # whose finest part is less than a pixel of the preview
    assert difference.mean() < 0.3


@pytest.mark.parametrize("kind", CAST)
def test_a_subject_has_the_same_shadow_wherever_it_is_and_however_large_the_canvas(kind):
    alpha = drawn((300, 300), *BOTTLE)
    alone = Shadow(kind).cast(np.pad(alpha, 150))
    wide = np.zeros((2000, 3000), np.uint8)
    wide[1200:1500, 400:700] = alpha
    shadow = Shadow(kind).cast(wide)[1050:1650, 250:850]
    assert np.abs(shadow.astype(int) - alone).max() <= 10
    assert np.abs(shadow.astype(int) - alone).mean() < 0.3


@pytest.mark.parametrize("kind", CAST)
@pytest.mark.parametrize("softness", [SOFTNESSES[0], 0.03])
def test_strength_is_how_dark_it_is_at_its_darkest(kind, softness):
    alpha = np.zeros((2000, 2000), np.uint8)
    alpha[600:1400, 400:1600] = 255
    for strength in (0, 0.4, 1):
        assert abs(int(Shadow(kind, strength, softness).cast(alpha).max()) - 255 * strength) <= 10 * strength


@pytest.mark.parametrize("kind", CAST)
def test_nothing_and_specks_cast_no_shadow(kind):
    assert not Shadow(kind).cast(np.zeros((50, 60), np.uint8)).any()
    assert not Shadow(kind).cast(np.full((50, 60), 20, np.uint8)).any()
    alpha = drawn((400, 400), *BOTTLE)
    speckled = alpha.copy()
    speckled[390:392, 30:32] = 255
    assert np.array_equal(Shadow(kind).cast(speckled), Shadow(kind).cast(alpha))


@pytest.mark.parametrize("kind", CAST)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (3, 200)])
def test_the_smallest_canvases_have_shadows_too(kind, shape):
    for softness in SOFTNESSES:
        assert Shadow(kind, softness=softness).cast(np.full(shape, 255, np.uint8)).shape == shape


# --- Finish ---

BACKGROUNDS = [
    {"background": "#30a060"},
    {"background": "blur"},
    {"background_image": EXAMPLES / "coffee.jpg"},
]


@pytest.mark.parametrize("kind", CAST)
@pytest.mark.parametrize("chosen", BACKGROUNDS, ids=str)
def test_the_subject_is_over_the_background_which_its_shadow_darkens(kind, chosen):
    cutout = cutout_of(cv2.GaussianBlur(drawn((200, 300), *CAR), (0, 0), 2))
    under = {
        "background": np.array((48, 160, 96)),
        "background_image": fit_background(
            np.asarray(Image.open(EXAMPLES / "coffee.jpg").convert("RGB")), (200, 300), None, None
        ),
    }[next(iter(chosen))]
    if chosen.get("background") == "blur":
        under = blur_background(cutout.photo.rgb, cutout.alpha)
    finish = Finish(**chosen, shadow=kind, shadow_strength=0.7)
    shadow = Shadow(kind, 0.7).cast(cutout.alpha)
    a, s = (pixels[..., None] / 255 for pixels in (cutout.alpha, shadow))
    truth = a * cutout.foreground + (1 - a) * (1 - s) * under
    made = finish.pixels(finish.frame(cutout))
    assert np.abs(made - truth).max() <= 0.501
    assert shadow.max() > 100
    assert np.array_equal(made[cutout.alpha == 255], cutout.foreground[cutout.alpha == 255])


@pytest.mark.parametrize("kind", CAST)
def test_files_have_the_shadow_and_a_jpeg_has_it_on_white(kind, tmp_path):
    cutout = cutout_of(drawn((200, 300), *CAR))
    for form in ("png", "webp", "tif"):
        finish = Finish(shadow=kind, format=form)
        finish.save(cutout, tmp_path / f"a.{form}")
        with Image.open(tmp_path / f"a.{form}") as saved:
            assert np.array_equal(np.asarray(saved), finish.pixels(cutout))
    buffer = io.BytesIO()
    Finish(shadow=kind, format="jpg", quality=100).save(cutout, buffer)
    white = Finish(shadow=kind, background="white").pixels(cutout).astype(int)
    made = np.asarray(Image.open(buffer)).astype(int)
    flat = cv2.dilate(cutout.alpha, np.ones((33, 33))) == 0  # no block of it has any of the noise
    assert np.abs(made - white)[flat].max() <= 3
    assert (made[:5, :5] >= 254).all()


@pytest.mark.parametrize("kind", CAST)
def test_on_a_canvas_it_reaches_beyond_the_photo_and_leaves_the_crop_as_it_is(kind):
    cutout = cutout_of(drawn((300, 300), ("rectangle", (0.1, 0.1, 0.9, 0.97))))
    plain, shaded = Finish(crop=True, margin=0.2), Finish(crop=True, margin=0.2, shadow=kind)
    assert np.array_equal(plain.frame(cutout).alpha, shaded.frame(cutout).alpha)
    made = shaded.pixels(shaded.frame(cutout))
    ends = -round(0.2 * 261) + 9  # rows below the photo's last
    assert made[ends + 4 :, 100:250, 3].max() > 8
    assert plain.pixels(plain.frame(cutout))[ends + 4 :].max() == 0


@pytest.mark.parametrize("kind", CAST)
def test_sixteen_bits_have_it_as_well(kind):
    alpha = cv2.GaussianBlur(drawn((200, 300), *CAR), (0, 0), 2)
    deep = RNG.integers(0, 65536, (200, 300, 3)).astype(np.uint16)
    rgb = (deep // 257).astype(np.uint8)
    cutout = Cutout(Photo(rgb, deep=deep), alpha, rgb)
    shadow = Shadow(kind)
    shade = shadow.cast(alpha)
    assert np.array_equal(cutout.pixels(deep=True, shadow=shadow), with_alpha(deep, alpha, shade))
    white = widen(np.full_like(rgb, 255))
    assert np.array_equal(cutout.pixels("white", deep=True, shadow=shadow), composite(deep, alpha, white, shade))


def test_a_matte_has_no_shadow():
    cutout = cutout_of(drawn((100, 100), *MUG))
    assert np.array_equal(Finish(output="matte", shadow="drop").pixels(cutout), cutout.alpha)


@pytest.mark.parametrize(
    ("finish", "sentence"),
    [
        (Finish(shadow="long"), "'long' is not a shadow: choose one of none, drop, contact"),
        (Finish(shadow=None), "not a shadow"),
        (Finish(shadow=[]), "not a shadow"),
        (Finish(shadow="drop", shadow_strength=1.1), "strength can't be 1.1: choose a number from 0 to 1"),
        (Finish(shadow="contact", shadow_strength="0.5"), "strength"),
        (Finish(shadow="drop", shadow_strength=float("nan")), "strength"),
        (Finish(shadow="drop", shadow_softness=0), r"from 0\.005 to 0\.1"),
        (Finish(shadow="contact", shadow_softness=None), "softness"),
        (Finish(shadow="drop", shadow_direction=-1), "from 0 to 360"),
        (Finish(shadow="drop", shadow_direction="left"), "direction"),
    ],
)
def test_shadows_that_can_not_be_cast_are_told(finish, sentence):
    with pytest.raises(PhotoError, match=sentence):
        finish.check()


def test_of_a_shadow_only_what_it_uses_is_looked_at():
    Finish(shadow_strength=7, shadow_softness=None, shadow_direction="left").check()
    Finish(shadow="contact", shadow_direction=None).check()
    Finish(shadow="drop", output="matte", shadow_strength=7).check()
