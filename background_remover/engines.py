"""Running the network fast on this machine: device, precision, layout, one forward at a time, of several photos' if
they wait for it.

The photo reaches the device as 1024 x 1024 x 3 bytes and the matte comes back as 1024 x 1024 bytes, 4 MB
both ways whatever the photo's size; resizing them on the CPU takes 3 ms each at 12 megapixels, less than
carrying the pixels of the photo to a GPU.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from background_remover.allocator import total_memory
from briarmbg import REBNCONV, BriaRMBG, upsample_like

logger = logging.getLogger(__name__)

SIDE = 1024  # pixels: height and width of what the network was trained on
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# whether an x86 processor computes in it; one that does not takes ten times as long as in fp32, or fails
SUPPORTED: dict[str, Callable[[], bool]] = {
    "fp32": lambda: True,
    "bf16": lambda: bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    "fp16": lambda: bool(torch.ops.mkldnn._is_mkldnn_fp16_supported()),
}
LANES = 8  # photos at most that are worked on at once on a CPU
LANE_MEMORY = 2_000_000_000  # bytes that each of them may need
OVERLAPPING = 3  # photos in hand on another device, so that some are opened and saved while the network has one
TOGETHER = 8  # images at most of one forward there, if so many wait for it
IMAGE_MEMORY = 1_500_000_000  # bytes of a GPU for each of them in fp32, in the graphs of all batches up to theirs
SMALLER = 8  # how many times smaller an image is that shows the network's sizes
MAX_GRAPHS = 4  # CUDA graphs kept, one for each batch size seen: 1, 2, 4 and 8

Pixels = NDArray[np.uint8]
Forward = Callable[[Tensor], Tensor]
Wrapper = Callable[[Forward], Forward]


class EngineError(RuntimeError):
    """The network can't be run here as asked. One sentence: what is wrong and what to do."""


