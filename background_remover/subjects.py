"""The subjects of a photo: which there are by a matte, and which of them a box and points pick.

A part of a matte is what hangs together from an alpha of 0.5. What is fainter belongs to the part that is nearest, so
that a subject which is picked keeps its hair and its soft edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from background_remover.framing import SPECK, SURE
from utilities import PhotoError

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]  # left, top, right and bottom in pixels of the photo; the last two are not in it
Point = tuple[int, int, bool]  # x, y, and whether what is there is kept
Look = Callable[[Box], Pixels]  # the network's matte of that part of the photo alone

SIDE = 1024  # pixels: longer side of the copy on which parts are told from each other
LEAST = 2e-4  # of the photo's area: what is smaller is no subject by itself
NEAR = 0.02  # of the longer side: so far beside a part a point still means it
MAX_POINTS = 8  # each may cost two forwards
MARGIN = 0.5  # of the box's longer side: what a second look sees around it
SMALL = 0.08  # of the photo's area: a box up to this is looked at again, since the first look had few pixels of it
FIT = 0.95  # how well what was found fills the box; below this it is looked at again
AGREE = 0.8  # IoU of both looks from which the second is only sharper; below it the one counts that fits the box
WHOLE, LEEWAY = 0.9, 0.05  # a subject that is so much in the box is cut off no nearer than this beyond it, see MARGIN
MINE = 0.5  # of a part's area: with less than this in the box it is another subject, which reaches into it
AROUND = 0.25, 0.5  # of the photo's longer side: sides of what is looked at about a point where nothing was found

NO_POINT = "A point is x and y in the photo's pixels, such as '120,80', or '120,80,0' for what is to go."


@dataclass(frozen=True)
class Subject:
    """One of the subjects of a photo."""

    box: Box  # left, top, right and bottom in pixels of the photo
    share: float  # of the photo's area, 0 to 1
    confidence: float  # how sure the network is that this is subject: its mean alpha, 0.5 to 1
    place: tuple[int, int]  # x and y of a pixel well inside it, which as a point picks it


def find_subjects(alpha: Pixels) -> list[Subject]:
    """The separate subjects of a matte H x W, the largest first; those that touch each other count as one."""
    parts = _Parts(alpha)
    found = []
    for number in parts.by_area():
        inside = parts.inside(number)
        own = parts.cores[inside] == number
        share, confidence = parts.areas[number] / parts.cores.size, parts.small[inside][own].mean() / 255
        found.append(Subject(parts.box(number), float(share), float(confidence), parts.place(number)))
    return found


def pick(alpha: Pixels, look: Look, box: Box | None = None, points: Sequence[Point] = ()) -> Pixels:
    """A matte H x W of the subject in a box, or of those at points; all else becomes 0.

    Where the first look, `alpha`, found nothing in the box or something that does not fill it, or where the box is
    small, the network looks at it again by itself, with a MARGIN. Of points that keep, each keeps the part it is on, or
    what the network finds about it by itself; a point that does not keep takes its part away, and wins. With a box
    points choose among what is in it.
    """
    if box:
        alpha = _in_box(alpha, look, box)
    if points:
        alpha = _at_points(alpha, look, points)
    return _only(alpha, box) if box and points else alpha


def read_box(given: str | Sequence[float] | None, shape: tuple[int, int]) -> Box | None:
    """A box in a photo of `shape` (height, width): left, top, right and bottom, in a text or not; None for none.

    What reaches beyond the photo ends there. Raises PhotoError for what is no box, and for one beside the photo.
    """
    if given is None or (isinstance(given, str) and not given.strip()):
        return None
    numbers = _numbers(given)
    if numbers is None or len(numbers) != 4:
        raise PhotoError("A box is left, top, right and bottom in the photo's pixels, such as '40,20,300,500'.")
    height, width = shape
    left, top, right, bottom = numbers
    left, top = max(0, int(left)), max(0, int(top))
    right, bottom = min(width, int(np.ceil(right))), min(height, int(np.ceil(bottom)))
    if left >= right or top >= bottom:
        raise PhotoError(f"This box holds nothing of the photo, which is {width} × {height} pixels: choose another.")
    return left, top, right, bottom


def read_points(given: str | Sequence[Sequence[float]] | None, shape: tuple[int, int]) -> tuple[Point, ...]:
    """Points in a photo of `shape` (height, width): x, y, and 0 unless it is kept; in a text with spaces between them.

    Raises PhotoError for what are no points, for too many, and for one beside the photo.
    """
    rows = _rows(given)
    if len(rows) > MAX_POINTS:
        raise PhotoError(f"These are more than {MAX_POINTS} points: leave some out.")
    points = []
    height, width = shape
    for row in rows:
        numbers = _numbers(row)
        if numbers is None or len(numbers) not in (2, 3):
            raise PhotoError(NO_POINT)
        x, y = int(numbers[0]), int(numbers[1])
        if not (0 <= x < width and 0 <= y < height):
            raise PhotoError(f"A point lies outside the photo, which is {width} × {height} pixels: choose another.")
        points.append((x, y, len(numbers) < 3 or bool(numbers[2])))
    return tuple(points)


def _rows(given: Any) -> list[Any]:
    """Points one by one. Raises PhotoError."""
    if isinstance(given, str):
        return given.split()
    try:
        return [] if given is None else list(given)
    except TypeError:
        raise PhotoError(NO_POINT) from None


def _numbers(given: Any) -> list[float] | None:
    """The numbers of a sequence, or of a text that has commas between them; None for anything else."""
    try:
        numbers = [float(part) for part in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError, OverflowError):
        return None
    return numbers if all(isfinite(number) and abs(number) < 1e9 for number in numbers) else None


# --- boxes ---


def _in_box(alpha: Pixels, look: Look, box: Box) -> Pixels:
    first = _only(alpha, box)
    fit = _fit(first, box)
    area = _area(box)
    region = _around(box, alpha.shape, MARGIN)
    if (fit >= FIT and area > SMALL * alpha.size) or region == (0, 0, *alpha.shape[::-1]):
        return first
    again = _only(_placed(look(region), region, alpha.shape), box)
    if _iou(first, again) >= AGREE:
        return again if area <= SMALL * alpha.size else first
    return again if _fit(again, box) > fit else first


def _only(alpha: Pixels, box: Box) -> Pixels:
    """What of a matte is in a box, without other subjects that reach into it."""
    parts = _Parts(alpha)
    inside = parts.areas_in(box)
    mine = inside >= MINE * parts.areas
    mine[0] = False
    if mine.size > 1:
        mine[int(inside[1:].argmax()) + 1] = True  # of two people who are one part
        alpha = parts.keep(alpha, mine)
    whole = mine & (inside >= WHOLE * parts.areas)
    if whole.any() and (whole == mine).all():  # the box was drawn a little too small
        box = _around(box, alpha.shape, LEEWAY)
    left, top, right, bottom = box
    out = np.zeros_like(alpha)
    out[top:bottom, left:right] = alpha[top:bottom, left:right]
    return out


def _fit(alpha: Pixels, box: Box) -> float:
    """How well a box is filled by what was found in it, 0 to 1."""
    width, height = cv2.boundingRect((alpha >= SURE).view(np.uint8))[2:]
    asked, found = _area(box), int(width * height)
    return min(asked, found) / max(asked, found)


def _area(box: Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def _iou(one: Pixels, other: Pixels) -> float:
    both, either = (one >= SURE) & (other >= SURE), (one >= SURE) | (other >= SURE)
    return float(both.sum() / max(1, either.sum()))


def _around(box: Box, shape: tuple[int, ...], margin: float) -> Box:
    """A box with a margin of that share of its longer side, as far as the photo reaches."""
    left, top, right, bottom = box
    room = round(margin * max(right - left, bottom - top))
    return max(0, left - room), max(0, top - room), min(shape[1], right + room), min(shape[0], bottom + room)


def _placed(part: Pixels, region: Box, shape: tuple[int, ...]) -> Pixels:
    """The matte of a part of a photo as one of the whole, H x W."""
    whole = np.zeros(shape, np.uint8)
    whole[region[1] : region[3], region[0] : region[2]] = part
    return whole


# --- points ---


def _at_points(alpha: Pixels, look: Look, points: Sequence[Point]) -> Pixels:
    parts = _Parts(alpha)
    at = [(point, parts.at(point[0], point[1])) for point in points]
    kept = [(point, number) for point, number in at if point[2]]
    mine = np.zeros(len(parts.areas), np.bool_) if kept else np.ones(len(parts.areas), np.bool_)
    for _, number in kept:
        mine[number] = True
    mine[[number for point, number in at if number and not point[2]]] = False
    mine[0] = False
    chosen = parts.keep(alpha, mine)
    for part in np.flatnonzero(mine) if kept else []:
        box = parts.box(int(part))
        if _area(box) <= SMALL * alpha.size:
            alone = parts.keep(alpha, np.arange(mine.size) == part)
            chosen = np.maximum(chosen - alone, _in_box(alone, look, box))
    for (x, y, _), number in kept:
        if number == 0 and chosen[y, x] < SURE:
            chosen = np.maximum(chosen, _about(x, y, look, alpha.shape))
    return chosen


def _about(x: int, y: int, look: Look, shape: tuple[int, ...]) -> Pixels:
    """What the network finds at a place by itself: nothing else of the photo's matte H x W."""
    found = np.zeros(shape, np.uint8)
    height, width = shape
    for share in AROUND:
        half = max(1, round(share * max(shape) / 2))
        region = max(0, x - half), max(0, y - half), min(width, x + half), min(height, y + half)
        part = look(region)
        parts = _Parts(part)
        number = parts.at(x - region[0], y - region[1])
        if number:
            mine = np.arange(len(parts.areas)) == number
            found = _placed(parts.keep(part, mine), region, shape)
            left, top, right, bottom = cv2.boundingRect((found >= SURE).view(np.uint8))
            right, bottom = left + right, top + bottom
            ends = (left, region[0], 0), (top, region[1], 0), (right, region[2], width), (bottom, region[3], height)
            if all(end != edge or edge == last for end, edge, last in ends):
                break  # the whole of it was seen
    return found


