"""remove.bg's API, for programs that speak it: its fields in our words, its answers and its errors.

Field names, values and codes are those of its public description (version 1.0); docs/removebg.md says what is honoured.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import re
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from background_remover.choices import YES
from background_remover.colours import parse_colour
from background_remover.cutout import Cutout, Finish
from background_remover.decoding import Photo
from background_remover.encoding import save_pixels
from background_remover.framing import Frame, subject_box
from background_remover.messages import MEDIA, Asked, Made, Once, parsing
from background_remover.page.bodies import CHUNK, RefusedError
from background_remover.page.files import Upload, file_store, remove
from background_remover.page.turns import turn
from background_remover.photos import Pixels, check_pixels
from background_remover.service import Service
from utilities import PhotoError

# Pixels that a result has at most; of the others as many as the photo.
SIZES = {"preview": 250_000, "small": 250_000, "regular": 250_000, "medium": 1_500_000, "hd": 4_000_000}
WHOLE = ("full", "4k", "50MP", "auto")
FORMATS = ("auto", "png", "jpg", "webp", "zip")
TYPES = {"person", "product", "animal", "car"}  # that X-Type can say; nothing here tells them apart
SOURCES = ("image_file", "image_file_b64", "image_url")
BACKGROUNDS = ("bg_color", "bg_image_url", "bg_image_file")
MOST_MARGIN = 0.5, 500  # of the subject, and pixels
ROWS = 64  # of pixels whose colours are mixed at a time
CODES = {413: "file_too_large", 415: "invalid_file_type", 422: "failed_to_read_image"}  # by our status
NOTHING = "Nothing in this photo stands out as the subject: try another photo."

Number = tuple[float, str]  # and its unit, "%" or "px"


def invalid(name: str, what: str) -> RefusedError:
    """A field that can't be as it is."""
    return RefusedError(400, f"The parameter '{name}' is {what}.", f"invalid_{name}")


@contextmanager
def in_its_words() -> Iterator[None]:
    """Refusals with the statuses and codes that its clients know."""
    try:
        yield
    except RefusedError as error:
        if error.status in CODES:
            raise RefusedError(400, error.sentence, error.code or CODES[error.status], error.headers) from None
        if error.status == 429:
            raise RefusedError(429, error.sentence, "rate_limit_exceeded", error.headers) from None
        raise


# --- the fields ---


def text(fields: Mapping[str, Any], name: str, default: str) -> str:
    """A field as a text; one that is left empty is not there."""
    value = fields.get(name)
    return default if value is None or str(value).strip() == "" else str(value).strip()


def one_of(fields: Mapping[str, Any], name: str, default: str, values: tuple[str, ...]) -> str:
    """A field that has one of those values. Raises RefusedError."""
    value = text(fields, name, default)
    if value not in values:
        raise invalid(name, f"one of {', '.join(values)}")
    return value


def is_true(fields: Mapping[str, Any], name: str) -> bool:
    """Whether a field says yes."""
    return text(fields, name, "false").lower() in YES


def numbers(fields: Mapping[str, Any], name: str, default: str, counts: tuple[int, ...], units: str) -> list[Number]:
    """A field of so many numbers, each with a unit; "units" has those that there are. Raises RefusedError."""
    value = text(fields, name, default)
    found = [re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)(%|px|)", part) for part in re.split(r"[\s,]+", value)]
    if len(found) not in counts or not all(part and (part[2] or "px") in units for part in found):
        like = {"%": "percentages such as '50%'", "%px": "'10%' or '10px' each"}[units]
        raise invalid(name, f"{' or '.join(map(str, counts))} numbers, {like}")
    return [(float(part[1]), part[2] or "px") for part in found if part]


def pixels_of(number: Number, length: float) -> float:
    """A number with a unit, in pixels, of a whole that is so long."""
    return number[0] if number[1] == "px" else number[0] / 100 * length


