"""The one door for photos: what comes from outside is hostile until `open_photo` has made a `Photo` of it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pillow_heif
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from background_remover.containers import simplify
from background_remover.data_urls import decode_data_url
from background_remover.decoding import Photo, from_array, from_image, from_jpeg, from_webp
from background_remover.jpeg import END as JPEG_END
from background_remover.jpeg import mend
from background_remover.kinds import (
    DAMAGED,
    RARE_TIFF,
    NotAPhotoError,
    TooLargeError,
    other_kind,
    too_many_bytes,
    too_many_pixels,
    why_not,
)
from background_remover.orientation import SIDEWAYS, drop_unreadable_exif, read_orientation, upright
from background_remover.stages import stage
from background_remover.tiff import BITS, says_bits
from utilities import PhotoError, as_channels

Pixels = NDArray[np.uint8]
FileSource = str | os.PathLike[str] | bytes | BinaryIO
PhotoSource = FileSource | Image.Image | NDArray[Any] | Photo

MAX_PIXELS = 89_478_485  # pixels, the number from which Pillow too suspects a decompression bomb
MAX_BYTES = 200_000_000  # bytes of an encoded file
LONGEST_SIDE = 65_535  # pixels, the most that a JPEG can have
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
PNG_DEPTH_AT = 24  # the byte that has the bits of a channel


@dataclass(frozen=True)
class PhotoHeader:
    """What a file says of its photo, before anything of it is decoded."""

    size: tuple[int, int]  # width and height in pixels, upright
    format: str  # as that of `Photo`
    byte_count: int  # of all its pixels, decoded: 3 or 4 channels of 1, 2 or 4 bytes


def open_photo(source: PhotoSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> Photo:
    """Decode a path, the bytes of a file, a binary file object, a PIL image or an array (H x W, or H x W x 1 to 4).

    A Photo is one already. Arrays are grey, grey and alpha, RGB or RGBA, in the ranges of `utilities.to_bytes`. A file
    says its depth itself. Of several frames or pages the first counts. The limits can be lowered.

    Raises PhotoError: no such file, damaged, over LONGEST_SIDE; NotAPhotoError: not one of FORMATS; TooLargeError: over
    `max_bytes` or `max_pixels`; or stored in a way that takes too long to open, see `containers.simplify`.
    """
    if isinstance(source, Photo):
        return source
    if isinstance(source, np.ndarray):
        channels = as_channels(source)
        check_pixels(channels.shape[1], channels.shape[0], max_pixels)
        return from_array(source)
    if isinstance(source, Image.Image):
        check_pixels(*source.size, max_pixels)
        if source.format == "TIFF":
            drop_unreadable_exif(source)
        return _upright(from_image(source), source)
    with stage("open"), _opening(source, max_pixels, max_bytes) as (image, data):
        if image.format == "JPEG" and not data.endswith(JPEG_END):
            data = mend(data)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        photo = _upright(from_jpeg(image, data) or from_webp(image, data) or from_image(image, data), image)
        check_pixels(*photo.shape, max_pixels)  # a HEIC's header need not be true
        return photo


def measure_photo(source: FileSource, *, max_pixels: int = MAX_PIXELS, max_bytes: int = MAX_BYTES) -> PhotoHeader:
    """The header of a photo, as a path, bytes or a binary file object, without decoding it.

    Raises PhotoError as `open_photo` does, but for what is found only on decoding.
    """
    with _opening(source, max_pixels, max_bytes) as (image, data):
        width, height = image.size
        sideways = read_orientation(image) in SIDEWAYS
        transparent = "transparency" in image.info or image.getbands()[-1] in "Aa"
        channels = 4 if transparent else max(3, len(image.getbands()))
        size = (height, width) if sideways else (width, height)
        return PhotoHeader(size, _format_of(image), width * height * channels * _sample_bytes(image, data))


@contextmanager
def _opening(source: FileSource, max_pixels: int, max_bytes: int) -> Iterator[tuple[Image.Image, bytes]]:
    """A file's image, not decoded yet, and what decoders are given of it; what fails meanwhile is a PhotoError."""
    data = _read(source, max_bytes)
    kind = other_kind(data)
    if kind:
        raise NotAPhotoError(kind.sentence)
    pillow_heif.register_heif_opener()
    try:
        data = simplify(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            check_pixels(*image.size, max_pixels)
            yield image, data
    except PhotoError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise TooLargeError(too_many_pixels(max_pixels)) from error
    except Exception as error:  # a decoder that is fed garbage raises anything, SyntaxError included
        rare = isinstance(error, UnidentifiedImageError) and says_bits(data)
        sentence = RARE_TIFF if rare else why_not(data)
        raise (PhotoError if sentence == DAMAGED else NotAPhotoError)(sentence) from error


def check_bytes(count: int, max_bytes: int | None = None) -> None:
    """Raises PhotoError if so many bytes are none or too many for a file, MAX_BYTES if nothing else is said."""
    most = MAX_BYTES if max_bytes is None else max_bytes
    if count == 0:
        raise PhotoError("This file is empty: choose another, or save it again.")
    if count > most:
        raise TooLargeError(too_many_bytes(most))


def check_pixels(width: int, height: int, max_pixels: int = MAX_PIXELS) -> None:
    """Raises PhotoError if so many pixels are none or too many for a photo."""
    if width < 1 or height < 1:
        raise PhotoError("This photo has no pixels: choose another.")
    if width * height > max_pixels:
        raise TooLargeError(too_many_pixels(max_pixels))
    if max(width, height) > LONGEST_SIDE:
        raise PhotoError(f"This photo has more than {LONGEST_SIDE} pixels on a side: make it smaller first.")


def read_data_url(text: str, *, max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes in a data: URL, see `data_urls`. Raises PhotoError for what is none, or holds too many."""
    return decode_data_url(text, max_bytes)


def _read(source: FileSource, max_bytes: int) -> bytes:
    """The bytes of a file, no more of them than are allowed."""
    if isinstance(source, bytes | bytearray | memoryview):
        check_bytes(memoryview(source).nbytes, max_bytes)
        return bytes(source)
    if isinstance(source, str | os.PathLike):
        return read_path(Path(source), max_bytes)
    if not hasattr(source, "read"):
        raise PhotoError(f"A {type(source).__name__} is not a photo: give a path, bytes, a PIL image or an array.")
    return _read_object(source, max_bytes)


def read_path(path: Path, max_bytes: int) -> bytes:
    """The bytes of a file, which is one and has no more than are allowed. Raises PhotoError."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise OSError
        data = path.read_bytes() if 0 < size <= max_bytes else b""
    except FileNotFoundError as error:
        raise PhotoError(f"There is no file '{path.name}': check the path.") from error
    except (OSError, ValueError) as error:
        raise PhotoError(f"The file '{path.name}' can't be read: check that it is a file and may be read.") from error
    check_bytes(size, max_bytes)
    return data


def _read_object(file: BinaryIO, max_bytes: int) -> bytes:
    """The rest of a file that is open already."""
    parts: list[bytes] = []
    left = max_bytes + 1
    try:
        while left > 0 and (part := file.read(left)):
            parts.append(bytes(part))
            left -= len(part)
    except TypeError as error:
        raise PhotoError("This file is open as text: open it in binary mode, as 'rb'.") from error
    except (OSError, ValueError) as error:
        raise PhotoError("This file object can't be read: open it for reading, in binary mode.") from error
    check_bytes(max_bytes + 1 - left, max_bytes)
    return b"".join(parts)


def _upright(photo: Photo, image: Image.Image) -> Photo:
    """A photo whose pixels are those of an image, turned as its EXIF says, and with the name of its format."""
    orientation = read_orientation(image)
    alpha, deep = (None if pixels is None else upright(pixels, orientation) for pixels in (photo.alpha, photo.deep))
    dpi = photo.dpi[::-1] if photo.dpi and orientation in SIDEWAYS else photo.dpi
    rgb = upright(photo.rgb, orientation)
    return replace(photo, rgb=rgb, alpha=alpha, deep=deep, dpi=dpi, format=_format_of(image))


def _format_of(image: Image.Image) -> str:
    return "JPEG" if image.format == "MPO" else image.format or ""


def _sample_bytes(image: Image.Image, data: bytes) -> int:
    """How many bytes a number in the file has to be kept in."""
    if image.mode in ("I", "F"):
        return 4
    bits = [8, image.info.get("bit_depth", 8), 16 if image.mode.startswith("I;") else 8]
    bits += getattr(image, "tag_v2", {}).get(BITS, ())
    bits += [data[PNG_DEPTH_AT]] if image.format == "PNG" else []
    return 2 if max(bits) > 8 else 1
