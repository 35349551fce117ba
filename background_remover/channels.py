"""Which channels a convolution reads, and the dead ones, which are left out: they never get past their ReLU.

Training leaves such channels behind: one that is negative whatever a photo shows gets no gradient any more. What it
gives is 0, and so is all that is made of it, so the matte is the same without it, but for the order of sums.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from briarmbg import DECODER

BLOCK = 16  # channels that a convolution computes at once: it takes as long for one of them as for all
WIDE = 128  # channels: adding to a part of fewer takes PyTorch longer in bf16 than the convolution saves

Dead = dict[str, Tensor]  # masks, bools: of a convolution's channels those that are left out, by its block's name
Channels = dict[str, Tensor]  # numbers of channels, by the modules that give them


def sources(net: nn.Module, name: str) -> list[str]:
    """What a convolution reads, by the modules that give it: one name, or two where they are joined."""
    stage, level = name.split(".rebnconv")
    number = int(stage.removeprefix("stage").removesuffix("d"))
    if level == "in":
        if stage in DECODER:
            return [f"stage{number + 1}d" if f"stage{number + 1}d" in DECODER else f"stage{number + 1}", stage[:-1]]
        return [f"stage{number - 1}" if number > 1 else "conv_in"]
    if level.endswith("d"):
        step = int(level[:-1])
        deepest = step + 1 == net.get_submodule(stage).depth
        return [f"{stage}.rebnconv{step + 1}{'' if deepest else 'd'}", f"{stage}.rebnconv{step}"]
    return [f"{stage}.rebnconv{'in' if level == '1' else int(level) - 1}"]


def find_dead(peaks: Mapping[str, Tensor]) -> Dead:
    """What can be left out, by what each convolution's channels reach at most before the ReLU, over photos.

    Whole blocks of channels, since nothing is gained by less: the farther below 0 one stays, the sooner it is taken.
    Not those of a stage's first convolution, to whose result the last one's is added, nor of a last one that is narrow;
    but for the last of all, whose sum the head makes.
    """
    dead = {}
    for name, peak in peaks.items():
        count = min(int((peak <= 0).sum()) // BLOCK * BLOCK, len(peak) - BLOCK)  # a convolution to nothing is none
        added = name.endswith(".rebnconv1d") and name != "stage1d.rebnconv1d"
        if count > 0 and not name.endswith(".rebnconvin") and not (added and len(peak) < WIDE):
            dead[name] = torch.zeros(len(peak), dtype=torch.bool)
            dead[name][peak.argsort()[:count]] = True
    return dead


def without(dead: Mapping[str, Tensor]) -> Channels:
    """The channels that are left of modules some of whose are dead, in the order in which they then come.

    A stage has as many as before, in another order: those that its last convolution still has come first, so that they
    can be added to these.
    """
    left = {}
    for name, mask in dead.items():
        left[name] = (~mask).nonzero()[:, 0]
        if name.endswith(".rebnconv1d"):
            stage = name.removesuffix(".rebnconv1d")
            left[stage] = left[f"{stage}.rebnconvin"] = torch.cat([left[name], mask.nonzero()[:, 0]])
    return left


def narrowed(conv: nn.Conv2d, name: str, read: list[str], left: Channels) -> nn.Conv2d:
    """A block's convolution, in place: of what is left of what it reads, to what is left of its own channels."""
    if name not in left and not any(source in left for source in read):
        return conv
    each = conv.in_channels // len(read)  # modules that are joined have as many channels
    if name in left:
        conv.weight = nn.Parameter(conv.weight.index_select(0, left[name]), requires_grad=False)
        conv.bias = nn.Parameter(conv.bias[left[name]], requires_grad=False)  # type: ignore[index]
    if any(source in left for source in read):
        columns = [left.get(source, torch.arange(each)) + each * index for index, source in enumerate(read)]
        conv.weight = nn.Parameter(conv.weight.index_select(1, torch.cat(columns)), requires_grad=False)
    conv.out_channels, conv.in_channels = conv.weight.shape[:2]
    return conv


def add_left(deep: Tensor, shortcut: Tensor) -> Tensor:
    """The sum of a stage's two ends, in `shortcut`, where `deep` has no more than what is left of its channels."""
    shortcut[:, : deep.shape[1]].add_(deep)
    return shortcut
