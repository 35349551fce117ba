"""What a decoder is given of a file: its picture, and not what lies around it.

Decoders choke on things that no picture needs: metadata that can't be parsed, blocks by the million, pages after the
first. So each file is walked once, in linear time and without decoding anything, and left with what makes up its first
picture, its colours and its orientation. JPEGs, which need more, are in `jpeg`; WebP and HEIC go as they are.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator

from background_remover.boxes import boxes
from background_remover.jpeg import simplify_jpeg
from background_remover.kinds import SLOW
from background_remover.orientation import BLOCKS, EXIF_ORIENTATION
from background_remover.tiff import SHORT, STARTS, TYPES, read_directory, write_directory
from utilities import PhotoError

MAX_PARTS = 250_000  # chunks, blocks or boxes that are walked over, and numbers in a TIFF's tag
MAX_CHUNKS = 50_000  # of a PNG that a decoder is given: 200 MB in the 4 KB each that the thriftiest writers make
PNG_MARK = b"\x89PNG\r\n\x1a\n"
# PNG: the picture, its transparency, its resolution and what its colours are, with the length where it is fixed (pages
# of an animation are not among them)
PNG_CHUNKS = {b"IHDR": 13, b"PLTE": None, b"tRNS": None, b"IDAT": None, b"iCCP": None, b"sBIT": None}
PNG_CHUNKS |= {b"pHYs": 9, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32, b"cICP": 4, b"mDCV": 24, b"cLLI": 8}
MAX_PROFILE = 2**20  # bytes of a colour profile in a PNG: Pillow opens no file with more
PNG_END = struct.pack(">I4sI", 0, b"IEND", zlib.crc32(b"IEND"))
GIF_CONTROL = b"\xf9"  # the block that says which colour is transparent
# TIFF, the same: the numbers of tags
TIFF_TAGS = {*range(254, 260), *range(262, 267), 273, 274, *range(277, 285), 290, 291, 292, 293, 296, 301, 347}
TIFF_TAGS |= {*range(317, 326), *range(332, 337), *range(338, 343), *range(512, 522), *range(529, 533), 34675, 50706}
BMP_RUN_LENGTHS = (1, 2)  # kinds of compression
MAX_RUN_LENGTHS = 2_000_000  # pixels, or bytes, of a BMP that has them, since Pillow decodes those in Python


def simplify(data: bytes) -> bytes:
    """The bytes of a file with its first picture alone, in the same format; as they are if that is none of ours.

    Raises PhotoError for what would keep a decoder busy for long, see MAX_PARTS. What is cut off or damaged stays so,
    for the decoder to find.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return simplify_jpeg(data)
    if data.startswith(PNG_MARK):
        return _simplify_png(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _simplify_gif(data)
    if data.startswith(STARTS):
        return _simplify_tiff(data)
    if data[4:8] == b"ftyp":
        return _hide_exif(data)
    if data.startswith(b"BM"):
        _check_bmp(data)
    return data


def _check_parts(count: int, most: int = MAX_PARTS) -> None:
    """Raises PhotoError for more parts than any photo has, since decoders take time for each."""
    if count > most:
        raise PhotoError(SLOW)


def _simplify_png(data: bytes) -> bytes:
    """EXIF counts where it does in browsers: before the pixels, whole, and the first."""
    parts, at, count, allowed = [PNG_MARK], len(PNG_MARK), 0, {*PNG_CHUNKS, b"eXIf"}
    while at + 8 <= len(data):
        count += 1
        _check_parts(count)
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name == b"IEND":
            break
        if name[:1].isupper() or (name in allowed and _is_usable(name, data[at:end])):
            parts.append(data[at:end])  # what is vital, known or not, is the decoder's to judge
            _check_parts(len(parts), MAX_CHUNKS)
            allowed -= {name if name == b"eXIf" else b""} | ({b"eXIf"} if name == b"IDAT" else set())
        at = end
    return b"".join((*parts, PNG_END if at <= len(data) else b""))


def _is_usable(name: bytes, chunk: bytes) -> bool:
    """Whether a chunk without which the picture can be seen is whole, and what its name says."""
    content = chunk[8:-4]
    if chunk[-4:] != struct.pack(">I", zlib.crc32(chunk[4:-4])) or PNG_CHUNKS.get(name) not in (None, len(content)):
        return False
    if name == b"eXIf":
        return content.startswith(BLOCKS)
    if name == b"iCCP":
        _, _, packed = content.partition(b"\0")
        try:
            return packed[:1] == b"\0" and len(zlib.decompressobj().decompress(packed[1:], MAX_PROFILE)) < MAX_PROFILE
        except zlib.error:
            return False
    return True


def _simplify_gif(data: bytes) -> bytes:
    """Comments and the like before the first picture are left out; its transparency is the last that is said."""
    if len(data) < 13:
        return data
    at = 13 + (3 << (data[10] % 8 + 1) if data[10] & 128 else 0)
    head, control, count = data[:at], b"", 0
    while (at := _skip_junk(data, at)) < len(data) and data[at : at + 1] == b"!":
        start, at = at, at + 2
        while at < len(data) and data[at] > 0:
            at += 1 + data[at]
            count += 1
            _check_parts(count)
        at += 1
        count += 1
        _check_parts(count)
        if data[start + 1 : start + 2] == GIF_CONTROL:
            control = data[start:at]
    return b"".join((head, control, data[at:]))


def _skip_junk(data: bytes, at: int) -> int:
    """Where the next block of a GIF starts."""
    found = re.compile(rb"[!,;]").search(data, at, at + MAX_PARTS)
    return found.start() if found else len(data)


def _simplify_tiff(data: bytes) -> bytes:
    """The first directory without private tags, EXIF and XMP, and none after it."""
    by_tag = {entry.tag: entry for entry in read_directory(data) if entry.tag in TIFF_TAGS}
    entries = [*by_tag.values()]
    if sum(entry.byte_count for entry in entries) > len(data):  # the same bytes read again and again
        raise PhotoError(SLOW)
    if any(entry.count > MAX_PARTS and TYPES.get(entry.kind) != 1 for entry in entries):
        raise PhotoError(SLOW)
    sound = [e for e in entries if e.tag != EXIF_ORIENTATION or (e.kind, e.count) == (SHORT, 1)]
    return write_directory(data, sound) if sound else data


def _hide_exif(data: bytes) -> bytes:
    """An AVIF's EXIF under a name that nobody looks for: it says nothing that counts, and garbage stops Pillow.

    The orientation of an AVIF is a property of the picture, as browsers have it.
    """
    metas = [(start + 4, end) for name, start, end in _boxes(data, 0, len(data)) if name == b"meta"]
    if not metas or not any(brand in data[8:64] for brand in (b"avif", b"avis")):
        return data
    for name, start, end in _boxes(data, *metas[0]):
        if name == b"iinf":
            table = data[start:end].replace(b"\0\0Exif", b"\0\0free")
            return b"".join((data[:start], table, data[end:]))
    return data


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Those of a file, no more than MAX_PARTS."""
    for count, box in enumerate(boxes(data, at, end), 1):
        _check_parts(count)
        yield box


def _check_bmp(data: bytes) -> None:
    if len(data) < 34:
        return
    width, height, _, compression = struct.unpack_from("<iiII", data, 18)
    if compression in BMP_RUN_LENGTHS and max(abs(width * height), len(data)) > MAX_RUN_LENGTHS:
        raise PhotoError(SLOW)
