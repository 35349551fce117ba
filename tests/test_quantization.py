"""Which convolutions run in 8 bits, at what rates, and how far the matte is from that in fp32."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers import EXAMPLES

from background_remover import engines, hardware, quantization, weights
from background_remover.channels import sources
from background_remover.engines import Engine
from background_remover.photos import open_photo
from background_remover.quantization import FIRST, INT8, TWO_BYTES, codes_of, names, only_bytes, rates_from, rates_of
from briarmbg import REBNCONV, BriaRMBG

needs_vnni = pytest.mark.skipif(not hardware.SUPPORTED["int8"](), reason="needs a processor with VNNI")


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
    rates = rates_from(torch.arange(256, dtype=torch.uint8))
    assert torch.equal(codes_of(rates), torch.arange(256, dtype=torch.uint8))
    for weight in (9, 3, 1):
        assert torch.equal((rates * weight).bfloat16().float(), rates * weight)
    near = rates_from(codes_of(torch.linspace(0.01, 5000, 999)))
    assert ((near / torch.linspace(0.01, 5000, 999)) - 1).abs().max() < 1 / 15


def test_a_channel_ends_at_its_largest_value_or_where_it_is_usual():
    """Drawn towards the largest channel; far above the usual, the largest value does not count."""
    largest, usual = torch.tensor([10.0, 10.0]), torch.tensor([8.0, 8.0])
    assert torch.allclose(rates_of(largest, usual), torch.full((2,), 255 / 10), rtol=0.07)
    far = rates_of(torch.tensor([1000.0, 1000.0]), usual)
    assert torch.allclose(far, torch.full((2,), 255 / (quantization.CUT * 8)), rtol=0.07)
    small = rates_of(torch.tensor([10.0, 0.1]), torch.tensor([8.0, 0.08]))
    assert 255 / 10 < small[1] < 255 / 0.1


def test_floats_beside_bytes_are_what_onednn_may_use(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    assert hardware.native_floats() == "fp32"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    assert hardware.native_floats() == hardware.choose_precision(None, torch.device("cpu"))


@pytest.fixture
def processor(monkeypatch) -> Callable[..., None]:
    """Has a processor with such instructions, and oneDNN kept to a limit, instead of this machine's."""

    def has(*instructions: str, limit: str = "", name: str = "ONEDNN_MAX_CPU_ISA") -> None:
        for variable in hardware.LIMITS:
            monkeypatch.delenv(variable, raising=False)
        monkeypatch.setenv(name, limit)
        monkeypatch.setattr(hardware, "_cpu", lambda: dict.fromkeys(instructions, True))
        monkeypatch.setattr(hardware, "is_x86", lambda: True)
        monkeypatch.setattr(hardware, "can_pack", lambda: True)

    return has


def default(known: bool) -> str:
    return hardware.choose_precision(None, torch.device("cpu"), known=known)


@pytest.mark.parametrize("vnni", ["avx512_vnni", "avx_vnni"])
def test_bytes_are_the_default_for_known_weights_where_floats_are_slow(processor, vnni):
    processor(vnni)
    assert (default(known=True), default(known=False)) == ("int8", "fp32")
    processor(vnni, "avx512_bf16")
    assert (default(known=True), default(known=False)) == ("bf16", "bf16")
    for limit in ("AVX512_CORE_VNNI", "avx2_vnni"):
        processor(vnni, "avx512_bf16", limit=limit)
        assert (default(known=True), default(known=False)) == ("int8", "fp32")
    for limit in ("", "nonsense", "ALL", "AVX512_CORE_BF16", "AVX10_1_512_AMX"):  # what is no name is no limit
        processor(vnni, "avx512_bf16", limit=limit)
        assert default(known=True) == "bf16"


@pytest.mark.parametrize("limit", ["AVX512_CORE", "AVX2", "SSE41", ""])
def test_without_vnni_there_are_no_bytes(processor, limit):
    if limit:
        processor("avx512_vnni", "avx512_bf16", limit=limit, name="DNNL_MAX_CPU_ISA")
    else:
        processor("avx2")
    assert default(known=True) == "fp32"
    with pytest.raises(hardware.EngineError, match=r"^[^.]*int8[^.]*RMBG_PRECISION[^.]*\.$"):
        hardware.choose_precision("int8", torch.device("cpu"))


@needs_vnni
def test_which_weights_are_known_is_seen_by_the_engine(seeded_net, run_python, monkeypatch):
    code = """import json
from background_remover import BackgroundRemover
remover = BackgroundRemover.from_pretrained("isnet-general-use", "cpu")
print(json.dumps({"precision": remover.engine.precision, "peak": int(remover("examples/person.jpg").alpha.max())}))"""
    found = run_python(code, ONEDNN_MAX_CPU_ISA="AVX512_CORE_VNNI", RMBG_PRECISION="")
    assert (found["precision"], found["peak"]) == ("int8", 255)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI")
    monkeypatch.delenv("RMBG_PRECISION", raising=False)
    assert Engine(copy.deepcopy(seeded_net), "cpu").precision == "fp32"


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
    assert engine.net.dtype == (torch.float32 if floats == "fp32" else hardware.FLOATS[hardware.native_floats()])
    wider = set(names(TWO_BYTES)) if engine.net.dtype == torch.float32 else set()
    first = {FIRST} if engine.net.dtype != torch.float32 else set()
    kinds = {
        engines.FirstByteConv: first,
        engines.ByteConv: set(names(INT8)) - wider - {FIRST},
        engines.TwoByteConv: wider,
    }
    for kind, expected in kinds.items():
        found = {name for name, module in engine.net.trunk.named_modules() if isinstance(module, kind)}
        assert found == expected
    moved = []
    for name in ("person.jpg", "cat.jpg", "car.jpg", "chameleon.jpg"):
        rgb = open_photo(EXAMPLES / name).rgb
        height, width = rgb.shape[:2]
        part = np.ascontiguousarray(rgb[: height * 9 // 10, width // 10 :][:, ::-1])
        image = open_photo(part).for_network()
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
