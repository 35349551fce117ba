"""An ASGI app behind a real server on the loopback, for tests of what stands before it."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send


@contextlib.contextmanager
def served(app: ASGIApp) -> Iterator[int]:
    """While it runs the app is served; gives the port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


class Echo:
    """Answers with what it was asked, once it has read it all; remembers all of it."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]
        self.asked.append({"path": scope["path"], "headers": headers, "body": body.decode("latin-1")})
        answer = json.dumps(self.asked[-1]).encode()
        length = [(b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": length})
        await send({"type": "http.response.body", "body": answer})


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 10)


def read_all(connection: socket.socket) -> str:
    """What comes until the other side closes, or nothing comes for a while."""
    parts = b""
    with contextlib.suppress(TimeoutError, ConnectionResetError):
        while part := connection.recv(1 << 16):
            parts += part
    return parts.decode("latin-1")


def send_raw(port: int, *parts: bytes) -> str:
    """Everything that comes back for bytes as they are; the connection is closed by "Connection: close" among them."""
    with connect(port) as connection:
        for part in parts:
            connection.sendall(part)
        return read_all(connection)


def head(line: str, *headers: str, host: str = "127.0.0.1") -> bytes:
    """A request's head that asks for the connection to be closed."""
    lines = [f"{line} HTTP/1.1", f"Host: {host}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