@dataclass(frozen=True)
class Wanted:
    """What a request asks for."""

    most: float  # pixels
    format: str
    alpha_only: bool
    roi: list[Number]
    crop: bool
    margins: list[Number]
    scale: float | None
    position: tuple[float, float] | None  # shares of what is free, across and down
    colour: tuple[int, int, int, int] | None
    image: Upload | None

    @classmethod
    def read(cls, fields: Mapping[str, Any], image: Upload | None) -> Wanted:
        """From its fields, and its background image. Raises RefusedError."""
        size = one_of(fields, "size", "preview", (*SIZES, *WHOLE))
        margins = numbers(fields, "crop_margin", "0", (1, 2, 4), "%px")
        scale = text(fields, "scale", "original")
        share = None if scale == "original" else numbers(fields, "scale", scale, (1,), "%")[0][0] / 100
        if share is not None and not 0.1 <= share <= 1:
            raise invalid("scale", "'original', or 10% to 100%")
        place = text(fields, "position", "original" if share is None else "center")
        position = None
        if place != "original":
            parts = numbers({"position": "50%" if place == "center" else place}, "position", "", (1, 2), "%")
            if any(part > 100 for part, _ in parts):
                raise invalid("position", "0% to 100%")
            position = parts[0][0] / 100, parts[-1][0] / 100
        return cls(
            SIZES.get(size, float("inf")),
            one_of(fields, "format", "auto", FORMATS),
            one_of(fields, "channels", "rgba", ("rgba", "alpha")) == "alpha",
            numbers(fields, "roi", "0% 0% 100% 100%", (4,), "%px"),
            is_true(fields, "crop"),
            {1: margins * 4, 2: margins * 2, 4: margins}[len(margins)],
            share,
            position,
            read_colour(text(fields, "bg_color", "")),
            image,
        )

    @property
    def suffix(self) -> str:
        """The extension of the result."""
        if self.format != "auto":
            return f".{self.format}"
        opaque = self.image is not None or (self.colour is not None and self.colour[3] == 255)
        return ".jpg" if opaque and not self.alpha_only else ".png"

    @property
    def finish(self) -> Finish:
        """The same in our words, but for the geometry."""
        background = "transparent" if self.colour is None else "rgb({},{},{})".format(*self.colour)
        if self.colour is not None and self.colour[3] < 255:
            background = "transparent"
        output = "matte" if self.alpha_only else "cutout"
        written = "png" if self.suffix == ".zip" else self.suffix[1:]
        return Finish(background, self.image, format=written, output=output)

    # --- the geometry ---

    def region(self, shape: tuple[int, int]) -> tuple[int, int, int, int]:
        """The left, top, right and bottom of what is looked at of a photo H x W. Raises RefusedError."""
        lengths = (shape[1], shape[0]) * 2
        left, top, right, bottom = (
            round(pixels_of(number, length)) for number, length in zip(self.roi, lengths, strict=True)
        )
        if right > shape[1] or bottom > shape[0]:
            raise RefusedError(400, "The roi leaves the photo: choose one within it.", "roi_exceeds_bounds")
        if left >= right or top >= bottom:
            raise RefusedError(400, "The roi is empty: give its left, top, right and bottom.", "roi_region_empty")
        return left, top, right, bottom

    def frame(self, cutout: Cutout) -> Cutout:
        """What is shown: cropped, then scaled and placed, then of the size that was asked for. Raises PhotoError."""
        box = subject_box(cutout.alpha)
        if box and self.crop:
            cutout = self._cropped(cutout, box)
            box = subject_box(cutout.alpha)
        if box and self.position is not None:
            cutout = self._placed(cutout, box, self.position)
        height, width = cutout.alpha.shape
        if width * height <= self.most:
            return cutout
        side = max(1, int(max(width, height) * (self.most / (width * height)) ** 0.5))
        while side > 1 and math.prod(Frame.within(side, (height, width)).inner) > self.most:  # rounded up
            side -= 1
        return cutout.preview(side)

    def _cropped(self, cutout: Cutout, box: tuple[int, int, int, int]) -> Cutout:
        left, top, right, bottom = box
        sides = (bottom - top, right - left) * 2
        above, after, below, before = (
            round(min(pixels_of(number, side), MOST_MARGIN[0] * side, MOST_MARGIN[1]))
            for number, side in zip(self.margins, sides, strict=True)
        )
        size = before + right - left + after, above + bottom - top + below
        check_pixels(*size)
        return cutout.through(Frame.at(left - before, top - above, 1.0, size, cutout.alpha.shape))

    def _placed(self, cutout: Cutout, box: tuple[int, int, int, int], position: tuple[float, float]) -> Cutout:
        left, top, right, bottom = box
        height, width = cutout.alpha.shape
        scale = 1.0 if self.scale is None else self.scale * min(width / (right - left), height / (bottom - top))
        across = (width - (right - left) * scale) * position[0] / scale
        down = (height - (bottom - top) * scale) * position[1] / scale
        return cutout.through(Frame.at(left - across, top - down, scale, (width, height), cutout.alpha.shape))


