"""The server under load, overload, visitors who leave, hostile requests and a long run: `make soak`.

    python tests/soak.py [--parts load overload leavers hostile mixed] [--requests 1000] [--url http://127.0.0.1:7860]

Without a URL it starts `python app.py` itself, and measures the memory of that and all its children as well. Every
request has an id, and is accounted for in the table: submitted = succeeded + refused + failed with a reason. Exit code
1 if one is not, or if a bound below does not hold.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import itertools
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hostile as made
import httpx

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.jpg"))
TIMEOUT = 300.0
LEAK = re.compile(r"/\w+/\w|Traceback|\.py\b")
BUSY = "try again in"
FINISH = ["transparent", None, 0.02, False, 0.05, 0, 0, "png", None]
DEFAULTS = {"predict": [None], "matte": [None, True], "cutout": [None, "transparent", None]}  # of the parameters
DEFAULTS |= {"edit": [None, None, *FINISH], "batch": [None, True, *FINISH]}

# the bounds
LOOP = 0.3  # seconds for which the event loop may be still
MEMORY = 3e9  # bytes of the whole process tree
MEANWHILE = 3.0  # seconds in which another visitor's small photo is answered, beside what it takes alone
TOLD = 12.0  # seconds in which the sender of a hostile request is told what is wrong with it
BUSY_TOLD = 1.0  # seconds in which one who is refused is told
NEXT = 1.5  # seconds that the next photo may take longer after visitors who left
LOAD = 0.9  # photos a second with eight clients, as a share of those with one
GROWTH = 0.05  # of memory, after the 100th request


# --- the server ---


@dataclass
class Server:
    """A server that runs, and what is watched of it."""

    url: str
    process: subprocess.Popen[bytes] | None = None
    folder: Path | None = None
    peak: int = 0  # bytes
    stillest: float = 0.0  # seconds that its event loop took for next to nothing
    ended: threading.Event = field(default_factory=threading.Event)

    def memory(self) -> int:
        """Bytes of the process and its children, what they share counted once."""
        return sum(map(own_memory, tree(self.process.pid))) if self.process else 0

    def watch(self) -> None:
        """Keep `peak` and `stillest`, in two threads of this process."""
        for look in (self._look_at_memory, self._look_at_loop):
            threading.Thread(target=look, daemon=True).start()

    def _look_at_memory(self) -> None:
        while not self.ended.wait(0.2):
            self.peak = max(self.peak, self.memory())

    def _look_at_loop(self) -> None:
        with httpx.Client(base_url=self.url, timeout=TIMEOUT) as client:
            while not self.ended.wait(0.05):
                start = time.monotonic()
                with contextlib.suppress(httpx.HTTPError):
                    client.head("/robots.txt")
                self.stillest = max(self.stillest, time.monotonic() - start)

    def disk(self) -> int:
        """Bytes in the folder of uploads and results."""
        files = [path for path in self.folder.rglob("*") if path.is_file()] if self.folder else []
        return sum(path.stat().st_size for path in files if path.exists())


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    children = [int(child) for task in Path(f"/proc/{pid}/task").glob("*/children") for child in read(task).split()]
    return [pid, *(one for child in children for one in tree(child))]


def own_memory(pid: int) -> int:
    """Bytes of a process's resident memory, of shared pages its share."""
    found = re.search(r"^Pss:\s+(\d+) kB", read(Path(f"/proc/{pid}/smaps_rollup")), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


@contextlib.contextmanager
def started(url: str | None) -> Iterator[Server]:
    """The server at the URL, or one of our own."""
    if url:
        yield Server(url)
        return
    with tempfile.TemporaryDirectory() as temporary:
        log = Path(temporary, "log")
        env = os.environ | {"GRADIO_TEMP_DIR": temporary, "PYTHONUNBUFFERED": "1", "RMBG_WEIGHTS": "isnet-general-use"}
        with log.open("wb") as file:
            process = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=env, stdout=file, stderr=file)
        try:
            while not (found := re.search(r"http://[\d.]+:\d+", log.read_text())):
                if process.poll() is not None:
                    raise SystemExit(log.read_text())
                time.sleep(0.2)
            server = Server(found[0], process, Path(temporary))
            server.watch()
            yield server
            server.ended.set()
            if "Traceback" in log.read_text():
                print(log.read_text())
                raise SystemExit("The server's log has a traceback.")
        finally:
            process.terminate()
            process.wait(30)


