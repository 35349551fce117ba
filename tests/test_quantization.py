"""Which tensors the convolutions in 8 bits read, at what rates, and how far the matte is from that in fp32."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import EXAMPLES
from safetensors import SafetensorError

from background_remover import engines, quantization, weights
from background_remover.engines import SIDE, Engine, EngineError
from background_remover.photos import open_photo
from background_remover.quantization import INT8, TWO_BYTES, measure, names, only_bytes, rates_for, sources, write
from briarmbg import REBNCONV, BriaRMBG, halve

needs_vnni = pytest.mark.skipif(not engines.SUPPORTED["int8"](), reason="needs a processor with VNNI")


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(quantization.constants, "HF_HOME", str(tmp_path))
    return tmp_path / "rmbg"


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


def test_bytes_alone_is_what_bytes_alone_read(seeded_net):
    chosen = set(names(INT8))
    closed = only_bytes(seeded_net, chosen)
    assert "stage1d.rebnconv2d" in closed
    for name in closed:
        stage = name.split(".")[0]
        blocks = [f"{stage}.{block}" for block, _ in seeded_net.get_submodule(stage).named_children()]
        assert {reader for reader in blocks if name in sources(seeded_net, reader)} <= chosen
    assert not any(name.endswith(("in", "1d")) for name in closed)  # which are added up, in floats


def test_a_rate_is_a_byte_and_comes_back_the_same():
    rates = quantization._from_codes(torch.arange(256, dtype=torch.uint8))
    assert torch.equal(quantization._codes(rates), torch.arange(256, dtype=torch.uint8))
    for weight in (9, 3, 1):
        assert torch.equal((rates * weight).bfloat16().float(), rates * weight)
    near = quantization._from_codes(quantization._codes(torch.linspace(0.01, 5000, 999)))
    assert ((near / torch.linspace(0.01, 5000, 999)) - 1).abs().max() < 1 / 15


def test_a_channel_ends_at_its_largest_value_or_where_it_is_usual():
    """Drawn towards the largest channel; far above the usual, the largest value does not count."""
    largest, usual = torch.tensor([10.0, 10.0]), torch.tensor([8.0, 8.0])
    assert torch.allclose(quantization._rates(largest, usual), torch.full((2,), 255 / 10), rtol=0.07)
    far = quantization._rates(torch.tensor([1000.0, 1000.0]), usual)
    assert torch.allclose(far, torch.full((2,), 255 / (quantization.CUT * 8)), rtol=0.07)
    small = quantization._rates(torch.tensor([10.0, 0.1]), torch.tensor([8.0, 0.08]))
    assert 255 / 10 < small[1] < 255 / 0.1


def test_the_rates_of_isnet_are_there(isnet_net):
    rates = rates_for(isnet_net, lambda: pytest.fail("they are shipped"))
    read = {source for table in (INT8, TWO_BYTES) for name in names(table) for source in sources(isnet_net, name)}
    assert read == set(rates)


def test_weights_that_are_new_are_measured_once(seeded_net, empty_cache):
    asked: list[int] = []

    def samples():
        asked.append(1)
        return [np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)]

    first = rates_for(seeded_net, samples)
    assert [file.suffix for file in empty_cache.iterdir()] == [".safetensors"]
    again = rates_for(seeded_net, samples)
    assert len(asked) == 1
    assert all(torch.equal(first[name], again[name]) for name in first)
    (kept,) = empty_cache.iterdir()
    kept.write_bytes(b"damaged")
    rates_for(seeded_net, samples)
    assert len(asked) == 2
    write({"stage1": torch.ones(64)}, kept)  # of another list of convolutions
    rates_for(seeded_net, samples)
    assert len(asked) == 3
    other = copy.deepcopy(seeded_net)
    with torch.no_grad():
        other.get_submodule("stage3.rebnconv1.bn_s1").bias[0] += 1e-3
    rates_for(other, samples)
    assert len(asked) == 4


def test_measuring_sees_what_the_channels_reach(seeded_net):
    """The usual and the largest value of a channel over all photos, by a forward of our own."""
    images = [np.random.default_rng(seed).integers(0, 256, (64, 64, 3), dtype=np.uint8) for seed in (0, 1)]
    rates = measure(seeded_net, images)
    seen: list[torch.Tensor] = []
    hook = seeded_net.get_submodule("stage2").register_forward_hook(lambda _, __, out: seen.append(out[0].clone()))
    with torch.inference_mode():
        for image in images:
            seeded_net.features(torch.tensor(image).permute(2, 0, 1)[None].float() / 255 - 0.5)
    hook.remove()
    both = torch.cat([out.flatten(1) for out in seen], 1).amax(1)
    assert torch.equal(rates["stage2"], quantization._rates(both, both))  # of 16 x 16 pixels the largest is usual


def test_measuring_changes_nothing_in_a_network_as_it_was_loaded(seeded_net):
    """Which is in training mode, where batch norm would take its statistics from the photos and keep them."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    net = copy.deepcopy(seeded_net).train()
    rates = measure(net, [image])
    assert all(torch.equal(rates[name], values) for name, values in measure(seeded_net, [image]).items())
    assert all(torch.equal(net.state_dict()[name], values) for name, values in seeded_net.state_dict().items())


