"""Pictures ready for a shop: a table of presets with the rules behind them, and whether a file keeps to a rule."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from background_remover.colours import Colour
from background_remover.compositing import composite
from background_remover.cutout import Cutout, Finish
from background_remover.framing import SPECK, Frame
from background_remover.photos import FORMATS, MAX_BYTES, open_photo, read_path

Pixels = NDArray[np.uint8]

READ = "2026-11-26"  # the day on which the sources were read
WHITE: Colour = (255, 255, 255)
NEAR = 16  # of 255, in the channel that differs most: up to this a pixel is meant to be background
BAND = 16  # pixels about the subject where a JPEG rings, as far as a block of halved colours reaches, and edges fade
EDGE = 0.5  # of the frame's edge: at least so much of it is background
MEGABYTE = 1_000_000  # bytes, the smaller of the two that the word can mean
EXACT_WHITE = 46  # quality of a JPEG from which libjpeg keeps 255, 255, 255; many below it make it 254 or less
SQUARE = (1.0, 1.0)
NAMES = {"WEBP": "WebP", "HEIF": "HEIC"}  # of formats that aren't called as Pillow calls them


@dataclass(frozen=True)
class Rule:
    """What a shop asks of a picture; None where it asks nothing.

    `background` is the exact colour, 0 to 255; `least_share` and `most_share` how much of the frame the subject takes,
    0 to 1, as `check` measures it; `whole` that the frame cuts nothing off it; `still` that it does not move.
    `least_longer`, `most_longer` and `least_shorter` are pixels of the longer and the shorter side, `ratio` least and
    most width for each height. `formats` are Pillow's names. `source` has the addresses where that was read, on the day
    `read`; `typical` names what was not read on a page of the shop itself, but of others. `note` is for who chooses it.
    """

    source: tuple[str, ...]
    formats: tuple[str, ...]
    background: Colour | None = None
    least_share: float | None = None
    most_share: float | None = None
    whole: bool = False
    still: bool = False
    least_longer: int | None = None
    most_longer: int | None = None
    least_shorter: int | None = None
    most_bytes: int | None = None
    ratio: tuple[float, float] | None = None
    typical: tuple[str, ...] = ()
    note: str = ""
    read: str = READ

    @property
    def verified(self) -> bool:
        """Whether pages of the shop itself were read for all of it."""
        return not self.typical


@dataclass(frozen=True)
class Preset:
    """How a picture for a shop is made, in the words of `Finish`, and the rule that it is to keep to."""

    title: str
    rule: Rule
    width: int  # pixels of the canvas
    height: int
    background: str = "#ffffff"
    margin: float = 0.05  # of the subject's longer side: it takes 91 % of a square
    format: str = "jpg"
    quality: int | None = 95
    clean: bool = True

    def finish(self) -> Finish:
        """What a `Cutout` is to be saved with."""
        return Finish(
            background=self.background,
            crop=True,
            margin=self.margin,
            width=self.width,
            height=self.height,
            format=self.format,
            quality=self.quality,
            clean=self.clean,
        )


AMAZON = Rule(
    source=(
        "https://sellercentral.amazon.com/gp/help/external/GT8RSE9S9NK4LP6Z",
        "https://help.e-tailize.com/en/amazon-product-image-requirements",
    ),
    formats=("JPEG", "PNG", "TIFF", "GIF"),
    background=WHITE,
    least_share=0.85,
    whole=True,
    still=True,
    least_longer=1000,  # without which there is no zoom; 500 are taken
    most_longer=10_000,
    typical=("formats", "least_share", "still", "least_longer", "most_longer"),
)
EBAY = Rule(
    source=(
        "https://www.ebay.com/help/policies/listing-policies/picture-policy?id=4370",
        "https://developer.ebay.com/api-docs/commerce/media/resources/image/methods/createImageFromFile",
    ),
    formats=("JPEG", "GIF", "PNG", "BMP", "TIFF", "AVIF", "HEIF", "WEBP"),
    still=True,
    least_longer=500,
)
ETSY = Rule(
    source=("https://hauld.app/blog/etsy-listing-photo-checklist",),
    formats=("JPEG", "PNG", "GIF"),
    least_longer=2000,
    most_bytes=10 * MEGABYTE,
    typical=("formats", "least_longer", "most_bytes"),
)
SHOPIFY = Rule(
    source=("https://help.shopify.com/api/guides/media",),
    formats=("PNG", "GIF", "JPEG"),
    most_longer=4472,
)
WALMART = Rule(
    source=(
        "https://marketplacelearn.walmart.com/guides/Item%20setup/Item%20content,%20imagery,%20and%20media/"
        "Product-detail-page:-Image-guidelines-&-requirements",
    ),
    formats=("JPEG", "PNG", "BMP"),
    background=WHITE,
    least_shorter=1500,  # without which there is no zoom; 2200 are asked for
    most_bytes=5 * MEGABYTE,
    ratio=SQUARE,
)
INSTAGRAM = Rule(
    source=("https://developers.facebook.com/docs/instagram-api/reference/ig-user/media",),
    formats=("JPEG",),
    least_shorter=320,
    most_bytes=8 * MEGABYTE,
    ratio=(4 / 5, 1.91),
    note="That is what programs may post; a width of more than 1440 pixels is made smaller.",
)
PASSPORT = Rule(
    source=(
        "http://travel.state.gov/visa/guide/guide_3882.html",
        "https://bg.usembassy.gov/visas/nonimmigrant-visas/photo-requirements/",
    ),
    formats=("JPEG",),
    least_shorter=600,
    most_longer=1200,
    most_bytes=240_000,
    ratio=SQUARE,
    note="The background is to be plain white or off-white, and the head 25 to 35 of 51 mm high: neither is judged. "
    "Authorities are reported to refuse photos that software has changed, the background included: ask yours first.",
)
PRESETS = {
    "amazon": Preset("Amazon main image", AMAZON, 2000, 2000),
    "ebay": Preset("eBay", EBAY, 1600, 1600),
    "etsy": Preset("Etsy", ETSY, 2000, 2000, margin=0.1),
    "shopify": Preset("Shopify", SHOPIFY, 2048, 2048),
    "walmart": Preset("Walmart", WALMART, 2200, 2200, quality=90),
    "instagram-square": Preset("Instagram square", INSTAGRAM, 1080, 1080, margin=0.1),
    "instagram-portrait": Preset("Instagram portrait", INSTAGRAM, 1080, 1350, margin=0.1),
    "passport": Preset("Passport photo, 2 × 2 inches", PASSPORT, 600, 600, quality=85),
}


class Finding(NamedTuple):
    """What came of one part of a rule."""

    field: str  # of `Rule`
    ok: bool
    text: str  # one sentence: what was asked for, and what the picture has
    verified: bool = True  # False: that the shop asks for this was read on the pages of others


Box = tuple[int, int, int, int]  # left, top, right and bottom


class Layout(NamedTuple):
    """What of a picture is subject, as far as a file alone can tell; with less than EDGE of the edge, nothing is."""

    edge: float  # share of the frame's edge that is background
    flawed: float  # share of the background beyond the BAND that has not exactly its colour
    box: Box | None  # of the subject


def enlargement(cutout: Cutout, finish: Finish) -> float:
    """How many times larger, along a side, a finish shows a cutout than its photo has it: 1 where it keeps its pixels.

    Above 1 pixels are made up, which a page should say; below 1 it is made smaller. Raises PhotoError.
    """
    if not finish.size:
        return 1.0
    shown = cutout.cleaned() if finish.clean else cutout
    return Frame.around(shown.alpha, finish.margin, finish.size).scale


def check(picture: bytes | str | os.PathLike[str], wanted: Rule | Preset) -> list[Finding]:
    """What a file, as its bytes or its path, has of what a rule asks for: a finding for each part.

    The file alone is judged, as it is shown: upright, the first of several pictures, its format by its content, its
    colours in the numbers that it has them in. See `find_layout` for what the background and the subject are. The
    subject's share of the frame is that of its box along the side that it fills most, since that is what keeps it from
    being larger; nothing is said of it, or of what the frame cuts off, where most of the edge is no background.

    Raises PhotoError for what is no photo.
    """
    rule = wanted.rule if isinstance(wanted, Preset) else wanted
    data = bytes(picture) if isinstance(picture, bytes | bytearray) else read_path(Path(picture), MAX_BYTES)
    photo = open_photo(data)
    height, width = photo.shape
    findings = [_check_format(photo.format, rule), *_check_size(width, height, len(data), rule)]
    if rule.still:
        moves = _is_animated(data, photo.format)
        text = "The picture moves: a still one is asked for." if moves else "The picture is still."
        findings.append(Finding("still", not moves, text))
    if rule.background:
        findings += _check_background(photo.rgb, photo.alpha, rule.background, rule)
    return [finding._replace(verified=finding.field not in rule.typical) for finding in findings]


def find_layout(rgb: Pixels, background: Colour) -> Layout:
    """What of H x W x 3 is background, and what subject.

    Background is what differs by at most NEAR from its colour and hangs together, by its sides, with such pixels at the
    frame's edge. So what shows through a handle is none, and white that the subject has at its outline can't be told
    from it. The subject is the rest, without SPECKs of its largest part, in which corners hang together too. Pixels up
    to BAND from the subject may differ; all others that are no subject, specks included, are flawed if they do.
    """
    low, high = ([value + off for value in background] for off in (-NEAR, NEAR))
    around = cv2.copyMakeBorder(cv2.inRange(rgb, tuple(low), tuple(high)), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=255)
    cv2.floodFill(around, None, (0, 0), 1)  # from outside, so that all of the edge is reached
    outside = around[1:-1, 1:-1] == 1
    edge = float(np.concatenate((outside[0], outside[-1], outside[1:-1, 0], outside[1:-1, -1])).mean())
    if edge < EDGE:
        return Layout(edge, 1.0, None)
    subject, box = _large_parts(~outside)
    about = cv2.dilate(subject, np.ones((2 * BAND + 1, 2 * BAND + 1), np.uint8))
    exact = cv2.inRange(rgb, background, background)
    flaws = np.count_nonzero((exact == 0) & (about == 0))
    return Layout(edge, flaws / max(1, int(np.count_nonzero(about == 0))), box)


def _large_parts(mask: NDArray[np.bool_]) -> tuple[Pixels, Box | None]:
    """The parts of a mask H x W that are no SPECKs, as 1 where they are and 0 elsewhere, and the box of them all."""
    _, labels, parts, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8))
    large = parts[:, cv2.CC_STAT_AREA] >= SPECK * parts[1:, cv2.CC_STAT_AREA].max(initial=0)
    large[0] = False  # what is not in the mask
    if not large.any():
        return np.zeros(mask.shape, np.uint8), None
    left, top, across, down, _ = parts[large].T
    box = int(left.min()), int(top.min()), int((left + across).max()), int((top + down).max())
    return large[labels].view(np.uint8), box


def _check_format(name: str, rule: Rule) -> Finding:
    names = [NAMES.get(form, form) for form in rule.formats]
    asked = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    own = NAMES.get(name, name)
    if name in rule.formats:
        return Finding("formats", True, f"The format is {own}.")
    return Finding("formats", False, f"The format is {own}: {asked} is asked for.")


def _check_size(width: int, height: int, count: int, rule: Rule) -> list[Finding]:
    """Pixels, proportions and bytes."""
    size = f"{width} × {height} pixels"
    shorter, longer = sorted((width, height))
    found = []
    for field, ok, asked in (
        ("least_longer", longer >= (rule.least_longer or 0), f"at least {rule.least_longer} on the longer side"),
        ("least_shorter", shorter >= (rule.least_shorter or 0), f"at least {rule.least_shorter} on each side"),
        ("most_longer", longer <= (rule.most_longer or longer), f"at most {rule.most_longer} on the longer side"),
    ):
        if getattr(rule, field) is not None:
            found.append(Finding(field, ok, f"{size}: {asked} are asked for."))
    if rule.ratio is not None:
        least, most = rule.ratio
        asked = "a square" if least == most == 1 else f"a width of {least:g} to {most:g} times the height"
        ok = least * height <= width <= most * height
        found.append(Finding("ratio", ok, f"{size}: {asked} is asked for."))
    if rule.most_bytes is not None:
        ok = count <= rule.most_bytes
        found.append(Finding("most_bytes", ok, f"{_bytes(count)}: at most {_bytes(rule.most_bytes)} are asked for."))
    return found


def _check_background(rgb: Pixels, alpha: Pixels | None, background: Colour, rule: Rule) -> list[Finding]:
    """The background's colour, and where the subject is in front of it."""
    name = "white" if background == WHITE else ", ".join(map(str, background))
    if alpha is not None and (seen_through := float((alpha < 255).mean())):
        what = f"{_percent(seen_through)} of the picture is transparent"
        found = [Finding("background", False, f"{what}: an opaque background, exactly {name}, is asked for.")]
        layout = find_layout(composite(np.ascontiguousarray(rgb), alpha, background), background)
    else:
        layout = find_layout(np.ascontiguousarray(rgb), background)
        found = [_check_colour(layout, background, name)]
    if layout.edge < EDGE:
        return found
    height, width = rgb.shape[:2]
    left, top, right, bottom = layout.box or (0, 0, 0, 0)
    if rule.whole:
        sides = {"left": left == 0, "top": top == 0, "right": right == width, "bottom": bottom == height}
        touched = [side for side, touches in sides.items() if layout.box and touches]
        where = " and ".join(touched)
        cut = f"The subject reaches the frame's edge at the {where}: it may be cut off, and all of it is to be seen."
        found.append(Finding("whole", not touched, cut if touched else "All of the subject is within the frame."))
    share = max((right - left) / width, (bottom - top) / height)
    # rounded away from the limit, so that the number is on the side of it that the verdict is
    if rule.least_share is not None:
        text = f"The subject takes {floor(1000 * share) / 10:g} % of the frame: at least {100 * rule.least_share:g} %"
        found.append(Finding("least_share", share >= rule.least_share, f"{text} are asked for."))
    if rule.most_share is not None:
        text = f"The subject takes {ceil(1000 * share) / 10:g} % of the frame: at most {100 * rule.most_share:g} %"
        found.append(Finding("most_share", share <= rule.most_share, f"{text} are asked for."))
    return found


