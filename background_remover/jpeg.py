"""A JPEG's structure: what of it a decoder is given, and whether a file without an end has the whole picture."""

from __future__ import annotations

import io
import re
import struct
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from background_remover.kinds import DAMAGED, SLOW
from background_remover.orientation import EXIF_MARK, is_sound, minimal_exif, parse_orientation
from utilities import PhotoError

MAX_SEGMENTS = 10_000  # more than any photo has; decoders take time for each
MAX_SCAN_BYTES = 16  # a pixel, twice what noise at the best quality needs
SPARE_BYTES = 1_000_000  # of scans, for small pictures
MAX_SCANS = 20  # libjpeg makes 10 of RGB and 18 of CMYK; more only where
MAX_SCANNED = 200_000_000  # pixels times scans are less: each scan of a progressive JPEG goes over all its pixels
MAX_PROFILE_PARTS = 255  # a byte counts them

START, END = b"\xff\xd8", b"\xff\xd9"
SOS, EOI, COM = 0xDA, 0xD9, 0xFE
APP0, APP1, APP2, APP14 = 0xE0, 0xE1, 0xE2, 0xEE
APPS = range(0xE0, 0xF0)
FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF: the size, and what the components are
NEXT = re.compile(rb"[^\xff]*+\xff++")  # a marker's first byte, after whatever lies there and with what fills it up
IN_SCAN = re.compile(rb"\xff[\xc0-\xcf\xd9-\xef\xfe]")  # what ends a scan's bytes; others are stuffed or restart it
ALL = (1 << 64) - 1  # coefficients of a block, a bit each
NOISE = bytes(value % 255 for value in np.random.default_rng(1).bytes(4096))  # no 255, which would be a marker
LOST = 1 / 8  # of the picture; see `is_whole`


@dataclass
class Layout:
    """What a walk over the segments found."""

    head: list[bytes] = field(default_factory=list)  # what is passed on of what comes before the first scan
    scans_at: int = 0  # where the first scan starts; 0 where there is none
    end: int = 0  # behind EOI, or where all that can be picture ends
    pixels: int = 0
    scans: int = 0
    mcu: tuple[int, int] = (8, 8)  # width and height of the unit that is coded at a time, in pixels
    missing: dict[int, int] = field(default_factory=dict)  # coefficients no scan was final for, by component


def simplify_jpeg(data: bytes) -> bytes:
    """A JPEG without comments, fill bytes, other pictures and all metadata but a first EXIF block and the profile.

    It ends with EOI only if the file had one. Raises PhotoError for too many segments, scans or bits.
    """
    found = _walk(data)
    if not found.scans_at:
        return data
    return b"".join((START, *found.head, data[found.scans_at : found.end].rstrip(b"\xff")))


