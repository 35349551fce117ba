"""Photo in, cutout out. The one way through the code: page, API, batch and benchmarks all come here."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import matting
import weights as weights_module
from briarmbg import BriaRMBG
from engines import SIZE, Engine, Wrapper
from utilities import (
    BLUR,
    MARGIN,
    Frame,
    Photo,
    PhotoError,
    PhotoSource,
    Pixels,
    blur_background,
    colour_background,
    composite,
    enlarge,
    image_background,
    open_photo,
    safe_stem,
    save_pixels,
    shrink,
    with_alpha,
)
from weights import Weights, WeightsError

logger = logging.getLogger(__name__)

NOTHING_FOUND = "Nothing in this photo stands out as its subject, so the matte is empty: try another photo."
FOUND = 128  # of 255: the network's peak from which a photo has a subject, some pixel being rather it than not

Background = str | tuple[int, int, int] | os.PathLike[str] | bytes | Image.Image | NDArray[Any]


@dataclass(frozen=True)
class Cutout:
    """What was cut out of a photo, at the photo's size, the way up that its EXIF orientation asks for."""

    photo: Photo
    alpha: Pixels  # H x W
    foreground: Pixels  # H x W x 3, the subject's colours; the photo's own where alpha is 255
    found: bool = True  # False: nothing in the photo is foreground, and the matte is 0 throughout

    @classmethod
    def from_matte(cls, photo: Photo, alpha: Pixels, refine: bool = False, foreground: bool = True) -> Cutout:
        """What a matte H x W, made elsewhere or earlier, cuts out of a photo; the rest as for the remover."""
        if refine:
            alpha = matting.refine(photo.opaque(), alpha)
        if photo.alpha is not None:
            alpha = np.minimum(alpha, photo.alpha)
        colours = matting.estimate_foreground(photo.rgb, alpha) if foreground else photo.rgb
        return cls(photo, alpha, colours, found=bool(alpha.any()))

    @classmethod
    def open(cls, photo: PhotoSource, matte: PhotoSource | None = None) -> Cutout:
        """An earlier cutout again: from a photo and its matte, or from a cutout that holds its alpha itself.

        Raises PhotoError if one is no photo, if their sizes differ, and if there is neither a matte nor alpha.
        """
        opened = open_photo(photo)
        if matte is None:
            if opened.alpha is None:
                raise PhotoError("This picture has no transparency: send the matte that belongs to it, or cut it out.")
            return cls.from_matte(opened, opened.alpha, foreground=False)  # its colours are the subject's already
        alpha = open_photo(matte).rgb[..., 0]
        if alpha.shape != opened.size:
            sizes = "the photo has {1} × {0} pixels and the matte {3} × {2}".format(*opened.size, *alpha.shape)
            raise PhotoError(f"These two don't belong together, for {sizes}: send the photo's own matte.")
        return cls.from_matte(opened, np.ascontiguousarray(alpha))

    def touched_up(self, keep: NDArray[np.bool_], remove: NDArray[np.bool_]) -> Cutout:
        """The cutout after brush strokes, H x W each, that bring the subject back or take it away, see `matting`."""
        return Cutout.from_matte(self.photo, matting.touch_up(self.photo.opaque(), self.alpha, keep, remove))

    @cached_property
    def matte(self) -> Image.Image:
        """The alpha matte, mode L: 255 is subject, 0 background."""
        return Image.fromarray(self.alpha)

    @cached_property
    def image(self) -> Image.Image:
        """The subject, mode RGBA, straight alpha: where the matte is 255 the photo's pixels, where it is 0 zeros."""
        return self._image(self.pixels())

    def framed(self, margin: float = MARGIN, size: tuple[int, int] | None = None) -> Cutout:
        """Cropped to the subject, with a margin of that share of its longer side (0 to 1) all around.

        With `size`, the width and height of a canvas, it is scaled to fit into that with its margin, and centred.
        Faint residue and specks don't widen the crop, see `utilities.subject_box`. Where the canvas reaches
        beyond the photo alpha is 0. Where there is no subject, the whole photo is shown.

        Raises PhotoError for a margin or a size that can't be made.
        """
        frame = Frame.around(self.alpha, margin, size)
        foreground, alpha = frame.subject(self.foreground, self.alpha)
        return replace(
            self, photo=Photo(frame.photo(self.photo.opaque()), icc=self.photo.icc), alpha=alpha, foreground=foreground
        )

    def preview(self, side: int) -> Cutout:
        """The same with at most `side` pixels on the longer side, averaged, for a quick look."""
        height, width = self.photo.size
        scale = side / max(height, width)
        if scale >= 1:
            return self
        small = Frame(slice(None), slice(None), (max(1, round(width * scale)), max(1, round(height * scale))), (0,) * 4)
        foreground, alpha = small.subject(self.foreground, self.alpha)
        photo = Photo(small.photo(self.photo.opaque()), icc=self.photo.icc)
        return replace(self, photo=photo, alpha=alpha, foreground=foreground)

    def composite(self, background: Background = "white", blur: float = BLUR) -> Image.Image:
        """The subject on a background, mode RGB.

        `background` is a CSS colour ("white", "#ff8800"), an RGB tuple, "blur" (the photo's own background,
        blurred), or an image (path object, bytes, PIL image, array), which fills the frame and is cut to it.
        A colour is sRGB; it and an image are brought into the photo's colour space, so that the subject's
        pixels stay as they are. `blur` is how strong that is: a standard deviation, as a share of the longer side.

        Raises PhotoError for what is neither a colour nor an image, and for a blur outside `utilities.BLURS`.
        """
        return self._image(self.pixels(background, blur))

    def pixels(self, background: Background | None = None, blur: float = BLUR) -> Pixels:
        """`image` as H x W x 4, or `composite(background, blur)` as H x W x 3."""
        under: Pixels | tuple[int, int, int]
        if background is None:
            return with_alpha(self.foreground, self.alpha)
        if isinstance(background, tuple):
            background = "rgb({},{},{})".format(*background)
        if background == "blur":
            under = blur_background(self.photo.opaque(), self.alpha, blur)
        elif isinstance(background, str):
            under = colour_background(background, self.photo.icc)
        else:
            under = image_background(open_photo(background), self.photo.size, self.photo.icc)
        return composite(self.foreground, self.alpha, under)

    def save(
        self,
        path: str | os.PathLike[str],
        background: Background | None = None,
        blur: float = BLUR,
        quality: int | None = None,
    ) -> None:
        """Write `image`, or `composite(background, blur)`, in the format of the extension.

        .png, .webp and .tif are lossless and hold alpha; .jpg is over white. `quality`, 1 to 100, makes .webp
        lossy and is that of .jpg. Raises PhotoError, OSError.
        """
        save_pixels(self.pixels(background, blur), path, self.photo.icc, quality)

    def _image(self, pixels: Pixels) -> Image.Image:
        image = Image.fromarray(pixels)
        if self.photo.icc:
            image.info["icc_profile"] = self.photo.icc
        return image


