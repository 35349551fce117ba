"""Pixels of more than 8 bits, which Pillow cuts to 8 or refuses: 16-bit PNGs and TIFFs, and TIFFs of floats.

OpenCV reads TIFFs in every compression, but planes apart and half floats wrongly or not; tifffile those, but without
a package larger than all else here only in the usual compressions.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

Deep = NDArray[np.uint16]
Turn = Callable[[NDArray[Any]], NDArray[Any]]

WHITE = 65535
ALIKE = 2  # of 255: by how much roundings may differ
# the numbers of TIFF's tags
WIDTH, HEIGHT, BITS, PHOTOMETRIC, CHANNELS, PLANAR, EXTRA, FORMAT = 256, 257, 258, 262, 277, 284, 338, 339


def deep_channels(image: Image.Image, data: bytes, turn: Turn, upright: Image.Image) -> Deep | None:
    """The 16 bits of a colour PNG or TIFF of which Pillow gives 8: H x W x 3 or 4, alpha straight; None for others.

    `image` is the same file, opened by Pillow, and `upright` what Pillow makes of it, which `turn` does to pixels.
    Where the two do not look the same its 8 bits have to do.
    """
    tags = getattr(image, "tag_v2", {})
    deep_png = image.format == "PNG" and data[24:25] == b"\x10" and image.mode in ("RGB", "LA", "RGBA")
    deep_tiff = bool(data) and image.mode in ("RGB", "RGBA") and set(tags.get(BITS, ())) == {16}
    if not deep_png and not (deep_tiff and tags.get(PHOTOMETRIC) == 2):
        return None
    try:
        channels = turn(_by_opencv(data) if deep_png else _tiff_channels(data, tags))
        if deep_tiff and image.mode == "RGB":  # what else there is has no meaning
            channels = channels[..., :3]
        shallow = np.asarray(upright.convert("RGB")).astype(np.int16)
        clear = channels[..., 3:] > WHITE // 2 if channels.shape[2] == 4 else True  # less is rough if premultiplied
        alike = np.all(np.abs((channels[..., :3] >> 8) - shallow) <= ALIKE, where=clear)
    except Exception:  # decoders that are fed garbage raise anything
        return None
    separate = tags.get(PLANAR) == 2  # Pillow takes the halves of such a number for two
    return np.ascontiguousarray(channels) if alike or separate else None


def tiff_tags(data: bytes) -> dict[int, Any]:
    """The tags of a TIFF's first page, by number; none if it is no TIFF."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return {}
    try:
        file = io.BytesIO(data)
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        return dict(tags)
    except Exception:  # as above
        return {}


def tiff_pixels(data: bytes, tags: dict[int, Any]) -> NDArray[Any] | None:
    """Pixels of a grey or RGB TIFF that Pillow does not know: H x W x 1 to 4, as in the file but alpha straight."""
    if tags.get(PHOTOMETRIC) not in (1, 2):
        return None
    try:
        return _tiff_channels(data, tags)
    except Exception:  # as above
        return None


def to_deep(array: NDArray[Any], white: float | None = None) -> Deep | None:
    """Integers as 16 bits, if they have more than 8: `white`, or what `utilities.to_bytes` guesses, becomes WHITE."""
    if array.dtype.kind not in "iu" or white == 255 or (white is None and array.max(initial=0) <= 255):
        return None
    if array.dtype == np.uint16 and white in (None, WHITE):
        return array
    white = white or WHITE
    return np.rint(np.clip(array, 0, white) * (WHITE / white)).astype(np.uint16)


def jpeg_bits(data: bytes) -> int:
    """Bits a channel of a JPEG; 0 if it is none, or damaged before it says so (ITU-T T.81, B.2.2)."""
    at = 2
    while data[:2] == b"\xff\xd8" and at + 5 <= len(data) and data[at] == 0xFF:
        (length,) = struct.unpack_from(">H", data, at + 2)
        if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in (0xC4, 0xC8, 0xCC):
            return int(data[at + 4])
        at += 2 + length
    return 0


def _by_opencv(data: bytes) -> NDArray[Any]:
    channels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(channels, cv2.COLOR_BGRA2RGBA if channels.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def _by_tifffile(data: bytes) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return file.pages[0].asarray()


def _tiff_channels(data: bytes, tags: Any) -> NDArray[Any]:
    """H x W x 1 to 4 of the first page, alpha straight. Raises what decoders raise."""
    bits, separate = set(tags[BITS]), tags.get(PLANAR) == 2
    half = bits == {16} and set(tags.get(FORMAT, ())) == {3}
    if tags.get(CHANNELS, 1) in (3, 4) and bits <= {16, 32, 64} and not separate and not half:
        channels = _by_opencv(data)
    else:
        channels = _by_tifffile(data)
        channels = np.moveaxis(channels, 0, -1) if separate and channels.ndim == 3 else channels
    channels = channels.reshape(tags[HEIGHT], tags[WIDTH], -1)
    associated = tags.get(EXTRA, ())[:1] == (1,)
    return _straight(channels) if associated else channels


def _straight(channels: NDArray[Any]) -> NDArray[Any]:
    """Colours as they were before they were multiplied by the alpha, which is the last channel."""
    most = 1.0 if channels.dtype.kind == "f" else float(np.iinfo(channels.dtype).max)
    colours, alpha = channels[..., :-1], channels[..., -1:]
    straight = np.minimum(colours * (most / np.maximum(alpha, 1e-9 if most == 1 else 1)), most)
    straight = straight if most == 1 else np.rint(straight)
    return np.concatenate((straight.astype(channels.dtype), alpha), 2)
