"""The pictures of the README, made anew: `make pictures`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from background_remover import BackgroundRemover  # noqa: E402
from background_remover.compositing import composite  # noqa: E402

TILE = 240  # the side of a picture in the gallery, in pixels
GAP = 6
COLOURS = ["#f2c14e", "#4d9078", "#5b8e7d", "#f78154", "#2b59c3", "#b4436c"]


def checkerboard(height: int, width: int) -> np.ndarray:
    """The pattern that stands for transparency, H x W x 3."""
    y, x = np.mgrid[:height, :width] // (max(height, width) // 28)
    return np.repeat(np.where((x + y) % 2, 204, 255).astype(np.uint8)[..., None], 3, axis=2)


def gallery(remover: BackgroundRemover) -> Image.Image:
    """A column for each example: photo, matte, transparent, on a colour."""
    photos = sorted((ROOT / "examples").glob("*.[jp][pn]g"))
    sheet = Image.new("RGB", (len(photos) * (TILE + GAP) - GAP, 4 * (TILE + GAP) - GAP), "white")
    for column, path in enumerate(photos):
        cutout = remover(path)
        rgb = np.ascontiguousarray(cutout.pixels()[..., :3])
        transparent = composite(rgb, cutout.alpha, checkerboard(*cutout.photo.shape))
        coloured = cutout.pixels(COLOURS[column % len(COLOURS)])
        for row, pixels in enumerate((cutout.photo.rgb, cutout.alpha, transparent, coloured)):
            tile = ImageOps.pad(Image.fromarray(pixels).convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS, "white")
            sheet.paste(tile, (column * (TILE + GAP), row * (TILE + GAP)))
    return sheet


if __name__ == "__main__":
    gallery(BackgroundRemover.from_pretrained("isnet-general-use")).save(ROOT / "docs" / "examples.jpg", quality=88)
