"""Which channels a convolution reads, and that the matte is the same without dead ones."""

import copy

import numpy as np
import pytest
import torch
from helpers import EXAMPLES

from background_remover import engines, onednn
from background_remover.calibration import Calibration, measure
from background_remover.channels import BLOCK, WIDE, find_dead, narrowed, sources, without
from background_remover.engines import SIDE, _Matte
from background_remover.photos import open_photo
from briarmbg import REBNCONV, BriaRMBG, halve

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
    """The network with some channels negative everywhere, by their biases, here and there among the others."""
    net = copy.deepcopy(net)
    for number, (name, count) in enumerate(KILLED.items()):
        norm = net.get_submodule(name).bn_s1
        chosen = np.random.default_rng(number).permutation(norm.num_features)[:count]
        norm.bias.data[torch.tensor(chosen)] = -1e3
    return net


@pytest.mark.parametrize("pack", [True, False])
def test_the_matte_is_the_same_without_dead_channels(seeded_net, pack):
    if pack and not (onednn.can_pack() and engines._is_x86()):
        pytest.skip("no oneDNN here")
    net = killed(seeded_net)
    image = open_photo(EXAMPLES / "person.jpg").for_network(SIDE if pack else 256)
    dead = measure(net, [image]).dead
    assert all(dead[name].sum() >= count // BLOCK * BLOCK for name, count in KILLED.items())
    pixels = torch.tensor(image)[None]
    with torch.inference_mode():
        wanted = net.get_submodule("side1")(net.features(pixels.permute(0, 3, 1, 2) / 255 - 0.5)[0])
        lean = _Matte(copy.deepcopy(net), torch.float32)
        if pack:
            lean.pack(Calibration({}, dead))
            assert lean.trunk.get_submodule("stage4.rebnconv1d")(torch.zeros(1, 256, 64, 64)).shape[1] < 512
            head = lean.trunk.get_submodule("side1")
        else:
            left = without(dead)
            for name, block in lean.trunk.named_modules():
                if isinstance(block, REBNCONV):
                    block.conv_s1 = narrowed(block.conv_s1, name, sources(lean.trunk, name), left)
            head = narrowed(lean.trunk.get_submodule("side1"), "side1", ["stage1d"], left)
        found = head(lean.trunk.features(lean.stem(pixels))[0])
    assert torch.allclose(found, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert wanted.std() > 0
