"""Whole or not at all: wide doubt inside a matte, decided for the subject.

The network is sometimes unsure not of an edge but of a third of a body, such as a white shirt before a white wall, and
leaves it at 0.4 all over. A cutout shows that as a ghost. `solidify` raises such areas to 1 where there is evidence for
it, and lets nothing fall. The first witness is the matte itself, the second the network's answer to the mirrored photo,
which is asked for only if much would stay in doubt without it. Edges, hair among them, are no wide doubt. Nor does what
looks like glass or a veil rise.

The constants were tuned on 218 of 327 pictures with known alpha, most of them composed so that the body has the
background's colour, little contrast or little light. The other 109 were measured before the last changes and after
them. All lengths are at SIDE.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]

SIDE = 320  # pixels: height and width at which doubt is looked at
DOUBT = 0.1, 0.9  # the matte between which a pixel is in doubt
EDGE, REACH = 2, 4  # pixels: doubt up to twice EDGE wide is an edge's; wider has its pixels up to REACH around its core
LEAST = 0.01  # share of the subject's area that wide doubt must have, and one part of it to be taken for glass
MOST = 4  # times what is sure that wide doubt may have: beyond, the network has no idea, and patches would rise
ASK = 0.0025  # the same of the cores of what is left, from which the second witness is asked
DEEP = 3  # pixels from everything below 0.5 from where narrow doubt counts as wide
SECOND = 0.6  # mean of the mirrored photo's matte in 5 x 5 pixels from which one below 0.5 may be subject
AGREEMENT = 0.95  # IoU, at 0.5, of both mattes outside wide doubt from which the second witness is believed
FEW = 0.005  # share of the subject's area up to which one part may rise from below 0.5 on SECOND's word alone
FIRM = 0.85  # mean of the mirrored photo's matte that a larger part must have
ATTACHED = 0.15  # share of a larger part's rim that must be subject
MARGIN = 1  # pixels along the outside of what is subject that stay as they are: they are an edge's

RIM = 3  # pixels around an area in which the rim of a glass is looked for
WALL = 8  # pixels: what is sure and this close to the background is a rim, and no body
RINGED = 0.35  # share of the area's surroundings that must be such a rim
BETWEEN = 0.65  # of the way from the background's colour to the rim's: what is seen through has less of the rim's
ASIDE = 16, 0.25  # levels of 255, and share of that way, by which a mixture's colour may lie beside it
CLEAR = 2  # pixels on both sides of an outline that are left out when what is beyond them is compared
FINE, COARSE = 11, 35  # pixels: widths of the means between which lies the structure that is compared
STRUCTURE = 4.0  # levels of 255: standard deviation along the outline from which it can be told whether it goes on
GOES_ON = 0.65  # correlation of the colours inside and outside the outline from which the background goes on inside
LENGTH = 40  # pixels near the outline: with fewer nothing can be told


def solidify(matte: Pixels, photo: Pixels, mirrored: Callable[[], Pixels]) -> Pixels:
    """The matte, h x w, with wide doubt inside the subject raised to 255; the same object where there is none.

    `matte` is the network's map, stretched to 0..255 (`utilities.enlarge`), `photo` its input, h x w x 3. `mirrored`
    gives the map of the mirrored photo, stretched and mirrored back; it is called at most once, and only if wide doubt
    would be left. No pixel falls. What this does to a photo and its mirror image is the same but for rounding.

    At SIDE, doubt that is wider than an edge rises where the matte says at least 0.5. What is then left rises where the
    second witness says SECOND, if it agrees with the matte on all that is not in doubt; large parts must also be FIRM
    and ATTACHED. Along the outside a margin stays. Only pixels from below 0.5 change what the subject covers, and a
    neighbour of the subject, of which both mattes may be half sure, is no part of it: hence the care with them.
    """
    level = _small(matte)
    subject = level >= 0.5
    doubt = (level > DOUBT[0]) & (level < DOUBT[1])
    wide = _grown(_shrunk(doubt, EDGE), REACH) & doubt
    if not LEAST * np.count_nonzero(subject) < np.count_nonzero(wide) < MOST * np.count_nonzero(level >= DOUBT[1]):
        return matte
    wide = (wide | (doubt & _shrunk(subject, DEEP))) & ~_translucent(_small(photo) * 255, level, wide)
    whole, left = subject, wide & ~subject
    if np.count_nonzero(_shrunk(left, EDGE)) > ASK * np.count_nonzero(subject):
        whole = subject | _second(_small(mirrored()), level, wide, left)
    rest = wide & ~whole
    rest &= _grown(_shrunk(rest, EDGE), EDGE)  # between this and the subject runs no edge
    raised = wide & ((_shrunk(whole | rest, MARGIN) & subject) | _shrunk(whole, MARGIN))
    raised &= _grown(_shrunk(raised, MARGIN), REACH)  # no threads, of which hair may be made
    if not raised.any():
        return matte
    share = np.where(raised, _mean((raised | ~wide).astype(np.float32), 3), np.float32(0))
    share = cv2.resize(share, matte.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.maximum(matte, np.rint(matte + share * (255 - matte.astype(np.float32))).astype(np.uint8))


def _second(other: Floats, level: Floats, wide: Mask, left: Mask) -> Mask:
    """What of `left` the mirrored photo's matte, at SIDE, shows to be subject."""
    none = np.zeros_like(left)
    first, second = (level > 0.5) & ~wide, (other > 0.5) & ~wide
    if np.count_nonzero(first & second) < AGREEMENT * np.count_nonzero(first | second):
        return none
    shown = left & (_mean(other, 5) >= SECOND)
    whole = shown | (level >= 0.5)
    few = FEW * np.count_nonzero(level >= 0.5)
    for part in _parts(shown):
        if np.count_nonzero(part) <= few:
            continue
        rim = _grown(part, EDGE) & ~part
        if other[part].mean() < FIRM or whole[rim].mean() < ATTACHED:
            shown &= ~part
    return shown


