"""The app as others run it: from the files that its image holds, behind a proxy, under a path of a larger site."""

import contextlib
import fnmatch
import http.client
import json
import re
import shlex
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from gradio_client import Client, handle_file
from helpers import PERSON, ROOT, data_url, serving
from playwright.sync_api import expect
from test_api import call_tool, pictures

DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
SITE = "/tools/background"


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """What the Dockerfile's COPY instructions put into the image, out of what .dockerignore lets through."""
    folder = tmp_path_factory.mktemp("image")
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    let_through = [line.removeprefix("!").rstrip("/") for line in lines if line.startswith("!")]
    for copied in instructions("COPY"):
        *sources, target = copied.split()
        if sources[0].startswith("--from="):
            continue
        for source in sources:
            found = [path for path in ROOT.glob(source.rstrip("/")) if not path.name.startswith(".")]
            assert found, f"COPY finds no {source}"
            for path in found:
                assert any(fnmatch.fnmatch(path.name, pattern) for pattern in let_through), path
                if path.is_dir():
                    shutil.copytree(path, folder / target)
                else:
                    shutil.copy(path, folder / target)
    return folder


@pytest.fixture(scope="session")
def site(image_folder, start_app):
    """The app's address behind a proxy that serves it under SITE, and the app's own."""
    settings = dict(setting.split("=") for line in instructions("ENV") for setting in shlex.split(line))
    settings = {name: value for name, value in settings.items() if name not in ("HF_HOME", "GRADIO_SERVER_PORT")}
    with start_app(folder=image_folder, **settings, GRADIO_ROOT_PATH=SITE) as url:
        own = urlsplit(url)

        class Proxy(BaseHTTPRequestHandler):
            def forward(self) -> None:
                if not self.path.startswith(SITE + "/"):
                    self.send_error(404)
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                headers |= {"Host": own.netloc, "X-Forwarded-Host": self.headers["Host"], "X-Forwarded-Proto": "http"}
                connection = http.client.HTTPConnection(own.hostname, own.port, timeout=60)
                connection.request(self.command, self.path.removeprefix(SITE), body, headers)
                answer = connection.getresponse()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError, http.client.HTTPException):  # one of the two has gone
                    while piece := answer.read1():
                        self.wfile.write(piece)
                connection.close()

            do_GET = do_POST = do_DELETE = do_HEAD = forward  # noqa: N815  # the names that it calls

        with serving(Proxy, "127.0.0.1") as port:
            yield f"http://127.0.0.1:{port}{SITE}", url


def test_the_image_answers_its_own_health_check(site):
    _, own = site
    (check,) = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    command = [part.replace("http://127.0.0.1:7860", own) for part in json.loads(check)]
    assert command[0] == "python"
    assert subprocess.run([sys.executable, *command[1:]], timeout=30, check=False).returncode == 0
    broken = [part.replace(own, "http://127.0.0.1:1") for part in command]
    assert subprocess.run([sys.executable, *broken[1:]], timeout=30, check=False, capture_output=True).returncode != 0


def test_the_image_runs_as_nobody_special_and_keeps_the_weights():
    assert instructions("USER") == ["1000"]
    (volume,) = instructions("VOLUME")
    assert f"HF_HOME={volume}" in DOCKERFILE


def test_under_a_path_of_a_larger_site_the_api_works(site, truth, tmp_path):
    address, _ = site
    client = Client(address, verbose=False, download_files=tmp_path)
    path = client.predict(handle_file(PERSON), api_name="/cutout")
    truth.save(tmp_path / "truth.png")
    assert Path(path).read_bytes() == (tmp_path / "truth.png").read_bytes()


def test_under_a_path_of_a_larger_site_the_tools_link_to_where_they_were_called(site, truth, tmp_path):
    address, _ = site
    answer = call_tool(address, "cutout", image=data_url(PERSON))
    assert f" {address}/gradio_api/file=" in answer.content[1].text
    inline, linked = pictures(answer)
    truth.save(tmp_path / "truth.png")
    assert inline == linked == (tmp_path / "truth.png").read_bytes()


def test_under_a_path_of_a_larger_site_the_page_works(site, browser):
    address, _ = site
    page = browser.new_page()
    failed, urls = [], []
    page.on("request", lambda sent: urls.append(sent.url))
    page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    page.goto(address + "/")
    page.locator("#photo input[type=file]").set_input_files(PERSON)
    expect(page.locator("#cutout img")).to_be_visible(timeout=30_000)
    assert page.locator("#cutout img").evaluate("image => image.naturalWidth") == 512
    assert [url for url in urls if not url.startswith((address + "/", "data:", "blob:"))] == []
    assert failed == []
    page.close()
