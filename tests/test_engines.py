"""The fast ways of running the network against the plain network in fp32."""

import copy
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers import EXAMPLES, ROOT
from torch import nn

import background_remover
from background_remover import engines, hardware, onednn, weights
from background_remover.engines import SIDE, Engine
from background_remover.hardware import EngineError
from background_remover.photos import open_photo
from briarmbg import BriaRMBG
from utilities import shrink

pytestmark = pytest.mark.slow

VIEWED = ("cat.jpg", "coffee.jpg", "dandelion.jpg", "drawing.png", "person.jpg")

# Where the processor does not compute in it, a forward takes 20 s, and the engine refuses.
needs_bf16 = pytest.mark.skipif(not hardware.SUPPORTED["bf16"](), reason="needs a processor that computes in bf16")


def new_net() -> BriaRMBG:
    net = BriaRMBG()
    net.load_state_dict(weights.load(weights.ISNET).state_dict)
    return net


@pytest.fixture(scope="module")
def views() -> np.ndarray:
    """Twenty different views of five of the example photos, N x 1024 x 1024 x 3."""
    photos = [open_photo(EXAMPLES / name).rgb for name in VIEWED]
    mirrored = [rgb[:, ::-1] for rgb in photos]
    turned = [rgb.swapaxes(0, 1) for rgb in photos]
    dark = [rgb // 2 for rgb in photos]
    return np.stack([shrink(np.ascontiguousarray(rgb), SIDE) for rgb in photos + mirrored + turned + dark])


@pytest.fixture(scope="module")
def truth(isnet_net, views) -> np.ndarray:
    with torch.inference_mode():
        wanted = views if hardware.SUPPORTED["bf16"]() else views[:5]  # all of them only for the tests of bf16
        images = (torch.tensor(image[None]).permute(0, 3, 1, 2) / 255 - 0.5 for image in wanted)
        return np.concatenate([isnet_net.matte(image)[0].numpy() * 255 for image in images])


def test_fp32_is_the_plain_network_to_the_nearest_level(views, truth):
    engine = Engine(new_net(), "cpu", "fp32")
    for view, matte in zip(views[:5], truth, strict=False):
        assert np.abs(engine(view[None])[0] - matte).max() <= 0.51


@needs_bf16
def test_bf16_moves_the_matte_by_less_than_anyone_sees(views, truth):
    """At most 0.1 of 255 in the median photo and 0.5 in the worst, beyond the rounding to whole levels."""
    engine = Engine(new_net(), "cpu", "bf16")
    moved = [np.abs(engine(view[None])[0] - np.rint(matte)).mean() for view, matte in zip(views, truth, strict=True)]
    assert len(moved) == 20
    assert np.median(moved) <= 0.1
    assert max(moved) <= 0.5


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(new_net(), "cpu")


def test_a_batch_is_its_images(engine, views):
    batch = engine(views[:3])
    assert batch.shape == (3, SIDE, SIDE)
    assert batch.dtype == np.uint8
    for image, matte in zip(views, batch, strict=False):
        assert np.abs(engine(image[None])[0].astype(int) - matte).max() <= 3


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
@pytest.mark.parametrize("dilation", [1, 2, 8])
def test_a_convolution_with_its_relu_is_exact_at_any_size(dtype, dilation, pack):
    if pack and not onednn.can_pack():
        pytest.skip("no oneDNN here")
    torch.manual_seed(0)
    conv = nn.Conv2d(32, 48, 3, padding=dilation, dilation=dilation).requires_grad_(False)
    conv.bias += 5.01  # which bf16 can't hold: it has 5.0 and 5.03
    plain = engines._ConvReLU(conv, engines._rounded(conv.weight, dtype))
    weight = plain.weight.double()
    assert plain.weight.dtype == dtype
    shapes = [(1, 32, 40, 24), (2, 32, 17, 9), (1, 32, 1, 1)]
    ours = onednn.Conv(conv, plain.weight, list(shapes[0])) if pack else plain
    for shape in shapes:
        x = torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)
        exact = torch.relu(
            nn.functional.conv2d(x.double(), weight, conv.bias.double(), padding=dilation, dilation=dilation)
        )
        moved = ours(x).double() - exact
        assert moved.abs().max() < (1e-4 if dtype == torch.float32 else 0.05)
        if moved.numel() > 10_000:  # rounding to bf16 moves each by up to 0.02, but not all together
            assert moved.mean().abs() < 2e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounded_weights_keep_the_sums_of_their_groups(dtype):
    weight = torch.tensor(np.random.default_rng(0).normal(0, 0.1, (16, 32, 3, 3)), dtype=torch.float32)
    rounded = engines._rounded(weight, dtype)
    assert rounded.dtype == dtype
    step = torch.finfo(dtype).eps * weight.abs().clamp(min=1e-3)
    assert ((rounded - weight).abs() <= 2 * step.max()).all()

    def worst(weights: torch.Tensor) -> float:
        return float((weights.double() - weight.double()).view(16, 8, 36).sum(2).abs().max())

    assert worst(rounded) < 0.3 * worst(weight.to(dtype))


