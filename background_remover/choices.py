"""What can be chosen of a result, in words, for the API, HTTP and the command line alike: the fields of `Finish`, CUTS.

Nothing heavy is imported here, so that the command line can tell them at once.
"""

from __future__ import annotations

from contextlib import suppress
from math import isfinite
from typing import Any, NamedTuple

YES = ("true", "1", "yes", "on")
NO = ("false", "0", "no", "off")


class Choice(NamedTuple):
    """A field: its name, what a value is, the one it has without, what it says, and the values that there are."""

    name: str
    kind: type
    default: Any
    text: str
    values: tuple[str, ...] = ()

    def read(self, value: Any) -> Any:
        """The value of a text, or of what JSON has; the default for none. Raises ValueError, one sentence."""
        if value is None or value == "":
            return self.default
        if self.kind is bool and (isinstance(value, bool) or str(value).lower() in (*YES, *NO)):
            return value if isinstance(value, bool) else str(value).lower() in YES
        if self.kind is str and isinstance(value, str) and (not self.values or value in self.values):
            return value
        if self.kind in (int, float) and isinstance(value, str | int | float) and not isinstance(value, bool):
            with suppress(ValueError, OverflowError):
                number = float(value)
                if isfinite(number) and (self.kind is float or number == int(number)):
                    return self.kind(number)
        what = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}[self.kind]
        if self.values:
            what = f"one of {', '.join(self.values)}"
        raise ValueError(f"The parameter '{self.name}' is {what}.")


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
    Choice(
        "shadow",
        str,
        "none",
        '"drop" falls behind the subject, "contact" lies on the ground beneath it, unless the photo cuts it off there',
        ("none", "drop", "contact"),
    ),
    Choice("shadow_strength", float, 0.5, "how dark that is at its darkest, 0 to 1"),
    Choice(
        "shadow_softness",
        float,
        0.03,
        'how soft it is, as a share of the longer side of the subject, 0.005 to 0.1; a softer "drop" falls farther',
    ),
    Choice(
        "shadow_direction",
        float,
        135.0,
        'where a "drop" falls, in degrees clockwise from straight up, 0 to 360: 90 is to the right, 180 down',
    ),
    Choice("clean", bool, False, "whether to take away haze and specks far from the subject"),
)  # fmt: skip
TEXTS = {choice.name: choice.text for choice in CHOICES}
BACKGROUND_IMAGE = "an image to put the subject on; it fills the frame and wins over the background"
# How the subject is found in a photo, which `BackgroundRemover` takes beside the photo.
CUTS = (
    Choice("refine", bool, False, "whether the edges follow the photo's own hair and fur, and haze goes"),
    Choice(
        "solid",
        bool,
        False,
        "whether wide parts that came out half transparent are made whole; it costs a second look where there are any",
    ),
    Choice(
        "box",
        str,
        "",
        'where the subject is: left, top, right and bottom in pixels of the photo, such as "40,20,300,500"',
    ),
    Choice(
        "points",
        str,
        "",
        'where the subject is: "120,80" keeps only what is there, "120,80,0" takes it away; spaces lie between several',
    ),
)
TEXTS |= {choice.name: choice.text for choice in CUTS}
