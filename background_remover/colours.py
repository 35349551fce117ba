"""Colours in the numbers of a profile: ICC by littleCMS, and CSS, which is sRGB."""

from __future__ import annotations

import functools
import io
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor

from background_remover.profiles import SRGB_CURVE, write_grey_profile
from utilities import PhotoError

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

FEW = 1024  # pixels: for no more, littleCMS's tables take longer to make than they save
KEPT = 16  # profiles of which is known what they do
SAME = 2  # of 255: a profile that changes no colour by more is sRGB to the network
# What comes back from a profile must be this near in 255: steps in 8 bits of one far from sRGB are as wide.
THERE_AND_BACK = 16
GREYS_AND_TINTS = [(255, 255, 255), (192, 192, 192), (128, 128, 128), (200, 130, 130), (130, 200, 130), (130, 130, 200)]


def convert(image: Image.Image, source: bytes | None, target: bytes | None) -> Image.Image:
    """From one ICC profile to RGB of another, None being sRGB; without a usable profile as Pillow does it."""
    if source == target:
        return image.convert("RGB")
    few = image.width * image.height <= FEW
    flags = ImageCms.Flags.NOOPTIMIZE if few else ImageCms.Flags.NONE
    try:
        profiles = _profile(source), _profile(target)
        return ImageCms.profileToProfile(image, *profiles, outputMode="RGB", flags=flags) or image
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")


def to_srgb(rgb: Pixels, icc: bytes | None) -> Pixels:
    """H x W x 3 in the numbers of a profile as sRGB, to within SAME."""
    return rgb if icc is None or is_srgb(icc) else np.asarray(convert(Image.fromarray(rgb), icc, None))


def grey_to_srgb(grey: NDArray[Any], icc: bytes) -> NDArray[Any]:
    """H x W in 8 or 16 bits, in the numbers of a grey profile, as sRGB's in as many bits."""
    every = Image.fromarray(np.arange(np.iinfo(grey.dtype).max + 1, dtype=grey.dtype)[np.newaxis])
    exactly = ImageCms.Flags.NOOPTIMIZE  # else littleCMS makes blacks of dark greys
    try:
        profiles = _profile(icc), _profile(write_grey_profile(SRGB_CURVE))
        table = np.asarray(ImageCms.profileToProfile(every, *profiles, outputMode=every.mode, flags=exactly))
    except (ImageCms.PyCMSError, OSError):
        return grey
    converted: NDArray[Any] = table[0][grey]
    return converted


@functools.lru_cache(maxsize=KEPT)
def is_srgb(icc: bytes) -> bool:
    """Whether a profile of RGB means the same colours as sRGB, by its name or not."""
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, 3)
    shown = np.asarray(convert(Image.fromarray(cube), icc, None))
    return int(np.abs(shown.astype(int) - cube).max()) <= SAME


@functools.lru_cache(maxsize=KEPT)
def leads_back(icc: bytes) -> bool:
    """Whether sRGB's colours can be brought into a profile of RGB.

    Those of scanners and cameras often lack that way, and in those of XYB JPEGs it is there but leads nowhere.
    """
    colours = np.array([GREYS_AND_TINTS], np.uint8)
    there = convert(Image.fromarray(colours), None, icc)
    back = np.asarray(convert(there, icc, None))
    return int(np.abs(back.astype(int) - colours).max()) <= THERE_AND_BACK


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
