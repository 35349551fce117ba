"""To and from the size of the network: what upstream's file of this name is for.

`preprocess_image` and `postprocess_image` keep upstream's names, arguments and results; `shrink` and `enlarge` do
the same to bytes, faster. The file needs nothing else of the project, so it can be dropped in wherever upstream's
`utilities.py` is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # torch takes seconds to import, and only the functions that get or give its tensors need it
    from torch import Tensor

Pixels = NDArray[np.uint8]

FLAT = 1e-4  # a map with less between its least and most is constant but for the rounding of the resize
# A map that nowhere reaches this holds no subject: blank photos stay below 0.13. It only keeps the stretch from
# blowing up noise; what BackgroundRemover calls a subject must reach `pipeline.FOUND`, which textures don't.
EMPTY = 0.2


class PhotoError(ValueError):
    """What was given is no photo that can be worked on. One sentence: what is wrong and what to do."""


# --- as upstream has it, in floats ----------------------------------------------------------------------


def preprocess_image(im: NDArray[Any], model_input_size: Sequence[int]) -> Tensor:
    """The network's input, 1 x 3 x h x w in -0.5..0.5, from a photo H x W (x 1 to 4), as the model card has it.

    Bilinear without antialiasing to `model_input_size` (h, w), cut to whole numbers, / 255, - 0.5. An alpha
    channel is left out; what else upstream fails on counts as it does in `to_bytes`. A float array in 0..255
    keeps its fractions, as upstream.

    Raises PhotoError if `im` is not such an array.
    """
    import torch
    import torch.nn.functional as F

    channels = as_channels(im)
    if not (channels.dtype.kind == "f" and _white_of_floats(channels) == 255):
        channels = to_bytes(channels)
    image = torch.tensor(as_rgb(channels), dtype=torch.float32).permute(2, 0, 1)[None]
    image = F.interpolate(image, size=list(model_input_size), mode="bilinear")
    return image.to(torch.uint8) / 255.0 - 0.5


def postprocess_image(result: Tensor, im_size: Sequence[int]) -> Pixels:
    """The matte H x W in 0..255 from the network's 1 x 1 x h x w in 0..1, as the model card has it.

    Bilinear to `im_size` (H, W), stretched so that the least is 0 and the most 255. A map that is constant, or
    nowhere reaches EMPTY, is all 0, where upstream divides by zero or stretches the noise.
    """
    import torch
    import torch.nn.functional as F

    result = F.interpolate(result.detach().float(), size=list(im_size), mode="bilinear").squeeze(0)
    low, high = result.min(), result.max()
    if not (high - low >= FLAT and high >= EMPTY):  # NaN included
        result = torch.zeros_like(result)
    else:
        result = result.sub_(low).div_(high - low).mul_(255)
    matte: Pixels = result.permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    return np.squeeze(matte)


# --- the same in bytes ----------------------------------------------------------------------------------


def shrink(rgb: Pixels, side: int) -> Pixels:
    """What `preprocess_image` does to the pixels, in bytes and to the nearest one: H x W x 3 to side x side x 3."""
    small: Pixels = cv2.resize(rgb, (side, side), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return small


def enlarge(matte: Pixels, shape: tuple[int, int]) -> Pixels:
    """What `postprocess_image` does, in bytes and to the nearest one: h x w, stretched to 0..255, at shape (H, W)."""
    low, high = int(matte.min()), int(matte.max())
    if low == high:
        return np.zeros(shape, np.uint8)
    stretched = cv2.convertScaleAbs(matte, alpha=255 / (high - low), beta=-255 * low / (high - low))
    large: Pixels = cv2.resize(stretched, shape[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    return large


# --- arrays of any kind ---------------------------------------------------------------------------------


def as_channels(array: NDArray[Any]) -> NDArray[Any]:
    """H x W becomes H x W x 1. Raises PhotoError for anything but 1 to 4 channels of numbers."""
    channels = array[..., np.newaxis] if array.ndim == 2 else array
    if channels.ndim != 3 or not 1 <= channels.shape[2] <= 4 or array.dtype.kind not in "biuf":
        raise PhotoError(
            f"An array of shape {array.shape} and type {array.dtype} is not a photo: "
            "give H x W or H x W x 1 to 4 (grey, grey and alpha, RGB, RGBA) of integers or floats."
        )
    return channels


def as_rgb(channels: NDArray[Any]) -> NDArray[Any]:
    """The colour channels alone, H x W x 3, of H x W x 1 to 4; grey three times."""
    colours = channels[..., :3] if channels.shape[2] >= 3 else np.repeat(channels[..., :1], 3, axis=2)
    return np.ascontiguousarray(colours)


def to_bytes(array: NDArray[Any], white: float | None = None) -> Pixels:
    """Numbers as 0..255, rounded; `white` is the one that becomes 255.

    Where that is not known it is guessed: of integers 255 (65535 if any is above 255), of booleans True, of floats the
    first of 1, 255 and 65535 that all but highlights stay below, see `_white_of_floats`. What is above it is white.
    """
    if array.dtype == np.uint8 and white in (None, 255):
        return array
    if array.dtype.kind == "f":
        array = np.nan_to_num(array)
    if white is None:
        if array.dtype.kind == "f":
            white = _white_of_floats(array)
        elif array.dtype.kind == "b":
            white = 1
        else:
            white = 65535 if array.max(initial=0) > 255 else 255
    if array.dtype == np.uint16:  # the same as below, faster
        narrow: Any = cv2.convertScaleAbs(np.ascontiguousarray(array), alpha=255 / white)
        scaled: Pixels = narrow.reshape(array.shape)
    else:
        scaled = np.clip(np.rint(array.astype(np.float32) * (255 / white)), 0, 255).astype(np.uint8)
    return scaled


def _white_of_floats(array: NDArray[Any]) -> float:
    """1, 255 or 65535: the first of which 99 % of what is above 0 stays below the double. The rest is highlights."""
    light = array[array > 0]
    level = np.quantile(light, 0.99, method="lower") if light.size else 0
    return 1 if level <= 2 else 255 if level <= 510 else 65535
