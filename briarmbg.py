"""The network of BRIA RMBG 1.4: IS-Net, a U-Net whose every stage is itself a small U-Net.

Qin et al., "Highly Accurate Dichotomous Image Segmentation", ECCV 2022, https://arxiv.org/abs/2203.03041

The names of the submodules are the names in the published checkpoints (798 tensors) and so an API: a
renamed attribute is a checkpoint that no longer loads. This file needs nothing else of the project, so
it can be dropped in wherever upstream's `briarmbg.py` is used.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn


def halve(x: Tensor) -> Tensor:
    """Max-pool to half the height and width, rounded up, so that any size down to 1 x 1 works."""
    return F.max_pool2d(x, 2, stride=2, ceil_mode=True)


def upsample_like(x: Tensor, target: Tensor) -> Tensor:
    """Bilinear resize of `x` to the height and width of `target`."""
    return F.interpolate(x, size=target.shape[2:], mode="bilinear")


def join(deep: Tensor, skip: Tensor) -> Tensor:
    """The channels of `deep`, enlarged to the height and width of `skip`, and after them those of `skip`."""
    if deep.shape[2:] != skip.shape[2:]:
        deep = upsample_like(deep, skip)
    return torch.cat((deep, skip), 1)


def add(deep: Tensor, shortcut: Tensor) -> Tensor:
    """The sum; in place where no gradient needs the addend, which is 2 % of the network's time on a CPU."""
    in_place = not (deep.requires_grad or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    return deep.add_(shortcut) if in_place else deep + shortcut


class REBNCONV(nn.Module):
    """3 x 3 convolution, batch norm, ReLU; keeps height and width at stride 1."""

    join = staticmethod(join)

    def __init__(self, in_ch: int = 3, out_ch: int = 3, dirate: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv_s1 = nn.Conv2d(in_ch, out_ch, 3, stride=stride, padding=dirate, dilation=dirate)
        self.bn_s1 = nn.BatchNorm2d(out_ch)
        self.relu_s1 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """Of `x`, or of `x` joined with `skip`."""
        joined = x if skip is None else self.join(x, skip)
        return self.relu_s1(self.bn_s1(self.conv_s1(joined)))  # type: ignore[no-any-return]


class RSU(nn.Module):
    """Residual U-block: an encoder of `len(dilations)` levels, its mirrored decoder, and a shortcut around both.

    With `pool`, the map is halved after every level but the last two; without, dilation alone widens the view.
    A decoder level has the dilation of the encoder level that it mirrors.
    """

    halve = staticmethod(halve)
    add = staticmethod(add)

    def __init__(self, dilations: tuple[int, ...], pool: bool, in_ch: int, mid_ch: int, out_ch: int) -> None:
        super().__init__()
        self.depth = len(dilations)
        self.pool = pool
        self.rebnconvin = REBNCONV(in_ch, out_ch)
        for level, dilation in enumerate(dilations, 1):
            self.add_module(f"rebnconv{level}", REBNCONV(out_ch if level == 1 else mid_ch, mid_ch, dilation))
        for level in range(self.depth - 1, 0, -1):
            level_out = out_ch if level == 1 else mid_ch
            self.add_module(f"rebnconv{level}d", REBNCONV(2 * mid_ch, level_out, dilations[level - 1]))

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        shortcut = self.rebnconvin(x, skip)
        skips, deep = [], shortcut
        for level in range(1, self.depth):
            deep = self.get_submodule(f"rebnconv{level}")(deep)
            skips.append(deep)
            if self.pool and level < self.depth - 1:
                deep = self.halve(deep)
        deep = self.get_submodule(f"rebnconv{self.depth}")(deep)
        for level in range(self.depth - 1, 0, -1):
            deep = self.get_submodule(f"rebnconv{level}d")(deep, skips.pop())
        return self.add(deep, shortcut)


# Upstream's names for the five kinds of block, with upstream's arguments (`img_size` never had an effect).
def RSU7(in_ch: int = 3, mid_ch: int = 12, out_ch: int = 3, img_size: int = 512) -> RSU:  # noqa: ARG001
    return RSU((1, 1, 1, 1, 1, 1, 2), True, in_ch, mid_ch, out_ch)


def RSU6(in_ch: int = 3, mid_ch: int = 12, out_ch: int = 3) -> RSU:
    return RSU((1, 1, 1, 1, 1, 2), True, in_ch, mid_ch, out_ch)


def RSU5(in_ch: int = 3, mid_ch: int = 12, out_ch: int = 3) -> RSU:
    return RSU((1, 1, 1, 1, 2), True, in_ch, mid_ch, out_ch)


def RSU4(in_ch: int = 3, mid_ch: int = 12, out_ch: int = 3) -> RSU:
    return RSU((1, 1, 1, 2), True, in_ch, mid_ch, out_ch)


def RSU4F(in_ch: int = 3, mid_ch: int = 12, out_ch: int = 3) -> RSU:
    return RSU((1, 2, 4, 8), False, in_ch, mid_ch, out_ch)


Block = Callable[[int, int, int], RSU]

# name: (block, channels in, inside, out); the order is the order of the tensors in a checkpoint
ENCODER: dict[str, tuple[Block, int, int, int]] = {
    "stage1": (RSU7, 64, 32, 64),
    "stage2": (RSU6, 64, 32, 128),
    "stage3": (RSU5, 128, 64, 256),
    "stage4": (RSU4, 256, 128, 512),
    "stage5": (RSU4F, 512, 256, 512),
    "stage6": (RSU4F, 512, 256, 512),
}
DECODER: dict[str, tuple[Block, int, int, int]] = {
    "stage5d": (RSU4F, 1024, 256, 512),
    "stage4d": (RSU4, 1024, 128, 256),
    "stage3d": (RSU5, 512, 64, 128),
    "stage2d": (RSU6, 256, 32, 64),
    "stage1d": (RSU7, 128, 16, 64),
}
HEADS = {"side1": 64, "side2": 64, "side3": 128, "side4": 256, "side5": 512, "side6": 512}


class BriaRMBG(nn.Module, PyTorchModelHubMixin):
    """IS-Net with six heads, finest first. `net(image)[0][0]` is the matte.

    All three generations of upstream's constructor work: `BriaRMBG(in_ch=3, out_ch=1)`,
    `BriaRMBG(config={"in_ch": 3, "out_ch": 1})` and `BriaRMBG(any_object_with_in_ch_and_out_ch)`.
    What a config lacks is 3 channels in and 1 out. `from_pretrained` takes a Hub repo id or a folder,
    loads strictly and never runs code from a pickle.
    """

    halve = staticmethod(halve)

    def __init__(self, config: Any = None, out_ch: int | None = None, *, in_ch: int | None = None) -> None:
        super().__init__()
        if isinstance(config, int):  # the first generation, called by position
            config = {"in_ch": config}
        given: dict[str, Any] = config if isinstance(config, dict) else {}
        channels_in = in_ch or given.get("in_ch", getattr(config, "in_ch", 3))
        channels_out = out_ch or given.get("out_ch", getattr(config, "out_ch", 1))
        self._hub_mixin_config = {"in_ch": channels_in, "out_ch": channels_out}  # what save_pretrained writes

        self.conv_in = nn.Conv2d(channels_in, 64, 3, stride=2, padding=1)
        for name, (block, in_features, mid, out) in (ENCODER | DECODER).items():
            self.add_module(name, block(in_features, mid, out))
        for name, features in HEADS.items():
            self.add_module(name, nn.Conv2d(features, channels_out, 3, padding=1))

    # What a pipeline of transformers asks of its model beyond `nn.Module`; upstream's `MyPipe.py` is one.

    input_modalities = ("image",)  # in the pipeline's repr

    @property
    def device(self) -> torch.device:
        """Where the weights are; a pipeline on another device moves them to its own."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights, which is the pipeline's `dtype`."""
        return next(self.parameters()).dtype

    @staticmethod
    def can_generate() -> bool:
        """False: no pipeline is to ask this network for text."""
        return False

    def features(self, x: Tensor) -> list[Tensor]:
        """The inputs of the six heads, finest first: N x (64, 64, 128, 256, 512, 512) x h x w, h = H/2 .. H/64."""
        skips: list[Tensor] = []
        deep: Tensor = self.conv_in(x)
        for name in ENCODER:
            deep = self.get_submodule(name)(deep if not skips else self.halve(deep))
            skips.append(deep)
        maps = [skips.pop()]
        for name in DECODER:
            maps.append(self.get_submodule(name)(maps[-1], skips.pop()))
        return [*reversed(maps[1:]), maps[0]]

    def matte(self, x: Tensor) -> Tensor:
        """The first matte alone, N x out_ch x H x W in 0..1: `forward(x)[0][0]` without the other five heads."""
        return torch.sigmoid(upsample_like(self.get_submodule("side1")(self.features(x)[0]), x))

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Image N x in_ch x H x W, about -0.5..0.5, to ([matte 1..6] in 0..1 at H x W, [feature map 1..6])."""
        maps = self.features(x)
        logits = [self.get_submodule(head)(features) for head, features in zip(HEADS, maps, strict=True)]
        return [torch.sigmoid(upsample_like(side, x)) for side in logits], maps

    @classmethod
    def _from_pretrained(cls, *, model_id: str, strict: bool = True, **kwargs: Any) -> BriaRMBG:
        # The mixin alone would load non-strictly, which leaves layers random without a word, and would find
        # nothing but model.safetensors in a folder.
        for name in ("model.safetensors", "pytorch_model.bin", "model.pth"):
            if (file := Path(model_id) / name).is_file():
                net = cls(**{key: kwargs[key] for key in ("config", "in_ch", "out_ch") if key in kwargs})
                load = cls._load_as_safetensor if file.suffix == ".safetensors" else cls._load_as_pickle
                return load(net, str(file), kwargs.get("map_location", "cpu"), strict)
        loaded: BriaRMBG = super()._from_pretrained(model_id=model_id, strict=strict, **kwargs)
        return loaded
