"""Running the network fast on this machine: laid out for it, one forward at a time, of several photos' if they wait.

The photo reaches the device as 1024 x 1024 x 3 bytes and the matte comes back as 1024 x 1024 bytes, 4 MB
both ways whatever the photo's size; resizing them on the CPU takes 3 ms each at 12 megapixels, less than
carrying the pixels of the photo to a GPU.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from background_remover import calibration, quantization
from background_remover.allocator import total_memory
from background_remover.calibration import Calibration
from background_remover.channels import add_left, narrowed, sources, without
from background_remover.decoding import SIDE
from background_remover.hardware import (
    FLOATS,
    PRECISIONS,
    EngineError,
    choose_device,
    choose_precision,
    cpu_name,
    is_x86,
    native_floats,
)
from background_remover.onednn import (
    PATCH,
    ByteConv,
    ByteStem,
    Conv,
    FirstByteConv,
    Head,
    Stem,
    TwoByteConv,
    can_pack,
    halve,
    round_by_diffusion,
    with_stem,
)
from background_remover.quantization import FIRST
from briarmbg import HEADS, REBNCONV, RSU, BriaRMBG, upsample_like

logger = logging.getLogger(__name__)

LANES = 8  # photos at most that are worked on at once on a CPU
LANE_MEMORY = 2_000_000_000  # bytes that each of them may need
OVERLAPPING = 3  # photos in hand on another device, so that some are opened and saved while the network has one
TOGETHER = 8  # images at most of one forward there, if so many wait for it
IMAGE_MEMORY = 1_500_000_000  # bytes of a GPU for each of them in fp32, in the graphs of all batches up to theirs
MAX_GRAPHS = 4  # CUDA graphs kept, one for each batch size seen: 1, 2, 4 and 8

Pixels = NDArray[np.uint8]
Forward = Callable[[Tensor], Tensor]
Wrapper = Callable[[Forward], Forward]


class Engine:
    """The first matte of a network, by the quickest way that this machine has.

    `device` is a torch device's name, `precision` one of PRECISIONS; where they are None, the environment
    variables RMBG_DEVICE and RMBG_PRECISION decide, and without them the machine: CUDA if there, else Apple's
    MPS, else the CPU; half precision where the hardware computes in it, else int8 where it computes in that and it is
    known how far these weights' mattes move, else fp32. `on_device` decorates the one function that touches the device,
    for hosts that lend a GPU by the call (`spaces.GPU`). `between_steps` is called between the blocks of a forward on
    the CPU, in its caller's thread, and may raise to end it there. `samples` gives photos, 1024 x 1024 x 3 each, on
    which weights are measured that are new in int8. The network becomes the engine's own. A program that is about
    running it should call `allocator.keep_freed_memory` first.

    Raises EngineError.
    """

    def __init__(
        self,
        net: BriaRMBG,
        device: str | None = None,
        precision: str | None = None,
        on_device: Wrapper | None = None,
        between_steps: Callable[[], None] = lambda: None,
        *,
        samples: Callable[[], Iterable[Pixels]] = tuple,
    ) -> None:
        self.device = choose_device(device or os.environ.get("RMBG_DEVICE") or None)
        self.forward = on_device(self._forward) if on_device else self._forward
        self.lent = self.forward != self._forward
        known = calibration.shipped(net) if self._packs() else None
        asked = precision or os.environ.get("RMBG_PRECISION") or None
        self.precision = choose_precision(asked, self.device, known=known is not None)
        if self.precision == "int8":
            known = known or self._measured(net, samples)
        self.net = _Matte(net, FLOATS[native_floats() if self.precision == "int8" else self.precision])
        self.graphs: dict[int, _Graph] = {}
        # A cancelled request's thread runs on, so a queue's limit can't keep two forwards apart. The lock is held
        # on the caller's side, never inside what `on_device` may run in a forked process.
        self.lock = threading.Lock()
        self.threads = torch.get_num_threads()
        self.lane = threading.local()  # how a thread has its forwards done that is one of several
        if self.device.type == "cpu" and not self.lent:  # elsewhere a forward is short, and may be another process's
            for name, block in net.named_children():
                if name.startswith("stage"):
                    block.register_forward_pre_hook(lambda *_: between_steps())
        self._prepare(known)
        self.joins = self.device.type != "cpu" and not self.lent  # whether images of several threads are one forward
        self.together = _Together(self._alone, _largest_batch(self.device) if self.joins else 1)

    def warm_up(self) -> None:
        """A first forward, which pays for memory and the choice of kernels; none on a device lent by the call."""
        if not self.lent:
            self(np.zeros((1, SIDE, SIDE, 3), np.uint8))

    def _packs(self) -> bool:
        """Whether the convolutions are oneDNN's, packed."""
        return self.device.type == "cpu" and not self.lent and is_x86() and can_pack()

    def _measured(self, net: BriaRMBG, samples: Callable[[], Iterable[Pixels]]) -> Calibration | None:
        """What packing in int8 needs to know of weights that nothing comes with."""
        try:
            return calibration.calibration_of(net, samples) if self._packs() else None
        except ValueError as error:
            raise EngineError(
                "These weights are new in int8, and there are no photos to measure them on: set RMBG_PRECISION to bf16 "
                "or fp32."
            ) from error

    def _prepare(self, known: Calibration | None) -> None:
        """Put the network on the device, and see whether that can run it; one lent by the call is not here yet."""
        try:
            if self._packs():
                self.net.pack(known, eight_bits=self.precision == "int8")
            else:
                # Each process on a device that is lent would have to compile anew.
                self.net.convert(None if self.lent else _kernels(self.device, self.net.dtype))
                self.net.to(self.device)
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
            name = f"{cpu_name()}, {torch.get_num_threads()} threads"
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

        On a CPU one for each core, up to LANES: on two cores that gives a tenth more photos a second than one after
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
            if self.device.type != "cuda" or self.lent:  # a lent GPU is gone before a graph would pay
                return self.net.forward(images.to(self.device)).cpu()
            with torch.cuda.device(self.device):
                if len(images) not in self.graphs:
                    if len(self.graphs) >= MAX_GRAPHS:
                        self.graphs.clear()
                    self.graphs[len(images)] = _Graph(self.net, images, self.device)
                return self.graphs[len(images)](images)


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
    free = total_memory()
    if device.type == "cuda":
        left, whole = torch.cuda.mem_get_info(device)
        free = min(left, int(whole * torch.cuda.get_per_process_memory_fraction()))  # others may share it
    return 1 << (max(1, min(TOGETHER, free // IMAGE_MEMORY)).bit_length() - 1)


class _Matte(nn.Module):
    """The network for inference: bytes in and out, the trunk in `dtype`, one matte of six.

    In half precision, what moves the matte most is kept from rounding where it costs little: the photo itself in
    the first convolution, and the biases, whose rounding shifts a whole feature (on a GPU see `_ConvReLU`). The
    weights are rounded so that their errors cancel. benchmarks/quality.py measures how far the matte still is from
    that in fp32.
    """

    trunk: BriaRMBG

    def __init__(self, net: BriaRMBG, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.kernels: ModuleType | None = None  # background_remover.kernels, where they run
        net.eval().requires_grad_(False)
        self.first = net.conv_in
        self.stem: nn.Module = _Stem(self.first)
        net.conv_in = nn.Identity()  # type: ignore[assignment]
        self.trunk = net

    def convert(self, kernels: ModuleType | None = None) -> None:
        """Put the weights into `dtype`; with `kernels`, put those in place of what lies between the convolutions."""
        self.kernels = kernels
        for name, block in self.trunk.named_modules():
            if isinstance(block, REBNCONV):
                conv, patches = _folded(block), kernels is not None and name == FIRST
                weight = (
                    with_stem(conv.weight, self.first, self.dtype) if patches else _rounded(conv.weight, self.dtype)
                )
                block.conv_s1 = _ConvReLU(conv, weight)  # type: ignore[assignment]
                block.relu_s1 = nn.Identity()  # type: ignore[assignment]
                block.join = kernels.join if kernels else block.join
            elif isinstance(block, RSU | BriaRMBG):
                block.halve = kernels.halve if kernels else block.halve
        head = self.trunk.get_submodule("side1").to(dtype=self.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trunk.add_module("side1", _Head(head) if kernels else head)

    @torch.inference_mode()
    def pack(self, known: Calibration | None = None, *, eight_bits: bool = False) -> None:
        """Put quicker ones in place of the convolutions, laid out for the shapes that reach them.

        What is known to be dead is left out. With `eight_bits`, some of them compute in these, see `quantization`.
        """
        names = [name for name, block in self.trunk.named_modules() if isinstance(block, REBNCONV)]
        chosen, wider = quantization.chosen(self.dtype) if eight_bits else ([], [])
        closed = quantization.only_bytes(self.trunk, chosen)
        known = known or Calibration({}, {})
        left = without(known.dead)
        rates = {name: values[left[name]] if name in left else values for name, values in known.rates.items()}
        self.stem = ByteStem(SIDE, SIDE) if FIRST in chosen else Stem(self.dtype, SIDE, SIDE)
        for name in names:  # one by one, so that what a block needs meanwhile is room for the next one's
            read, side = sources(self.trunk, name), _side(self.trunk, name)
            conv = narrowed(_folded(self.trunk.get_submodule(name)), name, read, left)  # type: ignore[arg-type]
            shape = [1, conv.in_channels, side, side]
            packed: nn.Module
            if name == FIRST:
                shape[1] = PATCH
                if name in chosen:
                    packed = FirstByteConv(conv, self.first, shape, self.dtype)
                else:
                    packed = Conv(conv, with_stem(conv.weight, self.first, self.dtype), shape)
            elif name in wider:
                packed = TwoByteConv(conv, shape, torch.cat([rates[source] for source in read]))
            elif name in chosen:
                out = rates[name] if name in closed else None
                packed = ByteConv(conv, shape, torch.cat([rates[source] for source in read]), self.dtype, out)
            else:
                packed = Conv(conv, _rounded(conv.weight, self.dtype), shape)
            parent, _, child = name.rpartition(".")
            self.trunk.get_submodule(parent).add_module(child, packed)
        for module in self.trunk.modules():
            if isinstance(module, RSU | BriaRMBG):
                module.halve = halve
            if isinstance(module, RSU):
                module.add = add_left
        # The last sum is the head's.
        self.trunk.get_submodule("stage1d").add = lambda deep, shortcut: (shortcut, deep)  # type: ignore[assignment]
        head = narrowed(self.trunk.get_submodule("side1"), "side1", ["stage1d"], left)  # type: ignore[arg-type]
        channels = HEADS["side1"], len(left.get("stage1d.rebnconv1d", range(HEADS["side1"])))
        shapes = [1, channels[0], SIDE // 2, SIDE // 2], [1, channels[1], SIDE // 2, SIDE // 2]
        self.trunk.add_module("side1", Head(head, shapes, self.dtype))

    def forward(self, images: Tensor) -> Tensor:
        x = self.kernels.patches(images, self.dtype) if self.kernels else self.stem(images)
        logits = self.trunk.get_submodule("side1")(self.trunk.features(x)[0])
        if self.kernels:
            return self.kernels.matte(logits)  # type: ignore[no-any-return]
        matte = torch.sigmoid(upsample_like(logits.float(), images.permute(0, 3, 1, 2)))
        return matte[:, 0].mul_(255).round_().to(torch.uint8)


def _folded(block: REBNCONV) -> nn.Conv2d:
    """A block's convolution, into which its normalisation goes in place, as a factor and a bias for each channel."""
    conv, norm = block.conv_s1, block.bn_s1
    block.bn_s1 = nn.Identity()  # type: ignore[assignment]
    statistics = norm.running_mean, norm.running_var, norm.eps
    conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics, norm.weight, norm.bias)  # type: ignore[arg-type]
    return conv


def _side(net: BriaRMBG, name: str) -> int:
    """Height and width of what a block sees of an image of SIDE: halved for each stage, and in it with its levels."""
    stage, level = name.split(".rebnconv")
    block, halvings = net.get_submodule(stage), int(stage.removeprefix("stage").removesuffix("d"))
    if block.pool and level != "in":
        halvings += min(int(level.removesuffix("d")), block.depth - 1) - 1  # type: ignore[operator]
    return SIDE >> halvings


class _Stem(nn.Module):
    """The first convolution, of the photo itself, which is not rounded: N x H x W x 3 bytes."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        image = images.permute(0, 3, 1, 2).float().div_(255).sub_(0.5)  # channels_last
        return self.conv(image)  # type: ignore[no-any-return]


class _ConvReLU(nn.Module):
    """A convolution with other weights, whose type it has, and its ReLU. The bias stays in fp32, but in cuDNN's one
    call for all three it has the weights' type: in fp16 that moves the matte by less than bf16's rounding does.
    """

    def __init__(self, conv: nn.Conv2d, weight: Tensor) -> None:
        super().__init__()
        laid_out = weight.detach().contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(laid_out, requires_grad=False)
        self.bias = conv.bias
        self.rounded_bias = nn.Parameter(conv.bias.detach().to(weight.dtype), requires_grad=False)  # type: ignore[union-attr]
        self.way: tuple[Any, ...] = conv.stride, conv.padding, conv.dilation

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.weight.dtype)
        if x.is_cuda and torch.version.hip is None:
            return torch.cudnn_convolution_relu(x, self.weight, self.rounded_bias, *self.way, 1)  # type: ignore[call-arg]
        whole = self.weight.dtype == torch.float32
        out = F.conv2d(x, self.weight, self.bias if whole else None, *self.way)
        return (out if whole else out.add_(self.bias[:, None, None])).relu_()  # type: ignore[index]


class _Head(nn.Module):
    """The last convolution, to 8 channels of which the first counts: to fewer, cuDNN copies what it reads."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = torch.zeros(8, *conv.weight.shape[1:]), torch.zeros(8)
        weight[:1], bias[:1] = conv.weight, conv.bias  # type: ignore[assignment]
        laid_out = weight.to(conv.weight.dtype).contiguous(memory_format=torch.channels_last)
        self.weight = nn.Parameter(laid_out, requires_grad=False)
        self.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        wide = F.conv2d(x, self.weight, self.bias, padding=1)
        return wide.contiguous(memory_format=torch.channels_last)[:, :1]  # as it is already by cuDNN


def _rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight if dtype == torch.float32 else round_by_diffusion(weight, dtype)


class _Graph:
    """A forward recorded once and replayed with a single launch, where batch 1 would wait for hundreds of them."""

    def __init__(self, forward: Forward, images: Tensor, device: torch.device) -> None:
        self.images = images.pin_memory()  # the only memory that a GPU reads by itself
        self.mattes = torch.empty(images.shape[:3], dtype=torch.uint8, pin_memory=True)
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                forward(images.to(device))
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            mattes = forward(self.images.to(device, non_blocking=True))
            self.mattes.copy_(mattes, non_blocking=True)

    def __call__(self, images: Tensor) -> Tensor:
        self.images.copy_(images)
        self.graph.replay()
        torch.cuda.current_stream().synchronize()
        return self.mattes.clone()


def _kernels(device: torch.device, dtype: torch.dtype) -> ModuleType | None:
    """Those for a GPU, if Triton can compile them: it needs a C compiler, and is not wherever PyTorch is."""
    if device.type != "cuda":
        return None
    try:
        from background_remover import kernels  # imports Triton, which takes a second

        with torch.cuda.device(device):
            patches = kernels.patches(torch.zeros((1, 4, 4, 3), dtype=torch.uint8, device=device), dtype)
            kernels.matte(kernels.join(kernels.halve(patches), patches))
    except Exception as error:  # Triton has several kinds
        logger.warning("Triton can't compile here, so the network takes half as long again or more: %s", error)
        return None
    return kernels
