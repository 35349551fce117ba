"""Files that say something of their colours, depth or transparency which Pillow does not write."""

from __future__ import annotations

import itertools
import struct
import zlib

import numpy as np

from background_remover.fastpng import encode_png

HEADER_END = 33  # of a PNG: the signature and IHDR
GREY, RGB = 0, 2  # PNG's types of colour
SRGB_D50 = np.array(((0.4361, 0.3851, 0.1431), (0.2225, 0.7169, 0.0606), (0.0139, 0.0971, 0.7141)))  # to XYZ, as in ICC


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(pixels: np.ndarray, *chunks: bytes) -> bytes:
    data = encode_png(pixels)
    return data[:HEADER_END] + b"".join(chunks) + data[HEADER_END:]


def cicp(primaries: int, transfer: int) -> bytes:
    return chunk(b"cICP", bytes((primaries, transfer, 0, 1)))


def gama(gamma: float) -> bytes:
    return chunk(b"gAMA", struct.pack(">I", round(100_000 * gamma)))


def chrm(*colours: float) -> bytes:
    return chunk(b"cHRM", struct.pack(">8I", *(round(100_000 * number) for number in colours)))


def packed_png(rows: list[bytes], width: int, bits: int, kind: int, trns: bytes) -> bytes:
    """Of rows that are packed already, with a tRNS chunk."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = chunk(b"IHDR", header), chunk(b"tRNS", trns), chunk(b"IDAT", data), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def one_way_profile(space: bytes, light: np.ndarray) -> bytes:
    """An ICC profile, version 2, that leads from its numbers to XYZ and not back, as those of scanners and cameras do.

    `light` is 2 x ... x 2 x 3: linear sRGB of each corner of `space`, between which it is interpolated.
    """
    inputs = light.ndim - 1
    corners = [light[corner] @ SRGB_D50.T for corner in itertools.product((0, 1), repeat=inputs)]
    table = struct.pack(">4s4xBBBx9iHH", b"mft2", inputs, 3, 2, *(65536 * np.eye(3, dtype=int)).ravel(), 2, 2)
    table += struct.pack(">HH", 0, 65535) * inputs
    table += np.rint(np.array(corners) * 32768).astype(">u2").tobytes() + struct.pack(">HH", 0, 65535) * 3
    tags = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x\0" + bytes(78),
        b"wtpt": b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061),
        b"A2B0": table,
    }
    body, entries = b"", b""
    for name, data in tags.items():
        entries += struct.pack(">4sII", name, 132 + 12 * len(tags) + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    size = 132 + len(entries) + len(body)
    kind = b"scnr" if space == b"RGB " else b"prtr"
    white = struct.pack(">3i", 63190, 65536, 54061)
    header = struct.pack(">I4xI4s4s4s12x4s28x12s48x", size, 0x02400000, kind, space, b"XYZ ", b"acsp", white)
    return header + struct.pack(">I", len(tags)) + entries + body
