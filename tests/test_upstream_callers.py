"""The network under the programs that were written around upstream's: a pipeline of transformers, IC-Light."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import PERSON, card_matte, pixels
from PIL import Image
from transformers import Pipeline, pipeline
from transformers.image_utils import load_image

from briarmbg import BriaRMBG
from utilities import postprocess_image, preprocess_image

SMALL = [128, 128]  # a size of the network's input at which a forward takes little of the time of one at 1024 x 1024


class RMBGPipe(Pipeline):
    """What upstream's `MyPipe.py` does, with this project's two functions around the network.

    `return_mask` is of upstream's latest version, `out_name` of its first.
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.model.to(self.device)
        self.model.eval()

    def _sanitize_parameters(self, **kwargs):
        before, after = (
            {name: kwargs[name] for name in names if name in kwargs}
            for names in (("model_input_size",), ("return_mask", "out_name"))
        )
        return before, {}, after

    def preprocess(self, photo, model_input_size=(1024, 1024)):
        photo = load_image(photo)
        return {"photo": photo, "image": preprocess_image(np.asarray(photo), model_input_size).to(self.device)}

    def _forward(self, inputs):
        return {"photo": inputs["photo"], "result": self.model(inputs["image"])}

    def postprocess(self, outputs, return_mask=False, out_name=""):
        photo = outputs["photo"]
        mask = Image.fromarray(postprocess_image(outputs["result"][0][0], photo.size[::-1]))
        if return_mask:
            return mask
        cutout = Image.new("RGBA", mask.size)
        cutout.paste(photo, mask=mask)
        if out_name:
            cutout.save(out_name)
        return cutout


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
    mask = RMBGPipe(model=net, device="cpu")(str(PERSON), return_mask=True)
    assert mask.mode == "L"
    assert np.array_equal(mask, card_matte(seeded_net, person))


@pytest.mark.parametrize(
    "make",
    [
        lambda net: RMBGPipe(model=net),
        lambda net: RMBGPipe(model=net, device="cpu"),
        lambda net: RMBGPipe(model=net, device=torch.device("cpu")),
        lambda net: RMBGPipe(model=net, device=-1),  # wherever the model is
        lambda net: pipeline("image-segmentation", model=net, pipeline_class=RMBGPipe),
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
    pipe = RMBGPipe(model=net, device="cpu", model_input_size=SMALL, return_mask=True)
    part = Image.open(PERSON).crop((0, 0, 300, 200))
    first, second = pipe([part, str(PERSON)])
    assert first.size == part.size
    assert np.array_equal(first, pipe(part))
    assert np.array_equal(second, small_mask)


def test_a_pipeline_cuts_out_and_saves_where_it_is_told(net, person, small_mask, tmp_path):
    pipe = RMBGPipe(model=net, device="cpu", model_input_size=SMALL)
    cutout = pipe(str(PERSON), out_name=str(tmp_path / "cutout.png"))
    rgba = pixels(tmp_path / "cutout.png")
    assert np.array_equal(rgba, cutout)
    opaque = small_mask == 255
    assert opaque.any()
    assert np.array_equal(rgba[opaque, :3], person[opaque])
    assert not rgba[small_mask == 0].any()


def test_a_pipelines_forward_keeps_upstreams_outputs_and_no_gradients(net):
    pipe = RMBGPipe(model=net, device="cpu")
    mattes, features = pipe.forward(pipe.preprocess(str(PERSON), SMALL))["result"]
    assert all(matte.shape == (1, 1, *SMALL) for matte in mattes)
    assert len(mattes) == len(features) == 6
    assert not any(tensor.requires_grad for tensor in (*mattes, *features))


def test_a_pipeline_saves_what_from_pretrained_reads(net, small_mask, tmp_path):
    RMBGPipe(model=net, device="cpu").save_pretrained(tmp_path)
    pipe = RMBGPipe(model=BriaRMBG.from_pretrained(tmp_path), device="cpu", model_input_size=SMALL)
    assert np.array_equal(pipe(str(PERSON), return_mask=True), small_mask)


def test_a_pipeline_moves_the_network_to_its_device():
    net = BriaRMBG()
    pipe = RMBGPipe(model=net, device="meta")  # another device that every machine has
    assert net.device == pipe.device == torch.device("meta")


def test_a_pipeline_can_be_printed(net):
    shown = repr(RMBGPipe(model=net, device="cpu"))
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
