"""What the tests share but for their fixtures: the model card's formulas, seeded weights, servers of their own."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import shutil
import threading
import urllib.request
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from briarmbg import BriaRMBG

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
    "bomb.png": "megapixels: make it smaller first",
    "drawing.svg": "This is an SVG drawing",
    "empty.png": "This file is empty",
}
META = {"_type": "gradio.FileData"}
LEAK = r"/\w+/|Traceback|\.py"  # a path of the server, or its code


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


def encoded(image: Image.Image, name: str, **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


# --- the app's API, without a client ---


def data_url(path: Path) -> str:
    return f"data:image/jpeg;base64,{base64.b64encode(path.read_bytes()).decode()}"


def post(url: str, data: object) -> dict[str, Any]:
    """The JSON that comes back for some."""
    request = urllib.request.Request(url, json.dumps(data).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def call(app_url: str, *data: object, name: str = "predict") -> str:
    """The events that an endpoint answers with."""
    event = post(f"{app_url}/gradio_api/call/{name}", {"data": data})["event_id"]
    with urllib.request.urlopen(f"{app_url}/gradio_api/call/{name}/{event}", timeout=60) as answer:
        return answer.read().decode()
