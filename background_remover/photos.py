"""The one door for photos: what comes from outside is hostile until `open_photo` has made a `Photo` of it."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union
from urllib.parse import unquote_to_bytes

import numpy as np
import pillow_heif
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from background_remover.colours import convert, rgb_profile
from background_remover.compositing import composite
from utilities import PhotoError, as_channels, as_rgb, to_bytes

Pixels = NDArray[np.uint8]
PhotoSource = Union[str, os.PathLike[str], bytes, Image.Image, NDArray[Any], "Photo"]

MAX_PIXELS = 89_478_485  # pixels, the number from which Pillow too suspects a decompression bomb
MAX_BYTES = 200_000_000  # bytes of an encoded file
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM", "JPEG2000")
FORMATS_TEXT = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"
EXIF_ORIENTATION = 274  # the numbers of tags
TIFF_SUBFILE, TIFF_BITS = 254, 258
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
    `icc` the colour profile of `rgb`, None for sRGB.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def opaque(self) -> Pixels:
        """`rgb`, over mid-grey where the photo is transparent, since hidden colours can be anything."""
        return self.rgb if self.alpha is None else composite(self.rgb, self.alpha, (128, 128, 128))


@dataclass(frozen=True)
class PhotoHeader:
    """What a file says of its photo before any pixel is decoded."""

    size: tuple[int, int]  # width and height, before they are turned
    byte_count: int  # of its pixels, once they are decoded


def measure_photo(source: PhotoSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> PhotoHeader:
    """How large the photo in a path or the bytes of a file will be. Raises PhotoError as `open_photo` does."""
    with _opened(_read(source, max_bytes), max_pixels) as image:
        channels = len(image.getbands()) * (2 if image.mode.startswith("I") else 1)
        return PhotoHeader(image.size, image.width * image.height * max(3, channels))


def open_photo(source: PhotoSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Photo:
    """Decode a path, the bytes of a file, a PIL image or an array (H x W, or H x W x 1 to 4); a Photo is one already.

    Arrays are grey, grey and alpha, RGB or RGBA, in the ranges of `utilities.to_bytes`. A file says its depth
    itself. Of several frames or pages the first counts.

    Raises PhotoError: no such file, not one of FORMATS, damaged, over `max_bytes` or over `max_pixels`.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_image(source)
    data = _read(source, max_bytes)
    with _opened(data, max_pixels) as image:
        return _from_jpeg(image, data) or _from_image(image)


def _read(source: PhotoSource, max_bytes: int) -> bytes:
    if isinstance(source, str | os.PathLike):
        return _read_file(Path(source), max_bytes)
    if not isinstance(source, bytes | bytearray | memoryview):
        raise PhotoError(f"A {type(source).__name__} is not a photo: give a path, bytes, a PIL image or an array.")
    check_bytes(len(source), max_bytes)
    return bytes(source)


@contextmanager
def _opened(data: bytes, max_pixels: int) -> Iterator[Image.Image]:
    """The image in a file, undecoded; whatever goes wrong with it while this runs is a PhotoError."""
    pillow_heif.register_heif_opener()
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_pixels(*image.size, max_pixels)
            yield image
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(_too_many_pixels(max_pixels)) from error
    except Exception as error:  # a decoder that is fed garbage raises anything, SyntaxError included
        raise PhotoError(_why_not(data[:1024])) from error


def check_bytes(count: int, most: int = MAX_BYTES) -> None:
    """Raises PhotoError if so many bytes are none or too many for a file."""
    if count == 0:
        raise PhotoError("This file is empty: choose another, or save it again.")
    if count > most:
        raise PhotoError(f"This file has more than {most // 1_000_000} MB: save it smaller, perhaps as a JPEG.")


def check_pixels(width: int, height: int, most: int = MAX_PIXELS) -> None:
    """Raises PhotoError if so many pixels are none or too many for a photo."""
    if width < 1 or height < 1:
        raise PhotoError("This photo has no pixels: choose another.")
    if width * height > most:
        raise PhotoError(_too_many_pixels(most))


def _read_file(path: Path, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if 0 < size <= max_bytes else b""
    except FileNotFoundError as error:
        raise PhotoError(f"There is no file '{path.name}': check the path.") from error
    except (OSError, ValueError) as error:
        raise PhotoError(f"The file '{path.name}' can't be read: check that it is a file and may be read.") from error
    check_bytes(size, max_bytes)
    return data


def _too_many_pixels(most: int) -> str:
    return f"This photo has more than {most // 1_000_000} megapixels: make it smaller first."


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
    turn = TURNS.get(image.getexif().get(EXIF_ORIENTATION, 1))
    return Photo(np.ascontiguousarray(turn(rgb)) if turn else rgb, icc=rgb_profile(image.info.get("icc_profile")))


def _from_image(image: Image.Image) -> Photo:
    check_pixels(*image.size)
    white = _white(image)
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise PhotoError("This photo is damaged or incomplete: save or download it again.") from error
    if image.mode[0] in "IF":  # 16 bits and more, integers or floats
        return _from_array(np.asarray(image.convert("I") if image.mode.startswith("I;") else image), white)
    icc = image.info.get("icc_profile")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        rgb, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
        return Photo(rgb, None if alpha.min() == 255 else alpha, rgb_profile(icc))
    if icc and image.mode not in ("RGB", "P"):  # CMYK, grey: the profile describes channels that end here
        return Photo(np.asarray(convert(image, icc, None)))
    return Photo(np.asarray(image.convert("RGB")), icc=rgb_profile(icc))


def _white(image: Image.Image) -> float | None:
    """The number that is white in an image of more than 8 bits, None if nothing says it. Raises PhotoError."""
    tags = getattr(image, "tag_v2", {})
    if tags.get(TIFF_SUBFILE) == 1:  # a small version of another image in the file
        raise PhotoError("This seems to be a camera raw file: convert it to a JPEG or TIFF first.")
    if image.mode == "F":
        return None
    bits = tags.get(TIFF_BITS, (16,) if image.mode.startswith("I;") or image.format in ("PNG", "PPM") else ())
    return float(2 ** bits[0] - 1) if len(bits) == 1 and 8 < bits[0] <= 16 else None


def _from_array(array: NDArray[Any], white: float | None = None) -> Photo:
    channels = as_channels(array)
    check_pixels(channels.shape[1], channels.shape[0])
    pixels = to_bytes(channels, white)
    alpha = np.ascontiguousarray(pixels[..., -1]) if pixels.shape[2] in (2, 4) else None
    return Photo(as_rgb(pixels), None if alpha is None or alpha.min() == 255 else alpha)


def read_data_url(text: str) -> bytes:
    """What a data: URL holds, by the forgiving rules of browsers (WHATWG). Raises PhotoError."""
    head, comma, body = text.partition(",")
    data = unquote_to_bytes(body)
    if not comma or not head.lower().startswith("data:"):
        raise PhotoError("This is no data: URL: send the photo as a file.")
    if not re.search(r"; *base64 *$", head, re.IGNORECASE):
        return data
    packed = re.sub(rb"[\t\n\f\r ]+", b"", data).rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except ValueError as error:
        raise PhotoError("This data: URL can't be read: send the photo as a file.") from error
