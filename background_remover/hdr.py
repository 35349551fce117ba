"""HDR pictures, PQ or HLG (ITU-R BT.2100), as sRGB: white at 203 cd/m2, and what is brighter rolled off above it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from background_remover.profiles import PQ, PRIMARIES, Cicp, to_xyz

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

WHITE = 203.0  # cd/m2: diffuse white in HDR, and what white is in sRGB (ITU-R BT.2408, table 1)
# The brightest that still differs from white, one stop above it. The roll-off must darken white to make room for what
# is brighter: with this much room it stays at 244 of 255 or more, with that for 1000 cd/m2 it would be at 228.
PEAK = 2 * WHITE
HLG_PEAK, HLG_GAMMA = 1000.0, 1.2  # cd/m2 and the system gamma of HLG's reference display (BT.2100, table 5)
STRIPE = 1 << 20  # pixels that are in floats at a time
M1, M2 = 2610 / 16384, 2523 / 32  # of PQ (BT.2100, table 4)
C1, C2, C3 = 3424 / 4096, 2413 / 128, 2392 / 128


def tone_down(rgb: NDArray[Any], colours: Cicp) -> Pixels:
    """HDR pixels, H x W x 3 in 8 or 16 bits, as sRGB in 8.

    The largest of a pixel's red, green and blue goes through the EETF of ITU-R BT.2390-10 (5.4.1), and the others by
    the same factor, so that hues stay. Up to about 140 cd/m2, and where the picture has nothing above white, that
    changes nothing: 18 % grey is the 118 that it is in sRGB. Of BT.2446's methods A darkens all greys and C makes them
    brighter, for other viewing conditions.
    """
    light = _light_table(colours.transfer, np.iinfo(rgb.dtype).max)
    step = max(1, int((rgb.shape[0] * rgb.shape[1] / STRIPE) ** 0.5))
    peak = float(np.percentile(_light(rgb[::step, ::step], light, colours).max(2), 99.9))
    levels = np.linspace(0, 1, 4096)
    gains = eetf(levels, pq_from_light(np.clip(peak, WHITE, PEAK))) / np.maximum(light_from_pq(levels), 1e-9)
    gains[0] = gains[1]
    to_srgb = np.linalg.solve(to_xyz(PRIMARIES[1]), to_xyz(PRIMARIES[colours.primaries])).astype(np.float32)
    out = np.empty(rgb.shape, np.uint8)
    rows = max(1, STRIPE // rgb.shape[1])
    for top in range(0, rgb.shape[0], rows):
        linear = _light(rgb[top : top + rows], light, colours)
        gain = np.interp(linear.max(2), light_from_pq(levels), gains).astype(np.float32) / np.float32(WHITE)
        shown: Any = cv2.transform(linear * gain[..., np.newaxis], to_srgb)
        out[top : top + rows] = _srgb_bytes(shown)
    return out


def eetf(levels: NDArray[np.float64], peak: float) -> NDArray[np.float64]:
    """Of PQ levels, 0..1, the light in cd/m2 on a display whose white is WHITE, if the brightest is `peak` (BT.2390).

    Both blacks are 0, so of the method only the knee and its spline are left.
    """
    white = pq_from_light(WHITE) / peak
    knee = 1.5 * white - 0.5
    x = np.minimum(levels / peak, 1)
    t = np.maximum(x - knee, 0) / max(1 - knee, 1e-9)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * white
    return light_from_pq(np.where(x < knee, x, spline) * peak)


def light_from_pq(level: Any) -> NDArray[np.float64]:
    """cd/m2 of PQ levels in 0..1 (SMPTE ST 2084)."""
    root = np.asarray(level, np.float64) ** (1 / M2)
    light: NDArray[np.float64] = 10_000 * (np.maximum(root - C1, 0) / (C2 - C3 * root)) ** (1 / M1)
    return light


def pq_from_light(light: Any) -> float:
    """The PQ level, 0..1, of so many cd/m2."""
    power = (light / 10_000) ** M1
    return float(((C1 + C2 * power) / (1 + C3 * power)) ** M2)


def _light_table(transfer: int, most: int) -> Floats:
    """By number: cd/m2 for PQ, the light of the scene in 0..1 for HLG."""
    level = np.linspace(0, 1, most + 1)
    if transfer == PQ:
        return light_from_pq(level).astype(np.float32)
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(level <= 0.5, level**2 / 3, (np.exp((level - c) / a) + b) / 12).astype(np.float32)


def _light(rgb: NDArray[Any], table: Floats, colours: Cicp) -> Floats:
    """cd/m2 of each channel."""
    light: Floats = table[rgb]
    if colours.transfer == PQ:
        return light
    luminance = light @ to_xyz(PRIMARIES[colours.primaries])[1].astype(np.float32)
    gain: Floats = np.float32(HLG_PEAK) * np.maximum(luminance, 1e-9) ** np.float32(HLG_GAMMA - 1)
    return light * gain[..., np.newaxis]


def _srgb_bytes(linear: Floats) -> Pixels:
    linear = np.clip(linear, 0, 1)
    coded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** np.float32(1 / 2.4) - 0.055)
    rounded: Pixels = np.rint(255 * coded).astype(np.uint8)
    return rounded
