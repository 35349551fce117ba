"""Colours in the numbers of a profile: ICC by littleCMS, and CSS, which is sRGB."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, ImageCms, ImageColor

from utilities import PhotoError

Colour = tuple[int, int, int]


def rgb_profile(icc: bytes | None) -> bytes | None:
    """The ICC profile itself, if it is a sound one and of RGB colours."""
    try:
        return icc if icc and _profile(icc).profile.xcolor_space.strip() == "RGB" else None
    except (ImageCms.PyCMSError, OSError, ValueError):  # the name of its colours need not be text
        return None


def convert(image: Image.Image, source: bytes | None, target: bytes | None) -> Image.Image:
    """From one ICC profile to RGB of another, None being sRGB; without a usable profile as Pillow does it."""
    if source == target:
        return image.convert("RGB")
    try:
        return ImageCms.profileToProfile(image, _profile(source), _profile(target), outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")


def _profile(icc: bytes | None) -> ImageCms.ImageCmsProfile:
    """An ICC profile, sRGB for None. Raises PyCMSError or OSError for bytes that are none."""
    return ImageCms.ImageCmsProfile(io.BytesIO(icc) if icc else ImageCms.createProfile("sRGB"))


def parse_colour(text: str) -> Colour:
    """RGB of a CSS colour: a name, "#rgb", "#rrggbb", "rgb(...)", "rgba(...)" (its alpha has no effect).

    Raises PhotoError.
    """
    numbers = re.fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+)(?:, *[\d.]+)?\)", text.strip())
    try:
        if numbers:
            red, green, blue = (min(255, round(float(number))) for number in numbers.groups())
        else:
            red, green, blue = ImageColor.getrgb(text.strip())[:3]
    except (ValueError, OverflowError) as error:
        raise PhotoError("This is not a colour: write it like '#ff8800' or 'orange'.") from error
    return red, green, blue


def css_colour(text: str, icc: bytes | None = None) -> Colour:
    """A CSS colour in the numbers of the profile `icc`. Raises PhotoError."""
    pixel = convert(Image.new("RGB", (1, 1), parse_colour(text)), None, icc)
    red, green, blue = (int(value) for value in np.asarray(pixel)[0, 0])
    return red, green, blue
