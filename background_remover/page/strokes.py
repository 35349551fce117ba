"""A brush's strokes, as the page sends them, as masks at a photo's full size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utilities import PhotoError

Mask = NDArray[np.bool_]

MAX_POINTS = 50_000  # points of all strokes together
WIDTHS = 0.0005, 0.5  # least and most width, as a share of the photo's longer side
FRACTION = 4  # binary digits after the point in which positions are drawn


@dataclass(frozen=True)
class Stroke:
    """A line of the brush: its points' x and y in shares of the photo's width and height."""

    keep: bool  # True brings back, False removes
    width: float  # as a share of the photo's longer side
    points: tuple[tuple[float, float], ...]


def read_strokes(data: Any) -> tuple[Stroke, ...]:
    """Strokes from their JSON: a list of {"keep": bool, "width": number, "points": [[x, y], ...]}.

    Raises PhotoError for anything else.
    """
    try:
        strokes = tuple(
            Stroke(bool(one["keep"]), float(one["width"]), tuple((float(x), float(y)) for x, y in one["points"]))
            for one in data
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise PhotoError("These brush strokes can't be read: start over.") from error
    numbers = [number for stroke in strokes for point in stroke.points for number in point]
    if not all(0 <= number <= 1 for number in numbers) or not all(
        stroke.points and WIDTHS[0] <= stroke.width <= WIDTHS[1] for stroke in strokes
    ):
        raise PhotoError("These brush strokes lie outside the photo: start over.")
    if len(numbers) > 2 * MAX_POINTS:
        raise PhotoError("There are too many brush strokes: start over.")
    return strokes


def paint(strokes: Sequence[Stroke], shape: tuple[int, int]) -> tuple[Mask, Mask]:
    """Where strokes bring back and where they remove, each H x W, of that shape; the later of two wins."""
    height, width = shape
    painted = np.zeros(shape, np.uint8)
    for stroke in strokes:
        scale = np.array((width, height)) * 2**FRACTION
        points = np.rint(
            np.array((*stroke.points, stroke.points[-1])) * scale - 2 ** (FRACTION - 1)
        )  # a dot is a line too
        thickness = max(1, math.ceil(stroke.width * max(shape)))
        cv2.polylines(painted, [points.astype(np.int32)], False, 1 if stroke.keep else 2, thickness, shift=FRACTION)
    return painted == 1, painted == 2