class Engine:
    """The first matte of a network, by the quickest way that this machine has.

    `device` is a torch device's name, `precision` one of PRECISIONS; where they are None, the environment
    variables RMBG_DEVICE and RMBG_PRECISION decide, and without them the machine: CUDA if there, else Apple's
    MPS, else the CPU; half precision where the hardware computes in it. `on_device` decorates the one function
    that touches the device, for hosts that lend a GPU by the call (`spaces.GPU`). `between_steps` is called between
    the blocks of a forward on the CPU, in its caller's thread, and may raise to end it there. The network becomes the
    engine's own. A program that is about running it should call `allocator.keep_freed_memory` first.

    Raises EngineError.
    """

    def __init__(
        self,
        net: BriaRMBG,
        device: str | None = None,
        precision: str | None = None,
        on_device: Wrapper | None = None,
        between_steps: Callable[[], None] = lambda: None,
    ) -> None:
        self.device = _device(device or os.environ.get("RMBG_DEVICE") or None)
        self.precision = _precision(precision or os.environ.get("RMBG_PRECISION") or None, self.device)
        self.net = _Matte(net, PRECISIONS[self.precision])
        self.graphs: dict[int, _Graph] = {}
        self.forward = on_device(self._forward) if on_device else self._forward
        self.lent = self.forward != self._forward
        # A cancelled request's thread runs on, so a queue's limit can't keep two forwards apart. The lock is held
        # on the caller's side, never inside what `on_device` may run in a forked process.
        self.lock = threading.Lock()
        self.threads = torch.get_num_threads()
        self.lane = threading.local()  # how a thread has its forwards done that is one of several
        if self.device.type == "cpu" and not self.lent:  # elsewhere a forward is short, and may be another process's
            for name, block in net.named_children():
                if name.startswith("stage"):
                    block.register_forward_pre_hook(lambda *_: between_steps())
        self._prepare()
        self.joins = self.device.type != "cpu" and not self.lent  # whether images of several threads are one forward
        self.together = _Together(self._alone, _largest_batch(self.device) if self.joins else 1)

    def warm_up(self) -> None:
        """A first forward, which pays for memory and the choice of kernels; none on a device lent by the call."""
        if not self.lent:
            self(np.zeros((1, SIDE, SIDE, 3), np.uint8))

    def _prepare(self) -> None:
        """Put the network on the device, and see whether that can run it; one lent by the call is not here yet."""
        try:
            self.net.to(self.device)
            if self.device.type == "cpu" and not self.lent and _can_pack():
                self.net.pack()
            else:
                self.warm_up()
        except RuntimeError as error:  # torch's own, for an operator that the device lacks and for memory alike
            raise EngineError(
                f"The network can't be run in {self.precision} on {self.device}: set RMBG_PRECISION to another of "
                f"{', '.join(PRECISIONS)}, or RMBG_DEVICE to another device."
            ) from error

    def __str__(self) -> str:
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        elif self.device.type == "cpu":
            name = f"{_cpu().get('cpu_name') or platform.machine()}, {torch.get_num_threads()} threads"
        else:
            name = self.device.type.upper()
        return f"{name}, {self.precision}"

    def __call__(self, images: Pixels) -> Pixels:
        """RGB images N x 1024 x 1024 x 3 to the probability of foreground N x 1024 x 1024, in 1/255."""
        forward = getattr(self.lane, "forward", self._alone)
        return forward(torch.tensor(images)).numpy()

    def _alone(self, images: Tensor) -> Tensor:
        """A forward with none beside it."""
        with self.lock:
            return self.forward(images)

    def split(self, count: int) -> int:
        """How many of so many photos to work on at once.

        On a CPU one for each core, up to LANES: on two cores that gives a seventh more photos a second than one after
        the other with all cores on each, see benchmarks/programs.py. A device of one's own has as many at a time as
        wait for it, and twice as many are in hand, if there are cores to open and save them. On one that is lent only
        what is around the network overlaps.
        """
        if self.lent:
            return min(count, OVERLAPPING)
        most = min(self.threads, total_memory() // LANE_MEMORY)
        if self.joins:
            return min(count, max(OVERLAPPING, min(most, 2 * self.together.most)))
        return max(1, min(count, most, LANES))

    @contextmanager
    def one_of(self, lanes: int) -> Iterator[None]:
        """While it runs, the calling thread is one of so many that work at once, with its share of the cores."""
        if self.lent:
            yield
            return
        if not self.joins:
            torch.set_num_threads(max(1, self.threads // lanes))  # of this thread, and of those started from now on
        self.lane.forward = self.together if self.joins else self.forward
        try:
            yield
        finally:
            del self.lane.forward
            if not self.joins:
                torch.set_num_threads(self.threads)

    def _forward(self, images: Tensor) -> Tensor:
        """Bytes in, bytes out, both on the CPU, since this may run in another process."""
        with torch.inference_mode():
            images = images.to(self.device)
            if self.device.type != "cuda" or self.lent:  # a lent GPU is gone before a graph would pay
                return self.net.forward(images).cpu()
            if len(images) not in self.graphs:
                if len(self.graphs) >= MAX_GRAPHS:
                    self.graphs.clear()
                self.graphs[len(images)] = _Graph(self.net, images)
            return self.graphs[len(images)](images).cpu()


class _Together:
    """One forward for images of several threads: who finds the device free takes along what waits for it.

    No clock is needed: while the device is busy, others come. A batch has `most` images, or the next smaller power of
    two, since a graph is kept for each number that occurs.
    """

    def __init__(self, forward: Forward, most: int) -> None:
        self.most = most
        self._forward = forward
        self._waiting: dict[Future[Tensor], Tensor] = {}  # images, each with its matte to be, in the order they came
        self._changed = threading.Condition()
        self._busy = False

    def __call__(self, image: Tensor) -> Tensor:
        """Image 1 x 1024 x 1024 x 3 to matte 1 x 1024 x 1024. Raises what the forward does that the image was in."""
        mine: Future[Tensor] = Future()
        with self._changed:
            self._waiting[mine] = image
            self._changed.wait_for(lambda: mine.done() or not self._busy)
            if mine.done():
                return mine.result()
            self._busy = True
            size = 1 << (min(self.most, len(self._waiting)).bit_length() - 1)
            others = [matte for matte in self._waiting if matte is not mine]
            batch = {matte: self._waiting.pop(matte) for matte in [mine, *others[: size - 1]]}
        try:
            mattes = self._forward(torch.cat([*batch.values()]))
            for matte, part in zip(batch, torch.split(mattes, [len(image) for image in batch.values()]), strict=True):
                matte.set_result(part)
        except BaseException as error:  # for each of them, or it would wait for ever
            for matte in batch:
                matte.set_exception(error)
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
        return mine.result()


def _largest_batch(device: torch.device) -> int:
    """How many images a forward may have, by what memory there is: a power of two."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else total_memory()
    return 1 << (max(1, min(TOGETHER, free // IMAGE_MEMORY)).bit_length() - 1)


class _Matte(nn.Module):
    """The network for inference: bytes in and out, the trunk in `dtype`, one matte of six.

    In half precision, what moves the matte most is kept from rounding where it costs little: the photo itself in
    the first convolution, the biases, whose rounding shifts a whole feature, and the sixth stage, which sees the
    photo as 16 x 16 and decides what is subject, in 1.6 % of the operations. The weights are rounded so that their
    errors cancel. benchmarks/quality.py measures how far the matte still is from that in fp32.
    """

    stem: nn.Module
    trunk: BriaRMBG

    def __init__(self, net: BriaRMBG, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        net.eval().requires_grad_(False)
        for name, block in net.named_modules():
            if isinstance(block, REBNCONV):
                conv = fuse_conv_bn_eval(block.conv_s1, block.bn_s1)
                block.conv_s1 = _ConvReLU(conv, torch.float32 if name.startswith("stage6.") else dtype)  # type: ignore[assignment]
                block.bn_s1 = block.relu_s1 = nn.Identity()  # type: ignore[assignment]
        net.add_module("stage6", _InFloat(net.get_submodule("stage6")))
        self.stem = net.conv_in.to(memory_format=torch.channels_last)
        net.conv_in = nn.Identity()  # type: ignore[assignment]
        net.get_submodule("side1").to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk = net

    @torch.inference_mode()
    def pack(self) -> None:
        """Lay the weights out for what reaches each convolution, as a forward of a small image shows it.

        All sizes in the network are the image's, halved so many times, so they are in proportion.
        """
        shapes: dict[_ConvReLU, list[int]] = {}
        convs = [module for module in self.modules() if isinstance(module, _ConvReLU)]
        hooks = [
            conv.register_forward_pre_hook(lambda conv, given: shapes.update({conv: list(given[0].shape)}))
            for conv in convs
        ]
        self.forward(torch.zeros((1, SIDE // SMALLER, SIDE // SMALLER, 3), dtype=torch.uint8))
        for hook in hooks:
            hook.remove()
        for conv, shape in shapes.items():
            conv.pack([*shape[:2], shape[2] * SMALLER, shape[3] * SMALLER])

    def forward(self, images: Tensor) -> Tensor:
        image = images.permute(0, 3, 1, 2).float().div_(255).sub_(0.5)  # N x 3 x H x W, channels_last
        features = self.trunk.features(self.stem(image).to(self.dtype))[0]
        matte = torch.sigmoid(upsample_like(self.trunk.get_submodule("side1")(features).float(), image))
        return matte[:, 0].mul_(255).round_().to(torch.uint8)


class _InFloat(nn.Module):
    """A module of fp32 among others."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.float()).to(x.dtype)  # type: ignore[no-any-return]


class _ConvReLU(nn.Module):
    """A convolution with weights in `dtype` and its bias in fp32, and its ReLU."""

    bias: Tensor

    def __init__(self, conv: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        weight = conv.weight if dtype == torch.float32 else _rounded(conv.weight, dtype)
        self.weight = nn.Parameter(weight.contiguous(memory_format=torch.channels_last), requires_grad=False)
        self.bias = conv.bias  # type: ignore[assignment]
        self.padding: list[int] = list(conv.padding)  # type: ignore[arg-type]
        self.stride, self.dilation = list(conv.stride), list(conv.dilation)
        self.packed: Tensor | None = None

    def pack(self, shape: list[int]) -> None:
        """Make it one oneDNN call, with the weights laid out for inputs of `shape`; others are still right.

        PyTorch's own compiler emits the same two operators. In eager mode the weights are laid out anew at every call
        and the ReLU is another pass over memory, together 5 % of the time in bf16 and 9 % in fp32.
        """
        self.packed = torch._C._nn.mkldnn_reorder_conv2d_weight(  # type: ignore[call-arg]
            self.weight.detach().to_mkldnn(), self.padding, self.stride, self.dilation, 1, shape
        )
        del self.weight

    def forward(self, x: Tensor) -> Tensor:
        if self.packed is not None:
            return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
                x, self.packed, self.bias, self.padding, self.stride, self.dilation, 1, "relu", [], ""
            )
        whole = x.dtype == torch.float32
        out = F.conv2d(x, self.weight, self.bias if whole else None, self.stride, self.padding, self.dilation)
        return (out if whole else out.add_(self.bias[:, None, None])).relu_()


def _rounded(weight: Tensor, dtype: torch.dtype, group: int = 36) -> Tensor:
    """Weights out x in x 3 x 3 in half precision, each carrying the rounding error of those before it in its group.

    Features change little from pixel to pixel, so errors that cancel within the nine weights of a channel, and over
    four channels, hardly reach the sum: error diffusion, as in halftoning.
    """
    columns = weight.reshape(-1, group).t().contiguous()
    rounded = torch.empty_like(columns, dtype=dtype)
    error = torch.zeros_like(columns[0])
    for exact, nearest in zip(columns, rounded, strict=True):
        wanted = exact + error
        nearest.copy_(wanted)
        error = wanted - nearest
    return rounded.t().reshape(weight.shape)


class _Graph:
    """A forward recorded once and replayed with a single launch, where batch 1 would wait for 371 of them."""

    def __init__(self, forward: Forward, example: Tensor) -> None:
        self.images = example.clone()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(self.images)
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.mattes = forward(self.images)

    def __call__(self, images: Tensor) -> Tensor:
        self.images.copy_(images)
        self.graph.replay()
        return self.mattes


def _device(name: str | None) -> torch.device:
    if name is None:
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except Exception as error:  # which one depends on the device that is not there
        raise EngineError(f"There is no device '{name}' here: set RMBG_DEVICE to cpu, cuda or mps.") from error
    return device


def _precision(name: str | None, device: torch.device) -> str:
    if name is None:
        if device.type == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        native = device.type == "cpu" and any(_cpu().get(way) for way in ("avx512_bf16", "amx_bf16", "bf16"))
        return "bf16" if native else "fp32"
    if name not in PRECISIONS:
        raise EngineError(f"There is no precision '{name}': set RMBG_PRECISION to one of {', '.join(PRECISIONS)}.")
    if device.type == "cpu" and _is_x86() and not SUPPORTED[name]():
        raise EngineError(f"This processor does not compute in {name}: set RMBG_PRECISION to fp32, or leave it unset.")
    return name


def _cpu() -> dict[str, object]:
    """What torch knows of this processor, nothing before its version 2.11."""
    return dict(getattr(torch.cpu, "get_capabilities", dict)())


def _is_x86() -> bool:
    """Whether oneDNN has its own convolutions here, with which half precision is either fast or forbidden."""
    return platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


def _can_pack() -> bool:
    return (
        _is_x86()
        and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    )
