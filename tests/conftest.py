"""The tests' fixtures: the real IS-Net weights, a seeded network, real child processes, a real server and browser."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from helpers import BROWSER, EXAMPLES, FLAGS, PERSON, ROOT, seeded_state
from loopback import LOAD, Hub
from PIL import Image

from background_remover import BackgroundRemover, Cutout, weights
from briarmbg import BriaRMBG

if TYPE_CHECKING:
    from buckets import Bucket
    from playwright.sync_api import Browser, Page

# With CI set, pytest tells two files apart byte by byte, for minutes: only a browser that is missed needs to know.
CI = bool(os.environ.pop("CI", ""))

# What a test that asks for one of these needs, whether it says so or not: `make quick` leaves it out.
MARKS = {
    "browser": "browser",
    "firefox": "browser",
    "run_node": "network",
    "axe": "network",
    "start_app": "slow",
    "run_python": "slow",
    "remover": "slow",  # a photo takes seconds where the processor knows fp32 alone
    "isnet_net": "slow",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture in MARKS.keys() & set(getattr(item, "fixturenames", ())):
            item.add_marker(MARKS[fixture])


def pytest_sessionfinish() -> None:
    """The processes that open photos for this one end with it: Python complains of those that run on."""
    turns = sys.modules.get("background_remover.page.turns")
    if turns and turns.sandbox.cache_info().currsize:
        turns.sandbox().close()


def pytest_assertrepr_compare(op: str, left: object, right: object) -> list[str] | None:
    """Of two PNGs that should be the same bytes: how their pixels differ, which the bytes don't tell."""
    if op != "==" or not all(isinstance(data, bytes) and data.startswith(b"\x89PNG") for data in (left, right)):
        return None
    try:
        first, second = (np.asarray(Image.open(io.BytesIO(data))).astype(int) for data in (left, right))
    except (OSError, SyntaxError, ValueError):  # half a file, or a damaged one
        return None
    told = [f"PNG of {len(left)} bytes {first.shape} == PNG of {len(right)} bytes {second.shape}"]
    if first.shape == second.shape:
        apart = np.abs(first - second).reshape(*first.shape[:2], -1)
        rows, columns = np.nonzero(apart.any(2))
        told.append(f"{rows.size} pixels differ, by at most {apart.max((0, 1)).tolist()} in each channel")
        told += [f"rows {rows.min()} to {rows.max()}, columns {columns.min()} to {columns.max()}"] if rows.size else []
    return told


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

    Other arguments for `python` start it otherwise, and another folder as it is there, or by another `python`.
    """

    @contextmanager
    def start(*arguments: str, folder: Path = ROOT, python: str = sys.executable, **env: str) -> Iterator[str]:
        log = tmp_path_factory.mktemp("app") / "log"
        environment = os.environ | {"RMBG_WEIGHTS": weights.ISNET, "PYTHONUNBUFFERED": "1"} | env
        environment.setdefault("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("temporary")))
        with log.open("w") as file:
            command = [python, *(arguments or ["app.py"])]
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
    from playwright.sync_api import Error as BrowserError
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        except BrowserError as error:
            if CI:
                raise
            pytest.skip(f"no browser: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(params=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, app_url: str) -> Iterator[Page]:
    """The page in a window of that size."""
    from browsing import opened

    with opened(browser, app_url, request.param) as page:
        yield page


@pytest.fixture(scope="session")
def refined(remover: BackgroundRemover) -> Cutout:
    """What the page makes of PERSON."""
    return remover(PERSON, refine=True)


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def load(run_python: Callable[..., dict], hub: Hub, tmp_path: Path) -> Callable[..., dict]:
    """Load a source in a fresh process with a fresh cache, from the loopback Hub, after some code."""

    def run(source: str | None, first: str = "", **env: str) -> dict:
        environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_TOKEN": "", "RMBG_WEIGHTS": ""}
        return run_python(first + LOAD.format(source=source), **(environment | env))

    return run


@pytest.fixture
def isnet_cached(tmp_path: Path) -> Path:
    """A cache that holds the converted IS-Net weights already, as after an earlier start."""
    weights.load(weights.ISNET)
    found = weights._cached_isnet()
    assert found is not None
    target = tmp_path / "hf" / "rmbg" / found[0].name
    target.parent.mkdir(parents=True)
    target.write_bytes(found[0].read_bytes())
    return target


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that holds 64 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="module")
def bucket_server() -> Iterator[Bucket]:
    from buckets import serving_bucket  # which takes a second to import

    with serving_bucket() as bucket:
        yield bucket


@pytest.fixture
def bucket(bucket_server: Bucket) -> Bucket:
    """A bucket with nothing in it, on a real S3 server of this machine."""
    bucket_server.empty()
    return bucket_server
