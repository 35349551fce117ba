"""The pictures of the README, made anew: `make pictures`."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from pipeline import BackgroundRemover  # noqa: E402
from utilities import composite, open_photo, with_alpha  # noqa: E402

TILE = (240, 180)  # width and height of a photo in the gallery, in pixels
GAP = 6
COLOURS = ["#f2c14e", "#4d9078", "#5b8e7d", "#f78154", "#2b59c3", "#b4436c"]


def checkerboard(height: int, width: int, square: int = 8) -> np.ndarray:
    """The pattern that stands for transparency, H x W x 3."""
    y, x = np.mgrid[:height, :width] // square
    return np.repeat(np.where((x + y) % 2, 204, 255).astype(np.uint8)[..., None], 3, axis=2)


def gallery(remover: BackgroundRemover) -> Image.Image:
    """A column for each example: photo, matte, transparent, on a colour."""
    photos = sorted((ROOT / "examples").glob("*.[jp][pn]g"))
    width, height = TILE
    sheet = Image.new("RGB", (len(photos) * (width + GAP) - GAP, 4 * (height + GAP) - GAP), "white")
    for column, path in enumerate(photos):
        photo = ImageOps.fit(Image.fromarray(open_photo(path).rgb), (2 * width, 2 * height), Image.Resampling.LANCZOS)
        cutout = remover(photo)
        rgba = with_alpha(cutout.photo.rgb, cutout.alpha)
        transparent = composite(rgba[..., :3], cutout.alpha, checkerboard(2 * height, 2 * width, 16))
        rows = photo, cutout.matte.convert("RGB"), Image.fromarray(transparent), cutout.composite(COLOURS[column % 6])
        for row, picture in enumerate(rows):
            tile = picture.resize(TILE, Image.Resampling.LANCZOS)
            sheet.paste(tile, (column * (width + GAP), row * (height + GAP)))
    return sheet


if __name__ == "__main__":
    gallery(BackgroundRemover.from_pretrained("isnet-general-use")).save(ROOT / "docs" / "examples.jpg", quality=88)
