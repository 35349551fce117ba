"""What is known of weights: measured once on photos, kept, and never half a file."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from background_remover import calibration, hardware
from background_remover.calibration import Calibration, calibration_of, measure, write
from background_remover.channels import sources
from background_remover.engines import Engine
from background_remover.hardware import EngineError
from background_remover.quantization import INT8, TWO_BYTES, names, rates_of


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration.constants, "HF_HOME", str(tmp_path))
    return tmp_path / "rmbg"


def test_the_rates_of_isnet_are_there(isnet_net):
    rates = calibration_of(isnet_net, lambda: pytest.fail("it is shipped")).rates
    read = {source for table in (INT8, TWO_BYTES) for name in names(table) for source in sources(isnet_net, name)}
    assert read - {"conv_in"} == set(rates)


def test_weights_that_are_new_are_measured_once(seeded_net, empty_cache):
    asked: list[int] = []

    def samples():
        asked.append(1)
        return [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)]

    first = calibration_of(seeded_net, samples)
    assert [file.suffix for file in empty_cache.iterdir()] == [".safetensors"]
    again = calibration_of(seeded_net, samples)
    assert len(asked) == 1
    assert all(torch.equal(first.rates[name], again.rates[name]) for name in first.rates)
    assert first.dead == again.dead == {}  # too few photos to say so
    (kept,) = empty_cache.iterdir()
    kept.write_bytes(b"damaged")
    calibration_of(seeded_net, samples)
    assert len(asked) == 2
    write(Calibration({"stage1": torch.ones(64)}, {}), kept)  # of another list of convolutions
    calibration_of(seeded_net, samples)
    assert len(asked) == 3
    broken = Calibration(first.rates | {"stage1": torch.ones(63)}, {})
    write(broken, kept)  # of another number of channels
    calibration_of(seeded_net, samples)
    assert len(asked) == 4
    other = copy.deepcopy(seeded_net)
    with torch.no_grad():
        other.get_submodule("stage3.rebnconv1.bn_s1").bias[0] += 1e-3
    calibration_of(other, samples)
    assert len(asked) == 5
    with torch.no_grad():
        other.get_submodule("stage3.rebnconv1.conv_s1").weight *= 1.01
    calibration_of(other, samples)
    assert len(asked) == 6


def test_measuring_sees_what_the_channels_reach(seeded_net):
    """The usual and the largest value of a channel over all photos, by a forward of our own."""
    images = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in (0, 1)]
    rates = measure(seeded_net, images).rates
    seen: list[torch.Tensor] = []
    hook = seeded_net.get_submodule("stage2").register_forward_hook(lambda _, __, out: seen.append(out[0].clone()))
    with torch.inference_mode():
        for image in images:
            seeded_net.features(torch.tensor(image).permute(2, 0, 1)[None].float() / 255 - 0.5)
    hook.remove()
    both = torch.cat([out.flatten(1) for out in seen], 1).amax(1)
    assert torch.equal(rates["stage2"], rates_of(both, both))  # of 16 x 16 pixels the largest is usual


def test_measuring_changes_nothing_in_a_network_as_it_was_loaded(seeded_net):
    """Which is in training mode, where batch norm would take its statistics from the photos and keep them."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    net = copy.deepcopy(seeded_net).train()
    rates = measure(net, [image]).rates
    assert all(torch.equal(rates[name], values) for name, values in measure(seeded_net, [image]).rates.items())
    assert all(torch.equal(net.state_dict()[name], values) for name, values in seeded_net.state_dict().items())


def test_without_photos_new_weights_are_one_sentence(seeded_net, empty_cache):
    if not hardware.SUPPORTED["int8"]():
        pytest.skip("refused before")
    with pytest.raises(EngineError, match=r"^[^.]*int8[^.]*RMBG_PRECISION[^.]*\.$"):
        Engine(copy.deepcopy(seeded_net), "cpu", "int8")


@pytest.mark.parametrize("error", [OSError("full"), SafetensorError("No space left on device")])
def test_a_full_disk_only_costs_measuring_again(seeded_net, empty_cache, monkeypatch, error):
    def save_file(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(calibration, "save_file", save_file)
    assert calibration_of(seeded_net, lambda: [np.zeros((64, 64, 3), np.uint8)])
    assert not [*empty_cache.iterdir()]


def test_half_a_file_is_never_seen(tmp_path):
    write(Calibration({"stage1": torch.ones(4)}, {}), tmp_path / "one.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["one.safetensors"]
