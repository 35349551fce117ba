"""The boxes that HEIC and AVIF files are made of (ISO/IEC 14496-12, 4.2)."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """The boxes on end in a part of a file: their name, and where their contents start and end."""
    while at + 8 <= end:
        size, name = struct.unpack_from(">I4s", data, at)
        start = at + 8
        if size == 1 and at + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, start)
            start += 8
        size = size or end - at
        if at + size < start:
            return
        yield name, start, min(at + size, end)
        at += size
