"""Pictures whose alpha is known exactly, since they are composed here.

A scene is drawn as an alpha map (at twice the size, then averaged) and subject colours, and composed over a
background: I = round(a F + (1 - a) B). Whatever the drawing is like, a, F and B are then the truth of I. `renders` are
nine kinds of subject like that. `snapshots` are more kinds, and subjects cut from the example photos, as a camera would
have taken them: with its blur, noise, sharpening and JPEG.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from background_remover.matting import estimate_foreground

Pixels = NDArray[np.uint8]
Canvas = NDArray[np.uint8]
OVERSAMPLING = 2
ROOT = Path(__file__).parent.parent
EXAMPLES, MATTES = ROOT / "examples", ROOT / "tests" / "data" / "mattes"


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


def _feather(canvas: Canvas, rng: np.random.Generator) -> None:
    w = canvas.shape[1]
    for along in np.linspace(0.0, 1.0, 260):
        x, y = 0.2 + 0.6 * along, 0.75 - 0.5 * along
        for side in (-1, 1):
            reach = 0.16 * np.sin(np.pi * min(1.0, along + 0.12)) * rng.uniform(0.75, 1)
            tip = (x + reach * (0.4 + 0.5 * side), y - reach * (0.7 - 0.9 * side))
            _line(canvas, (x, y), tip, w // 500, int(rng.integers(150, 256)))
    _line(canvas, (0.12, 0.82), (0.8, 0.25), w // 110)


def _lace(canvas: Canvas, _: np.random.Generator) -> None:
    h, w = canvas.shape
    for at in np.arange(0.2, 0.81, 0.022):
        _line(canvas, (at, 0.2), (1.0 - at, 0.8), w // 450)
        _line(canvas, (0.2, at), (0.8, at), w // 450)
    for at in np.arange(0.25, 0.8, 0.1):
        _ellipse(canvas, at, 0.8, 0.05, 0.06)
        _ellipse(canvas, at, 0.8, 0.02, 0.025, 0)
    cv2.rectangle(canvas, (int(0.2 * w), int(0.14 * h)), (int(0.8 * w), int(0.22 * h)), 255, -1)


def _leaves(canvas: Canvas, rng: np.random.Generator) -> None:
    h, w = canvas.shape
    for _ in range(26):
        tip = (rng.uniform(0.15, 0.85), rng.uniform(0.08, 0.6))
        _line(canvas, (0.5, 0.75), tip, w // 220)
        for along in rng.uniform(0.45, 1.05, 5):
            at = (int((0.5 + (tip[0] - 0.5) * along) * w), int((0.75 + (tip[1] - 0.75) * along) * h))
            size = (int(rng.uniform(0.015, 0.05) * w), int(rng.uniform(0.006, 0.018) * w))
            cv2.ellipse(canvas, at, size, rng.uniform(0, 180), 0, 360, 255, -1, cv2.LINE_AA)
    cv2.rectangle(canvas, (int(0.42 * w), int(0.74 * h)), (int(0.58 * w), int(0.93 * h)), 255, -1)


def _spokes(canvas: Canvas, _: np.random.Generator) -> None:
    h, w = canvas.shape
    for x in (0.28, 0.72):
        cv2.circle(canvas, (int(x * w), int(0.62 * h)), int(0.19 * w), 255, w // 70, cv2.LINE_AA)
        for angle in np.arange(0, 2 * np.pi, np.pi / 14):
            _line(canvas, (x, 0.62), (x + 0.19 * np.cos(angle), 0.62 + 0.19 * w / h * np.sin(angle)), w // 600)
    for path in (
        ((0.64, 0.22), (0.72, 0.62)),
        ((0.4, 0.22), (0.48, 0.62), (0.66, 0.3), (0.42, 0.3), (0.28, 0.62), (0.48, 0.62)),
    ):
        for start, end in pairwise(path):
            _line(canvas, start, end, w // 70)
    _ellipse(canvas, 0.4, 0.2, 0.06, 0.02)


def _veil(canvas: Canvas, rng: np.random.Generator) -> None:
    w = canvas.shape[1]
    folds = np.clip(110 + 60 * np.sin(np.linspace(0, 40, w) + rng.uniform(0, 6)), 0, 255).astype(np.uint8)
    shape = np.zeros_like(canvas)
    _ellipse(shape, 0.5, 0.62, 0.33, 0.55)
    canvas[:] = np.where(shape > 0, folds, 0)
    _ellipse(canvas, 0.5, 0.32, 0.13, 0.17)
    _ellipse(canvas, 0.5, 0.95, 0.24, 0.45)


def _objects(canvas: Canvas, rng: np.random.Generator) -> None:
    for x in (0.2, 0.5, 0.8):
        _ellipse(canvas, x, rng.uniform(0.35, 0.7), rng.uniform(0.06, 0.12), rng.uniform(0.08, 0.25))
    _ellipse(canvas, 0.35, 0.2, 0.03, 0.03)


def _soft(canvas: Canvas, rng: np.random.Generator) -> None:
    _product(canvas, rng)
    canvas[:] = cv2.GaussianBlur(canvas, (0, 0), canvas.shape[1] / 130)


def _motion(canvas: Canvas, rng: np.random.Generator) -> None:
    _drawing(canvas, rng)
    canvas[:] = cv2.blur(canvas, (canvas.shape[1] // 40, 1))


def _line(
    canvas: Canvas, start: tuple[float, float], end: tuple[float, float], thickness: int, value: int = 255
) -> None:
    h, w = canvas.shape
    a, b = ((int(x * w), int(y * h)) for x, y in (start, end))
    cv2.line(canvas, a, b, value, max(1, thickness), cv2.LINE_AA)


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
MORE_KINDS = KINDS | {
    "feather": _feather,
    "lace": _lace,
    "leaves": _leaves,
    "spokes": _spokes,
    "veil": _veil,
    "objects": _objects,
    "soft": _soft,
    "motion": _motion,
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


# --- as a camera would have taken them -----------------------------------------------------------------


@dataclass(frozen=True)
class Snapshot:
    """`photo` H x W x 3 and its `alpha` H x W; those of the same `base` are variations of one scene."""

    name: str
    base: str
    kind: str
    photo: Pixels
    alpha: Pixels


def snapshots(size: tuple[int, int] = (750, 1000)) -> Iterator[Snapshot]:
    """Every kind of drawing (height x width `size`) three times, and every example's subject on two backgrounds.

    The drawings are coloured by one example photo and lie on another: as they are, out of focus, or with colours so
    close to the background's that they hardly stand out from it. The examples' mattes, whose greys are narrowed so that
    bodies are solid, are taken for true: whatever they are, they are the truth of what is composed here.
    """
    photos = {path.name: _read(path) for path in sorted(EXAMPLES.glob("*.[jp][pn]g"))}
    names = list(photos)
    for kind_number, (kind, draw) in enumerate(MORE_KINDS.items()):
        for variation, blur in enumerate((0.005, 0.008, 0.008)):
            rng = np.random.default_rng([kind_number, variation])
            canvas = np.zeros((size[0] * OVERSAMPLING, size[1] * OVERSAMPLING), np.uint8)
            draw(canvas, rng)
            alpha = cv2.resize(canvas, size[::-1], interpolation=cv2.INTER_AREA)
            ours, theirs = rng.choice(len(names), 2, replace=False)
            foreground, under = _covering(photos[names[ours]], size, 0), _covering(photos[names[theirs]], size, blur)
            if variation == 2:  # both dark, and alike
                foreground, under = (
                    np.rint(0.15 * v + 0.25 * under.mean((0, 1))).astype(np.uint8) for v in (foreground, under)
                )
            photo, alpha = taken(blend(foreground, alpha, under), alpha, rng)
            yield Snapshot(f"{kind} {variation}", kind, "drawn", photo, alpha)
    for number, name in enumerate(names):
        matte = cv2.imread(str(MATTES / f"{name}.png"), cv2.IMREAD_GRAYSCALE).astype(np.float32)
        matte = cv2.resize(matte, photos[name].shape[1::-1], interpolation=cv2.INTER_LINEAR)
        matte = np.clip((matte - 64) * 2, 0, 255).astype(np.uint8)
        foreground = estimate_foreground(photos[name], matte)
        for variation, blur in enumerate((0.005, 0.012)):
            rng = np.random.default_rng([number, variation, 1])
            under = _covering(photos[names[number - rng.integers(1, len(names))]], matte.shape, blur)
            photo, alpha = taken(blend(foreground, matte, under), matte, rng)
            yield Snapshot(f"{Path(name).stem} {variation}", Path(name).stem, "cut", photo, alpha)


def taken(photo: Pixels, alpha: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """A photo as a camera and its owner leave it, and its alpha: another size, blurred, noisy, sharpened, a JPEG."""
    scale = rng.uniform(0.7, 1.3)
    size = round(alpha.shape[1] * scale), round(alpha.shape[0] * scale)
    lens = rng.uniform(0.3, 1.1)
    photo, alpha = (
        cv2.GaussianBlur(
            cv2.resize(v, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC), (0, 0), lens
        )
        for v in (photo, alpha)
    )
    light = photo.astype(np.float32)
    light += rng.normal(0, 1, light.shape) * rng.uniform(0.5, 4) * np.sqrt(light / 255 + 0.1)
    light += rng.uniform(0, 0.8) * (light - cv2.GaussianBlur(light, (0, 0), 1.5))
    light = 255 * np.clip(light / 255, 0, 1) ** rng.uniform(0.8, 1.25)
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))]
    file = cv2.imencode(".jpg", np.rint(light).astype(np.uint8)[..., ::-1], quality)[1]
    return np.ascontiguousarray(cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1]), alpha


def _covering(photo: Pixels, size: tuple[int, int], blur: float) -> Pixels:
    """A photo that fills height x width, blurred by that share of the width."""
    scale = max(size[0] / photo.shape[0], size[1] / photo.shape[1])
    large = cv2.resize(photo, None, fx=scale + 0.01, fy=scale + 0.01, interpolation=cv2.INTER_CUBIC)
    large = large[: size[0], : size[1]]
    return cv2.GaussianBlur(large, (0, 0), blur * size[1]) if blur else large


def _read(path: Path) -> Pixels:
    return np.ascontiguousarray(cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1])
