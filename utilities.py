"""Pixels: opening what comes from outside, to and from the network's size, compositing, encoding.

`preprocess_image` and `postprocess_image` keep upstream's names, arguments and results. Everything that
comes from outside passes `open_photo`, which alone decides what is a photo.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pillow_heif
import simplejpeg
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageColor, ImageOps
from torch import Tensor

from fastpng import encode_png

Pixels = NDArray[np.uint8]
PhotoSource = str | os.PathLike[str] | bytes | Image.Image | NDArray[Any]

MAX_PIXELS = 89_478_485  # pixels, the number from which Pillow too suspects a decompression bomb
MAX_BYTES = 200_000_000  # bytes of an encoded file
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF", "PPM", "JPEG2000")
FORMATS_TEXT = "JPEG, PNG, WebP, HEIC, AVIF, GIF, BMP or TIFF"
EXIF_ORIENTATION = 274  # the tag's number
# EXIF orientation: what brings the pixels upright
TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    5: lambda rgb: rgb.swapaxes(0, 1),
    6: lambda rgb: rgb.swapaxes(0, 1)[:, ::-1],
    7: lambda rgb: rgb.swapaxes(0, 1)[::-1, ::-1],
    8: lambda rgb: rgb.swapaxes(0, 1)[::-1],
}
FLAT = 1e-4  # a map with less between its least and most is constant but for the rounding of the resize
EMPTY = 0.2  # a map that nowhere reaches this holds no subject; blank photos stay below 0.13, subjects reach 0.97
BLUR = 0.02  # standard deviation of the blurred background, as a share of the longer side
BLURS = 0.001, 0.2  # least and most of it
BLUR_PIXELS = 10  # standard deviation on the copy that is blurred, which is made as small as that allows
MARGIN = 0.05  # room around a subject that is cropped to, as a share of its longer side
MAX_SIDE = 5000  # pixels: longer side of a canvas
FAINT = 32  # of 255: alpha below this is no subject when it comes to where the subject ends
SPECK = 0.002  # of the largest part's area: smaller parts are no subject either


class PhotoError(ValueError):
    """What was given is no photo that can be worked on. One sentence: what is wrong and what to do."""


@dataclass(frozen=True)
class Photo:
    """A decoded photo, the way up that its EXIF orientation asks for.

    `rgb` is H x W x 3; `alpha` H x W or None where all is opaque, straight (colours are not multiplied by it);
    `icc` the colour profile of `rgb`, None for sRGB.
    """

    rgb: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    def opaque(self) -> Pixels:
        """`rgb`, over mid-grey where the photo is transparent, since hidden colours can be anything."""
        return self.rgb if self.alpha is None else composite(self.rgb, self.alpha, (128, 128, 128))


# --- in ------------------------------------------------------------------------------------------------


def open_photo(source: PhotoSource) -> Photo:
    """Decode a path, the bytes of a file, a PIL image or an array (H x W, or H x W x 1 to 4).

    Arrays are grey, grey and alpha, RGB or RGBA: integers in 0..255 (in 0..65535 if any is above 255), floats
    in 0..1 (in 0..255 if any is above 2), or booleans. Of several frames or pages the first counts.

    Raises PhotoError: no such file, not one of FORMATS, damaged, over MAX_BYTES or over MAX_PIXELS.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _from_image(source)
    if isinstance(source, str | os.PathLike):
        source = _read_file(Path(source))
    if not isinstance(source, bytes | bytearray | memoryview):
        raise PhotoError(f"A {type(source).__name__} is not a photo: give a path, bytes, a PIL image or an array.")
    check_bytes(len(source))
    pillow_heif.register_heif_opener()
    try:
        with Image.open(io.BytesIO(source), formats=FORMATS) as image:
            return _from_jpeg(image, source) or _from_image(image)
    except PhotoError:
        raise
    except Image.DecompressionBombError as error:
        raise PhotoError(_too_many_pixels()) from error
    except Exception as error:  # a decoder that is fed garbage raises anything, SyntaxError included
        raise PhotoError(_why_not(bytes(source[:1024]))) from error


