"""From an image that Pillow has opened, or an array, to a `Photo`: pixels, transparency, colours and depth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from background_remover.colour_tags import told_colours
from background_remover.colours import convert, grey_to_srgb, is_srgb, leads_back, to_srgb
from background_remover.compositing import composite, contrasting_grey
from background_remover.depth import WHITE, Deep, deep_channels, to_deep
from background_remover.hdr import tone_down
from background_remover.profiles import Cicp, colour_space
from background_remover.tiff import BITS
from background_remover.transparency import Key, key_alpha, split_alpha, transparent_colour
from utilities import PhotoError, as_channels, as_rgb, shrink, to_bytes

Pixels = NDArray[np.uint8]

SIDE = 1024  # pixels: height and width of what the network was trained on
TIFF_SUBFILE = 254  # the number of a tag
STRIP = 1 << 20  # pixels that are converted at a time
DPI = 10, 10_000  # pixels an inch: what is outside says nothing of a size


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo, the way up that its EXIF orientation asks for.

    `rgb` is H x W x 3; `alpha` H x W or None where all is opaque, straight (colours are not multiplied by it);
    `icc` the colour profile of `rgb`, None for sRGB, and never one that colours can't be brought into; `deep` the same
    colours in 16 bits, None where there are but 8; `dpi` pixels an inch, across and down, None where nothing says so;
    `format` Pillow's name of the file's format, "JPEG" or "HEIF", as its content has it, and "" where there was no
    file.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    deep: Deep | None = None
    dpi: tuple[float, float] | None = None
    format: str = ""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def opaque(self) -> Pixels:
        """`rgb`, over a grey that contrasts where the photo is transparent, since hidden colours can be anything."""
        if self.alpha is None:
            return self.rgb
        grey = contrasting_grey(self.rgb, self.alpha)
        return composite(self.rgb, self.alpha, (grey, grey, grey))

    def part(self, box: tuple[int, int, int, int]) -> Photo:
        """What is between left, top, right and bottom of it, which lie within it."""
        left, top, right, bottom = box
        if box == (0, 0, *self.shape[::-1]):
            return self

        def cut(pixels: NDArray[Any]) -> NDArray[Any]:
            return np.ascontiguousarray(pixels[top:bottom, left:right])

        alpha, deep = (None if pixels is None else cut(pixels) for pixels in (self.alpha, self.deep))
        return replace(self, rgb=cut(self.rgb), alpha=alpha, deep=deep)

    def for_network(self, side: int = SIDE) -> Pixels:
        """What the network is to see: side x side x 3, without transparency, in sRGB whatever the profile."""
        return to_srgb(shrink(self.opaque(), side), self.icc)


def from_jpeg(image: Image.Image, data: bytes) -> Photo | None:
    """An ordinary colour JPEG by the decoder that Pillow too is built on, without Pillow's copies: 25 ms, not 80."""
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return None
    try:
        rgb = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError:  # damaged, or a rare kind: Pillow decides
        return None
    return replace(_with_colours(rgb, None, told_colours(image, data)), dpi=_dpi(image))


def from_webp(image: Image.Image, data: bytes) -> Photo | None:
    """A WebP with one picture by the same library without Pillow, which keeps five copies of it meanwhile."""
    if image.format != "WEBP" or getattr(image, "n_frames", 1) != 1:
        return None
    try:
        channels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if channels is None or channels.dtype != np.uint8 or channels.shape[:2] != image.size[::-1]:  # Pillow decides
        return None
    alpha = np.ascontiguousarray(channels[..., 3]) if channels.shape[2] == 4 else None
    rgb = np.asarray(cv2.cvtColor(channels, cv2.COLOR_BGR2RGB if alpha is None else cv2.COLOR_BGRA2RGB))
    return replace(_with_colours(rgb, alpha, told_colours(image, data)), dpi=_dpi(image))


def from_image(image: Image.Image, data: bytes = b"") -> Photo:
    """Of an image, as its pixels lie, and of the file that it is from where that is at hand. Raises PhotoError."""
    white, colours, key = _white(image), told_colours(image, data), transparent_colour(image)
    try:
        image.load()
    except Exception as error:
        raise PhotoError("This photo is damaged or incomplete: save or download it again.") from error
    return replace(_from_loaded(image, data, white, colours, key), dpi=_dpi(image))


