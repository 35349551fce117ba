"""The first directory of a TIFF, and so of an EXIF block and of most cameras' raw files."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

BITS = 258  # a tag: of each channel
SHORT = 3  # a type: 16 bits
TYPES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"II\0*", b"MM*\0")  # with the two that are wrong and common


@dataclass(frozen=True)
class Layout:
    """How numbers are written, as in `struct`: those of a TIFF, or of a BigTIFF."""

    order: str
    count: str  # of entries
    offset: str

    @property
    def entry_bytes(self) -> int:
        """The length of an entry."""
        return 4 + 2 * struct.calcsize(self.offset)


@dataclass(frozen=True)
class Entry:
    """What a directory says of a tag."""

    at: int  # where the entry is
    tag: int
    kind: int  # one of TYPES
    count: int  # of values
    value: int  # the first one, where it is an integer and in the entry itself

    @property
    def byte_count(self) -> int:
        """Of all its values."""
        return TYPES.get(self.kind, 1) * self.count


def layout_of(data: bytes) -> Layout:
    """Of what starts with one of STARTS."""
    big = b"+" in data[2:4]
    return Layout("<" if data.startswith(b"II") else ">", "Q" if big else "H", "Q" if big else "I")


def find_directory(data: bytes) -> int:
    """Where the first directory is; the length of the data where it says none, or one that is not in it."""
    layout = layout_of(data)
    start = 4 if layout.offset == "I" else 8
    if len(data) < start + struct.calcsize(layout.offset):
        return len(data)
    (at,) = struct.unpack_from(layout.order + layout.offset, data, start)
    return min(int(at), len(data))


def directory_end(data: bytes) -> int:
    """Where the first directory ends by its own count of entries, in the data or after it."""
    layout, at = layout_of(data), find_directory(data)
    start = at + struct.calcsize(layout.count)
    if start > len(data):
        return start
    (count,) = struct.unpack_from(layout.order + layout.count, data, at)
    return int(start + layout.entry_bytes * count + struct.calcsize(layout.offset))


def read_directory(data: bytes) -> Iterator[Entry]:
    """The entries of the first directory, as far as they are there."""
    layout = layout_of(data)
    start = find_directory(data) + struct.calcsize(layout.count)
    end = min(directory_end(data) - struct.calcsize(layout.offset), len(data))
    for entry in range(start, end - layout.entry_bytes + 1, layout.entry_bytes):
        tag, kind, values = struct.unpack_from(f"{layout.order}HH{layout.offset}", data, entry)
        value_at = entry + 4 + struct.calcsize(layout.offset)
        (value,) = struct.unpack_from(layout.order + ("H" if kind == SHORT else layout.offset), data, value_at)
        yield Entry(entry, tag, kind, values, value)


def says_bits(data: bytes) -> bool:
    """Whether it is a TIFF whose first directory says how many bits a channel has."""
    return data.startswith(STARTS) and any(entry.tag == BITS for entry in read_directory(data))


def write_directory(data: bytes, entries: list[Entry]) -> bytes:
    """The same TIFF with some of the entries of its first directory alone, and no directory after it."""
    layout, at = layout_of(data), find_directory(data)
    directory = struct.pack(layout.order + layout.count, len(entries))
    directory += b"".join(data[entry.at : entry.at + layout.entry_bytes] for entry in entries)
    directory += bytes(struct.calcsize(layout.offset))
    return b"".join((data[:at], directory, data[at + len(directory) :]))
