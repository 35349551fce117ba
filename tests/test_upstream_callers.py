"""The network under the programs that were written around upstream's: a pipeline of transformers, IC-Light."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import PERSON, card_matte, pixels
from PIL import Image

from briarmbg import BriaRMBG
from utilities import postprocess_image, preprocess_image

SMALL = [128, 128]  # a size of the network's input at which a forward takes little of the time of one at 1024 x 1024


pytestmark = pytest.mark.slow  # transformers alone takes seconds to import, which only the tests themselves do


def rmbg_pipe(**kwargs):
    from rmbg_pipe import RMBGPipe

    return RMBGPipe(**kwargs)


def pipe_by_task(net: BriaRMBG):
    from rmbg_pipe import RMBGPipe
    from transformers import pipeline

    return pipeline("image-segmentation", model=net, pipeline_class=RMBGPipe)


@pytest.fixture
def net(seeded_net) -> BriaRMBG:
    """A copy of the seeded network, since a pipeline moves its model; in training mode, which the pipeline ends."""
    return copy.deepcopy(seeded_net).train()


@pytest.fixture(scope="module")
def small_mask(seeded_net, person) -> np.ndarray:
    """What there is to expect of PERSON at SMALL."""
    with torch.no_grad():
        return postprocess_image(seeded_net(preprocess_image(person, SMALL))[0][0], person.shape[:2])


def test_a_pipeline_gives_the_cards_matte(net, seeded_net, person):
    mask = rmbg_pipe(model=net, device="cpu")(str(PERSON), return_mask=True)
    assert mask.mode == "L"
    assert np.array_equal(mask, card_matte(seeded_net, person))


@pytest.mark.parametrize(
    "make",
    [
        lambda net: rmbg_pipe(model=net),
        lambda net: rmbg_pipe(model=net, device="cpu"),
        lambda net: rmbg_pipe(model=net, device=torch.device("cpu")),
        lambda net: rmbg_pipe(model=net, device=-1),  # wherever the model is
        pipe_by_task,
    ],
)
def test_every_way_to_make_a_pipeline_works(net, small_mask, make):
    pipe = make(net)
    assert not net.training
    assert net.device == pipe.device
    assert pipe.dtype == torch.float32
    mask = pipe(Image.open(PERSON), return_mask=True, model_input_size=SMALL)
    assert np.abs(np.asarray(mask).astype(int) - small_mask).mean() < 1  # 0 on a CPU


def test_a_pipeline_takes_lists_of_photos_of_any_size(net, small_mask, monkeypatch):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")  # transformers sets it for good where it isn't
    pipe = rmbg_pipe(model=net, device="cpu", model_input_size=SMALL, return_mask=True)
    part = Image.open(PERSON).crop((0, 0, 300, 200))
    first, second = pipe([part, str(PERSON)])
    assert first.size == part.size
    assert np.array_equal(first, pipe(part))
    assert np.array_equal(second, small_mask)


def test_a_pipeline_cuts_out_and_saves_where_it_is_told(net, person, small_mask, tmp_path):
    pipe = rmbg_pipe(model=net, device="cpu", model_input_size=SMALL)
    cutout = pipe(str(PERSON), out_name=str(tmp_path / "cutout.png"))
    rgba = pixels(tmp_path / "cutout.png")
    assert np.array_equal(rgba, cutout)
    opaque = small_mask == 255
    assert opaque.any()
    assert np.array_equal(rgba[opaque, :3], person[opaque])
    assert not rgba[small_mask == 0].any()


def test_a_pipelines_forward_keeps_upstreams_outputs_and_no_gradients(net):
    pipe = rmbg_pipe(model=net, device="cpu")
    mattes, features = pipe.forward(pipe.preprocess(str(PERSON), SMALL))["result"]
    assert all(matte.shape == (1, 1, *SMALL) for matte in mattes)
    assert len(mattes) == len(features) == 6
    assert not any(tensor.requires_grad for tensor in (*mattes, *features))


def test_a_pipeline_saves_what_from_pretrained_reads(net, small_mask, tmp_path):
    rmbg_pipe(model=net, device="cpu").save_pretrained(tmp_path)
    pipe = rmbg_pipe(model=BriaRMBG.from_pretrained(tmp_path), device="cpu", model_input_size=SMALL)
    assert np.array_equal(pipe(str(PERSON), return_mask=True), small_mask)


def test_a_pipeline_moves_the_network_to_its_device():
    net = BriaRMBG()
    pipe = rmbg_pipe(model=net, device="meta")  # another device that every machine has
    assert net.device == pipe.device == torch.device("meta")


def test_a_pipeline_can_be_printed(net):
    shown = repr(rmbg_pipe(model=net, device="cpu"))
    assert all(word in shown for word in ("BriaRMBG", "float32", "cpu", "image"))


def test_device_and_dtype_are_those_of_the_weights():
    net = BriaRMBG()
    assert (net.device, net.dtype) == (torch.device("cpu"), torch.float32)
    net.to(device="meta", dtype=torch.float16)
    assert (net.device, net.dtype) == (torch.device("meta"), torch.float16)


def test_ic_lights_way_of_calling_works(seeded_net, tmp_path):
    """From a folder, moved by device and dtype, fed multiples of 64 around 256 x 256 in 0..1, resized by the caller."""
    seeded_net.save_pretrained(tmp_path)
    net = BriaRMBG.from_pretrained(str(tmp_path)).to(device=torch.device("cpu"), dtype=torch.float32)
    with torch.inference_mode():
        alpha = net(torch.rand(1, 3, 320, 192))[0][0]
        alpha = F.interpolate(alpha, size=(500, 300), mode="bilinear").movedim(1, -1)[0]
    assert alpha.shape == (500, 300, 1)
    assert 0 <= alpha.min() < alpha.max() <= 1
