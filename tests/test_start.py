"""From nothing to the first cutout: what a process imports for that, and how it ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PERSON, ROOT

from background_remover import weights

pytestmark = pytest.mark.slow

# What other parts of the project need, or torch and huggingface_hub for what is not asked of them here.
NOT_NEEDED = {
    *("gradio", "fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "httpx", "requests"),
    *("ray", "pandas", "pyarrow", "fsspec", "scipy", "onnx", "tifffile", "matplotlib", "skimage"),
    *("sympy", "torchvision", "triton", "transformers", "spaces", "torch._dynamo", "torch._inductor", "torch.onnx"),
}
CUTOUT = ["-m", "background_remover", PERSON]
ENDING = """
import atexit, sys
from background_remover import cli
program = cli.cutout
def cutout(**options):
    atexit.register(print, "told")
    sys.stdout.write("said, ")
    program(**options)
cli.cutout = cutout
cli.main()
"""


HASHED = """
import sys, time
from background_remover import pipeline, weights
print("torch" in sys.modules)
sha256 = weights.sha256
def told(path):
    until = time.monotonic() + 10
    while "torch" not in sys.modules and time.monotonic() < until:  # its thread has hardly begun
        time.sleep(0.001)
    print(sys.modules["torch"].__spec__._initializing)  # by now: the hash itself takes long on a slow disk
    return sha256(path)
weights.sha256 = told
weights.load()
print("torch" in sys.modules)
"""
FORKED = """
import os, signal
from background_remover import weights
try:
    weights.load("nothing")
except weights.WeightsError:
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        import torch
        os._exit(0)
    print(os.waitpid(pid, 0)[1])
"""
LOADED = """
import gc
from background_remover import cli
cli.load(None, None, None)
print(gc.isenabled())
"""


def python(*arguments: object, **options: object) -> subprocess.CompletedProcess:
    env = os.environ | {"RMBG_WEIGHTS": weights.ISNET, "PYTHONPATH": str(ROOT)}
    given = {"env": env, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 120} | options
    return subprocess.run([sys.executable, *map(str, arguments)], check=False, **given)


def test_a_first_cutout_imports_nothing_that_it_does_not_need(tmp_path):
    out = tmp_path / "out.png"
    done = python("-X", "importtime", "-m", "background_remover", PERSON, "-o", out)
    assert done.returncode == 0
    assert out.exists()
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "|" in line}
    imported = names | {name.partition(".")[0] for name in names}
    assert {"torch", "cv2"} <= imported
    assert not imported & NOT_NEEDED


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["gone.jpg"], 1), (["--nonsense"], 2)])
def test_the_end_comes_at_once_and_leaves_nothing_unsaid(tmp_path, arguments, code):
    done = python("-c", ENDING, *arguments, cwd=tmp_path)
    assert done.returncode == code
    assert done.stdout.startswith("said, ")
    assert done.stdout.endswith("told\n")
    assert "Traceback" not in done.stderr


def test_an_end_without_room_for_what_is_said_is_no_success():
    with Path("/dev/full").open("w") as full:
        done = python("-c", ENDING, "--version", stdout=full)
    assert done.returncode != 0
    assert "No space left" in done.stderr


def test_the_weights_are_hashed_while_torch_is_imported():
    before, *beside, behind = python("-c", HASHED).stdout.split()
    assert before == "False"  # nothing has imported it by then
    assert set(beside) == {"True"}
    assert behind == "True"


def test_a_failure_leaves_no_import_behind_that_a_fork_would_wait_for():
    assert python("-c", FORKED).stdout == "0\n"


@pytest.mark.parametrize("way", [["-c", "from background_remover import weights\nweights.load()"], CUTOUT])
def test_a_torch_that_can_not_be_loaded_says_so_itself(tmp_path, way):
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: no such file')")
    env = os.environ | {"RMBG_WEIGHTS": weights.ISNET, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = python(*way, "-o", tmp_path / "out.png", env=env)
    assert done.returncode != 0
    assert "libcudart.so.13: no such file" in done.stderr.splitlines()[-1]


def test_garbage_is_collected_again_once_the_network_is_there():
    assert python("-c", LOADED).stdout == "True\n"
