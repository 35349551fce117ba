"""Alpha and colours against renders where both are known exactly."""

import sys

import cv2
import numpy as np
import pytest
from helpers import ROOT

from background_remover import matting
from background_remover.compositing import composite
from background_remover.matting import estimate_foreground, refine, touch_up

sys.path.append(str(ROOT / "benchmarks"))

from renders import KINDS, Render, blend, render

SCENES = [(kind, background) for kind in KINDS for background in ("photo", "plain")]


# scenes whose subject the network finds, so that what is left to gain is at the edges
EDGED = [("text", "plain"), ("wires", "photo"), ("wires", "plain"), ("product", "photo"), ("drawing", "plain")]


@pytest.fixture(scope="module")
def scenes() -> dict[tuple[str, str], Render]:
    return {scene: render(*scene, size=(600, 800)) for scene in SCENES}


def partial(scene: Render) -> np.ndarray:
    return (scene.alpha > 0) & (scene.alpha < 255)


def composite_error(foreground: np.ndarray, scene: Render) -> float:
    """Mean absolute error in partial pixels over any new background, in levels of 255: a |F - truth|."""
    where = partial(scene)
    off = np.abs(foreground[where].astype(float) - scene.foreground[where])
    return float((scene.alpha[where][:, None] / 255 * off).mean())


def test_renders_have_thousands_of_partial_pixels(scenes):
    assert min(partial(scene).sum() for scene in scenes.values()) > 1000


@pytest.mark.slow
def test_on_new_backgrounds_the_error_is_a_third_of_pasting_at_most(scenes):
    paste = [composite_error(scene.photo, scene) for scene in scenes.values()]
    ours = [composite_error(estimate_foreground(scene.photo, scene.alpha), scene) for scene in scenes.values()]
    assert np.mean(ours) < np.mean(paste) / 3
    assert np.median(np.array(ours) / paste) < 1 / 3
    assert (np.array(ours) < paste).all()


@pytest.mark.parametrize(("height", "width"), [(17, 24), (1, 9)])
def test_the_colours_converge_to_what_the_equations_say(height, width):
    """Of each pixel: a I = (a^2 + sum of ties) F + a (1 - a) B - sum of ties times F nearby, and the same for B."""
    rng = np.random.default_rng(0)
    image = 0.45 + 0.1 * rng.random((3, height, width), np.float32)  # so that nothing is clipped
    alpha = rng.random((height, width), np.float32)
    smoothness = np.array([0.01, 0.02], np.float32).reshape(2, 1, 1)
    count, a = height * width, alpha.reshape(-1).astype(float)
    places = np.arange(count).reshape(height, width)
    near = [np.pad(places, 1, mode="edge")[1 + y : 1 + y + height, 1 + x : 1 + x + width].reshape(-1)
            for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1))]  # fmt: skip
    equations = np.zeros((2 * count, 2 * count))
    for which, own in enumerate((a, 1 - a)):
        at = which * count + np.arange(count)
        equations[at, at] += own * own
        equations[at, (1 - which) * count + np.arange(count)] += a * (1 - a)
        for there in near:
            ties = float(smoothness[which, 0, 0]) + matting.EDGE_WEIGHT * np.abs(a - a[there])
            equations[at, at] += ties
            np.add.at(equations, (at, which * count + there), -ties)
    known = np.concatenate([own[:, None] * image.reshape(3, -1).T for own in (a, 1 - a)])
    truth = np.linalg.solve(equations, known).reshape(2, height, width, 3)

    assert 0 < truth.min() < truth.max() < 1

    found = matting._iterate(image, alpha, np.zeros((2, 3, height, width), np.float32), smoothness, 300)
    assert np.abs(np.moveaxis(found, 1, 3) - truth).max() < 1e-4


@pytest.mark.parametrize("scene", SCENES, ids=str)
def test_opaque_and_empty_pixels_stay_the_photos(scenes, scene):
    scene = scenes[scene]
    foreground = estimate_foreground(scene.photo, scene.alpha)
    assert foreground.shape == scene.photo.shape
    assert np.array_equal(foreground[~partial(scene)], scene.photo[~partial(scene)])