def read_colour(value: str) -> tuple[int, int, int, int] | None:
    """Red, green, blue and alpha of a colour in its way, hexadecimal with or without "#", or a name; None for none.

    Raises RefusedError.
    """
    if not value:
        return None
    digits = value.removeprefix("#")
    if re.fullmatch(r"(?i)[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8}", digits):
        digits = "".join(digit * 2 for digit in digits) if len(digits) <= 4 else digits
        red, green, blue, alpha = bytes.fromhex(digits.ljust(8, "f"))
        return red, green, blue, alpha
    try:
        return (*parse_colour(value), 255)
    except PhotoError:
        raise invalid("bg_color", "a colour such as '81d4fa' or 'white'") from None


def look_at(photo: Photo, region: tuple[int, int, int, int], remover: Callable[[Photo], Cutout]) -> Cutout:
    """The cutout of a photo of which a part alone is looked at; the rest is background."""
    left, top, right, bottom = region
    inner = remover(photo.part(region))
    if inner.photo is photo:
        return inner
    alpha = np.zeros(photo.shape, np.uint8)
    alpha[top:bottom, left:right] = inner.alpha
    foreground = photo.rgb.copy()
    foreground[top:bottom, left:right] = inner.foreground
    return Cutout(photo, alpha, foreground)


def over_translucent(framed: Cutout, colour: tuple[int, int, int, int]) -> Pixels:
    """The subject over a colour that lets something through: H x W x 4, straight alpha."""
    pixels = np.empty((*framed.alpha.shape, 4), np.uint8)
    for top in range(0, len(pixels), ROWS):
        rows = slice(top, top + ROWS)
        share = framed.alpha[rows, :, np.newaxis].astype(np.float32) / 255
        under = (1 - share) * np.float32(colour[3] / 255)
        alpha = share + under
        colours = framed.foreground[rows] * share + np.array(colour[:3], np.float32) * under
        pixels[rows, :, :3] = np.rint(colours / np.maximum(alpha, np.float32(1e-6)))
        pixels[rows, :, 3:] = np.rint(alpha * 255)
    return pixels


def decode_base64(given: Path | Any, path: Path) -> None:
    """A file of what a text holds, or the text in a file, in pieces between which others run. Raises ValueError."""
    with parsing:
        body = given.read_bytes() if isinstance(given, Path) else str(given).encode()
        body = body.partition(b",")[2] if body[:5].lower() == b"data:" else body
        body = body.translate(bytes.maketrans(b"-_", b"+/"), b" \t\r\n")
        with path.open("wb") as file:
            for start in range(0, len(body), CHUNK):
                file.write(base64.b64decode(body[start : start + CHUNK], validate=True))


# --- the routes ---


