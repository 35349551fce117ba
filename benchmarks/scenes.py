"""Photos with subjects whose alpha is known, since they are composed here: the examples' subjects on other backgrounds.

A subject is cut out of its photo by the refined matte, which is then its alpha by definition, and composed over a
plain or a busy background, as one of several or alone: I = round(a F + (1 - a) B), saved as a JPEG as photos are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from renders import Pixels, blend

from background_remover import Cutout
from background_remover.photos import open_photo

ROOT = Path(__file__).parent.parent
SHAPE = 900, 1200  # height, width in pixels
QUALITY = 88  # of the JPEG
CUT = 0.05  # of a photo's side along which a subject that leaves it there is cut off
PLAIN = ((250, 250, 250), (95, 110, 130), (196, 178, 150))
# What an example is of, in the model card's classes.
CLASSES = {
    "person.jpg": "people",
    "gamepad.jpg": "objects",
    "brushes.jpg": "objects",
    "drink.jpg": "objects",
    "lavender.jpg": "objects",
    "book.jpg": "text",
    "coffee.jpg": "objects",
    "car.jpg": "objects",
    "dog.jpg": "animals",
    "chameleon.jpg": "animals",
    "otter.jpg": "animals",
    "cat.jpg": "animals",
    "sunflower.jpg": "plants",
    "drawing.png": "drawings",
}
BACKDROPS = ("coffee.jpg", "otter.jpg", "lavender.jpg", "dandelion.jpg", "car.jpg")


@dataclass(frozen=True)
class Scene:
    """`photo` is H x W x 3; `alphas` are those of its subjects, H x W each, without what is hidden by the next."""

    name: str
    kind: str  # its class
    background: str  # "plain" or "busy"
    photo: Pixels
    alphas: tuple[Pixels, ...]
    alone: tuple[Pixels, ...] = ()  # of several subjects each on the same background alone

    @property
    def alpha(self) -> Pixels:
        """Of all subjects together."""
        return np.asarray(np.max(self.alphas, axis=0), np.uint8)


@cache
def subject(name: str) -> Cutout:
    """An example's subject, cropped to it."""
    photo = open_photo(ROOT / "examples" / name)
    matte = np.ascontiguousarray(open_photo(ROOT / "tests" / "data" / "mattes" / f"{name}.png").rgb[..., 0])
    large = np.asarray(cv2.resize(matte, photo.shape[::-1], interpolation=cv2.INTER_LINEAR), np.uint8)
    return Cutout.from_matte(photo, large, refine=True).cleaned().framed(0)


