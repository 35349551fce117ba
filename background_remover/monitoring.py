"""What an operator sees of the server: Prometheus metrics, and one line of JSON for each request.

Neither holds a name, a key, a query or a picture: of a request only its route, and where it came from.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as CounterMetric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from background_remover import stages

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # bounds of the histograms' buckets
METHODS = {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}
GONE = 499  # the status of a request whose sender has gone before there was an answer
OTHER = "other"  # a route that is none of ours, and a method likewise

registry = CollectorRegistry()
requests = CounterMetric("rmbg_requests", "Requests", ["method", "route", "status"], registry=registry)
request_seconds = Histogram("rmbg_request_seconds", "Time to the end of the answer", ["route"], buckets=SECONDS,
                            registry=registry)  # fmt: skip
stage_seconds = Histogram("rmbg_stage_seconds", "Time of a stage of a photo's work", ["stage"], buckets=SECONDS,
                          registry=registry)  # fmt: skip
photos = CounterMetric("rmbg_photos", "Photos that the network has seen", registry=registry)
refusals = CounterMetric("rmbg_refusals", "Refusals by reason", ["reason"], registry=registry)
ProcessCollector(registry=registry)

access = logging.getLogger("rmbg.access")


def observe_stage(name: str, seconds: float) -> None:
    """A stage of some photo's work is done."""
    stage_seconds.labels(name).observe(seconds)
    if name == "network":
        photos.inc()


class Jobs:
    """How many jobs there are, by kind and state, and how many were refused, asked when somebody looks."""

    # by kind and state, and by kind
    counted: Callable[[], tuple[Counter[Any], Counter[Any]]] = staticmethod(lambda: (Counter(), Counter()))

    def collect(self) -> Iterator[Metric]:
        """As prometheus_client asks for it."""
        count, refused = self.counted()
        there = GaugeMetricFamily("rmbg_jobs", "Jobs that are there", labels=["kind", "state"])
        busy = CounterMetricFamily("rmbg_busy", "Jobs refused since there was too much to do", labels=["kind"])
        for kind in ("photo", "edit", "batch"):
            for state in ("waiting", "working"):
                there.add_metric([kind, state], count[kind, state])
            busy.add_metric([kind], refused[kind])
        yield there
        yield busy


jobs = Jobs()
registry.register(jobs)


def count_jobs(counted: Callable[[], tuple[Counter[Any], Counter[Any]]]) -> None:
    """Ask that for the jobs that there are, by kind and state, and those that were refused, by kind."""
    jobs.counted = counted


def metrics() -> bytes:
    """All of it, as Prometheus reads it."""
    return generate_latest(registry)


def log_requests() -> None:
    """A line of JSON for each request, to standard output, if RMBG_LOG is "json"."""
    if os.environ.get("RMBG_LOG") == "json":
        access.handlers = [logging.StreamHandler(sys.stdout)]
        access.handlers[0].setFormatter(logging.Formatter("%(message)s"))
        access.propagate = False
        access.setLevel(logging.INFO)
    else:
        access.setLevel(logging.CRITICAL)  # uvicorn, as it starts, enables what is disabled


class Watch:
    """ASGI middleware that counts requests, and logs them."""

    def __init__(self, app: ASGIApp, address: Callable[[Scope], str]) -> None:
        self.app = app
        self._address = address  # of whoever sent it

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, byte_count = time.perf_counter(), GONE, 0

        async def watched(message: Message) -> None:
            nonlocal status, byte_count
            if message["type"] == "http.response.start":
                status = message["status"]
            byte_count += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception:
            status = 500 if status == GONE else status  # which is answered further out
            raise
        finally:
            seconds = time.perf_counter() - start
            method = scope["method"] if scope["method"] in METHODS else OTHER
            route = getattr(scope.get("route"), "path", OTHER)
            requests.labels(method, route, status).inc()
            request_seconds.labels(route).observe(seconds)
            if access.isEnabledFor(logging.INFO):
                line = {
                    "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                    "client": self._address(scope),
                    "method": method,
                    "route": route,
                    "status": status,
                    "milliseconds": round(seconds * 1000, 1),
                    "bytes": byte_count,
                }
                access.info("%s", json.dumps(line))


if observe_stage not in stages.observers:
    stages.observers.append(observe_stage)
