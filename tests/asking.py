"""What the tests of the paths for programs share: what lies in the server's store, and whether it answers."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from background_remover.page.files import EXAMPLES, NAME

SOON = 10.0  # seconds in which what was left ends


def stored(folder: Path) -> set[str]:
    """What lies in the store below that folder."""
    return {path.name for path in (folder / NAME).iterdir()} - {EXAMPLES}


@contextmanager
def leaving_nothing(folder: Path) -> Iterator[None]:
    """Nothing more lies there soon afterwards."""
    before = stored(folder)
    yield
    deadline = time.monotonic() + SOON
    while stored(folder) - before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert stored(folder) - before == set()


@contextmanager
def health_watched(app_url: str) -> Iterator[list[float]]:
    """While it runs /health is asked again and again; gives how long each answer took."""
    seconds: list[float] = []
    ended = threading.Event()

    def watch() -> None:
        with httpx.Client(base_url=app_url, timeout=30) as client:
            while not ended.wait(0.02):
                start = time.monotonic()
                assert client.get("/health").json() == {"status": "ok"}
                seconds.append(time.monotonic() - start)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield seconds
        finally:
            ended.set()
            watching.result()
