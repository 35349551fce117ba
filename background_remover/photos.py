"""The one door for photos: what comes from outside is hostile until `open_photo` has made a `Photo` of it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from background_remover.colour_tags import told_colours
from background_remover.colours import convert, grey_to_srgb, is_srgb, leads_back, to_srgb
from background_remover.compositing import composite, contrasting_grey
from background_remover.depth import HEIGHT, WIDTH, Deep, deep_channels, jpeg_bits, tiff_pixels, tiff_tags, to_deep
from background_remover.hdr import tone_down
from background_remover.profiles import Cicp, colour_space
from background_remover.transparency import is_key, split_alpha, transparent_colour
from utilities import PhotoError, as_channels, as_rgb, shrink, to_bytes

Pixels = NDArray[np.uint8]
PhotoSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

MAX_PIXELS = 89_478_485  # pixels, the number from which Pillow too suspects a decompression bomb
MAX_BYTES = 200_000_000  # bytes of an encoded file
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM", "JPEG2000")
FORMATS_TEXT = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"
EXIF_ORIENTATION = 274  # the numbers of tags
TIFF_SUBFILE, TIFF_BITS, TIFF_PROFILE = 254, 258, 34675
DPI = 10, 10_000  # pixels an inch: what is outside says nothing of a size
SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
# EXIF orientation: what brings the pixels upright
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.swapaxes(0, 1),
    6: lambda rgb: rgb.swapaxes(0, 1)[:, ::-1],
    7: lambda rgb: rgb.swapaxes(0, 1)[::-1, ::-1],
    8: lambda rgb: rgb.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo, the way up that its EXIF orientation asks for.

    `rgb` is H x W x 3; `alpha` H x W or None where all is opaque, straight (colours are not multiplied by it);
    `icc` the colour profile of `rgb`, None for sRGB, and never one that does not lead back from sRGB; `deep` the same
    colours in 16 bits, None where there are but 8; `dpi` pixels an inch, across and down, None where nothing says so.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    deep: Deep | None = None
    dpi: tuple[float, float] | None = None

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

    def for_network(self, side: int) -> Pixels:
        """What the network is to see: side x side x 3, without transparency, in sRGB whatever the profile."""
        return to_srgb(shrink(self.opaque(), side), self.icc)


def open_photo(source: PhotoSource) -> Photo:
    """Decode a path, the bytes of a file, a PIL image or an array (H x W, or H x W x 1 to 4).

    Arrays are grey, grey and alpha, RGB or RGBA, in the ranges of `utilities.to_bytes`. A file says its depth
    itself. Of several frames or pages the first counts.

    Raises PhotoError: no such file, not one of FORMATS, damaged, over MAX_BYTES or over MAX_PIXELS.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_image(source)
    if isinstance(source, str | os.PathLike):
        source = _read_file(Path(source))
    if not isinstance(source, bytes | bytearray | memoryview):
        raise PhotoError(f"A {type(source).__name__} is not a photo: give a path, bytes, a PIL image or an array.")
    check_bytes(len(source))
    pillow_heif.register_heif_opener()
    try:
        with Image.open(io.BytesIO(source), formats=FORMATS) as image:
            return _from_jpeg(image, source) or _from_image(image, source)
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(_too_many_pixels()) from error
    except Exception as error:  # a decoder that is fed garbage raises anything, SyntaxError included
        if (photo := _from_unknown(bytes(source))) is not None:
            return photo
        raise PhotoError(_why_not(bytes(source[:1024]))) from error


def check_bytes(count: int) -> None:
    """Raises PhotoError if so many bytes are none or too many for a file."""
    if count == 0:
        raise PhotoError("This file is empty: choose another, or save it again.")
    if count > MAX_BYTES:
        raise PhotoError(f"This file has more than {MAX_BYTES // 1_000_000} MB: save it smaller, perhaps as a JPEG.")


def check_pixels(width: int, height: int) -> None:
    """Raises PhotoError if so many pixels are none or too many for a photo."""
    if width < 1 or height < 1:
        raise PhotoError("This photo has no pixels: choose another.")
    if width * height > MAX_PIXELS:
        raise PhotoError(_too_many_pixels())


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if 0 < size <= MAX_BYTES else b""
    except FileNotFoundError as error:
        raise PhotoError(f"There is no file '{path.name}': check the path.") from error
    except (OSError, ValueError) as error:
        raise PhotoError(f"The file '{path.name}' can't be read: check that it is a file and may be read.") from error
    check_bytes(size)
    return data


def _too_many_pixels() -> str:
    return f"This photo has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller first."


def _why_not(head: bytes) -> str:
    """What a file that could not be decoded seems to be."""
    if b"<svg" in head.lower():
        return "This is an SVG drawing, not a photo: export it as a PNG first."
    if head.startswith(b"%PDF"):
        return "This is a PDF, not a photo: export the page as a PNG or JPEG first."
    known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
    if head.startswith(known) or head[8:12] == b"WEBP" or head[4:8] == b"ftyp":
        return "This photo is damaged or incomplete: save or download it again."
    return f"This is not a photo that can be read: choose a {FORMATS_TEXT} file."


def _from_jpeg(image: Image.Image, data: bytes) -> Photo | None:
    """An ordinary colour JPEG by the decoder that Pillow too is built on, without Pillow's copies: 25 ms, not 80."""
    check_pixels(*image.size)
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return None
    try:
        rgb = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError:  # damaged, or a rare kind: Pillow decides
        return None
    orientation = _orientation(image)
    turn = TURNS.get(orientation)
    rgb = np.ascontiguousarray(turn(rgb)) if turn else rgb
    return _finished(rgb, None, told_colours(image, data), dpi=_dpi(image, orientation))


