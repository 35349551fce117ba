"""What the tests share: the real IS-Net weights, a seeded network, real child processes and a real server."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import Error as BrowserError

import weights
from briarmbg import BriaRMBG
from pipeline import BackgroundRemover, Cutout

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"
DATA = Path(__file__).parent / "data"
PHOTOS = sorted(path.name for path in EXAMPLES.glob("*.[jp][pn]g"))
PERSON = EXAMPLES / "person.jpg"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--use-fake-device-for-media-stream",  # a camera that shows a moving pattern
    "--use-fake-ui-for-media-stream",
]
# what is no photo, and what its sender is told
SENTENCES = {
    "text.jpg": "This is not a photo that can be read",
    "truncated.jpg": "This photo is damaged or incomplete",
    "bomb.png": "more than 89 megapixels",
    "drawing.svg": "This is an SVG drawing",
    "empty.png": "This file is empty",
}


def seeded_state(net: BriaRMBG) -> dict[str, torch.Tensor]:
    """Weights that any machine and any torch draws alike, each tensor's from its place in the checkpoint."""
    state = {}
    for index, (name, tensor) in enumerate(net.state_dict().items()):
        noise = np.random.RandomState(index).standard_normal(tuple(tensor.shape))
        if name.endswith("num_batches_tracked"):
            state[name] = tensor
        elif tensor.ndim == 4:
            state[name] = torch.tensor(noise * (2 / tensor[0].numel()) ** 0.5, dtype=torch.float32)
        elif name.endswith(("running_var", "bn_s1.weight")):
            state[name] = torch.tensor(1 + 0.3 * np.tanh(noise), dtype=torch.float32)
        else:
            state[name] = torch.tensor(0.1 * noise, dtype=torch.float32)
    return state


def card_matte(net: torch.nn.Module, photo: np.ndarray) -> np.ndarray:
    """The model card's formulas, as they are: H x W x 3 uint8 photo to H x W uint8 matte."""
    image = F.interpolate(
        torch.tensor(photo, dtype=torch.float32).permute(2, 0, 1)[None], size=[1024, 1024], mode="bilinear"
    )
    image = torch.divide(image.type(torch.uint8), 255.0) - 0.5
    with torch.no_grad():
        result = torch.squeeze(F.interpolate(net(image)[0][0], size=photo.shape[:2], mode="bilinear"), 0)
    result = (result - result.min()) / (result.max() - result.min())
    return np.squeeze((result * 255).permute(1, 2, 0).numpy().astype(np.uint8))


def run_async(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """A coroutine's result, from a thread of its own, since Playwright has a loop running in the tests' thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler], host: str = "") -> Iterator[int]:
    """A server of the tests' own, on all addresses of this machine or on one; gives its port."""
    handler.log_message = lambda *_: None  # type: ignore[method-assign]
    server = ThreadingHTTPServer((host, 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two mattes, both cut at 128."""
    return float(((a >= 128) & (b >= 128)).sum() / max(1, ((a >= 128) | (b >= 128)).sum()))


@pytest.fixture(scope="session")
def seeded_net() -> BriaRMBG:
    net = BriaRMBG()
    net.load_state_dict(seeded_state(net))
    return net.eval()


@pytest.fixture(scope="session")
def isnet_net() -> BriaRMBG:
    """The real IS-Net weights in the plain network, fp32, nothing fused."""
    net = BriaRMBG()
    net.load_state_dict(weights.load(weights.ISNET).state_dict)
    return net.eval()


@pytest.fixture(scope="session")
def remover() -> BackgroundRemover:
    return BackgroundRemover.from_pretrained(weights.ISNET)


@pytest.fixture(scope="session")
def truth(remover: BackgroundRemover) -> Cutout:
    """What the library makes of PERSON."""
    return remover(PERSON)


@pytest.fixture(scope="session")
def person() -> np.ndarray:
    return np.asarray(Image.open(EXAMPLES / "person.jpg").convert("RGB"))


@pytest.fixture
def run_python() -> Callable[..., dict]:
    """Run code in a fresh interpreter, whose last line of output is JSON; environment variables are read at import."""

    def run(code: str, timeout: float = 120, **env: str) -> dict:
        command = [sys.executable, "-W", "error", "-c", code]
        environment = os.environ | env
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1]) | {"stderr": done.stderr}

    return run


@pytest.fixture(scope="session")
def run_node(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Run JavaScript on Node, in a folder that has Gradio's client and the examples; gives what it printed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("needs Node.js and npm")
    folder = tmp_path_factory.mktemp("node")
    subprocess.run(["npm", "install", "--silent", "@gradio/client@2"], cwd=folder, check=True, timeout=120)
    (folder / "examples").symlink_to(EXAMPLES)

    def run(script: str, *arguments: str) -> str:
        (folder / "script.mjs").write_text(script + "\nprocess.exit(0);")
        command = ["node", "script.mjs", *arguments]
        return subprocess.run(command, cwd=folder, check=True, timeout=120, capture_output=True, text=True).stdout

    return run


@pytest.fixture(scope="session")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server of `app_url` keeps uploads and results."""
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="session")
def start_app(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AbstractContextManager[str]]:
    """`python app.py`, as a user starts it, with the IS-Net weights and environment variables; gives its address.

    Other arguments for `python` start it otherwise, and another folder as it is there.
    """

    @contextmanager
    def start(*arguments: str, folder: Path = ROOT, **env: str) -> Iterator[str]:
        log = tmp_path_factory.mktemp("app") / "log"
        environment = os.environ | {"RMBG_WEIGHTS": weights.ISNET, "PYTHONUNBUFFERED": "1"} | env
        environment.setdefault("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("temporary")))
        with log.open("w") as file:
            command = [sys.executable, *(arguments or ["app.py"])]
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 120
            while not (found := re.search(r"http://[\d.]+:\d+", log.read_text())):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
            with urllib.request.urlopen(found[0]) as page:
                assert page.status == 200
            yield found[0]
            # Gradio logs what it refuses with a traceback of its own; none may come through our files.
            assert f'File "{ROOT}/' not in log.read_text().replace(f"{ROOT}/.venv", ""), log.read_text()
        finally:
            process.terminate()
            process.wait(20)

    return start


@pytest.fixture(scope="session")
def app_url(start_app: Callable[..., AbstractContextManager[str]], uploads: Path) -> Iterator[str]:
    with start_app(GRADIO_TEMP_DIR=str(uploads)) as url:
        yield url


@pytest.fixture(scope="session")
def bad_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The files of SENTENCES."""
    folder = tmp_path_factory.mktemp("bad")
    bomb = io.BytesIO()
    Image.new("1", (20_000, 15_000)).save(bomb, "PNG")
    contents = {
        "text.jpg": b"not a photo at all",
        "truncated.jpg": PERSON.read_bytes()[:20_000],
        "bomb.png": bomb.getvalue(),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        "empty.png": b"",
    }
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in contents}


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium where there is one, else Playwright's own."""
    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        except BrowserError as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield browser
        browser.close()
