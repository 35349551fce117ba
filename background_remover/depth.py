"""Pixels of 16 bits, of which Pillow keeps 8: those of colour PNGs and TIFFs."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from background_remover.orientation import parse_orientation, upright
from background_remover.tiff import BITS
from utilities import to_bytes

Deep = NDArray[np.uint16]

WHITE = 65535
ALIKE = 2  # of 255: by how much roundings may differ
# the numbers of TIFF's tags
PHOTOMETRIC, PLANAR, EXTRA = 262, 284, 338
RGB, PLANES, ASSOCIATED = 2, 2, (1,)  # what these say


def to_deep(array: NDArray[Any], white: float | None = None) -> Deep | None:
    """Integers as 16 bits, if they have more than 8: `white`, or what `utilities.to_bytes` guesses, becomes WHITE."""
    if array.dtype.kind not in "iu" or white == 255 or (white is None and array.max(initial=0) <= 255):
        return None
    if array.dtype == np.uint16 and white in (None, WHITE):
        return array
    white = white or WHITE
    scaled: Deep = np.rint(np.clip(array, 0, white) * (WHITE / white)).astype(np.uint16)
    return scaled


def deep_channels(image: Image.Image, data: bytes) -> Deep | None:
    """The 16 bits of a colour PNG or TIFF, H x W x 2 to 4, alpha straight; None for others.

    `image` is the file `data`, loaded by Pillow, which has checked it. Where the two do not look the same, Pillow's 8
    bits have to do.
    """
    tags = getattr(image, "tag_v2", {})
    of_png = image.format == "PNG" and data[24:25] == b"\x10" and image.mode in ("RGB", "LA", "RGBA")
    of_tiff = image.mode in ("RGB", "RGBA") and set(tags.get(BITS, ())) == {16} and tags.get(PHOTOMETRIC) == RGB
    if not of_png and not of_tiff:
        return None
    planes = tags.get(PLANAR) == PLANES
    try:
        channels = _join_planes(data) if planes else _decode(data)
    except Exception:  # decoders that are fed garbage raise anything
        return None
    if tags.get(EXTRA) == ASSOCIATED:
        channels = _straight(channels)
    elif image.mode == "LA":
        channels = channels[..., 2:]
    elif image.mode == "RGB" and of_tiff:  # what else there is has no meaning
        channels = channels[..., :3]
    # Pillow takes the halves of a number in a plane for two numbers, so that there is nothing to compare with.
    return np.ascontiguousarray(channels) if planes or _look_alike(channels, image) else None


def _decode(data: bytes) -> Deep:
    """By OpenCV, which reads every compression, and turns a TIFF as its orientation says, as Pillow does."""
    channels: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    rgb: Deep = cv2.cvtColor(channels, cv2.COLOR_BGRA2RGBA if channels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    return rgb


def _join_planes(data: bytes) -> Deep:
    """By tifffile, since OpenCV takes planes on end for pixels on end."""
    import tifffile

    with tifffile.TiffFile(io.BytesIO(data)) as file:
        planes = file.pages[0].asarray()
    return upright(np.moveaxis(planes, 0, -1), parse_orientation(data))


def _straight(channels: Deep) -> Deep:
    """Colours as they were before they were multiplied by the alpha, which is the last channel."""
    colours, alpha = channels[..., :3], channels[..., 3:]
    straight = np.rint(np.minimum(colours * (WHITE / np.maximum(alpha, 1)), WHITE)).astype(np.uint16)
    return np.concatenate((straight, alpha), 2)


def _look_alike(channels: Deep, image: Image.Image) -> bool:
    """Whether the colours are Pillow's; those that are all but transparent are rough if they were premultiplied."""
    grey = channels.shape[2] == 2
    colours = to_bytes(np.ascontiguousarray(channels[..., 0] if grey else channels[..., :3]), WHITE)
    differences = cv2.absdiff(colours, np.asarray(image.convert("L" if grey else "RGB")))
    if channels.shape[2] != 3:
        differences[channels[..., -1] <= WHITE // 2] = 0
    return int(differences.max()) <= ALIKE
