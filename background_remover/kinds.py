"""What a file is, told from its first bytes, and why it is refused: a sentence for whoever sent it."""

from __future__ import annotations

import re
from typing import NamedTuple

from background_remover.tiff import STARTS, read_directory
from utilities import PhotoError

DAMAGED = "This photo is damaged or incomplete: save or download it again."
SLOW = "This photo is stored in a way that takes too long to open: save it again, as a PNG or JPEG."
RARE_TIFF = "This TIFF has pixels of a rare kind, such as floats: save it with 8 or 16 bits a channel."
FORMATS_TEXT = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"
HEAD = 4096  # bytes of a file that are looked at


class NotAPhotoError(PhotoError):
    """A file of another kind, or of a format that is not read here."""


class TooLargeError(PhotoError):
    """More bytes or pixels than a limit allows."""


class Kind(NamedTuple):
    """Something that is no photo: its name, and what its owner can do."""

    name: str
    remedy: str

    @property
    def sentence(self) -> str:
        """What its owner is told."""
        return f"This is {self.name}, not a photo: {self.remedy}."


VIDEO = Kind("a video", "take a still from it and send that")
AUDIO = Kind("a sound file", f"choose a {FORMATS_TEXT} file")
RAW = Kind("a camera raw file", "convert it to a JPEG or TIFF first")
PDF = Kind("a PDF", "export the page as a PNG or JPEG first")
SVG = Kind("an SVG drawing", "export it as a PNG first")
PSD = Kind("a Photoshop file", "export it as a PNG or JPEG first")
LAYERS = Kind("a drawing program's own file", "export it as a PNG or JPEG first")
OFFICE = Kind("an office document", "save the picture in it as a file of its own")
ARCHIVE = Kind("an archive", "unpack it and send the photos in it")
HTML = Kind(
    "a web page", "the download saved that instead of the picture, so open the picture itself and save it again"
)
ICON = Kind("an icon file", "save it as a PNG first")
JXL = Kind("a JPEG XL picture, which can't be read here", "save it as a JPEG or PNG first")
JP2 = Kind("a JPEG 2000 picture, which can't be read here", "save it as a JPEG or PNG first")
EPS = Kind("an EPS or PostScript drawing", "export it as a PNG first")
RARE = Kind("a picture in a format that can't be read here", "save it as a JPEG or PNG first")

# By the bytes at the start.
PREFIXES: tuple[tuple[bytes, Kind], ...] = (
    (b"%PDF", PDF),
    (b"8BPS", PSD),
    (b"gimp xcf", LAYERS),
    (b"\0\0\1\0", ICON),
    (b"\0\0\2\0", ICON),
    (b"icns", ICON),
    (b"\xff\x0a", JXL),
    (b"\0\0\0\x0cJXL \r\n\x87\n", JXL),
    (b"\0\0\0\x0cjP  \r\n\x87\n", JP2),
    (b"\xff\x4f\xff\x51", JP2),
    (b"%!PS", EPS),
    (b"\xc5\xd0\xd3\xc6", EPS),
    (b"v/1\1", RARE),  # OpenEXR
    (b"#?RADIANCE", RARE),
    (b"DDS ", RARE),
    (b"qoif", RARE),
    (b"\x1aE\xdf\xa3", VIDEO),  # WebM, Matroska
    (b"FLV\1", VIDEO),
    (b"0&\xb2u\x8ef\xcf\x11", VIDEO),  # WMV
    (b"\0\0\1\xba", VIDEO),  # MPEG
    (b"\0\0\1\xb3", VIDEO),
    (b"ID3", AUDIO),
    (b"fLaC", AUDIO),
    (b"OggS", AUDIO),
    (b"MThd", AUDIO),
    (b"#!AMR", AUDIO),
    (b"FUJIFILMCCD-RAW", RAW),
    (b"IIRO", RAW),  # Olympus
    (b"IIRS", RAW),
    (b"MMOR", RAW),
    (b"IIU\0", RAW),  # Panasonic
    (b"FOVb", RAW),  # Sigma
    (b"\0MRM", RAW),  # Minolta
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OFFICE),
    (b"{\\rtf", OFFICE),
    (b"7z\xbc\xaf\x27\x1c", ARCHIVE),
    (b"Rar!\x1a\x07", ARCHIVE),
    (b"\x1f\x8b", ARCHIVE),
)
CONTAINERS = {b"AVI ": VIDEO, b"WAVE": AUDIO, b"RMID": AUDIO, b"AIFF": AUDIO, b"AIFC": AUDIO}  # RIFF's and IFF's
# Major brands of ISO base media files; those that are neither here nor a video's are left to the decoders.
PICTURE_BRANDS = re.compile(rb"avi[fos]|mif[12]|msf1|miaf|unif|hei[cxms]|hev[cxms]|jpeg|j2k|MiH|1pic")
OTHER_BRANDS = {b"crx ": RAW, b"M4A ": AUDIO, b"M4B ": AUDIO, b"F4A ": AUDIO, b"jxl ": JXL, b"jp2 ": JP2, b"jpx ": JP2}
OFFICE_PARTS = (b"[Content_Types].xml", b"mimetypeapplication/", b"word/", b"xl/", b"ppt/")
# What starts alike in more than one way.
PATTERNS: tuple[tuple[re.Pattern[bytes], Kind], ...] = (
    (re.compile(rb"P[1-7fF]\s"), RARE),  # PPM and its like
    (re.compile(rb"\xff[\xe2\xe3\xf0-\xf3\xf8-\xfb][\x10-\xef]"), AUDIO),  # a frame of MP3 or AAC
    (re.compile(rb"\0...(moov|mdat|wide|skip|pnot)", re.DOTALL), VIDEO),  # QuickTime before it had brands
    (re.compile(rb"G(?!IF8).{187}G.{187}G", re.DOTALL), VIDEO),  # MPEG's transport stream, in packets
)
MARKUP = re.compile(rb"<(!doctype\s+html|html|head|body|svg)\b|<!doctype\s+svg", re.IGNORECASE)
TEXT = re.compile(r"[^\0-\x08\x0e-\x1a\x1c-\x1f\x7f\ufffd]*")