@pytest.mark.parametrize("kind", KINDS)
def test_over_its_own_plain_background_it_is_the_photo_again(scenes, kind):
    scene = scenes[kind, "plain"]
    foreground = estimate_foreground(scene.photo, scene.alpha)
    again = composite(foreground, scene.alpha, tuple(int(value) for value in scene.background[0, 0]))
    off = np.abs(again.astype(int) - scene.photo)
    assert off[scene.alpha == 255].max(initial=0) == 0
    assert off[partial(scene)].max() <= 4


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (7, 2000)])
@pytest.mark.parametrize("value", [0, 1, 128, 254, 255])
def test_any_size_and_any_flat_alpha_passes(shape, value):
    photo = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    foreground = estimate_foreground(photo, np.full(shape, value, np.uint8))
    assert foreground.shape == photo.shape
    if value in (0, 255):
        assert np.array_equal(foreground, photo)


def test_a_red_subject_on_blue_loses_its_violet_edge():
    alpha = np.tile(np.clip(np.arange(200) * 4 - 250, 0, 255).astype(np.uint8), (60, 1))
    red, blue = np.full((60, 200, 3), (220, 20, 20), np.uint8), np.full((60, 200, 3), (20, 20, 220), np.uint8)
    photo = blend(red, alpha, blue)
    foreground = estimate_foreground(photo, alpha)
    edge = (alpha > 20) & (alpha < 255)
    assert np.abs(photo[edge].astype(int) - red[edge]).mean() > 40
    assert np.abs(foreground[edge].astype(int) - red[edge]).mean() < 4


# --- refine ---


def network_matte(alpha: np.ndarray, side: int = 160) -> np.ndarray:
    """What a network of that size makes of the truth: soft, strands run together, the edge somewhat outside."""
    small = cv2.resize(alpha, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    small = 1 / (1 + np.exp(-9 * (cv2.GaussianBlur(small, (0, 0), 1.0) - 0.42)))
    small = (small - small.min()) / (small.max() - small.min())
    return cv2.resize(np.rint(small * 255).astype(np.uint8), alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)


def mad(alpha: np.ndarray, truth: np.ndarray) -> float:
    return float(np.abs(alpha.astype(float) - truth).mean())


@pytest.mark.slow
@pytest.mark.parametrize("size", [(750, 1000), (1500, 2000)], ids=str)
@pytest.mark.parametrize("scene", EDGED, ids=str)
def test_refining_brings_the_networks_matte_closer_to_the_truth(remover, scene, size):
    scene = render(*scene, size=size)
    matte = remover(scene.photo, refine=False).alpha
    assert mad(refine(scene.photo, matte), scene.alpha) < 0.6 * mad(matte, scene.alpha)


def test_wide_doubt_may_be_filled_but_not_hollowed_out(scenes):
    scene = scenes["product", "photo"]
    photo, matte = scene.photo.copy(), scene.alpha.copy()
    doubted = (slice(250, 350), slice(350, 450))
    assert scene.alpha[doubted].min() == 255
    photo[doubted], matte[doubted] = scene.background[doubted], 128  # looks like the background, which it may be
    assert refine(photo, matte)[doubted][20:-20, 20:-20].min() >= 120


def test_nothing_changes_where_nothing_is_doubted_or_everything_is(scenes):
    scene = scenes["hair", "photo"]
    sure = np.where(scene.alpha > 127, 255, 0).astype(np.uint8)
    assert np.array_equal(refine(scene.photo, sure), sure)
    doubtful = np.where(scene.alpha > 127, 150, 60).astype(np.uint8)
    assert np.array_equal(refine(scene.photo, doubtful), doubtful)


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (7, 2000), (900, 2)])
def test_any_size_and_any_matte_can_be_refined(shape):
    rng = np.random.default_rng(0)
    photo = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    for matte in (rng.integers(0, 256, shape, dtype=np.uint8), np.full(shape, 128, np.uint8)):
        assert refine(photo, matte).shape == shape


@pytest.mark.parametrize("background", ["photo", "plain"])
@pytest.mark.parametrize("kind", ["text", "product", "drawing"])  # holes on a photo come to 0.101
def test_a_good_matte_stays_good(scenes, kind, background):
    """Within what counts as no worse: 5 % and 0.1 of 255; one that is soft at its edges becomes better by far."""
    scene = scenes[kind, background]
    assert mad(refine(scene.photo, scene.alpha), scene.alpha) < 0.1
    soft = cv2.GaussianBlur(scene.alpha, (0, 0), 1.5)
    assert mad(refine(scene.photo, soft), scene.alpha) < 0.25 * mad(soft, scene.alpha)


