"""What can be chosen of a result, in words: the fields of `Finish` for the API, HTTP and the command line alike.

Nothing heavy is imported here, so that the command line can tell them at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Choice(NamedTuple):
    """A field: its name, what a value is, the one it has without, what it says, and the values that there are."""

    name: str
    kind: type
    default: Any
    text: str
    values: tuple[str, ...] = ()


CHOICES = (
    Choice(
        "background",
        str,
        "transparent",
        '"transparent", "blur" (the photo\'s own background, blurred) or a CSS colour such as "#ffffff"',
    ),
    Choice("blur", float, 0.02, 'how strong "blur" is, as a share of the longer side, 0.001 to 0.2'),
    Choice("crop", bool, False, "whether to crop to the subject"),
    Choice("margin", float, 0.05, "room around a subject that is cropped to, as a share of its longer side, 0 to 1"),
    Choice(
        "width",
        int,
        0,
        "of a canvas in pixels, to which the subject is fitted, centred; 0: no canvas, or as wide as it is high",
    ),
    Choice("height", int, 0, "of that canvas in pixels; 0: no canvas, or as high as it is wide"),
    Choice("format", str, "png", 'of the result; a "jpg" is white where the others are transparent',
           ("png", "webp", "jpg", "tif")),
    Choice("quality", int, None, '1 to 100, for a smaller "webp" or "jpg"; without it a "webp" is lossless'),
    Choice("output", str, "cutout", '"cutout", or "matte" for the alpha alone, in grey', ("cutout", "matte")),
)  # fmt: skip
TEXTS = {choice.name: choice.text for choice in CHOICES}
BACKGROUND_IMAGE = "an image to put the subject on; it fills the frame and wins over the background"
REFINE = "whether the edges follow the photo's own hair and fur; this takes about twice the time"