def backdrop(rng: np.random.Generator, kind: str) -> Pixels:
    """A background: one colour with a little light and noise, or an example out of focus."""
    height, width = SHAPE
    if kind == "plain":
        light = np.linspace(1.0, rng.uniform(0.8, 1.0), width)[np.newaxis, :, np.newaxis]
        colour = np.array(PLAIN[rng.integers(len(PLAIN))]) * light
        return np.clip(colour + rng.normal(0, 2, (height, width, 3)), 0, 255).astype(np.uint8)
    photo = open_photo(ROOT / "examples" / BACKDROPS[rng.integers(len(BACKDROPS))]).rgb
    large = cv2.resize(photo, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(cv2.GaussianBlur(large, (0, 0), width / rng.uniform(40, 120)), np.uint8)


def put(photo: Pixels, cutout: Cutout, box: tuple[int, int, int, int]) -> tuple[Pixels, Pixels]:
    """A photo with a subject in a box (left, top, width, height), and the subject's alpha there."""
    left, top, width, height = box
    colours, small = (
        np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        for pixels in (cutout.foreground, cutout.alpha)
    )
    inside = slice(top, top + height), slice(left, left + width)
    alpha, under = np.zeros(SHAPE, np.uint8), photo.copy()
    alpha[inside] = small
    under[inside] = blend(colours, small, photo[inside])
    return under, alpha


def compose(names: tuple[str, ...], kind: str, background: str, seed: int, share: float | None = None) -> Scene:
    """Examples' subjects side by side, which may overlap a little; `share` is that of the first in the frame."""
    rng = np.random.default_rng([seed, zlib.crc32(repr(names).encode())])
    clean = backdrop(rng, background)
    height, width = SHAPE
    room = width // len(names)
    photo, alphas, alone = clean, list[Pixels](), list[Pixels]()
    for number, name in enumerate(names):
        cutout = subject(name)
        rows, columns = cutout.alpha.shape
        most = min(room * rng.uniform(0.7, 1.02) / columns, height * rng.uniform(0.55, 0.9) / rows)
        if share and number == 0:
            most = min(most, float(np.sqrt(share * height * width / (cutout.alpha > 127).sum())))
        size = max(8, int(columns * most)), max(8, int(rows * most))
        left = int(np.clip(number * room + (room - size[0]) * rng.random(), 0, width - size[0]))
        stands = cutout.cut_off or (cutout.alpha[-1] > 127).mean() > CUT  # its photo ends there
        top = height - size[1] - (0 if stands else int((height - size[1]) * rng.uniform(0.05, 0.5)))
        photo, alpha = put(photo, cutout, (left, top, *size))
        alphas = [np.asarray(np.rint(before * (1 - alpha / 255)), np.uint8) for before in alphas] + [alpha]
        alone.append(put(clean, cutout, (left, top, *size))[0])
    title = f"{' and '.join(Path(name).stem for name in names)}, {background}"
    shown = tuple(as_jpeg(picture) for picture in alone) if len(names) > 1 else ()
    return Scene(f"{title}, {seed}", kind, background, as_jpeg(photo), tuple(alphas), shown)


def as_jpeg(photo: Pixels) -> Pixels:
    """A photo after it was saved and opened again."""
    data = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]).astype(np.uint8)


def single() -> Iterator[Scene]:
    """Each subject on plain and busy backgrounds, and a person with things before her."""
    for seed in range(2):
        for background in ("plain", "busy"):
            for name, kind in CLASSES.items():
                yield compose((name,), kind, background, seed)
    for seed, thing in enumerate(("gamepad.jpg", "coffee.jpg", "lavender.jpg", "brushes.jpg")):
        yield held(thing, "busy" if seed % 2 else "plain", seed)


def held(thing: str, background: str, seed: int) -> Scene:
    """The person with a thing before her."""
    rng = np.random.default_rng(seed)
    person, other = subject("person.jpg"), subject(thing)
    height, width = SHAPE
    tall = int(0.85 * height)
    wide = int(tall * person.alpha.shape[1] / person.alpha.shape[0])
    photo, first = put(backdrop(rng, background), person, ((width - wide) // 2, height - tall, wide, tall))
    side = int(wide * 0.45)
    rows = int(side * other.alpha.shape[0] / other.alpha.shape[1])
    photo, second = put(
        photo, other, ((width - side) // 2, height - int(0.3 * height) - rows // 2, side, min(rows, 500))
    )
    alpha = np.asarray(np.rint(255 - (255 - first) * (1 - second / 255)), np.uint8)
    return Scene(
        f"person with {Path(thing).stem}, {background}", "people with objects", background, as_jpeg(photo), (alpha,)
    )


def several() -> Iterator[Scene]:
    """Two or three subjects in a photo."""
    names = [*CLASSES]
    for seed in range(20):
        rng = np.random.default_rng(1000 + seed)
        chosen = tuple(str(name) for name in rng.choice(names, 3 if seed % 4 == 3 else 2, replace=False))
        yield compose(chosen, "several subjects", "busy" if seed % 2 else "plain", seed)


def small() -> Iterator[Scene]:
    """A subject of 3 % of the frame beside a larger one."""
    names = [*CLASSES]
    for seed in range(20):
        rng = np.random.default_rng(2000 + seed)
        chosen = tuple(str(name) for name in rng.choice(names, 2, replace=False))
        yield compose(chosen, "a small subject", "busy" if seed % 2 else "plain", seed, share=0.03)