@pytest.mark.parametrize("way", ["convert", "pack"])
def test_normalisations_are_folded_in_and_not_left_out(seeded_net, way):
    """IS-Net's come folded, and are but identities; those of the seeded network are not."""
    image = torch.tensor(np.random.default_rng(5).integers(0, 256, (1, 256, 256, 3), dtype=np.uint8))
    folded = engines._Matte(copy.deepcopy(seeded_net), torch.float32)
    getattr(folded, way)()
    with torch.inference_mode():
        matte = seeded_net.matte(image.permute(0, 3, 1, 2) / 255 - 0.5)[:, 0] * 255
        assert matte.std() > 1
        assert (folded.forward(image) - matte).abs().max() <= 0.51


def test_without_packing_fp32_is_the_same(views, truth, monkeypatch):
    monkeypatch.setattr(engines, "can_pack", lambda: False)
    plain = Engine(new_net(), "cpu", "fp32")
    assert np.abs(plain(views[:1])[0] - truth[0]).max() <= 0.51


@needs_bf16
def test_without_packing_bf16_is_as_near(views, truth, monkeypatch):
    monkeypatch.setattr(engines, "can_pack", lambda: False)
    plain = Engine(new_net(), "cpu", "bf16")
    moved = [
        np.abs(plain(view[None])[0] - np.rint(matte)).mean() for view, matte in zip(views[:5], truth, strict=False)
    ]
    assert max(moved) <= 0.3


def test_a_forward_changes_nothing_in_the_network(engine):
    """Weights are laid out when they are loaded, not by whoever comes first."""

    def state() -> list[tuple[str, int]]:
        return [
            (f"{name}.{key}", id(value))
            for name, module in engine.net.named_modules()
            for key, value in sorted((vars(module) | module._parameters).items())
        ]

    before = state()
    assert any(isinstance(module, engines._ConvReLU) for module in engine.net.modules()) != onednn.can_pack()
    engine(np.zeros((1, SIDE, SIDE, 3), np.uint8))
    assert state() == before


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_on_a_cpu_works_or_is_one_sentence(precision):
    if hardware.SUPPORTED[precision]():
        engine = Engine(new_net(), "cpu", precision)
        assert engine(np.zeros((1, SIDE, SIDE, 3), np.uint8)).max() < 128
    elif hardware.is_x86():
        with pytest.raises(EngineError, match=r"^[^.]*RMBG_PRECISION[^.]*\.$"):
            Engine(new_net(), "cpu", precision)


