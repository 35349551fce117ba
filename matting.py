"""The subject's colours at the photo's full resolution, where it is partly transparent.

A pixel of hair shows I = a F + (1 - a) B: the subject's colour F mixed with the old background's B. Pasted as it is,
it carries B onto every new background. `estimate_foreground` finds F.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

SIDE = 320  # pixels: longer side of the copy on which F and B are solved for
SMALL = 32  # pixels: levels up to this side get more iterations, since all that follows builds on them
SMALL_ITERATIONS, ITERATIONS = 12, 8
EDGE_WEIGHT = 0.1  # how firmly neighbours are held together where alpha changes between them
KNOWN = 0.98  # alpha from which a pixel shows F alone, and below 1 minus which it shows B alone
NOISE = 1e-7  # variance of what the mixing equation leaves unexplained, in squares of 0..1
SMOOTHNESS = 1e-4, 0.2  # least and most of how firmly neighbours are held together everywhere
DAMPING = 0.03  # keeps what is left of a pixel's equation from being blown up where alpha is near 0
ROWS = 128  # rows of full size that a thread works on at a time, which bounds the memory


def estimate_foreground(photo: Pixels, alpha: Pixels) -> Pixels:
    """The subject's colours, H x W x 3, where `alpha` (H x W, straight) is partial; the photo's own elsewhere.

    Minimises (a F + (1 - a) B - I)^2 plus smoothness of F and B, coarse to fine (Germer et al., "Fast Multi-Level
    Foreground Estimation", ICPR 2020), on a small copy. F and B are each held together as firmly as their known
    pixels are alike, so that a plain background is recovered exactly and a busy one is not smeared. At full size
    each pixel's F then takes up what is left of its own equation.
    """
    if not ((alpha > 0) & (alpha < 255)).any():
        return photo
    height, width = alpha.shape
    scale = min(1.0, SIDE / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    image, matte = ((_resize(p, small, cv2.INTER_AREA) / 255).astype(np.float32) for p in (photo, alpha))
    foreground, background = (
        _resize(np.rint(255 * colours).astype(np.uint8), (width, height), cv2.INTER_LINEAR)
        for colours in _solve(image, matte)
    )
    out = photo.copy()

    def fit(top: int) -> None:
        rows = slice(top, top + ROWS)
        flat = alpha[rows].reshape(-1)
        at = np.flatnonzero((flat > 0) & (flat < 255))
        i, f, b = (np.take(pixels[rows].reshape(-1, 3), at, axis=0) for pixels in (photo, foreground, background))
        out[rows].reshape(-1, 3)[at] = _fit(i, np.take(flat, at), f, b)

    with ThreadPoolExecutor() as pool:
        list(pool.map(fit, range(0, height, ROWS)))
    return out


def _fit(photo: Pixels, alpha: Pixels, foreground: Pixels, background: Pixels) -> Pixels:
    """F near the smooth `foreground` such that a F + (1 - a) B comes close to I; all N x 3, `alpha` N."""
    a = (alpha.astype(np.float32) / 255)[:, np.newaxis]
    f, rest = foreground.astype(np.float32), background.astype(np.float32)
    rest *= a - 1
    rest += photo
    rest -= a * f
    rest *= a / (a * a + DAMPING)
    f += rest
    return np.rint(np.clip(f, 0, 255, out=f), out=f).astype(np.uint8)


def _solve(image: Floats, alpha: Floats) -> tuple[Floats, Floats]:
    """F and B, h x w x 3 in 0..1, from one pixel to the size of `image`."""
    height, width = alpha.shape
    levels = int(np.ceil(np.log2(max(height, width, 2))))
    smoothness = _smoothness(image, alpha >= KNOWN), _smoothness(image, alpha <= 1 - KNOWN)
    colours = (image.reshape(-1, 3).mean(0).reshape(1, 1, 3),) * 2
    for level in range(levels + 1):
        size = max(1, round(width ** (level / levels))), max(1, round(height ** (level / levels)))
        i, a = _resize(image, size, cv2.INTER_AREA), _resize(alpha, size, cv2.INTER_AREA)
        f, b = (_resize(colour, size, cv2.INTER_NEAREST) for colour in colours)
        colours = _iterate(i, a, (f, b), smoothness, SMALL_ITERATIONS if max(size) <= SMALL else ITERATIONS)
    return colours


def _iterate(
    image: Floats, alpha: Floats, colours: tuple[Floats, Floats], smoothness: tuple[float, float], iterations: int
) -> tuple[Floats, Floats]:
    """Jacobi iterations of each pixel's two equations in its F and B, for given neighbours."""
    foreground, background = colours
    edges = [EDGE_WEIGHT * np.abs(alpha - near)[..., np.newaxis] for near in _neighbours(alpha)]
    a = alpha[..., np.newaxis]
    ff = a * a + sum(edges) + 4 * smoothness[0]
    bb = (1 - a) ** 2 + sum(edges) + 4 * smoothness[1]
    fb = a * (1 - a)
    determinant = ff * bb - fb * fb
    for _ in range(iterations):
        right_f, right_b = a * image, (1 - a) * image
        for edge, near_f, near_b in zip(edges, _neighbours(foreground), _neighbours(background), strict=True):
            right_f += (edge + smoothness[0]) * near_f
            right_b += (edge + smoothness[1]) * near_b
        foreground = np.clip((bb * right_f - fb * right_b) / determinant, 0, 1).astype(np.float32)
        background = np.clip((ff * right_b - fb * right_f) / determinant, 0, 1).astype(np.float32)
    return foreground, background


def _smoothness(image: Floats, known: NDArray[np.bool_]) -> float:
    """How firmly neighbours are held together: the inverse of how much the known ones differ."""
    down = ((image[1:] - image[:-1]) ** 2)[known[1:] & known[:-1]]
    across = ((image[:, 1:] - image[:, :-1]) ** 2)[known[:, 1:] & known[:, :-1]]
    differences = np.concatenate((down.reshape(-1), across.reshape(-1)))
    if not len(differences):
        return SMOOTHNESS[0]
    return float(np.clip(NOISE / max(float(differences.mean()), 1e-12), *SMOOTHNESS))


def _neighbours(values: Floats) -> list[Floats]:
    """The four neighbours of each pixel; at the border, the pixel itself."""
    around: NDArray[Any] = cv2.copyMakeBorder(values, 1, 1, 1, 1, cv2.BORDER_REPLICATE)
    return [around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]]


def _resize(values: NDArray[Any], size: tuple[int, int], how: int) -> NDArray[Any]:
    """To (width, height)."""
    resized: NDArray[Any] = cv2.resize(values, size, interpolation=how)
    return resized