def _check_colour(layout: Layout, background: Colour, name: str) -> Finding:
    numbers = ", ".join(map(str, background))
    if layout.edge < EDGE:
        text = f"Only {_percent(layout.edge)} of the frame's edge is {name}: all of the background is to be {numbers}."
        return Finding("background", False, text)
    if layout.flawed:
        what = "a shadow, a tint, specks, or parts of the subject in nearly that colour"
        text = f"{_percent(layout.flawed)} of the background is not exactly {numbers}: it has {what}."
        return Finding("background", False, text)
    return Finding("background", True, f"The background is exactly {name}.")


def _is_animated(data: bytes, name: str) -> bool:
    """Whether a file that could be opened has more pictures to show one after the other."""
    if name not in ("GIF", "PNG", "WEBP", "AVIF"):  # others have pages, or previews
        return False
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return bool(getattr(image, "is_animated", False))
    except Exception:  # a decoder that is fed garbage raises anything; what lies behind the first picture is no matter
        return False


def _percent(share: float) -> str:
    """A share in percent, never 0 or 100 where it isn't."""
    percent = 100 * share
    for digits in (0, 1, 2):
        rounded = round(percent, digits)
        if 0 < rounded < 100 or percent in (0, 100):
            return f"{rounded:.{digits}f} %"
    return "less than 0.01 %" if percent < 1 else "more than 99.99 %"


def _bytes(count: int) -> str:
    """Rounded up, so that what is over a limit doesn't read as if it were at it."""
    return f"{ceil(count / 10_000) / 100:g} MB" if count >= MEGABYTE else f"{ceil(count / 1000)} kB"
