"""Wide doubt inside a matte: what rises, what must not, and when the mirrored photo is asked for."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from background_remover import BackgroundRemover
from background_remover.solid import solidify
from utilities import enlarge

SIDE = 1024
WALL, SHIRT, GLASS = (90, 120, 160), (60, 140, 60), (230, 235, 240)  # RGB


class Mirror:
    """The second witness, which knows how often it was asked."""

    def __init__(self, matte: np.ndarray) -> None:
        self.matte, self.asked = matte, 0

    def __call__(self) -> np.ndarray:
        self.asked += 1
        return self.matte


def unasked() -> np.ndarray:
    raise AssertionError("the mirrored photo was asked for")


def body(value: int = 255) -> np.ndarray:
    """A head and a torso that the frame's lower edge cuts off, with soft edges."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    cv2.ellipse(canvas, (512, 300), (130, 170), 0, 0, 360, value, -1, cv2.LINE_AA)
    cv2.rectangle(canvas, (262, 450), (762, SIDE), value, -1)
    return cv2.GaussianBlur(canvas, (0, 0), 3)


def shirt() -> np.ndarray:
    """Where the torso is, but for its edges."""
    area = np.zeros((SIDE, SIDE), bool)
    area[520:, 262:762] = True
    return area


def inside(area: np.ndarray, by: int = 24) -> np.ndarray:
    return cv2.erode(area.astype(np.uint8), np.ones((2 * by + 1,) * 2), borderValue=1) > 0


def doubted(value: int) -> np.ndarray:
    """The body, with its shirt at `value`."""
    matte = body()
    matte[shirt()] = np.minimum(matte[shirt()], value)
    return cv2.GaussianBlur(matte, (0, 0), 4)


def photo(seed: int = 0) -> np.ndarray:
    """The body before a plain wall, with the noise of a camera."""
    alpha = body()[..., np.newaxis] / 255
    noise = np.random.default_rng(seed).normal(0, 2, (SIDE, SIDE, 3))
    return np.clip(alpha * SHIRT + (1 - alpha) * WALL + noise, 0, 255).astype(np.uint8)


def hair() -> np.ndarray:
    """The body with a fringe of strands around its head, of which the network makes a soft edge."""
    canvas = np.zeros((SIDE, SIDE), np.uint8)
    rng = np.random.default_rng(1)
    for angle in rng.uniform(np.pi, 2 * np.pi, 400):
        ends = [(int(512 + r * 130 * np.cos(angle)), int(300 + r * 170 * np.sin(angle))) for r in (0.9, 1.07)]
        cv2.line(canvas, *ends, int(rng.integers(80, 256)), 2, cv2.LINE_AA)
    return np.maximum(canvas, body())


def glass(through: np.ndarray, value: int) -> tuple[np.ndarray, np.ndarray]:
    """A matte with a glass whose inside is at `value`, and its photo before `through`."""
    outline = np.array([[330, 200], [700, 200], [640, 860], [390, 860]])
    matte = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(matte, [outline], value, cv2.LINE_AA)
    cv2.polylines(matte, [outline], True, 255, 14, cv2.LINE_AA)
    alpha = np.where(matte == 255, 0.9, np.where(matte > 0, 0.35, 0))[..., np.newaxis]
    return matte, (alpha * GLASS + (1 - alpha) * through).astype(np.uint8)


def plain() -> np.ndarray:
    return np.full((SIDE, SIDE, 3), WALL, np.uint8)


def test_what_the_matte_rather_sees_is_raised_without_a_second_witness():
    matte = doubted(190)
    solid = solidify(matte, photo(), unasked)
    assert matte[inside(shirt())].max() < 230
    assert solid[inside(shirt())].min() == 255


@pytest.mark.parametrize("value", [60, 110])
def test_what_it_rather_does_not_see_is_raised_if_the_mirrored_photo_shows_it(value):
    mirror = Mirror(body())
    solid = solidify(doubted(value), photo(), mirror)
    assert mirror.asked == 1
    assert solid[inside(shirt())].min() == 255


def test_and_stays_if_that_shows_nothing():
    matte = doubted(110)
    assert np.array_equal(solidify(matte, photo(), lambda: doubted(60))[inside(shirt())], matte[inside(shirt())])


def test_a_second_witness_that_sees_another_subject_is_not_believed():
    """It shows the shirt, but disagrees on what the matte is sure of: the IoU there is below 0.9."""
    other = body()
    other[100:400, :300] = 255
    matte = doubted(110)
    solid = solidify(matte, photo(), lambda: other)
    assert np.array_equal(solid[inside(shirt())], matte[inside(shirt())])
    assert not solid[150:350, :200].any()


def test_a_neighbour_that_both_are_half_sure_of_stays_as_it_is():
    """A thing in the background, as large as the subject and apart from it."""
    first, second = body(), body()
    first[500:1000, 20:220], second[500:1000, 20:220] = 90, 200
    solid = solidify(first, photo(), lambda: second)
    assert np.array_equal(solid, first)