def other_kind(data: bytes) -> Kind | None:
    """What the bytes of a file are, if something that is certainly no photo in one of our formats."""
    head = data[:HEAD]
    for prefix, kind in PREFIXES:
        if head.startswith(prefix):
            return kind
    for pattern, kind in PATTERNS:
        if pattern.match(head):
            return kind
    if head.startswith(STARTS):
        return RAW if _is_raw(data) else None
    return _in_container(head) or _markup(head)


def _in_container(head: bytes) -> Kind | None:
    """What is in a file of a kind that can hold many things."""
    if head.startswith((b"RIFF", b"FORM")):
        return CONTAINERS.get(head[8:12])
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        return OFFICE if any(part in head for part in OFFICE_PARTS) else ARCHIVE
    if head[4:8] == b"ftyp" and not PICTURE_BRANDS.match(head[8:12]):
        return OTHER_BRANDS.get(head[8:12], VIDEO)
    return None


def too_many_bytes(most: int) -> str:
    """The sentence for a file over a limit."""
    return f"This file has more than {millions(most)} MB: save it smaller, perhaps as a JPEG."


def too_many_pixels(most: int) -> str:
    """The sentence for a photo over a limit."""
    return f"This photo has more than {millions(most)} megapixels: make it smaller first."


def millions(count: int) -> str:
    """A limit, in whole ones where it has any."""
    return f"{count // 1_000_000 or count / 1_000_000:g}"


def why_not(data: bytes) -> str:
    """Why a file that could not be decoded is none of our photos."""
    kind = other_kind(data)
    if kind:
        return kind.sentence
    known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", *STARTS)
    if data.startswith(known) or data[8:12] == b"WEBP" or data[4:8] == b"ftyp":
        return DAMAGED
    what = ", but a text file" if _is_text(data[:HEAD]) else ""
    return f"This is not a photo that can be read{what}: choose a {FORMATS_TEXT} file."


def _markup(head: bytes) -> Kind | None:
    """A page or a drawing, by its first element that is either; in UTF-16 every other byte is 0."""
    plain = head.replace(b"\0", b"").removeprefix(b"\xef\xbb\xbf").removeprefix(b"\xff\xfe").removeprefix(b"\xfe\xff")
    found = MARKUP.search(plain) if plain.lstrip()[:1] == b"<" else None
    if found is None:
        return None
    return SVG if b"svg" in found[0].lower() else HTML


def _is_text(head: bytes) -> bool:
    """Whether it reads as text, in UTF-8 or, after its mark, in UTF-16."""
    utf16 = head.startswith((b"\xff\xfe", b"\xfe\xff"))
    cut = len(head) - 4 if len(head) == HEAD else len(head)  # no character may be cut in two
    text = head[: cut if utf16 else None].decode("utf-16" if utf16 else "utf-8", errors="replace")
    return TEXT.fullmatch(text[:cut]) is not None


# In the first directory of a TIFF.
REDUCED = 254, 1  # NewSubfileType: a small version of another image in the file
CFA = 262, 32803  # PhotometricInterpretation: a sensor's mosaic
LINEAR_RAW = 262, 34892
DNG_VERSION = 50706


def _is_raw(data: bytes) -> bool:
    """Whether a TIFF is a camera's raw file: Canon's mark, or a first image that is none to look at."""
    entries = read_directory(data)
    return data[8:10] == b"CR" or any(
        entry.tag == DNG_VERSION or (entry.tag, entry.value) in (REDUCED, CFA, LINEAR_RAW) for entry in entries
    )