@pytest.mark.parametrize("packed", [True, False])
def test_what_the_device_can_not_run_is_one_sentence(monkeypatch, packed):
    """Seen where the weights are laid out, and by a forward where they are not."""

    def fail(*_: object) -> None:
        raise RuntimeError("not implemented for 'Half'")

    if packed:
        monkeypatch.setattr(engines, "Conv", fail)
    monkeypatch.setattr(engines, "can_pack", lambda: packed)
    monkeypatch.setattr(BriaRMBG, "features", fail)
    with pytest.raises(EngineError, match="can't be run in fp32 on cpu") as caught:
        Engine(BriaRMBG(), "cpu", "fp32")
    assert "Half" not in str(caught.value)


def test_empty_variables_are_none_at_all(monkeypatch):
    monkeypatch.setenv("RMBG_DEVICE", "")
    monkeypatch.setenv("RMBG_PRECISION", "")
    assert Engine(new_net()).precision in hardware.PRECISIONS


def test_it_says_what_it_picked_and_obeys_the_environment(engine, monkeypatch):
    assert str(engine).endswith(engine.precision)
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text() and not any(map(os.environ.get, hardware.LIMITS)):
        assert engine.precision == "bf16"
    monkeypatch.setenv("RMBG_DEVICE", "cpu")
    monkeypatch.setenv("RMBG_PRECISION", "fp32")
    forced = Engine(new_net())
    assert (forced.device.type, forced.precision) == ("cpu", "fp32")


@pytest.mark.parametrize(
    ("device", "precision", "word"), [("nonsense", None, "RMBG_DEVICE"), ("cpu", "int3", "RMBG_PRECISION")]
)
def test_what_cannot_be_is_told_in_a_sentence(device, precision, word):
    with pytest.raises(EngineError, match=word):
        Engine(BriaRMBG(), device, precision)


def test_the_app_ends_with_that_sentence():
    environment = os.environ | {"RMBG_DEVICE": "nonsense", "RMBG_WEIGHTS": weights.ISNET}
    command = [sys.executable, "app.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "There is no device 'nonsense'" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_one_forward_runs_at_a_time_on_a_device_lent_by_the_call():
    running, most, calls = [], [], []

    def lend(forward):
        def lent(images):
            running.append(threading.get_ident())
            most.append(len(running))
            calls.append(images.device.type)
            time.sleep(0.05)
            running.pop()
            return forward(images)

        return lent

    engine = Engine(new_net(), "cpu", on_device=lend)
    assert calls == []  # no warm-up before the first request
    blank = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(engine, [blank] * 3))
    assert calls == ["cpu"] * 3
    assert max(most) == 1


def test_without_triton_a_gpu_has_pytorchs_operators(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "background_remover.kernels", None)  # an ImportError
    monkeypatch.delattr(background_remover, "kernels", raising=False)
    assert engines._kernels(torch.device("cuda"), torch.float16) is None
    (record,) = caplog.records
    assert record.message.startswith("Triton can't compile here")
    assert engines._kernels(torch.device("cpu"), torch.float16) is None
    assert len(caplog.records) == 1


def test_a_gpu_computes_in_fp16():
    assert hardware.choose_precision(None, torch.device("cuda")) == "fp16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_cuda_graphs_give_the_plain_networks_mattes(views, truth, precision):
    engine = Engine(new_net(), "cuda", precision)
    for batch in (1, 4, 1):
        moved = np.abs(engine(views[:batch]).astype(float) - truth[:batch]).mean((1, 2))
        assert moved.max() <= 0.8