BLANK = Cutout(Photo(np.zeros((1, 1, 3), np.uint8)), np.zeros((1, 1), np.uint8), np.zeros((1, 1, 3), np.uint8), False)


@dataclass(frozen=True)
class Outcome:
    """What became of one photo of several."""

    name: str  # the photo's file name
    path: Path | None = None  # of its result, None if there is none
    reason: str = ""  # why there is none, or why it is empty, in one sentence


class BackgroundRemover:
    """Cuts the subject out of photos.

        remover = BackgroundRemover.from_pretrained()
        remover("photo.jpg").save("cutout.png")

    `weights` says which weights these are and under which licence, `engine` what they run on.
    """

    def __init__(
        self,
        weights: Weights,
        device: str | None = None,
        precision: str | None = None,
        on_device: Wrapper | None = None,
    ) -> None:
        """Put verified weights on a device; see `Engine` for the arguments.

        Raises WeightsError if they don't fit the network, EngineError if this machine can't run it so.
        """
        with torch.device("meta"):  # the weights are all there, so nothing needs initialising
            net = BriaRMBG()
        try:
            net.load_state_dict(weights.state_dict, assign=True)
        except RuntimeError as error:
            raise WeightsError(
                f"The weights in '{weights.name}' are not those of RMBG 1.4 or IS-Net: choose a file of this network."
            ) from error
        self.weights = replace(weights, state_dict={})  # the network has the tensors now
        self.engine = Engine(net, device, precision, on_device)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str] | None = None,
        device: str | None = None,
        precision: str | None = None,
        on_device: Wrapper | None = None,
    ) -> BackgroundRemover:
        """Load weights: "briaai/RMBG-1.4", "isnet-general-use", another Hub repo id, a file or a folder.

        With None, the environment variable RMBG_WEIGHTS decides, and without it BRIA's weights are taken, or
        IS-Net's where the Hugging Face Hub can't be reached or refuses. `device` is "cuda", "mps" or "cpu",
        `precision` "fp32", "bf16" or "fp16"; None takes what is quickest here. Raises WeightsError, EngineError.
        """
        return cls(weights_module.load(source), device, precision, on_device)

    def __call__(self, photo: PhotoSource, refine: bool = False, foreground: bool = True) -> Cutout:
        """Cut the subject out of a path, bytes, a PIL image, or an array H x W (x 1 to 4).

        The matte is the network's, as the model card has it; `refine` makes it follow the photo's own edges instead, at
        about the time that the network takes. `foreground` takes the old background out of the colours of partial
        pixels; False is a little faster. See `matting` for both.
        Raises PhotoError if that is no photo, see `utilities.open_photo`.
        """
        opened = open_photo(photo)
        (matte,) = self.engine(shrink(opened.opaque(), SIZE)[np.newaxis])
        if matte.max() < FOUND:
            return Cutout(opened, np.zeros(opened.size, np.uint8), opened.rgb, found=False)
        return Cutout.from_matte(opened, enlarge(matte, opened.size), refine, foreground)

    def each(
        self,
        photos: Iterable[str | os.PathLike[str]],
        folder: str | os.PathLike[str],
        save: Callable[[Cutout, Path], None],
        suffix: str = ".png",
        **options: bool,
    ) -> Iterator[Outcome]:
        """Cut photos out one after the other, each saved before the next is opened.

        `save(cutout, path)` writes the result to a path in `folder` with the photo's name, made unique, and the
        `suffix`; `options` are those for one photo. A photo that fails has its reason and stops no other. Whoever
        no longer asks for the next ends it.
        """
        taken: set[str] = set()
        for photo in map(Path, photos):
            stem = safe_stem(photo.name)
            numbers = (f"{stem}-{number}" for number in itertools.count(2))
            stem = next(name for name in itertools.chain([stem], numbers) if name.lower() not in taken)
            path = Path(folder) / (stem + suffix)
            try:
                cutout = self(photo, **options)
                save(cutout, path)
            except PhotoError as error:
                yield Outcome(photo.name, reason=str(error))
                continue
            except Exception:  # whatever it is, the other photos are not to be lost
                logger.exception("A photo of several failed")
                yield Outcome(photo.name, reason="Something went wrong with this photo: try it again alone.")
                continue
            taken.add(stem.lower())
            yield Outcome(photo.name, path, "" if cutout.found else NOTHING_FOUND)
