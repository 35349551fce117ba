"""ICC profiles as bytes: what one is for, and those of colours that a file tells in another way.

littleCMS reads them, and what is written here is tested against it; Pillow's binding to it can't write them.
"""

from __future__ import annotations

import functools
import io
import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ImageCms

MOST_BYTES = 16 << 20  # of a profile that is looked at; the largest in use, for printing, have about 4 MB
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # ICC's names of what channels are: Pillow's
D50 = np.array((0.9642, 1.0, 0.8249))  # XYZ of white in every ICC profile
BRADFORD = np.array(((0.8951, 0.2664, -0.1614), (-0.7502, 1.7135, 0.0367), (0.0389, -0.0685, 1.0296)))

Chromaticities = tuple[float, ...]  # x and y of white, red, green and blue, in the order of PNG's cHRM


class Curve(NamedTuple):
    """Light of a number, both 0..1: (a x + b)^g from x = d on, c x below (ICC.1:2010, parametric curve 3)."""

    g: float
    a: float = 1
    b: float = 0
    c: float = 0
    d: float = 0


class Cicp(NamedTuple):
    """Colours as ITU-T H.273 numbers them, in the `colr` box of HEIC and AVIF and in PNG's cICP."""

    primaries: int
    transfer: int

    @property
    def hdr(self) -> bool:
        """Whether white is not the largest number: PQ or HLG (ITU-R BT.2100)."""
        return self.transfer in (PQ, HLG)


PQ, HLG = 16, 18
UNSPECIFIED = 2
SRGB = Cicp(1, 13)
ADOBE_RGB = (0.3127, 0.3290, 0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
ADOBE_GAMMA = Curve(563 / 256)

D65, C, DCI = (0.3127, 0.3290), (0.310, 0.316), (0.314, 0.351)
PRIMARIES: dict[int, Chromaticities] = {  # H.273, table 2
    1: (*D65, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # BT.709, sRGB
    4: (*C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),
    5: (*D65, 0.64, 0.33, 0.29, 0.60, 0.15, 0.06),
    6: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    7: (*D65, 0.630, 0.340, 0.310, 0.595, 0.155, 0.070),
    8: (*C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),
    9: (*D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    11: (*DCI, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # P3 of cinemas
    12: (*D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),
}
SRGB_CURVE = Curve(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
VIDEO = Curve(1 / 0.45, 1 / 1.0993, 0.0993 / 1.0993, 1 / 4.5, 0.0812)  # BT.709, BT.601 and BT.2020 alike
CURVES: dict[int, Curve] = {  # H.273, table 3
    1: VIDEO,
    4: Curve(2.2),
    5: Curve(2.8),
    6: VIDEO,
    7: Curve(1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4, 0.0912),
    8: Curve(1),
    11: VIDEO,
    13: SRGB_CURVE,
    14: VIDEO,
    15: VIDEO,
    17: Curve(2.6),
}


def colour_space(icc: bytes | None) -> str:
    """What a profile's channels are, one of MODES; "" for others, and for what is none or is broken."""
    return _colour_space(icc) if icc and len(icc) <= MOST_BYTES else ""


@functools.lru_cache(maxsize=16)  # which keeps the profiles themselves, so that their length is checked before
def _colour_space(icc: bytes) -> str:
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        space = profile.profile.xcolor_space.strip()
        srgb, quickly = ImageCms.createProfile("sRGB"), ImageCms.Flags.NOOPTIMIZE
        ImageCms.buildTransform(profile, srgb, MODES[space], "RGB", flags=quickly)
    except (ImageCms.PyCMSError, OSError, KeyError, ValueError):  # the name of its colours need not be text
        return ""
    return space


def cicp_profile(colours: Cicp) -> bytes | None:
    """An ICC profile of these colours, which are not HDR; None for sRGB."""
    return None if colours == SRGB else write_profile(PRIMARIES[colours.primaries], CURVES[colours.transfer])


def to_xyz(colours: Chromaticities) -> NDArray[np.float64]:
    """The matrix from linear RGB to XYZ, 3 x 3, in which white has a Y of 1. Raises LinAlgError if there is none."""
    white, *primaries = (
        np.array((x / y, 1, (1 - x - y) / y)) for x, y in zip(colours[::2], colours[1::2], strict=True)
    )
    columns = np.stack(primaries, 1)
    matrix: NDArray[np.float64] = columns * np.linalg.solve(columns, white)
    return matrix


def write_profile(colours: Chromaticities, curve: Curve) -> bytes:
    """An ICC profile, version 4, of linear primaries and one curve: the usual kind of RGB space.

    White becomes D50 by Bradford's transform, as the specification has it. Raises LinAlgError for primaries that span
    no space.
    """
    matrix = to_xyz(colours)
    white = matrix.sum(1)
    adapted = np.linalg.inv(BRADFORD) @ np.diag(BRADFORD @ D50 / (BRADFORD @ white)) @ BRADFORD
    red, green, blue = (adapted @ matrix).T
    tone = _tone(curve)
    return _assemble(
        {
            **_common("RGB"),
            b"chad": b"sf32" + bytes(4) + _fixed(*adapted.ravel()),
            b"rXYZ": b"XYZ " + bytes(4) + _fixed(*red),
            b"gXYZ": b"XYZ " + bytes(4) + _fixed(*green),
            b"bXYZ": b"XYZ " + bytes(4) + _fixed(*blue),
            b"rTRC": tone,
            b"gTRC": tone,
            b"bTRC": tone,
        },
        b"RGB ",
    )


def write_grey_profile(curve: Curve) -> bytes:
    """An ICC profile, version 4, of greys."""
    return _assemble({**_common("Grey"), b"kTRC": _tone(curve)}, b"GRAY")


def _common(name: str) -> dict[bytes, bytes]:
    return {b"desc": _text(name), b"cprt": _text("CC0"), b"wtpt": b"XYZ " + bytes(4) + _fixed(*D50)}


def _tone(curve: Curve) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", 3, 0) + _fixed(*curve)


def _assemble(tags: dict[bytes, bytes], space: bytes) -> bytes:
    """The file: header, table of tags, tags; those that are the same are there once."""
    body, table, places = b"", b"", dict[bytes, int]()
    start = 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        if data not in places:
            places[data] = start + len(body)
            body += data + bytes(-len(data) % 4)
        table += struct.pack(">4sII", name, places[data], len(data))
    header = struct.pack(
        ">I4sI4s4s4s6H4s28x12s48x",
        start + len(body), b"", 0x04300000, b"mntr", space, b"XYZ ", 2000, 1, 1, 0, 0, 0, b"acsp", _fixed(*D50),
    )  # fmt: skip
    return header + struct.pack(">I", len(tags)) + table + body


def _text(text: str) -> bytes:
    data = text.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(data), 28) + data


def _fixed(*numbers: float) -> bytes:
    """ICC's s15Fixed16."""
    return struct.pack(f">{len(numbers)}i", *(round(65536 * number) for number in numbers))