def test_the_sizes_that_are_worked_out_are_those_of_a_forward(seeded_net, monkeypatch):
    """By which the weights are laid out: those of a real forward, layer by layer."""
    packed: dict[nn.Module, list[int]] = {}

    class Conv(onednn.Conv):
        def __init__(self, conv: nn.Conv2d, weight: torch.Tensor, shape: list[int]) -> None:
            super().__init__(conv, weight, shape)
            packed[self] = shape

    monkeypatch.setattr(engines, "Conv", Conv)
    net = engines._Matte(copy.deepcopy(seeded_net), torch.float32)
    net.pack()
    seen: dict[nn.Module, list[int]] = {}

    def record(conv: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        *deep, last = (tensor for tensor in given if tensor is not None)
        seen[conv] = [1, last.shape[1] + sum(tensor.shape[1] for tensor in deep), *last.shape[2:]]

    for module in packed:
        module.register_forward_pre_hook(record)
    with torch.inference_mode():
        net.forward(torch.zeros((1, engines.SIDE, engines.SIDE, 3), dtype=torch.uint8))
    assert packed == seen
    assert len(seen) > 100


def test_photos_share_the_cores_and_give_the_same_mattes(remover, person):
    """Two at once, each with its share of the threads; afterwards all is as before."""
    engine, threads = remover.engine, torch.get_num_threads()
    lanes = engine.split(2)
    assert engine.split(1) == 1
    assert 1 <= lanes <= 2
    small = cv2.resize(person, (engines.SIDE, engines.SIDE))[np.newaxis]
    expected, found = engine(small), []

    def work() -> None:
        with engine.one_of(lanes):
            found.append((engine(small), torch.get_num_threads()))
        found.append((engine(small), torch.get_num_threads()))

    workers = [threading.Thread(target=work) for _ in range(lanes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {count for _, count in found} == {max(1, threads // lanes), threads}
    assert all(np.array_equal(matte, expected) for matte, _ in found)
    assert torch.get_num_threads() == threads


# --- images of several threads, as on a GPU ---


@pytest.fixture
def joining(seeded_net, monkeypatch) -> Engine:
    """An engine that does as on a GPU, but copies slowly; `sizes` are those of its forwards."""

    def forward(images: torch.Tensor) -> torch.Tensor:
        engine.sizes.append(len(images))
        time.sleep(0.02)
        if (images[:, 0, 0, 0] == 255).any():
            raise RuntimeError("the device fails")
        return images[..., 1]

    monkeypatch.setattr(engines, "can_pack", lambda: True)
    monkeypatch.setattr(engines._Matte, "pack", lambda *_, **__: None)
    engine = Engine(copy.deepcopy(seeded_net), "cpu", "fp32")
    engine.joins, engine.together.most, engine.sizes, engine.forward = True, engines.TOGETHER, [], forward
    return engine


def ask_together(engine: Engine, images: list[np.ndarray]) -> list[np.ndarray | BaseException]:
    """The mattes of images, each asked for by a thread of its own, or what is raised."""

    def work(image: np.ndarray) -> np.ndarray | BaseException:
        with engine.one_of(len(images)):
            try:
                return engine(image[np.newaxis])[0]
            except RuntimeError as error:
                return error

    with ThreadPoolExecutor(len(images)) as pool:
        return list(pool.map(work, images))


def test_what_waits_for_a_device_is_one_forward_and_each_has_its_own_matte(joining):
    images = [np.full((4, 4, 3), number, np.uint8) for number in range(60)]
    for image, matte in zip(images, ask_together(joining, images), strict=True):
        assert np.array_equal(matte, image[..., 1])
    assert sum(joining.sizes) == 60
    assert set(joining.sizes) <= {1, 2, 4, 8}
    assert max(joining.sizes) == engines.TOGETHER
    assert len(joining.sizes) < 20


@pytest.mark.parametrize("most", [1, 2, 4])
def test_a_forward_has_no_more_images_than_the_device_has_memory_for(joining, most):
    joining.together.most = most
    ask_together(joining, [np.zeros((4, 4, 3), np.uint8)] * 20)
    assert max(joining.sizes) == most


def test_one_image_waits_for_no_other(joining):
    start = time.monotonic()
    ask_together(joining, [np.zeros((4, 4, 3), np.uint8)])
    assert time.monotonic() - start < 1
    assert joining.sizes == [1]


def test_a_forward_that_fails_fails_for_those_in_it_and_nobody_else(joining):
    images = [np.full((4, 4, 3), 255 if number == 11 else number, np.uint8) for number in range(40)]
    found = ask_together(joining, images)
    failed = [number for number, matte in enumerate(found) if isinstance(matte, RuntimeError)]
    assert 11 in failed
    assert len(failed) in (1, 2, 4, 8)
    assert sum(joining.sizes) == 40
    assert all(np.array_equal(found[number], images[number][..., 1]) for number in set(range(40)) - {*failed})
    assert np.array_equal(ask_together(joining, images[:1])[0], images[0][..., 1])


def test_many_threads_with_many_images_each_all_end(joining):
    def work(thread: int) -> bool:
        with joining.one_of(24):
            images = [np.full((1, 2, 2, 3), (7 * thread + number) % 255, np.uint8) for number in range(20)]
            return all(np.array_equal(joining(image), image[..., 1]) for image in images)

    with ThreadPoolExecutor(24) as pool:
        assert all(pool.map(work, range(24), timeout=60))
    assert sum(joining.sizes) == 24 * 20
    assert set(joining.sizes) <= {1, 2, 4, 8}


def test_whoever_is_not_one_of_several_has_a_forward_of_its_own(joining):
    images = [np.full((1, 4, 4, 3), number, np.uint8) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        assert all(map(np.array_equal, pool.map(joining, images), (image[..., 1] for image in images)))
    assert joining.sizes == [1] * 6


def test_a_batch_that_one_thread_brings_comes_back_whole(joining):
    images = np.arange(3 * 4 * 4 * 3, dtype=np.uint8).reshape(3, 4, 4, 3)
    with joining.one_of(2):
        assert np.array_equal(joining(images), images[..., 1])


def test_mattes_of_the_network_are_the_same_together(engine, views, monkeypatch):
    alone = [engine(view[None])[0].astype(int) for view in views[:3]]
    monkeypatch.setattr(engine, "joins", True)
    monkeypatch.setattr(engine.together, "most", 2)
    for matte, truth in zip(ask_together(engine, [*views[:3]]), alone, strict=True):
        assert np.abs(matte - truth).max() <= 3


@pytest.mark.parametrize(
    ("photos", "given"),
    [(16, (16, 100, 8)), (16, (64, 100, 8)), (8, (16, 100, 4)), (6, (6, 100, 8)), (5, (16, 10, 8)), (3, (1, 1, 8))],
)
def test_a_device_of_ones_own_has_photos_at_hand_for_two_forwards(joining, monkeypatch, photos, given):
    """If there are the cores and the gigabytes for them."""
    joining.threads, gigabytes, joining.together.most = given
    monkeypatch.setattr(engines, "total_memory", lambda: gigabytes * 10**9)
    assert joining.split(1000) == photos
    assert joining.split(2) == 2
    joining.lent = True
    assert joining.split(1000) == engines.OVERLAPPING


def test_the_memory_of_a_gpu_says_how_many_images_a_forward_has(monkeypatch):
    found = {}
    for gigabytes in (1, 2, 4, 8, 16, 80):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=gigabytes * 10**9: (free, 80 * 10**9))
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: 1.0)
        found[gigabytes] = engines._largest_batch(torch.device("cuda"))
    assert found == {1: 1, 2: 1, 4: 2, 8: 4, 16: 8, 80: 8}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (8 * 10**9, 8 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda: 0.5)
    assert engines._largest_batch(torch.device("cuda")) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_photos_of_several_threads_share_a_gpus_forwards(views, truth):
    engine = Engine(new_net(), "cuda")
    for matte, wanted in zip(ask_together(engine, [*views[:5]] * 4), [*truth[:5]] * 4, strict=True):
        assert np.abs(matte.astype(float) - wanted).mean() <= 0.8
    assert set(engine.graphs) <= {1, 2, 4, 8}