def is_whole(data: bytes) -> bool:
    """Whether a JPEG that `simplify_jpeg` left without EOI has all of its picture, or all but a corner.

    That is so if each coefficient had its last scan, and the bytes of that ran out in the last row of MCUs, at most an
    eighth of the picture before its end. So a file that lost its end is a photo, as in browsers, and one that lost
    more is said to be incomplete; where its rows would be short, the eighth keeps half a file from passing. Where
    the bytes run out is seen by adding some: from there on, the picture depends on them. What would take too long to
    find out counts as incomplete.
    """
    found = _walk(data)
    if any(found.missing.values()) or not found.missing or found.scans * found.pixels > MAX_SCANNED:
        return False
    changed = _brightness(data + END) != _brightness(data + NOISE + END)
    height, width = changed.shape
    columns, rows = -(-width // found.mcu[0]), -(-height // found.mcu[1])
    first = int(changed.any(axis=1).argmax())
    if not changed[first].any():
        return True
    row = first // found.mcu[1]
    column = int(changed[first : (row + 1) * found.mcu[1]].any(axis=0).argmax()) // found.mcu[0]
    lost = rows * columns - row * columns - column
    return bool(lost <= columns and lost <= LOST * rows * columns)


def _brightness(data: bytes) -> NDArray[np.uint8]:
    """The pixels of a JPEG in grey, or those of a rare kind that can't be had in grey by one of its channels."""
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", image.size)
        return np.asarray(image.getchannel(0))


def mend(data: bytes) -> bytes:
    """A JPEG that `simplify_jpeg` left without EOI, with one. Raises PhotoError unless it `is_whole`."""
    if not is_whole(data):
        raise PhotoError(DAMAGED)
    return data + END


def _walk(data: bytes) -> Layout:
    found, at, count = Layout(end=len(data)), len(START), 0
    kept = Counter[int]()
    while marker := (IN_SCAN.search(data, at, found.end) if found.scans else NEXT.match(data, at)):
        count += 1
        if count > MAX_SEGMENTS:
            raise PhotoError(SLOW)
        at = marker.end() - 1 if found.scans else marker.end()
        code, at = data[at : at + 1], at + 1
        if code in (b"", b"\0", b"\1") or 0xD0 <= code[0] <= 0xD8:  # no segment
            continue
        kind = code[0]
        if kind == EOI:
            found.end = at
            break
        if at + 2 > len(data) or (length := int.from_bytes(data[at : at + 2])) < 2 or at + length > len(data):
            if found.scans:  # bytes of the picture that a fault made look like a marker
                continue
            break
        segment = data[at + 2 : at + length]
        if kind == SOS:
            if not found.scans:
                found.scans_at = at - 2
                found.end = min(len(data), at + SPARE_BYTES + MAX_SCAN_BYTES * found.pixels)
            _add_scan(found, segment)
        elif kind in FRAMES:
            _add_frame(found, segment)
        if not found.scans and (content := _passed_on(kind, segment, kept[kind])) is not None:
            kept[kind] += 1
            found.head.append(struct.pack(">BBH", 0xFF, kind, len(content) + 2) + content)
        at += length
    return found


def _passed_on(kind: int, segment: bytes, before: int) -> bytes | None:
    """What is passed on of a segment before the first scan, None if nothing; `before` is how many of its kind were."""
    if kind == APP1 and segment.startswith(EXIF_MARK[:5]) and not before:
        block = EXIF_MARK + segment[6:]  # whose last zero browsers don't insist on
        return block if is_sound(block) else minimal_exif(parse_orientation(block))
    for app, name, least in ((APP0, b"JFIF\0", 7), (APP2, b"ICC_PROFILE\0", 15), (APP14, b"Adobe", 12)):
        if kind == app and segment.startswith(name) and len(segment) >= least and before < MAX_PROFILE_PARTS:
            return segment
    return None if kind in APPS or kind == COM else segment


def _add_frame(found: Layout, segment: bytes) -> None:
    """Raises PhotoError for more bits than decoders read."""
    if b"\x08" < segment[:1] <= b"\x10":
        raise PhotoError(f"This is a {segment[0]}-bit JPEG, which can't be read: save it with 8 bits, or as a PNG.")
    if len(segment) < 6 or len(segment) < 6 + 3 * segment[5] or found.missing:
        return
    height, width = struct.unpack_from(">HH", segment, 1)
    components = [segment[at : at + 3] for at in range(6, 6 + 3 * segment[5], 3)]
    found.pixels = width * height
    found.missing = {component[0]: ALL for component in components}
    if len(components) > 1:
        found.mcu = 8 * max(c[1] >> 4 for c in components) or 8, 8 * max(c[1] & 15 for c in components) or 8


def _add_scan(found: Layout, segment: bytes) -> None:
    """Raises PhotoError for more scans than photos of this size have."""
    found.scans += 1
    if found.scans > MAX_SCANS and found.scans * found.pixels > MAX_SCANNED:
        raise PhotoError(SLOW)
    count = segment[0] if segment else 0
    if len(segment) < 4 + 2 * count:
        return
    first, last, shift = segment[1 + 2 * count : 4 + 2 * count]
    if shift & 15 == 0:  # the last bit of these coefficients
        for component in segment[1 : 1 + 2 * count : 2]:
            if component in found.missing:
                found.missing[component] &= ~(((1 << (last + 1)) - 1) & ~((1 << first) - 1))
