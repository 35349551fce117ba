"""The pictures of the README, made anew: `make pictures`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from background_remover import BackgroundRemover  # noqa: E402
from background_remover.compositing import composite  # noqa: E402

WIDTH = 1280  # of the gallery, in pixels
BANDS = 3
GAP = 6
BETWEEN = 24  # the gap between two bands
LINK = 1200, 630  # pixels that those ask for who show links
COLOURS = ["#f2c14e", "#4d9078", "#f78154", "#2b59c3", "#b4436c"]


def checkerboard(height: int, width: int) -> np.ndarray:
    """The pattern that stands for transparency, H x W x 3."""
    y, x = np.mgrid[:height, :width] // (max(height, width) // 28)
    return np.repeat(np.where((x + y) % 2, 204, 255).astype(np.uint8)[..., None], 3, axis=2)


def photos() -> list[Path]:
    """The examples in the order of their credits: the clearest first."""
    given = (ROOT / "examples" / "CREDITS.md").read_text()
    return [ROOT / "examples" / name for name in re.findall(r"^\| `(.+?)`", given, re.MULTILINE)]


def pair(remover: BackgroundRemover, path: Path, colour: str | None) -> tuple[Image.Image, Image.Image]:
    """A photo, and its cutout on a colour or on the pattern for transparency."""
    cutout = remover(path, refine=True)
    if colour is None:
        rgb = np.ascontiguousarray(cutout.pixels()[..., :3])
        pixels = composite(rgb, cutout.alpha, checkerboard(*cutout.photo.shape))
    else:
        pixels = cutout.pixels(colour)
    return Image.fromarray(cutout.photo.rgb), Image.fromarray(pixels).convert("RGB")


def band(pairs: list[tuple[Image.Image, Image.Image]]) -> Image.Image:
    """Photos side by side, as high as fits the width, each with its cutout below."""
    shapes = [photo.width / photo.height for photo, _ in pairs]
    height = round((WIDTH - GAP * (len(pairs) - 1)) / sum(shapes))
    sheet = Image.new("RGB", (WIDTH, 2 * height + GAP), "white")
    edges = np.cumsum([0, *(shape * height + GAP for shape in shapes)])
    for index, images in enumerate(pairs):
        left, right = round(edges[index]), round(edges[index + 1]) - GAP
        if index == len(pairs) - 1:
            right = WIDTH
        for row, image in enumerate(images):
            tile = ImageOps.fit(image, (right - left, height), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left, row * (height + GAP)))
    return sheet


def gallery(remover: BackgroundRemover) -> Image.Image:
    """The examples in bands, in turns on transparency and on a colour."""
    colours = [COLOURS[index // 2 % len(COLOURS)] if index % 2 else None for index in range(len(photos()))]
    pairs = [pair(remover, path, colour) for path, colour in zip(photos(), colours, strict=True)]
    each = -(-len(pairs) // BANDS)
    bands = [band(pairs[first : first + each]) for first in range(0, len(pairs), each)]
    sheet = Image.new("RGB", (WIDTH, sum(each.height + BETWEEN for each in bands) - BETWEEN), "white")
    top = 0
    for strip in bands:
        sheet.paste(strip, (0, top))
        top += strip.height + BETWEEN
    return sheet


def link_preview(remover: BackgroundRemover) -> Image.Image:
    """What others show of a link to the page: a photo that turns into its cutout."""
    width, height = LINK
    before, after = (
        ImageOps.fit(image, (width // 2, height), Image.Resampling.LANCZOS, centering=(0.5, 0.3))
        for image in pair(remover, photos()[0], None)
    )
    sheet = Image.new("RGB", LINK)
    sheet.paste(before, (0, 0))
    sheet.paste(after, (width // 2, 0))
    return sheet


def main() -> None:
    remover = BackgroundRemover.from_pretrained("isnet-general-use")
    gallery(remover).save(ROOT / "docs" / "examples.jpg", quality=84)
    link_preview(remover).save(ROOT / "background_remover" / "page" / "preview.jpg", quality=84)


if __name__ == "__main__":
    main()