# --- requests ---


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    what: str  # "succeeded", "refused" or "failed"; "lost" if nothing came, or nothing that says why
    seconds: float
    said: Any  # the result, or the reason


def told(seconds: float, reason: Any) -> Outcome:
    """The outcome of a request that got a reason."""
    if not isinstance(reason, str) or not reason or LEAK.search(reason):
        return Outcome("lost", seconds, reason)
    return Outcome("refused" if BUSY in reason else "failed", seconds, reason)


JSON = {"Content-Type": "application/json"}


def body_of(endpoint: str, values: tuple[Any, ...]) -> bytes:
    """A call's body."""
    return json.dumps({"data": [*values, *DEFAULTS[endpoint][len(values) :]]}).encode()


class Visitor:
    """One client of the API, from its upload to the result."""

    def __init__(self, server: Server) -> None:
        self._client = httpx.Client(base_url=server.url, timeout=TIMEOUT)

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """A file, as the API takes it. Raises httpx.HTTPStatusError."""
        answer = self._client.post("/gradio_api/upload", files={"files": (name, data)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def call(self, endpoint: str, *values: Any) -> Outcome:
        """What the endpoint makes of the values; the others are its defaults."""
        return self.call_with(endpoint, body_of(endpoint, values))

    def call_with(self, endpoint: str, body: bytes | Iterable[bytes]) -> Outcome:
        """The same, for a body as it is sent."""
        start = time.monotonic()
        try:
            answer = self._client.post(f"/gradio_api/call/{endpoint}", content=body, headers=JSON)
            if answer.status_code != 200:
                return told(time.monotonic() - start, answer.json().get("error"))
            return self.result(endpoint, answer.json()["event_id"], start)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            return Outcome("lost", time.monotonic() - start, repr(error))

    def send(self, endpoint: str, *values: Any) -> str:
        """Send the call alone; gives the id of the event."""
        answer = self._client.post(f"/gradio_api/call/{endpoint}", content=body_of(endpoint, values), headers=JSON)
        return str(answer.json().get("event_id", ""))

    def result(self, endpoint: str, event: str, start: float) -> Outcome:
        """What comes of an event."""
        with self._client.stream("GET", f"/gradio_api/call/{endpoint}/{event}") as lines:
            name = ""
            for line in lines.iter_lines():
                key, _, value = line.partition(": ")
                if key == "event":
                    name = value
                elif key == "data" and name in ("complete", "error"):
                    said = json.loads(value)
                    seconds = time.monotonic() - start
                    if name == "complete":
                        return Outcome("succeeded", seconds, said)
                    return told(seconds, said.get("error") if isinstance(said, dict) else said)
        return Outcome("lost", time.monotonic() - start, "the stream ended")

    def file(self, result: Any) -> bytes:
        """The file of a result."""
        return self._client.get(result["url"]).content

    def leave_while_listening(self, endpoint: str, values: tuple[Any, ...], seconds: float) -> None:
        """Listen for a while, and go."""
        event = self.send(endpoint, *values)
        with (
            contextlib.suppress(httpx.HTTPError),
            self._client.stream("GET", f"/gradio_api/call/{endpoint}/{event}", timeout=seconds) as lines,
        ):
            for _ in lines.iter_lines():
                pass

    def cancel(self, endpoint: str, values: tuple[Any, ...], seconds: float) -> None:
        """Cancel after a while, as Gradio's clients do."""
        functions = {one["api_name"]: one["id"] for one in self._client.get("/config").json()["dependencies"]}
        event = self.send(endpoint, *values)
        time.sleep(seconds)
        told = {"session_hash": event, "event_id": event, "fn_index": functions[endpoint]}
        self._client.post("/gradio_api/cancel", json=told)


class Account:
    """A part's requests by id, and what became of each."""

    def __init__(self, part: str) -> None:
        self.part = part
        self.outcomes: dict[str, Outcome | None] = {}
        self.notes: list[str] = []
        self.faults: list[str] = []
        self._lock = threading.Lock()

    def run(self, name: str, request: Callable[[], Outcome]) -> Outcome:
        """Submit a request."""
        with self._lock:
            number = f"{name} {len(self.outcomes) + 1}"
            self.outcomes[number] = None
        outcome = request()
        self.outcomes[number] = outcome
        return outcome

    def bound(self, what: str, figure: float, most: float, form: str = "{:.2f} s") -> None:
        """Note a figure, which must not be more than `most`."""
        self.notes.append(f"{what}: {form.format(figure)} (at most {form.format(most)})")
        if not figure <= most:
            self.faults.append(self.notes[-1])

    def show(self) -> bool:
        """Print the part's line of the table, and what is at fault; gives whether nothing is."""
        count = collections.Counter(outcome.what if outcome else "lost" for outcome in self.outcomes.values())
        columns = [len(self.outcomes), count["succeeded"], count["refused"], count["failed"], count["lost"]]
        print(f"{self.part:32}" + "".join(f"{number:11}" for number in columns))
        for note in self.notes:
            print(f"    {note}")
        lost = [
            f"{number}: {outcome}" for number, outcome in self.outcomes.items() if not outcome or outcome.what == "lost"
        ]
        for fault in [*self.faults, *lost[:10]]:
            print(f"    NOT: {fault}")
        return not self.faults and not lost


HEAD = f"{'':32}" + "".join(f"{name:>11}" for name in ("submitted", "succeeded", "refused", "failed", "lost"))


# --- the parts ---


def load(server: Server, count: int) -> Iterator[Account]:
    """Eight clients with 25 photos each, against one with as many as are needed to know its pace."""
    account = Account("load: 8 clients x 25")
    photos = [path.read_bytes() for path in EXAMPLES]
    alone = Visitor(server)
    truth: dict[int, bytes] = {}
    start = time.monotonic()
    for number, data in enumerate(photos * 2):
        outcome = account.run("serial", lambda data=data: alone.call("matte", alone.upload("photo.jpg", data), True))
        truth[number % len(photos)] = alone.file(outcome.said[0])
    serial = len(photos) * 2 / (time.monotonic() - start)

    def client(_: int) -> list[bool]:
        visitor, right = Visitor(server), []
        for number in range(25):
            data = photos[number % len(photos)]
            outcome = account.run(
                "client", lambda data=data: visitor.call("matte", visitor.upload("photo.jpg", data), True)
            )
            right.append(outcome.what == "succeeded" and visitor.file(outcome.said[0]) == truth[number % len(photos)])
        return right

    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        right = sum(sum(flags) for flags in pool.map(client, range(8)))
    pace = 200 / (time.monotonic() - start)
    account.bound("wrong or missing", 200 - right, 0, "{:.0f}")
    account.bound("serial pace by pace of eight", serial / pace, 1 / LOAD, "{:.2f}")
    yield account


def overload(server: Server, count: int) -> Iterator[Account]:
    """A hundred at once."""
    account = Account("overload: 100 at once")
    visitors = [Visitor(server) for _ in range(100)]
    photo = visitors[0].upload("photo.jpg", made.PERSON.read_bytes())
    with ThreadPoolExecutor(100) as pool:
        outcomes = list(
            pool.map(lambda visitor: account.run("at once", lambda: visitor.call("cutout", photo)), visitors)
        )
    refused = [outcome.seconds for outcome in outcomes if outcome.what == "refused"]
    account.bound("slowest busy", max(refused, default=0.0), BUSY_TOLD)
    yield account


def leavers(server: Server, count: int) -> Iterator[Account]:
    """Fifty visitors of each kind who don't stay, and the next one."""
    visitor = Visitor(server)
    photo = visitor.upload("photo.jpg", made.PERSON.read_bytes())
    alone = statistics.median(visitor.call("cutout", photo).seconds for _ in range(3))
    kinds: dict[str, Callable[[Visitor], Any]] = {
        "leave while they listen": lambda one: one.leave_while_listening("cutout", (photo,), 0.5),
        "cancel": lambda one: one.cancel("cutout", (photo,), 0.2),
        "never listen": lambda one: one.send("cutout", photo),
        "leave a batch": lambda one: one.leave_while_listening("batch", ([photo] * 20,), 0.5),
        "cut their upload off": cut_off,
        "ask for edits and leave": lambda one: one.leave_while_listening("edit", (photo, photo), 0.3),
    }
    for name, leave in kinds.items():
        account = Account(f"leavers: 50 {name}")
        with ThreadPoolExecutor(50) as pool:
            list(pool.map(lambda one, leave=leave: leave(one), [Visitor(server) for _ in range(50)]))
        time.sleep(0.6)
        outcome = account.run("next", lambda: Visitor(server).call("cutout", photo))
        account.bound("the next one is answered later by", outcome.seconds - alone, NEXT)
        yield account


def cut_off(visitor: Visitor) -> None:
    """An upload that its sender does not finish."""

    def half() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.jpg"\r\n\r\n' + bytes(100_000)
        raise httpx.WriteError("gone")

    with contextlib.suppress(httpx.HTTPError):
        visitor._client.post(
            "/gradio_api/upload", content=half(), headers={"Content-Type": "multipart/form-data; boundary=x"}
        )


def hostile(server: Server, count: int) -> Iterator[Account]:
    """Files and bodies made to hold a server up, and another visitor's photo meanwhile."""
    other = Visitor(server)
    photo = other.upload("photo.jpg", made.PERSON.read_bytes())
    alone = statistics.median(other.call("cutout", photo).seconds for _ in range(3))
    for name, request in hostile_requests().items():
        account = Account(f"hostile: {name}")
        server.peak, server.stillest = 0, 0.0
        with ThreadPoolExecutor(1) as pool:
            attack = pool.submit(request, account, Visitor(server))
            meanwhile = []
            for _ in range(3):
                outcome = account.run("another visitor", lambda: Visitor(server).call("cutout", photo))
                meanwhile.append(outcome.seconds)
                if outcome.what != "succeeded":
                    account.faults.append(f"another visitor was told: {outcome.said}")
            seconds = attack.result()
        account.bound("told within", seconds, TOLD)
        account.bound("another visitor's photo, longer by", max(meanwhile) - alone, MEANWHILE)
        if server.process:
            account.bound("memory", server.peak, MEMORY, "{:.2e} bytes")
            account.bound("event loop still for", server.stillest, LOOP)
        yield account


Hostile = Callable[[Account, Visitor], float]


def hostile_requests() -> dict[str, Hostile]:
    """By name, what sends them and gives how long it took until all were told."""
    files = {
        "GIF with a comment of 51 MB": made.gif_with_comment(51_000_000),
        "JPEG of 2,900 EXIF segments": made.with_segments(made.jpeg(), 0xE1, b"Exif\0\0" + bytes(65_000), 1500),
        "JPEG with 95 MB of fill bytes": made.jpeg()[:2] + b"\xff" * 95_000_000 + made.jpeg()[2:],
        "progressive JPEG of 1,000 scans": made.progressive(1000),
        "PNG of 1 x 60,000,000": made.png(1, 60_000_000),
        "PNG of 60,000,000 x 1": made.png(60_000_000, 1),
        "PNG of a million chunks": made.png_with_chunks(1_000_000),
        "WebP of 67 megapixels in few bytes": made.webp(8191, 8191),
        "WebP of 89 megapixels in few bytes": made.webp(16383, 5461),
    }
    requests: dict[str, Hostile] = {name: file_sender(data) for name, data in files.items()}
    requests["WebP of 67 megapixels, cancelled 20 times"] = lambda account, visitor: cancel_many(
        visitor, made.webp(8191, 8191), 20
    )
    requests["WebP of 67 megapixels, 20 for which nobody listens"] = lambda account, visitor: send_many(
        visitor, made.webp(8191, 8191), 20
    )
    requests["JSON of 900 MB"] = lambda account, visitor: (
        account.run("body", lambda: visitor.call_with("cutout", made.filled(900_000_000))).seconds
    )
    requests["5 million brush points"] = lambda account, visitor: (
        account.run("body", lambda: visitor.call_with("cutout", made.points(5_000_000))).seconds
    )
    requests["JSON nested 100,000 deep"] = lambda account, visitor: (
        account.run(
            "body", lambda: visitor.call_with("cutout", b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
        ).seconds
    )
    return requests


def file_sender(data: bytes) -> Hostile:
    def send(account: Account, visitor: Visitor) -> float:
        start = time.monotonic()
        account.run("file", lambda: visitor.call("cutout", visitor.upload("photo", data)))
        return time.monotonic() - start

    return send


def cancel_many(visitor: Visitor, data: bytes, count: int) -> float:
    photo = visitor.upload("photo", data)
    start = time.monotonic()
    for _ in range(count):
        visitor.cancel("cutout", (photo,), 0.2)
    return (time.monotonic() - start) / count


def send_many(visitor: Visitor, data: bytes, count: int) -> float:
    photo = visitor.upload("photo", data)
    start = time.monotonic()
    for _ in range(count):
        visitor.send("cutout", photo)
    return (time.monotonic() - start) / count


def mixed(server: Server, count: int) -> Iterator[Account]:
    """A long run of all kinds."""
    account = Account(f"mixed: {count} requests")
    draw = random.Random(0)
    numbers = itertools.count()
    memory: list[int] = []  # at each request, since it goes up and down with what is in hand

    def client(_: int) -> None:
        visitor = Visitor(server)
        matte: Any = None
        while next(numbers) < count:
            memory.append(server.memory())
            path = draw.choice(EXAMPLES)
            photo = visitor.upload(path.name, path.read_bytes())
            kind = draw.choice(("matte", "cutout", "edit", "edit", "edit", "batch", "broken", "leave", "cancel"))
            if kind == "matte":
                outcome = account.run(kind, lambda photo=photo: visitor.call("matte", photo, True))
                matte = (photo, outcome.said[0]) if outcome.what == "succeeded" else matte
            elif kind == "cutout":
                account.run(kind, lambda photo=photo: visitor.call("cutout", photo, "#ff8800"))
            elif kind == "edit" and matte:
                values = (*matte, draw.choice(("white", "blur", "transparent")), None, 0.02, True)
                account.run(kind, lambda values=values: visitor.call("edit", *values, 0.05, 0, 0, "webp", 90))
            elif kind == "batch":
                account.run(kind, lambda photo=photo: visitor.call("batch", [photo, photo]))
            elif kind == "broken":
                data = bytearray(path.read_bytes()[: draw.randrange(10_000)])
                account.run(kind, lambda data=data: visitor.call("cutout", visitor.upload("x.jpg", bytes(data))))
            elif kind == "leave":
                visitor.leave_while_listening("cutout", (photo,), 0.3)
            elif kind == "cancel":
                visitor.cancel("cutout", (photo,), 0.1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))
    time.sleep(2)
    if server.process:
        after_100, last = statistics.median(memory[100:200]), statistics.median(memory[-100:])
        account.bound("growth after the 100th", last / after_100 - 1, GROWTH, "{:.3f}")
        account.bound("folder", server.disk(), 2e9, "{:.2e} bytes")
    yield account


PARTS = {"load": load, "overload": overload, "leavers": leavers, "hostile": hostile, "mixed": mixed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[*PARTS])
    parser.add_argument("--requests", type=int, default=1000, help="of the mixed run")
    parser.add_argument("--url", help="of a server that runs already")
    arguments = parser.parse_args()
    print(HEAD)
    with started(arguments.url) as server:
        accounts = (account for part in arguments.parts for account in PARTS[part](server, arguments.requests))
        fine = [account.show() for account in accounts]
    raise SystemExit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
