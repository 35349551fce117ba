"""Told to end, the server ends what it has in hand, takes nothing new, and says that all went well."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import PERSON, ROOT, data_url, post

from background_remover import weights

pytestmark = pytest.mark.slow

META = {"_type": "gradio.FileData"}


@pytest.fixture
def server(tmp_path) -> Iterator[tuple[str, subprocess.Popen]]:
    log = tmp_path / "log"
    env = os.environ | {"RMBG_WEIGHTS": weights.ISNET, "PYTHONUNBUFFERED": "1", "GRADIO_TEMP_DIR": str(tmp_path)}
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=file, stderr=file)
    try:
        while not (found := re.search(r"http://[\d.]+:\d+", log.read_text())):
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield found[0], process
    finally:
        process.kill()
        process.wait()
    assert "Traceback" not in log.read_text()


def start(url: str, values: list) -> str:
    return post(f"{url}/gradio_api/call/cutout", {"data": values})["event_id"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_ends_and_nothing_new_begins(server, number):
    url, process = server
    photo = [{"url": data_url(PERSON), "meta": META}, "transparent", None]
    events, told = [start(url, photo) for _ in range(4)], []  # one alone may be done before it is asked for the next

    def listen(event: str) -> None:
        with urllib.request.urlopen(f"{url}/gradio_api/call/cutout/{event}", timeout=60) as answer:
            told.append(answer.read().decode())

    listeners = [threading.Thread(target=listen, args=(event,)) for event in events]
    for listener in listeners:
        listener.start()
    time.sleep(0.3)
    process.send_signal(number)
    time.sleep(0.2)
    with pytest.raises(urllib.error.HTTPError) as refused:
        start(url, photo)
    assert refused.value.code == 503
    assert "about to end" in json.loads(refused.value.read())["error"]
    for listener in listeners:
        listener.join(30)
    assert len(told) == len(events)
    for said in told:
        assert "event: complete" in said
        (result,) = json.loads(said.partition("event: complete\ndata: ")[2].partition("\n")[0])
        assert Path(result["path"]).read_bytes().startswith(b"\x89PNG")
    assert process.wait(20) == 0
