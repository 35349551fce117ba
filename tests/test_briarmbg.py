"""The network against what upstream's class gave (stored in data/upstream_network.npz) and for every way it is made."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import DATA
from safetensors.torch import save_file

import briarmbg
from briarmbg import BriaRMBG


def test_state_dict_has_upstreams_names_in_upstreams_order(seeded_net):
    expected = np.load(DATA / "upstream_network.npz")["keys"].tolist()
    assert list(seeded_net.state_dict()) == expected
    assert len(expected) == 798
    assert sum(parameter.numel() for parameter in seeded_net.parameters()) == 44_046_790


def test_all_outputs_match_upstreams(seeded_net):
    truth = np.load(DATA / "upstream_network.npz")
    image = torch.tensor(np.random.RandomState(0).uniform(-0.5, 0.5, (1, 3, 72, 56)), dtype=torch.float32)
    with torch.no_grad():
        mattes, features = seeded_net(image)
    assert len(mattes) == len(features) == 6
    for index in range(6):
        np.testing.assert_allclose(mattes[index][0, 0], truth[f"matte{index + 1}"], atol=1e-4)
        mean = features[index][0].mean((1, 2))
        np.testing.assert_allclose(mean, truth[f"features{index + 1}"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 70), (192, 256)])
@pytest.mark.parametrize("count", [1, 3])
def test_any_number_and_size_of_images_works_and_matte_is_the_first_output(seeded_net, count, size):
    image = torch.rand(count, 3, *size) - 0.5
    with torch.no_grad():
        mattes, _ = seeded_net(image)
        assert all(matte.shape == (count, 1, *size) for matte in mattes)
        assert torch.equal(seeded_net.matte(image), mattes[0])


def test_gradients_reach_every_parameter():
    net = BriaRMBG()
    sum(matte.sum() for matte in net(torch.rand(2, 3, 70, 90))[0]).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


@pytest.mark.parametrize(
    "make",
    [
        BriaRMBG,
        lambda: BriaRMBG(3, 1),
        lambda: BriaRMBG(in_ch=3, out_ch=1),
        lambda: BriaRMBG(config={"in_ch": 3, "out_ch": 1}),
        lambda: BriaRMBG({"in_ch": 3, "out_ch": 1}),
        lambda: BriaRMBG({}),
        lambda: BriaRMBG(SimpleNamespace(in_ch=3, out_ch=1)),
    ],
)
def test_every_generation_of_the_constructor_works(make):
    net = make()
    assert net.conv_in.weight.shape == (64, 3, 3, 3)
    assert net.side6.weight.shape == (1, 512, 3, 3)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BriaRMBG(4, 2),
        lambda: BriaRMBG(in_ch=4, out_ch=2),
        lambda: BriaRMBG({"in_ch": 4, "out_ch": 2}),
        lambda: BriaRMBG(SimpleNamespace(in_ch=4, out_ch=2)),
    ],
)
def test_the_constructor_obeys_its_config(make):
    net = make()
    assert net.conv_in.weight.shape[1] == 4
    assert net.side1.weight.shape[0] == 2


FULL_CONFIG = {"_name_or_path": "a/b", "architectures": ["BriaRMBG"], "in_ch": 3, "model_type": "x", "out_ch": 1}


@pytest.mark.slow
@pytest.mark.parametrize("config", [None, {}, {"in_ch": 3, "out_ch": 1}, FULL_CONFIG])
def test_from_pretrained_takes_every_config_json(seeded_net, tmp_path, config):
    save_file(seeded_net.state_dict(), tmp_path / "model.safetensors")
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    net = BriaRMBG.from_pretrained(tmp_path)
    assert not net.training
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), seeded_net.state_dict().values(), strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.pth", "pytorch_model.bin"])
def test_from_pretrained_takes_pickled_tensors(seeded_net, tmp_path, name):
    torch.save(seeded_net.state_dict(), tmp_path / name)
    net = BriaRMBG.from_pretrained(str(tmp_path))
    assert torch.equal(net.side1.weight, seeded_net.side1.weight)


def test_from_pretrained_runs_no_code_from_a_pickle(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "was-run",))

    torch.save({"conv_in.weight": Evil()}, tmp_path / "model.pth")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        BriaRMBG.from_pretrained(tmp_path)
    assert not (tmp_path / "was-run").exists()


@pytest.mark.slow
def test_from_pretrained_refuses_an_incomplete_checkpoint(seeded_net, tmp_path):
    state = seeded_net.state_dict()
    del state["side3.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(RuntimeError, match=r"side3\.bias"):
        BriaRMBG.from_pretrained(tmp_path)


@pytest.mark.slow
def test_save_pretrained_writes_what_from_pretrained_reads(tmp_path):
    net = BriaRMBG({"in_ch": 4, "out_ch": 2}).eval()
    net.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"in_ch": 4, "out_ch": 2}
    again = BriaRMBG.from_pretrained(tmp_path)
    assert again.conv_in.weight.shape[1] == 4
    assert torch.equal(again.stage1.rebnconv1.conv_s1.weight, net.stage1.rebnconv1.conv_s1.weight)


@pytest.mark.parametrize(("name", "depth"), [("RSU7", 7), ("RSU6", 6), ("RSU5", 5), ("RSU4", 4), ("RSU4F", 4)])
def test_upstreams_blocks_can_be_imported_and_keep_the_size(name, depth):
    block = getattr(briarmbg, name)(3, 12, 5)
    assert f"rebnconv{depth}.conv_s1.weight" in block.state_dict()
    assert block(torch.rand(1, 3, 40, 24)).shape == (1, 5, 40, 24)
    assert briarmbg.REBNCONV(3, 8, dirate=2)(torch.rand(1, 3, 9, 9)).shape == (1, 8, 9, 9)
