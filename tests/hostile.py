"""Files and bodies made to hold a server up, each valid as far as it can be."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

PERSON = Path(__file__).parent.parent / "examples" / "person.jpg"


def filled(byte_count: int) -> Iterator[bytes]:
    """JSON of that size, in pieces."""
    yield b'{"data": ["'
    for _ in range(byte_count // 1_000_000):
        yield b"x" * 1_000_000
    yield b'"]}'


def points(count: int) -> bytes:
    """A brush's strokes of so many points."""
    return b'{"data": [{"strokes": [{"keep": true, "width": 0.1, "points": [' + b"[0.5,0.5]," * count + b"[0,0]]}]}]}"


def jpeg() -> bytes:
    data = io.BytesIO()
    Image.open(PERSON).save(data, "JPEG")
    return data.getvalue()


def with_segments(photo: bytes, marker: int, content: bytes, count: int) -> bytes:
    segment = b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content
    return photo[:2] + segment * count + photo[2:]


def progressive(scans: int) -> bytes:
    """A large grey JPEG whose first scan, of a few bytes, is followed by as many more as asked."""
    data = io.BytesIO()
    Image.new("L", (8000, 8000), 128).save(data, "JPEG", progressive=True)
    found = data.getvalue()
    starts = [at for at in range(len(found)) if found[at : at + 2] == b"\xff\xda"]
    last = found[starts[-1] : -2]
    return found[:-2] + last * scans + found[-2:]


def webp(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (width, height)).save(data, "WebP", lossless=True)
    return data.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def png_start(width: int, height: int) -> bytes:
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)


def png(width: int, height: int) -> bytes:
    """A black grey one."""
    packer = zlib.compressobj(9)
    line = bytes(width + 1)
    data = (
        b"".join(packer.compress(line) for _ in range(height))
        if height < 100_000
        else packer.compress(bytes(2 * height))
    )
    return png_start(width, height) + chunk(b"IDAT", data + packer.flush()) + chunk(b"IEND", b"")


def png_with_chunks(count: int) -> bytes:
    return png_start(8, 8) + chunk(b"tEXt", b"a\0b") * count + png(8, 8)[33:]


def gif_with_comment(byte_count: int) -> bytes:
    data = io.BytesIO()
    Image.new("P", (8, 8)).save(data, "GIF")
    comment = b"\x21\xfe" + (b"\xff" + b"x" * 255) * (byte_count // 256) + b"\0"
    at = data.getvalue().index(b"\x2c")
    return data.getvalue()[:at] + comment + data.getvalue()[at:]
