"""Straight alpha over backgrounds, and the backgrounds."""

from __future__ import annotations

from numbers import Real
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from background_remover.colours import Colour, convert
from utilities import PhotoError

Pixels = NDArray[np.uint8]
Colours = NDArray[Any]  # H x W x 3, uint8 or uint16

GREYS = 128, 255, 0  # to put behind a photo that is transparent; of equals the first
SEEN = 250_000  # pixels that decide which
CHUNK = 1 << 18  # pixels that are laid over at a time, since partial ones take 50 bytes each meanwhile
BLUR = 0.02  # standard deviation of the blurred background, as a share of the longer side
BLURS = 0.001, 0.2  # least and most of it
BLUR_PIXELS = 10  # standard deviation on the copy that is blurred, which is made as small as that allows


def composite(
    foreground: Colours, alpha: Pixels, background: Colours | Colour, shadow: Pixels | None = None
) -> Colours:
    """Straight alpha over a background (H x W x 3, or one colour): round((a F + (255 - a) B) / 255), exactly.

    With a `shadow`, H x W, 255 where it takes all light, B is (255 - s) B / 255, and nothing else is rounded.
    The colours have 8 bits or 16, those of the background as many as the foreground's; alpha and shadow have 8.
    """
    out = np.empty_like(foreground)
    out[...] = background
    rows = max(1, CHUNK // alpha.shape[1])
    for start in range(0, alpha.shape[0], rows):
        band = slice(start, start + rows)
        shade = None if shadow is None or not shadow[band].any() else shadow[band]
        _lay_over(foreground[band], alpha[band], out[band], shade)
    return out


def _lay_over(foreground: Colours, alpha: Pixels, out: Colours, shadow: Pixels | None) -> None:
    """The same on what `out` has already."""
    partial = np.flatnonzero((alpha != 0) & (alpha != 255))
    pixels = out.reshape(-1, 3)
    a = alpha.reshape(-1, 1)[partial].astype(np.uint32)
    if shadow is None:
        edges = (a * foreground.reshape(-1, 3)[partial] + (255 - a) * pixels[partial] + 127) // 255
    else:
        light = (255 - a) * (255 - shadow.reshape(-1, 1)[partial].astype(np.uint32))
        edges = (255 * a * foreground.reshape(-1, 3)[partial] + light * pixels[partial] + 32512) // 65025
        left = cv2.merge([cv2.bitwise_not(shadow).astype(out.dtype)] * 3)
        cv2.multiply(out, left, dst=out, scale=1 / 255)
    cv2.copyTo(foreground, (alpha == 255).view(np.uint8), out)
    pixels[partial] = edges


def with_alpha(rgb: Colours, alpha: Pixels, shadow: Pixels | None = None) -> Colours:
    """H x W x 4 with straight alpha, in 8 or 16 bits as `rgb`.

    Colours under alpha 0 are zeroed, so that no background leaks or weighs. A `shadow`, H x W, is black of that alpha
    behind the rest: alpha becomes A = a + (1 - a) s, and the colours a F / A.
    """
    rgba = np.empty((*alpha.shape, 4), rgb.dtype)
    own = alpha if rgb.dtype == np.uint8 else widen(alpha)
    rows = max(1, CHUNK // alpha.shape[1])
    for start in range(0, alpha.shape[0], rows):
        band = slice(start, start + rows)
        shown = (alpha[band] > 0).view(np.uint8)
        # By planes, which are vectorised: OpenCV's mixing of three channels with one takes twice as long.
        cv2.merge([*(plane * shown for plane in cv2.split(rgb[band])), own[band]], dst=rgba[band])
        if shadow is not None:
            _put_behind(rgba[band], alpha[band], shadow[band])
    return rgba


def _put_behind(rgba: Colours, alpha: Pixels, shadow: Pixels) -> None:
    """A shadow behind H x W x 4 with that alpha."""
    most = int(np.iinfo(rgba.dtype).max)
    whole = np.maximum(alpha, shadow)  # as it is where alpha is 0 or 255
    cv2.mixChannels([whole if most == 255 else widen(whole)], [rgba], [0, 3])
    partial = np.flatnonzero((alpha != 0) & (alpha != 255) & (shadow != 0))
    a, s = (pixels.reshape(-1, 1)[partial].astype(np.uint32) for pixels in (alpha, shadow))
    both = (most * (65025 - (255 - a) * (255 - s)) + 32512) // 65025
    pixels = rgba.reshape(-1, 4)
    colours = (most // 255 * a * pixels[partial, :3] + both // 2) // both
    pixels[partial] = np.concatenate((colours, both), axis=1)


def widen(pixels: Pixels) -> NDArray[np.uint16]:
    """8 bits as 16: 255 becomes 65535."""
    return pixels * np.uint16(257)


def contrasting_grey(rgb: Pixels, alpha: Pixels) -> int:
    """Mid-grey, white or black, 128, 255 or 0: that from which most of what is opaque differs most.

    Of each pixel the channel counts that differs most, and of the pixels, so that no part of a subject vanishes, the
    quarter that differs least.
    """
    step = max(1, round((alpha.size / SEEN) ** 0.5))
    rgb, alpha = rgb[::step, ::step], alpha[::step, ::step]
    shown = rgb[alpha >= max(1, alpha.max() // 2)].astype(np.int16)
    if not len(shown):
        return GREYS[0]
    return max(GREYS, key=lambda grey: float(np.percentile(np.abs(shown - grey).max(1), 25)))


def fit_background(rgb: Pixels, shape: tuple[int, int], source: bytes | None, target: bytes | None) -> Pixels:
    """An image that fills `shape` (height, width), cut centrally, from one colour profile to another (None: sRGB)."""
    image = ImageOps.fit(Image.fromarray(rgb), shape[::-1], Image.Resampling.BICUBIC)
    return np.asarray(convert(image, source, target))


def check_blur(blur: float) -> None:
    """Raises PhotoError for a blur outside BLURS."""
    if not isinstance(blur, Real) or not BLURS[0] <= blur <= BLURS[1]:
        raise PhotoError(f"A blur of {blur!r} can't be made: choose one from {BLURS[0]} to {BLURS[1]}.")


def blur_background(rgb: Pixels, alpha: Pixels, blur: float = BLUR) -> Pixels:
    """The photo's own background, blurred; the subject has no part in it, so that it casts no halo.

    `blur` is the standard deviation as a share of the longer side, within BLURS. Raises PhotoError.
    """
    check_blur(blur)
    height, width = alpha.shape
    longer = max(height, width)
    scale = min(1.0, BLUR_PIXELS / (blur * longer))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    weight = cv2.resize(255 - alpha, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255 + 1e-4
    colours = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    sigma = blur * longer * scale
    side = 2 * int(3 * sigma) + 3
    layers = cv2.GaussianBlur(
        np.dstack((colours * weight[..., np.newaxis], weight)), (side, side), sigma, borderType=cv2.BORDER_REPLICATE
    )
    blurred = np.clip(np.rint(layers[..., :3] / layers[..., 3:]), 0, 255).astype(np.uint8)
    large: Pixels = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC)
    return large
