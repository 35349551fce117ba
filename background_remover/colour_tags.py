"""What a file says of its colours: a profile, or H.273's numbers, or PNG's chunks, or a camera's EXIF."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from background_remover.boxes import boxes
from background_remover.profiles import (
    ADOBE_GAMMA,
    ADOBE_RGB,
    CURVES,
    PRIMARIES,
    SRGB,
    SRGB_CURVE,
    UNSPECIFIED,
    Cicp,
    Curve,
    cicp_profile,
    colour_space,
    write_profile,
)

EXIF_IFD, EXIF_COLOUR_SPACE = 0x8769, 0xA001  # the numbers of tags
INTEROP_IFD, INTEROP_INDEX = 0xA005, 1
MAX_META = 1 << 20  # bytes of an AVIF's metadata that are looked at; those of a photo in tiles have a few thousand
GAMMAS = 0.1, 10.0  # of a gAMA that is looked at


def told_colours(image: Image.Image, data: bytes = b"") -> bytes | Cicp | None:
    """The ICC profile of an image's colours, given or made; a Cicp for HDR; None for sRGB, which is also the default.

    `data` is the file, whose header says more than Pillow does. A profile counts before other words, but in a PNG
    (third edition, 4.3) cICP counts first, and gAMA and cHRM only where there is no sRGB chunk. What is broken counts
    as absent.
    """
    icc, cicp = image.info.get("icc_profile"), _cicp(image, data)
    if icc and colour_space(icc) and not (cicp and image.format == "PNG"):
        return bytes(icc)
    if cicp:
        return cicp if cicp.hdr else cicp_profile(cicp)
    if image.info.keys() & {"gamma", "chromaticity"}:
        return None if "srgb" in image.info else _png_profile(image.info)
    return write_profile(ADOBE_RGB, ADOBE_GAMMA) if _says_adobe_rgb(image) else None


def _cicp(image: Image.Image, data: bytes) -> Cicp | None:
    """H.273's numbers; where one is left open it is sRGB's."""
    if image.format == "PNG":
        cicp = _png_cicp(data)
    elif image.format == "AVIF":
        cicp = _avif_cicp(data)
    else:
        nclx = image.info.get("nclx_profile") or {}
        cicp = Cicp(nclx.get("color_primaries", UNSPECIFIED), nclx.get("transfer_characteristics", UNSPECIFIED))
    if cicp is None or cicp == (UNSPECIFIED, UNSPECIFIED):
        return None
    cicp = Cicp(*(usual if number == UNSPECIFIED else number for number, usual in zip(cicp, SRGB, strict=True)))
    return cicp if cicp.primaries in PRIMARIES and (cicp.transfer in CURVES or cicp.hdr) else None


def _png_cicp(data: bytes) -> Cicp | None:
    at = 8
    for _ in range(100):  # it comes before the pixels, so behind few chunks
        length, kind = struct.unpack(">I4s", data[at : at + 8].ljust(8, b"\0"))
        if kind == b"cICP" and length == 4:
            return Cicp(*data[at + 8 : at + 10])
        if kind in (b"IDAT", bytes(4)):
            break
        at += 12 + length
    return None


def _png_profile(info: dict[Any, Any]) -> bytes | None:
    """Of gAMA and cHRM; where one of them is missing it is sRGB's."""
    gamma, colours = info.get("gamma"), info.get("chromaticity", PRIMARIES[1])
    if gamma is not None and not GAMMAS[0] <= gamma <= GAMMAS[1]:
        return None
    try:
        return write_profile(tuple(colours), Curve(1 / gamma) if gamma else SRGB_CURVE)
    except (np.linalg.LinAlgError, ArithmeticError, ValueError, struct.error):  # no colours that there can be
        return None


def _says_adobe_rgb(image: Image.Image) -> bool:
    """Cameras write Adobe RGB as an index of interoperability, R03, and no colour space (DCF 2.0, 3.4.2)."""
    if "exif" not in image.info:
        return False
    try:
        exif = image.getexif()
        of_camera = exif.get_ifd(EXIF_IFD)
        space = of_camera.get(EXIF_COLOUR_SPACE)
        index = exif.get_ifd(INTEROP_IFD).get(INTEROP_INDEX, "") if INTEROP_IFD in of_camera else ""
    except Exception:  # whatever garbage makes of Pillow's reader, it says nothing of colours
        return False
    return space == 2 or (space != 1 and (index if isinstance(index, bytes) else str(index).encode())[:3] == b"R03")


def _contents(data: bytes) -> list[tuple[bytes, bytes]]:
    """The names and contents of boxes on end."""
    return [(name, data[start:end]) for name, start, end in boxes(data, 0, len(data))]


def _avif_cicp(data: bytes) -> Cicp | None:
    """Of the `colr` box of kind nclx that belongs to the picture (ISO/IEC 23008-12, 6.5.5)."""
    try:
        start, end = next(
            ((start + 4, end) for name, start, end in boxes(data, 0, len(data)) if name == b"meta"), (0, 0)
        )
        if end - start > MAX_META:
            return None
        parts = dict(_contents(data[start:end]))
        shared = _contents(parts[b"iprp"])
        properties = _contents(dict(shared)[b"ipco"])
        primary = parts[b"pitm"]
        item = int.from_bytes(primary[4:], "big")
        own = {index for kind, content in shared if kind == b"ipma" for index in _associated(content, item)}
        for index, (kind, content) in enumerate(properties, 1):
            if index in own and kind == b"colr" and content[:4] == b"nclx":
                return Cicp(*struct.unpack_from(">HH", content, 4))
    except (StopIteration, KeyError, IndexError, struct.error):
        pass
    return None


def _associated(ipma: bytes, item: int) -> Iterator[int]:
    """The numbers of an item's properties, from 1, in an `ipma` box (ISO/IEC 23008-12, 9.3.1)."""
    version, wide = ipma[0], ipma[3] & 1
    (count,) = struct.unpack_from(">I", ipma, 4)
    at = 8
    for _ in range(min(count, len(ipma))):
        (this,) = struct.unpack_from(">I" if version else ">H", ipma, at)
        at += 4 if version else 2
        amount = ipma[at]
        at += 1
        for _ in range(amount):
            (index,) = struct.unpack_from(">H" if wide else ">B", ipma, at)
            at += 2 if wide else 1
            if this == item:
                yield index & (0x7FFF if wide else 0x7F)
