"""The shadow that a subject casts, made from its matte alone: on what is behind it, or on the ground beneath it.

Lengths are shares of the subject's longer side, so that a preview and the full size look the same. A shadow is worked
out on a small copy and enlarged, as it has no detail that this would lose: at 12 megapixels a "drop" takes 25 to 35 ms,
a "contact" 45 to 70 (110 where it is softest), and a picture takes up to 35 more where one lies in it (two cores of a
server).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, cos, floor, radians, sin
from numbers import Real
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from background_remover.framing import keep_subject, subject_box
from utilities import PhotoError

Pixels = NDArray[np.uint8]
Floats = NDArray[np.floating]
Box = tuple[int, int, int, int]  # left, top, right, bottom

SHADOWS = ("none", "drop", "contact")
STRENGTH = 0.5  # how dark it is at its darkest; 1 is black
SOFTNESS = 0.03  # standard deviation of its blur, as a share of the subject's longer side
SOFTNESSES = 0.005, 0.1  # least and most of it
DIRECTION = 135.0  # degrees clockwise from straight up, towards which it falls: to the lower right
DISTANCE = 1.2  # standard deviations by which a shadow that falls is off: what falls farther is softer

BOX_SIDE = 512  # pixels: longer side of the copy on which the subject is looked for
DROP_PIXELS = 6  # standard deviation of a drop on its copy, at least
CONTACT_SIDE = 720  # pixels: longer side of the subject on the copy for a contact, even if that enlarges it
BLUR_PIXELS = 4  # standard deviation on a copy of that, where it is large enough to be made on a smaller one
TAIL = 3.5  # standard deviations after which nothing is left of a shadow

# Of a contact shadow, tuned on cups, a bottle, a bucket, chairs, shoes, cars, people and balls. Heights and lengths are
# shares of the subject's longer side.
SOLID = 128  # of 255: alpha from which a pixel casts it
PROMINENCE = 0.04  # by how much a part stands out downwards that touches the ground by itself, as a second wheel does
RISE = 0.2  # of such a part above the lowest one, at most; what is higher, as a cup's handle is, does not touch
SLOPE = 0.35  # how steeply the outline may rise from where it touches, and touch there still
TOUCH = 0.004  # by how much it may then leave that slope
# Its layers: how dark, how soft in standard deviations, and the height at which a part casts 1/e of it.
LAYERS = ((0.6, 0.3, 0.015), (0.5, 1.0, 0.06), (0.35, 2.5, 0.2))
FLAT = 0.35  # height of a circle on the ground, as a share of its width: as from a camera 20 degrees above it
FRONT, BACK = 1.2, 3.0  # standard deviations, so flattened, to which it lies before the outline and behind it

CUT = 192  # of 255: alpha from which a pixel of a photo's last row is one that the photo cuts off
CUT_WIDTH = 0.02  # of the subject's width: how many of these cut it off; a stem may be all that reaches the edge


@dataclass(frozen=True)
class Shadow:
    """One that falls on what is behind the subject, "drop", or lies on the ground, darkest where it touches, "contact".

    `strength`, 0 to 1, is how dark it is at its darkest. `softness`, within SOFTNESSES, is the standard deviation of
    its blur, as a share of the subject's longer side. `direction` is where "drop" falls, in degrees clockwise from
    straight up, 0 to 360, as in CSS: 90 is to the right, 180 down; the light comes from the opposite side. It is off by
    DISTANCE times its softness, since what stands farther off casts a softer one. "contact" ignores the direction.
    """

    kind: str
    strength: float = STRENGTH
    softness: float = SOFTNESS
    direction: float = DIRECTION

    def check(self) -> None:
        """Raises PhotoError for what can't be cast."""
        check_kind(self.kind)
        bounds: dict[str, tuple[float, float]] = {"strength": (0, 1), "softness": SOFTNESSES}
        if self.kind == "drop":
            bounds["direction"] = (0, 360)
        for name, (least, most) in bounds.items():
            value: Any = getattr(self, name)
            if not (isinstance(value, Real) and least <= float(value) <= most):
                raise PhotoError(f"A shadow's {name} can't be {value!r}: choose a number from {least} to {most}.")

    def cast(self, alpha: Pixels, cut_off: bool = False) -> Pixels:
        """How much light it takes from what is behind a matte H x W: H x W, 255 for all of it.

        A subject that is `cut_off` by its photo's bottom edge, see there, stands on nothing that is seen, and casts no
        contact shadow; nor does an empty matte cast one.
        """
        shadow = np.zeros_like(alpha)
        drop = self.kind == "drop"
        if self.kind == "none" or (cut_off and not drop):
            return shadow
        copy = _Copy.of(alpha, self.softness, drop)
        if copy is None:
            return shadow
        if drop:
            angle, distance = radians(self.direction), DISTANCE * self.softness * copy.side
            offset = sin(angle) * distance, -cos(angle) * distance
            soft = cv2.GaussianBlur(copy.alpha.astype(np.float32) / 255, (0, 0), self.softness * copy.side)
            copy.enlarge(soft * self.strength, offset, shadow)
        else:
            copy.enlarge(_contact(copy, self.softness) * self.strength, (0, 0), shadow)
        return shadow


