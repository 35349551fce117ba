"""Who may use the paths for programs, and how often: keys and rates, from the environment, on a real server."""

import hmac
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import fastapi
import httpx
import pytest
from asgi import connect, head, served
from helpers import PERSON
from starlette.middleware import Middleware

from background_remover import keys as module
from background_remover.keys import NO_KEY, TOO_OFTEN, WRONG_KEY, Keys
from background_remover.page.files import SettingError
from background_remover.page.guard import Guard
from background_remover.routes import routes
from background_remover.service import Service

PATH, REMOVEBG = "/v1/remove-background", "/v1.0/removebg"
INFO, ACCOUNT = "/v1/info", "/v1.0/account"
KEY = "alpha-1234567890"
PHOTO = PERSON.read_bytes()


@pytest.fixture
def start(remover, monkeypatch) -> Iterator[Callable[..., httpx.Client]]:
    """Serve the routes with that environment, behind the guard; gives a client."""
    with ExitStack() as stack:

        def start(*hosts: str, **env: str) -> httpx.Client:
            monkeypatch.setenv("FORWARDED_ALLOW_IPS", "")  # as `app.py` has it
            for name in ("RMBG_API_KEYS", "RMBG_RATE_LIMIT"):
                monkeypatch.setenv(name, env.get(name, ""))
            app = fastapi.FastAPI(routes=routes(remover), middleware=[Middleware(Guard, hosts=hosts)])
            port = stack.enter_context(served(app))
            return stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60))

        yield start


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- keys ---


def test_whoever_has_one_of_the_keys_may_ask(start):
    client = start(RMBG_API_KEYS=f" {KEY} ,, zwei,")
    for headers in (bearer(KEY), {"X-Api-Key": KEY}, {"authorization": f"bearer  {KEY}"}, {"x-api-key": "zwei"}):
        assert client.get(INFO, headers=headers).status_code == 200
        assert client.get(ACCOUNT, headers=headers).status_code == 200
    answer = client.post(PATH, content=PHOTO, headers=bearer(KEY))
    assert answer.headers["content-type"] == "image/png"
    assert "x-ratelimit-limit" not in answer.headers
    assert client.post(REMOVEBG, files={"image_file": PHOTO}, headers={"X-Api-Key": KEY}).status_code == 200


WRONG = [bearer("wrong"), bearer(KEY[:-1]), bearer(f"{KEY}x"), {"X-Api-Key": KEY.upper()}, {"X-Api-Key": f"{KEY},zwei"}]
MISSING = [
    {},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": KEY},
    {"Authorization": "Bearer"},
    {"X-Api-Key": ""},
]


@pytest.mark.parametrize(
    ("headers", "sentence"), [(one, WRONG_KEY) for one in WRONG] + [(one, NO_KEY) for one in MISSING]
)
def test_others_are_told_what_is_missing(start, headers, sentence):
    client = start(RMBG_API_KEYS=f"{KEY},zwei")
    for answer in (client.get(INFO, headers=headers), client.post(PATH, content=PHOTO, headers=headers)):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json() == {"title": "Unauthorized", "status": 401, "detail": sentence}
    for answer in (client.get(ACCOUNT, headers=headers), client.post(REMOVEBG, content=PHOTO, headers=headers)):
        assert answer.status_code == 403
        assert answer.json() == {"errors": [{"title": sentence, "code": "auth_failed"}]}


def test_a_key_in_the_address_is_none(start):
    """It would end in logs and histories."""
    client = start(RMBG_API_KEYS=KEY)
    assert client.get(INFO, params={"key": KEY, "api_key": KEY, "X-Api-Key": KEY}).status_code == 401


def test_a_key_of_letters_that_a_header_does_not_have_is_no_fault(start):
    client = start(RMBG_API_KEYS=KEY)
    for key in ("schlüssel".encode(), b"\xff\xfe", b"a" * 20_000):
        assert client.get(INFO, headers=[(b"X-Api-Key", key)]).status_code == 401


def test_nothing_is_read_of_a_request_without_a_key(start):
    client = start(RMBG_API_KEYS=KEY)
    with connect(client.base_url.port) as connection:
        connection.sendall(head(f"POST {PATH}", "Content-Length: 90000000"))
        start_of_wait = time.monotonic()
        assert connection.recv(1000).startswith(b"HTTP/1.1 401")
        assert time.monotonic() - start_of_wait < 1


def test_whether_the_server_is_well_is_for_all_and_its_metrics_are_not(start):
    client = start(RMBG_API_KEYS=KEY)
    assert client.get("/health").status_code == client.get("/ready").status_code == 200
    assert client.get("/metrics").status_code == 401
    answer = client.get("/metrics", headers=bearer(KEY))
    assert answer.status_code == 200
    assert KEY not in answer.text


def test_all_keys_are_compared_in_constant_time_whichever_it_is(monkeypatch):
    compared = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    keys = Keys(["one", "two", "three"])
    monkeypatch.setattr(module, "hmac", type("", (), {"compare_digest": staticmethod(compare)}))
    assert [keys.owner(key) for key in ("one", "three", "", "tw", "two" * 1000)] == ["key 1", "key 3", None, None, None]
    assert compared == [(32, 32)] * 15