def _from_image(image: Image.Image, data: bytes = b"") -> Photo:
    """Of an image, and of the file that it is from where that is at hand."""
    check_pixels(*image.size)
    opened, orientation = image, _orientation(image)
    white, colours, dpi, key = (
        _white(image),
        told_colours(image, data),
        _dpi(image, orientation),
        transparent_colour(image),
    )
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise PhotoError("This photo is damaged or incomplete: save or download it again.") from error
    if image.mode[0] in "IF":  # 16 bits and more, integers or floats
        grey = np.asarray(image.convert("I") if image.mode.startswith("I;") else image)
        alpha = None if key is None else np.where(is_key(grey, key), 0, 255).astype(np.uint8)
        return _from_channels(as_channels(grey), white, colours, alpha, dpi)
    deep = deep_channels(opened, data, TURNS.get(orientation, np.asarray), image)
    if deep is not None:
        return _from_channels(deep, WHITE, colours, dpi=dpi)
    image, alpha = split_alpha(image, key)
    if opened.format == "BMP" and alpha is not None and not alpha.any():  # many programs leave these bytes at 0
        alpha = None
    if image.mode == "CMYK":
        icc = colours if isinstance(colours, bytes) and colour_space(colours) == "CMYK" else None
        return Photo(np.asarray(convert(image, icc, None)), dpi=dpi)
    pixels = np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    return _from_channels(as_channels(pixels), 255, colours, alpha, dpi)


def _white(image: Image.Image) -> float | None:
    """The number that is white in an image of more than 8 bits, None if nothing says it. Raises PhotoError."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(TIFF_SUBFILE) == 1:  # a small version of another image in the file
        raise PhotoError("This seems to be a camera raw file: convert it to a JPEG or TIFF first.")
    if image.mode == "F":
        return None
    bits = tags.get(TIFF_BITS, (16,) if image.mode.startswith("I;") or image.format in ("PNG", "PPM") else ())
    return float(2 ** bits[0] - 1) if len(bits) == 1 and 8 < bits[0] <= 16 else None


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(EXIF_ORIENTATION, 1))


def _dpi(image: Image.Image, orientation: int) -> tuple[float, float] | None:
    """Pixels an inch, across and down as the photo stands."""
    try:
        across, down = (float(number) for number in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    if not all(DPI[0] <= number <= DPI[1] for number in (across, down)):
        return None
    return (down, across) if orientation in SIDEWAYS else (across, down)


def _from_unknown(data: bytes) -> Photo | None:
    """Of a TIFF that Pillow does not know. Raises PhotoError for what is sound, but can't be read."""
    if (bits := jpeg_bits(data)) not in (0, 8):
        raise PhotoError(
            f"This is a {bits}-bit JPEG, which can't be read here: save it with 8 bits, or as a PNG or TIFF."
        )
    if not (tags := tiff_tags(data)):
        return None
    check_pixels(tags.get(WIDTH, 0), tags.get(HEIGHT, 0))
    pixels = tiff_pixels(data, tags)
    if pixels is None:
        return None
    white = float(np.iinfo(pixels.dtype).max) if pixels.dtype.kind == "u" else None
    turn = TURNS.get(tags.get(EXIF_ORIENTATION, 1), np.asarray)
    return _from_channels(turn(pixels), white, tags.get(TIFF_PROFILE))


def _from_array(array: NDArray[Any]) -> Photo:
    return _from_channels(as_channels(array))


def _from_channels(
    channels: NDArray[Any],
    white: float | None = None,
    colours: bytes | Cicp | None = None,
    alpha: Pixels | None = None,
    dpi: tuple[float, float] | None = None,
) -> Photo:
    """Of H x W x 1 to 4, of which the second or fourth is alpha; `colours` is what a file says of them."""
    check_pixels(channels.shape[1], channels.shape[0])
    pixels, deep = to_bytes(channels, white), to_deep(channels, white)
    if pixels.shape[2] in (2, 4):
        alpha = np.ascontiguousarray(pixels[..., -1])
    if pixels.shape[2] < 3 and isinstance(colours, bytes):
        colours, pixels, deep = _grey_in_srgb(colours, pixels, deep)
    return _finished(as_rgb(pixels), alpha, colours, None if deep is None else as_rgb(deep), dpi)


def _grey_in_srgb(icc: bytes, pixels: Pixels, deep: Deep | None) -> tuple[bytes | None, Pixels, Deep | None]:
    """Grey in 8 bits and perhaps in 16, H x W x 1 or 2, by a profile; and the profile, if it is of RGB and needed."""
    if colour_space(icc) != "GRAY":
        return None if is_srgb(icc) else icc, pixels, deep
    grey = grey_to_srgb((pixels if deep is None else deep)[..., 0], icc)[..., np.newaxis]
    return None, to_bytes(grey), grey if grey.dtype == np.uint16 else None


def _finished(
    rgb: Pixels,
    alpha: Pixels | None,
    colours: bytes | Cicp | None,
    deep: Deep | None = None,
    dpi: tuple[float, float] | None = None,
) -> Photo:
    """RGB of any colours as a Photo, which keeps them where it can."""
    alpha = None if alpha is None or alpha.min() == 255 else alpha
    if isinstance(colours, Cicp):
        return Photo(tone_down(rgb if deep is None else deep, colours), alpha, dpi=dpi)
    icc = colours if colour_space(colours) == "RGB" else None
    if icc and not leads_back(icc):
        return Photo(to_srgb(rgb, icc), alpha, dpi=dpi)
    return Photo(rgb, alpha, icc, deep, dpi)
