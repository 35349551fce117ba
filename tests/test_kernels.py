"""Triton's kernels: on a GPU as they run there, elsewhere by Triton's interpreter, from the same text."""

from __future__ import annotations

import os

import pytest
import torch
import torch.nn.functional as F

import briarmbg
from background_remover import onednn
from background_remover.engines import _Matte

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # read where kernels are defined
pytest.importorskip("triton")
from background_remover import kernels  # noqa: E402

TYPES = [torch.float32, torch.float16, torch.bfloat16]
FINEST = {torch.float32: 1e-6, torch.float16: 2**-10, torch.bfloat16: 2**-7}  # a step of each, of a value of 1


def new_map(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.to(DEVICE, dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("deep", "skip", "height", "width"), [(16, 64, 5, 8), (512, 256, 2, 3), (32, 16, 1, 1)])
def test_maps_are_enlarged_and_joined_as_in_the_network(dtype, deep, skip, height, width):
    low = new_map(2, deep, height, width, dtype=dtype)
    high = new_map(2, skip, 2 * height, 2 * width, dtype=dtype, seed=1)
    joined = kernels.join(low, high)
    truth = briarmbg.join(low.float(), high.float())
    assert joined.dtype == dtype
    assert joined.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(joined[:, deep:], high)
    assert ((joined.float() - truth).abs() <= FINEST[dtype] * truth.abs().clamp_min(0.5)).all()


def test_maps_of_one_size_are_joined():
    low, high = new_map(2, 16, 4, 4), new_map(2, 32, 4, 4, seed=1)
    assert torch.equal(kernels.join(low, high), torch.cat((low, high), 1))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 16, 6, 10), (1, 512, 2, 2), (3, 64, 32, 32)])
def test_maps_are_halved_by_their_largest_values(dtype, shape):
    x = new_map(*shape, dtype=dtype)
    assert torch.equal(kernels.halve(x), F.max_pool2d(x, 2))


def test_maps_that_lie_otherwise_are_taken_too():
    x, skip = new_map(1, 16, 4, 6), new_map(1, 16, 8, 12, seed=1)
    assert torch.equal(kernels.halve(x.contiguous()), kernels.halve(x))
    assert torch.equal(kernels.join(x.contiguous(), skip.contiguous()), kernels.join(x, skip))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(2, 32, 48, 3), (1, 2, 2, 3)])
def test_patches_are_those_of_the_processors_stem(dtype, shape):
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    truth = onednn.Stem(torch.float32, *shape[1:3])(images)
    assert torch.equal(kernels.patches(images.to(DEVICE), dtype).cpu().float(), truth)


def test_mattes_are_enlarged_probabilities():
    logits = (5 * new_map(2, 8, 16, 12))[:, :1]  # among other channels, as the network's head has them
    assert logits.stride(3) == 8
    truth = 255 * torch.sigmoid(F.interpolate(logits, scale_factor=2, mode="bilinear"))[:, 0]
    assert (kernels.matte(logits).float() - truth).abs().max() <= 0.5001


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 0.01), (torch.float16, 0.05)])
def test_the_network_gives_the_same_mattes_with_them(seeded_net, person, dtype, most):
    """As it is converted for a GPU: patches, weights of the first two convolutions in one, and a wider head."""
    import copy

    import cv2

    image = torch.from_numpy(cv2.resize(person, (128, 128)))[None].to(DEVICE)
    mattes = {}
    with torch.inference_mode():
        for chosen in (None, kernels):
            net = _Matte(copy.deepcopy(seeded_net), torch.float32 if chosen is None else dtype)
            net.convert(chosen)
            mattes[chosen] = net.to(DEVICE).forward(image).float()
    assert mattes[None].std() > 1
    assert (mattes[kernels] - mattes[None]).abs().mean() <= most