def test_no_key_is_kept():
    keys = Keys([KEY])
    assert KEY not in repr(vars(keys))


def test_the_environment_says_which_keys_there_are(monkeypatch):
    monkeypatch.setenv("RMBG_API_KEYS", " , ,")
    assert not Keys.from_environment().needed
    monkeypatch.setenv("RMBG_API_KEYS", "one, two")
    assert Keys.from_environment().owner("two") == "key 2"


# --- rates ---


def test_whoever_asks_too_often_is_told_when_to_come_again(start):
    client = start(RMBG_RATE_LIMIT="3/minute")
    for left in (2, 1, 0):
        headers = client.get(INFO).headers
        assert (headers["x-ratelimit-limit"], headers["x-ratelimit-remaining"]) == ("3", str(left))
        assert 0 < int(headers["x-ratelimit-reset"]) - time.time() <= 62
    answer = client.post(PATH, content=PHOTO)
    assert answer.status_code == 429
    seconds = int(answer.headers["retry-after"])
    assert 1 <= seconds <= 60
    assert answer.json()["detail"] == TOO_OFTEN.format(seconds)
    assert answer.headers["x-ratelimit-remaining"] == "0"
    answer = client.post(REMOVEBG, content=PHOTO)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (429, "rate_limit_exceeded")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert client.get("/health").status_code == client.get("/ready").status_code == 200


def test_a_picture_says_how_many_more_there_may_be(start):
    client = start(RMBG_RATE_LIMIT="3/minute")
    assert client.post(PATH, content=PHOTO).headers["x-ratelimit-remaining"] == "2"
    assert client.post(REMOVEBG, files={"image_file": PHOTO}).headers["x-ratelimit-remaining"] == "1"


def test_the_time_ends(start):
    client = start(RMBG_RATE_LIMIT="1/second")
    assert client.get(INFO).status_code == 200
    while (answer := client.get(INFO)).status_code != 429:
        pass
    time.sleep(int(answer.headers["retry-after"]))
    assert client.get(INFO).status_code == 200


def test_each_key_has_its_own_rate_and_so_have_all_without_one(start):
    client = start(RMBG_API_KEYS=f"{KEY},zwei", RMBG_RATE_LIMIT="2/hour")
    ask = [client.get(INFO, headers=bearer(key)).status_code for key in (KEY, KEY, KEY, "zwei", "zwei", "zwei")]
    assert ask == [200, 200, 429, 200, 200, 429]
    guessed = [client.get(INFO, headers=bearer(f"guess {number}")).status_code for number in range(4)]
    assert guessed == [401, 401, 429, 429]  # who guesses keys is slowed down


def test_no_header_makes_another_address(start):
    client = start(RMBG_RATE_LIMIT="2/hour")
    forged = [{"X-Forwarded-For": f"10.0.0.{number}", "Forwarded": f"for=10.0.0.{number}"} for number in range(3)]
    assert [client.get(INFO, headers=headers).status_code for headers in forged] == [200, 200, 429]


def test_behind_a_known_proxy_the_address_is_what_that_one_says(start):
    client = start("cutouts.example", RMBG_RATE_LIMIT="1/hour")
    host = {"Host": "cutouts.example"}
    said = ["10.0.0.1", "10.0.0.2", "6.6.6.6, 10.0.0.1", "10.0.0.1, 10.0.0.3"]  # the last is the proxy's own
    assert [client.get(INFO, headers=host | {"X-Forwarded-For": one}).status_code for one in said] == [
        200,
        200,
        429,
        200,
    ]


def test_without_a_setting_anybody_may_ask_as_often_as_they_like(start):
    client = start()
    for _ in range(50):
        answer = client.get(INFO)
        assert answer.status_code == 200
    assert "x-ratelimit-limit" not in answer.headers


@pytest.mark.parametrize("rate", ["often", "60", "-1/minute", "1/fortnight", "/minute", "1.5/minute"])
def test_a_rate_that_is_none_is_one_sentence_at_the_start(remover, monkeypatch, rate):
    monkeypatch.setenv("RMBG_RATE_LIMIT", rate)
    with pytest.raises(SettingError) as error:
        Service(remover)
    assert re.fullmatch(r"RMBG_RATE_LIMIT [^.]+\.", str(error.value))


def test_the_settings_reach_the_server_that_a_user_starts(start_app):
    with start_app(RMBG_API_KEYS=KEY, RMBG_RATE_LIMIT="2/hour") as url:
        assert httpx.get(f"{url}{INFO}").status_code == 401
        answer = httpx.post(f"{url}{PATH}", content=PHOTO, headers=bearer(KEY), timeout=60)
        assert (answer.status_code, answer.headers["x-ratelimit-remaining"]) == (200, "1")
        assert httpx.get(f"{url}{INFO}", headers=bearer(KEY)).status_code == 200
        assert httpx.get(f"{url}{INFO}", headers=bearer(KEY)).status_code == 429
        assert httpx.get(f"{url}/config").status_code == 200  # the page needs none