def check_kind(kind: str) -> None:
    """Raises PhotoError unless it is one of SHADOWS."""
    if kind not in SHADOWS:
        raise PhotoError(f"'{kind}' is not a shadow: choose one of {', '.join(SHADOWS)}.")


def cut_off(alpha: Pixels) -> bool:
    """Whether a photo's bottom edge cuts its subject off, as that of a portrait does.

    It does if its last row has solid pixels, as many as CUT_WIDTH of the subject's width.
    """
    count = int(np.count_nonzero(alpha[-1] >= CUT))
    if not count:
        return False
    box = _subject(alpha)
    return box is not None and bool(count >= CUT_WIDTH * (box[2] - box[0]))


def _subject(alpha: Pixels) -> tuple[float, float, float, float] | None:
    """Left, top, right and bottom of the subject, to about a pixel of a small copy. None if there is none."""
    scale = min(1.0, BOX_SIDE / max(alpha.shape))
    height, width = (max(1, round(length * scale)) for length in alpha.shape)
    box = subject_box(np.asarray(cv2.resize(alpha, (width, height), interpolation=cv2.INTER_AREA), np.uint8))
    if box is None:
        return None
    across, down = alpha.shape[1] / width, alpha.shape[0] / height
    return box[0] * across, box[1] * down, box[2] * across, box[3] * down


class _Copy(NamedTuple):
    """The subject alone, as small as its shadow allows, with room for that around."""

    alpha: Pixels  # h x w
    room: int  # pixels of it on each side
    box: Box  # what it shows of the matte, within that room
    scale: tuple[float, float]  # its pixels for one of the matte, across and down
    side: float  # the subject's longer side, in its pixels

    @classmethod
    def of(cls, alpha: Pixels, softness: float, drop: bool) -> _Copy | None:
        """For a shadow of that softness; None if there is no subject."""
        found = _subject(alpha)
        if found is None:
            return None
        height, width = alpha.shape
        side = max(found[2] - found[0], found[3] - found[1])
        more = ceil(max(height, width) / BOX_SIDE)  # as exactly as the subject was found
        left, top = (max(0, floor(start) - more) for start in found[:2])
        right, bottom = (min(length, ceil(end) + more) for end, length in zip(found[2:], (width, height), strict=True))
        # Of a contact, the same for a preview as for the full size, so that both find the same outline.
        scale = min(1.0, DROP_PIXELS / softness / side) if drop else CONTACT_SIDE / side
        size = max(1, round((right - left) * scale)), max(1, round((bottom - top) * scale))
        how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
        small = cv2.resize(alpha[top:bottom, left:right], size, interpolation=how)
        room = ceil(TAIL * (1 if drop else max(blur for _, blur, _ in LAYERS)) * softness * side * scale) + 1
        # Where the canvas ends the subject goes on, so that its shadow does not fade there; but not into the ground.
        edges = top == 0, bottom == height and drop, left == 0, right == width
        for kind, sides in ((cv2.BORDER_REPLICATE, edges), (cv2.BORDER_CONSTANT, [not edge for edge in edges])):
            above, below, before, after = (room * side for side in sides)
            small = cv2.copyMakeBorder(small, above, below, before, after, kind)
        scales = size[0] / (right - left), size[1] / (bottom - top)
        return cls(np.asarray(small, np.uint8), room, (left, top, right, bottom), scales, side * scale)

    def enlarge(self, small: Floats, offset: tuple[float, float], out: Pixels) -> None:
        """Write what was made of the copy, h x w in 0..1, to its place in H x W, moved by so many of its pixels."""
        pixels = np.rint(np.clip(small, 0, 1) * 255).astype(np.uint8)
        spans, maps = [], []
        for axis in (0, 1):
            start, scale = self.box[axis] + (offset[axis] - self.room) / self.scale[axis], self.scale[axis]
            first = max(0, floor(start))
            last = min(out.shape[1 - axis], ceil(start + pixels.shape[1 - axis] / scale))
            spans.append((first, last))
            maps.append((scale, (first + 0.5 - start) * scale - 0.5))
        (left, right), (top, bottom) = spans
        if left < right and top < bottom:
            matrix = np.array([[maps[0][0], 0, maps[0][1]], [0, maps[1][0], maps[1][1]]])
            how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            out[top:bottom, left:right] = cv2.warpAffine(pixels, matrix, (right - left, bottom - top), flags=how)


