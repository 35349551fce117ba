"""What is transparent in an image, by each of the ways in which Pillow may say so."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Key = tuple[int, ...]

PREMULTIPLIED = {"RGBa": "RGBA", "La": "LA"}


def transparent_colour(image: Image.Image) -> Key | None:
    """The one colour, in the numbers of the pixels, that a PNG or GIF declares transparent; None if there is none.

    To be asked before the image is loaded: then Pillow forgets how many bits the file has, in which the colour is told.
    """
    told = image.info.get("transparency")
    if image.mode not in ("1", "L", "RGB", "I;16", "I") or not isinstance(told, int | tuple):
        return None
    tiles = getattr(image, "tile", None)
    kind = str(tiles[0][3]) if tiles else ""  # Pillow's name for the samples in the file
    key = told if isinstance(told, tuple) else (told,)
    if kind in ("L;2", "L;4"):
        most = 2 ** int(kind[-1]) - 1
        return tuple((value & most) * (255 // most) for value in key)
    return tuple(value >> 8 for value in key) if kind == "RGB;16B" else key


def key_alpha(pixels: NDArray[Any], key: Key) -> Pixels:
    """Transparent where H x W (x 3) has exactly this colour, and opaque elsewhere."""
    same = np.all(pixels == key, axis=2) if len(key) == 3 else pixels == key[0]
    return np.where(same, 0, 255).astype(np.uint8)


def split_alpha(image: Image.Image, key: Key | None) -> tuple[Image.Image, Pixels | None]:
    """An image whose colours are not multiplied by alpha, and the alpha, H x W, None if there is none."""
    image = image.convert(PREMULTIPLIED[image.mode]) if image.mode in PREMULTIPLIED else image
    if image.mode == "PA" or (image.mode == "P" and "transparency" in image.info):
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA"):
        return image, np.asarray(image.getchannel("A"))
    if key is None:
        return image, None
    return image, key_alpha(np.asarray(image.convert("L") if image.mode == "1" else image), key)
