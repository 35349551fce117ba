"""The geometry of a canvas: which part of a photo it shows, how large, and what is left around it.

So it is here that a matte's subject is told from residue.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from utilities import PhotoError

Pixels = NDArray[np.uint8]
Colours = NDArray[Any]  # H x W x 3, uint8 or uint16
Size = tuple[int, int]  # width, height

MARGIN = 0.05  # room around a subject that is cropped to, as a share of its longer side
BAND = 64  # rows of a scaled picture that are worked on at a time
MAX_SIDE = 5000  # pixels: longer side of a canvas
FAINT = 32  # of 255: alpha below this is no subject when it comes to where the subject ends
SURE = 128  # of 255: alpha from which even a speck is subject, if specks are to stay
FADE = 4, 12  # pixels of a canvas: within the 16 that a JPEG's blocks reach
SPECK = 0.002  # of the largest part's area: smaller parts are no subject either
CLEAN_SIDE = 1024  # pixels: longer side of the copy on which the distance from the subject is measured
HAZE = 0.017, 0.023  # distances from the subject, as shares of the longer side, between which haze fades out


@dataclass(frozen=True)
class Frame:
    """A canvas and the part of a photo that it shows: cut out, scaled, and bordered where the photo ends."""

    rows: slice
    columns: slice
    inner: Size  # to which these are scaled
    borders: tuple[int, int, int, int] = (0, 0, 0, 0)  # pixels at the top, bottom, left and right
    scale: float = 1.0  # pixels of the canvas for each of the photo's, along a side; above 1 it is enlarged

    @classmethod
    def around(cls, alpha: Pixels, margin: float = MARGIN, size: Size | None = None) -> Frame:
        """The subject with a margin of that share of its longer side, within 0..1; the whole photo if there is none.

        `size`, up to MAX_SIDE each way, is that of a canvas in which it is centred, as large as it can be. None keeps
        the photo's pixels as they are. Raises PhotoError.
        """
        check_margin(margin)
        box = subject_box(alpha)
        left, top, right, bottom = box or (0, 0, alpha.shape[1], alpha.shape[0])
        room = round(margin * max(right - left, bottom - top)) if box else 0
        width, height = right - left + 2 * room, bottom - top + 2 * room
        if size is None:
            size = width, height
        else:
            check_size(size)
        scale = min(size[0] / width, size[1] / height)
        columns, inner_width, across = _span((left + right) / 2, int(size[0]), scale, alpha.shape[1])
        rows, inner_height, down = _span((top + bottom) / 2, int(size[1]), scale, alpha.shape[0])
        return cls(rows, columns, (inner_width, inner_height), (*down, *across), scale)

    @classmethod
    def at(cls, left: float, top: float, scale: float, size: Size, shape: tuple[int, int]) -> Frame:
        """A canvas of a photo of `shape` (height, width) that begins at that place of it, enlarged so many times."""
        columns, inner_width, across = _span(left + size[0] / scale / 2, size[0], scale, shape[1])
        rows, inner_height, down = _span(top + size[1] / scale / 2, size[1], scale, shape[0])
        return cls(rows, columns, (inner_width, inner_height), (*down, *across), scale)

    @classmethod
    def within(cls, side: int, shape: tuple[int, int]) -> Frame:
        """The whole of a photo of `shape` (height, width), with at most `side` pixels on the longer side."""
        scale = min(1.0, side / max(shape))
        height, width = (max(1, round(length * scale)) for length in shape)
        return cls(slice(None), slice(None), (width, height), scale=scale)

    @property
    def size(self) -> Size:
        """Of the canvas."""
        top, bottom, left, right = self.borders
        return self.inner[0] + left + right, self.inner[1] + top + bottom

    def photo(self, rgb: Colours) -> Colours:
        """What it shows of a photo, whose outermost pixels go on where it ends."""
        return self._bordered(self._scaled(rgb[self.rows, self.columns]), cv2.BORDER_REPLICATE)

    def subject(self, rgb: Colours, alpha: Pixels, beyond: int = cv2.BORDER_CONSTANT) -> tuple[Colours, Pixels]:
        """Colours and alpha of what it shows, both straight; the colours are averaged as alpha weighs them.

        Alpha is 0 beyond the photo, or what OpenCV's border `beyond` makes it. Enlarged, neither leaves the range of
        its neighbours, so that what is solid stays so and nothing rings.
        """
        rgb, alpha = rgb[self.rows, self.columns], alpha[self.rows, self.columns]
        if self.inner != alpha.shape[::-1]:
            product = cv2.CV_16U if rgb.dtype == np.uint8 else cv2.CV_32F
            weighted = self._scaled(cv2.multiply(rgb, cv2.merge([alpha] * 3), dtype=product))
            weight = self._scaled(alpha.astype(np.uint16) * 255)

            def straight(rows: slice) -> NDArray[Any]:
                colours: NDArray[Any] = weighted[rows] * np.float32(255) / np.maximum(weight[rows], 1)[..., np.newaxis]
                return colours

            rgb = self._limited(straight, rgb, alpha > 0)
            alpha = self._limited(lambda rows: weight[rows] / np.float32(255), alpha)
        return self._bordered(rgb, cv2.BORDER_REPLICATE), self._bordered(alpha, beyond)

    def _scaled(self, pixels: NDArray[Any]) -> NDArray[Any]:
        if self.inner == (pixels.shape[1], pixels.shape[0]):
            return pixels
        how = cv2.INTER_CUBIC if self._enlarges(pixels) else cv2.INTER_AREA
        return cv2.resize(pixels, self.inner, interpolation=how)

    def _enlarges(self, pixels: NDArray[Any]) -> bool:
        return self.inner[0] >= int(pixels.shape[1])

    def _limited(
        self, scaled: Callable[[slice], NDArray[Any]], before: Colours, shown: NDArray[np.bool_] | None = None
    ) -> Colours:
        """Scaled values, rounded, in the bits of before; enlarged, within what they were next to the same place.

        Bicubic interpolation overshoots: beside an edge it exceeds what is on either side. Only what is `shown` counts.
        `scaled` gives them by rows, so that few of them are floats at a time.
        """
        most = np.iinfo(before.dtype).max
        width, height = self.inner
        limited = np.empty((height, width, *before.shape[2:]), before.dtype)
        bounds: list[Any] = []
        if self._enlarges(before):
            low, high = before, before
            if shown is not None:
                low, high = (np.where(shown[..., np.newaxis], before, before.dtype.type(end)) for end in (most, 0))
            around = np.ones((3, 3), np.uint8)
            bounds = [
                cv2.resize(bound, self.inner, interpolation=cv2.INTER_NEAREST_EXACT)
                for bound in (cv2.erode(low, around), cv2.dilate(high, around))
            ]
        for start in range(0, height, BAND):
            rows = slice(start, start + BAND)
            values = scaled(rows)
            within = (bounds[0][rows], bounds[1][rows]) if bounds else (0, most)
            limited[rows] = np.rint(np.clip(values, *within, out=values), out=values)
        return limited

    def _bordered(self, pixels: Colours, kind: int) -> Colours:
        bordered: Colours = cv2.copyMakeBorder(pixels, *self.borders, kind)
        return bordered


def check_margin(margin: float) -> None:
    """Raises PhotoError unless it is a share, 0 to 1."""
    if not isinstance(margin, Real) or not 0 <= margin <= 1:
        raise PhotoError(f"A margin of {margin!r} can't be made: choose a share of the subject's size, 0 to 1.")


def check_size(size: Size) -> None:
    """Raises PhotoError unless both sides are whole numbers from 1 to MAX_SIDE."""
    if not all(isinstance(side, Integral) and 1 <= side <= MAX_SIDE for side in size):
        sides = " × ".join(map(str, size))
        raise PhotoError(f"A canvas of {sides} can't be made: choose 1 to {MAX_SIDE} pixels a side, without fractions.")


def subject_box(alpha: Pixels) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the subject: alpha from FAINT, without SPECKs. None if there is none."""
    _, _, parts, _ = cv2.connectedComponentsWithStats((alpha >= FAINT).view(np.uint8))
    parts = parts[1:]  # the first is the background
    if not len(parts):
        return None
    left, top, width, height, _ = parts[parts[:, 4] >= SPECK * parts[:, 4].max()].T
    return int(left.min()), int(top.min()), int((left + width).max()), int((top + height).max())