def test_a_matte_without_wide_doubt_is_returned_as_it_is_and_nobody_is_asked():
    matte = body()
    assert solidify(matte, photo(), unasked) is matte
    nothing = np.zeros_like(matte)
    assert solidify(nothing, photo(), unasked) is nothing


def test_a_fringe_of_hair_stays_byte_for_byte():
    matte = hair()
    assert np.array_equal(solidify(matte, photo(), unasked), matte)


def test_a_fringe_stays_beside_a_shirt_that_is_raised():
    matte = np.minimum(hair(), np.where(inside(shirt(), 4), 110, 255)).astype(np.uint8)
    solid = solidify(matte, photo(), hair)
    assert np.array_equal(solid[:400], matte[:400])
    assert solid[inside(shirt())].min() == 255


def test_the_outside_edge_of_what_is_raised_stays_soft():
    matte = doubted(190)
    solid = solidify(matte, photo(), unasked)
    assert np.array_equal(solid[600, 240:262], matte[600, 240:262])
    assert (np.diff(solid[600, 240:290].astype(int)) < 40).all()
    assert ((solid >= 128) != (matte >= 128)).mean() < 1e-5


@pytest.mark.parametrize("value", [110, 170])
def test_a_glass_before_a_plain_wall_stays_transparent(value):
    matte, picture = glass(plain(), value)
    assert np.array_equal(solidify(matte, picture, lambda: glass(plain(), 230)[0]), matte)


def test_a_veil_through_which_the_background_goes_on_stays_transparent():
    """It has no rim, and stripes behind it."""
    through = plain()
    for x in range(-400, SIDE, 90):
        cv2.line(through, (x, 0), (x + 60, SIDE), (240, 200, 40), 30)
    veil = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(veil, [np.array([[512, 200], [900, 900], [124, 900]])], 150, cv2.LINE_AA)
    alpha = veil[..., np.newaxis] / 255 * 0.8
    picture = (alpha * GLASS + (1 - alpha) * through).astype(np.uint8)
    head = cv2.circle(np.zeros_like(veil), (512, 200), 120, 255, -1)
    picture[head > 0] = SHIRT
    matte = np.maximum(veil, head)
    assert np.array_equal(solidify(matte, picture, lambda: np.maximum(veil, head)), matte)


CASES: list[tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]] = [
    (lambda: doubted(190), body),
    (lambda: doubted(110), body),
    (lambda: doubted(60), lambda: doubted(150)),
    (hair, body),
]


@pytest.mark.parametrize(("first", "second"), CASES)
def test_nothing_ever_falls(first, second):
    noise = np.random.default_rng(2).integers(0, 40, (SIDE, SIDE)).astype(np.uint8)
    matte = cv2.subtract(first(), noise)
    assert (solidify(matte, photo(), second) >= matte).all()


@pytest.mark.parametrize(("first", "second"), CASES)
def test_a_mirrored_photo_comes_out_mirrored(first, second):
    def turned(pixels: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(pixels[:, ::-1])

    once = solidify(first(), photo(), second)
    again = turned(solidify(turned(first()), turned(photo()), lambda: turned(second())))
    differences = np.abs(once.astype(int) - again)
    assert (differences > 2).mean() < 0.001


def test_a_matte_that_is_raised_still_fits_the_photo():
    """It takes the place of the network's map, which is stretched and enlarged afterwards."""
    matte = doubted(190)
    solid = solidify(matte, photo(), unasked)
    assert solid.dtype == np.uint8
    assert solid.shape == matte.shape
    assert (enlarge(solid, (300, 400)) >= enlarge(matte, (300, 400))).all()


def test_where_hardly_anything_is_sure_no_patches_rise():
    matte = (body() * 0.45).astype(np.uint8)
    matte[250:330, 450:570], matte[600:700, 300:400] = 255, 150
    assert solidify(matte, photo(), unasked) is matte


@pytest.mark.parametrize(("first", "forwards"), [(body(), 1), (doubted(110), 2)])
def test_the_network_runs_a_second_time_only_where_doubt_is_wide(first, forwards):
    """The remover asks it for the mirrored input, and mirrors back what it says."""
    inputs = []

    def engine(images: np.ndarray) -> np.ndarray:
        inputs.append(images)
        return (first if len(inputs) == 1 else body()[:, ::-1])[np.newaxis]

    remover = object.__new__(BackgroundRemover)
    remover.engine, remover._between_steps = engine, lambda: None
    cutout = remover(photo(), foreground=False, solid=True)
    assert len(inputs) == forwards
    assert np.array_equal(inputs[-1], inputs[0][:, :, ::-1] if forwards == 2 else inputs[0])
    assert cutout.alpha[inside(shirt())].min() == 255
