"""Which way up a photo is: what its EXIF block says, as browsers read it.

Nothing but the orientation is read, and nothing is written back: most blocks have faults somewhere else. An orientation
in XMP counts as little as in browsers, and so does one in a WebP (tried in Chromium by tests/test_orientation.py).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from background_remover.tiff import SHORT, directory_end, read_directory

EXIF_ORIENTATION = 274  # the tag's number
EXIF_MARK = b"Exif\0\0"  # what comes before the block in a JPEG, and in what Pillow makes of others
BLOCKS = (b"II*\0", b"MM\0*")  # how one starts
# EXIF orientation: what brings the pixels upright
TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels.swapaxes(0, 1)[::-1, ::-1],
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
SIDEWAYS = (5, 6, 7, 8)  # those that swap width and height
# Those that browsers don't turn, and those whose decoders have turned them already.
UPRIGHT = ("WEBP", "TIFF", "HEIF")


def read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8, by which the loaded pixels of an image still have to be turned."""
    return 1 if image.format in UPRIGHT else parse_orientation(image.info.get("exif"))


def drop_unreadable_exif(image: Image.Image) -> None:
    """Take out of a TIFF that Pillow is about to load what would stop it, and an orientation that only XMP has.

    A TIFF is the one format whose EXIF Pillow reads, and turns it by, while it loads the pixels.
    """
    with contextlib.suppress(Exception):  # garbage raises anything, and only the first time
        image.getexif()
    exif = image.getexif()
    for directory in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop):
        try:
            exif.get_ifd(directory)
        except Exception:
            exif.pop(directory, None)
    if EXIF_ORIENTATION not in getattr(image, "tag_v2", ()):
        exif.pop(EXIF_ORIENTATION, None)


def parse_orientation(block: Any) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 where there is none or the block can't be read."""
    block = block.removeprefix(EXIF_MARK) if isinstance(block, bytes) else b""
    if block.startswith(BLOCKS):
        for entry in read_directory(block):
            if (entry.tag, entry.kind, entry.count) == (EXIF_ORIENTATION, SHORT, 1) and 1 <= entry.value <= 8:
                return entry.value
    return 1


def is_sound(block: bytes) -> bool:
    """Whether the first directory of an EXIF block can be read, and its values lie in the block."""
    block = block.removeprefix(EXIF_MARK)
    if not block.startswith(BLOCKS) or directory_end(block) > len(block):
        return False
    entries = [*read_directory(block)]
    outside = (entry.value + entry.byte_count > len(block) for entry in entries if entry.byte_count > 4)
    return bool(entries) and not any(outside) and sum(entry.byte_count for entry in entries) <= len(block)


def minimal_exif(orientation: int) -> bytes:
    """An EXIF block that says this and nothing else."""
    return EXIF_MARK + struct.pack(">4sIHHHIHHI", b"MM\0*", 8, 1, EXIF_ORIENTATION, SHORT, 1, orientation, 0, 0)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels H x W (x channels) as they are meant to be seen: contiguous, and W x H from orientation 5 on."""
    turn = TURNS.get(orientation)
    return np.ascontiguousarray(turn(pixels)) if turn else pixels