def test_without_photos_new_weights_are_one_sentence(seeded_net, empty_cache):
    if not engines.SUPPORTED["int8"]():
        pytest.skip("refused before")
    with pytest.raises(EngineError, match=r"^[^.]*int8[^.]*RMBG_PRECISION[^.]*\.$"):
        Engine(copy.deepcopy(seeded_net), "cpu", "int8")


@pytest.mark.parametrize("error", [OSError("full"), SafetensorError("No space left on device")])
def test_a_full_disk_only_costs_measuring_again(seeded_net, empty_cache, monkeypatch, error):
    def save_file(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(quantization, "save_file", save_file)
    assert rates_for(seeded_net, lambda: [np.zeros((64, 64, 3), np.uint8)])
    assert not [*empty_cache.iterdir()]


def test_half_a_file_is_never_seen(tmp_path):
    write({"stage1": torch.ones(4)}, tmp_path / "rates.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["rates.safetensors"]


def test_floats_beside_bytes_are_what_onednn_may_use(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert engines._native_floats() == "fp32"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert engines._native_floats() == engines._precision(None, torch.device("cpu"))


@pytest.mark.slow
@needs_vnni
@pytest.mark.parametrize("floats", ["native", "fp32"])
def test_int8_keeps_the_matte(floats, isnet_net, monkeypatch):
    """On photos that none of its rates come from: parts of the examples, mirrored."""
    if floats == "fp32":
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")  # read by us; oneDNN has read it before
    net = BriaRMBG()
    net.load_state_dict(weights.load(weights.ISNET).state_dict)
    engine = Engine(net, "cpu", "int8")
    assert engine.net.dtype == (torch.float32 if floats == "fp32" else engines.FLOATS[engines._native_floats()])
    wider = set(names(TWO_BYTES)) if floats == "fp32" else set()
    kinds = {engines.ByteConv: set(names(INT8)) - wider, engines.TwoByteConv: wider}
    for kind, expected in kinds.items():
        found = {name for name, module in engine.net.trunk.named_modules() if isinstance(module, kind)}
        assert found == expected
    moved = []
    for name in ("person.jpg", "cat.jpg", "car.jpg", "chameleon.jpg"):
        rgb = open_photo(EXAMPLES / name).rgb
        height, width = rgb.shape[:2]
        part = np.ascontiguousarray(rgb[: height * 9 // 10, width // 10 :][:, ::-1])
        image = open_photo(part).for_network(SIDE)
        with torch.inference_mode():
            exact = isnet_net.matte(torch.tensor(image).permute(2, 0, 1)[None] / 255 - 0.5)[0, 0].numpy() * 255
        matte = engine(image[None])[0]
        both, either = ((matte > 127) & (exact > 127)).sum(), ((matte > 127) | (exact > 127)).sum()
        assert both / either > 0.98
        moved.append(np.abs(matte - exact).mean())
    assert np.median(moved) < 0.6
    assert max(moved) < 1.5


def test_the_convolutions_in_8_bits_are_the_networks(seeded_net):
    assert all(isinstance(seeded_net.get_submodule(name), REBNCONV) for name in (*names(INT8), *names(TWO_BYTES)))