def keep_subject(alpha: Pixels) -> NDArray[np.bool_]:
    """Which pixels of a matte are subject, H x W: alpha from FAINT, without SPECKs."""
    return _without_specks((alpha >= FAINT).view(np.uint8))


def clean(alpha: Pixels, *, specks: bool = True) -> Pixels:
    """A matte H x W without the haze and the specks that are far from the subject, about 2 % of its longer side.

    The subject is alpha from FAINT, without SPECKs; without `specks` it also has those that reach SURE. What is within
    1.5 % of it (hair, soft edges) stays as it is, byte for byte, what is beyond 3 % becomes 0, and it fades in between.
    A matte without a subject stays as it is.

    Distances are measured on a small copy: parts of the subject that are closer to each other than a pixel of it count
    as one, and a distance may be wrong by two pixels, 0.2 %. At 12 megapixels it takes 25 to 35 ms (two cores of a
    server).
    """
    height, width = alpha.shape
    scale = min(1.0, CLEAN_SIDE / max(alpha.shape))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    some = cv2.threshold(alpha, FAINT - 1, 255, cv2.THRESH_BINARY)[1]
    # How much of a pixel is subject; one that has any counts, as thin hair has little.
    shares = np.asarray(cv2.resize(some, small, interpolation=cv2.INTER_AREA), np.uint8)
    sure = None if specks else np.asarray(cv2.resize(alpha, small, interpolation=cv2.INTER_AREA)) >= SURE
    subject = _without_specks(shares, sure)
    if not subject.any():
        return alpha
    away = cv2.distanceTransform((~subject).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    near, far = (share * max(small) for share in HAZE)
    left = np.rint(255 * np.clip((far - away) / (far - near), 0, 1)).astype(np.uint8)
    large = cv2.resize(left, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(cv2.multiply(alpha, large, dst=large, scale=1 / 255), np.uint8)


def fade(alpha: Pixels) -> Pixels:
    """A canvas's matte H x W whose haze and specks, what is no subject, fade out between FADE pixels from it.

    So that from there on a background is exactly its colour, however much the subject is enlarged.
    """
    subject = keep_subject(alpha)
    if not subject.any():
        return alpha
    away = cv2.distanceTransform((~subject).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    near, far = FADE
    left = np.clip((far - away) / np.float32(far - near), 0, 1)
    return np.asarray(np.rint(alpha * left), np.uint8)


def _without_specks(shares: Pixels, sure: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Which pixels are subject, h x w, of those that have a share of it: not those in parts of too little area.

    Where there is one that is `sure`, the part is subject however small it is.
    """
    count, labels = cv2.connectedComponents((shares > 0).view(np.uint8))
    areas = np.bincount(labels.reshape(-1), weights=shares.reshape(-1), minlength=count)
    kept = areas >= SPECK * areas.max()
    if sure is not None:
        kept[labels[sure]] = True
    kept[0] = False  # the background
    subject: NDArray[np.bool_] = kept[labels]
    return subject


def _span(centre: float, count: int, scale: float, length: int) -> tuple[slice, int, tuple[int, int]]:
    """Along one side, for `count` pixels of canvas about `centre`: which of the photo's `length` pixels they show,
    on how many of theirs, and how many are left before and after, where the photo ends.
    """
    start, stop = centre - count / scale / 2, centre + count / scale / 2
    before = min(round(max(0.0, -start) * scale), count - 1)
    after = min(round(max(0.0, stop - length) * scale), count - 1 - before)
    first = max(0, int(start + 0.5))
    shown = slice(first, min(length, max(first + 1, int(stop + 0.5))))
    return shown, count - before - after, (before, after)
