"""What is no photo is told from its content, and its owner is told what to do."""

import io
import re
import struct
import zipfile

import numpy as np
import pillow_heif
import pytest
from helpers import LEAK, encoded
from PIL import Image

from background_remover.photos import open_photo
from utilities import PhotoError

NOISE = np.random.default_rng(1).bytes(9000)
PICTURE = Image.fromarray(np.frombuffer(NOISE[:3072], np.uint8).reshape(32, 32, 3))


def ftyp(brand: bytes, *others: bytes) -> bytes:
    """The start of an ISO base media file."""
    content = brand + bytes(4) + b"".join(others)
    return (
        struct.pack(">I", 8 + len(content)) + b"ftyp" + content + struct.pack(">I4s", 8 + len(NOISE), b"mdat") + NOISE
    )


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "content")
    return buffer.getvalue()


def tiff(*tags: tuple[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + NOISE


FILES = {
    "mp4": (ftyp(b"isom", b"avc1"), "This is a video"),
    "mp4 of a camera": (ftyp(b"mp42", b"mif1"), "This is a video"),
    "mov": (ftyp(b"qt  "), "This is a video"),
    "old mov": (struct.pack(">I4s", 9008, b"mdat") + NOISE, "This is a video"),
    "3gp": (ftyp(b"3gp5"), "This is a video"),
    "webm": (b"\x1aE\xdf\xa3" + NOISE, "This is a video"),
    "avi": (b"RIFF\0\0\1\0AVI LIST" + NOISE, "This is a video"),
    "wmv": (b"0&\xb2u\x8ef\xcf\x11\xa6\xd9" + NOISE, "This is a video"),
    "mpeg": (b"\0\0\1\xba" + NOISE, "This is a video"),
    "mp3 with tags": (b"ID3\4\0" + NOISE, "This is a sound file"),
    "mp3": (b"\xff\xfb\x90\x64" + bytes(400), "This is a sound file"),
    "wav": (b"RIFF\0\0\1\0WAVEfmt " + NOISE, "This is a sound file"),
    "m4a": (ftyp(b"M4A "), "This is a sound file"),
    "ogg": (b"OggS\0\2" + NOISE, "This is a sound file"),
    "flac": (b"fLaC\0" + NOISE, "This is a sound file"),
    "cr2": (b"II*\0\x10\0\0\0CR\2\0" + NOISE, "This is a camera raw file"),
    "cr3": (ftyp(b"crx "), "This is a camera raw file"),
    "nef": (tiff((254, 1), (256, 160), (257, 120), (271, 0)), "This is a camera raw file"),
    "dng": (tiff((254, 0), (256, 32), (257, 32), (50706, 0x401)), "This is a camera raw file"),
    "mosaic": (tiff((256, 32), (257, 32), (262, 32803)), "This is a camera raw file"),
    "raf": (b"FUJIFILMCCD-RAW 0201" + NOISE, "This is a camera raw file"),
    "orf": (b"IIRO\x08\0\0\0" + NOISE, "This is a camera raw file"),
    "rw2": (b"IIU\0\x18\0\0\0" + NOISE, "This is a camera raw file"),
    "pdf": (b"%PDF-1.7\n" + NOISE, "This is a PDF"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "This is an SVG drawing"),
    "svg after a comment": (b'<?xml version="1.0"?>\n<!-- made by hand --><svg/>', "This is an SVG drawing"),
    "svg in UTF-16": ('\ufeff<?xml version="1.0"?><svg/>'.encode("utf-16-le"), "This is an SVG drawing"),
    "psd": (b"8BPS\0\1" + NOISE, "This is a Photoshop file"),
    "xcf": (b"gimp xcf v011\0" + NOISE, "This is a drawing program's own file"),
    "zip": (zipped("a.jpg"), "This is an archive"),
    "docx": (zipped("[Content_Types].xml", "word/document.xml"), "This is an office document"),
    "odt": (b"PK\3\4" + bytes(26) + b"mimetypeapplication/vnd.oasis.opendocument.text", "This is an office document"),
    "doc": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + NOISE, "This is an office document"),
    "rar": (b"Rar!\x1a\x07\1\0" + NOISE, "This is an archive"),
    "gzip": (b"\x1f\x8b\x08" + NOISE, "This is an archive"),
    "html": (b"\n <!DOCTYPE html><html><svg></svg></html>", "This is a web page"),
    "html without a doctype": (b"\xef\xbb\xbf<HTML><head>", "This is a web page"),
    "ico": (encoded(PICTURE, "ICO"), "This is an icon file"),
    "jxl": (b"\xff\x0a" + NOISE, "This is a JPEG XL picture"),
    "jxl in boxes": (b"\0\0\0\x0cJXL \r\n\x87\n" + NOISE, "This is a JPEG XL picture"),
    "jp2": (encoded(PICTURE, "JPEG2000"), "This is a JPEG 2000 picture"),
    "j2k": (encoded(PICTURE, "JPEG2000", no_jp2=True), "This is a JPEG 2000 picture"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n" + NOISE, "This is an EPS or PostScript drawing"),
    "ppm": (encoded(PICTURE, "PPM"), "This is a picture in a format that can't be read here"),
    "exr": (b"v/1\1\2\0\0\0" + NOISE, "This is a picture in a format that can't be read here"),
    "text": ("Grüße, this is a letter.\n".encode(), "but a text file"),
    "long text": (("ä" * 9000).encode(), "but a text file"),
    "text in UTF-16": ("a letter".encode("utf-16"), "but a text file"),
    "noise": (NOISE, "This is not a photo that can be read: choose a JPEG"),
    "zeros": (bytes(9000), "This is not a photo that can be read: choose a JPEG"),
    "nothing": (b"", "This file is empty"),
}


@pytest.mark.parametrize(("data", "sentence"), FILES.values(), ids=FILES)
def test_what_is_no_photo_is_called_what_it_is(data, sentence, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(data)
    for source in (data, tmp_path / "photo.jpg"):
        with pytest.raises(PhotoError) as caught:
            open_photo(source)
        message = str(caught.value)
        assert message.startswith(sentence) or (sentence == "but a text file" and sentence in message)
        assert re.fullmatch(r"[^:]*: [^:]*\.", message)  # what it is, and what to do
        assert not re.search(LEAK, message)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 0.9])
def test_a_photo_that_was_cut_off_is_said_to_be(name, share):
    pillow_heif.register_heif_opener()
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    data = encoded(noise, name)
    with pytest.raises(PhotoError, match=r"^This photo is damaged or incomplete: save or download it again\.$"):
        open_photo(data[: max(16, int(share * len(data)))])


def test_a_photo_is_what_its_content_says(tmp_path):
    """Whatever it is called, and whatever is hidden in it."""
    with_page = encoded(PICTURE, "JPEG", comment=b"<html><svg>%PDF")
    (tmp_path / "drawing.svg").write_bytes(with_page)
    assert open_photo(tmp_path / "drawing.svg").format == "JPEG"
