"""What comes out: a `Cutout`, and the `Finish` that says how a picture of it should look."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from background_remover import matting, shadows
from background_remover.colours import Colour, css_colour, parse_colour
from background_remover.compositing import (
    BLUR,
    blur_background,
    check_blur,
    composite,
    fit_background,
    widen,
    with_alpha,
)
from background_remover.decoding import Photo
from background_remover.encoding import Target, check_encoding, holds_16_bits, save_pixels, suffix_of
from background_remover.framing import MARGIN, Frame, Size, check_margin, check_size, clean, fade
from background_remover.photos import PhotoSource, check_pixels, open_photo
from background_remover.shadows import DIRECTION, SOFTNESS, STRENGTH, Shadow
from background_remover.stages import stage
from utilities import PhotoError

Pixels = NDArray[np.uint8]
OUTPUTS = ("cutout", "matte")
ROUNDINGS = 1  # of 255: by how much the same colours can differ after a resize
Background = str | Colour | os.PathLike[str] | bytes | Image.Image | NDArray[Any] | Photo


@dataclass(frozen=True, eq=False)
class Painted:
    """A picture whose rows are made as they are asked for, so that it need never be whole in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    paint: Callable[[slice], NDArray[Any]]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        return self.paint(rows)


@dataclass(frozen=True, eq=False)
class Cutout:
    """What was cut out of a photo, at the photo's size, the way up that its EXIF orientation asks for."""

    photo: Photo
    alpha: Pixels  # H x W
    foreground: Pixels  # H x W x 3, the subject's colours; the photo's own where alpha is 255
    cut: bool | None = None  # of what a frame shows: whether the photo's bottom edge cuts the subject off

    @classmethod
    def from_matte(cls, photo: Photo, alpha: Pixels, *, refine: bool = False, foreground: bool = True) -> Cutout:
        """What a matte H x W, made elsewhere or earlier, cuts out of a photo; the rest as for the remover.

        Refined, it has no haze either, see `framing.clean`.
        """
        if refine:
            alpha = clean(matting.refine(photo.opaque(), alpha), specks=False)
        if photo.alpha is not None:
            alpha = np.minimum(alpha, photo.alpha)
        return cls(photo, alpha, matting.estimate_foreground(photo.rgb, alpha) if foreground else photo.rgb)

    @classmethod
    def open(cls, photo: PhotoSource, matte: PhotoSource | None = None, *, refine: bool = False) -> Cutout:
        """An earlier cutout again: from a photo and its matte, or from a cutout that holds its alpha itself.

        What is transparent in a matte is the background, so that a cutout can serve as one; of others grey counts.
        `refine` makes a matte follow the photo's edges, as for the remover.

        Raises PhotoError if one is no photo, if their sizes differ, and if there is neither a matte nor alpha.
        """
        opened = open_photo(photo)
        if matte is None:
            if opened.alpha is None:
                raise PhotoError("This picture has no transparency: send its matte as well, or cut it out first.")
            return cls.from_matte(opened, opened.alpha, foreground=False)  # its colours are the subject's already
        opened_matte = open_photo(matte)
        alpha = opened_matte.rgb[..., 0] if opened_matte.alpha is None else opened_matte.alpha
        if alpha.shape != opened.shape:
            sizes = "the photo has {1} × {0} pixels and the matte {3} × {2}".format(*opened.shape, *alpha.shape)
            raise PhotoError(f"These two don't belong together, because {sizes}: send the photo's own matte.")
        return cls.from_matte(opened, np.ascontiguousarray(alpha), refine=refine)

    @cached_property
    def found(self) -> bool:
        """False: nothing in the photo is foreground, and the matte is 0 throughout."""
        return bool(self.alpha.any())

    @cached_property
    def cut_off(self) -> bool:
        """Whether the photo's bottom edge cuts the subject off, so that it does not stand on what is seen."""
        return shadows.cut_off(self.alpha) if self.cut is None else self.cut

    @cached_property
    def matte(self) -> Image.Image:
        """The alpha matte, mode L: 255 is subject, 0 background."""
        return Image.fromarray(self.alpha)

    @cached_property
    def image(self) -> Image.Image:
        """The subject, mode RGBA, straight alpha: where the matte is 255 the photo's pixels, where it is 0 zeros."""
        return self._image(self.pixels())

    def touched_up(self, keep: NDArray[np.bool_], remove: NDArray[np.bool_]) -> Cutout:
        """The cutout after brush strokes, H x W each, that bring the subject back or take it away, see `matting`.

        Colours change only where alpha does.
        """
        touched = Cutout.from_matte(self.photo, matting.touch_up(self.photo.opaque(), self.alpha, keep, remove))
        same = (touched.alpha == self.alpha)[..., np.newaxis]
        return Cutout(self.photo, touched.alpha, np.where(same, self.foreground, touched.foreground), self.cut)

    def cleaned(self) -> Cutout:
        """Without haze and specks far from the subject, see `framing.clean`; itself where there are none."""
        alpha = clean(self.alpha)
        return self if np.array_equal(alpha, self.alpha) else replace(self, alpha=alpha)

    def framed(self, margin: float = MARGIN, size: Size | None = None) -> Cutout:
        """Cropped to the subject, with a margin of that share of its longer side (0 to 1) all around.

        With `size`, the width and height of a canvas, it is scaled to fit into that with its margin, and centred.
        Faint residue and specks don't widen the crop, see `framing.subject_box`. Where the canvas reaches beyond
        the photo alpha is 0. Where there is no subject, the whole photo is shown.

        Raises PhotoError for a margin or a size that can't be made.
        """
        frame = Frame.around(self.alpha, margin, size)
        check_pixels(*frame.size)
        return self.through(frame)

    def preview(self, side: int) -> Cutout:
        """The same with at most `side` pixels on the longer side, averaged, for a quick look."""
        return self if max(self.photo.shape) <= side else self.through(Frame.within(side, self.photo.shape))

    def through(self, frame: Frame) -> Cutout:
        """What a frame shows of it."""
        foreground, alpha = frame.subject(self.foreground, self.alpha)
        rgb, own = self._shown_photo(self.photo.rgb, frame)
        deep = None if self.photo.deep is None else self._shown_photo(self.photo.deep, frame)[0]
        return Cutout(replace(self.photo, rgb=rgb, alpha=own, deep=deep), alpha, foreground, self.cut_off)

    def _shown_photo(self, rgb: NDArray[Any], frame: Frame) -> tuple[NDArray[Any], Pixels | None]:
        if self.photo.alpha is None:
            return frame.photo(rgb), None
        # Where the photo ends its alpha goes on as its colours do, so that no grey comes into a blur.
        return frame.subject(rgb, self.photo.alpha, cv2.BORDER_REPLICATE)

    def composite(self, background: Background = "white", blur: float = BLUR) -> Image.Image:
        """The subject on a background, mode RGB.

        `background` is a CSS colour ("white", "#ff8800"), an RGB tuple, "blur" (the photo's own background,
        blurred), or an image (path object, bytes, PIL image, array), which fills the frame and is cut to it.
        A colour is sRGB; it and an image are brought into the photo's colour space, so that the subject's
        pixels stay as they are. `blur` is how strong that is: a standard deviation, as a share of the longer side.

        Raises PhotoError for what is neither a colour nor an image, and for a blur outside `compositing.BLURS`.
        """
        if background is None:
            raise PhotoError("There is no background to composite with: give one, or take .image for transparency.")
        return self._image(self.pixels(background, blur))

    def pixels(
        self,
        background: Background | None = None,
        blur: float = BLUR,
        *,
        deep: bool = False,
        shadow: Shadow | None = None,
    ) -> NDArray[Any]:
        """`image` as H x W x 4, or `composite(background, blur)` as H x W x 3; `deep` in 16 bits if the photo has them.

        Backgrounds have 8 bits, and so has alpha. The subject's `shadow` lies on the background, and on transparency
        it is black with alpha.
        """
        return self._painted(background, blur, deep, shadow)[:]

    def _painted(self, background: Background | None, blur: float, deep: bool, shadow: Shadow | None) -> Painted:
        """The same, rows of it as they are asked for."""
        own = self.photo.deep if deep else None
        shade = shadow.cast(self.alpha, self.cut_off) if shadow else None
        under = None if background is None else np.asarray(self._under(background, blur), np.uint8)

        def paint(rows: slice) -> NDArray[Any]:
            foreground: NDArray[Any] = self.foreground[rows]
            if own is not None:  # the photo's own, but where others were found to be the subject's
                others = cv2.absdiff(foreground, self.photo.rgb[rows]) > ROUNDINGS
                foreground = np.where(others, widen(foreground), own[rows])
            shaded = None if shade is None else shade[rows]
            if under is None:
                return with_alpha(foreground, self.alpha[rows], shaded)
            behind = under if under.ndim == 1 else under[rows]
            return composite(foreground, self.alpha[rows], behind if own is None else widen(behind), shaded)

        shape = (*self.alpha.shape, 4 if under is None else 3)
        return Painted(shape, np.dtype(np.uint8 if own is None else np.uint16), paint)

    def _under(self, background: Background, blur: float) -> Pixels | Colour:
        """The background at the photo's size, in the photo's colour space; or one colour."""
        if isinstance(background, tuple):
            if len(background) != 3:
                raise PhotoError("This is not a colour: give red, green and blue, 0 to 255 each.")
            background = "rgb({},{},{})".format(*background)
        if isinstance(background, str):
            if background == "blur":
                return blur_background(self.photo.opaque(), self.alpha, blur)
            try:
                return css_colour(background, self.photo.icc)
            except PhotoError as error:
                if not Path(background).suffix:
                    raise
                raise PhotoError("This is not a colour: give the path of an image as a pathlib.Path.") from error
        photo = background if isinstance(background, Photo) else open_photo(background)
        return fit_background(photo.opaque(), self.photo.shape, photo.icc, self.photo.icc)

    def save(
        self,
        target: Target,
        background: Background | None = None,
        blur: float = BLUR,
        quality: int | None = None,
        suffix: str | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        """Write `image`, or `composite(background, blur)`, to a path, in the format of its extension.

        `target` may be a binary file object instead, with the extension as `suffix`.

        .png, .webp and .tif are lossless and hold alpha; .jpg is over white. `quality`, 1 to 100, makes .webp
        lossy and is that of .jpg. Of a photo of 16 bits .png and .tif have 16. Raises PhotoError, OSError.
        """
        suffix = suffix_of(target) if suffix is None else suffix
        check_encoding(suffix, quality)
        pixels = self._painted(background, blur, holds_16_bits(suffix), shadow)
        save_pixels(pixels, target, self.photo.icc, quality, self.photo.dpi, suffix)

    def _image(self, pixels: Pixels) -> Image.Image:
        image = Image.fromarray(pixels)
        if self.photo.icc:
            image.info["icc_profile"] = self.photo.icc
        return image


@dataclass(frozen=True, eq=False)
class Finish:
    """How a picture of a cutout should look, in the words of the API; page, API and batch all speak it.

    `background` is "transparent", "blur" or a CSS colour; `background_image` wins over it. `crop` goes to the subject
    and its `margin`; `width` and `height` are those of a canvas to crop to, one alone makes a square, 0 is none.
    `format` is an extension that `encoding.ENCODERS` has, for whoever names the file. `output` is "cutout", or "matte"
    for the alpha alone, in grey, for which no background counts, and no shadow. `shadow` is one of `shadows.SHADOWS`,
    and the three behind it are what `Shadow` says. `clean` takes haze and specks away before all else, see
    `framing.clean`, and on a canvas what is left of haze near the subject, see `framing.fade`. Units are those of
    `Cutout`.
    """

    background: str = "transparent"
    background_image: PhotoSource | None = None
    blur: float = BLUR
    crop: bool = False
    margin: float = MARGIN
    width: int = 0
    height: int = 0
    format: str = "png"
    quality: int | None = None
    output: str = "cutout"
    shadow: str = "none"
    shadow_strength: float = STRENGTH
    shadow_softness: float = SOFTNESS
    shadow_direction: float = DIRECTION
    clean: bool = False

    def check(self) -> None:
        """Raises PhotoError for what can't be made of any cutout."""
        check_encoding(self.suffix, self.quality)
        if self.output not in OUTPUTS:
            raise PhotoError(f"'{self.output}' is not what can be had: choose one of {', '.join(OUTPUTS)}.")
        shadows.check_kind(self.shadow)
        if self._shadow:
            self._shadow.check()
        if self.crop or self.size:
            check_margin(self.margin)
        if self.size:
            check_size(self.size)
        if self._backdrop is None and self.background == "blur":
            check_blur(self.blur)
        elif self._backdrop is None and self.background != "transparent":
            if not isinstance(self.background, str):
                raise PhotoError('A background is "transparent", "blur" or a colour such as \'#ff8800\': give one.')
            parse_colour(self.background)

    @property
    def suffix(self) -> str:
        """The extension of its files, dot included."""
        return f".{self.format}"

    @property
    def size(self) -> Size | None:
        """Width and height of the canvas, None for the photo's own pixels."""
        return (self.width or self.height, self.height or self.width) if self.width or self.height else None

    @cached_property
    def _backdrop(self) -> Photo | None:
        """The background image, decoded once for all cutouts of a batch."""
        return None if self.background_image is None else open_photo(self.background_image)

    def frame(self, cutout: Cutout) -> Cutout:
        """What is shown of a cutout. Raises PhotoError."""
        cutout = cutout.cleaned() if self.clean else cutout
        if not (self.crop or self.size):
            return cutout
        framed = cutout.framed(self.margin, self.size)
        return replace(framed, alpha=fade(framed.alpha)) if self.clean and self.size else framed

    def pixels(self, framed: Cutout) -> Pixels:
        """What was framed: its matte H x W, or on its background H x W x 3, x 4 if that is transparent.

        Raises PhotoError.
        """
        if self.output == "matte":
            return framed.alpha
        return framed.pixels(self._under, self.blur, shadow=self._shadow)

    def write(self, framed: Cutout, target: Target) -> None:
        """A file of what was framed, on its background. Raises PhotoError, OSError."""
        suffix = suffix_of(target) or self.suffix
        with stage("save"):
            if self.output == "matte":
                save_pixels(framed.alpha, target, None, self.quality, framed.photo.dpi, suffix)
            else:
                framed.save(target, self._under, self.blur, self.quality, suffix, self._shadow)

    def save(self, cutout: Cutout, target: Target) -> None:
        """A file of a cutout, framed and on its background.

        The extension of a path decides on the format, else `format`. Raises PhotoError, OSError.
        """
        self.write(self.frame(cutout), target)

    @property
    def _under(self) -> Background | None:
        return self._backdrop or (None if self.background == "transparent" else self.background)

    @property
    def _shadow(self) -> Shadow | None:
        if self.shadow == "none" or self.output == "matte":
            return None
        return Shadow(self.shadow, self.shadow_strength, self.shadow_softness, self.shadow_direction)
