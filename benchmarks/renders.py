"""Pictures whose alpha and colours are known exactly, since they are composed here: nine kinds of subject.

A scene is drawn as an alpha map (at twice the size, then averaged) and subject colours, and composed over a
background: I = round(a F + (1 - a) B). Whatever the drawing is like, a, F and B are then the truth of I.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Canvas = NDArray[np.uint8]
OVERSAMPLING = 2
EXAMPLES = Path(__file__).parent.parent / "examples"


@dataclass(frozen=True)
class Render:
    """`photo`, `foreground` and `background` are H x W x 3, `alpha` H x W; `name` is kind, background and size."""

    name: str
    kind: str
    photo: Pixels
    alpha: Pixels
    foreground: Pixels
    background: Pixels


def blend(foreground: Pixels, alpha: Pixels, background: Pixels) -> Pixels:
    """Straight alpha in floating point, rounded to the nearest level."""
    a = alpha[..., None].astype(np.float32) / 255
    return np.rint(a * foreground + (1 - a) * background).astype(np.uint8)


def _ellipse(canvas: Canvas, x: float, y: float, rx: float, ry: float, value: int = 255) -> None:
    h, w = canvas.shape
    cv2.ellipse(canvas, (int(x * w), int(y * h)), (int(rx * w), int(ry * h)), 0, 0, 360, value, -1, cv2.LINE_AA)


def _strands(canvas: Canvas, rng: np.random.Generator, count: int, length: float, curl: float) -> None:
    """Thin curved lines that start on an ellipse and run outwards."""
    h, w = canvas.shape
    for _ in range(count):
        angle = rng.uniform(np.pi, 2 * np.pi) if curl > 0.3 else rng.uniform(0, 2 * np.pi)
        at = np.array([0.5 + 0.2 * np.cos(angle), 0.5 + 0.27 * np.sin(angle)])
        points = [at]
        for _ in range(12):
            angle += rng.normal(0, curl)
            at = at + length / 12 * rng.uniform(0.6, 1.2) * np.array([np.cos(angle), np.sin(angle)])
            points.append(at)
        line = (np.array(points) * (w, h)).astype(np.int32)
        cv2.polylines(canvas, [line], False, int(rng.integers(120, 256)), max(1, w // 1500), cv2.LINE_AA)


def _hair(canvas: Canvas, rng: np.random.Generator) -> None:
    _ellipse(canvas, 0.5, 0.5, 0.2, 0.28)
    _ellipse(canvas, 0.5, 1.0, 0.34, 0.3)
    _strands(canvas, rng, 1500, 0.16, 0.35)


def _fur(canvas: Canvas, rng: np.random.Generator) -> None:
    _ellipse(canvas, 0.5, 0.5, 0.21, 0.28)
    _strands(canvas, rng, 5000, 0.05, 0.2)


def _glass(canvas: Canvas, _: np.random.Generator) -> None:
    h, w = canvas.shape
    outline = np.array([[0.3, 0.15], [0.7, 0.15], [0.6, 0.75], [0.4, 0.75]])
    cv2.fillPoly(canvas, [(outline * (w, h)).astype(np.int32)], 90, cv2.LINE_AA)
    cv2.polylines(canvas, [(outline * (w, h)).astype(np.int32)], True, 230, w // 120, cv2.LINE_AA)
    _ellipse(canvas, 0.42, 0.4, 0.015, 0.12, 200)
    _ellipse(canvas, 0.5, 0.82, 0.18, 0.06, 255)


def _smoke(canvas: Canvas, rng: np.random.Generator) -> None:
    h, w = canvas.shape
    total = np.zeros((h, w), np.float32)
    for octave in range(2, 7):
        noise = rng.random((2**octave, 2**octave), dtype=np.float32)
        total += cv2.resize(noise, (w, h), interpolation=cv2.INTER_CUBIC) / 2 ** (octave - 2)
    y, x = np.mgrid[:h, :w].astype(np.float32) / np.float32([h, w])[:, None, None]
    envelope = np.exp(-(((x - 0.5) / 0.18) ** 2) - ((y - 0.45) / 0.28) ** 2)
    canvas[:] = np.clip(255 * envelope * np.clip(total / total.max() * 1.8 - 0.4, 0, 0.85), 0, 255)
    _ellipse(canvas, 0.5, 0.8, 0.12, 0.1)


def _text(canvas: Canvas, _: np.random.Generator) -> None:
    h, w = canvas.shape
    for row, word in enumerate(("Straight", "alpha", "& 1 2 3")):
        cv2.putText(
            canvas, word, (int(0.12 * w), int((0.35 + 0.2 * row) * h)), cv2.FONT_HERSHEY_TRIPLEX, w / 260, 255,
            w // 120, cv2.LINE_AA,
        )  # fmt: skip


def _wires(canvas: Canvas, rng: np.random.Generator) -> None:
    h, w = canvas.shape
    for _ in range(40):
        ends = (rng.random((2, 2)) * (0.6, 0.6) + 0.2) * (w, h)
        cv2.line(canvas, *[tuple(int(v) for v in end) for end in ends], 255, max(1, w // 700), cv2.LINE_AA)
    cv2.rectangle(canvas, (int(0.2 * w), int(0.2 * h)), (int(0.8 * w), int(0.8 * h)), 255, w // 60, cv2.LINE_AA)


def _holes(canvas: Canvas, _: np.random.Generator) -> None:
    _ellipse(canvas, 0.5, 0.5, 0.32, 0.38)
    for i in range(7):
        for j in range(7):
            _ellipse(canvas, 0.29 + 0.07 * i, 0.25 + 0.083 * j, 0.004 + 0.003 * i, 0.004 + 0.004 * i, 0)


def _product(canvas: Canvas, _: np.random.Generator) -> None:
    h, w = canvas.shape
    cv2.rectangle(canvas, (int(0.33 * w), int(0.35 * h)), (int(0.67 * w), int(0.9 * h)), 255, -1, cv2.LINE_AA)
    cv2.rectangle(canvas, (int(0.44 * w), int(0.12 * h)), (int(0.56 * w), int(0.36 * h)), 255, -1, cv2.LINE_AA)
    _ellipse(canvas, 0.5, 0.36, 0.17, 0.08)


def _drawing(canvas: Canvas, _: np.random.Generator) -> None:
    h, w = canvas.shape
    angles = np.arange(20) * np.pi / 10
    radii = np.where(np.arange(20) % 2, 0.18, 0.38)
    star = np.stack([0.5 + radii * np.sin(angles), 0.5 - radii * np.cos(angles)], 1)
    cv2.fillPoly(canvas, [(star * (w, h)).astype(np.int32)], 255, cv2.LINE_AA)


KINDS: dict[str, Callable[[Canvas, np.random.Generator], None]] = {
    "hair": _hair,
    "fur": _fur,
    "glass": _glass,
    "smoke": _smoke,
    "text": _text,
    "wires": _wires,
    "holes": _holes,
    "product": _product,
    "drawing": _drawing,
}
# subject's two colours and the plain background's, RGB
COLOURS = {
    "hair": ((70, 42, 24), (168, 110, 70), (200, 210, 225)),
    "fur": ((190, 140, 90), (240, 215, 180), (40, 90, 60)),
    "glass": ((205, 225, 235), (240, 250, 255), (120, 60, 50)),
    "smoke": ((215, 215, 220), (250, 250, 250), (20, 30, 60)),
    "text": ((200, 30, 40), (230, 60, 40), (245, 240, 225)),
    "wires": ((30, 30, 35), (90, 90, 100), (235, 235, 235)),
    "holes": ((180, 150, 60), (230, 200, 110), (60, 80, 130)),
    "product": ((20, 110, 90), (60, 190, 150), (255, 255, 255)),
    "drawing": ((250, 190, 20), (255, 220, 80), (90, 150, 220)),
}


def _backdrop(name: str, size: tuple[int, int]) -> Pixels:
    """An example photo, out of focus as backgrounds mostly are, at height x width."""
    image = cv2.cvtColor(cv2.imread(str(EXAMPLES / name)), cv2.COLOR_BGR2RGB)
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)
    return cv2.GaussianBlur(image, (0, 0), size[1] / 250).astype(np.uint8)


def render(kind: str, background: str, size: tuple[int, int], seed: int = 0) -> Render:
    """One scene at height x width; `background` is "photo" or "plain"."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    height, width = size
    canvas = np.zeros((height * OVERSAMPLING, width * OVERSAMPLING), np.uint8)
    KINDS[kind](canvas, rng)
    alpha = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    dark, light, plain = (np.array(colour, np.float32) for colour in COLOURS[kind])
    texture = cv2.resize(rng.random((height // 16, width // 16), dtype=np.float32), (width, height))[..., None]
    foreground = np.rint(dark + (light - dark) * texture).astype(np.uint8)
    if background == "plain":
        under = np.broadcast_to(plain.astype(np.uint8), foreground.shape).copy()
    else:
        under = _backdrop("dandelion.jpg", size)
    megapixels = round(height * width / 1e6)
    return Render(
        f"{kind}, {background}, {megapixels} MP", kind, blend(foreground, alpha, under), alpha, foreground, under
    )


def renders(sizes: tuple[tuple[int, int], ...]) -> Iterator[Render]:
    """Every kind on both backgrounds at every size (height, width)."""
    for size in sizes:
        for kind in KINDS:
            for background in ("photo", "plain"):
                yield render(kind, background, size)
