"""What an operator sees: health, a description, metrics and an access log that hold nothing of anybody's."""

import base64
import datetime as dt
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fastapi
import httpx
import pytest
from asgi import connect, head, served
from asking import SOON, health_watched
from helpers import PERSON
from prometheus_client.parser import text_string_to_metric_families
from starlette.middleware import Middleware

from background_remover import monitoring, service
from background_remover.choices import CHOICES, CUTS
from background_remover.monitoring import Watch
from background_remover.page.bodies import MAX_BYTES
from background_remover.page.guard import Guard
from background_remover.routes import routes
from background_remover.scheduler import ENDING, Scheduler
from background_remover.stages import STAGES, observers, stage

PATH = "/v1/remove-background"
PHOTO = PERSON.read_bytes()
SECRET = "streng-geheim"  # part of all that nobody should find again
KEY = f"key-{SECRET}"


class Server(NamedTuple):
    url: str
    log: Path

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def metrics(self) -> dict[tuple[str, ...], float]:
        """By name and the labels' values."""
        answer = httpx.get(f"{self.url}/metrics", headers={"X-Api-Key": KEY})
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(answer.text)
        return {(one.name, *one.labels.values()): one.value for family in families for one in family.samples}

    def last(self, status: int) -> dict[str, Any]:
        """The line of the last request with that status, which may be about to be written."""
        deadline = time.monotonic() + SOON
        while time.monotonic() < deadline:
            if found := [line for line in self.lines() if line["status"] == status]:
                return found[-1]
            time.sleep(0.05)
        raise AssertionError(self.lines())


@pytest.fixture(scope="module")
def server(start_app, tmp_path_factory) -> Iterator[Server]:
    with start_app(RMBG_LOG="json", RMBG_API_KEYS=KEY) as url:
        log = max(tmp_path_factory.getbasetemp().glob("app[0-9]*/log"), key=lambda log: int(log.parent.name[3:]))
        assert url in log.read_text()
        yield Server(url, log)