def from_array(
    array: NDArray[Any],
    white: float | None = None,
    colours: bytes | Cicp | None = None,
    alpha: Pixels | None = None,
) -> Photo:
    """Of H x W, or of H x W x 1 to 4 of which the second or fourth is alpha; `white` is as for `to_bytes`.

    `colours` is what a file says of them. Raises PhotoError for other arrays.
    """
    channels = as_channels(array)
    pixels, deep = to_bytes(channels, white), to_deep(channels, white)
    if pixels.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(pixels[..., -1])
    if pixels.shape[2] < 3 and isinstance(colours, bytes):
        colours, pixels, deep = _grey(pixels, deep, colours)
    return _with_colours(as_rgb(pixels), alpha, colours, None if deep is None else as_rgb(deep))


def _grey(pixels: Pixels, deep: Deep | None, icc: bytes) -> tuple[bytes | None, Pixels, Deep | None]:
    """Grey, H x W x 1 or 2, in the numbers that the profile beside it, of RGB, gives three times."""
    if colour_space(icc) != "GRAY":
        return None if is_srgb(icc) else icc, pixels, deep
    if deep is None:
        return None, grey_to_srgb(pixels[..., 0], icc)[..., np.newaxis], None
    deep = grey_to_srgb(deep[..., 0], icc)[..., np.newaxis]
    return None, to_bytes(deep, WHITE), deep


def _from_loaded(
    image: Image.Image, data: bytes, white: float | None, colours: bytes | Cicp | None, key: Key | None
) -> Photo:
    if image.mode[0] in "IF":  # 16 bits and more, integers or floats
        grey = np.asarray(image.convert("I") if image.mode.startswith("I;") else image)
        return from_array(grey, white, colours, None if key is None else key_alpha(grey, key))
    if (deep := deep_channels(image, data)) is not None:
        return from_array(deep, WHITE, colours)
    is_bitmap = image.format == "BMP"
    image, alpha = split_alpha(image, key)
    if is_bitmap and alpha is not None and not alpha.any():  # many programs leave these bytes at 0
        alpha = None
    if image.mode == "CMYK":
        inks = colours if isinstance(colours, bytes) and colour_space(colours) == "CMYK" else None
        return Photo(np.asarray(convert(image, inks, None)))
    return from_array(_convert(image, "L" if image.mode in ("1", "L", "LA") else "RGB"), 255, colours, alpha)


def _convert(image: Image.Image, mode: str) -> Pixels:
    """Its channels in a mode of 8 bits, strip by strip, since Pillow makes several copies of what it converts."""
    pixels = np.empty((image.height, image.width, 3) if mode == "RGB" else (image.height, image.width), np.uint8)
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = np.asarray(strip.convert(mode))
    return pixels


def _with_colours(rgb: Pixels, alpha: Pixels | None, colours: bytes | Cicp | None, deep: Deep | None = None) -> Photo:
    """RGB of any colours as a Photo, which keeps them where it can."""
    alpha = None if alpha is None or alpha.min() == 255 else alpha
    if isinstance(colours, Cicp):
        return Photo(tone_down(rgb if deep is None else deep, colours), alpha)
    icc = colours if colour_space(colours) == "RGB" else None
    if icc and not leads_back(icc):
        return Photo(to_srgb(rgb, icc), alpha)
    return Photo(rgb, alpha, icc, deep)


def _white(image: Image.Image) -> float | None:
    """The number that is white in an image of more than 8 bits, None if nothing says it. Raises PhotoError."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(TIFF_SUBFILE) == 1:  # a small version of another image in the file
        raise PhotoError("This seems to be a camera raw file: convert it to a JPEG or TIFF first.")
    if image.mode == "F":
        return None
    bits = tags.get(BITS, (16,) if image.mode.startswith("I;") or image.format == "PNG" else ())
    return float(2 ** bits[0] - 1) if len(bits) == 1 and 8 < bits[0] <= 16 else None


def _dpi(image: Image.Image) -> tuple[float, float] | None:
    """Pixels an inch, across and down."""
    try:
        across, down = (float(number) for number in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return (across, down) if all(DPI[0] <= number <= DPI[1] for number in (across, down)) else None