def _contact(copy: _Copy, softness: float) -> Floats:
    """A contact shadow, h x w in 0..1, 1 at its darkest: beneath each column of the subject, where the ground is.

    It has layers, as what is close above the ground takes light from a small part of it, and what is higher less light
    from a larger one.
    """
    solid = keep_subject(copy.alpha) & (copy.alpha >= SOLID)
    if not solid.any():
        return np.zeros(solid.shape, np.float32)
    height, width = solid.shape
    low = np.where(solid.any(0), height - np.argmax(solid[::-1], 0), -10 * copy.side)  # the lower outline
    ground = _ground(low, copy.side)
    above = np.maximum(ground - low, 0) / copy.side
    light = np.ones(solid.shape, np.float32)
    for dark, blur, reach in LAYERS:
        sd = blur * softness * copy.side
        soft = _blurred_bars(ground, np.exp(-above / reach), height, sd, FLAT * sd)
        light *= 1 - dark * cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    shadow = 1 - light
    return np.asarray(shadow / max(float(shadow.max()), 1e-6), np.float32)


def _blurred_bars(
    ground: NDArray[np.floating], density: NDArray[np.floating], height: int, across: float, down: float
) -> NDArray[np.float32]:
    """At each of w places a vertical bar of that density, from BACK above `ground` to FRONT below; h x w or smaller.

    `across` and `down` are the standard deviations of its blur; BACK and FRONT are multiples of the latter.
    """
    rows, columns = (max(1, round(n * min(1.0, BLUR_PIXELS / sd))) for n, sd in ((height, down), (ground.size, across)))
    line, dark = (
        cv2.resize(values[np.newaxis].astype(np.float32), (columns, 1), interpolation=cv2.INTER_AREA)
        for values in (ground, density)
    )
    line = line * (rows / height)
    sd, sd_across = down * rows / height, across * columns / ground.size
    y = np.arange(rows, dtype=np.float32)[:, np.newaxis] + np.float32(0.5)
    bars = np.clip(y - (line - BACK * sd) + 0.5, 0, 1) * np.clip(line + FRONT * sd - y + 0.5, 0, 1) * dark
    soft = cv2.GaussianBlur(bars, (0, 0), sd_across, sigmaY=sd, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(soft, np.float32)


def _ground(low: NDArray[np.floating], side: float) -> NDArray[np.floating]:
    """Where the ground is beneath each column of a lower outline: on it where that touches, straight lines between.

    From the lowest part on, each part touches that stands out downwards by PROMINENCE, and beside it what follows it
    no more steeply than SLOPE.
    """
    x = np.arange(low.size)
    free = low >= low.max() - RISE * side
    touches = np.zeros(low.size, bool)
    while free.any():
        lowest = int(np.argmax(np.where(free, low, -np.inf)))
        for way in (x[lowest::-1], x[lowest:]):
            outline = low[way]
            next_part = np.flatnonzero(outline > np.minimum.accumulate(outline) + PROMINENCE * side)
            end = int(next_part[0]) if next_part.size else way.size
            free[way[:end]] = False
            level = outline[:end] + SLOPE * np.arange(end)
            leaves = np.flatnonzero(level < np.maximum.accumulate(level) - TOUCH * side)
            touches[way[: leaves[0] if leaves.size else end]] = True
    return np.asarray(np.interp(x, x[touches], low[touches]))
