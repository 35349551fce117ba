"""Firefox by WebDriver BiDi, which it speaks itself: no driver is needed in between, of a version that fits."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from websockets.sync.client import ClientConnection, connect

PATIENCE = 60  # s: how long a state may take to come on a busy machine
EVENTS = [
    "browsingContext.downloadEnd",
    "browsingContext.downloadWillBegin",
    "log.entryAdded",
    "network.beforeRequestSent",
]
STEADY = """(async () => {{
  for (let [was, now] = ["", "-"]; was !== now; await new Promise((resolve) => setTimeout(resolve, 100))) {{
    {0}.scrollIntoView({{ block: "center" }});
    [was, now] = [now, JSON.stringify({0}.getBoundingClientRect())];
  }}
}})()"""


class Firefox:
    """A window, and all that has happened in it."""

    def __init__(self, socket: ClientConnection, downloads: Path) -> None:
        self.socket = socket
        self.number = 0
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.send("session.new", capabilities={})
        self.send("session.subscribe", events=EVENTS)
        self.send("network.addDataCollector", dataTypes=["request"], maxEncodedDataSize=10**7)
        folder = {"type": "allowed", "destinationFolder": str(downloads)}
        self.send("browser.setDownloadBehavior", downloadBehavior=folder)
        self.window = self.send("browsingContext.getTree")["contexts"][0]["context"]

    def receive(self) -> dict[str, Any]:
        """The next message, which is an event or answers a command."""
        message: dict[str, Any] = json.loads(self.socket.recv(PATIENCE))
        if message["type"] == "event":
            self.events.append((message["method"], message["params"]))
        return message

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """A command's result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while (answer := self.receive()).get("id") != self.number:
            pass
        assert answer["type"] == "success", f"{method}: {answer['error']}: {answer['message']}"
        return answer["result"]

    def wait_event(self, method: str) -> dict[str, Any]:
        """What came with the first event of that name, which may have been already."""
        while not (found := [params for name, params in self.events if name == method]):
            self.receive()
        return found[0]

    def open(self, url: str, width: int, height: int) -> None:
        self.send("browsingContext.setViewport", context=self.window, viewport={"width": width, "height": height})
        self.send("browsingContext.navigate", context=self.window, url=url, wait="complete")

    def evaluate(self, script: str) -> dict[str, Any]:
        """What an expression comes to, as BiDi describes it."""
        answer = self.send("script.evaluate", expression=script, target={"context": self.window}, awaitPromise=True)
        assert answer["type"] == "success", answer
        return answer["result"]

    def value(self, script: str) -> Any:
        """What an expression comes to, if JSON can say it."""
        return json.loads(self.evaluate(f"(async () => JSON.stringify((await {script}) ?? null))()")["value"])

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.value(f"Boolean({script})"):
            assert time.monotonic() < end, f"not so after {PATIENCE} s: {script}"
            time.sleep(0.05)

    def element(self, selector: str) -> dict[str, str]:
        """The first that there is, once it is there, in the middle of the window and no longer moves."""
        found = f"document.querySelector({json.dumps(selector)})"
        self.wait(found)
        self.value(STEADY.format(found))
        return {"sharedId": self.evaluate(found)["sharedId"]}

    def upload(self, selector: str, path: Path) -> None:
        self.send("input.setFiles", context=self.window, element=self.element(selector), files=[str(path)])

    def drag(self, selector: str, *shares: tuple[float, float]) -> None:
        """Press the mouse at a place of an element, in shares of its size, and let go at the last one."""
        self.element(selector)
        box = self.value(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()")
        x, y, w, h = (box[name] for name in ("x", "y", "width", "height"))
        first, *moves = [{"type": "pointerMove", "x": round(x + a * w), "y": round(y + b * h)} for a, b in shares]
        down, up = ({"type": name, "button": 0} for name in ("pointerDown", "pointerUp"))
        mouse = {"type": "pointer", "id": "mouse", "actions": [first, down, *moves, up]}
        self.send("input.performActions", context=self.window, actions=[mouse])

    def click(self, selector: str) -> None:
        self.drag(selector, (0.5, 0.5))

    def seen(self, selector: str) -> np.ndarray:
        """An element as it is on the screen, H x W x 3."""
        clip = {"type": "element", "element": self.element(selector)}
        png = self.send("browsingContext.captureScreenshot", context=self.window, clip=clip)["data"]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"))

    def sent(self, part: str) -> Iterator[str]:
        """The bodies of the requests so far to URLs that have such a part."""
        for name, params in list(self.events):
            if name == "network.beforeRequestSent" and part in params["request"]["url"]:
                found = self.send("network.getData", dataType="request", request=params["request"]["request"])
                yield found["bytes"]["value"]


@contextmanager
def running(program: str, folder: Path) -> Iterator[Firefox]:
    """A Firefox whose profile and downloads are in an empty folder."""
    profile, downloads, log = (folder / name for name in ("profile", "downloads", "log"))
    profile.mkdir()
    downloads.mkdir()
    with log.open("w") as file:
        command = [program, "--headless", "--remote-debugging-port=0", "--profile", profile]
        environment = os.environ | {"HOME": str(folder)}  # it makes folders there
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r"listening on (ws://\S+)\n", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.1)
        with connect(f"{found[1]}/session", max_size=None, compression=None) as socket:
            yield Firefox(socket, downloads)
    finally:
        process.terminate()
        process.wait(20)
