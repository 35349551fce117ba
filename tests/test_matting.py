"""Foreground colours against renders whose alpha and colours are known exactly."""

import sys

import numpy as np
import pytest
from conftest import ROOT

from matting import estimate_foreground
from utilities import composite

sys.path.append(str(ROOT / "benchmarks"))

from renders import KINDS, Render, blend, render

SCENES = [(kind, background) for kind in KINDS for background in ("photo", "plain")]


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


def test_on_new_backgrounds_the_error_is_a_third_of_pasting_at_most(scenes):
    paste = [composite_error(scene.photo, scene) for scene in scenes.values()]
    ours = [composite_error(estimate_foreground(scene.photo, scene.alpha), scene) for scene in scenes.values()]
    assert np.mean(ours) < np.mean(paste) / 3
    assert np.median(np.array(ours) / paste) < 1 / 3
    assert (np.array(ours) < paste).all()


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