class _Parts:
    """The parts of a matte H x W, on a copy of at most SIDE pixels a side, numbered from 1."""

    def __init__(self, alpha: Pixels) -> None:
        self.shape = alpha.shape
        scale = min(1.0, SIDE / max(alpha.shape))
        size = max(1, round(alpha.shape[1] * scale)), max(1, round(alpha.shape[0] * scale))
        self.small = np.asarray(cv2.resize(alpha, size, interpolation=cv2.INTER_AREA), np.uint8)
        _, found, stats, _ = cv2.connectedComponentsWithStats((self.small >= SURE).view(np.uint8))
        areas = stats[:, cv2.CC_STAT_AREA]
        least = max(LEAST * self.small.size, SPECK * areas[1:].max(initial=0))
        numbers = np.flatnonzero(areas >= least)
        numbers = numbers[numbers > 0]
        names = np.zeros(len(areas), np.int32)
        names[numbers] = np.arange(1, len(numbers) + 1)
        self.cores: NDArray[np.int32] = names[found]
        self.rects = np.concatenate((np.zeros((1, 4), np.int32), stats[numbers, :4]))  # left, top, width and height
        self.areas: NDArray[np.int64] = np.concatenate(([0], areas[numbers])).astype(np.int64)
        self.nearest = self.cores  # the part to which each pixel belongs, and how far away that is
        self.away = np.zeros(self.cores.shape, np.float32)
        if len(numbers):
            outside = (self.cores == 0).view(np.uint8)
            self.away, cells = cv2.distanceTransformWithLabels(
                outside, cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
            )
            of_cell = np.zeros(int(cells.max()) + 1, np.int32)
            of_cell[cells[outside == 0]] = self.cores[outside == 0]
            self.nearest = of_cell[cells]

    def by_area(self) -> list[int]:
        """The numbers of the parts, the largest first."""
        return [int(number) for number in np.argsort(-self.areas[1:], kind="stable") + 1]

    def inside(self, number: int) -> tuple[slice, slice]:
        """The rows and columns of the copy that a part takes: of hundreds of dots, each costs no more than its own."""
        left, top, width, height = (int(side) for side in self.rects[number])
        return slice(top, top + height), slice(left, left + width)

    def box(self, number: int) -> Box:
        """Around a part, in the photo's pixels."""
        left, top, width, height = (int(side) for side in self.rects[number])
        down, across = (whole / small for whole, small in zip(self.shape, self.cores.shape, strict=True))
        right, bottom = left + width, top + height
        return round(left * across), round(top * down), round(right * across), round(bottom * down)

    def place(self, number: int) -> tuple[int, int]:
        """The pixel of a part that is farthest from its edge, in the photo's pixels."""
        own = (self.cores[self.inside(number)] == number).astype(np.uint8)
        bordered = cv2.copyMakeBorder(own, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
        row, column = np.unravel_index(cv2.distanceTransform(bordered, cv2.DIST_L2, 3).argmax(), bordered.shape)
        left, top = (int(side) for side in self.rects[number][:2])
        down, across = (whole / small for whole, small in zip(self.shape, self.cores.shape, strict=True))
        return int((left + column - 0.5) * across), int((top + row - 0.5) * down)

    def areas_in(self, box: Box) -> NDArray[np.int64]:
        """How much of each part is in a box, in the copy's pixels."""
        height, width = self.cores.shape
        scale = width / self.shape[1], height / self.shape[0]
        left, top = int(box[0] * scale[0]), int(box[1] * scale[1])
        right, bottom = round(box[2] * scale[0]), round(box[3] * scale[1])
        inside = self.cores[top : max(top + 1, bottom), left : max(left + 1, right)]
        return np.bincount(inside.reshape(-1), minlength=len(self.areas)) * (self.areas > 0)

    def at(self, x: int, y: int) -> int:
        """The part at a place of the photo, or no farther from it than NEAR; 0 for none."""
        height, width = self.cores.shape
        row, column = min(height - 1, y * height // self.shape[0]), min(width - 1, x * width // self.shape[1])
        return int(self.nearest[row, column]) if self.away[row, column] <= NEAR * max(height, width) else 0

    def keep(self, alpha: Pixels, which: Mask) -> Pixels:
        """The matte with the parts that are marked, and what belongs to them, alone."""
        if which.size > 1 and which[1:].all():
            return alpha
        kept = np.where(which[self.nearest], np.uint8(255), np.uint8(0))
        large = cv2.resize(kept, alpha.shape[::-1], interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.multiply(alpha, large, dst=large, scale=1 / 255), np.uint8)