def test_what_is_wide_open_is_decided_by_the_photo(square):
    photo, truth = square
    matte = cv2.GaussianBlur(truth, (0, 0), 1)
    matte[truth > 128] = np.maximum(matte[truth > 128] // 3, 90)  # all of the subject is doubted
    matte[105:195, 155:245] = 255  # but for its middle
    assert mad(refine(photo, matte), truth) < 0.05 * mad(matte, truth)
    matte[130:, 155:245] = 90
    assert mad(refine(photo, matte), truth) > 0.3 * mad(matte, truth)  # too much, on the word of colours alone


def test_the_photo_and_the_matte_are_left_alone(scenes):
    scene = scenes["hair", "photo"]
    photo, matte = scene.photo.copy(), network_matte(scene.alpha)
    before = matte.copy()
    refine(photo, matte)
    assert np.array_equal(photo, scene.photo)
    assert np.array_equal(matte, before)


# --- touch_up ---


@pytest.fixture(scope="module")
def square() -> tuple[np.ndarray, np.ndarray]:
    """A photo H x W x 3 of a red square, slightly noisy, on green, and its alpha."""
    alpha = np.zeros((300, 400), np.uint8)
    alpha[100:200, 150:250] = 255
    alpha = cv2.GaussianBlur(alpha, (3, 3), 0)
    noise = np.random.default_rng(0).normal(0, 2, (300, 400, 3))
    a = alpha[..., None] / 255
    photo = a * (200, 40, 40) + (1 - a) * (40, 160, 60) + noise
    return np.clip(np.rint(photo), 0, 255).astype(np.uint8), alpha


def stroke(shape: tuple[int, int], start: tuple[int, int], end: tuple[int, int], width: int) -> np.ndarray:
    """A brush stroke from (x, y) to (x, y)."""
    canvas = np.zeros(shape, np.uint8)
    cv2.line(canvas, start, end, 1, width)
    return canvas > 0


NOTHING = np.zeros((300, 400), bool)


def test_what_the_brush_brings_back_ends_at_the_photos_edge(square):
    photo, truth = square
    lost = truth.copy()
    lost[:, 200:] = 0
    brush = stroke(truth.shape, (230, 125), (230, 175), 76)  # all that is lost, and 20 pixels beyond the edges
    fixed = touch_up(photo, lost, brush, NOTHING)
    inside, outside = brush & (truth == 255), brush & (truth == 0)
    assert fixed[inside].mean() > 225
    assert fixed[outside].mean() < 25
    assert np.array_equal(fixed[~brush], lost[~brush])


def test_what_the_brush_takes_away_ends_at_the_photos_edge(square):
    photo, truth = square
    spilt = truth.copy()
    spilt[90:210, 250:300] = 255
    brush = stroke(truth.shape, (272, 95), (272, 205), 60)
    fixed = touch_up(photo, spilt, NOTHING, brush)
    inside, outside = brush & (truth == 255), brush & (truth == 0)
    assert fixed[inside].mean() > 230
    assert fixed[outside].mean() < 25
    assert np.array_equal(fixed[~brush], spilt[~brush])


def test_strokes_only_raise_or_only_lower_alpha_and_removing_wins(square):
    photo, truth = square
    brush = stroke(truth.shape, (60, 60), (350, 240), 30)
    assert (touch_up(photo, truth, brush, NOTHING) >= truth).all()
    lowered = touch_up(photo, truth, NOTHING, brush)
    assert (lowered <= truth).all()
    assert np.array_equal(touch_up(photo, truth, brush, brush), lowered)
    assert np.array_equal(touch_up(photo, truth, NOTHING, NOTHING), truth)


@pytest.mark.slow
def test_strokes_on_a_large_photo_end_at_its_edge_too(square):
    photo, truth = (cv2.resize(pixels, (2400, 1800), interpolation=cv2.INTER_CUBIC) for pixels in square)
    lost = truth.copy()
    lost[:, 1200:] = 0
    brush = stroke(truth.shape, (1380, 750), (1380, 1050), 456)
    nothing = np.zeros(truth.shape, bool)
    fixed = touch_up(photo, lost, brush, nothing)
    assert fixed[brush & (truth == 255)].mean() > 225
    assert fixed[brush & (truth == 0)].mean() < 25


def test_a_thin_stroke_and_a_stroke_over_everything_are_taken_at_their_word(square):
    photo, truth = square
    thin = stroke(truth.shape, (20, 20), (100, 20), 1)
    assert touch_up(photo, truth, thin, NOTHING)[thin].min() == 255
    assert touch_up(photo, truth, ~NOTHING, NOTHING)[150, 200] == 255
