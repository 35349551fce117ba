"""What is cleaned from a matte, against a slow and exact reference; frames are tested with cutouts."""

import cv2
import numpy as np
import pytest
from scipy import ndimage

from background_remover import Cutout, Finish, Photo
from background_remover.framing import FAINT, SPECK, clean, subject_box

RNG = np.random.default_rng(11)


def distances(alpha: np.ndarray) -> np.ndarray:
    """Of each pixel from the subject, as shares of the longer side, as exactly as it is defined."""
    labels, _ = ndimage.label(alpha >= FAINT, np.ones((3, 3)))
    areas = np.bincount(labels.reshape(-1))
    areas[0] = 0
    subject = np.isin(labels, np.flatnonzero(areas >= max(1, SPECK * areas.max())))
    return ndimage.distance_transform_edt(~subject) / max(alpha.shape)


def matte(shape: tuple[int, int], seed: int, haze: int = 31, specks: int = 12) -> np.ndarray:
    """A blob with soft edges and hair, in haze, with specks."""
    rng = np.random.default_rng(seed)
    height, width = shape
    alpha = np.zeros(shape, np.float32)
    centre = (int(width * rng.uniform(0.3, 0.7)), int(height * rng.uniform(0.3, 0.7)))
    axes = (int(width * rng.uniform(0.1, 0.25)), int(height * rng.uniform(0.1, 0.25)))
    cv2.ellipse(alpha, (centre, (2 * axes[0], 2 * axes[1]), 30), 255, -1)
    alpha = cv2.GaussianBlur(alpha, (0, 0), max(shape) / 200)
    for _ in range(30):
        start = np.array(centre) + rng.uniform(-0.7, 0.7, 2) * axes
        end = start + rng.normal(0, 1, 2) * np.array(axes)
        cv2.line(alpha, tuple(int(c) for c in start), tuple(int(c) for c in end), float(rng.uniform(40, 255)), 1)
    alpha = np.maximum(alpha, rng.uniform(0, haze, shape) if haze else 0)
    for x, y in rng.uniform(0, 1, (specks, 2)):
        alpha[int(y * height), int(x * width)] = 255
    return np.rint(np.clip(alpha, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("shape", [(300, 400), (1024, 200), (64, 90)])
@pytest.mark.parametrize("seed", range(4))
def test_haze_and_specks_far_from_the_subject_go_and_nothing_near_it_changes(shape, seed):
    alpha = matte(shape, seed)
    cleaned, away = clean(alpha), distances(alpha)
    assert np.array_equal(cleaned[away <= 0.015], alpha[away <= 0.015])
    assert (alpha[away > 0.03] > 0).any()
    assert not cleaned[away > 0.03].any()
    assert (cleaned <= alpha).all()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1500, 2100), (3000, 2000)])
def test_in_a_large_matte_thin_hair_counts_too(shape):
    alpha = matte(shape, 0)
    cleaned, away = clean(alpha), distances(alpha)
    assert np.array_equal(cleaned[away <= 0.015], alpha[away <= 0.015])
    assert not cleaned[away > 0.03].any()


def test_a_speck_that_is_sure_may_stay_with_what_is_around_it():
    alpha = np.full((500, 1000), 20, np.uint8)
    alpha[100:400, 100:400] = 255
    alpha[50:56, 800:806] = 200  # a bird
    alpha[450:456, 800:806] = 90  # a doubtful one
    cleaned = clean(alpha, specks=False)
    assert np.array_equal(cleaned[40:66, 790:816], alpha[40:66, 790:816])
    assert not cleaned[440:, 780:].any()
    assert not cleaned[200:300, 500:].any()
    assert not clean(alpha)[:, 500:].any()


def test_it_fades_without_an_edge():
    alpha = np.full((500, 1000), 31, np.uint8)
    alpha[:, :300] = 255
    cleaned = clean(alpha)[250, 300:].astype(int)
    assert (np.diff(cleaned) <= 0).all()
    assert np.diff(cleaned).min() >= -8
    assert cleaned[15] == 31
    assert cleaned[25] == 0


def test_where_there_is_no_haze_nothing_changes_and_the_cutout_stays_the_same():
    for seed in range(3):
        alpha = matte((300, 400), seed, haze=0, specks=0)
        assert np.array_equal(clean(alpha), alpha)
        photo = Photo(np.zeros((300, 400, 3), np.uint8))
        cutout = Cutout(photo, alpha, photo.rgb)
        assert Finish(clean=True).frame(cutout) is cutout


@pytest.mark.parametrize("value", [0, 20, 255])
def test_without_a_subject_or_with_nothing_else_a_matte_stays(value):
    for shape in ((200, 300), (1, 1), (2, 1500)):
        assert (clean(np.full(shape, value, np.uint8)) == value).all()


def test_a_finish_cleans_before_it_frames_and_casts():
    alpha = np.full((400, 400), 12, np.uint8)
    alpha[150:300, 50:200] = 255
    alpha[100, 300:304] = 255
    photo = np.random.default_rng(1).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    cutout = Cutout(Photo(photo), alpha, photo)
    finish = Finish(clean=True, crop=True, margin=0.2)
    framed = finish.frame(cutout)
    truth = Cutout(cutout.photo, clean(alpha), photo).framed(0.2)
    assert np.array_equal(framed.alpha, truth.alpha)
    assert np.array_equal(Finish(clean=True, output="matte").pixels(Finish(clean=True).frame(cutout)), clean(alpha))
    assert Finish().frame(cutout) is cutout
    near = clean(alpha) != alpha
    assert near[100, 300]
    assert not near[146:304, 50:200].any()


def test_the_crop_ends_where_it_did():
    alpha = matte((300, 400), 1)
    assert subject_box(clean(alpha)) == subject_box(alpha)