class RemoveBg:
    """Its two paths, on a `Service`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def remove(self, request: Request) -> Response:
        """Remove the background of a photo, as remove.bg's clients ask for it."""
        with in_its_words():
            return await self._remove(request)

    async def _remove(self, request: Request) -> Response:
        start = time.perf_counter()
        who = self.service.who(request, 403)
        allowed = self.service.admit(who)
        async with self.service.reading(request, who) as asked:
            photo = await self._source(asked)
            background = await self._background(asked)
            wanted = Wanted.read(asked.fields, background)
            path = file_store().new_folder() / f"{asked.name}-removebg{wanted.suffix}"
        made = await self.service.work(request, who, asked, path, lambda: self._make(photo, wanted, path, start))
        kind = text(asked.fields, "type", "auto")
        headers = allowed | made.headers | ({} if text(asked.fields, "type_level", "1") == "none" else {
            "X-Type": kind if kind in TYPES else "other"
        })  # fmt: skip
        if request.headers.get("accept", "").strip().lower() == "application/json":
            return await self._as_json(path, headers)
        media = "application/zip" if wanted.suffix == ".zip" else MEDIA[wanted.suffix[1:]]
        return Once(path, headers=headers, media_type=media)

    async def account(self, request: Request) -> Response:
        """What there is to spend, in remove.bg's words: nothing is charged here."""
        self.service.admit(self.service.who(request, 403))
        charged = {"total": 0, "subscription": 0, "payg": 0, "enterprise": 0}
        about = {"credits": charged, "api": {"free_calls": 0, "sizes": "all"}}
        return JSONResponse({"data": {"attributes": about}})

    async def _source(self, asked: Asked) -> Upload:
        """The photo, of the one field that has it. Raises RefusedError."""
        given = [name for name in SOURCES if name in asked.files or text(asked.fields, name, "")]
        if len(given) != 1:
            code = "multiple_sources" if given else "missing_source"
            raise RefusedError(400, f"Give the photo in one of {', '.join(SOURCES)}.", code)
        if given == ["image_file_b64"]:
            return await self._decoded(asked)
        return await self._found(asked, given[0] if given[0] in asked.files else "image_file", "image_url", "image")

    async def _background(self, asked: Asked) -> Upload | None:
        """The image to put behind the subject. Raises RefusedError."""
        given = [name for name in BACKGROUNDS if name in asked.files or text(asked.fields, name, "")]
        if len(given) > 1:
            raise RefusedError(400, f"Give one of {', '.join(BACKGROUNDS)} at most.", "multiple_bg_sources")
        if not given or given == ["bg_color"]:
            return None
        return await self._found(asked, "bg_image_file", "bg_image_url", "bg")

    async def _found(self, asked: Asked, file: str, url: str, what: str) -> Upload:
        try:
            found = await asked.upload(file, url)
        except RefusedError as error:
            if error.status != 422:
                raise
            raise RefusedError(400, error.sentence, f"failed_{what}_download") from None
        if found is None:
            raise RefusedError(400, f"Give the photo in one of {', '.join(SOURCES)}.", "missing_source")
        return found

    async def _decoded(self, asked: Asked) -> Upload:
        """The photo that is written as base64. Raises RefusedError."""
        name = SOURCES[1]

        given = Path(asked.files[name]) if name in asked.files else asked.fields.pop(name)
        path = asked.folder / "decoded"
        try:
            await asyncio.to_thread(decode_base64, given, path)
        except ValueError:
            raise invalid(name, "a photo as base64") from None
        asked.uploads.append(str(path))
        return asked.uploads[-1]

    def _make(self, photo: Upload, wanted: Wanted, path: Path, start: float) -> Made:
        """The result, in a file."""
        with turn(photo, wanted.finish) as opened:
            cutout = look_at(opened.photo, wanted.region(opened.photo.shape), self.service.remover)
            if not cutout.found:
                raise RefusedError(400, NOTHING, "unknown_foreground")
            framed = wanted.frame(cutout)
            if wanted.suffix == ".zip":
                write_zip(framed, path)
            elif wanted.colour and wanted.colour[3] < 255 and not wanted.alpha_only:
                save_pixels(over_translucent(framed, wanted.colour), path, framed.photo.icc)
            else:
                opened.finish.write(framed, path)
        height, width = framed.alpha.shape
        left, top, right, bottom = subject_box(framed.alpha) or (0, 0, 0, 0)
        place = {"Top": top, "Left": left, "Width": right - left, "Height": bottom - top}
        headers = {"X-Width": str(width), "X-Height": str(height), "X-Credits-Charged": "0"}
        headers |= {f"X-Foreground-{name}": str(number) for name, number in place.items()}
        return Made(path, (width, height), True, round((time.perf_counter() - start) * 1000), headers)

    async def _as_json(self, path: Path, headers: dict[str, str]) -> Response:
        """The result within JSON, for clients that accept nothing else."""
        names = ("top", "left", "width", "height")
        place = {f"foreground_{name}": int(headers[f"X-Foreground-{name.title()}"]) for name in names}
        try:
            written = await asyncio.to_thread(write_json, path, place)
        except BaseException:
            remove(path.parent)
            raise
        return Once(written, headers=headers, media_type="application/json")


def write_json(path: Path, more: dict[str, int]) -> Path:
    """A file of JSON beside another one, which is in it as base64; on the disk as all results are."""
    target = path.with_name("result.json")
    with path.open("rb") as result, target.open("wb") as file:
        file.write(b'{"data":{"result_b64":"')
        while piece := result.read(3 << 18):
            file.write(base64.b64encode(piece))
        file.write(b'",' + json.dumps(more).encode()[1:] + b"}")
    return target


def write_zip(framed: Cutout, path: Path) -> None:
    """Colours and alpha apart, which take less room than a PNG of both."""
    colour, alpha = path.with_name("color.jpg"), path.with_name("alpha.png")
    save_pixels(framed.foreground, colour, framed.photo.icc)
    save_pixels(framed.alpha, alpha)
    with zipfile.ZipFile(path, "w") as archive:
        for file in (colour, alpha):
            archive.write(file, file.name)
            file.unlink()