def _translucent(photo: Floats, level: Floats, wide: Mask) -> Mask:
    """The areas of `wide` that look like something seen through; `photo` is at SIDE, in levels.

    Two signs: the structure of the background goes on inside along the outline; or there is a rim all around, thin and
    sure, as a glass has it, and the colour inside is a mixture of the rim's and the background's.
    """
    seen_through = np.zeros_like(wide)
    background, sure = level <= DOUBT[0], level >= DOUBT[1]
    if not background.any():
        return seen_through
    to_background = cv2.distanceTransform((~background).astype(np.uint8), cv2.DIST_L2, 3)
    for area in _parts(wide):
        if np.count_nonzero(area) < LEAST * np.count_nonzero(level >= 0.5):
            continue
        if _goes_on(photo, area, background) or _in_a_glass(photo, area, background, sure & (to_background <= WALL)):
            seen_through |= area
    return seen_through


def _goes_on(photo: Floats, area: Mask, background: Mask) -> bool:
    """Whether the colours inside an area's outline vary along it as those outside do."""
    profiles, seen = [], np.ones_like(area)
    for side in (area, background):
        weight = _shrunk(side, CLEAR).astype(np.float32)
        masked = photo * weight[..., np.newaxis]
        fine, coarse = (
            _mean(masked, width) / np.maximum(_mean(weight, width), 1e-3)[..., np.newaxis] for width in (FINE, COARSE)
        )
        profiles.append(fine - coarse)
        seen &= _mean(weight, FINE) > 0.05
    if np.count_nonzero(seen) < LENGTH:
        return False
    inside, outside = (profile[seen] - profile[seen].mean(0) for profile in profiles)
    spread = float(np.sqrt((inside**2).mean())), float(np.sqrt((outside**2).mean()))
    return spread[1] >= STRUCTURE and float((inside * outside).mean()) >= GOES_ON * spread[0] * spread[1] > 0


def _in_a_glass(photo: Floats, area: Mask, background: Mask, thin: Mask) -> bool:
    """Whether an area has a `thin` sure rim, and a colour between the rim's and that of the background behind it."""
    around = _grown(area, RIM) & ~area
    rim = around & thin
    if np.count_nonzero(rim) < RINGED * np.count_nonzero(around):
        return False
    behind = _grown(area, RIM + 2 * WALL) & background
    if not behind.any():
        return False
    colour, far, near = (np.median(photo[where], axis=0) for where in (area, rim, behind))
    way, off = far - near, colour - near
    length = float(np.linalg.norm(way))
    along = float(off @ way) / max(length**2, 1.0)
    aside = float(np.linalg.norm(off - along * way))
    return along <= BETWEEN and aside <= ASIDE[0] + ASIDE[1] * length


def _parts(mask: Mask) -> list[Mask]:
    """The connected parts of a mask."""
    count, labels = cv2.connectedComponents(mask.astype(np.uint8))
    return [labels == number for number in range(1, count)]


def _small(pixels: Pixels) -> Floats:
    """Averages at SIDE, 0..1."""
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32) / np.float32(255)


def _mean(values: Floats, width: int) -> Floats:
    """The mean of width x width pixels around each."""
    return np.asarray(cv2.blur(values, (width, width), borderType=cv2.BORDER_REPLICATE), np.float32)


def _grown(mask: Mask, radius: int) -> Mask:
    grown: Mask = cv2.dilate(mask.astype(np.uint8), _disc(radius)) > 0
    return grown


def _shrunk(mask: Mask, radius: int) -> Mask:
    """Eroded; beyond the photo's border all is part of the mask."""
    border: Any = {"borderType": cv2.BORDER_CONSTANT, "borderValue": 1}
    shrunk: Mask = cv2.erode(mask.astype(np.uint8), _disc(radius), **border) > 0
    return shrunk


def _disc(radius: int) -> Pixels:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)
