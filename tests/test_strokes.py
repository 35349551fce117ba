"""Strokes become masks that are exact at any size."""

import numpy as np
import pytest

from background_remover.page.strokes import MAX_POINTS, paint, read_strokes
from utilities import PhotoError


def line(keep: bool, width: float, *points: tuple[float, float]) -> dict:
    return {"keep": keep, "width": width, "points": [list(point) for point in points]}


@pytest.mark.parametrize("scale", [1, 10])
def test_a_line_covers_the_pixels_near_it(scale):
    size = (100 * scale, 200 * scale)
    keep, remove = paint(read_strokes([line(True, 0.1, (0.2, 0.5), (0.8, 0.5))]), size)
    y, x = (np.mgrid[: size[0], : size[1]] + 0.5) / scale
    distance = np.hypot(x - np.clip(x, 40, 160), y - 50)
    assert keep[distance < 9].all()
    assert not keep[distance > 11].any()
    assert not remove.any()


def test_a_dot_is_a_disc_and_the_later_stroke_wins():
    strokes = read_strokes([line(True, 0.2, (0.1, 0.5), (0.9, 0.5)), line(False, 0.1, (0.5, 0.5))])
    keep, remove = paint(strokes, (200, 200))
    assert abs(remove.sum() - np.pi * 10**2) < 40
    assert not (keep & remove).any()
    assert remove[100, 100]
    assert keep[100, 60]


@pytest.mark.parametrize(
    "data",
    [
        None,
        "strokes",
        [1],
        [{"keep": True, "width": 0.1}],
        [line(True, 0.1)],
        [line(True, 0.1, (0.5, 1.1))],
        [line(True, 0.1, (0.5, float("nan")))],
        [line(True, 0, (0.5, 0.5))],
        [line(True, 2, (0.5, 0.5))],
        [line(True, 0.1, *[(0.5, 0.5)] * (MAX_POINTS + 1))],
    ],
)
def test_what_no_brush_paints_is_refused(data):
    with pytest.raises(PhotoError, match="start over"):
        read_strokes(data)
