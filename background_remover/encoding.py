"""Pixels into files."""

from __future__ import annotations

import os
import re
import unicodedata
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from background_remover.compositing import composite
from background_remover.fastpng import Rows, png_parts
from utilities import PhotoError

Pixels = NDArray[np.uint8]
Target = str | os.PathLike[str] | BinaryIO

JPEG_QUALITY = 95
STEM_BYTES = 180  # of a file's name; file systems allow 255 with all that comes behind it
WINDOWS_RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{digit}" for port in ("COM", "LPT") for digit in range(10))}


class Encoder(NamedTuple):
    """How Pillow writes a format, and what the format can't do."""

    name: str
    options: dict[str, Any]
    lossy: dict[str, Any] | None = None  # more options, where a quality is asked for
    longest: int | None = None  # pixels a side
    alpha: bool = True
    deep: bool = False  # whether it holds 16 bits


WEBP = Encoder(  # an eighth of the time of Pillow's defaults
    "WEBP",
    {"lossless": True, "exact": True, "quality": 20, "method": 0},
    lossy={"lossless": False, "exact": False, "method": 1},
    longest=16383,
)
TIFF = Encoder("TIFF", {}, deep=True)  # by tifffile
JPEG = Encoder("JPEG", {"quality": JPEG_QUALITY, "subsampling": 0}, lossy={}, longest=65535, alpha=False)
ENCODERS = {
    ".png": Encoder("PNG", {}, deep=True),  # has a faster writer of its own
    ".webp": WEBP,
    ".tif": TIFF,
    ".tiff": TIFF,
    ".jpg": JPEG,
    ".jpeg": JPEG,
}


def safe_stem(name: str) -> str:
    """A file's name without folder and extension, for any file system; "photo" if nothing is left.

    Letters, digits and their marks of all scripts stay, composed (NFC), as do ".", "_" and "-". At most STEM_BYTES in
    UTF-8, so that a number and an extension still fit behind it.
    """
    last = unicodedata.normalize("NFC", re.split(r"[/\\]", name.rstrip("/\\"))[-1])
    kept = ""
    for character in re.sub(r"(?<=.)\.(?=\w*[a-z])[a-z0-9]{1,10}\Z", "", last, flags=re.IGNORECASE | re.ASCII):
        category = unicodedata.category(character)
        if character in "._-" or category[0] in "LN" or (category[0] == "M" and kept[-1:] not in ("", *"._-")):
            kept += character
        elif category != "Cf" and not kept.endswith("-"):  # what only directs the others leaves no gap
            kept += "-"
    stem = cut_name(kept.strip(".-"), STEM_BYTES).strip(".-") or "photo"
    reserved = unicodedata.normalize("NFKC", stem.partition(".")[0]).upper() in WINDOWS_RESERVED
    return f"photo-{stem}" if reserved else stem


def cut_name(text: str, most: int) -> str:
    """The beginning of a file's name that has at most so many bytes in UTF-8, no letter parted from its marks."""
    end = min(len(text), most)
    while len(text[:end].encode(errors="surrogateescape")) > most or (
        0 < end < len(text) and unicodedata.category(text[end])[0] == "M"
    ):
        end -= 1
    return text[:end]


def check_encoding(suffix: str, quality: int | None) -> None:
    """Raises PhotoError for an extension that is none of ENCODERS and a quality that is no whole number, 1 to 100."""
    if suffix.lower() not in ENCODERS:
        raise PhotoError(f"'{suffix}' is not a format to save in: use one of {', '.join(ENCODERS)}.")
    if quality is not None and not (isinstance(quality, Integral) and 1 <= quality <= 100):
        raise PhotoError(f"A quality of {quality!r} can't be made: choose a whole number from 1 to 100.")


def suffix_of(target: Target) -> str:
    """The extension of a path, dot included; none of a file object."""
    return Path(target).suffix if isinstance(target, str | os.PathLike) else ""


def holds_16_bits(suffix: str) -> bool:
    """Whether the format of an extension does."""
    return ENCODERS[suffix.lower()].deep


def save_pixels(
    pixels: Rows,
    target: Target,
    icc: bytes | None = None,
    quality: int | None = None,
    dpi: tuple[float, float] | None = None,
    suffix: str | None = None,
) -> None:
    """Write H x W (x 3 or 4) as PNG, WebP or TIFF (lossless), or JPEG (over white), by the path's extension.

    `target` may be a binary file object instead, with the extension as `suffix`.

    `pixels` are an array or make their rows as they are asked for, which a PNG does a few at a time.

    Colours of 16 bits, H x W x 3 or 4, are for formats that hold them. `dpi`, pixels an inch across and down, is kept
    by all but WebP. `quality`, 1 to 100, makes WebP lossy (its alpha stays exact) and is JPEG's, which is JPEG_QUALITY
    without it; PNG and TIFF take no notice. Raises PhotoError for what the format can't do, OSError where the file
    can't be written.
    """
    suffix = suffix_of(target) if suffix is None else suffix
    check_encoding(suffix, quality)
    encoder = ENCODERS[suffix.lower()]
    if encoder.name == "PNG":
        parts = [*png_parts(pixels, icc, dpi)]  # all of them before the file is touched
        with _opened(target) as file:
            file.writelines(parts)
        return
    whole = pixels[:]
    if encoder.name == "TIFF":
        with _opened(target) as file:
            _save_tiff(whole, file, icc, dpi)
        return
    if encoder.longest and max(whole.shape[:2]) > encoder.longest:
        raise PhotoError(f"A {encoder.name} has at most {encoder.longest} pixels a side: choose PNG.")
    if not encoder.alpha and whole.shape[2:] == (4,):
        whole = composite(np.ascontiguousarray(whole[..., :3]), whole[..., 3], (255, 255, 255))
    options = encoder.options
    if quality is not None and encoder.lossy is not None:
        options = options | encoder.lossy | {"quality": quality}
    options = options | ({"dpi": dpi} if dpi else {})
    Image.fromarray(whole).save(target, encoder.name, icc_profile=icc, **options)


def _opened(target: Target) -> AbstractContextManager[BinaryIO]:
    return Path(target).open("wb") if isinstance(target, str | os.PathLike) else nullcontext(target)


def _save_tiff(pixels: NDArray[Any], file: BinaryIO, icc: bytes | None, dpi: tuple[float, float] | None) -> None:
    """By tifffile: Pillow has no colours of 16 bits, and in memory leaves a byte between pixels and tags as it was."""
    import tifffile

    tifffile.imwrite(
        tifffile.FileHandle(file, name="cutout.tif"),  # it wants a name, which not every open file has
        pixels,
        photometric="minisblack" if pixels.ndim == 2 else "rgb",
        extrasamples=["unassalpha"] if pixels.shape[2:] == (4,) else None,
        compression="zlib",
        compressionargs={"level": 1},
        predictor=True,
        iccprofile=icc,
        resolution=dpi,
        resolutionunit="INCH" if dpi else None,
        metadata=None,
        software=False,
    )