def _read_file(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if 0 < size <= MAX_BYTES else b""
    except FileNotFoundError as error:
        raise PhotoError(f"There is no file '{path.name}': check the path.") from error
    except (OSError, ValueError) as error:
        raise PhotoError(f"The file '{path.name}' can't be read: check that it is a file that you may read.") from error
    check_bytes(size)
    return data


def check_bytes(count: int) -> None:
    """Raises PhotoError if so many bytes are none or too many for a file."""
    if count == 0:
        raise PhotoError("This file is empty: choose another, or save it again.")
    if count > MAX_BYTES:
        raise PhotoError(f"This file has more than {MAX_BYTES // 1_000_000} MB: save it smaller, as a JPEG perhaps.")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise PhotoError("This photo has no pixels: choose another.")
    if width * height > MAX_PIXELS:
        raise PhotoError(_too_many_pixels())


def _too_many_pixels() -> str:
    return f"This photo has more than {MAX_PIXELS // 1_000_000} megapixels: make it smaller first."


def _why_not(head: bytes) -> str:
    """What a file that could not be decoded seems to be."""
    if b"<svg" in head.lower():
        return "This is an SVG drawing, not a photo: export it as a PNG first."
    if head.startswith(b"%PDF"):
        return "This is a PDF, not a photo: export the page as a PNG or JPEG first."
    known = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*")
    if head.startswith(known) or head[8:12] == b"WEBP" or head[4:8] == b"ftyp":
        return "This photo is damaged or incomplete: save or download it again."
    return f"This is not a photo that can be read: choose a {FORMATS_TEXT} file."


def _from_jpeg(image: Image.Image, data: bytes) -> Photo | None:
    """An ordinary colour JPEG by the decoder that Pillow too is built on, without Pillow's copies: 25 ms, not 80."""
    _check_size(*image.size)
    if image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return None
    try:
        rgb = simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except ValueError:  # damaged, or a rare kind: Pillow decides
        return None
    turn = TURNS.get(image.getexif().get(EXIF_ORIENTATION, 1))
    return Photo(np.ascontiguousarray(turn(rgb)) if turn else rgb, icc=_rgb_profile(image.info.get("icc_profile")))


def _from_image(image: Image.Image) -> Photo:
    _check_size(*image.size)
    tags = getattr(image, "tag_v2", None)
    if tags is not None and tags.get(254) == 1:  # NewSubfileType: a small version of another image in the file
        raise PhotoError("This seems to be a camera raw file: develop it to a JPEG or TIFF first.")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
    except Exception as error:
        raise PhotoError("This photo is damaged or incomplete: save or download it again.") from error
    if image.mode[0] in "IF":  # 16 bits and more, integers or floats
        return _from_array(np.asarray(image.convert("I") if image.mode.startswith("I;") else image))
    icc = image.info.get("icc_profile")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = np.asarray(image.convert("RGBA"))
        rgb, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
        return Photo(rgb, None if alpha.min() == 255 else alpha, _rgb_profile(icc))
    if icc and image.mode not in ("RGB", "P"):  # CMYK, grey: the profile describes channels that end here
        return Photo(np.asarray(_convert_colours(image, icc, None)))
    return Photo(np.asarray(image.convert("RGB")), icc=_rgb_profile(icc))


def _profile(icc: bytes | None) -> ImageCms.ImageCmsProfile:
    """An ICC profile, sRGB for None. Raises PyCMSError or OSError for bytes that are none."""
    return ImageCms.ImageCmsProfile(io.BytesIO(icc) if icc else ImageCms.createProfile("sRGB"))


def _rgb_profile(icc: bytes | None) -> bytes | None:
    """The profile, if it is a sound one and of RGB colours."""
    try:
        return icc if icc and _profile(icc).profile.xcolor_space.strip() == "RGB" else None
    except (ImageCms.PyCMSError, OSError):
        return None


def _convert_colours(image: Image.Image, source: bytes | None, target: bytes | None) -> Image.Image:
    """From one ICC profile to RGB of another, None being sRGB; without a usable profile as Pillow does it."""
    if source == target:
        return image.convert("RGB")
    try:
        return ImageCms.profileToProfile(image, _profile(source), _profile(target), outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")


def _from_array(array: NDArray[Any]) -> Photo:
    channels = _channels(array)
    _check_size(channels.shape[1], channels.shape[0])
    pixels = _to_uint8(channels)
    alpha = np.ascontiguousarray(pixels[..., -1]) if pixels.shape[2] in (2, 4) else None
    return Photo(_three(pixels), None if alpha is None or alpha.min() == 255 else alpha)


def _channels(array: NDArray[Any]) -> NDArray[Any]:
    """H x W becomes H x W x 1; anything but 1 to 4 channels of numbers is refused."""
    channels = array[..., np.newaxis] if array.ndim == 2 else array
    if channels.ndim != 3 or not 1 <= channels.shape[2] <= 4 or array.dtype.kind not in "biuf":
        raise PhotoError(
            f"An array of shape {array.shape} and type {array.dtype} is not a photo: "
            "give H x W or H x W x 1 to 4 (grey, grey and alpha, RGB, RGBA) of integers or floats."
        )
    return channels


def _three(channels: NDArray[Any]) -> NDArray[Any]:
    """The colour channels alone, grey three times."""
    colours = channels[..., :3] if channels.shape[2] >= 3 else np.repeat(channels[..., :1], 3, axis=2)
    return np.ascontiguousarray(colours)


def _to_uint8(array: NDArray[Any]) -> Pixels:
    """The ranges that `open_photo` names as 0..255, rounded."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)
        factor = 1.0 if array.max(initial=0) > 2 else 255.0
    elif array.dtype.kind == "b":
        factor = 255.0
    else:
        factor = 1.0 if array.max(initial=0) <= 255 else 255.0 / 65535
    scaled: Pixels = np.clip(np.rint(array.astype(np.float32) * factor), 0, 255).astype(np.uint8)
    return scaled


# --- to and from the network ---------------------------------------------------------------------------


def preprocess_image(im: NDArray[Any], model_input_size: Sequence[int]) -> Tensor:
    """The network's input, 1 x 3 x h x w in -0.5..0.5, from a photo H x W (x 1 to 4), as the model card has it.

    Bilinear without antialiasing to `model_input_size` (h, w), cut to whole numbers, / 255, - 0.5. An alpha
    channel is left out; what else upstream fails on counts as it does in `open_photo`. A float array in 0..255
    keeps its fractions, as upstream.

    Raises PhotoError if `im` is not such an array.
    """
    channels = _channels(im)
    if not (channels.dtype.kind == "f" and channels.max(initial=0) > 2):
        channels = _to_uint8(channels)
    image = torch.tensor(_three(channels), dtype=torch.float32).permute(2, 0, 1)[None]
    image = F.interpolate(image, size=list(model_input_size), mode="bilinear")
    return image.to(torch.uint8) / 255.0 - 0.5


def postprocess_image(result: Tensor, im_size: Sequence[int]) -> Pixels:
    """The matte H x W in 0..255 from the network's 1 x 1 x h x w in 0..1, as the model card has it.

    Bilinear to `im_size` (H, W), stretched so that the least is 0 and the most 255. A map that is constant, or
    nowhere reaches EMPTY, is all 0, where upstream divides by zero or stretches the noise.
    """
    result = F.interpolate(result.detach().float(), size=list(im_size), mode="bilinear").squeeze(0)
    low, high = result.min(), result.max()
    if not (high - low >= FLAT and high >= EMPTY):  # NaN included
        result = torch.zeros_like(result)
    else:
        result = result.sub_(low).div_(high - low).mul_(255)
    matte: Pixels = result.permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    return np.squeeze(matte)


def shrink(rgb: Pixels, size: int) -> Pixels:
    """What `preprocess_image` does to the pixels, in bytes and to the nearest one: H x W x 3 to size x size x 3."""
    small: Pixels = cv2.resize(rgb, (size, size), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return small


def enlarge(matte: Pixels, size: tuple[int, int]) -> Pixels:
    """What `postprocess_image` does, in bytes and to the nearest one: h x w, stretched to 0..255, at size (H, W)."""
    low, high = int(matte.min()), int(matte.max())
    if low == high:
        return np.zeros(size, np.uint8)
    stretched = cv2.convertScaleAbs(matte, alpha=255 / (high - low), beta=-255 * low / (high - low))
    large: Pixels = cv2.resize(stretched, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return large


# --- compositing ---------------------------------------------------------------------------------------


def composite(foreground: Pixels, alpha: Pixels, background: Pixels | tuple[int, int, int]) -> Pixels:
    """Straight alpha over a background (H x W x 3, or one colour): round((a F + (255 - a) B) / 255), exactly."""
    out = np.empty_like(foreground)
    out[...] = background
    cv2.copyTo(foreground, (alpha == 255).view(np.uint8), out)
    partial = np.flatnonzero((alpha != 0) & (alpha != 255))
    a = alpha.reshape(-1, 1)[partial].astype(np.uint32)
    pixels = out.reshape(-1, 3)
    pixels[partial] = (a * foreground.reshape(-1, 3)[partial] + (255 - a) * pixels[partial] + 127) // 255
    return out


def with_alpha(rgb: Pixels, alpha: Pixels) -> Pixels:
    """H x W x 4 with straight alpha; colours under alpha 0 are zeroed, so that no background leaks or weighs."""
    rgba = np.empty((*alpha.shape, 4), np.uint8)
    cv2.mixChannels([rgb, alpha], [rgba], [0, 0, 1, 1, 2, 2, 3, 3])
    whole = rgba.view(np.uint32)[..., 0]
    np.multiply(whole, alpha > 0, out=whole)
    return rgba


def parse_colour(text: str) -> tuple[int, int, int]:
    """RGB of a CSS colour: a name, "#rgb", "#rrggbb", "rgb(...)", "rgba(...)" (its alpha has no effect).

    Raises PhotoError.
    """
    numbers = re.fullmatch(r"rgba?\(([\d.]+), *([\d.]+), *([\d.]+)(?:, *[\d.]+)?\)", text.strip())
    try:
        if numbers:
            red, green, blue = (min(255, round(float(number))) for number in numbers.groups())
        else:
            red, green, blue = ImageColor.getrgb(text.strip())[:3]
    except ValueError as error:
        raise PhotoError("This is not a colour: write it like '#ff8800' or 'orange'.") from error
    return red, green, blue


def colour_background(text: str, icc: bytes | None = None) -> tuple[int, int, int]:
    """A CSS colour, which is sRGB, in the numbers of the profile `icc`."""
    pixel = _convert_colours(Image.new("RGB", (1, 1), parse_colour(text)), None, icc)
    red, green, blue = (int(value) for value in np.asarray(pixel)[0, 0])
    return red, green, blue


def image_background(photo: Photo, size: tuple[int, int], icc: bytes | None = None) -> Pixels:
    """A photo that fills height x width, cut centrally, in the numbers of the profile `icc`."""
    image = ImageOps.fit(Image.fromarray(photo.opaque()), (size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(_convert_colours(image, photo.icc, icc))


def blur_background(rgb: Pixels, alpha: Pixels, blur: float = BLUR) -> Pixels:
    """The photo's own background, blurred; the subject has no part in it, so that it casts no halo.

    `blur` is the standard deviation as a share of the longer side, within BLURS. Raises PhotoError.
    """
    if not BLURS[0] <= blur <= BLURS[1]:
        raise PhotoError(f"A blur of {blur:g} can't be made: choose one from {BLURS[0]} to {BLURS[1]}.")
    height, width = alpha.shape
    longer = max(height, width)
    scale = min(1.0, BLUR_PIXELS / (blur * longer))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    weight = cv2.resize(255 - alpha, small, interpolation=cv2.INTER_AREA).astype(np.float32) / 255 + 1e-4
    colours = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    sigma = blur * longer * scale
    side = 2 * int(3 * sigma) + 3
    layers = cv2.GaussianBlur(
        np.dstack((colours * weight[..., np.newaxis], weight)), (side, side), sigma, borderType=cv2.BORDER_REPLICATE
    )
    blurred = np.clip(np.rint(layers[..., :3] / layers[..., 3:]), 0, 255).astype(np.uint8)
    large: Pixels = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_CUBIC)
    return large


# --- framing -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """A canvas and the part of a photo that it shows: cut out, scaled, and bordered where the photo ends."""

    rows: slice
    columns: slice
    size: tuple[int, int]  # width and height to which these are scaled
    borders: tuple[int, int, int, int]  # pixels at the top, bottom, left and right

    @classmethod
    def around(cls, alpha: Pixels, margin: float = MARGIN, size: tuple[int, int] | None = None) -> Frame:
        """The subject with a margin of that share of its longer side, within 0..1; the whole photo if there is none.

        `size`, width and height up to MAX_SIDE, is that of the canvas, in which it is centred, as large as it can
        be. None keeps the photo's pixels as they are. Raises PhotoError.
        """
        if not 0 <= margin <= 1:
            raise PhotoError(f"A margin of {margin:g} can't be made: choose a share of the subject's size, 0 to 1.")
        box = subject_box(alpha)
        left, top, right, bottom = box or (0, 0, alpha.shape[1], alpha.shape[0])
        room = round(margin * max(right - left, bottom - top)) if box else 0
        width, height = right - left + 2 * room, bottom - top + 2 * room
        if size is None:
            size = width, height
            _check_size(*size)
        elif not all(1 <= side <= MAX_SIDE for side in size):
            raise PhotoError(f"A canvas of {size[0]} × {size[1]} can't be made: choose 1 to {MAX_SIDE} pixels a side.")
        scale = min(size[0] / width, size[1] / height)
        columns, inner_width, across = _span((left + right) / 2, size[0], scale, alpha.shape[1])
        rows, inner_height, down = _span((top + bottom) / 2, size[1], scale, alpha.shape[0])
        return cls(rows, columns, (inner_width, inner_height), (*down, *across))

    def photo(self, rgb: Pixels) -> Pixels:
        """What it shows of a photo, whose outermost pixels go on where it ends."""
        return self._bordered(self._scaled(rgb[self.rows, self.columns]), cv2.BORDER_REPLICATE)

    def subject(self, rgb: Pixels, alpha: Pixels) -> tuple[Pixels, Pixels]:
        """Colours and alpha of what it shows, both straight; the colours are averaged as alpha weighs them."""
        rgb, alpha = rgb[self.rows, self.columns], alpha[self.rows, self.columns]
        if self.size != (alpha.shape[1], alpha.shape[0]):
            weighted = self._scaled(cv2.multiply(rgb, cv2.merge([alpha] * 3), dtype=cv2.CV_16U))
            weight = self._scaled(alpha.astype(np.uint16) * 255)
            alpha = ((weight + np.uint32(127)) // 255).astype(np.uint8)
            straight = weighted * np.float32(255) / np.maximum(weight, 1)[..., np.newaxis]
            rgb = np.rint(np.clip(straight, 0, 255, out=straight), out=straight).astype(np.uint8)
        return self._bordered(rgb, cv2.BORDER_REPLICATE), self._bordered(alpha, cv2.BORDER_CONSTANT)

    def _scaled(self, pixels: NDArray[Any]) -> NDArray[Any]:
        if self.size == (pixels.shape[1], pixels.shape[0]):
            return pixels
        how = cv2.INTER_AREA if self.size[0] < pixels.shape[1] else cv2.INTER_CUBIC
        return cv2.resize(pixels, self.size, interpolation=how)

    def _bordered(self, pixels: Pixels, kind: int) -> Pixels:
        bordered: Pixels = cv2.copyMakeBorder(pixels, *self.borders, kind)  # type: ignore[assignment]
        return bordered


def subject_box(alpha: Pixels) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of the subject: alpha from FAINT, without SPECKs. None if there is none."""
    _, _, parts, _ = cv2.connectedComponentsWithStats((alpha >= FAINT).view(np.uint8))
    parts = parts[1:]  # the first is the background
    if not len(parts):
        return None
    left, top, width, height, _ = parts[parts[:, 4] >= SPECK * parts[:, 4].max()].T
    return int(left.min()), int(top.min()), int((left + width).max()), int((top + height).max())


def _span(centre: float, count: int, scale: float, length: int) -> tuple[slice, int, tuple[int, int]]:
    """Along one side, for `count` pixels of canvas about `centre`: which of the photo's `length` pixels they show,
    on how many of theirs, and how many are left before and after, where the photo ends.
    """
    start, stop = centre - count / scale / 2, centre + count / scale / 2
    before = min(round(max(0.0, -start) * scale), count - 1)
    after = min(round(max(0.0, stop - length) * scale), count - 1 - before)
    first = max(0, int(start + 0.5))
    shown = slice(first, min(length, max(first + 1, int(stop + 0.5))))
    return shown, count - before - after, (before, after)


# --- out -----------------------------------------------------------------------------------------------

FORMAT_SIDES = {"WEBP": 16383, "JPEG": 65535}  # pixels: the longest side that a format can hold
JPEG_QUALITY = 95
# by extension: Pillow's name and options; PNG has a faster writer of its own, WebP's are an eighth of its default time
ENCODERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"lossless": True, "exact": True, "quality": 20, "method": 0}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".jpg": ("JPEG", {"quality": JPEG_QUALITY, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": JPEG_QUALITY, "subsampling": 0}),
}


def safe_stem(name: str) -> str:
    """A file's name without folder and extension, in letters, digits, ".", "_" and "-"; "photo" if nothing is left."""
    return re.sub(r"[^\w.-]+", "-", Path(name).stem).strip(".-")[:80] or "photo"


def save_pixels(
    pixels: Pixels, path: str | os.PathLike[str], icc: bytes | None = None, quality: int | None = None
) -> None:
    """Write H x W (x 3 or 4) as PNG, WebP or TIFF (lossless), or JPEG (over white), by the path's extension.

    `quality`, 1 to 100, makes WebP lossy (its alpha stays exact) and is JPEG's, which is JPEG_QUALITY without it;
    PNG and TIFF take no notice. Raises PhotoError for what the format can't do, OSError where the file can't be
    written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in ENCODERS:
        raise PhotoError(f"'{suffix}' is no format to save in: use one of {', '.join(ENCODERS)}.")
    if quality is not None and not 1 <= quality <= 100:
        raise PhotoError(f"A quality of {quality} can't be made: choose one from 1 to 100.")
    name, options = ENCODERS[suffix]
    if name == "PNG":
        Path(path).write_bytes(encode_png(pixels, icc))
        return
    if max(pixels.shape[:2]) > FORMAT_SIDES.get(name, MAX_PIXELS):
        raise PhotoError(f"A {name} has at most {FORMAT_SIDES[name]} pixels a side: choose PNG.")
    if name == "JPEG" and pixels.shape[2:] == (4,):
        pixels = composite(np.ascontiguousarray(pixels[..., :3]), pixels[..., 3], (255, 255, 255))
    if quality is not None and name in FORMAT_SIDES:
        options = options | {"lossless": False, "exact": False, "quality": quality, "method": 1}
    Image.fromarray(pixels).save(path, name, icc_profile=icc, **options)
