"""Running the network on this machine: device, layout, one forward at a time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from briarmbg import REBNCONV, BriaRMBG

logger = logging.getLogger(__name__)

INPUT_SIZE = (1024, 1024)  # height and width that the network was trained on

Wrapper = Callable[[Callable[[Tensor], Tensor]], Callable[[Tensor], Tensor]]


class Engine:
    """The first matte of a network, by the quickest way that this machine has.

    `device` is a torch device's name; None takes CUDA if there, else Apple's MPS, else the CPU. `on_device`
    decorates the one function that touches the device, for hosts that hand out a GPU by the call
    (`spaces.GPU`). The network becomes the engine's own.
    """

    def __init__(self, net: BriaRMBG, device: str | None = None, on_device: Wrapper | None = None) -> None:
        self.device = torch.device(device or _best_device())
        self.net = _fuse(net).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.forward = on_device(self._forward) if on_device else self._forward
        # A cancelled request's thread runs on, so the queue's own limit can't keep two forwards apart. Held by
        # the caller's side, never by what `on_device` may run in a forked process.
        self.lock = threading.Lock()
        if self.forward == self._forward:  # not where a GPU is lent only for the length of a request
            self(torch.zeros(1, 3, *INPUT_SIZE))  # the first forward pays for allocation and kernel choice

    def __str__(self) -> str:
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type.upper()
        return f"{name}, fp32"

    def __call__(self, image: Tensor) -> Tensor:
        """N x 3 x h x w in -0.5..0.5, on the CPU, to the matte N x 1 x h x w in 0..1, on the CPU in fp32."""
        with self.lock:
            return self.forward(image)

    def _forward(self, image: Tensor) -> Tensor:
        with torch.inference_mode():
            image = image.to(self.device, memory_format=torch.channels_last)
            matte: Tensor = self.net.matte(image)
            return matte.float().cpu()


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _fuse(net: BriaRMBG) -> BriaRMBG:
    """For inference only from here on: each batch norm is folded into the convolution before it."""
    net.eval().requires_grad_(False)
    for block in net.modules():
        if isinstance(block, REBNCONV):
            block.conv_s1 = fuse_conv_bn_eval(block.conv_s1, block.bn_s1)
            block.bn_s1 = nn.Identity()  # type: ignore[assignment]
    return net