@pytest.fixture
def start(remover, monkeypatch) -> Iterator[Callable[..., str]]:
    """Serve the routes in this process, with that environment; gives the address."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(**env: str) -> str:
            for name in ("RMBG_API_KEYS", "RMBG_METRICS"):
                monkeypatch.setenv(name, env.get(name, ""))
            middleware = [Middleware(Watch, address=lambda _: "here"), Middleware(Guard, hosts=())]
            app = fastapi.FastAPI(routes=routes(remover), middleware=middleware)
            return f"http://127.0.0.1:{stack.enter_context(served(app))}"

        yield start


# --- whether it is well, and what it is ---


def test_the_server_tells_that_it_is_well_and_what_it_is(app_url):
    assert httpx.get(f"{app_url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{app_url}/ready").json() == {"status": "ready"}
    about = httpx.get(f"{app_url}/v1/info").json()
    assert about["weights"]["licence"].startswith("Apache")
    assert len(about["weights"]["sha256"]) == 64
    assert about["limits"]["max_bytes"] == MAX_BYTES
    assert {"png", "jpg", "webp", "tif"} <= {*about["formats"]["out"]}
    assert "jpeg" in about["formats"]["in"]


def test_it_answers_soon_while_it_works(app_url):
    with health_watched(app_url) as seconds:
        for _ in range(3):
            assert httpx.post(f"{app_url}{PATH}?refine=1", content=PHOTO, timeout=60).status_code == 200
    assert sorted(seconds)[len(seconds) // 2] < 0.1


def test_the_description_has_every_path_and_parameter(app_url):
    paths = httpx.get(f"{app_url}/v1/openapi.json").json()["paths"]
    assert {PATH, "/v1/info", "/v1.0/removebg", "/v1.0/account", "/health", "/ready", "/metrics"} <= paths.keys()
    assert "head" not in paths["/health"]
    post = paths[PATH]["post"]
    told = {parameter["name"]: parameter["schema"] for parameter in post["parameters"]}
    assert [*told] == [choice.name for choice in (*CHOICES, *CUTS)]
    assert told["format"]["enum"] == ["png", "webp", "jpg", "tif"]
    form = post["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
    assert {"image", "image_url", "background_image", *told} <= form.keys()
    assert {"200", "400", "401", "413", "415", "422", "429", "503"} <= post["responses"].keys()


def test_a_server_that_ends_says_so(start, monkeypatch):
    scheduler = Scheduler()
    scheduler.close(0)
    monkeypatch.setattr(service, "scheduler", lambda: scheduler)
    url = start()
    answer = httpx.get(f"{url}/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "ending"})
    assert httpx.get(f"{url}/health").status_code == 200
    answer = httpx.post(f"{url}{PATH}", content=PHOTO)
    assert (answer.status_code, answer.json()["detail"], answer.headers["retry-after"]) == (503, ENDING, "60")
    answer = httpx.post(f"{url}/v1.0/removebg", content=PHOTO)
    assert (answer.status_code, answer.json()["errors"][0]["title"]) == (503, ENDING)


# --- metrics ---


def test_metrics_are_shown_to_nobody_unless_that_is_asked_for(start):
    assert httpx.get(f"{start()}/metrics").status_code == 404
    assert httpx.get(f"{start(RMBG_METRICS='false')}/metrics").status_code == 404
    assert httpx.get(f"{start(RMBG_API_KEYS='one')}/metrics").status_code == 401
    assert httpx.get(f"{start(RMBG_METRICS='True')}/metrics").status_code == 200
    assert httpx.get(f"{start(RMBG_METRICS='on', RMBG_API_KEYS='one')}/metrics").status_code == 200


def test_metrics_count_requests_photos_and_stages(server):
    before = server.metrics()
    for _ in range(2):
        assert httpx.post(f"{server.url}{PATH}", content=PHOTO, headers={"X-Api-Key": KEY}).status_code == 200
    httpx.post(f"{server.url}{PATH}", content=b"text", headers={"X-Api-Key": KEY})
    httpx.post(f"{server.url}{PATH}", content=PHOTO)
    after = server.metrics()

    def more(*key: str) -> float:
        return after.get(key, 0) - before.get(key, 0)

    assert more("rmbg_requests_total", "POST", PATH, "200") == 2
    assert more("rmbg_requests_total", "POST", PATH, "415") == 1
    assert more("rmbg_requests_total", "POST", PATH, "401") == 1
    assert more("rmbg_photos_total") == 2
    assert more("rmbg_refusals_total", "not a photo") == more("rmbg_refusals_total", "key") == 1
    assert more("rmbg_request_seconds_count", PATH) == 4
    for name in STAGES:
        assert more("rmbg_stage_seconds_count", name) >= 2
        assert more("rmbg_stage_seconds_sum", name) >= 0
    assert after["process_resident_memory_bytes",] > 1e8
    assert after["rmbg_jobs", "photo", "waiting"] == after["rmbg_jobs", "photo", "working"] == 0


def test_jobs_are_there_while_they_work_and_end_when_whoever_asked_leaves(server):
    body = head(f"POST {PATH}?refine=1", f"Content-Length: {len(PHOTO)}", f"X-Api-Key: {KEY}") + PHOTO
    connections = [connect(int(server.url.rpartition(":")[2])) for _ in range(6)]
    for connection in connections:
        connection.sendall(body)

    def jobs() -> list[float]:
        metrics = server.metrics()
        return [metrics["rmbg_jobs", "photo", state] for state in ("working", "waiting")]

    deadline = time.monotonic() + SOON
    while not all(found := jobs()) and time.monotonic() < deadline:
        time.sleep(0.02)
    working, waiting = found
    assert 1 <= working <= 2
    assert waiting >= 1
    for connection in connections:
        connection.close()
    while sum(jobs()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert sum(jobs()) == 0
    assert server.last(499)["route"] == PATH
    assert server.metrics()["rmbg_requests_total", "POST", PATH, "499"] >= 1
    assert ("rmbg_refusals_total", "ending") not in server.metrics()


def test_no_request_makes_a_name_of_its_own(server):
    """Else whoever sends many kinds of them would fill the memory of all who watch."""
    with httpx.Client(base_url=server.url) as client:
        for number in range(30):
            client.get(f"/{SECRET}/{number}")
            client.get(f"/gradio_api/file={SECRET}{number}")
            client.get(f"/assets/{SECRET}{number}.js")
            client.request(f"METHOD{number}", "/health")
    names = [key for key in server.metrics() if key[0] == "rmbg_requests_total"]
    assert len(names) < 40
    assert {key[1] for key in names} <= {*monitoring.METHODS, monitoring.OTHER}


# --- the log ---


def test_a_request_is_a_line_that_says_what_where_and_how_long(server):
    answer = httpx.post(f"{server.url}{PATH}", content=PHOTO, headers={"X-Api-Key": KEY})
    deadline = time.monotonic() + SOON
    while (line := server.last(200))["bytes"] != len(answer.content) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert line.keys() == {"time", "client", "method", "route", "status", "milliseconds", "bytes"}
    assert (line["client"], line["method"], line["route"]) == ("127.0.0.1", "POST", PATH)
    assert line["milliseconds"] > 1
    told = dt.datetime.fromisoformat(line["time"])
    assert abs(told - dt.datetime.now(dt.UTC)) < dt.timedelta(minutes=1)


def test_nothing_of_a_request_comes_into_logs_or_metrics(server):
    """Not its file's name, its key, its query, its fields, its headers, its path."""
    photo = {"image": (f"{SECRET}.jpg", PHOTO)}
    with httpx.Client(base_url=server.url, headers={"User-Agent": SECRET, "X-Api-Key": KEY}, timeout=60) as client:
        assert client.post(PATH, files=photo).status_code == 200
        client.post(PATH, params={SECRET: SECRET}, files=photo)
        client.post(PATH, files={SECRET: (f"{SECRET}.jpg", PHOTO)})
        client.post(PATH, json={"image_url": f"http://{SECRET}.invalid/{SECRET}.jpg", "background": SECRET})
        client.post(PATH, content=PHOTO, headers={"X-Api-Key": SECRET})
        client.post("/v1.0/removebg", data={"image_file_b64": base64.b64encode(SECRET.encode()).decode()})
        client.post("/v1.0/removebg", files={"image_file": (f"{SECRET}.jpg", PHOTO)}, data={"type": SECRET})
        client.get(f"/{SECRET}?{SECRET}")
        client.post("/gradio_api/upload", files={"files": (f"{SECRET}.jpg", PHOTO)})
        client.get("/", headers={"Host": SECRET, "X-Forwarded-For": SECRET})
    time.sleep(0.3)
    assert len(server.lines()) > 10
    assert SECRET not in server.log.read_text()
    assert SECRET not in httpx.get(f"{server.url}/metrics", headers={"X-Api-Key": KEY}).text


def test_without_the_setting_there_is_no_line(start_app, tmp_path_factory):
    with start_app(RMBG_METRICS="true") as url:
        assert httpx.get(f"{url}/health").status_code == 200
        assert "rmbg_requests_total{" in httpx.get(f"{url}/metrics").text
        log = max(tmp_path_factory.getbasetemp().glob("app[0-9]*/log"), key=lambda log: int(log.parent.name[3:]))
        assert url in log.read_text()
        assert "/health" not in log.read_text()


def test_a_fault_counts_as_one_and_is_not_swallowed():
    async def app(*_: Any) -> None:
        raise ZeroDivisionError

    before = monitoring.requests.labels("GET", monitoring.OTHER, 500)._value.get()
    with served(Watch(app, lambda _: "")) as port:
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 500
    assert monitoring.requests.labels("GET", monitoring.OTHER, 500)._value.get() == before + 1


def test_a_stage_that_fails_is_not_told_of(monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("background_remover.stages.observers", [lambda name, seconds: told.append(name)])
    with stage("open"):
        pass
    with pytest.raises(ZeroDivisionError), stage("save"):
        raise ZeroDivisionError
    assert told == ["open"]
    assert monitoring.observe_stage in observers
