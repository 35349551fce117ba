"""Compositing against the exact blend, backgrounds against closed forms."""

import math

import numpy as np
import pytest

from background_remover.compositing import blur_background, composite, fit_background, with_alpha
from utilities import PhotoError

RNG = np.random.default_rng(1)
PHOTO = RNG.integers(0, 256, (60, 90, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (60, 90), dtype=np.uint8)


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
    under = fit_background(left_right, (50, 50), None, None)
    assert under.shape == (50, 50, 3)
    assert not under[:, :20].any()
    assert (under[:, 30:] == 255).all()
