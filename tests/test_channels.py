"""Which channels a convolution reads, and that the matte is the same without dead ones."""

import copy

import numpy as np
import pytest
import torch
from helpers import EXAMPLES

from background_remover import calibration, hardware, onednn
from background_remover.calibration import Calibration, measure
from background_remover.channels import BLOCK, WIDE, find_dead, sources
from background_remover.engines import _Matte
from background_remover.photos import open_photo
from briarmbg import REBNCONV, BriaRMBG, halve

needs_onednn = pytest.mark.skipif(not (onednn.can_pack() and hardware.is_x86()), reason="no oneDNN here")
needs_vnni = pytest.mark.skipif(not hardware.SUPPORTED["int8"](), reason="needs a processor with VNNI")
needs_bf16 = pytest.mark.skipif(not hardware.SUPPORTED["bf16"](), reason="needs a processor that computes in bf16")

# In the blocks that differ: inner ones on the way down, at the bottom and up, and last ones, which are added.
KILLED = {
    "stage1.rebnconv2": 17,
    "stage3.rebnconv5": 16,
    "stage5.rebnconv2d": 40,
    "stage4.rebnconv1d": 100,
    "stage5d.rebnconv1d": 33,
    "stage3d.rebnconv1d": 16,
    "stage3d.rebnconv4d": 50,
    "stage1d.rebnconv1d": 20,
}


def test_each_convolution_reads_what_it_is_said_to_read(seeded_net):
    """As a forward shows it: what it is given is what its sources gave, or the half of that."""
    net, given, checked = copy.deepcopy(seeded_net), {}, 0
    wrong: list[str] = []

    def keep(name: str, out: torch.Tensor) -> None:
        given[name] = out.clone()

    def check(name: str, read: tuple[torch.Tensor, ...]) -> None:
        nonlocal checked
        for source, tensor in zip(sources(net, name), [tensor for tensor in read if tensor is not None], strict=True):
            whole = given[source]
            checked += 1
            if not torch.equal(tensor, whole if whole.shape == tensor.shape else halve(whole)):
                wrong.append(name)

    for name, block in net.named_modules():
        if name:
            block.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
        if isinstance(block, REBNCONV):
            block.register_forward_pre_hook(lambda _, read, name=name: check(name, read))
    with torch.inference_mode():
        net.features(torch.randn(1, 3, 128, 128))
    assert checked > 150
    assert not wrong


def test_dead_channels_are_found_by_blocks_and_the_deadest_first():
    peaks = torch.linspace(-40, 24, 64)  # 40 of 64 are never above 0
    dead = find_dead({"stage1.rebnconv2": peaks.flip(0)})["stage1.rebnconv2"]
    assert dead.nonzero()[:, 0].tolist() == [*range(64 - 40 // BLOCK * BLOCK, 64)]
    assert not find_dead({"stage1.rebnconv2": torch.linspace(-14.5, 48.5, 64)})  # 15 are not worth it


def test_channels_that_are_added_to_stay_and_so_do_those_of_narrow_sums():
    below = -torch.ones(WIDE)
    assert not find_dead({"stage4.rebnconvin": below, "stage2d.rebnconv1d": below[:64]})
    gone = {"stage4.rebnconv1d": below, "stage2d.rebnconv2d": below[:64], "stage1d.rebnconv1d": below[:64]}
    assert find_dead(gone).keys() == gone.keys()


def killed(net: BriaRMBG) -> BriaRMBG:
    """The network with some channels negative everywhere, among others that differ in what they reach."""
    net = copy.deepcopy(net)
    for number, (name, count) in enumerate(KILLED.items()):
        norm, rng = net.get_submodule(name).bn_s1, np.random.default_rng(number)
        norm.weight.data *= torch.tensor(rng.uniform(0.1, 3, norm.num_features), dtype=torch.float32)
        norm.bias.data[torch.tensor(rng.permutation(norm.num_features)[:count])] = -1e3
    return net


@pytest.fixture(scope="module")
def killed_net(seeded_net) -> BriaRMBG:
    return killed(seeded_net)


@pytest.fixture(scope="module")
def known(killed_net) -> Calibration:
    return measure(copy.deepcopy(killed_net), [open_photo(EXAMPLES / "person.jpg").for_network()])


def test_what_never_fires_is_found(known):
    assert all(known.dead[name].sum() >= count // BLOCK * BLOCK for name, count in KILLED.items())


def logits(net: BriaRMBG, known: Calibration | None, dtype: torch.dtype = torch.float32, **way: bool) -> torch.Tensor:
    """What the head makes of a photo."""
    pixels = torch.tensor(open_photo(EXAMPLES / "person.jpg").for_network())[None]
    with torch.inference_mode():
        packed = _Matte(copy.deepcopy(net), dtype)
        packed.pack(known, **way)
        return packed.trunk.get_submodule("side1")(packed.trunk.features(packed.stem(pixels))[0])


@needs_onednn
def test_the_matte_is_the_same_without_dead_channels(killed_net, known):
    pixels = torch.tensor(open_photo(EXAMPLES / "person.jpg").for_network())[None]
    with torch.inference_mode():
        features = killed_net.features(pixels.permute(0, 3, 1, 2) / 255 - 0.5)[0]
        wanted = killed_net.get_submodule("side1")(features)
    assert wanted.std() > 0
    for found in (logits(killed_net, known), logits(killed_net, None)):
        assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))


@needs_onednn
@needs_vnni
@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=needs_bf16)])
def test_in_8_bits_each_channel_that_is_left_keeps_its_own_rate(killed_net, known, dtype):
    """Without dead channels the logits are as near to those in fp32 as with them."""
    exact = logits(killed_net, None)
    whole = logits(killed_net, Calibration(known.rates, {}), dtype, eight_bits=True)
    lean = logits(killed_net, known, dtype, eight_bits=True)
    assert (lean - exact).abs().mean() < 1.5 * (whole - exact).abs().mean()


@needs_onednn
def test_isnet_runs_without_its_dead_channels(remover, isnet_net):
    dead = calibration.shipped(isnet_net).dead
    assert sum(int(mask.sum()) for mask in dead.values()) > 500
    trunk, read = remover.engine.net.trunk, torch.zeros(1, 256, 64, 64, dtype=remover.engine.net.dtype)
    with torch.inference_mode():
        channels = trunk.get_submodule("stage4.rebnconvin")(read).shape[1]
        deep = trunk.get_submodule("stage4.rebnconv1d")(read[:, : 256 - int(dead["stage4.rebnconv2d"].sum())])
    assert channels == 512
    assert deep.shape[1] == 512 - int(dead["stage4.rebnconv1d"].sum())


def test_a_convolution_all_of_whose_channels_are_dead_keeps_some():
    assert find_dead({"stage1d.rebnconv3": -torch.ones(BLOCK)}) == {}
    assert (~find_dead({"stage1.rebnconv3": -torch.ones(2 * BLOCK)})["stage1.rebnconv3"]).sum() == BLOCK
