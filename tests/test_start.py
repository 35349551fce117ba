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
import sys, threading
from background_remover import pipeline, weights
print("torch" in sys.modules)
sha256 = weights.sha256
def told(path):
    beside = threading.active_count() > 1
    digest = sha256(path)
    print(beside)
    return digest
weights.sha256 = told
weights.load()
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
    alone, beside = python("-c", HASHED).stdout.split()
    assert alone == "False"  # nothing has imported it by then
    assert beside == "True"


def test_garbage_is_collected_again_once_the_network_is_there():
    assert python("-c", LOADED).stdout == "True\n"
